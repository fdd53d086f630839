"README.md is the index chapter, its figures are those of nbs/results, and what it points to exists"

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text(encoding='utf8')
CELLS = json.loads((ROOT / 'nbs/index.ipynb').read_text(encoding='utf8'))['cells']


def source(c):
    return ''.join(c['source'])


def plain(s):
    return re.sub(r'\s+', ' ', s).strip()


def test_every_paragraph_of_the_index_is_in_the_readme_in_order():
    at, text = 0, plain(README)
    for c in CELLS:
        if c['cell_type'] != 'markdown':
            continue
        i = text.find(plain(source(c)), at)
        assert i >= 0, f'not in README.md (make readme): {source(c)[:60]}'
        at = i


def test_tables_are_made_from_the_results_of_today(monkeypatch):
    monkeypatch.delenv('HARKD_RESULTS')
    env, made = {}, []
    for c in CELLS:
        if c['cell_type'] != 'code':
            continue
        *before, last = ast.parse(source(c)).body
        exec(compile(ast.Module(before, []), 'index', 'exec'), env)
        if not isinstance(last, ast.Expr):
            exec(compile(ast.Module([last], []), 'index', 'exec'), env)
            continue
        if (shown := eval(compile(ast.Expression(last.value), 'index', 'eval'), env)) is not None:
            made.append(shown.data)
    assert len(made) >= 14
    for m in made:
        assert m.strip() in README, (
            f'README.md shows other figures than nbs/results (make readme): {m[:80]}'
        )


def test_the_two_commands_and_every_link():
    assert 'make demo' in README and 'make test' in README
    make = (ROOT / 'Makefile').read_text()
    targets = set(re.findall(r'^([a-z]+):', make, re.M))
    assert (
        set(re.findall(r'^    make ([a-z]+)', README, re.M))
        | set(re.findall(r'`make ([a-z]+)`', README))
        <= targets
    )
    for link in re.findall(r'\]\(([^)#:]+)\)', README):
        assert (ROOT / link).exists(), f'README.md points to {link}, which is not there'


@pytest.mark.parametrize('command', re.findall(r'^    harkd run (.+)$', README, re.M))
def test_commands_name_real_parameters(command):
    from harkd.cli import join_pairs, parse_params, read_params, runnable

    words = command.split('#')[0].split()
    pairs = [w.split('=', 1) for w in join_pairs(words[1:]) if '=' in w]
    parse_params(pairs, read_params(runnable()[words[0]]))
