"""Seconds from the command `harkd run distill` to its first training step, on SPAR.

    HARKD_DATA=DIR python -m tests.bench_first_step      writes bench_first_step.json

Each command runs in a new folder, and is ended as soon as the progress file in its temporary
folder speaks of a first step ("teacher (fold 1, seed 0)", "step 1/4000"). The first command after a
start of the machine reads its files from disk: it is listed, but not counted. The cores must be
free: on a busy machine put `chrt --rr 1` (as root) before the command."""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from harkd.runs import processor, results_dir, write_json

COMMAND = (sys.executable, '-c', 'from harkd.cli import main; main()', 'run', 'distill')


def seconds_to_first_step(params: tuple[str, ...]) -> float:
    "Start the command, wait for the first step that is reported, end the command"
    with tempfile.TemporaryDirectory(prefix='first-step-') as folder:
        command = [
            *COMMAND,
            '-o',
            f'{folder}/executed.ipynb',
            '-p',
            'run',
            f'{folder}/run',
            *params,
        ]
        environment = {**os.environ, 'TMPDIR': folder}
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            while not any(
                'step 1/' in p.read_text() for p in Path(folder).glob('harkd-*/progress')
            ):
                if process.poll() is not None:
                    raise SystemExit(f'the command ended before its first step: {command}')
                time.sleep(0.01)
            return time.perf_counter() - start
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=5, help='counted commands')
    args = parser.parse_args()
    found = {}
    for name, params in {
        'all folds': (),
        'one fold': ('-p', 'fold', '0', '-p', 'seeds', '1'),
    }.items():
        times = [seconds_to_first_step(params) for _ in range(1 + args.repeats)]
        found[name] = {
            'first_s': round(times[0], 2),
            'p50_s': round(float(np.median(times[1:])), 2),
            'largest_s': round(max(times[1:]), 2),
            'commands': args.repeats,
        }
        print(name, found[name], flush=True)
    about = {
        'what': 'seconds from the command `harkd run distill` (SPAR) to the first training step',
        'device': f'{processor()}, {os.cpu_count()} threads',
        'torch': torch.__version__,
    }
    write_json(results_dir() / 'benchmarks' / 'bench_first_step.json', {**about, **found})


if __name__ == '__main__':
    main()
