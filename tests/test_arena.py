"WHAR Arena's protocol on the real recordings"

import numpy as np
import pytest

from harkd.arena import (
    ArenaConfig,
    _class_weights,
    arena_macro_f1,
    arena_splits,
    arena_table,
    arena_windows,
    early_stopping_windows,
    run_arena,
)
from tests.conftest import data


@pytest.fixture(scope='module')
def utd():
    return arena_windows(ArenaConfig('utd_mhad', data_root=str(data('utd_mhad')), window_s=3.0))


def test_trials_that_are_shorter_than_a_window_and_a_sample_are_left_out(utd):
    "861 trials, 174 of them too short: as the benchmark's loader counts them"
    assert utd.table.id.nunique() == 861 - 174
    assert set(utd.length.values()) == {150}
    span = utd.table.stop - utd.table.start
    assert np.allclose(span, 149 / 50)


def test_each_subject_of_utd_mhad_is_a_group_and_early_stopping_sees_none_of_it(utd):
    splits = arena_splits(utd)
    assert [s.subjects('test') for s in splits] == [[f's{k}'] for k in range(1, 9)]
    for split in splits:
        kept = early_stopping_windows(split)
        trained = len(split.train) / (len(split.train) + len(kept))
        assert trained == pytest.approx(0.8, abs=0.01)
        assert not set(utd.table.subject.iloc[kept]) & set(split.subjects('test'))


def test_ten_groups_take_subjects_in_turn():
    windows = arena_windows(ArenaConfig('synth', window_s=0.5))
    first, second, third = arena_splits(windows, groups=3)
    assert windows.table.index.tolist() == list(range(len(windows)))
    assert 'index' not in windows.table
    names = sorted(windows.table.subject.unique())
    assert first.subjects('test') == names[0::3]
    assert second.subjects('test') == names[1::3]
    assert third.subjects('test') == names[2::3]


def test_a_class_that_is_nowhere_counts_as_zero():
    y = np.array([0, 0, 1])
    assert arena_macro_f1(y, y, 4) == 0.5
    assert arena_macro_f1(y, np.array([0, 0, 2]), 4) == 0.25


def test_a_class_weighs_by_how_seldom_it_is():
    "4/3 and 4, over their mean 8/3; a class without a window weighs nothing"
    assert _class_weights(np.array([0, 0, 0, 1]), 3).tolist() == [0.5, 1.5, 0.0]


def test_test_subjects_need_the_word(tmp_path):
    cfg = ArenaConfig('utd_mhad', data_root=str(data('utd_mhad')), models='minirocket')
    with pytest.raises(ValueError, match='final=True'):
        run_arena(cfg, tmp_path / 'run')


def test_the_arena_runs_where_it_is_told_to(monkeypatch, tmp_path):
    told = {}

    def run_tasks(f, tasks, **kwargs):
        told.update(kwargs)
        raise InterruptedError

    monkeypatch.setattr('harkd.arena.run_tasks', run_tasks)
    cfg = ArenaConfig('synth', models='conv_8k', jobs=3, backend='ray', task_cpus=2.0)
    with pytest.raises(InterruptedError):
        run_arena(cfg, tmp_path / 'run')
    assert (told['backend'], told['jobs'], told['cpus'], told['gpus']) == ('ray', 3, 2.0, 0.0)


def arena_row(model='conv_8k', seed=0, score=0.5, **other):
    row = dict(dataset='utd_mhad', protocol='loso_3s', model=model, seed=seed, macro_f1=score)
    return {**row, 'macro_f1_all': score, 'accuracy': score, **other}


def test_a_table_of_the_arena_is_of_one_data_set_and_length_of_windows():
    rows = [arena_row(seed=seed, score=score) for seed in (0, 1) for score in (0.2, 0.4)]
    table = arena_table([*rows, arena_row('small', score=0.1)], published=0)
    assert table.index.tolist() == ['conv_8k', 'small']  # the best first
    assert table['from'].tolist() == ['2 seeds', '1 seed']
    assert table['macro-F1 %'].tolist() == ['30.0 ± 0.0', '10.0']
    for other in (dict(dataset='spar'), dict(protocol='loso_5s')):
        with pytest.raises(ValueError, match='one data set and one length of windows'):
            arena_table([arena_row(), arena_row(**other)])
