"Attention that can be read, masked and differentiated twice (chapter 02a)"

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harkd.attention import Attention, Block, Encoder, sinusoidal_positions


def close(actual, expected, eps=1e-6):
    torch.testing.assert_close(actual, expected, atol=eps, rtol=0)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return Attention(21, 3)


def test_three_tokens_by_hand():
    layer = Attention(2, 1)
    with torch.no_grad():
        layer.qkv.weight.copy_(torch.eye(2).repeat(3, 1))
        layer.qkv.bias.zero_()
        layer.proj.weight.copy_(torch.eye(2))
        layer.proj.bias.zero_()
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    out, weights = layer(x)
    by_hand = (torch.tensor([[1.0, 0, 1], [0, 1, 1], [1, 1, 2]]) / 2**0.5).softmax(-1)
    close(weights[0, 0], by_hand)
    close(out[0], by_hand @ x[0])


def test_it_agrees_with_the_layer_of_torch(layer):
    reference = nn.MultiheadAttention(21, 3, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(layer.qkv.weight)
        reference.in_proj_bias.copy_(layer.qkv.bias)
        reference.out_proj.weight.copy_(layer.proj.weight)
        reference.out_proj.bias.copy_(layer.proj.bias)
    x = torch.randn(2, 5, 21)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    out, weights = layer(x, mask)
    expected, expected_weights = reference(
        x, x, x, key_padding_mask=~mask, average_attn_weights=False
    )
    close(out, expected, 1e-5)
    close(weights, expected_weights)
    close(weights.sum(-1), torch.ones(2, 3, 5))


def test_masked_tokens_get_no_weight_and_cannot_change_the_others(layer):
    x = torch.randn(2, 5, 21)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    out, weights = layer(x, mask)
    assert not weights[1, :, :, 3:].any()
    changed = x.clone()
    changed[1, 3:] = 100.0
    assert torch.equal(layer(changed, mask)[0][1, :3], out[1, :3])


def test_second_derivatives_exist(layer):
    x = torch.randn(1, 4, 21, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x)[0].pow(2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.pow(2).sum(), x)
    assert second.abs().sum() > 0


def test_heads_must_divide_the_dimension():
    with pytest.raises(ValueError, match='dim must be a multiple of heads, got 10 and 3'):
        Attention(10, 3)


def test_an_encoder_returns_every_layer_and_a_normed_output():
    torch.manual_seed(0)
    encoder = Encoder(12, 3, 2).eval()
    out, tokens, weights = encoder(torch.randn(2, 5, 12))
    assert (out.shape, len(tokens), weights[0].shape) == ((2, 5, 12), 3, (2, 2, 5, 5))
    close(out, encoder.norm(tokens[-1]))


def test_without_positions_order_means_nothing():
    encoder = Encoder(12, 3, 2).eval()
    x = torch.randn(2, 5, 12)
    order = torch.tensor([3, 0, 4, 1, 2])
    close(encoder(x[:, order])[0], encoder(x)[0][:, order], 1e-5)


def test_the_activation_is_gelu_within_a_thousandth():
    x = torch.linspace(-4, 4, 99)
    close(Block(12, 2).mlp[1](x), F.gelu(x), 1e-3)


def test_positions_by_hand():
    positions = sinusoidal_positions(7, 6)
    close(positions[0], torch.tensor([0.0, 1, 0, 1, 0, 1]))
    close(positions[1, :2], torch.tensor([math.sin(1), math.cos(1)]))
    close(positions.norm(dim=1), torch.full((7,), 3**0.5), 1e-5)
