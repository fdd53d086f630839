"Costs against numbers counted by hand"

import time
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from harkd.attention import Attention
from harkd.cost import compare_latency, cost, count_macs, count_params, latency, model_bytes

CONV = nn.Conv1d(6, 10, 5, groups=2, padding=2)


@pytest.mark.parametrize(
    'model, shape, params, macs',
    [
        (nn.Linear(7, 11), (1, 7), 7 * 11 + 11, 7 * 11),
        (CONV, (1, 6, 50), 10 * 3 * 5 + 10, 10 * 3 * 5 * 50),  # a group reads half of the channels
    ],
)
def test_parameters_and_macs_by_hand(model, shape, params, macs):
    assert (count_params(model), count_macs(model, torch.zeros(shape))) == (params, macs)


def test_macs_of_attention_by_hand():
    "Queries, keys and values; scores and mix; projection"
    expected = 5 * 12 * 36 + 2 * 5 * 5 * 12 + 5 * 12 * 12
    assert count_macs(Attention(12, 3), torch.zeros(1, 5, 12)) == expected


def test_counting_leaves_the_mode_as_it_was():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    cost(model, torch.zeros(1, 2), seconds=0.0)
    assert model.training


def test_bytes_are_those_of_the_weights_and_a_header():
    assert 4 * count_params(CONV) < model_bytes(CONV) < 4 * count_params(CONV) + 300


def test_latency_is_at_least_the_time_slept():
    before = torch.get_num_threads()
    timing = latency(lambda: time.sleep(0.002), seconds=0.1, warmup=1, least=5)
    assert 2 <= timing['p50_ms'] <= timing['p95_ms'] and timing['p50_ms'] < 20
    assert timing['calls'] >= 5 and timing['threads'] == 1
    assert set(timing) == {'p50_ms', 'p95_ms', 'calls', 'threads', 'processor'}
    assert torch.get_num_threads() == before


def test_the_slower_callable_is_slower():
    sleeps = {'short': lambda: time.sleep(0.0005), 'long': lambda: time.sleep(0.003)}
    both = compare_latency(sleeps, rounds=3, calls=3)
    assert both['short']['p50_ms'] < both['long']['p50_ms']


def test_cost_names_the_device():
    costs = cost(CONV, torch.zeros(1, 6, 50), seconds=0.05)
    assert (costs['params'], costs['macs']) == (160, 7500)
    assert set(costs) == {'params', 'macs', 'bytes', 'latency_ms', 'device'}
    assert costs['device'].endswith('1 thread')


def test_each_callable_is_measured_so_often_after_one_round_that_is_not(monkeypatch):
    calls, times = {'a': 0, 'b': 0}, iter(range(1, 1000))

    def called(name):
        calls[name] += 1

    monkeypatch.setattr('harkd.cost._seconds', lambda f: f() or float(next(times)))
    found = compare_latency({k: partial(called, k) for k in calls}, rounds=3, calls=2)
    assert calls == {'a': 8, 'b': 8}
    assert found['a']['p50_ms'] == pytest.approx(1000 * np.median([5, 6, 9, 10, 13, 14]))
    assert found['b']['p95_ms'] == pytest.approx(1000 * np.percentile([7, 8, 11, 12, 15, 16], 95))
