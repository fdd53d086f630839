"The ledger is complete, and no door leads around it or around a split"

import json
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from harkd import (
    arena,
    baselines,
    compare,
    depth_maps,
    depth_networks,
    distill_scores,
    distill_video,
)
from harkd import evaluate as evaluate_module
from harkd.arena import ArenaConfig
from harkd.baselines import BaselineConfig
from harkd.compare import CompareConfig
from harkd.corruptions import CorruptionConfig, run_corruptions
from harkd.cost import count_macs
from harkd.depth_maps import DepthConfig
from harkd.depth_networks import DepthNetConfig
from harkd.distill import distill, open_run, run_distill, run_fold
from harkd.distill_scores import ScoreDistillConfig
from harkd.distill_video import VideoDistillConfig
from harkd.evaluate import LadderConfig, evaluate
from harkd.experiment import experiment_splits, experiment_windows
from harkd.explore import load_explorer_data
from harkd.formats import check_bundle, export
from harkd.preprocess import Normalizer
from harkd.runs import Run, load_model, read_ledger, results_dir, set_seed, write_ledger
from harkd.significance import _check_one_configuration
from harkd.split import (
    BatchLoader,
    LeakError,
    by_subject,
    dev_loso_splits,
    official_split,
)
from harkd.student import make_student
from harkd.teacher import Ensemble, make_teacher
from harkd.train import cross_entropy, train
from tests.test_run_data import MANIFEST, config, make_study

# --- the ledger itself


def evaluation(seed):
    return dict(experiment='demo', dataset='spar', n=10, accuracy=0.9, seed=seed)


def test_doubled_rows_do_not_swallow_a_new_evaluation():
    "A union merge of git leaves rows twice, and the header in the middle"
    for seed in range(3):
        write_ledger([evaluation(seed)])
    page = results_dir() / 'ledger.csv'
    page.write_text(page.read_text() * 3)
    for seed in (3, 4):
        write_ledger([evaluation(seed)])
    assert read_ledger().seed.tolist() == ['0', '1', '2', '3', '4']


def test_the_same_evaluation_stays_one_row_in_a_doubled_ledger():
    write_ledger([evaluation(0)])
    page = results_dir() / 'ledger.csv'
    page.write_text(page.read_text() * 2)
    write_ledger([evaluation(0), evaluation(1), evaluation(1)])
    assert read_ledger().seed.tolist() == ['0', '1']


# --- doors to test subjects


@pytest.fixture(scope='module')
def final(tmp_path_factory):
    "A run on the test subject of a study, and its bundle; made with a ledger of its own"
    root = tmp_path_factory.mktemp('final')
    study = make_study(root / 'study')
    (study / 'manifest.json').write_text(json.dumps({**MANIFEST, 'test_subjects': ['p4']}))
    cfg = replace(config(study), final=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('HARKD_RESULTS', str(root / 'results'))
        run = run_distill(cfg, root / 'run')
        export(run.path, root / 'bundle', fold=0, calibrate_on='none')
        rows = read_ledger()
    return cfg, run.path, root / 'bundle', rows


def reasons():
    ledger = read_ledger()
    return ledger[ledger.experiment == 'reopened'].method.tolist()


def test_a_final_run_has_a_row_for_each_arm(final):
    rows = final[3]
    assert set(rows.arm.dropna()) == {'teacher', 'control', 'distilled'}
    assert rows[rows.experiment == 'reopened'].method.tolist() == ['export onnx fp32']


@pytest.mark.parametrize(
    'door, reason',
    [
        (lambda run, bundle: open_run(run), 'opened'),
        (lambda run, bundle: check_bundle(bundle, run), 'check onnx fp32'),
        (lambda run, bundle: load_explorer_data(run), 'explorer'),
    ],
)
def test_who_reopens_a_final_run_leaves_a_row(final, door, reason):
    door(final[1], final[2])
    assert reasons() == [reason]


def test_an_export_that_is_refused_leaves_its_row(final, tmp_path, monkeypatch):
    monkeypatch.setattr('harkd.formats._agree', None)
    with pytest.raises(TypeError):
        export(final[1], tmp_path / 'b', calibrate_on='none')
    assert reasons() == ['export onnx fp32']


def test_corruptions_are_recorded_before_they_are_computed(final, monkeypatch):
    def fails(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr('harkd.corruptions.corruption_rows', fails)
    with pytest.raises(KeyboardInterrupt):
        run_corruptions(CorruptionConfig(run=str(final[1]), minirocket=False))
    assert reasons() == ['corruptions']


def test_an_evaluation_of_test_subjects_is_recorded_before_it_returns(final, monkeypatch):
    windows = experiment_windows(final[0])
    loader = BatchLoader.fit(official_split(windows))
    model, _ = load_model(final[1] / 'fold0_seed0/control')
    result, _ = evaluate(model, loader, 'test')
    row = read_ledger().iloc[0]
    assert (row.experiment, row.arm, float(row.accuracy)) == (
        'evaluate',
        'control',
        pytest.approx(result['accuracy']),
    )
    evaluate(model, loader, 'train')
    assert len(read_ledger()) == 1
    renamed = by_subject(windows, ['p1', 'p2'], ['p4'])  # as a validation part, too
    evaluate(make_student('conv_8k', windows), BatchLoader.fit(renamed), 'val')
    assert len(read_ledger()) == 2

    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('harkd.evaluate.write_ledger', full)
    with pytest.raises(OSError, match='No space'):
        evaluate(model, loader, 'test')


def test_nothing_about_test_subjects_is_kept_without_its_row(final, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('harkd.distill.write_ledger', full)
    with pytest.raises(OSError, match='No space'):
        run_fold(final[0], tmp_path, 0, 0)
    kept = {p.name for p in tmp_path.rglob('*.*')}
    assert kept <= {'harkd.json', 'model.safetensors', 'history.csv'}
    assert Run(final[1]).finished


def test_development_leaves_no_row(tmp_path):
    cfg = config(make_study(tmp_path / 'study'))
    run = run_distill(replace(cfg, fold=0), tmp_path / 'run')
    open_run(run.path)
    assert read_ledger().empty


# --- leaks


@pytest.fixture(scope='module')
def windows(tmp_path_factory):
    return experiment_windows(config(make_study(tmp_path_factory.mktemp('leaks') / 'study')))


@pytest.fixture(scope='module')
def loader(windows):
    return BatchLoader.fit(by_subject(windows, ['p1', 'p2'], ['p3'], ['p4']))


def listed(windows, train, test):
    card = replace(windows.card, train_subjects=train, test_subjects=test)
    return replace(windows, card=card)


@pytest.mark.parametrize('kind', ['auto', 'dev_loso', 'subject_kfold', 'loso', 'official'])
@pytest.mark.parametrize('final', [False, True])
def test_no_split_accepts_a_subject_in_both_lists(windows, kind, final):
    both = listed(windows, ('p1', 'p2', 'p3'), ('p3', 'p4'))
    cfg = replace(config('x'), split=kind, final=final)
    with pytest.raises(LeakError, match='p3 is a training and a test subject'):
        experiment_splits(cfg, both)


def test_a_list_that_stands_alone_is_completed_by_the_others(windows):
    only_test = listed(windows, (), ('p4',))
    for split in experiment_splits(config('x'), only_test):
        assert split.protocol == 'dev_loso'
        assert 'p4' not in {*split.subjects('train'), *split.subjects('val')}
    assert official_split(only_test).subjects('train') == ['p1', 'p2', 'p3']
    only_train = listed(windows, ('p1', 'p2'), ())
    assert official_split(only_train).subjects('test') == ['p3', 'p4']
    assert len(dev_loso_splits(only_train)) == 2
    with pytest.raises(ValueError, match="use 'dev_loso', which does neither"):
        experiment_splits(replace(config('x'), split='subject_kfold'), only_train)


def test_no_error_advises_to_train_on_test_subjects(windows):
    for kind in ('subject_kfold', 'loso', 'official'):
        with pytest.raises(ValueError) as e:
            cfg = replace(config('x'), split=kind)
            experiment_splits(cfg, listed(windows, (), ('p4',)))
        assert "'dev_loso'" in str(e.value) and 'or say final' not in str(e.value)


def small_teacher(windows, loader, cfg):
    set_seed(0)
    teacher = make_teacher('wide', windows, ('wrist',))
    train(teacher, loader, cross_entropy(), replace(cfg.training(0), epochs=1))
    return teacher


def test_a_teacher_that_saw_the_held_out_subjects_is_refused(windows, loader, tmp_path):
    cfg = config('x')
    student = make_student('conv_8k', windows)
    seen = BatchLoader.fit(by_subject(windows, ['p1', 'p3']))
    teacher = small_teacher(windows, seen, cfg)
    weights = student.head.weight.clone()
    for leaky in (teacher, Ensemble.of([teacher])):
        with pytest.raises(LeakError, match='the teacher was trained on p3, whom this fold'):
            distill(student, leaky, loader, 'kd', cfg)
    assert torch.equal(student.head.weight, weights)
    distill(student, small_teacher(windows, loader, cfg), loader, 'kd', cfg)
    assert student.trained_on == ('p1', 'p2')


def test_a_loaded_teacher_brings_its_subjects(final, windows):
    teacher, about = load_model(final[1] / 'fold0_seed0/teacher')
    assert about['trained_on'] == ['p1', 'p2', 'p3']
    fold = BatchLoader.fit(by_subject(windows, ['p1', 'p2'], ['p3']))
    with pytest.raises(LeakError, match='the teacher was trained on p3'):
        distill(make_student('conv_8k', windows), teacher, fold, 'kd', config('x'))


def test_a_normaliser_that_saw_the_held_out_subjects_is_refused(windows, loader):
    everybody = Normalizer.fit(windows, range(len(windows)))
    with pytest.raises(LeakError, match='the normaliser was fitted on p3, p4'):
        BatchLoader(loader.split, everybody)
    with pytest.raises(LeakError, match='the normaliser was fitted on p3, p4'):
        replace(loader, norm=everybody)


def predictions(config_hash, window, pred=0, arm='distilled'):
    return dict(arm=arm, model='m', seed=0, window=window, pred=pred, config_hash=config_hash)


def test_two_configurations_are_never_pooled():
    "Neither where they decide alike, nor where they decided on other windows"
    for rows in (
        [predictions('a', 1), predictions('b', 2)],
        [predictions('a', 1), predictions('b', 1), predictions('b', 2)],
        [predictions('a', 1), predictions('b', 1, 2)],
    ):
        with pytest.raises(ValueError, match=r'distilled m comes from two configurations \(a, b\)'):
            _check_one_configuration(pd.DataFrame(rows))
    shared = [predictions(c, w, arm='teacher') for c in 'ab' for w in (1, 2)]
    _check_one_configuration(pd.DataFrame(shared))


# --- every module that evaluates a model on test subjects


@pytest.fixture(scope='module')
def study(final):
    "The windows of the final run's study, its split, and an untrained student"
    windows = experiment_windows(final[0])
    return windows, official_split(windows), make_student('conv_8k', windows), final[0].data_root


def zeros(windows, ids):
    return torch.zeros(len(ids), len(windows.classes))


def video_rows(study, folder, patch):
    windows, split, student, root = study
    clips = replace_batch(windows)
    patch.setattr('harkd.distill_video.train_arms', lambda *args: {'control': student})
    patch.setattr('harkd.distill_video.VideoLoader', lambda split: None)
    patch.setattr('harkd.distill_video.predict', lambda model, loader, ids, n: zeros(windows, ids))
    patch.setattr('harkd.distill_video._size_facts', lambda model, clip: {})
    names = ('fold', 'protocol', 'test', 'val')
    split = SimpleNamespace(windows=clips, **{name: getattr(split, name) for name in names})
    return distill_video.video_rows(VideoDistillConfig(final=True), folder, split, 0)


def replace_batch(windows):
    def one_clip(ids):  # operations are counted for one window
        assert len(ids) == 1
        return SimpleNamespace(x={'video': None})

    facts = dict(card=windows.card, hash=windows.hash, y=windows.y)
    return SimpleNamespace(**facts, batch=one_clip)


def score_rows(study, folder, patch):
    windows, split, student, _ = study
    patch.setattr('harkd.distill_scores.saved_teacher', lambda *args: None)
    patch.setattr('harkd.distill_scores._train_arm', lambda *args: student)
    cfg = ScoreDistillConfig(final=True, loss='', student_inputs='wrist')
    rows = distill_scores.score_rows(cfg, folder, split, 0)
    assert rows[0]['macs'] == count_macs(student, windows.batch([0]).x['wrist'])
    return rows


def depth_rows(study, folder, patch):
    windows, split, _, _ = study
    found = {'motion_maps': zeros(windows, split.test).numpy()}
    patch.setattr('harkd.depth_maps.depth_scores', lambda *args: found)
    features = SimpleNamespace(hash='d')
    return depth_maps.depth_rows(DepthConfig(final=True), folder, features, split, 0)


def network_rows(study, folder, patch):
    windows, split, student, _ = study
    loader, logits = SimpleNamespace(clips=torch.zeros(1)), zeros(windows, split.test)
    patch.setattr('harkd.depth_networks._depth_loader', lambda *args: loader)
    patch.setattr('harkd.depth_networks.make_depth_network', lambda *args: student)
    patch.setattr('harkd.depth_networks.train', lambda *args, **kwargs: None)
    patch.setattr('harkd.depth_networks.predict_averaged', lambda *args: (None, logits))
    facts = dict(dataset='study', model='trn', n=1, accuracy=0.5, seed=0)
    row = dict(experiment='depth_networks', **facts)
    patch.setattr('harkd.depth_networks.network_row', lambda *args: row)
    return depth_networks.network_rows(DepthNetConfig(final=True), folder, split, None, 0)


def compared_student(study, folder, patch):
    _, _, student, root = study
    patch.setattr('harkd.compare._entry_model', lambda *args: student)
    cfg = CompareConfig('sessions', data_root=root, student='conv_8k', final=True)
    return [compare.train_students(cfg, folder, 'final', 'alone', 1.0, 0, 0)]


def ladder_rung(study, folder, patch):
    _, _, student, root = study
    patch.setattr('harkd.evaluate._train_on', lambda *args: student)
    cfg = LadderConfig('sessions', data_root=root, student='conv_8k', final=True)
    return [evaluate_module.run_rung(cfg, folder, 'official', 0, 0)]


def majority(study, folder, patch):
    cfg = BaselineConfig('sessions', data_root=study[3], models='majority', final=True)
    return [baselines.run_baseline(cfg, folder, 'majority', 'official', 0, 0)]


def arena_fold(study, folder, patch):
    cfg = ArenaConfig('sessions', data_root=study[3], window_s=0.5, final=True)
    patch.setattr('harkd.arena.arena_predictions', lambda cfg, name, split, seed: split.test * 0)
    return [arena.run_arena_fold(cfg, folder, 'conv_8k', 0, 0)]


EVALUATIONS = (
    arena_fold,
    video_rows,
    score_rows,
    depth_rows,
    network_rows,
    compared_student,
    ladder_rung,
    majority,
)


@pytest.mark.parametrize('evaluated', EVALUATIONS, ids=lambda f: f.__name__)
def test_the_row_of_the_ledger_comes_before_the_figure(evaluated, study, tmp_path, monkeypatch):
    "Where it cannot be written nothing is kept; where it can, it has the figure that is returned"
    module = {
        arena_fold: 'arena',
        video_rows: 'distill_video',
        score_rows: 'distill_scores',
        depth_rows: 'depth_maps',
        network_rows: 'depth_networks',
        compared_student: 'compare',
        ladder_rung: 'evaluate',
        majority: 'baselines',
    }[evaluated]

    def full(rows):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(f'harkd.{module}.write_ledger', full)
        with pytest.raises(OSError, match='No space'):
            evaluated(study, tmp_path / 'full', patch)
        assert not [p for p in (tmp_path / 'full').rglob('*') if p.is_file()]
    with monkeypatch.context() as patch:
        rows = evaluated(study, tmp_path / 'run', patch)
    ledger = read_ledger()
    assert len(ledger) == len(rows) == 1
    assert float(ledger.accuracy[0]) == pytest.approx(rows[0]['accuracy'])
    assert ledger.experiment[0] == rows[0]['experiment']
