"Teachers: skeletons, fusion, the published transformer, MiniRocket, ensembles"

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from harkd.cost import count_params
from harkd.distill import DistillConfig, train_teacher
from harkd.encoder import unit_batch
from harkd.preprocess import cut_windows
from harkd.pretrained import load_encoder, save_encoder
from harkd.split import BatchLoader, LeakError, by_subject
from harkd.synth import synth_dataset
from harkd.teacher import (
    TEACHERS,
    Branch,
    Ensemble,
    FusionTeacher,
    RocketTeacher,
    STConvT,
    as_array,
    as_sequences,
    centre_skeleton,
    fit_rocket,
    make_rocket,
    make_teacher,
)


@pytest.fixture(scope='module')
def windows():
    return cut_windows(synth_dataset(4, 3), ('imu', 'skeleton'))


@pytest.fixture(scope='module')
def fusion():
    torch.manual_seed(0)
    return FusionTeacher(('imu', 'skeleton'), (5, 11), (False, True), 7, width=13).eval()


@pytest.fixture(scope='module')
def inputs():
    torch.manual_seed(1)
    return torch.randn(3, 60, 5), torch.randn(3, 30, 11, 3)


def close(a, b, atol):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


# --- skeletons


def test_a_centred_skeleton_does_not_depend_on_place_and_size(windows):
    x = windows.batch(range(12)).x['skeleton']
    centred = centre_skeleton(x)
    close(centred[:, :, 3].mean(1), torch.zeros(12, 3), 1e-5)
    close(centre_skeleton(2 * x + torch.tensor([1.0, 2.0, 3.0])), centred, 1e-4)


def test_a_squat_still_goes_down_unless_every_frame_is_centred(windows):
    squat = np.flatnonzero(windows.y == list(windows.classes).index('squat'))[:1]
    x = windows.batch(squat).x['skeleton']
    assert centre_skeleton(x)[0, :, 3, 1].std() > 0.05
    assert centre_skeleton(x, per_frame=True)[0, :, 3, 1].std() < 1e-6


# --- fusion


def test_shapes_of_a_branch():
    maps, vector = Branch(5, 8)(torch.randn(2, 60, 5))
    assert [m.shape[1] for m in maps] == [15, 8, 8] and vector.shape == (2, 32)


def test_shapes_of_the_fusion_teacher(fusion, inputs):
    f = fusion.features(*inputs)
    assert f.logits.shape == (3, 7) and f.embedding.shape == (3, 4 * 26)
    assert [m.shape[2] for m in f.maps] == [13, 26, 26]
    assert torch.equal(fusion.classify(f.embedding), fusion(*inputs))


def test_the_fusion_teacher_reads_both_inputs_but_not_the_place(fusion, inputs):
    imu, skeleton = inputs
    logits = fusion(imu, skeleton)
    assert (logits - fusion(imu, skeleton + 3.0)).abs().max() < 1e-4
    assert (logits - fusion(torch.randn(3, 60, 5), skeleton)).abs().max() > 1e-3
    assert (logits - fusion(imu, torch.randn(3, 30, 11, 3))).abs().max() > 1e-3


def test_a_single_branch_has_no_classifier_of_its_own(inputs):
    wide = FusionTeacher(('imu',), (5,), (False,), 7, 13).eval()
    assert wide(inputs[0]).shape == (3, 7) and len(wide.own) == 0


def test_wrong_inputs_of_the_fusion_teacher_are_refused(fusion, inputs):
    imu, skeleton = inputs
    with pytest.raises(ValueError, match='this teacher reads imu, skeleton, got 1 inputs'):
        fusion(imu)
    message = r"input 'skeleton' must be \(b,t,j,3\) with 11 joints, got \(3, 30, 9, 3\)"
    with pytest.raises(ValueError, match=message):
        fusion(imu, skeleton[:, :, :9])
    with pytest.raises(ValueError, match='must be equally many, got 1, 2 and 1'):
        FusionTeacher(('imu',), (5, 6), (False,))


# --- ST-ConvT


def test_the_published_teacher_has_the_published_size():
    for sizes, published in ((dict(), 2_448_955), (dict(dim=256, depth=4), 9_623_099)):
        model = STConvT(**sizes)
        assert count_params(model) - count_params(model.patches) == published
    assert count_params(STConvT().patches) == 120 * 128 + 128


def test_shapes_of_the_published_teacher_and_its_own_embedding():
    small = STConvT(5, 11, 61, 7, patch_len=10, dim=26, heads=2).eval()
    f = small.features(torch.randn(3, 61, 5), torch.randn(3, 23, 11, 3))
    assert f.logits.shape == (3, 7) and f.maps[0].shape == (3, 6, 26)
    assert len(f.attn) == 6 and f.attn[0].shape == (3, 2, 7, 7)
    assert any(name.startswith('patches') for name, _ in small.named_parameters())
    with pytest.raises(ValueError, match='built for windows of 61 samples, got 50'):
        small(torch.randn(3, 50, 5), torch.randn(3, 23, 11, 3))
    with pytest.raises(ValueError, match='patch_len must be at most the 9 samples'):
        STConvT(window=9)


# --- MiniRocket


@pytest.fixture(scope='module')
def rocket(windows):
    pytest.importorskip('aeon')
    loader = BatchLoader.fit(by_subject(windows, ['s1', 's2', 's3'], ['s4']))
    model = RocketTeacher(window=windows.length['imu'], classes=6, kernels=500)
    threads = torch.get_num_threads()
    (chosen,) = fit_rocket(model, loader)
    model.factor = chosen['factor']
    assert torch.get_num_threads() == threads
    return model, next(loader.eval_batches(loader.split.val))


def both(batch):
    return batch.x['imu'], batch.x['skeleton']


def test_inputs_become_one_array(windows):
    batch = windows.batch(range(3))
    assert (
        as_array(batch, ('imu', 'skeleton')).shape[1] == as_sequences(*both(batch)).shape[1] == 66
    )
    imu = batch.x['imu']
    assert torch.equal(as_sequences(imu), imu.transpose(1, 2))


def test_minirocket_has_as_many_features_as_kernels():
    pytest.importorskip('aeon')
    noise = np.random.default_rng(0).normal(size=(3, 2, 50))
    assert make_rocket(84).fit_transform(noise).shape == (3, 84)


def test_minirocket_recognises_a_subject_who_was_left_out(rocket):
    model, batch = rocket
    assert (model(*both(batch)).argmax(1) == batch.y).float().mean() > 0.5


def test_logits_of_minirocket_are_the_factor_times_scores_that_sum_to_one(rocket):
    "As the targets of its ridge regression do"
    model, batch = rocket
    assert model.factor > 1
    torch.testing.assert_close(model(*both(batch)).sum(1), torch.full((18,), model.factor))


def test_a_saved_minirocket_is_the_same_function(rocket):
    model, batch = rocket
    again = RocketTeacher(**model.config)
    again.biases += 1
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(*both(batch)), model(*both(batch)))


def test_a_feature_is_a_share_of_samples_by_hand(rocket):
    "One convolution: nine weights of −1 and 2 that sum to zero, unpadded for odd features"
    from aeon.transformations.collection.convolution_based import MiniRocket

    model, batch = rocket
    channels_of, channels, dilations, features_of, biases = model.rocket.parameters
    assert int(dilations[0]) == 1
    kernel = torch.full((9,), -1.0)
    kernel[list(MiniRocket._indices[1])] = 2.0
    assert kernel.sum() == 0
    used = channels[channels_of[0] : channels_of[0] + channels_of[1]]  # of the second kernel
    mixed = as_sequences(*both(batch))[:, used].sum(1)
    output = F.conv1d(mixed[:, None], kernel[None, None])
    feature = int(features_of[0])  # the second kernel's first, at the first dilation
    share = (output > float(biases[feature])).float().mean((1, 2))
    close(share, model.proportions(*both(batch))[:, feature], 1e-6)


def test_wrong_inputs_of_minirocket_are_refused(rocket, windows):
    model, batch = rocket
    imu, skeleton = both(batch)
    with pytest.raises(ValueError, match='built for windows of 100 samples, got 50'):
        model(imu[:, :50], skeleton)
    with pytest.raises(ValueError, match='this teacher reads imu, skeleton, got 1 inputs'):
        model(imu)
    with pytest.raises(TypeError, match='MiniRocket has no gradient'):
        model(imu.clone().requires_grad_(), skeleton)
    with pytest.raises(ValueError, match='it needs at least two, with names'):
        fit_rocket(model, BatchLoader.fit(by_subject(windows, ['s1'])))


def test_two_named_subjects_are_enough_for_minirocket(windows):
    pytest.importorskip('aeon')
    loader = BatchLoader.fit(by_subject(windows, ['s1', 's2'], ['s3']))
    model = RocketTeacher(window=windows.length['imu'], classes=6, kernels=84)
    found = fit_rocket(model, loader, copies=0, strengths=(1e1, 1e3), factors=(2.0, 8.0))
    assert model.trained_on == ('s1', 's2')
    assert found[0]['strength'] in (1e1, 1e3) and found[0]['factor'] in (2.0, 8.0)


# --- ensembles and names


def test_an_ensemble_is_the_mean_of_its_members(fusion, inputs):
    imu, skeleton = inputs
    wide = FusionTeacher(('imu',), (5,), (False,), 7, 6).eval()
    ensemble = Ensemble.of([wide, fusion])
    f = ensemble.features(imu, skeleton)
    assert ensemble.inputs == ('imu', 'skeleton')
    close(f.logits, (fusion(imu, skeleton) + wide(imu)) / 2, 1e-6)
    close(ensemble.classify(f.embedding), f.logits, 1e-5)
    again = Ensemble(**ensemble.config)
    again.load_state_dict(ensemble.state_dict())
    assert torch.equal(again.eval()(imu, skeleton), f.logits)


@pytest.mark.parametrize('name', TEACHERS)
def test_every_teacher_can_be_made_for_a_data_set(name, windows):
    if name == 'rocket':
        pytest.importorskip('aeon')
    model, batch = make_teacher(name, windows), windows.batch([0, 1])
    assert model(*(batch.x[i] for i in model.inputs)).shape == (2, 6)


def test_a_teacher_may_be_a_student_or_read_one_input(windows):
    imu = windows.batch([0, 1]).x['imu']
    for name in ('wide', 'conv_8k'):
        assert make_teacher(name, windows, ('imu',))(imu).shape == (2, 6)


def test_unknown_names_and_inputs_are_refused(windows):
    names = 'fusion, wide, st_convt, rocket, encoder, encoder_untrained, conv_8k'
    with pytest.raises(ValueError, match=f"unknown teacher 'gcn', choose one of: {names}"):
        make_teacher('gcn', windows)
    with pytest.raises(ValueError, match='st_convt reads one inertial input and one skeleton'):
        make_teacher('st_convt', windows, ('imu',))


@pytest.fixture
def encoder_folder(windows, tmp_path):
    "An encoder that says it was pretrained on the first subject of the data set"
    first = windows.table.subject.iloc[0]
    encoder, _ = load_encoder('harkd-base')
    return save_encoder(encoder, tmp_path / 'encoder', trained_on={windows.card.name: [first]})


def test_an_encoder_as_teacher_reads_si_units_whatever_the_normaliser(windows, encoder_folder):
    model = make_teacher(f'encoder:{encoder_folder}', windows, ('imu',)).eval()
    subjects = list(dict.fromkeys(windows.table.subject))
    loader = BatchLoader.fit(by_subject(windows, subjects[1:], subjects[:1]))
    model.set_units(loader.norm)
    (batch,) = loader.eval_batches([0, 1, 2])
    si = windows.batch([0, 1, 2]).x['imu']
    with torch.no_grad():
        expected = model.encoder(unit_batch(si, model.channels, windows.card.fs))
        embedding = model.features(batch.x['imu']).embedding
    assert torch.allclose(embedding, model.norm(expected), atol=1e-3)


def test_an_encoder_may_not_teach_where_it_was_pretrained_on_the_held_out(windows, encoder_folder):
    cfg = DistillConfig('synth', teacher_inputs='imu', teacher_model=f'encoder:{encoder_folder}')
    subjects = list(dict.fromkeys(windows.table.subject))
    loader = BatchLoader.fit(by_subject(windows, subjects[1:], subjects[:1]))
    with pytest.raises(LeakError, match=f'pretrained on {subjects[0]} of synth'):
        train_teacher(cfg, encoder_folder / 'run', loader, cfg.teacher_model, ('imu',), 0)


def test_an_encoder_reads_one_inertial_input(windows):
    with pytest.raises(ValueError, match='the encoder reads one inertial input'):
        make_teacher('encoder', windows, ('skeleton',))
