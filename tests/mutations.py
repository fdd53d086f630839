"""Single-point mutations of a module: where they may be made, and what the text then says"""

import ast
import copy
import re
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULES = sorted(p.stem for p in (ROOT / 'harkd').glob('*.py') if not p.stem.startswith('_'))
CELL = re.compile(r'^# %% \.\./nbs/(?P<chapter>.+)\.ipynb #(?P<id>\w+)$')
# how a drawing looks is not behaviour: numbers given to these arguments are left alone
LAYOUT = set(
    'figsize fontsize size linewidth lw width height rotation dpi pad zorder s markersize margin '
    'row_heights column_widths vertical_spacing horizontal_spacing opacity labelpad hspace wspace '
    'ncols_legend capsize line marker layout labelsize bbox_to_anchor ms'.split()
)

SWAPPED_OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
SWAPPED_NAMES = {'min': 'max', 'max': 'min', 'any': 'all', 'all': 'any', 'minimum': 'maximum'}
SWAPPED_NAMES |= {'maximum': 'minimum', 'argmin': 'argmax', 'argmax': 'argmin'}
PARTS = (ast.Attribute, ast.Subscript)


@dataclass(frozen=True)
class Mutation:
    "One changed place of one module"

    module: str  # Name without `harkd.`
    function: str  # Outermost function or method that holds it; empty at module level
    kind: str  # What was done
    line: int  # Of the module, from 1
    before: str  # Source of the place
    after: str  # Source in its stead
    occurrence: int = 0  # Among equal changes of this function

    @property
    def key(self):
        "What stays when lines move"
        return (self.module, self.function, self.kind, self.before, self.after, self.occurrence)

    def row(self):
        return asdict(self)


def is_text(node):
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def swapped_operator(node):
    "Arithmetic, comparison and boolean operators"
    if isinstance(node, (ast.BinOp, ast.BoolOp)):
        parts = (node.left, node.right) if isinstance(node, ast.BinOp) else ()
        other = SWAPPED_OPERATORS.get(type(node.op))
        if other and not any(map(is_text, parts)):
            yield 'operator', type(node)(**{**vars(node), 'op': other()})
    elif isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            if other := SWAPPED_OPERATORS.get(type(op)):
                ops = [*node.ops[:i], other(), *node.ops[i + 1 :]]
                yield 'comparison', ast.Compare(node.left, ops, node.comparators)


def changed_constant(node):
    if not isinstance(node, ast.Constant) or isinstance(node.value, (str, bytes)):
        return
    if isinstance(node.value, bool):
        yield 'flag', ast.Constant(not node.value)
    elif isinstance(node.value, int):
        yield 'constant', ast.Constant(node.value + 1)
    elif isinstance(node.value, float):
        yield 'constant', ast.Constant(node.value * 2 if node.value else 1.0)


def removed_sign(node):
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield 'not' if isinstance(node.op, ast.Not) else 'sign', node.operand


def swapped_name(node):
    "min and max, any and all; the end of a range"
    if not isinstance(node, ast.Call):
        return
    f = node.func
    name = getattr(f, 'id', getattr(f, 'attr', None))
    if other := SWAPPED_NAMES.get(name):
        changed = copy.deepcopy(f)
        setattr(changed, 'id' if isinstance(f, ast.Name) else 'attr', other)
        yield (
            'min and max' if 'm' in name else 'any and all',
            ast.Call(changed, node.args, node.keywords),
        )
    if name == 'range' and node.args:
        i = 0 if len(node.args) == 1 else 1
        less = ast.BinOp(node.args[i], ast.Sub(), ast.Constant(1))
        yield 'off by one', ast.Call(f, [*node.args[:i], less, *node.args[i + 1 :]], [])


def changed_statement(node):
    "Removed calls, raises and assignments to parts; conditions turned round; lost results"
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield 'removed call', ast.Pass()
    elif isinstance(node, ast.Raise):
        yield 'removed raise', ast.Pass()
    elif isinstance(node, ast.AugAssign):
        yield 'removed update', ast.Pass()
    elif isinstance(node, (ast.Break, ast.Continue)):
        yield 'removed jump', ast.Pass()
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], PARTS):
        yield 'removed assignment', ast.Pass()
    elif isinstance(node, ast.Return) and ast.unparse(node) not in ('return', 'return None'):
        yield 'lost result', ast.Return(ast.Constant(None))


def changed_guard(node):
    if isinstance(node, (ast.If, ast.IfExp, ast.While)):
        yield 'condition', ast.UnaryOp(ast.Not(), node.test)
        if isinstance(node, ast.If) and not node.orelse:
            yield 'removed guard', ast.Constant(False)


CHANGES = (swapped_operator, changed_constant, removed_sign, swapped_name, changed_statement)


def is_docstring(node):
    return isinstance(node, ast.Expr) and is_text(node.value)


def skipped(parent, field, node):
    "Annotations, texts, imports and the layout of drawings"
    if field in ('annotation', 'returns', 'decorator_list') or is_text(node) or is_docstring(node):
        return True
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return True
    if isinstance(parent, ast.Assign) and getattr(parent.targets[0], 'id', '') == '__all__':
        return True
    return isinstance(node, ast.keyword) and node.arg in LAYOUT


def places(tree):
    "(function, node that is changed, kind, changed node) of a module, in the order of the text"

    def visit(node, parents, inside):
        for change in CHANGES:
            for kind, changed in change(node):
                yield '.'.join(parents), node, kind, changed
        for kind, changed in changed_guard(node):
            yield '.'.join(parents), node.test, kind, changed
        if isinstance(node, ast.ClassDef) and not inside:
            parents = [*parents, node.name]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not inside:
            parents, inside = [*parents, node.name], True
        for field, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not skipped(node, field, child):
                    yield from visit(child, parents, inside)

    yield from visit(tree, [], False)


def written(node):
    text = ast.unparse(ast.fix_missing_locations(node))
    return f'({text})' if isinstance(node, ast.expr) else text


def find_mutations(module, source):
    "Every mutation of the text of a module, with where it begins and ends in it (bytes)"
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    found, counts = [], {}
    for function, node, kind, changed in places(ast.parse(source)):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        before = ' '.join(ast.unparse(node).split())
        same = (function, kind, before, after := written(changed))
        occurrence = counts.get(same, 0)
        counts[same] = occurrence + 1
        m = Mutation(module, function, kind, node.lineno, before, after, occurrence)
        found.append((m, begin, end))
    return found


def mutate_source(source, mutation):
    "The text with one mutation, or None where its place is gone"
    for m, begin, end in find_mutations(mutation.module, source):
        if m.key == mutation.key:
            text = source.encode()
            return (text[:begin] + m.after.encode() + text[end:]).decode()
    return None


def module_source(module, root=ROOT):
    return (root / 'harkd' / f'{module}.py').read_text(encoding='utf8')


def all_mutations():
    found = []
    for module in MODULES:
        found += [m for m, _, _ in find_mutations(module, module_source(module))]
    return found


def exported_cells(source):
    "Texts of the cells of a module, by chapter and id"
    cells, at = {}, None
    for line in source.splitlines(keepends=True):
        if mark := CELL.match(line.rstrip()):
            at = (mark['chapter'], mark['id'])
            cells[at] = ''
        elif at:
            cells[at] += line
    return {k: v.strip('\n') for k, v in cells.items()}
