"Explanations: one window, a run, a study, and the committed tables"

from dataclasses import replace
from functools import lru_cache

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from harkd.attribute import complete_gradients
from harkd.distill import DistillConfig, open_run, run_distill
from harkd.experiment import experiment_inputs, experiment_splits, experiment_windows
from harkd.explain import (
    KINDS,
    SCORE_COLUMNS,
    ExplainConfig,
    _seed_correlations,
    align_windows,
    attention_rows,
    class_map,
    class_maps,
    class_rows,
    describe_attribution,
    explain,
    explain_run,
    faithfulness_table,
    first_windows,
    interval_table,
    map_difference,
    misclassified_windows,
    paired_scores,
    plot_attribution,
    plot_classes,
    plot_explanation,
    plot_faithfulness,
    shift_windows,
    show_study,
    study_attention,
    study_fold,
    study_hash,
    study_run,
    table_maps,
    write_study,
)
from harkd.faithfulness import rank_correlation
from harkd.metrics import mean_interval
from harkd.rollout import ATTENTION
from harkd.runs import set_seed
from harkd.split import BatchLoader
from harkd.student import ConvStudent, InertialTransformer, make_student
from harkd.synth import planted_bursts
from harkd.teacher import STConvT
from harkd.train import TrainConfig, cross_entropy, train
from tests.conftest import ROOT, data

CHANNELS = tuple(f'{sensor}_{axis}' for sensor in ('acc', 'gyro') for axis in 'xyz')
FAST = dict(draws=1, stages=1, steps=8, most=8)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close('all')


@lru_cache
def burst_network():
    "A network that has learned the planted bursts"
    set_seed(0)
    net = ConvStudent(6, 6, (12, 16, 24), (1, 1), (2, 2), 7)
    x, y, _ = (torch.tensor(v) for v in planted_bursts(400, seed=1))
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3)
    set_seed(0)
    for _ in range(12):
        for batch in torch.randperm(400).split(40):
            optimizer.zero_grad()
            F.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
    return net.eval()


@lru_cache
def burst_windows():
    return tuple(torch.tensor(v) for v in planted_bursts(20, seed=2))


@lru_cache
def burst_explanation():
    x, y, start = burst_windows()
    names = tuple(f'w{k}' for k in range(20))
    return explain(burst_network(), x, channels=CHANNELS, names=names, planted=(start, y), most=512)


def two_input_windows():
    return torch.randn(3, 100, 6), torch.randn(3, 40, 20, 3)


def two_input_transformer():
    return STConvT(6, 20, 100, 6, dim=16, heads=2).eval()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A finished run on simulated movements, with inertial data alone"
    cfg = DistillConfig(
        'synth',
        student='conv_8k',
        teacher_model='conv_20k',
        teacher_inputs='imu',
        epochs=6,
        teacher_epochs=3,
        fold=0,
        seeds=1,
        jobs=1,
        lr=0.01,
    )
    return run_distill(cfg, tmp_path_factory.mktemp('runs') / 'small')


@pytest.fixture(scope='module')
def study(run):
    "Configuration, scores and attributions of a study of that run"
    cfg = ExplainConfig(str(run.path), steps=16, trials=1)
    return cfg, *study_run(cfg)


def test_planted_bursts_pass_every_score():
    card = burst_explanation().card
    measures = ['deletion over random', 'insertion over random', 'over inverted']
    assert (card.low[measures] > 0).all()
    assert card.value['randomised: input-free'] < 0.2
    assert card.value['pointing game'] >= 0.95


def test_an_explanation_names_its_incomplete_windows_channels_and_unit():
    e = burst_explanation()
    assert e.missed == [f'w{k}' for k in e.attribution.incomplete.nonzero()[:, 0]]
    assert (e.unit, e.channels) == ('s', (CHANNELS,))
    coarse = explain(burst_network(), burst_windows()[0], steps=4, most=4)
    assert coarse.missed == coarse.attribution.incomplete.nonzero()[:, 0].tolist()
    assert len(coarse.missed) > len(e.missed)


@pytest.mark.parametrize('method', ['integrated_gradients', 'gradient_x_input', *ATTENTION])
def test_every_method_gives_a_card_for_a_model_with_two_inputs(method):
    value = explain(two_input_transformer(), two_input_windows(), method=method, **FAST).card.value
    check_card(value, complete=method == 'integrated_gradients')


def test_occlusion_gives_a_card():
    x = burst_windows()[0][:3]
    check_card(explain(burst_network(), x, method='occlusion', **FAST).card.value, complete=False)


def check_card(value, complete):
    assert value.drop('two untrained: absolute').notna().all()
    assert ('completeness gap (share)' in value) == complete
    assert {'deletion over random', 'sensitivity', 'infidelity'} <= set(value.index)
    assert 'randomised: signed' in value.index


def test_the_title_names_channel_and_time_of_the_burst():
    x, y, start = burst_windows()
    e = burst_explanation()
    axs = plot_attribution(x[0], e.attribution.values[0][0], CHANNELS)
    assert len(axs) == 6
    title = plot_explanation(e, 3).get_suptitle()
    assert title.startswith(f"'class {int(y[3])}': mainly {CHANNELS[y[3]]} around")
    seconds = float(title.split('around ')[1].split(' s')[0])
    assert abs(seconds - (start[3] + 10) / 50) < 0.25


def test_a_figure_of_two_inputs_has_a_row_for_each_channel_and_one_for_the_skeleton():
    model, x = two_input_transformer(), two_input_windows()
    assert len(plot_explanation(explain(model, x, **FAST)).axes) == 6 + 1 + 1
    axes = plot_explanation(explain(model, x, **FAST)).axes
    assert [ax.get_xlabel() for ax in axes[:7]] == [''] * 5 + ['time (s)'] * 2
    assert [len(ax.get_xticks()) > 0 for ax in axes[:7]] == [False] * 5 + [True] * 2
    columns = [ax.get_subplotspec().colspan for ax in axes]
    assert [c.start for c in columns] == [0] * 7 + [1]  # the deletion curves at the right
    tops = [ax.get_subplotspec().rowspan for ax in axes]
    assert [(r.start, r.stop) for r in tops] == [(k, k + 1) for k in range(6)] + [(6, 10), (0, 10)]
    e = explain(model, x, method='rollout', **FAST)
    assert 'most attention around' in describe_attribution(e.attribution, 0, e.classes, CHANNELS)
    assert len(plot_explanation(e).axes) == 6 + 1 + 1


def test_explain_run_explains_both_students_and_keeps_the_attributions(run):
    found = explain_run(ExplainConfig(str(run.path), 2, steps=64))
    assert {w['arm'] for w in found['windows']} == {'control', 'distilled'}
    assert all(w['gap'] < 0.05 for w in found['windows'])
    assert (run / 'explain/attributions.safetensors').exists()


def test_windows_shift_to_the_right_and_zeros_come_in():
    assert shift_windows(torch.arange(4.0)[None], torch.tensor([1])).tolist() == [[0, 0, 1, 2]]


def test_alignment_undoes_shifts_and_a_class_map_is_made_of_shares():
    torch.manual_seed(0)
    wave = torch.sin(torch.linspace(0, 6.3, 20))[:, None] * torch.tensor([1.0, -2.0])
    delays = torch.tensor([0, 3, -4, 0, 2])
    x = F.pad(wave, (0, 0, 20, 20)).repeat(5, 1, 1)
    x = shift_windows(x, delays) + 0.02 * torch.randn(5, 60, 2)
    assert align_windows(x, 8).tolist() == (-delays).tolist()
    aligned, blurred = class_map(x, x, 8), class_map(x, x, 0)
    assert aligned.abs().max() > 1.1 * blurred.abs().max()
    assert aligned.abs().sum() <= 1 + 1e-5
    assert class_map(x[:1], x[:1], 8).abs().sum() == pytest.approx(1.0, abs=1e-5)


def test_a_study_scores_every_arm_and_attribution(run, study):
    _, scores, maps = study
    assert list(scores) == SCORE_COLUMNS
    assert set(scores.arm) == {'teacher', 'control', 'distilled'}
    assert set(scores.scores) == set(KINDS)
    assert maps[0, 0]['control'].shape == maps[0, 0]['x'].shape


def test_a_study_takes_one_window_of_each_subject_and_activity(run, study):
    _, _, maps = study
    _, loader, ids, _ = open_run(run.path)
    chosen = loader.split.windows.table.iloc[first_windows(loader, ids, 1)]
    assert not chosen.duplicated(['subject', 'label']).any()
    assert len(chosen) == len(maps[0, 0]['y']) == chosen.subject.nunique() * 6


def test_a_second_study_reads_the_first(study):
    cfg, scores, _ = study
    assert study_run(cfg)[0].equals(scores[SCORE_COLUMNS])
    assert len(study_fold(cfg, 0, 0)[0]) == len(scores)


def test_the_hash_of_a_study_depends_on_how_windows_are_explained_alone(study):
    cfg, scores, _ = study
    assert study_hash(cfg) == study_hash(replace(cfg, windows=9, results='x'))
    assert study_hash(cfg) == scores.config_hash[0]
    assert study_hash(cfg) != study_hash(replace(cfg, steps=17))


def test_incomplete_windows_are_listed_by_name(run, study):
    _, scores, maps = study
    _, loader, ids, _ = open_run(run.path)
    windows = loader.split.windows
    listed = misclassified_windows(maps, windows)
    share = scores[(scores.measure == 'missed (share)') & (scores.arm == 'teacher')]
    assert (listed.arm == 'teacher').sum() == round((share.value * share.n).sum())
    one = {(0, 0): {'ids': ids[:2], 'control.gap': torch.tensor([0.5, 0.0])}}
    assert misclassified_windows(one, windows).window.tolist() == [windows.table.id.iloc[ids[0]]]


def toy_scores():
    rows = [
        (arm, seed, subject, value + seed + 10 * (subject == 'q'))
        for arm, value in (('control', 1.0), ('distilled', 3.0))
        for seed in (0, 1)
        for subject in 'pq'
    ]
    d = pd.DataFrame(rows, columns=['arm', 'seed', 'subject', 'value'])
    return d.assign(scores='integrated gradients', measure='m', fold=0, n=2)


def test_means_have_intervals_over_seeds_and_over_subjects():
    t = interval_table(toy_scores()).set_index('arm')
    assert t.value.tolist() == pytest.approx([6.5, 8.5])
    half = mean_interval([6.0, 7.0])[2] - 6.5
    assert t.seed_high['control'] - 6.5 == pytest.approx(half, abs=1e-5)
    assert t.subject_high['control'] > t.seed_high['control']


def test_differences_are_paired():
    d = interval_table(paired_scores(toy_scores(), 'arm', 'distilled', 'control')).iloc[0]
    assert d.arm == 'distilled − control'
    assert (d.value, d.seed_low, d.subject_high) == (2.0, 2.0, 2.0)


def test_the_faithfulness_table_has_scores_and_differences(study):
    t = faithfulness_table(study[1])
    differences = {f'integrated gradients − {o}' for o in ('random', 'ignorant network')}
    assert set(t.scores) == {*KINDS, *differences}
    assert 'distilled − control' in set(t.arm)


def invented_maps():
    "Two seeds; in the second the distilled student is the control with time reversed"
    torch.manual_seed(1)
    subject = torch.arange(6) // 2
    maps = {}
    for seed in (0, 1):
        control = torch.randn(6, 30, 3) + torch.arange(3.0) * subject[:, None, None]
        distilled = control.flip(1) if seed else control
        maps[0, seed] = dict(
            y=torch.arange(6) % 2, subject=subject, control=control, distilled=distilled
        )
    return maps


def test_map_difference_is_what_the_arms_lack_to_the_mean_of_both_arms():
    d = map_difference(invented_maps(), ('sit', 'run'), ('x', 'y', 'z'))
    assert list(d.activity) == ['all', 'sit', 'run']
    np.testing.assert_allclose(d.excess, (d.controls + d.students) / 2 - d.arms, atol=1e-6)
    np.testing.assert_allclose(d.by, 0.0, atol=1e-6)


def test_map_difference_of_one_seed_has_no_reference():
    one = invented_maps()[0, 0]
    d = map_difference({(fold, 0): one for fold in (0, 1)}, ('sit', 'run'), ('x', 'y', 'z'))
    assert d.excess.isna().all() and d.arms.notna().all()


def test_map_difference_compares_each_two_seeds_of_a_fold_once():
    torch.manual_seed(2)
    maps = {(fold, seed): invented_maps()[0, seed % 2] for fold in (0, 1) for seed in (0, 1, 2)}
    for m in maps.values():
        m['control'] = torch.randn_like(m['control'])
    d = map_difference(maps, ('sit', 'run'), ('x', 'y', 'z')).set_index('activity')
    pairs = [
        rank_correlation(maps[fold, a]['control'][i : i + 1], maps[fold, b]['control'][i : i + 1])
        for fold in (0, 1)
        for a, b in ((0, 1), (0, 2), (1, 2))
        for i in range(6)
    ]
    assert d.controls['all'] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert d.controls['sit'] == pytest.approx(np.mean(pairs[::2]), abs=1e-6)
    assert d.excess.notna().all()


def test_attention_of_a_model_and_itself_is_equal_and_above_chance(run, study):
    _, loader, ids, models = open_run(run.path)
    batch = next(loader.eval_batches(ids))
    assert len(study_attention(study[0])) == 0 and attention_rows(models, batch) == []
    set_seed(0)
    twin = InertialTransformer(6, 100, 6, 20, 16, heads=2).eval()
    pair = {'teacher': twin, 'distilled': twin, 'control': models['control']}
    d = pd.DataFrame(attention_rows(pair, batch)).set_index('method')
    assert list(d.pair) == ['distilled – teacher'] * 3
    np.testing.assert_allclose(d.cosine, 1.0, atol=1e-4)
    assert (d.z > 3).all() and (d.untrained < d.cosine).all()


def test_the_table_of_class_maps_keeps_their_sums(run, study):
    windows = open_run(run.path)[1].split.windows
    channels = windows.channels('imu')
    means = class_maps(study[2])
    assert (list(means), means[0].shape) == (list(range(6)), (100, 6))
    rows = class_rows(study[2], windows.classes, channels)
    assert len(rows) == 2 * 6 * 6 * 8
    wave = rows[(rows.arm == 'distilled') & (rows.activity == 'wave')]
    assert wave.value.sum() == pytest.approx(float(means[0].sum()), abs=1e-3)
    coarse = table_maps(rows, windows.classes, channels)
    np.testing.assert_allclose(coarse[2].sum(0), means[2].sum(0), atol=1e-3)
    assert list(coarse) == list(means)


def test_figures_of_a_study_say_what_they_show(run, study):
    windows = open_run(run.path)[1].split.windows
    fig = plot_classes(class_maps(study[2]), windows.classes, windows.channels('imu'))
    assert 'Mean attribution of 6 activities' in fig.get_suptitle()
    fig = plot_faithfulness(faithfulness_table(study[1]))
    assert 'over random order, random values' in fig.axes[0].get_title()


def test_the_tables_of_a_study_are_written_where_results_are_kept(study, tmp_path):
    cfg, scores, maps = study
    tables = write_study(replace(cfg, results='demo'), scores, maps)
    names = [k for k in tables if k not in ('missed', 'attention')]
    assert names == ['scores', 'proof', 'classes', 'looks']
    written = pd.read_csv(tmp_path / 'results' / 'demo_proof.csv')
    assert {'config_hash', 'data_hash', 'seed_low', 'subject_high'} <= set(written)
    assert len(written) == len(tables['proof'])


def test_show_study_returns_tables_and_saves_pictures(run, study):
    cfg, _, _ = study
    assert show_study(replace(cfg, trials=0)) == ({}, [])
    tables, figures = show_study(cfg)
    assert list(tables)[:4] == ['scores', 'proof', 'classes', 'looks'] and len(figures) == 2
    assert (run / 'explain/classes.png').exists()


def test_explain_takes_as_many_steps_as_complete_gradients():
    x = burst_windows()[0][:4]
    a = complete_gradients(burst_network(), x, most=256)
    assert torch.equal(explain(burst_network(), x, most=256).attribution.values[0], a.values[0])


@lru_cache
def learned(dataset, student, epochs, seed=0):
    "A small student of some subjects, windows of another one, and the loader"
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
def test_attributions_differ_from_random_and_randomised_ones(dataset):
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


def test_attention_of_a_student_with_motion_adaptive_patches():
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
    assert not held.missed, held.attribution.gap  # patches stay fixed along the path


def test_a_figure_names_class_and_channel():
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
        title = fig.get_suptitle()
    finally:
        del m.about
    predicted = w.classes[int(m(x)[1].argmax())]
    assert title.startswith(f"'{predicted}': mainly acc_") and ' s' in title
    assert len(fig.axes) == 4


def test_the_committed_study_separates_real_from_failing_attributions():
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


def test_correlations_of_two_seeds_by_hand():
    "Both ways between the arms, averaged; each arm with itself in the other seed"
    maps = invented_maps()
    first, second = maps[0, 0], maps[0, 1]
    rows = _seed_correlations(first, second, 0)
    assert len(rows) == 6
    for i, row in enumerate(rows):
        here = {arm: first[arm][i : i + 1] for arm in ('control', 'distilled')}
        there = {arm: second[arm][i : i + 1] for arm in ('control', 'distilled')}
        crossed = (
            rank_correlation(here['control'], there['distilled']),
            rank_correlation(here['distilled'], there['control']),
        )
        assert row['arms'] == pytest.approx(np.mean(crossed)) and row['arms'] != 0
        assert row['controls'] == rank_correlation(here['control'], there['control'])
        assert row['students'] == rank_correlation(here['distilled'], there['distilled'])
        assert (row['y'], row['subject']) == (i % 2, (0, i // 2))
