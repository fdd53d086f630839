"From recordings to a decision on another machine, on real data"

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


def test_spar_from_recordings_to_a_decision(tmp_path):
    run = run_distill(
        DistillConfig(student='conv_8k', epochs=2, teacher_epochs=2, fold=0, seeds=1, jobs=1),
        tmp_path / 'run',
    )
    assert {r['arm'] for r in run.metrics['rows']} == {'teacher', 'control', 'distilled'}
    loader = open_run(run.path)[1]
    y = loader.split.windows.y[loader.split.val]
    assert all(
        r['accuracy'] > 1.2 * np.bincount(y).max() / len(y) for r in run.metrics['rows']
    )  # more than saying the most frequent class
    assert all(
        w['gap'] < 0.05 for w in explain_run(ExplainConfig(str(run.path), 2, steps=64))['windows']
    )
    done = deploy_run(DeployConfig(str(run.path)))
    assert (
        done['windows_checked'] > 300 and check_bundle(run.path / 'export', run.path)['same'] == 1
    )
    _, loader, ids, models = open_run(run.path)
    raw = loader.split.windows.batch(ids[:20]).x['imu:acc'].numpy()
    np.save(tmp_path / 'raw.npy', raw)
    code = f"""
import json,numpy as np,onnxruntime as ort,sys
b = json.load(open('{run.path}/export/bundle.json')); x = np.load('{tmp_path}/raw.npy')
x = ((x-np.float32(b['mean']))/np.float32(b['std'])).astype('float32')
z = ort.InferenceSession('{run.path}/export/model.onnx').run(None, {{'imu':x}})[0]
assert 'torch' not in sys.modules and 'harkd' not in sys.modules
print(json.dumps(z.argmax(1).tolist()))"""
    theirs = json.loads(
        subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, check=True
        ).stdout
    )
    assert theirs == predict(models['distilled'], loader, ids[:20]).argmax(1).tolist()


def test_runs_repeat_themselves(tmp_path):
    cfg = DistillConfig('synth', student='conv_8k', epochs=2, teacher_epochs=1, fold=0, seeds=1)
    a, b = (run_distill(replace(cfg, jobs=j), tmp_path / str(j)) for j in (1, 2))
    for arm in ('teacher', 'control', 'distilled'):
        x, y = ((r / 'fold0_seed0' / arm / 'model.safetensors').read_bytes() for r in (a, b))
        assert x == y


def test_utd_mhad_teacher_sees_the_skeleton(tmp_path):
    data('utd_mhad')
    run = run_distill(
        DistillConfig(
            'utd_mhad', student='conv_8k', epochs=1, teacher_epochs=1, fold=2, seeds=1, jobs=1
        ),
        tmp_path / 'run',
    )
    m = run.metrics
    assert (
        [s['sees'] for s in m['summary']] == ['imu+skeleton', 'imu', 'imu']
        and m['rows'][0]['fold'] == 's5'
        and m['rows'][0]['protocol'] == 'dev_loso'
        and m['rows'][0]['part'] == 'val'
    )
    assert not (tmp_path / 'results').exists()  # nothing was written into the ledger
    about = json.loads((run / 'fold2_seed0/distilled/harkd.json').read_text())
    assert about['trained_on'] == ['s1', 's3', 's7']


@pytest.mark.parametrize('kind', ['truncate', 'flip', 'empty', 'text'])
def test_damaged_recordings_are_named(tmp_path, kind):
    "Every way a download breaks; a flipped byte may be harmless, but never an unnamed error"
    source = data('utd_mhad')
    rng = np.random.default_rng(0)
    for d, n in (('Inertial', 'a1_s1_t1_inertial.mat'), ('Skeleton', 'a1_s1_t1_skeleton.mat')):
        for other in ('Inertial', 'Skeleton'):
            (tmp_path / other).mkdir(exist_ok=True)
        for o, m in (('Inertial', 'a1_s1_t1_inertial.mat'), ('Skeleton', 'a1_s1_t1_skeleton.mat')):
            (tmp_path / o / m).write_bytes((source / o / m).read_bytes())
        whole = (tmp_path / d / n).read_bytes()
        for i in rng.integers(len(whole), size=25):
            bad = {
                'truncate': whole[:i],
                'flip': whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :],
                'empty': b'',
                'text': b'<html>not found</html>',
            }[kind]
            (tmp_path / d / n).write_bytes(bad)
            try:
                load_dataset('utd_mhad', tmp_path)
            except BadRecording as e:
                assert n in str(e) or 'a1_s1_t1' in str(e)
            else:
                assert kind == 'flip'
            if kind in ('empty', 'text'):
                break
