"Your own data: a real data set, rewritten as the CSVs of another lab, trains without code"

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harkd.data import BadRecording, load_dataset
from harkd.distill import DistillConfig, open_run, run_distill
from harkd.sessions import read_manifest, study_problems, unit_scale
from tests.conftest import data

STANDARD_GRAVITY = 9.80665
DEVICES = {'wrist': ('sw', 'watch'), 'pocket': ('sp', 'phone')}  # stream: file suffix, name
COLUMNS = {f'acc_{a}': f'A{a}' for a in 'xyz'} | {f'gyro_{a}': f'W{a}' for a in 'xyz'}
ACTIVITIES = ('SEATED', 'SITTING_DOWN', 'STANDING_UP', 'TURNING', 'WALKING')


def rewrite_samples(path, target):
    "Units g and deg/s, other column names, the irregular and doubled stamps in milliseconds"
    d = pd.read_csv(path)
    columns = {'clock_ms': d.timestamp}
    columns |= {f'A{a}': d[f'{a}_acc'] / STANDARD_GRAVITY for a in 'xyz'}
    columns |= {f'W{a}': np.rad2deg(d[f'{a}_gyro']) for a in 'xyz'}
    columns['doing'] = d.label
    pd.DataFrame(columns).to_csv(target, index=False)


def manifest():
    streams = {
        name: {
            'columns': COLUMNS,
            'units': {'acc': 'g', 'gyro': 'deg/s'},
            'file': f'file_{suffix}',
        }
        for name, (suffix, _) in DEVICES.items()
    }
    return {
        'name': 'lab',
        'fs': 50,
        'time': {'column': 'clock_ms', 'unit': 'ms'},
        'label': 'doing',
        'streams': streams,
        'student': ['wrist'],
        'teacher': ['wrist', 'pocket'],
        'window_s': 1.0,
        'stride_s': 0.5,
    }


def rewrite(source: Path, target: Path, subjects: int = 4, runs: int = 3):
    "sp-sw-har as another lab might keep it, with the labels in a column"
    rows = []
    for folder in sorted(source.glob('DATA/s*'))[:subjects]:
        for path in sorted(folder.glob('*_sw.csv'))[:runs]:
            recording = path.stem[:-3]
            row = {'id': recording, 'subject': f'subject {folder.name}'}
            for suffix, _ in DEVICES.values():
                row[f'file_{suffix}'] = f'{recording}_{suffix}.csv'
                original = path.with_name(path.name.replace('_sw', f'_{suffix}'))
                rewrite_samples(original, target / row[f'file_{suffix}'])
            rows.append(row)
    pd.DataFrame(rows).to_csv(target / 'recordings.csv', index=False)
    (target / 'manifest.json').write_text(json.dumps(manifest()))


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    "The rewritten data set as sessions, and the original"
    source, folder = data('sp_sw_har'), tmp_path_factory.mktemp('lab')
    rewrite(source, folder)
    return load_dataset('sessions', folder), load_dataset('sp_sw_har', source)


def pairs_of_streams(both):
    sessions, original = both
    by_id = {r.id: r for r in original.recordings}
    for recording in sessions.recordings:
        for name, (_, other) in DEVICES.items():
            yield name, recording.streams[name], by_id[recording.id].streams[other]


def test_every_recording_is_read(both):
    sessions, _ = both
    assert len(sessions.recordings) == 12
    assert len(sessions.subjects) == 4


def test_samples_are_those_of_the_original(both):
    for _, ours, original in pairs_of_streams(both):
        assert np.allclose(ours.values, original.values, atol=1e-9)
        assert np.allclose(ours.time, original.time, atol=1e-9)
        assert ours.units == original.units


def test_doubled_time_stamps_are_kept(both):
    for name, ours, _ in pairs_of_streams(both):
        assert name == 'wrist' or (np.diff(ours.time) == 0).any()


def test_labels_are_those_of_the_original(both):
    sessions, original = both
    by_id = {r.id: r for r in original.recordings}
    for recording in sessions.recordings:
        labels = [s.label for s in by_id[recording.id].spans]
        assert [s.label for s in recording.spans] == labels


@pytest.fixture(scope='module')
def trained_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('study')
    rewrite(data('sp_sw_har'), folder)
    config = DistillConfig(
        'sessions',
        str(folder),
        student='conv_8k',
        folds=2,
        fold=0,
        epochs=2,
        teacher_epochs=2,
        seeds=1,
        jobs=1,
    )
    return run_distill(config, tmp_path_factory.mktemp('run') / 'run')


def test_teacher_of_a_session_has_the_richer_input(trained_run):
    inputs = [s['input'] for s in trained_run.metrics['summary']]
    assert inputs == ['wrist+pocket', 'wrist', 'wrist']


def test_sessions_train_to_accuracies(trained_run):
    assert all(0 <= row['accuracy'] <= 1 for row in trained_run.metrics['rows'])


def test_classes_of_a_run_are_the_labels_of_the_files(trained_run):
    assert open_run(trained_run.path)[1].split.windows.classes == ACTIVITIES


BROKEN = {
    'file missing': (
        lambda d: (d / 's01_01_sw.csv').unlink(),
        's01_01_sw.csv: missing',
    ),
    'column missing': (
        lambda d: (d / 's01_01_sw.csv').write_text('clock_ms,Ax\n1,2\n'),
        "s01_01_sw.csv: has no column 'Ay'",
    ),
    'not a table': (
        lambda d: (d / 's01_01_sw.csv').write_bytes(b'\x00\xff\x00'),
        's01_01_sw.csv',
    ),
    'no table of recordings': (
        lambda d: (d / 'recordings.csv').unlink(),
        'recordings.csv: missing',
    ),
    'no manifest': (
        lambda d: (d / 'manifest.json').unlink(),
        'chapter 00c says what goes into it',
    ),
}


@pytest.mark.parametrize('case', BROKEN)
def test_a_broken_folder_names_what_is_broken(tmp_path, case):
    damage, says = BROKEN[case]
    rewrite(data('sp_sw_har'), tmp_path, 1, 1)
    damage(tmp_path)
    with pytest.raises((BadRecording, FileNotFoundError), match=says):
        load_dataset('sessions', tmp_path)


def test_without_a_manifest_no_other_problem_is_looked_for(tmp_path):
    (problem,) = study_problems(tmp_path)
    assert 'manifest.json' in problem
    (tmp_path / 'manifest.json').write_text('{"streams": ')
    (problem,) = study_problems(tmp_path)
    assert 'manifest.json' in problem


ACC = {'columns': {'acc_x': 'ax', 'acc_y': 'ay'}, 'units': {'acc': 'g'}}
TURN = {'columns': {'gyro_x': 'wx'}, 'units': {'gyro': 'deg/s'}, 'join': 'arm'}
SOUND = {'fs': 50, 'label': 'what', 'streams': {'arm': ACC, 'turn': TURN}}


def told(folder, text):
    (folder / 'manifest.json').write_text(text, encoding='utf8')
    return read_manifest(folder)


def arm(**change):
    return {'streams': {'arm': ACC | change}}


def turn(**change):
    return {'streams': {'arm': ACC, 'turn': TURN | change}}


@pytest.mark.parametrize(
    'change, says',
    [
        ({'fs': '50'}, "'fs' has the wrong type, got '50'"),
        ({'fs': True}, "'fs' has the wrong type, got True"),
        ({'whole': 1}, "'whole' has the wrong type, got 1"),
        ({'fs': 0}, "'fs' must be > 0, got 0"),
        ({'window_s': -2.0}, "'window_s' must be > 0, got -2.0"),
        ({'stride_s': 0.0}, "'stride_s' must be > 0, got 0.0"),
        ({'length': 0}, "'length' must be > 0, got 0"),
        ({'label': ''}, "'label' must name a column"),
        ({'folds': 'people'}, "folds must be 'subjects' or 'windows', got 'people'"),
        ({'invalid': 'drop'}, "invalid must be 'raise' or 'missing', got 'drop'"),
        ({'streams': {}}, 'names no streams'),
        ({'streams': {'my arm': ACC}}, "stream 'my arm': a stream needs a name without blanks"),
        (arm(columns={}), "stream 'arm' has no columns"),
        (arm(columns={'acc x': 'ax'}), "'acc x' is no name for a channel"),
        (arm(columns={'acc_x': 1}), "'acc_x' needs the name of a column, got 1"),
        (arm(units=['g']), '"units" names sensors or channels'),
        (arm(units={'ac': 'g', 'acc': 'g'}), "names 'ac', which no channel has, did you mean"),
        (arm(units={'acc': ''}), '\'acc_x\' has no unit; say e.g. "units": {"acc": "g"}'),
        (arm(units={'acc': 9.8}), "channel 'acc_x' has no unit"),
        (arm(joints=['hand']), 'has 2 columns, expected 3 for each of 1 joints'),
        (turn(join='amr'), "stream 'turn' cannot join 'amr', did you mean 'arm'?"),
        (turn(join='turn'), "stream 'turn' cannot join 'turn'"),
        (turn(columns={'acc_x': 'wx'}, units={'acc': 'g'}), "would have the channel 'acc_x' twice"),
        ({'student': ['turn']}, "'student': stream 'turn' is joined to 'arm'"),
        ({'teacher': ['arm', 'leg']}, "'teacher': no stream 'leg'; use: arm, turn"),
        ({'student': ['arm:mag']}, "stream 'arm' has no sensor 'mag'"),
        ({'classes': ['sit', 1, '1']}, "'classes' holds '1' twice"),
        ({'drop_subjects': ['p1', 'p1']}, "'drop_subjects' holds 'p1' twice"),
        ({'test_subjects': [1], 'train_subjects': ['1']}, "'1' stands in 'train_subjects' and in"),
        ({'label': 'ax'}, "column 'ax' is 'label' and a channel of 'arm'"),
        ({'time': {'column': 'wx'}}, "column 'wx' is 'time' and a channel of 'turn'"),
    ],
)
def test_what_a_manifest_may_not_say_is_named(tmp_path, change, says):
    sound = told(tmp_path, json.dumps(SOUND | {'student': ['arm:gyro'], 'teacher': ['arm+norm']}))
    assert sound['student'] == ['arm:gyro']  # of the stream that is joined to it
    with pytest.raises(BadRecording, match='manifest.json') as error:
        told(tmp_path, json.dumps(SOUND | change))
    assert says in str(error.value)


@pytest.mark.parametrize(
    'text, says',
    [
        ('[1]', 'must hold one object'),
        ('{"fs": 1,}', 'not JSON'),
        ('{"fs": 1, "fs": 2}', "the key 'fs' occurs twice"),
        ('[' * 100_000, 'not JSON'),
        (' ' * (2**20 + 1), '1,048,577 bytes, a manifest has at most 1,048,576'),
    ],
)
def test_what_is_no_manifest_is_named(tmp_path, text, says):
    with pytest.raises(BadRecording, match=f'manifest.json.*{says}'):
        told(tmp_path, text)
    padded = ' ' * (2**20 - len(json.dumps(SOUND))) + json.dumps(SOUND)
    assert told(tmp_path, padded) == SOUND  # as large as it may be


G = 9.80665


@pytest.mark.parametrize(
    'unit, factor',
    [
        *(('m/s2', 1), ('m/s^2', 1), ('g', G), ('mg', G / 1000)),
        *(('rad/s', 1), ('deg/s', np.pi / 180), ('dps', np.pi / 180)),
        *(('m', 1), ('cm', 0.01), ('mm', 0.001), ('T', 1), ('uT', 1e-6), ('1', 1)),
        *(('s', 1), ('ms', 1e-3), ('us', 1e-6), ('ns', 1e-9)),
        *(('g/16384', G / 16384), ('dps/16.4', np.pi / 180 / 16.4), ('g/1', G)),
    ],
)
def test_a_unit_is_converted_to_si(unit, factor):
    "Counts of a converter are divided by what they say one unit is"
    assert unit_scale(unit) == pytest.approx(factor)


@pytest.mark.parametrize('unit', ['furlong', 'g/0', 'g/-2', 'g/x', '/16', 'g/16/2', ''])
def test_a_unit_that_cannot_be_meant_is_refused(unit):
    with pytest.raises(BadRecording, match='a.csv, column ax: unknown unit .*, use one of: '):
        unit_scale(unit, 'a.csv, column ax')
