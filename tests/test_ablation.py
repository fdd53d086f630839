"Chapter 07h: one change at a time, on the same folds and seeds"

from dataclasses import replace

import pandas as pd
import pytest

from harkd.ablation import (
    AblationConfig,
    ablation_table,
    parse_change,
    plot_ablation,
    run_ablation,
    run_change,
)
from harkd.data import COLORS
from harkd.metrics import corrected_t_test

BASE = AblationConfig()
TINY = AblationConfig(
    'synth',
    student='conv_8k',
    epochs=8,
    teacher_epochs=1,
    folds=3,
    seeds=2,
    jobs=1,
    lr=0.02,
    changes='lr=1e-9; student.drop=.5',
)


def test_a_change_is_the_recipe_with_other_values():
    cfg, arguments = parse_change('mixup=0, student.depth=3', BASE)
    assert (cfg.mixup, arguments) == (0.0, {'depth': 3})
    assert replace(cfg, mixup=BASE.mixup) == BASE
    assert parse_change('', BASE) == (BASE, {})
    assert parse_change('student_inputs=imu+norm', BASE)[0].student_inputs == 'imu+norm'


@pytest.mark.parametrize(
    'change, message',
    [
        ('mixpu=0', "'mixpu' cannot be changed here"),
        ('final=True', "'final' cannot be changed here"),
        ('mixup', "a change is name=value, got 'mixup'"),
        ('alone=False,alpha=2', r'alpha must be in \[0,1\], got 2'),
        ('alpha=.2', "'alpha' would change nothing here: the student is trained alone"),
        ('alone=False,teacher_epochs=3', "'teacher_epochs' would change nothing here"),
    ],
)
def test_a_change_without_meaning_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        parse_change(change, BASE)


def test_every_change_is_trained_on_the_same_folds_and_seeds(tmp_path):
    run = run_ablation(TINY, tmp_path / 'a')
    rows = run.metrics['rows']
    recipe = [r for r in rows if r['method'] == 'recipe' and r['seed'] == 1]
    assert run_change(TINY, run.path, '', 1, 1)['accuracy'] == recipe[1]['accuracy']
    table = ablation_table(rows)
    assert table.trainings.tolist() == [6, 6, 6]
    assert table.index.tolist() == ['recipe', 'lr=1e-9', 'student.drop=.5']
    by_change = pd.DataFrame(rows).groupby('method').accuracy.mean()
    assert by_change['lr=1e-9'] < by_change['recipe']  # untrained weights must show
    assert len(plot_ablation(rows).get_yticklabels()) == 2


def test_a_distilled_recipe_is_changed_too(tmp_path):
    cfg = replace(TINY, alone=False, changes='alpha=0.1', seeds=1, epochs=1)
    rows = run_ablation(cfg, tmp_path / 'b').metrics['rows']
    assert {r['arm'] for r in rows} == {'distilled'}


def test_an_ablation_stays_inside_the_training_subjects():
    with pytest.raises(ValueError, match='stays inside the training subjects'):
        run_ablation(replace(TINY, final=True))
    with pytest.raises(ValueError, match='pretrain follows a teacher'):
        run_ablation(replace(TINY, pretrain=3))


def by_hand():
    "Two folds and two seeds: the change gains 10, then 30 points, in the second fold 0 and 20"
    recipe, change = (0.5, 0.6, 0.4, 0.4), (0.6, 0.9, 0.4, 0.6)
    places = [(fold, seed) for fold in (1, 2) for seed in (0, 1)]
    return [
        dict(method=method, fold=fold, seed=seed, n=10 * fold, params=1234, accuracy=accuracy)
        for method, values in (('recipe', recipe), ('lr=1', change))
        for (fold, seed), accuracy in zip(places, values)
    ]


def test_the_table_by_hand():
    "Accuracy is weighted by windows; differences are paired by fold and seed"
    table = ablation_table(by_hand())
    assert table['accuracy %'].tolist() == ['45.0', '58.3']
    mean, low, high, _ = corrected_t_test([0.2, 0.1], 1.0)
    expected = f'{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]'
    assert table.difference.tolist() == ['', expected] and expected.startswith('+15.0')
    assert table['better folds'].tolist() == ['', '2 of 2']
    assert table.parameters.tolist() == ['1,234'] * 2 and table.trainings.tolist() == [4, 4]


def test_the_figure_shows_the_table():
    "A line from low to high, its mean, and a tick for each fold; grey where 0 is inside"
    low_high, mean, ticks = plot_ablation(by_hand()).lines[:3]
    expected = [100 * v for v in corrected_t_test([0.2, 0.1], 1.0)[:3]]
    assert low_high.get_xdata() == pytest.approx([expected[1], expected[2]])
    assert list(mean.get_xdata()) == pytest.approx([15.0])
    assert list(ticks.get_xdata()) == pytest.approx([20.0, 10.0])
    assert mean.get_color() == COLORS['control']
    sure = [dict(r, accuracy=0.1 * (r['method'] != 'recipe') + 1e-4 * r['fold']) for r in by_hand()]
    assert plot_ablation(sure).lines[1].get_color() == COLORS['student']


@pytest.mark.parametrize('alone, first', [(True, 'recipes'), (False, 'teachers')])
def test_teachers_come_first_where_a_recipe_is_distilled(alone, first, tmp_path, monkeypatch):
    titles = []

    def planned(work, tasks, what, **where):
        titles.append((what, len(tasks)))
        raise InterruptedError

    monkeypatch.setattr('harkd.ablation.run_tasks', planned)
    with pytest.raises(InterruptedError):
        run_ablation(replace(TINY, alone=alone), tmp_path / 'run')
    recipes = [('synth: 3 recipes', 3 * 2 * 3)]
    assert titles == (recipes if first == 'recipes' else [('synth: teachers', 2 * 3)])
