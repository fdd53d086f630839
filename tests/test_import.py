"What an import costs, and what it must not bring along"

import ast
import json
import subprocess
import sys
from configparser import ConfigParser
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

HEAVY = (
    'tensorflow',
    'plotly',
    'ipywidgets',
    'jupyterlab',
    'IPython',
    'ray',
    'sentence_transformers',
    'captum',
    'onnxruntime',
    'onnx',
    'aeon',
    'papermill',
)
TIMED_IMPORT = 'import time; t = time.perf_counter(); import harkd; print(time.perf_counter() - t)'


def python(code):
    "What a fresh interpreter prints"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_of_the_package_is_fast():
    "Under 0.3 s on a quiet machine; the best of three, since this one may not be quiet"
    assert min(float(python(TIMED_IMPORT)) for _ in range(3)) < 0.3


def test_import_of_the_package_leaves_torch_alone():
    assert python("import harkd, sys; print('torch' in sys.modules)") == 'False'


def test_version_is_there():
    assert python('import harkd; print(harkd.__version__)').startswith('0.')


@pytest.mark.parametrize('module', ['distill', 'explain', 'deploy', 'evaluate'])
def test_modules_leave_the_heavy_packages_alone(module):
    loaded = python(f'import sys, harkd.{module}; print([m for m in {HEAVY} if m in sys.modules])')
    assert loaded == '[]'


def test_functions_are_imported_by_name():
    assert 'function' in python('from harkd.distill import distill; print(distill)')


# `make demo` installs the core alone, and runs these chapters as they stand, tests included


def installed_with(requirements):
    "Names of all distributions that some requirements bring along"
    names, todo = set(), list(requirements)
    while todo:
        requirement = Requirement(todo.pop())
        name = canonicalize_name(requirement.name)
        marker = requirement.marker
        if name in names or (marker and not marker.evaluate({'extra': ''})):
            continue
        names.add(name)
        with suppress(PackageNotFoundError):  # of another platform
            todo += distribution(name).requires or []
    return names


def core_requirements():
    config = ConfigParser(delimiters=['='], interpolation=None)
    config.read(ROOT / 'settings.ini')
    return config['DEFAULT']['requirements'].split()


def imported_packages(chapter):
    "Top-level packages that the cells of a chapter import"
    cells = json.loads((ROOT / 'nbs' / f'{chapter}.ipynb').read_text(encoding='utf8'))['cells']
    used = set()
    for cell in cells:
        if cell['cell_type'] != 'code':
            continue
        code = [line for line in cell['source'] if not line.lstrip().startswith(('%', '!'))]
        for node in ast.walk(ast.parse(''.join(code))):
            if isinstance(node, ast.Import):
                used |= {a.name.split('.')[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                used.add(node.module.split('.')[0])
    return used - set(sys.stdlib_module_names) - {'harkd'}


@pytest.mark.parametrize('chapter', ['05_distill', '08_explain', '09_deploy'])
def test_chapters_of_the_demo_need_no_more_than_the_core(chapter):
    core, providers = installed_with(core_requirements()), packages_distributions()
    missing = {
        package
        for package in imported_packages(chapter)
        if not {canonicalize_name(d) for d in providers.get(package, [])} & core
    }
    assert missing == set()
