"Changes of a pretraining (chapter 07l): what may be changed, and how differences are counted"

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from harkd.data import COLORS
from harkd.metrics import mean_interval
from harkd.pretrain import PretrainConfig
from harkd.pretrain_ablation import (
    EACH_INGREDIENT,
    PretrainAblationConfig,
    ablation_differences,
    changed_pretraining,
    plot_pretrain_ablation,
    pretrain_ablation_table,
    pretrain_changed,
    run_pretrain_ablation,
)
from harkd.pretrained import load_encoder


def rows():
    "Two seeds, two k, three subjects: 'rotate=0' loses 10 points at k=1, 20 at k=2"
    found = []
    for dataset in ('spar', 'motionsense'):
        for seed in (0, 1):
            for k in (1, 2):
                for n, fold in enumerate(('s1', 's2', 's3')):
                    own = dict(dataset=dataset, seed=seed, method=f'k={k}', fold=fold)
                    base = 0.5 + 0.1 * n
                    found.append(own | dict(model='unchanged', macro_f1=base))
                    found.append(own | dict(model='rotate=0', macro_f1=base - 0.1 * k))
                    found.append(own | dict(model='noise=0', macro_f1=base - 0.04 + 0.1 * seed))
    return pd.DataFrame(found)


def test_differences_are_paired_and_averaged_over_k():
    own = rows().query("dataset == 'spar'").sample(frac=1, random_state=0)  # in any order
    found = ablation_differences(own, 'rotate=0')
    assert found.index.tolist() == ['s1', 's2', 's3'] and found.columns.tolist() == [0, 1]
    np.testing.assert_allclose(found, -0.15)
    np.testing.assert_allclose(ablation_differences(own, 'noise=0'), [[-0.04, 0.06]] * 3)


def test_the_table_has_a_row_for_each_change_and_counts_seeds_that_are_better():
    table = pretrain_ablation_table(rows().to_dict('records'))
    assert table.index.tolist() == ['unchanged', 'rotate=0', 'noise=0']
    assert list(dict.fromkeys(table.columns.get_level_values(0))) == ['spar', 'motionsense']
    spar = table['spar']
    assert spar['macro-F1 %'].tolist() == [60.0, 45.0, 61.0]
    assert spar['difference'].tolist() == ['', '-15.0 [-15.0, -15.0]', '+1.0 [+1.0, +1.0]']
    assert spar['better seeds'].tolist() == ['', '0 of 2', '1 of 2']


def test_the_figure_shows_intervals_over_subjects_and_every_seed():
    table = rows()
    table.loc[(table.fold == 's1') & (table.model == 'noise=0'), 'macro_f1'] += 0.3
    axes = plot_pretrain_ablation(table)
    assert [ax.get_title() for ax in axes] == ['spar', 'motionsense']
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ['rotate=0', 'noise=0']
    assert axes[0].yaxis_inverted()
    interval, point, seeds = axes[1].lines[3:6]
    mean, low, high = mean_interval([31.0, 1.0, 1.0])
    np.testing.assert_allclose(interval.get_xdata(), [low, high])
    assert point.get_xdata() == pytest.approx([mean]) and set(point.get_ydata()) == {1}
    np.testing.assert_allclose(seeds.get_xdata(), [6.0, 16.0])
    assert to_rgba(interval.get_color()) == to_rgba(COLORS['control'])  # it holds zero
    assert to_rgba(axes[1].lines[0].get_color()) == to_rgba(COLORS['student'])
    plt.close('all')


def test_every_ingredient_can_be_changed_and_is_not_so_already():
    cfg = PretrainAblationConfig()
    changes = [change.strip() for change in EACH_INGREDIENT.split(';')]
    assert cfg.change_list == ['', *changes]
    for change in changes:
        name, _, value = change.partition('=')
        changed = changed_pretraining(change, cfg.pretraining)
        assert str(getattr(changed, name)) in (value, f'{value}.0')
        assert getattr(changed, name) != getattr(cfg.pretraining, name)
    assert changed_pretraining('', cfg.pretraining) == cfg.pretraining


def test_a_change_of_several_fields_changes_each_and_lists_keep_their_commas():
    changed = changed_pretraining('datasets=hapt,dsads, dim=48,supervise=0', PretrainConfig())
    assert (changed.datasets, changed.dim, changed.supervise) == ('hapt,dsads', 48, 0.0)
    with pytest.raises(ValueError, match="'dim=96' changes nothing"):
        changed_pretraining('supervise=0,dim=96', PretrainConfig())
    with pytest.raises(ValueError, match="'seed' cannot be changed here"):
        changed_pretraining('supervise=0,seed=3', PretrainConfig())


@pytest.mark.parametrize(
    'change, error, says',
    [
        ('corpus=x', ValueError, "'corpus' cannot be changed here, only: datasets, "),
        ('seed=3', ValueError, "'seed' cannot be changed here"),
        ('noise=much', TypeError, "parameter 'noise' must be float, got 'much'"),
        (f'dim={PretrainConfig.dim}', ValueError, 'changes nothing: the pretraining has this'),
    ],
)
def test_what_cannot_be_changed_is_refused(change, error, says):
    with pytest.raises(error, match=says):
        changed_pretraining(change, PretrainConfig())


@pytest.mark.parametrize(
    'change, evaluate_on, says',
    [
        (
            'datasets=hapt,spar',
            'motionsense, spar',
            "spar is in the corpus of 'datasets=hapt,spar'",
        ),
        ('noise=0', 'hapt,dsads', "dsads, hapt is in the corpus of 'unchanged'"),
    ],
)
def test_what_is_pretrained_on_is_not_evaluated(tmp_path, change, evaluate_on, says):
    cfg = PretrainAblationConfig(changes=change, evaluate_on=evaluate_on)
    with pytest.raises(ValueError, match=says):
        run_pretrain_ablation(cfg, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_without_steps_an_encoder_has_random_weights_of_its_seed(tmp_path):
    cfg = PretrainAblationConfig(dim=8)
    weights = []
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        folder = pretrain_changed(cfg, 'steps=0', seed, tmp_path / name)
        encoder, about = load_encoder(folder)
        assert about['trained_on'] == {} and encoder.config['dim'] == 8
        weights.append(sum(float(p.double().sum()) for p in encoder.parameters()))
    assert weights[0] == weights[1] != weights[2]
