"Comparisons of methods: choice of factors, resuming, the table by hand, and a cluster"

from dataclasses import replace

import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgba

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
from harkd.data import COLORS
from harkd.metrics import corrected_t_test, paired_bootstrap
from harkd.runs import save_tensors

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


class Finished:
    "A comparison whose test predictions were written by hand"

    def __init__(self, folder):
        correct = {'alone': [1, 0, 0, 1], 'kd': [1, 1, 0, 1], 'self': [0, 0, 0, 1]}
        dev = {'alone': 0.5, 'kd': 0.7, 'kd@3': 0.6, 'self': 0.4}
        rows = [
            dict(part='val', fold=fold, seed=seed, method=m, accuracy=a + 0.01 * fold * (m == 'kd'))
            for m, a in dev.items()
            for fold in (1, 2, 3)
            for seed in (0, 1)
        ]
        for seed in (0, 1):
            here = folder / 'final' / f'fold0_seed{seed}'
            here.mkdir(parents=True)
            for entry, values in correct.items():
                tensors = {'correct': torch.tensor(values, dtype=torch.uint8)}
                save_tensors(here / f'{entry}@1.safetensors', tensors, {})
                rows.append(dict(part='test', fold=0, seed=seed, method=entry, accuracy=0.5))
        chosen = {'kd': 1.0, 'self': 1.0}
        self.metrics = dict(rows=rows, chosen=chosen, untuned=['self'], train_share=0.5)
        self.folder = folder

    def __truediv__(self, name):
        return self.folder / name


def test_columns_of_test_subjects_by_hand(tmp_path):
    table = compare_table(Finished(tmp_path))
    assert table.index.tolist() == ['kd', 'self']  # best on the test subjects first
    assert table.test.tolist() == [0.75, 0.25] and table.test_diff.tolist() == [0.25, -0.25]
    assert table.tuned.tolist() == [True, False]
    mean, low, high, p = corrected_t_test([0.21, 0.22, 0.23], 0.5)
    kd = table.loc['kd']
    assert kd[['dev_diff', 'dev_low', 'dev_high']].tolist() == pytest.approx([mean, low, high])
    assert kd.dev_p == pytest.approx(p) and kd.dev_holm == pytest.approx(p)  # the other is 0
    p_test = paired_bootstrap([1, 1, 0, 1], [1, 0, 0, 1])['p']
    assert kd.test_p == pytest.approx(p_test) and kd.test_holm == pytest.approx(min(1, 2 * p_test))
    assert (kd.seed_low, kd.seed_high) == (0.25, 0.25)
    other = compare_table(Finished(tmp_path / 'b'), 'self')
    assert other.test_diff.to_dict() == {'kd': 0.5, 'alone': 0.25}


def test_the_text_and_the_figure_of_a_comparison(tmp_path):
    table = compare_table(Finished(tmp_path))
    text = describe_table(table).loc['kd']
    assert text.factor == '1' and describe_table(table).factor['self'] == '1 (not tuned)'
    assert text['test, points (over trials)'].startswith('+25.0 [+0.0, ')
    assert (text['dev %'], text['test %']) == (72.0, 75.0)
    surely = table.assign(test_holm=0.01)
    ax = plot_compare(surely)
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([-25.0, 25.0])
    assert ax.get_title() == '1 of 2 better, 1 worse (p < 0.05, Holm)'
    colors = [bar.get_facecolor() for bar in ax.patches]
    assert colors == [to_rgba(COLORS['baseline']), to_rgba(COLORS['student'])]
    unsure = plot_compare(table.assign(test_holm=0.05))
    assert unsure.patches[1].get_facecolor() == to_rgba(COLORS['control'])
    assert unsure.get_title().startswith('0 of 2 better, 0 worse')


def test_a_row_says_what_an_entry_is(run):
    rows = {row['method']: row for row in run.metrics['rows']}
    arms = {m: (row['arm'], row['teacher']) for m, row in rows.items()}
    assert arms['teacher'] == arms['self_teacher'] == ('teacher', '')
    assert arms['alone'] == ('control', '') and arms['self@3'] == ('control', 'self')
    assert arms['kd'] == arms['rkd@3'] == ('distilled', 'teacher')
    assert run.metrics['train_share'] == 1.0 and run.metrics['folds'] == 2
    assert rows['teacher']['params'] > rows['kd']['params'] == rows['alone']['params']


def test_a_finished_comparison_is_returned_as_it_is(run):
    before = (run.path / 'metrics.json').stat().st_mtime_ns
    again = compare_methods(TUNED, run.path)
    assert again.metrics == run.metrics and again.path == run.path
    assert (run.path / 'metrics.json').stat().st_mtime_ns == before


def test_the_text_of_a_comparison_is_its_table_in_percent():
    numbers = dict(dev=0.711, dev_diff=0.0212, dev_low=-0.0105, dev_high=0.0529, dev_holm=0.04321)
    numbers |= {f'test{k}': v for k, v in (('', 0.805), ('_diff', 0.033), ('_low', -0.01))}
    numbers |= dict(test_high=0.071, seed_low=0.0123, seed_high=0.0456, test_holm=0.00321)
    table = pd.DataFrame([dict(factor=0.333, tuned=True, **numbers)], index=['kd'])
    assert describe_table(table).loc['kd'].to_dict() == {
        'factor': '0.333',
        'dev %': 71.1,
        'to control, points': '+2.1 [-1.1, +5.3]',
        'p (Holm)': 0.043,
        'test %': 80.5,
        'test, points (over trials)': '+3.3 [-1.0, +7.1]',
        '(over seeds)': '[+1.2, +4.6]',
        'test p (Holm)': 0.003,
    }
