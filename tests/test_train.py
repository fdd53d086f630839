"The training loop: batches, averaged weights, determinism, resuming, errors"

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harkd.augment import Augment
from harkd.preprocess import cut_windows
from harkd.runs import DamagedFile, set_seed
from harkd.split import BatchLoader, by_subject
from harkd.synth import synth_dataset
from harkd.train import (
    EMA,
    TrainConfig,
    accuracy,
    cross_entropy,
    learning_rate,
    make_optimizer,
    predict,
    run_model,
    to_device,
    train,
)

CFG = TrainConfig(epochs=15, lr=0.02, batch_size=12)


class Net(nn.Module):
    "Small, with dropout and batch norm"

    inputs = ('imu',)

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(6, 11, (1, 9), stride=4),
            nn.BatchNorm2d(11),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.AdaptiveAvgPool2d((1, 2)),
            nn.Flatten(),
            nn.Linear(22, 6),
        ).to(memory_format=torch.channels_last)

    def forward(self, x):
        return self.net(x.transpose(1, 2).unsqueeze(2))


def fresh(seed=0):
    set_seed(seed)
    return Net()


def same_weights(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.fixture(scope='module')
def loader():
    windows = cut_windows(synth_dataset(4, 2), ('imu',))
    split = by_subject(windows, ['s1', 's2', 's3'], ['s4'])
    return BatchLoader.fit(split, batch_size=10, augment=Augment(warp=0.2, jitter=0.1, mixup=0.3))


@pytest.fixture(scope='module')
def reference(loader):
    "A training without interruption"
    model = fresh()
    return model, train(model, loader, cross_entropy(), CFG, val_every=5)


@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(epochs=0), 'epochs must be at least 1, got 0'),
        (dict(batch_size=1), 'batch_size must be at least 2, got 1'),
        (dict(lr=0.0), 'lr must be > 0, got 0.0'),
        (dict(warmup=1.5), r'warmup must be in \[0,1\], got 1.5'),
        (dict(clip=-1.0), 'clip must be at least 0, got -1.0'),
        (dict(precision='fp8'), "precision must be 'no', 'bf16' or 'fp16', got 'fp8'"),
    ],
)
def test_a_setting_out_of_range_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**bad)


def test_the_rate_rises_linearly_and_falls_along_a_cosine():
    rates = [learning_rate(i, 100, TrainConfig(lr=2.0, warmup=0.2)) for i in range(100)]
    assert [rates[0], rates[19], rates[60]] == pytest.approx([0.1, 2.0, 1.0])
    assert np.argmax(rates) in (19, 20) and 0 < rates[-1] < 0.002


def test_predictions_do_not_depend_on_batches_and_keep_the_mode(loader):
    model, val = fresh(), loader.split.val
    logits = predict(model, loader, val, batch_size=5)
    assert logits.shape == (12, 6) and model.training
    torch.testing.assert_close(logits, predict(model, loader, val), atol=1e-6, rtol=0)
    share = (logits.argmax(1).numpy() == loader.split.windows.y[val]).mean()
    assert accuracy(model, loader, val) == pytest.approx(share)


def test_a_moved_batch_is_the_same_batch(loader):
    batch = loader.train(0, 0)
    moved = to_device(batch, 'cpu')
    assert torch.equal(moved.ids, batch.ids) and torch.equal(moved.x['imu'], batch.x['imu'])
    assert run_model(fresh(), moved).shape == (10, 6)


def test_one_hot_shares_are_labels(loader):
    model = fresh().eval()
    batch = next(loader.eval_batches(loader.split.train))
    soft = replace(batch, y_soft=F.one_hot(batch.y, 6).float())
    got = cross_entropy(0.2)(model, soft)
    torch.testing.assert_close(got, cross_entropy(0.2)(model, batch), atol=1e-6, rtol=0)
    plain = F.cross_entropy(model(batch.x['imu']), batch.y)
    torch.testing.assert_close(cross_entropy(0.0)(model, batch), plain, atol=1e-6, rtol=0)


def test_the_average_moves_by_one_minus_its_decay():
    model = Net()
    ema = EMA(model, 0.5)
    start = model.net[0].weight.detach().clone()
    with torch.no_grad():
        model.net[0].weight.add_(1.0)
    ema.update(model, 1000)
    torch.testing.assert_close(ema.state['net.0.weight'], start + 0.5, atol=1e-6, rtol=0)
    ema.update(model, 0)  # β_0 = 1/10
    torch.testing.assert_close(ema.state['net.0.weight'], start + 0.95, atol=1e-6, rtol=0)
    assert ema.state['net.1.num_batches_tracked'].dtype == torch.long


def test_only_matrices_and_kernels_decay():
    optimizer = make_optimizer(Net(), TrainConfig(weight_decay=0.3))
    groups = [(len(g['params']), g['weight_decay']) for g in optimizer.param_groups]
    assert groups == [(2, 0.3), (4, 0.0)]


def test_training_learns_and_ends_in_eval_mode(reference):
    model, history = reference
    assert history[-1]['loss'] < history[0]['loss']
    assert [r['epoch'] for r in history if 'val_accuracy' in r] == [5, 10, 15]
    assert not model.training


def test_the_same_configuration_gives_the_same_bits_and_another_seed_does_not(loader, reference):
    again, other = fresh(), fresh()
    train(again, loader, cross_entropy(), CFG)
    assert same_weights(again, reference[0])
    train(other, loader, cross_entropy(), replace(CFG, seed=1))
    assert not torch.equal(other.net[0].weight, reference[0].net[0].weight)


def test_a_dictionary_of_parts_is_logged(loader):
    def parts(model, batch):
        loss = cross_entropy()(model, batch)
        return {'loss': loss, 'twice': 2 * loss, 'constant': 3.0}

    row = train(fresh(), loader, parts, replace(CFG, epochs=1))[0]
    assert row['twice'] == pytest.approx(2 * row['loss']) and row['constant'] == 3.0


class Stop(Exception):
    pass


def stop_at_call(n):
    calls = []

    def loss(model, batch):
        calls.append(1)
        if len(calls) == n:
            raise Stop
        return cross_entropy()(model, batch)

    return loss


@pytest.mark.parametrize('calls', [1, 7, 11])
def test_a_stopped_training_is_resumed_exactly(loader, reference, tmp_path, calls):
    path = tmp_path / 'checkpoint.safetensors'
    with pytest.raises(Stop):
        train(fresh(), loader, stop_at_call(calls), CFG, path, every=2)
    model = fresh(99) if path.exists() else fresh()  # stopped at once, it starts again
    history = train(model, loader, cross_entropy(), CFG, path, every=2, val_every=5)
    assert same_weights(model, reference[0]) and history == reference[1]


def test_foreign_and_damaged_checkpoints_are_refused(loader, tmp_path):
    path = tmp_path / 'checkpoint.safetensors'
    train(fresh(), loader, cross_entropy(), replace(CFG, epochs=1), path)
    with pytest.raises(ValueError, match='belongs to another configuration'):
        train(fresh(), loader, cross_entropy(), CFG, path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedFile, match=r'checkpoint\.safetensors'):
        train(fresh(), loader, cross_entropy(), CFG, path)


def test_a_loss_that_is_not_finite_names_step_and_windows(loader):
    def nan_loss(model, batch):
        return cross_entropy()(model, batch) * float('nan')

    with pytest.raises(FloatingPointError, match='loss is nan at epoch 1, step 1, on windows'):
        train(fresh(), loader, nan_loss, CFG)


def test_the_averaged_weights_are_kept(loader, reference):
    "Averaging changes what is kept, not what is learned from; validation uses the average"
    plain, rows = fresh(), []
    rows = train(plain, loader, cross_entropy(), replace(CFG, ema=0.0), val_every=5)
    model, history = reference
    assert [r['loss'] for r in rows] == [r['loss'] for r in history]
    assert not torch.equal(plain.net[0].weight, model.net[0].weight)
    assert history[-1]['val_accuracy'] == accuracy(model, loader, loader.split.val)
    assert rows[-1]['val_accuracy'] == accuracy(plain, loader, loader.split.val)
    assert model.trained_on == loader.subjects


def test_gradients_are_clipped(loader, monkeypatch):
    "With plain gradient descent, a step is at most its rate times the norm allowed"

    def descent(module, cfg):
        return torch.optim.SGD(module.parameters(), lr=cfg.lr)

    monkeypatch.setattr('harkd.train.make_optimizer', descent)
    moved = {}
    for clip in (0.0, 0.01):
        model = fresh()
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        cfg = TrainConfig(steps=1, epochs=1, lr=0.1, warmup=0.0, clip=clip, ema=0.0)
        train(model, loader, cross_entropy(), cfg)
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        moved[clip] = float((after - before).norm())
    assert moved[0.01] == pytest.approx(0.1 * 0.01, rel=1e-3) and moved[0.0] > 2 * moved[0.01]


def test_frozen_parameters_are_not_optimised():
    model = Net()
    model.net[0].weight.requires_grad_(False)
    params = [p for g in make_optimizer(model, CFG).param_groups for p in g['params']]
    assert len(params) == 5 and all(p is not model.net[0].weight for p in params)


def test_one_implementation_of_adamw_makes_the_bits_of_a_run():
    "Fused and unfused steps differ in their last bits, and in speed"
    optimizer = make_optimizer(torch.nn.Linear(2, 2), TrainConfig(lr=0.01, weight_decay=0.1))
    assert optimizer.defaults['fused'] is True
    assert [g['weight_decay'] for g in optimizer.param_groups] == [0.1, 0.0]
    assert [g['lr'] for g in optimizer.param_groups] == [0.01, 0.01]
