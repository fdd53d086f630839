import os
from pathlib import Path

import pytest

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MPLBACKEND', 'Agg')
os.environ['IN_TEST'] = '1'
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _private_results(tmp_path, monkeypatch):
    "Tests never write into nbs/results, and never into its ledger"
    monkeypatch.setenv('HARKD_RESULTS', str(tmp_path / 'results'))


@pytest.fixture
def published(monkeypatch):
    "Read the committed results instead of the private ones"
    monkeypatch.delenv('HARKD_RESULTS')


def data(name):
    "Folder of a downloaded data set, or a visible skip"
    root = os.environ.get('HARKD_DATA')
    if not (root and (Path(root) / name).is_dir()):
        pytest.skip(f'set HARKD_DATA to the folder that holds {name}/')
    return Path(root) / name
