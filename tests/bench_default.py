"""Choose the default recipe inside seven data sets: many small networks trained at once on a GPU.

    python -m tests.bench_default pack FOLDER            # windows of the sets, 11 MB
    python -m tests.bench_default train FOLDER OUT       # 420 s on one GPU; results.csv.gz
    python -m tests.bench_default table FOLDER OUT       # the two files of nbs/results/development

Every network of a group (folds × seeds × arms) is trained in the same step: its channels lie beside
the others' in memory. Networks, initial weights, losses, augmentation, learning rate and averaged
weights follow harkd. Of UTD-MHAD only the published training subjects are used; of the large sets
the first 8 to 12 subjects. Signals are rounded to 1/24 to 1/64 of their standard deviation.
"""

import argparse
import csv
import gzip
import itertools
import lzma
import math
import os
import shutil
import tempfile
import time
import traceback
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from harkd.metrics import sign_flip_test
from harkd.runs import results_dir
from harkd.student import STUDENTS, ConvStudent
from harkd.teacher import FusionTeacher

FOLDS, BATCH = 4, 32
SETS = ('spar', 'sp_sw_har', 'wisdm', 'selfback', 'motionsense', 'hapt', 'utd_mhad')
Spec = namedtuple('Spec', 'name inputs kind size')  # kind: 'student' | 'teacher'


# --- data


def unpack(z, stream):
    shape = z[f'{stream}.shape']
    c = int(np.prod(shape[1:]))
    planes = np.frombuffer(lzma.decompress(z[f'{stream}.bytes'].tobytes()), np.uint8)
    half = len(planes) // 2
    zz = planes[:half].astype(np.int64) + (planes[half:].astype(np.int64) << 8)
    d = np.where(zz & 1, -(zz + 1) // 2, zz // 2).reshape(c, -1)
    values = (d.cumsum(1).T * z[f'{stream}.unit']).astype(np.float32)
    return values.reshape(shape)


def cut(values, pos, length):
    "(n,t,...) windows by linear interpolation between the stored rows"
    u = np.linspace(0, 1, length)
    at = pos[:, :1] + u * (pos[:, 1:] - pos[:, :1])
    i = np.floor(at).astype(np.int64)
    w = (at - i).astype(np.float32)
    j = np.minimum(i + 1, len(values) - 1)
    w = w.reshape(*w.shape, *[1] * (values.ndim - 1))
    return values[i] * (1 - w) + values[j] * w


class Data:
    "Windows of one set by input, folds of subjects"

    def __init__(self, folder, name):
        z = np.load(folder / f'{name}.npz')
        self.name, self.hash = name, str(z['hash'])
        self.y, self.subject = z['y'].astype(np.int64), z['subject']
        self.classes = len(z['classes'])
        self.student, self.rich = str(z['student']), [str(r) for r in z['rich']]
        self.x, self.channels = {}, {}
        for stream in {i.split(':')[0] for i in (self.student, *self.rich)}:
            values = unpack(z, stream)
            self.x[stream] = cut(values, z[f'{stream}.pos'], int(z[f'{stream}.length'][0]))
            self.channels[stream] = tuple(str(c) for c in z[f'{stream}.channels'])
        stream, _, sensor = self.student.partition(':')
        keep = [i for i, c in enumerate(self.channels[stream]) if c.startswith(sensor)]
        self.x['main'] = np.ascontiguousarray(self.x[stream][..., keep])
        self.channels['main'] = tuple(self.channels[stream][i] for i in keep)
        if self.student == stream:
            del self.x[stream]
            self.rich = ['main' if r == stream else r for r in self.rich]
        norms = [
            np.linalg.norm(self.x['main'][..., i : i + 3], axis=-1, keepdims=True)
            for i in range(0, len(keep), 3)
        ]
        self.x['norm'] = np.concatenate([self.x['main'], *norms], -1)
        self.channels['norm'] = self.channels['main'] + ('n',) * len(norms)
        names = sorted(set(self.subject), key=lambda s: (len(s), s))
        self.train, self.val = [], []
        for f in range(FOLDS):
            held = np.isin(self.subject, names[f::FOLDS])
            self.train.append(np.flatnonzero(~held))
            self.val.append(np.flatnonzero(held))

    def is_skeleton(self, i):
        return self.x[i].ndim == 4


# --- packing the sets

SUBJECTS = dict(motionsense=10, selfback=9, hapt=12, wisdm=8)  # the first ones; others: all
RICH = dict(
    spar=['imu'],
    sp_sw_har=['watch', 'phone'],
    selfback=['wrist', 'thigh'],
    utd_mhad=['imu', 'skeleton'],
)
LEVELS = {'skeleton': 24, 'thigh': 40, 'phone': 48}  # of a standard deviation; others: 64


def squeeze(values, levels):
    "Rounded differences, compressed"
    flat = values.reshape(len(values), -1).double().numpy()
    unit = flat.std(0) / levels
    step = np.diff(np.round(flat / unit).astype(np.int64), axis=0, prepend=0)
    step = np.ascontiguousarray(step.T)
    zz = np.where(step < 0, -2 * step - 1, 2 * step).astype(np.uint16)
    planes = [(zz & 255).astype(np.uint8).ravel(), (zz >> 8).astype(np.uint8).ravel()]
    data = lzma.compress(np.concatenate(planes).tobytes(), preset=9)
    return np.frombuffer(data, np.uint8), unit, np.array(values.shape)


def pack_stream(store, table):
    "Rows of the recordings of some windows, and first and last row of each window"
    recordings = np.unique(table.recording)
    offset, count = store.offset[recordings], store.count[recordings]
    rows = torch.cat([torch.arange(a, a + n) for a, n in zip(offset, count)])
    start = torch.zeros(len(store.offset), dtype=torch.long)
    start[recordings] = torch.cumsum(count, 0) - count
    rec = torch.tensor(table.recording.to_numpy())
    time_s = torch.tensor(table[['start', 'stop']].to_numpy())
    pos = ((time_s - store.t0[rec, None]) * store.fs).clamp(min=0)
    pos = pos.minimum(store.rows[rec, None] - 1.0)
    i = pos.floor().long()
    return store.values[rows], (store._stored(rec, i) + (pos - i) + start[rec, None]).numpy()


def pack(folder, name):
    from harkd.experiment import DataConfig, experiment_windows

    w = experiment_windows(DataConfig(name))
    subjects = sorted(w.table.subject.unique(), key=lambda s: (len(s), s))
    keep = list(w.card.train_subjects) or subjects[: SUBJECTS.get(name)]
    table = w.table[w.table.subject.isin(keep)]
    student = w.card.student[0]
    out = {
        'y': table.label.to_numpy().astype(np.int16),
        'subject': np.array([str(s) for s in table.subject]),
        'classes': np.array(w.classes),
        'hash': np.array(w.hash),
        'student': np.array(student),
        'rich': np.array(RICH.get(name, [])),
    }
    for stream, store in w.signals.items():
        values, out[f'{stream}.pos'] = pack_stream(store, table)
        packed = squeeze(values, LEVELS.get(stream, 64))
        out |= dict(zip((f'{stream}.bytes', f'{stream}.unit', f'{stream}.shape'), packed))
        out[f'{stream}.channels'] = np.array(store.channels)
        out[f'{stream}.length'] = np.array([w.length.get(stream, w.length[student])])
    np.savez_compressed(folder / f'{name}.npz', **out)


# --- many networks as one; layout (m·c, b, t): each convolution's groups are its networks


def norm_layer(x, w, buffers, name, training):
    # x (m,c,b,t); statistics of each network and channel over its batch
    m, c, b, t = x.shape
    out = F.batch_norm(
        x.reshape(1, m * c, b, t),
        buffers[f'{name}.running_mean'].reshape(-1),
        buffers[f'{name}.running_var'].reshape(-1),
        w[f'{name}.weight'].reshape(-1),
        w[f'{name}.bias'].reshape(-1),
        training,
        0.1,
        1e-5,
    )
    return out.reshape(m, c, b, t)


def dense_conv(x, weight, stride):  # (m,c,b,t) by (m,d,c,1,k)
    m, d, c, _, k = weight.shape
    x = F.pad(x, (k // 2, k // 2)).unfold(-1, k, stride)  # (m,c,b,t,k)
    b, t = x.shape[2:4]
    x = x.permute(0, 1, 4, 2, 3).reshape(m, c * k, b * t)
    return torch.bmm(weight.reshape(m, d, c * k), x).reshape(m, d, b, t)


def depthwise(x, weight, stride):  # (m,c,b,t) by (m,c,1,1,k)
    m, c, b, t = x.shape
    k = weight.shape[-1]
    y = F.conv2d(
        x.reshape(1, m * c, b, t),
        weight.reshape(m * c, 1, 1, k),
        None,
        (1, stride),
        (0, k // 2),
        groups=m * c,
    )
    return y.reshape(m, c, b, y.shape[-1])


def pointwise(x, weight):  # (m,c,b,t) by (m,d,c,1,1)
    m, c, b, t = x.shape
    return torch.bmm(weight.reshape(m, -1, c), x.reshape(m, c, b * t)).reshape(m, -1, b, t)


def separable(x, w, buffers, name, stride, training):
    y = depthwise(x, w[f'{name}.filter.0.weight'], stride)
    y = F.relu(norm_layer(y, w, buffers, f'{name}.filter.1', training))
    y = pointwise(y, w[f'{name}.mix.0.weight'])
    y = norm_layer(y, w, buffers, f'{name}.mix.1', training)
    short = stride == 1 and x.shape == y.shape
    return F.relu(x + y if short else y)


def stem(x, w, buffers, name, stride, training):
    x = dense_conv(x, w[f'{name}.0.weight'], stride)
    return F.relu(norm_layer(x, w, buffers, f'{name}.1', training))


def pooled(x):  # (m,c,b,t) to (m,b,2c)
    return torch.cat([x.mean(-1), x.amax(-1)], 1).transpose(1, 2)


def linear(x, w, name):  # (m,b,d) to (m,b,k)
    return torch.baddbmm(w[f'{name}.bias'][:, None], x, w[f'{name}.weight'].transpose(1, 2))


def student_forward(spec, w, buffers, x, training):
    x = x[0].permute(0, 3, 1, 2)  # (m,b,t,c) to (m,c,b,t)
    x = stem(x, w, buffers, 'stem', 2, training)
    for s, n in enumerate(spec.size['blocks']):
        for i in range(n):
            x = separable(x, w, buffers, f'stages.{s}.{i}', 2 if i == 0 else 1, training)
    return linear(F.dropout(pooled(x), 0.2, training), w, 'head')


def with_velocities(x, root):  # (m,b,f,j,3) to (m,b,f,6j)
    place = x[:, :, :, root : root + 1]
    size = (x - place).norm(dim=-1).mean((2, 3)).clamp(min=1e-6)[..., None, None, None]
    positions = (x - place.mean(2, keepdim=True)) / size
    velocities = F.pad(positions.diff(dim=2), (0, 0, 0, 0, 1, 0))
    return torch.cat([positions, 10 * velocities], -1).flatten(3)


def teacher_forward(spec, w, buffers, xs, training):
    vectors = []
    depth = spec.size['depth']
    for k, x in enumerate(xs):
        skeleton = x.ndim == 5
        x = with_velocities(x, spec.size['root']) if skeleton else x
        name = f'branches.{k}'
        x = stem(x.permute(0, 3, 1, 2), w, buffers, f'{name}.stem', 2 - skeleton, training)
        for i in range(depth):
            stride = 2 if i in (0, depth // 2) else 1
            x = separable(x, w, buffers, f'{name}.blocks.{i}.0', stride, training)
            x = separable(x, w, buffers, f'{name}.blocks.{i}.1', 1, training)
        vectors.append(pooled(x))
    drop = F.dropout(torch.cat(vectors, -1), 0.3, training)
    logits = linear(drop, w, 'head')
    if len(vectors) == 1:
        return logits
    parts = drop.split([v.shape[-1] for v in vectors], -1)
    own = sum(linear(p, w, f'own.{i}') for i, p in enumerate(parts))
    return (logits + own) / (1 + len(parts))


def make_spec(data, name, inputs):
    counts = [data.x[i].shape[2] for i in inputs]
    if name in STUDENTS:
        size = dict(STUDENTS[name][1], channels=counts[0], classes=data.classes)
        return Spec(name, inputs, 'student', size)
    joints = tuple(data.is_skeleton(i) for i in inputs)
    size = dict(inputs=inputs, sizes=tuple(counts), joints=joints, classes=data.classes)
    return Spec(name, inputs, 'teacher', dict(size, width=64, depth=3, root=3))


def make_module(spec, seed):
    torch.manual_seed(seed)
    return ConvStudent(**spec.size) if spec.kind == 'student' else FusionTeacher(**spec.size)


class Stack:
    "Parameters and running statistics of m networks, flat; views by name"

    def __init__(self, spec, seeds, device):
        self.spec = spec
        modules = [make_module(spec, s) for s in seeds]
        self.names = [(k, tuple(v.shape)) for k, v in modules[0].named_parameters()]
        self.buffer_names = [
            (k, tuple(v.shape)) for k, v in modules[0].named_buffers() if v.is_floating_point()
        ]

        def flat(names, module):
            state = module.state_dict()
            return torch.cat([state[k].detach().reshape(-1) for k, _ in names])

        self.flat = torch.stack([flat(self.names, m) for m in modules]).to(device)
        self.stats = torch.stack([flat(self.buffer_names, m) for m in modules]).to(device)
        decayed = [torch.full((math.prod(s),), float(len(s) > 1)) for _, s in self.names]
        self.decayed = torch.cat(decayed).to(device)

    def views(self, flat, names):
        sizes = [math.prod(s) for _, s in names]
        parts = flat.split(sizes, 1)
        return {k: p.reshape(len(flat), *s) for (k, s), p in zip(names, parts)}

    def forward(self, x, training, flat=None, stats=None):
        flat = self.flat if flat is None else flat
        stats = self.stats if stats is None else stats
        w = self.views(flat, self.names)
        # batch norm changes its statistics in place: contiguous pieces, copied back below
        buffers = {k: v.contiguous() for k, v in self.views(stats, self.buffer_names).items()}
        f = student_forward if self.spec.kind == 'student' else teacher_forward
        out = f(self.spec, w, buffers, x, training)
        if training:
            with torch.no_grad():
                new = [buffers[k].reshape(len(stats), -1) for k, _ in self.buffer_names]
                stats.copy_(torch.cat(new, 1))
        return out


# --- augmentation of many batches at once


def rotations(n, degrees, device):  # degrees (n,)
    axis = F.normalize(torch.randn(n, 3, device=device), dim=1)
    angle = (torch.rand(n, device=device) * 2 - 1) * degrees * math.pi / 180
    x, y, z = axis.T
    zero = torch.zeros_like(x)
    K = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(n, 3, 3)
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return torch.eye(3, device=device) + sin * K + (1 - cos) * (K @ K)


def yaws(n, degrees, device):
    angle = (torch.rand(n, device=device) * 2 - 1) * degrees * math.pi / 180
    cos, sin = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    return torch.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], 1).reshape(n, 3, 3)


def warp_positions(n, warp, crop, device):  # (n,) each; to a function of u (t,)
    a = (torch.rand(n, 3, 1, device=device) * 2 - 1) * warp[:, None, None] / 3
    first = torch.rand(n, 1, device=device) * crop[:, None]
    last = 1 - torch.rand(n, 1, device=device) * crop[:, None]
    k = math.pi * torch.arange(1, 4, device=device, dtype=torch.float32)[:, None]

    def warped(u):
        return first + (last - first) * (u + (a * torch.sin(k * u) / k).sum(1))

    return warped


class Augmenter:
    "Normalised, augmented batches (s,b,t,c) of s batch sets"

    def __init__(self, data, inputs, folds, strengths, device):
        # folds (s,), strengths: list of dicts, one a batch set
        self.inputs, self.device = inputs, device
        self.x = {i: torch.tensor(data.x[i], device=device) for i in inputs}
        self.triples = {
            i: [k for k in range(0, len(data.channels[i]), 3) if data.channels[i][k] != 'n']
            for i in inputs
            if not data.is_skeleton(i)
        }
        self.y = torch.tensor(data.y, device=device)
        self.one_hot = torch.eye(data.classes, device=device)[self.y]
        self.mean, self.std = {}, {}
        for i in inputs:
            if data.is_skeleton(i):
                continue
            mean, std = [], []
            for f in folds:
                v = data.x[i][data.train[f]].reshape(-1, data.x[i].shape[-1]).astype(np.float64)
                mean.append(v.mean(0))
                std.append(np.where(v.std(0) > 1e-8, v.std(0), 1.0))
            shape = (len(folds), 1, 1, -1)
            self.mean[i] = torch.tensor(np.array(mean), dtype=torch.float32, device=device).reshape(
                shape
            )
            self.std[i] = torch.tensor(np.array(std), dtype=torch.float32, device=device).reshape(
                shape
            )
        for k in ('warp', 'crop', 'rotate', 'yaw', 'scale', 'jitter'):
            each = torch.tensor([float(s[k]) for s in strengths], device=device)
            setattr(self, k, each)
        self.mixes = torch.tensor([float(s['mixup'] > 0) for s in strengths], device=device)

    def plain(self, ids, sets):  # normalised windows, without changes: (s,b,...)
        out = []
        for i in self.inputs:
            v = self.x[i][ids]
            if i in self.mean:
                v = (v - self.mean[i][sets]) / self.std[i][sets]
            out.append(v)
        return dict(zip(self.inputs, out))

    def batch(self, ids, share, mixing):
        # ids (s,b), share (s,b) of the mixture, mixing: scalar 1 until mixing ends
        s, b = ids.shape
        n, d = s * b, self.device
        each = {
            k: getattr(self, k)[:, None].expand(s, b).reshape(-1)
            for k in ('warp', 'crop', 'rotate', 'yaw')
        }
        warped = warp_positions(n, each['warp'], each['crop'], d)
        flat = ids.reshape(-1)
        x = {}
        for i in self.inputs:
            source = self.x[i]
            t = source.shape[1]
            pos = (warped(torch.linspace(0, 1, t, device=d)) * (t - 1)).clamp(0, t - 1)
            lo = pos.floor().long()
            w = (pos - lo).reshape(n, t, *[1] * (source.ndim - 2))
            hi = (lo + 1).clamp(max=t - 1)
            v = torch.lerp(source[flat[:, None], lo], source[flat[:, None], hi], w)
            if i in self.mean:
                v = self._inertial(v, i, each['rotate'], s, b)
            else:
                R = yaws(n, each['yaw'], d)
                v = torch.einsum('bij,btkj->btki', R, v).reshape(s, b, *v.shape[1:])
            x[i] = v
        target = self.one_hot[ids]
        other = torch.rand(s, b, device=d).argsort(1)
        share = 1 - (1 - share) * self.mixes[:, None] * mixing

        def mix(v):
            w = share.reshape(s, b, *[1] * (v.ndim - 2))
            at = other.reshape(s, b, *[1] * (v.ndim - 2)).expand_as(v)
            return torch.lerp(v.gather(1, at), v, w)

        return {i: mix(v) for i, v in x.items()}, mix(target)

    def _inertial(self, v, i, degrees, s, b):
        R = rotations(len(v), degrees, self.device)
        pieces, triples = [], self.triples[i]
        for k in triples:
            pieces.append(torch.einsum('bij,btj->bti', R, v[..., k : k + 3]))
        if v.shape[-1] > 3 * len(triples):
            pieces.append(v[..., 3 * len(triples) :])
        v = torch.cat(pieces, -1).reshape(s, b, *v.shape[1:])
        gain = torch.randn(s, b, 1, v.shape[-1], device=self.device)
        v = v * (1 + self.scale[:, None, None, None] * gain)
        v = (v - self.mean[i]) / self.std[i]
        return v + self.jitter[:, None, None, None] * torch.randn(v.shape, device=self.device)


# --- order of the windows, as the loader of harkd draws them


def orders(train, y, steps, seed, balance):
    "(steps, BATCH) windows: shuffled passes, or draws with class shares n^(1 - balance)"
    rng = np.random.default_rng([seed, 17])
    need = steps * BATCH
    if balance:
        counts = np.bincount(y[train])
        p = 1.0 / counts[y[train]] ** balance
        ids = rng.choice(train, need, p=p / p.sum())
    else:
        passes = [rng.permutation(train) for _ in range(need // len(train) + 1)]
        ids = np.concatenate(passes)[:need]
    return ids.reshape(steps, BATCH)


def beta_shares(parameter, steps, seed):
    if not parameter:
        return np.ones((steps, BATCH), np.float32)
    draws = np.random.default_rng([seed, 23]).beta(parameter, parameter, (steps, BATCH))
    return np.maximum(draws, 1 - draws).astype(np.float32)


# --- training of a group

RECIPE = dict(
    warp=0.3, crop=0.08, rotate=12.0, yaw=15.0, scale=0.1, jitter=0.05, mixup=0.3,
    lr=3e-3, weight_decay=0.01, smoothing=0.1, ema=0.99, balance=0.0, alpha=0.7, temperature=3.0,
    inputs='main',
)  # fmt: skip
BATCH_KEYS = ('warp', 'crop', 'rotate', 'yaw', 'scale', 'jitter', 'mixup', 'balance', 'inputs')


class Member(namedtuple('Member', 'variant arm fold seed')):
    "One network of a group; arm: alone, same or rich (its teacher), or 'teacher'"


class Group:
    def __init__(self, data, name, inputs, members, variants, steps, teachers, device):
        # one architecture; teachers by arm: their Stack, and its row by (fold, seed)
        self.data, self.members, self.steps, self.device = data, members, steps, device
        self.recipes = [dict(RECIPE, **variants[m.variant]) for m in members]
        keys = [
            (m.fold, m.seed, *(r[k] for k in BATCH_KEYS)) for m, r in zip(members, self.recipes)
        ]
        self.sets = list(dict.fromkeys(keys))
        self.set_of = torch.tensor([self.sets.index(k) for k in keys], device=device)
        self.folds = [k[0] for k in self.sets]
        strengths = [dict(zip(BATCH_KEYS, k[2:])) for k in self.sets]
        self.spec = make_spec(data, name, inputs)
        arms = {m.arm for m in members} & set(teachers)
        self.teachers = {a: teachers[a] for a in arms}
        needed = list(
            dict.fromkeys([*inputs, *(i for a in arms for i in teachers[a][0].spec.inputs)])
        )
        self.augmenter = Augmenter(data, needed, self.folds, strengths, device)
        self.stack = Stack(self.spec, [1000 * m.fold + m.seed for m in members], device)
        self.ids = torch.tensor(
            np.stack(
                [
                    orders(data.train[k[0]], data.y, steps, 100 * k[0] + k[1], s['balance'])
                    for k, s in zip(self.sets, strengths)
                ],
                1,
            ),
            device=device,
        )
        self.shares = torch.tensor(
            np.stack(
                [
                    beta_shares(s['mixup'], steps, 100 * k[0] + k[1])
                    for k, s in zip(self.sets, strengths)
                ],
                1,
            ),
            device=device,
        )
        self.plan_teachers()
        self.schedule()

    def plan_teachers(self):
        # rows of the teacher stack for each batch set, and members of each arm
        self.arm_rows = {}
        for arm, (stack, rows) in self.teachers.items():
            of = torch.tensor([rows[k[0], k[1]] for k in self.sets], device=self.device)
            mine = [i for i, m in enumerate(self.members) if m.arm == arm]
            used = sorted({int(self.set_of[i]) for i in mine})
            used_t = torch.tensor(used, device=self.device)
            where = torch.tensor(
                [used.index(int(self.set_of[i])) for i in mine], device=self.device
            )
            flat, stats = stack.flat[of[used_t]].clone(), stack.stats[of[used_t]].clone()
            self.arm_rows[arm] = (
                stack,
                flat,
                stats,
                used_t,
                torch.tensor(mine, device=self.device),
                where,
            )

    def schedule(self):
        d, total = self.device, self.steps
        rise = max(1, round(0.15 * total))
        lr = [
            (t + 1) / rise
            if t < rise
            else 0.5 * (1 + math.cos(math.pi * (t - rise) / max(1, total - rise)))
            for t in range(total)
        ]

        def column(key):
            return torch.tensor([float(r[key]) for r in self.recipes], device=d)[:, None]

        self.lr_at = torch.tensor(lr, dtype=torch.float32, device=d)
        self.lr, self.wd = column('lr'), column('weight_decay')
        self.ema, self.smoothing = column('ema'), column('smoothing')
        alpha = column('alpha')
        taught = torch.tensor([float(m.arm in self.teachers) for m in self.members], device=d)[
            :, None
        ]
        self.alpha, self.temperature = alpha * taught, column('temperature')

    def reset(self):
        self.step_number = torch.zeros(1, dtype=torch.long, device=self.device)
        self.m, self.v = torch.zeros_like(self.stack.flat), torch.zeros_like(self.stack.flat)
        self.mean_flat, self.mean_stats = self.stack.flat.clone(), self.stack.stats.clone()
        self.loss_sum = torch.zeros(len(self.members), device=self.device)

    def teacher_logits(self, x, k):
        out = torch.zeros(len(self.members), BATCH, k, device=self.device)
        for stack, flat, stats, used, mine, where in self.arm_rows.values():
            inputs = [x[i][used] for i in stack.spec.inputs]
            logits = stack.forward(inputs, False, flat, stats)
            out = out.index_copy(0, mine, logits[where])
        return out

    def step(self):
        t = self.step_number
        ids, share = self.ids.index_select(0, t)[0], self.shares.index_select(0, t)[0]
        mixing = (t.float() / self.steps < 0.85).float()
        with torch.no_grad():
            x, target = self.augmenter.batch(ids, share, mixing)
            target = target[self.set_of]
            k = target.shape[-1]
            teacher = self.teacher_logits(x, k) if self.arm_rows else None
        flat = self.stack.flat.detach().requires_grad_(True)
        logits = self.stack.forward([x[i][self.set_of] for i in self.spec.inputs], True, flat)
        smooth = target * (1 - self.smoothing[..., None]) + self.smoothing[..., None] / k
        loss = (1 - self.alpha[:, 0]) * -(smooth * logits.log_softmax(-1)).sum(-1).mean(1)
        if teacher is not None:
            T = self.temperature[..., None]
            log_s, log_t = (logits / T).log_softmax(-1), (teacher / T).log_softmax(-1)
            kl = (log_t.exp() * (log_t - log_s)).sum(-1).mean(1)
            loss = loss + self.alpha[:, 0] * self.temperature[:, 0] ** 2 * kl
        grad = torch.autograd.grad(loss.sum(), flat)[0]
        with torch.no_grad():
            self.descend(grad, t)
            self.loss_sum.mul_(0.99).add_(loss.detach(), alpha=0.01)
            self.step_number += 1

    def descend(self, grad, t):
        grad = grad * (2.0 / (grad.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0)
        lr = self.lr * self.lr_at.index_select(0, t)
        flat, now = self.stack.flat, t.float()
        flat.mul_(1 - lr * self.wd * self.stack.decayed)
        self.m.lerp_(grad, 0.1)
        self.v.mul_(0.999).addcmul_(grad, grad, value=0.001)
        fix1, fix2 = 1 - 0.9 ** (now + 1), 1 - 0.999 ** (now + 1)
        flat.sub_(lr / fix1 * self.m / ((self.v / fix2).sqrt() + 1e-8))
        weight = 1 - torch.minimum(self.ema, (1 + now) / (10 + now))
        self.mean_flat.add_(weight * (flat - self.mean_flat))
        self.mean_stats.add_(weight * (self.stack.stats - self.mean_stats))

    def train(self, stop_at):
        "False if time ran out"
        start = self.stack.flat.clone(), self.stack.stats.clone()
        self.reset()
        done = 0
        graph = None
        if self.device.type == 'cuda' and not os.environ.get('NO_GRAPH'):
            try:
                graph = self.capture()
            except Exception:
                traceback.print_exc()
                torch.cuda.synchronize()
            self.stack.flat.copy_(start[0])
            self.stack.stats.copy_(start[1])
            self.step_number.zero_(), self.m.zero_(), self.v.zero_(), self.loss_sum.zero_()
            self.mean_flat.copy_(start[0]), self.mean_stats.copy_(start[1])
        while done < self.steps:
            graph.replay() if graph else self.step()
            done += 1
            if done % 200 == 0:
                if self.device.type == 'cuda':
                    torch.cuda.synchronize()
                if time.time() > stop_at:
                    return False
        self.stack.flat.copy_(self.mean_flat)
        self.stack.stats.copy_(self.mean_stats)
        return True

    def capture(self):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        return graph

    @torch.no_grad()
    def predict(self, part):
        "Predicted classes of every member for the windows of its fold: list of (n,)"
        ids = [getattr(self.data, part)[m.fold] for m in self.members]
        if part == 'train':
            ids = [i[:: max(1, len(i) // 1500)] for i in ids]
        longest = max(map(len, ids))
        padded = torch.tensor(np.stack([np.resize(i, longest) for i in ids]), device=self.device)
        out = []
        for a in range(0, longest, 64):
            x = self.augmenter.plain(padded[:, a : a + 64], self.set_of)
            logits = self.stack.forward([x[i] for i in self.spec.inputs], False)
            out.append(logits.argmax(-1))
        pred = torch.cat(out, 1).cpu().numpy()
        return [p[: len(i)] for p, i in zip(pred, ids)], ids


# --- MiniRocket with a ridge classifier (Dempster et al. 2021), as aeon and scikit-learn have them


def rocket_plan(length, channels, rng, kernels=10_000):
    "[(dilation, weights (84,c,9), features of a kernel)]"
    base = np.full((84, 9), -1.0)
    for k, three in enumerate(itertools.combinations(range(9), 3)):
        base[k, list(three)] = 2.0
    each = kernels // 84
    most = min(each, 32)
    exponent = np.log2((length - 1) / 8)
    dilations, counts = np.unique(
        np.logspace(0, exponent, most, base=2).astype(int), return_counts=True
    )
    counts = (counts * (each / most)).astype(int)
    for i in range(each - counts.sum()):
        counts[i % len(counts)] += 1
    plan = []
    top = np.log2(min(channels, 9) + 1)
    for d, n in zip(dilations, counts):
        mask = np.zeros((84, channels))
        for k in range(84):
            mask[k, rng.choice(channels, int(2 ** rng.uniform(0, top)), replace=False)] = 1
        plan.append((int(d), base[:, None] * mask[:, :, None], int(n)))
    return plan


def rocket_conv(x, d, weights):
    return F.conv1d(x, weights, padding=4 * d, dilation=d)


def rocket_features(x, plan, biases, device):
    out = []
    for a in range(0, len(x), 256):
        chunk, parts = x[a : a + 256], []
        for i, ((d, weights, n), bias) in enumerate(zip(plan, biases)):
            c = rocket_conv(chunk, d, weights)
            even = (torch.arange(84, device=device) + i) % 2 == 0
            inside = torch.zeros(c.shape[-1], dtype=torch.bool, device=device)
            inside[4 * d : c.shape[-1] - 4 * d] = True
            keep = (even[:, None] | inside[None]).float()
            size = keep.sum(1)
            for f in range(n):
                parts.append(((c > bias[None, :, f, None]).float() * keep).sum(-1) / size)
        out.append(torch.cat(parts, 1))
    return torch.cat(out)


def fit_ridge(x, y, classes):
    "Coefficients and intercepts by leave-one-out errors, in the dual"
    target = torch.where(F.one_hot(y, classes) > 0, 1.0, -1.0).double()
    x = x.double()
    mx, my = x.mean(0), target.mean(0)
    xc, yc = x - mx, target - my
    K = xc @ xc.T
    eye = torch.eye(len(x), dtype=torch.double, device=x.device)
    best = None
    for alpha in np.logspace(-3, 3, 10):
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(K + alpha * eye))
        c = inverse @ yc
        error = (
            (c / (inverse.diagonal()[:, None] - 1 / (len(x) * alpha)).clamp(min=1e-12)) ** 2
        ).mean()
        if best is None or error < best[0]:
            best = (error, c, alpha)
    w = xc.T @ best[1]
    return w, my - mx @ w, best[2]


def run_rocket(out, data, seeds, device, stop_at):
    x = data.x['norm']
    rows = []
    for seed in range(seeds):
        for f in range(FOLDS):
            if time.time() > stop_at:
                return
            start = time.time()
            train, val = data.train[f], data.val[f]
            flat = x[train].reshape(-1, x.shape[-1]).astype(np.float64)
            std = np.where(flat.std(0) > 1e-8, flat.std(0), 1.0)
            z = torch.tensor(
                ((x - flat.mean(0)) / std).transpose(0, 2, 1), dtype=torch.float32, device=device
            )
            rng = np.random.default_rng([seed, f, 5])
            plan = [
                (d, torch.tensor(w, dtype=torch.float32, device=device), n)
                for d, w, n in rocket_plan(z.shape[-1], z.shape[1], rng)
            ]
            golden, k, biases = (5**0.5 + 1) / 2, 1, []
            for d, weights, n in plan:
                picked = torch.tensor(rng.choice(train, 84), device=device)
                c = rocket_conv(z[picked], d, weights)[range(84), range(84)]
                q = torch.tensor(
                    ((np.arange(84 * n) + k) * golden) % 1, dtype=torch.float32, device=device
                )
                k += 84 * n
                q = q.reshape(84, n)
                biases.append(torch.stack([torch.quantile(c[j], q[j]) for j in range(84)]))
            feats = rocket_features(z, plan, biases, device)
            at, av = (torch.tensor(i, device=device) for i in (train, val))
            scale = feats[at].std(0).clamp(min=1e-6)
            feats = feats / scale
            w, b, alpha = fit_ridge(
                feats[at], torch.tensor(data.y[train], device=device), data.classes
            )
            pred = (feats[av].double() @ w + b).argmax(1).cpu().numpy()
            truth = data.y[val]
            scored = [f'{np.mean(truth == pred):.5f}', f'{macro_f1(truth, pred):.5f}', '']
            took = [f'{alpha:.4g}', f'{time.time() - start:.1f}', '']
            text = ''.join(chr(48 + int(k)) for k in pred)
            key = [data.name, 'minirocket', 'norm', 'baseline', 0, f, seed]
            rows.append([*key, *scored, *took, text])
    for name, keep in (('results', slice(None)), ('table', slice(0, -1))):
        with gzip.open(out / f'{name}.csv.gz', 'at', newline='') as file:
            csv.writer(file).writerows(r[keep] for r in rows)


# --- jobs

VARIANTS = {
    'base': {},
    'balance_half': dict(balance=0.5),
    'balance': dict(balance=1.0),
    'no_mixup': dict(mixup=0.0),
    'no_smoothing': dict(smoothing=0.0),
    'lr_1e-3': dict(lr=1e-3),
    'lr_6e-3': dict(lr=6e-3),
    'decay_0.05': dict(weight_decay=0.05),
    'ema_0.999': dict(ema=0.999),
    'rotate_30': dict(rotate=30.0),
    'plain': dict(warp=0.0, crop=0.0, rotate=0.0, scale=0.0, jitter=0.0, mixup=0.0),
    'alpha_0.9': dict(alpha=0.9),
    'alpha_0.5': dict(alpha=0.5),
    'norm': dict(inputs='norm'),
}
COLUMNS = (
    'dataset model variant arm steps fold seed accuracy macro_f1 train_accuracy loss seconds '
    'params pred'
)


def macro_f1(y, pred):
    scores = []
    for k in sorted(set(y) | set(pred)):
        tp = np.sum((y == k) & (pred == k))
        scores.append(2 * tp / max(1, np.sum(y == k) + np.sum(pred == k)))
    return float(np.mean(scores))


def write_rows(out, group, dataset, model, steps, seconds):
    pred, ids = group.predict('val')
    train_pred, train_ids = group.predict('train')
    losses = group.loss_sum.cpu().numpy()
    y = group.data.y
    rows = []
    for j, m in enumerate(group.members):
        truth = y[ids[j]]
        right = np.mean(y[train_ids[j]] == train_pred[j])
        scored = [f'{np.mean(truth == pred[j]):.5f}', f'{macro_f1(truth, pred[j]):.5f}']
        took = [f'{losses[j]:.4f}', f'{seconds:.1f}', group.stack.flat.shape[1]]
        text = ''.join(chr(48 + int(k)) for k in pred[j])
        key = [dataset, model, m.variant, m.arm, steps, m.fold, m.seed]
        rows.append([*key, *scored, f'{right:.5f}', *took, text])
    for name, keep in (('results', slice(None)), ('table', slice(0, -1))):
        with gzip.open(out / f'{name}.csv.gz', 'at', newline='') as file:
            csv.writer(file).writerows(r[keep] for r in rows)


def jobs(sets, seeds):
    "(priority, dataset, model, steps, variants, arms, seeds), in order of importance"
    everyone = ('alone', 'same', 'rich')
    tuned = tuple(v for v in VARIANTS if v not in ('base', 'norm'))
    plan = []
    plan += [(d, 'teachers', 4000, ('base',), (), seeds) for d in sets]
    plan += [(d, 'conv_20k', 4000, ('base',), everyone, seeds) for d in sets]
    plan += [(d, 'conv_80k', 4000, ('base',), everyone, seeds) for d in sets]
    plan += [(d, 'rocket', 1, ('base',), (), seeds) for d in sets]
    plan += [(d, 'conv_20k', 4000, tuned, ('alone', 'same'), 1) for d in sets]
    plan += [(d, 'conv_20k', 8000, ('base',), everyone, seeds) for d in sets]
    plan += [(d, 'conv_80k', 4000, ('norm',), ('alone', 'same'), seeds) for d in sets]
    plan += [(d, 'conv_20k', 1500, ('base',), everyone, seeds) for d in sets]
    plan += [(d, 'conv_80k', 8000, ('base',), everyone, seeds) for d in sets]
    plan += [(d, 'conv_80k', 4000, tuned, ('alone', 'same'), 1) for d in sets]
    plan += [(d, 'conv_20k', 4000, ('norm',), ('alone', 'same'), seeds) for d in sets]
    plan += [(d, 'conv_8k', 4000, ('base',), everyone, seeds) for d in sets]
    return plan


def teacher_file(out, dataset, arm):
    return out / f'teacher_{dataset}_{arm}.pt'


def run_teachers(out, data, steps, seeds, device, stop_at):
    arms = {'same': ('wide', ['main'])}
    if data.rich and data.rich != ['main']:
        arms['rich'] = ('fusion', data.rich)
    for arm, (model, inputs) in arms.items():
        start = time.time()
        members = [Member('base', 'teacher', f, s) for s in range(seeds) for f in range(FOLDS)]
        group = Group(data, model, inputs, members, VARIANTS, steps, {}, device)
        if not group.train(stop_at):
            return
        path = teacher_file(out, data.name, arm)
        torch.save(
            {'flat': group.stack.flat.cpu(), 'stats': group.stack.stats.cpu()}, f'{path}.new'
        )
        os.rename(f'{path}.new', path)
        write_rows(out, group, data.name, f'{model}:{arm}', steps, time.time() - start)


def load_teachers(out, data, seeds, device, stop_at):
    teachers = {}
    wanted = {'same': ('wide', ['main'])}
    if data.rich and data.rich != ['main']:
        wanted['rich'] = ('fusion', data.rich)
    for arm, (model, inputs) in wanted.items():
        path = teacher_file(out, data.name, arm)
        while not path.exists():
            if time.time() > stop_at:
                return None
            time.sleep(0.3)
        saved = torch.load(path, map_location=device)
        stack = Stack(make_spec(data, model, inputs), [0], device)
        stack.flat, stack.stats = saved['flat'], saved['stats']
        order = [(f, s) for s in range(seeds) for f in range(FOLDS)]
        teachers[arm] = (stack, {key: i for i, key in enumerate(order)})
    return teachers


def run_job(out, data, job, all_seeds, device, stop_at):
    dataset, model, steps, variants, arms, seeds = job
    if model == 'rocket':
        return run_rocket(out, data, seeds, device, stop_at)
    if model == 'teachers':
        return run_teachers(out, data, steps, seeds, device, stop_at)
    teachers = load_teachers(out, data, all_seeds, device, stop_at)
    if teachers is None:
        return
    start = time.time()
    members = [
        Member(v, a, f, s)
        for v in variants
        for a in arms
        if a == 'alone' or a in teachers
        if not (v.startswith('alpha') and a == 'alone')
        for s in range(seeds)
        for f in range(FOLDS)
    ]
    inputs = [dict(RECIPE, **VARIANTS[variants[0]])['inputs']]
    group = Group(data, model, inputs, members, VARIANTS, steps, teachers, device)
    if group.train(stop_at):
        write_rows(out, group, dataset, model, steps, time.time() - start)


def worker(number, source, out, plan, all_seeds, device, stop_at, counter, lock):
    torch.set_num_threads(1)
    if device == 'cuda':
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    device = torch.device(device)
    folder = out / f'part{number}'
    folder.mkdir(exist_ok=True)
    loaded = {}
    while time.time() < stop_at:
        with lock:
            i = counter.value
            counter.value += 1
        if i >= len(plan):
            break
        job, start = plan[i], time.time()
        try:
            data = loaded.setdefault(job[0], None) or Data(source, job[0])
            loaded[job[0]] = data
            run_job(FolderView(out, folder), data, job, all_seeds, device, stop_at)
        except Exception:
            traceback.print_exc()
        print(f'{number}: {job[:3]} {time.time() - start:.1f} s', flush=True)


class FolderView:
    "Result rows into the worker's own folder, teachers into the common one"

    def __init__(self, common, own):
        self.common, self.own = common, own

    def __truediv__(self, name):
        return (self.common if name.startswith('teacher_') else self.own) / name


def collect(out):
    "One table of all rows, and one without the predictions; both stay below the limit"
    for name in ('results', 'table'):
        parts = sorted(out.glob(f'part*/{name}.csv.gz'))
        with gzip.open(out / f'{name}.csv.gz', 'wt', newline='') as file:
            columns = COLUMNS.split()[: None if name == 'results' else -1]
            file.write(','.join(columns) + '\n')
            for part in parts:
                try:
                    with gzip.open(part, 'rt') as source:
                        for line in source:
                            file.write(line)
                except (EOFError, OSError, zlib.error):
                    pass


# --- tables

REPEATS = 10_000  # Of the bootstrap over subjects


def by_subject(data, rows):
    "(subjects,) macro-F1 of the predictions for each subject, the mean over seeds, in percent"
    found = {}
    for row in rows.itertuples():
        ids = data.val[row.fold]
        pred = np.frombuffer(row.pred.encode(), np.uint8) - 48
        for subject in np.unique(data.subject[ids]):
            own = data.subject[ids] == subject
            score = 100 * macro_f1(data.y[ids][own], pred[own])
            found.setdefault(subject, []).append(score)
    return np.array([np.mean(found[subject]) for subject in sorted(found)])


def against_minirocket(data, rows):
    "A row for each student and arm: difference to MiniRocket over subjects"
    rocket = rows[rows.model == 'minirocket']
    base = by_subject(data, rocket)
    out = []
    for (model, arm), own in rows[rows.model != 'minirocket'].groupby(['model', 'arm'], sort=False):
        difference = by_subject(data, own) - base
        drawn = np.random.default_rng(0).choice(difference, (REPEATS, len(difference)))
        low, high = np.percentile(drawn.mean(1), [2.5, 97.5])
        out.append(
            dict(
                dataset=data.name,
                model=model,
                arm=arm,
                subjects=len(difference),
                seeds=own.seed.nunique(),
                macro_f1=100 * own.macro_f1.mean(),
                minirocket_macro_f1=100 * rocket.macro_f1.mean(),
                accuracy=100 * own.accuracy.mean(),
                minirocket_accuracy=100 * rocket.accuracy.mean(),
                difference=difference.mean(),
                low=low,
                high=high,
                p_subjects=sign_flip_test(difference),
                better=int((difference > 0).sum()),
                worse=int((difference < 0).sum()),
            )
        )
    return out


def write_tables(folder, out):
    rows = pd.read_csv(out / 'results.csv.gz', dtype={'pred': str})
    target = results_dir() / 'development'
    sets = {name: Data(folder, name) for name in dict.fromkeys(rows.dataset)}
    against = [
        row for n, d in sets.items() for row in against_minirocket(d, rows[rows.dataset == n])
    ]
    pd.DataFrame(against).to_csv(
        target / 'default_against_minirocket.csv', index=False, float_format='%.4g'
    )
    rows['data_hash'] = rows.dataset.map({name: d.hash for name, d in sets.items()})
    rows = rows.drop(columns=['pred', 'seconds', 'loss'])
    rows.to_csv(target / 'default_choice.csv', index=False)


def train_all(a):
    stop_at = time.time() + a.seconds
    a.out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix='default-'))
    plan = jobs(a.sets.split(','), a.seeds)
    context = torch.multiprocessing.get_context('spawn')
    counter, lock = context.Value('i', 0), context.Lock()
    args = (a.folder, work, plan, a.seeds, a.device, stop_at - 8, counter, lock)
    workers = [context.Process(target=worker, args=(i, *args)) for i in range(a.procs)]
    for w in workers:
        w.start()
    last = time.time()
    while any(w.is_alive() for w in workers) and time.time() < stop_at:
        time.sleep(1)
        if time.time() - last > 15:  # a kill loses at most the newest rows
            publish(work, a.out)
            last = time.time()
    for w in workers:
        if w.is_alive():
            w.kill()
    publish(work, a.out)


def publish(work, out):
    collect(work)
    for name in ('results', 'table'):
        path = work / f'{name}.csv.gz'
        if path.exists() and path.stat().st_size < 16e6:
            shutil.move(path, out / f'{name}.csv.gz')


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('what', choices=('pack', 'train', 'table'))
    p.add_argument('folder', type=Path, help='of the packed sets')
    p.add_argument('out', type=Path, nargs='?', help='folder of results.csv.gz')
    p.add_argument('--procs', type=int, default=5)
    p.add_argument('--seconds', type=float, default=420)
    p.add_argument('--device', default='cuda')
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--sets', default=','.join(SETS))
    a = p.parse_args()
    if a.what == 'pack':
        for name in a.sets.split(','):
            pack(a.folder, name)
    elif a.what == 'train':
        train_all(a)
    else:
        write_tables(a.folder, a.out)


if __name__ == '__main__':
    main()
