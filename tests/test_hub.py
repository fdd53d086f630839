"Models are downloaded by the Hub's own client; here from a server of our own"

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from harkd.runs import set_seed
from harkd.student import ConvStudent

SHA = '0123456789abcdef0123456789abcdef01234567'


def serve(files):
    "What huggingface_hub asks a hub: the list of a revision, and its files"

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *a):
            pass

        def reply(self, body, kind='application/json', **headers):
            self.send_response(200)
            for k, v in {
                'Content-Length': len(body),
                'Content-Type': kind,
                'X-Repo-Commit': SHA,
                **headers,
            }.items():
                self.send_header(k.replace('_', '-'), str(v))
            self.end_headers()
            if self.command == 'GET':
                self.wfile.write(body)

        def do_GET(self):
            if '/tree/' in self.path:
                return self.reply(
                    json.dumps(
                        [
                            {
                                'type': 'file',
                                'path': f,
                                'size': len(b),
                                'oid': hashlib.sha1(b).hexdigest(),
                            }
                            for f, b in files.items()
                        ]
                    ).encode()
                )
            if '/api/models/' in self.path:
                return self.reply(
                    json.dumps(
                        {
                            'id': 'lab/student',
                            'sha': SHA,
                            'siblings': [
                                {'rfilename': f, 'size': len(b)} for f, b in files.items()
                            ],
                        }
                    ).encode()
                )
            name = self.path.split('?')[0].rsplit('/', 1)[-1]
            if name not in files:
                self.send_response(404)
                self.send_header('X-Error-Code', 'EntryNotFound')
                self.send_header('Content-Length', '0')
                return self.end_headers()
            self.reply(
                files[name],
                'application/octet-stream',
                ETag=f'"{hashlib.sha1(files[name]).hexdigest()}"',
            )

        do_HEAD = do_GET

    s = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    return s


def test_download_from_a_hub(tmp_path):
    set_seed(0)
    model = ConvStudent(3, 4, (8, 8, 8), (1, 1), (2, 2), 5).eval()
    model.save_pretrained(tmp_path / 'm')
    x = torch.ones(1, 40, 3)
    server = serve({p.name: p.read_bytes() for p in (tmp_path / 'm').iterdir()})
    code = "import torch\nfrom harkd.student import ConvStudent\nprint(ConvStudent.from_pretrained('lab/student')(torch.ones(1,40,3)).tolist())"
    env = {
        **os.environ,
        'HF_ENDPOINT': f'http://127.0.0.1:{server.server_port}',
        'HF_HUB_OFFLINE': '0',
        'HF_HOME': str(tmp_path / 'cache'),
        'HF_HUB_DISABLE_PROGRESS_BARS': '1',
        'no_proxy': '*',
    }
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env)
    server.shutdown()
    assert p.returncode == 0, p.stderr[-2000:]
    assert torch.allclose(
        torch.tensor(json.loads(p.stdout.strip().splitlines()[-1])), model(x), atol=1e-6
    )
    assert not list((tmp_path / 'm').glob('*.bin')) and not list(
        (tmp_path / 'cache').rglob('*.bin')
    )
