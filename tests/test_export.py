"The package is what the chapters say, to the byte"

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_clean_and_export_change_nothing(tmp_path):
    for d in ('nbs', 'harkd'):
        shutil.copytree(
            ROOT / d,
            tmp_path / d,
            ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'),
        )
    shutil.copy(ROOT / 'settings.ini', tmp_path)
    for command in ('nbdev_clean', 'nbdev_export'):
        subprocess.run(
            [str(Path(sys.executable).parent / command)],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
    for d, pattern in (('nbs', '*.ipynb'), ('harkd', '*.py')):
        here, there = (
            {
                p.relative_to(r / d): p.read_bytes()
                for p in (r / d).rglob(pattern)
                if '.ipynb_checkpoints' not in str(p)
            }
            for r in (ROOT, tmp_path)
        )
        assert set(here) == set(there), 'a file appears or disappears'
        assert [str(k) for k in here if here[k] != there[k]] == [], (
            f'run nbdev_clean and nbdev_export, and commit {d}/'
        )


def test_every_module_has_its_chapter():
    chapters = {p.stem.split('_', 1)[-1] for p in (ROOT / 'nbs').glob('*.ipynb')}
    assert {p.stem for p in (ROOT / 'harkd').glob('*.py') if not p.stem.startswith('_')} <= chapters
