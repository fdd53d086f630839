"What `harkd new` guesses about files, units and names (chapter 00d), each rule at its limits"

import numpy as np
import pandas as pd
import pytest

from harkd.data import BadRecording
from harkd.guess import (
    Column,
    _stamps,
    device_of,
    guess_acc_unit,
    guess_gyro_unit,
    guess_manifest,
    guess_time_unit,
    name_sensor,
    plan_names,
    sample_file,
    sniff_format,
    write_new_study,
)
from harkd.tables import TableFormat

G = 9.80665


def table(path, sep=',', decimal='.', header='t,x,y', end='', skip='', rows=30, encoding='utf8'):
    "A small table in the way of some logger"
    lines = [header.replace(',', sep) + (end if header else '')] if header else []
    for k in range(rows):
        cells = [f'{0.02 * k:.2f}', f'{k % 7}.5', '9.81']
        lines.append(sep.join(c.replace('.', decimal) for c in cells) + end)
    path.write_text(skip + '\n'.join(lines) + '\n', encoding=encoding)
    return path


@pytest.mark.parametrize(
    'written, expected',
    [
        (dict(), TableFormat(',')),
        (dict(sep='\t'), TableFormat('\t')),
        (dict(sep='|'), TableFormat('|')),
        (dict(sep=';', decimal=','), TableFormat(';', ',')),
        (dict(header=''), TableFormat(',', header=False)),
        (dict(end=';'), TableFormat(',', line_end=';')),
        (dict(skip='made by a logger\nversion 2\n'), TableFormat(',', skip=2)),
        (dict(header='t,für,y', encoding='cp1252'), TableFormat(',', encoding='cp1252')),
        (dict(header='t,für,y'), TableFormat(',')),
    ],
)
def test_how_a_file_is_written(tmp_path, written, expected):
    assert sniff_format(table(tmp_path / 'a.csv', **written)) == expected


@pytest.mark.parametrize(
    'text, says',
    [
        ('t,x\n0,1\n', 'has fewer than three rows'),
        ('one\ntwo\nthree\nfour\n', 'no separator cuts its rows into columns'),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, text, says):
    (tmp_path / 'a.csv').write_text(text)
    with pytest.raises(BadRecording, match=says):
        sniff_format(tmp_path / 'a.csv')


@pytest.mark.parametrize(
    'name, meaning',
    [
        ('acc_x', ('acc', 'x')),
        ('x_acc', ('acc', 'x')),
        ('AccY (m/s^2)', ('acc', 'y')),
        ('rotationRate.z', ('gyro', 'z')),
        ('wy', ('gyro', 'y')),
        ('gx', ('gyro', 'x')),
        ('az', ('acc', 'z')),
        ('gravity.x', ('gravity', 'x')),
        ('magneticField.y', ('mag', 'y')),
        ('y', ('', 'y')),
        ('heart_rate', None),
        ('complex', None),
    ],
)
def test_what_a_column_is_called(name, meaning):
    assert name_sensor(name) == meaning


@pytest.mark.parametrize(
    'numbers, rises',
    [
        (0.02 * np.arange(100), True),
        (np.repeat(0.02 * np.arange(50), 2), True),  # doubled stamps
        (np.arange(100), False),  # counts rows
        (np.arange(1, 101), False),
        (np.arange(2.0, 102), True),
        (np.zeros(100), False),
        (np.r_[0.02 * np.arange(100), 0.0, 1.0], True),  # one step back of a hundred
        (np.sin(np.arange(100)), False),
        (np.r_[np.nan, np.arange(2.0, 101)], False),
        (np.r_[np.zeros(50), 1.0, np.full(49, 2.0)], True),
        (np.r_[np.zeros(50), np.ones(50)], False),  # a label
    ],
)
def test_a_clock_rises(numbers, rises):
    assert Column('t', numbers, [str(v) for v in numbers]).rises is rises
    assert not Column('t', None, ['a', 'b']).rises


@pytest.mark.parametrize('scale, unit', [(1, 's'), (1e3, 'ms'), (1e6, 'us'), (1e9, 'ns')])
@pytest.mark.parametrize('start', [0.0, 1.7e9])
@pytest.mark.parametrize('hz', [20.0, 200.0])
def test_the_unit_of_stamps_since_the_start_or_since_1970(scale, unit, start, hz):
    found, rate = guess_time_unit((start + np.arange(200) / hz) * scale)
    assert found == unit and rate == pytest.approx(hz, rel=1e-2)


def test_stamps_of_no_unit_and_pauses():
    assert guess_time_unit(np.zeros(50))[0] == ''
    paused = np.r_[np.arange(100), 1e6 + np.arange(100)] / 50
    assert guess_time_unit(paused) == ('s', pytest.approx(50))  # a pause is no step
    assert guess_time_unit(np.arange(50) * 10.0) == ('ms', 100.0)
    assert guess_time_unit(np.arange(50) * 3600.0)[0] in ('us', '')


@pytest.mark.parametrize(
    'rest, unit',
    [
        (G, 'm/s²'),
        (1.0, 'g'),
        (1000.0, 'mg'),
        (0.7 * G, 'm/s²'),
        (1.4, 'g'),
        (3.1, ''),
        (100.0, ''),
    ],
)
def test_the_unit_of_an_accelerometer_is_told_by_gravity(rest, unit):
    found, magnitude = guess_acc_unit(np.array([[0.0, 0.6 * rest, 0.8 * rest]] * 200), 50)
    assert found == unit and magnitude == pytest.approx(rest)


def test_the_unit_of_a_gyroscope_is_told_by_its_range():
    assert guess_gyro_unit(np.array([[29.0], [-3.0]] * 50)) == ('rad/s', pytest.approx(29.0))
    assert guess_gyro_unit(np.array([[-31.0], [3.0]] * 50)) == ('deg/s', pytest.approx(31.0))


def names(*paths, labelled=True):
    plan = plan_names(list(paths), labelled)
    words = [plan.places[k][0] if k is not None else None for k in (plan.subject, plan.label)]
    return (*words, [plan.places[k][0] for k in plan.stream])


def test_what_the_names_of_files_say():
    pairs = [f'DATA/s0{s}/s0{s}_01_{d}.csv' for s in (1, 2) for d in ('sw', 'sp')]
    assert names(*pairs) == ('s01', None, ['sw'])
    people = [f'{who}_{what}.csv' for who in ('ann', 'bob') for what in ('sit', 'walk')]
    assert names(*people, labelled=False) == ('ann', 'sit', [])
    folders = [f'{what}/p{k}.csv' for what in ('sit', 'walk') for k in (1, 2)]
    assert names(*folders, labelled=False) == ('p1', 'sit', [])
    assert names(*folders) == ('p1', None, [])
    lone = [f'p{k}_wrist.csv' for k in (1, 2)]  # one device for all: no second stream
    assert names(*lone) == ('p1', None, [])


def test_files_of_devices_are_known(tmp_path):
    (tmp_path / 'a.bin').write_bytes(b'Device Identity\n' + bytes(40))
    (tmp_path / 'b.bin').write_bytes(bytes(40))
    assert device_of(tmp_path / 'a.bin') == '.bin' and device_of(tmp_path / 'b.bin') == ''
    assert device_of('x.GT3X.gz') == '.gt3x' and device_of('x.csv') == ''


def logger_file(path, hz=50.0, seconds=6, unit=1.0, label='', text='t,ax,ay,az', shift=0.0):
    "Gravity with a little noise, as a logger writes it"
    rng = np.random.default_rng(len(str(path)))
    n = int(hz * seconds)
    acc = rng.normal(0, 0.01, (n, 3)) + [0.0, 0.0, 1.0]
    data = pd.DataFrame(np.c_[shift + np.arange(n) / hz, acc * unit].round(6))
    data.columns = text.split(',')
    if label:
        data['activity'] = np.resize(np.repeat(label.split(','), n // 6), n)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.to_csv(path, index=False)
    return path


def test_a_study_of_one_stream(tmp_path):
    for who in ('ann', 'bob'):
        for what in ('sit', 'walk'):
            logger_file(tmp_path / 'raw' / f'{who}_{what}.csv', hz=104, unit=1000.0)
    guess = guess_manifest(tmp_path / 'raw')
    m = guess.manifest
    assert m['time'] == {'column': 't', 'unit': 's'} and m['fs'] == 50  # 104 Hz are too many
    assert m['streams'] == {
        'imu': {'columns': dict(acc_x='ax', acc_y='ay', acc_z='az'), 'units': {'acc': 'mg'}}
    }
    assert (m['student'], m['teacher']) == (['imu'], ['imu'])
    assert (m['window_s'], m['stride_s']) == (2, 1) and not guess.unknown
    rows = guess.recordings
    assert rows.id.tolist() == ['ann_sit', 'ann_walk', 'bob_sit', 'bob_walk']
    assert rows.subject.tolist() == ['ann', 'ann', 'bob', 'bob']
    assert rows.label.tolist() == ['sit', 'walk'] * 2


def test_short_labels_of_a_column_get_short_windows(tmp_path):
    for k in (1, 2):
        logger_file(tmp_path / 'raw' / f'p{k}.csv', hz=20, label='sit,walk,run')
    m = guess_manifest(tmp_path / 'raw').manifest
    assert (m['label'], m['fs']) == ('activity', 20)
    assert (m['window_s'], m['stride_s']) == (1, 0.5)  # a label lasts one second
    for k in (1, 2):
        logger_file(tmp_path / 'slow' / f'p{k}.csv', hz=20, seconds=30, label='sit,walk,run')
    m = guess_manifest(tmp_path / 'slow').manifest
    assert (m['window_s'], m['stride_s']) == (2, 1)


def test_two_devices_are_two_streams_and_the_watch_is_the_students(tmp_path):
    for k in (1, 2):
        for device in ('phone', 'watch'):
            logger_file(tmp_path / 'raw' / f'p{k}_{device}.csv', label='sit,walk')
    guess = guess_manifest(tmp_path / 'raw')
    m = guess.manifest
    assert list(m['streams']) == ['phone', 'watch'] == m['teacher'] and m['student'] == ['watch']
    assert m['streams']['watch']['file'] == 'file_watch'
    assert guess.recordings.id.tolist() == ['p1', 'p2']
    (tmp_path / 'raw/p2_phone.csv').unlink()
    logger_file(tmp_path / 'raw/p3_phone.csv', label='sit,walk')
    logger_file(tmp_path / 'raw/p3_watch.csv', label='sit,walk')
    guess = guess_manifest(tmp_path / 'raw')
    assert guess.recordings.id.tolist() == ['p1', 'p3']
    assert any('left out: p2, which has no file' in line for line in guess.guessed)


def test_rows_that_are_not_in_order_of_time_are_sorted(tmp_path):
    path = logger_file(tmp_path / 'raw' / 'p1_sit.csv')
    logger_file(tmp_path / 'raw' / 'p2_sit.csv')
    whole = pd.read_csv(path)
    pd.concat([whole[100:], whole[:100]]).to_csv(path, index=False)
    assert guess_manifest(tmp_path / 'raw').manifest['time']['order'] == 'sort'


def test_what_cannot_be_known_is_asked_and_answers_are_used(tmp_path):
    for k in (1, 2):
        path = logger_file(tmp_path / 'raw' / f'p{k}_walk.csv', unit=3.1)
        pd.read_csv(path).drop(columns='t').to_csv(path, index=False)
    guess = guess_manifest(tmp_path / 'raw')
    assert {'fs', 'units.acc'} <= set(guess.unknown)
    answers = {'fs': 25, 'units.acc': 'g', 'label': r'_(\w+)\.', 'subject': r'(p\d)', 'window_s': 3}
    guess = guess_manifest(tmp_path / 'raw', answers)
    assert not guess.unknown and guess.manifest['fs'] == 25 and guess.manifest['window_s'] == 3
    assert guess.manifest['streams']['imu']['units'] == {'acc': 'g'}
    assert guess.recordings.subject.tolist() == ['p1', 'p2']
    assert guess.recordings.label.tolist() == ['walk', 'walk']
    with pytest.raises(ValueError, match="unknown answer 'windows'.*window_s"):
        guess_manifest(tmp_path / 'raw', {**answers, 'windows': 3})


def test_a_written_study_names_its_files_from_the_folder(tmp_path):
    for k in (1, 2):
        logger_file(tmp_path / 'raw' / f'p{k}.csv', label='sit,walk')
    guess = write_new_study(tmp_path / 'study', tmp_path / 'raw', yes=True)
    assert guess.manifest['files_below'] == '../raw'
    rows = pd.read_csv(tmp_path / 'study/recordings.csv')
    assert rows.file.tolist() == ['../raw/p1.csv', '../raw/p2.csv']
    with pytest.raises(FileExistsError, match='is there already'):
        write_new_study(tmp_path / 'study', tmp_path / 'raw', yes=True)


def test_sensors_without_names_are_taken_in_order(tmp_path):
    path = logger_file(tmp_path / 'gyro_1.csv')
    pd.read_csv(path).to_csv(path, index=False, header=False)
    assert sample_file(path).channels == {'gyro_x': '2', 'gyro_y': '3', 'gyro_z': '4'}
    six = pd.concat(
        [pd.read_csv(path, header=None), pd.read_csv(path, header=None)[[1, 2, 3]]], axis=1
    )
    six.to_csv(tmp_path / 'x_1.csv', index=False, header=False)
    channels = sample_file(tmp_path / 'x_1.csv').channels
    assert list(channels) == ['acc_x', 'acc_y', 'acc_z', 'gyro_x', 'gyro_y', 'gyro_z']
    assert channels['gyro_z'] == '7'


def test_files_without_a_subject_or_an_activity_in_their_name_are_asked_for(tmp_path):
    path = logger_file(tmp_path / 'raw' / 'log.csv')
    guess = guess_manifest(path)
    assert set(guess.unknown) == {'subject', 'label'}
    assert 'who moved?' in guess.unknown['subject'] and 'log.csv' in guess.unknown['subject']
    assert set(guess_manifest(path, {'subject': 'ann'}).unknown) == {'label'}
    answered = guess_manifest(path, {'subject': 'ann', 'label': '(log)'})
    assert not answered.unknown
    assert answered.recordings[['subject', 'label']].values.tolist() == [['ann', 'log']]
    with pytest.raises(BadRecording, match='cannot be known from the files: subject: who moved'):
        write_new_study(tmp_path / 'study', path, yes=True)


def test_the_rate_of_dates_is_measured_across_a_change_of_the_clock(tmp_path):
    "The hour of summer time is no step: the offsets of the dates differ"
    moments = pd.Timestamp('2024-03-31T00:59:50Z') + pd.to_timedelta(np.arange(200) / 10, unit='s')
    times = [t.isoformat() for t in moments.tz_convert('Europe/Berlin')]
    assert times[0].endswith('+01:00') and times[-1].endswith('+02:00')
    table = pd.DataFrame({'time': times, 'ax': 0.1, 'ay': 0.2, 'az': np.arange(200) / 7})
    table.to_csv(tmp_path / 'walk.csv', index=False)
    unit, rate = _stamps(sample_file(tmp_path / 'walk.csv'))
    assert (unit, rate) == ('iso', pytest.approx(10))


def test_the_end_of_lines_is_taken_off_before_a_header_is_looked_for(tmp_path):
    "The last column alone holds numbers"
    rows = ''.join(f'sit,{k}.5;\n' for k in range(30))
    (tmp_path / 'a.csv').write_text('what,x;\n' + rows)
    assert sniff_format(tmp_path / 'a.csv') == TableFormat(',', line_end=';')
    (tmp_path / 'b.csv').write_text(rows)
    assert sniff_format(tmp_path / 'b.csv') == TableFormat(',', line_end=';', header=False)
