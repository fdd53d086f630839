"""Flip a bit of every byte of every file of a small run, a model, a checkpoint and bundles.

    python -m tests.flip_bytes [SHARE]

makes a small run and its bundles, flips one bit of each byte (of a random SHARE of the bytes in
files over 100 kB), opens what the file belongs to, and counts what was loaded all the same. Exit
status 1 if any was.
"""

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from harkd.distill import run_distill
from harkd.experiment import experiment_windows
from harkd.formats import export
from harkd.runs import DamagedFile, Run, load_model, load_tensors, read_sealed
from harkd.runtime import BadBundle, Bundle
from harkd.split import BatchLoader, by_subject
from harkd.student import make_student
from harkd.train import cross_entropy, train
from tests.test_run_data import config, make_study


def part_files(folder):
    return sorted(p for p in folder.rglob('*') if p.is_file())


def flips(path, load, share, rng):
    "Bytes that were tried, and those whose flip was loaded without a word"
    whole, silent, tried = path.read_bytes(), [], 0
    share = share if len(whole) > 100_000 else 1.0
    for i, byte in enumerate(whole):
        if rng.random() >= share:
            continue
        flipped = bytes([byte ^ (1 << int(rng.integers(8)))])
        path.write_bytes(whole[:i] + flipped + whole[i + 1 :])
        tried += 1
        try:
            load()
            silent.append(i)
        except (DamagedFile, BadBundle):
            pass
    path.write_bytes(whole)
    return tried, silent


def make(root):
    "A run, its checkpoint, and bundles of each format"
    cfg = replace(config(make_study(root / 'study')), folds=2, fold=0)
    run = run_distill(cfg, root / 'run')
    windows = experiment_windows(cfg)
    loader = BatchLoader.fit(by_subject(windows, ['p1', 'p2']))
    student = make_student('conv_8k', windows)
    train(student, loader, cross_entropy(), cfg.training(0), root / 'checkpoint.safetensors')
    bundles = [export(run.path, root / 'onnx', fold=0)]
    try:
        bundles.append(export(run.path, root / 'tflite', format='tflite', fold=0))
    except (ImportError, RuntimeError) as e:
        print('no TFLite bundle:', e)
    return run.path, bundles


def jobs(root, run, bundles):
    "What to flip, and how to load it"
    for path in part_files(run):
        if 'export' not in path.parts:
            yield path, lambda: Run(run)
    part = run / 'fold0_seed0'
    for path in part_files(part):  # as a resumed run reads them, without files.json
        yield path, lambda: read_sealed(part / 'rows.json')
    alone = Path(shutil.copytree(part / 'distilled', root / 'model'))
    for path in (alone / 'harkd.json', alone / 'model.safetensors'):
        yield path, lambda: load_model(alone)
    checkpoint = root / 'checkpoint.safetensors'
    yield checkpoint, lambda: load_tensors(checkpoint)
    for bundle in bundles:
        for path in [bundle / 'bundle.json', *bundle.glob('model.*')]:
            yield path, lambda bundle=bundle: Bundle(bundle)


def main(share=1.0):
    rng, total, silent = np.random.default_rng(0), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run, bundles = make(root)
        for path, load in jobs(root, run, bundles):
            tried, loaded = flips(path, load, share, rng)
            total, silent = total + tried, silent + len(loaded)
            print(f'{path.relative_to(root)}: {tried} flips, {len(loaded)} loaded {loaded[:5]}')
    print(f'{total} flips, {silent} loaded without a word')
    return silent


if __name__ == '__main__':
    sys.exit(bool(main(*map(float, sys.argv[1:]))))
