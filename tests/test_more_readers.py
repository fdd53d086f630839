"Archives of chapter 00g: files in their published layouts are read, damaged ones are named"

import io
import zipfile

import numpy as np
import pandas as pd
import pytest
import scipy.io

from harkd.data import DATASETS, BadRecording, Dataset, load_dataset
from harkd.published import (
    LAYOUTS,
    PUBLISHED,
    _hhar_stretch,
    _realworld_streams,
    check_separate,
    published_differences,
)
from harkd.wearables import GRAVITY


def text(table, sep):
    return '\n'.join(sep.join(str(v) for v in row) for row in table) + '\n'


def block(rng, rows, columns):
    return rng.normal(size=(rows, columns)).round(4)


def pamap2(rng):
    table = block(rng, 400, 54)
    table[:, 0] = 5.0 + np.arange(400) / 100
    table[:, 1] = np.repeat([0, 1, 24, 24], 100)
    for first in (4, 21, 38):
        table[:, first : first + 3] = 0.01 * table[:, first : first + 3] + [9.7, 0.5, -0.5]
    table[::9, 2] = np.nan  # heart rate comes at 9 Hz
    table[50:55, 38:54] = np.nan  # the ankle's radio link failed
    name = 'PAMAP2_Dataset/{}/subject101.dat'
    return {name.format(part): text(table, ' ') for part in ('Protocol', 'Optional')}


def mhealth(rng):
    table = block(rng, 200, 24).astype(object)
    table[:, 8] = 180.0  # degrees/s
    table[:, 23] = [0] * 50 + [4] * 150
    return {'MHEALTHDATASET/mHealth_subject3.log': text(table, '\t')}


def opportunity(rng):
    table = (1000 * block(rng, 150, 250)).astype(int).astype(object)
    table[:, 0] = np.arange(150) * 33
    table[:, 37] = 1000  # milli g
    table[:, 1:4] = 'NaN'
    table[140:, 37:40] = 'NaN'
    table[:, 243] = [0] * 30 + [1] * 60 + [5] * 60
    return {'OpportunityUCIDataset/dataset/S2-ADL1.dat': text(table, ' ')}


def harth(rng):
    head = 'timestamp,back_x,back_y,back_z,thigh_x,thigh_y,thigh_z,label\n'
    times = pd.Timestamp('2019-01-12 00:00:59') + pd.to_timedelta(np.arange(200) * 20, 'ms')
    times = times[:120].append(times[120:] + pd.Timedelta('1min'))  # a pause
    labels = [7] * 100 + [140] * 100
    rows = [
        f'{t.isoformat(" ", "milliseconds")},-1.0,0.0,0.1,{x:.4f},0.0,0.0,{label}'
        for t, x, label in zip(times, rng.normal(size=200), labels, strict=True)
    ]
    return {'harth/S006.csv': head + '\n'.join(rows) + '\n'}


def mobiact(rng):
    head = 'timestamp,rel_time,acc_x,acc_y,acc_z,gyro_x,gyro_y,gyro_z,azimuth,pitch,roll,label\n'
    rows = [
        f'{1_000_000_000_000 + k * 5_000_000},{k * 0.005:.3f},'
        + ','.join(f'{v:.4f}' for v in rng.normal(size=9))
        + (',STD' if k < 200 else ',FOL')
        for k in range(400)
    ]
    return {
        'MobiAct_Dataset_v2.0/Annotated Data/FOL/FOL_10_1_annotated.csv': head + '\n'.join(rows)
    }


def shoaib(rng):
    places = ['Left_pocket', 'Right_pocket', 'Wrist', 'Upper_arm', 'Belt']
    sensors = ['time_stamp', *(f'{s}{a}' for s in 'ALGM' for a in 'xyz'), '']
    head = text([sum(([place] + [''] * 13 for place in places), []), sensors * 5], ',')
    labels = ['walking'] * 80 + ['upsatirs'] * 80
    rows = []
    for label in labels:
        row = []
        for _ in places:
            row += ['1.39E+12', *rng.normal(size=12).round(4), '']
        rows.append([*row[:-1], label])
    return {'DataSet/Participant_4.csv': head + text(rows, ',')}


def kuhar(rng):
    table = block(rng, 300, 8)
    table[:, 0] = 0.002 + np.arange(300) / 100
    table[:, 4] = 0.005 + np.arange(300) / 100
    table[290:, 4:] = 0
    return {'1.Raw_time_domian_data/0.Stand/1001_A_1.csv': text(table, ',')}


def hhar(rng):
    head = 'Index,Arrival_Time,Creation_Time,x,y,z,User,Model,Device,gt\n'

    def sensor(shift, level):
        rows = []
        for device, fs in (('nexus4_1', 200), ('s3mini_2', 100)):
            for k in range(3 * fs):
                stamp = 1_424_696_631_913_248_572 + k * 1_000_000_000 // fs + shift
                label = 'null' if k < fs else 'stairsup'
                values = ','.join(f'{v:.5f}' for v in 0.01 * rng.normal(size=3) + level)
                rows.append(
                    f'{k},{1_424_696_633_908 + k * 1000 // fs},{stamp},{values},b,'
                    f'{device[:-2]},{device},{label}'
                )
        return head + '\n'.join(rows) + '\n'

    folder = 'Activity recognition exp'
    return {
        f'{folder}/Phones_accelerometer.csv': sensor(0, 5.66),
        f'{folder}/Phones_gyroscope.csv': sensor(1_000_000, 0.0),
    }


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, content in files.items():
            z.writestr(name, content)
    return buffer.getvalue()


def realworld(rng):
    def sensor(shift):
        rows = [
            f'{k},{1_435_993_733_000 + 20 * k + shift},'
            + ','.join(f'{v:.5f}' for v in rng.normal(size=3))
            for k in range(150)
        ]
        return 'id,attr_time,attr_x,attr_y,attr_z\n' + '\n'.join(rows) + '\n'

    data = 'proband4/data'
    files = {'readMe': 'no table'}
    out = {
        f'{data}/acc_walking_csv.zip': zipped(files | {'acc_walking_waist.csv': sensor(0)}),
        f'{data}/gyr_walking_csv.zip': zipped(files | {'Gyroscope_walking_waist.csv': sensor(7)}),
    }
    for prefix, kind in (('acc', 'acc'), ('gyr', 'Gyroscope')):
        parts = {
            f'{prefix}_climbingup_{n}_csv.zip': zipped(
                {f'{kind}_climbingup_{n}_waist.csv': sensor(n)}
            )
            for n in (1, 2)
        }
        out[f'{data}/{prefix}_climbingup_csv.zip'] = zipped(parts)
    return out


def mat(**variables):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables, do_compression=True)
    return buffer.getvalue()


def usc_had(rng):
    return {
        f'USC-HAD/Subject{s}/a{a}t{t}.mat': mat(
            sensor_readings=block(rng, 250, 6), subject=str(s), trial=str(t)
        )
        for s, a, t in ((1, 1, 1), (1, 12, 5), (13, 11, 4))
    }


def unimib_shar(rng):
    cells = np.empty((2, 5), object)
    for subject in range(2):
        activities = {}
        for name in ('Walking', 'FallingForw'):
            trials = np.empty((2, 1), object)
            for k in range(2):
                trials[k, 0] = 0.01 * block(rng, 6, 151 + 10 * k) + 5.66
            activities[name] = trials
        cells[subject] = [activities, 'F', 25, 170, 60]
    return {'UniMiB-SHAR/data/full_data.mat': mat(full_data=cells)}


# name: maker, (recordings, subjects), rates of the first stream, labels of the first recording
CASES = {
    'pamap2': (pamap2, (2, 1), 100, ['lying', 'rope_jumping']),
    'mhealth': (mhealth, (1, 1), 50, ['walking']),
    'opportunity': (opportunity, (1, 1), 30.3, ['stand', 'lie']),
    'harth': (harth, (2, 1), 50, ['sitting', 'cycling_stand_inactive']),
    'mobiact': (mobiact, (1, 1), 200, ['STD', 'FOL']),
    'shoaib': (shoaib, (1, 1), 50, ['walking', 'upstairs']),
    'kuhar': (kuhar, (1, 1), 100, ['stand']),
    'hhar': (hhar, (2, 1), 200, ['stairsup']),
    'realworld': (realworld, (3, 1), 50, ['climbingup']),
    'usc_had': (usc_had, (3, 2), 100, ['elevator_down']),
    'unimib_shar': (unimib_shar, (4 * 2, 2), 50, ['Walking']),
}


def make(name):
    return CASES[name][0](np.random.default_rng(0))


def write(folder, name, packed=True, nested=False):
    "The archive, or the unpacked folder; returns the files"
    files = make(name)
    if packed:
        data = zipped(files)
        (folder / 'download.zip').write_bytes(zipped({'inner.zip': data}) if nested else data)
        return [folder / 'download.zip']
    for file, content in files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return sorted(p for p in folder.rglob('*') if p.is_file())


@pytest.mark.parametrize('name', CASES)
def test_the_published_layout_is_read(name, tmp_path):
    _, counts, rate, labels = CASES[name]
    write(tmp_path, name)
    data = load_dataset(name, tmp_path)
    first = data.recordings[0]
    stream = first.streams[data.card.student[0]]
    assert (len(data.recordings), len(data.subjects)) == counts
    assert 1 / np.median(np.diff(stream.time)) == pytest.approx(rate, rel=0.01)
    assert [s.label for s in first.spans] == labels or name in ('harth', 'usc_had')
    assert set(first.streams) >= set(data.card.teacher)
    assert {u for s in first.streams.values() for u in s.units} <= {'m/s²', 'rad/s', 'uT'}


@pytest.mark.parametrize('name', CASES)
def test_packed_nested_and_unpacked_are_the_same(name, tmp_path):
    hashes = set()
    for k, how in enumerate(({}, {'nested': True}, {'packed': False})):
        folder = tmp_path / str(k)
        folder.mkdir()
        if name == 'realworld' and k == 1:  # published as one zip of folders with zips
            continue
        write(folder, name, **how)
        hashes.add(load_dataset(name, folder).hash)
    assert len(hashes) == 1


def test_units_become_si(tmp_path):
    for name in ('opportunity', 'mhealth', 'harth'):
        (tmp_path / name).mkdir()
        write(tmp_path / name, name)
    back = load_dataset('opportunity', tmp_path / 'opportunity').recordings[0].streams['back']
    ankle = load_dataset('mhealth', tmp_path / 'mhealth').recordings[0].streams['left_ankle']
    lower = load_dataset('harth', tmp_path / 'harth').recordings[0].streams['back']
    assert back.values[0, 0] == pytest.approx(GRAVITY)
    assert ankle.values[0, 3] == pytest.approx(np.pi)
    assert lower.values[0, 0] == pytest.approx(-GRAVITY)


def test_lost_samples_are_left_out_with_their_times(tmp_path):
    write(tmp_path, 'pamap2')
    streams = load_dataset('pamap2', tmp_path).recordings[0].streams
    assert len(streams['hand'].time) == 400 and len(streams['ankle'].time) == 395
    assert np.diff(streams['ankle'].time).max() == pytest.approx(0.06)
    assert np.diff(streams['hand'].time).max() == pytest.approx(0.01)


def test_a_pause_begins_a_new_recording_of_the_same_group(tmp_path):
    write(tmp_path, 'harth')
    first, second = load_dataset('harth', tmp_path).recordings
    assert first.group == second.group == 'S006'
    assert [s.label for s in first.spans] == ['sitting', 'cycling_stand_inactive']
    assert [s.label for s in second.spans] == ['cycling_stand_inactive']


def test_the_files_of_a_subject_in_two_parts_have_their_own_names(tmp_path):
    write(tmp_path, 'pamap2')
    groups = {r.group for r in load_dataset('pamap2', tmp_path).recordings}
    assert groups == {'Protocol_subject101', 'Optional_subject101'}


def of_phone(time):
    "Rows of a table of HHAR at times in seconds; x is the time"
    stamps = dict(Arrival_Time=1e3 * time, Creation_Time=1e9 * time)
    return pd.DataFrame({**stamps, 'x': time, 'y': 0.0, 'z': 0.0, 'gt': 'walk'})


@pytest.mark.parametrize(
    'first, last, kept',
    [
        (0.5, 1.5, (0.5, 1.5)),  # a sample at either end of the gyroscope, and just long enough
        (0.5, 1.49, None),
        (0.49, 1.76, (0.5, 1.75)),
        (-0.5, 3.5, (0.0, 3.0)),
        (4.0, 9.0, None),
    ],
)
def test_an_accelerometer_is_kept_where_the_gyroscope_was_there(first, last, kept):
    time, turned = np.arange(0, 3.01, 0.25), np.array([first, last])
    acc, gyro = (np.c_[t, t, 0 * t, 0 * t] for t in (time, turned))
    streams = list(_realworld_streams(acc, gyro, 'waist'))
    found = _hhar_stretch(of_phone(time), of_phone(turned), 'phone')
    if kept is None:
        assert streams == [] and found is None
        return
    for stream in (streams[0], found[0]['device']):
        assert (stream.values[0, 0], stream.values[-1, 0]) == kept
        assert stream.time[-1] == kept[1] - kept[0]
        np.testing.assert_allclose(stream.values[:, 3], stream.values[:, 0])


@pytest.mark.parametrize('n, kept', [(1, 0), (2, 1), (3, 1)])
def test_samples_more_than_a_second_apart_are_a_recording_from_two_on(n, kept):
    time, turned = 1.5 * np.arange(n), np.arange(0, 6.0, 0.5)
    acc, gyro = (np.c_[t, t, 0 * t, 0 * t] for t in (time, turned))
    streams = list(_realworld_streams(acc, gyro, 'waist'))
    assert [len(s.values) for s in streams] == [n] * kept
    found = _hhar_stretch(of_phone(time), of_phone(turned), 'phone')
    assert (found is not None) == bool(kept)


def test_devices_of_hhar_are_never_mixed(tmp_path):
    write(tmp_path, 'hhar')
    recordings = load_dataset('hhar', tmp_path).recordings
    rates = {r.group: 1 / np.median(np.diff(r.streams['device'].time)) for r in recordings}
    assert rates['b_nexus4_1'] == pytest.approx(200, rel=0.01)
    assert rates['b_s3mini_2'] == pytest.approx(100, rel=0.01)


REPLACED = {
    'pamap2': ('Protocol/subject101.dat', 'row 1 is not all numbers'),
    'mhealth': ('mHealth_subject3.log', 'row 1 is not all numbers'),
    'harth': ('S006.csv', 'row 2 is not all numbers'),
    'mobiact': ('FOL_10_1_annotated.csv', 'row 2 is not all numbers'),
    'kuhar': ('1001_A_1.csv', 'row 1 is not all numbers'),
}


@pytest.mark.parametrize('name', REPLACED)
def test_a_cell_that_is_no_number_is_named_with_its_row(name, tmp_path):
    file, says = REPLACED[name]
    write(tmp_path, name, packed=False)
    path = next(p for p in tmp_path.rglob('*') if p.as_posix().endswith(file))
    lines = path.read_text().splitlines()
    row = int(says.split()[1]) - 1
    sep = '\t' if name == 'mhealth' else ' ' if name == 'pamap2' else ','
    cells = lines[row].split(sep)
    cells[3] = 'x7'
    lines[row] = sep.join(cells)
    path.write_text('\n'.join(lines))
    with pytest.raises(BadRecording, match=says) as error:
        load_dataset(name, tmp_path)
    assert file in str(error.value)


@pytest.mark.parametrize('name', sorted(LAYOUTS))
def test_a_row_cut_short_is_named(name, tmp_path):
    write(tmp_path, name, packed=False)
    path = next(p for p in tmp_path.rglob('*') if p.is_file())
    text = path.read_text().rstrip('\n')
    path.write_text(text[: text.rindex('\n') + 12])
    with pytest.raises(BadRecording, match=r'row \d+ has \d+ fields, expected \d+') as error:
        load_dataset(name, tmp_path)
    assert path.name in str(error.value)


def test_an_unknown_label_is_named(tmp_path):
    write(tmp_path, 'harth', packed=False)
    path = tmp_path / 'harth' / 'S006.csv'
    path.write_text(path.read_text().replace(',140\n', ',9\n', 1))
    with pytest.raises(BadRecording, match="S006.csv: data row 101 has the unknown label '9"):
        load_dataset('harth', tmp_path)


def test_a_missing_column_is_named(tmp_path):
    write(tmp_path, 'mobiact', packed=False)
    path = next(tmp_path.rglob('*.csv'))
    path.write_text(path.read_text().replace('gyro_z', 'spin_z', 1))
    with pytest.raises(BadRecording, match="has no column 'gyro_z'"):
        load_dataset('mobiact', tmp_path)


def damage(data, rng, k):
    at = int(rng.integers(1, len(data)))
    if k % 2:
        return data[:at]
    return data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :]


@pytest.mark.parametrize('packed', [True, False], ids=['zip', 'folder'])
@pytest.mark.parametrize('name', CASES)
def test_damaged_files_end_in_a_named_error_or_are_read(name, packed, tmp_path):
    "A small sample; `python -m tests.fuzz_readers` does more"
    fuzz(name, packed, tmp_path, 4)


def fuzz(name, packed, folder, count, seed=1):
    "How many of `count` damaged downloads ended in a `BadRecording`"
    paths = write(folder, name, packed)
    whole = {path: path.read_bytes() for path in paths}
    right = load_dataset(name, folder)
    rng = np.random.default_rng(seed)
    refused = 0
    for k in range(count):
        path = paths[int(rng.integers(len(paths)))]
        path.write_bytes(damage(whole[path], rng, k))
        try:
            found = load_dataset(name, folder)
        except BadRecording as error:
            refused += 1
            assert path.name in str(error) or name in str(error) or folder.name in str(error)
        else:
            known = {r.id for r in right.recordings}
            assert not packed or {r.id for r in found.recordings} <= known
        path.write_bytes(whole[path])
    return refused


def test_differences_from_what_was_published_are_said(tmp_path):
    write(tmp_path, 'usc_had')
    said = published_differences(load_dataset('usc_had', tmp_path))
    assert 'usc_had: 2 subjects, published are 14' in said
    assert 'usc_had: 3 recordings, published are 840' in said
    assert any('no sample of' in line for line in said)
    assert published_differences(Dataset(DATASETS['spar'], [])) != []


def test_every_new_card_has_its_facts():
    readers = [card for card in DATASETS.values() if card.reader.startswith('published:')]
    assert {card.name for card in readers} == set(CASES)
    for card in readers:
        assert card.name in PUBLISHED and card.where and card.cite and card.terms


def test_sets_of_the_same_subjects_are_one_group():
    with pytest.raises(ValueError, match="'uci_har' has the subjects of 'hapt'"):
        check_separate(['dsads', 'hapt'], 'uci_har')
    with pytest.raises(ValueError, match="'hapt' has the subjects of 'hapt'"):
        check_separate(['hapt'], 'hapt')
    check_separate(['dsads', 'hapt'], 'motionsense')


@pytest.mark.parametrize('cell', ['inf', 'nan', ''])
def test_a_cell_without_a_number_is_named_with_its_row(cell, tmp_path):
    write(tmp_path, 'kuhar', packed=False)
    path = next(tmp_path.rglob('*.csv'))
    lines = path.read_text().splitlines()
    cells = lines[2].split(',')
    lines[2] = ','.join([*cells[:3], cell, *cells[4:]])
    path.write_text('\n'.join(lines))
    with pytest.raises(BadRecording, match=rf'{path.name}: row 3 has an empty or infinite cell'):
        load_dataset('kuhar', tmp_path)
