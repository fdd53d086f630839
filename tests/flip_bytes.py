"""Flip a bit of every byte of every file of a small run, a model, a checkpoint and bundles.

    python -m tests.flip_bytes [--share 1.0]    writes nbs/results/benchmarks/flip_bytes.json

makes a small run and its bundles in every format and precision, flips one bit of each byte (of a
random share of the bytes), opens what the file belongs to, and counts what was loaded all the same.
The result is written after every file. `README.md` of a bundle is left out: nothing reads it, and
it may be edited; `runtime.py`, the same in all bundles, is flipped in one. Exit status 1 if
anything was loaded."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

from harkd.distill import run_distill
from harkd.experiment import experiment_windows, model_metadata
from harkd.formats import export
from harkd.quantize import LIMITS, check_decisions
from harkd.runs import (
    DamagedFile,
    Run,
    load_model,
    load_tensors,
    processor,
    read_sealed,
    results_dir,
    save_model,
    write_json,
)
from harkd.runtime import BadBundle, Bundle
from harkd.split import BatchLoader, by_subject
from harkd.student import make_student
from harkd.tflite import tflite_bytes
from harkd.train import cross_entropy, train
from tests.test_run_data import config, make_study

BUNDLES = [('onnx', p) for p in ('fp32', 'fp16', 'int8_dynamic', 'int8')]
BUNDLES += [('tflite', p) for p in ('fp32', 'fp16', 'int8')]


def part_files(folder):
    return sorted(p for p in folder.rglob('*') if p.is_file())


def flips(path, load, share, rng):
    "Bytes that were tried, and those whose flip was loaded without a word"
    whole, silent, tried = path.read_bytes(), [], 0
    chosen = np.flatnonzero(rng.random(len(whole)) < share)
    bits = rng.integers(8, size=len(whole))
    with path.open('r+b', buffering=0) as f:
        for i in chosen.tolist():
            os.pwrite(f.fileno(), bytes([whole[i] ^ (1 << int(bits[i]))]), i)
            tried += 1
            try:
                load()
                silent.append(i)
            except (DamagedFile, BadBundle):
                pass
            os.pwrite(f.fileno(), whole[i : i + 1], i)
    assert path.read_bytes() == whole
    return tried, silent


def converted_once(files):
    "TensorFlow takes long, and one conversion makes all precisions"

    def convert(model, shape, calibration=None, log=None, seconds=600.0):
        if not files:
            files.update(tflite_bytes(model, shape, calibration, log, seconds))
        return files

    return convert


def export_all(run, root, wanted=tuple(BUNDLES)):
    "Bundles of each format and precision, whatever they decide: the network is hardly trained"
    bundles, kept = [], {}
    wanted = sorted(wanted, key=lambda b: b[1] != 'int8')  # the first gives windows to convert with
    with (
        patch('harkd.formats.tflite_bytes', converted_once(kept)),
        patch('harkd.formats.check_decisions', partial(check_decisions, lost=1.0)),
        patch.dict('harkd.quantize.LIMITS', dict.fromkeys(LIMITS, 0.0)),
    ):
        for format, precision in wanted:
            c = (format, precision) == ('tflite', 'int8')
            folder = root / f'{format}_{precision}'
            try:
                bundles.append(export(run, folder, format, precision, fold=0, c=c))
            except (ImportError, RuntimeError) as e:
                print(f'no {format} {precision}: {e}')
    return bundles


def make(root, wanted=tuple(BUNDLES)):
    "A run, its checkpoint, and bundles"
    cfg = replace(config(make_study(root / 'study')), folds=2, fold=0, teacher_model='conv_8k')
    run = run_distill(cfg, root / 'run')
    windows = experiment_windows(cfg)
    loader = BatchLoader.fit(by_subject(windows, ['p1', 'p2']))
    student = make_student('conv_8k', windows, widths=(4, 4, 4, 4), kernel=3)
    train(student, loader, cross_entropy(), cfg.training(0), root / 'checkpoint.safetensors')
    save_model(student, root / 'model', **model_metadata(loader, student, cfg, 0))
    return run.path, export_all(run.path, root, wanted)


def jobs(root, run, bundles):
    "What to flip, and how to load it"
    for bundle in bundles:
        for path in part_files(bundle):
            same = path.name == 'runtime.py' and bundle != bundles[0]  # seven copies of one file
            if path.name != 'README.md' and not same:
                yield path, lambda bundle=bundle: Bundle(bundle)
    alone = root / 'model'
    for path in part_files(alone):
        yield path, lambda: load_model(alone)
    part = Path(shutil.copytree(run / 'fold0_seed0', root / 'part'))
    for path in part_files(part):  # as a resumed run reads them, without files.json
        yield path, lambda: read_sealed(part / 'rows.json')
    for path in part_files(run):
        if 'export' not in path.parts:
            yield path, lambda: Run(run)
    checkpoint = root / 'checkpoint.safetensors'
    yield checkpoint, lambda: load_tensors(checkpoint)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--share', type=float, default=1.0)
    args = parser.parse_args()
    rng, found, begin = np.random.default_rng(0), {}, time.process_time()
    result = results_dir() / 'benchmarks' / 'flip_bytes.json'
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run, bundles = make(root)
        for path, load in jobs(root, run, bundles):
            tried, loaded = flips(path, load, args.share, rng)
            name = path.relative_to(root).as_posix()
            found[name] = {'flips': tried, 'loaded': len(loaded), 'first': loaded[:5]}
            print(name, found[name], flush=True)
            total = {k: sum(f[k] for f in found.values()) for k in ('flips', 'loaded')}
            about = {'device': processor(), 'seed': 0, 'share': args.share, **total}
            about['cpu_s'] = round(time.process_time() - begin, 1)
            write_json(result, about | {'files': found})
    print(f'{total["flips"]} flips, {total["loaded"]} loaded without a word')
    return bool(total['loaded'])


if __name__ == '__main__':
    sys.exit(main())
