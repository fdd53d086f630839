"Chapter 07: what a model scores, and the protocol ladder"

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from harkd.data import COLORS
from harkd.evaluate import (
    RUNGS,
    LadderConfig,
    _rung_row,
    evaluate,
    ladder_rungs,
    ladder_table,
    per_subject,
    plot_ladder,
    run_ladder,
    rung_splits,
)
from harkd.experiment import FitConfig, experiment_windows
from harkd.runs import set_seed
from harkd.split import LEAKY, BatchLoader, by_subject, find_leaks, leaky_split
from harkd.student import make_student
from harkd.train import cross_entropy, predict, train

TINY = LadderConfig(
    'synth', epochs=3, folds=2, seeds=2, jobs=1, student='conv_8k', ladder_window_s=1.0, lr=0.01
)


@pytest.fixture(scope='module')
def trained_run():
    cfg = FitConfig('synth', epochs=6, lr=0.01)
    windows = experiment_windows(cfg)
    split = by_subject(windows, ['s1', 's2', 's3'], ['s4', 's5'])
    loader = BatchLoader.fit(split, augment=cfg.augment)
    set_seed(0)
    model = make_student('conv_8k', windows)
    train(model, loader, cross_entropy(), cfg.training(0))
    return model, loader


def test_scores_agree_with_the_predictions(trained_run):
    result, predictions = evaluate(*trained_run)
    assert result['accuracy'] == pytest.approx(predictions.correct.mean())
    assert result['low'] < result['accuracy'] <= result['high'] and 'warning' not in result
    by = per_subject(predictions)
    weighted = (by.accuracy * by.windows).sum() / by.windows.sum()
    assert weighted == pytest.approx(result['accuracy'])
    assert sorted(by.index) == ['s4', 's5']


def test_a_leaky_split_carries_its_warning(trained_run):
    model, loader = trained_run
    leaky = replace(loader, split=leaky_split(loader.split.windows, 'random_trials'))
    assert evaluate(model, leaky, 'test')[0]['warning'] == 'test subjects were trained on'


def test_a_part_that_is_not_there_is_named(trained_run):
    with pytest.raises(ValueError, match="has no part 'test', only: train, val"):
        evaluate(*trained_run, 'test')


def test_every_rung_of_the_data_set_is_run(tmp_path):
    rows = run_ladder(TINY, tmp_path / 'a').metrics['rows']
    protocols = [r['protocol'] for r in rows if r['seed'] == 0]
    assert protocols == [*LEAKY, 'subject_kfold', 'subject_kfold', *['loso'] * 6]
    tested = sum(r['n'] for r in rows if r['protocol'] == 'loso' and r['seed'] == 0)
    assert tested == len(experiment_windows(TINY))  # leave-one-subject-out tests each window once
    table = ladder_table(rows)
    leaky = (table.note == 'test subjects were trained on').tolist()
    assert leaky == [True] * 3 + [False] * 2
    assert len(plot_ladder(rows).patches) == 5


def test_only_the_leaky_rungs_leak():
    def leaks(rung):
        return [bool(find_leaks(s.windows.table, s.parts)) for s in rung_splits(TINY, rung, 0)]

    assert all(all(leaks(rung)) for rung in LEAKY)
    assert not any(leaks('loso'))


def test_leaky_rungs_are_drawn_anew_for_each_seed():
    first, second = (rung_splits(TINY, 'random_trials', seed)[0].test for seed in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    'change, message',
    [
        ({'rungs': 'kfold'}, "unknown rung 'kfold'"),
        ({'split': 'official'}, "'split' has no meaning on the ladder"),
    ],
)
def test_a_configuration_without_meaning_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ladder_rungs(replace(TINY, **change), experiment_windows(TINY).card)


def test_published_test_subjects_need_final():
    card = replace(experiment_windows(TINY).card, test_subjects=('s1',))
    with pytest.raises(ValueError, match='say so with final=True'):
        ladder_rungs(TINY, card)
    rungs = ladder_rungs(replace(TINY, final=True), card)
    assert rungs == [r for r in RUNGS if r != 'subject_kfold']


def test_the_table_of_a_ladder_by_hand():
    "A rung's accuracy is that of all windows of a seed, averaged over the seeds"
    rows = [
        dict(protocol=p, seed=seed, n=n, accuracy=a)
        for p, values in (('loso_2s', (0.2, 0.6)), ('random_trials', (0.8, 1.0)))
        for seed in (0, 1)
        for n, a in zip((10, 30), values)
    ]
    table = ladder_table(rows)
    assert table.index.tolist() == ['random trials', 'loso (2 s)']
    assert table['accuracy %'].tolist() == ['95.0 ± 0.0', '50.0 ± 0.0']
    assert table.trainings.tolist() == [4, 4]
    assert table.note.tolist() == ['test subjects were trained on', 'unseen subjects']
    bars = plot_ladder(rows).patches
    assert [bar.get_width() for bar in bars] == [95.0, 50.0]
    assert bars[0].get_facecolor() == to_rgba(COLORS['control'])
    assert bars[1].get_facecolor() == to_rgba(COLORS['student'])


@pytest.mark.parametrize(
    'window_s, whole, says', [(2.0, False, '_2s'), (1.0, False, ''), (2.0, True, '')]
)
def test_a_row_of_a_rung_says_what_was_trained_and_on_windows_of_two_seconds(
    trained_run, window_s, whole, says
):
    model, loader = trained_run
    windows = loader.split.windows
    card = replace(windows.card, window_s=window_s, whole=whole)
    split = SimpleNamespace(windows=replace(windows, card=card), fold='s4')
    result = dict(n=12, accuracy=0.5, macro_f1=0.4, kappa=0.3, warning='none of these')
    row = _rung_row(TINY, 'random_trials', 7, split, model, result)
    assert row['protocol'] == f'random_trials{says}'
    assert (row['arm'], row['model'], row['modality']) == ('control', 'conv_8k', 'imu')
    assert (row['seed'], row['fold'], row['part'], row['n']) == (7, 's4', 'test', 12)
    assert 'warning' not in row and row['params'] == sum(p.numel() for p in model.parameters())


def test_the_worst_subject_comes_first():
    predictions = pd.DataFrame({'subject': list('abbb'), 'correct': [True, False, True, False]})
    table = per_subject(predictions)
    assert table.index.tolist() == ['b', 'a'] and table.windows.tolist() == [3, 1]
    assert table.accuracy.tolist() == pytest.approx([1 / 3, 1.0])


def test_the_confidence_of_a_prediction_is_the_probability_of_its_class(trained_run):
    model, loader = trained_run
    _, predictions = evaluate(model, loader)
    p = predict(model, loader, loader.split.val).softmax(1)
    assert predictions.pred.tolist() == p.argmax(1).tolist()
    assert predictions.confidence.tolist() == pytest.approx(p.max(1).values.tolist())
    assert predictions.correct.tolist() == (predictions.pred == predictions.y).tolist()


def test_windows_of_the_random_rung_overlap_by_half():
    (split,) = rung_splits(TINY, 'random_windows', 0)
    card = split.windows.card
    assert (card.window_s, card.stride_s, card.whole) == (1.0, 0.5, False)
    assert len(rung_splits(replace(TINY, folds=9), 'subject_kfold', 0)) == 6  # subjects
