"""Side by side, in one run, on one thread: a student against the reference transformer in every format, and an hour of a stream.

    make bench STUDENT=runs/a REFERENCE=runs/b WINDOWED=runs/c        writes nbs/results/bench_latency.csv and bench_stream.json
    .venv/bin/python -m tests.bench_deploy --student runs/a --name bench_latency_25k
    .venv/bin/python -m tests.bench_deploy --streamed runs/utd_100k_2s      writes nbs/results/utd_stream.csv

Preparing a window (normalising it) is part of what is timed. STUDENT and REFERENCE are finished distillation runs on the same data (without REFERENCE the published size, untrained, is all there is to compare with), WINDOWED one on windows (-p window_s 2)."""

import argparse
import time
import tracemalloc
from pathlib import Path

import numpy as np
import torch

from harkd.cost import compare_latency
from harkd.data import Dataset, Recording, Span, Stream, load_dataset
from harkd.deploy import describe, onnx_bytes, onnx_runner
from harkd.formats import _open, make_files
from harkd.preprocess import cut_windows
from harkd.quantize import onnx_fp16, onnx_int8
from harkd.runs import (
    Run,
    hash_config,
    processor,
    results_file,
    set_seed,
    write_bytes,
    write_json,
    write_ledger,
    write_results,
)
from harkd.runtime import Bundle, StreamingClassifier
from harkd.student import InertialTransformer
from harkd.tflite import tflite_bytes, tflite_runner


def latency_rows(student, reference=None, name='bench_latency'):
    "One row a format of both, accuracy on the same held-out windows, latency measured in turn"
    rows, run = [], {}
    for who, path in (('student', student), ('reference', reference)):
        if not path:
            continue
        cfg, loader, ids, model, about, x, y, calibration = _open(
            Run(path).path, 'distilled', None, 0
        )
        (i,) = model.inputs
        shape = tuple(x.shape[1:])
        mean, sd = (np.array(about['normalizer'][k][i], np.float32) for k in ('mean', 'std'))
        raw = x[:1].numpy() * sd + mean
        made, refused = make_files(model, shape, calibration, x, y)
        for m in made:
            z = m.runner(x[: len(ids)].numpy())
            run[who, m.format, m.precision] = lambda m=m, raw=raw, mean=mean, sd=sd: m.runner(
                (raw - mean) / sd
            )
            rows.append(
                dict(
                    experiment=name,
                    fold=loader.split.fold,
                    dataset=about['dataset'],
                    protocol=about['protocol'],
                    part='test' if cfg.final else 'val',
                    model=cfg.student,
                    arm='distilled',
                    method=who,
                    modality=i,
                    seed=0,
                    n=len(ids),
                    accuracy=float((z.argmax(1) == y[: len(ids)]).mean()),
                    bytes=len(m.data),
                    weight_bytes=m.weight_bytes,
                    format=f'{m.format} {m.precision}',
                    gap=m.gap,
                    same=m.same,
                    config_hash=hash_config(cfg),
                    data_hash=about['data_hash'],
                )
            )
        if cfg.final:
            write_ledger([{**r, 'method': r['format']} for r in rows if r['method'] == who])
        for k, v in refused.items():
            print(f'{who}, {k}: {v}')
    set_seed(0)
    published = InertialTransformer().eval()
    one = torch.randn(1, 100, 6).numpy()
    blob = onnx_bytes(published, (100, 6))
    lite = tflite_bytes(published, (100, 6), torch.randn(200, 100, 6))
    files = {
        ('onnx', 'fp32'): blob,
        ('onnx', 'fp16'): onnx_fp16(blob),
        ('onnx', 'int8_dynamic'): onnx_int8(blob, None),
        **{('tflite', p): b for p, b in lite.items() if p != 'int8'},
    }
    for (f, p), b in files.items():  # untrained: only its size and its speed mean something
        runner = (onnx_runner if f == 'onnx' else tflite_runner)(b)
        run['published', f, p] = lambda runner=runner: runner((one - 0.1) / 1.1)
        rows.append(
            dict(
                experiment=name,
                dataset='none',
                protocol='untrained',
                model='transformer_285083',
                arm='baseline',
                method='published',
                format=f'{f} {p}',
                bytes=len(b),
                config_hash='untrained',
                data_hash='none',
            )
        )
    speed = compare_latency(run, rounds=60, calls=20, threads=1)
    for r in rows:
        r['latency_ms'], r['latency_p95_ms'] = speed[(r['method'], *r['format'].split())].values()
        r['device'] = f'{processor()}, 1 thread'
    return rows


def verdict(rows):
    "Fastest format that loses at most half a point, on each side"
    best = {}
    for who in ('student', 'reference'):
        mine = [r for r in rows if r['method'] == who]
        if not mine:
            continue
        top = next(r['accuracy'] for r in mine if r['format'] in ('onnx fp32', 'tflite fp32'))
        best[who] = min(
            (r for r in mine if r['accuracy'] >= top - 0.005), key=lambda r: r['latency_ms']
        )
    at = lambda who, f: next((r for r in rows if r['method'] == who and r['format'] == f), None)
    ratio = lambda a, b, k: None if a is None or b is None else a[k] / b[k]
    return {
        'fastest': {w: b['format'] for w, b in best.items()},
        'latency_ratio_fastest': ratio(best['student'], best.get('reference'), 'latency_ms'),
        'latency_ratio_onnx_fp32': ratio(
            at('student', 'onnx fp32'), at('reference', 'onnx fp32'), 'latency_ms'
        ),
        'latency_ratio_onnx_fp32_published': ratio(
            at('student', 'onnx fp32'), at('published', 'onnx fp32'), 'latency_ms'
        ),
        'latency_ratio_fastest_published': best['student']['latency_ms']
        / min(r['latency_ms'] for r in rows if r['method'] == 'published'),
        'bytes_ratio_onnx_int8_to_int8_dynamic': ratio(
            at('student', 'onnx int8'), at('reference', 'onnx int8_dynamic'), 'bytes'
        ),
        'bytes_ratio_tflite_int8_to_int8_dynamic': ratio(
            at('student', 'tflite int8'), at('reference', 'tflite int8_dynamic'), 'bytes'
        ),
    }


def hour(path, seconds=3600.0, folder=None):
    "An hour of real movements, in chunks of random size: same decisions as offline, memory, speed"
    cfg, loader, ids, model, about, x, y, _ = _open(Run(path).path, 'distilled', None, 0)
    (i,) = model.inputs
    data = load_dataset(cfg.dataset, cfg.data_root)
    parts, clocks, t0 = [], [], 0.0
    while t0 < seconds:
        for r in data.recordings:
            v, t = r.streams['imu'].read()
            parts.append(np.asarray(v, float))
            clocks.append(t0 + t - t[0])
            t0 = clocks[-1][-1] + 1 / about['fs']
            if t0 >= seconds:
                break
    x, t = np.concatenate(parts), np.concatenate(clocks)

    folder = Path(folder)
    blob = onnx_bytes(model, (about['length'][i], len(about['channels'][i])))
    write_bytes(folder / 'model.onnx', blob)
    write_json(folder / 'bundle.json', describe(about, blob, 'model.onnx'))
    bundle = Bundle(folder)
    rec = Recording(
        'hour',
        'p',
        cfg.dataset,
        {'imu': Stream(x, t, data.recordings[0].streams['imu'].channels)},
        (Span(data.card.classes[0], t[0], t[-1] + 1 / about['fs']),),
    )
    w = cut_windows(
        Dataset(data.card, (rec,), 'hour'),
        (i,),
        window_s=about['window_s'],
        stride_s=about['stride_s'],
        whole=False,
    )
    with torch.no_grad():
        want = torch.cat([model(b.x[i]) for b in feed_plain(loader, w)]).argmax(1).numpy()

    def play(most):
        rng = np.random.default_rng(0)
        s = StreamingClassifier(bundle, threshold=0.0)
        out, k = [], 0
        start = time.perf_counter()
        while k < len(x):
            n = int(rng.integers(1, most + 1))
            out += s.push(t[k : k + n], x[k : k + n])
            k += n
        return out + s.finish(), time.perf_counter() - start, s

    got, _, s = play(200)
    same = [d.window_label for d in got] == [bundle.classes[k] for k in want]
    speeds = {
        f'chunks of 1 to {m}': t[-1] / min(play(m)[1] for _ in range(3)) for m in (10, 50, 200)
    }
    single = t[-1] / play(1)[1]
    tracemalloc.start()
    rng = np.random.default_rng(1)
    s = StreamingClassifier(bundle, threshold=0.0)
    k, held, m = 0, np.zeros(len(x), int), 0
    while k < len(x):
        n = int(rng.integers(1, 200))
        s.push(t[k : k + n], x[k : k + n])
        k += n
        held[m] = tracemalloc.get_traced_memory()[0]
        m += 1
    tracemalloc.stop()
    q = m // 4
    held = held[:m]
    return dict(
        seconds=float(t[-1]),
        windows=len(got),
        same_decisions_as_offline=bool(same),
        times_real_time={**speeds, 'one by one': single},
        kept_bytes_first_quarter=int(np.median(held[:q])),
        kept_bytes_last_quarter=int(np.median(held[-q:])),
        processor=processor(),
        threads=1,
        model=cfg.student,
        window_s=about['window_s'],
    )


def streamed_rows(path, name, smooth=0.7):
    "Trials of held-out people as streams: how often each decision is right, and the last one of a trial"
    import tempfile

    path, rows = Run(path).path, []
    for fold, seed in sorted(
        {tuple(int(v[4:]) for v in p.name.split('_')) for p in path.glob('fold*_seed*')}
    ):
        for arm in ('control', 'distilled'):
            cfg, loader, ids, model, about, *_ = _open(path, arm, fold, seed)
            (i,) = model.inputs
            w = loader.split.windows
            said = {
                k: []
                for k in ('each decision', 'end of a trial', f'end of a trial, smoothed {smooth}')
            }
            with tempfile.TemporaryDirectory() as tmp:
                blob = onnx_bytes(model, (about['length'][i], len(about['channels'][i])))
                write_bytes(Path(tmp) / 'model.onnx', blob)
                write_json(Path(tmp) / 'bundle.json', describe(about, blob, 'model.onnx'))
                bundle = Bundle(tmp)
            data = load_dataset(cfg.dataset, cfg.data_root).recordings
            for k in sorted(set(w.table.recording.iloc[ids])):
                stream = data[k].streams[i.split(':')[0]]
                v, t = stream.read()
                v = np.asarray(v)[:, [list(stream.channels).index(c) for c in bundle.raw]]
                (truth,) = {s.label for s in data[k].spans}
                for m, sm in (
                    ('each decision', 0.0),
                    (f'end of a trial, smoothed {smooth}', smooth),
                ):
                    s = StreamingClassifier(bundle, smooth=sm, threshold=0.0)
                    right = [d.label == truth for d in (*s.push(t, v), *s.finish())]
                    last = right[-1:] or [False]
                    said[m] += right if not sm else last  # no decision is no right one
                    if not sm:
                        said['end of a trial'] += last
            rows += [
                dict(
                    experiment=name,
                    dataset=about['dataset'],
                    protocol=f'{loader.split.protocol}_stream',
                    part='test' if cfg.final else 'val',
                    model=cfg.student,
                    arm=arm,
                    method=m,
                    modality=i,
                    seed=seed,
                    fold=loader.split.fold,
                    n=len(r),
                    accuracy=float(np.mean(r)),
                    config_hash=hash_config(cfg),
                    data_hash=about['data_hash'],
                )
                for m, r in said.items()
            ]
    if cfg.final:
        write_ledger(rows)
    write_results(name, rows)
    return rows


def feed_plain(loader, w):
    "Normalised batches of other windows than the loader's own"
    for k in range(0, len(w), 512):
        yield loader.norm(w.batch(np.arange(k, min(k + 512, len(w)))))


if __name__ == '__main__':
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('--student')
    p.add_argument('--reference')
    p.add_argument('--windowed')
    p.add_argument('--streamed', help='finished run on windows: accuracy of its streams')
    p.add_argument('--name', default='', help='of the result files')
    a = p.parse_args()
    torch.set_num_threads(1)
    import json
    import tempfile

    if a.student and not (a.reference or a.name):
        p.error('without --reference, give the table a --name of its own')
    if a.student:
        name = a.name or 'bench_latency'
        rows = latency_rows(a.student, a.reference, name)
        write_results(name, rows)
        v = verdict(rows)
        write_json(results_file(f'{name}.json'), v)
        print(json.dumps(v, indent=1))
    if a.streamed:
        import pandas as pd

        print(
            pd.DataFrame(streamed_rows(a.streamed, a.name or 'utd_stream'))
            .groupby(['arm', 'method'])
            .accuracy.describe()
        )
    if a.windowed:
        with tempfile.TemporaryDirectory() as tmp:
            h = hour(a.windowed, folder=tmp)
        write_json(results_file('bench_stream.json'), h)
        print(json.dumps(h, indent=1))
