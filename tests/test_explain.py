"Explanations across chapters: on recordings of real people, and in the committed tables"

from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import torch

from harkd.distill import DistillConfig
from harkd.experiment import experiment_inputs, experiment_splits, experiment_windows
from harkd.explain import KINDS, attention_rows, explain, first_windows, plot_explanation
from harkd.metrics import mean_interval
from harkd.rollout import ATTENTION
from harkd.runs import set_seed
from harkd.split import BatchLoader
from harkd.student import make_student
from harkd.train import TrainConfig, cross_entropy, train
from tests.conftest import ROOT, data


@lru_cache
def learned(
    dataset, student, epochs, seed=0
):  # a small student of some people, and windows of another one
    cfg = DistillConfig(dataset)
    w = experiment_windows(cfg)
    loader = BatchLoader.fit(experiment_splits(cfg, w)[0])
    set_seed(seed)
    m = make_student(student, w, experiment_inputs(cfg, w.card)[0])
    train(
        m,
        loader,
        cross_entropy(0.1),
        TrainConfig(epochs, seed=seed, lr=0.01 if 'conv' in student else 2e-3),
    )
    return (
        m.eval(),
        next(loader.eval_batches(first_windows(loader, loader.split.val, 1)[:28], 512)),
        loader,
    )


@pytest.mark.parametrize('dataset', ['spar', 'utd_mhad'])
def test_a_real_map_is_told_from_one_that_knows_nothing(dataset):
    if dataset != 'spar':
        data(dataset)
    m, batch, _ = learned(dataset, 'conv_8k', 6 if dataset == 'spar' else 12)
    x = batch.x[m.inputs[0]]
    got = {
        k: explain(m, x, batch.y, f, 'mean', steps=32, most=256, stages=1, draws=2)
        for k, f in KINDS.items()
    }
    real = got['integrated gradients'].scores
    for other in ('random', 'ignorant network'):
        worse = got[other].scores
        for measure in ('deletion over random', 'insertion over random', 'over inverted'):
            assert mean_interval(real[measure] - worse[measure])[1] > 0, (other, measure)
        assert mean_interval(worse['infidelity'] - real['infidelity'])[1] > 0, other
    assert (
        real['randomised: input-free'].mean()
        < 0.2
        < 0.9
        < got['ignorant network'].scores['randomised: input-free'].mean()
        and real['sensitivity'].mean() < 0.5 * got['random'].scores['sensitivity'].mean()
    )
    assert (
        set(got['integrated gradients'].missed)
        == set(np.flatnonzero(real['completeness gap (share)'] > 1e-3))
        and real['completeness gap (share)'].median() < 0.01
    )


def test_attention_of_real_people_with_motion_adaptive_patches():
    m, batch, loader = learned('spar', 'transformer_motion', 2)
    x = batch.x[m.inputs[0]]
    for kind in ATTENTION:
        e = explain(m, x, batch.y, kind, 'mean', stages=1, draws=1)
        v = e.attribution.values[0]
        assert (
            v.shape == x.shape[:2]
            and torch.allclose(v.sum(1), torch.ones(len(x)), atol=1e-3)
            and e.card.value[['deletion over random', 'sensitivity', 'infidelity']].notna().all()
        )
    rows = pd.DataFrame(
        attention_rows(
            {'control': m, 'distilled': learned('spar', 'transformer_motion', 2, 1)[0]},
            batch,
            untrained=3,
        )
    )
    assert len(rows) == len(ATTENTION) and rows[['cosine', 'z', 'z_untrained']].notna().all(
        axis=None
    )
    held = explain(m, x[:6], None, 'integrated_gradients', 'mean', stages=1, draws=1)
    assert not held.missed, held.attribution.gap  # patches are held on the way


def test_a_picture_says_what_was_found():
    m, batch, loader = learned('spar', 'conv_8k', 6)
    x = batch.x[m.inputs[0]][:2]
    w = loader.split.windows
    m.about = dict(
        channels={m.inputs[0]: list(w.channels(m.inputs[0]))},
        classes=list(w.classes),
        fs=w.card.fs,
        whole=False,
    )
    try:
        e = explain(m, x, method='gradient_x_input', stages=1, draws=1)
        fig = plot_explanation(e, 1)
        said = fig.get_suptitle()
    finally:
        del m.about
    assert (
        said.startswith(f"'{w.classes[int(m(x)[1].argmax())]}' for what acc_")
        and ' s' in said
        and len(fig.axes) == 4
    )


def test_the_committed_study_tells_real_maps_apart():
    folder = ROOT / 'nbs' / 'results'
    t = pd.read_csv(folder / 'explanations' / 'utd_explain_proof.csv')
    trained = pd.read_csv(folder / 'distillation' / 'utd_official.csv')
    for p in folder.rglob('utd_explain*.csv'):
        d = pd.read_csv(p)
        assert (
            p.stat().st_size < 200_000
            and d[['config_hash', 'data_hash']].notna().all(axis=None)
            and set(d.data_hash) == set(trained.data_hash)
        ), p.name
    at = t.set_index(['arm', 'scores', 'measure'])
    for arm in ('control', 'distilled'):
        for other in ('random', 'ignorant network'):
            d = at.loc[arm, f'integrated gradients − {other}']
            for measure in ('deletion over random', 'insertion over random', 'over inverted'):
                assert d.loc[measure, 'seed_low'] > 0 and d.loc[measure, 'subject_low'] > 0, (
                    arm,
                    other,
                    measure,
                )
            assert d.loc['infidelity', 'subject_high'] < 0 and d.loc['infidelity', 'seed_high'] < 0
        assert (
            at.loc[(arm, 'integrated gradients', 'randomised: input-free'), 'subject_high']
            < 0.2
            < 0.9
            < at.loc[(arm, 'ignorant network', 'randomised: input-free'), 'value']
        )
