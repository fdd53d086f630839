"The laws that several chapters keep together; each test breaks one on purpose"

import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harkd.data import Span, Stream, load_dataset
from harkd.distill import DistillationLoss, DistillConfig, distill, open_run, run_distill
from harkd.evaluate import ladder_table
from harkd.preprocess import cut_windows
from harkd.runs import DamagedFile, load_model, save_model, set_seed
from harkd.split import (
    LEAKY,
    BatchLoader,
    LeakError,
    LeakySplit,
    Split,
    by_subject,
    find_leaks,
    leaky_split,
    loso_splits,
)
from harkd.student import Features, make_student
from harkd.synth import synth_dataset
from harkd.teacher import make_teacher
from harkd.train import accuracy, predict
from tests.conftest import data


@pytest.fixture(scope='module')
def windows():
    return cut_windows(
        synth_dataset(5, 2), ('imu', 'skeleton'), whole=False, window_s=1.0, stride_s=0.25
    )


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_law_1_no_split_with_a_leak_can_be_made(windows, seed):
    "Move any window of an honest split to another side: it cannot be made any more"
    rng = np.random.default_rng(seed)
    who = list(rng.permutation(['s1', 's2', 's3', 's4', 's5']))
    s = by_subject(windows, who[:3], who[3:4], who[4:])
    assert not find_leaks(windows.table, s.parts)
    a, b = rng.choice(['train', 'val', 'test'], 2, replace=False)
    parts = {k: getattr(s, k) for k in ('train', 'val', 'test')}
    i = rng.integers(len(parts[a]))
    moved = parts[a][i]
    parts[a], parts[b] = np.delete(parts[a], i), np.append(parts[b], moved)
    with pytest.raises(LeakError):
        Split(windows, **parts, protocol='mine')


def test_law_1_shared_samples_are_found_without_subjects(windows):
    t = windows.table.assign(subject=None, group='')
    one = np.flatnonzero(t.recording == 0)
    assert find_leaks(t, {'train': one[::2], 'test': one[1::2]})['samples'] > 0


def test_law_1_leaky_figures_say_so(windows):
    for kind in LEAKY:
        assert isinstance(s := leaky_split(windows, kind), LeakySplit) and find_leaks(
            windows.table, s.parts
        )
    rows = [dict(protocol=p, accuracy=0.9, n=10, seed=0) for p in (*LEAKY, 'loso')]
    assert ladder_table(rows).note.tolist() == [LeakySplit.warning] * 3 + ['unseen subjects']


def test_law_1_statistics_come_from_training_subjects_only(windows):
    s = by_subject(windows, ['s1', 's2'], ['s3'], ['s4', 's5'])
    f = windows.signals['imu']
    v = f.values.clone()
    for r in set(windows.table.recording.iloc[np.r_[s.val, s.test]]):
        v[f.offset[r] : f.offset[r] + f.count[r]] = 1e9
    poisoned = replace(windows, signals={**windows.signals, 'imu': replace(f, values=v)})
    assert BatchLoader.fit(replace(s, windows=poisoned)).norm == BatchLoader.fit(s).norm


def test_law_2_a_run_distils_from_its_own_teacher(tmp_path):
    "Distilled again from the teacher that the run saved, the student is the same to the bit"
    run = run_distill(
        DistillConfig(
            'spar', student='conv_8k', epochs=2, teacher_epochs=2, seeds=1, fold=0, jobs=1
        ),
        tmp_path / 'run',
    )
    cfg, loader, _, models = open_run(run.path)

    def again(teacher):
        set_seed(0)
        m = make_student(cfg.student, loader.split.windows, models['distilled'].inputs)
        distill(m, models[teacher], loader, None, cfg, 0)
        return m.state_dict()

    def same(a, b):
        return all(torch.equal(a[k], b[k]) for k in a)

    distilled = models['distilled'].state_dict()
    assert same(again('teacher'), distilled)
    assert not same(again('control'), distilled)
    assert not same(models['control'].state_dict(), distilled)


def test_law_2_teacher_and_student_get_the_same_windows(windows):
    "Whatever is drawn, cut, warped or mixed, both inputs of a batch come from the same windows"
    cfg = DistillConfig(mixup=0.5, warp=0.4)
    loader = BatchLoader.fit(by_subject(windows, ['s1', 's2', 's3'], ['s4']), augment=cfg.augment)
    received = {}

    class Teacher(torch.nn.Module):
        inputs = ('imu', 'skeleton')

        def forward(self, imu, skeleton):
            received['teacher'] = imu, skeleton
            return torch.zeros(len(imu), 6)

    class Student(torch.nn.Module):
        inputs = ('imu',)

        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(1))

        def features(self, imu):
            received['student'] = imu
            return Features(self.w * torch.ones(len(imu), 6), None, ())

    batch = loader.train(0, 0, 10)
    DistillationLoss([Teacher()], ['kd'], 0.5, 2.0, 0.0)(Student(), batch)
    imu, skeleton = received['teacher']
    assert imu is received['student'] and imu is batch.x['imu']
    assert skeleton is batch.x['skeleton']
    assert (loader.norm(windows.batch(batch.ids)).y == batch.y).all()


def test_law_2_both_inputs_are_mixed_and_warped_alike(windows):
    """Streams hold the number of their recording, and the time.

    What was mixed into one was mixed into the other, by the same share, at the same moments.
    """
    d = synth_dataset(4, 2)

    def mark(recording, n):
        return np.stack([np.full(n, float(recording)), np.linspace(0, 1, n)], 1)

    recs = [
        replace(
            r,
            streams={
                'imu': Stream(
                    mark(k, 400), np.arange(400) / 100, ('acc_x', 'acc_y'), ('m/s²',) * 2
                ),
                'other': Stream(
                    mark(k, 200), np.arange(200) / 50, ('acc_x', 'acc_y'), ('m/s²',) * 2
                ),
            },
            spans=(Span(r.spans[0].label, 0.0, 3.9),),
        )
        for k, r in enumerate(d.recordings)
    ]
    w = cut_windows(replace(d, recordings=recs), ('imu', 'other'), whole=True, length=80)
    subjects = w.table.subject.unique()
    cfg = DistillConfig(mixup=0.5, warp=0.4, rotate=0.0, scale=0.0, jitter=0.0)
    loader = BatchLoader.fit(
        by_subject(w, subjects[:3], subjects[3:]), augment=cfg.augment, batch_size=16
    )
    b = loader.train(0, 0, 10)
    assert b.y_soft is not None
    raw = {
        i: b.x[i] * torch.tensor(loader.norm.std[i]) + torch.tensor(loader.norm.mean[i])
        for i in ('imu', 'other')
    }
    assert (
        torch.allclose(raw['imu'], raw['other'], atol=0.05)
        and raw['imu'][..., 0].std(1).max() < 1e-3
        and (raw['imu'][..., 0].mean(1) - b.ids).abs().max() > 0.01
    )  # mixed, and both alike
    shuffled = raw['other'][torch.randperm(len(b))]
    assert not torch.allclose(raw['imu'], shuffled, atol=0.05)


def test_law_2_the_teacher_scores_in_the_loop_what_it_scores_alone(windows):
    loader = BatchLoader.fit(by_subject(windows, ['s1', 's2', 's3'], ['s4']))
    set_seed(0)
    teacher = make_teacher('fusion', windows, width=8)
    student = make_student('conv_8k', windows, ('imu',))
    distill(student, teacher, loader, cfg=DistillConfig(epochs=1, alpha=0.5))
    loss, val = DistillationLoss([teacher], ['kd'], 0.5, 2.0, 0.0), loader.split.val
    inside = torch.cat([loss.teacher_features(b)[0].logits for b in loader.eval_batches(val)])
    assert torch.equal(inside, predict(teacher, loader, loader.split.val)) and not teacher.training
    assert (inside.argmax(1).numpy() == windows.y[loader.split.val]).mean() == accuracy(
        teacher, loader, loader.split.val
    )


def test_law_3_overlapping_windows_cost_nothing():
    d = synth_dataset(2, 1)
    few, many = (
        cut_windows(d, ('imu',), whole=False, window_s=1.0, stride_s=s) for s in (1.0, 0.05)
    )
    assert (
        len(many) > 5 * len(few)
        and many.signals['imu'].values.shape == few.signals['imu'].values.shape
    )
    total = sum(len(r.streams['imu'].values) for r in d.recordings)
    assert len(many.signals['imu'].values) <= total


def test_law_8_no_pickle_is_ever_loaded(tmp_path, windows, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(make_student('conv_8k', windows, ('imu',)), tmp_path / 'm')

    class Bomb:
        def __reduce__(self):
            return exec, ("open('pwned','w')",)

    for f in ('model.safetensors', 'harkd.json'):
        good = (tmp_path / 'm' / f).read_bytes()
        (tmp_path / 'm' / f).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(DamagedFile, match=f):
            load_model(tmp_path / 'm')
        assert not (tmp_path / 'pwned').exists()
        (tmp_path / 'm' / f).write_bytes(good)
    torch.save(
        make_student('conv_8k', windows, ('imu',)).state_dict(),
        tmp_path / 'm' / 'model.safetensors',
    )
    with pytest.raises(DamagedFile, match='model.safetensors'):
        load_model(tmp_path / 'm')


def test_law_8_nothing_in_the_package_unpickles():
    from pathlib import Path

    import harkd

    source = {p.name: p.read_text() for p in Path(harkd.__file__).parent.glob('*.py')}
    for name, s in source.items():
        assert not re.search(
            r'torch\.load\(|allow_pickle=True\s*[,)]|joblib\.load|pickle\.loads?\(', s
        ), name


@given(
    fs=st.sampled_from([20.0, 37.0, 50.0, 104.0]),
    seconds=st.floats(0.4, 2.0),
    share=st.floats(0.2, 1.0),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_windows_are_slices_of_the_grid(fs, seconds, share, seed):
    "Any rate, any length, any stride: a window is a stretch of its own recording, as long as asked for"
    d = synth_dataset(2, 1, seed=seed, fs=fs)
    w = cut_windows(d, ('imu',), whole=False, window_s=seconds, stride_s=seconds * share)
    f = w.signals['imu']
    n = w.length['imu']
    assert n == round(seconds * w.card.fs)
    for i in np.random.default_rng(seed).integers(len(w), size=4):
        x = w.batch([i]).x['imu'][0]
        r = w.table.iloc[i]
        mine = f.values[f.offset[r.recording] : f.offset[r.recording] + f.count[r.recording]]
        lo, hi = mine.amin(0) - 1e-4, mine.amax(0) + 1e-4
        assert (
            x.shape == (n, 6)
            and (x >= lo).all()
            and (x <= hi).all()
            and r.start >= 0
            and r.stop <= d.recordings[r.recording].duration + 1e-6
        )


def test_utd_mhad_splits_do_not_leak():
    data('utd_mhad')
    w = cut_windows(load_dataset('utd_mhad', streams=('imu',)), ('imu',), window_s=2.0, whole=False)
    for s in loso_splits(w):
        assert not find_leaks(w.table, s.parts)
    found = find_leaks(w.table, leaky_split(w, 'random_windows').parts)
    assert found['samples'] > 400 and found['subject'] > 1000
