"Bundles on machines without us, and streams that misbehave"

import math
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harkd.data import Dataset, Recording, Span, Stream, load_dataset
from harkd.deploy import export_onnx
from harkd.experiment import FitConfig, experiment_windows, model_metadata
from harkd.preprocess import cut_windows
from harkd.runs import set_seed
from harkd.runtime import Bundle, StreamingClassifier, StreamResampler
from harkd.split import BatchLoader, by_subject
from harkd.student import make_student
from tests.conftest import ROOT


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A bundle of a (barely trained) student of SPAR, with its loader and its model"
    cfg = FitConfig('spar', student_inputs='imu:acc', teacher_inputs='imu:acc')
    w = experiment_windows(cfg)
    people = load_dataset('spar').subjects
    loader = BatchLoader.fit(by_subject(w, people[:7], people[7:]))
    set_seed(0)
    net = make_student('conv_8k', w).eval()
    folder = tmp_path_factory.mktemp('bundle')
    export_onnx(
        net,
        model_metadata(loader, net, cfg, 0),
        folder,
        next(loader.eval_batches(loader.split.val[:50])).x['imu:acc'],
    )
    (folder / 'runtime.py').write_bytes((ROOT / 'harkd/runtime.py').read_bytes())
    return folder, loader, net


def spar_stream(seconds):
    "Recordings of SPAR one after the other, as one long session"
    parts, t0 = [], 0.0
    clocks = []
    for r in load_dataset('spar').recordings:
        x, t = r.streams['imu'].read()
        parts.append(np.asarray(x[:, :3], float))
        clocks.append(t0 + t - t[0])
        t0 = clocks[-1][-1] + 0.02
        if t0 > seconds:
            break
    return np.concatenate(clocks), np.concatenate(parts)


def test_a_machine_with_numpy_and_onnxruntime_alone(made, tmp_path):
    folder, loader, _ = made
    venv = tmp_path / 'v'
    subprocess.run([sys.executable, '-m', 'venv', venv], check=True)
    pip = subprocess.run(
        [
            venv / 'bin/pip',
            'install',
            '-q',
            '--disable-pip-version-check',
            '-c',
            ROOT / 'constraints.txt',
            'numpy',
            'onnxruntime',
        ],
        capture_output=True,
        text=True,
    )
    if pip.returncode:
        pytest.skip(f'pip cannot install onnxruntime here: {pip.stderr[-200:]}')
    t, x = spar_stream(60)
    rows = 'time,acc_x,acc_y,acc_z\n' + ''.join(f'{a},{b[0]},{b[1]},{b[2]}\n' for a, b in zip(t, x))
    env = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
    out = subprocess.run(
        [venv / 'bin/python', folder / 'runtime.py', '--threshold', '0'],
        input=rows,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
    )
    assert out.returncode == 0, out.stderr
    have = subprocess.run(
        [
            venv / 'bin/python',
            '-c',
            "import importlib.util as u; print([m for m in ('torch','pandas','harkd','scipy') if u.find_spec(m)])",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
    ).stdout.strip()
    assert have == '[]'
    s = StreamingClassifier(Bundle(folder), threshold=0.0)
    here = s.push(t, x) + s.finish()
    assert [l.split(',')[1] for l in out.stdout.splitlines()[1:]] == [
        d.label for d in here
    ] and len(here) > 20


def test_a_long_session_in_random_chunks_decides_as_offline_with_flat_memory(made):
    folder, loader, net = made
    t, x = spar_stream(900)
    bundle = Bundle(folder)
    rng = np.random.default_rng(0)
    rec = Recording(
        'r',
        'p',
        'spar',
        {'imu': Stream(x, t, ('acc_x', 'acc_y', 'acc_z'))},
        (Span('PEN', t[0], t[-1] + 0.02),),
    )
    w = cut_windows(Dataset(load_dataset('spar').card, (rec,), 'x'), ('imu:acc',))
    with torch.no_grad():
        want = net(loader.norm(w.batch(np.arange(len(w)))).x['imu:acc']).argmax(1).numpy()
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
    assert np.allclose([d.time for d in got], w.table.stop, atol=1e-6) and len(got) > 400
    assert [d.window_label for d in got] == [bundle.classes[k] for k in want]
    late, early = np.median(peaks[-100:]), np.median(peaks[100:200])
    assert late - early < 250 * len(got) + 50_000, (
        early,
        late,
    )  # a decision is kept by the caller; nothing else grows
    assert len(s.cut.buffer) <= bundle.samples + s.cut.hop


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_chunking_gives_the_same_even_samples(data):
    n = data.draw(st.integers(2, 120))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    t = np.cumsum(
        rng.choice([0.0, 0.005, 0.02, 0.021, 0.3, 0.9], n, p=[0.1, 0.1, 0.4, 0.3, 0.05, 0.05])
    )
    x = rng.normal(size=(n, 2))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=8)))

    def run(cuts):
        s = StreamResampler(2, 50.0)
        out = [
            p for a, b in zip([0, *cuts], [*cuts, n]) for p in s.push(t[a:b], x[a:b])
        ] + s.finish()
        return {p.start + k: row for p in out for k, row in enumerate(p.x)}, s

    a, b = run([])[0], run(cuts)[0]
    assert a.keys() == b.keys() and all(np.allclose(a[k], b[k], atol=1e-9) for k in a)


junk = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=4),
    st.none(),
    st.integers(-(10**6), 10**6),
    st.booleans(),
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.one_of(st.floats(-1e4, 1e4), junk), st.lists(junk, min_size=0, max_size=5)),
        max_size=40,
    )
)
def test_no_sample_can_crash_a_stream_or_pass_unseen(made, rows):
    "Either the sample has as many values as channels, and is used or counted; or it raises, and the stream is as before"
    s = StreamingClassifier(Bundle(made[0]))
    good = 0
    for t, x in rows:
        before = dict(s.report)
        try:
            out = s.push([t], [x])
        except ValueError as e:
            assert 'samples must be' in str(e) and s.report == before and len(x) != 3
        else:
            assert len(x) == 3
            r = s.report
            assert r['samples'] == before['samples'] + 1 and all(
                math.isfinite(d.probability) for d in out
            )
            assert np.isfinite(s.cut.buffer).all()
    s.finish()


def test_gaps_jumps_and_an_hour_of_silence(made):
    s = StreamingClassifier(Bundle(made[0]), threshold=0.0)
    t, x = spar_stream(40)
    out = s.push(t, x)
    n = len(out)
    assert s.push(t[-1] + 3600, x[0]) == [] and len(s.cut.buffer) < s.bundle.samples + s.cut.hop
    more = s.push(t[-1] + 3600 + t, x)
    assert (
        s.report['gaps'] == 1 and len(more) == n and all(d.time > t[-1] + 3600 + 3.9 for d in more)
    )
    assert s.push(t, x) != [] and s.report['restarts'] == 1  # the clock jumped back: a new session
    assert [d.window_label for d in out] == [
        d.window_label for d in StreamingClassifier(Bundle(made[0]), threshold=0.0).push(t, x)
    ]
