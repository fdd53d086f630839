"Configurations, windows, folds, training once, parallel tasks, tables"

import importlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from harkd.baselines import BaselineConfig
from harkd.compare import CompareConfig
from harkd.data import dataset_card
from harkd.distill import DistillConfig
from harkd.experiment import (
    DataConfig,
    FitConfig,
    _shared,
    experiment_inputs,
    experiment_splits,
    experiment_windows,
    load_or_train,
    model_metadata,
    per_seed,
    run_tasks,
    summarise,
)
from harkd.runs import hash_config, load_model
from harkd.split import BatchLoader
from harkd.student import make_student
from harkd.train import cross_entropy, train


def test_defaults_are_valid():
    assert DataConfig().folds == 5
    smoke = FitConfig().smoke()
    assert (smoke.epochs, smoke.steps) == (1, 0)


def test_training_and_augmentation_are_taken_from_the_configuration():
    cfg = FitConfig(epochs=7, lr=0.1, rotate=5.0, ema=0.5, precision='bf16')
    t = cfg.training(3)
    assert (t.epochs, t.lr, t.seed, t.ema, t.precision) == (7, 0.1, 3, 0.5, 'bf16')
    assert cfg.augment.rotate == 5.0


@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(epochs=-1), 'epochs must be at least 0, got -1'),
        (dict(steps=0), 'epochs and steps are both 0'),
        (dict(epochs=5, steps=300), 'the budget is either epochs or steps, got epochs=5 and'),
        (dict(balance=1.5), r'balance must be in \[0,1\], got 1.5'),
        (dict(lr=-1.0), 'lr must be > 0, got -1.0'),
        (dict(ema=2.0), r'ema must be in \[0,0.99999\], got 2.0'),
        (dict(batch_size=0), 'batch_size must be at least 2, got 0'),
        (dict(warp=3.0), r'warp must be in \[0,0.99\], got 3.0'),
        (dict(mixup=float('nan')), 'mixup must be at least 0, got nan'),
        (dict(precision='fp8'), "precision must be 'no', 'bf16' or 'fp16', got 'fp8'"),
        (dict(folds=1), 'folds must be at least 2, got 1'),
        (dict(virtual=2.0), r'virtual must be in \[0,1\], got 2.0'),
    ],
)
def test_a_value_out_of_range_is_refused_when_the_configuration_is_made(bad, message):
    with pytest.raises(ValueError, match=message):
        FitConfig(**bad)
    with pytest.raises(ValueError, match=message):
        replace(FitConfig(), **bad)


@pytest.mark.parametrize(
    'config, bad, message',
    [
        (DistillConfig, dict(seeds=0), 'seeds must be at least 1, got 0'),
        (DistillConfig, dict(alpha=2.0), r'alpha must be in \[0,1\], got 2.0'),
        (DistillConfig, dict(temperature=0.0), 'temperature must be > 0, got 0.0'),
        (DistillConfig, dict(teachers=0), 'teachers must be at least 1, got 0'),
        (DistillConfig, dict(weight=-1.0), 'weight must be at least 0, got -1.0'),
        (DistillConfig, dict(consistency=-1.0), 'consistency must be at least 0, got -1.0'),
        (DistillConfig, dict(int8=-1), 'int8 must be at least 0, got -1'),
        (DistillConfig, dict(pretrain=-1), 'pretrain must be at least 0, got -1'),
        (DistillConfig, dict(teacher_epochs=-1), 'teacher_epochs must be at least 0, got -1'),
        (DistillConfig, dict(baseline='x'), "baseline must be '' or 'minirocket', got 'x'"),
        (CompareConfig, dict(final_seeds=0), 'final_seeds must be at least 1, got 0'),
        (BaselineConfig, dict(kernels=50), 'kernels must be at least 84, got 50'),
        (BaselineConfig, dict(trees=0), 'trees must be at least 1, got 0'),
        (BaselineConfig, dict(jobs=-1), 'jobs must be at least 0, got -1'),
    ],
)
def test_later_configurations_check_what_they_add(config, bad, message):
    with pytest.raises(ValueError, match=message):
        config(**bad)


def test_a_budget_in_epochs_takes_the_place_of_steps():
    assert FitConfig().training(0).steps == FitConfig.steps
    cfg = FitConfig(epochs=3)
    assert (cfg.steps, cfg.training(0).steps, cfg.training(0).epochs) == (0, 0, 3)
    assert hash_config(cfg) != hash_config(FitConfig())


@pytest.fixture(scope='module')
def spar():
    return experiment_windows(FitConfig())


def test_inputs_come_from_the_configuration_or_the_card():
    card = dataset_card('utd_mhad')
    assert experiment_inputs(FitConfig(), card) == (card.student, card.teacher)
    _, teacher = experiment_inputs(FitConfig(teacher_inputs='imu, skeleton'), card)
    assert teacher == ('imu', 'skeleton')


def test_windows_depend_on_the_data_parameters_only(spar):
    assert spar.inputs == ('imu:acc', 'imu')
    assert experiment_windows(FitConfig(epochs=99)) is spar


def test_subjects_are_held_out_in_folds(spar):
    assert [len(s.parts) for s in experiment_splits(FitConfig(), spar)] == [2] * 5
    assert [s.fold for s in experiment_splits(FitConfig(fold=3), spar)] == ['4of5']


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(split='random'), "unknown split 'random', choose one of: auto, dev_loso"),
        (dict(split='loso'), 'say so with final=True'),
        (dict(fold=5), r'fold must be -1 \(all\) or in \[0,5\), got 5'),
        (dict(fold=-2), r'fold must be -1 \(all\) or in \[0,5\), got -2'),
        (dict(split='dev_loso', final=True), 'which dev_loso does not touch'),
    ],
)
def test_a_split_that_cannot_be_meant_is_refused(spar, settings, message):
    with pytest.raises(ValueError, match=message):
        experiment_splits(FitConfig(**settings), spar)


def test_published_test_subjects_are_evaluated_only_when_final(spar):
    card = replace(spar.card, train_subjects=('s1', 's2', 's3'), test_subjects=('s4',))
    published = replace(spar, card=card)
    development = [s.subjects('val') for s in experiment_splits(FitConfig(), published)]
    assert development == [['s1'], ['s2'], ['s3']]
    final = [s.subjects('test') for s in experiment_splits(FitConfig(final=True), published)]
    assert final == [['s4']]
    with pytest.raises(ValueError, match='subject_kfold would evaluate test subjects'):
        experiment_splits(FitConfig(split='subject_kfold'), published)


def test_a_model_is_trained_once_and_its_folder_says_all(tmp_path):
    cfg = FitConfig('synth', epochs=1)
    windows = experiment_windows(cfg)
    loader = BatchLoader.fit(experiment_splits(cfg, windows)[0])
    trainings = []

    def fit(model, checkpoint):
        trainings.append(model)
        return train(model, loader, cross_entropy(), cfg.training(0), checkpoint)

    def make():
        return make_student('conv_8k', windows)

    first, second = (load_or_train(tmp_path / 'm', make, fit, loader, cfg, 0) for _ in range(2))
    assert len(trainings) == 1
    files = sorted(p.name for p in Path(tmp_path, 'm').iterdir())
    assert files == ['harkd.json', 'history.csv', 'model.safetensors']
    x = windows.batch([0, 1]).x['imu']
    assert torch.equal(first(x), second(x))
    about = load_model(tmp_path / 'm')[1]
    expected = model_metadata(loader, first, cfg, 0)
    assert {k: about[k] for k in expected} == expected
    assert not set(about['trained_on']) & set(loader.split.subjects('val'))


@pytest.mark.parametrize('jobs', [1, 2])
def test_results_come_in_the_order_of_the_tasks(jobs):
    assert run_tasks(pow, [(2, 3), (3, 2), (5, 0)], jobs=jobs) == [8, 9, 1]


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="backend must be 'joblib' or 'ray', got 'dask'"):
        run_tasks(pow, [], backend='dask')


ROWS = [
    dict(arm='control', model='m', modality='imu', seed=s, n=n, accuracy=a, macro_f1=a)
    for s, n, a in ((0, 10, 0.8), (0, 30, 0.9), (1, 10, 1.0), (1, 30, 0.9))
]


def test_folds_are_weighted_by_their_windows():
    assert per_seed(ROWS, 'control') == pytest.approx([0.875, 0.925])


def test_a_summary_has_intervals_over_seeds():
    (row,) = summarise(ROWS)
    assert row['accuracy'] == pytest.approx(0.9) and row['seeds'] == 2
    assert row['accuracy_low'] < 0.9 < row['accuracy_high']
    assert row['params'] is None


RUNS = {  # module: function and configuration
    'ablation': ('run_ablation', 'AblationConfig'),
    'baselines': ('run_baselines', 'BaselineConfig'),
    'evaluate': ('run_ladder', 'LadderConfig'),
    'learning_curve': ('run_learning_curve', 'LearningCurveConfig'),
}


@pytest.mark.parametrize('results', ['', 'mine'])
@pytest.mark.parametrize('module', RUNS)
def test_the_rows_of_a_run_become_the_table_that_was_named(module, results, tmp_path, monkeypatch):
    "With `results`, and only then; the run itself keeps them in any case"
    module, (function, config) = importlib.import_module(f'harkd.{module}'), RUNS[module]
    rows, written = [{'accuracy': 0.5}], {}
    monkeypatch.setattr(module, 'run_tasks', lambda *args, **kwargs: rows)
    monkeypatch.setattr(module, 'write_results', lambda name, rows: written.update({name: rows}))
    cfg = getattr(module, config)('synth', results=results)
    run = getattr(module, function)(cfg, tmp_path / 'run')
    assert written == ({'mine': rows} if results else {})
    assert run.finished and run.metrics['rows'] == rows
    assert (run.path / 'results.csv').exists()


def test_workers_end_when_their_parent_is_killed(tmp_path):
    "A killed run leaves no processes that wait for work"
    code = (
        'import os, pathlib, sys, time\n'
        'from harkd.experiment import run_tasks\n'
        'from tests.test_experiment import leave_pid\n'
        'run_tasks(leave_pid, [(sys.argv[1], k) for k in range(2)], jobs=2)\n'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code, str(tmp_path)], cwd=Path(__file__).parent.parent
    )
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2, 60)
    process.kill()
    process.wait()
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert wait_for(lambda: not any(Path(f'/proc/{pid}').exists() for pid in pids), 10)


def leave_pid(folder, k):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)


def wait_for(found, seconds):
    end = time.monotonic() + seconds
    while not found() and time.monotonic() < end:
        time.sleep(0.1)
    return found()


def test_what_several_tasks_share_is_put_into_the_cluster_once():
    put = []
    cluster = SimpleNamespace(put=lambda value: put.append(value) or f'place {len(put)}')
    windows, own, folder = ['windows'], [['first'], ['second']], Path('run')
    tasks = [(windows, own[k], 7, 'name', folder) for k in (0, 1)]
    sent = _shared(cluster, tasks)
    assert put == [windows]
    assert sent == [('place 1', own[k], 7, 'name', folder) for k in (0, 1)]
