"""What a seed draws is a promise: the same numbers as when figures were published.

    python -m tests.test_golden     writes tests/golden.json anew, after a change that is meant

Networks are given by their size and by what their initial weights compute; what is simulated,
augmented or corrupted, by averages; drawings by what they say (without its digits), by where their
parts stand, and by averages of their curves. Figures of another processor differ by rounding
only."""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import harkd.attribute as at
import harkd.feature_losses as fl
import harkd.losses as lo
import harkd.metrics as mt
from harkd.arena import CNNHAR
from harkd.attention import sinusoidal_positions
from harkd.augment import Augment
from harkd.contrastive_losses import info_nce_loss
from harkd.corruptions import CORRUPTIONS, corrupt
from harkd.cost import count_macs, count_params
from harkd.data import load_dataset
from harkd.depth_maps import body_box, depth_grid, motion_maps, project_depth
from harkd.depth_networks import FactoredVideoNet, clip_channels, depth_views, warp_clips
from harkd.distill import soft_target_picture
from harkd.dual_branch import DualBranchEncoder, signal_patches
from harkd.encoder import WearableEncoder, band_energies, filterbank, unit_batch
from harkd.explore import ExplorerData, ExplorerState, attribution_figure
from harkd.faithfulness import attend, faithfulness, path_gradient
from harkd.image_encodings import ImageStudent, RelationTeacher, gaf_images
from harkd.language import alignment_loss, soft_text_targets
from harkd.learned_losses import SRRL
from harkd.methods import LOSS_FUNCTIONS
from harkd.preprocess import cut_windows, decimation_filter, downsample, lowpass
from harkd.pretrain import info_nce, span_mask
from harkd.quantization_aware import fake_quantize_activation, fake_quantize_weight
from harkd.report import Chart, interactive
from harkd.rollout import attention_over_time, attention_similarity
from harkd.split import BatchLoader, by_subject
from harkd.student import STUDENTS, make_student
from harkd.synth import SYNTH_ACTIONS, planted_bursts, render_depth, simulate
from harkd.teacher import TEACHERS, _rocket_views, make_teacher
from harkd.tokens import adaptive_patch_length, motion_boundaries, motion_level
from harkd.train import TrainConfig, learning_rate
from harkd.video import (
    C3D,
    VIDEO_RESNETS,
    VideoResNet,
    VideoStudent,
    depth_to_rgb,
    jitter_clips,
    sample_positions,
)
from harkd.widgets import plotly_figure
from tests.test_widgets import live_figures

KEPT = Path(__file__).with_name('golden.json')
CLIP, SMALL = (1, 16, 3, 32, 32), dict(classes=5, width=4)


def waves(*shape):
    "A smooth signal in [0,1] without chance"
    return (torch.sin(0.37 * torch.arange(np.prod(shape)).reshape(shape)) + 1) / 2


def figures(x):
    "Numbers that tell whether an array is the same"
    x = np.asarray(x, float)
    weights = np.cos(np.arange(x.size)).reshape(x.shape)  # order counts
    return [float(v) for v in (x.mean(), x.std(), (x * weights).mean())]


def of_network(make, *inputs):
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        f = model.eval().features(*inputs)
    size = sum(p.numel() for p in model.parameters())
    parts = [f.logits, f.embedding, *f.maps]
    return [size, len(parts), *(v for part in parts for v in figures(part))]


def windows():
    return cut_windows(load_dataset('synth'), ('imu', 'skeleton'), window_s=1.0, whole=False)


def loader():
    w = windows()
    return BatchLoader.fit(by_subject(w, ['s1', 's2', 's3', 's4'], ['s5', 's6']))


def students():
    w, found = windows(), {}
    for name in STUDENTS:
        found[name] = of_network(lambda n=name: make_student(n, w, ('imu',)), waves(3, 50, 6))
    return found


def teachers():
    w, found = windows(), {}
    x = waves(3, 50, 6), waves(3, 50, 20, 3)
    for name in ('fusion', 'wide', 'st_convt'):
        found[name] = of_network(lambda n=name: make_teacher(n, w), *x)
    assert set(found) < set(TEACHERS)
    return found


def video_networks():
    clips, found = waves(*CLIP), {}
    makers = {
        'c3d': lambda: C3D(**SMALL, size=32),
        'c3d_norm': lambda: C3D(**SMALL, size=32, norm=True),
        'student': lambda: VideoStudent(**SMALL, size=32),
        'factored': lambda: FactoredVideoNet(**SMALL, blocks=(2, 1, 1, 3)),
        'factored_default': lambda: FactoredVideoNet(classes=5),
        'relation': lambda: RelationTeacher(**SMALL, blocks=(2, 1), segments=4, semantic=8),
        **{n: lambda n=n: VideoResNet(n, **SMALL) for n in VIDEO_RESNETS},
    }
    for name, make in makers.items():
        found[name] = of_network(make, clips)
    return found


def other_networks():
    images = dict(classes=5, width=4, blocks=(2, 1), semantic=8)
    found = {'cnn_har': of_network(lambda: CNNHAR(classes=5), waves(3, 60, 6))}
    for kind in ('summation', 'difference'):
        make = lambda kind=kind: ImageStudent(**images, kind=kind)  # noqa: E731
        found[kind] = of_network(make, waves(2, 32, 6))
    for cls in (WearableEncoder, DualBranchEncoder):
        torch.manual_seed(0)
        model = cls()
        values = torch.cat([p.detach().flatten() for p in model.parameters()])
        found[cls.__name__] = [len(values), *figures(values)]
    return found


def simulated():
    found = {}
    for action in SYNTH_ACTIONS:
        joints = simulate(action, np.random.default_rng(0), seconds=1.0)
        found[action] = figures(joints)
        other = dict(fs=30.0, tempo=1.3, reach=0.8, height=1.6)
        found[f'{action} smaller'] = figures(simulate(action, np.random.default_rng(1), **other))
    far = joints[::25] + np.array([0.0, 0.0, 3.0])
    found['depth'] = figures(render_depth(far))
    found['bursts'] = [v for part in planted_bursts(20) for v in figures(part)]
    for stream, values in load_dataset('synth').recordings[3].streams.items():
        found[stream] = figures(values.read()[0])
    return found


CHANGES = dict(
    warp=0.3,
    crop=0.2,
    rotate=30.0,
    yaw=90.0,
    scale=0.3,
    jitter=0.2,
    blank=0.4,
    drop=0.6,
    mixup=0.5,
)


def augmented():
    load, found = loader(), {}
    for name, value in CHANGES.items():
        augment = Augment(**{name: value})
        generator = torch.Generator().manual_seed(1)
        ids = load.split.train[:40]
        batch = augment.windows(load.split.windows, ids, load.norm, generator)
        found[name] = [v for x in batch.x.values() for v in figures(x)]
    jittered = replace(load, augment=Augment(jitter=0.2))
    for k, view in enumerate(_rocket_views(jittered, 1, 2)):
        found[f'rocket {k}'] = [v for x in view.x.values() for v in figures(x)]
    found['batch'] = [v for x in load.train(1, 0).x.values() for v in figures(x)]
    clips = (255 * waves(6, 16, 3, 32, 32)).byte()
    found['warp_clips'] = figures(warp_clips(clips, torch.Generator().manual_seed(1)))
    found['jitter_clips'] = figures(jitter_clips(clips, torch.Generator().manual_seed(1)))
    return found


def corrupted():
    x, found = 9.81 * waves(8, 100, 6), {}
    names = tuple(f'{s}_{a}' for s in ('acc', 'gyro') for a in 'xyz')
    for family, strength in CORRUPTIONS:
        changed = corrupt(x, names, torch.arange(1.0, 7.0), family, strength, seed=1)
        found[f'{family} {strength}'] = figures(changed)
    return found


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def with_gradient(loss, s, *rest):
    "Value of a loss, and its gradient"
    s = s.clone().requires_grad_()
    value = loss(s, *rest)
    value.backward()
    return [value.item(), *figures(s.grad)]


def losses():
    "Of pairs that differ a little and much, with one and with several samples or singular vectors"
    found = {}
    for name, (loss, shape) in LOSS_FUNCTIONS.items():
        if name == 'srrl':  # its classifier is drawn anew in each process
            continue
        t, other = noise(*shape), noise(*shape, seed=1)
        for how, s in (('near', t + 0.1 * other), ('far', 3 * other), ('extreme', 1e4 * other)):
            torch.manual_seed(0)
            found[f'{name} {how}'] = with_gradient(loss, s, 1e4 * t if how == 'extreme' else t)
    maps = [noise(4, 7, 6, seed=k) for k in range(6)]
    found['kdsvd 3'] = [float(fl.kdsvd_loss(maps[:3], maps[3:], k=3))]
    found['fsp'] = [float(fl.fsp_loss(maps[:3], maps[3:]))]
    found['fsp of other lengths'] = figures(fl.fsp_matrix(maps[0], noise(4, 9, 6)))
    torch.manual_seed(0)
    classifier = torch.nn.Linear(6, 5).double()
    srrl, (s, t) = SRRL(6, 6, classifier).double(), (noise(8, 6, seed=k) for k in range(2))
    found['srrl'] = [srrl(s, t, classifier(t)).item()]
    logits, y = [noise(6, 5, seed=k) for k in range(2)], torch.arange(6) % 5
    found['kd'] = [
        float(lo.kd_loss(*logits, y, a, t, s)) for a, t, s in ((0.2, 4, 0), (0.6, 1, 0.1))
    ]
    found['dkd'] = [float(lo.dkd_loss(*logits, y, 0.5, b)) for b in (2.0, 8.0)]
    found['info_nce'] = [float(f(*logits)) for f in (info_nce_loss, info_nce)]
    targets = soft_text_targets(logits[0])
    found['words'] = [*figures(targets), float(alignment_loss(*logits, targets))]
    return found


def signals():
    "Filters, rates, patches and encodings of a smooth signal"
    x, time = 9.81 * waves(400, 3).numpy(), np.cumsum(0.01 + 0.004 * waves(400).numpy())
    found = dict(lowpass=figures(lowpass(x, 100.0, 5.0)), taps=figures(decimation_filter(4)))
    found['downsample'] = figures(downsample(x, time, 20.0))
    windows = noise(4, 100, 6).float().cumsum(1)
    level = motion_level(windows)
    found['level'] = [*figures(level), *figures(adaptive_patch_length(level))]
    found['boundaries'] = figures(motion_boundaries(windows, 8))
    found['patches'] = figures(signal_patches(windows, 50.0))
    found['positions'] = figures(sinusoidal_positions(9, 8))
    for kind in ('summation', 'difference'):
        found[kind] = figures(gaf_images(windows, kind, size=16))
    names = tuple(f'{s}_{a}' for s in ('acc', 'gyro') for a in 'xyz')
    for rate in (25.0, 50.0):
        batch = unit_batch(windows, names, rate)
        found[f'bands {rate:g}'] = [v for part in filterbank(batch) for v in figures(part)]
        found[f'energies {rate:g}'] = figures(band_energies(batch))
    found['mask'] = figures(span_mask((6, 40, 2), 0.4, torch.Generator().manual_seed(0)))
    found['weights'] = figures(fake_quantize_weight(windows[0]))
    ends = windows.amin(), windows.amax()
    found['activations'] = figures(fake_quantize_activation(windows, *ends))
    rates = [learning_rate(k, 50, TrainConfig(steps=50)) for k in range(50)]
    found['rates'] = figures(rates)
    return found


def depth():
    joints = simulate('wave', np.random.default_rng(0), seconds=1.0) + np.array([0.0, 0.0, 3.0])
    video, found = render_depth(joints), {}
    found['box'] = [int(v) for part in body_box(video) for v in (part.start, part.stop)]
    found['projections'] = [v for part in project_depth(video) for v in figures(part)]
    found['maps'], found['grid'] = figures(motion_maps(video)), figures(depth_grid(video))
    found['shortest'] = figures(motion_maps(video[[0, 12]]))
    views = depth_views(video)
    found['views'] = figures(views)
    clip = torch.from_numpy(views[None].astype(np.float32))
    for kind in ('views', 'motion', 'front'):
        found[kind] = figures(clip_channels(clip, kind))
    found['colours'] = figures(depth_to_rgb(video, (56, 56)))
    found['frames'] = [float(v) for n in (16, 17, 50) for v in sample_positions(n)]
    return found


def explanations():
    "Of untrained networks, one with attention"
    found, w = {}, windows()
    x = waves(6, 50, 6), waves(6, 50, 20, 3)
    for name in ('conv_8k', 'transformer'):
        torch.manual_seed(0)
        model, imu = make_student(name, w, ('imu',)).eval(), x[:1]
        found[f'{name}: cost'] = [count_params(model), count_macs(model, imu[0][:1])]
        target = torch.arange(6) % 5
        ways = dict(
            integrated=at.integrated_gradients(model, imu, target, steps=8),
            complete=at.complete_gradients(model, imu, target, 'mean', steps=8),
            gradient=at.gradient_x_input(model, imu, target),
            occlusion=at.occlusion(model, imu, target, width=8, stride=4),
        )
        if name == 'transformer':
            ways['attend'] = attend(model, imu, target)
            over_time = attention_over_time(model, imu)
            found['over time'] = figures(over_time)
            found['similarity'] = list(attention_similarity(over_time, over_time.flip(0)).values())
        for way, a in ways.items():
            found[f'{name}: {way}'] = figures(a.values[0] / a.values[0].abs().max())
        a = ways['integrated']
        judged = faithfulness(model, imu, a, steps=5, draws=2)
        found[f'{name}: faithful'] = [v for k in sorted(judged) for v in figures(judged[k])]
        (path,) = path_gradient(model, imu, target, steps=8)
        found[f'{name}: path'] = figures(path / path.abs().max())
    return found


def scores():
    rng = np.random.default_rng(0)
    y, logits = rng.integers(0, 4, 60), rng.normal(size=(60, 4))
    logits[np.arange(60), y] += 1
    pred, found = logits.argmax(1), {}
    a, b = pred == y, rng.permutation(pred) == y
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found['scores'] = [v for v in mt.scores(y, pred).values() if np.isscalar(v)]
    found['per class'] = figures(mt.per_class(y, pred, tuple('abcd')).select_dtypes('number'))
    found['roc'] = list(mt.roc_areas(mt.roc_curves(y, p, tuple('abcd'))))
    found['intervals'] = [*mt.mean_interval([0.5, 0.7, 0.6]), *mt.wilson_interval(7, 9)]
    found['bootstrap'] = figures(list(mt.paired_bootstrap(a, b, draws=500).values()))
    found['groups'] = figures(list(mt.paired_bootstrap(a, b, y, draws=500).values()))
    found['tests'] = [
        mt.mcnemar_test(a, b),
        mt.sign_flip_test([0.1, 0.3, -0.1, 0.2]),
        *mt.corrected_t_test([0.1, 0.3, -0.1, 0.2], 0.25),
        *map(float, mt.holm([0.01, 0.04, 0.03])),
    ]
    found['calibration'] = [mt.calibration_error(p, y), mt.fit_temperature(logits, y)]
    return found


def leaves(value):
    "Numbers and words of nested lists and dictionaries, in their order"
    if isinstance(value, dict) and 'bdata' in value:
        value = np.frombuffer(base64.b64decode(value['bdata']), value['dtype'])
    if isinstance(value, dict):
        value = [v for k, v in sorted(value.items()) if k != 'template']
    if isinstance(value, (list, tuple, np.ndarray)):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, (int, float, np.number)):
        yield float(value)
    elif value is not None:
        yield re.sub(r'\d+', '#', str(value))


def of_drawing(figure):
    "Words and places of a plotly figure, and averages of each of its traces"
    drawn = figure.to_plotly_json()
    parts = list(leaves(drawn['layout']))
    words = [v for v in parts if isinstance(v, str)]
    numbers = [v for v in parts if not isinstance(v, str)]
    for trace in drawn['data']:
        parts = list(leaves(trace))
        words += dict.fromkeys(v for v in parts if isinstance(v, str))
        values = [v for v in parts if not isinstance(v, str)]
        numbers += [len(values), *figures(np.nan_to_num(values or [0.0]))]
    return [' | '.join(words), *(round(v, 6) for v in numbers)]


def made_up_training(alpha, temperature):
    steps = [dict(epoch=k, loss=3 / (k + 1), ce=2 / (k + 1), kd=alpha / (k + 1)) for k in range(4)]
    return steps, 0.5 + alpha / temperature


def live_pictures():
    "Of the chapters, with their controls at the beginning and at the end"
    found = {}
    w = cut_windows(load_dataset('spar'), ('imu:acc',), window_s=2.0, stride_s=20.0)
    load = BatchLoader.fit(by_subject(w, ['s1', 's2'], ['s3']))
    x = torch.cat([b.x['imu:acc'] for b in load.eval_batches(load.split.val)])
    for name, (draw, controls) in live_figures(load, x).items():
        for end in (0, -1):
            values = {k: c.choices[end] for k, c in controls.items()}
            found[f'{name} {end}'] = of_drawing(plotly_figure(draw(**values)))
    logits, classes = noise(5, 4), tuple('abcd')
    for window, alpha in ((0, 0.7), (3, 0.0)):
        drawn = soft_target_picture(logits, classes, made_up_training, window, alpha, 4.0)
        found[f'soft targets {window}'] = of_drawing(plotly_figure(drawn))
    return found


def explorer():
    load, found = loader(), {}
    torch.manual_seed(0)
    models = {'distilled': make_student('conv_8k', load.split.windows, ('imu',)).eval()}
    models['teacher'] = make_teacher('fusion', load.split.windows).eval()
    state = ExplorerState(ExplorerData(load, models, load.split.val), int(load.split.val[0]))
    changes = {
        'student': dict(),
        'teacher': dict(arm='teacher', frame=20, target='walk'),
        'hidden': dict(hidden=(0.2, 0.5), all_classes=True, method='occlusion'),
        'half': dict(share=0.5, baseline='mean'),
    }
    for name, change in changes.items():
        for width in (600, 1240):
            drawn = attribution_figure(replace(state, **change), width=width)
            found[f'{name} {width}'] = of_drawing(drawn)
    return found


def charts():
    names, found = ['series', 'x', 'y', 'low', 'high'], {}
    rows = [('control', 1.0, 90.0, 89.0, 91.0), ('distilled', 2.0, 91.0, 90.0, 93.0)]
    for kind in ('bars', 'lines', 'dots'):
        for n in (1, 2):
            chart = Chart(kind, 'title', 'x', 'y', pd.DataFrame(rows[:n], columns=names))
            found[f'{kind} {n}'] = of_drawing(interactive(chart))
    heat = Chart('heat', 'title', 'x', 'y', pd.DataFrame(np.eye(3), list('abc'), list('uvw')))
    found['heat'] = of_drawing(interactive(heat))
    return found


PARTS = (
    students,
    teachers,
    video_networks,
    other_networks,
    simulated,
    augmented,
    corrupted,
    losses,
    signals,
    depth,
    explanations,
    scores,
    live_pictures,
    explorer,
    charts,
)


def written(found):
    "A line for each name"
    parts = []
    for part, values in found.items():
        lines = [f'  {json.dumps(k)}: {json.dumps(v)}' for k, v in values.items()]
        parts.append(f' {json.dumps(part)}: {{\n' + ',\n'.join(lines) + '\n }')
    return '{\n' + ',\n'.join(parts) + '\n}\n'


@pytest.mark.parametrize('part', PARTS, ids=lambda part: part.__name__)
def test_numbers_are_those_that_figures_were_made_with(part):
    kept, now = json.loads(KEPT.read_text())[part.__name__], part()
    assert list(kept) == list(now)
    for name, values in now.items():
        words = [[v for v in row if isinstance(v, str)] for row in (values, kept[name])]
        assert words[0] == words[1], name
        numbers, wanted = ([v for v in r if not isinstance(v, str)] for r in (values, kept[name]))
        assert numbers == pytest.approx(wanted, rel=2e-3, abs=1e-5), name


if __name__ == '__main__':
    found = {part.__name__: part() for part in PARTS}
    KEPT.write_text(written(found), encoding='utf8')
