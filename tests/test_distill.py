"Distillation: the stages of a training, resuming, combinations of options, and what is refused"

import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harkd.distill import (
    ARMS,
    CORRUPTED_VIEW,
    DistillationLoss,
    DistillConfig,
    StudentWithProjectors,
    _baseline_lines,
    _fit_teacher,
    _fold_student,
    _result_row,
    _teacher_name,
    check_experiment,
    check_methods,
    distill,
    find_teacher,
    open_run,
    paired,
    probe_features,
    run_distill,
    run_fold,
    train_teacher,
    untrained_teacher,
)
from harkd.experiment import experiment_splits, experiment_windows
from harkd.learned_losses import ReusedHead
from harkd.methods import find_method, student_for
from harkd.quantization_aware import fake_quantize_weight
from harkd.runs import (
    load_model,
    load_tensors,
    read_sealed,
    save_tensors,
    set_seed,
    write_sealed,
)
from harkd.split import BatchLoader, by_subject, step_seed
from harkd.student import make_student
from harkd.teacher import Ensemble, RocketTeacher, make_teacher
from harkd.train import cross_entropy, predict, train

CFG = DistillConfig(epochs=2, alpha=0.4, temperature=2.0, lr=0.01)
TINY = DistillConfig(
    'synth',
    student='conv_8k',
    alpha=0.2,
    epochs=2,
    teacher_epochs=2,
    folds=3,
    fold=0,
    jobs=1,
    batch_size=64,
)


@pytest.fixture(scope='module')
def windows():
    return experiment_windows(DistillConfig('synth'))


@pytest.fixture(scope='module')
def loader(windows):
    return BatchLoader.fit(by_subject(windows, ['s1', 's2', 's3'], ['s4'], ['s5']))


@pytest.fixture(scope='module')
def augmented(loader):
    return replace(loader, augment=CFG.augment, batch_size=CFG.batch_size, seed=0)


@pytest.fixture(scope='module')
def teacher(windows, loader):
    set_seed(1)
    model = make_teacher('fusion', windows, width=16)
    train(model, loader, cross_entropy(), replace(CFG.training(0), epochs=12))
    return model


@pytest.fixture
def new_student(windows):
    def make(seed=0):
        set_seed(seed)
        return make_student('conv_8k', windows, ('imu',))

    return make


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return run_distill(TINY, tmp_path_factory.mktemp('run') / 'a')


def same_weights(a, b):
    other = b.state_dict()
    return all(torch.equal(value, other[name]) for name, value in a.state_dict().items())


def state_vector(model):
    floats = [v.flatten() for v in model.state_dict().values() if v.is_floating_point()]
    return torch.cat(floats)


def infonce_student(student, teacher, loader):
    pair = probe_features(student, teacher, loader)
    return StudentWithProjectors(student, {'infonce_0': find_method('infonce').build(pair)})


def test_projectors_stand_beside_the_student(new_student):
    model = StudentWithProjectors(new_student(), {'rkd_0': nn.Linear(2, 3)})
    assert set(model.state_dict()) > {'terms.rkd_0.weight'}


def test_no_methods_means_none():
    assert DistillConfig(loss='').methods == []


def test_another_alpha_gives_another_student(new_student, teacher, loader):
    a, b, control = new_student(), new_student(), new_student()
    distill(a, teacher, loader, cfg=CFG)
    distill(b, teacher, loader, cfg=replace(CFG, alpha=0.9))
    distill(control, teacher, loader, cfg=replace(CFG, weight=0.0))
    assert not torch.equal(a.head.weight, b.head.weight)
    assert not torch.equal(a.head.weight, control.head.weight)


def test_combined_methods_have_finite_parts_in_the_history(new_student, teacher, loader):
    history = distill(new_student(), teacher, loader, 'kd,rkd,hint', CFG, weights={'rkd': 0.5})
    assert {'ce', 'kd', 'rkd', 'hint'} <= set(history[0])
    assert all(np.isfinite(value) for row in history for value in row.values())


def test_simkd_learns_while_its_classifier_stays(new_student, teacher, loader):
    student = student_for(['simkd'], new_student(), probe_features(new_student(), teacher, loader))
    classifier = student.head.weight.clone()
    cfg = replace(CFG, epochs=20, mixup=0.0, warp=0.0, crop=0.0)
    history = distill(student, teacher, loader, 'simkd', cfg)
    assert history[-1]['simkd'] < history[0]['simkd']
    assert torch.equal(student.head.weight, classifier)
    assert history[0]['loss'] == pytest.approx(history[0]['simkd'], abs=1e-5)  # no labels


def test_consistency_pulls_the_corrupted_prediction_and_not_the_clean_one(new_student, augmented):
    student = new_student()
    train(student, augmented, cross_entropy(), replace(CFG.training(0), epochs=30))
    student.eval()
    batch = augmented.train(0, 0, CFG.epochs)
    set_seed(3)
    got = DistillationLoss([], [], consistency=0.5)(student, batch)
    set_seed(3)
    corrupted = CORRUPTED_VIEW.apply_normalised(batch).x['imu']
    clean = student(batch.x['imu']).log_softmax(1).detach()
    kl = (clean.exp() * (clean - student(corrupted).log_softmax(1))).sum(1).mean()
    assert kl > 0.01
    assert got['consistency'].item() == pytest.approx(kl.item(), abs=1e-6)
    ce = F.cross_entropy(student(batch.x['imu']), batch.target, label_smoothing=0.1)
    by_hand = ce + 0.5 * kl
    assert got['loss'].item() == pytest.approx(by_hand.item(), abs=1e-5)
    gradients = [
        torch.autograd.grad(loss, student.head.weight, retain_graph=True)[0]
        for loss in (got['loss'], by_hand)
    ]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)
    for parameter in student.parameters():
        nn.init.zeros_(parameter)
    still = DistillationLoss([], [], consistency=0.5)(student, batch)
    assert float(still['consistency']) == pytest.approx(0.0, abs=1e-7)


def test_the_corrupted_view_leaves_no_trace_in_batch_norm(new_student, loader):
    cfg = replace(CFG, epochs=4)
    nearly, never = new_student(), new_student()
    distill(nearly, [], loader, [], replace(cfg, consistency=1e-12))
    distill(never, [], loader, [], cfg)
    torch.testing.assert_close(state_vector(nearly), state_vector(never), atol=1e-4, rtol=0)


def test_consistency_changes_the_student(new_student, loader):
    consistent, plain = new_student(), new_student()
    history = distill(consistent, [], loader, [], replace(CFG, consistency=1.0))
    distill(plain, [], loader, [], CFG)
    assert 'consistency' in history[0]
    assert not torch.equal(consistent.head.weight, plain.head.weight)


def test_pretraining_learns_without_the_classifier(new_student, teacher, loader, augmented):
    student = new_student()
    head = student.head.weight.clone()
    loss = DistillationLoss([teacher], ['infonce'], labels=False)
    model = infonce_student(student, teacher, loader)
    history = train(model, augmented, loss, replace(CFG.training(0), epochs=3))
    assert history[-1]['infonce'] < history[0]['infonce']
    assert torch.equal(student.head.weight, head)
    weighted = find_method('infonce').weight * history[0]['infonce']
    assert history[0]['loss'] == pytest.approx(weighted, abs=1e-4)


def test_pretraining_resumes_to_the_same_weights(new_student, teacher, loader, augmented, tmp_path):
    plain, pretrained, resumed, killed = (new_student() for _ in range(4))
    cfg = replace(CFG, pretrain=2)
    distill(plain, teacher, loader, cfg=CFG)
    distill(pretrained, teacher, loader, cfg=cfg)
    assert not torch.equal(pretrained.head.weight, plain.head.weight)
    checkpoint = tmp_path / 'checkpoint.safetensors'
    stage_file = tmp_path / 'pretrain.safetensors'
    loss = DistillationLoss([teacher], ['infonce'], labels=False)
    set_seed(step_seed(0, 404))
    model = infonce_student(killed, teacher, loader)
    train(model, augmented, loss, replace(CFG.training(0), epochs=2), stage_file)  # killed here
    distill(resumed, teacher, loader, cfg=cfg, checkpoint=checkpoint)
    assert same_weights(resumed, pretrained) and not stage_file.exists()


def test_a_control_is_not_pretrained(new_student, teacher, loader):
    control, pretrained = new_student(), new_student()
    distill(control, teacher, loader, cfg=replace(CFG, weight=0.0))
    distill(pretrained, teacher, loader, cfg=replace(CFG, weight=0.0, pretrain=2))
    assert same_weights(control, pretrained)


def test_int8_passes_follow_and_end_on_the_grid(new_student, teacher, loader):
    student = new_student()
    history = distill(student, teacher, loader, cfg=replace(CFG, int8=2))
    assert [row['epoch'] for row in history] == [1, 2, 1, 2]
    weight = student.head.weight.detach()
    torch.testing.assert_close(weight, fake_quantize_weight(weight), atol=1e-6, rtol=0)
    before = distill(new_student(), teacher, loader, cfg=CFG)
    assert [row['loss'] for row in history[:2]] == [row['loss'] for row in before]
    rates = [row['lr'] for row in history[2:]]
    assert rates[0] == max(rates) and rates[0] <= 0.2 * CFG.lr


def test_int8_passes_resume_to_the_same_weights(new_student, teacher, loader, tmp_path):
    cfg, checkpoint = replace(CFG, int8=2), tmp_path / 'checkpoint.safetensors'
    whole, killed, resumed = new_student(), new_student(), new_student()
    distill(whole, teacher, loader, cfg=cfg)
    distill(killed, teacher, loader, cfg=replace(cfg, int8=0), checkpoint=checkpoint)
    distill(resumed, teacher, loader, cfg=cfg, checkpoint=checkpoint)
    assert same_weights(resumed, whole)


def test_several_teachers_and_an_ensemble_of_one_agree(new_student, teacher, loader, windows):
    cfg = replace(CFG, epochs=1)
    one, twice, ensemble, other = (new_student() for _ in range(4))
    distill(one, teacher, loader, cfg=cfg)
    distill(twice, [teacher, teacher], loader, cfg=cfg)
    distill(ensemble, Ensemble.of([teacher, teacher]), loader, cfg=cfg)
    torch.testing.assert_close(one.head.weight, twice.head.weight, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.head.weight, ensemble.head.weight, atol=1e-5, rtol=0)
    two = Ensemble.of([teacher, make_teacher('fusion', windows, width=8)])
    distill(other, two, loader, 'kd,hint,rkd', cfg)
    assert not torch.equal(one.head.weight, other.head.weight)


@pytest.mark.parametrize(
    'loss,change,says',
    [
        (None, dict(alpha=1.5), r'alpha must be in \[0,1\], got 1.5'),
        (None, dict(temperature=0.0), 'temperature must be > 0, got 0'),
        (None, dict(weight=-1.0), 'weight must be at least 0, got -1'),
        ('magic', {}, "unknown method 'magic', choose from: kd, dkd"),
        ('simkd', {}, "simkd trains a student with its teacher's classifier: make it with"),
        ('attention_map', {}, "the student has no 'attn.-1'"),
    ],
)
def test_distill_refuses(loss, change, says, new_student, teacher, loader):
    with pytest.raises(ValueError, match=says):
        distill(new_student(), teacher, loader, loss, replace(CFG, **change))


def test_weights_are_for_methods_in_use(new_student, teacher, loader):
    with pytest.raises(ValueError, match=r"weights are given for \['rkd'\]"):
        distill(new_student(), teacher, loader, 'kd', CFG, weights={'rkd': 1.0})


def test_a_teacher_needs_its_inputs_in_the_windows(new_student, teacher, loader, windows):
    split = replace(loader.split, windows=replace(windows, inputs=('imu',)))
    with pytest.raises(ValueError, match="the teacher reads 'skeleton', the windows have: imu"):
        distill(new_student(), teacher, replace(loader, split=split), cfg=CFG)


def test_a_run_has_its_rows_and_files(run):
    rows = run.metrics['rows']
    assert [arm['arm'] for arm in run.metrics['summary']] == list(ARMS)
    assert (run.config['alpha'], run.config['loss']) == (0.2, 'kd')
    assert {row['seed'] for row in rows} == {0, 1, 2}
    files = sorted(path.name for path in (run / 'fold0_seed1').iterdir())
    assert files == ['control', 'distilled', 'predictions.safetensors', 'rows.json', 'teacher']
    assert [row['arm'] for row in run_fold(TINY, run.path, 0, 2)] == list(ARMS)


def test_a_run_continues_on_another_machine(run, tmp_path):
    "What was finished keeps its rows; what is missing is computed again, to the same figures"
    folder = tmp_path / 'copy'
    shutil.copytree(run.path, folder)
    (folder / 'fold0_seed1/rows.json').unlink()
    shutil.rmtree(folder / 'fold0_seed1/distilled')
    (folder / 'metrics.json').unlink()
    first = folder / 'fold0_seed0/rows.json'
    write_sealed(first, [{**row, 'device': 'another machine'} for row in read_sealed(first)])
    again = run_distill(TINY, folder).metrics['rows']

    def untimed(rows):
        drop = ('latency_ms', 'device')
        return [{k: v for k, v in row.items() if k not in drop} for row in rows]

    assert {row['device'] for row in again if row['seed'] == 0} == {'another machine'}
    assert untimed(again) == untimed(run.metrics['rows'])


SIZES = [((2.0, False), '_2s'), ((1.0, False), ''), ((2.0, True), '')]


@pytest.mark.parametrize('final', [False, True])
@pytest.mark.parametrize('size, says', SIZES)
def test_a_row_says_what_was_trained_how_and_on_what(loader, size, says, final):
    "A trial that is two seconds long is no window of two seconds"
    window_s, whole = size
    windows = loader.split.windows
    card = replace(windows.card, window_s=window_s, whole=whole)
    split = SimpleNamespace(windows=replace(windows, card=card), protocol='loso', fold='s1')
    cfg = DistillConfig('synth', student='conv_8k', loss='kd,rkd', final=final)
    ids = loader.split.train[:4]
    logits = torch.eye(6)[windows.y[ids]]
    rows = {
        arm: _result_row(cfg, arm, ('imu', 'skeleton'), logits, split, ids, 7)
        for arm in ('teacher', 'control', 'distilled')
    }
    assert {row['protocol'] for row in rows.values()} == {f'loso{says}'}
    assert {row['part'] for row in rows.values()} == {'test' if final else 'val'}
    assert [row['model'] for row in rows.values()] == ['fusion', 'conv_8k', 'conv_8k']
    assert [row['method'] for row in rows.values()] == ['', '', 'kd,rkd']
    assert [row['teacher'] for row in rows.values()] == ['', '', 'fusion']
    row = rows['distilled']
    assert (row['modality'], row['seed'], row['fold'], row['accuracy']) == (
        'imu+skeleton',
        7,
        's1',
        1.0,
    )


def test_paired_by_hand(run):
    rows, differences = run.metrics['rows'], []
    for seed in range(3):
        tensors, metadata = load_tensors(run / f'fold0_seed{seed}/predictions.safetensors')
        correct = {arm: (tensors[arm].argmax(1) == tensors['y']).float() for arm in ARMS}
        differences.append((correct['distilled'] - correct['control']).mean().item())
    result = paired(rows, run)
    assert result['diff'] == pytest.approx(np.mean(differences))
    assert result['subjects'] == len(set(metadata['subject']))
    same = paired(rows, run, 'control', 'control')
    assert (same['diff'], same['p_subjects']) == (0.0, 1.0)


def test_every_option_together(tmp_path):
    "Two kinds of teacher, virtual sensors, consistency, pretraining, int8: the run opens again"
    bench = find_spec('aeon') is not None
    kinds = 'fusion, rocket' if bench else 'fusion, wide'  # MiniRocket needs the extra `bench`
    options = dict(virtual=0.5, consistency=0.3, pretrain=1, int8=1, blank=0.2, drop=0.2)
    cfg = replace(TINY, seeds=1, teacher_model=kinds, **options)
    run = run_distill(cfg, tmp_path / 'all')
    assert [row['teacher'] for row in run.metrics['rows']] == ['', '', kinds]
    opened, loader, ids, models = open_run(run.path)
    assert opened == cfg
    saved = load_tensors(run / 'fold0_seed0/predictions.safetensors')[0]
    for arm in ARMS:
        assert torch.equal(predict(models[arm], loader, ids), saved[arm])
    assert isinstance(models['teacher'].models[1], RocketTeacher) == bench
    assert 'virtual' in loader.split.windows.inputs
    weight = models['distilled'].stem[0].weight.detach()
    torch.testing.assert_close(weight, fake_quantize_weight(weight), atol=1e-6, rtol=0)
    history = pd.read_csv(run / 'fold0_seed0/distilled/history.csv')
    assert {'loss', 'ce', 'kd', 'consistency', 'infonce'} <= set(history)
    if bench:
        batch = loader.split.windows.batch([0])
        inputs = [batch.x[i].requires_grad_() for i in models['teacher'].inputs]
        with pytest.raises(TypeError, match='MiniRocket has no gradient'):
            models['teacher'](*inputs)


def test_teachers_of_a_run_serve_another(run, tmp_path):
    shared = run_distill(replace(TINY, teacher=str(run.path), seeds=1), tmp_path / 'b')
    assert shared.metrics['rows'][0]['accuracy'] == run.metrics['rows'][0]['accuracy']
    models = open_run(shared.path)[3]
    assert set(models) == set(ARMS)


def test_teachers_of_few_subjects_serve_another_run_on_the_same_subjects(tmp_path):
    few = replace(TINY, training_subjects=2, seeds=2)
    first = run_distill(few, tmp_path / 'few')
    shared = run_distill(replace(few, teacher=str(first.path)), tmp_path / 'again')
    teachers = [
        [row['accuracy'] for row in run.metrics['rows'] if row['arm'] == 'teacher']
        for run in (first, shared)
    ]
    assert len(teachers[0]) == 2 and teachers[0] == teachers[1]
    with pytest.raises(ValueError, match='by other statistics than this fold'):
        run_distill(replace(few, teacher=str(first.path), training_subjects=1), tmp_path / 'c')


def test_several_teachers_and_simkd_in_a_run(tmp_path):
    run = run_distill(replace(TINY, teachers=2, loss='simkd', seeds=1), tmp_path / 'many')
    assert all(len(pd.read_csv(path)) for path in run.path.glob('*/*/history.csv'))
    assert isinstance(load_model(run / 'fold0_seed0/teacher')[0], Ensemble)
    assert isinstance(load_model(run / 'fold0_seed0/distilled')[0], ReusedHead)


@pytest.mark.parametrize('arm', ['control', 'distilled'])
def test_a_control_is_the_student_without_the_teacher(arm, loader, teacher, monkeypatch, tmp_path):
    "The same network, seed and length; its methods weigh nothing, and SimKD changes no network"
    made = {}

    def load_or_train(folder, make, fit, loader, cfg, seed, *rest):
        made.update(folder=folder, seed=seed, epochs=cfg.epochs, student=make())
        made['methods'], made['cfg'] = fit(made['student'], None)

    passed = lambda student, teacher, loader, methods, cfg, *rest: (methods, cfg)  # noqa: E731
    monkeypatch.setattr('harkd.distill.load_or_train', load_or_train)
    monkeypatch.setattr('harkd.distill.distill', passed)
    cfg = replace(TINY, loss='soft_target,simkd', epochs=7)
    _fold_student(cfg, tmp_path, loader, arm, teacher, 3, None)
    control = arm == 'control'
    assert (made['folder'], made['seed'], made['epochs']) == (tmp_path / arm, 3, 7)
    assert made['methods'] == (['soft_target'] if control else ['soft_target', 'simkd'])
    assert isinstance(made['student'], ReusedHead) != control
    assert made['cfg'].weight == (0.0 if control else cfg.weight) and cfg.weight > 0
    assert replace(made['cfg'], weight=cfg.weight) == cfg


def test_a_trained_teacher_is_loaded(run, windows):
    inputs = ('imu', 'skeleton')
    loader = BatchLoader.fit(experiment_splits(TINY, windows)[0])
    here = run / 'fold0_seed0'
    was = (here / 'teacher/model.safetensors').stat().st_mtime_ns
    assert train_teacher(TINY, here, loader, 'fusion', inputs, 0).inputs == inputs
    assert (here / 'teacher/model.safetensors').stat().st_mtime_ns == was


@pytest.mark.parametrize('pretrained_on, share', [(None, 1.0), ({'synth': ['s9']}, 0.25)])
def test_a_pretrained_teacher_learns_at_a_quarter_of_the_rate(monkeypatch, pretrained_on, share):
    rates = []
    monkeypatch.setattr('harkd.distill.train', lambda *args, **kw: rates.append(args[3].lr))
    cfg = replace(CFG, lr=0.008)
    _fit_teacher(SimpleNamespace(pretrained_on=pretrained_on), None, None, cfg, 0, '')
    assert rates == [share * cfg.teacher_training(0).lr]


def test_an_ensemble_of_kinds(windows):
    ensemble = untrained_teacher('fusion,wide', windows, ('imu', 'skeleton'))
    assert [type(model).__name__ for model in ensemble.models] == ['FusionTeacher'] * 2


@pytest.mark.parametrize('finished, name', [(True, 'wide'), (False, 'teacher')])
def test_a_teacher_of_another_run_has_the_name_of_its_model(monkeypatch, finished, name):
    rows = [dict(arm='control', model='conv_8k'), dict(arm='teacher', model='wide')]
    other = SimpleNamespace(finished=finished, metrics=dict(rows=rows) if finished else {})
    monkeypatch.setattr('harkd.distill.Run', lambda folder: {'runs/a': other}[folder])
    assert _teacher_name(replace(CFG, teacher='runs/a'), None) == name


def test_a_teacher_from_other_data_is_refused(run, windows):
    other = BatchLoader.fit(by_subject(replace(windows, hash='other'), ['s1']))
    with pytest.raises(ValueError, match='does not match the data: its data is'):
        find_teacher(run.path, other, 0, 0)


@pytest.mark.parametrize(
    'change,says',
    [
        (dict(student='tiny'), "unknown student 'tiny', choose one of: conv_8k"),
        (dict(dataset='utd'), "unknown dataset 'utd'"),
        (dict(seeds=0), 'seeds must be at least 1'),
        (dict(alpha=7.0), r'alpha must be in \[0,1\]'),
        (dict(teacher_model='gcn'), "unknown teacher 'gcn'"),
        (dict(epochs=-1), 'epochs must be at least 0, got -1'),
        (dict(teacher_model=','), "teacher_model names no teacher: ','"),
        (dict(pretrain=2, loss=''), 'pretrain follows a teacher'),
        (dict(pretrain=2, weight=0.0), 'pretrain follows a teacher'),
        (dict(pretrain=2, alpha=0.0), 'pretrain follows a teacher'),
        (dict(loss='kd,attention_map'), "the student has no 'attn.-1'"),
        (
            dict(student='transformer', loss='attention_map'),
            "the teacher has no 'attn.-1'",
        ),
    ],
)
def test_what_cannot_work_fails_before_a_folder_is_made(change, says, tmp_path):
    folder = Path(tmp_path) / 'd'
    with pytest.raises(ValueError, match=says):
        run_distill(replace(TINY, **change), folder)
    assert not folder.exists()


def test_a_missing_teacher_fails_before_a_folder_is_made(run, tmp_path):
    folder = tmp_path / 'd'
    with pytest.raises(FileNotFoundError, match='has no teacher for fold 0, seed 3'):
        run_distill(replace(TINY, teacher=str(run.path), seeds=4), folder)
    with pytest.raises(FileNotFoundError, match='is not a run folder'):
        run_distill(replace(TINY, teacher=str(tmp_path / 'no'), seeds=1), folder)
    assert not folder.exists()


def test_a_sound_experiment_passes_its_checks(new_student, teacher, loader, windows):
    assert check_experiment(TINY) is windows
    assert check_methods(TINY, ['kd'], new_student(), teacher, loader) is None
    assert len(experiment_splits(TINY, windows)) == 1


def test_control_and_distilled_student_train_equally_long(run):
    "The same epochs and rates from the same start, so that the teacher is the only difference"
    for seed in range(3):
        tables = [
            pd.read_csv(run / f'fold0_seed{seed}' / arm / 'history.csv')
            for arm in ('control', 'distilled')
        ]
        assert tables[0][['epoch', 'lr']].equals(tables[1][['epoch', 'lr']])
        assert len(tables[0]) == TINY.epochs
        assert 'kd' in tables[1] and 'kd' not in tables[0]


def test_a_student_that_wins_is_counted_as_better(tmp_path):
    "Two subjects: the first student is right on the first alone, the second on both"
    folder = tmp_path / 'fold0_seed0'
    folder.mkdir()
    right, wrong = [[0.0, 1.0]], [[1.0, 0.0]]
    tensors = {
        'control': torch.tensor(right * 2 + wrong * 2),
        'distilled': torch.tensor(right * 4),
        'y': torch.ones(4, dtype=torch.long),
        'ids': torch.arange(4),
    }
    save_tensors(folder / 'predictions.safetensors', tensors, {'subject': list('aabb')})
    rows = [
        dict(arm=arm, seed=seed, fold=0, n=4, accuracy=value)
        for arm, value in (('control', 0.5), ('distilled', 1.0))
        for seed in range(2)
    ]
    run = SimpleNamespace(path=tmp_path)
    result = paired(rows, run)
    assert (result['diff'], result['better'], result['worse']) == (0.5, 1, 0)
    assert result['subjects'] == 2
    back = paired(rows, run, 'control', 'distilled')
    assert (back['diff'], back['better'], back['worse']) == (-0.5, 0, 1)


def test_fewer_training_subjects_are_drawn_by_the_seed_and_all_models_share_them(tmp_path):
    cfg = replace(TINY, training_subjects=2, teacher_model='encoder', teacher_inputs='imu', seeds=2)
    run = run_distill(replace(cfg, epochs=1, teacher_epochs=1), tmp_path / 'few')
    trained_on = {
        (seed, part): load_model(run / f'fold0_seed{seed}' / part)[1]['trained_on']
        for seed in (0, 1)
        for part in ('teacher', 'control', 'distilled')
    }
    first, second = trained_on[0, 'teacher'], trained_on[1, 'teacher']
    assert len(first) == len(second) == 2 and first != second
    for (seed, _), subjects in trained_on.items():
        assert subjects == (second if seed else first)


@pytest.mark.parametrize(
    'f1, p, first, lines',
    [
        ((0.8, 0.7, 0.75), 0.01, 'Better than MiniRocket: the distilled student, macro-F1 80.0', 1),
        ((0.7, 0.8, 0.8), 0.2, 'Better than MiniRocket: the student alone, macro-F1 80.0', 1),
        ((0.8, 0.7, 0.9), 0.2, 'MiniRocket, a baseline that trains within minutes, is better', 7),
    ],
)
def test_the_words_about_the_baseline(f1, p, first, lines):
    "Who is compared, by how much, and whether it may be chance; what to try where it is better"
    arms = ('distilled', 'control', 'baseline')
    summary = [dict(arm=a, macro_f1=v) for a, v in zip(arms, f1)]
    found = dict(p_subjects=p, better=5, worse=2, subjects=8)
    rows = [dict(arm=a, modality='imu', bytes=3e6) for a in (*arms, 'teacher')]
    metrics = dict(summary=summary, baseline=dict(distilled=found, control=found), rows=rows)
    run = SimpleNamespace(metrics=metrics, config=dict(student='conv_8k', steps=100))
    said = _baseline_lines(run)
    assert said[0].startswith(first)
    assert f'against {100 * f1[2]:.1f} %; more accurate on 5 of 8 subjects, less on 2' in said[0]
    assert f'(p = {p:.2g})' in said[0] and ('may be chance' in said[0]) == (p > 0.05)
    if lines > 1:
        assert said[1].startswith('What to try') and '-p steps 300' in said[2]
        assert [line.split('.')[0].strip() for line in said[2:]] == list('1234567'[: len(said) - 2])
        assert '3.0 MB' in said[-1]
    assert len(said) >= lines
