"Small samples of the fuzzers; `python -m tests.fuzz_readers` and its neighbours do more"

import numpy as np
import pytest

from tests.fuzz_readers import UNPACKED, attempt, make, one_round


@pytest.mark.parametrize('name', [*UNPACKED, 'hapt', 'motionsense'])
def test_damaged_downloads_are_read_or_named(name, tmp_path):
    folder = make(name, tmp_path)[-1]
    assert attempt(name, folder, []) == ('read', '')
    outcomes = set()
    for k in range(40):
        outcome, why, damaged = one_round(name, folder, np.random.default_rng(k))
        assert not why, (k, damaged, outcome, why)
        outcomes.add(outcome)
    assert 'named error' in outcomes
    assert attempt(name, folder, []) == ('read', '')


def test_a_study_of_hapt_without_its_labels_is_named(tmp_path):
    folder = make('hapt', tmp_path)[-1]
    (path,) = folder.rglob('labels.txt')
    path.write_text('99 99 1 1 100\n')
    assert attempt('hapt', folder, [path])[0] == 'named error'


def test_a_table_of_motionsense_without_rows_is_named(tmp_path):
    folder = make('motionsense', tmp_path)[-1]
    path = next(folder.rglob('sub_*.csv'))
    path.write_text(path.read_text().splitlines()[0] + '\n')
    assert attempt('motionsense', folder, [path])[0] == 'named error'
