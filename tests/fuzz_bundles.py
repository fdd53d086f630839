"""Damage bundles, and streams of samples, at random.

    python -m tests.fuzz_bundles bundle --minutes 10   writes results/benchmarks/fuzz_bundle.json
    python -m tests.fuzz_bundles stream --minutes 10   writes results/benchmarks/fuzz_stream.json

A bundle is damaged in bundle.json or its model file, often with seal and hashes made to fit again,
as somebody would who wants it to be opened. It may end in `BadBundle`, or decide. A stream gets
damaged CSV, or arrays of any shape, type and order of time. It may end in a `ValueError` that says
what is wrong, or return decisions whose probabilities lie in [0,1]. Anything else is a failure."""

import argparse
import csv
import faulthandler
import hashlib
import io
import json
import math
import resource
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from harkd.runs import processor, results_dir, write_json
from harkd.runtime import (
    BadBundle,
    Bundle,
    StreamingClassifier,
    seal_bundle,
    stream_csv,
)
from tests.flip_bytes import make
from tests.fuzz_own_data import damage_bytes, damage_json, damage_lines

SAMPLES = [0.0, -1.0, 9.8, math.nan, math.inf, -math.inf, 1e308, 1e-308, None, '', 'x', '1e400']
STEPS = [0.02, 0.02, 0.02, 0.0, -0.02, 1e-9, 0.5, 3.0, 1e6, -1e6, 1e15, math.nan, math.inf]


def resealed(folder):
    "Make hash and seal fit what is in the folder now"
    path = folder / 'bundle.json'
    about = json.loads(path.read_bytes())
    model = folder / str(about['file'])
    about['sha256'] = hashlib.sha256(model.read_bytes()).hexdigest()
    about['seal'] = seal_bundle(about)
    path.write_text(json.dumps(about, indent=1))


def damage_bundle(folder, rng):
    "Damage one file of a bundle; what was done"
    description, model = folder / 'bundle.json', next(folder.glob('model.*'))
    kind = rng.choice(['keys', 'bytes', 'model'], p=[0.6, 0.2, 0.2])
    if kind == 'keys':
        text = json.dumps(damage_json(json.loads(description.read_bytes()), rng))
        description.write_text(text, encoding='utf8', errors='replace')
    elif kind == 'bytes':
        description.write_bytes(damage_bytes(description.read_bytes(), rng))
    else:
        model.write_bytes(damage_bytes(model.read_bytes(), rng))
    if rng.random() < 0.7:
        try:
            resealed(folder)
            return f'{kind}, sealed again'
        except (ValueError, KeyError, TypeError, OSError):
            pass
    return str(kind)


def open_bundle(folder):
    try:
        bundle = Bundle(folder)
        p = bundle(np.zeros((2, bundle.samples, len(bundle.raw)), np.float32))
    except BadBundle as e:
        return ('named error', '') if str(folder) in str(e) else ('nameless error', repr(e))
    return ('decides', '') if p.shape == (2, len(bundle.classes)) else ('wrong shape', str(p.shape))


def bundle_round(bundles, rng):
    folder = bundles[rng.integers(len(bundles))]
    whole = {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    done = damage_bundle(folder, rng)
    try:
        return done, *open_bundle(folder)
    except Exception as e:
        return done, f'foreign {type(e).__name__}', traceback.format_exc()[-1500:]
    finally:
        for path, content in whole.items():
            path.write_bytes(content)


def csv_of(names, n, rng):
    rows = [','.join(['time', *names])]
    for k in range(n):
        rows.append(','.join([f'{k / 50:.3f}', *(f'{v:.3f}' for v in rng.normal(size=len(names)))]))
    return rows


def stream_of_text(bundle, folder, rng):
    lines = csv_of(bundle.raw, int(rng.integers(1, 600)), rng)
    for _ in range(int(rng.integers(0, 4))):
        lines = damage_lines(lines, rng) or ['']
    text = '\n'.join(lines)
    if rng.random() < 0.3:
        text = damage_bytes(text.encode(), rng).decode(errors='replace')
    out = io.StringIO()
    stream_csv(folder, io.StringIO(text), out, chunk=int(rng.integers(1, 300)))
    return [float(row[-1]) for row in csv.reader(out.getvalue().splitlines()[1:])]


def samples_of(n, c, rng):
    steps = rng.choice(STEPS, n, p=[0.96 / 3] * 3 + [0.004] * 10)
    x = rng.normal(size=(n, c)).astype(object if rng.random() < 0.3 else float)
    for _ in range(int(rng.integers(0, 5))):
        value = SAMPLES[rng.integers(len(SAMPLES) if x.dtype == object else 8)]
        x[rng.integers(n), rng.integers(c)] = value
    t = np.cumsum(steps) if rng.random() < 0.7 else np.nancumsum(steps)
    return t, x


def stream_of_arrays(bundle, rng):
    options = {'smooth': 0.5, 'hold': int(rng.integers(1, 4)), 'threshold': 0.3}
    options['hop_s'] = float(rng.choice([0.0, 0.02, 0.5]))
    stream, decisions = StreamingClassifier(bundle, **options), []
    for _ in range(int(rng.integers(1, 6))):
        c = len(bundle.raw) if rng.random() < 0.97 else int(rng.integers(0, 9))
        n = int(rng.integers(1, 900))
        t, x = samples_of(n, max(c, 1), rng)
        decisions += stream.push(t, x if c else x[:, :0])
    decisions += stream.finish()
    assert stream.report['samples'] > 0
    return [d.probability for d in decisions]


def stream_round(bundles, rng):
    folder = bundles[rng.integers(len(bundles))]
    bundle = Bundle(folder)
    as_text = rng.random() < 0.5
    kind = 'text' if as_text else 'arrays'
    begin = time.monotonic()
    try:
        run = stream_of_text if as_text else stream_of_arrays
        p = run(bundle, folder, rng) if as_text else run(bundle, rng)
    except (ValueError, csv.Error) as e:
        said = len(str(e)) > 15 and 'ufunc' not in str(e) and 'broadcast' not in str(e)
        return kind, 'named error' if said else 'nameless error', '' if said else repr(e)
    except Exception as e:
        return kind, f'foreign {type(e).__name__}', traceback.format_exc()[-1500:]
    if not all(0 <= v <= 1 for v in p):
        return kind, 'no probability', repr([v for v in p if not 0 <= v <= 1][:3])
    if time.monotonic() - begin > 20:
        return kind, 'slow', f'{time.monotonic() - begin:.0f} s'
    return kind, 'decides' if p else 'no decision', ''


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', choices=['bundle', 'stream'])
    parser.add_argument('--minutes', type=float, default=10.0)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    faulthandler.enable()
    one_round = {'bundle': bundle_round, 'stream': stream_round}[args.what]
    counts, failures, rounds = {}, [], 0
    with tempfile.TemporaryDirectory() as tmp:
        _, bundles = make(Path(tmp))
        resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30,) * 2)  # 100 GiB would fail here
        end = time.monotonic() + 60 * args.minutes
        while time.monotonic() < end:
            rng = np.random.default_rng([args.seed, rounds])
            kind, outcome, why = one_round(bundles, rng)
            counts.setdefault(kind, Counter())[outcome] += 1
            if why:
                failures.append({'round': rounds, 'kind': kind, 'outcome': outcome, 'error': why})
                print(rounds, kind, outcome, why, flush=True)
            rounds += 1
    found = {'rounds': rounds, 'minutes': args.minutes, 'seed': args.seed, 'device': processor()}
    found['formats'] = [b.name for b in bundles]
    path = results_dir() / 'benchmarks' / f'fuzz_{args.what}.json'
    write_json(path, found | {'outcomes': counts, 'failures': failures})
    print(found, {k: dict(v) for k, v in counts.items()}, f'{len(failures)} failures')


if __name__ == '__main__':
    main()
