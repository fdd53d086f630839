"Downloads from a local server, and the studies that are made of them (chapter 00h)"

import http.server
import json
import threading

import pytest
from typer.testing import CliRunner

from harkd.cli import app
from harkd.data import load_dataset
from harkd.download import NoDownload, convert_dataset, file_sha256, get_dataset
from harkd.published import PUBLISHED, PublishedFacts
from tests.test_more_readers import make, write, zipped


class Handler(http.server.BaseHTTPRequestHandler):
    pages: dict = {}

    def do_GET(self):
        if self.path not in self.pages:
            self.send_error(404)
            return
        body, promised = self.pages[self.path]
        self.send_response(200)
        self.send_header('Content-Length', str(promised))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    data = zipped(make('harth'))
    Handler.pages = {
        '/harth.zip': (data, len(data)),
        '/cut.zip': (data[:100], len(data)),
        '/page.zip': (b'<html>sign in</html>', 20),
    }
    httpd = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f'http://127.0.0.1:{httpd.server_port}'
    httpd.shutdown()
    httpd.server_close()


def test_an_archive_is_fetched_and_read(server, tmp_path):
    path = get_dataset('harth', tmp_path, f'{server}/harth.zip')
    assert path.name == 'harth.zip' and len(load_dataset('harth', tmp_path).recordings) == 2
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('page', ['cut.zip', 'page.zip', 'missing.zip'])
def test_what_is_no_archive_is_refused_and_leaves_nothing(page, server, tmp_path):
    with pytest.raises(OSError, match='et it from: archive.ics.uci.edu, dataset 779'):
        get_dataset('harth', tmp_path, f'{server}/{page}')
    assert list(tmp_path.iterdir()) == []


def test_another_checksum_is_refused(server, tmp_path, monkeypatch):
    good = file_sha256(write(tmp_path, 'harth')[0])
    monkeypatch.setitem(PUBLISHED, 'harth', PublishedFacts(22, 22, '', 'harth.zip', '0' * 64))
    with pytest.raises(OSError, match='hash'):
        get_dataset('harth', tmp_path / 'new', f'{server}/harth.zip')
    assert not (tmp_path / 'new' / 'harth.zip').exists()
    monkeypatch.setitem(PUBLISHED, 'harth', PublishedFacts(22, 22, '', 'harth.zip', good))
    assert get_dataset('harth', tmp_path / 'new', f'{server}/harth.zip').exists()


def test_without_a_folder_the_message_says_what_to_set(monkeypatch):
    monkeypatch.delenv('HARKD_DATA', raising=False)
    with pytest.raises(NoDownload, match='HARKD_DATA'):
        get_dataset('harth', '', 'http://127.0.0.1:9/harth.zip')


def references(node):
    "All '@id's that are only referred to"
    if isinstance(node, dict):
        if set(node) == {'@id'}:
            yield node['@id']
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


@pytest.mark.parametrize('name', ['pamap2', 'hhar', 'unimib_shar', 'kuhar'])
def test_a_converted_study_opens_and_its_metadata_fit(name, tmp_path):
    (tmp_path / 'raw').mkdir()
    write(tmp_path / 'raw', name)
    data = load_dataset(name, tmp_path / 'raw')
    study = convert_dataset(name, tmp_path / 'raw', tmp_path / 'study', say=str)
    again = load_dataset('sessions', study)
    assert {r.id for r in again.recordings} == {r.id for r in data.recordings}
    assert {s.label for r in again.recordings for s in r.spans} == {
        s.label for r in data.recordings for s in r.spans
    }
    meta = json.loads((study / 'croissant.json').read_text())
    check_croissant(meta, study)


def check_croissant(meta, study):
    "The rules of Croissant 1.0 that a loader relies on"
    needed = {'name', 'description', 'license', 'url', 'creator', 'datePublished', 'conformsTo'}
    assert meta['@type'] == 'sc:Dataset' and needed <= set(meta)
    assert meta['conformsTo'] == 'http://mlcommons.org/croissant/1.0'
    table, *sets = meta['distribution']
    assert table['sha256'] == file_sha256(study / table['contentUrl'])
    known = {table['@id']}
    for files in sets:
        assert files['@type'] == 'cr:FileSet' and list(study.glob(files['includes']))
        known.add(files['@id'])
    for records in meta['recordSet']:
        known.add(records['@id'])
        for field in records['field']:
            assert field['@id'].startswith(records['@id'] + '/')
            assert field['dataType'] in ('sc:Text', 'sc:Float')
            known.add(field['@id'])
    assert set(references(meta['distribution'] + meta['recordSet'])) <= known
    check_columns(meta, study)


def check_columns(meta, study):
    "Every column that is described is in the files, and the other way round"
    import pandas as pd

    includes = {files['@id']: files['includes'] for files in meta['distribution'][1:]}
    for records in meta['recordSet'][1:]:
        files = records['field'][0]['source']['fileSet']['@id']
        found = pd.read_parquet(next(study.glob(includes[files])))
        assert [f['source']['extract']['column'] for f in records['field']] == list(found)


def test_commands_convert_and_say_what_differs(tmp_path):
    (tmp_path / 'raw').mkdir()
    write(tmp_path / 'raw', 'usc_had')
    study = str(tmp_path / 'study')
    args = ['data', 'convert', 'usc_had', str(tmp_path / 'raw'), '-o', study]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0 and 'note: usc_had: 2 subjects, published are 14' in done.output
    again = CliRunner().invoke(app, args)
    assert again.exit_code == 1 and 'is not empty' in again.output
    assert '"croissant.json"' not in CliRunner().invoke(app, ['data', 'check', study]).output
