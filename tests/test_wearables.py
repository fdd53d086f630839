"Published archives that arrive damaged end in an error that names the file"

import zipfile

import numpy as np
import pytest

from harkd.data import BadRecording, load_dataset


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
