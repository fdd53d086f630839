"""Kill runs, exports and writes of the ledger at random moments, and resume them.

    python -m tests.kill_runs --run 60 --export 12 --ledger 30
                                      writes nbs/results/benchmarks/kill_runs.json

A small run of `harkd run distill` with two jobs is made undisturbed. Then the same command is
started again and again; each start is killed with SIGKILL at a moment drawn evenly over the length
of an undisturbed run, and the next one resumes, until a run is complete. Complete runs must have
the same bytes (all but measured latencies), no temporary files and no process that outlives its
parent by more than some seconds. Exports and writes of the ledger are killed in the same way."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from harkd.runs import file_hash, processor, results_dir, write_json

MARK = 'HARKD_KILLED'
PARAMS = {
    **dict(dataset='synth', student='conv_8k', epochs=2, teacher_epochs=1, folds=2, seeds=2),
    **dict(jobs=2, batch_size=16, baseline=''),
}
RUN = [sys.executable, '-c', 'from harkd.cli import main; main()', 'run', 'distill']
EXPORT = """
import sys
from harkd.formats import export
export(sys.argv[1], sys.argv[2], fold=0)
"""
LEDGER = """
import sys
from harkd.runs import write_ledger
for k in range(400):
    row = dict(experiment='kill', dataset='d', protocol='p', fold='1', model='m', seed=k, n=1)
    write_ledger([row | dict(accuracy=0.5, config_hash='c', data_hash='d')])
"""
GRACE_S = 30  # Seconds in which the children of a killed command must end


def ours(token):
    "Processes whose environment has our mark"
    found = []
    for path in Path('/proc').glob('[0-9]*/environ'):
        try:
            if f'{MARK}={token}'.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            pass
    return [pid for pid in found if pid != os.getpid() and state(pid) not in 'ZX']


def state(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
    except OSError:
        return 'X'


class Killer:
    "Starts commands, kills them, and waits for what they started"

    def __init__(self, root):
        self.root, self.token = root, root.name
        self.temporary = root / 'tmp'
        self.temporary.mkdir()
        self.shared = root / 'shared'  # where joblib would use /dev/shm
        self.shared.mkdir()
        self.orphans, self.slowest, self.usual = [], 0.0, set()
        env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
        results = root / 'results'
        self.env = env | {MARK: self.token, 'TMPDIR': str(self.temporary)}
        self.env |= {'JOBLIB_TEMP_FOLDER': str(self.shared)}
        self.env |= {'HARKD_RESULTS': str(results), 'JUPYTER_RUNTIME_DIR': str(root / 'jupyter')}

    def start(self, command, after=None):
        "Run a command; killed after some seconds, if it still runs. Was it complete?"
        with open(self.root / 'log', 'ab') as log:
            where = dict(env=self.env, cwd=self.root, stdout=log, stderr=log)
            process = subprocess.Popen(command, **where)
        try:
            code = process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            code = None
        if code:
            raise RuntimeError((self.root / 'log').read_text()[-3000:])
        self.wait_for_children()
        return code == 0

    def left(self):
        "Temporary files that a complete command leaves only if it was killed before"
        names = [p.name for d in (self.temporary, self.shared) for p in d.iterdir()]
        return sorted(set(names) - self.usual)

    def wait_for_children(self):
        begin = time.monotonic()
        while left := ours(self.token):
            if time.monotonic() - begin > GRACE_S:
                self.orphans += [Path(f'/proc/{pid}/cmdline').read_text()[:200] for pid in left]
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.1)
        self.slowest = max(self.slowest, time.monotonic() - begin)


def content(folder):
    "What a folder holds: hashes of files, and metrics without what a clock measured"
    found = {}
    for path in sorted(p for p in folder.rglob('*') if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name == 'metrics.json':
            rows = json.loads(path.read_text())['rows']
            keep = [{k: v for k, v in r.items() if 'latency' not in k} for r in rows]
            found[name] = json.dumps(keep)
        elif name in ('results.csv', 'files.json'):  # have the latencies, or their hashes
            found[name] = 'there'
        else:
            found[name] = file_hash(path)
    return found


def differences(expected, found):
    names = sorted(set(expected) | set(found))
    return [n for n in names if expected.get(n) != found.get(n)]


def killed_until_complete(killer, command, folder, expected, kills, rng):
    "Kill a command at `kills` moments, and compare whatever was completed; yields what was found"
    seconds, done, moments, wrong, complete = killer.undisturbed_s, 0, [], [], 0
    while done < kills:
        moment = float(rng.uniform(0, seconds))
        finished = killer.start(command, moment)
        done += not finished
        moments += [] if finished else [round(moment, 2)]
        if finished or done == kills:
            if not finished:
                killer.start(command)
            complete += 1
            wrong += differences(expected, content(folder))
            shutil.rmtree(folder)
            found = {'kills': done, 'completed': complete, 'differ': wrong}
            found['left'] = killer.left()
            yield found | {'moments_s': sorted(moments), 'undisturbed_s': round(seconds, 1)}


def undisturbed(killer, command, folder):
    "What a command makes that nobody kills, and what it leaves elsewhere"
    shutil.rmtree(folder, ignore_errors=True)
    begin = time.monotonic()
    killer.start(command)
    killer.undisturbed_s = time.monotonic() - begin
    killer.usual |= set(killer.left())
    return content(folder)


def kill_runs(killer, kills, rng):
    folder = killer.root / 'run'
    params = [x for k, v in PARAMS.items() for x in ('-p', k, str(v))]
    command = [*RUN, *params, '-p', 'run', str(folder)]
    expected = undisturbed(killer, command, folder)
    shutil.copytree(folder, killer.root / 'kept')
    shutil.rmtree(folder)
    for found in killed_until_complete(killer, command, folder, expected, kills, rng):
        yield found | {'files': len(expected)}


def kill_exports(killer, kills, rng):
    folder = killer.root / 'exports' / 'bundle'  # beside it nothing else may be
    command = [sys.executable, '-c', EXPORT, str(killer.root / 'kept'), str(folder)]
    expected = undisturbed(killer, command, folder)
    shutil.rmtree(folder)
    for found in killed_until_complete(killer, command, folder, expected, kills, rng):
        yield found | {'left_beside': sorted(p.name for p in folder.parent.iterdir())}


def kill_ledgers(killer, kills, rng):
    folder = killer.root / 'results'
    command = [sys.executable, '-c', LEDGER]
    expected = undisturbed(killer, command, folder)
    shutil.rmtree(folder)
    yield from killed_until_complete(killer, command, folder, expected, kills, rng)


def added(a, b):
    "Counts and lists of two runs of this script together"
    if isinstance(a, dict):
        same = ('parameters', 'files', 'left_without_a_kill')
        return a | {k: added(a[k], v) if k in a and k not in same else v for k, v in b.items()}
    if isinstance(a, list):
        return a + b
    return max(a, b) if isinstance(a, float) else a + b if isinstance(a, int) else b


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for what in ('run', 'export', 'ledger'):
        parser.add_argument(f'--{what}', type=int, default=60 if what == 'run' else 20)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--more', action='store_true', help='add to the result of other seeds')
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix='kill_runs'))
    killer = Killer(root)
    path = results_dir() / 'benchmarks' / 'kill_runs.json'
    earlier = json.loads(path.read_text()) if args.more else {}
    assert not args.more or (earlier['parameters'], args.seed in earlier['seeds']) == (
        PARAMS,
        False,
    )
    found = {'device': processor(), 'seeds': [args.seed], 'parameters': PARAMS}
    jobs = {'run': kill_runs, 'export': kill_exports, 'ledger': kill_ledgers}
    for k, (what, f) in enumerate(jobs.items()):
        if not getattr(args, what):
            continue
        rng = np.random.default_rng([args.seed, k])
        for result in f(killer, getattr(args, what), rng):
            found[what] = result
            found['orphans'] = killer.orphans
            found['children_ended_after_s'] = round(killer.slowest, 1)
            found['left_without_a_kill'] = sorted(killer.usual)
            write_json(path, added(earlier, found) if earlier else found)
            print(what, {k: v for k, v in result.items() if k != 'moments_s'}, flush=True)
    shutil.rmtree(root)
    keys = ('differ', 'left', 'left_beside')
    wrong = any(found[what].get(key) for what in jobs if what in found for key in keys)
    return wrong or bool(found['orphans'])


if __name__ == '__main__':
    sys.exit(main())
