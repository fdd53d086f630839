"Configurations, atomic files, checksums, model folders, run folders and the ledger"

import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, make_dataclass
from datetime import date
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from harkd.runs import (
    LEDGER_COLUMNS,
    LEDGER_PAGE_BYTES,
    MODEL_CLASSES,
    RESULT_COLUMNS,
    DamagedFile,
    Run,
    added_field,
    check_choice,
    check_params,
    check_positive,
    check_range,
    compare_data,
    environment,
    find_model_class,
    find_module,
    hash_config,
    injected_params,
    load_model,
    load_tensors,
    make_config,
    make_model,
    plain_config,
    read_description,
    read_json,
    read_ledger,
    read_sealed,
    repo_root,
    result_rows,
    results_dir,
    save_model,
    save_tensors,
    temporary_beside,
    write_bytes,
    write_description,
    write_json,
    write_ledger,
    write_results,
    write_sealed,
)
from harkd.student import ConvStudent, HarModel
from harkd.teacher import Ensemble


@dataclass(frozen=True)
class Toy:
    alpha: float = 0.7
    seeds: int = 3
    dataset: str = 'spar'


# --- configurations


def test_a_config_is_made_from_the_fields_in_scope():
    assert make_config(Toy, {'alpha': 1, 'seeds': 5, 'other': None}) == Toy(1, 5)


def test_injected_parameters_are_found_and_used():
    scope = {'In': ['1+1', '# Parameters\nalpha = 0.2\n', 'x'], 'alpha': 0.2}
    assert injected_params(scope['In']) == {'alpha': 0.2}
    assert injected_params(['x']) == {}
    assert make_config(Toy, scope) == Toy(0.2)


@pytest.mark.parametrize(
    'cell, error, message',
    [
        ('alhpa = 0.2', ValueError, "unknown parameter 'alhpa', valid ones are: alpha, seeds"),
        ('seeds = 1.5', TypeError, r"parameter 'seeds' must be int, got 1.5 \(float\)"),
        ('seeds = True', TypeError, "parameter 'seeds' must be int, got True"),
        ('alpha = True', TypeError, "parameter 'alpha' must be float, got True"),
        ('dataset = 3', TypeError, "parameter 'dataset' must be str, got 3"),
    ],
)
def test_a_wrong_name_or_type_is_refused(cell, error, message):
    with pytest.raises(error, match=message):
        make_config(Toy, {'In': [f'# Parameters\n{cell}\n']})


def test_an_int_is_a_valid_float():
    check_params(Toy, {'alpha': 1})


@pytest.mark.parametrize('alpha', [-0.1, 1.1, float('nan')])
def test_a_value_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match=rf'alpha must be in \[0,1\], got {alpha}'):
        check_range(Toy(alpha), 'alpha', 0, 1)
    check_range(Toy(0.0), 'alpha', 0, 1)
    check_range(Toy(1.0), 'alpha', 0, 1)


@pytest.mark.parametrize('alpha', [0.0, -1.0, float('nan')])
def test_a_value_that_is_not_positive_is_refused(alpha):
    with pytest.raises(ValueError, match=f'alpha must be > 0, got {alpha}'):
        check_positive(Toy(alpha), 'alpha')


def test_a_value_that_is_no_choice_is_refused():
    check_choice(Toy(), 'dataset', 'spar', 'synth')
    with pytest.raises(ValueError, match="dataset must be 'a', 'b' or 'c', got 'spar'"):
        check_choice(Toy(), 'dataset', 'a', 'b', 'c')


def test_the_hash_depends_on_values_not_on_order():
    assert hash_config(Toy()) == hash_config(dict(dataset='spar', seeds=3, alpha=0.7))
    assert hash_config(Toy()) != hash_config(Toy(0.2))


def test_an_added_field_at_its_default_leaves_the_hash_as_it_was():
    fields = [('blank', float, added_field(0.0))]
    grown = make_dataclass('Grown', fields, bases=(Toy,), frozen=True)
    assert hash_config(grown()) == hash_config(Toy())
    assert hash_config(grown(blank=0.1)) != hash_config(Toy())
    assert plain_config(grown(blank=0.1))['blank'] == 0.1


def test_the_environment_names_versions_and_processor():
    e = environment()
    assert set(e) == {'harkd', 'python', 'torch', 'numpy', 'processor', 'threads', 'system'}
    assert e['processor'] and e['processor'] == e['processor'].strip()


# --- files


class Broken:
    def __str__(self):
        raise KeyboardInterrupt


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_json(tmp_path / 'x.json', {'n': np.int64(3), 'v': torch.tensor([1.0, 2.0])})
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / 'x.json', {'b': Broken()})
    assert read_json(tmp_path / 'x.json') == {'n': 3, 'v': [1.0, 2.0]}
    assert os.listdir(tmp_path) == ['x.json']


def test_missing_and_damaged_files_are_named(tmp_path):
    (tmp_path / 'x.json').write_text('{"n":')
    with pytest.raises(DamagedFile, match=r'x\.json: not JSON'):
        read_json(tmp_path / 'x.json')
    with pytest.raises(FileNotFoundError, match="nowhere.json' is missing"):
        read_json(tmp_path / 'nowhere.json')
    with pytest.raises(FileNotFoundError, match="'nowhere' is missing"):
        load_tensors('nowhere')


@pytest.fixture
def tensor_file(tmp_path):
    tensors = {'a': torch.arange(6.0).reshape(2, 3), 'n': torch.tensor(7)}
    return save_tensors(tmp_path / 'w.safetensors', tensors, {'epoch': 3})


def test_tensors_are_read_as_they_were_written(tensor_file):
    tensors, meta = load_tensors(tensor_file)
    assert tensors['a'].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensors['n'].item() == 7 and meta == {'epoch': 3}


def test_no_cut_and_no_flipped_bit_changes_what_is_loaded(tensor_file):
    whole = tensor_file.read_bytes()
    tensors, meta = load_tensors(tensor_file)
    refused = 0
    for i in range(len(whole)):
        flipped = whole[:i] + bytes([whole[i] ^ (1 << (i % 8))]) + whole[i + 1 :]
        for damaged in (whole[:i], flipped):
            tensor_file.write_bytes(damaged)
            try:
                got, got_meta = load_tensors(tensor_file)
                assert all(torch.equal(got[k], tensors[k]) for k in tensors), i
                assert got_meta == meta, i
            except DamagedFile as e:
                assert 'w.safetensors' in str(e)
                refused += 1
    assert refused >= 2 * len(whole) - 20  # a few bytes of the header carry no information


def test_what_was_loaded_does_not_change_with_the_file(tensor_file):
    tensors, _ = load_tensors(tensor_file)
    before = tensors['a'].clone()
    tensor_file.write_bytes(b'x' * tensor_file.stat().st_size)
    assert torch.equal(tensors['a'], before)


def test_a_pickle_is_refused(tensor_file):
    tensor_file.write_bytes(pickle.dumps({'a': 1}))
    with pytest.raises(DamagedFile):
        load_tensors(tensor_file)


# --- model folders


def attack(folder, name, config):
    write_json(folder / 'harkd.json', {'class': name, 'config': config})
    with pytest.raises(DamagedFile, match='names no model of harkd'):
        load_model(folder)


def test_a_model_folder_cannot_call_a_function(tmp_path):
    "`runs:write_json` exists and takes these arguments; loading must not run it"
    target = tmp_path / 'attacked.json'
    attack(tmp_path / 'm', 'runs:write_json', {'path': str(target), 'value': 1})
    assert not target.exists()


def test_a_member_of_an_ensemble_cannot_call_a_function(tmp_path):
    target = tmp_path / 'attacked.json'
    member = ['runs:write_json', {'path': str(target), 'value': 1}]
    attack(tmp_path / 'm', 'teacher:Ensemble', {'members': [member]})
    assert not target.exists()


@pytest.mark.parametrize(
    'name',
    ['os:system', 'student:snapshot_download', 'student:HarModel', 'student', '', 'student:Path'],
)
def test_only_registered_classes_are_loaded(tmp_path, name):
    attack(tmp_path, name, {})


@pytest.mark.parametrize(
    'about',
    [
        {'class': 'student:ConvStudent', 'config': {'path': 'x'}},
        {'class': 'student:ConvStudent', 'config': {'self': 1}},
        {'class': 'student:ConvStudent', 'config': [1]},
        {'class': 'student:ConvStudent'},
        {'class': ['student:ConvStudent'], 'config': {}},
        [],
    ],
)
def test_what_is_not_a_class_and_its_arguments_is_damaged(tmp_path, about):
    write_json(tmp_path / 'harkd.json', about)
    with pytest.raises(DamagedFile, match='names no model of harkd'):
        load_model(tmp_path)


def test_a_registered_name_must_be_a_model_class_of_its_module(monkeypatch):
    monkeypatch.setitem(MODEL_CLASSES, 'runs', ('write_json',))
    monkeypatch.setitem(MODEL_CLASSES, 'student', ('Encoder',))  # imported there, defined elsewhere
    for path in ('runs:write_json', 'student:Encoder'):
        with pytest.raises(ValueError, match='is not a model class that harkd'):
            find_model_class(path)


def test_every_model_of_the_registered_modules_is_registered():
    for module in MODEL_CLASSES:
        import_module(f'harkd.{module}')
    modules = {f'harkd.{module}' for module in MODEL_CLASSES}  # other tests import others
    open_classes, models = [HarModel], set()
    while open_classes:
        found = open_classes.pop().__subclasses__()
        open_classes += found
        models |= {c for c in found if c.__module__ in modules and c.__name__[0] != '_'}
    registered = {find_model_class(f'{m}:{n}') for m, names in MODEL_CLASSES.items() for n in names}
    assert models == registered


def test_only_models_that_can_be_loaded_again_are_saved(tmp_path):
    with pytest.raises(ValueError, match="'Linear' is not a model of harkd"):
        save_model(torch.nn.Linear(2, 3), tmp_path / 'm')
    with pytest.raises(ValueError, match='not a model of harkd'):
        find_module('Popen')
    assert not (tmp_path / 'm').exists()


def test_a_saved_ensemble_is_loaded_as_it_was(tmp_path):
    members = [make_model('student:ConvStudent', {'channels': 3, 'classes': 4}) for _ in range(2)]
    ensemble = Ensemble.of(members)
    save_model(ensemble, tmp_path)
    again, about = load_model(tmp_path)
    x = torch.randn(2, 50, 3)
    assert torch.equal(again(x), ensemble(x)) and about['class'] == 'teacher:Ensemble'
    assert isinstance(again.models[0], ConvStudent)


# --- run folders


def test_a_run_keeps_its_configuration_and_metrics(tmp_path):
    run = Run(tmp_path / 'try', Toy(0.2))
    assert not run.finished and not run.resumed
    run.finish({'accuracy': 0.9})
    assert run.metrics == {'accuracy': 0.9} and run.config['alpha'] == 0.2
    assert Run(tmp_path / 'try').finished
    assert Run(tmp_path / 'try', Toy(0.2)).metrics == {'accuracy': 0.9}  # stays as it is


def test_another_configuration_is_refused(tmp_path):
    Run(tmp_path / 'try', Toy(0.2))
    with pytest.raises(ValueError, match="run 'try' exists with another configuration"):
        Run(tmp_path / 'try', Toy(0.3))


def test_other_data_are_refused(tmp_path):
    Run(tmp_path / 'data', Toy(0.2), 'abc')
    Run(tmp_path / 'data', Toy(0.2), 'abc')
    with pytest.raises(ValueError, match=r'was made from other data \(abc, now abd\)'):
        Run(tmp_path / 'data', Toy(0.2), 'abd')


def test_a_run_with_a_checkpoint_is_resumed(tmp_path):
    save_tensors(Run(tmp_path / 'try', Toy()) / 'fold0/checkpoint.safetensors', {})
    assert Run(tmp_path / 'try', Toy()).resumed


@pytest.mark.parametrize('name', ['none_such', 'runs/none_such'])
def test_relative_names_are_below_runs_of_the_repository(name):
    with pytest.raises(FileNotFoundError, match='is not a run folder') as e:
        Run(name)
    assert f"'{repo_root() / 'runs' / 'none_such'}'" in str(e.value)


# --- results and the ledger

ROW = dict(
    experiment='demo',
    dataset='spar',
    model='conv',
    arm='control',
    seed=0,
    n=10,
    accuracy=0.9,
    config_hash='c',
    data_hash='d',
)


def test_a_result_table_has_all_columns():
    table = pd.read_csv(write_results('demo', [ROW]))
    assert list(table) == RESULT_COLUMNS and table.accuracy[0] == 0.9


def test_an_experiment_may_name_its_own_columns():
    columns = ['measure', 'value', 'config_hash', 'data_hash']
    row = dict(measure='gap', value=0.01, config_hash='c', data_hash='d')
    assert list(pd.read_csv(write_results('own', [row], columns))) == columns


@pytest.mark.parametrize(
    'change, message',
    [
        ({'data_hash': ''}, 'without data_hash cannot be traced'),
        ({'config_hash': None}, 'without config_hash cannot be traced'),
        ({'acc': 1}, "unknown result column 'acc'"),
        ({'accuracy': 93.0}, r'fraction in \[0,1\]'),
    ],
)
def test_a_row_that_cannot_be_traced_or_read_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        result_rows([{**ROW, **change}])


def evaluation(seed):
    return {**{k: ROW[k] for k in ('experiment', 'dataset', 'n', 'accuracy')}, 'seed': seed}


def test_the_same_evaluation_is_one_row_a_day():
    assert len(read_ledger()) == 0
    for seed in (0, 1, 2, 2):
        write_ledger([evaluation(seed)])
    assert list(read_ledger()) == LEDGER_COLUMNS
    assert read_ledger().seed.tolist() == ['0', '1', '2']
    page = results_dir() / 'ledger.csv'
    page.write_text(page.read_text().replace(str(date.today()), '2020-01-01'))
    write_ledger([evaluation(2)])
    assert read_ledger().seed.tolist() == ['0', '1', '2', '2']


def test_the_ledger_is_only_appended_to_and_full_pages_stay():
    page = results_dir() / 'ledger.csv'
    write_ledger([evaluation(s) for s in range(3)])
    first = page.read_bytes()
    write_ledger([evaluation(s) for s in range(3, 5000)])
    full = page.read_bytes()
    assert len(full) > LEDGER_PAGE_BYTES and full.startswith(first)
    write_ledger([evaluation(s) for s in (7, 5000, 5001)])
    assert (results_dir() / 'ledger_001.csv').read_bytes() == full
    assert read_ledger().seed.tolist() == [str(s) for s in range(5002)]
    assert pd.read_csv(page).seed.tolist() == [5000, 5001]


@pytest.mark.parametrize(
    'earlier, now, says',
    [('a', 'a', ''), ('a', 'b', '(a, now b)'), ('', 'b', ''), ('a', '', ''), ('', '', '')],
)
def test_data_differ_where_both_hashes_are_known_and_differ(earlier, now, says):
    assert compare_data({'data_hash': earlier} if earlier else {}, now) == says
    record = {'hash': 'r'}
    assert compare_data({'data_hash': earlier, 'data_record': record}, now, record) == ''


def test_a_flipped_bit_that_changes_no_value_is_noticed(tmp_path):
    "1E-05 for 1e-05, in what is sealed by its values"
    path = save_tensors(tmp_path / 'w.safetensors', {'a': torch.ones(2)}, {'lr': 1e-05})
    described = write_description(tmp_path / 'harkd.json', {'mean': 1e-05}, path)
    sealed = write_sealed(tmp_path / 'row.json', {'p': 1e-05})
    assert load_tensors(path)[1] == {'lr': 1e-05}
    assert read_description(described, path)['mean'] == 1e-05
    for file in (described, sealed, path):
        raw = file.read_bytes()
        assert raw.count(b'1e-05') == 1
        file.write_bytes(raw.replace(b'1e-05', b'1E-05'))
    with pytest.raises(DamagedFile, match='w.safetensors: not a whole file'):
        load_tensors(path)
    with pytest.raises(DamagedFile, match='harkd.json was changed after'):
        read_description(described, path)
    with pytest.raises(DamagedFile, match='row.json was changed after'):
        read_sealed(sealed)


def test_what_an_older_version_wrote_without_a_seal_is_read_and_half_a_seal_is_refused(tmp_path):
    path = tmp_path / 'row.json'
    for value in ({'seed': 3}, [{'seed': 3}], 7):
        write_json(path, value)
        assert read_sealed(path) == value
        write_sealed(path, value)
        assert read_sealed(path) == value
    whole = read_json(path)
    for missing in whole:
        write_json(path, {k: v for k, v in whole.items() if k != missing})
        with pytest.raises(DamagedFile, match='row.json was changed after it was written'):
            read_sealed(path)


WRITER = """
import os, sys, time
from unittest import mock
from harkd.runs import write_bytes
def stop(*args):
    print('writing', flush=True)
    time.sleep(60)
with mock.patch('os.replace', stop):
    write_bytes(sys.argv[1], b'late')
"""


@pytest.mark.skipif(sys.platform == 'win32', reason='needs flock')
def test_a_write_that_was_killed_leaves_nothing_after_the_next_and_a_living_one_is_spared(tmp_path):
    path = tmp_path / 'ledger.csv'
    command = [sys.executable, '-c', WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == 'writing\n'
        write_bytes(path, b'first')
        assert len(list(tmp_path.glob('.ledger.csv.*'))) == 1  # it lives
        writer.kill()
    write_bytes(tmp_path / 'other.csv', b'')
    (tmp_path / '.ledger.csv.lock').touch()  # no file of a writer
    write_bytes(path, b'second')
    names = ['.ledger.csv.lock', 'ledger.csv', 'other.csv']
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert path.read_bytes() == b'second'


def test_a_folder_on_its_way_is_removed_with_what_it_holds(tmp_path):
    left = tmp_path / '.bundle1234567_'
    (left / 'new').mkdir(parents=True)
    with temporary_beside(tmp_path, '.bundle', is_folder=True) as work:
        (work / 'new').mkdir()
        assert [p.name for p in tmp_path.iterdir()] == [work.name]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='counts open files as Linux does')
def test_nothing_stays_open_after_files_and_folders_on_their_way(tmp_path):
    (tmp_path / '.x.csv.abandone').touch()
    (tmp_path / '.bundle1234567_').mkdir()
    before = set(os.listdir('/proc/self/fd'))
    write_bytes(tmp_path / 'x.csv', b'1')
    with temporary_beside(tmp_path, '.bundle', is_folder=True):
        pass
    assert set(os.listdir('/proc/self/fd')) <= before
    assert [p.name for p in tmp_path.iterdir()] == ['x.csv']


@pytest.mark.parametrize('error', [OSError(95, 'no locks here'), None])
def test_without_locks_files_are_written_and_nobody_elses_are_removed(tmp_path, monkeypatch, error):
    fcntl = pytest.importorskip('fcntl')

    def refuse(handle, how):
        raise error

    if error:  # as some network file systems
        monkeypatch.setattr(fcntl, 'flock', refuse)
    else:  # as on Windows
        monkeypatch.setattr('harkd.runs._HAS_FCNTL', False)
    other = tmp_path / '.x.csv.12345678'
    other.touch()
    assert write_bytes(tmp_path / 'x.csv', b'1').read_bytes() == b'1'
    assert sorted(p.name for p in tmp_path.iterdir()) == [other.name, 'x.csv']


@dataclass
class Place:
    at: Path
    size: int = 3


@pytest.mark.parametrize(
    'value, read',
    [
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.arange(3), [0, 1, 2]),
        (torch.eye(2), [[1.0, 0.0], [0.0, 1.0]]),
        (Place(Path('a/b')), {'at': 'a/b', 'size': 3}),
        ({'é': (1, None)}, {'é': [1, None]}),
    ],
)
def test_what_json_does_not_know_is_written_as_what_it_holds(value, read, tmp_path):
    assert read_json(write_json(tmp_path / 'x.json', value)) == read
