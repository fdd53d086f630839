"A cluster of three nodes on this machine, one of which is lost: the same rows as on one machine"

import importlib.util
import json
import os
import re
import threading
import time
from dataclasses import replace

import pytest

import harkd.distill
from harkd.distill import DistillConfig, run_distill, run_fold
from harkd.experiment import run_tasks
from harkd.runs import file_hash, hash_config

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('ray') is None, reason="pip install 'harkd[cluster]'"
)
CFG = DistillConfig(
    'synth', student='conv_8k', epochs=3, teacher_epochs=1, folds=3, seeds=1, batch_size=64, jobs=1
)


@pytest.fixture(scope='module')
def cluster():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 1, 'num_gpus': 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1, num_gpus=1)  # Ray counts GPUs, it need not find them
    cluster.wait_for_nodes()
    os.environ['RAY_ADDRESS'] = cluster.address
    yield cluster
    del os.environ['RAY_ADDRESS']
    cluster.shutdown()


def lose_a_node(cluster, ready):
    "Kill a node, in a thread, as soon as `ready()`; the node that is lost"

    def kill():
        end = time.monotonic() + 100
        while not ready() and time.monotonic() < end:
            time.sleep(0.05)
        lost.append(cluster.worker_nodes.copy().pop())
        cluster.remove_node(lost[0], allow_graceful=False)
        (cluster.marks / 'lost').touch()

    lost = []
    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def where(marks, k):  # a task of `run_tasks`: the node it ran on, at last
    (marks / f'{k}_{os.getpid()}').touch()
    while not (marks / 'lost').exists():
        time.sleep(0.05)
    return k, os.environ['HARKD_OF_THE_DRIVER'], os.environ.get('CUDA_VISIBLE_DEVICES', '')


def counted_fold(cfg, folder, *part):
    marks = folder.parent / 'marks'
    (marks / f'{part[0]}_{os.getpid()}').touch()
    while len(list(marks.glob('[0-9]*_*'))) < 3:  # all three begin before one is lost
        time.sleep(0.05)
    return run_fold(cfg, folder, *part)


def computed(run):
    "Rows without what a clock measured, and the hashes of all weights and predictions"
    measured = ('date', 'latency_ms', 'latency_p95_ms', 'config_hash')  # it has `jobs`
    rows = [{k: v for k, v in row.items() if k not in measured} for row in run.metrics['rows']]
    paths = sorted(run.path.rglob('*.safetensors'))
    hashes = {str(p.relative_to(run.path)): file_hash(p) for p in paths}
    return [json.dumps(row) for row in rows], hashes  # as text, since nan is not nan


def test_the_rows_of_a_run_whose_node_was_lost_are_those_of_one_machine(
    cluster, tmp_path, monkeypatch, capfd
):
    cluster.marks = tmp_path / 'marks'
    cluster.marks.mkdir()
    monkeypatch.setattr(harkd.distill, 'run_fold', counted_fold)
    all_begun = lambda: len(list(cluster.marks.glob('[0-9]*_*'))) >= 3  # noqa: E731
    thread = lose_a_node(cluster, all_begun)
    cfg = replace(CFG, backend='ray', jobs=0)
    far = run_distill(cfg, tmp_path / 'ray')
    thread.join()
    begun = [p.name.split('_')[0] for p in cluster.marks.glob('[0-9]*_*')]
    assert sorted(set(begun)) == ['0', '1', '2'] and len(begun) > 3  # one was tried again
    monkeypatch.setattr(harkd.distill, 'run_fold', run_fold)
    near = run_distill(CFG, tmp_path / 'joblib')
    assert computed(far)[1] == computed(near)[1]
    assert computed(far)[0] == computed(near)[0]
    assert [len(part) for part in computed(near)] == [3 * 3, 3 * 4]
    assert far.config['config_hash'] == hash_config(replace(cfg, backend='joblib'))
    said = capfd.readouterr()
    assert re.search(r'task \d of 3 begins on', said.out + said.err)  # what workers print


def test_requests_environment_and_errors_of_tasks(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv('HARKD_OF_THE_DRIVER', 'passed on')
    import ray

    (tmp_path / 'lost').touch()
    tasks = [(tmp_path, k) for k in range(3)]
    with ray.init(logging_level='ERROR'):  # as RAY_ADDRESS says; it stays connected
        found = run_tasks(where, tasks, backend='ray', gpus=1)
        assert [f[:2] for f in found] == [(k, 'passed on') for k in range(3)]
        assert all(gpus != '' for _, _, gpus in found)  # each had a GPU of its own
        with pytest.raises(ZeroDivisionError):
            run_tasks(divmod, [(1, 0)], backend='ray')
        with pytest.raises(FileNotFoundError, match='storage that all nodes share'):
            run_tasks(where, [(tmp_path / 'nowhere', 0)], backend='ray')
        assert ray.is_initialized()
