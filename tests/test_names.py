"Names and help texts use the field's own words, not those of the first version"

import ast
import io
import json
import re
import tokenize
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harkd.cli import app, read_params, runnable

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted([*(ROOT / 'nbs').glob('*.ipynb'), *(ROOT / 'apps').glob('*.ipynb')])
MODULES = sorted((ROOT / 'harkd').glob('[!_]*.py'))
TESTS = sorted((ROOT / 'tests').glob('*.py'))
PAGES = [ROOT / n for n in ('README.md', 'RESULTS.md', 'CONTRIBUTING.md')]

OLD_IDENTIFIERS = re.compile(
    r'\b(?:Lesson|Pupil|pupil|Feed|Flat|Pair|Term|Stage|open_stage|View|look_at|Piece|Decider'
    r'|EvenStream|HopWindows|Made|Roundings|TROUBLE|_in_trouble|teach_fold|learn_fold'
    r'|about_model|say_table|say_attribution|surest_windows|ignorant_gradients|burst_hits)\b'
)
OLD_DEFINITIONS = re.compile(r'^\s*(?:def|class) (?:look|reach|trained|later)\b', re.M)
OLD_MODULES = re.compile(
    r'\b(?:harkd|from )\.(?:judge|proof|contrast|curve|rounding|micro|ablate|paper)\b'
)
OLD_WORDS = re.compile(
    r'\b(?:[Pp]eople|[Pp]upils?|[Tt]rouble|[Ff]elt|[Ff]eels?|[Ss]ees|[Ss]trangers?|[Ii]gnorant'
    r'|[Ll]essons?|[Aa]nswers)\b'
)


def cells_of(path, kind):
    cells = json.loads(path.read_text(encoding='utf8'))['cells']
    return [''.join(c['source']) for c in cells if c['cell_type'] == kind]


def code_of(path):
    "The Python of a file or notebook, without lines of magic"
    if path.suffix == '.py':
        return path.read_text(encoding='utf8')
    return re.sub(r'^[%!].*', '', '\n'.join(cells_of(path, 'code')), flags=re.M)


def identifiers(code):
    "All names in a piece of Python; strings and comments are left out"
    tokens = tokenize.generate_tokens(io.StringIO(code + '\n').readline)
    return ' '.join(t.string for t in tokens if t.type == tokenize.NAME)


def docstrings(path):
    tree = ast.parse(path.read_text(encoding='utf8'))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return [ast.get_docstring(n) or '' for n in ast.walk(tree) if isinstance(n, kinds)]


def headings(markdown):
    "Headings and subtitles of a page"
    return re.findall(r'^(?:#+|>) .*', markdown, re.M)


def found(pattern, *texts):
    return [m[0] for text in texts for m in pattern.finditer(text)]


@pytest.mark.parametrize('path', [*NOTEBOOKS, *TESTS], ids=lambda p: p.stem)
def test_code_uses_no_old_name(path):
    code = code_of(path)
    assert found(OLD_IDENTIFIERS, identifiers(code)) == []
    assert found(OLD_DEFINITIONS, code) == []


@pytest.mark.parametrize('path', [*NOTEBOOKS, *MODULES], ids=lambda p: p.name)
def test_nothing_refers_to_an_old_module(path):
    text = path.read_text(encoding='utf8')
    assert found(OLD_MODULES, text) == []


@pytest.mark.parametrize('path', MODULES, ids=lambda p: p.stem)
def test_docstrings_use_the_terms_of_the_field(path):
    assert found(OLD_WORDS, *docstrings(path)) == []


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_headings_use_the_terms_of_the_field(path):
    assert found(OLD_WORDS, *headings('\n'.join(cells_of(path, 'markdown')))) == []


@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)
def test_pages_use_the_terms_of_the_field(path):
    assert found(OLD_WORDS, path.read_text(encoding='utf8')) == []


@pytest.mark.parametrize(
    'command', ['', *sorted(c.callback.__name__ for c in app.registered_commands)]
)
def test_help_uses_the_terms_of_the_field(command):
    shown = CliRunner().invoke(app, [*command.split(), '--help']).output
    assert found(OLD_WORDS, shown) == []


@pytest.mark.parametrize('chapter', sorted(runnable()))
def test_parameters_use_the_terms_of_the_field(chapter):
    meanings = [meaning for _, _, meaning in read_params(runnable()[chapter]).values()]
    assert found(OLD_WORDS, *meanings) == []


def test_old_names_are_found():
    assert found(OLD_IDENTIFIERS, identifiers('x = Feed(Flat(), "Lesson")')) == ['Feed', 'Flat']
    assert found(OLD_IDENTIFIERS, identifiers('FeaturePair(TeacherTerm, views)')) == []
    assert found(OLD_DEFINITIONS, 'def later(default): pass') == ['def later']
    assert found(OLD_MODULES, 'from harkd.judge import difference') == ['harkd.judge']
    assert found(OLD_WORDS, 'Two people, corrupted subjects') == ['people']
