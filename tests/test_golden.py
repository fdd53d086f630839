"""What a seed draws is a promise: the same numbers as when figures were published.

    python -m tests.test_golden     writes tests/golden.json anew, after a change that is meant

Networks are given by their size and by what their initial weights compute; what is simulated,
augmented or corrupted, by averages. Figures of another processor differ by rounding only."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from harkd.arena import CNNHAR
from harkd.augment import Augment
from harkd.corruptions import CORRUPTIONS, corrupt
from harkd.data import load_dataset
from harkd.depth_networks import FactoredVideoNet, warp_clips
from harkd.dual_branch import DualBranchEncoder
from harkd.encoder import WearableEncoder
from harkd.image_encodings import ImageStudent, RelationTeacher
from harkd.preprocess import cut_windows
from harkd.split import BatchLoader, by_subject
from harkd.student import STUDENTS, make_student
from harkd.synth import SYNTH_ACTIONS, planted_bursts, render_depth, simulate
from harkd.teacher import TEACHERS, make_teacher
from harkd.video import C3D, VIDEO_RESNETS, VideoResNet, VideoStudent, jitter_clips

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


PARTS = (students, teachers, video_networks, other_networks, simulated, augmented, corrupted)


@pytest.mark.parametrize('part', PARTS, ids=lambda part: part.__name__)
def test_numbers_are_those_that_figures_were_made_with(part):
    kept, now = json.loads(KEPT.read_text())[part.__name__], part()
    assert list(kept) == list(now)
    for name, values in now.items():
        assert values == pytest.approx(kept[name], rel=2e-3, abs=1e-5), name


if __name__ == '__main__':
    found = {part.__name__: part() for part in PARTS}
    KEPT.write_text(json.dumps(found, indent=1) + '\n')
