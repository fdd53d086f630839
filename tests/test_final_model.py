"A final model, trained on all subjects, and a baseline beside the networks"

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from harkd.cli import app
from harkd.distill import DistillConfig, describe_run, open_run, run_distill, summary
from harkd.runs import load_model, load_tensors, read_json

TINY = DistillConfig(
    'synth',
    student='conv_8k',
    epochs=2,
    teacher_epochs=1,
    seeds=1,
    folds=3,
    fold=0,
    jobs=1,
    baseline='minirocket',
    final_model=True,
)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return run_distill(TINY, tmp_path_factory.mktemp('final') / 'run')


def test_the_final_model_was_trained_on_everybody(run):
    cfg, loader, ids, models = open_run(run.path, 'final')
    _, fold_loader, _, _ = open_run(run.path)
    everybody = set(fold_loader.split.subjects('train')) | set(fold_loader.split.subjects('val'))
    assert set(models['distilled'].about['trained_on']) == everybody
    assert list(models) == ['teacher', 'distilled']
    assert len(ids) == len(loader.split.windows)


def test_it_is_said_whose_accuracy_is_expected(run):
    accuracy = summary(run).loc['distilled student', 'accuracy %']
    text = describe_run(run)
    assert 'Nobody is left to test it on' in text
    assert accuracy in text


def test_the_baseline_stands_in_the_table_with_the_students_windows(run):
    rows = {row['arm']: row for row in run.metrics['rows']}
    assert rows['baseline']['modality'] == 'imu+norm'
    assert rows['baseline']['n'] == rows['distilled']['n']
    tensors, _ = load_tensors(run / 'fold0_seed0' / 'predictions.safetensors')
    right = tensors['baseline'].argmax(1) == tensors['y']
    assert right.float().mean().item() == pytest.approx(rows['baseline']['accuracy'])


def test_a_lost_comparison_says_what_to_try(run):
    # two epochs are too few: MiniRocket is better, and the text must say so
    f1 = {arm['arm']: arm['macro_f1'] for arm in run.metrics['summary']}
    assert f1['baseline'] > max(f1['distilled'], f1['control'])
    text = describe_run(run)
    assert text.startswith('MiniRocket, a baseline')
    assert '-p epochs 6' in text
    assert '-p student conv_80k' in text


def test_the_command_exports_the_final_model(run, tmp_path):
    result = CliRunner().invoke(
        app, ['export', str(run.path), '--final', '-o', str(tmp_path / 'bundle')]
    )
    assert result.exit_code == 0, result.output
    assert 'trained on all subjects' in result.output
    bundle = read_json(tmp_path / 'bundle' / 'bundle.json')
    saved = load_model(run / 'final_model' / 'distilled')[1]
    assert bundle['fold'] == 'final'
    assert bundle['trained_on'] == saved['trained_on']


def test_what_cannot_be_is_refused(run):
    with pytest.raises(ValueError, match='final_model trains its own teacher on all subjects'):
        run_distill(replace(TINY, teacher=str(run.path)), run.path.parent / 'other')
    without = replace(TINY, final_model=False, baseline='', epochs=1)
    other = run_distill(without, run.path.parent / 'without')
    assert describe_run(other) == ''
    with pytest.raises(ValueError, match='has no final model: start it again with final_model'):
        open_run(other.path, 'final')


def test_the_intervals_of_the_baseline_are_kept(run):
    for arm in ('control', 'distilled'):
        found = run.metrics['baseline'][arm]
        assert found['better'] + found['worse'] <= found['subjects']
        assert np.isfinite(found['p_subjects'])
