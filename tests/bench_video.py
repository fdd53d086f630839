"""Throughput of image encodings, and frames of many clips in flat memory.

    python -m tests.bench_video gaf                 windows a second, against loops and pyts
    python -m tests.bench_video frames --clips 10000

Both write their part of nbs/results/bench_video.json."""

import argparse
import math
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from harkd.image_encodings import gaf_images, window_range
from harkd.preprocess import gramian_angular_field
from harkd.runs import processor, read_json, results_file, write_json
from harkd.video import extract_frames, open_clips

WINDOWS, SAMPLES, BATCH = 256, 160, 32


def by_loops(window):  # (t,c), as one writes the definition down
    images = []
    for channel in range(3):
        x = window[:, channel].tolist()
        low, high = min(x), max(x)
        phi = [math.acos(min(1.0, max(-1.0, (2 * v - high - low) / (high - low)))) for v in x]
        images.append([[math.cos(a + b) for b in phi] for a in phi])
    return np.array(images)


def by_numpy(window):  # (t,c), whole arrays, one channel of one window at a time
    images = []
    for channel in range(3):
        x = window[:, channel]
        scaled = ((2 * x - x.max() - x.min()) / (x.max() - x.min())).clip(-1, 1)
        root = np.sqrt(np.clip(1 - scaled**2, 0, 1))
        images.append(np.outer(scaled, scaled) - np.outer(root, root))
    return np.stack(images)


def best_rate(f, windows, repeats):  # windows a second of processor time, one thread
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        f()
        seconds.append(time.process_time() - start)
    return windows / min(seconds)


def in_batches(f, tensor):  # as a training does: the images of a batch are used and dropped
    for start in range(0, WINDOWS, BATCH):
        f(tensor[start : start + BATCH])


def one_by_one(f, windows):
    for window in windows:
        f(window)


def bench_gaf():
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(WINDOWS, SAMPLES, 3)).cumsum(1)
    tensor = torch.from_numpy(x).float()
    field = gramian_angular_field(tensor, *window_range(tensor))
    assert np.abs(field[0].numpy() - by_loops(x[0])).max() < 1e-3
    assert np.abs(field[0].numpy() - by_numpy(x[0])).max() < 1e-3
    few = 4
    single = x.astype(np.float32)

    def draw(t):
        return gramian_angular_field(t, *window_range(t))

    rates = {
        'harkd, field': best_rate(lambda: draw(tensor), WINDOWS, 15),
        'harkd, images': best_rate(lambda: gaf_images(tensor), WINDOWS, 15),
        f'harkd, batches of {BATCH}': best_rate(lambda: in_batches(draw, tensor), WINDOWS, 15),
        'Python loop over samples': best_rate(lambda: one_by_one(by_loops, x[:few]), few, 3),
        'numpy, window by window': best_rate(lambda: one_by_one(by_numpy, x), WINDOWS, 15),
        'numpy in float32': best_rate(lambda: one_by_one(by_numpy, single), WINDOWS, 15),
        'all images kept, numpy': best_rate(lambda: [by_numpy(w) for w in x], WINDOWS, 15),
        'zeros of this size': best_rate(lambda: torch.zeros_like(field), WINDOWS, 15),
    }
    try:
        import pyts
        from pyts.image import GramianAngularField
    except ImportError:
        pass
    else:
        transform = GramianAngularField(method='summation')
        channels = np.ascontiguousarray(x.transpose(0, 2, 1).reshape(-1, SAMPLES))
        name = f'pyts {pyts.__version__}'
        rates[name] = best_rate(lambda: transform.transform(channels), WINDOWS, 15)
    ours = rates[f'harkd, batches of {BATCH}']
    return {
        'windows': WINDOWS,
        'samples': SAMPLES,
        'channels': 3,
        'windows a second': {name: round(rate, 1) for name, rate in rates.items()},
        f'batches of {BATCH}: times as fast': {
            name: round(ours / rate, 2) for name, rate in rates.items() if 'harkd' not in name
        },
        'all at once: times as fast': {
            name: round(rates['harkd, field'] / rate, 2)
            for name, rate in rates.items()
            if 'harkd' not in name
        },
    }


def write_clips(folder, count):
    "One real file, and hard links to it: what is streamed is decoded each time"
    import av

    whole = folder / 'moving' / 'v_moving_g0000_c01.avi'
    whole.parent.mkdir(parents=True)
    with av.open(str(whole), 'w') as container:
        stream = container.add_stream('mpeg4', rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        for i in range(20):
            image = np.roll(np.eye(48, 64, dtype=np.uint8) * 255, 3 * i, 1)
            frame = av.VideoFrame.from_ndarray(np.repeat(image[..., None], 3, 2), format='rgb24')
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for i in range(1, count):
        whole.with_name(f'v_moving_g{i:04}_c01.avi').hardlink_to(whole)


def bench_frames(count, size):
    memory, done = [], threading.Event()

    def watch():
        while not done.wait(0.25):
            memory.append(psutil.Process().memory_info().rss / 2**20)

    with tempfile.TemporaryDirectory() as folder:
        write_clips(Path(folder, 'videos'), count)
        start = time.perf_counter()
        watcher = threading.Thread(target=watch)
        watcher.start()
        report = extract_frames(Path(folder, 'videos'), Path(folder, 'out'), size=size)
        done.set()
        watcher.join()
        seconds = time.perf_counter() - start
        megabytes = Path(folder, 'out', 'frames.npy').stat().st_size / 1e6
        clips = open_clips(Path(folder, 'out'))
        assert len(clips) == count == len(report.paths) and clips.frames[-1].any()
    tenth = max(1, len(memory) // 10)
    return {
        'clips': count,
        'size': size,
        'seconds': round(seconds, 1),
        'frames.npy, MB': round(megabytes, 1),
        'memory after a tenth, MiB': round(memory[tenth], 1),
        'memory at the end, MiB': round(memory[-1], 1),
        'largest memory, MiB': round(max(memory), 1),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('what', choices=('gaf', 'frames'))
    parser.add_argument('--clips', type=int, default=10_000)
    parser.add_argument('--size', type=int, default=56)
    args = parser.parse_args()
    path = results_file('bench_video.json')
    found = read_json(path) if path.exists() else {}
    part = bench_gaf() if args.what == 'gaf' else bench_frames(args.clips, args.size)
    found[args.what] = {**part, 'processor': processor()}
    write_json(path, found)
    print(found[args.what])


if __name__ == '__main__':
    main()
