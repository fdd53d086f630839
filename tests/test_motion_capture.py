"BVH files and virtual sensors: rigid limbs, damaged files, and who counts as seen"

from dataclasses import replace

import numpy as np
import pytest

from harkd.data import BadRecording, load_dataset
from harkd.motion_capture import motion_capture, read_bvh, virtual_sensors
from harkd.pretrain import PretrainConfig, training_subjects
from harkd.synth import synth_dataset
from tests.conftest import data

LIMBS = (('Hips', ''), ('LeftUpLeg', 'Hips'), ('LeftLeg', 'LeftUpLeg'), ('LeftFoot', 'LeftLeg'))
LENGTHS = {'LeftUpLeg': 10.0, 'LeftLeg': 45.0, 'LeftFoot': 40.0}


def bvh_text(frames=60, seed=0):
    "A leg that turns at random, in centimetres"
    text, depth = ['HIERARCHY'], 0
    for name, parent in LIMBS:
        text += [f'{"JOINT" if parent else "ROOT"} {name}', '{']
        text += [f'OFFSET 0 {-LENGTHS.get(name, 0.0)} 0']
        moves = '3 Zrotation Xrotation Yrotation'
        moves = moves if parent else '6 Xposition Yposition Zposition Zrotation Xrotation Yrotation'
        text += [f'CHANNELS {moves}']
        depth += 1
    text += ['End Site', '{', 'OFFSET 0 -5 0', '}', *['}'] * depth]
    text += ['MOTION', f'Frames: {frames}', 'Frame Time: 0.01']
    rng = np.random.default_rng(seed)
    turns = rng.uniform(-20, 20, (frames, 12)).cumsum(0) / 5
    place = np.tile([0, 95, 0], (frames, 1))
    text += [' '.join(f'{v:.4f}' for v in (*p, *t)) for p, t in zip(place, turns)]
    return '\n'.join(text) + '\n'


@pytest.fixture
def leg(tmp_path):
    path = tmp_path / 's1' / 'leg.bvh'
    path.parent.mkdir()
    path.write_text(bvh_text())
    return path


def test_limbs_keep_their_length_whatever_the_angles(leg):
    skeleton = read_bvh(leg).streams['skeleton']
    assert skeleton.channels == ('hip_center', 'left_hip', 'left_knee', 'left_ankle')
    limbs = np.linalg.norm(np.diff(skeleton.values, axis=1), axis=2)
    assert np.allclose(limbs, [0.10, 0.45, 0.40], atol=1e-9)
    assert np.ptp(skeleton.values[:, -1], axis=0).max() > 0.1


def test_a_folder_becomes_sensors_at_the_limbs_that_are_there(leg):
    (recording,) = motion_capture(leg.parent.parent).recordings
    assert recording.subject == 's1'
    assert list(recording.streams) == ['left_ankle', 'left_thigh']
    assert recording.streams['left_ankle'].values.shape[1] == 6


@pytest.mark.parametrize(
    'change, message',
    [
        (('HIERARCHY', 'HIERACHY'), "line 1: a BVH file begins with 'HIERARCHY'"),
        (('Xposition', 'Xplace'), "unknown channel 'Xplace'"),
        (('Frames: 60', 'Frames: 600'), '600 frames are declared, 60 lines follow'),
        (('Frames: 60', 'Frames: -1'), "expected 'Frames:' and their number"),
        (('Frame Time: 0.01', 'Frame Time: 0'), 'a frame cannot last 0.0 s'),
        (('OFFSET 0 -45.0 0', 'OFFSET 0 -45.0'), 'OFFSET needs three numbers, got 2'),
        (('JOINT LeftLeg', 'ROOT LeftLeg'), 'a second ROOT'),
        (('OFFSET 0 -45.0 0', 'OFFSET 0 nan 0'), 'a number is not finite'),
        (('OFFSET 0 -45.0 0', 'OFFSET 0 -45.0 x'), "expected numbers, got '0 -45.0 x'"),
        (('OFFSET 0 -45.0 0', 'OFSET 0 -45.0 0'), "'OFSET' is not a word of a BVH hierarchy"),
        (('ROOT Hips\n', 'JOINT Hips\n'), 'line 2: a JOINT outside of the ROOT'),
        (('HIERARCHY\n', 'HIERARCHY\nOFFSET 0 0 0\n'), "line 2: 'OFFSET' outside of a joint"),
        (('MOTION', '}\nMOTION'), "line 26: a '}' without its '{'"),
        (('HIERARCHY\n', 'HIERARCHY\nMOTION\n'), 'line 2: the hierarchy has no joint'),
        (('Frame Time: 0.01', 'FrameTime: 0.01'), "expected 'Frame Time:' and its seconds"),
        (('Frame Time: 0.01', 'Frame Time: 1.0'), 'a frame cannot last 1.0 s'),
        (('CHANNELS 3 Zrotation', 'CHANNELS 2'), 'a frame has 15 numbers, the joints need 14'),
        (('Frames: 60', 'Frames: 1'), '1 frames are too few'),
        (('OFFSET 0 -45.0 0', 'OFFSET 0 -300.0 0'), 'the skeleton is 3.* m high; say what one'),
    ],
)
def test_what_is_wrong_is_named_with_its_file(leg, change, message):
    leg.write_text(leg.read_text().replace(*change, 1))
    with pytest.raises(BadRecording, match=f'leg.bvh.*{message}'):
        read_bvh(leg)


def test_truncated_and_flipped_files_end_in_named_errors_only(leg):
    whole = leg.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for k in range(300):
        damaged = bytearray(whole)
        if k % 2:
            damaged = damaged[: rng.integers(len(whole))]
        else:
            for at in rng.integers(len(whole), size=3):
                damaged[at] ^= 1 << int(rng.integers(8))
        leg.write_bytes(damaged)
        try:
            read_bvh(leg)
        except BadRecording as error:
            assert 'leg.bvh' in str(error)
            refused += 1
    assert refused > 150


def test_virtual_sensors_of_a_subject_count_as_that_subject():
    virtual = virtual_sensors(synth_dataset(3, 1))
    assert training_subjects(virtual, PretrainConfig(exclude='synth:s2')) == ('s1', 's3')


def test_official_test_subjects_do_not_enter_by_their_skeletons():
    utd = load_dataset('utd_mhad', data('utd_mhad'), streams=('skeleton',))
    first = {r.subject: r for r in utd.recordings}
    virtual = virtual_sensors(replace(utd, recordings=list(first.values())))
    assert set(training_subjects(virtual, PretrainConfig())) == {'s1', 's3', 's5', 's7'}
    assert len(virtual.recordings[0].streams) == 8


def test_a_file_that_is_no_text_or_ends_early_and_an_empty_folder_are_named(leg):
    text = leg.read_text()
    leg.write_bytes(b'\xff\xfe' + text.encode())
    with pytest.raises(BadRecording, match='leg.bvh: not a text file'):
        read_bvh(leg)
    leg.write_text(text.split('MOTION')[0])
    with pytest.raises(BadRecording, match='leg.bvh, line 25: the file ends here'):
        read_bvh(leg)
    leg.unlink()
    with pytest.raises(FileNotFoundError, match='holds no .bvh file'):
        motion_capture(leg.parent)
