"""Chapters with a live figure in JupyterLab: all cells run, a control moves, the figure follows.

A plain run of the tests takes the first two chapters; HARKD_BROWSER=all takes every one (some ten
minutes on two cores)."""

import os
from functools import partial

import nbformat
import pytest

from tests import servers
from tests.conftest import ROOT
from tests.test_explorer import CHROMIUM, browser, open_notebook

CHAPTERS = (  # The first two always; HARKD_BROWSER=all: every one
    '02_tokens',
    '01a_augment',
    '05_distill',
    '06_pretrain',
    '07c_attribute',
    '07d_rollout',
    '07g_corruptions',
    '08a_explore',
    '09b_quantize',
)
SHOWN = CHAPTERS if os.environ.get('HARKD_BROWSER') == 'all' else CHAPTERS[:2]
RUN_S = 400 if len(SHOWN) > 2 else 120  # Seconds until the last cell of a chapter has run
DATA = """() => JSON.stringify([...document.querySelectorAll('.js-plotly-plot')].map(
    g => [g._fullLayout.title.text, (g._fullLayout.shapes ?? []).map(s => s.x0),
          g._fullData.map(d => Array.from(d.y ?? []).slice(0, 50))]))"""


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "JupyterLab on a folder with copies of the chapters, without their outputs"
    folder = tmp_path_factory.mktemp('lab')
    for chapter in SHOWN:
        notebook = nbformat.read(ROOT / 'nbs' / f'{chapter}.ipynb', 4)
        for cell in notebook.cells:
            if cell.cell_type == 'code':
                cell.outputs = []
        nbformat.write(notebook, folder / f'{chapter}.ipynb')
    env = servers.home_environment(folder / 'home')
    env |= {'IN_TEST': '', 'HARKD_FULL': ''}
    env.pop('MPLBACKEND', None)
    command = partial(servers.lab_command, folder)
    process, url = servers.start(command, '/api', folder, env)
    yield url, folder
    servers.stop(process)


@browser
@pytest.mark.parametrize('chapter', SHOWN)
def test_a_moved_control_changes_the_figure(chapter, lab):
    sync = pytest.importorskip(
        'playwright.sync_api', reason='no playwright: pip install playwright'
    )
    (url, copies), errors, folder = lab, [], ROOT / 'test-artefacts'
    folder.mkdir(exist_ok=True)

    def on_console(message):
        if message.type == 'error':
            errors.append(f'{message.text} {message.location.get("url", "")}')

    with sync.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        page = chromium.new_page(viewport={'width': 1500, 'height': 1100})
        page.on('pageerror', lambda e: errors.append(f'page: {e}'))
        page.on('console', on_console)
        page.goto(f'{url}/lab/workspaces/{chapter}/tree/{chapter}.ipynb', timeout=120000)
        try:
            open_notebook(page, sync)
            move_a_control(page, nbformat.read(copies / f'{chapter}.ipynb', 4))
        finally:
            page.screenshot(path=folder / f'live_{chapter}.png')
    own = [e for e in errors if 'Failed to load resource' not in e]
    assert own == []


def move_a_control(page, notebook):
    "With the keyboard; JupyterLab draws only the cells that are in view"
    live = ('LiveFigure(\n', 'AttributionExplorer()\n')
    shown = [any(name in f'{c.source}\n' for name in live) for c in notebook.cells]
    position = len(shown) - 1 - shown[::-1].index(True)
    cell = page.locator(f'.jp-Cell[data-windowed-list-index="{position}"]')
    end = page.locator('.jp-WindowedPanel-outer').first
    plot = page.locator('.js-plotly-plot').first
    share = position / len(notebook.cells)
    for _ in range(RUN_S):
        end.evaluate(
            '(e, share) => {e.scrollTop = share * e.scrollHeight}',
            share,
        )
        if cell.count():
            cell.scroll_into_view_if_needed()
        if plot.count() and plot.is_visible():
            break
        page.wait_for_timeout(1000)
    plot.wait_for(timeout=5000)
    plot.scroll_into_view_if_needed()
    before = page.evaluate(DATA)
    sliders = page.locator('.widget-hslider')
    cursor = sliders.filter(has_text='cursor')  # of the explorer, whose first slider may be off
    slider = cursor if cursor.count() else sliders
    handle = slider.first.locator('.noUi-handle').first
    handle.focus()
    now, most = (float(handle.get_attribute(f'aria-value{k}')) for k in ('now', 'max'))
    for _ in range(3):
        page.keyboard.press('ArrowLeft' if now >= most else 'ArrowRight')
    page.wait_for_function(f'b => ({DATA})() !== b', arg=before, timeout=1000 * RUN_S)
