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

CFG = FitConfig('synth', epochs=4, batch_size=8, lr=0.01, mixup=0.3, ema=0.95)
KILLS = 24


@pytest.fixture(scope='module')
def setting():
    torch.set_num_threads(1)
    w = experiment_windows(CFG)
    loader = BatchLoader.fit(by_subject(w, ['s1', 's2'], ['s3']), augment=CFG.augment)
    return loader, lambda: (set_seed(5), make_student('conv_8k', w, drop=0.3))[1]


def run(setting, folder, every):
    "Train to the end, checkpointing, and leave the weights behind"
    loader, make = setting
    model = make()
    history = train(
        model,
        loader,
        cross_entropy(),
        CFG.training(3),
        folder / 'checkpoint.safetensors',
        every=every,
        val_every=2,
    )
    save_tensors(folder / 'weights.safetensors', model.state_dict(), {'history': history})


def killed(setting, folder, every, after):
    "Run in a child that is killed after some seconds; True if it was, False if it had finished"
    pid = os.fork()
    if not pid:
        try:
            run(setting, folder, every)
        finally:
            os._exit(0)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def test_resume_is_exact_at_random_kill_points(setting, tmp_path):
    rng = random.Random(0)
    (ref := tmp_path / 'ref').mkdir()
    start = time.perf_counter()
    run(setting, ref, 3)
    whole = time.perf_counter() - start
    want, meta = load_tensors(ref / 'weights.safetensors')
    hits = mid_epoch = 0
    for i in range(200):
        (d := tmp_path / f'k{i}').mkdir()
        every = rng.choice([1, 2, 3, 5])
        while killed(setting, d, every, rng.uniform(0, whole * 0.9)):
            hits += 1
            if (d / 'checkpoint.safetensors').exists():
                mid_epoch += (
                    load_tensors(d / 'checkpoint.safetensors')[1]['step'] % setting[0].steps != 0
                )
        got, m = load_tensors(d / 'weights.safetensors')
        assert m == meta and set(got) == set(want)
        for k in want:
            assert got[k].numpy().tobytes() == want[k].numpy().tobytes(), (i, k)
        if hits >= KILLS and mid_epoch >= 3:
            break
    print(f'{hits} kills, {mid_epoch} of them inside an epoch')
    assert hits >= KILLS and mid_epoch >= 3


def test_two_processes_share_a_batch(setting):
    "What several processes draw together is the batch that one process draws alone"
    loader, _ = setting
    for epoch in range(2):
        for s in range(loader.steps):
            alone = sorted(loader.train(epoch, s).ids.tolist())
            shared = sum(
                (loader.train(epoch, s, rank=r, world=3).ids.tolist() for r in range(3)), []
            )
            assert sorted(set(shared)) == alone


def test_order_and_augmentation_depend_on_nothing_but_the_step(setting):
    loader, _ = setting
    late = loader.train(3, 1)
    np.random.rand(7)
    torch.rand(7)
    [loader.train(0, 0) for _ in range(3)]
    again = loader.train(3, 1)
    assert torch.equal(late.x['imu'], again.x['imu']) and torch.equal(late.ids, again.ids)
