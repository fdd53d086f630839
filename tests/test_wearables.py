"Published archives that arrive damaged end in an error that names the file"

import zipfile

import numpy as np
import pytest

from harkd.data import BadRecording, load_dataset
from harkd.inspect import check_study
from harkd.preprocess import cut_windows
from harkd.sessions import reader_notes


def rows(values, sep=','):
    return '\n'.join(sep.join(f'{v:.3f}' for v in row) for row in values) + '\n'


def hapt(rng):
    return {
        'RawData/acc_exp01_user01.txt': rows(rng.normal(size=(300, 3)), ' '),
        'RawData/gyro_exp01_user01.txt': rows(rng.normal(size=(300, 3)), ' '),
        'RawData/labels.txt': '1 1 5 10 200\n1 1 1 210 300\n',
    }


def motionsense(rng):
    kinds = ('gravity', 'rotationRate', 'userAcceleration')
    head = ',' + ','.join(f'{kind}.{axis}' for kind in kinds for axis in 'xyz') + '\n'
    body = rows(np.column_stack([np.arange(200), rng.normal(size=(200, 9))]))
    return {'A_DeviceMotion_data/wlk_7/sub_3.csv': head + body}


def dsads(rng):
    return {f'data/a01/p1/s0{k}.txt': rows(rng.normal(size=(125, 45))) for k in (1, 2, 4)}


def wisdm(rng):
    def sensor(start):
        times = start + np.arange(100) * 50_000_000
        return ''.join(
            f'1600,A,{t},' + ','.join(f'{v:.4f}' for v in rng.normal(size=3)) + ';\n' for t in times
        )

    folder = 'wisdm-dataset/raw/watch'
    return {
        f'{folder}/accel/data_1600_accel_watch.txt': sensor(10**14),
        f'{folder}/gyro/data_1600_gyro_watch.txt': sensor(10**14 + 7_000_000),
    }


def selfback(rng):
    def sensor():
        stamps = np.datetime64('2016-04-13T11:14:16.378') + np.arange(400) * 10
        lines = [
            f'{str(t).replace("T", " ")},{x:.4f},{y:.4f},{z:.4f}'
            for t, (x, y, z) in zip(stamps, rng.normal(size=(400, 3)), strict=True)
        ]
        return 'time,x,y,z\n' + '\n'.join(lines) + '\n'

    return {
        '9_class/wrist50/jogging/026.csv': sensor(),
        '9_class/thigh34/jogging/026.csv': sensor(),
    }


def physical_therapy(rng):
    head = 'time index;' + ';'.join('abcdefghi') + '\n'
    body = rows(np.column_stack([np.arange(80), rng.normal(size=(80, 9))]), ';')
    return {f's1/e1/u{k}/test.txt': head + body for k in range(1, 6)}


def sisfall(rng):
    return {'SA01/D01_SA01_R01.txt': rows(rng.integers(-99, 99, (300, 9))).replace('\n', ';\n')}


LAYOUTS = {
    'hapt': (hapt, 'HAPT Data Set.zip', {'waist': (300, 6)}),
    'motionsense': (motionsense, 'A_DeviceMotion_data.zip', {'pocket': (200, 6)}),
    'dsads': (dsads, 'data.zip', {'torso': (250, 9)}),
    'wisdm': (wisdm, 'wisdm-dataset.zip', {'watch': (99, 6)}),
    'selfback': (selfback, 'selfBACK.zip', {'wrist': (400, 3), 'thigh': (400, 3)}),
    'physical_therapy': (physical_therapy, 'physical_therapy.zip', {'unit_1': (80, 9)}),
    'sisfall': (sisfall, 'SisFall_dataset.zip', {'waist': (300, 6)}),
}


def write_archive(folder, name):
    make, archive, _ = LAYOUTS[name]
    path = folder / archive
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for file, text in make(np.random.default_rng(0)).items():
            z.writestr(file, text)
    return path


@pytest.mark.parametrize('name', LAYOUTS)
def test_the_published_layout_is_read(name, tmp_path):
    write_archive(tmp_path, name)
    streams = load_dataset(name, tmp_path).recordings[0].streams
    for stream, shape in LAYOUTS[name][2].items():
        assert streams[stream].values.shape == shape


@pytest.mark.parametrize('name', LAYOUTS)
def test_an_unpacked_folder_gives_the_same_recordings(name, tmp_path):
    packed, unpacked = tmp_path / 'packed', tmp_path / 'unpacked'
    packed.mkdir()
    path = write_archive(packed, name)
    with zipfile.ZipFile(path) as z:
        z.extractall(unpacked)
    assert load_dataset(name, packed).hash == load_dataset(name, unpacked).hash


@pytest.mark.parametrize('name', LAYOUTS)
def test_damaged_archives_are_named(name, tmp_path):
    "Truncated and bit-flipped: the same recordings, or `BadRecording` with the archive's name"
    path = write_archive(tmp_path, name)
    whole, right = path.read_bytes(), load_dataset(name, tmp_path)
    known = {r.id for r in right.recordings}
    rng = np.random.default_rng(1)
    for k in range(60):
        at = int(rng.integers(1, len(whole)))
        damaged = whole[:at] if k % 2 else whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        path.write_bytes(damaged)
        try:
            found = load_dataset(name, tmp_path)
        except BadRecording as error:
            assert path.name in str(error) or name in str(error)
        else:
            assert {r.id for r in found.recordings} <= known
            assert found.hash == right.hash or len(found.recordings) < len(known)


@pytest.mark.parametrize('name', LAYOUTS)
def test_damaged_texts_are_named_with_their_file(name, tmp_path):
    "A character replaced in a file of numbers: other numbers, or `BadRecording` with the file"
    make, archive, _ = LAYOUTS[name]
    files = make(np.random.default_rng(0))
    rng = np.random.default_rng(2)
    for _ in range(40):
        file = str(rng.choice(list(files)))
        text = files[file]
        at = int(rng.integers(len(text)))
        changed = text[:at] + str(rng.choice(list('x;, -9\n"'))) + text[at + 1 :]
        with zipfile.ZipFile(tmp_path / archive, 'w') as z:
            for other, content in files.items():
                z.writestr(other, changed if other == file else content)
        try:
            load_dataset(name, tmp_path)
        except BadRecording as error:
            assert archive in str(error) or name in str(error)


def write_dsads(folder, segments):
    "A download of segments, {'a17/p4/s01': (125,45)}"
    with zipfile.ZipFile(folder / 'data.zip', 'w') as z:
        for name, values in segments.items():
            z.writestr(f'data/{name}.txt', rows(values))
    return load_dataset('dsads', folder)


def test_a_recording_that_repeats_another_subjects_is_left_out_and_noted(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(510, 45)), rng.normal(size=(500, 45))
    late, mixed = x[10:], np.concatenate([y[:400], x[:100]])  # 10 samples later; a fifth of p4's
    segments = {}
    for subject, series in (('p4', x[:500]), ('p6', y), ('p7', mixed), ('p8', late)):
        for k in range(4):
            segments[f'a17/{subject}/s0{k + 1}'] = series[125 * k :][:125]
    segments['a18/p4/s01'] = x[:125]  # one subject may repeat itself
    data = write_dsads(tmp_path, segments)
    assert [r.id for r in data.recordings] == ['a17_p4_s01', 'a17_p6_s01', 'a18_p4_s01']
    notes = reader_notes(data)
    assert list(notes.recording) == ['a17_p7_s01', 'a17_p8_s01']
    assert notes.text.str.contains('of its samples are of a17_p[64]_s01').all()
    report = check_study(data, folds=2)
    assert not [p for p in report.problems if 'share samples' in p]
    assert 'left out: 88% of its samples are of a17_p6_s01' in report.to_text(100)


def test_samples_that_are_zero_everywhere_become_gaps_that_are_noted(tmp_path):
    rng = np.random.default_rng(0)
    series = rng.normal(size=(250, 45))
    series[100:125], series[225:], series[0, :44] = 0.0, 0.0, 0.0
    segments = {'a05/p1/s01': series[:125], 'a05/p1/s02': series[125:]}
    segments |= {'a05/p2/s01': rng.normal(size=(125, 45)), 'a05/p3/s01': np.zeros((125, 45))}
    data = write_dsads(tmp_path, segments)
    assert [r.id for r in data.recordings] == ['a05_p1_s01', 'a05_p2_s01']
    stream = data.recordings[0].streams['right_arm']
    assert len(stream.values) == 200 and stream.values.any(1).sum() == 199
    np.testing.assert_allclose(stream.time[[0, 99, 100, -1]], [0.0, 3.96, 5.0, 8.96])
    assert '50 of 250 samples' in reader_notes(data).text[0]
    windows = cut_windows(data, ('right_arm',), window_s=2.0, stride_s=2.0)
    assert list(windows.table.query("id == 'a05_p1_s01'").start) == [0.0, 2.0, 6.0]
    assert windows.report['dropped_for_gaps'] == 1
