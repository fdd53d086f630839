"""Run All of the chapters, as JupyterLab does it: seconds, errors, and the live figures shown.

    python -m tests.bench_run_all [CHAPTER …]      writes nbs/results/benchmarks/run_all.csv

Each chapter gets a fresh kernel in nbs/. The requests carry the id of their cell, as those of
JupyterLab do, so that a full run takes its quick size. `load` is how many processes wanted a core
at the end: where it is far above the number of cores, `seconds` says little and `cpu_s` more. Rows
of other chapters stay in the file."""

import argparse
import os
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
from jupyter_client.manager import KernelManager

from harkd.runs import processor, results_file, write_table

ROOT = Path(__file__).parent.parent
VIEW = 'application/vnd.jupyter.widget-view+json'
CELL_S = 400  # Seconds that a cell may take
NAME = 'benchmarks/run_all.csv'


def run_cell(client, cell) -> tuple[str, list[str]]:  # error, mime types of its outputs
    "Execute one cell as JupyterLab does"
    content = dict(
        code=cell.source,
        silent=False,
        store_history=True,
        user_expressions={},
        allow_stdin=False,
        stop_on_error=True,
    )
    message = client.session.msg('execute_request', content, metadata={'cellId': cell.id})
    client.shell_channel.send(message)
    error, shown, end = '', [], time.monotonic() + CELL_S
    while True:
        reply = client.get_iopub_msg(timeout=max(0.1, end - time.monotonic()))
        if reply['parent_header'].get('msg_id') != message['header']['msg_id']:
            continue
        kind, content = reply['msg_type'], reply['content']
        if kind == 'error':
            error = f'{content["ename"]}: {content["evalue"]}'[:200]
        elif kind in ('display_data', 'execute_result'):
            shown += content['data']
        elif kind == 'status' and content['execution_state'] == 'idle':
            return error, shown


def run_chapter(chapter: str) -> dict:
    "All cells of a chapter, up to the first error"
    cells = nbformat.read(ROOT / 'nbs' / f'{chapter}.ipynb', 4).cells
    env = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'HARKD_FULL', 'MPLBACKEND')}
    manager = KernelManager(kernel_name='python3')
    begin = time.monotonic()
    manager.start_kernel(cwd=str(ROOT / 'nbs'), env=env)
    client = manager.client()
    client.start_channels()
    error, shown, slowest = '', [], (0.0, '')
    try:
        client.wait_for_ready(timeout=120)
        for cell in (c for c in cells if c.cell_type == 'code'):
            start = time.monotonic()
            error, mimes = run_cell(client, cell)
            shown += mimes
            slowest = max(slowest, (time.monotonic() - start, cell.id))
            if error:
                print(f'{chapter}, cell {cell.id}: {error}', file=sys.stderr, flush=True)
                break
    finally:
        seconds = time.monotonic() - begin
        cpu = psutil.Process(manager.provisioner.pid).cpu_times()  # with its ended processes
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    live = any('LiveFigure(' in c.source or 'AttributionExplorer()' in c.source for c in cells)
    return dict(
        chapter=chapter,
        seconds=round(seconds, 1),
        cpu_s=round(cpu.user + cpu.system + cpu.children_user + cpu.children_system, 1),
        load=round(os.getloadavg()[0], 1),
        ok=not error,
        widget=('shown' if VIEW in shown else 'MISSING') if live else '',
        slowest_cell=slowest[1],
        slowest_s=round(slowest[0], 1),
        device=processor(),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('chapters', nargs='*')
    known = sorted(p.stem for p in (ROOT / 'nbs').glob('0*.ipynb'))
    chapters = parser.parse_args().chapters or known
    path = results_file(NAME)
    rows = {}
    if path.exists():
        rows = {
            r['chapter']: r for r in pd.read_csv(path, keep_default_na=False).to_dict('records')
        }
    for chapter in chapters:
        rows[chapter] = run_chapter(chapter)
        print(rows[chapter], flush=True)
        write_table(path, [rows[k] for k in known if k in rows])


if __name__ == '__main__':
    main()
