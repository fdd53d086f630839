"The documentation site builds without warnings, needs no network, and leaves the checkout alone"

import os
import re

import pytest

pytest.importorskip(
    'myst_nb', reason="the documentation needs the extra: pip install 'harkd[docs]'"
)

from docs.build import build, chapters
from tests.conftest import ROOT

SKIPPED = {'.git', '_docs', 'runs', '__pycache__', '.pytest_cache', '.ruff_cache', '.hypothesis'}
SKIPPED |= {'test-artefacts'}  # Screenshots of other tests


def state_of_the_checkout():
    "Path to time of change and size, for files that belong to the project"
    state = {}
    for folder, names, files in os.walk(ROOT):
        names[:] = [n for n in names if n not in SKIPPED and not n.startswith('.venv')]
        for name in files:
            path = os.path.join(folder, name)
            state[path] = (os.stat(path).st_mtime_ns, os.stat(path).st_size)
    return state


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The built site, and the checkout before and after; a warning fails the build"
    before = state_of_the_checkout()
    folder = tmp_path_factory.mktemp('site') / 'html'
    build(folder)
    return folder, before, state_of_the_checkout()


def pages(site):
    return {p: p.read_text(encoding='utf8') for p in site[0].rglob('*.html')}


def test_build_leaves_the_checkout_alone(site):
    _, before, after = site
    assert before == after


def test_every_chapter_has_a_page(site):
    for chapter in chapters():
        assert (site[0] / 'nbs' / chapter).with_suffix('.html').exists()


def test_outputs_of_a_chapter_are_shown(site):
    page = (site[0] / 'nbs' / '04b_losses.html').read_text(encoding='utf8')
    assert 'class="cell_output' in page
    assert '_images/' in page


def test_arguments_have_their_comments(site):
    page = (site[0] / 'api' / 'distill.html').read_text(encoding='utf8')
    assert 'run_distill' in page
    assert 'Parameters' in page


def test_pages_load_nothing_from_the_network(site):
    for path, page in pages(site).items():
        loaded = re.findall(
            r'<(?:script|img|link|iframe)[^>]+(?:src|href)="(https?://[^"]+)"', page
        )
        assert loaded == [], path.name


def test_search_index_is_part_of_the_site(site):
    assert 'leak' in (site[0] / 'searchindex.js').read_text(encoding='utf8')
