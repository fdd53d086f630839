"The explorer: what its figures are made of, what its sliders do, and both of its homes in a real browser"

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from harkd.distill import DistillConfig, run_distill
from harkd.explore import (
    AttributionExplorer,
    ExplorerState,
    attribution_figure,
    compute_view,
    load_explorer_data,
)

ROOT = Path(__file__).parent.parent
CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)
browser = pytest.mark.skipif(
    CHROMIUM is None,
    reason='no browser: apt-get install chromium (no download by playwright is needed)',
)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A finished run on simulated bodies: students that feel, a teacher that sees the skeleton"
    return run_distill(
        DistillConfig(
            'synth',
            student='conv_8k',
            epochs=6,
            teacher_epochs=3,
            batch_size=8,
            fold=0,
            seeds=1,
            jobs=1,
            lr=0.01,
        ),
        tmp_path_factory.mktemp('runs') / 'small',
    ).path


@pytest.fixture(scope='module')
def stage(run):
    return load_explorer_data(run)


def send(widget, **state):
    "What the browser sends when a control is moved"
    widget._handle_msg(
        {
            'content': {'data': {'method': 'update', 'state': state, 'buffer_paths': []}},
            'buffers': [],
        }
    )


def test_a_figure_is_a_function_of_its_state(stage):
    s = ExplorerState(stage, int(stage.held[3]), share=0.6, hidden=(0.2, 0.9), frame=20)
    before = repr(s)
    a = attribution_figure(s).to_json()
    assert a == attribution_figure(s).to_json() and repr(s) == before
    for change in (
        dict(arm='control'),
        dict(method='occlusion'),
        dict(baseline='zero'),
        dict(target='walk'),
        dict(start=0.3),
        dict(hidden=None),
        dict(frame=0),
        dict(share=0.5),
    ):
        assert attribution_figure(replace(s, **change)).to_json() != a, change


def test_hiding_a_stretch_gives_what_the_model_says_without_it(stage):
    i = int(stage.held[8])
    w = stage.loader.split.windows
    row = w.table.iloc[i]
    a, b = row.start + 0.3 * (row.stop - row.start), row.start + 0.55 * (row.stop - row.start)
    for arm in ('distilled', 'teacher'):
        m = stage.models[arm]
        x = [stage.loader.norm(w.batch([i])).x[k] for k in m.inputs]
        hidden = []
        for v in x:
            v = v.clone()
            n = v.shape[1]
            gone = [k for k in range(n) if 0.3 <= k / (n - 1) <= 0.55]
            v[:, gone] = v.mean(1, keepdim=True)
            hidden.append(v)
        with torch.no_grad():
            want = m(*hidden).softmax(1)[0].numpy()
        got = compute_view(ExplorerState(stage, i, arm=arm, hidden=(a, b)))
        np.testing.assert_allclose(got.p_hidden, want, atol=1e-6)
        assert not np.allclose(got.p, want)


def test_messages_from_the_browser_move_the_figure(stage):
    x = AttributionExplorer(stage=stage)
    c = x.controls
    f = x.figures[0]
    z = np.array(f.data[0].z)
    send(c['share'], value=0.5)
    send(c['start'], value=c['start'].max)
    assert f.data[0].x[0] == pytest.approx(c['start'].max) and not np.allclose(z, f.data[0].z)
    p = np.array(f.data[8].x)
    send(c['hide'], value=[float(f.data[0].x[10]), float(f.data[0].x[50])])
    np.testing.assert_allclose(f.data[8].x, p)
    np.testing.assert_allclose(
        np.array(f.data[9].x), compute_view(x.state).p_hidden * 100, atol=1e-4
    )
    send(c['arm'], index=2)
    assert x.state.arm == 'teacher' and f.data[0].z.shape[0] == 7


def test_what_is_drawn_again_is_what_would_be_drawn_anew(stage):
    x = AttributionExplorer(stage=stage)
    c = x.controls
    for k, (name, state) in enumerate(
        (
            ('arm', dict(index=2)),
            ('share', dict(value=0.6)),
            ('start', dict(value=0.2)),
            ('frame', dict(value=33)),
            ('hide', dict(value=[0.3, 0.8])),
            ('method', dict(index=1)),
            ('target', dict(index=4)),
            ('activity', dict(index=3)),
            ('arm', dict(index=0)),
            ('subject', dict(index=2)),
        )
    ):
        send(c[name], **state)
        a, b = (json.loads(f.to_json()) for f in (x.figures[0], attribution_figure(x.state)))
        [t.pop('uid', None) for t in a['data']]
        assert a == b and not x.message.value, name


def test_bad_choices_are_said_and_not_raised(stage):
    x = AttributionExplorer(stage=stage)
    c = x.controls
    assert len(x.shown) == 1
    send(c['layer'], index=2)
    assert 'no attention' in x.message.value and not x.shown
    send(c['layer'], index=0)
    assert x.message.value == '' and len(x.shown) == 1
    for stretch in ((-3.0, -2.0), (1.0, 50.0), (1.0, 0.5)):
        x.occlude(*stretch)
        assert 'inside the recording' in x.message.value
    x.occlude()
    w = stage.loader.split.windows
    flat = {
        **w.signals,
        'imu': replace(
            w.signals['imu'], values=torch.full_like(w.signals['imu'].values, float('nan'))
        ),
    }
    hurt = replace(
        stage,
        loader=replace(
            stage.loader, split=replace(stage.loader.split, windows=replace(w, signals=flat))
        ),
    )
    assert 'NaN' in AttributionExplorer(stage=hurt).message.value
    few = replace(
        stage,
        models={'distilled': type(stage.models['distilled'])(6, 3, (8, 8), (1,), (2,)).eval()},
    )
    y = AttributionExplorer(stage=few)
    send(y.controls['target'], index=6)
    assert 'class 5 is not among the model' in y.message.value


def test_without_a_run_it_says_what_to_type(monkeypatch, tmp_path):
    monkeypatch.delenv('HARKD_RUN', raising=False)
    monkeypatch.setattr('harkd.explore.repo_root', lambda: tmp_path)
    assert 'make demo' in AttributionExplorer().message.value
    monkeypatch.setenv('HARKD_RUN', str(tmp_path / 'gone'))
    assert 'not a run folder' in AttributionExplorer().message.value


def test_a_missing_extra_names_what_to_install(stage, monkeypatch):
    for name in ('plotly.graph_objects', 'ipywidgets'):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=r"pip install 'harkd\[explore\]'"):
            AttributionExplorer(stage=stage)
        monkeypatch.undo()


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture
def serve(run, tmp_path):
    "Starts JupyterLab or voila on a free port of this machine, with folders of its own; stops it at the end"
    started = []

    def start(kind):
        home = tmp_path / 'home'
        port = free_port()
        shutil.copy(ROOT / 'apps' / 'explorer.ipynb', tmp_path / 'explorer.ipynb')
        settings = home / 'config' / 'lab' / 'user-settings' / '@jupyterlab' / 'apputils-extension'
        settings.mkdir(parents=True)
        (settings / 'notification.jupyterlab-settings').write_text(
            json.dumps({'fetchNews': 'false'})
        )
        env = {
            **os.environ,
            **{f'JUPYTER_{k}_DIR': str(home / k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')},
            'JUPYTERLAB_SETTINGS_DIR': str(home / 'config' / 'lab' / 'user-settings'),
            'IPYTHONDIR': str(home / 'ipython'),
            'HARKD_RUN': str(run),
            'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])),
            'PATH': os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]),
        }
        what = (
            ['voila', 'explorer.ipynb', f'--port={port}', '--no-browser', '--Voila.ip=127.0.0.1']
            if kind == 'voila'
            else [
                'jupyterlab',
                '--no-browser',
                '--allow-root',
                f'--port={port}',
                '--ServerApp.ip=127.0.0.1',
                '--IdentityProvider.token=',
                '--ServerApp.disable_check_xsrf=True',
                f'--ServerApp.root_dir={tmp_path}',
            ]
        )
        started.append(
            subprocess.Popen(
                [sys.executable, '-m', *what],
                cwd=tmp_path,
                env=env,
                stdout=open(tmp_path / f'{kind}.log', 'w'),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        url = f'http://127.0.0.1:{port}' + ('' if kind == 'voila' else '/lab/tree/explorer.ipynb')
        probe = url if kind == 'voila' else f'http://127.0.0.1:{port}/api'
        if kind == 'voila':
            probe = f'http://127.0.0.1:{port}/voila/static/'
        for _ in range(120):
            assert started[-1].poll() is None, (tmp_path / f'{kind}.log').read_text()[-2000:]
            try:
                urllib.request.urlopen(probe, timeout=2)
                return url
            except urllib.error.HTTPError:
                return url
            except OSError:
                time.sleep(0.5)
        pytest.fail((tmp_path / f'{kind}.log').read_text()[-2000:])

    yield start
    for p in started:
        os.killpg(p.pid, signal.SIGTERM)
        try:
            p.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            p.wait()


def drive(page, name):
    "Slide, hide a stretch, put the teacher beside it; each time the figure must change"
    shots = ROOT / 'test-artefacts'
    shots.mkdir(exist_ok=True)
    plot = page.locator('.js-plotly-plot').first
    plot.wait_for(timeout=90000)
    read = lambda what: plot.evaluate(f'g => {what}')
    moved = lambda what, before: page.wait_for_function(
        f"b => {{const g = document.querySelector('.js-plotly-plot'); return JSON.stringify({what})!==JSON.stringify(b)}}",
        arg=before,
        timeout=30000,
    )
    slider = lambda label: (
        page.locator('.widget-hslider', has_text=label).locator('.noUi-handle').first
    )
    start, bars = 'Array.from(g._fullLayout.xaxis.range)', 'Array.from(g._fullData[8].x)'
    was = read(start)
    slider('share').focus()
    [page.keyboard.press('ArrowLeft') for _ in range(6)]
    moved(start, was)  # a part of the trial …
    moved(
        'Math.round(10*(g._fullLayout.xaxis.range[1]-g._fullLayout.xaxis.range[0]))/10-.7*g._fullLayout.xaxis3.range[1]<.05',
        False,
    )
    was, chances = read(start), read(bars)
    slider('window at').focus()
    [page.keyboard.press('ArrowRight') for _ in range(8)]
    moved(start, was)
    moved(bars, chances)  # … slides along it
    page.screenshot(path=shots / f'{name}_1_slid.png', full_page=True)
    title = plot.locator('.gtitle').text_content()
    assert 'hidden' not in title
    box = plot.locator('.nsewdrag').first.bounding_box()
    y = box['y'] + box['height'] / 2
    from playwright.sync_api import TimeoutError

    for again in (True, True, False):  # a drag that begins while the figure is drawn anew is lost
        page.mouse.move(box['x'] + 0.25 * box['width'], y)
        page.mouse.down()
        page.mouse.move(box['x'] + 0.5 * box['width'], y, steps=6)
        page.mouse.move(box['x'] + 0.7 * box['width'], y, steps=6)
        page.mouse.up()
        try:
            page.wait_for_function(
                "(g => g.querySelector('.gtitle').textContent.includes('stretch hidden') && g._fullData[9].x?.length==6)(document.querySelector('.js-plotly-plot'))",
                timeout=20000,
            )
            break
        except TimeoutError:
            if not again:
                raise
    before, after = read(bars), read('Array.from(g._fullData[9].x)')
    assert (
        len(after) == len(before) == 6
        and max(abs(a - b) for a, b in zip(before, after)) > 0.01
        and abs(sum(after) - 100) < 0.01
    )  # the probabilities changed
    page.screenshot(path=shots / f'{name}_2_hidden.png', full_page=True)
    joints = "Array.from(document.querySelector('.js-plotly-plot')._fullData[11].x)"
    was = page.evaluate(joints)
    assert len(was) == 20
    slider('cursor').focus()
    [page.keyboard.press('ArrowRight') for _ in range(12)]
    page.wait_for_function(
        f'b => JSON.stringify({joints})!==JSON.stringify(b)', arg=was, timeout=30000
    )  # the skeleton moves
    page.get_by_role('button', name='beside the teacher').click()
    page.wait_for_function(
        "document.querySelectorAll('.js-plotly-plot')[1]?._fullData?.[11]?.marker.color.some(c => c!=0)",
        timeout=30000,
    )  # joints in colour: the teacher sees them
    page.screenshot(path=shots / f'{name}_3_beside.png', full_page=True)


@browser
@pytest.mark.parametrize('kind', ['lab', 'voila'])
def test_in_a_browser(kind, serve):
    sync = pytest.importorskip(
        'playwright.sync_api', reason='no playwright: pip install playwright'
    )
    url = serve(kind)
    said = []
    with sync.sync_playwright() as p:
        page = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox']).new_page(
            viewport={'width': 1500, 'height': 1300}
        )
        page.on('pageerror', lambda e: said.append(f'page: {e}'))
        page.on(
            'console',
            lambda m: (
                said.append(f'{m.text} {m.location.get("url", "")}') if m.type == 'error' else None
            ),
        )
        page.goto(url, timeout=120000)
        if kind == 'lab':
            page.locator('.jp-Notebook').wait_for(timeout=90000)
            page.get_by_text('| Idle').wait_for(timeout=90000)
            ran = page.locator('.jp-InputPrompt', has_text=re.compile(r'\[(\*|1)\]'))
            for _ in range(
                10
            ):  # a run that is asked for while the kernel is still connecting is lost
                page.get_by_text('Run', exact=True).first.click()
                page.get_by_text('Run All Cells', exact=True).click()
                try:
                    ran.first.wait_for(timeout=4000)
                    break
                except sync.TimeoutError:
                    continue
        try:
            drive(page, kind)
        except Exception:
            page.screenshot(path=ROOT / 'test-artefacts' / f'{kind}_failed.png', full_page=True)
            raise
        finally:
            (ROOT / 'test-artefacts').mkdir(exist_ok=True)
            (ROOT / 'test-artefacts' / f'{kind}_console.txt').write_text('\n'.join(said))
    ours = [s for s in said if not ('Failed to load resource' in s and '127.0.0.1' not in s)]
    assert not ours, ours  # voila's template asks for fonts on the web
