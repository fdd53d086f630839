"""Damage downloads of every published data set at random and read them.

    python -m tests.fuzz_readers --minutes 10     writes nbs/results/benchmarks/fuzz_readers.json

Every reader gets a small download in its published layout, as a zip archive or unpacked. Each round
damages one or two of its files: bytes, lines, cells, whole files. It may be read, or end in an
error that names the file or the data set; anything else is counted as a failure and kept."""

import argparse
import io
import shutil
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import scipy.io

from harkd.data import DATASETS, load_dataset
from harkd.readers import UNREADABLE
from harkd.runs import processor, results_dir, write_json
from tests.fuzz_own_data import damage_bytes, damage_lines
from tests.test_more_readers import CASES
from tests.test_more_readers import write as write_download
from tests.test_readers import write_mmfit
from tests.test_wearables import LAYOUTS, write_archive

PACKED = {name: write_download for name in CASES}
PACKED |= {name: write_archive for name in LAYOUTS}


def spar(folder, rng):
    series = np.empty(4, object)
    for k in range(4):
        series[k] = rng.normal(size=(60, 6))
    labels = list(DATASETS['spar'].classes)
    data = {'X': series, 'y': np.arange(4), 'subject': np.arange(4), 'side': np.zeros(4, int)}
    np.save(folder / 'watch_dataset.npy', {**data, 'y_labels': labels}, allow_pickle=True)


def utd_mhad(folder, rng):
    for kind in ('Inertial', 'Skeleton', 'Depth'):
        (folder / kind).mkdir()
    for trial in ('a1_s1_t1', 'a27_s2_t1'):
        inertial, skeleton = rng.normal(size=(107, 6)), rng.normal(size=(20, 3, 41))
        depth = rng.integers(0, 4000, (24, 32, 41)).astype(np.uint16)
        scipy.io.savemat(folder / f'Inertial/{trial}_inertial.mat', {'d_iner': inertial})
        scipy.io.savemat(folder / f'Skeleton/{trial}_skeleton.mat', {'d_skel': skeleton})
        scipy.io.savemat(folder / f'Depth/{trial}_depth.mat', {'d_depth': depth})


def sp_sw_har(folder, rng):
    names = [f'{axis}_{sensor}' for sensor in ('acc', 'gyro') for axis in 'xyz']
    for device in ('sw', 'sp'):
        lines = [','.join(['timestamp', *names, 'label'])]
        for k in range(200):
            values = [f'{v:.4f}' for v in rng.normal(size=6)]
            lines.append(','.join([str(1000 + 10 * k), *values, 'SEATED' if k < 99 else 'WALKING']))
        path = folder / f'DATA/s01/s01_01_{device}.csv'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('\n'.join(lines) + '\n')


def uci_har(folder, rng):
    for part in ('train', 'test'):
        inner = folder / part / 'Inertial Signals'
        inner.mkdir(parents=True)
        for sensor in ('total_acc', 'body_gyro'):
            for axis in 'xyz':
                np.savetxt(inner / f'{sensor}_{axis}_{part}.txt', rng.normal(size=(5, 128)))
        np.savetxt(folder / part / f'y_{part}.txt', np.arange(1, 6), '%d')


def mm_fit(folder, rng):
    inner = folder / 'w00'
    inner.mkdir()
    write_mmfit(inner, 'w00', 10)
    (inner / 'w00_labels.csv').write_text('0,30,1,squats\n60,90,2,lunges\n')


UNPACKED = {f.__name__: f for f in (spar, utd_mhad, sp_sw_har, uci_har, mm_fit)}


def make(name, root):
    "Folders with a download: as published, and unpacked"
    folder = root / name
    folder.mkdir(parents=True)
    if name in UNPACKED:
        UNPACKED[name](folder, np.random.default_rng(0))
        return [folder]
    PACKED[name](folder, name)
    unpacked = root / f'{name}_unpacked'
    for archive in folder.glob('*.zip'):
        with zipfile.ZipFile(archive) as z:
            z.extractall(unpacked)
    return [folder, unpacked]


def damage_text(raw, rng):
    lines = raw.decode('latin1').split('\n')
    try:
        return '\n'.join(damage_lines(lines, rng)).encode('utf8')
    except (IndexError, ValueError):  # nothing to damage in this way
        return raw


def flip(raw, rng):
    raw = bytearray(raw or b'\0')
    for _ in range(int(rng.integers(1, 4))):
        raw[rng.integers(len(raw))] ^= 1 << int(rng.integers(8))
    return bytes(raw)


def damage_member(raw, rng):
    "A zip archive with the damage inside one of its files"
    buffer = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as z:
            files = {info.filename: z.read(info) for info in z.infolist()}
    except (zipfile.BadZipFile, *UNREADABLE):  # damaged already
        return flip(raw, rng)
    chosen = str(rng.choice(sorted(files)))
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as z:
        for file, content in files.items():
            z.writestr(file, damage_any(content, file, rng) if file == chosen else content)
    return buffer.getvalue()


def damage_any(raw, name, rng):
    text = name.endswith(('.csv', '.txt', '.dat', '.log', '.json'))
    if name.endswith('.zip') and rng.random() < 0.7:
        return damage_member(raw, rng)
    if text and rng.random() < 0.6:
        return damage_text(raw, rng)
    return flip(raw, rng) if rng.random() < 0.5 else damage_bytes(raw, rng)


def attempt(name, folder, paths):
    "'read', 'named error', or a failure with its traceback"
    try:
        for recording in load_dataset(name, folder).recordings:
            for stream in recording.streams.values():
                stream.read()
    except (ValueError, FileNotFoundError) as e:
        named = any(w in str(e) for w in (name, folder.name, *(p.name for p in paths)))
        return ('named error', '') if named else ('nameless error', traceback.format_exc()[-1500:])
    except Exception as e:
        return f'foreign {type(e).__name__}', traceback.format_exc()[-1500:]
    return 'read', ''


def one_round(name, folder, rng):
    files = sorted(p for p in folder.rglob('*') if p.is_file())
    whole = {p: p.read_bytes() for p in files}
    for _ in range(int(rng.integers(1, 3))):
        path = files[rng.integers(len(files))]
        if rng.random() < 0.02:
            path.unlink(missing_ok=True)
        elif path.exists():
            path.write_bytes(damage_any(path.read_bytes(), path.name, rng))
    damaged = [p for p in files if not p.exists() or p.read_bytes() != whole[p]]
    outcome = attempt(name, folder, files)
    for path in damaged:
        path.write_bytes(whole[path])
    return *outcome, [p.name for p in damaged]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--minutes', type=float, default=10.0)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('names', nargs='*', default=[*UNPACKED, *PACKED])
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    counts, failures, rounds = {}, [], 0
    root = Path(tempfile.mkdtemp())
    downloads = [(n, folder) for n in args.names for folder in make(n, root)]
    for name, folder in downloads:
        assert attempt(name, folder, [])[0] == 'read', attempt(name, folder, [])
    end = time.monotonic() + 60 * args.minutes
    while time.monotonic() < end:
        rng = np.random.default_rng([args.seed, rounds])
        name, folder = downloads[rounds % len(downloads)]
        outcome, why, damaged = one_round(name, folder, rng)
        counts.setdefault(name, Counter())[outcome] += 1
        if why:
            failures.append({'round': rounds, 'name': name, 'damaged': damaged, 'error': why})
            print(rounds, name, damaged, outcome, why, flush=True)
        rounds += 1
    shutil.rmtree(root)
    found = {'rounds': rounds, 'minutes': args.minutes, 'seed': args.seed, 'device': processor()}
    path = results_dir() / 'benchmarks' / 'fuzz_readers.json'
    write_json(path, found | {'outcomes': counts, 'failures': failures})
    print(found, {k: dict(v) for k, v in counts.items()}, f'{len(failures)} failures')


if __name__ == '__main__':
    main()
