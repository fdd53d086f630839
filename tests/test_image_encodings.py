"Gramian images, the networks that read them and the relation network of chapter 04h"

import numpy as np
import pytest
import torch

from harkd.image_encodings import (
    ImageStudent,
    RelationHead,
    RelationTeacher,
    ResidualBlock,
    gaf_images,
    make_image_student,
    window_range,
)
from harkd.preprocess import gramian_angular_field
from harkd.student import HarModel
from harkd.train import TrainConfig, cross_entropy, train


def windows(b=3, t=17, c=4, seed=0):
    return torch.randn(b, t, c, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def angles(x):  # (t,) numpy: by the definition, with the window's own range
    scaled = (2 * x - x.max() - x.min()) / (x.max() - x.min())
    return np.arccos(np.clip(scaled, -1, 1))


@pytest.mark.parametrize('kind', ['summation', 'difference'])
def test_images_are_the_definition(kind):
    x = windows()
    images = gaf_images(x, kind)
    for b in range(3):
        for c in range(3):
            phi = angles(x[b, :, c].numpy())
            if kind == 'summation':
                field = np.cos(phi[:, None] + phi)
            else:
                field = np.sin(phi[:, None] - phi)
            np.testing.assert_allclose(images[b, c].numpy(), (field + 1) / 2, atol=1e-7)


@pytest.mark.parametrize('kind', ['summation', 'difference'])
def test_fields_equal_those_of_pyts(kind):
    image = pytest.importorskip('pyts.image')
    x = windows(5, 40, 3)
    ours = gramian_angular_field(x, *window_range(x), kind)
    theirs = image.GramianAngularField(method=kind)
    for c in range(3):
        expected = theirs.fit_transform(x[..., c].numpy())
        np.testing.assert_allclose(ours[:, c].numpy(), expected, atol=1e-6)


def test_a_constant_channel_is_defined_and_has_no_infinite_gradient():
    x = windows()
    x[..., 1] = 9.81
    x.requires_grad_()
    images = gaf_images(x)
    images.sum().backward()
    assert torch.isfinite(images).all() and torch.isfinite(x.grad).all()
    assert images[:, 1].abs().max() < 1e-6


def test_training_range_clips_what_is_outside():
    x = windows()
    low, high = x[0].amin(0), x[0].amax(0)
    images = gaf_images(10 * x, low=low, high=high)
    assert images.min() >= 0 and images.max() <= 1


@pytest.mark.parametrize('ranged', [False, True])
def test_a_saved_student_draws_the_same_images(tmp_path, ranged):
    model = ImageStudent(3, channels=4, width=2, blocks=(1, 1), semantic=5).eval()
    x = windows().float()
    if ranged:
        model.images.set_range(x)
    model.save_pretrained(tmp_path)
    again = HarModel.from_pretrained(tmp_path)
    assert torch.equal(again(2 * x), model(2 * x))


@pytest.mark.parametrize(
    'c_in, c_out, stride, plain', [(4, 4, 1, True), (4, 8, 1, False), (4, 4, 2, False)]
)
def test_a_shortcut_is_the_input_where_shapes_agree_and_a_convolution_elsewhere(
    c_in, c_out, stride, plain
):
    block = ResidualBlock(c_in, c_out, stride).eval()
    x = torch.randn(2, c_in, 9, 9)
    assert isinstance(block.shortcut, torch.nn.Identity) == plain
    assert block(x).shape == (2, c_out, 9 // stride + stride - 1, 9 // stride + stride - 1)
    torch.nn.init.zeros_(block.second[1].weight)  # what is left is the shortcut
    assert torch.equal(block(x), block.shortcut(x).relu())


def test_a_saved_relation_teacher_predicts_the_same(tmp_path):
    model = RelationTeacher(3, width=2, blocks=(1, 1), semantic=5, hidden=4).eval()
    model.save_pretrained(tmp_path)
    video = torch.rand(2, 9, 3, 32, 32)
    assert torch.equal(HarModel.from_pretrained(tmp_path)(video), model(video))


def test_relations_draw_in_training_only():
    head = RelationHead(6, 3, 4, 2)
    x = torch.randn(2, 6, 3)
    head.train()
    assert not torch.equal(head(x), head(x))
    head.eval()
    assert torch.equal(head(x), head(x))


def test_every_scale_has_a_say():
    head = RelationHead(5, 3, 4, 2).eval()
    x = torch.randn(2, 5, 3)
    before = head(x)
    for relation in head.relations:
        bias = relation[-1].bias
        with torch.no_grad():
            bias += 1
        assert (head(x) - before).min() > 0.5
        before = head(x)


def test_an_image_student_learns_from_a_loader():
    from harkd.data import load_dataset
    from harkd.preprocess import cut_windows
    from harkd.split import BatchLoader, by_subject

    spans = cut_windows(load_dataset('synth'), ('imu',))
    loader = BatchLoader.fit(by_subject(spans, ['s1', 's2'], ['s3']))
    student = make_image_student('tiny', spans, size=32)
    history = train(student, loader, cross_entropy(), TrainConfig(epochs=3, ema=0.0))
    assert history[-1]['loss'] < history[0]['loss']
