"""Time from a slider's message to the changed figure, in the kernel.

    python -m tests.bench_explorer RUN [RUN …]        writes nbs/results/bench_explorer.json

RUN is a finished distillation run. Its window slides to random places; each message is handled
as the kernel handles one from the browser."""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from harkd.data import load_dataset
from harkd.explore import ARM_NAMES, AttributionExplorer, ExplorerData, load_explorer_data
from harkd.preprocess import cut_windows
from harkd.runs import processor, results_file, write_json
from harkd.split import BatchLoader, kfold_splits
from harkd.student import STUDENTS, make_student

METHODS = ('integrated_gradients', 'gradient_x_input')
WARM_UP = 3  # messages that are not counted


def small_students() -> ExplorerData:
    "The students on two-second windows of an accelerometer; their weights do not matter here"
    windows = cut_windows(load_dataset('spar'), ('imu:acc',), window_s=2.0)
    split = kfold_splits(windows, 5)[0]
    models = {name: make_student(name, windows).eval() for name in STUDENTS}
    return ExplorerData(BatchLoader.fit(split), models, split.val, 'spar, untrained')


def random_place(rng, slider, current) -> float:
    "A place on the slider that differs from the current one"
    place = float(rng.choice(np.arange(slider.min, slider.max, slider.step)))
    return place + slider.step * (abs(place - current) < slider.step / 2)


def time_slides(explorer, n=40, seed=0) -> np.ndarray:  # (n,) ms
    "Messages of the slider 'window at', each timed until the data of the figure have changed"
    rng = np.random.default_rng(seed)
    slider, figure = explorer.controls['start'], explorer.figures[0]
    times = []
    for _ in range(n + WARM_UP):
        place = random_place(rng, slider, figure.data[0].x[0])
        update = {'method': 'update', 'state': {'value': place}, 'buffer_paths': []}
        begin = time.perf_counter()
        slider._handle_msg({'content': {'data': update}, 'buffers': []})
        times.append((time.perf_counter() - begin) * 1000)
        assert abs(figure.data[0].x[0] - place) < 1e-6, explorer.message.value
    return np.array(times[WARM_UP:])


def result_row(data, arm, method, times) -> dict:
    model = data.models[arm]
    return dict(
        run=data.name,
        arm=ARM_NAMES.get(arm, arm),
        model=type(model).__name__,
        params=sum(p.numel() for p in model.parameters()),
        sees='+'.join(model.inputs),
        method=method,
        messages=len(times),
        p50_ms=round(float(np.median(times)), 1),
        p95_ms=round(float(np.quantile(times, 0.95)), 1),
    )


def measure(data: ExplorerData) -> list[dict]:
    "One row for each model and method"
    explorer = AttributionExplorer(data=data)
    controls = explorer.controls
    if data.windows.card.whole:
        controls['share'].value = 0.7
    rows = []
    for arm in data.models:
        controls['arm'].value = arm
        for method in METHODS:
            controls['method'].value = method
            rows.append(result_row(data, arm, method, time_slides(explorer)))
            print(rows[-1], flush=True)
    return rows


def first_figure(run) -> float:  # s
    "From the start of a fresh process to the first figure: imports, data, models, attribution"
    code = (
        f'from harkd.explore import AttributionExplorer; e = AttributionExplorer({str(run)!r}); '
        'assert len(e.shown) == 1, e.message.value'
    )
    begin = time.perf_counter()
    subprocess.run([sys.executable, '-c', code], check=True)
    return round(time.perf_counter() - begin, 2)


def slowest_small_student(rows) -> float:  # ms
    small = [r for r in rows if r['params'] < 100_000 and r['method'] == METHODS[0]]
    return max(r['p95_ms'] for r in small)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('runs', nargs='*')
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for data in (small_students(), *map(load_explorer_data, args.runs)):
        rows += measure(data)
    result = dict(
        device=f'{processor()}, {args.threads} threads',
        torch=torch.__version__,
        what="milliseconds from a slider's message to the changed figure, in the kernel",
        small_students_p95_ms=slowest_small_student(rows),
        first_figure_s={Path(run).name: first_figure(run) for run in args.runs},
        rows=rows,
    )
    path = results_file('bench_explorer.json')
    write_json(path, result)
    print(path.name, result['small_students_p95_ms'])
