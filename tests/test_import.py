"What an import costs, and what it must not bring along"

import subprocess
import sys

import pytest


def python(code):
    return subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    ).stdout


def test_import_harkd_is_light():
    "Under 0.3 s on a quiet machine; the best of three, since this one may not be quiet"
    best = min(
        float(
            python('import time; t=time.perf_counter(); import harkd; print(time.perf_counter()-t)')
        )
        for _ in range(3)
    )
    assert best < 0.3
    assert python("import harkd,sys; print('torch' in sys.modules, harkd.__version__)").startswith(
        'False 0.'
    )


@pytest.mark.parametrize('module', ['distill', 'explain', 'deploy', 'evaluate'])
def test_modules_leave_the_heavy_extras_alone(module):
    heavy = "('tensorflow','plotly','ipywidgets','jupyterlab','IPython','ray','sentence_transformers','captum','onnxruntime','onnx','aeon','papermill')"
    assert (
        python(
            f'import sys; import harkd.{module}; print([m for m in {heavy} if m in sys.modules])'
        ).strip()
        == '[]'
    )


def test_distill_by_name():
    assert 'function' in python('from harkd.distill import distill; print(distill)')


def brought(requirements):  # names of all distributions that these bring along
    from importlib.metadata import PackageNotFoundError, distribution

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    have, todo = set(), list(requirements)
    while todo:
        r = Requirement(todo.pop())
        name = canonicalize_name(r.name)
        if name in have or r.marker and not r.marker.evaluate({'extra': ''}):
            continue
        have.add(name)
        try:
            todo += distribution(name).requires or []
        except PackageNotFoundError:
            pass  # of another platform
    return have


@pytest.mark.parametrize('chapter', ['05_distill', '08_explain', '09_deploy'])
def test_the_demo_needs_no_more_than_the_core(chapter):
    "`make demo` installs the core alone, and runs these chapters as they stand, tests included"
    import ast
    import json
    from configparser import ConfigParser
    from importlib.metadata import packages_distributions

    from packaging.utils import canonicalize_name

    from harkd.runs import repo_root

    cfg = ConfigParser(delimiters=['='], interpolation=None)
    cfg.read(repo_root() / 'settings.ini')
    core = brought(cfg['DEFAULT']['requirements'].split())
    cells = json.loads((repo_root() / 'nbs' / f'{chapter}.ipynb').read_text(encoding='utf8'))[
        'cells'
    ]
    nodes = [
        n
        for c in cells
        if c['cell_type'] == 'code'
        for n in ast.walk(
            ast.parse(''.join(l for l in c['source'] if not l.lstrip().startswith(('%', '!'))))
        )
    ]
    used = {a.name.split('.')[0] for n in nodes if isinstance(n, ast.Import) for a in n.names} | {
        n.module.split('.')[0] for n in nodes if isinstance(n, ast.ImportFrom) and n.module
    }
    of = packages_distributions()
    strangers = {
        m
        for m in used - set(sys.stdlib_module_names) - {'harkd'}
        if not {canonicalize_name(d) for d in of.get(m, [])} & core
    }
    assert not strangers
