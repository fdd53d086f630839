"""Damage studies at random and see what a user would see.

    python -m tests.fuzz_own_data --minutes 10     writes nbs/results/fuzz_own_data.json

Each round takes a clean study and damages its manifest, its list of recordings or a file of
samples, or several; then `harkd data check`, loading with cutting, and `harkd new` run on it. What
may happen: an error that names a file or the study, or windows. Anything else (IndexError,
MemoryError, a traceback of pandas, a message without a name) is counted as a failure and kept."""

import argparse
import json
import math
import resource
import shutil
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from harkd.data import load_dataset
from harkd.inspect import check_command, new_command
from harkd.preprocess import cut_windows
from harkd.runs import processor, results_file, write_json
from tests.test_own_data import write_study

JUNK = [
    *(None, True, False, 0, -1, 1, 50, 1e308, math.nan, math.inf, 10**30, '', ' ', 'x', 'g'),
    *('m/s2', 'acc_x', 't', 'wrist', 'p1', [], {}, [[]], [None], ['x'], {'x': 1}, ',', ';', '\t'),
    *('é', '\u0000', '../..', '/', 'nan', 'null', 1.5, 2, 1e-9, 'utf-16', 'rot13', 'idna'),
]
CELLS = [
    *('nan', 'NaN', 'inf', '-inf', '1e400', '1e38', '-', '', ' ', '0x10', '1_000', '١', '"', '""'),
    *("'", ',', ';', '\t', '\x00', '1,5', '1.5.2', 'null', 'None', '2147483647', '-32768', '1e5'),
    *('99999999999999999999', '-1', '0', '1970-01-01', '2024-02-30T00:00:00', '#', '\ufeff', 'é'),
]


def places(value, path=()):
    "Every place inside a JSON value"
    found = [path]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    if isinstance(value, list):
        for key, inner in enumerate(value):
            found += places(inner, (*path, key))
    return found


def damage_json(value, rng):
    "The value with one place changed, removed, renamed or added"
    path = places(value)[rng.integers(len(places(value)))]
    junk = JUNK[rng.integers(len(JUNK))]
    if not path:
        return junk if rng.random() < 0.3 else value
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    kind = rng.integers(4)
    if kind == 0 and isinstance(inner, dict):
        del inner[path[-1]]
    elif kind == 1 and isinstance(inner, dict):
        inner[str(junk)[:9]] = inner.pop(path[-1])
    elif kind == 2 and isinstance(inner, dict):
        keys = ['sep', 'decimal', 'header', 'skip', 'line_end', 'bad_rows', 'label', 'classes']
        keys += ['drop', 'whole', 'length', 'teacher', 'order', 'format', 'folds', 'encoding']
        inner[keys[rng.integers(len(keys))]] = junk
    else:
        inner[path[-1]] = junk
    return value


def damage_lines(lines, rng):
    k = int(rng.integers(len(lines)))
    cells = lines[k].split(',')
    kind = rng.integers(7)
    if kind == 0:
        cells[rng.integers(len(cells))] = CELLS[rng.integers(len(CELLS))]
        lines[k] = ','.join(cells)
    elif kind == 1:
        del lines[k : k + int(rng.integers(1, 200))]
    elif kind == 2:
        lines.insert(k, lines[int(rng.integers(len(lines)))])
    elif kind == 3:
        lines[k:] = lines[k:][::-1]
    elif kind == 4:
        lines[k] = lines[k] + CELLS[rng.integers(len(CELLS))]
    elif kind == 5:
        column = int(rng.integers(len(cells)))
        cell = CELLS[rng.integers(len(CELLS))]
        for i in range(k, min(len(lines), k + int(rng.integers(1, 400)))):
            row = lines[i].split(',')
            row[min(column, len(row) - 1)] = cell
            lines[i] = ','.join(row)
    else:
        lines[k] = ''
    return lines


def damage_bytes(raw, rng):
    k = int(rng.integers(max(1, len(raw))))
    junk = rng.integers(0, 256, int(rng.integers(1, 9))).astype(np.uint8).tobytes()
    pieces = (raw[:k], raw[:k] + junk + raw[k:], raw[:k] + junk + raw[k + len(junk) :], junk + raw)
    return (*pieces, b'', raw.decode(errors='replace').encode('utf-16'))[rng.integers(6)]


def damage(folder, rng):
    "Damage one to three files of a study; what was done"
    files = sorted(folder.glob('*.csv')) + [folder / 'manifest.json'] * 8
    done = []
    for _ in range(int(rng.integers(1, 4))):
        path = files[rng.integers(len(files))]
        if not path.exists():
            continue
        raw = path.read_bytes()
        if path.suffix == '.json' and rng.random() < 0.85:
            try:
                text = json.dumps(damage_json(json.loads(raw), rng))
            except ValueError:
                continue
            path.write_text(text, encoding='utf8')
        elif rng.random() < 0.75:
            lines = raw.decode(errors='replace').split('\n')
            path.write_bytes('\n'.join(damage_lines(lines, rng)).encode())
        elif rng.random() < 0.9:
            path.write_bytes(damage_bytes(raw, rng))
        else:
            path.unlink()
        done.append(path.name)
    return done


def attempt(f, folder):
    "What a user sees: 'windows', 'named error', or a failure with its traceback"
    try:
        return f(), ''
    except (ValueError, FileNotFoundError) as e:
        named = str(folder) in str(e) or 'study' in str(e)
        return ('named error' if named else 'nameless error'), '' if named else repr(e)
    except Exception as e:
        return f'foreign {type(e).__name__}', traceback.format_exc()[-1500:]


def ways(folder, clean_windows):
    "The three ways in which a user meets a study"

    def load():
        data = load_dataset('sessions', folder)
        windows = cut_windows(data, (*data.card.student, *data.card.teacher))
        same = len(windows) == clean_windows
        return 'all windows' if same else 'some windows'

    def check():
        lines = []
        status = check_command(str(folder), folds=3, say=lines.append)
        return ('passes', 'refuses')[status] if status in (0, 1) and lines else 'says nothing'

    def new():
        files = [p for p in sorted(folder.glob('*.csv')) if p.name != 'recordings.csv']
        lines = []
        status = new_command(folder / 'made', files, yes=True, say=lines.append)
        return ('writes', 'refuses')[status] if status in (0, 1) and lines else 'says nothing'

    return {'load': load, 'check': check, 'new': new}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--minutes', type=float, default=10.0)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30,) * 2)  # what asks for 100 GiB fails here
    counts, failures, rounds = {}, [], 0
    end = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as tmp:
        clean = write_study(Path(tmp) / 'clean')
        data = load_dataset('sessions', clean)
        n = len(cut_windows(data, (*data.card.student, *data.card.teacher)))
        while time.monotonic() < end:
            rng = np.random.default_rng([args.seed, rounds])
            folder = Path(shutil.copytree(clean, Path(tmp) / 'study'))
            done = damage(folder, rng)
            for way, f in ways(folder, n).items():
                outcome, why = attempt(f, folder)
                counts.setdefault(way, Counter())[outcome] += 1
                if why or outcome == 'says nothing':
                    failures.append({'round': rounds, 'way': way, 'damaged': done, 'error': why})
                    print(rounds, way, done, outcome, why, flush=True)
            shutil.rmtree(folder)
            rounds += 1
    path = results_file('fuzz_own_data.json')
    if path.parent.name == 'results':
        path = path.parent / 'benchmarks' / path.name
    found = {'rounds': rounds, 'minutes': args.minutes, 'seed': args.seed, 'device': processor()}
    write_json(path, found | {'outcomes': counts, 'failures': failures})
    print(found, {k: dict(v) for k, v in counts.items()}, f'{len(failures)} failures')


if __name__ == '__main__':
    main()
