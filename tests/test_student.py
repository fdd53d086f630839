"Students: shapes, sizes by hand, laws of the architecture, saving"

import shutil

import pytest
import torch
import torch.nn.functional as F

from harkd.cost import cost, count_macs, count_params
from harkd.preprocess import cut_windows
from harkd.runs import DamagedFile, load_model, read_json, save_model, write_json
from harkd.student import (
    STUDENTS,
    ConvStudent,
    HarModel,
    InertialTransformer,
    SeparableBlock,
    as_picture,
    as_sequence,
    check_window,
    make_student,
    sequence_conv,
)
from harkd.synth import synth_dataset


@pytest.fixture(scope='module')
def conv():
    torch.manual_seed(0)
    widths = dict(widths=(11, 13, 17), blocks=(1, 2), strides=(2, 1))
    return ConvStudent(channels=5, classes=7, **widths).eval()


@pytest.fixture(scope='module')
def motion():
    torch.manual_seed(0)
    patches = dict(patch_len=5, tokens='motion', n_patches=6, n_min=2)
    return InertialTransformer(3, 61, 7, dim=22, heads=2, **patches).eval()


@pytest.fixture(scope='module')
def windows():
    return cut_windows(synth_dataset(2, 1), ('imu', 'imu:acc'))


class Nothing(HarModel):
    def __init__(self, inputs=('imu',)):
        super().__init__(locals())


def test_a_model_keeps_its_arguments_and_must_define_features():
    assert Nothing(('imu:acc',)).config == {'inputs': ['imu:acc']}
    with pytest.raises(TypeError, match='Nothing does not say'):
        Nothing()(torch.zeros(1))


@pytest.mark.parametrize(
    'shape, ndim, message',
    [
        ((2, 100, 3), 3, r'must be \(b,t,c\) with 6 channels, got \(2, 100, 3\)'),
        ((2, 100, 9, 3), 4, r'must be \(b,t,j,3\) with 6 joints, got \(2, 100, 9, 3\)'),
        ((2, 6), 3, r'with 6 channels, got \(2, 6\)'),
    ],
)
def test_an_input_of_another_shape_is_refused(shape, ndim, message):
    with pytest.raises(ValueError, match=message):
        check_window(torch.zeros(shape), 6, ndim)


def test_a_sequence_convolution_is_torchs():
    x = torch.randn(2, 40, 3)
    assert torch.equal(as_sequence(as_picture(x)), x)
    layer = sequence_conv(3, 4, 5).eval()
    weight = layer[0].weight[:, :, 0]
    expected = F.conv1d(x.transpose(1, 2), weight, padding=2) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(layer(as_picture(x))[:, :, 0], expected, atol=1e-5, rtol=0)
    assert SeparableBlock(3, 5, 7, 2)(as_picture(x)).shape == (2, 5, 1, 20)


def test_shapes_of_the_convolutional_student(conv):
    x = torch.randn(3, 100, 5)
    f = conv.features(x)
    assert f.logits.shape == (3, 7) and f.embedding.shape == (3, 34)
    assert [m.shape for m in f.maps] == [(3, 25, 13), (3, 25, 17)]
    assert torch.equal(conv(x), f.logits) and torch.equal(conv.classify(f.embedding), f.logits)
    assert conv(torch.randn(2, 37, 5)).shape == (2, 7)  # any length


def test_wrong_sizes_of_the_convolutional_student_are_refused(conv):
    with pytest.raises(ValueError, match=r'must be \(b,t,c\) with 5 channels, got \(3, 5, 100\)'):
        conv(torch.randn(3, 5, 100))
    with pytest.raises(ValueError, match='widths must be one more'):
        ConvStudent(widths=(8, 8), blocks=(1, 1), strides=(1, 1))


def test_parameters_and_macs_of_the_convolutional_student_by_hand(conv):
    def block(d_in, d_out, kernel=9):
        return d_in * kernel + d_in * d_out + 2 * d_in + 2 * d_out

    blocks = block(11, 13) + block(13, 17) + block(17, 17)
    assert count_params(conv) == 5 * 11 * 9 + 22 + blocks + 34 * 7 + 7
    stages = 25 * (11 * 9 + 11 * 13) + 25 * (13 * 9 + 13 * 17 + 17 * 9 + 17 * 17)
    assert count_macs(conv, torch.zeros(1, 100, 5)) == 5 * 11 * 9 * 50 + stages + 34 * 7


def test_the_reference_transformer_has_the_published_size():
    reference = InertialTransformer().eval()
    x = torch.randn(3, 100, 6)
    f = reference.features(x)
    assert count_params(reference) == 285_083
    assert f.logits.shape == (3, 27) and f.embedding.shape == (3, 128)
    assert f.maps[0].shape == (3, 5, 128) and f.attn[1].shape == (3, 4, 6, 6)
    torch.testing.assert_close(f.attn[0].sum(-1), torch.ones(3, 4, 6), atol=1e-6, rtol=0)
    assert torch.equal(reference(x), f.logits)
    costs = cost(reference, x[:1], seconds=0.05)
    assert round(costs['bytes'] / 1e6, 2) == 1.14 and abs(costs['macs'] / 1.69e6 - 1) < 0.02


def test_wrong_arguments_and_windows_of_the_transformer_are_refused():
    with pytest.raises(ValueError, match='built for windows of 100 samples, got 90'):
        InertialTransformer()(torch.zeros(1, 90, 6))
    with pytest.raises(ValueError, match="tokens must be 'fixed' or 'motion', got 'dynamic'"):
        InertialTransformer(tokens='dynamic')
    with pytest.raises(ValueError, match="positions must be 'learned', 'sinusoidal' or 'none'"):
        InertialTransformer(positions='rotary')


def test_padding_of_motion_tokens_receives_no_attention(motion):
    x = torch.randn(4, 61, 3)
    x[0] *= 0.01
    f = motion.features(x)
    assert f.mask.sum(1).tolist() == [2, 6, 6, 6]
    assert f.attn[0].shape == (4, 2, 7, 7) and not f.attn[0][0, :, :, 3:].any()


def test_positions_make_order_matter():
    learned, sine, none = (
        InertialTransformer(3, 60, 7, 10, 22, heads=2, positions=p).eval()
        for p in ('learned', 'sinusoidal', 'none')
    )
    without = count_params(learned) - 7 * 22
    assert [count_params(n) for n in (sine, none)] == [without, without]
    y = torch.randn(1, 60, 3)
    swapped = torch.cat([y[:, 30:], y[:, :30]], 1)
    assert (none(y) - none(swapped)).abs().max() < 1e-5
    assert (sine(y) - sine(swapped)).abs().max() > 1e-4


@pytest.mark.parametrize('name', STUDENTS)
def test_every_student_can_be_made_for_one_sensor(name, windows):
    assert make_student(name, windows, ('imu:acc',)).config['channels'] == 3


def test_names_of_the_students_say_their_size():
    sizes = {n: count_params(c(**a)) for n, (c, a) in STUDENTS.items()}
    assert sizes['conv_8k'] < 9_000 and sizes['conv_20k'] < 24_000 and sizes['conv_80k'] < 95_000


def test_an_unknown_student_or_several_inputs_are_refused(windows):
    with pytest.raises(ValueError, match="unknown student 'resnet', choose one of: conv_8k"):
        make_student('resnet', windows)
    with pytest.raises(ValueError, match='a student reads one inertial input'):
        make_student('conv_8k', windows, ('imu', 'imu:acc'))


def test_a_saved_student_is_the_same_function(motion, tmp_path):
    save_model(motion, tmp_path, note='motion')
    again, about = load_model(tmp_path)
    x = torch.randn(2, 61, 3)
    assert torch.equal(again(x), motion(x)) and again.inputs == motion.inputs
    assert about['note'] == 'motion' and about['class'] == 'student:InertialTransformer'


def test_weights_of_another_model_are_refused(motion, conv, tmp_path):
    save_model(motion, tmp_path / 'm')
    save_model(conv, tmp_path / 'n')
    shutil.copy(tmp_path / 'n/model.safetensors', tmp_path / 'm/model.safetensors')
    with pytest.raises(DamagedFile, match='model.safetensors holds other weights than'):
        load_model(tmp_path / 'm')
    about = read_json(tmp_path / 'm/harkd.json')  # a folder of an older version has no seal
    old = {k: v for k, v in about.items() if k not in ('seal', 'weights_sha256')}
    write_json(tmp_path / 'm/harkd.json', old)
    with pytest.raises(DamagedFile, match='weights and harkd.json do not fit together'):
        load_model(tmp_path / 'm')


def test_the_words_of_the_hub_keep_what_belongs_to_the_model(motion, tmp_path):
    save_model(motion, tmp_path / 'm', note='motion')
    load_model(tmp_path / 'm')[0].save_pretrained(tmp_path / 'again')
    again = HarModel.from_pretrained(tmp_path / 'again')
    x = torch.randn(2, 61, 3)
    assert torch.equal(again(x), motion(x)) and not again.training
    assert again.about['note'] == 'motion'
    card = (tmp_path / 'again/README.md').read_text()
    assert 'InertialTransformer' in card and 'pushed' not in card
    assert {p.suffix for p in (tmp_path / 'again').iterdir()} == {'.json', '.md', '.safetensors'}
    with pytest.raises(TypeError, match='holds a InertialTransformer, not a ConvStudent'):
        ConvStudent.from_pretrained(tmp_path / 'again')


@pytest.mark.parametrize('name', STUDENTS)
@pytest.mark.parametrize('seconds', [0.8, 2.0])
def test_every_student_is_made_for_the_length_of_the_windows(name, seconds):
    w = cut_windows(synth_dataset(2, 1), ('imu',), whole=False, window_s=seconds)
    x = w.batch([0]).x['imu']
    logits = make_student(name, w, ('imu',)).eval()(x)
    assert x.shape[1] == round(50 * seconds) and logits.shape == (1, len(w.classes))
