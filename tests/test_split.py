"Splits and batches: every leak is found, every batch can be drawn again (chapter 01b)"

import pickle
from dataclasses import replace
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harkd.augment import Augment
from harkd.data import load_dataset
from harkd.preprocess import Normalizer, cut_windows
from harkd.split import (
    BatchLoader,
    LeakError,
    LeakySplit,
    Split,
    _equal_windows,
    by_subject,
    dev_loso_splits,
    find_leaks,
    kfold_splits,
    leaky_split,
    loso_splits,
    official_split,
    step_seed,
)
from harkd.synth import synth_dataset
from tests.conftest import data

FOUR = pd.DataFrame(
    {
        'recording': [0, 0, 1, 2],
        'subject': ['s1', 's1', 's1', 's2'],
        'group': ['', '', '', ''],
        'start': [0.0, 0.5, 0.0, 0.0],
        'stop': [1.0, 1.5, 1.0, 1.0],
    }
)


@pytest.mark.parametrize(
    'train, test, changes, leaks',
    [
        ([0, 1, 2], [3], {}, {}),
        ([0, 1], [2], {}, {'subject': 3}),
        ([0], [1], {}, {'subject': 2, 'recording': 2, 'samples': 2}),
        ([0], [3], {'group': ['v1', '', '', 'v1']}, {'group': 2}),
        ([0], [1], {'subject': None}, {'recording': 2, 'samples': 2}),
        ([0, 3], [3, 1], {}, {'window': 1, 'subject': 2, 'recording': 2, 'samples': 2}),
    ],
)
def test_each_way_to_leak_is_counted(train, test, changes, leaks):
    parts = {'train': np.array(train), 'test': np.array(test)}
    assert find_leaks(FOUR.assign(**changes), parts) == leaks


@pytest.fixture(scope='module')
def windows():
    return cut_windows(synth_dataset(4, 1), ('imu',))


@pytest.fixture(scope='module')
def split(windows):
    return by_subject(windows, ['s1', 's2'], ['s3'], ['s4'])


def test_named_subjects_are_in_their_parts(windows, split):
    subjects = {part: split.subjects(part) for part in ('train', 'val', 'test')}
    assert subjects == {'train': ['s1', 's2'], 'val': ['s3'], 'test': ['s4']}
    assert sum(map(len, split.parts.values())) == len(windows)


def test_every_subject_is_held_out_once(windows):
    loso = [(fold.fold, len(fold.train), len(fold.test)) for fold in loso_splits(windows)]
    assert loso == [(f's{i}', 18, 6) for i in (1, 2, 3, 4)]
    assert [f.subjects('val') for f in kfold_splits(windows, 2)] == [['s1', 's3'], ['s2', 's4']]
    held_out = np.concatenate([fold.test for fold in kfold_splits(windows, 3, 'test')])
    assert sorted(held_out) == list(range(len(windows)))
    assert not any(len(fold.test) for fold in dev_loso_splits(windows))


def test_a_leaky_split_cannot_be_made(windows, split):
    with pytest.raises(LeakError, match=r'share a window \(6 windows\)'):
        Split(windows, split.train, split.train[:6], split.test, 'mine')
    with pytest.raises(LeakError, match='a subject'):
        Split(windows, split.train[::2], split.train[1::2], split.test, 'mine')
    one_video = replace(windows, table=windows.table.assign(group='one video'))
    with pytest.raises(LeakError, match='train, val and test share a group'):
        Split(one_video, split.train, split.val, split.test, 'mine')


def test_wrong_calls_are_explained(windows, split):
    no_wave = split.train[windows.y[split.train] != 0]
    with pytest.raises(ValueError, match='no training window of wave'):
        Split(windows, no_wave, split.val, split.test, 'mine')
    with pytest.raises(ValueError, match="no windows of subject 's9', only of: s1, s2, s3, s4"):
        by_subject(windows, ['s9'])
    with pytest.raises(ValueError, match="'synth' has no published split"):
        official_split(windows)
    with pytest.raises(ValueError, match='k must be between 2 and the 4 subjects, got 5'):
        kfold_splits(windows, 5)
    with pytest.raises(ValueError, match="unknown kind 'random'"):
        leaky_split(windows, 'random')


def test_the_published_split_of_utd_mhad_and_its_development_folds():
    data('utd_mhad')
    utd = cut_windows(load_dataset('utd_mhad', streams=('imu',)), ('imu',))
    official = official_split(utd)
    assert (len(official.train), len(official.test)) == (431, 430)
    development = dev_loso_splits(utd)
    assert [fold.fold for fold in development] == ['s1', 's3', 's5', 's7']
    used = {s for fold in development for part in ('train', 'val') for s in fold.subjects(part)}
    assert not used & set(utd.card.test_subjects)


def test_only_the_published_split_is_possible_without_subjects():
    uci = cut_windows(load_dataset('uci_har', data('uci_har_partial')), ('imu',))
    sizes = {part: len(ids) for part, ids in official_split(uci).parts.items()}
    assert sizes == {'train': 2400, 'test': 950}
    with pytest.raises(ValueError, match='names no subjects; only the official split'):
        loso_splits(uci)


def test_leaky_splits_leak_what_their_kind_says():
    half = cut_windows(synth_dataset(3, 4), ('imu',), whole=False, window_s=1.0, stride_s=0.5)
    kinds = ('random_windows', 'random_trials', 'subject_trials')
    leaks = {kind: find_leaks(half.table, leaky_split(half, kind).parts) for kind in kinds}
    assert 'samples' in leaks['random_windows']
    assert 'samples' not in leaks['random_trials']
    assert 'subject' in leaks['subject_trials']
    trials = leaky_split(half, 'subject_trials')
    number = half.table.id.str[-1].astype(int)
    assert set(number.iloc[trials.train]) == {1, 2} and set(number.iloc[trials.test]) == {3, 4}
    assert isinstance(trials, LeakySplit)
    assert LeakySplit.warning == 'test subjects were trained on'


@pytest.fixture
def loader(split):
    return BatchLoader.fit(split, batch_size=5, augment=Augment(warp=0.2, jitter=0.1), seed=3)


def test_an_epoch_has_every_training_window_once(loader, split):
    ids = [loader.ids(0, step) for step in range(loader.steps)]
    assert [len(i) for i in ids] == [5, 5, 2]
    assert sorted(np.concatenate(ids)) == list(split.train)
    assert len(replace(loader, batch_size=11).ids(0, 0)) == 12, 'no batch of a single window'


def test_a_batch_depends_on_seed_epoch_and_step_alone(loader):
    first, other, again = loader.train(2, 1), loader.train(3, 1), loader.train(2, 1)
    assert torch.equal(first.x['imu'], again.x['imu'])
    assert (first.ids != other.ids).any()


def drawn_afresh(loader, epoch, step):
    "What `ids` is defined to be, without anything kept between calls"
    rng = np.random.default_rng(step_seed(loader.seed, epoch))
    order = rng.permutation(loader.split.train)
    start, stop = step * loader.batch_size, (step + 1) * loader.batch_size
    return order[start : None if step == loader.steps - 1 else stop].tolist()


def test_the_kept_order_of_an_epoch_is_the_one_drawn_afresh(loader):
    for epoch in (0, 1, 0, 7):
        for step in (2, 0, 1):
            assert loader.ids(epoch, step).tolist() == drawn_afresh(loader, epoch, step)
    assert list(loader._order) == [7], 'the order of one epoch is kept'


def test_an_epoch_is_shuffled_once(loader, monkeypatch):
    drawn = []
    default_rng = np.random.default_rng
    monkeypatch.setattr(
        'harkd.split.np.random.default_rng', lambda seed: drawn.append(seed) or default_rng(seed)
    )
    for step in range(loader.steps):
        loader.ids(0, step)
    assert len(drawn) == 1


def test_changing_a_batch_of_ids_does_not_change_later_batches(loader):
    expected = loader.ids(0, 0).tolist()
    loader.ids(0, 0)[:] = -1
    assert loader.ids(0, 0).tolist() == expected


def test_a_changed_copy_draws_its_own_order(loader):
    loader.ids(0, 0)
    other = replace(loader, seed=4)
    assert other.ids(0, 0).tolist() == drawn_afresh(other, 0, 0)
    assert other.ids(0, 0).tolist() != loader.ids(0, 0).tolist()


def test_other_processes_draw_the_same_batches(loader):
    loader.ids(5, 1)
    copy = pickle.loads(pickle.dumps(loader))
    assert copy._order == {} and loader._order
    assert copy.ids(5, 1).tolist() == loader.ids(5, 1).tolist()
    ids = joblib.Parallel(n_jobs=2)(joblib.delayed(loader.ids)(e, 1) for e in (5, 6))
    assert [i.tolist() for i in ids] == [drawn_afresh(loader, e, 1) for e in (5, 6)]


def test_processes_share_a_batch_without_overlap(loader):
    halves = [loader.train(2, 1, rank=rank, world=2).ids.tolist() for rank in (0, 1)]
    assert sorted(sum(halves, [])) == sorted(loader.train(2, 1).ids.tolist())


@pytest.mark.parametrize('rank, key', [(0, (3, 2, 1)), (1, (3, 2, 1, 1))])
def test_a_process_draws_its_changes_by_seed_epoch_step_and_its_number(loader, rank, key):
    "The first process draws those of a training without others"
    batch = loader.train(2, 1, epochs=4, rank=rank, world=2)
    generator = torch.Generator().manual_seed(step_seed(*key))
    ids, progress = loader.ids(2, 1)[rank::2], (2 + 1 / 3) / 4
    drawn = loader.augment.windows(loader.split.windows, ids, loader.norm, generator, progress)
    assert torch.equal(batch.x['imu'], drawn.x['imu'])
    assert not torch.equal(batch.x['imu'], loader.norm(loader.split.windows.batch(ids)).x['imu'])


def test_statistics_come_from_the_training_part_and_evaluation_keeps_the_order(loader, split):
    windows = split.windows
    assert loader.norm == Normalizer.fit(windows, split.train)
    assert loader.norm != Normalizer.fit(windows, np.r_[split.train, split.val])
    batch = next(loader.eval_batches(split.val))
    assert batch.ids.tolist() == split.val.tolist()


def test_seeds_of_nearby_steps_are_distinct():
    assert (
        len({step_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}) == 1000
    )


def test_statistics_of_many_windows_stream(monkeypatch):
    "A part of the windows at a time gives the same normaliser"
    windows = cut_windows(synth_dataset(3, 4), ('imu', 'skeleton'))
    ids = np.arange(len(windows))
    at_once = Normalizer.fit(windows, ids)
    monkeypatch.setattr('harkd.preprocess._AT_ONCE', 64)
    streamed = Normalizer.fit(windows, ids)
    assert streamed.fitted_on == at_once.fitted_on
    for name in at_once.mean:
        np.testing.assert_allclose(streamed.mean[name], at_once.mean[name], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(streamed.std[name], at_once.std[name], rtol=1e-9)


@given(sizes=st.lists(st.integers(1, 30), min_size=3, max_size=9))
@settings(max_examples=60, deadline=None)
def test_two_folds_of_equal_windows_cannot_be_bettered_by_one_exchange(sizes):
    "Whether a team moves, or two change places"
    teams = [[f's{i}'] for i in range(len(sizes))]
    subjects = np.repeat([t[0] for t in teams], sizes)
    folds = _equal_windows(teams, SimpleNamespace(table=pd.DataFrame({'subject': subjects})), 2)
    assert sorted(sum(folds, [])) == [t[0] for t in teams]
    small, large = sorted(([sizes[int(s[1:])] for s in fold] for fold in folds), key=sum)
    gap = sum(large) - sum(small)
    moved = [a - b for a in large for b in ([*small, 0] if len(large) > 1 else small)]
    assert all(abs(gap - 2 * by) >= gap for by in moved)
