"The house rules: what a chapter of harkd looks like"

import ast
import json
import re
from pathlib import Path

import pytest

NBS = sorted((Path(__file__).parent.parent / 'nbs').glob('*.ipynb'))
ORDER = [p.stem for p in NBS]
MAX_CELL, MAX_MODULE, MAX_OUT = 40, 500, 200_000


def source(cell):
    return ''.join(cell['source'])


def exported(src):
    return re.search(r'^#\|\s*exports?\b', src, re.M)


def lines(src):
    return [l for l in src.splitlines() if l.strip() and not l.startswith('#|')]


def public(src):
    return [
        n.name
        for n in ast.parse(src).body
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith('_')
    ]


def module(stem):
    return stem.split('_', 1)[-1]


def tags(cell):
    return cell['metadata'].get('tags', [])


def complaints(path):
    cells = json.loads(path.read_text(encoding='utf8'))['cells']
    code = [c for c in cells if c['cell_type'] == 'code']
    exports = [source(c) for c in code if exported(source(c))]
    lessons = '\n'.join(re.sub('#.*', '', source(c)) for c in code if not exported(source(c)))
    if not re.match(r'# .+\n+> .+', source(cells[0])):
        yield 'begins without "# Title" and "> one-line subtitle"'
    if exports and not any('default_exp' in source(c) for c in cells[:3]):
        yield 'has no default_exp near the top'
    for s in exports:
        if len(lines(s)) > MAX_CELL:
            yield f'exported cell of {len(lines(s))} lines: {lines(s)[0][:50]}'
        for name in public(s):
            if not re.search(rf'\b{name}\b', lessons):
                yield f'{name} is exported, but never shown or tested here'
        used = re.findall(r'^(?:from|import) harkd\.(\w+)', s, re.M)
        for m in used:
            if m not in {module(o) for o in ORDER[: ORDER.index(path.stem)]}:
                yield f'imports harkd.{m}, which no earlier chapter defines'
    if (n := sum(len(lines(s)) for s in exports)) > MAX_MODULE:
        yield f'{n} exported lines'
    if (n := len(json.dumps([c['outputs'] for c in code]))) > MAX_OUT:
        yield f'{n // 1000} kB of outputs'
    if 'nbdev_export(' in lessons:
        yield 'exports itself while it runs'
    run, par = (
        [i for i, c in enumerate(cells) if re.match(r'## Full run\b', source(c))],
        [i for i, c in enumerate(cells) if 'parameters' in tags(c)],
    )
    if bool(run) != bool(par):
        yield '"## Full run" and a cell tagged parameters come together or not at all'
    elif par:
        if len(par) > 1 or par[0] != run[0] + 1:
            yield 'the parameters cell does not follow "## Full run"'
        for l in lines(source(cells[par[0]])):
            if not re.match(r'\w+: \w+ = .+ # .+', l):
                yield f'parameter is not "name: type = value  # meaning": {l}'
        if any(exported(source(c)) for c in cells[par[0] :]):
            yield 'exports below "## Full run"'
    for c in code:
        for o in c['outputs']:
            if re.search(r'(?<![\w.])/(home|tmp|root|work|Users)/', json.dumps(o)):
                yield f"shows a path of somebody's machine: {source(c)[:50]}"
            if o.get('output_type') == 'error' or o.get('name') == 'stderr':
                yield f'keeps an error or a warning: {source(c)[:50]}'


@pytest.mark.parametrize('path', NBS, ids=ORDER)
def test_house_rules(path):
    assert list(complaints(path)) == []


def test_the_ten_heads_are_there_in_order():
    heads = [o for o in ORDER if re.match(r'\d\d_', o)]
    assert {
        '00_data',
        '01_preprocess',
        '02_tokens',
        '03_student',
        '04_teacher',
        '05_distill',
        '07_evaluate',
        '08_explain',
        '09_deploy',
    } <= set(heads) and heads == sorted(heads)


def test_the_rules_can_fail(tmp_path):
    bad = json.loads(NBS[0].read_text())
    bad['cells'][0]['source'] = ['no title']
    bad['cells'].append(
        {
            'cell_type': 'code',
            'metadata': {'tags': ['parameters']},
            'outputs': [],
            'source': ['alpha = .7'],
        }
    )
    (p := tmp_path / NBS[0].name).write_text(json.dumps(bad, indent=1))
    found = ' | '.join(complaints(p))
    assert 'begins without' in found and 'come together' in found
