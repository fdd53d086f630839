"README.md and RESULTS.md are their notebooks, show the results of today, and keep their promises"

import ast
import json
import re

import pandas as pd
import pytest
from IPython.display import Markdown

from docs.pages import IMAGES, PAGES, from_root, has_tag, page, pictures, read_cells, source
from docs.results_index import RESULTS, results_index
from harkd.cli import app, join_pairs, parse_params, read_params, recipes, runnable
from harkd.data import load_dataset
from harkd.report import goals_table
from harkd.runs import set_seed
from tests.conftest import ROOT

README = (ROOT / 'README.md').read_text(encoding='utf8')
RESULTS_PAGE = (ROOT / 'RESULTS.md').read_text(encoding='utf8')
LINKED = ('README.md', 'RESULTS.md', 'CONTRIBUTING.md', 'nbs/results/README.md')
MAX_LINES, MAX_WORDS, MAX_TABLE_LINES, PYTHON_BEFORE = 160, 1300, 25, 45
MAX_PICTURE_BYTES = 100_000


def read(name):
    return (ROOT / name).read_text(encoding='utf8')


def squeezed(text):
    return re.sub(r'\s+', ' ', text).strip()


def code_cells(notebook):
    "Code of the cells that the page shows"
    cells = [c for c in read_cells(notebook) if c['cell_type'] == 'code']
    return [source(c) for c in cells if not has_tag(c, 'remove-cell')]


def run_cell(code, scope):
    "Execute a cell; the value of its last expression"
    *before, last = ast.parse(code).body
    exec(compile(ast.Module(before, []), 'cell', 'exec'), scope)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), 'cell', 'eval'), scope)
    exec(compile(ast.Module([last], []), 'cell', 'exec'), scope)
    return None


def code_block(page, start):
    "The indented block of a page that begins with a line"
    found = re.search(rf'^    {re.escape(start)}.*\n(?:(?:    .*)?\n)*', page, re.M)[0]
    return re.sub(r'^    ', '', found, flags=re.M)


def commands(page, program):
    "Arguments of every call of a program, in code blocks and in the text"
    calls = re.findall(rf'^    {program} (.+?)(?:\s+#.*)?$', page, re.M)
    return [c.strip() for c in calls + re.findall(rf'`{program} ([^`]+)`', page)]


# Pages and their notebooks


@pytest.mark.parametrize('name', PAGES)
def test_page_is_made_from_its_notebook(name):
    assert read(name) == page(PAGES[name]), 'run make readme'


@pytest.mark.parametrize('name', PAGES)
def test_every_paragraph_of_the_notebook_is_on_the_page_in_order(name):
    text, at = squeezed(read(name)), 0
    for cell in read_cells(PAGES[name]):
        if cell['cell_type'] != 'markdown':
            continue
        at = text.find(squeezed(from_root(source(cell))), at)
        assert at >= 0, f'not in {name} (make readme): {source(cell)[:60]}'


@pytest.mark.parametrize('name, least', [('README.md', 3), ('RESULTS.md', 25)])
def test_figures_are_those_of_the_results_of_today(name, least, published):
    scope, text = {}, read(name)
    shown = [run_cell(code, scope) for code in code_cells(PAGES[name])]
    computed = [from_root(s.data).strip('\n') for s in shown if isinstance(s, Markdown)]
    assert len(computed) >= least
    for figures in computed:
        assert figures in text, f'{name} shows other figures (make readme): {figures[:80]}'


@pytest.mark.parametrize('name', PAGES)
def test_code_of_tables_is_hidden(name):
    "The pages show what is computed; code that is meant to be read is a code block of the text"
    cells = [c for c in read_cells(PAGES[name]) if c['cell_type'] == 'code']
    shown = [c['id'] for c in cells if not (has_tag(c, 'hide-input') or has_tag(c, 'remove-cell'))]
    assert shown == [], f'{name} shows the code of cells without the tag hide-input'
    assert '```python' not in read(name), 'run make readme'


@pytest.mark.parametrize('name', PAGES)
def test_pictures_of_the_notebook_are_those_of_the_page(name):
    for picture, content in pictures(PAGES[name]).items():
        assert f'docs/images/{picture}' in read(name)
        assert (IMAGES / picture).read_bytes() == content


def test_index_of_the_results_is_that_of_today():
    assert (RESULTS / 'README.md').read_text(encoding='utf8') == results_index()


def test_goals_are_counted_once(published):
    goals = goals_table()
    reached = goals.groupby('no.').reached.apply(lambda rows: (rows == 'yes').any())
    assert len(goals) > len(reached)
    assert f'Of the {len(reached)} [goals]' in README
    assert f'{(~reached).sum()} were missed' in README


# The first page stays short


def test_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= MAX_LINES
    assert len(README.split()) <= MAX_WORDS
    assert sum(line.startswith('|') for line in lines) <= MAX_TABLE_LINES


def test_readme_reaches_python_early():
    lines = README.splitlines()
    first = next(i for i, line in enumerate(lines, 1) if line.startswith('    from harkd'))
    assert first < PYTHON_BEFORE


def test_readme_has_two_or_three_small_pictures():
    shown = re.findall(r'!\[[^\]]+\]\(([^)]+)\)', README)
    assert 2 <= len(shown) <= 3
    for picture in shown:
        assert (ROOT / picture).stat().st_size < MAX_PICTURE_BYTES


def test_contents_of_the_results_page_are_its_headings():
    listed = re.findall(r'^- \[(.+)\]\(#', RESULTS_PAGE, re.M)
    assert listed == re.findall(r'^## (.+)$', RESULTS_PAGE, re.M)


# Links


def anchors(page):
    "The anchors that GitHub gives to the headings of a page"
    headings = re.findall(r'^#+ (.+)$', page, re.M)
    return {re.sub(r'[^\w\- ]', '', h.lower()).replace(' ', '-') for h in headings}


@pytest.mark.parametrize('name', LINKED)
def test_links_lead_somewhere(name):
    folder = (ROOT / name).parent
    for link, anchor in re.findall(r'\]\(([^)#:\s]*)(?:#([\w-]+))?\)', read(name)):
        target = folder / link if link else ROOT / name
        assert target.exists(), f'{name} points to {link}, which is not there'
        if anchor:
            assert anchor in anchors(target.read_text(encoding='utf8')), f'{name}: #{anchor}'


# Commands


@pytest.mark.parametrize('name', LINKED)
def test_make_targets_exist(name):
    targets = set(re.findall(r'^([a-z]+):', read('Makefile'), re.M))
    assert {c.split()[0] for c in commands(read(name), 'make')} <= targets


def test_readme_shows_the_two_commands():
    assert {'demo', 'test'} <= {c.split()[0] for c in commands(README, 'make')}


@pytest.mark.parametrize('name', LINKED)
def test_subcommands_exist(name):
    known = {c.name or c.callback.__name__ for c in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    used = {c.split()[0] for c in commands(read(name), '(?:.venv/bin/)?harkd')}
    assert {u for u in used if not u.startswith('-')} <= known


@pytest.mark.parametrize('name', LINKED)
def test_runs_name_real_parameters(name):
    for command in commands(read(name), 'harkd run'):
        chapter, *words = command.split()
        if chapter.isupper():
            continue
        pairs = [w.split('=', 1) for w in join_pairs(words) if '=' in w]
        parse_params(pairs, read_params(runnable()[chapter]))


@pytest.mark.parametrize('name', LINKED)
def test_recipes_exist(name):
    names = set(re.findall(r'harkd recipe ([a-z]\w*)', read(name)))
    assert names <= set(recipes())


# Examples


def test_own_data_example_loads(tmp_path):
    manifest = json.loads(code_block(README, '{"name": "my_study"'))
    (tmp_path / 'manifest.json').write_text(json.dumps(manifest))
    samples = pd.DataFrame({'timestamp': range(0, 10_000, 20), 'ax': 0.0, 'ay': 0.0, 'az': 1.0})
    rows = [
        ('walk_01', 'ann', 'walk_01.csv', 'walking'),
        ('sit_01', 'bob', 'sit_01.csv', 'sitting'),
    ]
    for _, _, file, _ in rows:
        samples.to_csv(tmp_path / file, index=False)
    columns = re.search(r'`(id,subject,file,label)`', README)[1].split(',')
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / 'recordings.csv', index=False)
    study = load_dataset('sessions', tmp_path)
    assert study.subjects == ['ann', 'bob']
    assert study.recordings[0].streams['wrist'].values[0, 2] == pytest.approx(9.80665)


def test_python_example_runs(tmp_path, monkeypatch):
    "As printed, at the size of a test"
    code = code_block(README, 'from harkd.distill')
    small = re.sub(r'(DistillConfig\(.+\))', r'\1.smoke()', code, count=1)
    assert '.smoke()' in small
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('harkd.runs.repo_root', lambda: tmp_path)
    set_seed(0)
    exec(compile(small, 'README.md', 'exec'), {})
    assert (tmp_path / 'bundle' / 'bundle.json').exists()
