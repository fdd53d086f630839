"The same comparison, on one machine and on a cluster"

import importlib.util

import pytest

from harkd.compare import CompareConfig, compare_methods

CFG = CompareConfig(
    'synth',
    student='conv_8k',
    methods_list='kd,hint',
    factors='1',
    epochs=1,
    teacher_epochs=1,
    folds=2,
    seeds=1,
    batch_size=64,
)


@pytest.mark.skipif(importlib.util.find_spec('ray') is None, reason="pip install 'harkd[cluster]'")
def test_ray_gives_the_same_numbers_as_joblib(tmp_path):
    from dataclasses import replace

    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level='ERROR')
    try:
        far = compare_methods(replace(CFG, backend='ray'), tmp_path / 'ray').metrics['rows']
    finally:
        ray.shutdown()
    near = compare_methods(replace(CFG, jobs=2), tmp_path / 'joblib').metrics['rows']
    drop = lambda rows: [
        {k: v for k, v in r.items() if k not in ('config_hash', 'date')} for r in rows
    ]
    assert drop(far) == drop(near) and len(near) >= 8
