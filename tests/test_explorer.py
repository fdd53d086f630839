"The explorer: its figures, its controls, and both of its homes in a real browser"

import json
import os
import re
import shutil
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import ipywidgets
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from harkd.data import DATASETS, Recording, Stream, load_dataset
from harkd.distill import DistillConfig, run_distill
from harkd.explore import (
    AttributionExplorer,
    ControlPanel,
    ExplorerData,
    ExplorerState,
    OpenedRecording,
    _mark_controls,
    _stream_for,
    adapt_state,
    attribution_figure,
    compute_view,
    find_run,
    hide_stretch,
    load_explorer_data,
    make_controls,
    model_options,
    slide_range,
)
from harkd.language import label_in_words
from harkd.marks import Mark
from harkd.preprocess import cut_windows
from harkd.split import BatchLoader, by_subject, kfold_splits
from harkd.student import STUDENTS, make_student
from harkd.teacher import TEACHERS, Ensemble, make_teacher
from tests import servers

ROOT = Path(__file__).parent.parent
AXE = os.environ.get('HARKD_AXE', '')  # axe.min.js, from `npm pack axe-core`: checks accessibility
CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)
browser = pytest.mark.skipif(
    CHROMIUM is None,
    reason='no browser: apt-get install chromium (no download by playwright is needed)',
)
KINDS = (  # every student and teacher of a distillation run (the rocket has a test of its own)
    'distilled',
    'conv_20k',
    'conv_80k',
    'transformer',
    'transformer_motion',
    'teacher',
    'wide',
    'st_convt',
    'encoder',
    'ensemble',
)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A finished run on simulated bodies: inertial students, a teacher with the skeleton as well"
    cfg = DistillConfig(
        'synth',
        student='conv_8k',
        epochs=6,
        teacher_epochs=3,
        batch_size=8,
        fold=0,
        seeds=1,
        jobs=1,
        lr=0.01,
    )
    return run_distill(cfg, tmp_path_factory.mktemp('runs') / 'small').path


@pytest.fixture(scope='module')
def data(run):
    return load_explorer_data(run)


@pytest.fixture(scope='module')
def kinds(data):
    "The models of the run, and untrained ones of every other kind"
    windows = data.windows
    torch.manual_seed(0)
    more = {name: make_student(name, windows).eval() for name in KINDS if name in STUDENTS}
    more |= {name: make_teacher(name, windows).eval() for name in ('wide', 'st_convt', 'encoder')}
    more['ensemble'] = Ensemble.of([data.models['teacher'], more['st_convt']])
    return replace(data, models={**data.models, **more})


@pytest.fixture(scope='module')
def spar_data():
    "Cut windows of an accelerometer, and an untrained student"
    windows = cut_windows(load_dataset('spar'), ('imu:acc',))
    split = kfold_splits(windows, 2)[0]
    student = make_student('conv_8k', windows).eval()
    return ExplorerData(BatchLoader.fit(split), {'distilled': student}, split.val)


def broken_data(data):
    "The same recordings with NaN in all inertial samples"
    windows = data.windows
    imu = windows.signals['imu']
    nan = replace(imu, values=torch.full_like(imu.values, float('nan')))
    windows = replace(windows, signals={**windows.signals, 'imu': nan})
    return replace(
        data, loader=replace(data.loader, split=replace(data.loader.split, windows=windows))
    )


def send(widget, **state):
    "What the browser sends when a control is moved"
    content = {'data': {'method': 'update', 'state': state, 'buffer_paths': []}}
    widget._handle_msg({'content': content, 'buffers': []})


# data and state


def test_held_out_subjects_come_first_and_no_model_was_trained_on_them(data):
    trials = data.trials
    assert len(trials) == len(data.windows)
    assert trials.held.iloc[0] and not trials.held.iloc[-1]
    assert set(trials.who[trials.held]).isdisjoint(data.loader.split.subjects('train'))


def test_the_run_is_the_one_of_the_environment_else_the_newest(run, monkeypatch):
    monkeypatch.delenv('HARKD_RUN', raising=False)
    assert find_run(run.parent) == run
    monkeypatch.setenv('HARKD_RUN', 'runs/mine')
    assert find_run(run.parent) == Path('runs/mine')


def test_a_share_of_a_trial_is_at_most_one(data):
    with pytest.raises(ValueError, match='got 1.2'):
        compute_view(ExplorerState(data, share=1.2))


def test_hiding_replaces_all_inputs_and_leaves_the_originals():
    v, frames = torch.arange(1.0, 6)[None, :, None], torch.ones(1, 3, 2, 3)
    hidden = hide_stretch((v, frames), (0 * v, 0 * frames), -1, 2)
    assert hidden[0].sum() == hidden[1].sum() == 0 and v.sum() == 15


def test_hiding_a_stretch_gives_the_prediction_without_it(data):
    i = int(data.held[8])
    windows = data.windows
    row = windows.table.iloc[i]
    seconds = row.stop - row.start
    hidden = (row.start + 0.3 * seconds, row.start + 0.55 * seconds)
    for arm in ('distilled', 'teacher'):
        model = data.models[arm]
        inputs = []
        for k in model.inputs:
            v = data.loader.norm(windows.batch([i])).x[k].clone()
            n = v.shape[1]
            inside = [j for j in range(n) if 0.3 <= j / (n - 1) <= 0.55]
            v[:, inside] = v.mean(1, keepdim=True)
            inputs.append(v)
        with torch.no_grad():
            expected = model(*inputs).softmax(1)[0].numpy()
        view = compute_view(ExplorerState(data, i, arm=arm, hidden=hidden))
        np.testing.assert_allclose(view.p_hidden, expected, atol=1e-6)
        assert not np.allclose(view.p, expected)


def test_a_view_is_made_of_the_prediction_and_its_attribution(data):
    i = int(data.held[5])
    state = ExplorerState(data, i)
    view = compute_view(state)
    model = data.models['distilled']
    with torch.no_grad():
        p = model(data.loader.norm(data.windows.batch([i])).x['imu']).softmax(1)[0]
    np.testing.assert_allclose(view.p, p, atol=1e-6)
    assert (view.signal.shape, len(view.units), view.attention) == ((6, 100), 6, None)
    change, gap = float(view.attribution.change), float(view.attribution.gap)
    assert view.values.sum() == pytest.approx(change, abs=max(1e-3, 2 * gap))
    complete = compute_view(replace(state, complete=True)).attribution
    assert float(complete.relative_gap) <= float(view.attribution.relative_gap) + 1e-9
    target = compute_view(replace(state, target='squat')).target
    assert target == data.windows.classes.index('squat')


def test_the_row_of_a_skeleton_sums_to_its_attribution(data):
    view = compute_view(ExplorerState(data, int(data.held[5]), arm='teacher'))
    assert view.rows[-1] == 'skeleton' and view.joints.shape == (50, 20)
    expected = float(view.attribution.values[1].sum())
    assert view.values[-1].sum() == pytest.approx(expected, abs=1e-3)


def test_attention_depends_on_layer_and_head(kinds):
    state = ExplorerState(kinds, int(kinds.held[5]), arm='transformer')
    row = compute_view(state).attention
    assert row.sum() == pytest.approx(1.0, abs=1e-5)
    assert not np.allclose(row, compute_view(replace(state, head=2)).attention)
    assert not np.allclose(row, compute_view(replace(state, layer=1)).attention)


def test_recordings_with_nan_are_an_error(data):
    norm = data.loader.norm
    split = by_subject(broken_data(data).windows, data.loader.split.subjects('train'))
    broken = replace(data, loader=replace(data.loader, split=split, norm=norm))
    with pytest.raises(ValueError, match='NaN'):
        compute_view(ExplorerState(broken, int(data.held[5])))


# menus


@pytest.mark.parametrize('arm', KINDS)
def test_every_entry_of_every_menu_leads_to_a_figure(kinds, arm):
    options = model_options(kinds, arm)
    state = adapt_state(ExplorerState(kinds, int(kinds.held[3]), arm=arm), options)
    assert len(attribution_figure(state).data) == 12
    for field, entries in options.menus.items():
        for _, value in entries:
            if value == '' and field == 'attention':
                continue  # the one entry of a disabled menu
            chosen = replace(state, **{field: None if value == -1 else value})
            assert attribution_figure(chosen).to_json(), (field, value)


@pytest.mark.parametrize('arm', KINDS)
def test_the_controls_offer_these_entries_and_disable_a_menu_without_any(kinds, arm):
    explorer = AttributionExplorer(data=kinds)
    controls = explorer.controls
    controls['arm'].value = arm
    options = model_options(kinds, arm)
    for field, entries in options.menus.items():
        menu = controls[field]
        assert [value for _, value in menu.options] == [value for _, value in entries]
        assert menu.disabled == (field in options.reasons and len(entries) == 1)
        if menu.disabled:
            assert options.reasons[field] in menu.tooltip
            assert menu.options[0][0] == 'no attention'
        for _, value in menu.options:
            menu.value = value
            assert explorer.message.value == '', (field, value)
        menu.value = menu.options[0][1]


@pytest.mark.parametrize('arm', KINDS)
def test_combinations_of_attention_layer_and_head_lead_to_a_view(kinds, arm):
    options = model_options(kinds, arm)
    rng = np.random.default_rng(0)
    for _ in range(6 if options.attention else 0):
        state = ExplorerState(
            kinds,
            int(rng.choice(kinds.held)),
            arm=arm,
            method=str(rng.choice(options.methods)),
            attention=str(rng.choice(options.attention)),
            layer=int(rng.integers(1, options.layers + 1)),
            head=int(rng.integers(options.heads)),
        )
        assert np.isfinite(compute_view(state).attention).all()


@pytest.mark.parametrize(
    ('arm', 'layers', 'heads'),
    [
        ('distilled', 0, 0),
        ('transformer', 2, 4),
        ('transformer_motion', 2, 4),
        ('teacher', 0, 0),
        ('st_convt', 4, 4),
        ('ensemble', 0, 0),
    ],
)
def test_layers_and_heads_are_those_of_the_model(kinds, arm, layers, heads):
    options = model_options(kinds, arm)
    assert (options.layers, options.heads) == (layers, heads)
    assert ('layer' in options.reasons) == (layers == 0)


def test_every_student_and_teacher_has_its_turn(kinds):
    kind_of = {'distilled': 'conv_8k', 'teacher': 'fusion'}
    assert {*STUDENTS, *TEACHERS} - {kind_of.get(k, k) for k in KINDS} == {
        'rocket',
        'encoder_untrained',  # of the same class as 'encoder'
    }
    assert set(kinds.models) - set(KINDS) == {'control'}


def test_depth_and_heads_of_another_transformer_fill_the_menus(data):
    deep = make_student('transformer', data.windows, depth=5, heads=8).eval()
    options = model_options(replace(data, models={'distilled': deep}), 'distilled')
    assert [v for _, v in options.menus['layer']] == [-1, 1, 2, 3, 4, 5]
    assert [v for _, v in options.menus['head']] == [-1, *range(8)]


def test_gravity_is_offered_only_with_an_accelerometer(data):
    windows = cut_windows(load_dataset('synth'), ('imu:gyro',))
    split = kfold_splits(windows, 2)[0]
    student = make_student('conv_8k', windows, ('imu:gyro',)).eval()
    gyro = ExplorerData(BatchLoader.fit(split), {'distilled': student}, split.val)
    options = model_options(gyro, 'distilled')
    assert options.baselines == ('zero', 'mean')
    assert 'no accelerometer' in options.reasons['baseline']
    for baseline in options.baselines:
        compute_view(ExplorerState(gyro, baseline=baseline))
    assert 'gravity' in model_options(data, 'distilled').baselines


def test_a_model_without_gradients_offers_occlusion_alone(data):
    pytest.importorskip('aeon', reason="MiniRocket needs aeon: pip install 'harkd[bench]'")
    rocket = make_teacher('rocket', data.windows, kernels=200).eval()
    with_rocket = replace(data, models={**data.models, 'teacher': rocket})
    options = model_options(with_rocket, 'teacher')
    assert options.methods == ('occlusion',) and 'no gradient' in options.reasons['method']
    explorer = AttributionExplorer(data=with_rocket)
    explorer.controls['arm'].value = 'teacher'
    assert (explorer.message.value, explorer.state.method) == ('', 'occlusion')
    explorer.controls['arm'].value = 'distilled'
    explorer.controls['method'].value = 'gradient_x_input'
    explorer.controls['beside'].value = True
    methods = [s.method for s in explorer.panel.states]
    assert (explorer.message.value, methods) == ('', ['gradient_x_input', 'occlusion'])


def test_a_model_of_fewer_classes_offers_only_these(data):
    small = type(data.models['distilled'])(6, 3, (8, 8), (1,), (2,)).eval()
    few = replace(data, models={'distilled': small})
    assert list(model_options(few, 'distilled').classes) == list(data.windows.classes[:3])
    explorer = AttributionExplorer(data=few)
    assert [v for _, v in explorer.controls['target'].options] == ['', *data.windows.classes[:3]]
    assert explorer.controls['beside'].disabled


def test_choices_of_another_model_are_kept_where_they_exist(kinds):
    state = ExplorerState(kinds, arm='st_convt', layer=3, head=1, method='occlusion')
    moved = adapt_state(replace(state, arm='transformer'), model_options(kinds, 'transformer'))
    assert (moved.layer, moved.head, moved.method) == (None, 1, 'occlusion')
    moved = adapt_state(replace(state, arm='teacher'), model_options(kinds, 'teacher'))
    assert (moved.layer, moved.head) == (None, None)


def test_menus_of_recordings_follow_the_subject(data):
    explorer = AttributionExplorer(data=data)
    controls = explorer.controls
    controls['subject'].value = controls['subject'].options[-1][1]
    assert 'trained on' in controls['subject'].label
    row = data.windows.table.iloc[explorer.state.window]
    assert row.subject == controls['subject'].value
    assert data.windows.classes[row.label] == controls['activity'].value


def test_all_controls_of_a_panel_come_from_make_controls(spar_data):
    panel = ControlPanel(spar_data, lambda: None)
    assert set(panel.controls) == set(make_controls(spar_data))
    assert panel.controls['start'].max > 10


# figure


def test_a_figure_is_a_function_of_its_state(data):
    state = ExplorerState(data, int(data.held[3]), share=0.6, hidden=(0.2, 0.9), frame=20)
    before = repr(state)
    figure = attribution_figure(state).to_json()
    assert figure == attribution_figure(state).to_json() and repr(state) == before
    for change in (
        dict(arm='control'),
        dict(method='occlusion'),
        dict(baseline='zero'),
        dict(target='walk'),
        dict(start=0.3),
        dict(hidden=None),
        dict(frame=0),
        dict(share=0.5),
        dict(all_classes=True),
    ):
        assert attribution_figure(replace(state, **change)).to_json() != figure, change


def test_what_is_drawn_is_what_was_computed(data):
    i = int(data.held[5])
    low, high = slide_range(data.windows, i)
    middle = (low + high) / 2
    state = ExplorerState(data, i, hidden=(middle, high))
    view, figure = compute_view(state), attribution_figure(state)
    np.testing.assert_allclose(figure.data[0].z, view.values, atol=1e-6)
    assert figure.data[0].zmin == -figure.data[0].zmax
    assert f'{view.p.max():.0%}' in figure.layout.title.text
    marks = [(m.x0, m.x1) for m in figure.layout.shapes[2:]]
    assert marks == [(middle, high), (low, high), (middle, high)]
    assert [t.type for t in figure.data[:10]] == ['heatmap'] + ['scatter'] * 7 + ['bar'] * 2


def test_joints_have_the_place_and_colour_of_the_cursor(data):
    state = ExplorerState(data, int(data.held[5]), arm='teacher', frame=99)
    view = compute_view(state)
    joints = attribution_figure(state, view).data[-1]
    np.testing.assert_allclose(joints.x, view.skeleton[-1, :, 0], atol=1e-6)
    np.testing.assert_allclose(joints.marker.color, view.joints[-1], atol=1e-6)


@pytest.mark.parametrize('width', [600, 900, 1500])
def test_a_body_has_one_scale_for_both_axes(data, width):
    layout = attribution_figure(ExplorerState(data, 0), width=width).layout
    scales = []
    for axis, size in ((layout.xaxis5, layout.width), (layout.yaxis5, layout.height)):
        pixels = (axis.domain[1] - axis.domain[0]) * size
        scales.append((axis.range[1] - axis.range[0]) / pixels)
    assert scales[0] == pytest.approx(scales[1])


def test_without_a_skeleton_there_is_no_body(spar_data):
    assert len(attribution_figure(ExplorerState(spar_data)).data) == 10


def test_five_classes_come_first_and_are_written_as_numbers(data):
    state = ExplorerState(data, int(data.held[5]))
    view = compute_view(state)
    bars = attribution_figure(state, view).data[8]
    order = np.argsort(-view.p)[:5]
    assert list(bars.customdata[:5]) == [data.class_words[k] for k in order]
    assert list(bars.text[:5]) == [f'{view.p[k] * 100:.1f} %' for k in order]
    every = attribution_figure(replace(state, all_classes=True), view).data[8]
    assert len(every.x) == len(view.p) and list(every.x) == sorted(every.x, reverse=True)


def test_an_explained_class_is_shown_even_if_it_is_improbable(data):
    state = ExplorerState(data, int(data.held[5]))
    least = data.windows.classes[int(compute_view(state).p.argmin())]
    bars = attribution_figure(replace(state, target=least)).data[8]
    assert (len(bars.x), bars.customdata[5]) == (6, least)


def test_hover_texts_and_colour_bar_have_units(data):
    figure = attribution_figure(ExplorerState(data, int(data.held[5]), arm='teacher'))
    heatmap, line, joints = figure.data[0], figure.data[1], figure.data[-1]
    assert 'logit' in heatmap.colorbar.title.text and heatmap.showscale is not False
    assert 'logit' in heatmap.hovertemplate and heatmap.customdata[0][0] == 'acc_x'
    assert set(line.text) == {'m/s² (acc_x)', 'rad/s (gyro_x)'} and '%{text}' in line.hovertemplate
    assert 'logit' in joints.hovertemplate
    assert '%' in figure.data[8].hovertemplate and '% of the' in figure.data[5].hovertemplate


@pytest.mark.parametrize('width', [560, 720, 879, 880, 1240, 1500])
def test_panels_lie_inside_the_figure_and_apart(data, width):
    for arm in ('distilled', 'teacher'):
        layout = attribution_figure(ExplorerState(data, 0, arm=arm), width=width).layout
        assert layout.width == width
        panels = [
            (layout[x].domain, layout[y].domain)
            for x, y in (
                ('xaxis', 'yaxis'),
                ('xaxis', 'yaxis2'),
                ('xaxis3', 'yaxis3'),
                ('xaxis4', 'yaxis4'),
                ('xaxis5', 'yaxis5'),
            )
        ]
        for k, (x, y) in enumerate(panels):
            assert 0 <= x[0] < x[1] <= 1 and 0 <= y[0] < y[1] <= 1
            assert (x[1] - x[0]) * width > 100
            for other_x, other_y in panels[k + 1 :]:
                apart_x = x[1] <= other_x[0] or other_x[1] <= x[0]
                apart_y = y[1] <= other_y[0] or other_y[1] <= y[0]
                assert apart_x or apart_y


def font_sizes(node):
    "All font sizes of a figure as JSON, and those in its texts"
    if isinstance(node, dict):
        for key, value in node.items():
            if key == 'size' and not isinstance(value, (list, dict)):
                yield value
            yield from font_sizes(value)
    elif isinstance(node, list):
        for value in node:
            yield from font_sizes(value)
    elif isinstance(node, str):
        yield from map(float, re.findall(r'font-size:([\d.]+)px', node))


def test_no_text_of_a_figure_is_smaller_than_eleven_pixels(kinds):
    state = ExplorerState(kinds, 0, arm='st_convt', hidden=(0.2, 0.9))
    layout = json.loads(attribution_figure(state).to_json())['layout']
    layout.pop('template', None)
    sizes = list(font_sizes(layout))
    assert min(sizes) >= 11 and len(sizes) > 10


# explorer


def test_messages_from_the_browser_move_the_figure(data):
    explorer = AttributionExplorer(data=data)
    controls, figure = explorer.controls, explorer.figures[0]
    values = np.array(figure.data[0].z)
    send(controls['share'], value=0.5)
    send(controls['start'], value=controls['start'].max)
    assert figure.data[0].x[0] == pytest.approx(controls['start'].max)
    assert not np.allclose(values, figure.data[0].z)
    percent = np.array(figure.data[8].x)
    send(controls['hide'], value=[float(figure.data[0].x[10]), float(figure.data[0].x[50])])
    np.testing.assert_allclose(figure.data[8].x, percent)
    view = compute_view(explorer.state)
    shown = [data.class_words.index(name) for name in figure.data[9].customdata]
    np.testing.assert_allclose(figure.data[9].x, view.p_hidden[shown] * 100, atol=1e-4)
    send(controls['arm'], index=2)
    assert explorer.state.arm == 'teacher' and figure.data[0].z.shape[0] == 7


def test_what_is_redrawn_equals_what_is_drawn_anew(data):
    explorer = AttributionExplorer(data=data)
    controls = explorer.controls
    for name, state in (
        ('arm', dict(index=2)),
        ('share', dict(value=0.6)),
        ('start', dict(value=0.2)),
        ('frame', dict(value=33)),
        ('hide', dict(value=[0.3, 0.8])),
        ('method', dict(index=1)),
        ('target', dict(index=4)),
        ('all_classes', dict(value=True)),
        ('activity', dict(index=3)),
        ('arm', dict(index=0)),
        ('subject', dict(index=2)),
    ):
        send(controls[name], **state)
        width = explorer.figures[0].layout.width
        redrawn = json.loads(explorer.figures[0].to_json())
        anew = json.loads(attribution_figure(explorer.state, width=width).to_json())
        for trace in redrawn['data']:
            trace.pop('uid', None)
        assert redrawn == anew and not explorer.message.value, name


def test_the_width_of_the_page_sets_the_width_of_the_figures(data):
    explorer = AttributionExplorer(data=data)
    for page, alone, two in ((700, 692, 692), (1480, 1472, 722), (2540, 1500, 1252)):
        send(explorer.probe, width=page)
        assert explorer.figures[0].layout.width == alone
        explorer.controls['beside'].value = True
        assert [f.layout.width for f in explorer.figures] == [two, two]
        explorer.controls['beside'].value = False


def test_an_error_keeps_the_last_figure_and_stands_above_it(data):
    explorer = AttributionExplorer(data=data)
    figure = explorer.figures[0].to_json()
    for stretch in ((-3.0, -2.0), (1.0, 50.0), (1.0, 0.5)):
        explorer.occlude(*stretch)
        assert 'inside the recording' in explorer.message.value
        assert explorer.figures[0].to_json() == figure and len(explorer.shown) == 1
    children = explorer.widget.children
    assert children.index(explorer.message) < children.index(explorer.body)
    explorer.controls['frame'].value = 7  # the cursor of the last figure still moves
    assert explorer.figures[0].to_json() != figure and explorer.message.value
    explorer.controls['show'].click()
    assert explorer.message.value == '' and len(explorer.shown) == 1


def test_teacher_and_students_without_attention_show_a_figure_after_a_transformer(kinds):
    explorer = AttributionExplorer(data=kinds)
    controls = explorer.controls
    for arm in ('teacher', 'control', 'distilled'):
        controls['arm'].value = 'transformer'
        controls['layer'].value, controls['head'].value = 2, 3
        assert len(explorer.figures[0].data[6].y) == 100
        controls['arm'].value = arm
        assert (explorer.message.value, len(explorer.shown)) == ('', 1)
        assert len(explorer.figures[0].data[6].y) == 0 and controls['layer'].disabled


def test_comparing_shows_a_second_model_and_its_skeleton(kinds):
    explorer = AttributionExplorer(data=kinds)
    controls = explorer.controls
    controls['beside'].value = True
    assert [s.arm for s in explorer.panel.states] == ['distilled', 'teacher']
    assert len(explorer.shown) == 2
    figure = explorer.figures[0]
    controls['frame'].value = 60
    assert figure.layout.shapes[0].x0 == pytest.approx(explorer.views[0].time[60])
    joint = figure.data[11].x[11]
    controls['frame'].value = 10
    assert figure.data[11].x[11] != joint
    controls['beside'].value = False
    assert len(explorer.shown) == 1


def test_hiding_moves_the_slider_and_showing_all_resets_it(data):
    explorer = AttributionExplorer(data=data)
    controls = explorer.controls
    start, stop = explorer.views[0].time[[20, 60]]
    explorer.occlude(start, stop)
    assert controls['hide'].value == (start, stop)
    controls['show'].click()
    assert explorer.state.hidden is None and len(explorer.figures[0].data[9].x) == 0


def test_a_score_card_belongs_to_one_choice(data):
    explorer = AttributionExplorer(data=data)
    gap = float(explorer.views[0].attribution.relative_gap)
    explorer.controls['refine'].click()
    assert float(explorer.views[0].attribution.relative_gap) <= gap + 1e-9
    assert 'removing its strongest' in explorer.card.value and 'verdict' in explorer.card.value
    explorer.controls['baseline'].value = 'zero'
    assert explorer.card.value == ''


def test_nan_in_the_recordings_is_a_message(data):
    explorer = AttributionExplorer(data=broken_data(data))
    assert 'NaN' in explorer.message.value and explorer.shown == []


def test_cut_windows_slide_over_the_whole_recording(spar_data):
    explorer = AttributionExplorer(data=spar_data)
    hidden = {k for k, c in explorer.controls.items() if c.layout.display == 'none'}
    assert hidden == {'share'}  # and not the sliders beside it
    explorer.controls['start'].value = 3.02
    assert explorer.views[0].time[0] == pytest.approx(3.02)
    assert explorer.views[0].rows == ('acc_x', 'acc_y', 'acc_z')


def test_without_a_run_the_message_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.delenv('HARKD_RUN', raising=False)
    monkeypatch.setattr('harkd.explore.repo_root', lambda: tmp_path)
    assert 'make demo' in AttributionExplorer().message.value
    monkeypatch.setenv('HARKD_RUN', str(tmp_path / 'gone'))
    assert 'not a run folder' in AttributionExplorer().message.value


def test_a_missing_extra_names_what_to_install(data, monkeypatch):
    for name in ('plotly.graph_objects', 'ipywidgets'):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=r"pip install 'harkd\[explore\]'"):
            AttributionExplorer(data=data)
        monkeypatch.undo()


def test_the_first_figure_takes_less_than_five_seconds_of_the_processor(run):
    begin = time.process_time()
    explorer = AttributionExplorer(run)
    assert len(explorer.shown) == 1 and time.process_time() - begin < 5


# depth video, where the data set has one


def utd_data():
    "Trials of UTD-MHAD with a skeleton, and an untrained student"
    windows = cut_windows(load_dataset('utd_mhad'), ('imu', 'skeleton'))
    split = by_subject(windows, ['s1', 's3'], ['s5'])
    torch.manual_seed(0)
    student = make_student('conv_8k', windows, ('imu',)).eval()
    return ExplorerData(BatchLoader.fit(split), {'distilled': student}, split.val)


@pytest.fixture(scope='module')
def with_depth():
    from tests.conftest import data

    data('utd_mhad_small')
    return utd_data()


def test_the_sentence_above_the_figure_adds_up(data):
    state = ExplorerState(data, int(data.held[0]))
    view = compute_view(state)
    title = attribution_figure(state, view).layout.title.text.replace('−', '-')
    change, red, blue = (
        float(re.search(pattern, title)[1])
        for pattern in (r'differs by ([+-]\d+\.\d+)', r'red ([+-]\d+\.\d+)', r'blue ([+-]\d+\.\d+)')
    )
    assert red > 0 > blue and red + blue == pytest.approx(change, abs=0.05)
    assert f'gives {view.p_baseline[view.target]:.0%}' in title
    assert 'As recorded' not in title
    start = float(view.time[3])
    hidden = replace(state, hidden=(start, float(view.time[-3])))
    assert 'As recorded' in attribution_figure(hidden).layout.title.text


def test_classes_that_would_read_alike_stay_as_labelled(data):
    labels = ('Circle CW', 'circle_cw', '走る', 'turn -90', 'turn 90', 'WalkFast')
    windows = data.windows
    own = replace(windows, card=replace(windows.card, name='own', classes=labels))
    opened = ExplorerData(OpenedRecording(own, data.loader.norm), {}, data.held)
    wanted = ['Circle CW', 'circle_cw', '走る', 'turn -90', 'turn 90', 'walk fast']
    assert opened.class_words == wanted
    assert 'length of acc' in str(attribution_figure(ExplorerState(data)).layout.annotations)


def test_the_words_of_published_classes_are_all_different():
    for name, card in DATASETS.items():
        words = [label_in_words(label, name) for label in card.classes]
        assert len(set(words)) == len(words) and all(words), name


def test_a_hidden_stretch_is_framed_and_keeps_its_colours(data):
    state = ExplorerState(data, int(data.held[0]))
    time = compute_view(state).time
    shapes = attribution_figure(replace(state, hidden=(time[3], time[-3]))).layout.shapes
    (frame,) = [s for s in shapes if s.xref == 'x' and s.x1 > s.x0]
    assert frame.fillcolor is None and frame.line.width > 0


def test_the_depth_frame_is_the_one_of_the_cursor(with_depth):
    state = ExplorerState(with_depth, int(with_depth.held[5]))
    view = compute_view(state)
    frames = []
    for sample, number in ((0, 0), (len(view.time) - 1, len(view.depth) - 1)):
        picture = attribution_figure(replace(state, frame=sample), view).data[-1]
        true = view.depth[number]
        np.testing.assert_allclose(np.array(picture.z)[true > 0], true[true > 0], atol=1e-6)
        frames.append(np.array(picture.z))
    assert np.abs(frames[0] - frames[1]).max() > 0.1 and 0.5 < np.median(frames[0]) < 6


@pytest.mark.parametrize('width', [600, 879, 880, 1500])
def test_the_depth_video_lies_apart_from_the_body_and_inside_the_figure(with_depth, width):
    layout = attribution_figure(ExplorerState(with_depth), width=width).layout
    (left, right), (bottom, top) = layout.xaxis6.domain, layout.yaxis6.domain
    assert 0 <= left < right <= 1 and 0 <= bottom < top < layout.yaxis5.domain[0]
    pixels = (right - left) * layout.width / 80, (top - bottom) * layout.height / 60
    assert pixels[0] == pytest.approx(pixels[1], rel=0.01)


def test_without_depth_videos_there_is_no_panel(data):
    assert compute_view(ExplorerState(data)).depth is None


# in a browser


@pytest.fixture
def serve(run, tmp_path):
    "Starts JupyterLab or voila with folders of its own; stops it at the end"
    started = []

    def begin(kind):
        shutil.copy(ROOT / 'apps' / 'explorer.ipynb', tmp_path / 'explorer.ipynb')
        env = {**servers.home_environment(tmp_path / 'home'), 'HARKD_RUN': str(run)}
        if kind == 'voila':
            command, probe = partial(servers.voila_command, 'explorer.ipynb'), '/voila/static/'
        else:
            command, probe = partial(servers.lab_command, tmp_path), '/api'
        process, url = servers.start(command, probe, tmp_path, env)
        started.append(process)
        return url if kind == 'voila' else f'{url}/lab/tree/explorer.ipynb'

    yield begin
    for process in started:
        servers.stop(process)


PLOT = "document.querySelector('.js-plotly-plot')"
SMALL_TEXT = """() => {
    const texts = '.js-plotly-plot text, .widget-label, .widget-readout, .widget-dropdown select';
    return [...document.querySelectorAll(texts)]
        .filter(e => e.textContent.trim() && e.getBoundingClientRect().width > 0)
        .filter(e => parseFloat(getComputedStyle(e).fontSize) < 11)
        .map(e => e.textContent);
}"""
OVERLAPS = """() => {
    const cross = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
        && a.top < b.bottom - 2 && b.top < a.bottom - 2;
    const boxes = elements => [...elements]
        .map(e => [e.textContent.trim(), e.getBoundingClientRect()])
        .filter(([text, box]) => box.width > 0);
    const found = [];
    const compare = all => all.forEach(([text, a], i) => {
        for (const [other, b] of all.slice(i + 1))
            if (cross(a, b)) found.push(text + ' / ' + other);
    });
    for (const plot of document.querySelectorAll('.js-plotly-plot')) {
        const page = plot.getBoundingClientRect();
        if (!page.width) continue;
        const texts = boxes(plot.querySelectorAll('text')).filter(([text]) => text);
        for (const [text, a] of texts)
            if (a.left < page.left - 1 || a.right > page.right + 1 || a.top < page.top - 1)
                found.push(text + ' is cut');
        compare(texts);
        const panels = Object.entries(plot._fullLayout._plots).map(([name, p]) => [name, {
            left: p.xaxis._offset, right: p.xaxis._offset + p.xaxis._length,
            top: p.yaxis._offset, bottom: p.yaxis._offset + p.yaxis._length,
        }]);
        compare(panels);
        const body = Object.fromEntries(panels).x5y5;
        for (const joint of plot.querySelectorAll('.x5y5 .points path')) {
            const b = joint.getBoundingClientRect();
            if (b.left < page.left + body.left - 8 || b.right > page.left + body.right + 8
                || b.top < page.top + body.top - 8 || b.bottom > page.top + body.bottom + 8)
                found.push('a joint lies outside of its panel');
        }
    }
    const controls = '.widget-dropdown, .widget-hslider, .jupyter-button, .widget-play';
    compare(boxes(document.querySelectorAll(controls)).filter(([text]) => text));
    return found;
}"""


UNNAMED = """() => [...document.querySelectorAll('.noUi-handle, .jupyter-button')]
    .filter(e => !e.textContent.trim() && !e.getAttribute('aria-label'))
    .map(e => e.className)"""


class Page:
    "The explorer on a page: reads its figure and moves its controls"

    def __init__(self, page, name):
        self.page, self.name = page, name
        self.folder = ROOT / 'test-artefacts'
        self.folder.mkdir(exist_ok=True)
        self.plot = page.locator('.js-plotly-plot').first

    def read(self, expression):  # of the plot g
        return self.plot.evaluate(f'g => {expression}')

    def wait(self, expression, before=None):  # until an expression of the plot g is another one
        self.page.wait_for_function(
            f'b => {{const g = {PLOT}; return JSON.stringify({expression}) !== JSON.stringify(b)}}',
            arg=before,
            timeout=60000,
        )

    def press(self, label, key, times):
        slider = self.page.locator('.widget-hslider', has_text=label)
        slider.locator('.noUi-handle').first.focus()
        for _ in range(times):
            self.page.keyboard.press(key)

    def choose(self, label, option):
        self.page.locator('.widget-dropdown', has_text=label).locator('select').select_option(
            option
        )

    def shot(self, what):
        self.page.screenshot(path=self.folder / f'{self.name}_{what}.png', full_page=True)

    def drag(self, start, stop):  # shares of the width of the signals
        box = self.plot.locator('.nsewdrag').first.bounding_box()
        y = box['y'] + box['height'] / 2
        self.page.mouse.move(box['x'] + start * box['width'], y)
        self.page.mouse.down()
        self.page.mouse.move(box['x'] + (start + stop) / 2 * box['width'], y, steps=6)
        self.page.mouse.move(box['x'] + stop * box['width'], y, steps=6)
        self.page.mouse.up()


START = 'Array.from(g._fullLayout.xaxis.range)'
BARS, HIDDEN_BARS = 'Array.from(g._fullData[8].x)', 'Array.from(g._fullData[9].x ?? [])'
JOINTS = 'Array.from(g._fullData[11].x)'


def slide(p):
    "A part of the trial, then along it: the range of the signals and the probabilities change"
    before = p.read(START)
    p.press('share', 'ArrowLeft', 6)
    p.wait(START, before)
    shown = 'g._fullLayout.xaxis.range[1] - g._fullLayout.xaxis.range[0]'
    p.wait(f'Math.abs(({shown}) / g._fullLayout.xaxis3.range[1] - 0.7) < 0.05', False)
    before, percent = p.read(START), p.read(BARS)
    p.press('window at', 'ArrowRight', 8)
    p.wait(START, before)
    p.wait(BARS, percent)
    p.shot('1_slid')


def hide(p):
    "A drag over the signals hides a stretch: a second bar for every class"
    from playwright.sync_api import TimeoutError

    assert 'hidden' not in p.plot.locator('.gtitle').text_content()
    hidden = (
        f"(g => g.querySelector('.gtitle').textContent.includes('stretch hidden')"
        f' && g._fullData[9].x?.length >= 5)({PLOT})'
    )
    for attempt in range(3):  # a drag that begins while the figure is redrawn is lost
        p.drag(0.25, 0.7)
        try:
            p.page.wait_for_function(hidden, timeout=30000)
            break
        except TimeoutError:
            if attempt == 2:
                raise
    before, after = p.read(BARS), p.read(HIDDEN_BARS)
    assert len(before) == len(after) >= 5
    assert max(abs(a - b) for a, b in zip(before, after)) > 0.01
    p.shot('2_hidden')


def move_cursor_and_compare(p):
    before = p.read(JOINTS)
    assert len(before) == 20
    p.press('cursor', 'ArrowRight', 12)
    p.wait(JOINTS, before)
    p.page.get_by_role('button', name='compare').click()
    second = "document.querySelectorAll('.js-plotly-plot')[1]?._fullData?.[11]?.marker.color"
    p.page.wait_for_function(f'{second}?.some(c => c != 0)', timeout=60000)
    p.shot('3_compared')


def check_layout(p, width):
    "No text is small, cut, or over another one"
    p.page.set_viewport_size({'width': width, 'height': 1300})
    p.page.wait_for_timeout(2500)
    assert p.page.evaluate(SMALL_TEXT) == []
    assert p.page.evaluate(OVERLAPS) == [], width
    for plot in p.page.locator('.js-plotly-plot').all():
        box = plot.bounding_box()
        if box and p.name == 'voila':
            assert box['x'] + box['width'] <= width + 1


def check_accessibility(p):
    "Nothing serious that axe-core finds on the page"
    p.page.add_script_tag(path=AXE)
    found = p.page.evaluate('async () => (await axe.run(document)).violations')
    rows = [(v['impact'], v['id'], len(v['nodes']), v['nodes'][0]['html'][:200]) for v in found]
    (p.folder / f'{p.name}_axe.json').write_text(json.dumps(rows, indent=1))
    assert [r for r in rows if r[0] in ('serious', 'critical')] == []


def open_notebook(page, sync):
    page.locator('.jp-Notebook').wait_for(timeout=90000)
    page.get_by_text('| Idle').wait_for(timeout=90000)
    started = page.locator('.jp-InputPrompt', has_text=re.compile(r'\[(\*|1)\]'))
    for _ in range(10):  # a run that is requested while the kernel connects is lost
        page.get_by_text('Run', exact=True).first.click()
        page.get_by_text('Run All Cells', exact=True).click()
        try:
            started.first.wait_for(timeout=4000)
            return
        except sync.TimeoutError:
            continue


def drive(p):
    p.plot.wait_for(timeout=90000)
    p.shot('0_first')
    slide(p)
    hide(p)
    p.choose('model', 'teacher')  # without attention, as the student: the figure stays
    p.page.wait_for_function(f'{PLOT}._fullData[0].z.length == 7', timeout=60000)
    p.choose('model', 'distilled student')
    p.page.wait_for_function(f'{PLOT}._fullData[0].z.length == 6', timeout=60000)
    assert p.page.locator('.widget-dropdown', has_text='layer').locator('select').is_disabled()
    for width in (1024, 2560, 1500):
        check_layout(p, width)
        p.shot(f'width_{width}')
    move_cursor_and_compare(p)
    assert p.page.evaluate(UNNAMED) == []  # for screen readers
    if AXE and p.name == 'voila':
        check_accessibility(p)
    for width in (1024, 2560, 1500):
        check_layout(p, width)
        p.shot(f'compared_{width}')


@browser
@pytest.mark.parametrize('kind', ['lab', 'voila'])
def test_in_a_browser(kind, serve):
    sync = pytest.importorskip(
        'playwright.sync_api', reason='no playwright: pip install playwright'
    )
    url = serve(kind)
    errors = []

    def on_console(message):
        if message.type == 'error':
            errors.append(f'{message.text} {message.location.get("url", "")}')

    with sync.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        page = chromium.new_page(viewport={'width': 1500, 'height': 1300})
        page.on('pageerror', lambda e: errors.append(f'page: {e}'))
        page.on('console', on_console)
        page.goto(url, timeout=120000)
        if kind == 'lab':
            open_notebook(page, sync)
        explorer = Page(page, kind)
        try:
            drive(explorer)
        except Exception:
            explorer.shot('failed')
            raise
        finally:
            (explorer.folder / f'{kind}_console.txt').write_text('\n'.join(errors))
    # voila's template requests fonts from the web
    own = [e for e in errors if not ('Failed to load resource' in e and '127.0.0.1' not in e)]
    assert not own, own


@browser
def test_the_depth_frame_changes_with_the_cursor(with_depth, tmp_path):
    sync = pytest.importorskip(
        'playwright.sync_api', reason='no playwright: pip install playwright'
    )
    code = 'from tests.test_explorer import AttributionExplorer, utd_data'
    cells = [nbformat.v4.new_code_cell(c) for c in (code, 'AttributionExplorer(data=utd_data())')]
    kernel = {'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, tmp_path / 'depth.ipynb')
    command = partial(servers.voila_command, 'depth.ipynb')
    env = servers.home_environment(tmp_path / 'home')
    process, url = servers.start(command, '/voila/static/', tmp_path, env)
    try:
        with sync.sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
            page = chromium.new_page(viewport={'width': 1500, 'height': 1300})
            page.goto(url, timeout=120000)
            explorer = Page(page, 'depth')
            explorer.plot.wait_for(timeout=120000)
            frame = 'Array.from(g._fullData.at(-1).z, row => Array.from(row))'
            before = explorer.read(frame)
            explorer.press('cursor', 'End', 1)
            explorer.wait(frame, before)
            explorer.shot('moved')
            assert page.evaluate(UNNAMED) == []  # for screen readers
            for width in (1024, 1500):
                check_layout(explorer, width)
    finally:
        servers.stop(process)


def test_controls_of_marks_say_what_they_do_or_why_they_do_nothing():
    windows = SimpleNamespace(classes=('a', 'b'))
    for folder in (Path('runs/x'), None):
        controls = _mark_controls(ipywidgets, SimpleNamespace(folder=folder, windows=windows), {})
        assert controls.keys() == {'name', 'marks', 'mark', 'forget'}
        assert {c.disabled for c in controls.values()} == {folder is None}
        tips = {controls[name].tooltip for name in ('marks', 'mark', 'forget')}
        why = 'these data belong to no run' in min(tips)
        assert (len(tips) == 1 and why) if folder is None else (len(tips) == 3 and not why)


def test_marks_are_kept_and_those_of_another_hand_are_read(data):
    "What is in the file counts: another page may have written there"
    panel = ControlPanel(data, lambda: None)
    panel.controls['name'].value = 'first'
    panel.mark(0.2, 0.6)
    other = Mark(panel.recording, 0.7, 0.9, 'second')
    panel.keep_marks([*panel.marks, other, other])
    try:
        assert [m.name for m in panel.marks] == ['first', 'second']
        assert [m for _, m in panel.controls['marks'].options] == panel.marks
        assert not panel.controls['forget'].disabled
    finally:
        panel.keep_marks([])
    assert panel.marks == [] and panel.controls['forget'].disabled


def test_the_chosen_mark_is_forgotten_and_the_others_stay(data):
    explorer = AttributionExplorer(data=data)
    marks, forget = (explorer.controls[name] for name in ('marks', 'forget'))
    kept = [Mark(explorer.panel.recording, k / 10, k / 10 + 0.3, f'mark {k}') for k in range(3)]
    explorer.panel.keep_marks(kept)
    try:
        for chosen in (kept[1], kept[0]):
            marks.value = chosen
            forget.click()
            kept.remove(chosen)
            assert explorer.panel.marks == [m for _, m in marks.options] == kept
    finally:
        explorer.panel.keep_marks([])


def test_a_mark_without_a_hidden_stretch_is_the_window_that_is_shown(data):
    explorer = AttributionExplorer(data=data)
    explorer.controls['name'].value = 'all of it'
    explorer.controls['mark'].click()
    try:
        (mark,) = explorer.panel.marks
        shown = explorer.views[0].time
        assert (mark.start, mark.stop) == pytest.approx((shown[0], shown[-1]), abs=1e-4)
    finally:
        explorer.panel.keep_marks([])


@pytest.mark.parametrize('units', [('m/s²',), ('m/s²', 'mm/s²', 'cm/s²')])
def test_channels_are_taken_in_the_order_of_the_model_with_their_units(units):
    "A stream has a unit for each channel, or one for all"
    own = Stream(np.eye(3), np.arange(3.0), ('acc_z', 'acc_x', 'acc_y'), units)
    poor = Stream(np.ones((3, 1)), np.arange(3.0), ('acc_x',), ('m/s²',))
    channels = {'imu:acc': ('acc_x', 'acc_y', 'acc_z', 'acc_norm'), 'imu': ('acc_x', 'gyro_x')}
    recording = Recording('r', 's1', 'own', {'poor': poor, 'own': own}, ())
    stream, inputs = _stream_for(recording, ['imu', 'imu:acc'], channels)
    assert inputs == ['imu:acc'] and stream.channels == ('acc_x', 'acc_y', 'acc_z')
    np.testing.assert_array_equal(stream.values, np.eye(3)[:, [1, 2, 0]])
    assert stream.units == (units if len(units) == 1 else ('mm/s²', 'cm/s²', 'm/s²'))
    assert _stream_for(recording, ['imu'], channels) == (None, [])


def test_a_dropped_file_is_shown_with_notes_or_refused_with_the_reason(spar_data, tmp_path):
    explorer = AttributionExplorer(data=spar_data)
    t = np.arange(600) / 50
    table = pd.DataFrame({'time': t, 'acc_x': np.sin(9 * t), 'acc_y': 0.5, 'acc_z': 9.81})
    table.round(4).to_csv(tmp_path / 'walk.csv', index=False)
    said = explorer._open_dropped(tmp_path / 'walk.csv')
    assert re.match(r'walk\.csv: \w+.*; ', said) and explorer.source.value == 'walk.csv'
    assert explorer.views[0].rows == ('acc_x', 'acc_y', 'acc_z')
    (tmp_path / 'bad.csv').write_text('hello\n')
    assert explorer._open_dropped(tmp_path / 'bad.csv') == ''
    assert 'bad.csv was not opened' in explorer.message.value


def test_a_notebook_shows_the_page_of_the_explorer(spar_data):
    shown = AttributionExplorer(data=spar_data)._repr_mimebundle_()
    shown = shown[0] if isinstance(shown, tuple) else shown
    assert 'application/vnd.jupyter.widget-view+json' in shown
