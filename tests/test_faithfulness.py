"Chapter 07e: what a test of an attribution must measure"

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harkd.attribute import METHODS, Attribution, integrated_gradients
from harkd.faithfulness import (
    GOOD,
    _map_and_input_free,
    attend,
    cell_order,
    faithfulness,
    faithfulness_curves,
    find_attribution,
    path_gradient,
    perturbation_curves,
    pointing_game,
    pointing_game_hits,
    random_attribution,
    randomisation_test,
    randomise,
    randomised_model_gradients,
    rank_correlation,
    scorecard,
    stability,
    summarise_scores,
    window_scores,
)
from harkd.rollout import attention_over_time
from harkd.runs import set_seed
from harkd.student import ConvStudent
from harkd.synth import planted_bursts
from harkd.teacher import FusionTeacher, STConvT


@pytest.fixture(scope='module')
def planted():
    "A network that has learned in which channel a burst is, and sixty windows"
    x, y, _ = (torch.tensor(v) for v in planted_bursts(400, seed=1))
    set_seed(0)
    net = ConvStudent(6, 6, (12, 16, 24), (1, 1), (2, 2), 7)
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3)
    set_seed(0)
    net.train()
    for _ in range(12):
        for batch in torch.randperm(len(x)).split(40):
            optimizer.zero_grad()
            F.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
    net.eval()
    x, y, start = planted_bursts(60, seed=2)
    x, y = torch.tensor(x), torch.tensor(y)
    assert (net(x).argmax(1) == y).float().mean() > 0.95
    return net, x, y, start


@pytest.fixture
def two_streams():
    torch.manual_seed(0)
    model = STConvT(6, 20, 100, 6, dim=16, heads=2).eval()
    return model, (torch.randn(3, 100, 6), torch.randn(3, 40, 20, 3))


def test_attention_of_two_streams_shares_one(two_streams):
    model, inputs = two_streams
    m = find_attribution('rollout')(model, inputs)
    assert [v.shape for v in m.values] == [(3, 100), (3, 40)]
    total = m.values[0].sum(1) + m.values[1].sum(1)
    assert torch.allclose(total, torch.ones(3), atol=1e-4)
    assert m.gap.isnan().all() and m.over_time().shape == (3, 100)
    # a frame of the camera is two and a half samples
    frames = 2.5 * attention_over_time(model, inputs, stream='skeleton')[:, 0] / 2
    assert torch.allclose(m.values[1][:, 0], frames, atol=1e-5)


def test_methods_are_found_by_name(two_streams):
    assert find_attribution('occlusion') is METHODS['occlusion']
    assert find_attribution(attend) is attend
    with pytest.raises(ValueError, match="unknown method 'guess', choose one of: integrated_gra"):
        find_attribution('guess')
    with pytest.raises(ValueError, match='FusionTeacher has no attention'):
        find_attribution('rollout')(FusionTeacher(width=8).eval(), two_streams[1])


class Sum(nn.Module):
    def forward(self, x):
        total = x.flatten(1).sum(1, keepdim=True)
        return torch.cat([total, 0 * total], 1)


def test_the_largest_cell_is_removed_first():
    assert cell_order(torch.tensor([[0.1, 0.9, 0.5]])).tolist() == [[2, 0, 1]]
    x = torch.tensor([[[1.0], [4.0], [2.0]]])
    order = cell_order(torch.tensor([[0.1, 0.9, 0.5]]))
    curve = perturbation_curves(Sum().eval(), x, order, torch.tensor([0]), steps=3)
    assert torch.allclose(curve[0], torch.tensor([7.0, 3.0, 1.0, 0.0]).sigmoid(), atol=1e-6)


def test_a_map_gains_over_random_and_noise_does_not(planted):
    net, x, _, _ = planted
    a = integrated_gradients(net, x)
    torch.manual_seed(0)
    noise = Attribution((torch.randn_like(x),), a.target, a.gap, a.change)
    gain, nothing = faithfulness(net, x, a), faithfulness(net, x, noise)
    for measure in gain:
        assert gain[measure].mean() > 0.05 and abs(nothing[measure].mean()) < 0.05, measure


def test_inverted_deletion_is_insertion_backwards(planted):
    net, x, _, _ = planted
    a = integrated_gradients(net, x)
    curves = faithfulness_curves(net, x, a)
    inverted = cell_order(-a.values[0].flatten(1))

    def backwards(insert):
        return perturbation_curves(net, x, inverted, a.target, insert=insert).flip(1)

    assert torch.allclose(backwards(True), curves['deletion'], atol=1e-4)
    assert torch.allclose(backwards(False), curves['insertion'], atol=1e-4)


def test_whole_moments_are_removed_too(planted):
    net, x, _, _ = planted
    a = integrated_gradients(net, x)
    curve = perturbation_curves(net, x, cell_order(a.over_time()), a.target)
    assert curve.shape == (60, 21)
    end = faithfulness_curves(net, x, a)['deletion'][:, -1]
    assert torch.allclose(curve[:, -1], end, atol=1e-5)
    with pytest.raises(ValueError, match='order must rank 600 cells or 100 moments, got 7'):
        perturbation_curves(net, x, torch.zeros(60, 7), a.target)


def test_rank_correlation_by_hand():
    row = torch.tensor([[1.0, 2, 3]])
    assert rank_correlation(row, torch.tensor([[10.0, 20, 90]])) == pytest.approx(1.0)
    assert rank_correlation(row, -row) == pytest.approx(-1.0)


def test_units_alone_are_no_similarity():
    torch.manual_seed(0)
    model = FusionTeacher(width=8).eval()
    inputs = (torch.randn(6, 100, 6), 100 * torch.randn(6, 40, 20, 3))
    target = torch.zeros(6, dtype=torch.long)
    t = randomisation_test(model, inputs, target, steps=4, stages=1)
    assert t.signed.abs().max() < 0.2


def test_the_map_of_a_randomised_network_is_another_one(planted):
    net, x, _, _ = planted
    target = integrated_gradients(net, x[:30]).target
    end = randomisation_test(net, x[:30], target).iloc[-2]
    assert abs(end.signed) < 0.2 and end.input_free < 0.2


def test_occlusion_has_no_input_free_part(planted):
    net, x, y, _ = planted
    t = randomisation_test(net, x[:4], y[:4], steps=4, stages=1, method='occlusion')
    assert t.input_free.isna().all()


@pytest.mark.parametrize('name', ['integrated_gradients', 'gradient_x_input'])
def test_the_input_free_part_of_a_linear_model_is_its_weights(name):
    "Zero where the input does not differ from the baseline"
    weights = torch.tensor([[1.0, -2.0, 4.0]])

    class Linear(nn.Module):
        def forward(self, x):
            z = (x * weights).sum((1, 2))
            return torch.stack([z, -z], 1)

    x = torch.tensor([[[1.0, 0.5, 0.0], [0.0, -3.0, 2.0]]])
    target = torch.zeros(1, dtype=torch.long)
    model = Linear().eval()
    values, free = _map_and_input_free(METHODS[name], model, (x,), target, 'zero', None)
    torch.testing.assert_close(values[0], x * weights, atol=1e-5, rtol=0)
    torch.testing.assert_close(free[0], torch.where(x == 0, 0.0, weights), atol=1e-5, rtol=0)


def test_randomising_starts_at_the_classifier_of_a_copy(planted):
    net, x, _, _ = planted
    before = net(x).argmax(1)
    whole, head = randomise(net), randomise(net, 1)
    assert torch.equal(net(x).argmax(1), before)
    assert not torch.equal(whole.head.weight, net.head.weight)
    assert not torch.equal(head.head.weight, net.head.weight)
    assert torch.equal(head.stem[0].weight, net.stem[0].weight)


def test_the_path_gradient_times_the_input_is_integrated_gradients(planted):
    net, x, _, _ = planted
    gradient = path_gradient(net, x[:2])[0]
    expected = integrated_gradients(net, x[:2], steps=32).values[0]
    assert torch.allclose(gradient * x[:2], expected, atol=1e-4)


class Line(nn.Module):
    def forward(self, x):
        z = x.flatten(1)
        return torch.stack([z.sum(1), -z.sum(1)], 1)


def test_stability_of_a_trained_network_and_of_a_line(planted):
    net, x, _, _ = planted
    s = stability(net, x[:12])
    assert s['sensitivity'].median() < 0.5 and s['infidelity'].shape == (12,)
    exact = stability(Line().eval(), x[:4], 'gradient_x_input')
    assert exact['infidelity'].max() < 1e-3  # the gradient of a line explains it completely


def test_pointing_game_by_hand():
    at_3_and_7 = F.one_hot(torch.tensor([3, 7]), 10).double()

    def hits(start, width):
        return pointing_game_hits(at_3_and_7, np.array(start), np.array([0, 0]), width).tolist()

    assert hits([2, 6], 3) == [True, True]
    assert hits([9, 0], 1) == [False, False]


def test_the_sign_of_a_map_does_not_matter_in_the_pointing_game(planted):
    _, x, y, start = planted
    assert torch.equal(
        pointing_game_hits(x.abs(), start, y), pointing_game_hits(-x.abs(), start, y)
    )


def test_only_the_input_free_map_tells_a_trained_network_apart(planted):
    net, x, y, start = planted
    right = net(x).argmax(1) == y
    untrained = randomise(net)

    def play(values, keep):
        return pointing_game(values[keep], start[keep.numpy()], y[keep].numpy())

    every = torch.ones_like(right)
    assert play(integrated_gradients(net, x, y).values[0], right) >= 0.9
    assert play(path_gradient(net, x, y)[0], right) > 0.7
    assert play(integrated_gradients(untrained, x, y).values[0], every) > 0.5
    assert play(path_gradient(untrained, x, y)[0], every) < 0.3


def test_the_score_card_has_every_measure(planted):
    net, x, y, start = planted
    a = integrated_gradients(net, x[:16], steps=128)
    card = scorecard(net, x[:16], a, planted=(start[:16], y[:16]))
    assert list(card.index) == list(GOOD)
    gains = ['deletion over random', 'insertion over random', 'over inverted']
    assert (card.low[gains] > 0).all()
    assert card.value['randomised: input-free'] < 0.2 and card.value['infidelity'] < 0.5
    assert card.value['pointing game'] > 0.9
    by_window = window_scores(net, x[:16], a)
    assert card.value['sensitivity'] == pytest.approx(by_window['sensitivity'].mean(), abs=1e-5)
    assert list(summarise_scores(pd.DataFrame({'infidelity': [1.0, 2.0]})).value) == [1.5]


def test_a_model_of_two_inputs_has_a_score_card():
    torch.manual_seed(0)
    model = FusionTeacher(width=8).eval()
    inputs = (torch.randn(4, 100, 6), torch.randn(4, 40, 20, 3))
    card = scorecard(model, inputs, integrated_gradients(model, inputs, steps=8), stages=1)
    assert len(card) == len(GOOD) - 1  # nothing was planted


def test_negative_controls_fail_their_score_card(planted):
    net, x, _, _ = planted
    x = x[:16]
    target = integrated_gradients(net, x).target
    assert not torch.equal(
        random_attribution(net, x).values[0], random_attribution(net, x).values[0]
    )
    assert torch.equal(
        randomised_model_gradients(net, x[:2]).values[0],
        randomised_model_gradients(randomise(net), x[:2], target[:2]).values[0],
    )
    real = scorecard(net, x, integrated_gradients(net, x, steps=128)).value
    by_chance = scorecard(net, x, random_attribution(net, x), random_attribution).value
    untrained = scorecard(
        net, x, randomised_model_gradients(net, x), randomised_model_gradients
    ).value
    for measure in ('deletion over random', 'insertion over random', 'over inverted'):
        assert real[measure] > 2 * max(by_chance[measure], untrained[measure])
    assert by_chance['sensitivity'] > 1
    assert min(by_chance['infidelity'], untrained['infidelity']) > 0.7
    assert untrained['randomised: input-free'] > 0.99


def test_rows_without_an_order_do_not_count_in_a_rank_correlation():
    a = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [3.0, 2.0, 1.0]])
    b = torch.tensor([[4.0, 5.0, 9.0], [1.0, 2.0, 3.0], [9.0, 8.0, 7.0]])
    assert rank_correlation(a, b) == pytest.approx(1.0)
    assert rank_correlation(a[1:2], b[1:2]) == 0.0


def test_which_networks_a_randomisation_test_draws(planted, monkeypatch):
    "Cascades with the test's seed, then two untrained networks with the next two"
    net, x, y = planted[:3]
    drawn = []

    def recorded(model, layers=None, seed=0):
        drawn.append((layers, seed))
        return randomise(model, layers, seed)

    monkeypatch.setattr('harkd.faithfulness.randomise', recorded)
    randomisation_test(net, x[:4], y[:4], steps=2, stages=2, seed=7)
    assert [seed for _, seed in drawn] == [7, 7, 8, 9]
    assert [layers for layers, _ in drawn[1:]] == [None, None, None] and drawn[0][0] >= 1
