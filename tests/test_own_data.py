"Recordings with the faults that real files have: a named error, or the windows of the clean study"

import importlib.util
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harkd.data import DATASETS, BadRecording, load_dataset
from harkd.distill import DistillConfig
from harkd.inspect import (
    _grouped,
    check_command,
    check_study,
    describe_study,
    list_command,
    new_command,
)
from harkd.preprocess import cut_windows, downsample
from harkd.sessions import read_manifest, reader_notes
from harkd.split import by_subject, dev_loso_splits
from tests.conftest import data

G = 9.80665
MOVEMENTS = {'rest': (0.0, 0.0), 'stroll': (1.8, 2.5), 'shake': (5.0, 6.0)}  # Hz, m/s²


# The inputs of the project's collection of faults, where they are at hand


def _cases():
    where = Path(os.environ.get('HARKD_DATA', '.')).parent / 'cases' / 'make_cases.py'
    if not where.is_file():
        pytest.skip('needs ../cases/make_cases.py beside HARKD_DATA')
    spec = importlib.util.spec_from_file_location('make_cases', where)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def case(tmp_path, name):
    "The folder of one case"
    getattr(_cases(), name)(tmp_path / name)
    return tmp_path / name


def windows_of(folder, inputs=None, **kwargs):
    data = load_dataset('sessions', folder)
    return cut_windows(data, inputs or (*data.card.student, *data.card.teacher), **kwargs)


@pytest.mark.parametrize(
    'name,parts',
    [
        ('trailing_separator', ('p1_rest.csv', 'row 2 has 8 cells', 'the header has 7')),
        ('duplicate_headers', ('p1_rest.csv', "column 'x' occurs 2 times")),
        ('unit_under_a_wrong_key', ('manifest.json', "'accelerometer', which no channel has")),
        ('one_subject_twice', ('recordings.csv', "'p1' and 'P1' are one name")),
        ('clock_starts_again', ('p1_rest.csv', 'row 517', 'goes back by 10.27 s', '"split"')),
        ('clock_not_set', ('p1_rest.csv', 'row 3', 'jumps ahead', 'was not set')),
    ],
)
def test_a_fault_is_an_error_with_file_and_remedy(tmp_path, name, parts):
    with pytest.raises(BadRecording) as e:
        windows_of(case(tmp_path, name))
    for part in parts:
        assert part in str(e.value), str(e.value)


def test_a_class_called_null_is_a_class(tmp_path):
    w = windows_of(case(tmp_path, 'class_called_null'))
    assert w.classes == ('null', 'shake', 'stroll')
    assert np.bincount(w.y).tolist() == [76, 76, 76]


def test_the_magnitude_is_that_of_x_y_and_z_in_any_order(tmp_path):
    w = windows_of(case(tmp_path, 'axes_in_another_order'))
    assert w.channels('wrist+norm') == ('acc_z', 'acc_y', 'acc_x', 'acc_norm')
    x = w.batch(range(len(w))).x['wrist+norm'].numpy()
    assert np.allclose(x[..., 3], np.linalg.norm(x[..., :3], axis=-1), rtol=1e-5)
    resting = x[w.y == w.classes.index('rest'), :, 3]
    assert abs(resting.mean() / G - 1) < 0.05


def test_the_others_train_where_only_test_subjects_are_named(tmp_path):
    w = windows_of(case(tmp_path, 'only_test_subjects'))
    assert (w.card.train_subjects, w.card.test_subjects) == (('p1', 'p2', 'p3'), ('p4',))
    for split in dev_loso_splits(w):
        assert 'p4' not in {*split.subjects('train'), *split.subjects('val')}
    assert 'training subjects are the others: p1, p2, p3' in w.report['reader']


def test_subjects_that_vanish_are_named_with_the_reason(tmp_path):
    folder = case(tmp_path, 'subjects_that_vanish')
    with pytest.raises(BadRecording) as e:
        windows_of(folder)
    for part in ("'p2'", 'lasts 0.8 s', "'p3'", 'no time in common', 'drop_subjects'):
        assert part in str(e.value)
    w = windows_of(folder, missing='report')
    assert {r['subject'] for r in w.report['lost']} == {'p2', 'p3'} and len(w.report['lost']) == 6
    manifest = json.loads((folder / 'manifest.json').read_text())
    text = json.dumps(manifest | {'drop_subjects': ['p2', 'p3']})
    (folder / 'manifest.json').write_text(text)
    assert set(windows_of(folder).table.subject) == {'p1', 'p4', 'p5'}


def test_data_that_grew_have_another_hash(tmp_path):
    folder = case(tmp_path, 'data_that_grew')
    before = load_dataset('sessions', folder).hash
    _cases().data_that_grew_after(folder)
    assert load_dataset('sessions', folder).hash != before


# A small study of our own


def table_of(movement, seconds=8, fs=50, rng=None):
    "Columns t (s), ax ay az (m/s²), gx gy gz (rad/s)"
    hz, amplitude = movement
    t = np.arange(seconds * fs) / fs
    wave = amplitude * np.sin(2 * np.pi * hz * t + rng.uniform(0, 6))
    acc = np.stack([wave, 0.5 * np.roll(wave, 5), G + 0.3 * wave], 1)
    gyro = np.stack([0.4 * wave, 0.1 * wave, 0 * wave], 1)
    values = np.concatenate([acc, gyro], 1) + rng.normal(0, 0.05, (len(t), 6))
    table = pd.DataFrame(values.round(5), columns=['ax', 'ay', 'az', 'gx', 'gy', 'gz'])
    table.insert(0, 't', t.round(4))
    return table


STREAM = {
    'columns': {f'{s}_{a}': f'{s[0]}{a}' for s in ('acc', 'gyro') for a in 'xyz'},
    'units': {'acc': 'm/s2', 'gyro': 'rad/s'},
}
CLEAN = {
    'name': 'study',
    'fs': 50,
    'time': {'column': 't', 'unit': 's'},
    'streams': {'wrist': STREAM},
    'window_s': 2,
    'stride_s': 1,
}


def write_study(root, edit=None, subjects=('p1', 'p2', 'p3'), write=None, **change):
    "One file for each subject and movement"
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for subject in subjects:
        for name, movement in MOVEMENTS.items():
            table = table_of(movement, rng=rng)
            if edit:
                table = edit(table)
            path = root / f'{subject}_{name}.csv'
            if write:
                write(table, path)
            else:
                table.to_csv(path, index=False)
            rows.append({'id': path.stem, 'subject': subject, 'file': path.name, 'label': name})
    pd.DataFrame(rows).to_csv(root / 'recordings.csv', index=False)
    manifest = {k: v for k, v in (CLEAN | change).items() if v is not None}
    (root / 'manifest.json').write_text(json.dumps(manifest))
    return root


def complaint(folder, **kwargs):
    with pytest.raises(BadRecording) as e:
        windows_of(folder, **kwargs)
    return str(e.value)


def test_a_clean_study_keeps_every_window(tmp_path):
    w = windows_of(write_study(tmp_path))
    assert len(w) == 9 * 7 and w.report['lost'] == []  # 8 s: windows of 2 s that fit exactly
    assert reader_notes(load_dataset('sessions', tmp_path)).empty


# Tables


def test_ids_and_labels_stay_text(tmp_path):
    write_study(tmp_path)
    rows = pd.read_csv(tmp_path / 'recordings.csv')
    names = {'p1': '01', 'p2': '1E2', 'p3': 'None'}
    labels = {'rest': '1', 'stroll': 'NA', 'shake': 'nan'}
    rows = rows.assign(subject=rows.subject.map(names), label=rows.label.map(labels))
    rows.to_csv(tmp_path / 'recordings.csv', index=False)
    data = load_dataset('sessions', tmp_path)
    assert sorted(data.subjects) == ['01', '1E2', 'None'] and data.card.classes == (
        '1',
        'NA',
        'nan',
    )


def test_numbers_as_labels_survive_an_empty_cell(tmp_path):
    def edit(table):
        what = np.where(table.index < 200, '1', '2').astype(object)
        what[5] = ''
        return table.assign(what=what)

    w = windows_of(write_study(tmp_path, edit, label='what'))
    assert w.classes == ('1', '2')


def test_labels_that_are_nearly_one_name_raise(tmp_path):
    def edit(table):
        return table.assign(what=np.where(table.index < 200, '1', '1.0'))

    assert "'1' and '1.0' are nearly one name" in complaint(
        write_study(tmp_path / 'a', edit, label='what')
    )
    listed = write_study(tmp_path / 'b', edit, label='what', classes=['1', '1.0'])
    assert load_dataset('sessions', listed).card.classes == ('1', '1.0')


def test_parquet_keeps_types_and_dates(tmp_path):
    clean = windows_of(write_study(tmp_path / 'a'))

    def write(table, path):
        stamps = pd.Timestamp('2024-05-01 12:00:00') + pd.to_timedelta(table.t, unit='s')
        what = pd.Series(np.full(len(table), 1.0)).where(table.index > 3)
        table.assign(t=stamps, what=what).to_parquet(path.with_suffix('.parquet'))

    folder = write_study(tmp_path / 'b', write=write, time={'column': 't'}, label='what')
    rows = pd.read_csv(folder / 'recordings.csv')
    rows.assign(file=rows.file.str.replace('csv', 'parquet')).to_csv(
        folder / 'recordings.csv', index=False
    )
    data = load_dataset('sessions', folder)
    assert data.card.classes == ('1',)
    assert data.recordings[0].spans[0].start == pytest.approx(0.08)
    assert 'time stamps read as dates' in reader_notes(data).text.tolist()
    first = data.recordings[0].streams['wrist']
    assert np.allclose(first.time, np.arange(400) / 50)
    assert np.allclose(first.values[:100], clean.batch([0]).x['wrist'][0])


@pytest.mark.parametrize(
    'change,part',
    [
        ({'windw_s': 2}, "unknown key 'windw_s', did you mean 'window_s'?"),
        ({'time': {'column': 't', 'units': 's'}}, "unknown key 'units', did you mean 'unit'?"),
        ({'streams': {'w': STREAM | {'unit': {}}}}, "unknown key 'unit', did you mean 'units'?"),
        ({'streams': {'w': STREAM | {'units': {'acc': 'g'}}}}, "'gyro_x' has no unit"),
        (
            {'streams': {'w': STREAM | {'units': {'acc': 'm/s2', 'gyro': 'g'}}}},
            "'gyro_x' cannot be",
        ),
        (
            {'streams': {'w': STREAM | {'columns': STREAM['columns'] | {'acc_y': 'ax'}}}},
            "acc_x and acc_y read the same column 'ax'",
        ),
        ({'streams': {'w': 'ax'}}, 'stream \'w\' needs "columns"'),
        ({'streams': {'w': {'columns': ['ax']}}}, 'stream \'w\' needs "columns"'),
        ({'fs': None, 'time': None}, "needs 'fs' (Hz), or 'time'"),
        ({'fs': float('nan')}, "'fs' must be a finite number"),
        ({'name': 'spar'}, 'which is a published data set'),
        ({'classes': ['rest', 'stroll']}, "label 'shake' is neither in 'classes' nor in 'drop'"),
        ({'classes': ['rest'], 'drop': ['rest']}, "stands in 'classes' and in 'drop'"),
        ({'test_subjects': ['p9']}, "'p9' is a training or test subject without a recording"),
        ({'test_subjects': ['p1'], 'train_subjects': ['p1']}, 'train_subjects'),
        ({'student': ['wirst']}, "no stream 'wirst', did you mean 'wrist'?"),
        ({'student': ['wrist:accc']}, "no sensor 'accc', did you mean 'acc'?"),
        ({'sep': ';;'}, 'sep must be one character'),
        ({'time': {'column': 't', 'unit': 'sec'}}, "unknown unit 'sec'"),
    ],
)
def test_a_manifest_that_is_wrong_names_the_key(tmp_path, change, part):
    message = complaint(write_study(tmp_path, **change))
    assert part in message and 'manifest.json' in message, message


def test_keys_that_occur_twice_raise(tmp_path):
    write_study(tmp_path)
    text = (tmp_path / 'manifest.json').read_text().replace('"fs": 50', '"fs": 50, "fs": 60')
    (tmp_path / 'manifest.json').write_text(text)
    with pytest.raises(BadRecording, match="the key 'fs' occurs twice"):
        read_manifest(tmp_path)


def test_classes_may_be_some_where_drop_names_the_rest(tmp_path):
    w = windows_of(write_study(tmp_path, classes=['stroll', 'rest'], drop=['shake']))
    assert w.classes == ('stroll', 'rest') and len(w) == 6 * 7


def test_labels_of_a_column_may_be_dropped(tmp_path):
    def edit(table):
        return table.assign(what=np.where(table.index < 200, '1', '2'))

    w = windows_of(write_study(tmp_path, edit, label='what', classes=[2], drop=[1]))
    assert w.classes == ('2',) and len(w) == 9 * 3


def test_the_group_column_is_kept_and_checked(tmp_path):
    write_study(tmp_path)
    rows = pd.read_csv(tmp_path / 'recordings.csv')
    rows.assign(group=['01', '01', '02'] * 3).to_csv(tmp_path / 'recordings.csv', index=False)
    w = windows_of(tmp_path)
    assert set(w.table.group) == {'01', '02'}
    with pytest.raises(ValueError, match='share a group'):
        by_subject(w, ['p1', 'p2'], ['p3'])
    rows.assign(groups='x').to_csv(tmp_path / 'recordings.csv', index=False)
    assert "did you mean 'group'?" in complaint(tmp_path)


# Clocks


def test_whole_second_stamps_are_spread_and_reported(tmp_path):
    clean = windows_of(write_study(tmp_path / 'a'))
    w = windows_of(write_study(tmp_path / 'b', lambda t: t.assign(t=t.t // 1)))
    assert len(w) == len(clean) and 'packets: 50.0 samples' in ' '.join(w.report['reader'])
    assert np.allclose(w.batch([3]).x['wrist'], clean.batch([3]).x['wrist'], atol=1e-3)


@pytest.mark.parametrize(
    'edit,time,part',
    [
        (lambda t: t.assign(t=t.t.where(t.index != 9)), {}, 'row 11 has no time'),
        (lambda t: t.assign(t=t.t.where(t.index != 399)), {}, 'was the file cut off?'),
        (lambda t: t.assign(t=t.t * 1000), {}, "more likely in 'ms' than in 's'"),
        (lambda t: t.assign(t=t.t), {'unit': 'ms'}, "more likely in 's' than in 'ms'"),
        (lambda t: t.assign(t=t.t.where(t.index < 399, 1e9)), {}, 'row 401: the clock jumps'),
        (lambda t: t.assign(t=0.0), {}, 'all rows have the time'),
        (lambda t: t.assign(t='noon'), {}, "'noon' in column 't' is neither a number nor a date"),
    ],
)
def test_a_clock_that_cannot_be_right_names_the_row(tmp_path, edit, time, part):
    folder = write_study(
        tmp_path, edit, time={'column': 't', 'unit': 's', **time} if time else {'column': 't'}
    )
    message = complaint(folder)
    assert part in message and 'p1_rest.csv' in message, message


def test_a_restart_may_be_two_stretches(tmp_path):
    def edit(table):
        return table.assign(t=table.t.where(table.index < 200, table.t - 3.99))

    time = {'column': 't', 'order': 'split'}
    w = windows_of(write_study(tmp_path, edit, time=time))
    assert 'the clock restarted 1 times' in ' '.join(w.report['reader'])
    assert len(w) == 9 * 2 * 3  # 4 s and 4 s instead of 8 s


def test_memory_is_bounded_by_samples(tmp_path):
    def edit(table):
        return table.assign(t=table.t + (table.index >= 200) * 80_000.0)

    w = windows_of(write_study(tmp_path, edit))
    assert len(w.signals['wrist'].values) <= 9 * 410
    clean = windows_of(write_study(tmp_path / 'clean'))
    late = w.table.index[w.table.start > 80_000][0]
    same = clean.table.index[clean.table.start == 4.0][0]
    assert np.allclose(w.batch([late]).x['wrist'], clean.batch([same]).x['wrist'], atol=1e-4)


# Values


def test_a_long_run_of_missing_values_is_a_gap(tmp_path):
    def edit(table):
        return table.assign(ax=table.ax.where((table.index < 150) | (table.index >= 250)))

    folder = write_study(tmp_path, edit)
    assert 'are NaN or infinite' in complaint(folder)
    w = windows_of(folder, nan='interpolate')
    assert w.report['filled'] == 900 and w.report['dropped_for_gaps'] > 0
    assert not ((w.table.start < 4.9) & (w.table.stop > 3.1)).any()


def test_impossible_values_are_named_or_missing(tmp_path):
    def edit(table):
        return table.assign(gy=table.gy.where(table.index != 7, 2147483647))

    assert "row 9: 1 values of column 'gy' cannot be" in complaint(write_study(tmp_path, edit))
    w = windows_of(write_study(tmp_path, edit, invalid='missing'), nan='interpolate')
    assert w.report['filled'] == 9


def test_the_unit_is_held_against_gravity(tmp_path):
    def in_g(table):
        return table.assign(**{f'a{a}': table[f'a{a}'] / G for a in 'xyz'})

    assert "likely in 'g', not in 'm/s2'" in complaint(write_study(tmp_path, in_g))

    def without_gravity(table):
        return table.assign(az=table.az - G)

    assert '"gravity": false' in complaint(write_study(tmp_path, without_gravity))
    streams = {'wrist': STREAM | {'gravity': False}}
    windows_of(write_study(tmp_path, without_gravity, streams=streams))
    assert 'gravity is included' in complaint(write_study(tmp_path, streams=streams))


def test_one_file_in_another_unit_is_found(tmp_path):
    write_study(tmp_path)
    table = pd.read_csv(tmp_path / 'p2_rest.csv')
    table[['ax', 'ay', 'az']] /= G
    table.to_csv(tmp_path / 'p2_rest.csv', index=False)
    message = complaint(tmp_path)
    assert 'p2_rest.csv' in message and 'unlike the other recordings' in message


def test_degrees_read_as_radians_are_found(tmp_path):
    def edit(table):
        return table.assign(**{f'g{a}': np.rad2deg(table[f'g{a}']) for a in 'xyz'})

    assert "likely in 'deg/s', not in 'rad/s'" in complaint(write_study(tmp_path, edit))


def of_subject(root, subject, edit):
    "Change the files of one subject"
    for path in sorted(root.glob(f'{subject}_*.csv')):
        edit(pd.read_csv(path)).to_csv(path, index=False)
    return root


def test_a_subject_whose_gyroscope_has_another_unit_is_a_warning(tmp_path):
    def slow(table):
        return table.assign(**{f'g{a}': table[f'g{a}'] / 10 for a in 'xyz'})

    def in_degrees(table):
        return table.assign(**{f'g{a}': np.rad2deg(table[f'g{a}']) for a in 'xyz'})

    assert not check_study(write_study(tmp_path, slow)).warnings
    warnings = check_study(of_subject(tmp_path, 'p3', in_degrees)).warnings
    assert "gyroscope of subject 'p3' reaches" in ' '.join(warnings)


def test_a_subject_in_g_who_never_rests_is_found(tmp_path):
    def moving(table):
        return table.assign(az=table.az + 25 * np.sin(20 * table.t))

    def in_g(table):
        return table.assign(**{f'a{a}': table[f'a{a}'] / G for a in 'xyz'})

    windows_of(write_study(tmp_path, moving))
    message = complaint(of_subject(tmp_path, 'p2', in_g))
    assert 'p2_rest.csv' in message and "is it in 'm/s2' as they are?" in message


def test_rows_that_alternate_between_two_devices_raise(tmp_path):
    def two(table):
        other = table.assign(ax=-table.ax, az=-table.az)
        return pd.concat([table, other]).sort_values('t', kind='stable')

    assert 'alternate between 2 signals' in complaint(write_study(tmp_path, two))

    def two_clocks(table):
        other = table.assign(t=table.t + 0.004, ax=-table.ax, az=-table.az)
        return pd.concat([table, other]).sort_values('t', kind='stable')

    assert 'alternate between 2 signals' in complaint(write_study(tmp_path, two_clocks))


def test_what_stands_for_not_measured_is_no_sample(tmp_path):
    def nines(table):
        return table.assign(ay=table.ay.where(table.index % 50 != 7, -999))

    assert "8 values of column 'ay' cannot be" in complaint(write_study(tmp_path, nines))

    def zeros(table):
        table.loc[40:42, table.columns != 't'] = 0
        return table

    message = complaint(write_study(tmp_path, zeros))
    assert '3 samples of acc are 0 on all axes' in message and 'sample 41' in message
    w = windows_of(write_study(tmp_path, zeros, invalid='missing'), nan='interpolate')
    assert w.report['filled'] == 9 * 3 * 6  # recordings, rows, channels


@pytest.mark.parametrize('column', ['subject', 'group'])
@pytest.mark.parametrize(
    'names', [('1', '1.0'), ('1', '01'), ('Jos\u00e9', 'Jose\u0301'), ('p 1', 'P  1')]
)
def test_one_subject_or_group_under_two_spellings_raises(tmp_path, column, names):
    write_study(tmp_path, subjects=('p1', 'p2'))
    rows = pd.read_csv(tmp_path / 'recordings.csv', dtype=str)
    rows[column] = [names[k % 2] for k in range(len(rows))]
    rows.to_csv(tmp_path / 'recordings.csv', index=False)
    message = complaint(tmp_path)
    assert f'{column}s ' in message and 'are one name' in message
    assert 'Jos' not in names[0] or "'Jos\\xe9' and 'Jose\\u0301'" in message


def test_a_name_to_drop_must_be_spelt_as_the_files_do(tmp_path):
    message = complaint(write_study(tmp_path, drop=['Rest']))
    assert "'drop' names 'Rest', the files say 'rest'" in message
    assert len(windows_of(write_study(tmp_path, drop=['rest', 'transition'])).classes) == 2


def test_samples_under_two_subjects_raise(tmp_path):
    write_study(tmp_path)
    lines = (tmp_path / 'p1_stroll.csv').read_text().splitlines()
    (tmp_path / 'p3_shake.csv').write_text('\n'.join([lines[0], *lines[100:]]) + '\n')
    message = complaint(tmp_path)
    assert "'p1_stroll' (p1) and 'p3_shake' (p3) have samples in common" in message


# From files as a logger wrote them


def write_loggers(root):
    "Two sensors in files of their own, without a header, lines that end in a semicolon"
    rng = np.random.default_rng(0)
    for subject in ('1600', '1603', '1605'):
        parts = [table_of(m, rng=rng).assign(doing=d) for d, m in zip('AB', MOVEMENTS.values())]
        table = pd.concat(parts, ignore_index=True)
        stamps = 90_426_708_196_641 + 20_000_000 * np.arange(len(table))
        for sensor, first in (('accel', 'a'), ('gyro', 'g')):
            rows = zip(table.doing, stamps, *(table[f'{first}{a}'] for a in 'xyz'))
            lines = [','.join(map(str, (subject, *row))) + ';' for row in rows]
            path = root / sensor / f'data_{subject}_{sensor}_watch.txt'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('\n'.join(lines) + '\n')


def test_new_makes_a_study_of_a_loggers_files(tmp_path):
    write_loggers(tmp_path / 'files')
    lines = []
    assert new_command(tmp_path / 'study', tmp_path / 'files', yes=True, say=lines.append) == 0
    manifest = read_manifest(tmp_path / 'study')
    assert (manifest['header'], manifest['line_end'], manifest['fs']) == (False, ';', 50)
    assert manifest['time'] == {'column': '3', 'unit': 'ns'} and manifest['guessed']
    assert check_command(str(tmp_path / 'study'), folds=3, say=lines.append) == 0
    data = load_dataset('sessions', tmp_path / 'study')
    assert data.subjects == ['1600', '1603', '1605'] and data.card.classes == ('A', 'B')
    channels = data.recordings[0].streams['imu'].channels
    assert channels == tuple(f'{s}_{a}' for s in ('acc', 'gyro') for a in 'xyz')


def test_new_asks_for_what_it_cannot_know(tmp_path):
    table = table_of(MOVEMENTS['rest'], rng=np.random.default_rng(0)).drop(columns='t')
    table.to_csv(tmp_path / 'one.csv', index=False)
    lines = []
    assert new_command(tmp_path / 'a', tmp_path / 'one.csv', yes=True, say=lines.append) == 1
    assert 'how many samples per second' in lines[0] and 'who moved?' in lines[0]
    known = {'fs': 50, 'subject': 'ann', 'label': '(one)'}
    assert new_command(tmp_path / 'a', tmp_path / 'one.csv', True, known, say=lines.append) == 0
    assert load_dataset('sessions', tmp_path / 'a').card.classes == ('one',)


def test_check_lists_every_problem_and_fails(tmp_path):
    write_study(tmp_path)
    (tmp_path / 'p1_rest.csv').write_text('t,ax\n0,1,2\n')
    (tmp_path / 'p2_rest.csv').unlink()
    report = check_study(tmp_path)
    assert not report.ok and len(report.problems) == 2
    assert 'p1_rest.csv' in report.problems[0] and 'p2_rest.csv: missing' in report.problems[1]
    assert check_command(str(tmp_path), say=lambda line: None) == 1


def test_check_says_what_was_left_out_and_what_a_run_needs(tmp_path):
    write_study(tmp_path, subjects=('p1', 'p01', 'p3'))
    report = check_study(tmp_path, folds=3)
    assert report.ok and "'p01' and 'p1' have nearly one name" in report.warnings[0]
    assert report.classes.windows.tolist() == [21, 21, 21]
    assert report.folds.val.tolist() == [21, 21, 21]
    assert {'memory', 'time', 'left out', 'folds'} <= set(report.facts)
    page = report.to_html(tmp_path / 'page.html')
    assert page.count('data:image/png;base64') == 4 and '<script' not in page
    cfg = DistillConfig()  # three models of each seed and fold
    assert f'({3 * 3 * cfg.seeds * cfg.steps:,} steps; ' in report.facts['time']
    report = check_study(tmp_path, folds=1)
    assert [p.split(':')[0] for p in report.problems] == ['folds'] and 'memory' in report.facts
    assert 'time' not in report.facts  # of a run that cannot start


def test_equal_notes_are_one_row_in_the_order_in_which_they_came():
    texts = ['units of g', 'spread 3 packets', 'spread 12 packets', 'filled 2 samples']
    notes = pd.DataFrame(dict(kind='z y y a'.split(), recording=list('abbc'), file='', text=texts))
    found = _grouped(notes)
    assert found.kind.tolist() == ['z', 'y', 'a'] and found.times.tolist() == [1, 2, 1]
    assert found['for example'].tolist() == ['a units of g', 'b spread 3 packets', f'c {texts[3]}']


def test_the_list_of_data_sets_has_a_line_for_each_and_says_which_is_here(monkeypatch, tmp_path):
    monkeypatch.setenv('HARKD_DATA', str(tmp_path))
    (tmp_path / 'wisdm').mkdir()
    (tmp_path / 'wisdm' / 'a.txt').touch()
    lines = []
    assert list_command(say=lines.append) == 0
    assert [line.split()[0] for line in lines] == list(DATASETS)
    assert all(line.endswith(card.title) for line, card in zip(lines, DATASETS.values()))
    (here,) = (line for line in lines if line.startswith('wisdm'))
    assert str(tmp_path / 'wisdm') in here
    (away,) = (line for line in lines if line.startswith('utd_mhad '))
    assert ' not here ' in away


def test_a_description_says_who_trains_and_who_tests(tmp_path):
    facts = describe_study(write_study(tmp_path, test_subjects=['p2'])).facts
    assert facts['recordings'] == '9 of 3 subjects, 1.2 min'
    assert facts['training subjects'] == 'p1, p3' and facts['test subjects'] == 'p2'
    assert facts['windows'] == '2 s every 1 s at 50 Hz'
    assert facts['inputs'] == 'student wrist; teacher wrist'
    facts = describe_study(write_study(tmp_path)).facts
    assert 'training subjects' not in facts and 'test subjects' not in facts


@pytest.mark.parametrize('name', ['wisdm', 'sp_sw_har'])
def test_real_files_become_a_study_in_one_call(tmp_path, name):
    source = data(name)
    if name == 'wisdm':
        with zipfile.ZipFile(source / 'wisdm-dataset.zip') as z:
            z.extractall(tmp_path, [n for n in z.namelist() if '_1600_' in n or '_1603_' in n])
        files = [tmp_path / 'wisdm-dataset']
    else:
        files = [source / 'DATA' / s for s in ('s01', 's02')]
    assert new_command(tmp_path / 'study', files, yes=True, say=lambda line: None) == 0
    w = windows_of(tmp_path / 'study')
    assert w.table.subject.nunique() == 2 and len(w.classes) == (18 if name == 'wisdm' else 5)


# Down-sampling


@pytest.mark.parametrize('rate', [75.0, 100.0, 104.3, 128.0, 200.0])
@pytest.mark.parametrize('hz', [26.0, 31.0, 37.0])
def test_a_tone_above_half_the_rate_loses_40_db(rate, hz):
    t = np.arange(int(20 * rate)) / rate
    y = downsample(np.sin(2 * np.pi * hz * t)[:, None], t, 50.0)[50:-50]
    assert np.abs(y).max() < 0.01


def test_down_sampled_windows_have_another_hash_and_say_so(tmp_path):
    write_study(tmp_path, fs=25)
    data = load_dataset('sessions', tmp_path)
    w = cut_windows(data, ('wrist',))
    assert w.hash != data.hash and w.report['downsampled']['wrist']['from_hz'] == 50
    write_study(tmp_path)
    data = load_dataset('sessions', tmp_path)
    assert cut_windows(data, ('wrist',)).hash == data.hash


# Whatever the form, the same windows or a named error


@pytest.fixture(scope='module')
def clean(tmp_path_factory):
    return windows_of(write_study(tmp_path_factory.mktemp('clean')))


SCALES = {'s': 1, 'ms': 1000, 'us': 1_000_000, 'ns': 1_000_000_000}
FORMS = st.fixed_dictionaries(
    {
        'order': st.permutations(['t', 'ax', 'ay', 'az', 'gx', 'gy', 'gz']),
        'sep': st.sampled_from([',', ';', '\t', '|']),
        'decimal': st.sampled_from('.,'),
        'encoding': st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16', 'cp1252', 'latin-1']),
        'unit': st.sampled_from(['s', 'ms', 'us', 'ns', 'iso']),
        'zero': st.sampled_from([0, 17, 1_700_000_000]),
        'header': st.sampled_from([True, False, 'names']),
        'line_end': st.sampled_from(['', '#']),
        'newline': st.sampled_from(['\n', '\r\n']),
        'quote': st.booleans(),
        'accent': st.booleans(),
        'acc_in_g': st.booleans(),
        'shuffled': st.booleans(),
        'fault': st.sampled_from(
            ['', '', '', '', 'cell', 'word', 'twice', 'cut', 'empty_file', 'bytes', 'sep', 'key']
        ),
    }
)


def cell_text(value, decimal):
    return repr(float(value)).replace('.', decimal)


def stamp_text(second, form):
    ticks = round(second * 1000)
    if form['unit'] == 'iso':
        moment = pd.Timestamp(form['zero'] * 1000 + ticks, unit='ms')
        return moment.isoformat(timespec='milliseconds')
    whole = (form['zero'] * 1000 + ticks) * SCALES[form['unit']]
    if form['unit'] == 's':
        return cell_text(whole / 1000, form['decimal'])
    return str(whole // 1000)


def form_text(table, form):
    "A table as one of many loggers would write it"
    sep, decimal = form['sep'], form['decimal']
    table = table.assign(
        **{f'a{a}': table[f'a{a}'] / (G if form['acc_in_g'] else 1) for a in 'xyz'}
    )
    if form['shuffled']:
        order = np.arange(len(table))
        order[10:12] = order[10:12][::-1]
        table = table.iloc[order]
    columns = {c: [cell_text(v, decimal) for v in table[c]] for c in table if c != 't'}
    columns['t'] = [stamp_text(v, form) for v in table.t]
    names = [rename(c, form) for c in form['order']]
    cells = zip(*(columns[c] for c in form['order']))
    if form['quote']:
        cells = (tuple(f'"{c}"' for c in row) for row in cells)
    lines = [sep.join(names)] if form['header'] is True else []
    lines += [sep.join(row) for row in cells]
    return ''.join(line + form['line_end'] + form['newline'] for line in lines)


def rename(column, form):
    return column + ('é' if form['accent'] else '')


def form_manifest(form):
    names = {c: rename(c, form) for c in form['order']}
    if form['header'] is False:
        names = {c: str(k + 1) for k, c in enumerate(form['order'])}
    columns = {k: names[c] for k, c in STREAM['columns'].items()}
    acc = 'g' if form['acc_in_g'] else 'm/s2'
    header = (
        [rename(c, form) for c in form['order']] if form['header'] == 'names' else form['header']
    )
    return {
        'streams': {'wrist': {'columns': columns, 'units': {'acc': acc, 'gyro': 'rad/s'}}},
        'time': {'column': names['t'], 'unit': form['unit']},
        'sep': form['sep'],
        'decimal': form['decimal'],
        'encoding': 'utf-8' if form['encoding'].startswith('utf') else form['encoding'],
        'header': header,
        'line_end': form['line_end'],
    }


def broken(text, form):
    "The text of one file, with a fault"
    lines = text.split(form['newline'])
    faults = {
        'cell': lambda: lines.__setitem__(5, lines[5] + form['sep'] + '1'),
        'word': lambda: lines.__setitem__(5, form['sep'].join(['oops'] * 7) + form['line_end']),
        'cut': lambda: lines.__setitem__(-2, lines[-2][: len(lines[-2]) // 2]),
        'twice': lambda: lines.__setitem__(
            0, lines[0].replace(rename('ay', form), rename('ax', form))
        ),
        'empty_file': lines.clear,
    }
    faults.get(form['fault'], lambda: None)()
    return form['newline'].join(lines)


def write_form(root, form):
    def write(table, path):
        text = form_text(table, form)
        if path.stem == 'p2_shake':
            text = broken(text, form)
        raw = text.encode(form['encoding'])
        if form['fault'] == 'bytes' and path.stem == 'p2_shake':
            raw = b'\x81\xff\x00' + raw
        path.write_bytes(raw)

    change = form_manifest(form)
    if form['fault'] == 'sep':
        change['sep'] = next(s for s in ',;\t|' if s not in (form['sep'], form['decimal']))
    if form['fault'] == 'key':
        change['streams']['wrist']['unit'] = change['streams']['wrist'].pop('units')
    return write_study(root, write=write, **change)


@given(form=FORMS)
@settings(
    max_examples=int(os.environ.get('HARKD_EXAMPLES', 60)),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_in_any_form_the_same_windows_or_a_named_error(clean, tmp_path_factory, form):
    folder = write_form(tmp_path_factory.mktemp('form'), form)
    ambiguous = form['sep'] == form['decimal'] == ',' and not form['quote']
    try:
        w = windows_of(folder)
    except ValueError as e:  # BadRecording is one; anything else fails the test
        assert str(folder) in str(e), str(e)
        assert form['fault'] or form['sep'] == form['decimal'], str(e)
        return
    harmless = form['fault'] == 'twice' and form['header'] is not True
    assert not ambiguous and (not form['fault'] or harmless), form
    assert w.table.drop(columns='stop').equals(clean.table.drop(columns='stop'))
    if form['fault']:
        return
    ids = range(0, len(w), 5)
    assert np.allclose(w.batch(ids).x['wrist'], clean.batch(ids).x['wrist'], atol=2e-3)


def test_uneven_folds_are_a_warning_with_both_sizes(tmp_path):
    folder = write_study(tmp_path)
    rows = pd.read_csv(folder / 'recordings.csv')
    few = rows[(rows.subject != 'p2') | (rows.label == 'rest')]
    few.to_csv(folder / 'recordings.csv', index=False)
    report = check_study(folder, folds=3)
    assert sorted(report.folds.val) == [7, 21, 21]
    assert 'folds are uneven: 7 to 21 windows held out' in report.warnings
