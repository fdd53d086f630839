"""What pretraining costs: its loader, its encoders, its memory.

    python -m tests.bench_pretrain     writes nbs/results/benchmarks/bench_pretrain.json

Each part runs in a process of its own, on one thread. The comparison of encoders takes 32 windows
of three seconds with six channels at 50 Hz, in inference mode, the encoders by turns."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from harkd.dual_branch import DualBranchEncoder, signal_patches
from harkd.encoder import WearableEncoder, unit_batch
from harkd.pretrain import (
    CorpusLoader,
    PretrainConfig,
    PretrainLoss,
    PretrainModel,
    UnitStore,
    load_store,
    save_store,
)
from harkd.runs import processor, results_file, write_json

NAMES = tuple(f'{sensor}_{axis}' for sensor in ('acc', 'gyro') for axis in 'xyz')
REFERENCE = 87  # Sessions a second that tsfm's loader draws with augmentation, one process


def random_store(sessions, seconds=20, fs=50, units=1, name='sessions'):
    "A store of random samples, with sessions of equal length"
    rng = np.random.default_rng(0)
    size = (sessions * seconds * fs, units, 6)
    values = torch.from_numpy(rng.integers(-4000, 4000, size, dtype=np.int16))
    count = torch.full((sessions,), seconds * fs)
    subjects = tuple(f's{k % 50}' for k in range(sessions))
    present = torch.ones(units, 2, dtype=torch.bool)
    spans = torch.zeros(0, 3, dtype=torch.long)
    names = tuple(f'u{k}' for k in range(units))
    return UnitStore(name, values, present, count, subjects, names, float(fs), spans, ())


def windows_per_second(store, batch_size=256, steps=12):
    "Windows a second, each in two augmented views"
    loader = CorpusLoader((store,), PretrainConfig(supervise=0.0), batch_size)
    loader.train(0, 0)
    start = time.perf_counter()
    for step in range(1, steps + 1):
        loader.train(0, step)
    return batch_size * steps / (time.perf_counter() - start)


def measure_loader():
    "Against the number of windows in a batch, channels and sessions"
    rates = {
        f'{sessions} sessions, {6 * units} channels, batches of {batch}': windows_per_second(
            random_store(sessions, units=units), batch
        )
        for sessions, units, batch in (
            *((100, 1, 256), (1000, 1, 256), (10_000, 1, 256)),
            *((1000, 1, 64), (1000, 1, 1024), (1000, 5, 256)),
        )
    }
    slowest = min(rates.values())
    return {'windows_per_s': rates, 'times_the_reference': slowest / REFERENCE}


def measure_processes():
    "Windows a second in all, with one and with two processes that load at once"
    code = 'import torch; torch.set_num_threads(1); from tests.bench_pretrain import *; '
    code += 'print(windows_per_second(random_store(1000), steps=40))'
    totals = {}
    for n in (1, 2):
        command = [sys.executable, '-c', code]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(n)]
        totals[str(n)] = sum(float(p.communicate()[0]) for p in running)
    return {'windows_per_s': totals}


def measure_training(steps=8):
    "Seconds a training step of 256 windows takes, its loader, forward and backward pass"
    loader = CorpusLoader((random_store(1000),), PretrainConfig(supervise=0.0))
    model, loss = PretrainModel(WearableEncoder(), (0,)), PretrainLoss(loader.cfg)
    optimizer = torch.optim.AdamW(model.parameters())
    seconds = []
    for step in range(steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss(model, loader.train(0, step))['loss'].backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return {'batch': 256, 's_per_step': float(np.median(seconds[2:]))}


def measure_memory():
    "Peak memory after a few batches, and after 400, from 10,000 sessions on the disk"
    with tempfile.TemporaryDirectory() as folder:
        save_store(random_store(10_000), folder)
        own = Path(folder) / 'sessions.npy'
        code = 'from tests.bench_pretrain import *; print(stream(sys.argv[1]))'
        out = subprocess.run(
            [sys.executable, '-c', code, folder], capture_output=True, text=True, check=True
        )
        early, late = json.loads(out.stdout)
        size = own.stat().st_size
    return {'sessions': 10_000, 'bytes_on_disk': size, 'peak_early': early, 'peak_late': late}


def stream(folder):
    "Peak memory in bytes after 20 and after 400 batches, without the pages of the file"
    store = load_store(folder, 'sessions')
    loader = CorpusLoader((store,), PretrainConfig(supervise=0.0), 64)
    peaks = []
    for step in range(400):
        loader.train(0, step)
        if step in (19, 399):
            peaks.append(anonymous_bytes())
    return json.dumps(peaks)


def anonymous_bytes():
    "Memory of this process that is not a page of a file"
    lines = Path('/proc/self/status').read_text().splitlines()
    (line,) = [line for line in lines if line.startswith('RssAnon')]
    return int(line.split()[1]) * 1024


def plain_attention(layer, h, mask):
    "Queries, keys and values one after the other, one head after the other"
    dim = h.shape[-1]
    weights, biases = layer.qkv.weight.split(dim), layer.qkv.bias.split(dim)
    q, k, v = (F.linear(h, w, b) for w, b in zip(weights, biases))
    size = dim // layer.heads
    heads = []
    for part in range(layer.heads):
        of_head = slice(part * size, (part + 1) * size)
        score = q[..., of_head] @ k[..., of_head].transpose(1, 2) / size**0.5
        share = score.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
        heads.append(share @ v[..., of_head])
    return layer.out(torch.cat(heads, -1))


def plain_block(block, h):
    "A block of the dual-branch transformer, in the reference's order"
    b, p, c, d = h.shape
    along = h.permute(0, 2, 1, 3).reshape(b * c, p, d)
    mixed = plain_attention(block.time, along, torch.ones(b * c, p, dtype=torch.bool))
    h = block.norms[0](h + mixed.reshape(b, c, p, d).permute(0, 2, 1, 3))
    across = h.reshape(b * p, c, d)
    mixed = plain_attention(block.channels, across, torch.ones(b * p, c, dtype=torch.bool))
    h = block.norms[1](h + mixed.reshape(b, p, c, d))
    return block.norms[2](h + block.mlp(h))


def plain_forward(encoder, x, fs):
    "One window after the other is cut into patches, as the reference does; then the blocks"
    patches = torch.cat([signal_patches(window[None], fs) for window in x])
    h = encoder.features(patches)
    angle = torch.zeros(h.shape[1], encoder.dim)
    position = torch.arange(h.shape[1])[:, None]
    rate = torch.exp(-torch.arange(0, encoder.dim, 2) * (np.log(1e4) / encoder.dim))
    angle[:, 0::2], angle[:, 1::2] = (position * rate).sin(), (position * rate).cos()
    h = h + encoder.time_scale * angle[:, None]
    for block in encoder.blocks:
        h = plain_block(block, h)
    return h.mean((1, 2))


@torch.no_grad()
def measure_encoders(rounds=15):
    "Milliseconds for 32 windows: median over rounds in which the encoders take turns"
    torch.manual_seed(0)
    x = torch.randn(32, 150, 6)
    batch = unit_batch(x, NAMES, 50)
    ours, reference = WearableEncoder().eval(), DualBranchEncoder.of('small').eval()
    tiny = DualBranchEncoder.of('tiny').eval()
    assert torch.allclose(plain_forward(reference, x, 50), reference(batch), atol=1e-4)
    calls = {
        'ours': lambda: ours(batch),
        'reference_small': lambda: reference(batch),
        'reference_tiny': lambda: tiny(batch),
        'reference_small_plain': lambda: plain_forward(reference, x, 50),
    }
    times = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    median = {name: 1000 * float(np.median(t[1:])) for name, t in times.items()}
    return {
        'ms': median,
        'ours_of_reference': median['ours'] / median['reference_small'],
        'reference_of_plain': median['reference_small'] / median['reference_small_plain'],
        'ours_of_plain': median['ours'] / median['reference_small_plain'],
    }


PARTS = ('loader', 'processes', 'memory', 'training', 'encoders')


def main():
    report = {'device': f'{processor()}, 1 thread'}
    for part in PARTS:
        code = 'import torch; torch.set_num_threads(1); from tests.bench_pretrain import *; '
        code += f'print(json.dumps(measure_{part}()))'
        out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
        if out.returncode:
            raise SystemExit(out.stderr)
        report[part] = json.loads(out.stdout)
        print(part, json.dumps(report[part], indent=1), flush=True)
    write_json(results_file('bench_pretrain.json'), report)


if __name__ == '__main__':
    main()
