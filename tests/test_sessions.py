"Your own data: a real data set, rewritten as the CSVs of another lab, trains without code"

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harkd.data import BadRecording, Recording, load_dataset
from harkd.distill import DistillConfig, open_run, run_distill
from harkd.plausibility import Rest
from harkd.sessions import (
    _check_rests,
    _check_turns,
    _rate,
    _Study,
    read_manifest,
    save_sessions,
    study_problems,
    unit_scale,
)
from harkd.synth import synth_dataset
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


def study_of(rests=(), rates=(), turns=(), gravity=True, **manifest):
    "What the reader has collected of a study of one stream; of rests: m/s² and whether quiet"
    stream = {'columns': COLUMNS, 'units': {'acc': 'm/s2'}, 'gravity': gravity}
    rests = [
        (f'r{k}', Path(f'r{k}.csv'), 'wrist', 'acc', 'm/s2', Rest(*rest))
        for k, rest in enumerate(rests)
    ]
    turns = {'wrist': [(f'r{k}', top) for k, top in enumerate(turns)]} if turns else {}
    manifest = {'streams': {'wrist': stream}, **manifest}
    return _Study(Path('lab'), manifest, [], rests, {'wrist': list(rates)}, turns)


def test_a_recording_in_another_unit_than_the_others_is_named():
    quiet, in_g = (9.8, True), (1.0, True)
    with pytest.raises(BadRecording, match="r2.csv: acc: .*likely in 'g'.*unlike the other"):
        _check_rests(study_of([quiet, quiet, in_g]))
    with pytest.raises(BadRecording, match="manifest.json: .*likely in 'g'.*median of 3"):
        _check_rests(study_of([quiet, in_g, in_g]))


@pytest.mark.parametrize('magnitude, refused', [(1.9, True), (2.0, False), (50, False), (51, True)])
def test_a_magnitude_at_rest_beyond_five_times_the_usual_is_refused_and_less_is_noted(
    magnitude, refused
):
    study = study_of([(10.0, True), (10.0, True), (magnitude, False)])
    if refused:
        with pytest.raises(BadRecording, match=r"r2.csv: .*is it in 'm/s2' as they are\?"):
            _check_rests(study)
    else:
        _check_rests(study)
        assert [(n.kind, n.recording, n.file) for n in study.notes] == [('unit', 'r2', 'r2.csv')]


def test_without_gravity_every_small_magnitude_at_rest_may_be():
    study = study_of([(0.2, True), (0.1, True), (4.0, False)], gravity=False)
    _check_rests(study)
    assert study.notes == []


@pytest.mark.parametrize(
    'turns, odd',
    [((1, 1, 14), 0), ((1, 1, 15), 1), ((15, 15, 1), 1), ((15, 15, 1.1), 0), ((1, 99), 0)],
)
def test_a_gyroscope_that_reaches_fifteen_times_as_far_as_those_of_two_others_is_noted(turns, odd):
    recordings = [Recording(f'r{k}', f'p{k}', 'lab', {}, ()) for k in range(3)]
    study = study_of(turns=turns)
    _check_turns(study, recordings)
    assert len(study.notes) == odd
    assert all("of subject 'p2' reaches" in n.text for n in study.notes)


@pytest.mark.parametrize(
    'rates, given, rate, says',
    [
        ((50.4, 49.9, 50.6), {}, 50.0, "'fs' is not given: 50 Hz"),
        ((4.96,), {}, 5.0, "'fs' is not given: 5 Hz"),
        ((0.1234,), {}, 0.12, "'fs' is not given: 0.12 Hz"),
        ((50.4, np.nan), {'fs': 50}, 50.0, ''),
        ((51.5,), {'fs': 50}, 50.0, "recorded at 51.5 Hz, 'fs' is 50"),
        ((48.5,), {'fs': 50}, 50.0, "recorded at 48.5 Hz, 'fs' is 50"),
        ((np.nan,), {'fs': 50}, 50.0, ''),
    ],
)
def test_the_rate_is_the_declared_or_the_rounded_measured_one(rates, given, rate, says):
    study = study_of(rates=rates, **given)
    assert _rate(study) == rate
    assert len(study.notes) == bool(says) and all(says in n.text for n in study.notes)


def test_a_rate_that_nobody_can_know_is_asked_for():
    with pytest.raises(BadRecording, match="no rate can be measured; say 'fs'"):
        _rate(study_of(rates=[np.nan]))


@pytest.mark.parametrize('name, kept', [('synth', 'synth_copy'), ('lab', 'lab'), ('', 'sessions')])
def test_saved_recordings_are_read_back_and_a_copy_of_published_ones_says_so(tmp_path, name, kept):
    data = synth_dataset(2, 1)
    card = replace(data.card, name=name or 'sessions', window_s=1.5, train_subjects=('s2',))
    first = data.recordings[:2] + data.recordings[-1:]
    save_sessions(replace(data, card=card, recordings=first), tmp_path / 'saved')
    manifest = read_manifest(tmp_path / 'saved')
    assert (manifest['name'], manifest['fs'], manifest['window_s']) == (kept, 50, 1.5)
    again = load_dataset('sessions', tmp_path / 'saved')
    assert again.card.name == kept and again.card.train_subjects == ('s2',)
    for a, b in zip(again.recordings, first, strict=True):
        assert (a.id, a.subject, a.spans[0].label) == (b.id, b.subject, b.spans[0].label)
        for stream in ('imu', 'skeleton'):
            one, other = a.streams[stream], b.streams[stream]
            assert (one.channels, one.units) == (other.channels, other.units)
            np.testing.assert_allclose(one.values, other.values, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(one.time, other.time, atol=1e-9)
