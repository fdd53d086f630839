"""A student against the reference transformer in every format, and an hour of a stream, measured
side by side, in one run, on one thread.

    make bench STUDENT=runs/a REFERENCE=runs/b WINDOWED=runs/c
        writes nbs/results/bench_latency.csv and bench_stream.json
    .venv/bin/python -m tests.bench_deploy --student runs/a --name bench_latency_25k
    .venv/bin/python -m tests.bench_deploy --streamed runs/utd_100k_2s
        writes nbs/results/utd_stream.csv

Preparing a window (normalising it) is part of what is timed. STUDENT and REFERENCE are finished
distillation runs on the same data (without REFERENCE the published size, untrained, is all there
is to compare with), WINDOWED one on windows (-p window_s 2)."""

import argparse
import json
import tempfile
import time
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from harkd.cost import compare_latency
from harkd.data import Dataset, Recording, Span, Stream, load_dataset
from harkd.deploy import describe, onnx_bytes, onnx_runner
from harkd.formats import make_files, open_trained
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


def _prepared(runner, raw, mean, std):
    "The logits of a raw window: its preparation is part of what is timed"
    return runner((raw - mean) / std)


def _trained_rows(who, path, name):
    "One row a format of a trained model, and the calls that are timed"
    trained = open_trained(Run(path).path)
    (spec,) = trained.model.inputs
    n = len(trained.ids)
    normalizer = trained.about['normalizer']
    mean, std = (np.array(normalizer[k][spec], np.float32) for k in ('mean', 'std'))
    raw = trained.x[:1].numpy() * std + mean
    made, refused = make_files(
        trained.model, tuple(trained.x.shape[1:]), trained.calibration, trained.x, trained.y
    )
    rows, calls = [], {}
    for file in made:
        logits = file.runner(trained.x[:n].numpy())
        calls[who, file.format, file.precision] = partial(_prepared, file.runner, raw, mean, std)
        rows.append(
            dict(
                experiment=name,
                fold=trained.loader.split.fold,
                dataset=trained.about['dataset'],
                protocol=trained.about['protocol'],
                part='test' if trained.cfg.final else 'val',
                model=trained.cfg.student,
                arm='distilled',
                method=who,
                modality=spec,
                seed=0,
                n=n,
                accuracy=float((logits.argmax(1) == trained.y[:n]).mean()),
                bytes=len(file.data),
                weight_bytes=file.weight_bytes,
                format=f'{file.format} {file.precision}',
                gap=file.gap,
                same=file.same,
                config_hash=hash_config(trained.cfg),
                data_hash=trained.about['data_hash'],
            )
        )
    if trained.cfg.final:
        write_ledger([{**row, 'method': row['format']} for row in rows])
    for file, reason in refused.items():
        print(f'{who}, {file}: {reason}')
    return rows, calls


def _published_rows(name):
    "The published transformer, untrained: only its size and its speed mean something"
    set_seed(0)
    published = InertialTransformer().eval()
    one = torch.randn(1, 100, 6).numpy()
    fp32 = onnx_bytes(published, (100, 6))
    lite = tflite_bytes(published, (100, 6), torch.randn(200, 100, 6))
    files = {
        ('onnx', 'fp32'): fp32,
        ('onnx', 'fp16'): onnx_fp16(fp32),
        ('onnx', 'int8_dynamic'): onnx_int8(fp32, None),
        **{('tflite', p): data for p, data in lite.items() if p != 'int8'},
    }
    rows, calls = [], {}
    for (format, precision), data in files.items():
        runner = (onnx_runner if format == 'onnx' else tflite_runner)(data)
        calls['published', format, precision] = partial(_prepared, runner, one, 0.1, 1.1)
        rows.append(
            dict(
                experiment=name,
                dataset='none',
                protocol='untrained',
                model='transformer_285083',
                arm='baseline',
                method='published',
                format=f'{format} {precision}',
                bytes=len(data),
                config_hash='untrained',
                data_hash='none',
            )
        )
    return rows, calls


def latency_rows(student, reference=None, name='bench_latency'):
    "One row a format of both, accuracy on the same held-out windows, latency measured in turn"
    rows, calls = [], {}
    parts = [_trained_rows('student', student, name)]
    if reference:
        parts.append(_trained_rows('reference', reference, name))
    parts.append(_published_rows(name))
    for part_rows, part_calls in parts:
        rows += part_rows
        calls |= part_calls
    speed = compare_latency(calls, rounds=60, calls=20, threads=1)
    for row in rows:
        times = speed[(row['method'], *row['format'].split())]
        row['latency_ms'], row['latency_p95_ms'] = times.values()
        row['device'] = f'{processor()}, 1 thread'
    return rows


def _fastest(rows, who):
    "Fastest format that loses at most half a point; None if nobody measured"
    own = [row for row in rows if row['method'] == who]
    if not own:
        return None
    full = next(row for row in own if row['format'] in ('onnx fp32', 'tflite fp32'))
    good = [row for row in own if row['accuracy'] >= full['accuracy'] - 0.005]
    return min(good, key=lambda row: row['latency_ms'])


def _ratio(a, b, key):
    return None if a is None or b is None else a[key] / b[key]


def verdict(rows):
    "Ratios of latency and bytes, of the fastest formats and of the same ones"
    student, reference = _fastest(rows, 'student'), _fastest(rows, 'reference')
    fastest = {'student': student, 'reference': reference}
    by_format = {(row['method'], row['format']): row for row in rows}

    def ratio(format, other, other_format, key):
        return _ratio(by_format.get(('student', format)), by_format.get((other, other_format)), key)

    published = min(row['latency_ms'] for row in rows if row['method'] == 'published')
    fp32, dynamic = 'onnx fp32', 'int8_dynamic'
    return {
        'fastest': {who: row['format'] for who, row in fastest.items() if row},
        'latency_ratio_fastest': _ratio(student, reference, 'latency_ms'),
        'latency_ratio_onnx_fp32': ratio(fp32, 'reference', fp32, 'latency_ms'),
        'latency_ratio_onnx_fp32_published': ratio(fp32, 'published', fp32, 'latency_ms'),
        'latency_ratio_fastest_published': student['latency_ms'] / published,
        'bytes_ratio_onnx_int8_to_int8_dynamic': ratio(
            'onnx int8', 'reference', f'onnx {dynamic}', 'bytes'
        ),
        'bytes_ratio_tflite_int8_to_int8_dynamic': ratio(
            'tflite int8', 'reference', f'tflite {dynamic}', 'bytes'
        ),
    }


def make_bundle(trained, folder):
    "An fp32 bundle without checks, opened"
    data = onnx_bytes(trained.model, trained.shape)
    write_bytes(Path(folder) / 'model.onnx', data)
    write_json(Path(folder) / 'bundle.json', describe(trained.about, data, 'model.onnx'))
    return Bundle(folder)


def long_session(data, fs, seconds):
    "Recordings one after the other, until so many seconds are full: times and samples"
    parts, clocks, start = [], [], 0.0
    while start < seconds:
        for recording in data.recordings:
            x, t = recording.streams['imu'].read()
            parts.append(np.asarray(x, float))
            clocks.append(start + t - t[0])
            start = clocks[-1][-1] + 1 / fs
            if start >= seconds:
                break
    return np.concatenate(clocks), np.concatenate(parts)


def offline_decisions(trained, data, t, x):
    "The classes of the windows of a session, as the model decides"
    (spec,) = trained.model.inputs
    about = trained.about
    stream = Stream(x, t, data.recordings[0].streams['imu'].channels)
    span = Span(data.card.classes[0], t[0], t[-1] + 1 / about['fs'])
    session = Recording('hour', 'p', trained.cfg.dataset, {'imu': stream}, (span,))
    windows = cut_windows(
        Dataset(data.card, (session,), 'hour'),
        (spec,),
        window_s=about['window_s'],
        stride_s=about['stride_s'],
        whole=False,
    )
    with torch.no_grad():
        batches = normalised_batches(trained.loader, windows)
        return torch.cat([trained.model(b.x[spec]) for b in batches]).argmax(1).numpy()


def normalised_batches(loader, windows):
    "Normalised batches of other windows than the loader's own"
    for k in range(0, len(windows), 512):
        yield loader.norm(windows.batch(np.arange(k, min(k + 512, len(windows)))))


def play(bundle, t, x, most):
    "Push chunks of 1 to `most` samples: decisions, and the seconds that it took"
    rng = np.random.default_rng(0)
    stream = StreamingClassifier(bundle, threshold=0.0)
    decisions, k = [], 0
    start = time.perf_counter()
    while k < len(x):
        n = int(rng.integers(1, most + 1))
        decisions += stream.push(t[k : k + n], x[k : k + n])
        k += n
    return decisions + stream.finish(), time.perf_counter() - start


def kept_bytes(bundle, t, x):
    "Bytes that are in use after each chunk"
    tracemalloc.start()
    rng = np.random.default_rng(1)
    stream = StreamingClassifier(bundle, threshold=0.0)
    k, held, chunks = 0, np.zeros(len(x), int), 0
    while k < len(x):
        n = int(rng.integers(1, 200))
        stream.push(t[k : k + n], x[k : k + n])
        k += n
        held[chunks] = tracemalloc.get_traced_memory()[0]
        chunks += 1
    tracemalloc.stop()
    return held[:chunks]


def hour(path, seconds=3600.0, folder=None):
    "An hour of real movements, in chunks of random size: decisions as offline, memory, speed"
    trained = open_trained(Run(path).path)
    data = load_dataset(trained.cfg.dataset, trained.cfg.data_root)
    t, x = long_session(data, trained.about['fs'], seconds)
    bundle = make_bundle(trained, folder)
    want = offline_decisions(trained, data, t, x)
    got, _ = play(bundle, t, x, 200)
    same = [d.window_label for d in got] == [bundle.classes[k] for k in want]
    speeds = {}
    for most in (10, 50, 200):
        best = min(play(bundle, t, x, most)[1] for _ in range(3))
        speeds[f'chunks of 1 to {most}'] = t[-1] / best
    speeds['one by one'] = t[-1] / play(bundle, t, x, 1)[1]
    held = kept_bytes(bundle, t, x)
    quarter = len(held) // 4
    return dict(
        seconds=float(t[-1]),
        windows=len(got),
        same_decisions_as_offline=bool(same),
        times_real_time=speeds,
        kept_bytes_first_quarter=int(np.median(held[:quarter])),
        kept_bytes_last_quarter=int(np.median(held[-quarter:])),
        processor=processor(),
        threads=1,
        model=trained.cfg.student,
        window_s=trained.about['window_s'],
    )


def stream_recording(bundle, recording, sensor, smooth):
    "For each decision on one recording, whether it is right"
    stream = recording.streams[sensor]
    x, t = stream.read()
    channels = list(stream.channels)
    x = np.asarray(x)[:, [channels.index(c) for c in bundle.raw]]
    (truth,) = {span.label for span in recording.spans}
    classifier = StreamingClassifier(bundle, smooth=smooth, threshold=0.0)
    return [d.label == truth for d in (*classifier.push(t, x), *classifier.finish())]


def streamed_decisions(trained, smooth):
    "Right or wrong, by how it is counted: each decision, the last of a trial, the last smoothed"
    (spec,) = trained.model.inputs
    each, last, smoothed = [], [], []
    with tempfile.TemporaryDirectory() as tmp:
        bundle = make_bundle(trained, tmp)
    recordings = load_dataset(trained.cfg.dataset, trained.cfg.data_root).recordings
    held_out = trained.loader.split.windows.table.recording.iloc[trained.ids]
    for k in sorted(set(held_out)):
        right = stream_recording(bundle, recordings[k], spec.split(':')[0], 0.0)
        each += right
        last += right[-1:] or [False]  # no decision is no right one
        right = stream_recording(bundle, recordings[k], spec.split(':')[0], smooth)
        smoothed += right[-1:] or [False]
    return {
        'each decision': each,
        'end of a trial': last,
        f'end of a trial, smoothed {smooth}': smoothed,
    }


def streamed_rows(path, name, smooth=0.7):
    "Trials of held-out subjects as streams: how often decisions are right, and the last of a trial"
    path, rows = Run(path).path, []
    names = {tuple(p.name.split('_')) for p in path.glob('fold*_seed*')}
    for fold, seed in sorted((int(f[4:]), int(s[4:])) for f, s in names):
        for arm in ('control', 'distilled'):
            trained = open_trained(path, arm, fold, seed)
            split = trained.loader.split
            for method, right in streamed_decisions(trained, smooth).items():
                rows.append(
                    dict(
                        experiment=name,
                        dataset=trained.about['dataset'],
                        protocol=f'{split.protocol}_stream',
                        part='test' if trained.cfg.final else 'val',
                        model=trained.cfg.student,
                        arm=arm,
                        method=method,
                        modality=trained.model.inputs[0],
                        seed=seed,
                        fold=split.fold,
                        n=len(right),
                        accuracy=float(np.mean(right)),
                        config_hash=hash_config(trained.cfg),
                        data_hash=trained.about['data_hash'],
                    )
                )
    if trained.cfg.final:
        write_ledger(rows)
    write_results(name, rows)
    return rows


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--student')
    parser.add_argument('--reference')
    parser.add_argument('--windowed')
    parser.add_argument('--streamed', help='finished run on windows: accuracy of its streams')
    parser.add_argument('--name', default='', help='of the result files')
    args = parser.parse_args()
    if args.student and not (args.reference or args.name):
        parser.error('without --reference, give the table a --name of its own')
    return args


def main():
    args = parse_args()
    torch.set_num_threads(1)
    if args.student:
        name = args.name or 'bench_latency'
        rows = latency_rows(args.student, args.reference, name)
        write_results(name, rows)
        ratios = verdict(rows)
        write_json(results_file(f'{name}.json'), ratios)
        print(json.dumps(ratios, indent=1))
    if args.streamed:
        rows = pd.DataFrame(streamed_rows(args.streamed, args.name or 'utd_stream'))
        print(rows.groupby(['arm', 'method']).accuracy.describe())
    if args.windowed:
        with tempfile.TemporaryDirectory() as tmp:
            found = hour(args.windowed, folder=tmp)
        write_json(results_file('bench_stream.json'), found)
        print(json.dumps(found, indent=1))


if __name__ == '__main__':
    main()
