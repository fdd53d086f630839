"The command: its help, its errors, and the way from a run to a bundle to a decision"

import argparse
import ast
import builtins
import importlib
import json
import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from harkd.cli import (
    EXAMPLES,
    _import_cells,
    _is_recording,
    app,
    execute,
    full_run_notebook,
    join_pairs,
    parse_params,
    parse_value,
    read_params,
    read_question,
    recipes,
    runnable,
    show_data,
)
from harkd.distill import DistillConfig, run_distill


def call(*args, **kwargs):
    return CliRunner().invoke(app, join_pairs(list(args)), prog_name='harkd', **kwargs)


def message(result):
    "What a command said when it failed"
    return str(result.exception or '') + result.output + result.stderr


def test_alone_and_with_help_it_shows_the_workflow_in_the_order_of_use():
    alone = call()
    assert alone.exit_code == 0 and alone.output == call('--help').output
    at = [alone.output.find(f'\n    {example}\n') for example in EXAMPLES.values()]
    assert -1 not in at and at == sorted(at)
    lines = alone.output.split('Commands:')[1].splitlines()[1 : len(EXAMPLES) + 1]
    listed = [line.split()[0] for line in lines]
    assert listed == [name for name in EXAMPLES if name != 'data check'] + ['data']


@pytest.mark.parametrize('command', EXAMPLES)
def test_the_help_of_every_command_has_an_example(command):
    result = call(*command.split(), '--help')
    assert result.exit_code == 0 and f'harkd {command}' in ' '.join(result.output.split())
    assert 'xample: ' in result.output


def test_every_example_is_a_command_with_options_that_exist():
    for name, example in EXAMPLES.items():
        words = join_pairs(example.split('<')[0].split())
        assert ' '.join(words).startswith(f'harkd {name}')
        for option in (w for w in words if w.startswith('-')):
            assert option in call(*name.split(), '--help').output


def test_values_become_the_type_of_their_parameter():
    known = read_params(runnable()['distill'])
    given = [('alpha', '1'), ('seeds', '5'), ('final', 'True')]
    assert parse_params(given, known) == {'alpha': 1.0, 'seeds': 5, 'final': True}
    assert parse_value('final', 'FALSE', 'bool') is False


@pytest.mark.parametrize(
    'args,says',
    [
        (('run', 'distill', '-p', 'alhpa', '0.2'), "unknown parameter 'alhpa'"),
        (('run', 'distill', '-p', 'seeds', '1.5'), 'must be int'),
        (('run', 'distill', '-p', 'seeds'), '-p needs a name and a value'),
        (('run', 'destill'), 'choose one of'),
        (('params', 'destill'), 'choose one of'),
        (('recipe', 'utd_1k'), 'choose one of'),
        (('recipe', 'utd_100k', '-p', 'alhpa', '1'), "unknown parameter 'alhpa'"),
    ],
)
def test_a_mistake_ends_a_command_before_anything_runs(args, says):
    result = call(*args)
    assert result.exit_code == 2 and says in ' '.join(message(result).replace('│', '').split())


def test_lists():
    assert 'weight of the teacher' in call('params', 'distill').output
    assert 'utd_100k' in call('recipe').output
    assert call('datasets').output.startswith('spar')
    assert call('version').output.startswith('harkd 0.')


def test_a_recipe_survives_the_way_through_the_command_line():
    r = recipes()['utd_100k']
    known = read_params(runnable()[r['chapter']])
    assert parse_params([(k, str(v)) for k, v in r['params'].items()], known) == r['params']


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    "A small finished run on SPAR, and its bundle"
    folder = tmp_path_factory.mktemp('cli')
    cfg = DistillConfig(
        'spar',
        student='conv_8k',
        epochs=2,
        teacher_epochs=1,
        fold=0,
        seeds=1,
        jobs=1,
        loss='',
        batch_size=64,
    )
    run_distill(cfg, folder / 'run')
    result = call('export', str(folder / 'run'), '-o', str(folder / 'bundle'))
    assert result.exit_code == 0, message(result)
    assert 'bundle.json' in result.output and 'model.onnx' in result.output
    return folder / 'run', folder / 'bundle'


def test_a_bundle_decides_as_its_run(finished):
    run, bundle = map(str, finished)
    result = call('check', bundle, run)
    assert result.exit_code == 0 and 'same decisions in 100.00%' in result.output
    result = call('bench', bundle)
    assert result.exit_code == 0 and 'ms p50' in result.output


def test_a_bundle_decides_on_a_stream(finished):
    bundle = str(finished[1])
    rows = [f'{i / 50},0.1,9.8,{i % 50 / 50}' for i in range(500)]
    text = '\n'.join(['time,acc_x,acc_y,acc_z', *rows, ''])
    result = call('stream', bundle, '--threshold', '0', input=text)
    assert result.exit_code == 0 and result.output.startswith('time,label,probability')
    assert len(result.output.splitlines()) >= 4


def test_what_is_no_run_and_no_bundle_is_a_message(finished, tmp_path):
    run = str(finished[0])
    for args, says in (
        (('check', str(tmp_path), run), 'is not a bundle'),
        (('export', str(tmp_path / 'none')), 'is not a run folder'),
        (('export', run, '--quantize', 'int3'), 'precision must be one of'),
        (('stream', str(tmp_path)), 'is not a bundle'),
        (('bench', str(tmp_path)), 'is not a bundle'),
    ):
        result = call(*args)
        assert result.exit_code == 1 and says in message(result), args
    result = call('explore', str(tmp_path / 'none'))
    assert result.exit_code == 1
    assert 'is not a run folder' in message(result) or 'harkd[explore]' in message(result)


def test_bundles_are_measured_one_window_at_a_time_and_each_has_its_line(monkeypatch):
    class Opened:
        samples, raw = 50, ('acc_x', 'acc_y', 'acc_z')

        def __init__(self, folder, threads):
            self.about = {'bytes': 1000 * len(str(folder))}

        def __call__(self, window):
            return window.shape

    def measured(calls, threads):
        assert [call() for call in calls.values()] == [(1, 50, 3)] * 2 and threads == 2
        return {name: dict(p50_ms=k, p95_ms=10 + k) for k, name in enumerate(calls, 1)}

    monkeypatch.setattr('harkd.runtime.Bundle', Opened)
    monkeypatch.setattr('harkd.cost.compare_latency', measured)
    result = call('bench', 'a', 'bb', '--threads', '2')
    assert result.exit_code == 0, message(result)
    first, *lines = result.output.splitlines()
    assert first.endswith(', 2 thread(s); one window, preparation included')
    assert [' '.join(line.split()) for line in lines] == [
        '1.000 ms p50 11.000 ms p95 1,000 bytes a',
        '2.000 ms p50 12.000 ms p95 2,000 bytes bb',
    ]


def find_voila(monkeypatch, found):
    find = importlib.util.find_spec

    def find_spec(name, *package):
        return found if name == 'voila' else find(name, *package)

    monkeypatch.setattr('harkd.cli.importlib.util.find_spec', find_spec)


@pytest.mark.parametrize('words', [(), ('--no-browser',), ('--port', '9000', '--browser')])
def test_the_page_of_the_explorer_is_a_server_of_this_machine(monkeypatch, words):
    "The process becomes the server; a browser opens unless it is told not to"
    started = []
    monkeypatch.setattr('harkd.cli._explorer_variables', lambda *names: {'HARKD_RUN': str(names)})
    find_voila(monkeypatch, 'here')
    monkeypatch.setattr('harkd.cli.os.execve', lambda *command: started.append(command))
    result = call('explore', 'a', '--model', 'b', *words)
    assert result.exit_code == 0, message(result)
    ((program, args, environ),) = started
    assert program == args[0] == sys.executable and args[1:3] == ['-m', 'voila']
    assert args[3].endswith('explorer.ipynb') and '--Voila.ip=127.0.0.1' in args
    assert f'--port={9000 if "9000" in words else 8866}' in args
    assert ('--no-browser' in args) == ('--no-browser' in words)
    assert environ['HARKD_RUN'] == "('a', 'b')" and environ['PATH'] == os.environ['PATH']


def test_without_voila_the_explorer_says_what_to_install(monkeypatch):
    find_voila(monkeypatch, None)
    assert "pip install 'harkd[explore]'" in message(call('explore'))


def trees(path):
    "Syntax trees of the code cells of a full run"
    cells = full_run_notebook(path)['cells']
    return [ast.parse(''.join(c['source'])) for c in cells if c['cell_type'] == 'code']


def bound_names(tree):
    "Names that a cell defines, with those of its star imports"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == '*':
            yield from importlib.import_module(node.module).__all__
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (a.asname or a.name.split('.')[0] for a in node.names)
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def needed_names(tree):
    "Names that a cell reads, but for what it does at smoke size"
    for statement in tree.body:
        if isinstance(statement, ast.If) and 'in_test()' in ast.unparse(statement.test):
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                yield node.id


@pytest.mark.parametrize('chapter', sorted(runnable()))
def test_a_full_run_needs_the_imports_and_the_public_names_alone(chapter):
    cells = trees(runnable()[chapter])
    have = {n for tree in cells for n in bound_names(tree)} | set(dir(builtins))
    assert not {n for tree in cells for n in needed_names(tree)} - have


def test_a_full_run_leaves_the_definitions_and_their_tests_out():
    for path in runnable().values():
        cells = full_run_notebook(path)['cells']
        source = [''.join(c['source']) for c in cells]
        start = next(
            i for i, c in enumerate(cells) if 'parameters' in c['metadata'].get('tags', [])
        )
        kinds = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)
        assert start == 2
        assert all(isinstance(s, kinds) for s in ast.parse(source[1]).body)


def test_every_full_run_has_a_question_and_the_data_stand_before_the_result():
    named = 0
    for path in runnable().values():
        assert read_question(path).endswith('?'), path.name
        cells = full_run_notebook(path, {'results': 'a b'})['cells']
        ids = [c['id'] for c in cells]
        assert len(ids) == len(set(ids))
        assert (
            read_question(path) in cells[0]['source'] and "-p results 'a b'" in cells[0]['source']
        )
        if {'dataset', 'run', 'runs'} & set(read_params(path)):
            assert ids.index('data') < ids.index('show-data') < ids.index('result') < len(ids) - 1
            named += 1
    assert named > 15


def test_a_report_is_folded_and_its_page_asks_nothing_of_the_web(tmp_path):
    result = call(
        'run',
        'baselines',
        '-p',
        'models',
        'majority',
        '-p',
        'dataset',
        'synth',
        '-o',
        str(tmp_path / 'a.ipynb'),
        '--html',
    )
    assert result.exit_code == 0, result.output
    cells = json.loads((tmp_path / 'a.ipynb').read_text())['cells']
    code = [c for c in cells if c['cell_type'] == 'code']
    assert all(c['metadata']['jupyter']['source_hidden'] for c in code)
    outputs = next(c['outputs'] for c in code if c['id'] == 'show-data')
    assert 'recordings' in ''.join(outputs[0]['data']['text/html'])
    assert 'recordings' not in result.stdout  # the terminal shows the result alone
    page = (tmp_path / 'a.html').read_text()
    assert page.count('<details') >= len(code) and 'majority' in page
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)=.https?:', page)


def test_data_that_cannot_be_shown_are_named_and_do_not_stop_the_run(capsys):
    show_data(argparse.Namespace(run='nowhere'))
    show_data(argparse.Namespace(run=''))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and 'nowhere' in lines[0] and 'no run was named' in lines[1]


def test_two_runs_in_one_folder_do_not_meet(tmp_path, monkeypatch):
    "Kernels listen on sockets of their own: started together in one folder, both end"
    monkeypatch.chdir(tmp_path)
    code = 'from harkd.cli import main; main()'
    args = [sys.executable, '-c', code, 'run', 'baselines', '-p', 'seeds', '1', '-o']
    both = [
        subprocess.Popen(
            [*args, f'{name}.ipynb'], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for name in 'ab'
    ]
    for process in both:
        error = process.communicate(timeout=300)[1]
        assert process.returncode == 0, error
    assert sorted(p.name for p in tmp_path.glob('*') if p.suffix != '.lock') == [
        'a.ipynb',
        'b.ipynb',
    ]


def test_an_error_of_a_run_is_one_message_that_names_the_notebook(tmp_path):
    with pytest.raises(SystemExit, match="arm must be 'distilled' or 'control', got 'x'") as e:
        execute('deploy', {'run': 'none', 'arm': 'x'}, tmp_path / 'out.ipynb')
    assert 'out.ipynb' in str(e.value) and (tmp_path / 'out.ipynb').exists()


def test_a_kernel_is_told_where_to_report(tmp_path, monkeypatch):
    monkeypatch.setenv('HARKD_PROGRESS', 'mine')
    notebook = json.loads(runnable()['deploy'].read_text())
    cells = [c for c in notebook['cells'] if 'parameters' in c['metadata'].get('tags', [])]
    ask = {
        **cells[0],
        'id': 'ask',
        'metadata': {},
        'source': 'import os; print(os.path.basename(os.environ["HARKD_PROGRESS"]))',
    }
    title = {**notebook['cells'][0], 'source': '# Deploy'}
    run = {**title, 'id': 'run', 'source': '## Full run'}
    small = {
        **notebook,
        'cells': [title, notebook['cells'][1], run, cells[0], ask, ask | {'id': 'b'}],
    }
    (tmp_path / '09_deploy.ipynb').write_text(json.dumps(small))
    monkeypatch.setattr('harkd.cli.runnable', lambda: {'deploy': tmp_path / '09_deploy.ipynb'})
    done = execute('deploy', {}, tmp_path / 'out.ipynb')
    assert done['text'] == 'progress' and os.environ['HARKD_PROGRESS'] == 'mine'


def test_cells_that_import_and_set_options_are_kept_whatever_they_import():
    def code(text):
        return dict(cell_type='code', source=text)

    kept = [
        code('import os'),
        code('import numpy as np\nnp.set_printoptions(precision=3)'),
        code('import os.path\nfrom pathlib import Path as P'),
        code("os.environ['A'] = 'b'"),
        code('import json as j\nj.where = P'),
    ]
    others = [
        code('numpy.x = 1'),
        code('json.x = 1'),
        code('os.getcwd()'),
        code('def f(): pass'),
        code('%matplotlib'),
    ]
    assert _import_cells(kept) == kept
    assert _import_cells([*kept, *others, dict(cell_type='markdown', source='import re')]) == kept


def test_a_file_of_ones_own_is_told_from_a_run(tmp_path):
    "A file that is there, whatever its ending, or a name with the ending of a table"
    for name in ('walk.log', 'walk.csv'):
        (tmp_path / name).write_text('')
    (tmp_path / 'runs').mkdir()
    assert _is_recording(tmp_path / 'walk.log') and _is_recording(str(tmp_path / 'walk.csv'))
    assert _is_recording('missing.CSV') and not _is_recording('missing.log')
    assert not _is_recording(tmp_path / 'runs') and not _is_recording('demo')
