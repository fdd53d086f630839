"Every plot by hand: what stands on its axes, and where its lines and bars are"

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from harkd.ablation import plot_ablation
from harkd.arena import PUBLISHED, plot_arena
from harkd.compare import plot_compare
from harkd.corruptions import plot_corruptions
from harkd.data import COLORS
from harkd.distill import plot_summary
from harkd.evaluate import plot_ladder
from harkd.formats import MARKS, plot_pareto
from harkd.learning_curve import plot_learning_curve
from harkd.metrics import mean_interval, plot_confusion
from harkd.pretrain import plot_pretraining
from harkd.probe import ARM_NAMES, plot_probe
from harkd.significance import plot_predictions


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')


def texts(labels):
    return [label.get_text() for label in labels]


def legend(ax):
    return texts(ax.get_legend().get_texts())


def rows(**columns):
    return pd.DataFrame(columns)


def ablation():
    by_hand = rows(
        method=['recipe'] * 2 + ['lr=1'] * 2,
        fold=[1, 2] * 2,
        seed=0,
        n=10,
        params=9,
        accuracy=[0.5, 0.5, 0.6, 0.8],
    )
    ax = plot_ablation(by_hand)
    assert texts(ax.get_yticklabels()) == ['lr=1'] and ax.yaxis_inverted()
    assert ax.lines[1].get_xdata() == pytest.approx([20.0])
    return ax


def arena():
    ours = rows(
        dataset='utd_mhad',
        protocol='p',
        model='conv_80k',
        seed=[0, 1],
        macro_f1_all=[0.7, 0.9],
        macro_f1=0.5,
        accuracy=0.5,
    )
    ax = plot_arena(ours)
    names, values = texts(ax.get_yticklabels()), [bar.get_width() for bar in ax.patches]
    assert names[-1] == 'conv_80k' and values[-1] == pytest.approx(80.0)
    assert values == sorted(values) and len(values) == len(PUBLISHED['utd_mhad']) + 1
    assert ax.patches[-1].get_facecolor() == to_rgba(COLORS['student'])
    assert ax.patches[0].get_facecolor() == to_rgba('lightgrey')
    assert not ax.spines['top'].get_visible() and not ax.spines['right'].get_visible()
    return ax


def compare():
    diffs = dict(test_diff=[0.1, -0.2], test_low=[0.05, -0.3], test_high=[0.2, -0.1])
    ax = plot_compare(pd.DataFrame(diffs | {'test_holm': [0.01, 0.5]}, index=['kd', 'dkd']))
    assert texts(ax.get_yticklabels()) == ['dkd', 'kd']
    bars = [s[:, 0] for s in ax.containers[0].lines[2][0].get_segments()]
    np.testing.assert_allclose(bars, [[-30, -10], [5, 20]])
    return ax


def corruptions():
    names = ['none', 'noise 1', 'trouble pocket']
    table = rows(arm='control', model='s', method=names, accuracy=[0.9, 0.8, 0.4])
    ax = plot_corruptions(table)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [80, 40])
    assert texts(ax.get_xticklabels()) == ['noise 1', 'pocket'] and ax.get_ylim() == (0, 100)
    assert legend(ax) == ['control: s']
    assert [line.get_xdata()[0] for line in ax.lines[1:]] == [4.5, 9.5, 14.5, 19.5]
    return ax


def summary():
    arms = ('teacher', 'control', 'distilled', 'baseline')
    table = [
        dict(arm=arm, seed=seed, n=10, accuracy=0.6 + 0.1 * k + 0.02 * seed)
        for k, arm in enumerate(arms)
        for seed in (0, 1)
    ]
    mean = [0.61, 0.71, 0.81, 0.91]
    means = [dict(arm=a, accuracy=m, accuracy_high=m + 0.05) for a, m in zip(arms, mean)]
    means[3]['accuracy_high'] = float('nan')
    paired = dict(diff=0.1, low=0.05, high=0.15)
    ax = plot_summary(SimpleNamespace(metrics=dict(rows=table, summary=means, paired=paired)))
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([61, 71, 81, 91])
    np.testing.assert_allclose([d.get_ydata() for d in ax.lines[-1:]], [[90, 92]])
    assert ax.get_ylim() == pytest.approx((52, 100))
    names = ['teacher', 'student\nalone', 'distilled\nstudent', 'MiniRocket']
    assert texts(ax.get_xticklabels()) == names
    return ax


def ladder():
    table = rows(protocol=['random_windows', 'loso'], accuracy=[0.9, 0.7], n=10, seed=0)
    ax = plot_ladder(table)
    assert [bar.get_width() for bar in ax.patches] == [90, 70]
    assert ax.yaxis_inverted() and ax.get_xlim() == (0, 100)
    assert texts(ax.get_yticklabels()) == ['random windows', 'loso']
    assert texts(ax.texts) == ['90.0  test subjects were trained on', '70.0']
    return ax


def pareto():
    formats = ['onnx fp32', 'onnx int8', 'tflite fp16']
    sizes = [4000.0, 1000.0, 2000.0]
    table = rows(model='s', format=formats, bytes=sizes, accuracy=[0.9, 0.8, 0.85])
    ax = plot_pareto(table)
    files = ax.lines[:3]
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in files]
    np.testing.assert_allclose(points, [(4, 90), (1, 80), (2, 85)])
    assert [line.get_marker() for line in files] == ['o', '*', 's']
    assert [line.get_markerfacecolor() == 'none' for line in files] == [False, False, True]
    assert ax.get_xscale() == 'log' and legend(ax) == list(MARKS)
    assert texts(ax.texts) == ['s']
    return ax


def learning_curve():
    table = rows(
        model='s',
        arm='control',
        method=['1 subjects'] * 2 + ['3 subjects'],
        accuracy=[0.2, 0.4, 0.9],
    )
    ax = plot_learning_curve(table)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [(1, 30), (3, 90)])
    assert ax.get_xticks().tolist() == [1, 3] and legend(ax) == ['s']
    return ax


def confusion():
    ax = plot_confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), ('sit', 'walk'), title='t')
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.5, 0.5], [0, 1]])
    assert texts(ax.get_xticklabels()) == texts(ax.get_yticklabels()) == ['sit', 'walk']
    return ax


def pretraining():
    history = rows(epoch=[0, 10], reconstruction=[4.0, 1.0], contrast=[2.0, 1.0], supervised=3.0)
    ax = plot_pretraining(history)
    curves = [line.get_xydata().tolist() for line in ax.lines]
    assert curves == [[[0, 1], [100, last]] for last in (0.25, 0.5, 1.0)]
    assert legend(ax) == ['reconstruction', 'contrast', 'supervised']
    return ax


def predictions():
    table = pd.DataFrame({('control', 'a'): [0.5, 0.9], ('distilled', 'b'): [0.7, 1.0]})
    table.index = ['sit', 'walk']
    ax = plot_predictions(table, title='t')
    assert texts(ax.get_yticklabels()) == ['walk', 'sit']
    dots = [c.get_offsets().tolist() for c in ax.collections[1:]]
    np.testing.assert_allclose(dots, [[(90, 0), (50, 1)], [(100, 0), (70, 1)]])
    spans = [s[:, 0].tolist() for s in ax.collections[0].get_segments()]
    np.testing.assert_allclose(spans, [(90, 100), (50, 70)])
    assert legend(ax) == ['control: a', 'distilled: b']
    return ax


def probe():
    few, many = [0.2, 0.3, 0.4], [0.7, 0.8, 0.9]
    parts = [rows(arm='pretrained', method='k=5', fold=[1, 2, 3], macro_f1=many)]
    parts += [rows(arm='pretrained', method='k=1', fold=[1, 2, 3], macro_f1=few)]
    parts += [rows(arm='scratch', method='k=1', fold=[1, 2, 3], macro_f1=few)]
    ax = plot_probe(pd.concat(parts))
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [(1, 30), (5, 80)])
    band = ax.collections[0].get_paths()[0].vertices
    _, low, high = mean_interval(np.array(few))
    np.testing.assert_allclose(np.unique(band[band[:, 0] == 1, 1]), [100 * low, 100 * high])
    assert legend(ax) == [ARM_NAMES['pretrained'], ARM_NAMES['scratch']]
    colors = [line.get_color() for line in ax.lines]
    assert colors == [COLORS['student'], COLORS['teacher']]
    assert ax.get_xscale() == 'log' and '1' in texts(ax.get_xticklabels())
    return ax


AXES = {  # x, y, title
    ablation: ('difference to the recipe (points; ticks: folds)', '', 'What each change does'),
    arena: ('macro-F1 in %, utd_mhad (grey: published)', '', ''),
    compare: (
        'points to the student alone (test)',
        '',
        '1 of 2 better, 0 worse (p < 0.05, Holm)',
    ),
    corruptions: ('', 'accuracy (%)', 'Accuracy by corruption'),
    summary: ('', 'accuracy (%)', 'Gain from distillation: +10.0 points [+5.0, +15.0]'),
    ladder: ('accuracy (%)', '', 'One network, by protocol'),
    pareto: (
        'file (kB)',
        'accuracy (%)',
        'Smaller files, same subjects (filled: ONNX, hollow: TFLite)',
    ),
    learning_curve: (
        'training subjects',
        'accuracy (%)',
        'Accuracy on unseen subjects (band: SD over folds and seeds)',
    ),
    confusion: ('predicted', 'true', 't'),
    pretraining: ('training (%)', 'loss / first', 'All tasks are being learned'),
    predictions: ('correct (%)', '', 't'),
    probe: ('labelled recordings per class', 'macro-F1 (%)', ''),
}


@pytest.mark.parametrize('draw', AXES, ids=lambda draw: draw.__name__)
def test_a_plot_by_hand(draw):
    ax = draw()
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == AXES[draw]
