"Clips of depth projections, their loader, networks and averages (chapter 04i)"

from dataclasses import replace

import numpy as np
import pytest
import torch

from harkd.data import load_dataset
from harkd.depth_networks import (
    NO_CLIP_AUGMENT,
    ClipAugment,
    DepthLoader,
    DepthNetConfig,
    DepthWindows,
    FactoredVideoNet,
    _by_change,
    _warp_matrices,
    average_runs,
    clip_channels,
    depth_views,
    make_depth_network,
    predict_averaged,
    warp_clips,
)
from harkd.experiment import DataConfig, experiment_splits
from harkd.preprocess import cut_windows
from harkd.runs import save_tensors, write_json
from harkd.split import BatchLoader
from harkd.student import HarModel


@pytest.fixture(scope='module')
def loader():
    "Clips that are filled with the number of their trial"
    inertial = cut_windows(load_dataset('synth'), ('imu',))
    fields = {name: getattr(inertial, name) for name in inertial.__dataclass_fields__}
    windows = DepthWindows(**{**fields, 'inputs': ('imu', 'video')})
    clips = torch.arange(len(windows)).reshape(-1, 1, 1, 1, 1)
    clips = clips.expand(-1, 16, 3, 32, 32).byte()
    split = experiment_splits(DataConfig('synth', folds=3, fold=0), windows)[0]
    augment = replace(NO_CLIP_AUGMENT, time=0.2)
    return DepthLoader.fit(split, clips=clips, clip_augment=augment, batch_size=9, seed=2)


def numbers(batch):
    return (255 * batch.x['video'][:, 5, 0, 16, 16]).round().long()


def test_clips_and_windows_of_a_batch_are_of_the_same_trials(loader):
    shuffled = []
    for epoch in (0, 1):
        for step in range(loader.steps):
            for rank in (0, 1):  # two workers share each batch
                batch = loader.train(epoch, step, rank=rank, world=2)
                assert torch.equal(numbers(batch), batch.ids)
                shuffled.append(batch.ids.tolist())
            both = shuffled[-2] + shuffled[-1]
            assert sorted(both) == sorted(loader.ids(epoch, step))
    assert shuffled[0] != shuffled[2 * loader.steps]
    plain = BatchLoader.fit(loader.split, batch_size=9, seed=2).train(1, 2)
    batch = loader.train(1, 2)
    assert torch.equal(batch.x['imu'], plain.x['imu']) and torch.equal(batch.ids, plain.ids)
    for batch in loader.eval_batches(loader.split.val[::-1].copy()):
        assert torch.equal(numbers(batch), batch.ids)


def test_a_batch_depends_on_its_number_only(loader):
    loader = replace(loader, clip_augment=ClipAugment())
    first = loader.train(2, 1).x['video']
    loader.train(0, 3)
    assert torch.equal(loader.train(2, 1).x['video'], first)
    assert not torch.equal(replace(loader, seed=3).train(2, 1).x['video'], first)


def test_a_mirror_image_is_never_drawn():
    clip = torch.zeros(1, 16, 3, 32, 32, dtype=torch.uint8)
    clip[..., 3:9] = 255  # a bar at the left
    many = clip.expand(200, -1, -1, -1, -1)
    changed = warp_clips(many, torch.Generator().manual_seed(0))
    left, right = changed[..., :16].sum((1, 2, 3, 4)), changed[..., 16:].sum((1, 2, 3, 4))
    assert (left >= right).all()


def test_time_runs_forwards_and_stays_inside_the_trial():
    clip = torch.arange(32).mul(8).byte().reshape(1, 32, 1, 1, 1).expand(50, 32, 3, 32, 32)
    cfg = replace(NO_CLIP_AUGMENT, time=0.5)
    changed = warp_clips(clip, torch.Generator().manual_seed(0), cfg)[:, :, 0, 16, 16]
    assert (changed.diff(dim=1) > 0).all()
    assert changed.min() >= 0 and changed.max() <= 31 * 8 / 255 + 1e-6
    assert changed[:, 0].std() > 0.01  # not always from the beginning


def warp_matrix(**changes):
    "Of one clip, where all but the named random numbers are 0"
    cfg = ClipAugment(time=0.4, shift=0.1, scale=0.5, turn=90.0)
    u = {name: torch.zeros(1) for name in _by_change(torch.zeros(1, 12))}
    return _warp_matrices(u | {k: torch.tensor([v]) for k, v in changes.items()}, cfg)[0]


@pytest.mark.parametrize(
    'changes, rows',
    [
        ({}, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]),
        ({'turn': 1.0}, [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]),
        ({'turn': -1.0}, [[0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0]]),
        ({'width': 1.0}, [[1.5, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]),
        ({'height': -1.0}, [[1, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 1, 0]]),
        ({'right': 1.0}, [[1, 0, 0, 0.2], [0, 1, 0, 0], [0, 0, 1, 0]]),
        ({'down': -1.0}, [[1, 0, 0, 0], [0, 1, 0, -0.2], [0, 0, 1, 0]]),
        ({'time': 1.0, 'place': 1.0}, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.6, 0.4]]),
        ({'time': -0.5, 'place': -1.0}, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.8, -0.2]]),
    ],
)
def test_each_change_of_a_clip_by_hand(changes, rows):
    "In coordinates from -1 to 1: x, y, time, and 1; a shift by a tenth of the width is 0.2"
    torch.testing.assert_close(
        warp_matrix(**changes), torch.tensor(rows).float(), atol=1e-6, rtol=0
    )


def test_what_is_erased_is_erased_in_all_frames():
    clip = torch.full((40, 16, 3, 32, 32), 255, dtype=torch.uint8)
    cfg = replace(NO_CLIP_AUGMENT, erase=0.5)
    changed = warp_clips(clip, torch.Generator().manual_seed(0), cfg)
    gone = changed == 0
    assert torch.equal(gone.all(1).all(1), gone.any(1).any(1))
    assert 0 < gone.float().mean() < 0.2


def test_views_keep_the_ratio_of_height_and_width():
    depth = np.zeros((20, 40, 60), np.uint16)
    depth[:, 5:35, 20:30] = 2000  # three times as high as wide
    front = depth_views(depth, 16, 48)[8, 0]
    high, wide = (front > 100).any(1).sum(), (front > 100).any(0).sum()
    assert high == 48 and 14 <= wide <= 18


def test_a_still_body_shows_no_motion():
    x = torch.rand(2, 1, 3, 32, 32).expand(-1, 16, -1, -1, -1)
    motion = clip_channels(x, 'motion')
    assert not motion[:, :, 1:].any() and torch.equal(motion[:, :, 0], x[:, :, 0])


def test_predictions_are_deterministic_and_without_dropout(loader):
    model = FactoredVideoNet(6, width=2).train()
    loader = replace(loader, clips=torch.randint(255, loader.clips.shape, dtype=torch.uint8))
    first = predict_averaged(model, loader, loader.split.val[:4])
    assert model.training
    again = predict_averaged(model, loader, loader.split.val[:4])
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


@pytest.mark.parametrize('network', ['r2plus1d', 'trn'])
def test_a_saved_network_is_the_same_after_loading(network, tmp_path):
    cfg = DepthNetConfig(network=network, width=4, size=32)
    model = make_depth_network(cfg, 5).eval()
    model.save_pretrained(tmp_path)
    video = torch.rand(2, 16, 3, 32, 32)
    assert torch.equal(HarModel.from_pretrained(tmp_path)(video), model(video))


def write_run(folder, name, values, ids=(3, 4), part='val'):
    here = folder / 'folds1_seed0'
    tensors = {name: torch.tensor(values), 'y': torch.tensor([0, 1]), 'ids': torch.tensor(ids)}
    save_tensors(here / 'scores.safetensors', tensors)
    facts = dict(dataset='d', protocol='dev_loso', part=part, seed=0, fold='s1', data_hash='h')
    write_json(here / 'rows.json', [facts])
    return folder, name


def test_averages_of_runs_are_of_the_same_trials(tmp_path):
    a = write_run(tmp_path / 'a', 'm', [[9.0, 0.0], [5.0, 0.0]])
    b = write_run(tmp_path / 'b', 'n', [[0.0, 1.0], [0.0, 1.0]])
    c = write_run(tmp_path / 'c', 'n', [[0.0, 1.0], [0.0, 1.0]], ids=(4, 3))
    assert average_runs('x', [a, a])[0]['accuracy'] == 0.5
    assert average_runs('x', [a, b, b])[0]['accuracy'] == 0.5
    with pytest.raises(ValueError, match='the runs evaluate other trials'):
        average_runs('x', [a, c])
