"Chapter 07j: accuracy over the number of training subjects"

from dataclasses import replace
from functools import partial

import pandas as pd
import pytest

from harkd.baselines import make_classifier
from harkd.experiment import experiment_splits, experiment_windows
from harkd.learning_curve import (
    LearningCurveConfig,
    learning_curve_table,
    plot_learning_curve,
    run_learning_curve,
    run_point,
    subject_counts,
)
from harkd.metrics import mean_interval, show_interval
from harkd.split import subsample_subjects
from tests.conftest import ROOT

TINY = LearningCurveConfig('synth', student='conv_8k', epochs=4, folds=3, seeds=2, jobs=1, lr=0.02)


@pytest.fixture(scope='module')
def full():
    return experiment_splits(TINY, experiment_windows(TINY))[0]


def test_fewer_training_subjects_are_tested_on_the_same(full):
    part = subsample_subjects(full, 2, 0)
    assert len(part.subjects('train')) == 2
    assert part.subjects('val') == full.subjects('val')
    assert set(part.subjects('train')) < set(full.subjects('train'))
    assert subsample_subjects(full, 2, 0).train.tolist() == part.train.tolist()


def test_all_subjects_are_all_windows(full):
    assert sorted(subsample_subjects(full, 4, 1).train) == sorted(full.train)
    with pytest.raises(ValueError, match='has 4 training subjects, cannot take 9'):
        subsample_subjects(full, 9, 0)


def test_counts_are_given_or_spread_evenly():
    assert subject_counts(TINY, 22) == [1, 6, 12, 17, 22]
    assert subject_counts(TINY, 3) == [1, 2, 3]
    assert subject_counts(replace(TINY, subjects='1, 4'), 4) == [1, 4]
    with pytest.raises(ValueError, match="whole numbers separated by commas, got 'two'"):
        subject_counts(replace(TINY, subjects='two'), 4)


def test_a_point_that_is_there_is_not_trained_again(tmp_path):
    cfg = replace(TINY, subjects='1,4', minirocket=False)
    run = run_learning_curve(cfg, tmp_path / 'a')
    rows = run.metrics['rows']
    assert len(rows) == 2 * 3 * 2
    assert run_point(cfg, run.path, 'student', 4, 2, 1) == rows[-1]
    table = learning_curve_table(rows)
    assert list(table.index) == [1, 4]
    first = [r for r in rows if r['fold'] == rows[0]['fold']]
    tested = {m: {r['n'] for r in first if r['method'] == m} for m in ('1 subjects', '4 subjects')}
    assert tested['1 subjects'] == tested['4 subjects']
    assert len(plot_learning_curve(rows).lines) == 1
    one_fold = replace(cfg, subjects='1', fold=2, seeds=1, epochs=1)
    alone = run_learning_curve(one_fold, tmp_path / 'b').metrics['rows']
    assert [r['fold'] for r in alone] == [rows[-1]['fold']]


def test_what_has_no_curve_is_refused():
    with pytest.raises(ValueError, match='cannot take 7'):
        run_learning_curve(replace(TINY, subjects='7'))
    with pytest.raises(ValueError, match='inside the training subjects'):
        run_learning_curve(replace(TINY, final=True))


def test_older_rows_say_people():
    (path,) = (ROOT / 'nbs' / 'results').rglob('utd_curve.csv')
    committed = pd.read_csv(path)
    renamed = committed.assign(method=committed.method.str.replace('people', 'subjects'))
    assert learning_curve_table(committed).equals(learning_curve_table(renamed))


def test_the_seed_draws_the_subjects(full):
    "Each seed others, and a larger number those of a smaller one and more"
    drawn = {tuple(subsample_subjects(full, 2, seed).subjects('train')) for seed in range(8)}
    assert len(drawn) > 2
    for seed in range(3):
        few, more = (subsample_subjects(full, n, seed).subjects('train') for n in (1, 3))
        assert set(few) < set(more)
    with pytest.raises(ValueError, match='cannot take 0'):
        subsample_subjects(full, 0, 0)


def by_hand():
    "One and two subjects, two folds of 10 and 30 windows, two seeds"
    accuracies = {1: (0.2, 0.6, 0.4, 0.8), 2: (0.5, 0.7, 0.7, 0.9)}
    places = [(fold, seed) for seed in (0, 1) for fold in (1, 2)]
    return [
        dict(
            model='s',
            arm='control',
            method=f'{k} subjects',
            fold=f,
            seed=s,
            n=10 if f == 1 else 30,
            accuracy=a,
        )
        for k, values in accuracies.items()
        for (f, s), a in zip(places, values)
    ]


def test_the_table_by_hand():
    "A seed's accuracy is that of all its windows: (0.2·10 + 0.6·30) / 40"
    table = learning_curve_table(by_hand())
    expected = {
        1: show_interval(*mean_interval([0.5, 0.7])),
        2: show_interval(*mean_interval([0.65, 0.85])),
    }
    assert table['s'].to_dict() == expected and expected[1].startswith('60.0 ')


def test_the_figure_shows_means_over_folds_and_seeds():
    ax = plot_learning_curve(by_hand())
    (line,) = ax.lines
    assert list(line.get_xdata()) == [1, 2]
    assert list(line.get_ydata()) == pytest.approx([50.0, 70.0])
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    sd = 100 * pd.Series([0.2, 0.6, 0.4, 0.8]).std()
    assert band.min() == pytest.approx(50 - sd) and 50 + sd in [pytest.approx(v) for v in band]


def test_minirocket_stands_on_the_curve_too(tmp_path, monkeypatch):
    pytest.importorskip('aeon')
    quick = partial(make_classifier, kernels=84)
    monkeypatch.setattr('harkd.learning_curve.make_classifier', quick)
    row = run_point(TINY, tmp_path, 'minirocket', 4, 0, 0)
    assert (row['model'], row['arm'], row['method']) == ('minirocket', 'baseline', '4 subjects')
    assert row['accuracy'] > 2 / 6 and row['n'] > 10
