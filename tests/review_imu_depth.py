"""IMU and depth on UTD-MHAD, official split, once more from the raw files, without harkd.

    HARKD_DATA=… python tests/review_imu_depth.py > nbs/results/video/utd_imu_depth_review.json

It looks for what could explain a high figure other than the two sensors: subjects, files, frames or
samples that are in both parts, trials of both parts that are nearly equal, labels that leak, and
depth videos that help without belonging to the trial."""

import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np
import scipy.io
from aeon.transformations.collection.convolution_based import MiniRocket
from sklearn.linear_model import Ridge, RidgeClassifierCV
from sklearn.preprocessing import StandardScaler

SECTIONS, SIDE, CELLS, SAMPLES = (1, 2, 4), 24, 6, 64


def read_trials(root):
    "Action, subject, IMU (t,6) and depth (t,h,w) of all trials"
    trials = []
    for file in sorted((root / 'utd_mhad/Inertial').glob('*.mat')):
        action, subject = map(int, re.match(r'a(\d+)_s(\d+)_t\d+_', file.name).groups())
        video = root / 'utd_mhad_small/Depth' / file.name.replace('inertial', 'depth')
        imu = scipy.io.loadmat(file)['d_iner']
        depth = scipy.io.loadmat(video)['d_depth'].transpose(2, 0, 1)
        trials.append((action - 1, subject, imu, depth))
    return trials


def count_shared(pieces, train):
    "Contents that occur in the training and in the test part"
    parts = {}
    for i, piece in pieces:
        digest = hashlib.sha256(np.ascontiguousarray(piece).tobytes()).hexdigest()
        parts.setdefault(digest, set()).add(bool(train[i]))
    return sum(len(found) > 1 for found in parts.values())


def resample(x, n):  # (t,c) to (n,c)
    at = np.linspace(0, len(x) - 1, n)
    return np.stack([np.interp(at, np.arange(len(x)), column) for column in x.T], 1)


def imu_windows(trials, train):  # (n,8,160), by the training part's mean and deviation
    x = np.stack([resample(imu, 160) for _, _, imu, _ in trials]).transpose(0, 2, 1)
    norms = [np.linalg.norm(x[:, k : k + 3], axis=1) for k in (0, 3)]
    x = np.concatenate([x, np.stack(norms, 1)], 1)
    of_train = x[train]
    return (x - of_train.mean((0, 2), keepdims=True)) / of_train.std((0, 2), keepdims=True)


def projections(depth):
    ever = (depth > 0).any(0)
    rows, columns = np.flatnonzero(ever.any(1)), np.flatnonzero(ever.any(0))
    v = depth[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(float)
    place = (v - np.median(v[v > 0]) + 800) / 1600
    z = (place * 32).astype(int).clip(0, 31)
    side = np.zeros((*v.shape[:2], 32))
    top = np.zeros((len(v), 32, v.shape[2]))
    for t in range(len(v)):
        i, j = np.nonzero(v[t])
        np.add.at(side[t], (i, z[t, i, j]), 1)
        np.add.at(top[t], (z[t, i, j], j), 1)
    front = np.where(v > 0, 1 - place.clip(0, 1) / 2, 0)
    return front, np.minimum(side, 8) / 8, np.minimum(top, 8) / 8


def shrink(x, n):  # means over an n×n grid of the last two axes
    for axis in (-2, -1):
        length = x.shape[axis]
        edges = [(k * length // n, -(-(k + 1) * length // n)) for k in range(n)]
        x = np.stack([x.take(range(a, max(b, a + 1)), axis).mean(axis) for a, b in edges], axis)
    return x


def cuts(front, parts):
    motion = np.abs(np.diff(front, axis=0)).sum((1, 2)).cumsum()
    cut = np.searchsorted(motion / motion[-1], np.linspace(0, 1, parts + 1))
    cut[-1] = len(motion)
    starts = np.minimum(cut[:-1], len(motion) - 1)
    return list(zip(starts, np.maximum(cut[1:], starts + 1)))


def motion_maps(views):
    maps = []
    sections = [pair for parts in SECTIONS for pair in cuts(views[0], parts)]
    for view in views:
        change = np.diff(view, axis=0)
        for first, last in sections:
            for sign in (1, -1):
                total = np.maximum(sign * change[first:last], 0).sum(0)
                flat = np.sqrt(shrink(total, SIDE)).ravel()
                maps.append(flat / (np.linalg.norm(flat) + 1e-6))
    return np.concatenate(maps)


def grid_series(views):  # (108,64), each row with mean 0
    cells = np.concatenate([np.sqrt(shrink(v, CELLS)).reshape(len(v), -1) for v in views], 1)
    series = resample(cells, SAMPLES).T
    return series - series.mean(1, keepdims=True)


def ridge(x, labels, train):
    model = Ridge(alpha=0.3, solver='cholesky').fit(x[train], np.eye(27)[labels[train]])
    return model.predict(x[~train])


def rocket(x, labels, train):
    transform = MiniRocket(n_kernels=10_000, random_state=0).fit(x[train])
    features = np.asarray(transform.transform(x))
    scale = StandardScaler(with_mean=False).fit(features[train])
    model = RidgeClassifierCV(alphas=np.logspace(1, 5, 9))
    model.fit(scale.transform(features[train]), labels[train])
    return model.decision_function(scale.transform(features[~train]))


def average(*scores):
    standard = [(s - s.mean(1, keepdims=True)) / s.std(1, keepdims=True) for s in scores]
    return sum(standard) / len(standard)


def nearest(a, b, same=False):  # mean squared distance to the nearest, in variances
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    if same:
        np.fill_diagonal(squares, np.inf)
    found = squares.min(1) / a.shape[1]
    return {'smallest': float(found.min()), 'median': float(np.median(found))}


def all_scores(imu, maps, grids, labels, train):
    depth = average(ridge(maps, labels, train), rocket(grids, labels, train))
    by_imu = rocket(imu, labels, train)
    return by_imu, depth, average(by_imu, depth)


def other_trial(y, rng, same_action):
    "For each test trial the number of another one, of the same action if asked for"
    if not same_action:
        return rng.permutation(len(y))
    order = np.arange(len(y))
    for k in range(27):
        of_class = np.flatnonzero(y == k)
        order[of_class] = np.roll(of_class, 5)  # the next subject's, mostly
    return order


def main():
    trials = read_trials(Path(os.environ['HARKD_DATA']))
    labels = np.array([t[0] for t in trials])
    subjects = np.array([t[1] for t in trials])
    train = np.isin(subjects, (1, 3, 5, 7))
    y, rng = labels[~train], np.random.default_rng(0)
    frames = ((i, f) for i, t in enumerate(trials) for f in t[3] if f.any())
    samples = ((i, row) for i, t in enumerate(trials) for row in t[2])
    found = {
        'trials': [int(train.sum()), int((~train).sum())],
        'subjects in both parts': len(set(subjects[train]) & set(subjects[~train])),
        'depth frames in both parts': count_shared(frames, train),
        'IMU samples in both parts': count_shared(samples, train),
    }
    imu = imu_windows(trials, train)
    found['nearest training trial of a test trial'] = nearest(imu[~train], imu[train])
    found['nearest other training trial'] = nearest(imu[train], imu[train], same=True)
    views = [projections(t[3]) for t in trials]
    maps = np.stack([motion_maps(v) for v in views])
    grids = np.stack([grid_series(v) for v in views])
    by_imu, depth, both = all_scores(imu, maps, grids, labels, train)
    wrong_imu, wrong_depth = by_imu.argmax(1) != y, depth.argmax(1) != y
    shuffled = labels.copy()
    shuffled[train] = rng.permutation(shuffled[train])
    chance = all_scores(imu, maps, grids, shuffled, train)[2]
    any_other, same = (other_trial(y, rng, flag) for flag in (False, True))
    accuracy = {
        'IMU': by_imu,
        'depth': depth,
        'IMU and depth': both,
        'IMU, and depth of any other test trial': average(by_imu, depth[any_other]),
        'IMU, and depth of another trial of the same action': average(by_imu, depth[same]),
        'trained on shuffled labels': chance,
    }
    found['accuracy'] = {k: round(float((s.argmax(1) == y).mean()), 4) for k, s in accuracy.items()}
    found['wrong'] = {
        'by IMU': int(wrong_imu.sum()),
        'by depth': int(wrong_depth.sum()),
        'by both': int((wrong_imu & wrong_depth).sum()),
        'if independent': round(float(wrong_imu.mean() * wrong_depth.sum()), 1),
    }
    print(json.dumps(found, indent=1))


if __name__ == '__main__':
    main()
