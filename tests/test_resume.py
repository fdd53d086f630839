"Killed at any moment and resumed, a training ends with the same bytes"

import os
import random
import signal
import time

import numpy as np
import pytest
import torch

from harkd.experiment import FitConfig, experiment_windows
from harkd.runs import load_tensors, save_tensors, set_seed
from harkd.split import BatchLoader, by_subject
from harkd.student import make_student
from harkd.train import cross_entropy, train

CONFIG = FitConfig('synth', epochs=4, batch_size=8, lr=0.01, mixup=0.3, ema=0.95)
KILLS, KILLS_INSIDE_AN_EPOCH, MOST_TRAININGS = 24, 3, 200


@pytest.fixture(scope='module')
def setting():
    "A loader, and a function that makes the student anew"
    torch.set_num_threads(1)
    windows = experiment_windows(CONFIG)
    split = by_subject(windows, ['s1', 's2'], ['s3'])

    def make():
        set_seed(5)
        return make_student('conv_8k', windows, drop=0.3)

    return BatchLoader.fit(split, augment=CONFIG.augment), make


def run(setting, folder, every):
    "Train to the end with a checkpoint every few steps, and keep the weights"
    loader, make = setting
    model = make()
    history = train(
        model,
        loader,
        cross_entropy(),
        CONFIG.training(3),
        folder / 'checkpoint.safetensors',
        every=every,
        val_every=2,
    )
    save_tensors(folder / 'weights.safetensors', model.state_dict(), {'history': history})


def killed(setting, folder, every, after):
    "Train in a child that is killed after some seconds; whether it was still running"
    pid = os.fork()
    if not pid:
        try:
            run(setting, folder, every)
        finally:
            os._exit(0)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def inside_an_epoch(folder, steps):
    "Whether the checkpoint of a killed training was written inside an epoch"
    checkpoint = folder / 'checkpoint.safetensors'
    return checkpoint.exists() and load_tensors(checkpoint)[1]['step'] % steps != 0


def same_bytes(tensors, others):
    return set(tensors) == set(others) and all(
        tensors[k].numpy().tobytes() == others[k].numpy().tobytes() for k in tensors
    )


def test_resume_is_exact_at_random_kill_points(setting, tmp_path):
    rng, (loader, _) = random.Random(0), setting
    (tmp_path / 'whole').mkdir()
    start = time.perf_counter()
    run(setting, tmp_path / 'whole', 3)
    seconds = time.perf_counter() - start
    weights, history = load_tensors(tmp_path / 'whole' / 'weights.safetensors')
    kills = inside = 0
    for i in range(MOST_TRAININGS):
        folder = tmp_path / f'training{i}'
        folder.mkdir()
        every = rng.choice([1, 2, 3, 5])
        while killed(setting, folder, every, rng.uniform(0, seconds * 0.9)):
            kills += 1
            inside += inside_an_epoch(folder, loader.steps)
        resumed, resumed_history = load_tensors(folder / 'weights.safetensors')
        assert resumed_history == history
        assert same_bytes(resumed, weights), f'training {i}'
        if kills >= KILLS and inside >= KILLS_INSIDE_AN_EPOCH:
            break
    print(f'{kills} kills, {inside} of them inside an epoch')
    assert kills >= KILLS
    assert inside >= KILLS_INSIDE_AN_EPOCH


def test_processes_share_the_batch_of_one_process(setting):
    loader, _ = setting
    for epoch in range(2):
        for step in range(loader.steps):
            alone = sorted(loader.train(epoch, step).ids.tolist())
            shared = [loader.train(epoch, step, rank=r, world=3).ids.tolist() for r in range(3)]
            assert sorted({i for ids in shared for i in ids}) == alone


def test_a_batch_depends_on_nothing_but_its_step(setting):
    loader, _ = setting
    first = loader.train(3, 1)
    np.random.rand(7)
    torch.rand(7)
    for _ in range(3):
        loader.train(0, 0)
    again = loader.train(3, 1)
    assert torch.equal(first.x['imu'], again.x['imu'])
    assert torch.equal(first.ids, again.ids)
