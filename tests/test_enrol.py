"A new user's windows and a personal classifier (chapter 06c)"

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from harkd.enrol import (
    METHODS,
    EnrolConfig,
    PersonalClassifier,
    draw_windows,
    enrol,
    enrol_marks,
    enrolment_split,
    enrolment_table,
    personal_scores,
)
from harkd.marks import Mark
from harkd.preprocess import cut_windows
from harkd.runs import DamagedFile
from harkd.synth import synth_dataset


def blobs(rng, shift=0.0, n=20):
    centres = np.array([[0.0, 0, 0], [5, 0, 0], [0, 5, 0]]) + shift
    z = np.repeat(centres, n, 0) + 0.5 * rng.normal(size=(3 * n, 3))
    return z, np.repeat(['sit', 'walk', 'jump'], n).tolist()


@pytest.mark.parametrize('method', METHODS)
def test_a_user_whose_features_are_shifted_is_learned(method):
    rng = np.random.default_rng(0)
    others, mine = blobs(rng), blobs(rng, shift=2.5)
    ids = [0, 1, 2, 20, 21, 22, 40, 41, 42]
    z, labels = mine[0][ids], [mine[1][k] for k in ids]
    personal = enrol(z, labels, method, others, prior=1.0)
    right = np.mean(np.array(personal(mine[0])) == mine[1])
    assert right > 0.95
    generic = enrol(others[0], others[1], method)
    assert np.mean(np.array(generic(mine[0])) == mine[1]) < right


def test_scores_are_those_of_the_nearest_prototype():
    rng = np.random.default_rng(1)
    z, labels = blobs(rng)
    personal = enrol(z, labels)
    scaled = (z - z.mean(0)) / (z.std(0) + 1e-6)
    centres = np.stack([scaled[np.array(labels) == n].mean(0) for n in personal.labels])
    distance = ((scaled[:, None] - centres) ** 2).sum(2)
    assert personal(z) == [personal.labels[k] for k in distance.argmin(1)]


def test_the_prior_counts_as_that_many_windows():
    others = (np.array([[0.0], [2.0], [10.0], [12.0]]), ['a', 'a', 'b', 'b'])
    mine = np.array([[4.0]])
    none = enrol(mine, ['a'], others=others, prior=0.0)
    half = enrol(mine, ['a'], others=others, prior=1.0)
    assert none.labels == ('a', 'b') and torch.isfinite(none.weight).all()
    std, mean = np.std([0, 2, 10, 12]) + 1e-6, 6.0
    assert float(none.weight[0, 0]) * std**1 == pytest.approx((4.0 - mean) / std, rel=1e-4)
    assert float(half.weight[0, 0]) * std**1 == pytest.approx((2.5 - mean) / std, rel=1e-4)


@pytest.mark.parametrize('method', METHODS)
def test_a_saved_classifier_is_the_same_and_small(method, tmp_path):
    z, labels = blobs(np.random.default_rng(2))
    personal = enrol(z, labels, method, source='conv_20k of runs/x')
    path = personal.save(tmp_path / 'anna.safetensors')
    again = PersonalClassifier.load(path)
    assert np.array_equal(again.scores(z), personal.scores(z))
    assert again.labels == personal.labels and again.about == personal.about
    assert path.stat().st_size < 4096


def test_a_damaged_file_is_named(tmp_path):
    z, labels = blobs(np.random.default_rng(3))
    path = enrol(z, labels).save(tmp_path / 'anna.safetensors')
    whole = path.read_bytes()
    for damaged in (whole[:-3], whole[:60] + b'x' + whole[61:]):
        path.write_bytes(damaged)
        with pytest.raises(DamagedFile, match='anna.safetensors'):
            PersonalClassifier.load(path)


@pytest.mark.parametrize(
    ('z', 'labels', 'method', 'says'),
    [
        (np.zeros((2, 3)), ['a'], 'prototype', '2 windows but 1 labels'),
        (np.zeros((0, 3)), [], 'prototype', 'both must be > 0'),
        (np.full((1, 3), np.nan), ['a'], 'prototype', 'NaN'),
        (np.zeros((1, 3)), ['a'], 'magic', "unknown method 'magic'"),
        (np.zeros((2, 3)), ['a', 'a'], 'linear', 'needs two classes'),
    ],
)
def test_what_cannot_be_enrolled_is_refused(z, labels, method, says):
    with pytest.raises(ValueError, match=says):
        enrol(z, labels, method)


@pytest.fixture(scope='module')
def windows():
    data = synth_dataset(4, 4)
    return cut_windows(data, ('imu',), whole=False, window_s=1.0, stride_s=1.0)


def test_enrolled_and_tested_windows_are_apart(windows):
    pool, test = enrolment_split(windows.table, 's2')
    assert not set(pool) & set(test)
    assert set(windows.table.subject[np.r_[pool, test]]) == {'s2'}
    table = windows.table
    for label in set(table.label[pool]):
        here = [table.loc[i][table.label[i] == label] for i in (pool, test)]
        last = max(zip(here[0].recording, here[0].start))
        first = min(zip(here[1].recording, here[1].start))
        assert last < first


def test_k_windows_of_each_class_are_drawn(windows):
    pool, _ = enrolment_split(windows.table, 's2')
    for k in (1, 2):
        ids = draw_windows(pool, windows.y, k, seed=3)
        assert set(ids) <= set(pool)
        assert set(np.bincount(windows.y[ids])) <= {0, *range(1, k + 1)}
        assert np.array_equal(ids, draw_windows(pool, windows.y, k, seed=3))


def test_no_window_of_the_test_reaches_the_classifier(windows):
    "Enrolment refuses NaN: with NaN in all windows of the test it must still succeed"
    cfg = EnrolConfig('synth', ks='2,8', draws=3)
    z = np.random.default_rng(4).normal(size=(len(windows), 5)) + windows.y[:, None]
    trained = (windows.table.subject != 's2').to_numpy()
    pool, test = enrolment_split(windows.table, 's2')
    hidden = z.copy()
    hidden[test] = np.nan
    base = np.zeros(len(windows), int)
    rows = personal_scores(cfg, windows, 's2', {'student': hidden}, base, trained)
    assert len(rows) == 1 + 2 * 3 * 2
    hidden[pool] = np.nan
    with pytest.raises(ValueError, match='NaN'):
        personal_scores(cfg, windows, 's2', {'student': hidden}, base, trained)


@pytest.mark.parametrize(
    'lengths, longest', [((0.4, 0.9), '2 marks, .* 0.90'), ((), '0 marks, .* 0.00')]
)
def test_marks_that_are_shorter_than_a_window_are_refused(windows, lengths, longest):
    recording = windows.table.recording.iloc[0]
    marks = [Mark(recording, 0.1, 0.1 + length, 'sit') for length in lengths]
    with pytest.raises(ValueError, match=f'inside of {longest} s; a window lasts 0.98 s'):
        enrol_marks(None, SimpleNamespace(windows=windows), marks)


def test_the_table_shows_gains_over_subjects():
    rows = [
        {'subject': s, 'arm': arm, 'k': k, 'draw': 0, 'macro_f1': f1}
        for s, add in (('a', 0.0), ('b', 0.1), ('c', 0.2))
        for arm, k, f1 in (('student', 0, 0.5 + add), ('student prototype', 1, 0.6 + add))
    ]
    table = enrolment_table(pd.DataFrame(rows))
    assert table.loc['student features, prototypes', 'gain k=1'].startswith('10.0 ± 0.0')


def test_scores_refuse_features_of_another_width():
    personal = PersonalClassifier(('a',), torch.zeros(1, 4), torch.zeros(1), {'features': 'x'})
    with pytest.raises(ValueError, match='features of width 3, enrolled were 4: use x'):
        personal.scores(np.zeros((2, 3)))
