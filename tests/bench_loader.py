"""What the loader costs with many windows.

    python -m tests.bench_loader --windows 1000000   writes nbs/results/benchmarks/bench_loader.json

Walks of 6 channels at 50 Hz are cut into windows of 2.56 s, 1.28 s apart. Measured are the memory
of this process at its highest, above what it had before, against the bytes of the samples; the time
to fit the normaliser; the time a step needs for the order of the epoch (drawn once, divided by its
steps) and for picking its windows; and the time of a whole training step of `conv_20k`."""

import argparse
import gc
import resource
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from harkd.augment import Augment
from harkd.data import Dataset, Recording, Span, Stream, dataset_card
from harkd.preprocess import cut_windows
from harkd.readers import IMU, IMU_UNITS
from harkd.runs import processor, results_dir, write_json
from harkd.split import BatchLoader, by_subject
from harkd.student import make_student
from harkd.train import cross_entropy

FS, WINDOW, STRIDE, PARTS = 50, 128, 64, 100


class PeakMemory:
    "The highest memory of this process between begin and end, in bytes"

    def __enter__(self):
        self.before, self.peak, self.stop = self.now(), 0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    @staticmethod
    def now():
        return 4096 * int(Path('/proc/self/statm').read_text().split()[1])

    def watch(self):
        while not self.stop.wait(0.02):
            self.peak = max(self.peak, self.now())

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self.above = max(self.peak, self.now()) - self.before


def many_windows(n):
    "A data set whose windows number about n"
    rng = np.random.default_rng(0)
    length = (n // PARTS + 1) * STRIDE + WINDOW
    recordings = []
    for k in range(PARTS):
        values = rng.standard_normal((length, 6), np.float32)
        time = np.arange(length) / FS
        stream = Stream(values, time, IMU, IMU_UNITS)
        half = length / 2 / FS
        spans = (Span('walk', 0.0, half), Span('sit', half, length / FS))
        recordings.append(Recording(f'r{k}', f's{k % 20}', 'many', {'imu': stream}, spans))
    card = replace(
        dataset_card('sessions'),
        name='many',
        classes=('walk', 'sit'),
        fs=float(FS),
        window_s=WINDOW / FS,
        stride_s=STRIDE / FS,
        whole=False,
        student=('imu',),
        teacher=('imu',),
    )
    return Dataset(card, recordings, 'made for this')


def median_ms(f, repeats):
    times = []
    for k in range(repeats):
        begin = time.perf_counter()
        f(k)
        times.append(time.perf_counter() - begin)
    return 1000 * float(np.median(times))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--windows', type=int, default=1_000_000)
    parser.add_argument('--batch', type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warm = cut_windows(many_windows(2000), ('imu',))  # what a process needs in any case
    BatchLoader.fit(by_subject(warm, ['s1'])).train(0, 0)
    del warm
    gc.collect()
    with PeakMemory() as memory:
        begin = time.perf_counter()
        windows = cut_windows(many_windows(args.windows), ('imu',), release=True)
        cut = time.perf_counter() - begin
        subjects = sorted(set(windows.table.subject))
        split = by_subject(windows, subjects[2:], subjects[:2])
        begin = time.perf_counter()
        loader = BatchLoader.fit(split, augment=Augment(), batch_size=args.batch)
        fit = time.perf_counter() - begin
        begin = time.perf_counter()
        loader.ids(0, 0)
        order = time.perf_counter() - begin
        loader.train(0, 0)
    samples = 6 * 4 * PARTS * ((args.windows // PARTS + 1) * STRIDE + WINDOW)
    model = make_student('conv_20k', windows, ('imu',)).train()
    optimizer = torch.optim.AdamW(model.parameters())
    loss = cross_entropy()

    def step(k):
        optimizer.zero_grad()
        loss(model, loader.train(0, k)).backward()
        optimizer.step()

    pick = median_ms(lambda k: loader.ids(0, k), 2000)
    batch = median_ms(lambda k: loader.train(0, k), 300)
    whole = median_ms(step, 200)
    share = (pick + 1000 * order / loader.steps) / whole
    found = {
        'windows': len(windows),
        'sample_bytes': samples,
        'peak_bytes_above': memory.above,
        'memory_factor': memory.above / samples,
        'largest_rss_bytes': 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        'cut_s': cut,
        'normaliser_s': fit,
        'epoch_order_s': order,
        'steps_of_an_epoch': loader.steps,
        'pick_ms': pick,
        'batch_ms': batch,
        'step_ms': whole,
        'overhead_share_of_a_step': share,
        'batch_share_of_a_step': batch / whole,
        'batch_size': args.batch,
        'model': 'conv_20k',
        'device': f'{processor()}, 1 thread',
    }
    write_json(results_dir() / 'benchmarks' / 'bench_loader.json', found)
    print(found)
    assert share < 0.05 and memory.above <= 2 * samples


if __name__ == '__main__':
    main()
