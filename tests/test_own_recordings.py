"Files of one's own in the explorer, read by the models of a run or by a bundle, and marks"

import numpy as np
import pandas as pd
import pytest
import torch

from harkd.cli import _explorer_variables
from harkd.data import BadRecording
from harkd.distill import DistillConfig, open_run, run_distill
from harkd.enrol import enrol_marks
from harkd.explore import (
    AttributionExplorer,
    BundleModel,
    ExplorerState,
    OpenedModels,
    attribution_figure,
    compute_view,
    load_explorer_data,
    model_options,
    open_recording,
)
from harkd.formats import export
from harkd.marks import Mark, read_marks, write_marks
from harkd.runtime import Bundle


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "Students of two-second windows of SPAR's accelerometer, and a teacher with the gyroscope"
    cfg = DistillConfig(
        'spar', student='conv_8k', epochs=1, teacher_epochs=1, steps=0, fold=0, seeds=1, jobs=1
    )
    return run_distill(cfg, tmp_path_factory.mktemp('runs') / 'own').path


@pytest.fixture(scope='module')
def bundle_folder(run, tmp_path_factory):
    return export(run, tmp_path_factory.mktemp('bundles') / 'bundle')


@pytest.fixture(scope='module')
def models(run):
    return OpenedModels.of(load_explorer_data(run))


def write(path, n=600, fs=50.0, gyro=False, unit=1.0, label=None, shift=0.0):
    "A file of a logger: gravity and a swing, in g"
    t = np.arange(n) / fs
    swing = 0.4 * np.sin(11 * t)
    table = pd.DataFrame({'time': t + shift, 'acc_x': swing, 'acc_y': 0.1 * swing, 'acc_z': 1.0})
    table[['acc_x', 'acc_y', 'acc_z']] *= unit
    if gyro:
        table = table.assign(gyro_x=swing, gyro_y=0.0, gyro_z=2 * swing)
    if label is not None:
        table['activity'] = label
    table.round(5).to_csv(path, index=False)
    return path


def test_a_file_is_read_in_si_units_at_the_rate_and_with_the_windows_of_the_models(
    models, tmp_path
):
    path = write(tmp_path / 'own.csv', n=1200, fs=100.0)
    data = open_recording(path, models)
    windows = data.windows
    assert windows.card.fs == 50 and windows.length['imu:acc'] == 200
    x = windows.batch([0]).x['imu:acc'][0].numpy()
    t = np.arange(200) / 50
    np.testing.assert_allclose(x[20:-20, 0], 9.80665 * 0.4 * np.sin(11 * t[20:-20]), atol=0.02)
    assert any('in g' in note or "'g'" in note for note in data.loader.notes)
    assert list(data.models) == ['distilled', 'control']
    assert 'gyro_x' in data.missing['teacher'] and set(data.trials.activity) == {'not labelled'}


def test_columns_in_another_order_are_the_same_to_a_model(models, tmp_path):
    path = write(tmp_path / 'own.csv', gyro=True)
    table = pd.read_csv(path)
    other = tmp_path / 'other.csv'
    table[['gyro_z', 'acc_z', 'time', 'acc_x', 'gyro_x', 'acc_y', 'gyro_y']].to_csv(
        other, index=False
    )
    first, second = (open_recording(p, models) for p in (path, other))
    for arm in ('distilled', 'control', 'teacher'):
        a, b = (compute_view(ExplorerState(d, 0, arm=arm)) for d in (first, second))
        np.testing.assert_array_equal(a.values, b.values)
        assert a.p.tolist() == b.p.tolist()


def test_what_a_student_decides_on_a_file_is_what_it_decides_on_the_same_samples(run, tmp_path):
    _, loader, ids, trained = open_run(run)
    windows = loader.split.windows
    x = windows.batch([int(ids[3])]).x['imu:acc'][0].numpy()
    table = pd.DataFrame(x, columns=['acc_x', 'acc_y', 'acc_z'])
    table.insert(0, 'time', np.arange(len(x)) / 50)
    table.assign(activity='PEN').to_csv(tmp_path / 'same.csv', index=False)
    models = OpenedModels.of(load_explorer_data(run))
    data = open_recording(tmp_path / 'same.csv', models, {'units.acc': 'm/s2'})
    assert data.trials.activity[0] == 'PEN'
    with torch.no_grad():
        batch = loader.norm(windows.batch([int(ids[3])]))
        expected = trained['distilled'](batch.x['imu:acc']).softmax(1)[0].numpy()
    np.testing.assert_allclose(compute_view(ExplorerState(data)).p, expected, atol=1e-4)


@pytest.mark.parametrize(
    ('kwargs', 'says'),
    [
        (dict(n=90), 'too short|long enough|lasts'),
        (dict(unit=np.nan), 'no file has columns of a sensor'),
    ],
)
def test_a_file_that_cannot_be_used_says_why(models, tmp_path, kwargs, says):
    with pytest.raises(ValueError, match=says):
        open_recording(write(tmp_path / 'own.csv', **kwargs), models)


def test_a_file_without_the_sensor_names_what_every_model_needs(models, tmp_path):
    table = pd.read_csv(write(tmp_path / 'own.csv', gyro=True))
    table[['time', 'gyro_x', 'gyro_y', 'gyro_z']].to_csv(tmp_path / 'gyro.csv', index=False)
    with pytest.raises(BadRecording, match='no model can read it .*needs acc_x.*it has gyro_x'):
        open_recording(tmp_path / 'gyro.csv', models)
    (tmp_path / 'text.csv').write_text('hello\n')
    with pytest.raises(BadRecording):
        open_recording(tmp_path / 'text.csv', models)


def test_a_bundle_decides_in_the_explorer_as_it_does_alone(bundle_folder, tmp_path):
    models = OpenedModels.of_bundle(bundle_folder)
    data = open_recording(write(tmp_path / 'own.csv', gyro=True, label='ROW'), models)
    bundle = Bundle(bundle_folder)
    x = data.windows.batch([1]).x['imu:acc'].numpy()
    view = compute_view(ExplorerState(data, 1, arm='bundle', method='occlusion'))
    np.testing.assert_allclose(view.p, bundle(x)[0], atol=1e-5)
    options = model_options(data, 'bundle')
    assert options.methods == ('occlusion',) and 'no gradients' in options.reasons['method']
    for field, entries in options.menus.items():
        for _, value in entries:
            if field != 'attention':
                chosen = {'method': 'occlusion', field: None if value == -1 else value}
                attribution_figure(ExplorerState(data, arm='bundle', **chosen))
    assert isinstance(models.models['bundle'], BundleModel)


def test_the_page_of_a_bundle_waits_for_a_file_and_every_entry_works(bundle_folder, tmp_path):
    explorer = AttributionExplorer(bundle=bundle_folder)
    assert 'drop a recording' in explorer.message.value and explorer.panel is None
    explorer.open(write(tmp_path / 'own.csv'))
    assert explorer.message.value == '' and len(explorer.shown) == 1
    for name in ('method', 'baseline', 'target', 'attention', 'layer', 'head'):
        for _, value in explorer.controls[name].options:
            explorer.controls[name].value = value
            assert explorer.message.value == '', (name, value)
    explorer.controls['refine'].click()
    assert 'score card' in explorer.card.value or 'verdict' in explorer.card.value


def drop(explorer, path, part=1 << 20):
    "What the browser sends for a file that is dropped"
    data = path.read_bytes()
    for at in range(0, max(len(data), 1), part):
        content = {'name': path.name, 'size': len(data), 'at': at}
        message = {'data': {'method': 'custom', 'content': content}}
        explorer.drop._handle_msg({'content': message, 'buffers': [data[at : at + part]]})


def test_a_dropped_file_is_shown_and_the_recordings_of_the_run_are_a_choice_away(run, tmp_path):
    explorer = AttributionExplorer(run)
    assert explorer.source.disabled
    before = explorer.figures[0].to_json()
    drop(explorer, write(tmp_path / 'own.csv'), part=5000)
    assert (explorer.message.value, explorer.source.value) == ('', 'own.csv')
    assert explorer.figures[0].to_json() != before
    assert 'gyro_x' in explorer.controls['arm'].tooltip  # why there is no teacher
    first = np.array(explorer.figures[0].data[0].z)
    drop(explorer, write(tmp_path / 'own.csv', fs=25.0))  # the same name, another file
    assert not np.allclose(first, explorer.figures[0].data[0].z)
    explorer.source.value = explorer.source.options[0][1]
    assert explorer.figures[0].to_json() == before
    (tmp_path / 'bad.csv').write_text('hello\n')
    drop(explorer, tmp_path / 'bad.csv')
    assert 'bad.csv' in explorer.message.value and explorer.source.value != 'bad.csv'


def test_marks_are_kept_beside_the_run_and_shown_again(run, tmp_path):
    explorer = AttributionExplorer(run)
    controls = explorer.controls
    controls['mark'].click()
    assert 'needs a name' in explorer.message.value
    start, stop = explorer.views[0].time[[10, 120]]
    explorer.occlude(start, stop)
    controls['name'].value = 'slow part'
    controls['mark'].click()
    (mark,) = read_marks(run / 'marks')
    assert mark.name == 'slow part' and mark.recording == explorer.panel.recording
    np.testing.assert_allclose((mark.start, mark.stop), (start, stop), atol=1e-4)
    shapes = explorer.figures[0].layout.shapes
    assert (shapes[-1].x0, shapes[-1].x1) == (mark.start, mark.stop)
    again = AttributionExplorer(run)  # the run is still undamaged
    assert again.message.value == '' and again.controls['marks'].value == mark
    assert 'slow part, ' in again.controls['marks'].label
    again.controls['forget'].click()
    assert again.controls['marks'].label == 'no marks in this recording'
    assert read_marks(run / 'marks') == [] and again.controls['marks'].disabled
    assert len(again.figures[0].layout.shapes) == 5


def test_a_damaged_file_of_marks_is_a_message(run):
    folder = run / 'marks'
    write_marks(folder, [])
    (folder / 'marks.csv').write_text('recording,start,stop,name\na,3,1,x\n')
    try:
        assert 'row 2' in AttributionExplorer(run).message.value
    finally:
        (folder / 'marks.csv').unlink()


def test_marks_enrol_their_windows(models, tmp_path):
    path = write(tmp_path / 'own.csv', n=1500)
    data = open_recording(path, models)
    name = str(data.windows.table.id[0])
    marks = [Mark(name, 0.0, 10.0, 'first'), Mark(name, 12.0, 29.0, 'second')]
    student = models.models['distilled']
    with pytest.raises(ValueError, match='no window lies inside of 1 marks'):
        enrol_marks(student, data.loader, [Mark(name, 0.0, 1.0, 'short')])
    personal = enrol_marks(student, data.loader, marks)
    assert (personal.labels, personal.about['windows']) == (('first', 'second'), 4 + 7)


def test_the_command_knows_files_runs_and_bundles(run, bundle_folder, tmp_path):
    path = write(tmp_path / 'own.csv')
    found = _explorer_variables(str(path), str(run))
    assert found == {'HARKD_RUN': str(run), 'HARKD_RECORDING': str(path)}
    found = _explorer_variables(str(path), str(bundle_folder))
    assert found == {'HARKD_BUNDLE': str(bundle_folder), 'HARKD_RECORDING': str(path)}
    assert _explorer_variables(str(run), '') == {'HARKD_RUN': str(run), 'HARKD_RECORDING': ''}
    with pytest.raises(SystemExit, match='there is no file'):
        _explorer_variables('gone.csv', str(run))
