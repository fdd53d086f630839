"A clone in a folder called `harkd`, below a folder with spaces and an accent, works as this one"

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PARENT = 'a folder with spaces é'
CHAPTERS = ('02c_runs', '09d_runtime')  # those that touch paths
PAGE_TESTS = 'paragraph or link or target or subcommand or parameter or manifest or own_data'

pytestmark = [
    pytest.mark.skipif(not (ROOT / '.git').exists(), reason='not a git checkout'),
    pytest.mark.skipif(not shutil.which('git'), reason='needs git'),
]


def git(*arguments):
    command = ['git', '-c', 'safe.directory=*', '-c', 'core.quotepath=off', *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def copy_uncommitted(clone):
    "What is changed or new here, as a commit would bring it"
    for name in git('ls-files', '-m', '-o', '--exclude-standard').splitlines():
        if (ROOT / name).exists():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
        else:
            (clone / name).unlink(missing_ok=True)


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    "The clone; its .venv is the present environment, so that paths of packages hold 'harkd', too"
    folder = tmp_path_factory.mktemp('clone') / PARENT / 'harkd'
    git('clone', '-q', str(ROOT), str(folder))
    copy_uncommitted(folder)
    (folder / '.venv').symlink_to(sys.prefix)
    return folder


def python(clone, *arguments):
    "Run the Python of the clone's environment there"
    environment = {k: v for k, v in os.environ.items() if k not in ('HARKD_RESULTS', 'VIRTUAL_ENV')}
    environment |= {'PYTHONPATH': str(clone), 'IN_TEST': '1'}
    command = [clone / '.venv' / 'bin' / Path(sys.executable).name, *arguments]
    return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)


def test_the_package_is_that_of_the_clone(clone):
    done = python(clone, '-c', 'import harkd; print(harkd.__file__)')
    assert done.stdout.strip() == str(clone / 'harkd' / '__init__.py')


@pytest.mark.parametrize('chapter', CHAPTERS)
def test_chapters_that_touch_paths_run(clone, chapter):
    tool = clone / '.venv' / 'bin' / 'nbdev_test'
    done = python(clone, tool, '--path', f'nbs/{chapter}.ipynb', '--n_workers', '0')
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_pages_hold_there(clone):
    done = python(clone, '-m', 'pytest', '-q', 'tests/test_readme.py', '-k', PAGE_TESTS)
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'passed' in done.stdout


def test_commands_run_there(clone):
    code = 'from harkd.cli import main; main()'
    done = python(clone, '-c', code, 'params', 'distill')
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'alpha' in done.stdout


def test_make_finds_a_data_folder_with_spaces(clone):
    (clone.parent / 'my data').mkdir()
    environment = {**os.environ, 'HARKD_DATA': '../my data'}
    rule = '--eval=show: ; @echo "$$HARKD_DATA"'
    done = subprocess.run(
        ['make', '-s', rule, 'show'], cwd=clone, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(clone.parent / 'my data')
