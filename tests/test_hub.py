"Models are downloaded by the client of the Hugging Face Hub; here from a server of the test's own"

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from harkd.runs import set_seed
from harkd.student import ConvStudent

COMMIT = '0123456789abcdef0123456789abcdef01234567'
LOAD = """
import harkd
import torch
print(harkd.from_pretrained('lab/student')(torch.ones(1, 40, 3)).tolist())
"""


def file_list(files):
    "Answer to a request for the tree of a revision"
    return [
        {'type': 'file', 'path': name, 'size': len(data), 'oid': hashlib.sha1(data).hexdigest()}
        for name, data in files.items()
    ]


def model_info(files):
    "Answer to a request for a model"
    siblings = [{'rfilename': name, 'size': len(data)} for name, data in files.items()]
    return {'id': 'lab/student', 'sha': COMMIT, 'siblings': siblings}


class HubHandler(BaseHTTPRequestHandler):
    "What huggingface_hub requests of a hub: the list of a revision, and its files"

    def log_message(self, *args):
        pass

    def reply(self, body, kind='application/json', **headers):
        self.send_response(200)
        headers = {
            'Content-Length': len(body),
            'Content-Type': kind,
            'X-Repo-Commit': COMMIT,
            **headers,
        }
        for key, value in headers.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == 'GET':
            self.wfile.write(body)

    def not_found(self):
        self.send_response(404)
        self.send_header('X-Error-Code', 'EntryNotFound')
        self.send_header('Content-Length', '0')
        self.end_headers()

    def do_GET(self):
        files = self.server.files
        name = self.path.split('?')[0].rsplit('/', 1)[-1]
        if '/tree/' in self.path:
            self.reply(json.dumps(file_list(files)).encode())
        elif '/api/models/' in self.path:
            self.reply(json.dumps(model_info(files)).encode())
        elif name in files:
            tag = hashlib.sha1(files[name]).hexdigest()
            self.reply(files[name], 'application/octet-stream', ETag=f'"{tag}"')
        else:
            self.not_found()

    do_HEAD = do_GET


@pytest.fixture
def serve():
    "Start a hub that holds some files; it stops with the test"
    servers = []

    def start(files):
        server = ThreadingHTTPServer(('127.0.0.1', 0), HubHandler)
        server.files = files
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()


def test_model_is_loaded_from_a_hub_without_pickles(tmp_path, serve):
    set_seed(0)
    model = ConvStudent(3, 4, (8, 8, 8), (1, 1), (2, 2), 5).eval()
    model.save_pretrained(tmp_path / 'saved')
    server = serve({p.name: p.read_bytes() for p in (tmp_path / 'saved').iterdir()})
    env = {
        **os.environ,
        'HF_ENDPOINT': f'http://127.0.0.1:{server.server_port}',
        'HF_HUB_OFFLINE': '0',
        'HF_HOME': str(tmp_path / 'cache'),
        'HF_HUB_DISABLE_PROGRESS_BARS': '1',
        'no_proxy': '*',
    }
    done = subprocess.run([sys.executable, '-c', LOAD], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    logits = torch.tensor(json.loads(done.stdout.strip().splitlines()[-1]))
    assert torch.allclose(logits, model(torch.ones(1, 40, 3)), atol=1e-6)
    assert not [*(tmp_path / 'saved').glob('*.bin'), *(tmp_path / 'cache').rglob('*.bin')]
