"The package is what the chapters say, to the byte"

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

TOOLS = Path(sys.executable).parent
KINDS = {'nbs': '*.ipynb', 'harkd': '*.py'}


def contents(root, folder):
    "Path to bytes of the notebooks or modules below a folder"
    paths = (root / folder).rglob(KINDS[folder])
    return {
        p.relative_to(root / folder): p.read_bytes()
        for p in paths
        if '.ipynb_checkpoints' not in p.parts
    }


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    "A copy of the chapters and of the package, cleaned and exported again"
    copy = tmp_path_factory.mktemp('copy')
    ignore = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')
    for folder in KINDS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    shutil.copy(ROOT / 'settings.ini', copy)
    for tool in ('nbdev_clean', 'nbdev_export'):
        subprocess.run(
            [TOOLS / tool], cwd=copy, check=True, capture_output=True, stdin=subprocess.DEVNULL
        )
    return copy


@pytest.mark.parametrize('folder', KINDS)
def test_clean_and_export_change_nothing(exported, folder):
    here, there = contents(ROOT, folder), contents(exported, folder)
    assert set(here) == set(there), 'a file appears or disappears'
    changed = [str(p) for p in here if here[p] != there[p]]
    assert changed == [], f'run nbdev_clean and nbdev_export, and commit {folder}/'


def test_every_module_has_its_chapter():
    chapters = {p.stem.split('_', 1)[-1] for p in (ROOT / 'nbs').glob('*.ipynb')}
    modules = {p.stem for p in (ROOT / 'harkd').glob('*.py') if not p.stem.startswith('_')}
    assert modules <= chapters
