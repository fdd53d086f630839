"Names stay inside their folders, text stays text, and saving that fails leaves nothing half-made"

import errno
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harkd.data import BadRecording, check_name, escape_text, load_dataset
from harkd.formats import _replace_folder
from harkd.inspect import new_command
from harkd.report import Chart, interactive, latex_table, markdown_table
from harkd.runs import (
    DamagedFile,
    Run,
    load_model,
    read_ledger,
    results_dir,
    results_file,
    table_text,
    write_bytes,
    write_json,
    write_ledger,
    write_results,
    write_table,
)
from harkd.runtime import BadBundle, Bundle
from harkd.sessions import reader_notes, save_sessions
from harkd.synth import synth_dataset
from tests.test_own_data import write_study
from tests.test_runs import ROW, Toy

OUTSIDE = ['../x', 'a/../../x', 'runs/../../x', 'a\nb', 'a\x00b', 'a\\..\\b']


@pytest.mark.parametrize('name', OUTSIDE)
def test_no_name_leads_out_of_its_folder(name):
    for use in (check_name, Run, results_file):
        with pytest.raises(ValueError, match='must be a path inside its folder'):
            use(name)
    with pytest.raises(ValueError, match='must be a path inside its folder'):
        write_results(name, [ROW])
    with pytest.raises(ValueError, match='must be a path inside its folder'):
        Run(name, Toy())


def test_a_result_is_not_written_to_an_absolute_path(tmp_path):
    with pytest.raises(ValueError, match='the name of a result must be a path inside'):
        write_results(str(tmp_path / 'x'), [ROW])
    assert not (tmp_path / 'x.csv').exists()


def test_a_pattern_is_no_name_of_another_result():
    write_results('kept', [ROW])
    assert results_file('*.csv') == results_dir() / '*.csv'


@pytest.mark.parametrize('id', ['../../out', '/etc/out', 'a/b', 'a\\b'])
def test_recordings_are_saved_inside_under_any_id(tmp_path, id):
    data = synth_dataset(1, 1)
    recordings = [replace(r, id=f'{id}{k}') for k, r in enumerate(data.recordings)]
    folder = save_sessions(replace(data, recordings=recordings), tmp_path / 'study')
    inside = {p for p in folder.rglob('*') if p.is_file()}
    assert {p for p in tmp_path.rglob('*') if p.is_file()} == inside
    assert not Path('/etc/out0.imu.parquet').exists()
    again = load_dataset('sessions', folder)
    assert [r.id for r in again.recordings] == [r.id for r in recordings]


def _move_files(study, folder, written):
    "Move a study's files to another folder, under the names that recordings.csv then has"
    rows = pd.read_csv(study / 'recordings.csv')
    folder.mkdir()
    for name in rows.file:
        (study / name).rename(folder / name)
    rows.assign(file=[f'{written}/{name}' for name in rows.file]).to_csv(
        study / 'recordings.csv', index=False
    )


def _say(study, **keys):
    manifest = json.loads((study / 'manifest.json').read_text())
    (study / 'manifest.json').write_text(json.dumps(manifest | keys))


@pytest.mark.parametrize('below', ['../lab', '..', 'absolute'])
def test_files_outside_a_study_need_its_word(tmp_path, below):
    study, lab = write_study(tmp_path / 'study'), tmp_path / 'lab'
    right = load_dataset('sessions', study).hash
    _move_files(study, lab, str(lab) if below == 'absolute' else '../lab')
    with pytest.raises(BadRecording, match=r'row 2.*lies outside the study.*"files_below"'):
        load_dataset('sessions', study)
    _say(study, files_below=str(lab) if below == 'absolute' else below)
    found = load_dataset('sessions', study)
    assert found.hash == right
    assert any('are read from' in text for text in reader_notes(found).text)
    _say(study, files_below='../lab2')  # a name that begins alike is another folder
    with pytest.raises(BadRecording, match='lies outside the study'):
        load_dataset('sessions', study)


@pytest.mark.parametrize('name', ['/etc/passwd', '../../etc/passwd', 'a/../../x.csv'])
def test_no_study_opens_a_file_elsewhere(tmp_path, name):
    study = write_study(tmp_path / 'study')
    rows = pd.read_csv(study / 'recordings.csv')
    rows.loc[1, 'file'] = name
    rows.to_csv(study / 'recordings.csv', index=False)
    with pytest.raises(BadRecording, match='row 3.*lies outside the study'):
        load_dataset('sessions', study)


def test_harkd_new_says_where_the_files_stay(tmp_path):
    lab = write_study(tmp_path / 'lab')
    files = [p for p in lab.glob('*.csv') if p.name != 'recordings.csv']
    assert new_command(tmp_path / 'study', files, yes=True, say=str) == 0
    assert json.loads((tmp_path / 'study/manifest.json').read_text())['files_below'] == '../lab'
    assert load_dataset('sessions', tmp_path / 'study').recordings
    (lab / 'manifest.json').unlink()
    (lab / 'recordings.csv').unlink()
    assert new_command(lab, files, yes=True, say=str) == 0
    assert 'files_below' not in json.loads((lab / 'manifest.json').read_text())


@pytest.mark.parametrize(
    'text',
    ['{"name": "' + 'x' * 2**20 + '"}', '[' * 10**5, '{"a":' * 10**5, '{"fs": ' + '9' * 5000 + '}'],
    ids=['long', 'deep list', 'deep object', 'long number'],
)
def test_huge_and_deep_manifests_are_refused(tmp_path, text):
    study = write_study(tmp_path / 'study')
    (study / 'manifest.json').write_text(text)
    with pytest.raises(BadRecording, match='manifest.json'):
        load_dataset('sessions', study)


def test_many_names_are_compared_in_linear_time(tmp_path):
    study = write_study(tmp_path / 'study')
    _say(study, drop=[str(k) for k in range(90_000)])
    begin = time.perf_counter()
    load_dataset('sessions', study)
    assert time.perf_counter() - begin < 10  # pairs of names took minutes
    _say(study, drop=[])
    manifest = (study / 'manifest.json').read_text()
    keys = ','.join(f'"k{k}":0' for k in range(60_000))
    (study / 'manifest.json').write_text(manifest.replace('{', '{' + keys + ',', 1))
    with pytest.raises(BadRecording, match="unknown key 'k0'"):
        load_dataset('sessions', study)
    assert time.perf_counter() - begin < 20


# --- text

FORMULA, TAG = '=HYPERLINK("http://x")', '<img src=x onerror=alert(1)>'


@pytest.mark.parametrize('text', ['=1+1', '+1+1', '-1+1', '@SUM(A1)', '\t=1', '\r=1'])
def test_no_cell_is_a_formula(text, tmp_path):
    path = write_table(tmp_path / 't.csv', [{'label': text, 'x': -1.5}])
    table = pd.read_csv(path)
    assert table.label[0] == "'" + text.replace('\r', ' ')
    assert table.x[0] == -1.5
    path = write_results('formula', [{**ROW, 'model': text}])
    assert pd.read_csv(path).model[0][0] == "'"
    write_ledger([{**ROW, 'model': text}])
    write_ledger([{**ROW, 'model': text}])
    assert len(read_ledger()) == 1 and read_ledger().model[0][0] == "'"


def test_numbers_and_published_tables_stay_as_they_are():
    texts = ['-0.5', '+1e-3', '-.5', '7', 'imu:acc+norm', "it's", '']
    assert [escape_text(t, 'csv') for t in texts] == texts
    assert table_text([{'a': None, 'b': np.nan, 'c': 1}]) == 'a,b,c\n,,1\n'
    assert escape_text('p < 0.05 [+1, +2]', 'markdown') == 'p < 0.05 [+1, +2]'


def test_markdown_cells_hold_neither_columns_nor_tags():
    text = markdown_table(pd.DataFrame([{'a': 'x|y\n|z', 'b': TAG}]))
    lines = text.splitlines()
    assert len(lines) == 3 and lines[2].replace('\\|', '').count('|') == 3
    assert '<img' not in text and '&lt;img' in text


def test_latex_cells_hold_no_commands():
    text = latex_table(pd.DataFrame([{'a': r'\input{x} $5 & 5% #1 ~^_', 'b': '{'}]))
    row = text.splitlines()[6]
    assert r'\textbackslash input\{x\} \$5 \& 5\% \#1' in row and row.endswith(r'& \{ \\')
    assert r'\textasciitilde \textasciicircum \_' in row


@pytest.mark.parametrize('kind', ['bars', 'lines', 'dots'])
def test_plotly_shows_tags_as_text(kind):
    pytest.importorskip('plotly')
    series = pd.DataFrame([{'series': TAG, 'x': TAG, 'y': 1.0}])
    figure = interactive(Chart(kind, 't', 'x', 'y', series))
    assert '<img' not in str(figure.to_dict())
    assert figure.data[0].name == escape_text(TAG, 'html')


def test_plotly_shows_tags_of_a_confusion_matrix_as_text():
    pytest.importorskip('plotly')
    cells = pd.DataFrame([[1.0]], index=[TAG], columns=[TAG])
    assert '<img' not in str(interactive(Chart('heat', 't', 'x', 'y', cells)).to_dict())


# --- saving


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*'))


@pytest.fixture
def full_disk(monkeypatch):
    def fsync(_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', fsync)


def test_a_full_disk_is_named_with_the_path_and_leaves_nothing(tmp_path, full_disk):
    (tmp_path / 'old.json').write_text('{}')
    for name in ('old.json', 'new/deep.json'):
        with pytest.raises(OSError, match=f'No space left on device; nothing.*{name}') as e:
            write_json(tmp_path / name, {'a': 1})
        assert e.value.errno == errno.ENOSPC
    assert files(tmp_path) == ['old.json'] and (tmp_path / 'old.json').read_text() == '{}'


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match=f"nothing was written: '{tmp_path}/file/x.json'"):
        write_json(tmp_path / 'file/x.json', {})


def test_a_read_only_folder_is_named(tmp_path, monkeypatch):
    def mkstemp(**kwargs):
        raise PermissionError(errno.EACCES, 'Permission denied', str(tmp_path / '.hidden'))

    monkeypatch.setattr('harkd.runs.tempfile.mkstemp', mkstemp)
    with pytest.raises(PermissionError, match=f"Permission denied; nothing.*'{tmp_path}/x.json'"):
        write_bytes(tmp_path / 'x.json', b'')


def test_a_bundle_that_cannot_be_saved_leaves_the_old_one(tmp_path, full_disk):
    bundle = tmp_path / 'bundle'
    bundle.mkdir()
    (bundle / 'bundle.json').write_text('old')
    with pytest.raises(OSError, match='No space left'):
        _replace_folder(bundle, {'bundle.json': b'new'})
    assert files(tmp_path) == ['bundle', 'bundle/bundle.json']
    assert (bundle / 'bundle.json').read_text() == 'old'


def test_a_bundle_is_replaced_as_a_whole(tmp_path, monkeypatch):
    bundle = tmp_path / 'bundle'
    _replace_folder(bundle, {'bundle.json': b'old', 'model.onnx': b'1'})
    rename = Path.rename

    def fails_once(self, target):
        if self.name == 'new':
            raise OSError(errno.EIO, 'Input/output error')
        return rename(self, target)

    monkeypatch.setattr(Path, 'rename', fails_once)
    with pytest.raises(OSError, match='Input/output'):
        _replace_folder(bundle, {'bundle.json': b'new'})
    assert files(tmp_path) == ['bundle', 'bundle/bundle.json', 'bundle/model.onnx']
    monkeypatch.undo()
    _replace_folder(bundle, {'bundle.json': b'new'})
    assert files(tmp_path) == ['bundle', 'bundle/bundle.json']


def test_deeply_nested_files_are_named(tmp_path):
    for name in ('harkd.json', 'bundle.json', 'manifest.json'):
        (tmp_path / name).write_text('[' * 100_000)
    with pytest.raises(DamagedFile, match='harkd.json: not JSON'):
        load_model(tmp_path)
    with pytest.raises(BadBundle, match=r'bundle.json cannot be read'):
        Bundle(tmp_path)
    with pytest.raises(BadRecording, match='manifest.json: not JSON'):
        load_dataset('sessions', tmp_path)
