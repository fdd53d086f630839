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

import harkd
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


def test_main_names_are_listed_and_each_can_be_imported():
    "Also those that are a module and a function at once"
    code = 'import harkd; print(set(harkd.__all__) <= set(dir(harkd)), end=" ")'
    code += '; print(all(callable(getattr(harkd, n)) for n in harkd._NAMES), len(harkd._NAMES))'
    assert python(code) == 'True True 11'


def test_a_misspelt_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        harkd.distil  # noqa: B018 - the attribute is the test


@pytest.mark.parametrize(
    'first', ['import harkd.distill', 'from harkd.distill import summary', 'import harkd']
)
def test_a_module_with_its_functions_name_is_called_however_it_was_imported(first):
    code = f'{first}; import harkd, inspect, harkd.distill as m; f = m.distill'
    code += '; print(harkd.distill is m, inspect.signature(harkd.distill) == inspect.signature(f))'
    code += '; m.distill = lambda x: x + 1; print(harkd.distill(4), m.DistillConfig.__name__)'
    assert python(code).splitlines() == ['True True', '5 DistillConfig']


def test_tooltips_show_the_parameters():
    "What JupyterLab asks of the kernel"
    inspector = pytest.importorskip('IPython.core.oinspect').Inspector(theme_name='nocolor')
    for name in ('distill', 'explain', 'explore', 'export', 'from_pretrained', 'load_dataset'):
        shown = inspector.info(getattr(harkd, name), name)
        definition = shown['definition'].split('(', 1)[1]
        assert not definition.startswith('*args') and ':' in definition, name


def test_configurations_print_what_differs():
    config = harkd.DistillConfig('utd_mhad', alpha=0.2)
    assert repr(config) == "DistillConfig(dataset='utd_mhad', alpha=0.2)"


def test_the_example_of_the_package_uses_what_there_is():
    "Ten lines at most, of names that the package exports; its configuration is valid"
    example = [line[4:] for line in harkd.__doc__.splitlines() if line.startswith('    ')]
    names = {
        n.attr for n in ast.walk(ast.parse('\n'.join(example))) if isinstance(n, ast.Attribute)
    }
    assert len(example) <= 10 and names - {'path'} <= set(harkd.__all__)
    harkd.DistillConfig(**_arguments(next(x for x in example if x.startswith('config'))))


def _arguments(line):  # of the call in `config = …`, by the names of the fields
    call = ast.parse(line).body[0].value
    return {'dataset': call.args[0].value, **{k.arg: k.value.value for k in call.keywords}}


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
