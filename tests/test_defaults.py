"""Defaults and published constants are promises: figures were made with them.

    python -m tests.test_defaults     writes tests/defaults.json anew, after a change that is meant

and its difference belongs into the same commit, with a line in CHANGELOG.md."""

import hashlib
import importlib
import inspect
import json
import re
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

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
    own = [(n, m) for n, m in vars(cls).items() if inspect.isfunction(m)]
    return [(n, m) for n, m in own if n == '__init__' or not n.startswith('_')]


def defaults(name):
    "{public name: its defaults, or its value where it is a constant} of a module"
    module, found = importlib.import_module(f'harkd.{name}'), {}
    for public in getattr(module, '__all__', ()):
        value = getattr(module, public)
        if inspect.isclass(value):
            parts = {f'{public}.{n}': of_signature(m) for n, m in methods(value)}
            found |= {k: v for k, v in parts.items() if v}
            found |= {public: of_dataclass(value)} if is_dataclass(value) else {}
        elif callable(value):
            found |= {public: of_signature(value)} if of_signature(value) else {}
        elif isinstance(value, (*PLAIN, np.ndarray)):
            found[public] = short(value)
    return found


@pytest.mark.parametrize('name', MODULES)
def test_defaults_are_those_that_figures_were_made_with(name):
    kept, now = json.loads(KEPT.read_text(encoding='utf8')).get(name, {}), defaults(name)
    changed = [k for k in {**kept, **now} if kept.get(k) != now.get(k)]
    assert not changed, f'meant? then run: python -m tests.test_defaults ({changed[0]})'


if __name__ == '__main__':
    found = {name: defaults(name) for name in MODULES}
    KEPT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + '\n', encoding='utf8')
