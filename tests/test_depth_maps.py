"Projections, motion maps, grid series and their scores (chapter 04g)"

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harkd.data import load_dataset
from harkd.depth_maps import (
    DEPTH_MODELS,
    DepthConfig,
    DepthFeatures,
    _orientations,
    _over_viewpoints,
    average_scores,
    body_box,
    depth_grid,
    depth_scores,
    depth_windows,
    motion_bounds,
    motion_hog,
    motion_maps,
    project_depth,
    render_depth,
    ridge_scores,
    rotate_depth,
    run_depth,
)
from harkd.experiment import experiment_splits
from harkd.inspect import describe_study
from harkd.preprocess import cut_windows
from tests.conftest import data


def moving_block(t=24, height=30, width=40, start=5, step=1, distance=2000):
    "A square that walks to the right and comes nearer"
    depth = np.zeros((t, height, width), np.uint16)
    for i in range(t):
        column = start + step * i
        depth[i, 8:16, column : column + 6] = distance - 10 * i
    return depth


def test_projections_count_the_pixels_of_each_bin():
    depth = np.zeros((1, 4, 5), np.uint16)
    depth[0, 1, 2:4] = 2000
    depth[0, 2, 2] = 2400
    front, side, top = project_depth(depth, bins=4, reach=800)
    assert front.shape == (1, 2, 2) and side.shape == (1, 2, 4) and top.shape == (1, 4, 2)
    # the median is 2000 mm, in the middle of 1.6 m: bin 2; 2400 mm is a quarter farther: bin 3
    assert side[0].tolist() == [[0, 0, 2 / 8, 0], [0, 0, 0, 1 / 8]]
    assert top[0].tolist() == [[0, 0], [0, 0], [1 / 8, 1 / 8], [1 / 8, 0]]
    np.testing.assert_allclose(front[0], [[0.75, 0.75], [0.625, 0]])


def test_an_empty_video_has_no_body_and_no_motion():
    empty = np.zeros((5, 6, 7), np.uint16)
    assert body_box(empty) == (slice(0, 6), slice(0, 7))
    assert not motion_maps(empty, 4).any() and not depth_grid(empty, 2, 8).any()
    assert not motion_hog(empty).any()


def test_place_in_the_image_and_distance_do_not_matter():
    here = moving_block()
    there = moving_block(start=9)
    farther = np.where(here > 0, here + 700, 0).astype(np.uint16)
    np.testing.assert_allclose(motion_maps(here, 8), motion_maps(there, 8), atol=1e-6)
    np.testing.assert_allclose(motion_maps(here, 8), motion_maps(farther, 8), atol=1e-6)
    np.testing.assert_allclose(depth_grid(here), depth_grid(there), atol=1e-6)
    np.testing.assert_allclose(motion_hog(here), motion_hog(there), atol=1e-6)
    np.testing.assert_allclose(motion_hog(here), motion_hog(farther), atol=1e-6)


def test_left_and_right_differ():
    right = moving_block()
    left = right[:, :, ::-1]
    a, b = (motion_maps(d, 8).reshape(3, 7, 2, 8, 8) for d in (right, left))
    assert np.abs(a - b).max() > 0.1
    np.testing.assert_allclose(a[0, 0, :, :, ::-1], b[0, 0], atol=1e-6)  # mirrored, not equal


def edges_by_hand(image, n):  # (h,w) to (n,h,w), pixel by pixel
    h, w = image.shape
    found = np.zeros((n, h, w))
    for y in range(h):
        for x in range(w):
            across = image[y, min(x + 1, w - 1)] - image[y, max(x - 1, 0)]
            down = image[min(y + 1, h - 1), x] - image[max(y - 1, 0), x]
            place = (np.degrees(np.arctan2(down, across)) % 180) / (180 / n)
            lower, share = int(place), place - int(place)
            found[lower % n, y, x] += np.hypot(across, down) * (1 - share)
            found[(lower + 1) % n, y, x] += np.hypot(across, down) * share
    return found


def test_gradients_are_shared_between_the_two_nearest_directions():
    image = np.random.default_rng(0).random((2, 6, 7))
    found = _orientations(torch.tensor(image), 9)
    for k in range(2):
        np.testing.assert_allclose(found[k], edges_by_hand(image[k], 9), atol=1e-9)


def test_an_upright_edge_is_direction_0_and_a_level_edge_90_degrees():
    upright = torch.zeros(1, 8, 8)
    upright[:, :, 4:] = 1
    assert _orientations(upright, 9).sum((0, 2, 3)).nonzero().flatten().tolist() == [0]
    level = _orientations(upright.transpose(1, 2), 9).sum((0, 2, 3))
    assert level.nonzero().flatten().tolist() == [4, 5]  # 90° lies between 80° and 100°
    assert level[4].item() == pytest.approx(level[5].item())


def test_each_map_of_histograms_has_length_1_and_empty_cells_stay_empty():
    hog = motion_hog(moving_block(), levels=(1,)).reshape(3, 2, 9, 7, 7)
    np.testing.assert_allclose(np.square(hog).sum((2, 3, 4)), 1, atol=1e-4)
    still = np.zeros((6, 40, 40), np.uint16)
    still[:, 30:, :] = 2000  # legs; only a hand in the upper left corner moves
    still[::2, :6, :6] = 2000
    front = motion_hog(still, levels=(1,)).reshape(3, 2, 9, 7, 7)[0, 0]
    assert front[:, 0, 0].any() and not front[:, -1].any()


def test_a_cell_where_little_moves_weighs_little():
    "A hand sweeps through one corner, a speck trembles in the other"
    depth = np.zeros((12, 40, 40), np.uint16)
    depth[:, 39, [0, 39]] = 2000  # the rectangle of the body
    for t in range(12):
        depth[t, 2:8, t : t + 6] = 2000
    depth[:, 30, 30] = 2000
    depth[::2, 30, 30] += 2  # mm
    hog = motion_hog(depth, levels=(1,)).reshape(3, 2, 9, 7, 7)[0, 0]
    lengths = np.linalg.norm(hog**2, axis=0)  # of the histograms, whose square roots are kept
    assert 0 < lengths[5, 5] < 0.5 * lengths[0].max()


@pytest.mark.parametrize('final', [False, True])
def test_all_models_learn_from_the_training_trials_and_judge_the_others(final, monkeypatch):
    "What a model reads is the number of each trial, so nothing of a judged trial can hide"
    cfg = DepthConfig('synth', folds=3, fold=0, split='subject_kfold')
    _, windows = depth_windows(cfg)
    split = experiment_splits(cfg, windows)[0]
    if final:
        split = replace(split, test=split.val, val=split.train[:0])
    number = np.arange(len(windows), dtype=np.float32)
    rotated = np.stack([number, number], 1)[..., None]  # two viewpoints of each trial
    one = number[:, None], number[:, None], number[:, None, None]
    features = DepthFeatures(*one, 'h', rotated, rotated[..., None])
    seen = []

    def learn(x, y, at, *rest, **options):
        seen.append((x.ravel(), y, at.ravel()))
        return np.zeros((len(at), 6))

    def trials(batch, inputs):
        return batch.ids.numpy()[:, None]

    monkeypatch.setattr('harkd.depth_maps.ridge_scores', learn)
    monkeypatch.setattr('harkd.depth_maps.rocket_scores', learn)
    monkeypatch.setattr('harkd.depth_maps.as_array', trials)
    found = depth_scores(cfg, features, split, 0)
    judged = split.test if final else split.val
    assert list(found) == list(DEPTH_MODELS)
    assert sorted(len(x) // len(split.train) for x, _, _ in seen) == [1, 1, 1, 1, 2, 2]
    for x, y, at in seen:
        views = len(x) // len(split.train)
        assert x.tolist() == views * split.train.tolist()
        assert at.tolist() == views * judged.tolist()
        assert y.tolist() == views * windows.y[split.train].tolist()
    assert not set(windows.table.subject[split.train]) & set(windows.table.subject[judged])


def test_scores_are_averaged_over_the_viewpoints_of_the_same_trial():
    train = np.arange(6.0).reshape(3, 2, 1)
    at = np.array([[[10.0], [30.0]], [[100.0], [500.0]]])  # two trials, two viewpoints
    found = _over_viewpoints(lambda x, y, at: np.hstack([at, -at]), train, np.arange(3), at)
    assert found.tolist() == [[20, -20], [300, -300]]


@pytest.mark.parametrize('yaw, pitch, moved', [(10, 0, (0, 1)), (0, 10, (1, 0)), (-10, 0, (0, -1))])
def test_rotation_moves_what_is_farther_and_turns_about_the_middle(yaw, pitch, moved):
    depth = np.zeros((2, 60, 80), np.uint16)
    depth[:, 29:31, 39:41] = 2000  # the middle of the body, in the middle of the image
    depth[0, 29, 39] = 2400
    turned = rotate_depth(depth, yaw, pitch)
    assert turned.dtype == np.uint16
    row, column = np.argwhere(turned[0] == turned[0].max()).mean(0)
    focal = 40 / np.tan(np.deg2rad(28.5))
    shift = np.sin(np.deg2rad(10)) * 400 / (2000 + np.cos(np.deg2rad(10)) * 400) * focal
    expected = np.array([29, 39]) + shift * np.array(moved)
    np.testing.assert_allclose([row, column], expected, atol=0.75)
    here = np.argwhere(turned[1])
    np.testing.assert_allclose(here.mean(0), [29.5, 39.5], atol=0.6)  # the middle stays


def test_rotation_keeps_the_nearest_point_and_leaves_nothing_outside():
    depth = np.zeros((1, 60, 80), np.uint16)
    depth[0, 30, 40], depth[0, 30, 41] = 2000, 1500
    depth[0, :, 0] = 3000  # at the border: some of it leaves the image
    turned = rotate_depth(depth, 30, 0)
    assert turned.shape == depth.shape and 0 < (turned > 0).sum() <= 4 * (depth > 0).sum()
    assert rotate_depth(np.zeros((2, 5, 6), np.uint16), 10, 5).sum() == 0
    wall = np.full((1, 60, 80), 2000, np.uint16)
    wall[0, 20:40, 30:50] = 1500  # hides what is behind it
    front = rotate_depth(wall, 0.01, 0)
    assert (front[0, 22:38, 32:48] < 1600).all()


def test_sections_hold_equal_motion_not_equal_time():
    front = np.zeros((21, 2, 2))
    front[17:, 0, 0] = np.arange(1, 5)  # still for 16 changes, then four equal ones
    starts = [first for first, _ in motion_bounds(front, 4)]
    assert starts == [0, 16, 17, 18]  # of equal time: 0, 5, 10, 15
    assert motion_bounds(np.zeros((9, 2, 2)), 2) == [(0, 3), (3, 8)]  # no motion: time instead


def test_a_trial_does_not_depend_on_other_trials():
    trials = [moving_block(start=s, step=1 + s % 2) for s in (3, 4)]
    alone = [motion_maps(d, 8) for d in trials]
    backwards = [motion_maps(d, 8) for d in trials[::-1]][::-1]
    for a, b in zip(alone, backwards):
        assert np.array_equal(a, b)


def test_average_has_no_scale_and_no_other_rows():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 4))
    mean = average_scores(a, b)
    np.testing.assert_allclose(average_scores(9 * a + 3, b), mean, atol=1e-5)
    np.testing.assert_allclose(average_scores(a[:2], b[:2]), mean[:2], atol=1e-7)


def test_ridge_scores_are_the_closed_form():
    rng = np.random.default_rng(1)
    x, y, at = rng.normal(size=(20, 3)), np.arange(20) % 3, rng.normal(size=(5, 3))
    centred, targets = x - x.mean(0), np.eye(3)[y]
    weights = np.linalg.solve(
        centred.T @ centred + 0.3 * np.eye(3), centred.T @ (targets - targets.mean(0))
    )
    expected = (at - x.mean(0)) @ weights + targets.mean(0)
    np.testing.assert_allclose(ridge_scores(x, y, at, 3, 0.3), expected, atol=1e-9)


def test_the_nearer_ball_hides_the_farther():
    skeleton = np.zeros((1, 2, 3))
    skeleton[0, :, 2] = 2.0, 3.0
    depth = render_depth(skeleton)
    assert set(np.unique(depth)) - {0} <= set(range(1900, 2001))


def test_one_frame_has_no_motion():
    with pytest.raises(ValueError, match='at least 2 frames, got 1'):
        motion_maps(moving_block(t=1))
    with pytest.raises(ValueError, match='at least 2 frames, got 1'):
        motion_hog(moving_block(t=1))


@pytest.mark.parametrize('results', ['', 'mine'])
def test_rows_of_a_run_become_the_table_that_was_named(results, tmp_path, monkeypatch):
    "Motion maps have no seed: they count once"
    rows = [
        dict(seed=seed, model=model, accuracy=0.5)
        for seed in (0, 1)
        for model in ('motion_maps', 'grid_rocket')
    ]
    written, features = {}, SimpleNamespace(hash='h')
    windows = SimpleNamespace(record={})
    monkeypatch.setattr('harkd.depth_maps.depth_windows', lambda cfg: ([], windows))
    monkeypatch.setattr('harkd.depth_maps.experiment_splits', lambda cfg, windows: [])
    monkeypatch.setattr('harkd.depth_maps.depth_features', lambda *args: features)
    by_seed = [rows[:2], rows[2:]]
    monkeypatch.setattr('harkd.depth_maps.run_tasks', lambda *args, **how: by_seed)
    monkeypatch.setattr('harkd.depth_maps.write_results', lambda name, r: written.update({name: r}))
    run = run_depth(DepthConfig(results=results), tmp_path / 'run')
    kept = [rows[0], rows[1], rows[3]]
    assert run.metrics['rows'] == kept and written == ({'mine': kept} if results else {})


def test_a_set_with_videos_is_described_without_them_and_windows_of_them_are_a_named_error():
    data('utd_mhad_small')
    report = describe_study('utd_mhad_small')
    assert report.facts['videos'] == 'depth: read when used, not part of the windows'
    assert not report.problems and len(report.classes)
    with pytest.raises(ValueError, match="'depth' is a video.*harkd run distill_scores"):
        cut_windows(load_dataset('utd_mhad_small'), ('imu', 'depth'))
