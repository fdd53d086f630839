"The reference encoder: published patches, masks, and windows of different wearables in one batch"

from pathlib import Path

import numpy as np
import pytest
import torch

from harkd.dual_branch import DualBranchEncoder, signal_patches
from harkd.encoder import UnitBatch, WearableEncoder, collate_units

GOLDEN = Path(__file__).parent / 'golden' / 'losses.npz'


def test_patches_are_those_of_the_published_code():
    golden = np.load(GOLDEN)
    raw = torch.tensor(golden['in_raw'])[None].float()
    expected = torch.tensor(golden['out_patches_50hz_1s'])
    assert torch.allclose(signal_patches(raw, 50, 1.0)[0], expected, atol=1e-5)


def some_windows(units, samples, fs, gyro, n=2):
    "Random windows of a wearable with several units"
    x = torch.randn(n, units, samples, 6)
    present = torch.ones(n, units, 2, dtype=torch.bool)
    if not gyro:
        x[..., 3:] = 0
        present[..., 1] = False
    return UnitBatch(
        x, present, torch.full((n,), float(fs)), torch.full((n,), samples), torch.arange(n)
    )


@pytest.mark.parametrize(
    'make',
    [lambda: DualBranchEncoder(dim=32, layers=2), lambda: WearableEncoder(32, (1, 2))],
    ids=['dual_branch', 'wearable'],
)
def test_windows_of_3_6_and_30_channels_in_one_batch_are_as_alone(make):
    torch.manual_seed(0)
    encoder = make().eval()
    batches = [
        some_windows(1, 60, 20, gyro=False),
        some_windows(1, 150, 50, gyro=True),
        some_windows(5, 125, 25, gyro=True),
    ]
    with torch.no_grad():
        together = encoder(collate_units(batches))
        alone = torch.cat([encoder(batch) for batch in batches])
    assert (together - alone).abs().max() <= 1e-5


def test_hidden_patches_and_channels_do_not_reach_the_others():
    torch.manual_seed(0)
    encoder = DualBranchEncoder(dim=32, layers=2).eval()
    patches = torch.randn(2, 4, 64, 3)
    masked = torch.tensor([[True, False, False, False]] * 2)
    dropped = torch.tensor([[False, True, False]] * 2)
    changed = patches.clone()
    changed[:, 0] = 7.0
    changed[:, :, :, 1] = -3.0
    with torch.no_grad():
        before = encoder.encode(patches, masked=masked, dropped=dropped)
        after = encoder.encode(changed, masked=masked, dropped=dropped)
        seen = encoder.encode(changed)
    assert torch.equal(before, after)
    assert not torch.allclose(before, seen)


def test_descriptions_of_channels_move_the_embedding_by_their_scale():
    torch.manual_seed(0)
    encoder = DualBranchEncoder(dim=16, layers=1).eval()
    patches, text = torch.randn(1, 2, 64, 3), torch.randn(3, 16)
    with torch.no_grad():
        plain = encoder.encode(patches)
        described = encoder.encode(patches, text=text)
        encoder.text_scale.zero_()
        silent = encoder.encode(patches, text=text)
    assert not torch.allclose(plain, described)
    assert torch.allclose(plain, silent)
