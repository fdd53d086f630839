"Patches and tokens: boundaries, masks, gradients, and the published rule (chapter 02)"

from pathlib import Path

import numpy as np
import pytest
import torch

from harkd.tokens import (
    MotionTokens,
    PatchTokens,
    adaptive_patch_length,
    motion_boundaries,
    motion_level,
    patchify,
    resample_patches,
    unpatchify,
)

GOLDEN = Path(__file__).parent / 'golden/losses.npz'


def test_patches_hold_their_samples_in_order_and_can_be_undone():
    x = torch.arange(2 * 7 * 3.0).reshape(2, 7, 3)
    patches = patchify(x, 2)
    assert patches.shape == (2, 3, 6)
    assert patches[0, 1].tolist() == x[0, 2:4].flatten().tolist()
    assert torch.equal(unpatchify(patches, 2), x[:, :6])
    with pytest.raises(ValueError, match='at most the 7 samples of a window, got 8'):
        patchify(x, 8)


def test_the_published_rule_by_hand():
    lengths = adaptive_patch_length(torch.tensor([0.0, 0.08, 0.14, 0.2, 9.0]))
    assert lengths.tolist() == [30, 30, 20, 10, 10]
    level = motion_level(torch.tensor([[[0.0, 1.0], [2.0, 1.0]]]))
    torch.testing.assert_close(level, torch.tensor([0.5]))
    with pytest.raises(ValueError, match='low must be below high, got 0.3 and 0.2'):
        adaptive_patch_length(torch.zeros(1), 0.3)


def test_the_published_rule_gives_the_original_outputs():
    golden = np.load(GOLDEN)
    level = torch.tensor(golden['in_vw'])
    assert adaptive_patch_length(level, 0.05, 0.25).tolist() == golden['out_P_code'].tolist()
    assert adaptive_patch_length(level).tolist() == golden['out_P_readme_tau'].tolist()


def test_a_constant_window_is_cut_evenly():
    bounds = motion_boundaries(torch.ones(1, 31, 2), 5)
    torch.testing.assert_close(bounds, torch.linspace(0, 30, 6)[None], atol=1e-4, rtol=0)


def test_most_patches_lie_where_the_motion_is():
    burst = torch.zeros(1, 31, 2)
    burst[0, 10:21] = torch.tensor([0.0, 1.0] * 5 + [0.0])[:, None]
    bounds = motion_boundaries(burst, 10, 0.2)[0]
    assert ((bounds[:-1] >= 9) & (bounds[1:] <= 21)).sum() >= 6


def test_boundaries_rise_cover_the_window_and_bound_the_longest_patch():
    torch.manual_seed(0)
    bounds = motion_boundaries(torch.randn(50, 64, 3).cumsum(1), 8, 0.3)
    assert (bounds.diff(dim=1) > 0).all()
    assert (bounds[:, 0] == 0).all() and (bounds[:, -1] > 63 - 1e-3).all()
    assert bounds.diff(dim=1).max() <= 63 / 8 / 0.3 + 1e-3


def test_the_share_of_time_must_be_positive():
    with pytest.raises(ValueError, match=r'even must be in \(0,1\], got 0'):
        motion_boundaries(torch.ones(1, 31, 2), 5, 0)


def test_patches_of_a_ramp_are_read_at_the_right_times():
    ramp = torch.arange(31.0)[None, :, None]
    patches, duration = resample_patches(ramp, torch.tensor([[0.0, 10.0, 30.0]]), 5)
    expected = torch.tensor([[[1.0, 3, 5, 7, 9], [12, 16, 20, 24, 28]]])
    torch.testing.assert_close(patches, expected, atol=1e-5, rtol=0)
    assert duration.tolist() == [[10.0, 20.0]]


def test_gradients_reach_the_samples():
    x = torch.randn(2, 40, 3, requires_grad=True)
    resample_patches(x, motion_boundaries(x, 4), 5)[0].sum().backward()
    assert x.grad.abs().sum() > 0


def test_equal_patches_use_all_tokens():
    layer = PatchTokens(3, 10, 16)
    tokens, mask, bounds = layer(torch.randn(5, 60, 3))
    assert tokens.shape == (5, 6, 16) and mask is None
    assert bounds[0].tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert layer.n_tokens(65) == 6


def test_a_window_without_motion_uses_fewer_tokens_and_the_rest_are_zero():
    torch.manual_seed(0)
    layer = MotionTokens(3, 10, 16, n_patches=6, n_min=2)
    x = torch.randn(5, 60, 3)
    x[0] *= 0.01
    tokens, mask, bounds = layer(x)
    assert layer.n_tokens(65) == 6
    assert mask.sum(1).tolist() == [2, 6, 6, 6, 6]
    assert not tokens[0, 2:].any()
    torch.testing.assert_close(bounds[0, 2:], torch.full((5,), 59.0), atol=1e-3, rtol=0)
    assert torch.equal(layer(x)[0], tokens), 'nothing is random'


def test_the_fewest_patches_are_at_most_all():
    with pytest.raises(ValueError, match=r'n_min must be in \[1,6\], got 9'):
        MotionTokens(3, 10, 16, n_patches=6, n_min=9)


def test_with_even_time_the_patches_are_equal():
    "Patches of [0, t-1] instead of [0, t]: the boundaries are those of equal time"
    bounds = motion_boundaries(torch.randn(2, 61, 3), 6, even=1.0)
    torch.testing.assert_close(bounds, torch.linspace(0, 60, 7).expand(2, 7), atol=1e-3, rtol=0)


def test_a_token_holds_its_patch_and_how_long_it_lasts():
    "In use are exactly the first n; the duration is relative to an equal patch"
    torch.manual_seed(0)
    layer = MotionTokens(3, 10, 16, n_patches=6, n_min=2)
    x = torch.randn(3, 60, 3)
    x[0] *= 0.01
    tokens, in_use, bounds = layer(x)
    assert in_use.tolist() == [[k < n for k in range(6)] for n in layer.count(x)]
    patches, samples = resample_patches(x, bounds, 10)
    relative = (samples * 6 / 60).log1p()[..., None]
    expected = layer.embed(patches) + layer.duration(relative)
    torch.testing.assert_close(tokens[in_use], expected[in_use])
    assert not tokens[~in_use].any()
