"JupyterLab and voila for tests in a browser: started on a free port, waited for, stopped"

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent
READY_S = 90  # Seconds that a server may need until it replies
TRIES = 2  # Starts; a server that does not reply in time is stopped and started once more


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def home_environment(home):
    "Variables that keep the settings of a Jupyter server in a folder of its own, without news"
    settings = home / 'config' / 'lab' / 'user-settings' / '@jupyterlab' / 'apputils-extension'
    settings.mkdir(parents=True, exist_ok=True)
    (settings / 'notification.jupyterlab-settings').write_text(json.dumps({'fetchNews': 'false'}))
    return {
        **os.environ,
        **{f'JUPYTER_{k}_DIR': str(home / k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')},
        'JUPYTERLAB_SETTINGS_DIR': str(home / 'config' / 'lab' / 'user-settings'),
        'IPYTHONDIR': str(home / 'ipython'),
        'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])),
        'PATH': os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]),
    }


def lab_command(folder, port):
    return [
        'jupyterlab',
        '--no-browser',
        '--allow-root',
        f'--port={port}',
        '--ServerApp.ip=127.0.0.1',
        '--IdentityProvider.token=',
        '--ServerApp.disable_check_xsrf=True',
        f'--ServerApp.root_dir={folder}',
    ]


def voila_command(notebook, port):
    return ['voila', notebook, f'--port={port}', '--no-browser', '--Voila.ip=127.0.0.1']


def stop(process):
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _replies(process, probe):
    "Wait until an address replies, with whatever status; False if it does not in time"
    end = time.monotonic() + READY_S
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(probe, timeout=2)
            return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            time.sleep(0.5)
    return False


def start(command, probe, folder, env):  # command: function of a port; probe: path of an address
    "A server that replies: its process and its address; what it wrote, if it does not"
    log = Path(folder) / 'server.log'
    for _ in range(TRIES):
        port = free_port()
        with open(log, 'w') as out:
            process = subprocess.Popen(
                [sys.executable, '-m', *command(port)],
                cwd=folder,
                env=env,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        url = f'http://127.0.0.1:{port}'
        if _replies(process, url + probe):
            return process, url
        if process.poll() is None:
            stop(process)
    raise RuntimeError(f'no reply after {TRIES} starts of {READY_S} s: {log.read_text()[-2000:]}')
