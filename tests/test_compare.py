"Comparisons of methods: choice of factors, resuming, the table by hand, and a cluster"

from dataclasses import replace

import pandas as pd
import pytest

from harkd.compare import (
    CompareConfig,
    choose_factors,
    compare_methods,
    compare_table,
    describe_table,
    entries,
    factor_list,
    plot_compare,
    train_students,
    train_teachers,
)
from harkd.metrics import corrected_t_test

CFG = CompareConfig(
    'synth',
    student='conv_8k',
    methods_list='kd,hint',
    factors='1',
    epochs=1,
    teacher_epochs=1,
    folds=2,
    seeds=1,
    batch_size=64,
)


TUNED = replace(CFG, methods_list='kd,rkd', factors='1,3', seeds=2, jobs=1)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return compare_methods(TUNED, tmp_path_factory.mktemp('compare') / 'a')


def test_entries_and_factors():
    assert entries(CompareConfig(methods_list='kd, kd+rkd')) == ['kd', 'kd+rkd']
    every = entries(CompareConfig())
    assert len(every) >= 26 and 'attention_map' not in every
    assert factor_list(CompareConfig()) == [0.333, 1.0, 3.0]
    assert CompareConfig().smoke().factors == '1'


@pytest.mark.parametrize('factors,says', [('a', 'factors must be numbers'), ('0,1', 'must be > 0')])
def test_factors_are_numbers_above_zero(factors, says):
    with pytest.raises(ValueError, match=says):
        factor_list(CompareConfig(factors=factors))


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="unknown method 'fitnet'"):
        entries(CompareConfig(methods_list='kd,fitnet'))


@pytest.mark.parametrize(
    'change,says',
    [
        (dict(loss='rkd'), "'loss' has no meaning in a comparison"),
        (dict(untuned='vid'), "untuned names 'vid', which is not compared here"),
        (dict(final=True), 'has no published test subjects'),
        (dict(methods_list='attention_map'), "has no 'attn.-1'"),
    ],
)
def test_what_cannot_work_fails_before_a_folder_is_made(change, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        compare_methods(replace(TUNED, **change), tmp_path / 'b')
    assert not (tmp_path / 'b').exists()


def test_the_best_factor_is_chosen_and_1_where_factors_tie():
    accuracies = {'kd': 0.8, 'kd@3': 0.9, 'rkd': 0.7, 'rkd@3': 0.7}
    rows = [dict(part='val', method=m, accuracy=a) for m, a in accuracies.items()]
    assert choose_factors(rows, ['kd', 'rkd'], [1.0, 3.0]) == {'kd': 3.0, 'rkd': 1.0}


def test_every_entry_has_a_row_for_every_factor_fold_and_seed(run):
    rows = run.metrics['rows']
    methods = {'alone', 'kd', 'kd@3', 'rkd', 'rkd@3', 'self', 'self@3', 'self_teacher', 'teacher'}
    assert {row['method'] for row in rows} == methods and len(rows) == 9 * 4
    assert {row['modality'] for row in rows if row['method'] == 'self_teacher'} == {'imu'}
    assert set(run.metrics['chosen']) == {'kd', 'rkd', 'self'}
    assert train_teachers(TUNED, run.path, 'dev', 'teacher', 0, 0).endswith('teacher')
    assert train_students(TUNED, run.path, 'dev', 'kd', 3.0, 1, 0)['method'] == 'kd@3'


def test_an_interrupted_comparison_continues_to_the_same_rows(run):
    rows = run.metrics['rows']
    kept = run / 'dev/fold0_seed0/kd@3.json'
    stamp = kept.stat().st_mtime_ns
    (run / 'metrics.json').unlink()
    (run / 'dev/fold1_seed1/rkd@1.json').unlink()
    assert compare_methods(TUNED, run.path).metrics['rows'] == rows
    assert kept.stat().st_mtime_ns == stamp


def test_the_table_by_hand(run):
    table = compare_table(run)
    factor = run.metrics['chosen']['kd']
    name = 'kd' if factor == 1 else f'kd@{factor:g}'
    rows = pd.DataFrame(run.metrics['rows']).set_index(['fold', 'seed', 'method'])
    accuracy = rows.accuracy.unstack()
    difference = accuracy[name] - accuracy['alone']
    p = corrected_t_test(difference.groupby('fold').mean(), 1.0)[3]
    assert table.dev_p['kd'] == pytest.approx(p)
    assert table.dev_diff['kd'] == pytest.approx(difference.mean())
    assert set(table.index) == {'kd', 'rkd', 'self'}
    assert set(compare_table(run, 'self').index) == {'kd', 'rkd', 'alone'}
    assert (table.dev_holm >= table.dev_p - 1e-12).all()
    assert len(describe_table(table)) == 3
    assert len(plot_compare(run).patches) == 3
