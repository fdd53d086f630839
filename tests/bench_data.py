"""How long a large study of one's own takes, and how much memory.

    python -m tests.bench_data              writes nbs/results/benchmarks/bench_data.json

200 recordings of 10 minutes, six channels at 50 Hz, each with a clock of its own, as CSV; and a
tenth of them. `harkd data check` and reading with cutting each run in a process of their own."""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from harkd.runs import processor, results_file, write_json

COLUMNS = [f'{s}_{a}' for s in ('acc', 'gyro') for a in 'xyz']
LABELS = ('rest', 'stroll', 'shake')


def write_study(folder, recordings, minutes=10, fs=50):
    "A study of `recordings` files; bytes of its samples in float32, bytes of the files"
    rng = np.random.default_rng(0)
    n, rows, size = minutes * 60 * fs, [], 0
    for k in range(recordings):
        t = np.arange(n) / fs + rng.uniform(-0.004, 0.004, n)
        waves = np.sin(2 * np.pi * (0.2 + k % 3) * t)[:, None] * rng.normal(size=6)
        values = (waves + rng.normal(0, 0.3, (n, 6)) + [0, 0, 9.81, 0, 0, 0]).round(4)
        columns = {'t': (t - t[0]).round(4), **dict(zip(COLUMNS, values.T))}
        name = f'r{k:03d}'
        pa.csv.write_csv(pa.table(columns), folder / f'{name}.csv')
        size += (folder / f'{name}.csv').stat().st_size
        rows.append(f'{name},s{k // 6:02d},{name}.csv,{LABELS[k % 3]}')
    lines = ['id,subject,file,label', *rows, '']
    (folder / 'recordings.csv').write_text('\n'.join(lines))
    stream = {'columns': {c: c for c in COLUMNS}, 'units': {'acc': 'm/s2', 'gyro': 'rad/s'}}
    manifest = {'name': 'large', 'fs': fs, 'time': {'column': 't', 'unit': 's'}}
    manifest |= {'streams': {'wrist': stream}, 'window_s': 2, 'stride_s': 1}
    (folder / 'manifest.json').write_text(json.dumps(manifest))
    return recordings * n * 6 * 4, size


def now():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def measure_here(what, folder):
    "Seconds, processor seconds and bytes above what the imports took; for a process of its own"
    from harkd.experiment import DataConfig, experiment_windows
    from harkd.inspect import check_command, check_study

    tiny = Path(folder).with_name('tiny')
    check_study(tiny)  # everything that is imported late, is
    wall, cpu, memory = now()
    if what == 'check':
        lines = []
        assert check_command(str(folder), say=lines.append) == 0, lines
    else:
        cfg = DataConfig('sessions', data_root=str(folder))
        assert len(experiment_windows(cfg)) > 0
    end, cpu_end, peak = now()
    return dict(seconds=end - wall, cpu_seconds=cpu_end - cpu, peak_bytes=peak - memory)


def measure(recordings, root):
    "One row for each thing that is measured"
    folder = root / f'study_{recordings}'
    folder.mkdir()
    samples, size = write_study(folder, recordings)
    found = {'recordings': recordings, 'float32_bytes': samples, 'file_bytes': size}
    for what in ('check', 'load_and_windows'):
        command = [sys.executable, '-m', 'tests.bench_data', '--measure', what, str(folder)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        row = json.loads(printed.splitlines()[-1])
        row['peak_over_float32'] = row['peak_bytes'] / samples
        found[what] = {k: round(v, 3) for k, v in row.items()}
        print(recordings, what, found[what], flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--measure', nargs=2)
    parser.add_argument('--recordings', default='20,200')
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure_here(args.measure[0], Path(args.measure[1]))))
        return
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)
        (root / 'tiny').mkdir()
        write_study(root / 'tiny', 18, minutes=1)
        rows = [measure(int(n), root) for n in args.recordings.split(',')]
    first, last = rows[0], rows[-1]
    growth = {
        what: last[what]['cpu_seconds'] / first[what]['cpu_seconds']
        for what in ('check', 'load_and_windows')
    }
    path = results_file('bench_data.json')
    if path.parent.name == 'results':
        path = path.parent / 'benchmarks' / path.name
    write_json(path, dict(device=processor(), studies=rows, cpu_growth=growth))


if __name__ == '__main__':
    main()
