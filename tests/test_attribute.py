"Chapter 07c: baselines, completeness, and the three attribution methods"

from dataclasses import replace

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients
from torch import nn

from harkd.attribute import (
    METHODS,
    Attribution,
    baselines,
    check_explained,
    complete_gradients,
    fixed_patches,
    gradient_x_input,
    integrated_gradients,
    make_baseline,
    occlusion,
)
from harkd.student import ConvStudent, InertialTransformer
from harkd.teacher import FusionTeacher, STConvT

CHANNELS = ('acc_x', 'acc_y', 'gyro_x')


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.randn(5, 2)

    def forward(self, x):
        score = (x * self.weight).flatten(1).sum(1)
        return torch.stack([score, 0 * score], 1)


class Square(nn.Module):
    def forward(self, x):
        return (x**2).flatten(1).sum(1, keepdim=True)


FIRST = torch.zeros(3, dtype=torch.long)


def close(a, b, eps=1e-5):
    return torch.allclose(a, b, atol=eps, rtol=0)


def test_baselines_by_name():
    x = torch.randn(2, 5, 3)
    assert not make_baseline(x).any()
    assert close(make_baseline(x, 'mean')[:, 0], x.mean(1), 1e-6)
    gravity = make_baseline(x, 'gravity', CHANNELS)
    assert close(gravity[:, 0, :2], x.mean(1)[:, :2], 1e-6)
    assert not gravity[..., 2].any()
    assert torch.equal(make_baseline(x, x[0])[1], x[0])


def test_the_baseline_of_a_skeleton_is_its_mean_pose():
    skeleton = torch.randn(2, 5, 7, 3)
    assert torch.equal(make_baseline(skeleton), make_baseline(skeleton, 'mean'))
    assert not make_baseline(skeleton).diff(dim=1).any()


def test_impossible_baselines_are_named():
    x = torch.randn(2, 5, 3)
    with pytest.raises(ValueError, match="'black', choose one of: zero, mean, gravity"):
        make_baseline(x, 'black')
    with pytest.raises(ValueError, match='needs the names of the channels, with an accelerometer'):
        make_baseline(x, 'gravity', ('gyro_x', 'gyro_y', 'gyro_z'))
    with pytest.raises(ValueError, match='the baseline window has values that are NaN'):
        make_baseline(x, x * float('nan'))
    with pytest.raises(ValueError, match=r'must be \(5, 3\) or \(2, 5, 3\), got \(4, 3\)'):
        make_baseline(x, torch.zeros(4, 3))


def test_one_baseline_for_each_input():
    imu, skeleton = torch.randn(4, 100, 6), torch.randn(4, 40, 20, 3)
    assert len(baselines((imu, skeleton), ('mean', 'mean'))) == 2
    names = (('acc_x', 'acc_y', 'acc_z'), ('gyro_x', 'gyro_y', 'gyro_z'))
    acc, gyro = baselines((imu[..., :3], imu[..., 3:]), 'gravity', names)
    assert acc.any() and not gyro.any()
    with pytest.raises(ValueError, match='for each of the 2 inputs, got 3 and 2'):
        baselines((imu, skeleton), ('mean',) * 3)


def test_integrated_gradients_by_hand():
    x, line = torch.randn(3, 5, 2), Linear().eval()
    a = integrated_gradients(line, x, FIRST)
    assert close(a.values[0], line.weight * x)
    b = integrated_gradients(Square().eval(), x)
    assert close(b.values[0], x**2, 1e-4)
    assert max(a.gap.max(), b.gap.max()) < 1e-4
    assert close(b.over_time(), (x**2).sum(2), 1e-4)
    assert close(b.by_channel(), (x**2).sum(1), 1e-4)


def test_another_window_as_baseline():
    x = torch.randn(3, 5, 2)
    other = integrated_gradients(Square().eval(), x, baseline=x.flip(0))
    assert close(other.change, (x**2 - x.flip(0) ** 2).sum((1, 2)))


@pytest.mark.parametrize('model', [ConvStudent, InertialTransformer, FusionTeacher, STConvT])
def test_more_steps_close_the_gap(model):
    imu, skeleton = torch.randn(4, 100, 6), torch.randn(4, 40, 20, 3)
    inputs = (imu, skeleton) if model in (FusionTeacher, STConvT) else (imu,)
    net = model(width=16).eval() if model is FusionTeacher else model().eval()
    few, many = (integrated_gradients(net, inputs, steps=n) for n in (3, 128))
    assert isinstance(many, Attribution)
    assert many.gap.mean() <= few.gap.mean() + 1e-6 and many.relative_gap.max() < 0.02
    assert [v.shape for v in many.values] == [v.shape for v in inputs]
    if len(inputs) == 2:
        assert many.by_channel(1).shape == (4, 20)


def test_steps_are_doubled_where_they_are_needed():
    sharp = InertialTransformer(6, 100, 5, 20, 16, heads=2).eval()
    loud = 10 * torch.randn(4, 100, 6)
    few = integrated_gradients(sharp, loud, steps=4)
    a = complete_gradients(sharp, loud, steps=4)
    assert few.incomplete.all() and not a.incomplete.any()
    assert a.gap.max() < few.gap.max() / 10
    assert 4 < a.steps.min() <= a.steps.max() <= 1024
    for k, steps in enumerate(a.steps.tolist()):
        expected = IntegratedGradients(sharp).attribute(
            loud[k : k + 1],
            torch.zeros(1, 100, 6),
            target=int(a.target[k]),
            n_steps=steps,
            method='gausslegendre',
        )
        assert close(expected[0], a.values[0][k])


def test_few_steps_are_enough_for_smooth_scores():
    x = torch.randn(3, 5, 2)
    assert not complete_gradients(Square().eval(), x, steps=2).incomplete.any()
    assert complete_gradients(Linear().eval(), x, FIRST).steps.tolist() == [64] * 3


def test_the_gap_is_a_share_of_the_change_or_the_gap_itself():
    a = integrated_gradients(Square().eval(), torch.randn(2, 5, 2))
    a = replace(a, gap=torch.tensor([0.002, 0.002]), change=torch.tensor([2.0, 0.001]))
    assert close(a.relative_gap, torch.tensor([0.001, 0.002]), 1e-7)


def test_motion_adaptive_patches_are_kept_along_the_path():
    m = InertialTransformer(tokens='motion', n_patches=8, n_min=4).eval()
    x = torch.randn(4, 100, 6)
    x[:, 60:70] *= 6
    logits = m(x)

    def bounds(values):
        return m.features(values).bounds

    with fixed_patches(m, (x,)):
        assert torch.equal(bounds(0.1 * x).repeat(2, 1), bounds(x.repeat(2, 1, 1)))
        assert torch.equal(bounds(0 * x), bounds(x))
    assert not torch.equal(bounds(0.1 * x), bounds(x))
    assert torch.equal(m(x), logits) and 'cut' not in vars(m.tokens)


def test_nothing_is_explained_that_cannot_be():
    net, imu = ConvStudent().eval(), torch.randn(4, 100, 6)
    with pytest.raises(ValueError, match='NaN or infinite'):
        integrated_gradients(net, imu * float('nan'))
    with pytest.raises(ValueError, match='eval mode first'):
        integrated_gradients(ConvStudent().train(), imu)
    for label in (99, -1):
        with pytest.raises(ValueError, match=f"class {label} is not among the model's 27 classes"):
            integrated_gradients(net, imu, torch.tensor([label]))
    assert [len(t) for t in check_explained(net, imu)] == [1, 4, 4]


def test_gradient_times_input_is_exact_for_a_line_only():
    x, line = torch.randn(3, 5, 2), Linear().eval()
    a = gradient_x_input(line, x, FIRST)
    assert close(a.values[0], line.weight * x)
    assert a.gap.max() < 1e-5 < gradient_x_input(Square().eval(), x).gap.max()
    net, imu = ConvStudent().eval(), torch.randn(4, 100, 6)
    leaf = imu.clone().requires_grad_()
    expected = InputXGradient(net).attribute(leaf, target=net(imu).argmax(1)).detach()
    assert close(gradient_x_input(net, imu).values[0], expected, 1e-6)


def test_occlusion_by_hand():
    x, line = torch.randn(3, 5, 2), Linear().eval()
    single = occlusion(line, x, FIRST, width=1, stride=1)
    assert close(single.values[0], line.weight * x)
    channel = occlusion(line, x, FIRST, width=5, stride=5)
    assert close(channel.values[0].sum(1), (line.weight * x).sum(1))
    with pytest.raises(ValueError, match=r'stride in \[1,width\], got 4 and 9'):
        occlusion(line, x, width=4, stride=9)


def test_occlusion_of_two_inputs():
    teacher = FusionTeacher(width=8).eval()
    inputs = (torch.randn(1, 100, 6), torch.randn(1, 40, 20, 3))
    found = occlusion(teacher, inputs, width=50, stride=50)
    assert [v.shape for v in found.values] == [(1, 100, 6), (1, 40, 20, 3)]


def test_attention_has_no_channels():
    a = Attribution((torch.ones(2, 5),), FIRST, FIRST, FIRST)
    assert a.over_time().shape == (2, 5)
    with pytest.raises(ValueError, match='a weight for each moment, not for each channel'):
        a.by_channel()


def test_the_methods_have_names():
    assert list(METHODS) == ['integrated_gradients', 'gradient_x_input', 'occlusion']
