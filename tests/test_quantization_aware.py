"Fake int8 quantisation: by hand, in a model, and in training"

from dataclasses import replace

import pytest
import torch

from harkd.experiment import FitConfig, experiment_windows
from harkd.quantization_aware import (
    FakeQuantize,
    fake_quantize_activation,
    fake_quantize_weight,
    quantization_aware_loss,
)
from harkd.runs import set_seed
from harkd.split import BatchLoader, by_subject
from harkd.student import make_student
from harkd.train import accuracy, cross_entropy, predict, run_model, train

CFG = FitConfig(epochs=40, lr=0.02)


def close(a, b, atol):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def test_weights_are_rounded_by_the_scale_of_their_channel():
    w = torch.tensor([[1.27, 0.014, -0.016], [12.7, 0.14, -0.16]])
    rounded = fake_quantize_weight(w)
    close(rounded, torch.tensor([[1.27, 0.01, -0.02], [12.7, 0.1, -0.2]]), 1e-5)
    close(fake_quantize_weight(rounded), rounded, 1e-6)  # rounding twice is rounding once


def test_activations_are_rounded_in_their_range_and_clipped_outside():
    x = torch.tensor([0.0, 0.014, 2.0, 3.0, -1.0], requires_grad=True)
    y = fake_quantize_activation(x, torch.tensor(0.5), torch.tensor(2.55))
    close(y.detach(), torch.tensor([0.0, 0.01, 2.0, 2.55, 0.0]), 1e-5)
    y.sum().backward()
    assert x.grad.tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize('low, high', [(-1.0, 3.0), (-0.37, 0.11), (0.0, 0.0), (1.0, 2.0)])
def test_zero_stays_zero(low, high):
    zeros = torch.zeros(3)
    assert torch.equal(
        fake_quantize_activation(zeros, torch.tensor(low), torch.tensor(high)), zeros
    )


@pytest.fixture(scope='module')
def setting():
    windows = experiment_windows(FitConfig('synth'))
    return BatchLoader.fit(by_subject(windows, ['s1', 's2', 's3'], ['s4', 's5']))


@pytest.fixture
def student(setting):
    set_seed(0)
    model = make_student('conv_8k', setting.split.windows, ('imu',))
    loader = replace(setting, augment=CFG.augment)
    train(model, loader, cross_entropy(), replace(CFG, epochs=10).training(0))
    return model


def test_the_context_leaves_nothing_but_rounded_weights(setting, student):
    val = setting.split.val
    names = set(student.state_dict())
    plain = predict(student, setting, val)
    before = {k: v.clone() for k, v in student.state_dict().items()}
    with FakeQuantize(student) as rounding:
        run_model(student, next(setting.eval_batches(setting.split.train)))
        rounding.on = False
        assert torch.equal(predict(student, setting, val), plain)
        rounding.on = True
        assert 1e-4 < (predict(student, setting, val) - plain).abs().max() < 2
    assert set(student.state_dict()) == names
    stem, norm = student.stem
    close(stem.weight.detach(), fake_quantize_weight(before['stem.0.weight']), 1e-6)
    assert torch.equal(norm.weight.detach(), before['stem.1.weight'])


def test_training_with_rounding_keeps_statistics_and_accuracy(setting, student):
    val = setting.split.val
    before, accuracy_before = student.stem[1].running_mean.clone(), accuracy(student, setting, val)
    weight_before = student.stem[1].weight.detach().clone()
    with FakeQuantize(student):
        loss = quantization_aware_loss(cross_entropy(), student)
        history = train(student, setting, loss, replace(CFG.training(0), epochs=6, lr=2e-3))
    assert history[-1]['loss'] < history[0]['loss']
    assert torch.equal(student.stem[1].running_mean, before)
    assert not torch.equal(student.stem[1].weight, weight_before)
    head = student.head.weight.detach()
    close(head, fake_quantize_weight(head), 1e-6)
    assert accuracy(student, setting, val) >= accuracy_before - 0.05
