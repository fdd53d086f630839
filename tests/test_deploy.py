"Bundles on machines without harkd, and streams that misbehave"

import io
import json
import math
import os
import shutil
import subprocess
import sys
import tracemalloc
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harkd.clocks import measured_rate, spread_packets
from harkd.data import Dataset, Recording, Span, Stream, load_dataset
from harkd.deploy import _silent, export_onnx
from harkd.experiment import FitConfig, experiment_windows, model_metadata
from harkd.preprocess import cut_windows, downsample, fine_factor
from harkd.runs import read_json, set_seed, write_json
from harkd.runtime import (
    BadBundle,
    Bundle,
    DecisionSmoother,
    PacketSpreader,
    SignalLevels,
    StreamingClassifier,
    StreamResampler,
    _chunks,
    _scale_factors,
    _tflite,
    seal_bundle,
    stream_csv,
)
from harkd.runtime import main as run_command
from harkd.split import BatchLoader, by_subject
from harkd.student import make_student
from harkd.tflite import tflite_runner
from tests.conftest import ROOT


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A bundle of a (barely trained) student of SPAR, with its loader and its model"
    cfg = FitConfig('spar', student_inputs='imu:acc', teacher_inputs='imu:acc')
    windows = experiment_windows(cfg)
    subjects = load_dataset('spar').subjects
    loader = BatchLoader.fit(by_subject(windows, subjects[:7], subjects[7:]))
    set_seed(0)
    net = make_student('conv_8k', windows).eval()
    folder = tmp_path_factory.mktemp('bundle')
    real = next(loader.eval_batches(loader.split.val[:50])).x['imu:acc']
    export_onnx(net, model_metadata(loader, net, cfg, 0), folder, real)
    (folder / 'runtime.py').write_bytes((ROOT / 'harkd/runtime.py').read_bytes())
    return folder, loader, net


def spar_stream(seconds):
    "Recordings of SPAR one after the other, as one long session"
    parts, clocks, start = [], [], 0.0
    for recording in load_dataset('spar').recordings:
        x, t = recording.streams['imu'].read()
        parts.append(np.asarray(x[:, :3], float))
        clocks.append(start + t - t[0])
        start = clocks[-1][-1] + 0.02
        if start > seconds:
            break
    return np.concatenate(clocks), np.concatenate(parts)


def csv_text(t, x):
    "Samples as the CSV that a stream reads"
    rows = [f'{time},{a},{b},{c}' for time, (a, b, c) in zip(t, x)]
    return '\n'.join(['time,acc_x,acc_y,acc_z', *rows, ''])


def labels(text):
    "The column `label` of what a stream wrote"
    return [line.split(',')[1] for line in text.splitlines()[1:]]


FOREIGN = ('torch', 'pandas', 'harkd', 'scipy')
INSTALLED = f'import importlib.util as u; print([m for m in {FOREIGN} if u.find_spec(m)])'


def test_a_machine_with_numpy_and_onnxruntime_alone(made, tmp_path):
    folder, loader, _ = made
    venv = tmp_path / 'v'
    subprocess.run([sys.executable, '-m', 'venv', venv], check=True)
    install = [venv / 'bin/pip', 'install', '-q', '--disable-pip-version-check']
    constraints = ['-c', ROOT / 'constraints.txt']
    pip = subprocess.run(
        [*install, *constraints, 'numpy', 'onnxruntime'], capture_output=True, text=True
    )
    if pip.returncode:
        pytest.skip(f'pip cannot install onnxruntime here: {pip.stderr[-200:]}')
    t, x = spar_stream(60)
    env = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}

    def python(*args, **kwargs):
        command = [venv / 'bin/python', *args]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=env, **kwargs
        )

    out = python(folder / 'runtime.py', '--threshold', '0', input=csv_text(t, x))
    assert out.returncode == 0, out.stderr
    assert python('-c', INSTALLED).stdout.strip() == '[]'
    stream = StreamingClassifier(Bundle(folder), threshold=0.0)
    here = stream.push(t, x) + stream.finish()
    assert labels(out.stdout) == [d.label for d in here]
    assert len(here) > 20


def damage_cut(folder):
    (folder / 'model.onnx').write_bytes((folder / 'model.onnx').read_bytes()[:-100])


def damage_flip(folder):
    data = bytearray((folder / 'model.onnx').read_bytes())
    data[-200] ^= 1
    (folder / 'model.onnx').write_bytes(bytes(data))


def damage_lose(folder):
    (folder / 'model.onnx').unlink()


def damage_half(folder):
    (folder / 'bundle.json').write_text((folder / 'bundle.json').read_text()[:200])


def damage_list(folder):
    (folder / 'bundle.json').write_text(json.dumps([1, 2]))


def damage_lack(folder):
    about = read_json(folder / 'bundle.json')
    del about['mean']
    write_json(folder / 'bundle.json', about)


def damage_relabel(folder):
    about = read_json(folder / 'bundle.json')
    write_json(folder / 'bundle.json', {**about, 'classes': about['classes'][::-1]})


def damage_spelling(folder):
    "A flipped bit that makes 1e-05 of 1E-05 changes no value"
    sealed(note=1e-05)(folder)
    text = (folder / 'bundle.json').read_text()
    (folder / 'bundle.json').write_text(text.replace('1e-05', '1E-05'))


def damage_repeat(folder):
    text = (folder / 'bundle.json').read_text()
    (folder / 'bundle.json').write_text(text.replace('{', '{"threshold": 0.9,', 1))


def sealed(**new):
    "A damage that was sealed as if it belonged"

    def change(folder):
        about = {**read_json(folder / 'bundle.json'), **new}
        write_json(folder / 'bundle.json', about | {'seal': seal_bundle(about)})

    return change


@pytest.mark.parametrize(
    'damage,says',
    [
        (damage_relabel, 'was changed after it was written'),
        (damage_spelling, 'was changed after it was written'),
        (damage_repeat, 'was changed after it was written'),
        (sealed(std=[1.0, 0.0, 1.0]), 'do not fit together'),
        (sealed(mean=[1.0]), 'do not fit together'),
        (sealed(classes=[]), 'do not fit together'),
        (sealed(temperature=0.0), 'do not fit together'),
        (sealed(format='pt'), "unknown format 'pt'"),
        (sealed(format=['onnx']), "'format' has a value that it cannot have"),
        (sealed(temperature=None), "'temperature' has a value that it cannot have"),
        (sealed(threshold='high'), "'threshold' has a value that it cannot have"),
        (sealed(stride_s=float('inf')), "'stride_s' has a value that it cannot have"),
        (sealed(mean=[0.0, 0.0, '1']), "'mean' has a value that it cannot have"),
        (sealed(channels='acc'), "'channels' has a value that it cannot have"),
        (sealed(samples=True), "'samples' has a value that it cannot have"),
        (sealed(samples=10**9), 'far too large'),
        (sealed(fs=0), "'fs' is zero"),
        (sealed(channels=['acc_x', 'acc_x', 'acc_z']), 'occurs twice'),
        (sealed(channels=['acc_x', 'acc_y', 'acc_norm']), 'needs the channel acc_z'),
        (sealed(file='../model.onnx'), 'must be a name in this folder'),
        (sealed(file=''), 'must be a name in this folder'),
        (sealed(files={'../runtime.py': 64 * '0'}), 'must be a name in this folder'),
        (sealed(files={'': 64 * '0'}), 'must be a name in this folder'),
        (sealed(files={'runtime.py': 5}), "'files' must name files with their SHA-256"),
        (sealed(files=['runtime.py']), "'files' must name files with their SHA-256"),
        (sealed(files={'model.c': 64 * '0'}), 'model.c is missing'),
        (sealed(files={'model.onnx': 64 * '0'}), 'model.onnx was changed after it was exported'),
        (sealed(classes=['a', 'b']), 'decides between 7 classes, bundle.json names 2'),
        (sealed(samples=7, format='tflite'), 'cannot be opened by its engine'),
        (damage_cut, 'is not the file that bundle.json describes'),
        (damage_flip, 'is not the file'),
        (damage_lose, 'is missing'),
        (damage_half, 'cannot be read'),
        (damage_list, 'lacks format'),
        (damage_lack, 'lacks mean'),
    ],
)
def test_a_damaged_bundle_is_refused(made, tmp_path, damage, says):
    folder = tmp_path / 'bundle'
    shutil.copytree(made[0], folder)
    damage(folder)
    if 'engine' in says:
        pytest.importorskip('ai_edge_litert')
    with pytest.raises(BadBundle, match=says):
        Bundle(folder)


@pytest.mark.parametrize('layout', [{'indent': 4}, {'ensure_ascii': False}, {'indent': 0}])
def test_another_layout_of_bundle_json_is_the_same_bundle(made, tmp_path, layout):
    folder = tmp_path / 'bundle'
    shutil.copytree(made[0], folder)
    about = read_json(folder / 'bundle.json') | {'note': 'größer "} , {" 1e-05 '}
    text = json.dumps(about | {'seal': seal_bundle(about)}, **layout)
    (folder / 'bundle.json').write_text(text, encoding='utf8')
    assert Bundle(folder).about['note'] == about['note']


def test_a_folder_without_a_bundle_is_refused(tmp_path):
    with pytest.raises(BadBundle, match='is not a bundle'):
        Bundle(tmp_path)


@pytest.mark.parametrize(
    'bad,says',
    [
        (dict(hop_s=-3), 'hop_s must be > 0'),
        (dict(hop_s=0.013), 'a whole number of samples'),
        (dict(gap_s=float('nan')), 'gap_s must be > 0'),
        (dict(scale=[1.0, 2.0]), 'one for each of acc_x'),
        (dict(smooth=1.0), 'smooth must be'),
        (dict(hold=0), 'hold must be'),
        (dict(threshold=1.5), 'threshold must be'),
    ],
)
def test_settings_that_a_stream_cannot_have(made, bad, says):
    with pytest.raises(ValueError, match=says):
        StreamingClassifier(Bundle(made[0]), **bad)


@pytest.mark.parametrize(
    'about,says',
    [
        (dict(whole=True), '-p window_s 2'),
        (dict(window_s=4.013), 'window_s must be > 0'),
        (dict(stride_s=0.0), 'hop_s must be > 0'),
    ],
)
def test_models_that_a_stream_cannot_have(made, tmp_path, about, says):
    folder = tmp_path / 'bundle'
    shutil.copytree(made[0], folder)
    sealed(**about)(folder)
    with pytest.raises(ValueError, match=says):
        StreamingClassifier(Bundle(folder))


def test_a_caller_may_reuse_its_arrays_and_ask_for_reports(made):
    t, x = spar_stream(24)
    reused, plain = (StreamingClassifier(Bundle(made[0]), threshold=0.0) for _ in range(2))
    row = np.zeros((1, 3))
    got, want = [], []
    for time, values in zip(t[:1200], x[:1200]):
        row[:] = values
        got += reused.push(time, row)
        assert reused.report['samples'] >= 0
        want += plain.push(time, values.copy())
    assert got == want and len(got) > 3


def test_wrong_shapes_raise_and_nothing_is_taken(made):
    stream = StreamingClassifier(Bundle(made[0]))
    with pytest.raises(ValueError, match=r'samples must be \(2,3\): acc_x, acc_y, acc_z; got'):
        stream.push([1.0, 2.0], np.zeros((2, 6)))
    assert stream.push(np.empty(0), np.empty((0, 3))) == []
    assert stream.report['samples'] == 0


def test_a_decision_is_forgotten_when_probabilities_are_no_numbers():
    smoother = DecisionSmoother(['A', 'B'], smooth=0.5)
    smoother(0.0, np.array([0.9, 0.1]))
    assert smoother(1.0, np.array([np.nan, 0.1])) == (1.0, 'unknown', 0.0, 'unknown')
    assert smoother(2.0, np.array([0.2, 0.8])).label == 'B'


def test_a_header_without_a_channel_is_refused(made):
    with pytest.raises(ValueError, match='missing: time, acc_x'):
        stream_csv(made[0], ['t,acc_y,acc_z'], None)


def decided(folder, text, **kwargs):
    "Report of a stream from text, and the decisions"
    out = io.StringIO()
    report = stream_csv(folder, io.StringIO(text), out, threshold=0.0, **kwargs)
    return report, [line.split(',')[1] for line in out.getvalue().splitlines()[1:]]


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (lambda s: s.replace('acc_x,', 'acc_x,acc_x,'), "names 'acc_x' twice"),
        (lambda s: s.replace('.', ','), 'line 2 has 8 cells, the header 4: .*decimal point'),
        (lambda s: s.replace('\n', '\n0,'), 'line 2 has 5 cells'),
    ],
    ids=['a column twice', 'decimal commas', 'a counter without a name'],
)
def test_rows_that_do_not_fit_the_header_are_refused(made, change, says):
    with pytest.raises(ValueError, match=says):
        decided(made[0], change(csv_text(*spar_stream(6))))


def test_a_later_row_that_does_not_fit_is_left_out_and_counted(made):
    t, x = spar_stream(8)
    lines = csv_text(t, x).splitlines()
    lines[100:100] = ['broken', '1,5,2,5,3,5,4,5']
    report, labels = decided(made[0], '\n'.join(lines))
    assert report['left_out'] == 2
    assert labels == decided(made[0], csv_text(t, x) + '\n')[1]
    padded = '\n'.join(line + ',' for line in csv_text(t, x).splitlines()[1:])
    header = csv_text(t, x).splitlines()[0]
    assert decided(made[0], f'{header}\n{padded}')[1] == labels


@pytest.mark.parametrize('factor', [1 / 9.80665, 1000 / 9.80665], ids=['g', 'mg'])
def test_another_unit_is_noticed_and_a_factor_for_its_sensor_mends_it(made, factor):
    t, x = spar_stream(12)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        _, right = decided(made[0], csv_text(t, x))
    with pytest.warns(UserWarning, match='acc has a root mean square of .* --scale acc=FACTOR'):
        decided(made[0], csv_text(t, x * factor))
    assert decided(made[0], csv_text(t, x * factor), scale=f'acc={1 / factor}')[1] == right
    assert decided(made[0], csv_text(t, x * factor), scale=str(1 / factor))[1] == right
    with pytest.raises(ValueError, match="the bundle reads no 'gyro', only acc_x"):
        decided(made[0], csv_text(t, x), scale='gyro=0.0174533')


@pytest.mark.parametrize(
    'sensor, trained, factor, warns',
    [
        ('acc', 9.8, 0.34, False),
        ('acc', 9.8, 0.33, True),
        ('acc', 9.8, 2.99, False),
        ('acc', 9.8, 3.01, True),
        ('acc', 7.9, 0.01, False),  # without gravity a sensor may rest
        ('gyro', 9.8, 0.0, False),
        ('gyro', 9.8, 14.9, False),
        ('gyro', 9.8, 15.1, True),
    ],
)
def test_how_far_a_sensor_may_be_from_its_training(sensor, trained, factor, warns):
    mean, std = np.array([0.6, 0.0, 0.0]) * trained, np.array([0.0, 0.8, 0.0]) * trained
    levels = SignalLevels([f'{sensor}_{a}' for a in 'xyz'], mean, std, least=3)
    row = np.array([[0.0, 0.0, factor * trained]])
    assert levels.add(np.repeat(row, 2, 0)) == []  # too few samples
    found = levels.add(np.concatenate([row, [[np.nan, 0.0, 0.0]]]))
    assert bool(found) is warns and levels.add(row) == []  # said once


def test_a_unit_is_doubted_after_two_windows(made):
    bundle = Bundle(made[0])
    n = 2 * bundle.samples
    t, x = np.arange(n) / bundle.fs, np.full((n, 3), 500.0)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        stream = StreamingClassifier(bundle)
        stream.push(t[:-1], x[:-1])
        assert stream.report['samples'] == n - 1
        with pytest.raises(UserWarning, match='acc has a root mean square of 866'):
            stream.push(t[-1:], x[-1:])
            stream.report


def test_stamps_and_values_that_no_sensor_gives_are_left_out():
    "From 2**52 samples on a stamp cannot tell two of them apart"
    late, strong = 2.0**52 / 64, 1e6
    cases = {np.nextafter(late, 0): 0, late: 1, -late: 1, np.nan: 1, np.inf: 1}
    for stamp, left_out in cases.items():
        resampler = StreamResampler(2, 64.0)
        assert resampler.push(np.array([stamp]), np.zeros((1, 2))) == []
        assert resampler.left_out == left_out and (resampler.newest is None) == bool(left_out)
    for value, left_out in {np.nextafter(strong, 0): 0, strong: 1, -strong: 1, np.nan: 1}.items():
        resampler = StreamResampler(2, 64.0)
        resampler.push(np.zeros(1), np.array([[0.0, value]]))
        assert resampler.left_out == left_out


def test_magnitudes_of_a_bundle_stand_where_they_stood_in_training():
    channels = ['left_acc_norm', 'gyro_z', 'gyro_y', 'gyro_x', 'gyro_norm']
    channels += [f'left_acc_{a}' for a in 'xyz']
    bundle = Bundle.__new__(Bundle)  # without its files
    bundle.about = dict(channels=channels)
    bundle.raw = [c for c in channels if not c.endswith('norm')]
    bundle.order = [channels.index(c) for c in (*bundle.raw, 'left_acc_norm', 'gyro_norm')]
    bundle.mean, bundle.std = np.float32(range(8)), np.float32(range(1, 9))
    raw = np.array([[[0.0, 3.0, 4.0, 1.0, 2.0, 2.0]]])  # gyro z, y, x, acc x, y, z
    found = bundle.prepare(raw) * bundle.std + bundle.mean
    np.testing.assert_allclose(found, [[[3.0, 0.0, 3.0, 4.0, 5.0, 1.0, 2.0, 2.0]]], atol=1e-5)
    mean, std = bundle.raw_statistics
    assert (mean.tolist(), std.tolist()) == ([1, 2, 3, 5, 6, 7], [2, 3, 4, 6, 7, 8])
    bundle.about, bundle.raw = dict(channels=['a', 'b']), ['a', 'b']
    bundle.mean, bundle.std = np.float32([1, 2]), np.float32([2, 4])
    assert bundle.prepare(np.array([[[3.0, 0.0]]])).tolist() == [[[1.0, -0.5]]]


class DoublingInterpreter:
    "Of a file whose type is its content: twice the last sample, in the steps of its numbers"

    def __init__(self, model_content, num_threads=1):
        self.kind = np.dtype(model_content.decode())
        self.steps = {np.dtype('int8'): (0.5, 3)}.get(self.kind, (0.0, 0))

    def allocate_tensors(self):
        pass

    def get_input_details(self):
        return [dict(index=0, dtype=self.kind.type, quantization=self.steps)]

    def get_output_details(self):
        scale, zero = self.steps
        return [dict(index=1, dtype=self.kind.type, quantization=(2 * scale, zero - 1))]

    def set_tensor(self, index, value):
        assert (index, value.dtype, value.ndim) == (0, self.kind, 3)
        self.value = value[:, -1]

    def invoke(self):
        int8 = self.kind == 'int8'
        self.result = np.maximum(self.value, -127) - 1 if int8 else 2 * self.value

    def get_tensor(self, index):
        return self.result


@pytest.mark.parametrize('make', [_tflite, tflite_runner], ids=['bundle', 'chapter'])
@pytest.mark.parametrize('kind, last', [('float32', [0.3, -1.2]), ('int8', [0.5, -1.0])])
def test_int8_files_are_fed_and_read_in_their_steps(monkeypatch, make, kind, last):
    module = SimpleNamespace(Interpreter=DoublingInterpreter)
    monkeypatch.setitem(sys.modules, 'ai_edge_litert', SimpleNamespace(interpreter=module))
    monkeypatch.setitem(sys.modules, 'ai_edge_litert.interpreter', module)
    windows = np.array([[[0.0, 0.0], [0.3, -1.2]], [[0.0, 0.0], [900.0, -900.0]]], np.float32)
    found = make(kind.encode(), 1)(windows)
    largest = 900.0 if kind == 'float32' else 0.5 * (127 - 3)
    least = -900.0 if kind == 'float32' else 0.5 * (-127 - 3)
    np.testing.assert_allclose(found, 2 * np.array([last, [largest, least]]), atol=1e-6)


def test_a_factor_must_name_its_sensor_where_there_are_two():
    channels = ['acc_x', 'acc_y', 'gyro_x']
    with pytest.raises(ValueError, match='leaves open which sensor: say --scale acc=9.8'):
        _scale_factors('9.8', channels)
    assert _scale_factors('acc=2, gyro=3', channels).tolist() == [2, 2, 3]
    assert _scale_factors('acc_y=2', channels).tolist() == [1, 2, 1]


def test_a_sensor_that_is_far_slower_than_the_model_is_named(made):
    t, x = spar_stream(20)
    with pytest.warns(UserWarning, match=r'gives 5 samples per second, .* faster than 2\.5 Hz'):
        decided(made[0], csv_text(t[::10], x[::10]))


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        (lambda t, x: csv_text(1000 * t, x), 'gaps were found; .* --time-scale 0.001'),
        (lambda t, x: csv_text(t, x).replace('\n', '\nT', len(t)), 'had no number as time'),
        (lambda t, x: csv_text(t[:9], x[:9]), 'must be in seconds'),
    ],
    ids=['milliseconds', 'words as time', 'nine samples'],
)
def test_a_stream_without_a_decision_ends_with_the_reason(made, monkeypatch, text, says):
    monkeypatch.setattr(sys, 'stdin', io.StringIO(text(*spar_stream(6))))
    with pytest.raises(SystemExit, match=f'error: no decision: .* {says}'):
        run_command([str(made[0])])


def test_a_long_session_in_random_chunks_decides_as_offline_with_flat_memory(made):
    folder, loader, net = made
    t, x = spar_stream(900)
    bundle = Bundle(folder)
    rng = np.random.default_rng(0)
    stream = Stream(x, t, ('acc_x', 'acc_y', 'acc_z'))
    session = Recording('r', 'p', 'spar', {'imu': stream}, (Span('PEN', t[0], t[-1] + 0.02),))
    windows = cut_windows(Dataset(load_dataset('spar').card, (session,), 'x'), ('imu:acc',))
    batch = loader.norm(windows.batch(np.arange(len(windows))))
    with torch.no_grad():
        want = net(batch.x['imu:acc']).argmax(1).numpy()
    s = StreamingClassifier(bundle, threshold=0.0)
    got, i, peaks = [], 0, []
    tracemalloc.start()
    while i < len(x):
        n = int(rng.integers(1, 300))
        got += s.push(t[i : i + n], x[i : i + n])
        i += n
        peaks.append(tracemalloc.get_traced_memory()[0] - sys.getsizeof(got))
    tracemalloc.stop()
    got += s.finish()
    assert np.allclose([d.time for d in got], windows.table.stop, atol=1e-6)
    assert len(got) > 400
    assert [d.window_label for d in got] == [bundle.classes[k] for k in want]
    late, early = np.median(peaks[-100:]), np.median(peaks[100:200])
    # a decision is kept by the caller; nothing else grows
    assert late - early < 250 * len(got) + 50_000, (early, late)
    assert len(s.sliding.buffer) <= bundle.samples + s.sliding.hop


STEPS = [0.0, 0.005, 0.02, 0.021, 0.3, 0.9]  # seconds between samples
SHARES = [0.1, 0.1, 0.4, 0.3, 0.05, 0.05]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_chunking_gives_the_same_even_samples(data):
    n = data.draw(st.integers(2, 120))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    t = np.cumsum(rng.choice(STEPS, n, p=SHARES))
    x = rng.normal(size=(n, 2))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=8)))

    def resampled(cuts):
        s = StreamResampler(2, 50.0)
        segments = []
        for a, b in zip([0, *cuts], [*cuts, n]):
            segments += s.push(t[a:b], x[a:b])
        segments += s.finish()
        return {p.start + k: row for p in segments for k, row in enumerate(p.x)}

    whole, parts = resampled([]), resampled(cuts)
    assert whole.keys() == parts.keys()
    assert all(np.allclose(whole[k], parts[k], atol=1e-9) for k in whole)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_fast_sensor_is_low_passed_as_offline(data):
    "Any rate above 1.1 times that of the model, jitter, gaps and chunks"
    rate = data.draw(st.sampled_from([62.5, 80.0, 100.0, 128.0, 200.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    t = np.arange(0, 12, 1 / rate)
    t = np.sort(t + rng.uniform(-0.2, 0.2, len(t)) / rate)
    gap = data.draw(st.sampled_from([0.0, 0.4, 1.7]))
    t = t[(t < 5) | (t > 5 + gap)]
    x = rng.normal(size=(len(t), 2))
    want = downsample(x, t, 50.0)
    s = StreamResampler(2, 50.0, rate=measured_rate(t))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(t)), max_size=8)))
    segments = []
    for a, b in zip([0, *cuts], [*cuts, len(t)]):
        segments += s.push(t[a:b], x[a:b])
        assert len(s.kept[0]) < 0.7 * rate + 2  # it keeps what the filter needs
    segments += s.finish()
    got = {p.start + k: row for p in segments for k, row in enumerate(p.x)}
    assert len(got) >= len(want) - round(gap * 50) - 2
    assert all(np.allclose(want[k], row, atol=1e-9) for k, row in got.items())


def test_a_rate_measured_on_two_seconds_gives_nearly_the_same_samples():
    "The filter has a step more on its fine grid where the rates round otherwise"
    t = np.arange(0, 20, 1 / 100)
    x = np.stack([np.sin(2 * np.pi * f * t) for f in (1, 5, 15)], 1)
    s = StreamResampler(3, 50.0, rate=101.0)
    assert s.k == 13 and fine_factor(100.0, 50.0) == 12
    got = np.concatenate([p.x for p in s.push(t, x) + s.finish()])
    assert np.abs(got - downsample(x, t, 50.0)).max() < 0.005


@pytest.mark.parametrize('chunk', [1, 64, 5000])
def test_a_stream_measures_the_rate_itself_and_decides_as_offline(made, chunk):
    "44 Hz at 100 Hz before a model of 50 Hz: without the low-pass a movement of 6 Hz"
    folder, loader, net = made
    slow, samples = spar_stream(40)
    t = np.arange(slow[0], slow[-1], 1 / 100)
    x = np.stack([np.interp(t, slow, c) for c in samples.T], 1)
    x += 5 * np.sin(2 * np.pi * 44 * t)[:, None]
    stream = Stream(x, t, ('acc_x', 'acc_y', 'acc_z'))
    session = Recording('r', 'p', 'spar', {'imu': stream}, (Span('PEN', t[0], t[-1] + 0.01),))
    windows = cut_windows(Dataset(load_dataset('spar').card, (session,), 'x'), ('imu:acc',))
    batch = loader.norm(windows.batch(np.arange(len(windows))))
    with torch.no_grad():
        want = net(batch.x['imu:acc']).softmax(1).amax(1).numpy()
    s = StreamingClassifier(Bundle(folder), threshold=0.0)
    got = []
    for i in range(0, len(t), chunk):
        got += s.push(t[i : i + chunk], x[i : i + chunk])
    got += s.finish()
    assert s.report['lowpassed'] and s.report['hz'] == pytest.approx(100, abs=0.1)
    assert np.allclose([d.time for d in got], windows.table.stop, atol=1e-6)
    assert np.allclose([d.probability for d in got], want, atol=1e-3)


junk = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=4),
    st.none(),
    st.integers(-(10**6), 10**6),
    st.booleans(),
)
times = st.one_of(st.floats(-1e4, 1e4), junk)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(times, st.lists(junk, min_size=0, max_size=5)), max_size=40))
def test_no_sample_can_crash_a_stream_or_pass_unseen(made, rows):
    """Either the sample has as many values as channels, and is used or counted; or it raises, and
    the stream is as before"""
    s = StreamingClassifier(Bundle(made[0]))
    for t, x in rows:
        before = dict(s.report)
        try:
            decisions = s.push([t], [x])
        except ValueError as e:
            assert 'samples must be' in str(e)
            assert s.report == before and len(x) != 3
        else:
            assert len(x) == 3
            assert s.report['samples'] == before['samples'] + 1
            assert all(math.isfinite(d.probability) for d in decisions)
            assert np.isfinite(s.sliding.buffer).all()
    s.finish()


def test_gaps_jumps_and_an_hour_of_silence(made):
    s = StreamingClassifier(Bundle(made[0]), threshold=0.0)
    t, x = spar_stream(40)
    first = s.push(t, x)
    assert s.push(t[-1] + 3600, x[0]) == []
    assert len(s.sliding.buffer) < s.bundle.samples + s.sliding.hop
    later = s.push(t[-1] + 3600 + t, x)
    assert s.report['gaps'] == 1 and len(later) == len(first)
    assert all(d.time > t[-1] + 3600 + 3.9 for d in later)
    assert s.push(t, x) != [] and s.report['restarts'] == 1  # the clock jumped back
    again = StreamingClassifier(Bundle(made[0]), threshold=0.0).push(t, x)
    assert [d.window_label for d in first] == [d.window_label for d in again]


@pytest.mark.parametrize('size', (1, 2, 4, 50))
@pytest.mark.parametrize('seed', (0, 1))
def test_a_stream_of_packets_decides_as_the_recording_does(made, size, seed):
    "Samples of a packet get the times that the reader of a recording gives them"
    t, x = spar_stream(12)
    stamps = t[::size].repeat(size)[: len(t)]
    rng = np.random.default_rng(seed)
    stamps, x = stamps[min(size - 1, 1) :], x[min(size - 1, 1) :]  # the first packet is not whole
    cuts = np.sort(rng.integers(0, len(stamps), 30))

    def decisions(times):
        stream = StreamingClassifier(Bundle(made[0]), threshold=0.0)
        parts = zip(np.split(times, cuts), np.split(x, cuts))
        found = sum([stream.push(*part) for part in parts], []) + stream.finish()
        return found, stream.report

    given, report = decisions(stamps)
    spread, _ = decisions(spread_packets(stamps))
    assert len(given) == len(spread) > 3 and report['averaged'] == 0
    assert report['spread'] > 0.4 * len(t) if size > 1 else report['spread'] == 0
    np.testing.assert_allclose([d.time for d in given], [d.time for d in spread], atol=1e-9)
    assert [d.window_label for d in given] == [d.window_label for d in spread]
    probabilities = [[d.probability for d in found] for found in (given, spread)]
    np.testing.assert_allclose(*probabilities, atol=1e-5)


def test_packets_with_a_gap_a_restart_repeats_and_a_clock_that_stands_still():
    stamps = np.repeat(np.arange(20) * 0.5, 5)
    x = np.arange(100.0)[:, None]
    packets = PacketSpreader(1)
    packets.measure(stamps, x)
    t, _ = packets.push(np.r_[stamps, np.full(5, 60.0), np.full(5, 0.5)], np.arange(110.0)[:, None])
    assert len(t) == 105 and (np.diff(t[:100]) > 0.0999).all()
    np.testing.assert_allclose(t[100:], 60 + np.arange(5) / 10)  # of the packet before the restart
    t, values = packets.push(np.full(6, 1.0), np.r_[np.arange(110.0, 115), 114][:, None])
    np.testing.assert_allclose(t, 0.5 + np.arange(5) / 10)
    t, values = packets.push(np.full(9999, 1.0), np.arange(9999.0)[:, None])
    assert not len(t) and len(packets.waiting[0]) == 4096 and packets.left_out == 9999 + 5 - 4096
    assert packets.finish()[0].max() < 1.0 + 1.5 * 0.5  # no times beyond where a packet ends
    t, _ = packets.push(np.array([2.0, np.nan, 2.0, 2.5]), np.arange(4.0)[:, None])
    np.testing.assert_allclose(t, [2.0, 2.25, np.nan])
    t, _ = packets.push(np.array([2.5, 2.4, 2.5, 3.0]), np.arange(4.0)[:, None])
    assert packets.late == 1
    np.testing.assert_allclose(t, [2.5, 2.5 + 0.5 / 3, 2.5 + 1 / 3])


def packet_stream(sizes, fs=50.0, delay=None, seed=0):
    "Samples of a smooth signal, the stamps of their packets, and their own times"
    rng = np.random.default_rng(seed)
    count = int(np.sum(sizes))
    own = np.arange(count) / fs
    first = np.repeat(np.cumsum(np.r_[0, sizes[:-1]]), sizes)
    late = 0 if delay is None else np.repeat(rng.uniform(0, delay, len(sizes)), sizes)
    x = np.stack([np.sin(own * f) * 3 for f in (2.0, 5.0, 9.0)], 1) + rng.normal(
        0, 0.01, (count, 3)
    )
    return own[first] + late, own, x


def seen(made, stamps, x, chunk):
    "The windows that the model of a stream sees, and its report before the end"
    stream, windows = StreamingClassifier(Bundle(made[0]), threshold=0.0), []
    logits = stream.bundle.logits
    stream.bundle.logits = lambda w: windows.append(w) or logits(w)
    for i in range(0, len(x), chunk):
        stream.push(stamps[i : i + chunk], x[i : i + chunk])
    report = stream.report
    stream.finish()
    return np.concatenate(windows), report


@pytest.mark.parametrize('chunk', (1, 25, 30, 3000))
@pytest.mark.parametrize('size', (11, 25, 30, 60))
def test_the_rate_of_packets_does_not_depend_on_how_they_are_pushed(made, size, chunk):
    "Packets longer than the largest gap, one a push, and singly: neither low-passed nor kept back"
    stamps, own, x = packet_stream([size] * (1500 // size))
    windows, report = seen(made, stamps, x, chunk)
    plain, wanted = seen(made, own, x, chunk)
    assert report['hz'] == wanted['hz'] == 50 and not report['lowpassed']
    assert report['windows'] >= wanted['windows'] - 2 > 10
    np.testing.assert_allclose(windows[: len(plain)], plain[: len(windows)], atol=1e-6)


def test_jitter_of_packets_is_no_faster_sensor_and_no_error(made):
    for size, delay in ((25, 0.01), (30, 0.05)):
        stamps, _, x = packet_stream([size] * (1500 // size), delay=delay)
        _, report = seen(made, stamps, x, 1)
        assert report['hz'] == pytest.approx(50, rel=0.06) and not report['lowpassed']
    stamps, _, x = packet_stream([30] * 50)
    stamps[60:90] = stamps[59] + 0.001
    assert seen(made, stamps, x, 7)[1]['hz'] == pytest.approx(50, rel=0.06)


def test_packets_of_a_faster_sensor_are_low_passed(made):
    stamps, own, x = packet_stream([60] * 30, fs=100.0)
    windows, report = seen(made, stamps, x, 60)
    plain, wanted = seen(made, own, x, 60)
    assert report['lowpassed'] and report['hz'] == pytest.approx(wanted['hz'], abs=0.1)
    assert np.median(np.abs(windows[: len(plain)] - plain[: len(windows)])) < 0.02


@pytest.mark.parametrize('chunk', (1, 100, 3000))
def test_packets_that_begin_after_a_rest_or_after_single_samples_are_spread(made, chunk):
    single, _, x = packet_stream([1] * 500 + [20] * 50)
    _, report = seen(made, single, x, chunk)
    assert report['averaged'] < 45 and report['spread'] > 850 and not report['lowpassed']
    stamps, _, x = packet_stream([10] * 150)
    x[:150] = 0
    _, report = seen(made, stamps, x, chunk)
    assert report['averaged'] < 100 and report['spread'] > 1100


def test_a_late_sample_in_a_packet_is_left_out_and_counted(made):
    stamps, own, x = packet_stream([60] * 25)
    late = np.insert(stamps, 630, stamps[600] - 0.1)
    windows, report = seen(made, late, np.insert(x, 630, 99, axis=0), 60)
    plain, _ = seen(made, stamps, x, 60)
    assert report['late'] == 1 and report['restarts'] == 0
    np.testing.assert_allclose(windows, plain, atol=1e-6)


def test_repeated_rows_are_no_packets(made):
    t, x = spar_stream(6)
    stream = StreamingClassifier(Bundle(made[0]), threshold=0.0)
    twice = stream.push(t.repeat(2), x.repeat(2, axis=0)) + stream.finish()
    once = StreamingClassifier(Bundle(made[0]), threshold=0.0)
    found = [*once.push(t, x), *once.finish()]
    assert stream.report['spread'] == 0 and not stream.report['lowpassed']
    assert stream.report['hz'] == once.report['hz']
    assert [d.window_label for d in found] == [d.window_label for d in twice]
    probabilities = [[d.probability for d in decisions] for decisions in (found, twice)]
    np.testing.assert_allclose(*probabilities, atol=1e-5)


def test_nothing_of_before_a_gap_is_smoothed_into_what_follows(made):
    "After a silence the smoothed probabilities are those of a stream that begins there"

    mix = np.random.default_rng(0).normal(size=(3, 7))  # an untrained network is never sure

    def stream():
        bundle = Bundle(made[0])
        bundle.logits = lambda windows: windows.mean(1) @ mix
        return StreamingClassifier(bundle, threshold=0.0, smooth=0.9, hold=2)

    t, x = spar_stream(30)
    whole, fresh = stream(), stream()
    whole.push(t, -x)
    past = whole.smoother.mean
    later = whole.push(t[-1] + 60 + t, x) + whole.finish()
    later = [d.probability for d in later if d.time > t[-1] + 60]
    first, *others = fresh.push(t, x) + fresh.finish()
    alone = [d.probability for d in (first, *others)]
    # 60 s are no whole number of samples: the last window ends elsewhere
    assert later[:-1] == pytest.approx(alone[: len(later) - 1], abs=5e-3)
    assert abs(past[fresh.bundle.classes.index(first.label)] - first.probability) > 0.05


def test_an_exporter_neither_warns_nor_prints(capsys):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        with _silent():
            warnings.warn('this operator is old', stacklevel=1)
            print('step 1 of 2')
            print('step 2 of 2', file=sys.stderr)
    assert not heard and capsys.readouterr() == ('', '')


def test_the_newest_packet_alone_is_spread_without_a_warning_of_numpy():
    packets, stamps = PacketSpreader(1), np.repeat([0.0, 0.5, 1.0], 5)
    packets.measure(stamps, np.arange(15.0)[:, None])
    packets.push(stamps[:5], np.arange(5.0)[:, None])
    with np.errstate(all='raise'):
        t, x = packets.finish()
    np.testing.assert_allclose(t, np.arange(5) / 10)
    assert x.ravel().tolist() == [0, 1, 2, 3, 4] and packets.finish()[0].size == 0


def test_a_rate_that_is_changed_holds_as_one_that_was_given():
    given, changed = StreamResampler(1, 50.0, rate=200.0), StreamResampler(1, 50.0)
    changed.push(np.arange(50) / 50, np.zeros((50, 1)))
    changed.change_rate(200.0)
    t = 10 + np.arange(2000) / 200
    found = [r.push(t, np.sin(40 * t)[:, None]) + r.finish() for r in (given, changed)]
    values = [np.concatenate([segment.x for segment in segments]) for segments in found]
    np.testing.assert_array_equal(*values)
    assert given.delay == changed.delay > 0


@pytest.mark.parametrize('off, first, last', [(5e-7, 250, 50), (1.5e-6, 251, 49)])
def test_a_stamp_is_on_the_grid_within_a_millionth_of_a_sample(off, first, last):
    "After a gap, too late by so many samples; before it, too early"
    grid = np.r_[np.arange(51.0), np.arange(250.0, 300)]
    grid[50] -= off
    grid[51] += off
    even = StreamResampler(1, 50.0)
    segments = even.push(grid / 50, grid[:, None]) + even.finish()
    numbers = np.concatenate([s.start + np.arange(len(s.x)) for s in segments])
    assert numbers[numbers < 100].max() == last and numbers[numbers > 100].min() == first


@pytest.mark.parametrize('rows, sizes', [(0, []), (3, [3]), (4, [4]), (9, [4, 4, 1])])
def test_rows_come_in_lists_of_the_given_size_and_the_rest(rows, sizes):
    text = ([str(k), str(2 * k), ''] for k in range(rows))
    found = list(_chunks(text, 2, [1], 4))
    assert list(map(len, found)) == sizes
    assert [row[0] for part in found for row in part] == [str(2 * k) for k in range(rows)]
    assert list(_chunks([['1', '2'], ['1'], ['1', '2', '3']], 2, [0, 1], 9)) == [
        [['1', '2'], [None, None], [None, None]]
    ]
