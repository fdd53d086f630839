"The house rules: what a chapter of harkd looks like"

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NBS = sorted((ROOT / 'nbs').glob('*.ipynb'))
CHAPTERS = [p.stem for p in NBS]
MAX_COLUMNS, MAX_OUTPUT_BYTES, PICTURE_WITHIN = 100, 200_000, 12
MAIN = ('00', '01', '03', '04', '05', '06', '07', '08', '09')
MACHINE_PATH = re.compile(r'(?<![\w.])/(home|tmp|root|work|Users)/')
WIDGET = 'application/vnd.jupyter.widget-view+json'
IMPORTS = (ast.Import, ast.ImportFrom)


def source(cell):
    return ''.join(cell['source'])


@cache
def read_cells(path):
    return json.loads(path.read_text(encoding='utf8'))['cells']


def code_cells(cells):
    return [c for c in cells if c['cell_type'] == 'code']


def is_exported(cell):
    return re.search(r'^#\|\s*exports?\b', source(cell), re.M) is not None


def has_tag(cell, tag):
    return tag in cell['metadata'].get('tags', [])


def parse(cell):
    "The statements of a cell, without its lines of magic"
    try:
        return ast.parse(source(cell))
    except SyntaxError:
        return ast.parse(re.sub(r'^[%!].*', '', source(cell), flags=re.M))


def code_lines(cell):
    return [t for t in source(cell).splitlines() if t.strip() and not t.startswith('#|')]


def public_names(cell):
    defined = [n for n in parse(cell).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    return [n.name for n in defined if not n.name.startswith('_')]


def module_of(chapter):
    return chapter.split('_', 1)[-1]


def imported_modules(cell):
    "Modules of harkd that a cell imports at its top level; inside a function any may be imported"
    modules = []
    for node in parse(cell).body:
        if isinstance(node, ast.Import):
            modules += [a.name for a in node.names if a.name.startswith('harkd.')]
        elif isinstance(node, ast.ImportFrom) and node.module == 'harkd':
            modules += [f'harkd.{a.name}' for a in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('harkd.'):
            modules.append(node.module)
    return [m.split('.')[1] for m in modules]


# The rules: each yields what it finds wrong with the cells of one chapter


def check_opening(cells, chapter):
    if not re.match(r'# .+\n+> .+', source(cells[0])):
        yield 'begins without "# Title" and "> one-line subtitle"'
    exports = any(is_exported(c) for c in code_cells(cells))
    if exports and not any('default_exp' in source(c) for c in cells[:3]):
        yield 'has no default_exp near the top'


def check_exports_are_shown(cells, chapter):
    lessons = [source(c) for c in code_cells(cells) if not is_exported(c)]
    shown = '\n'.join(re.sub('#.*', '', s) for s in lessons)
    for cell in filter(is_exported, code_cells(cells)):
        for name in public_names(cell):
            if not re.search(rf'\b{name}\b', shown):
                yield f'{name} is exported, but never shown or tested here'
    if 'nbdev_export(' in shown:
        yield 'exports itself while it runs'


def check_imports_go_back(cells, chapter):
    earlier = {module_of(c) for c in CHAPTERS[: CHAPTERS.index(chapter)]}
    for cell in filter(is_exported, code_cells(cells)):
        for module in set(imported_modules(cell)) - earlier:
            yield f'imports harkd.{module}, which no earlier chapter defines'


def check_import_cells(cells, chapter):
    for cell in code_cells(cells):
        kinds = {isinstance(n, IMPORTS) for n in parse(cell).body}
        if kinds == {True, False}:
            yield f'mixes imports with other code: {code_lines(cell)[0][:50]}'


def check_width(cells, chapter):
    for cell in code_cells(cells):
        for line in source(cell).splitlines():
            if len(line) > MAX_COLUMNS and 'noqa' not in line:
                yield f'a line of {len(line)} columns: {line.strip()[:50]}'


def check_one_statement_a_line(cells, chapter):
    for cell in code_cells(cells):
        lines = [n.lineno for n in ast.walk(parse(cell)) if isinstance(n, ast.stmt)]
        for number in sorted({n for n in lines if lines.count(n) > 1}):
            text = source(cell).splitlines()[number - 1].strip()
            yield f'several statements on a line: {text[:50]}'


def check_outputs(cells, chapter):
    size = len(json.dumps([c['outputs'] for c in code_cells(cells)]))
    if size > MAX_OUTPUT_BYTES:
        yield f'{size // 1000} kB of outputs'
    for cell in code_cells(cells):
        for output in cell['outputs']:
            if MACHINE_PATH.search(json.dumps(output)):
                yield f"shows a path of somebody's machine: {source(cell)[:50]}"
            if output.get('output_type') == 'error' or output.get('name') == 'stderr':
                yield f'keeps an error or a warning: {source(cell)[:50]}'
            if WIDGET in output.get('data', {}):
                yield f'keeps a progress bar or a widget: {source(cell)[:50]}'


def check_parameters(cells, chapter):
    full_run = [i for i, c in enumerate(cells) if re.match(r'## Full run\b', source(c))]
    tagged = [i for i, c in enumerate(cells) if has_tag(c, 'parameters')]
    if bool(full_run) != bool(tagged):
        yield '"## Full run" and a cell tagged parameters come together or not at all'
        return
    if not tagged:
        return
    if len(tagged) > 1 or tagged[0] != full_run[0] + 1:
        yield 'the one parameters cell does not follow "## Full run"'
    for line in code_lines(cells[tagged[0]]):
        if not re.match(r'\w+: \w+ = .+ # .+', line):
            yield f'parameter is not "name: type = value  # meaning": {line}'
    if any(is_exported(c) for c in code_cells(cells[tagged[0] :])):
        yield 'exports below "## Full run"'


def check_picture(cells, chapter):
    if not chapter.startswith(tuple(f'{n}_' for n in MAIN)):
        return
    outputs = [o for c in code_cells(cells[:PICTURE_WITHIN]) for o in c['outputs']]
    if not any('image/png' in o.get('data', {}) for o in outputs):
        yield f'has no saved picture in its first {PICTURE_WITHIN} cells'


RULES = (
    check_opening,
    check_exports_are_shown,
    check_imports_go_back,
    check_import_cells,
    check_width,
    check_one_statement_a_line,
    check_outputs,
    check_parameters,
    check_picture,
)


@pytest.mark.parametrize('rule', RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize('path', NBS, ids=CHAPTERS)
def test_house_rules(path, rule):
    assert list(rule(read_cells(path), path.stem)) == []


def test_the_heads_are_there_in_order():
    heads = [c for c in CHAPTERS if re.match(r'\d\d_', c)]
    assert heads == sorted(heads)
    assert {h[:2] for h in heads} >= set(MAIN) - {'06'}


# The rules can fail


def markdown(text):
    return {'cell_type': 'markdown', 'metadata': {}, 'source': [text]}


def code(text, tags=(), outputs=()):
    metadata = {'tags': list(tags)} if tags else {}
    return {
        'cell_type': 'code',
        'metadata': metadata,
        'source': [text],
        'outputs': list(outputs),
    }


BAR = {'output_type': 'display_data', 'data': {WIDGET: {}, 'text/plain': ['50%|##']}}
PICTURE = {'output_type': 'display_data', 'data': {'image/png': ''}}
PRINTED_PATH = {'output_type': 'stream', 'name': 'stdout', 'text': ['/home/ann/runs']}
LEARNED = '#| export\ndef train_students():\n    pass'
BROKEN = {
    'title': (check_opening, [markdown('no title')], 'begins without'),
    'unseen export': (check_exports_are_shown, [code(LEARNED)], 'never shown'),
    'import ahead': (
        check_imports_go_back,
        [code('#| export\nfrom harkd.deploy import deploy_run')],
        'no earlier chapter',
    ),
    'mixed imports': (check_import_cells, [code('import os\nos.sep')], 'mixes imports'),
    'wide line': (check_width, [code('x = ' + '1 + ' * 30 + '1')], 'columns'),
    'two statements': (check_one_statement_a_line, [code('a = 1; b = 2')], 'several statements'),
    'body on the line': (check_one_statement_a_line, [code('if x: y = 1')], 'several statements'),
    'path shown': (check_outputs, [code('x', outputs=[PRINTED_PATH])], "somebody's machine"),
    'progress bar': (check_outputs, [code('x', outputs=[BAR])], 'a progress bar'),
    'large output': (check_outputs, [code('x', outputs=[{'text': 'x' * 200_001}])], 'kB of'),
    'parameters alone': (check_parameters, [code('alpha = 0.7', ['parameters'])], 'come together'),
    'untyped parameter': (
        check_parameters,
        [markdown('## Full run'), code('alpha = 0.7', ['parameters'])],
        'name: type = value',
    ),
    'no picture': (
        check_picture,
        [*[markdown('')] * PICTURE_WITHIN, code('x', outputs=[PICTURE])],
        'picture',
    ),
}


@pytest.mark.parametrize('case', BROKEN)
def test_a_broken_rule_is_found(case):
    rule, cells, says = BROKEN[case]
    assert says in ' | '.join(rule(cells, '05_distill'))


@pytest.mark.parametrize('path', NBS, ids=CHAPTERS)
def test_no_state_of_widgets_is_kept(path):
    "Megabytes that nobody reads, and pages that load scripts from the network"
    assert 'widgets' not in json.loads(path.read_text(encoding='utf8'))['metadata']
