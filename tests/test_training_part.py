"""What is fitted beside the networks learns from training windows only (chapters 04, 05c, 07)

A classifier here stands in for the real one and keeps what it was given. Each window is the number
of its row, so no window of another part can hide among those that were learned from."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harkd import arena, baselines, corruptions, distill_scores, learning_curve
from harkd.depth_maps import DepthFeatures
from harkd.distill import probe_features
from harkd.experiment import DataConfig, experiment_splits, experiment_windows
from harkd.runs import save_tensors
from harkd.split import BatchLoader, LeakError, Split
from harkd.student import make_student
from harkd.teacher import RocketTeacher, fit_rocket

INPUTS = ('imu',)


class Listener:
    "A classifier that keeps what it was fitted on"

    def fit(self, x, y):
        self.x, self.y = x, y
        return self

    def predict(self, x):
        return np.zeros(len(x), int)


@pytest.fixture(scope='module')
def split():
    cfg = DataConfig('synth', split='subject_kfold', folds=3, fold=0, student_inputs='imu')
    return experiment_splits(cfg, experiment_windows(cfg))[0]


@pytest.fixture
def listener(monkeypatch):
    heard = Listener()
    for module in (baselines, corruptions, learning_curve):
        monkeypatch.setattr(module, 'make_classifier', lambda *args, **how: heard)
        monkeypatch.setattr(module, 'as_array', lambda batch, inputs: batch.ids.numpy())
    return heard


def fit_a_baseline(loader):
    cfg = baselines.BaselineConfig('synth')
    baselines._fit_and_predict(cfg, 'forest', loader, INPUTS, loader.split.val, 0)


def fit_of_a_learning_curve(loader):
    learning_curve._minirocket_predictions(loader, INPUTS, 0)


def fit_before_corruptions(loader):
    corruptions._minirocket_decisions(loader, INPUTS, 0)


@pytest.mark.parametrize('fit', [fit_a_baseline, fit_of_a_learning_curve, fit_before_corruptions])
def test_a_classifier_learns_from_the_training_windows(fit, split, listener):
    fit(BatchLoader.fit(split))
    assert listener.x.tolist() == split.train.tolist()
    assert listener.y.tolist() == split.windows.y[split.train].tolist()


def test_a_probe_of_the_arena_learns_from_the_training_windows(split, monkeypatch):
    judged = Split(split.windows, split.train, split.train[:0], split.val, 'loso')
    number = np.arange(len(split.windows))
    monkeypatch.setattr(arena, 'load_encoder', lambda name: (None, {}))
    monkeypatch.setattr(arena, 'check_unseen', lambda *args: None)
    monkeypatch.setattr(arena, 'embed', lambda *args: number)
    monkeypatch.setattr(arena, 'linear_probe', lambda *parts: [p.tolist() for p in parts])
    found = arena._classify_embeddings(SimpleNamespace(encoder='mine'), judged)
    y = split.windows.y[split.train]
    assert found == [split.train.tolist(), y.tolist(), split.val.tolist()]


def with_other_labels(split):
    "The same windows, whose labels outside the training part are the next class"
    windows = split.windows
    label = windows.table.label.to_numpy().copy()
    label[split.val] = (label[split.val] + 1) % len(windows.classes)
    other = replace(windows, table=windows.table.assign(label=label))
    return replace(split, windows=other)


def test_labels_of_held_out_windows_do_not_reach_minirocket_as_a_teacher(split):
    pytest.importorskip('aeon')
    weights = []
    for one in (split, with_other_labels(split)):
        model = RocketTeacher(INPUTS, classes=len(split.windows.classes), kernels=84)
        fit_rocket(model, BatchLoader.fit(one), copies=1, strengths=(10.0,), factors=(4.0,))
        weights.append(model.head.weight.numpy().copy())
    assert np.array_equal(*weights)


def test_vectors_of_saved_teachers_are_fitted_on_the_training_trials(split, monkeypatch):
    "Other maps of held-out trials change nothing for the training trials"
    windows = split.windows
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(len(windows), 12)).astype(np.float32)
    others = maps.copy()
    others[split.val] *= 50
    logits = np.zeros((len(windows), len(windows.classes)), np.float32)
    logits[split.val] = np.nan  # nothing has learned from them
    scores = distill_scores.torch.from_numpy(logits)
    monkeypatch.setattr(distill_scores, 'left_out_scores', lambda *args: scores)
    monkeypatch.setattr(
        distill_scores, 'mean_logits', lambda *args: distill_scores.torch.from_numpy(logits)
    )
    cfg = SimpleNamespace(members=[('.', 'depth')], teacher='.')
    vectors = []
    for values in (maps, others):
        grids = np.zeros((len(windows), 3, 8), np.float32)
        features = DepthFeatures(values, values, grids, 'h')
        vectors.append(distill_scores.saved_teacher(cfg, split, features, 4).vectors[split.train])
    assert np.array_equal(*vectors)


@pytest.mark.parametrize('fold', [-1, 1])
def test_scores_of_models_that_learned_from_a_held_out_subject_do_not_teach(fold, split, tmp_path):
    "Also where the run has fold 1 alone: its models have learned from the subjects of fold 0"
    windows = split.windows
    own = DataConfig('synth', folds=3, fold=fold, split='subject_kfold')
    (tmp_path / 'config.json').write_text(json.dumps(asdict(own)))
    known = np.zeros(len(windows), bool)
    known[[i for s in experiment_splits(own, windows) for i in s.val]] = True
    seen = distill_scores.teacher_subjects(tmp_path, windows, known)
    own_of_fold_1 = set(windows.table.subject[known]) if fold == 1 else set()
    assert seen == set(windows.table.subject) - own_of_fold_1
    with pytest.raises(LeakError, match='-p final True'):
        distill_scores.check_scores_unseen(seen, split, 'a run')
    of_training = set(windows.table.subject[split.train])
    distill_scores.check_scores_unseen(of_training, split, 'a run')


def test_a_teacher_of_saved_scores_is_checked(split, tmp_path):
    windows = split.windows
    cfg = SimpleNamespace(members=[(str(tmp_path), 'depth')], teacher='a run')

    def save(ids):
        y = torch.tensor(windows.y[ids])
        tensors = dict(depth=torch.eye(len(windows.classes))[y], y=y, ids=torch.tensor(ids))
        save_tensors(tmp_path / 'folda_seed0' / 'scores.safetensors', tensors)

    save(np.arange(len(windows)))
    with pytest.raises(LeakError, match="'a run': its models have learned from"):
        distill_scores.saved_teacher(cfg, split)
    save(split.train)
    teacher = distill_scores.saved_teacher(cfg, split)
    assert not teacher.logits[split.train].isnan().any() and teacher.logits[split.val].isnan().all()


def test_methods_with_a_memory_of_windows_know_the_training_windows_only(split):
    student, teacher = (make_student('conv_8k', split.windows, INPUTS) for _ in range(2))
    pair = probe_features(student, teacher, BatchLoader.fit(split))
    assert pair.train_ids.tolist() == split.train.tolist()
    assert pair.train_y.tolist() == split.windows.y[split.train].tolist()
