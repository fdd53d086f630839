"Live figures: every value of every control leads to a picture, drawn by either library"

import sys
from functools import partial

import numpy as np
import pytest
import torch

from harkd.attribute import gradient_picture
from harkd.augment import augmentation_picture
from harkd.corruptions import corruption_picture
from harkd.data import load_dataset
from harkd.preprocess import cut_windows
from harkd.quantize import bits_picture
from harkd.rollout import rollout_picture
from harkd.split import BatchLoader, by_subject
from harkd.student import make_student
from harkd.tokens import patch_picture
from harkd.widgets import (
    LiveFigure,
    Panel,
    Picture,
    bars,
    heat,
    line,
    marks,
    matplotlib_figure,
    menu,
    picture_png,
    plotly_figure,
    slider,
    switch,
)


@pytest.fixture(scope='module')
def loader():
    windows = cut_windows(load_dataset('spar'), ('imu:acc',), window_s=2.0, stride_s=20.0)
    return BatchLoader.fit(by_subject(windows, ['s1', 's2'], ['s3']))


@pytest.fixture(scope='module')
def x(loader):
    return torch.cat([b.x['imu:acc'] for b in loader.eval_batches(loader.split.val)])


def untrained(loader, kind):
    torch.manual_seed(0)
    return make_student(kind, loader.split.windows, ('imu:acc',)).eval()


def live_figures(loader, x):
    "The live figures of the chapters, with their controls"
    windows, names = loader.split.windows, loader.split.windows.channels('imu:acc')
    ids = loader.split.val
    conv, transformer = untrained(loader, 'conv_8k'), untrained(loader, 'transformer_motion')
    families = ('noise', 'dropped', 'gap', 'rotation', 'trouble')
    return {
        'augment': (
            partial(augmentation_picture, windows, loader.norm),
            dict(
                warp=slider(0.0, 0.9, 0.1),
                rotate=slider(0.0, 180.0, 5.0),
                scale=slider(0.0, 1.0, 0.1),
                jitter=slider(0.0, 1.0, 0.1),
                blank=slider(0.0, 0.8, 0.1),
                draw=slider(0, 20, 1),
            ),
        ),
        'tokens': (
            partial(patch_picture, x, names),
            dict(
                n_patches=slider(4, 20, 1, 8),
                n_min=slider(1, 4, 1, 4),
                even=slider(0.05, 1.0, 0.05, 0.3),
                low=slider(0.0, 0.7, 0.1),
                high=slider(0.8, 1.5, 0.1),
            ),
        ),
        'gradients': (
            partial(gradient_picture, conv, x, names),
            dict(baseline=menu('mean', 'zero', 'gravity'), steps=slider(1, 128, 1)),
        ),
        'rollout': (
            partial(rollout_picture, transformer, x, names),
            dict(
                kind=menu('rollout', 'gradient_rollout', 'class_attention'),
                layers=slider(1, 2, 1),
                head=slider(-1, 3, 1),
            ),
        ),
        'corruptions': (
            partial(corruption_picture, conv, loader, ids),
            dict(family=menu(*families), step=slider(1, 5, 1), seed=slider(0, 20, 1)),
        ),
        'quantize': (
            partial(bits_picture, conv, x, loader.split.windows.y[ids]),
            dict(bits=slider(2, 12, 1, 4), by_channel=switch(True)),
        ),
    }


FIGURES = ('augment', 'tokens', 'gradients', 'rollout', 'corruptions', 'quantize')


@pytest.mark.parametrize('name', FIGURES)
def test_every_value_of_every_control_leads_to_another_figure(name, loader, x):
    draw, controls = live_figures(loader, x)[name]
    live = LiveFigure(draw, **controls)
    for field, control in controls.items():
        seen = set()
        for value in control.choices:
            live.controls[field].value = value
            assert (live.message.value, live.state[field]) == ('', value)
            seen.add(live.figure.to_json())
        assert len(seen) > 1 or field in ('n_min', 'draw', 'seed', 'low', 'high'), field
        live.set(**{field: control.start})


@pytest.mark.parametrize('name', FIGURES)
def test_a_picture_is_a_function_of_its_values(name, loader, x):
    draw, controls = live_figures(loader, x)[name]
    start = {field: control.start for field, control in controls.items()}
    first, again = (plotly_figure(draw(**start)).to_json() for _ in range(2))
    assert first == again and picture_png(draw(**start))[:4] == b'\x89PNG'


@pytest.mark.parametrize('name', FIGURES)
def test_curves_and_bars_fill_their_axes_and_stay_inside(name, loader, x):
    draw, controls = live_figures(loader, x)[name]
    for k in (None, -1):
        values = {f: c.start if k is None else c.choices[k] for f, c in controls.items()}
        reach = {}  # panels beside each other may share their limits
        for panel in draw(**values).panels:
            drawn = [np.ravel(t.y) for t in panel.traces if t.kind in ('line', 'bars')]
            y, (low, high) = np.concatenate([*drawn, np.zeros(0)]), panel.limits
            y = y[np.isfinite(y)]
            if len(y) and (low, high) not in ((0, 1.05), (0, 105)):  # probabilities and percent
                assert low <= y.min() and y.max() <= high
                share = max(abs(y.min()), abs(y.max())) / max(abs(low), abs(high))
                reach[low, high] = max(share, reach.get((low, high), 0))
        assert all(share > 0.8 for share in reach.values())


def test_both_libraries_draw_all_kinds_of_traces():
    kinds = (line([0, 1], [2, 3], 'a'), bars(['p', 'q'], [1, 2]), marks([0.5]))
    panels = (Panel(kinds), Panel((heat([0, 1, 2], ['u', 'v'], np.eye(2, 3)),)))
    picture = Picture(panels, 'Title <b>', (2, 1))
    types = [t.type for t in plotly_figure(picture).data]
    assert types == ['scatter', 'bar', 'scatter', 'heatmap']
    left, right = matplotlib_figure(picture).axes
    assert (len(left.patches), len(left.lines), len(right.images)) == (2, 2, 1)
    assert '&lt;b&gt;' in plotly_figure(picture).layout.title.text


def test_no_text_of_a_live_figure_is_smaller_than_eleven_pixels():
    layout = plotly_figure(Picture((Panel((line([0], [1], 'a'),), 't', 'x', 'y'),), 'T')).layout
    sizes = [layout.title.font.size, layout.font.size, layout.xaxis.tickfont.size]
    sizes += [layout.legend.font.size, layout.annotations[0].font.size]
    assert min(sizes) >= 11


def test_an_error_keeps_the_last_figure_and_goes_with_the_next_choice():
    def draw(k):
        if k == 2:
            raise ValueError('k must not be <2>')
        return Picture((Panel((line([0, 1], [0, k]),)),), str(k))

    live = LiveFigure(draw, k=slider(1, 3, 1))
    shown = live.figure.to_json()
    live.controls['k'].value = 2
    assert 'must not be &lt;2&gt;' in live.message.value and live.figure.to_json() == shown
    live.controls['k'].value = 1
    assert live.message.value == ''


def test_a_changed_number_of_traces_is_drawn():
    def draw(n):
        return Picture((Panel(tuple(line([0, 1], [0, k]) for k in range(n))),))

    live = LiveFigure(draw, n=slider(1, 4, 1))
    live.controls['n'].value = 3
    assert len(live.figure.data) == 3


@pytest.mark.parametrize('missing', ['ipywidgets', 'plotly.graph_objects', 'anywidget'])
def test_without_the_extra_the_picture_is_shown_alone(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    live = LiveFigure(lambda k: Picture((Panel((line([0, 1], [0, k]),)),), 'x'), k=slider(1, 3, 1))
    shown = live._repr_mimebundle_()
    assert set(shown) == {'image/png', 'text/plain'}
    assert "pip install 'harkd[explore]'" in shown['text/plain']
    live.set(k=2)
    assert live._repr_mimebundle_()['image/png'] != shown['image/png']


def test_what_a_notebook_shows_has_the_widget_and_the_picture():
    live = LiveFigure(lambda k: Picture((Panel((line([0, 1], [0, k]),)),), 'x'), k=slider(1, 3, 1))
    shown = live._repr_mimebundle_()
    assert set(shown) >= {'image/png', 'application/vnd.jupyter.widget-view+json'}
