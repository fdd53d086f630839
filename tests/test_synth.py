"Simulated bodies and sensors: geometry, physics and reproducibility (chapter 00a)"

import numpy as np
import pytest

from harkd.data import check_recording, load_dataset
from harkd.synth import (
    BONES,
    GRAVITY,
    SKELETON,
    SYNTH_ACTIONS,
    body,
    limb_frames,
    planted_bursts,
    read_synth,
    render_depth,
    sensor_noise,
    simulate,
    synth_dataset,
    virtual_imu,
)

FS = 50.0
SHOULDER, ELBOW, WRIST = (
    SKELETON.index(f'right_{name}') for name in ('shoulder', 'elbow', 'wrist')
)


@pytest.fixture(scope='module')
def wild():
    "50 frames of a body whose right arm turns in two joints"
    arm = (np.linspace(0, 3, 50), np.linspace(0, 2, 50))
    return body({'right_shoulder': arm, 'right_wrist': (np.linspace(0, -2, 50), 0.0)}, 50)


def test_a_body_without_angles_hangs_and_an_arm_raised_sideways_is_horizontal():
    still = body({}, 2, height=2.0)
    side = body({'right_shoulder': (0.0, np.pi / 2)}, 2, height=2.0)
    np.testing.assert_allclose(still[0, WRIST] - still[0, SHOULDER], [0, -0.64, 0], atol=1e-9)
    np.testing.assert_allclose(side[0, WRIST] - side[0, SHOULDER], [-0.64, 0, 0], atol=1e-9)


def test_bones_keep_their_length(wild):
    lengths = np.stack([np.linalg.norm(wild[:, a] - wild[:, b], axis=1) for a, b in BONES])
    assert len(BONES) == len(SKELETON) - 1
    assert np.ptp(lengths, axis=1).max() < 1e-12


def test_limb_frames_are_rotations_along_the_limb(wild):
    limb = wild[:, WRIST] - wild[:, ELBOW]
    R = limb_frames(limb)
    assert np.abs(R.transpose(0, 2, 1) @ R - np.eye(3)).max() < 1e-9
    np.testing.assert_allclose(np.linalg.det(R), 1)
    np.testing.assert_allclose(R[..., 0], limb / np.linalg.norm(limb, axis=1, keepdims=True))


def test_a_sensor_at_rest_measures_one_g_against_the_limb():
    rest = virtual_imu(body({}, 60), FS, WRIST, ELBOW)
    np.testing.assert_allclose(rest.mean(0), [-GRAVITY, 0, 0, 0, 0, 0], atol=1e-6)


def test_a_point_on_a_circle_is_accelerated_towards_its_centre():
    r, omega = 0.5, 2.0
    angle = omega * np.arange(200) / FS
    circle = np.zeros((200, 2, 3))
    circle[:, 1] = np.stack([r * np.sin(angle), 0 * angle, -r * np.cos(angle)], 1)
    imu = virtual_imu(circle, FS, at=1, parent=0)[20:-20]
    np.testing.assert_allclose(imu[:, 0], -r * omega**2, atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(imu[:, 3:], axis=1), omega, atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(imu[:, 1:3], axis=1), GRAVITY, atol=0.02)


def test_a_shifted_skeleton_gives_the_same_signal(wild):
    shifted = virtual_imu(wild + [1, 2, 3], FS, WRIST, ELBOW)
    np.testing.assert_allclose(virtual_imu(wild, FS, WRIST, ELBOW), shifted, atol=1e-6)


def test_too_few_frames_are_rejected(wild):
    with pytest.raises(ValueError, match='7 frames are fewer than the 11 that smoothing over'):
        virtual_imu(wild[:7], FS, WRIST, ELBOW)


def test_sensor_noise_has_the_given_size():
    noisy = sensor_noise(np.zeros((5000, 6)), np.random.default_rng(0))
    np.testing.assert_allclose(noisy.std(0), [0.08] * 3 + [0.01] * 3, atol=0.003)
    assert np.abs(noisy.mean(0)).max() > 0.01


def test_a_data_set_depends_on_its_seed_alone_and_passes_the_checks():
    data = synth_dataset(subjects=3, trials=2)
    for recording in data.recordings:
        check_recording(recording)
    assert len(data.recordings) == 3 * 6 * 2
    assert data.hash == synth_dataset(subjects=3, trials=2).hash
    assert data.hash != synth_dataset(subjects=3, trials=2, seed=1).hash
    assert len(read_synth()) == len(load_dataset('synth').recordings)


@pytest.mark.parametrize('fs', [20.0, 50.0])
def test_a_movement_of_two_to_three_and_a_half_seconds_fills_its_recording(fs):
    for recording in synth_dataset(subjects=2, trials=1, fs=fs).recordings:
        time = recording.streams['imu'].time
        (span,) = recording.spans
        assert (time[0], span.start) == (0, 0) and 2 <= span.stop <= 3.5 + 1 / fs
        assert span.stop == pytest.approx(time[-1] + 1 / fs)
        np.testing.assert_allclose(np.diff(time), 1 / fs)
        np.testing.assert_array_equal(recording.streams['skeleton'].time, time[::2])
        assert recording.id.startswith(span.label)


def test_unknown_actions_are_rejected():
    with pytest.raises(
        ValueError, match=f"unknown action 'fly', choose one of: {SYNTH_ACTIONS[0]}"
    ):
        simulate('fly', np.random.default_rng(0))


def test_a_depth_video_shows_the_distance_and_a_farther_body_is_smaller():
    video = render_depth(simulate('wave', np.random.default_rng(0))[::50])
    far = render_depth(body({}, 1) + [0, 0, 2.0])
    assert video.dtype == np.uint16
    assert 2000 < video[video > 0].mean() < 3000
    assert (far > 0).sum() < (video[0] > 0).sum()


def test_the_planted_burst_carries_the_energy():
    x, y, start = planted_bursts(200, seed=3)
    assert ((x**2).sum(1).argmax(1) == y).mean() > 0.95
    inside = [x[i, start[i] : start[i] + 20, y[i]].std() for i in range(200)]
    assert np.mean(inside) > 2 * x.std()
