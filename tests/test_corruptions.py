"Chapter 07g: what each corruption does, and that every model gets the same"

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from harkd.corruptions import (
    CORRUPTIONS,
    CorruptionConfig,
    _shared_columns,
    corrupt,
    corrupted_batches,
    corruption_picture,
    corruption_rows,
    corruption_table,
    plot_corruptions,
    run_corruptions,
)
from harkd.distill import DistillConfig, run_distill
from harkd.experiment import FitConfig, experiment_windows
from harkd.split import BatchLoader, by_subject

NAMES = tuple(f'{sensor}_{axis}' for sensor in ('acc', 'gyro') for axis in 'xyz')
RAMP = torch.arange(1.0, 102.0)[None, :, None].expand(7, -1, 6).contiguous()


def corrupted(family, strength, seed=0):
    return corrupt(RAMP, NAMES, torch.ones(6), family, strength, seed)


def test_there_are_twenty_five():
    assert len(CORRUPTIONS) == len(set(CORRUPTIONS)) == 25
    with pytest.raises(ValueError, match='unknown corruption noise 0.07'):
        corrupted('noise', 0.07)


def test_dropped_samples_of_a_line_are_filled_by_the_line():
    inner = corrupted('dropped', 0.3)[:, 25:75]
    assert torch.allclose(inner, RAMP[:, 25:75], atol=1e-4)
    assert (corrupted('dropped', 0.5) != RAMP).any()  # the ends are held


def test_a_gap_holds_the_last_value():
    gap = corrupted('gap', 0.2)
    assert (gap != RAMP).any(2).sum(1).tolist() == [20] * 7
    assert (gap.diff(dim=1) >= 0).all()


def test_noise_and_gain_have_their_strength():
    assert (corrupted('noise', 0.5) - RAMP).std() == pytest.approx(0.5, abs=0.05)
    assert torch.allclose(corrupted('trouble', 'gain 0.8'), 0.8 * RAMP, atol=1e-5)


def test_a_rotation_keeps_lengths_and_its_angle():
    before, after = RAMP[..., :3], corrupted('rotation', 20.0)[..., :3]
    assert torch.allclose(after.norm(dim=-1), before.norm(dim=-1), atol=1e-3)
    cos = (after * before).sum(-1) / before.norm(dim=-1) ** 2
    assert (cos >= np.cos(np.radians(20)) - 1e-5).all()


def test_a_dead_axis_and_a_dead_sensor_read_zero():
    axis = (corrupted('trouble', 'dead axis') == 0).all(1)
    assert axis.sum(1).tolist() == [1] * 7
    sensor = (corrupted('trouble', 'dead sensor') == 0).all(1)
    assert sensor.sum(1).tolist() == [3] * 7
    assert (sensor[:, :3].all(1) | sensor[:, 3:].all(1)).all()


def test_a_drift_ends_at_one_standard_deviation():
    drift = corrupted('trouble', 'drift') - RAMP
    assert torch.allclose(drift[:, -1].abs(), torch.ones(7, 6), atol=1e-4)
    assert not drift[:, 0].any()


def test_the_same_windows_get_the_same_corruption():
    assert torch.equal(corrupted('noise', 0.1), corrupted('noise', 0.1))
    assert not torch.equal(corrupted('noise', 0.1), corrupted('noise', 0.1, seed=1))


def test_magnitudes_are_computed_again():
    cfg = FitConfig('synth', student_inputs='imu:acc+norm')
    windows, name = experiment_windows(cfg), 'imu:acc+norm'
    loader = BatchLoader.fit(by_subject(windows, ['s1', 's2', 's3'], ['s4', 's5']))
    ids = loader.split.val
    batch = next(corrupted_batches(loader, ids, (name,), 'trouble', 'gain 0.8'))
    mean, std = torch.tensor(loader.norm.mean[name]), torch.tensor(loader.norm.std[name])
    raw = batch.x[name] * std + mean
    assert torch.allclose(raw[..., :3].norm(dim=-1), raw[..., 3], atol=1e-3)
    ratio = raw[..., 3].mean() / windows.batch(ids).x[name][..., 3].mean()
    assert ratio == pytest.approx(0.8, abs=1e-3)
    rows = corruption_rows(lambda batch: batch.y, loader, ids, (name,))
    assert len(rows) == 26 and {row['accuracy'] for row in rows} == {1.0}


def test_the_models_of_a_run_side_by_side(tmp_path):
    pytest.importorskip('aeon')
    cfg = DistillConfig(
        'synth',
        student='conv_8k',
        epochs=4,
        teacher_epochs=1,
        seeds=1,
        folds=2,
        fold=0,
        jobs=1,
        lr=0.01,
    )
    run_distill(cfg, tmp_path / 'a')
    rows = run_corruptions(CorruptionConfig(str(tmp_path / 'a')))
    assert len(rows) == 3 * 26
    table = corruption_table(rows)
    assert list(table.columns) == [
        'model',
        'uncorrupted',
        'noise',
        'dropped',
        'gap',
        'rotation',
        'faults',
        'mean of 25',
        'worst',
    ]
    assert list(table.index) == ['control', 'distilled', 'baseline']
    d = pd.DataFrame(rows)
    mean = d[(d.arm == 'control') & (d.method != 'none')].accuracy.mean() * 100
    assert float(table['mean of 25'].iloc[0]) == pytest.approx(mean, abs=0.051)
    assert len(plot_corruptions(rows).lines) == 3 + 4


def test_a_drift_grows_evenly_in_one_direction_drawn_for_each_channel():
    drift = corrupted('trouble', 'drift') - RAMP
    steps = drift.diff(dim=1)
    assert (steps.sign() == drift[:, -1:].sign()).all()
    assert torch.allclose(steps.abs(), torch.full_like(steps, 0.01), atol=1e-4)
    up = (drift[:, -1] > 0).float().mean()
    assert 0.2 < up < 0.8


class Restless(torch.nn.Module):
    "Decides for class 2 where neighbouring samples differ by more than `most`, else for class 0"

    inputs, most = ('imu',), np.inf

    def forward(self, x):
        above = x.diff(dim=1).abs().mean((1, 2)) - self.most
        return torch.stack([-above, torch.full_like(above, -9.0), above], 1).nan_to_num(posinf=9)


def test_the_picture_of_a_corruption_names_the_decision_before_and_after():
    windows = experiment_windows(FitConfig('synth'))
    loader = BatchLoader.fit(by_subject(windows, ['s1', 's2', 's3'], ['s4']))
    model, ids, classes = Restless(), loader.split.val, windows.classes
    truth = f'(truth: {classes[windows.y[ids[0]]]})'
    stays = corruption_picture(model, loader, ids, family='noise', step=1)
    assert stays.title == f'noise 0.05: {classes[0]} stays {truth}'
    x = next(loader.eval_batches(ids[:1])).x['imu']
    model.most = 1.0001 * float(x.diff(dim=1).abs().mean())
    for step, strength in ((1, '0.05'), (5, '0.5')):
        found = corruption_picture(model, loader, ids, family='noise', step=step)
        assert found.title == f'noise {strength}: {classes[0]} becomes {classes[2]} {truth}'
        drawn = found.panels[1].traces[:2]
        assert [trace.name for trace in drawn] == [classes[0], classes[2]]
        clean, noisy = (np.asarray(trace.y)[[0, step]] for trace in drawn)
        assert clean[0] > noisy[0] and clean[1] < noisy[1]


@pytest.mark.parametrize(
    'window_s, whole, says', [(2.0, False, '_2s'), (1.0, False, ''), (2.0, True, '')]
)
def test_rows_say_where_windows_were_of_two_seconds(window_s, whole, says):
    windows = experiment_windows(FitConfig('synth'))
    windows = replace(windows, card=replace(windows.card, window_s=window_s, whole=whole))
    loader = BatchLoader.fit(by_subject(windows, ['s1', 's2', 's3'], ['s4']))
    for final, part in ((False, 'val'), (True, 'test')):
        cfg = FitConfig('synth', final=final)
        row = _shared_columns(CorruptionConfig('run'), cfg, loader, ('imu', 'skeleton'), 3)
        assert (row['protocol'], row['part']) == (f'corruptions{says}', part)
        assert (row['modality'], row['seed'], row['experiment']) == (
            'imu+skeleton',
            3,
            'corruptions',
        )
