"Frame extraction, groups, loaders and the 3-D networks of chapter 04a"

import os
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import torch.nn.functional as F
from scipy.io import savemat
from typer.testing import CliRunner

from harkd.cli import app
from harkd.data import BadRecording
from harkd.distill import DistillationLoss
from harkd.losses import soft_target_loss
from harkd.preprocess import Batch
from harkd.split import LeakError, Split
from harkd.student import HarModel
from harkd.train import TrainConfig, accuracy, cross_entropy, train
from harkd.video import (
    C3D,
    C3D_LAYERS,
    BadVideo,
    VideoClips,
    VideoLoader,
    VideoStudent,
    clip_table,
    extract_frames,
    freeze_layers,
    group_folds,
    make_video_network,
    open_clips,
    read_depth_clip,
    read_video,
    sample_positions,
    source_group,
)
from tests.conftest import data

REFERENCE_FILES = {
    'frames.npy',
    'labels.npy',
    'video_file_paths.npy',
    'Format_Time.csv',
    'Format_Time_Summary.txt',
}


def write_clip(path, n=20, height=24, width=32):
    av = pytest.importorskip('av')
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('mpeg4', rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
        for i in range(n):
            image = np.full((height, width, 3), 10 * i, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_real_clips_give_the_files_and_a_truncated_one_is_named(tmp_path):
    pytest.importorskip('av')
    videos = tmp_path / 'videos'
    shutil.copytree(data('video_clips'), videos)
    whole = next(videos.glob('*/v_SoccerJuggling_g23_c01.avi'))
    cut = whole.with_name('v_SoccerJuggling_g23_c02.avi')
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 5])
    report = extract_frames(videos, tmp_path / 'out', progress=False)
    assert {p.name for p in (tmp_path / 'out').iterdir()} >= REFERENCE_FILES
    assert list(report.skipped) == ['SoccerJuggling/v_SoccerJuggling_g23_c02.avi']
    assert 'damaged: 146 of 240' in report.skipped['SoccerJuggling/v_SoccerJuggling_g23_c02.avi']
    clips = open_clips(tmp_path / 'out')
    assert clips.frames.shape == (6, 16, 112, 112, 3) and isinstance(clips.frames, np.memmap)
    assert clips.classes == ('SoccerJuggling', 'cartwheel', 'wave')
    assert clips.y.tolist() == [0, 0, 1, 2, 2, 2]
    assert sorted(clips.table.group.str[:8]) == sorted(
        ['SoccerJu', 'SoccerJu', 'hmdb51_T', 'RATRACE', 'SchoolRu', 'TrumanSh']
    )
    assert clips.frames.std(axis=(1, 2, 3, 4)).min() > 10
    summary = (tmp_path / 'out' / 'Format_Time_Summary.txt').read_text()
    assert cut.name in summary and 'clips written: 6' in summary
    table = pd.read_csv(tmp_path / 'out' / 'Format_Time.csv')
    assert table.Step.tolist() == ['read'] * 6 + ['Totals']
    assert table.Time.iloc[-1] == pytest.approx(table.Time[:-1].sum(), abs=1e-3)


def test_the_command_names_a_bad_clip_and_goes_on(tmp_path):
    write_clip(tmp_path / 'videos' / 'wave' / 'v_wave_g01_c01.avi', n=20)
    write_clip(tmp_path / 'videos' / 'wave' / 'v_wave_g01_c02.avi', n=5)
    (tmp_path / 'videos' / 'wave' / 'nothing.mp4').touch()
    arguments = ['frames', str(tmp_path / 'videos'), '-o', str(tmp_path / 'out')]
    result = CliRunner().invoke(app, [*arguments, '--frames', '8', '--size', '24x32'])
    assert result.exit_code == 0, result.output
    assert 'skipped: wave/nothing.mp4 is empty' in result.stderr
    assert 'skipped: wave/v_wave_g01_c02.avi has 5 frames, 8 are needed' in result.stderr
    assert '1 clips of 1 classes, 2 skipped' in result.output
    assert open_clips(tmp_path / 'out').frames.shape == (1, 8, 24, 32, 3)
    assert CliRunner().invoke(app, [*arguments, '--frames', '21']).exit_code == 1
    assert CliRunner().invoke(app, [*arguments, '--size', 'big']).exit_code == 2


def test_frames_are_rgb_of_the_right_moments(tmp_path):
    clip = write_clip(tmp_path / 'a.avi', n=20)
    frames = read_video(clip, 4, (24, 32))
    level = frames.mean(axis=(1, 2, 3)) / 10
    assert np.abs(level - sample_positions(20, 4)).max() < 1


@pytest.mark.parametrize('n', [16, 17, 100])
def test_positions_are_inside_and_spread(n):
    at = sample_positions(n)
    assert at[0] >= 0 and at[-1] < n and (np.diff(at) >= 1).all()
    assert np.abs(at - (n - 1 - at[::-1])).max() <= 1  # symmetric


@pytest.mark.parametrize(
    ('content', 'reason'), [(b'', 'is empty'), (b'not a video' * 99, 'cannot be decoded')]
)
def test_a_bad_file_says_why(tmp_path, content, reason):
    pytest.importorskip('av')
    (tmp_path / 'x.avi').write_bytes(content)
    with pytest.raises(BadVideo, match=reason):
        read_video(tmp_path / 'x.avi')


def test_memory_does_not_grow_with_the_number_of_clips(tmp_path):
    clip = write_clip(tmp_path / 'one' / 'x' / 'v_x_g01_c01.avi')
    extract_frames(tmp_path / 'one', tmp_path / 'warm', size=112, progress=False)
    (tmp_path / 'many' / 'x').mkdir(parents=True)
    for i in range(300):
        os.link(clip, tmp_path / 'many' / 'x' / f'v_x_g{i:02}_c01.avi')
    before = psutil.Process().memory_info().rss
    report = extract_frames(tmp_path / 'many', tmp_path / 'out', size=112, progress=False)
    assert len(report.paths) == 300
    size = (tmp_path / 'out' / 'frames.npy').stat().st_size
    grown = report.table().Memory.iloc[:-1].iloc[-1] * 2**20 - before
    assert size > 180e6 and grown < 40e6


def test_an_interrupted_extraction_leaves_no_frames_file(tmp_path, monkeypatch):
    depth = np.full((6, 8, 20), 900, np.uint16)
    savemat(tmp_path / 'a1_s1_t1_depth.mat', {'d_depth': depth})
    monkeypatch.setattr('harkd.video.depth_to_rgb', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        extract_frames(tmp_path, tmp_path / 'out', progress=False)
    assert not (tmp_path / 'out' / 'frames.npy').exists()


def test_no_videos_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match='holds no folders'):
        extract_frames(tmp_path, tmp_path / 'out')


def test_depth_streams_go_the_same_way(tmp_path):
    source = data('utd_mhad_small') / 'Depth'
    for name in ('a1_s1_t1', 'a1_s3_t1', 'a2_s1_t1'):
        shutil.copy(source / f'{name}_depth.mat', tmp_path)
    (tmp_path / 'a2_s1_t2_depth.mat').write_bytes(b'MATLAB 5.0')
    report = extract_frames(tmp_path, tmp_path / 'out', size=(60, 80), progress=False)
    clips = open_clips(tmp_path / 'out')
    assert clips.frames.shape == (3, 16, 60, 80, 3)
    assert clips.classes == ('swipe_left', 'swipe_right')
    assert clips.table.group.tolist() == ['s1', 's3', 's1']
    assert list(report.skipped) == ['a2_s1_t2_depth.mat']


def test_short_depth_is_a_bad_video(tmp_path):
    savemat(tmp_path / 'd.mat', {'d_depth': np.zeros((4, 5, 7), np.uint16)})
    with pytest.raises(BadVideo, match='has 7 frames, 16 are needed'):
        read_depth_clip(tmp_path / 'd.mat')


@pytest.mark.parametrize(
    ('name', 'group'),
    [
        ('v_shooting_01_g07_c03.mpg', 'shooting_01_g07'),
        ('RATRACE_wave_f_nm_np1_fr_goo_37.avi', 'RATRACE'),
        (
            'hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi',
            'hmdb51_Turnk_r_Pippi_Mich',
        ),
        ('a27_s8_t4_depth.mat', 's8'),
        ('x.mp4', 'x'),
    ],
)
def test_the_name_tells_the_source(name, group):
    assert source_group(name).startswith(group)


def toy_clips(n=24, subjects=4):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    frames = rng.integers(0, 60, (n, 16, 32, 32, 3), dtype=np.uint8)
    frames[labels == 1, :, :, :16] += 120
    names = [f's{i // 2 % subjects}' for i in range(n)]
    table = clip_table(labels, [f'c{i}' for i in range(n)], names, names)
    extra = {'imu': torch.arange(n).float().reshape(n, 1, 1).expand(n, 5, 6)}
    return VideoClips(frames, table, ('dark', 'bright'), extra=extra)


def toy_split(clips):
    held_out = clips.table.group == 's3'
    return Split(
        clips,
        np.flatnonzero(~held_out),
        np.flatnonzero(held_out),
        np.array([], int),
        'subject_holdout',
    )


def test_groups_stay_together_and_a_leak_is_found():
    clips = toy_clips()
    for first, second in group_folds(clips, 3):
        groups = clips.table.group
        assert not set(groups.iloc[first]) & set(groups.iloc[second])
    with pytest.raises(LeakError, match='subject'):
        Split(clips, np.arange(12), np.arange(12, 24), np.array([], int), 'x')


def test_teacher_and_student_inputs_of_a_batch_are_the_same_clips():
    loader = VideoLoader(toy_split(toy_clips()), batch_size=5, seed=3)
    for step in range(loader.steps):
        for rank in (0, 1):
            batch = loader.train(1, step, rank=rank, world=2)
            assert isinstance(batch, Batch)
            assert torch.equal(batch.x['imu'][:, 0, 0].long(), batch.ids)
            dark = batch.x['video'][batch.y == 0].mean((1, 2, 3, 4))
            assert (dark < 0.2).all()


def test_a_batch_depends_on_its_number_only():
    loader = VideoLoader(toy_split(toy_clips()), batch_size=4, seed=1)
    later = loader.train(2, 1)
    loader.train(0, 0)
    again = loader.train(2, 1)
    assert torch.equal(later.ids, again.ids)
    assert torch.equal(later.x['video'], again.x['video'])


@pytest.mark.parametrize('net', [C3D, VideoStudent])
def test_a_saved_network_is_the_same_after_loading(net, tmp_path):
    model = net(3, width=2, size=32, hidden=8, norm=True).eval()
    model.save_pretrained(tmp_path)
    again = HarModel.from_pretrained(tmp_path)
    video = torch.rand(2, 16, 3, 32, 32)
    assert type(again) is net and torch.equal(again(video), model(video))


def test_a_network_of_torchvision_gets_channels_before_time(monkeypatch):
    "Whether or not that library is there"

    class Mean(torch.nn.Module):
        def __init__(self, weights, num_classes):
            super().__init__()
            assert weights is None
            self.classes = num_classes

        def forward(self, x):  # (b,3,t,h,w)
            assert x.shape[1] == 3
            return x.mean((2, 3, 4))[:, : self.classes]

    video = SimpleNamespace(__name__='video', __all__=['net', 'Net'], net=Mean, Net=Mean)
    monkeypatch.setitem(sys.modules, 'torchvision', SimpleNamespace())
    monkeypatch.setitem(sys.modules, 'torchvision.models', SimpleNamespace(video=video))
    clips = torch.rand(4, 8, 3, 6, 6)
    features = make_video_network('torchvision:net', 2).features(clips)
    assert torch.allclose(features.logits, clips.mean((1, 3, 4))[:, :2])
    assert features.embedding is None
    for name in ('Net', 'other'):
        with pytest.raises(ValueError, match=f"torchvision video has no network '{name}'"):
            make_video_network(f'torchvision:{name}', 2)
    monkeypatch.setitem(sys.modules, 'torchvision.models', None)
    with pytest.raises(ImportError, match="needs torchvision.*; or use 'r3d_18', the same layout"):
        make_video_network('torchvision:r3d_18', 2)


def test_the_classifier_repeats_the_logits():
    model = VideoStudent(3, width=2, size=32, hidden=8).eval()
    features = model.features(torch.rand(2, 16, 3, 32, 32))
    assert torch.equal(model.classify(features.embedding), features.logits)
    assert [m.shape[2] for m in features.maps] == [2, 4, 4, 8, 16]


@pytest.mark.parametrize(('n', 'first'), [(0, 'conv1.weight'), (4, 'conv3a.weight')])
def test_freezing_counts_layers_from_the_first(n, first):
    assert freeze_layers(C3D(3, width=2, size=32, hidden=8), n)[0] == first


def test_all_layers_but_the_classifier_are_the_published_19():
    assert C3D_LAYERS[18:] == ('drop7', 'head')
    assert freeze_layers(C3D(3, width=2, size=32, hidden=8), 19) == ['head.weight', 'head.bias']


@pytest.mark.parametrize('classes', [11, 101])
def test_soft_targets_of_a_confident_teacher_are_far_from_uniform(classes):
    logits = 20 * F.one_hot(torch.arange(classes), classes).float()  # sure to a millionth
    student = torch.zeros_like(logits, requires_grad=True)
    soft_target_loss(student, logits, 10.0).backward()
    # at the uniform student, the gradient is 10 times (uniform − target)
    target = 1 / classes - student.grad * classes / 10
    assert torch.allclose(target, F.softmax(logits / 10, 1), atol=1e-5)
    assert (target.amax(1) > 4 / classes).all()
    doubled = torch.zeros_like(logits, requires_grad=True)
    soft_target_loss(doubled, logits.softmax(1), 10.0).backward()  # the mistake
    assert ((1 / classes - doubled.grad * classes / 10).amax(1) < 1.2 / classes).all()


def test_a_video_teacher_distils_into_a_video_student():
    loader = VideoLoader(toy_split(toy_clips()), batch_size=6)
    cfg = TrainConfig(epochs=4, batch_size=6, lr=3e-3, ema=0.0)
    teacher = C3D(2, width=2, size=32, hidden=8, norm=True, drop=0.0)
    student = VideoStudent(2, width=2, size=32, hidden=8, norm=True, drop=0.0)
    train(teacher, loader, cross_entropy(), cfg)
    history = train(student, loader, DistillationLoss([teacher], ['kd'], 0.9, 10.0), cfg)
    assert history[-1]['loss'] < history[0]['loss']
    assert accuracy(teacher, loader, loader.split.val) >= 0.5


@pytest.mark.parametrize('bracket', [b'(', b')', b'{', b"'"])
def test_a_damaged_header_of_clips_is_named(tmp_path, bracket):
    for name in ('frames', 'labels', 'video_file_paths', 'groups', 'classes'):
        np.save(tmp_path / f'{name}.npy', np.arange(3))
    path = tmp_path / 'groups.npy'
    raw = path.read_bytes()
    assert raw.count(b'(') == 1
    path.write_bytes(raw.replace(b'(3,)', bracket + b'3, '))
    with pytest.raises(BadRecording, match='groups.npy: cannot be read'):
        open_clips(tmp_path)
