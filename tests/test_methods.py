"Every method for every pair of networks, and the counter-examples behind the exceptions in LAWS"

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harkd.contrastive_losses import crd_loss, info_nce_loss
from harkd.experiment import FitConfig, experiment_splits, experiment_windows
from harkd.feature_losses import (
    ab_loss,
    cc_loss,
    fsp_loss,
    hint_loss,
    kdsvd_loss,
    match_length,
    ofd_loss,
    sp_loss,
)
from harkd.learned_losses import ReusedHead, SemCKD
from harkd.losses import dkd_loss
from harkd.methods import (
    _BUILDERS,
    LAW_NAMES,
    LAWS,
    LOSS_FUNCTIONS,
    LOSSES,
    FeaturePair,
    FeatureTap,
    check_law,
    find_method,
    on_embeddings,
    on_logits,
    on_map,
    on_maps,
    student_for,
)
from harkd.split import BatchLoader
from harkd.student import make_student
from harkd.teacher import make_teacher

STUDENTS = ('conv_8k', 'transformer')
TEACHERS = {'fusion': dict(width=8), 'st_convt': dict(dim=32)}


@pytest.fixture(scope='module')
def windows():
    return experiment_windows(FitConfig('synth'))


@pytest.fixture(scope='module')
def loader(windows):
    return BatchLoader.fit(experiment_splits(FitConfig('synth'), windows)[0], batch_size=16)


@pytest.fixture(scope='module')
def batch(loader):
    return loader.train(0, 0)


@pytest.fixture(scope='module')
def pairs(windows, loader, batch):
    "(student, teacher) to the student network and the `FeaturePair`"

    def features(model):
        return model.features(*(batch.x[i] for i in model.inputs))

    torch.manual_seed(0)
    ids, made = loader.split.train, {}
    for student_name in STUDENTS:
        for teacher_name, size in TEACHERS.items():
            student = make_student(student_name, windows).train()
            teacher = make_teacher(teacher_name, windows, **size).eval().requires_grad_(False)
            both = features(student), features(teacher)
            pair = FeaturePair(*both, teacher, len(batch), ids, windows.y[ids])
            made[student_name, teacher_name] = student, pair
    return made


@pytest.mark.parametrize('teacher', TEACHERS)
@pytest.mark.parametrize('student', STUDENTS)
@pytest.mark.parametrize('name', [name for name in LOSSES if name != 'simkd'])
def test_a_method_is_finite_and_pulls_on_the_student(name, student, teacher, pairs, batch):
    model, pair = pairs[student, teacher]
    if name == 'attention_map' and (student, teacher) != ('transformer', 'st_convt'):
        with pytest.raises(ValueError, match="has no 'attn.-1'"):
            find_method(name).build(pair)
        return
    loss = find_method(name).build(pair)(pair.student, pair.teacher, batch)
    assert loss.ndim == 0 and loss.isfinite()
    gradients = torch.autograd.grad(
        loss, list(model.parameters()), allow_unused=True, retain_graph=True
    )
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)


def test_every_method_has_a_builder_a_function_and_laws():
    assert set(LOSSES) == set(_BUILDERS) == set(LOSS_FUNCTIONS) == set(LAWS)
    assert len(LOSSES) >= 27
    always = ('pulls', 'teacher', 'finite', 'gradcheck')
    assert set(always) < set(LAW_NAMES)
    assert all(LAWS[name][law] is True for name in LAWS for law in always)
    exceptions = [says for laws in LAWS.values() for says in laws.values() if says is not True]
    assert all(len(says) > 20 for says in exceptions)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="unknown method 'fitnet', choose from: kd, dkd"):
        find_method('fitnet')


def test_a_tap_takes_what_it_names_and_refuses_the_rest(pairs):
    _, pair = pairs['conv_8k', 'fusion']
    student, teacher = FeatureTap('map.0', 'map.-1')(pair.student, pair.teacher)
    assert student is pair.student.maps[0] and teacher is pair.teacher.maps[-1]
    says = r'it shows 0 attention layers \(a convolutional network has none\)'
    with pytest.raises(ValueError, match=f"the student has no 'attn.0': {says}"):
        FeatureTap('attn.0')(pair.student, pair.teacher)
    with pytest.raises(ValueError, match="unknown feature 'layer4'"):
        FeatureTap.take(pair.student, 'layer4')


def test_builders_project_where_values_are_compared(pairs, batch):
    _, pair = pairs['conv_8k', 'fusion']
    student, teacher = pair.student, pair.teacher
    hint = on_embeddings(hint_loss, project=True)(pair)
    widths = teacher.embedding.shape[1], student.embedding.shape[1]
    assert hint.project.linear.weight.shape == widths
    term = on_logits(lambda s, t, b: (s - t).abs().mean())(pair)
    by_hand = (student.logits - teacher.logits).abs().mean()
    torch.testing.assert_close(term(student, teacher, batch), by_hand)
    by_hand = sp_loss(*match_length(student.maps[-1], teacher.maps[-1]))
    torch.testing.assert_close(on_map(sp_loss)(pair)(student, teacher, batch), by_hand)
    assert len(on_maps(fsp_loss, project=True)(pair).project) == 3
    wide = on_maps(kdsvd_loss, project=True, width=16)(pair).project
    assert {projector.linear.out_features for projector in wide} == {16}


def test_simkd_trains_a_student_with_the_teachers_classifier(pairs, batch):
    student, pair = pairs['conv_8k', 'fusion']
    assert student_for(['kd'], student, pair) is student
    reused = student_for(['simkd'], student, pair)
    assert isinstance(reused, ReusedHead)
    features = reused.features(batch.x['imu'])
    assert features.embedding.shape == pair.teacher.embedding.shape
    assert LOSSES['simkd'].build(pair)(features, pair.teacher, batch) > 0


def test_dkd_ignores_the_order_of_the_batch_if_labels_move_along():
    s, t, y, order = torch.randn(8, 5), torch.randn(8, 5), torch.arange(8) % 5, torch.randperm(8)
    torch.testing.assert_close(
        dkd_loss(s[order], t[order], y[order]), dkd_loss(s, t, y), atol=1e-4, rtol=0
    )


def test_ab_is_lower_beyond_the_teacher():
    inside = torch.full((1, 1, 1), 0.5)
    assert ab_loss(inside, inside) > ab_loss(inside + 0.5, inside) == 0


def test_ofd_has_a_flat_minimum():
    low = torch.tensor([[[-4.0], [-2.0]]])
    assert ofd_loss(low, low) == ofd_loss(low - 3, low) == 0


def test_cc_and_semckd_depend_on_the_order_of_the_batch():
    swap = [1, 0, 2, 3]
    torch.manual_seed(0)
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    assert abs(cc_loss(a[swap], b[swap]) - cc_loss(a, b)) > 1e-4
    module = SemCKD(4, [3], [3, 3])
    x, y = [torch.randn(4, 5, 3)], [torch.randn(4, 5, 3), torch.randn(4, 5, 3)]
    swapped = module([v[swap] for v in x], [v[swap] for v in y])
    assert abs(swapped - module(x, y)) > 1e-5


def test_contrastive_losses_push_similar_windows_apart():
    t = F.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.3]]), dim=1)
    away = t + torch.tensor([[0.0, -0.1], [0.0, 0.1]])
    assert info_nce_loss(away, t) < info_nce_loss(t, t)

    def scores(s):
        s = F.normalize(s, dim=1)
        return torch.stack([(s * t).sum(1), (s * t.flip(0)).sum(1)], 1).exp()

    assert crd_loss(scores(away), 2) < crd_loss(scores(t), 2)


def test_terms_own_what_they_train(pairs):
    _, pair = pairs['conv_8k', 'fusion']
    assert isinstance(find_method('vid').build(pair).own, nn.Module)
    assert find_method('rkd').build(pair).project is None


def mean(x):
    return x.square().mean()


BREAKS = {  # law: a loss that keeps the others and breaks it
    'minimum': lambda s, t: mean(s - t - 1),
    'pulls': lambda s, t: mean(s - t) * 0,
    'teacher': lambda s, t: mean(s - t) + 0 * t.sum(),
    'finite': lambda s, t: (s - t).exp().mean() + mean(s - t),
    'gradcheck': lambda s, t: mean(s - t) + (s - s.detach()).sum(),
    'order': lambda s, t: mean((s - t) * torch.arange(8.0)[:, None]),
}
INFINITE = (lambda s, t: (-s).exp().mean(), lambda s, t: t.exp().mean() + 0 * s.sum())


@pytest.mark.parametrize('law', LAW_NAMES)
def test_a_loss_that_breaks_a_law_is_found_out(law):
    good = check_law(hint_loss, law, (8, 7, 3)) and check_law(sp_loss, law, (8, 7, 3))
    assert good is True and not check_law(BREAKS[law], law, (8, 5))


@pytest.mark.parametrize('k', range(len(INFINITE)))
def test_a_loss_that_is_infinite_for_one_sign_is_found_out(k):
    assert check_law(hint_loss, 'finite', (8, 7, 3)) and not check_law(INFINITE[k], 'finite')
