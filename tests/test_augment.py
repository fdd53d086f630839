"Augmentation: what is drawn, what stays, and what is rejected (chapter 01a)"

from dataclasses import replace

import numpy as np
import pytest
import torch

from harkd.augment import (
    Augment,
    _keep_sensors,
    _random_stretch,
    _symmetric_beta,
    mount,
    random_rotations,
    rotate_sensors,
    time_warp,
    with_virtual,
)
from harkd.data import BadRecording
from harkd.preprocess import Normalizer, cut_windows
from harkd.synth import synth_dataset

SIX = ('acc_x', 'acc_y', 'acc_z', 'gyro_x', 'gyro_y', 'gyro_z')


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope='module')
def pair():
    return cut_windows(synth_dataset(2, 1), ('imu', 'skeleton'))


@pytest.fixture(scope='module')
def both():
    return cut_windows(with_virtual(synth_dataset(2, 1)), ('imu', 'skeleton', 'virtual'))


def normalizer(windows):
    return Normalizer.fit(windows, range(len(windows)))


U = torch.linspace(0, 1, 101, dtype=torch.float64).expand(500, -1)


def test_a_warp_keeps_its_ends_and_its_tempo_in_bounds():
    warped = time_warp(500, 0.6, 0.0, seeded())(U)
    tempo = warped.diff(dim=1) * 100
    assert tempo.min() > 0.4 - 1e-3 and tempo.max() < 1.6 + 1e-3
    assert warped[:, 0].abs().max() < 1e-12 and (warped[:, -1] - 1).abs().max() < 1e-12


def test_no_warp_and_no_crop_change_nothing():
    assert torch.equal(time_warp(500, 0.0, 0.0)(U), U)


def test_a_crop_stays_inside_the_window_and_has_the_expected_size():
    cropped = time_warp(500, 0.3, 0.1, seeded())(U)
    length = cropped[:, -1] - cropped[:, 0]
    assert cropped.min() >= 0 and cropped.max() <= 1
    assert length.min() >= 0.8 - 1e-9
    assert 0.88 < length.mean() < 0.92


def test_shares_out_of_range_are_rejected():
    with pytest.raises(ValueError, match=r'warp must be in \[0,1\), got 1.0'):
        time_warp(3, 1.0, 0.0)
    with pytest.raises(ValueError, match=r'crop must be in \[0,.5\), got 0.6'):
        time_warp(3, 0.0, 0.6)


def test_all_inputs_follow_one_warp(pair):
    "Read at 50 samples instead of 100, both inputs begin and end at the same warped times"
    warp = time_warp(3, 0.5, 0.1, seeded(7))
    warped, plain = pair.batch([0, 1, 2], at=warp), pair.batch([0, 1, 2])
    coarse = replace(pair, length={'imu': 50, 'skeleton': 50}).batch([0, 1, 2], at=warp)
    assert (warped.x['imu'] - plain.x['imu']).abs().mean() > 0.05
    for name in ('imu', 'skeleton'):
        torch.testing.assert_close(warped.x[name][:, 0], coarse.x[name][:, 0], atol=1e-5, rtol=0)
        torch.testing.assert_close(warped.x[name][:, -1], coarse.x[name][:, -1], atol=1e-5, rtol=0)


def angles(R):
    return ((R.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1).acos().rad2deg()


def test_rotations_are_proper_and_within_their_angle():
    R = random_rotations(1000, 30.0, seeded())
    torch.testing.assert_close(
        R.transpose(1, 2) @ R, torch.eye(3).expand(1000, 3, 3), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(1000), atol=1e-5, rtol=0)
    assert 28 < angles(R).max() <= 30.1
    exact = angles(random_rotations(50, 30.0, seeded(), exact=True))
    torch.testing.assert_close(exact, torch.full((50,), 30.0), atol=1e-2, rtol=0)


def test_both_sensors_turn_together_and_other_channels_stay(pair):
    quarter = torch.tensor([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]])
    x = torch.tensor([[[1.0, 2, 3, 4, 5, 6, 7]]])
    turned = rotate_sensors(x, (*SIX, 'hr'), quarter)
    assert turned[0, 0].tolist() == [-2, 1, 3, -5, 4, 6, 7]
    imu = pair.batch(range(5)).x['imu']
    turned = rotate_sensors(imu, SIX, random_rotations(5, 90.0, seeded()))
    torch.testing.assert_close(
        turned[..., :3].norm(dim=-1), imu[..., :3].norm(dim=-1), atol=1e-4, rtol=0
    )


def test_the_alignment_finds_any_rotation_and_is_proper(both):
    batch = both.batch(range(6))
    real, virtual = batch.x['imu'], batch.x['virtual']
    R = random_rotations(6, 180.0, seeded(1))
    turned = rotate_sensors(virtual, SIX, R)
    torch.testing.assert_close(mount(turned, virtual), R, atol=1e-4, rtol=0)
    estimate = mount(real, turned)
    torch.testing.assert_close(torch.linalg.det(estimate), torch.ones(6), atol=1e-5, rtol=0)

    def explained(x):
        return 1 - (x - real).square().mean((1, 2)) / real.square().mean((1, 2))

    aligned = explained(rotate_sensors(turned, SIX, estimate))
    assert (aligned > 0.9).all()
    assert (aligned > explained(turned)).all()


def changed_stream(name, **changes):
    "One simulated subject whose first recording has a changed stream"
    data = synth_dataset(1, 1)
    streams = data.recordings[0].streams
    streams[name] = replace(streams[name], **changes)
    return data


def test_a_virtual_sensor_needs_a_skeleton():
    data = synth_dataset(1, 1)
    data.recordings[0].streams.pop('skeleton')
    message = "a virtual sensor needs the stream 'skeleton', it has: imu"
    with pytest.raises(BadRecording, match=message):
        with_virtual(data)


def test_missing_joints_are_found_or_interpolated():
    values = synth_dataset(1, 1).recordings[0].streams['skeleton'].values.copy()
    values[3] = np.nan
    data = changed_stream('skeleton', values=values)
    with pytest.raises(BadRecording, match='skeleton: 60 of'):
        with_virtual(data)
    repaired = with_virtual(data, nan='interpolate')
    assert np.isfinite(repaired.recordings[0].streams['virtual'].values).all()


def test_a_virtual_sensor_needs_the_joints_of_its_limb():
    data = changed_stream('skeleton', channels=tuple('abcdefghijklmnopqrst'))
    message = (
        r"a virtual sensor at the right wrist \(synthetic\) needs the joint 'right_wrist', "
        'the skeleton has: a, b'
    )
    with pytest.raises(BadRecording, match=message):
        with_virtual(data)


@pytest.mark.parametrize('placement', ['left pocket', 'wrist', 'waist', ''])
def test_a_placement_without_a_limb_is_rejected(placement):
    data = changed_stream('imu', placement=placement)
    message = (
        f"no virtual sensor for the placement '{placement}', only for left or right: wrist, thigh"
    )
    with pytest.raises(BadRecording, match=message):
        with_virtual(data)


def test_a_recording_too_short_to_smooth_is_named():
    short = synth_dataset(1, 1)
    skeleton = short.recordings[0].streams['skeleton']
    short.recordings[0].streams['skeleton'] = replace(
        skeleton, values=skeleton.values[:5], time=skeleton.time[:5]
    )
    with pytest.raises(BadRecording, match=f'synth {short.recordings[0].id}: .*fewer than'):
        with_virtual(short)


def test_the_default_only_normalises(pair):
    norm, ids = normalizer(pair), list(range(len(pair)))
    plain, unchanged = norm(pair.batch(ids)), Augment().windows(pair, ids, norm)
    for name in plain.x:
        assert torch.equal(unchanged.x[name], plain.x[name])


def test_one_generator_state_gives_one_batch_and_labels_stay(pair):
    norm, ids = normalizer(pair), list(range(len(pair)))
    strong = Augment(
        warp=0.3, crop=0.08, rotate=15.0, yaw=15.0, scale=0.1, jitter=0.05, blank=0.2, drop=0.3
    )
    plain = norm(pair.batch(ids))
    first, again, second = (strong.windows(pair, ids, norm, seeded(s)) for s in (1, 1, 2))
    for name in plain.x:
        assert torch.equal(first.x[name], again.x[name])
        assert (first.x[name] != second.x[name]).any()
        assert first.x[name].shape == plain.x[name].shape
    assert torch.equal(first.y, plain.y)
    assert first.ids.tolist() == plain.ids.tolist()


def test_the_virtual_sensor_replaces_the_drawn_windows_and_nothing_else(both):
    norm, ids = normalizer(both), list(range(len(both)))
    real, half, every = (
        Augment(virtual=p).windows(both, ids, norm, seeded(4)) for p in (0.0, 0.5, 1.0)
    )
    same = (real.x['imu'] == half.x['imu']).all(2).all(1)
    assert 0 < same.sum() < len(both)
    assert not (real.x['imu'] == every.x['imu']).all(2).all(1).any()
    assert torch.equal(half.x['imu'][~same], every.x['imu'][~same])
    assert torch.equal(half.x['skeleton'], real.x['skeleton'])
    assert 'virtual' not in half.x


def test_all_inputs_of_the_sensor_get_the_same_virtual_signal():
    derived = 'imu:acc+norm+duration'
    windows = cut_windows(
        with_virtual(synth_dataset(2, 1)), ('imu', derived, 'skeleton', 'virtual')
    )
    batch = windows.batch(range(len(windows)))
    real = Augment()._augment_raw(batch, seeded(4)).x
    new = Augment(virtual=1.0)._augment_raw(batch, seeded(4)).x
    assert torch.equal(new[derived][..., :3], new['imu'][..., :3])
    torch.testing.assert_close(
        new[derived][..., 3], new['imu'][..., :3].norm(dim=-1), atol=1e-5, rtol=0
    )
    assert torch.equal(new[derived][..., 4], real[derived][..., 4]), 'the duration is no sensor'
    assert not torch.equal(new['imu'], real['imu'])


def test_a_virtual_sensor_needs_its_stream_and_an_input_to_replace(pair, both):
    other = replace(both, inputs=('skeleton', 'virtual'))
    with pytest.raises(ValueError, match="'imu', which is not among the inputs: skeleton"):
        Augment(virtual=1.0)._augment_raw(other.batch([0]), seeded())
    with pytest.raises(ValueError, match="a share of virtual windows needs the stream 'virtual'"):
        Augment(virtual=0.5).windows(pair, [0, 1], normalizer(pair))


def test_shares_of_mixing_follow_the_beta_distribution():
    share = _symmetric_beta(0.3, 20000, seeded())
    assert abs(share.mean() - 0.5) < 0.01
    assert abs(share.var() - 1 / (4 * 1.6)) < 0.01


def test_a_blank_is_at_most_its_share():
    blank = _random_stretch(2000, 50, 0.4, seeded()).float().mean(1)
    assert blank.max() <= 0.42 and abs(blank.mean() - 0.2) < 0.02


def test_a_window_loses_a_whole_sensor_with_the_given_probability_and_never_its_only_one():
    keep = _keep_sensors(SIX, 5000, 0.3, seeded())
    for sensor in (keep[:, :3], keep[:, 3:]):
        assert (sensor.all(1) | ~sensor.any(1)).all()
    assert abs((~keep).any(1).float().mean() - 0.3) < 0.02
    assert _keep_sensors(SIX[:3], 100, 1.0, seeded()).all()
    assert _keep_sensors((*SIX[:3], 'duration'), 100, 1.0, seeded()).all()


def test_mixed_windows_are_the_blend_that_their_label_states(pair):
    norm, ids = normalizer(pair), list(range(len(pair)))
    plain = norm(pair.batch(ids))
    mixed = Augment(mixup=0.4).windows(pair, ids, norm, seeded(3))
    own = mixed.y_soft[torch.arange(len(ids)), mixed.y]
    torch.testing.assert_close(mixed.y_soft.sum(1), torch.ones(len(ids)))
    assert (own >= 0.5 - 1e-6).all() and (own < 0.99).any()
    i = int(own.argmin())
    other = int(mixed.y_soft[i].clone().index_fill(0, mixed.y[i], 0).argmax())
    candidates = [j for j in ids if plain.y[j] == other]
    for name, x in plain.x.items():
        blends = [own[i] * x[i] + (1 - own[i]) * x[j] for j in candidates]
        assert min((blend - mixed.x[name][i]).abs().max() for blend in blends) < 1e-4


def test_mixing_stops_near_the_end_of_the_training(pair):
    late = Augment(mixup=0.4).windows(pair, [0, 1], normalizer(pair), seeded(3), progress=0.9)
    assert late.y_soft is None


def test_a_crop_takes_from_both_ends():
    "Each end loses up to a tenth, independently of the other"
    cropped = time_warp(500, 0.0, 0.1, seeded())(U)
    start, end = cropped[:, 0], 1 - cropped[:, -1]
    for lost in (start, end):
        assert 0 <= lost.min() < 0.01 and 0.09 < lost.max() <= 0.1 + 1e-9
    assert abs(np.corrcoef(start, end)[0, 1]) < 0.2


def test_a_gain_is_one_factor_for_a_channel_of_a_window(pair):
    ids = list(range(len(pair)))
    plain = pair.batch(ids).x['imu']
    scaled = Augment(scale=0.2)._augment_raw(pair.batch(ids), seeded()).x['imu']
    gain = scaled / plain
    usual = gain.median(1, keepdim=True).values
    assert torch.allclose(gain, usual.expand_as(gain), atol=1e-2)
    assert abs(float(usual.mean()) - 1) < 0.05 and 0.15 < float(usual.std()) < 0.25


def test_durations_are_mixed_as_the_labels(pair):
    ids, norm = list(range(len(pair))), normalizer(pair)
    plain = norm(pair.batch(ids))
    mixed = Augment(mixup=0.4).windows(pair, ids, norm, seeded(3))
    own = mixed.y_soft[torch.arange(len(ids)), mixed.y]
    changed = own < 0.9
    assert changed.any()
    assert not torch.allclose(mixed.duration[changed], plain.duration[changed])
    low, high = plain.duration.min(), plain.duration.max()
    assert (mixed.duration >= low - 1e-6).all() and (mixed.duration <= high + 1e-6).all()
