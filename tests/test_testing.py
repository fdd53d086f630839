"The public check suites over everything that is registered, and each check failing once"

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from harkd.data import DATASETS, Dataset, Span
from harkd.deploy import export_onnx
from harkd.experiment import FitConfig, model_metadata
from harkd.methods import LOSSES
from harkd.preprocess import cut_windows
from harkd.runs import read_json, set_seed, write_json
from harkd.runtime import seal_bundle
from harkd.split import BatchLoader, by_subject
from harkd.student import STUDENTS, ConvStudent, Features, make_student
from harkd.synth import synth_dataset
from harkd.testing import (
    CheckFailed,
    _does_not_learn,
    check_bundle,
    check_dataset,
    check_loss,
    check_student,
)


def listed(suite, names):
    return [check for name in names for check in suite(name, generate_only=True)]


# --- everything registered


@pytest.mark.parametrize('check', listed(check_loss, LOSSES), ids=str)
def test_every_loss(check):
    check()


SLOW_TO_EXPORT = ('conv_20k', 'conv_80k', 'transformer')  # of the classes of the other two


@pytest.mark.parametrize('check', listed(check_student, STUDENTS), ids=str)
def test_every_student(check):
    if check.name == 'onnx' and any(f"'{name}'" in check.subject for name in SLOW_TO_EXPORT):
        pytest.skip('another student of its class is exported')
    check()


LARGE = (
    'hapt',
    'motionsense',
    'dsads',
    'wisdm',
    'selfback',
    'sisfall',
    'mm_fit',
)  # seconds to read
KNOWN = {  # faults of what was published, and of readers whose hashes are published
    ('dsads', 'units'): "mag_x in 'uT' instead of 'T'",
    ('physical_therapy', 'units'): "mag_x in 'uT' instead of 'T'",
}


@pytest.mark.parametrize('name', [name for name in DATASETS if name != 'sessions'])
def test_every_data_set_at_hand(name):
    if name in LARGE and 'HARKD_ALL' not in os.environ:
        pytest.skip('takes long to read: set HARKD_ALL=1')
    for check in check_dataset(name, generate_only=True):
        try:
            check()
        except FileNotFoundError:
            pytest.skip('not at hand')
        except CheckFailed as e:
            assert KNOWN.get((name, check.name), 'not known') in str(e)
        else:
            assert (name, check.name) not in KNOWN


# --- each check can fail


def noisy(s, t):
    return F.mse_loss(s, t.detach()) + 1e-3 * torch.rand(())


def in_place(s, t):
    with torch.no_grad():
        s.mul_(2.0)
    return F.mse_loss(s, t.detach())


BROKEN_LOSSES = {
    'scalar': lambda s, t: (s - t.detach()).square().mean(0),
    'repeatable': noisy,
    'arguments': in_place,
    'float32': lambda s, t: F.mse_loss(s, t.detach()) * (1 + 0.1 * (s.dtype == torch.float32)),
    'minimum': lambda s, t: (s * t.detach()).mean().square(),
    'pulls': lambda s, t: F.mse_loss(s.detach(), t.detach()) + 0.0 * s.sum(),
    'teacher': F.mse_loss,
    'finite': lambda s, t: (s - t.detach()).exp().mean(),
    'gradcheck': lambda s, t: F.mse_loss(s.float(), t.detach().float()).double() + s.sum().round(),
    'order': lambda s, t: ((s - t.detach()).square().mean(1) * torch.arange(1.0, 9.0)).mean(),
}


@pytest.mark.parametrize('name', BROKEN_LOSSES)
def test_a_broken_loss_is_found(name):
    (check,) = (c for c in check_loss(BROKEN_LOSSES[name], generate_only=True) if c.name == name)
    with pytest.raises(CheckFailed, match=f': {name}: expected'):
        check()


def test_an_exception_must_be_one():
    says = {'teacher': 'its teacher is trained along'}
    check_loss(F.mse_loss, exceptions=says)
    with pytest.raises(CheckFailed, match='although an exception says: its teacher is trained'):
        check_loss(lambda s, t: F.mse_loss(s, t.detach()), exceptions=says)


SMALL = dict(widths=(8, 8), blocks=(1,), strides=(2,))


class Broken(ConvStudent):
    "A small student, broken in one way"

    def __init__(self, how, classes):
        super().__init__(channels=6, classes=classes, **SMALL)
        self.how = how

    def features(self, x):
        if self.how == 'channels':
            x = x[..., :6]
        f = super().features(x)
        z, last = f.logits, f.maps[-1]
        if self.how == 'alone':
            z = z - z.mean(0)
        if self.how == 'extremes':
            z = z / (x.square().mean((1, 2)) > 0)[:, None]
        if self.how == 'learns':
            z = z.detach() + 0.0 * z
        maps = (last.transpose(1, 2)[:1],) if self.how == 'shapes' else f.maps
        return Features(z, f.embedding, maps)

    def forward(self, x):
        z = super().forward(x)
        return 2 * z if self.how == 'features' else z


def broken_student(how):
    def make(windows):
        if how == 'model':
            return torch.nn.Linear(6, 6)
        if how == 'seed':
            torch.manual_seed(5)
        return Broken(how, len(windows.classes))

    return make


@pytest.mark.parametrize(
    'name',
    ['model', 'shapes', 'features', 'alone', 'extremes', 'seed', 'learns', 'channels', 'saved'],
)
def test_a_broken_student_is_found(name):
    checks = check_student(broken_student(name), generate_only=True)
    (check,) = (c for c in checks if c.name == name)
    with pytest.raises(CheckFailed, match=f'{name}: expected'):
        check()


class Table(torch.nn.Module):
    "Logits that are learnt by heart, the faster the larger the factor"

    def __init__(self, factor, y, classes):
        super().__init__()
        self.z, self.factor = torch.nn.Parameter(torch.zeros(len(y), classes)), factor

    def forward(self, x):
        return self.factor * self.z


@pytest.mark.parametrize(
    'classes, factor, says',
    [(6, 3.0, ''), (6, 1.0, '1.792, then 1.6'), (2, 1.0, '0.693, then 0.63')],
)
def test_a_student_learns_whose_loss_falls_by_a_tenth(classes, factor, says):
    y = torch.arange(12) % classes
    model = Table(factor, y, classes)
    case = SimpleNamespace(model=lambda: model, x=torch.zeros(12, 4, 2), batch=SimpleNamespace(y=y))
    found = _does_not_learn(case)
    assert found.startswith(says) and bool(found) == bool(says)
    model.register_parameter('idle', torch.nn.Parameter(torch.zeros(1)))
    assert _does_not_learn(case) == 'no gradient for idle'


def changed(rec, **stream):
    return replace(rec, streams={**rec.streams, 'imu': replace(rec.streams['imu'], **stream)})


def recordings(data, change):
    "The data set with its first recording changed"
    first, *others = data.recordings
    return replace(data, recordings=[change(first), *others])


def card(**fields):
    return lambda data: replace(data, card=replace(data.card, **fields))


def first(change):
    return lambda data: recordings(data, change)


def every(change):
    return lambda data: replace(data, recordings=[change(rec) for rec in data.recordings])


def with_sentinel(rec):
    values = np.array(rec.streams['imu'].values)
    values[3] = 2.0**31 - 1
    return changed(rec, values=values)


def of_another_subject(data):
    "The first recording once more, under another name"
    return replace(data, recordings=[*data.recordings, replace(data.recordings[0], subject='s2')])


def twice_under_two_names(data):
    copies = [replace(r, id=f'{r.id}_copy', subject='s9') for r in data.recordings]
    return replace(data, recordings=[*data.recordings, *copies])


def millisecond_clock(rec):
    return changed(rec, time=np.asarray(rec.streams['imu'].time) / 1e3)


def long_label(rec):
    return replace(rec, spans=(Span(rec.spans[0].label, 0.0, 1e4),))


BROKEN_DATA = {
    'recordings': every(lambda rec: replace(rec, streams={})),
    'ids': of_another_subject,
    'subjects': first(lambda rec: replace(rec, subject=None)),
    'split': card(train_subjects=('s1',), test_subjects=('s1', 's2')),
    'labels': card(classes=('wave', 'push', 'fly')),
    'inputs': card(student=('watch',)),
    'units': first(lambda rec: changed(rec, units=('g',) * 3 + ('rad/s',) * 3)),
    'values': first(with_sentinel),
    'gravity': every(lambda rec: changed(rec, values=rec.streams['imu'].values / 9.80665)),
    'clock': first(millisecond_clock),
    'spans': first(long_label),
    'shared': twice_under_two_names,
    'windows': card(whole=False, window_s=60.0),
}


@pytest.fixture(scope='module')
def simulated():
    return synth_dataset(2, 1)


@pytest.mark.parametrize('name', BROKEN_DATA)
def test_a_broken_data_set_is_found(name, simulated):
    broken = BROKEN_DATA[name](simulated)
    assert isinstance(broken, Dataset)
    (check,) = (c for c in check_dataset(broken, generate_only=True) if c.name == name)
    with pytest.raises(CheckFailed, match=f'{name}: expected'):
        check()


def scaled(columns, factor):
    def change(rec):
        values = np.array(rec.streams['imu'].values)
        values[:, columns] *= factor
        return changed(rec, values=values)

    return change


def timed(factor):
    return lambda rec: changed(rec, time=np.asarray(rec.streams['imu'].time) * factor)


def the_last(n, change):
    "Of 12 recordings"
    return lambda data: replace(
        data, recordings=[*data.recordings[:-n], *map(change, data.recordings[-n:])]
    )


def labelled(start, end):
    "From `start` to `end` seconds after the recording's own end"

    def change(rec):
        return replace(rec, spans=(Span(rec.spans[0].label, start, rec.duration + end),))

    return change


def one_class_more(data):
    return card(classes=(*data.card.classes, 'fly'))(data)


ACC, GYRO, IN_G = slice(0, 3), slice(3, 6), 1 / 9.80665
FOUND = [
    ('recordings', lambda data: replace(data, recordings=[]), 'no recordings'),
    ('ids', of_another_subject, "'wave_s1_t1' 2 times"),
    ('subjects', BROKEN_DATA['subjects'], '1 recordings without a subject'),
    ('subjects', lambda data: replace(data, recordings=data.recordings[:6]), 'one subject'),
    ('split', BROKEN_DATA['split'], r"\['s1'\] in both lists"),
    ('split', card(test_subjects=('s9',)), r"\['s9'\], whom no recording shows"),
    ('labels', one_class_more, 'fly'),
    ('units', BROKEN_DATA['units'], "acc_x in 'g' instead of 'm/s²'"),
    ('units', first(lambda rec: changed(rec, units=('m/s²',))), "gyro_x in 'm/s²' instead"),
    ('values', BROKEN_DATA['values'], 'acc_x reaches 2.15e[+]09 m/s²'),
    ('gravity', the_last(7, scaled(ACC, IN_G)), '7 of 12 recordings, e.g. .acc. at rest'),
    ('gravity', every(scaled(GYRO, 57.3)), "likely in 'deg/s'"),
    ('clock', first(timed(-1.0)), "'imu' runs backwards or"),
    ('clock', first(timed(np.nan)), "'imu' runs backwards or has times that are no numbers"),
    ('clock', BROKEN_DATA['clock'], "'imu' at 5e[+]04 Hz"),
    ('spans', first(labelled(0.0, 1.1)), 'wave_s1_t1: Span.* of 2.0 s'),
    ('spans', first(labelled(-1.1, 0.0)), 'wave_s1_t1: Span.* of 2.0 s'),
    ('shared', twice_under_two_names, "samples of wave_.*_copy, stream 'imu' again in wave_"),
    ('windows', one_class_more, 'fly'),
    ('windows', first(scaled(ACC, 1e39)), 'values that are no numbers in imu'),
]


@pytest.mark.parametrize('name, change, says', FOUND)
def test_what_is_wrong_with_a_data_set_is_said(name, change, says, simulated):
    checks = check_dataset(change(simulated), generate_only=True)
    (check,) = (c for c in checks if c.name == name)
    with pytest.raises(CheckFailed, match=f'{name}: expected [^;]+; found .*{says}'):
        check()


def of_nobody(data):
    return every(lambda rec: replace(rec, subject=None))(twice_under_two_names(data))


UNHARMED = [
    ('gravity', the_last(6, scaled(ACC, IN_G))),  # half of them may be worn oddly
    ('spans', first(labelled(-1.0, 1.0))),
    (
        'shared',
        lambda data: every(lambda rec: replace(rec, subject=None))(of_another_subject(data)),
    ),
]


@pytest.mark.parametrize('name, change', UNHARMED)
def test_what_a_data_set_may_be(name, change, simulated):
    checks = check_dataset(change(simulated), generate_only=True)
    (check,) = (c for c in checks if c.name == name)
    check()


@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    windows = cut_windows(synth_dataset(3, 1), ('imu',), whole=False, window_s=1.0, stride_s=0.5)
    loader = BatchLoader.fit(by_subject(windows, ['s1', 's2'], ['s3']))
    set_seed(0)
    student = make_student('conv_8k', windows, ('imu',)).eval()
    folder = tmp_path_factory.mktemp('bundles') / 'bundle'
    cfg = FitConfig('synth', student_inputs='imu', teacher_inputs='imu')
    export_onnx(student, model_metadata(loader, student, cfg, 0), folder)
    return folder


def resealed(**new):
    def change(folder, case):
        about = {**read_json(folder / 'bundle.json'), **new}
        write_json(folder / 'bundle.json', about | {'seal': seal_bundle(about)})

    return change


def patched(name, function):
    "A check whose bundle computes something else"

    def change(folder, case):
        inner = case.bundle.logits
        case.bundle.logits = lambda x: function(inner(x))

    return change


BROKEN_BUNDLES = {
    'opens': lambda folder, case: (folder / 'bundle.json').unlink(),
    'classes': resealed(classes=['wave'] * 6),
    'units': resealed(units=['g'] * 6),
    'probabilities': patched('logits', lambda z: z * np.nan),
    'alone': patched('logits', lambda z: z - 50 * z.mean(0) * (len(z) > 1)),
    'stream': patched('logits', lambda z: np.roll(z, 1, 1) if len(z) < 8 else z),
}


@pytest.mark.parametrize('name', BROKEN_BUNDLES)
def test_a_broken_bundle_is_found(name, bundle, tmp_path):
    folder = Path(shutil.copytree(bundle, tmp_path / 'bundle'))
    (check,) = (c for c in check_bundle(folder, generate_only=True) if c.name == name)
    BROKEN_BUNDLES[name](folder, check.find.args[0])
    with pytest.raises(CheckFailed, match=f'{name}: expected'):
        check()


def test_a_data_set_that_is_not_at_hand_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match='Get it from'):
        check_dataset('utd_mhad', tmp_path)
