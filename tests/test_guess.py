"What `harkd new` guesses about files, units and names (chapter 00d), each rule at its limits"

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from harkd.clocks import measured_rate
from harkd.data import BadRecording, load_dataset
from harkd.experiment import DataConfig, experiment_splits
from harkd.guess import (
    Column,
    _stamps,
    _word_columns,
    device_of,
    guess_acc_unit,
    guess_gyro_unit,
    guess_manifest,
    guess_order,
    guess_time_unit,
    is_activity,
    name_sensor,
    new_command,
    plan_names,
    sample_file,
    sniff_format,
    write_new_study,
)
from harkd.inspect import check_study, near_names
from harkd.preprocess import cut_windows
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


@pytest.mark.parametrize('sep', ['\t', ';'])
def test_a_decimal_comma_without_a_zero_before_it_is_no_separator(tmp_path, sep):
    rows = [sep.join((str(k), f',{k + 10}', f',{k + 50}')) for k in range(30)]
    (tmp_path / 'a.csv').write_text('\n'.join([sep.join('txy'), *rows]))
    assert sniff_format(tmp_path / 'a.csv') == TableFormat(sep, ',')


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
        ('rotx', ('gyro', 'x')),
        ('gravz', ('gravity', 'z')),  # of five letters, at most
        ('accelx', None),
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


def jumping(n, *at, step=1.0):
    "A clock of `n` steps of which some are ten times as long"
    steps = np.full(n, step)
    steps[list(at)] *= 10
    return np.r_[0.0, np.cumsum(steps)]


@pytest.mark.parametrize(
    'numbers, counts',
    [
        (np.arange(100), True),
        (np.arange(2), False),  # too few to tell
        (np.arange(3), True),
        (0.02 * np.arange(100), False),
        (np.zeros(100), False),
        (jumping(21, 9), True),
        (jumping(20, 9), False),  # one step in twenty is another
    ],
)
def test_a_counter_rises_by_one_from_row_to_row(numbers, counts):
    assert Column('n', numbers, [str(v) for v in numbers]).counts is counts
    assert Column('n', None, ['a', 'b', 'c']).counts is False


def mixed(numbers):
    return np.random.default_rng(0).permutation(numbers)


@pytest.mark.parametrize(
    'numbers, shuffled',
    [
        (mixed(0.02 * np.arange(100)), True),
        (mixed(np.arange(19)), False),  # too few to tell
        (mixed(np.arange(20)), True),
        (mixed(np.r_[np.arange(92), np.zeros(8)]), True),
        (mixed(np.r_[np.arange(91), np.zeros(9)]), False),  # a tenth of the stamps again
        (mixed(jumping(20, 9)), True),
        (mixed(jumping(20, 9, 15)), False),  # a tenth of the steps are others
        (mixed(np.r_[np.nan, np.arange(50)]), False),
    ],
)
def test_a_shuffled_clock_is_even_once_it_is_sorted(numbers, shuffled):
    assert Column('t', numbers, [str(v) for v in numbers]).shuffled is shuffled
    assert Column('t', None, ['a'] * 30).shuffled is False


@pytest.mark.parametrize('distinct, label', [(0, False), (1, True), (60, True), (61, False)])
def test_a_column_of_few_words_may_name_activities(distinct, label):
    def taken(name, numbers=None, texts=None):
        texts = [f'word {k}' for k in range(distinct)] if texts is None else texts
        column = Column(name, numbers, texts)
        return _word_columns(SimpleNamespace(columns=[column], time='t', subject='who')) != []

    assert taken('what') is label
    others = ('t', 'who', 'subject', 'participant')
    assert not any(map(taken, others)) and not taken('n', numbers=np.arange(distinct))
    assert not taken('day', texts=['2024-01-31 10:00:00'] * 5)


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
    other = [f'p{k}_{what}.csv' for k in (1, 2) for what in ('wrist', 'coffee')]
    assert names(*other) == ('p1', None, [])  # one word of a place is no device: none is
    assert names('p1_sit.csv', 'anna_sit.csv', 'p2_sit.csv')[0] is None  # nor a person


def test_files_of_devices_are_known(tmp_path):
    (tmp_path / 'a.bin').write_bytes(b'Device Identity\n' + bytes(40))
    (tmp_path / 'b.bin').write_bytes(bytes(40))
    assert device_of(tmp_path / 'a.bin') == '.bin' and device_of(tmp_path / 'b.bin') == ''
    assert device_of('x.GT3X.gz') == '.gt3x' and device_of('x.csv') == ''


def logger_file(path, hz=50.0, seconds=6, unit=1.0, label='', text='t,ax,ay,az', shift=0.0):
    "Gravity with a little noise, as a logger writes it"
    rng = np.random.default_rng(list(path.name.encode()))
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


def test_files_without_a_table_or_a_sensor_are_left_out_and_named(tmp_path):
    for who in ('ann', 'bob'):
        logger_file(tmp_path / f'{who}_sit.csv')
        (tmp_path / f'{who}_pulse.csv').write_text('when,pulse\n' + '1,60\n2,61\n' * 9)
    (tmp_path / 'notes.csv').write_text('hello\n')
    guess = guess_manifest(tmp_path)
    assert 'left out: notes.csv, no table (has fewer than three rows)' in guess.guessed
    assert 'left out: 2 files like ann_pulse.csv, without a sensor' in guess.guessed
    assert [path.name for path in guess.recordings.file] == ['ann_sit.csv', 'bob_sit.csv']


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


def test_the_command_says_what_was_guessed_or_why_nothing_was_written(tmp_path):
    for k in (1, 2):
        logger_file(tmp_path / 'raw' / f'p{k}.csv', label='sit,walk')
    lines, study = [], tmp_path / 'study'
    assert new_command(study, tmp_path / 'raw', yes=True, say=lines.append) == 0
    guessed = json.loads((study / 'manifest.json').read_text())['guessed']
    assert lines[0] == f'2 recordings in {study}/recordings.csv. Guessed:'
    assert lines[1:-1] == [f'  {line}' for line in guessed] and len(guessed) > 3
    assert f'{study}/manifest.json' in lines[-1]
    assert new_command(study, tmp_path / 'raw', yes=True, say=lines.append) == 1
    assert lines[-1].startswith('harkd new: ') and 'is there already' in lines[-1]


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


def made_of(root, names, text='t,ax,ay,az', **edit):
    "A folder of files with those names"
    for name in names:
        logger_file(root / name, text=text, **edit)
    return root


TAKES = [f'{m}_{k}.csv' for m in ('rest', 'stroll') for k in (1, 2, 3)]
TWO_IDS = [f'S{k}_P{p}_{m}.csv' for k in (1, 2) for p in (1, 2, 3) for m in ('rest', 'stroll')]
NAMES = [f'{m}_{w}_{k}.csv' for m in ('rest', 'shake') for w in ('anna', 'ben') for k in (1, 2)]
DATES = [
    f'{m}_2024-05-1{k}_{w}.csv' for m in ('rest', 'run') for w in ('anna', 'ben') for k in '12'
]
DAYS = [f'p{p}{d}_{m}.csv' for p in (1, 2) for d in 'ab' for m in ('rest', 'run')]


@pytest.mark.parametrize('files', [TAKES, TWO_IDS], ids=['takes', 'two persons'])
def test_who_moved_is_asked_where_names_do_not_say_it(tmp_path, files):
    guess = guess_manifest(made_of(tmp_path / 'raw', files))
    assert 'who moved?' in guess.unknown['subject']
    with pytest.raises(BadRecording, match=r'who moved\?.*\[-p subject …\]'):
        write_new_study(tmp_path / 'study', tmp_path / 'raw', yes=True)
    answered = guess_manifest(tmp_path / 'raw', {'subject': r'(P\d)' if files is TWO_IDS else 'me'})
    assert not answered.unknown and answered.recordings.subject.nunique() in (1, 3)


@pytest.mark.parametrize('files', [NAMES, DATES], ids=['takes', 'dates'])
def test_names_of_persons_are_a_doubt_and_known_activities_are_the_label(tmp_path, files):
    guess = guess_manifest(made_of(tmp_path / 'raw', files))
    assert set(guess.recordings.subject) == {'anna', 'ben'} and not guess.unknown
    assert set(guess.recordings.label) in ({'rest', 'shake'}, {'rest', 'run'})
    assert 'anna, ben, from names of files, if these are persons' in guess.doubtful['subject']
    asked = []
    study = write_new_study(tmp_path / 'a', tmp_path / 'raw', ask=lambda q: asked.append(q) or '')
    assert len(asked) == 1 and 'anna, ben' in asked[0]
    assert not any(line.startswith('warning') for line in study.guessed)  # agreed
    study = write_new_study(tmp_path / 'b', tmp_path / 'raw', yes=True)
    assert [line for line in study.guessed if line.startswith('warning: the subjects are')]
    report = check_study(tmp_path / 'b', folds=2)
    assert any('anna, ben, from names of files' in w for w in report.warnings)


def test_letters_after_a_person_are_near_names(tmp_path):
    guess = guess_manifest(made_of(tmp_path / 'raw', DAYS))
    assert guess.recordings.subject.nunique() == 4
    assert 'p1a and p1b are different subjects' in guess.doubtful['subject']
    assert near_names(['p1a', 'p1b', 'p2a', 'p3']) == [('p1a', 'p1b')]
    assert guess_manifest(tmp_path / 'raw', {'subject': r'(p\d+)'}).doubtful == {}


@pytest.mark.parametrize(
    'paths, subject, label, unknown',
    [
        (['user_4_walk', 'user_5_walk', 'user_4_sit', 'user_5_sit'], 'user4', 'walk', set()),
        (['p1_walk', 'p1_sit'], 'p1', 'walk', set()),  # one person
        (['p1_s1_walk', 'p1_s2_sit'], None, 'walk', {'subject'}),  # one person, two sessions?
        (['anna_x', 'ben_x'], None, None, {'subject', 'label'}),
        (['run_anna', 'run_ben', 'sit_anna', 'sit_ben'], 'anna', 'run', set()),
        (['p1_walk_run', 'p2_sit_lie'], 'p1', None, {'label'}),
        (
            [
                f'{a}_{w}_{p}'
                for a in ('run', 'sit')
                for w in ('ann', 'bob')
                for p in ('lab', 'home')
            ],
            None,
            'run',
            {'subject'},
        ),
    ],
)
def test_places_of_paths(paths, subject, label, unknown):
    plan = plan_names([f'{p}.csv' for p in paths], False)
    words = [plan.places[k][0] if k is not None else None for k in (plan.subject, plan.label)]
    assert (*words, set(plan.unknown)) == (subject, label, unknown)


def test_activities_of_unknown_names_and_takes_of_one_activity_are_doubts():
    strange = plan_names([f'p{k}_{m}.csv' for k in (1, 2) for m in ('bli', 'bla')], False)
    assert 'none of them is a known one' in strange.doubtful['label']
    takes = plan_names([f'p{k}_walk{m}.csv' for k in (1, 2) for m in (1, 2)], False)
    assert 'differ by a number' in takes.doubtful['label']


def test_the_vocabulary_of_the_language_chapter_is_known():
    from harkd.language import CONCEPTS

    names = [a.split(':')[-1] for c in CONCEPTS.values() for a in (c.name, *c.aliases)]
    unknown = [n for n in names if not is_activity(n)]
    assert all(len(n) <= 4 for n in unknown), unknown  # codes such as 'abd'
    some = ('anna', 'ben', 'lab', 'p1', 'left', 'wrist', 'monday', '2024', 'take')
    assert not any(map(is_activity, some))


R = np.arange(0, 20, 0.02)
RESTARTS = {
    'same': [R, R],
    'shorter': [R, R[:500]],
    'longer': [R[:500], R],
    'overlap': [R, R + 15],
    'before': [R + 100, R],
    'three': [R, R, R],
    'summer time': [R + 1000, R - 2000],
    'between': [R, R[:800] + 0.007],
}


@pytest.mark.parametrize('kind', RESTARTS)
def test_a_clock_that_starts_again_is_split(tmp_path, kind):
    time = np.concatenate(RESTARTS[kind])
    path = logger_file(tmp_path / 'raw' / 'p1_sit.csv', seconds=len(time) / 50)
    logger_file(tmp_path / 'raw' / 'p2_run.csv', seconds=20)
    pd.read_csv(path).assign(t=time.round(4)).to_csv(path, index=False)
    guess = guess_manifest(tmp_path / 'raw')
    assert guess.manifest['time']['order'] == 'split' and not guess.unknown


@pytest.mark.parametrize(
    'time, order',
    [
        (R, ''),
        (np.r_[R[:500], 8.0, R[500:]], 'sort'),  # one late row
        (np.r_[R[:400], R[600:800], R[400:600], R[800:]], 'sort'),  # a late packet
        (np.random.default_rng(0).permutation(R), 'sort'),
        (np.r_[R[600:], R[:600]], 'sort'),
        (np.r_[R, R], 'split'),
    ],
)
def test_late_rows_are_sorted(time, order):
    assert guess_order(time) == order


def test_a_study_of_late_rows_and_restarts_is_asked_about(tmp_path):
    for name, time in (('p1_sit', np.r_[R, R]), ('p2_run', np.r_[R[600:], R[:600]])):
        path = logger_file(tmp_path / 'raw' / f'{name}.csv', seconds=len(time) / 50)
        pd.read_csv(path).assign(t=time).to_csv(path, index=False)
    assert 'better make two studies' in guess_manifest(tmp_path / 'raw').unknown['time.order']
    known = {'time.order': 'split'}
    guess = guess_manifest(tmp_path / 'raw', known)
    assert not guess.unknown and guess.manifest['time']['order'] == 'split'


def test_a_rate_is_measured_on_rising_steps():
    assert measured_rate(np.r_[R, R]) == pytest.approx(50)


def with_gyro(root, peak, gyro='(deg/s)', acc='(m/s^2)', gravity=G, name='Acceleration'):
    rng = np.random.default_rng(0)
    for file in ('p1_sit', 'p1_run', 'p2_sit', 'p2_run'):
        n, t = 600, np.arange(600) / 50
        wave = np.sin(9 * t)[:, None]
        values = np.c_[t, wave + rng.normal(0, 0.05, (n, 3)) + [0, 0, gravity], peak * wave, t, t]
        columns = ['Time (s)', *(f'{name} {a} {acc}' for a in 'xyz')]
        table = pd.DataFrame(values, columns=[*columns, *(f'Gyroscope {a} {gyro}' for a in 'xyz')])
        table.iloc[:, -2:] = 0.1 * peak * wave
        root.mkdir(exist_ok=True)
        table.round(5).to_csv(root / f'{file}.csv', index=False)
    return root


@pytest.mark.parametrize(
    'gyro, peak, unit, doubtful',
    [
        ('(deg/s)', 24, 'deg/s', False),
        ('(rad/s)', 34, 'rad/s', False),
        ('(rad/s)', 340, 'rad/s', True),
        ('', 24, 'rad/s', True),
        ('', 34, 'deg/s', True),
        ('', 5, 'rad/s', False),
        ('', 340, 'deg/s', False),
    ],
)
def test_a_written_unit_of_a_gyroscope_wins(tmp_path, gyro, peak, unit, doubtful):
    guess = guess_manifest(with_gyro(tmp_path / 'raw', peak, gyro))
    assert guess.manifest['streams']['imu']['units']['gyro'] == unit
    assert ('units.gyro' in guess.doubtful) is doubtful


def test_a_written_unit_of_an_accelerometer_wins_and_removed_gravity_is_said(tmp_path):
    linear = with_gyro(tmp_path / 'a', 1, gravity=0, name='Linear Acceleration')
    guess = guess_manifest(linear)
    stream = guess.manifest['streams']['imu']
    assert stream['units']['acc'] == 'm/s2' and stream['gravity'] is False and not guess.doubtful
    assert 'imu: gravity is removed, as the name of acc says' in guess.guessed
    guess = guess_manifest(with_gyro(tmp_path / 'b', 1, gravity=0))
    assert guess.manifest['streams']['imu']['gravity'] is False
    assert 'gravity seems to be removed' in guess.doubtful['gravity']
    guess = guess_manifest(with_gyro(tmp_path / 'c', 1, acc='(g)'))
    assert guess.manifest['streams']['imu']['units']['acc'] == 'g'
    assert 'which is gravity in m/s²' in guess.doubtful['units.acc']
    guess = guess_manifest(with_gyro(tmp_path / 'd', 1, acc='', gravity=0, name='userAcceleration'))
    assert 'gravity is removed' in guess.unknown['units.acc']


def columns_of(root, header, names=('p1_sit', 'p1_run', 'p2_sit', 'p2_run'), **columns):
    "Files with more columns than a clock and an accelerometer, in the order of a header"
    for k, name in enumerate(names):
        path = logger_file(root / f'{name}.csv', seconds=12)
        table = pd.read_csv(path)
        for column, make in columns.items():
            table[column] = make(table, k)
        table.columns = [{'ax': 'acc_x', 'ay': 'acc_y', 'az': 'acc_z'}.get(c, c) for c in table]
        table[header.split(',')].to_csv(path, index=False)
    return root


def wave(table, k):
    return np.sin(table.t + k).round(4)


def test_a_sensor_of_another_name_is_no_accelerometer(tmp_path):
    header = 't,quat_w,quat_x,quat_y,quat_z,acc_x,acc_y,acc_z'
    quat = {f'quat_{a}': wave for a in 'wxyz'}
    m = guess_manifest(columns_of(tmp_path / 'raw', header, **quat)).manifest
    assert m['streams']['imu']['columns'] == {f'acc_{a}': f'acc_{a}' for a in 'xyz'}
    foo = {f'foo_{a}': wave for a in 'xyz'}
    header = header.replace('quat_w,', '').replace('quat', 'foo')
    guess = guess_manifest(columns_of(tmp_path / 'foo', header, **foo))
    assert guess.manifest['streams']['imu']['columns']['acc_x'] == 'acc_x'
    assert 'imu: columns left out: foo_x, foo_y, foo_z' in guess.guessed


def test_sensors_of_two_places_are_two_streams(tmp_path):
    names = [f'{s}_{a}' for s in ('right_acc', 'left_gyro', 'left_acc') for a in 'xyz']
    make = {n: (lambda t, k: 1 + wave(t, k) / 9) if 'acc' in n else wave for n in names}
    guess = guess_manifest(columns_of(tmp_path / 'raw', f't,{",".join(names)}', **make))
    streams = guess.manifest['streams']
    assert {n: set(s['columns']) for n, s in streams.items()} == {
        'right': {f'acc_{a}' for a in 'xyz'},
        'left': {f'{s}_{a}' for s in ('acc', 'gyro') for a in 'xyz'},
    }
    assert all(c.startswith(n) for n, s in streams.items() for c in s['columns'].values())


def test_a_counter_is_no_clock_and_times_of_the_day_are(tmp_path):
    def clock(table, k):
        day = pd.Timestamp('2024-01-01 12:45:46') + pd.to_timedelta(table.t, unit='s')
        return day.dt.strftime('%H:%M:%S.%f').str[:-3]

    make = {'counter': lambda t, k: np.arange(len(t)) + 2055, 'time': clock}
    columns_of(tmp_path / 'raw', 'counter,time,acc_x,acc_y,acc_z', **make)
    guess = write_new_study(tmp_path / 'study', tmp_path / 'raw', yes=True)
    assert guess.manifest['time'] == {'column': 'time', 'unit': 'iso', 'format': '%H:%M:%S.%f'}
    assert guess.manifest['fs'] == 50
    data = load_dataset('sessions', tmp_path / 'study')
    assert data.recordings[0].duration == pytest.approx(12, abs=0.1)
    named = {'time_index': make['counter'], 'time_s': lambda t, k: t.t}
    columns_of(tmp_path / 'named', 'time_index,time_s,acc_x,acc_y,acc_z', **named)
    assert guess_manifest(tmp_path / 'named').manifest['time'] == {'column': 'time_s', 'unit': 's'}
    columns_of(tmp_path / 'alone', 'counter,acc_x,acc_y,acc_z', **make)
    assert 'how many samples per second' in guess_manifest(tmp_path / 'alone').unknown['fs']


def test_ticks_of_100_ns_are_asked_for_or_known_by_their_size(tmp_path):
    make = {'ticks': lambda t, k: (t.t * 1e7).round().astype('int64') + 123456789}
    header = 'ticks,acc_x,acc_y,acc_z'
    guess = guess_manifest(columns_of(tmp_path / 'raw', header, **make))
    assert 'steps are 200000' in guess.unknown['time.unit']
    known = {'time.unit': '100ns'}
    guess = write_new_study(tmp_path / 'study', tmp_path / 'raw', known, yes=True)
    assert guess.manifest['fs'] == 50
    recording = load_dataset('sessions', tmp_path / 'study').recordings[0]
    assert recording.duration == pytest.approx(12, abs=0.1)
    since = 638_000_000_000_000_000 + np.arange(100) * 200_000
    assert guess_time_unit(since) == ('100ns', pytest.approx(50))


def test_a_unit_in_the_name_of_the_time_wins(tmp_path):
    make = {'time_us': lambda t, k: (t.t * 1e7).round().astype('int64')}
    guess = guess_manifest(columns_of(tmp_path / 'raw', 'time_us,acc_x,acc_y,acc_z', **make))
    assert guess.manifest['time']['unit'] == 'us' and not guess.unknown  # 5 Hz
    make = {'time_ms': lambda t, k: t.t}
    guess = guess_manifest(columns_of(tmp_path / 'ms', 'time_ms,acc_x,acc_y,acc_z', **make))
    assert guess.manifest['time']['unit'] == 'ms'
    assert 'its steps are those of s (50 Hz)' in guess.doubtful['time.unit']


def test_a_column_of_one_word_and_words_of_devices_are_no_activity(tmp_path):
    header = 't,acc_x,acc_y,acc_z,firmware'
    raw = columns_of(tmp_path / 'one', header, firmware=lambda t, k: 'v1.2b')
    guess = guess_manifest(raw)
    assert 'label' not in guess.manifest and set(guess.recordings.label) == {'sit', 'run'}
    raw = columns_of(tmp_path / 'two', header, firmware=lambda t, k: 'ab'[k // 2])
    assert 'label' not in guess_manifest(raw).manifest
    raw = columns_of(tmp_path / 'task', f'{header[:-8]}task', task=lambda t, k: 'x')
    assert 'label' not in guess_manifest(raw).manifest  # the names say sit and run
    names = ('p1_x1', 'p1_x2', 'p2_x1', 'p2_x2')  # no activity in the names either
    raw = columns_of(tmp_path / 'only', f'{header[:-8]}task', names, task=lambda t, k: 'x')
    guess = guess_manifest(raw)
    assert guess.manifest['label'] == 'task'
    assert "warning: one activity only ('x'): a run needs two" in guess.guessed
    raw = columns_of(tmp_path / 'asked', header, names, firmware=lambda t, k: 'v1.2b')
    assert 'what was done?' in guess_manifest(raw).unknown['label']
    raw = columns_of(tmp_path / 'weak', header, names, firmware=lambda t, k: 'ab'[k % 2])
    assert 'no known activity is seen in it' in guess_manifest(raw).doubtful['label']


@pytest.mark.parametrize('shift', [0.0, 0.004, 0.01])
def test_two_devices_in_one_file_are_refused(tmp_path, shift):
    path = logger_file(tmp_path / 'raw' / 'p1_sit.csv', seconds=12)
    left = pd.read_csv(path).assign(side='left')
    right = left.assign(side='right', t=(left.t + shift).round(4), ax=-left.ax)
    rows = pd.concat([left, right]).sort_values('t', kind='stable')
    rows.to_csv(path, index=False)
    with pytest.raises(BadRecording, match=r"'side' \(left, right\) has rows at the same times"):
        guess_manifest(tmp_path / 'raw', {'subject': 'p1'})
    half = [k % 100 < 50 for k in range(len(left))]  # by turns is no device
    left.assign(side=np.where(half, 'walk', 'sit')).to_csv(path, index=False)
    assert guess_manifest(tmp_path / 'raw', {'subject': 'p1'}).manifest['label'] == 'side'


def test_one_activity_is_an_error_of_the_check_and_of_a_run(tmp_path):
    made_of(tmp_path / 'raw', ['p1_sit.csv', 'p2_sit.csv', 'p3_sit.csv'], seconds=12)
    known = {'label': r'(sit)'}
    guess = write_new_study(tmp_path / 'study', tmp_path / 'raw', known, yes=True)
    assert "warning: one activity only ('sit'): a run needs two" in guess.guessed
    report = check_study(tmp_path / 'study', folds=3)
    assert "one activity only ('sit'): a classifier needs two" in report.problems
    data = load_dataset('sessions', tmp_path / 'study')
    with pytest.raises(ValueError, match='a classifier needs two'):
        experiment_splits(DataConfig(folds=3), cut_windows(data, ('imu',)))


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


def test_columns_of_a_sensor_can_be_answered(tmp_path):
    header = 't,a1,a2,a3'
    make = {f'a{k}': (lambda t, k: t.az) for k in (1, 2, 3)}
    raw = columns_of(tmp_path / 'raw', f'{header},acc_x,acc_y,acc_z', **make)
    guess = guess_manifest(raw, {'columns.acc': 'a1,a2,a3'})
    assert guess.manifest['streams']['imu']['columns'] == dict(acc_x='a1', acc_y='a2', acc_z='a3')
    with pytest.raises(BadRecording, match='columns.acc needs the names of three columns: a1,b'):
        guess_manifest(raw, {'columns.acc': 'a1,b'})


def test_a_column_of_subjects_that_disagrees_with_the_names_is_asked_about(tmp_path):
    header = 't,acc_x,acc_y,acc_z,user'
    raw = columns_of(tmp_path / 'same', header, user=lambda t, k: f'u{k // 2}')
    guess = guess_manifest(raw)
    assert not guess.unknown and guess.recordings.subject.nunique() == 2
    raw = columns_of(tmp_path / 'owner', header, user=lambda t, k: 'owner')
    assert 'do not agree' in guess_manifest(raw).unknown['subject']
    raw = columns_of(tmp_path / 'each', header, user=lambda t, k: f'u{k}')
    assert 'do not agree' in guess_manifest(raw).unknown['subject']
