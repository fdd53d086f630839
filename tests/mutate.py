"""Do the tests notice a mistake? Change one place of harkd at random, run what covers it, repeat.

    python -m tests.mutate collect                  which test runs which function (once, 20 min)
    python -m tests.mutate draw --seed 1 --n 300    mutations that are drawn, and tried one by one
    python -m tests.mutate again --seed 1           those that survived, after tests were added
    python -m tests.mutate report --seed 1 2        writes nbs/results/benchmarks/mutation.json

An interrupted command goes on where it stopped. A mutation is made in a copy of the repository, in
the module and in the exported cell of its chapter; the chapter and the tests that run its function
are executed there until one fails. Tests that read source, or start a browser, are left out.
(mutmut and cosmic-ray know no notebooks, and start an interpreter, thus torch, for each mutation;
here one process that has imported torch forks.) Mutations that change nothing anybody could notice
are listed with their reasons in tests/equivalent_mutations.csv."""

import argparse
import contextlib
import csv
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from pathlib import Path

from tests.mutations import (
    ROOT,
    Mutation,
    all_mutations,
    exported_cells,
    module_source,
    mutate_source,
)

WORK = Path(os.environ.get('HARKD_MUTATE', Path(tempfile.gettempdir()) / 'harkd-mutate'))
EQUIVALENTS = Path(__file__).with_name('equivalent_mutations.csv')
RESULT = ROOT / 'nbs' / 'results' / 'benchmarks' / 'mutation.json'
NOT_COPIED = shutil.ignore_patterns('.git', 'runs', 'build', '__pycache__', '.venv', '_docs', '.*')
LEFT_OUT = set(  # read the source, start a browser or another machine's worth of processes
    'test_clone test_docs test_export test_live test_names test_notebooks test_papermill '
    'test_processes test_progress test_readme test_recipes'.split()
)
DEFAULTS = 'tests/test_defaults.py::test_defaults_are_those_that_figures_were_made_with[{}]'
DESELECTED = '-k', 'not in_a_browser and not ray and not chromium'
PYTEST = ('-q', '-x', '--no-header', '--tb=short', '-p', 'no:cacheprovider', '-W', 'ignore')
UNKNOWN_S = 20.0  # of a file of tests or a chapter that was not collected
LONGEST_S = 25.0  # a second step takes no longer
PATIENCE, GRACE, MEMORY = 5, 30, 24 << 30  # times the usual CPU time, and seconds on top; bytes
# imported before forking; harkd itself never is
HEAVY = (
    'torch scipy.stats scipy.signal sklearn.metrics sklearn.linear_model pandas pyarrow.parquet '
    'matplotlib.pyplot captum.attr accelerate onnxruntime huggingface_hub safetensors.torch typer '
    'pytest hypothesis IPython nbdev.test fastcore.test joblib'
).split()


# Children


def run_chapter(folder, chapter):
    from nbdev.test import test_nb

    os.chdir(folder / 'nbs')
    return 0 if test_nb(folder / 'nbs' / f'{chapter}.ipynb', ['notest'])[0] else 1


def run_pytest(folder, names, *plugins):
    import pytest

    os.chdir(folder)
    code = int(pytest.main([*PYTEST, '--rootdir', str(folder), *names], plugins=list(plugins)))
    if code == pytest.ExitCode.USAGE_ERROR:  # a test that is made from what was changed
        files = sorted({n.split('::')[0] for n in names})
        code = int(pytest.main([*PYTEST, '--rootdir', str(folder), *files]))
    return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code


def group_priority(value=None):
    "Priority of the processes of this session on Linux, or set it: a child gives way as its parent"
    path = Path('/proc/self/autogroup')
    with contextlib.suppress(OSError):
        if value is None:
            return path.read_text().split()[-1]
        path.write_text(value)
    return '0'


def enter(folder, log, cpu_s):
    "Make this child a fresh process of the copy in `folder`"
    priority = group_priority()
    os.setsid()
    group_priority(priority)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = open(1, 'w', closefd=False), open(2, 'w', closefd=False)  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.environ |= {'PYTHONPATH': str(folder), 'IN_TEST': '1', 'MPLBACKEND': 'Agg'}
    os.environ['PYTHONDONTWRITEBYTECODE'] = '1'
    sys.dont_write_bytecode = True
    sys.path[:] = [str(folder), *(p for p in sys.path if p not in ('', str(ROOT)))]
    for name in [n for n in sys.modules if n.split('.')[0] in ('harkd', 'tests')]:
        del sys.modules[name]


def in_child(work, folder, log, cpu_s):
    "Exit status of `work()` in a child with a limit, or 'timeout'"
    pid = os.fork()
    if not pid:
        code = BROKEN
        try:
            enter(folder, log, int(cpu_s))
            code = work()
        except BaseException:  # no test failed, this tool did
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    end, used = time.monotonic() + 6 * cpu_s, 0.0
    while True:
        if time.monotonic() > end:  # it waits for ever, or other work is in the way?
            before, used = used, cpu_seconds(pid)
            if used < before + 1:
                break
            end = time.monotonic() + 60
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            stop_group(pid)
            late = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (
                signal.SIGXCPU,
                signal.SIGKILL,
            )
            return 'timeout' if late else os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    stop_group(pid)
    os.waitpid(pid, 0)
    return 'timeout'


def cpu_seconds(session):
    "CPU time of the processes of a session so far"
    total = 0
    for path in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(')')[2].split()
            total += int(fields[3] == str(session)) * (int(fields[11]) + int(fields[12]))
    return total / os.sysconf('SC_CLK_TCK')


def stop_group(pid):
    "End what a child started and left behind"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def import_heavy():
    os.environ |= {'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg', 'IN_TEST': '1'}
    for name in HEAVY:
        __import__(name)


# Which test runs which function


class CallRecorder:
    "Functions of harkd in `folder` that were called, as module:function"

    def __init__(self, folder, chapter=None):
        self.prefix, self.names = f'{folder}/harkd/', set()
        self.skip = len(self.prefix)

    def __call__(self, frame, event, arg):
        code = frame.f_code
        if code.co_filename.startswith(self.prefix):
            self.names.add((code.co_filename, code.co_qualname))

    def take(self):
        names = {f'{f[self.skip : -3]}:{q.split(".<locals>")[0]}' for f, q in self.names}
        self.names.clear()
        return sorted(names)


class Recording:
    "pytest plugin: a row for each test that passed; a fixture counts for all tests of its file"

    def __init__(self, recorder, path):
        self.recorder, self.path = recorder, path
        self.rows, self.shared, self.at, self.passed = [], set(), {}, {}

    def pytest_runtest_logreport(self, report):
        self.at[report.nodeid] = self.at.get(report.nodeid, 0) + report.duration
        self.passed[report.nodeid] = self.passed.get(report.nodeid, True) and report.passed
        called = self.recorder.take()
        if report.when == 'setup':
            self.shared |= set(called)
        if report.when == 'call' and report.passed:
            self.rows.append([report.nodeid, called])

    def pytest_sessionfinish(self):
        with self.path.open('w') as out:
            for name, called in self.rows:
                functions = sorted({*called, *self.shared})
                row = dict(test=name, seconds=round(self.at[name], 3), functions=functions)
                out.write(json.dumps(row) + '\n')


def record(folder, name, path):
    "Run a file of tests or a chapter, and write what it called"
    if name.startswith('tests/'):
        recorder = CallRecorder(folder)
        sys.settrace(recorder)
        return run_pytest(folder, [name, *DESELECTED], Recording(recorder, path))
    start = time.process_time()
    code = run_chapter(folder, name)
    if code == 0:
        seconds = round(time.process_time() - start, 2)
        row = dict(test=name, seconds=seconds, functions=[])
        path.write_text(json.dumps(row) + '\n')
    return code


def collect(args):
    import_heavy()
    cover = WORK / 'cover'
    cover.mkdir(parents=True, exist_ok=True)
    files = [
        f'tests/{p.name}' for p in (ROOT / 'tests').glob('test_*.py') if p.stem not in LEFT_OUT
    ]
    chapters = [p.stem for p in (ROOT / 'nbs').glob('*.ipynb')]
    left = args.only or [*sorted(files), *sorted(set(chapters) - {'index', '10_results'})]
    left = [n for n in left if n.startswith('tests/') != args.chapters]
    running, folders = {}, [copied(k) for k in range(args.workers)]
    free, end = list(range(args.workers)), time.monotonic() + 60 * args.minutes
    while left or running:
        while left and free:
            name = left.pop(0)
            path = cover / f'{Path(name).stem}.jsonl'
            if time.monotonic() > end or (path.exists() and not args.only):
                continue
            k = free.pop()
            running[in_background(collect_one, folders[k], name, path)] = k
        if running:
            pid, _ = os.wait()
            free.append(running.pop(pid))


def in_background(work, *args):
    pid = os.fork()
    if not pid:
        try:
            work(*args)
        finally:
            os._exit(0)
    return pid


def collect_one(folder, name, path):
    log = WORK / 'cover' / f'{Path(name).stem}.log'
    code = in_child(lambda: record(folder, name, path), folder, log, 1200)
    print(
        time.strftime('%H:%M:%S'), name, 'passed' if code == 0 else f'left with {code}', flush=True
    )


def copied(k):
    "A fresh copy of the repository, for one worker"
    folder = WORK / f'copy{k}_{os.getpid()}'
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT, folder, ignore=NOT_COPIED)
    return folder


GOLDEN = 'tests/test_golden.py'
BROKEN = 99  # exit status of a child in which this tool failed
COMPANIONS = {  # tests of a module that are named after its subject
    'sessions': 'test_own_data',
    'clocks': 'test_own_data',
    'tables': 'test_own_data',
    'plausibility': 'test_own_data',
    'inspect': 'test_own_data',
    'published': 'test_more_readers',
    'runs': 'test_run_data',
    'runtime': 'test_deploy',
    'quantize': 'test_formats',
    'tflite': 'test_formats',
    'preprocess': 'test_split',
    'contrastive_losses': 'test_losses',
    'feature_losses': 'test_losses',
    'learned_losses': 'test_losses',
    'explore': 'test_explorer',
    'encoder': 'test_pretrain',
    'probe': 'test_pretrain',
}


def importing(module):
    "Files of tests that import a module, its own first"
    pattern = re.compile(rf'harkd\.{module}\b|from harkd import .*\b{module}\b')
    own = ROOT / 'tests' / f'test_{module}.py'
    if not own.exists() and module in COMPANIONS:
        own = own.with_stem(COMPANIONS[module])
    others = [p for p in sorted((ROOT / 'tests').glob('test_*.py')) if p != own]
    found = [p for p in others if p.stem not in LEFT_OUT and pattern.search(p.read_text())]
    return [f'tests/{p.name}' for p in ([own] if own.exists() else []) + found]


class Coverage:
    "Which tests may notice a change of a function, the likeliest and quickest first"

    def __init__(self):
        self.by_function, self.by_module = defaultdict(list), defaultdict(dict)
        self.chapter_s, self.seconds, self.files = {}, {}, set()
        for path in sorted((WORK / 'cover').glob('*.jsonl')):
            for line in path.read_text().splitlines():
                row = json.loads(line)
                self.add(row['test'], row['seconds'], row['functions'])

    def add(self, name, seconds, functions):
        self.seconds[name] = seconds
        if not name.startswith('tests/'):
            self.chapter_s[name] = seconds
            return
        self.files.add(name.split('::')[0])
        for f in functions:
            self.by_function[f].append(name)
            self.by_module[f.split(':')[0]][name] = seconds

    def tests(self, mutation, budget):
        "Names of tests within a sum of seconds, files kept together"
        m = mutation.module
        files = importing(m)
        golden = [GOLDEN] if GOLDEN in files[1:] else []
        if files and files[0] not in self.files:
            return [files[0], *golden], UNKNOWN_S
        own = files[0] if files else ''
        whole = sum(s for n, s in self.seconds.items() if n.startswith(own + '::'))
        if own and whole <= budget:  # with the tests that were written since
            return self.others(mutation, [own, *golden], budget - whole)
        names = self.by_function.get(f'{m}:{mutation.function}') or list(self.by_module[m])
        names = sorted(names, key=lambda n: (not n.startswith(own), self.seconds[n]))
        taken, total = [], 0.0
        for name in names:
            if total + self.seconds[name] <= budget or not taken:
                taken.append(name)
                total += self.seconds[name]
        files = list(dict.fromkeys(n.split('::')[0] for n in taken))
        taken = [n for f in files for n in taken if n.split('::')[0] == f]
        return [n for n in taken if n.split('::')[0] not in golden] + golden, total

    def others(self, mutation, files, budget):
        "Whole files of tests, and those of other files that call the function"
        names = self.by_function.get(f'{mutation.module}:{mutation.function}', [])
        taken, total = [], 0.0
        for name in sorted(names, key=self.seconds.get):
            new = name.split('::')[0] not in files
            if new and total + self.seconds[name] <= budget:
                taken.append(name)
                total += self.seconds[name]
        return [*files, *sorted(taken)], UNKNOWN_S


# One mutation


def write_mutation(folder, mutation, source):
    "Write the changed module, and the changed cell of its chapter, into a copy; the chapter's name"
    before, after = (exported_cells(s) for s in (module_source(mutation.module), source))
    (folder / 'harkd' / f'{mutation.module}.py').write_text(source, encoding='utf8')
    changed = [k for k in after if after[k] != before[k]]
    assert len(changed) == 1, f'{mutation} changes cells {changed}'
    chapter, cell_id = changed[0]
    path = folder / 'nbs' / f'{chapter}.ipynb'
    notebook = json.loads(path.read_text(encoding='utf8'))
    cell = next(c for c in notebook['cells'] if c['id'] == cell_id)
    directives = [t for t in ''.join(cell['source']).splitlines() if t.startswith('#|')]
    cell['source'] = '\n'.join([*directives, after[changed[0]]])
    path.write_text(json.dumps(notebook), encoding='utf8')
    return chapter


def restore(folder, mutation, chapter):
    for name in (f'harkd/{mutation.module}.py', f'nbs/{chapter}.ipynb'):
        shutil.copy(ROOT / name, folder / name)


def steps(folder, mutation, chapter, coverage, budget):
    "(name, work, seconds) of what may notice it, the quicker first"
    names, total = coverage.tests(mutation, budget)
    names = [DEFAULTS.format(mutation.module), *names]
    found = []
    seconds = coverage.chapter_s.get(chapter, UNKNOWN_S + 1)
    found.append((chapter, lambda: run_chapter(folder, chapter), seconds))
    found.append((f'tests: {len(names)}', lambda: run_pytest(folder, names), total))
    found = sorted(found, key=lambda step: step[2])
    return [step for k, step in enumerate(found) if k == 0 or step[2] <= LONGEST_S]


def fails_anyway(folder, name, log):
    "Does what noticed a mutation fail without it, too? Asked once of each test and chapter"
    if name is None:
        return False
    good = WORK / 'good.txt'
    if good.exists() and name in good.read_text().splitlines():
        return False

    def work():
        is_test = name.startswith('tests/')
        return run_pytest(folder, [name]) if is_test else run_chapter(folder, name)

    if in_child(work, folder, log.with_suffix('.again'), PATIENCE * UNKNOWN_S + GRACE) != 0:
        return True
    with good.open('a') as f:
        f.write(name + '\n')
    return False


def who_failed(log, step):
    "The test, or the chapter, that failed; None where the log does not say"
    if not step.startswith('tests'):
        return step
    failed = re.findall(r'^(?:FAILED|ERROR) (tests/\S+::\S+(?: .*?\])?)', log.read_text(), re.M)
    return failed[0] if failed else None


def try_mutation(folder, mutation, coverage, budget, out):
    "Append what became of a mutation to the rows in `out`"
    start, log = time.monotonic(), folder.with_suffix('.log')
    source = mutate_source(module_source(mutation.module), mutation)
    verdict, by = ('gone', '') if source is None else ('survived', '')
    if source is not None:
        chapter = write_mutation(folder, mutation, source)
        for name, work, seconds in steps(folder, mutation, chapter, coverage, budget):
            code = in_child(work, folder, log, PATIENCE * seconds + GRACE)
            if code == 0:
                continue
            assert code != BROKEN, log.read_text()
            by = who_failed(log, name) or name
            restore(folder, mutation, chapter)
            if code != 'timeout' and fails_anyway(folder, who_failed(log, name), log):
                by = f'{by} fails anyway'
                write_mutation(folder, mutation, source)
                continue
            verdict = 'timeout' if code == 'timeout' else 'killed'
            break
        restore(folder, mutation, chapter)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    row = mutation.row() | dict(verdict=verdict, by=by)
    row['cpu_s'] = round(after.ru_utime + after.ru_stime, 1)
    row['wall_s'] = round(time.monotonic() - start, 1)
    with out.open('a') as f:
        f.write(json.dumps(row) + '\n')
    place = f'{mutation.module}:{mutation.function} {mutation.kind}'
    change = f'{mutation.before[:60]} -> {mutation.after[:60]}'
    print(f'{verdict:8} {row["cpu_s"]:6} s {place}: {change} [{by}]', flush=True)


def rows_file(seed):
    return WORK / f'draw_{seed}.jsonl'


def read_rows(seed, first=False):
    "The newest row of each mutation of a draw, or the first"
    rows = {}
    if rows_file(seed).exists():
        for line in rows_file(seed).read_text().splitlines():
            row = json.loads(line)
            if not (first and of_row(row).key in rows):
                rows[of_row(row).key] = row
    return rows


def of_row(row):
    return Mutation(**{k: row[k] for k in Mutation.__dataclass_fields__})


def drawn(seed, n, modules=None):
    "The mutations of a draw, kept on disk, so that later changes of harkd do not change the draw"
    path = WORK / f'drawn_{seed}.jsonl'
    if not path.exists():
        found = [m for m in all_mutations() if not modules or m.module in modules]
        chosen = random.Random(seed).sample(found, n)
        path.write_text(''.join(json.dumps(m.row()) + '\n' for m in chosen))
    return [of_row(json.loads(t)) for t in path.read_text().splitlines()][:n]


def run_all(mutations, seed, args):
    import_heavy()
    coverage, folders = Coverage(), [copied(k) for k in range(args.workers)]
    free, running, left = list(range(args.workers)), {}, list(mutations)
    end = time.monotonic() + 60 * args.minutes
    while (left and time.monotonic() < end) or running:
        while left and free and time.monotonic() < end:
            mutation = left.pop(0)
            if not args.again and mutation.key in read_rows(seed):  # by a second process
                continue
            k = free.pop()
            task = folders[k], mutation, coverage, args.budget, rows_file(seed)
            running[in_background(try_mutation, *task)] = k
        if running:
            pid, _ = os.wait()
            free.append(running.pop(pid))
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    print(Counter(r['verdict'] for r in read_rows(seed).values()))


def draw(args):
    done = read_rows(args.seed[0])
    wanted = drawn(args.seed[0], args.n, args.modules)[:: -1 if args.backwards else 1]
    run_all([m for m in wanted if m.key not in done], args.seed[0], args)


def again(args):
    "Try once more what survived, but for what cannot be noticed"
    known = equivalents()
    rows = read_rows(args.seed[0])
    left = [k for k, r in rows.items() if r['verdict'] == 'survived' and k not in known]
    chosen = [of_row(rows[k]) for k in left]
    chosen = [m for m in chosen if not args.modules or m.module in args.modules]
    run_all(chosen, args.seed[0], args)


def equivalents():
    "{key: reason} of the mutations that were judged by hand"
    if not EQUIVALENTS.exists():
        return {}
    with EQUIVALENTS.open(encoding='utf8', newline='') as f:
        rows = list(csv.DictReader(f))
    return {
        of_row({**r, 'occurrence': int(r['occurrence']), 'line': 0}).key: r['reason'] for r in rows
    }


NOTICED = ('killed', 'timeout')


def share(rows, known):
    "Of the mutations that could be noticed, those that were"
    judged = [r['verdict'] in NOTICED for k, r in rows.items() if k not in known]
    return round(sum(judged) / max(len(judged), 1), 4)


def summary(seed, known):
    "Counts and survivors of a draw; `score_at_first`: before tests were added for survivors"
    rows = {k: r for k, r in read_rows(seed).items() if r['verdict'] != 'gone'}
    verdicts = Counter('equivalent' if k in known else r['verdict'] for k, r in rows.items())
    left = [of_row(r) for k, r in rows.items() if r['verdict'] == 'survived' and k not in known]
    return dict(
        seed=seed,
        drawn=len(drawn(seed, 10**6)),
        tried=len(rows),
        **{k: verdicts[k] for k in ('killed', 'timeout', 'survived', 'equivalent')},
        score=share(rows, known),
        score_at_first=share({k: r for k, r in read_rows(seed, True).items() if k in rows}, known),
        cpu_minutes=round(sum(r['cpu_s'] for r in rows.values()) / 60, 1),
        survivors=[f'{m.module}:{m.function} {m.kind}: {m.before} -> {m.after}' for m in left],
    )


def report(args):
    known = equivalents()
    found = [summary(seed, known) for seed in args.seed]
    text = json.dumps(dict(places=len(all_mutations()), draws=found), indent=1)
    print(text)
    if args.write:
        RESULT.write_text(text + '\n', encoding='utf8')


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('command', choices=('collect', 'draw', 'again', 'report'))
    p.add_argument('--seed', type=int, nargs='+', default=[1])
    p.add_argument('--n', type=int, default=300)
    p.add_argument('--workers', type=int, default=2)
    p.add_argument('--budget', type=float, default=15, help='seconds of tests a mutation, at most')
    p.add_argument('--minutes', type=float, default=1e6, help='stop after so long')
    p.add_argument('--modules', nargs='+')
    p.add_argument('--only', nargs='+', help='files of tests and chapters to collect again')
    p.add_argument('--chapters', action='store_true', help='collect: chapters instead of tests')
    p.add_argument('--write', action='store_true', help='report: write the result file')
    p.add_argument('--backwards', action='store_true', help='draw: from the end, beside another')
    args = p.parse_args()
    args.again = args.command == 'again'
    globals()[args.command](args)


if __name__ == '__main__':
    main()
