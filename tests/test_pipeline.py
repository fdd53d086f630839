"From recordings to a prediction on another machine, on real data"

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from harkd.data import BadRecording, load_dataset
from harkd.deploy import DeployConfig, deploy_run
from harkd.distill import DistillConfig, open_run, run_distill
from harkd.explain import ExplainConfig, explain_run
from harkd.formats import check_bundle
from harkd.train import predict
from tests.conftest import data

ARMS = ('teacher', 'control', 'distilled')
SMALL = DistillConfig(student='conv_8k', epochs=2, teacher_epochs=2, fold=0, seeds=1, jobs=1)
WITHOUT_HARKD = """
import json, sys
import numpy as np
import onnxruntime
export, raw = sys.argv[1:]
bundle = json.load(open(f'{export}/bundle.json'))
x = (np.load(raw) - np.float32(bundle['mean'])) / np.float32(bundle['std'])
session = onnxruntime.InferenceSession(f'{export}/model.onnx')
logits = session.run(None, {'imu': x.astype('float32')})[0]
assert 'torch' not in sys.modules and 'harkd' not in sys.modules
print(json.dumps(logits.argmax(1).tolist()))
"""


@pytest.fixture(scope='module')
def spar(tmp_path_factory):
    "A small finished run on SPAR"
    return run_distill(SMALL, tmp_path_factory.mktemp('spar') / 'run')


@pytest.fixture(scope='module')
def deployed(spar):
    return deploy_run(DeployConfig(str(spar.path)))


def test_a_run_has_its_three_arms(spar):
    assert {row['arm'] for row in spar.metrics['rows']} == set(ARMS)


def test_every_arm_is_better_than_the_most_frequent_class(spar):
    split = open_run(spar.path)[1].split
    y = split.windows.y[split.val]
    most_frequent = np.bincount(y).max() / len(y)
    assert all(row['accuracy'] > 1.2 * most_frequent for row in spar.metrics['rows'])


def test_attributions_of_a_run_add_up(spar):
    explained = explain_run(ExplainConfig(str(spar.path), 2, steps=64))
    assert all(window['gap'] < 0.05 for window in explained['windows'])


def test_exported_file_was_checked_on_many_windows(deployed):
    assert deployed['windows_checked'] > 300


def test_exported_file_predicts_as_its_model(spar, deployed):
    assert check_bundle(spar.path / 'export', spar.path)['same'] == 1


def test_exported_file_predicts_the_same_without_harkd(spar, deployed, tmp_path):
    _, loader, ids, models = open_run(spar.path)
    raw = loader.split.windows.batch(ids[:20]).x['imu:acc'].numpy()
    np.save(tmp_path / 'raw.npy', raw)
    arguments = [str(spar.path / 'export'), str(tmp_path / 'raw.npy')]
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_HARKD, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = predict(models['distilled'], loader, ids[:20]).argmax(1).tolist()
    assert json.loads(done.stdout) == expected


def test_weights_do_not_depend_on_the_number_of_processes(tmp_path):
    config = replace(SMALL, dataset='synth', teacher_epochs=1)
    runs = [run_distill(replace(config, jobs=n), tmp_path / str(n)) for n in (1, 2)]
    for arm in ARMS:
        alone, beside = (
            (run / 'fold0_seed0' / arm / 'model.safetensors').read_bytes() for run in runs
        )
        assert alone == beside


@pytest.fixture(scope='module')
def utd(tmp_path_factory):
    "A run on UTD-MHAD with subject 5 left out, and the folder of its results"
    data('utd_mhad')
    results = tmp_path_factory.mktemp('results') / 'results'
    config = replace(SMALL, dataset='utd_mhad', epochs=1, teacher_epochs=1, fold=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('HARKD_RESULTS', str(results))
        run = run_distill(config, tmp_path_factory.mktemp('utd') / 'run')
    return run, results


def test_teacher_of_utd_mhad_reads_the_skeleton(utd):
    run, _ = utd
    assert [s['input'] for s in run.metrics['summary']] == ['imu+skeleton', 'imu', 'imu']


def test_development_validates_on_the_training_subject_left_out(utd):
    row = utd[0].metrics['rows'][0]
    assert (row['fold'], row['protocol'], row['part']) == ('s5', 'dev_loso', 'val')


def test_development_writes_nothing_into_the_ledger(utd):
    assert not utd[1].exists()


def test_a_model_folder_names_the_subjects_it_was_trained_on(utd):
    metadata = json.loads((utd[0] / 'fold2_seed0/distilled/harkd.json').read_text())
    assert metadata['trained_on'] == ['s1', 's3', 's7']


FILES = {'Inertial': 'a1_s1_t1_inertial.mat', 'Skeleton': 'a1_s1_t1_skeleton.mat'}
DAMAGE = {
    'truncate': lambda whole, i: whole[:i],
    'flip': lambda whole, i: whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :],
    'empty': lambda whole, i: b'',
    'text': lambda whole, i: b'<html>not found</html>',
}


def is_refused(folder, name):
    "Whether a damaged file is refused; the error must name it"
    try:
        load_dataset('utd_mhad', folder)
    except BadRecording as error:
        assert name in str(error) or 'a1_s1_t1' in str(error)
        return True
    return False


@pytest.mark.parametrize('kind', DAMAGE)
def test_damaged_recordings_are_named(tmp_path, kind):
    "Every way a download breaks; a flipped byte may be harmless, but never an unnamed error"
    source, rng = data('utd_mhad'), np.random.default_rng(0)
    for folder, name in FILES.items():
        for other, file in FILES.items():
            (tmp_path / other).mkdir(exist_ok=True)
            (tmp_path / other / file).write_bytes((source / other / file).read_bytes())
        whole = (tmp_path / folder / name).read_bytes()
        places = rng.integers(len(whole), size=25)
        for i in places[:1] if kind in ('empty', 'text') else places:
            (tmp_path / folder / name).write_bytes(DAMAGE[kind](whole, i))
            assert is_refused(tmp_path, name) or kind == 'flip'
