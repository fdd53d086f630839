"""How long from a slider's message to the changed figure, in the kernel.

    python -m tests.bench_explorer RUN [RUN …]        writes nbs/results/bench_explorer.json

RUN is a finished distillation run. Its window slides to random places; each message is handled as the kernel handles one from the browser."""

import argparse
import time

import numpy as np
import torch

from harkd.data import load_dataset
from harkd.explore import ARM_NAMES, AttributionExplorer, ExplorerData, load_explorer_data
from harkd.preprocess import cut_windows
from harkd.runs import processor, results_file, write_json
from harkd.split import BatchLoader, kfold_splits
from harkd.student import STUDENTS, make_student


def small_students() -> ExplorerData:
    "The small students on two-second windows of an accelerometer; their weights do not matter here"
    split = kfold_splits(cut_windows(load_dataset('spar'), ('imu:acc',), window_s=2.0), 5)[0]
    return ExplorerData(
        BatchLoader.fit(split),
        {n: make_student(n, split.windows).eval() for n in STUDENTS},
        split.val,
        'spar, untrained',
    )


def slide(explorer, n=40, seed=0) -> np.ndarray:  # (n,) ms
    "Messages of the slider 'window at', each timed until the figure's data have changed"
    rng, c, fig, out = (
        np.random.default_rng(seed),
        explorer.controls['start'],
        explorer.figures[0],
        [],
    )
    for k in range(n + 3):
        before = fig.data[0].x[0]
        value = float(rng.choice(np.arange(c.min, c.max, c.step)))
        value += c.step * (abs(value - before) < c.step / 2)
        message = {
            'content': {
                'data': {'method': 'update', 'state': {'value': value}, 'buffer_paths': []}
            },
            'buffers': [],
        }
        t = time.perf_counter()
        c._handle_msg(message)
        out.append((time.perf_counter() - t) * 1000)
        assert abs(fig.data[0].x[0] - value) < 1e-6, explorer.message.value
    return np.array(out[3:])


def measure(stage: ExplorerData) -> list[dict]:
    explorer = AttributionExplorer(data=data)
    c = x.controls
    rows = []
    if stage.loader.split.windows.card.whole:
        c['share'].value = 0.7
    for arm in stage.models:
        for method in ('integrated_gradients', 'gradient_x_input'):
            c['arm'].value, c['method'].value = arm, method
            t = slide(x)
            m = stage.models[arm]
            rows.append(
                dict(
                    run=stage.name,
                    arm=ARM_NAMES.get(arm, arm),
                    model=type(m).__name__,
                    params=sum(p.numel() for p in m.parameters()),
                    sees='+'.join(m.inputs),
                    method=method,
                    messages=len(t),
                    p50_ms=round(float(np.median(t)), 1),
                    p95_ms=round(float(np.quantile(t, 0.95)), 1),
                )
            )
            print(rows[-1], flush=True)
    return rows


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('runs', nargs='*')
    p.add_argument('--threads', type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    rows = [
        r for stage in (small_students(), *map(load_explorer_data, a.runs)) for r in measure(stage)
    ]
    slow = max(
        r['p95_ms'] for r in rows if r['params'] < 100_000 and r['method'] == 'integrated_gradients'
    )
    write_json(
        results_file('bench_explorer.json'),
        dict(
            device=f'{processor()}, {a.threads} threads',
            torch=torch.__version__,
            what="milliseconds from a slider's message to the changed figure, in the kernel",
            small_students_p95_ms=slow,
            rows=rows,
        ),
    )
    print(results_file('bench_explorer.json').name, slow)
