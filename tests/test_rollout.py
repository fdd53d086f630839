"Chapter 07d: attention through all layers, in time, and between two models"

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harkd.learned_losses import ReusedHead
from harkd.rollout import (
    ATTENTION,
    attention_layers,
    attention_over_time,
    attention_similarity,
    class_attention,
    gradient_rollout,
    rollout,
    token_to_time,
)
from harkd.student import ConvStudent, Features, InertialTransformer
from harkd.teacher import Ensemble, FusionTeacher, STConvT

FIRST = torch.tensor([[0.0, 1, 0], [0, 0, 1], [0, 0, 1]])[None, None]
SECOND = torch.tensor([[0.0, 1, 0], [0, 1, 0], [0, 0, 1]])[None, None]


def close(a, b, eps=1e-6):
    return torch.allclose(a, b, atol=eps, rtol=0)


@pytest.fixture
def window():
    torch.manual_seed(0)
    x = torch.randn(2, 100, 6)
    x[:, 60:70] *= 6
    return x


@pytest.fixture
def fixed():
    torch.manual_seed(1)
    return InertialTransformer().eval()


@pytest.fixture
def motion():
    torch.manual_seed(2)
    return InertialTransformer(tokens='motion', n_patches=8, n_min=4).eval()


def test_later_layers_stand_on_the_left():
    by_hand = torch.tensor([[0.25, 0.5, 0.25], [0, 0.5, 0.5], [0, 0, 1.0]])
    assert close(rollout([FIRST, SECOND])[0], by_hand)
    assert rollout([SECOND, FIRST])[0, 0, 2] == 0
    assert close(class_attention([FIRST, SECOND])[0], torch.tensor([1.0, 0]))


def test_rows_of_a_rollout_sum_to_one(fixed, window):
    attn = fixed.features(window).attn
    assert close(rollout(attn).sum(-1), torch.ones(2, 6), 1e-5)
    assert close(rollout(attn, 0.0), attn[1].mean(1) @ attn[0].mean(1))
    with pytest.raises(ValueError, match=r'residual must be in \[0,1\)'):
        rollout(attn, 1.0)


def test_a_model_without_attention_says_what_to_use():
    attn = ConvStudent().eval().features(torch.zeros(1, 100, 6)).attn or ()
    with pytest.raises(ValueError, match='no attention to roll out; use integrated gradients'):
        rollout(attn)
    with pytest.raises(ValueError, match='has no attention; use integrated gradients'):
        class_attention(attn)
    inputs = torch.randn(2, 100, 6), torch.randn(2, 40, 20, 3)
    with pytest.raises(ValueError, match='FusionTeacher has no attention'):
        gradient_rollout(FusionTeacher(width=8).eval(), inputs)


class OneLayer(nn.Module):
    def features(self, x):
        a = x.softmax(-1)
        score = 2 * a[:, 0, 0, 1] - a[:, 0, 0, 2]
        return Features(torch.stack([score, -score], 1), None, (), (a,))


def test_only_what_raised_the_score_contributes():
    x = torch.zeros(1, 1, 3, 3, requires_grad=True)
    assert close(gradient_rollout(OneLayer(), x, 0)[0, 0], torch.tensor([1.0, 2 / 3, 0]))
    assert close(gradient_rollout(OneLayer(), x, 1)[0, 0], torch.tensor([1.0, 0, 1 / 3]))


def test_each_stream_of_a_teacher_has_its_layers():
    torch.manual_seed(0)
    teacher = STConvT().eval()
    inputs = torch.randn(2, 100, 6), torch.randn(2, 40, 20, 3)
    attn = teacher.features(*inputs).attn
    inertial, skeleton = (attention_layers(teacher, attn, s) for s in ('inertial', 'skeleton'))
    assert len(inertial) == len(skeleton) == 4 and skeleton[0] is attn[0]
    by_stream = [gradient_rollout(teacher, inputs, stream=s) for s in ('inertial', 'skeleton')]
    assert not torch.equal(*by_stream)
    with pytest.raises(ValueError, match="stream must be 'inertial' or 'skeleton'"):
        attention_layers(teacher, attn, 'audio')


def test_tokens_are_spread_over_their_samples():
    by_sample = token_to_time(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 2.0, 5.0]]), 5)
    assert close(by_sample, torch.tensor([[0.5, 0.5, 1, 1, 1]]))
    half = token_to_time(torch.tensor([[2.0]]), torch.tensor([[0.5, 2.5]]), 3)
    assert half.sum() == pytest.approx(2.0)


@pytest.mark.parametrize('kind', ATTENTION)
def test_attention_over_time_is_a_share(fixed, motion, window, kind):
    for model in (fixed, motion):
        weights = attention_over_time(model, window, kind)
        assert weights.shape == (2, 100) and (weights >= 0).all()
        assert close(weights.sum(1), torch.ones(2), 1e-4)


@pytest.mark.parametrize('kind', ATTENTION)
def test_heads_and_layers_can_be_chosen(fixed, window, kind):
    every = attention_over_time(fixed, window, kind)
    first, second = (attention_over_time(fixed, window, kind, head=h) for h in (0, 1))
    assert not torch.equal(first, second)
    assert not torch.equal(every, attention_over_time(fixed, window, kind, layers=1))


def test_attention_is_flat_within_a_patch_and_reaches_the_last_sample(fixed, motion, window):
    assert close(attention_over_time(fixed, window)[:, :20].std(1), torch.zeros(2))
    assert (attention_over_time(motion, window)[:, [0, -1]] > 0).all()
    expected = F.normalize(class_attention(fixed.features(window).attn), p=1) / 20
    assert close(attention_over_time(fixed, window, 'class_attention')[:, ::20], expected)


def test_an_ensemble_has_the_mean_of_its_models(window):
    torch.manual_seed(3)
    two = [InertialTransformer().eval() for _ in range(2)]
    mean = sum(attention_over_time(m, window, 'gradient_rollout', 3) for m in two) / 2
    ensemble = Ensemble.of(two)
    assert close(attention_over_time(ensemble, window, 'gradient_rollout', 3), mean)
    with pytest.raises(ValueError, match='an ensemble has no layers of its own'):
        attention_layers(ensemble, ())


def test_a_reused_classifier_averages_the_tokens(fixed, window):
    pooled = ReusedHead.around(fixed, nn.Linear(12, 27), width=128).eval()
    between = rollout(fixed.features(window).attn)[:, 1:, 1:]
    expected = F.normalize(between.mean(1), p=1) / 20
    assert close(attention_over_time(pooled, window)[:, ::20], expected)


@pytest.mark.parametrize(
    'options, message',
    [
        ({'layers': 3}, r'layers must be in \[1,2\], got 3'),
        ({'head': 4}, r'head must be in \[0,4\), got 4'),
        ({'kind': 'flow'}, "unknown attention method 'flow'"),
    ],
)
def test_what_is_not_there_is_named(fixed, window, options, message):
    with pytest.raises(ValueError, match=message):
        attention_over_time(fixed, window, **options)


def test_dropout_is_refused(window):
    with pytest.raises(ValueError, match='eval mode first'):
        attention_over_time(InertialTransformer().train(), window)


def flat_rows(*shape):
    rows = torch.rand(*shape) + 5
    return rows / rows.sum(-1, keepdim=True)


def test_a_high_cosine_alone_means_nothing():
    torch.manual_seed(0)
    rows, other = flat_rows(40, 50), flat_rows(40, 50)
    same, unrelated = attention_similarity(rows, rows, other), attention_similarity(rows, other)
    assert unrelated['cosine'] > 0.97 and abs(unrelated['z']) < 3 and same['z'] > 5
    assert same['untrained'] < same['cosine'] and 'z_untrained' not in same


def test_several_untrained_networks_have_a_spread():
    torch.manual_seed(0)
    rows, other = flat_rows(40, 50), flat_rows(40, 50)
    untrained = torch.rand(9, 40, 50) + 5
    assert attention_similarity(rows, rows, untrained)['z_untrained'] > 5
    assert abs(attention_similarity(rows, other, untrained)['z_untrained']) < 4


def test_one_window_has_no_null():
    row = flat_rows(1, 50)
    assert np.isnan(attention_similarity(row, row)['z'])
    with pytest.raises(ValueError, match='one time axis'):
        attention_similarity(row, row[:, :10])
