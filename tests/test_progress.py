"A command can follow trainings that run in other processes"

import contextlib
import json
import os
import threading
import time
from dataclasses import replace

import pytest
from joblib.externals.loky import get_reusable_executor

from harkd.distill import DistillConfig, planned_parts, run_distill
from harkd.experiment import (
    FitConfig,
    experiment_splits,
    experiment_windows,
    load_or_train,
    run_tasks,
)
from harkd.progress import progress_bar, read_progress, report_plan, report_progress, seconds_left
from harkd.split import BatchLoader
from harkd.student import make_student
from harkd.train import TrainConfig, train

CONFIG = DistillConfig(
    'synth',
    student='conv_8k',
    epochs=2,
    teacher_epochs=1,
    seeds=1,
    folds=2,
    jobs=2,
    baseline='minirocket',
)


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / 'progress'
    monkeypatch.setenv('HARKD_PROGRESS', str(path))
    get_reusable_executor().shutdown()  # workers of earlier tests do not know the variable
    return path


def make_loader():
    cfg = FitConfig('synth', epochs=1)
    return BatchLoader.fit(experiment_splits(cfg, experiment_windows(cfg))[0])


def rows_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_training_of_a_run_is_planned_and_reported_to_its_end(file, tmp_path):
    run_distill(CONFIG, tmp_path / 'run')
    plan, *rows = rows_of(file)
    assert plan['plan'] == dict.fromkeys(planned_parts(CONFIG), 2) and plan['jobs'] == 2
    ended = {row['name'] for row in rows if row['done'] == 1}
    parts = ('teacher', 'control', 'distilled', 'baseline')
    assert ended == {f'{part} (fold {k}, seed 0)' for part in parts for k in (1, 2)}
    assert {row['name'] for row in rows} == ended
    steps = [row['what'] for row in rows if row['name'] == 'teacher (fold 2, seed 0)']
    assert any(what.startswith('step 1/') for what in steps)
    assert read_progress(file).startswith('8 of 8 done; ')


def test_what_an_earlier_start_had_trained_counts_as_done_at_once(file, tmp_path):
    config = replace(CONFIG, jobs=1)
    run_distill(config, tmp_path / 'run')
    (tmp_path / 'run' / 'metrics.json').unlink()
    (tmp_path / 'run' / 'fold0_seed0' / 'rows.json').unlink()
    file.unlink()
    run_distill(config, tmp_path / 'run')
    rows = rows_of(file)
    assert not any('step' in row.get('what', '') for row in rows)
    assert len({row['name'] for row in rows[1:] if row['done'] == 1}) == 8
    assert seconds_left(rows) == 0


def test_tasks_of_any_experiment_are_counted(file):
    run_tasks(pow, [(2, k) for k in range(5)], jobs=2, what='powers')
    rows = rows_of(file)
    assert rows[0]['plan'] == {'powers': 5}
    assert {row['name'] for row in rows[1:] if row['done'] == 1} == {
        f'powers (task {k})' for k in range(1, 6)
    }


def test_the_estimate_is_near_from_the_first_part_of_the_first_training(file):
    def wait(name):
        report_progress(name, 0.0)
        for k in range(1, 5):
            time.sleep(0.05)
            report_progress(name, k / 4)

    begin, estimates = time.monotonic(), []
    report_plan({'student': 8})
    for seed in range(8):
        wait(f'student (seed {seed})')
        estimates.append((time.monotonic() - begin, seconds_left(rows_of(file))))
    total = estimates[-1][0]
    assert estimates[-1][1] == 0
    assert all(abs(now + left - total) < 0.25 * total for now, left in estimates)


def test_a_second_plan_forgets_the_first(file):
    report_plan({'teacher': 1})
    report_progress('teacher (fold 1)', 1.0)
    report_plan({'student': 4}, jobs=2)
    assert read_progress(file).startswith('0 of 4 done')


def test_what_is_not_in_the_plan_is_shown_but_neither_counted_nor_estimated():
    rows = [
        {'time': 0, 'plan': {'task': 2}, 'jobs': 1},
        {'time': 0, 'name': 'task (task 1)', 'done': 0},
        {'time': 4, 'name': 's1 0 control', 'done': 1},
        {'time': 9, 'name': 's1 0 kd', 'done': 0.5},
        {'time': 10, 'name': 'task (task 1)', 'done': 1},
    ]
    assert seconds_left(rows[:4]) is None and seconds_left(rows) == 10
    part = [
        {'time': 0, 'plan': {'student': 2}, 'jobs': 1},
        {'time': 0, 'name': 'student (fold 1), pretraining', 'done': 0},
        {'time': 5, 'name': 'student (fold 1), pretraining', 'done': 1},
        {'time': 5, 'name': 'student (fold 1)', 'done': 0},
        {'time': 10, 'name': 'student (fold 1)', 'done': 0.5},
    ]
    assert seconds_left(part[:4]) is None and seconds_left(part) == 1.5 * 20


def test_the_slow_first_step_of_a_training_is_no_estimate():
    rows = [
        {'time': 0, 'plan': {'teacher': 1, 'control': 1}, 'jobs': 1},
        {'time': 0, 'name': 'teacher (fold 1)', 'done': 0},
        {'time': 20, 'name': 'teacher (fold 1)', 'done': 1},
        {'time': 20, 'name': 'control (fold 1)', 'done': 0},
        {'time': 21, 'name': 'control (fold 1)', 'done': 1 / 400},
    ]
    assert seconds_left(rows) == pytest.approx(20, rel=0.01)
    assert seconds_left([rows[0], *rows[3:]]) is None


def test_kept_work_says_nothing_about_durations():
    begun = [
        {'time': 0, 'plan': {'student': 1}, 'jobs': 1},
        {'time': 0, 'name': 'student (fold 1)', 'done': 0.9},
        {'time': 10, 'name': 'student (fold 1)', 'done': 0.95},
    ]
    assert seconds_left(begun) == pytest.approx(10)
    rows = [{'time': 0, 'plan': {'a (b): task': 60}, 'jobs': 1}]
    for k in range(51):
        rows.append({'time': k, 'name': f'a (b): task (task {k})', 'done': 0})
        took = 600 if k == 50 else 0.002
        rows.append({'time': k + took, 'name': f'a (b): task (task {k})', 'done': 1})
    assert seconds_left(rows) == 9 * 600


def test_a_stage_is_not_the_whole_training(file, tmp_path):
    run_distill(replace(CONFIG, jobs=1, baseline='', fold=0, int8=1), tmp_path / 'run')
    stages = [row for row in rows_of(file) if row.get('name', '').startswith('distilled')]
    ended = [row['name'] for row in stages if row['done'] == 1]
    assert [name.partition('), ')[2] for name in ended] == ['training', 'int8', '']


def test_a_checkpoint_reports_how_far_it_was(file, tmp_path):
    loader, steps = make_loader(), []

    def stop(model, batch):
        steps.append(1)
        if len(steps) == 7:
            raise KeyboardInterrupt
        return model(*(batch.x[i] for i in model.inputs)).square().mean()

    def fit(model, checkpoint):
        return train(model, loader, stop, TrainConfig(steps=10), checkpoint, every=1, progress='a')

    def make():
        return make_student('conv_8k', loader.split.windows)

    for _ in range(2):
        with contextlib.suppress(KeyboardInterrupt):
            load_or_train(tmp_path / 'model', make, fit, loader, FitConfig('synth'), 0, 'a')
    done = [row['done'] for row in rows_of(file)]
    again = done.index(0.6)
    assert done[0] == 0 and min(done[again:]) == 0.6 and done[-1] == 1


def test_a_file_that_cannot_be_written_does_not_stop_a_training(tmp_path, monkeypatch):
    monkeypatch.setenv('HARKD_PROGRESS', str(tmp_path / 'elsewhere' / 'progress'))
    report_progress('teacher (fold 1)', 0.5)
    assert not os.listdir(tmp_path)


def test_nothing_is_reported_and_no_thread_is_left_after_an_error(tmp_path):
    path = tmp_path / 'progress'
    assert read_progress(path) == ''
    path.write_text('\nnot json\n{"other": 1}\n')
    assert read_progress(path) == ''
    with pytest.raises(ZeroDivisionError), progress_bar('x', path, seconds=0.001):
        1 / 0
    assert 'progress' not in [thread.name for thread in threading.enumerate()]
