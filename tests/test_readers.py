"Readers of published data sets: what is read, and which file an error names (chapter 00b)"

import io
import os
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import scipy.io

from harkd.data import DATASETS, BadRecording, Span, dataset_card, load_dataset
from harkd.readers import (
    G,
    check_mat,
    have_data,
    label_spans,
    mmfit_spans,
    read_mat,
    read_mm_fit,
    read_pickled_npy,
    read_sp_sw_har,
    read_uci_har,
    read_utd_mhad,
    read_utd_mhad_small,
)
from tests.conftest import data

INERTIAL, SKELETON = 'Inertial/a1_s1_t1_inertial.mat', 'Skeleton/a1_s1_t1_skeleton.mat'


def test_a_missing_data_set_is_reported(monkeypatch, capsys):
    monkeypatch.delenv('HARKD_DATA', raising=False)
    assert not have_data('utd_mhad')
    assert 'skipped: set HARKD_DATA to the folder that holds utd_mhad/' in capsys.readouterr().out


class Malicious:
    "Makes a folder when it is unpickled"

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def save_object(path, content):
    np.save(path, np.array(content, dtype=object), allow_pickle=True)


def test_a_pickle_that_runs_a_command_is_refused_before_it_runs(tmp_path):
    save_object(tmp_path / 'bad.npy', {'X': Malicious(tmp_path / 'made')})
    with pytest.raises(BadRecording, match='bad.npy: refused: the file would import posix.mkdir'):
        read_pickled_npy(tmp_path / 'bad.npy')
    assert not (tmp_path / 'made').exists()


def test_a_pickle_of_arrays_is_read_and_a_truncated_one_is_named(tmp_path):
    save_object(tmp_path / 'good.npy', {'X': [np.arange(3)], 'n': 7})
    good = read_pickled_npy(tmp_path / 'good.npy')
    assert good['n'] == 7 and good['X'][0].tolist() == [0, 1, 2]
    (tmp_path / 'cut.npy').write_bytes((tmp_path / 'good.npy').read_bytes()[:150])
    with pytest.raises(BadRecording, match='cut.npy: not a pickled array'):
        read_pickled_npy(tmp_path / 'cut.npy')


def test_spar_is_complete():
    spar = load_dataset('spar')
    assert (len(spar.recordings), len(spar.subjects), len(spar.table())) == (140, 10, 7)
    samples = [len(rec.streams['imu'].values) for rec in spar.recordings]
    windows = [len(range(0, n - 199, 100)) for n in samples]
    assert sum(windows) == 2229, 'windows of 200 samples at stride 100, as published'


def test_utd_mhad_is_complete():
    data('utd_mhad')
    utd = load_dataset('utd_mhad')
    assert (len(utd.recordings), len(utd.table())) == (861, 27)
    train = [rec for rec in utd.recordings if rec.subject in utd.card.train_subjects]
    assert (len(train), len(utd.recordings) - len(train)) == (431, 430)
    trials = {f'a{a}_s{s}_t{t}' for a in range(1, 28) for s in range(1, 9) for t in range(1, 5)}
    missing = trials - {rec.id for rec in utd.recordings}
    assert missing == {'a8_s1_t4', 'a23_s6_t4', 'a27_s8_t4'}
    samples = [len(rec.streams['imu'].values) for rec in utd.recordings]
    frames = [len(rec.streams['skeleton'].values) for rec in utd.recordings]
    assert (min(samples), max(samples), min(frames), max(frames)) == (107, 326, 41, 125)
    acc = np.concatenate([rec.streams['imu'].values[:, :3] for rec in utd.recordings]) / G
    assert ((acc == -8).sum(), round(acc.max(), 1)) == (56, 7.7)


def test_all_small_depth_videos_are_there():
    small = read_utd_mhad_small(data('utd_mhad_small'))
    assert all('depth' in rec.streams for rec in small)
    values, time = small[0].streams['depth'].read()
    assert (values.dtype.str, values.shape[1:], time[0]) == ('<u2', (60, 80), 0.0)


@pytest.fixture
def tiny_utd(tmp_path):
    "One trial in the layout of UTD-MHAD"
    for folder in ('Inertial', 'Skeleton'):
        (tmp_path / folder).mkdir()
    scipy.io.savemat(tmp_path / INERTIAL, {'d_iner': np.ones((107, 6))})
    scipy.io.savemat(tmp_path / SKELETON, {'d_skel': np.ones((20, 3, 41))})
    return tmp_path


def test_the_tiny_trial_is_valid(tiny_utd):
    (rec,) = read_utd_mhad(tiny_utd)
    assert rec.id == 'a1_s1_t1' and rec.spans == (Span('swipe_left', 0.0, 2.14),)


@pytest.mark.parametrize(
    'file, content, message',
    [
        (INERTIAL, {'x': np.ones((107, 6))}, "has no variable 'd_iner'"),
        (INERTIAL, {'d_iner': np.ones((107, 5))}, r'shape \(107, 5\), expected \(t,6\)'),
        (INERTIAL, {'d_iner': np.ones((7, 6, 2))}, 'expected 2 dimensions'),
        (SKELETON, {'d_skel': np.ones((3, 20, 41))}, r'expected \(20,3,frames\)'),
    ],
)
def test_a_file_with_the_wrong_content_is_named(tiny_utd, file, content, message):
    scipy.io.savemat(tiny_utd / file, content)
    with pytest.raises(BadRecording, match=f'{file}: .*{message}'):
        read_utd_mhad(tiny_utd)


def test_a_truncated_file_is_named(tiny_utd):
    path = tiny_utd / INERTIAL
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadRecording, match=f'{INERTIAL}: not a readable MATLAB file'):
        read_utd_mhad(tiny_utd)


FLIP_EACH_BYTE = """
import sys
from pathlib import Path
from harkd.data import BadRecording
from harkd.readers import read_mat
path, whole = Path(sys.argv[1]), Path(sys.argv[1]).read_bytes()
for at in range(124, len(whole)):
    path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1:])
    try:
        read_mat(path, sys.argv[2], 2)
    except BadRecording as error:
        assert path.name in str(error)
"""


@pytest.mark.parametrize('compressed', [False, True])
def test_no_flipped_byte_of_a_matlab_file_ends_the_process(tmp_path, compressed):
    "scipy alone ends with a segmentation fault on some of them"
    cells = np.array([[{'q': np.eye(2)}, 'walk']], object)
    content = {'x': np.ones((2, 3)), 'c': cells, 'z': np.array([[1 + 2j]])}
    path = tmp_path / 'damaged.mat'
    scipy.io.savemat(path, content, do_compression=compressed)
    command = [sys.executable, '-c', FLIP_EACH_BYTE, str(path), 'c']
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-500:]


def test_matlab_files_of_all_kinds_are_let_through(tmp_path):
    kinds = [[1, 2], {'x': 1, 'y': 'abc'}, 1j * np.eye(2), np.array([True]), np.zeros((0, 0))]
    for value in (*kinds, ['ab', 'cde'], np.array([[{'q': 1}, 'x']], object)):
        for compressed in (False, True):
            file = io.BytesIO()
            scipy.io.savemat(file, {'v': value}, do_compression=compressed)
            check_mat(file.getvalue())


@pytest.mark.parametrize('compressed', [False, True])
def test_an_empty_cell_without_content_is_let_through(compressed):
    "As MATLAB writes cells that were never set: an element of no bytes"
    file = io.BytesIO()
    scipy.io.savemat(file, {'c': np.array([['walk', 1.0]], object)})
    whole = file.getvalue()
    *_, size = struct.unpack_from('<II', whole, 128)
    number = 64  # bytes of the last cell, 8 of them its head
    element = struct.pack('<II', 14, size - number + 8) + whole[136:-number]
    element += struct.pack('<II', 14, 0)
    if compressed:
        packed = zlib.compress(element)
        element = struct.pack('<II', 15, len(packed)) + packed
    check_mat(whole[:128] + element)
    cells = scipy.io.loadmat(io.BytesIO(whole[:128] + element))['c'][0]
    assert cells[0] == 'walk' and cells[1].size == 0


def nested(levels):
    "A number in a cell in a cell ..."
    cell = np.array([[1.0]])
    for _ in range(levels):
        outer = np.empty((1, 1), object)
        outer[0, 0] = cell
        cell = outer
    file = io.BytesIO()
    scipy.io.savemat(file, {'c': cell})
    return file.getvalue()


def test_cells_are_nested_twenty_levels_deep_at_most():
    check_mat(nested(20))
    with pytest.raises(ValueError, match='nested too deeply'):
        check_mat(nested(21))


def test_progress_of_reading_is_shown_after_a_while_and_vanishes_at_the_end(tiny_utd, monkeypatch):
    shown = []

    def tqdm(files, name, **options):
        shown.append((name, len(files), options))
        return files[:0]

    monkeypatch.setattr('harkd.readers.tqdm', tqdm)
    file = tiny_utd / 'DATA' / 's01' / 's01_01_sw.csv'
    file.parent.mkdir(parents=True)
    file.touch()
    assert read_utd_mhad(tiny_utd) == read_sp_sw_har(tiny_utd) == []
    discreet = dict(delay=2, leave=False)
    assert shown == [('UTD-MHAD', 1, discreet), ('sp-sw-har', 1, discreet)]


def test_missing_files_are_named(tiny_utd):
    (tiny_utd / SKELETON).unlink()
    with pytest.raises(BadRecording, match=f'{SKELETON}: missing'):
        read_utd_mhad(tiny_utd)
    (tiny_utd / INERTIAL).unlink()
    with pytest.raises(FileNotFoundError, match='holds no Inertial/a'):
        read_utd_mhad(tiny_utd)
    with pytest.raises(BadRecording, match='nowhere.mat: missing'):
        read_mat(tiny_utd / 'nowhere.mat', 'd_iner', 2)


def test_runs_of_labels_become_spans_and_empty_labels_none():
    time = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    labels = ['sit', 'sit', '', 'walk', 'walk']
    assert label_spans(labels, time) == (Span('sit', 0.0, 2.0), Span('walk', 3.0, 5.0))
    assert label_spans(labels, time, 1e-3)[1] == Span('walk', 3.0, 4.001)  # as published
    assert label_spans(['sit'], time[:1])[0].stop == 0.001  # no step to measure


def test_sp_sw_har_is_complete():
    data('sp_sw_har')
    pairs = load_dataset('sp_sw_har')
    assert (len(pairs.recordings), len(pairs.subjects)) == (223, 23)
    assert pairs.card.reader == f'readers:{read_sp_sw_har.__name__}'
    spans = pairs.table().spans
    assert spans.to_dict() == dict(zip(pairs.card.classes, (398, 223, 471, 446, 223)))


def test_uci_har_keeps_its_published_parts_and_names_no_subjects():
    uci = load_dataset('uci_har', data('uci_har_partial'))
    groups = [rec.group for rec in uci.recordings]
    assert (groups.count('train'), groups.count('test')) == (2400, 950)
    assert uci.subjects == []
    assert uci.card.reader == f'readers:{read_uci_har.__name__}'


def test_the_classes_of_uci_har_are_in_the_published_order():
    assert DATASETS['uci_har'].classes[0] == 'WALKING' and len(dataset_card('uci_har').classes) == 6


def write_mmfit(folder, workout, seconds):
    "Sensor arrays in the published layout: 100 Hz acc, 90 Hz gyro, 30 fps poses of 17 joints"
    for kind, fs, gravity in (('acc', 100, 9.8), ('gyr', 90, 0.0)):
        t = np.arange(0, seconds, 1 / fs)
        columns = [np.floor(t * 30), 1e6 + t * 1000, np.sin(2 * np.pi * t), 0 * t, 0 * t + gravity]
        np.save(folder / f'{workout}_sw_l_{kind}.npy', np.stack(columns, 1))
    frames = np.tile(np.arange(seconds * 30), (3, 1))
    poses = np.concatenate([frames[..., None], np.zeros((*frames.shape, 17))], -1)
    np.save(folder / f'{workout}_pose_3d.npy', poses)


def test_the_published_labels_meet_arrays_on_one_clock(tmp_path):
    labels = data('mm_fit_labels') / 'mm-fit'
    for workout in ('w03', 'w05'):
        folder = tmp_path / workout
        folder.mkdir()
        file = f'{workout}/{workout}_labels.csv'
        (tmp_path / file).write_text((labels / file).read_text())
        write_mmfit(folder, workout, 1200)
    mm_fit = load_dataset('mm_fit', tmp_path)
    rec = mm_fit.recordings[0]
    values, time = rec.streams['sw_l'].read()
    squats = rec.spans[1]
    assert [r.subject for r in mm_fit.recordings] == ['seen', 'unseen']
    assert squats.label == 'squats'
    assert (round(squats.start * 30), round(squats.stop * 30)) == (3803, 4302)
    np.testing.assert_allclose(values[:, 0], np.sin(2 * np.pi * time), atol=1e-9)
    np.testing.assert_allclose(values[:-3, 3], np.sin(2 * np.pi * time)[:-3], atol=1e-2)
    assert rec.streams['pose_3d'].values.shape[1:] == (17, 3)
    with pytest.raises(FileNotFoundError, match='labels alone are not enough'):
        read_mm_fit(labels)


def test_the_published_labels_cover_every_workout():
    files = sorted((data('mm_fit_labels') / 'mm-fit').glob('w*/*_labels.csv'))
    assert len(files) == 21
    for file in files:
        spans = mmfit_spans(file, 6000.0)
        assert (spans[0].start, spans[-1].stop) == (0, 6000)
        assert all(a.stop == b.start for a, b in zip(spans, spans[1:])), file


def test_unknown_activities_and_damaged_arrays_of_mm_fit_are_named(tmp_path):
    folder = tmp_path / 'w00'
    folder.mkdir()
    write_mmfit(folder, 'w00', 10)
    (folder / 'w00_labels.csv').write_text('0,30,1,swimming\n')
    with pytest.raises(BadRecording, match="w00_labels.csv: unknown activity 'swimming'"):
        read_mm_fit(tmp_path)
    np.save(folder / 'w00_sw_l_acc.npy', np.zeros((3, 4)))
    with pytest.raises(
        BadRecording, match=r'w00_sw_l_acc.npy: has shape \(3, 4\), expected \(t,5\)'
    ):
        read_mm_fit(tmp_path)


def test_trials_of_utd_mhad_are_in_si_units_at_the_place_that_was_published(tiny_utd):
    "One g and one degree a second; the sensor is at the wrist up to action 21, then at the thigh"
    for action in (21, 22):
        for kind in ('Inertial', 'Skeleton'):
            (old,) = (tiny_utd / kind).glob('a1_*')
            shutil.copy(old, old.with_name(old.name.replace('a1_', f'a{action}_')))
    recordings = {rec.id.split('_')[0]: rec for rec in read_utd_mhad(tiny_utd)}
    placement = {a: rec.streams['imu'].placement for a, rec in recordings.items()}
    assert placement == {'a1': 'right wrist', 'a21': 'right wrist', 'a22': 'right thigh'}
    assert recordings['a22'].spans[0].label == DATASETS['utd_mhad'].classes[21]
    imu = recordings['a1'].streams['imu']
    assert np.allclose(imu.values[:, :3], 9.80665) and np.allclose(imu.values[:, 3:], np.pi / 180)
    assert np.allclose(np.diff(imu.time), 0.02) and imu.time[0] == 0


@pytest.fixture
def tiny_uci(tmp_path):
    "Two windows of ones in each part of UCI HAR"
    for part in ('train', 'test'):
        folder = tmp_path / part / 'Inertial Signals'
        folder.mkdir(parents=True)
        np.savetxt(tmp_path / part / f'y_{part}.txt', [[1], [6]], '%d')
        for sensor in ('total_acc', 'body_gyro'):
            for axis in 'xyz':
                np.savetxt(folder / f'{sensor}_{axis}_{part}.txt', np.ones((2, 128)))
    return tmp_path


def test_windows_of_uci_har_are_in_si_units(tiny_uci):
    "Published in g; the gyroscope in rad/s already"
    recordings = read_uci_har(tiny_uci)
    assert [rec.group for rec in recordings] == ['train', 'train', 'test', 'test']
    assert [rec.spans[0].label for rec in recordings[:2]] == ['WALKING', 'LAYING']
    values, time = recordings[0].streams['imu'].read()
    assert np.allclose(values[:, :3], 9.80665) and np.allclose(values[:, 3:], 1.0)
    assert np.allclose(np.diff(time), 0.02)


SHORT = np.ones((2, 127))


@pytest.mark.parametrize(
    'file, rows, message',
    [
        ('test/y_test.txt', [[3], [7]], 'y_test.txt: row 2 is 7, expected 1 to 6'),
        ('train/y_train.txt', [[0], [1]], 'y_train.txt: row 1 is 0, expected 1 to 6'),
        ('test/Inertial Signals/body_gyro_y_test.txt', SHORT, r'\(2, 127\), expected \(2,128\)'),
        ('train/Inertial Signals/total_acc_x_train.txt', None, 'total_acc_x_train.txt: missing'),
    ],
)
def test_what_is_wrong_in_uci_har_is_named(tiny_uci, file, rows, message):
    (tiny_uci / file).unlink()
    if rows is not None:
        np.savetxt(tiny_uci / file, rows, '%d')
    with pytest.raises(BadRecording, match=message):
        read_uci_har(tiny_uci)


@pytest.mark.parametrize('wrong', [b']', b'[', b'\x00', b"'"])
def test_a_damaged_header_of_a_pickled_array_is_named(tmp_path, wrong):
    path = tmp_path / 'watch_dataset.npy'
    np.save(path, {'X': np.arange(3)}, allow_pickle=True)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'()', wrong + b')', 1))
    with pytest.raises(BadRecording, match='watch_dataset.npy: not a pickled array'):
        read_pickled_npy(path)


def test_a_compressed_variable_is_checked_as_one_that_is_not():
    "Each byte of it damaged, or not: refused, or let through, in both forms"
    file = io.BytesIO()
    scipy.io.savemat(file, {'c': np.array([[{'q': 1.0}, 'x']], object)})
    whole, verdicts = file.getvalue(), {True: [], False: []}
    for at in range(128, len(whole)):
        element = whole[128:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :]
        packed = zlib.compress(element)
        for compressed in (True, False):
            body = struct.pack('<II', 15, len(packed)) + packed if compressed else element
            try:
                check_mat(whole[:128] + body)
                verdicts[compressed].append('let through')
            except ValueError:
                verdicts[compressed].append('refused')
    assert verdicts[True] == verdicts[False]
    assert 20 < verdicts[True].count('refused') < len(whole) - 148
