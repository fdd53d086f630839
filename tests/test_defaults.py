"""Defaults and published constants are promises: figures were made with them.

    python -m tests.test_defaults     writes tests/defaults.json anew, after a change that is meant

and its difference belongs into the same commit, with a line in CHANGELOG.md. Kept are defaults and
constants, private ones too, and of configurations their quick size, their computed properties, and
what each of their fields accepts and says about anything else."""

import ast
import hashlib
import importlib
import inspect
import json
import re
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

from harkd.runs import Config

ROOT = Path(__file__).resolve().parent.parent
KEPT = Path(__file__).with_name('defaults.json')
MODULES = sorted(p.stem for p in (ROOT / 'harkd').glob('*.py') if not p.stem.startswith('_'))
PLAIN = (bool, int, float, str, type(None), tuple, list, dict, frozenset, set, range)


def text(value):
    "A value in words that are the same in every process"
    if isinstance(value, (set, frozenset)):
        return '{' + ', '.join(sorted(map(text, value))) + '}'
    if isinstance(value, dict):
        return '{' + ', '.join(f'{text(k)}: {text(v)}' for k, v in value.items()) + '}'
    if isinstance(value, (tuple, list)):
        return '[' + ', '.join(map(text, value)) + ']'
    if isinstance(value, np.ndarray):
        return np.array2string(value, threshold=10**6)
    if is_dataclass(value) and not isinstance(value, type):
        return text({f.name: getattr(value, f.name) for f in fields(value)})
    if isinstance(value, partial):
        return f'{text(value.func)}({text(value.args)}, {text(value.keywords)})'
    return getattr(value, '__qualname__', None) or re.sub(r' at 0x\w+', '', repr(value))


def short(value):
    "Long tables by their hash"
    words = text(value)
    if len(words) <= 120:
        return words
    return f'{words[:60]}… {hashlib.sha256(words.encode()).hexdigest()[:12]}'


def of_signature(f):
    try:
        parameters = inspect.signature(f).parameters.values()
    except (ValueError, TypeError):
        return {}
    return {p.name: short(p.default) for p in parameters if p.default is not p.empty}


def of_dataclass(cls):
    made = [f for f in fields(cls) if f.default_factory is not MISSING]
    found = {f.name: short(f.default) for f in fields(cls) if f.default is not MISSING}
    return found | {f.name: short(f.default_factory()) for f in made}


def methods(cls):
    own = [(n, getattr(m, '__func__', m)) for n, m in vars(cls).items()]
    own = [(n, m) for n, m in own if inspect.isfunction(m)]
    return [(n, m) for n, m in own if n == '__init__' or not n.startswith('_')]


GRID = (-1e9, -1, -1e-9, 0, 1e-9, 1e-3, 0.3, 1, 30, 1e3, 1e9, 1e18)


def complaint(config, name, value):
    "What a configuration says about a value of one field; empty where it is accepted"
    try:
        replace(config, **{name: value})
    except (ValueError, TypeError) as error:
        return str(error)
    return ''


def border(config, name, a, b):
    "Between a value that is accepted and one that is not: the last one before that changes"
    first, whole = bool(complaint(config, name, a)), isinstance(a, int)
    while b - a > (1 if whole else 1e-12 * max(1, abs(a))):
        middle = (a + b) // 2 if whole else (a + b) / 2
        same = bool(complaint(config, name, middle)) == first
        a, b = (middle, b) if same else (a, middle)
    return a if whole else round(a, 9) + 0.0


def of_field(config, name, default):
    "Where values are accepted and where not, and what is said about those that are not"
    if isinstance(default, bool):
        return [complaint(config, name, value) for value in (False, True)]
    if isinstance(default, str):
        return [complaint(config, name, 'no such word')]
    whole, found = isinstance(default, int), []
    values = [int(v) if whole else float(v) for v in GRID if not whole or v == int(v)]
    for a, b in zip(values, values[1:]):
        if bool(complaint(config, name, a)) != bool(complaint(config, name, b)):
            last = border(config, name, a, b)
            found.append(f'{last:.9g} {"refused" if complaint(config, name, last) else "accepted"}')
    unusual = (values[0], values[-1], *(() if whole else (float('nan'),)))
    return [*found, *(complaint(config, name, v) for v in unusual)]


@cache
def limits(cls):
    config = cls()
    wanted = [f for f in fields(cls) if isinstance(f.default, (bool, int, float, str))]
    found = {f.name: list(filter(None, of_field(config, f.name, f.default))) for f in wanted}
    return {k: v for k, v in found.items() if v}


def of_config(cls):
    "Quick size, properties, and limits where the class from which it is derived has others"
    config, found = cls(), {}
    parents = [c for c in cls.__mro__[1:] if is_dataclass(c)]
    above = limits(parents[0]) if parents else {}
    found['limits'] = {k: v for k, v in limits(cls).items() if above.get(k) != v}
    if hasattr(config, 'smoke'):
        small = config.smoke()
        found['smoke'] = short(small) if type(small) is not cls else changes(config, small)
    names = [n for c in cls.__mro__ for n, v in vars(c).items() if isinstance(v, property)]
    found['properties'] = {n: short(getattr(config, n)) for n in names}
    return found


def changes(a, b):
    pairs = {f.name: (getattr(a, f.name), getattr(b, f.name)) for f in fields(a)}
    return {k: short(after) for k, (before, after) in pairs.items() if before != after}


def of_class(name, cls):
    parts = {f'{name}.{n}': of_signature(m) for n, m in methods(cls)}
    found = {k: v for k, v in parts.items() if v}
    if is_dataclass(cls):
        found[name] = of_dataclass(cls)
    if issubclass(cls, Config) and cls is not Config:
        found |= {f'{name}: {k}': v for k, v in of_config(cls).items() if v}
    return found


def assigned(module):
    "Names that a module gives values to, in contrast to those that it imports"
    found = []
    for statement in ast.parse(inspect.getsource(module)).body:
        targets = getattr(statement, 'targets', [])
        found += [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    return found


def defaults(name):
    "{name: its defaults, or its value where it is a constant} of a module"
    module, found = importlib.import_module(f'harkd.{name}'), {}
    for n, value in vars(module).items():
        if inspect.isclass(value) or inspect.isfunction(value):
            if value.__module__ != module.__name__:
                continue
            here = of_class(n, value) if inspect.isclass(value) else {n: of_signature(value)}
            found |= {k: v for k, v in here.items() if v or is_dataclass(value)}
    for n in dict.fromkeys(assigned(module)):
        value = getattr(module, n, None)
        if isinstance(value, (*PLAIN, np.ndarray)) and n.upper() == n and n != '_HAS_FCNTL':
            found[n] = short(value)
    return found


@pytest.mark.parametrize('name', MODULES)
def test_defaults_are_those_that_figures_were_made_with(name):
    kept, now = json.loads(KEPT.read_text(encoding='utf8')).get(name, {}), defaults(name)
    changed = [k for k in {**kept, **now} if kept.get(k) != now.get(k)]
    assert not changed, f'meant? then run: python -m tests.test_defaults ({changed[0]})'


if __name__ == '__main__':
    found = {name: defaults(name) for name in MODULES}
    KEPT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + '\n', encoding='utf8')
