"A run belongs to its data and its files: what was changed since then is named, and refused"

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harkd.distill import DistillConfig, open_run, run_distill
from harkd.evaluate import evaluate
from harkd.experiment import experiment_windows
from harkd.explore import load_explorer_data
from harkd.formats import check_bundle, export
from harkd.runs import (
    DamagedFile,
    Run,
    load_model,
    read_json,
    read_sealed,
    write_json,
    write_sealed,
)

G = 9.80665
MOVEMENTS = {'rest': (0.0, 0.0), 'stroll': (1.8, 2.5), 'shake': (5.0, 6.0)}  # Hz, m/s²
MANIFEST = {
    'name': 'study',
    'fs': 50,
    'time': {'column': 't', 'unit': 's'},
    'streams': {
        'wrist': {'columns': {f'acc_{a}': f'a{a}' for a in 'xyz'}, 'units': {'acc': 'm/s2'}}
    },
    'student': ['wrist'],
    'teacher': ['wrist'],
    'window_s': 2,
    'stride_s': 1,
}


def recordings_of(folder, subject, rng, sign=1):
    rows = []
    for label, (hz, amplitude) in MOVEMENTS.items():
        t = np.arange(400) / 50
        wave = amplitude * np.sin(2 * np.pi * hz * t + rng.uniform(0, 6))
        acc = np.stack([sign * wave, 0.5 * wave, sign * (G + 0.3 * wave)], 1)
        acc += rng.normal(0, 0.05, acc.shape)
        table = pd.DataFrame(acc.round(5), columns=['ax', 'ay', 'az'])
        table.insert(0, 't', t.round(4))
        name = f'{subject}_{label}.csv'
        table.to_csv(folder / name, index=False)
        rows.append(dict(id=f'{subject}_{label}', subject=subject, file=name, label=label))
    return rows


def make_study(folder):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = [r for s in ('p1', 'p2', 'p3', 'p4') for r in recordings_of(folder, s, rng)]
    pd.DataFrame(rows).to_csv(folder / 'recordings.csv', index=False)
    (folder / 'manifest.json').write_text(json.dumps(MANIFEST))
    return folder


def grow(folder):
    "A fifth subject, whose sensor sits the other way round"
    more = recordings_of(folder, 'p5', np.random.default_rng(1), sign=-1)
    table = pd.concat([pd.read_csv(folder / 'recordings.csv'), pd.DataFrame(more)])
    table.to_csv(folder / 'recordings.csv', index=False)


def config(folder):
    return DistillConfig(
        'sessions',
        data_root=str(folder),
        folds=2,
        epochs=1,
        teacher_epochs=1,
        seeds=1,
        jobs=1,
        student='conv_8k',
    )


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A study, and a finished run of it with a bundle"
    root = tmp_path_factory.mktemp('made')
    study = make_study(root / 'study')
    run = run_distill(config(study), root / 'run')
    export(run.path, root / 'bundle', fold=0)
    return study, run.path, root / 'bundle'


@pytest.fixture
def study(made):
    "The study, put back as it was after each test"
    folder, kept = made[0], made[0].parent / 'kept'
    shutil.copytree(folder, kept)
    yield folder
    shutil.rmtree(folder)
    kept.rename(folder)


@pytest.fixture
def run(made, tmp_path):
    "A copy of the run to do damage to"
    return Path(shutil.copytree(made[1], tmp_path / 'copy'))


OPENINGS = {
    'open': lambda run, bundle: open_run(run),
    'export': lambda run, bundle: export(run, bundle.parent / 'new'),
    'check': lambda run, bundle: check_bundle(bundle, run),
    'explore': lambda run, bundle: load_explorer_data(run),
    'evaluate': lambda run, bundle: evaluate(open_run(run)[3]['distilled'], open_run(run)[1]),
}


@pytest.mark.parametrize('name', OPENINGS)
def test_a_run_is_not_opened_on_data_that_grew(made, study, name):
    OPENINGS[name](made[1], made[2])
    before = Run(made[1]).config['data_hash']
    grow(study)
    now = experiment_windows(config(study)).hash
    with pytest.raises(ValueError, match=f"'run' was made from other data .{before}, now {now}"):
        OPENINGS[name](made[1], made[2])


def test_a_run_is_not_continued_on_data_that_grew(made, study):
    grow(study)
    with pytest.raises(ValueError, match='was made from other data .*choose another name'):
        run_distill(config(study), made[1])


@pytest.mark.parametrize(
    'change, says',
    [
        ({'window_s': 4}, r'window_s was 2, is 4'),
        ({'stride_s': 2}, r'stride_s was 1, is 2'),
        ({'fs': 25}, r'fs was 50.0, is 25.0'),
        ({'test_subjects': ['p4']}, r"test_subjects was \[\], is \['p4'\]"),
        ({'classes': ['stroll', 'shake', 'rest']}, r'classes was'),
        ({'classes': ['rest', 'stroll'], 'drop': ['shake']}, 'recordings, subjects or labels'),
    ],
)
def test_every_key_that_decides_windows_belongs_to_the_data(made, study, change, says):
    manifest = json.dumps({**MANIFEST, **change})
    (study / 'manifest.json').write_text(manifest)
    with pytest.raises(ValueError, match='was made from other data .*' + says):
        open_run(made[1])


def test_other_channel_names_are_other_data(made, study):
    "The same numbers under another channel's name"
    columns = {'acc_y': 'ax', 'acc_x': 'ay', 'acc_z': 'az'}
    wrist = {**MANIFEST['streams']['wrist'], 'columns': columns}
    (study / 'manifest.json').write_text(json.dumps({**MANIFEST, 'streams': {'wrist': wrist}}))
    with pytest.raises(ValueError, match='was made from other data .*channel names or units'):
        open_run(made[1])


def test_edited_files_are_read_again(study):
    before = experiment_windows(config(study))
    assert experiment_windows(config(study)) is before
    grow(study)
    assert set(experiment_windows(config(study)).table.subject) - set(before.table.subject)


def test_the_normaliser_of_a_run_is_never_fitted_again(made, monkeypatch):
    _, loader, _, models = open_run(made[1])
    about = models['distilled'].about
    assert loader.norm.mean['wrist'] == about['normalizer']['mean']['wrist']
    monkeypatch.setattr('harkd.preprocess.Normalizer.fit', None)
    monkeypatch.setattr('harkd.split.Normalizer.fit', None)
    open_run(made[1])


def test_classes_and_training_subjects_are_those_of_the_run(run):
    path = run / 'fold0_seed0/distilled/harkd.json'
    about = {k: v for k, v in read_json(path).items() if k not in ('seal', 'weights_sha256')}
    for name, value in (('classes', ['a', 'b', 'c']), ('trained_on', ['p1', 'p2', 'p3', 'p4'])):
        write_json(path, {**about, name: value})
        (run / 'files.json').unlink()
        write_json(run / 'config.json', {**read_json(run / 'config.json'), 'run_format': 0})
        with pytest.warns(UserWarning), pytest.raises(ValueError, match=f'{name} of the distilled'):
            open_run(run)
        Run.finish(Run(run), {})


def test_the_folder_of_the_data_is_stored_whole(made, monkeypatch):
    monkeypatch.chdir(made[0].parent)
    assert config('study') == config(made[0])
    assert Run(made[1]).config['data_root'] == str(made[0])
    assert run_distill(config('study'), made[1]).finished


# --- files


def small_files(folder):
    return [p for p in sorted(folder.rglob('*')) if p.is_file()]


def flipped(data, rng):
    at = int(rng.integers(len(data)))
    return data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :]


def test_no_flipped_bit_of_any_file_of_a_run_is_loaded(run):
    "A random sample; `python tests/flip_bytes.py` tries every byte"
    rng = np.random.default_rng(0)
    files = small_files(run)
    assert {'config.json', 'metrics.json', 'files.json', 'rows.json', 'harkd.json'} <= {
        p.name for p in files
    }
    for path in files:
        whole = path.read_bytes()
        for _ in range(5):
            path.write_bytes(flipped(whole, rng))
            with pytest.raises(DamagedFile, match=path.name):
                Run(run)
        path.write_bytes(whole)
    assert Run(run).finished


@pytest.mark.parametrize(
    'name', ['rows.json', 'distilled/harkd.json', 'distilled/model.safetensors']
)
def test_no_flipped_bit_of_an_unfinished_run_is_read(run, made, name):
    (run / 'metrics.json').unlink()
    path = run / 'fold0_seed0' / name
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    for _ in range(10):
        path.write_bytes(flipped(whole, rng))
        with pytest.raises(DamagedFile, match=Path(name).name):
            run_distill(config(made[0]), run)


def test_a_figure_edited_by_hand_does_not_become_the_result(run):
    path = run / 'fold0_seed0/rows.json'
    rows = read_sealed(path)
    rows[2]['accuracy'] = 0.999
    write_sealed(path, rows)  # even with a seal of its own
    with pytest.raises(DamagedFile, match='rows.json is not the file that was written there'):
        Run(run)


def test_one_arm_in_the_place_of_another_is_named(run, made):
    shutil.rmtree(run / 'fold0_seed0/distilled')
    shutil.copytree(run / 'fold0_seed0/control', run / 'fold0_seed0/distilled')
    with pytest.raises(DamagedFile, match='fold0_seed0/distilled/.* is not the file'):
        open_run(run)
    (run / 'metrics.json').unlink()
    (run / 'fold0_seed0/rows.json').unlink()
    with pytest.raises(DamagedFile, match='its part is control, here it must be distilled'):
        run_distill(config(made[0]), run)


def test_weights_of_another_model_are_named(run):
    other = run / 'fold0_seed0/control/model.safetensors'
    shutil.copy(other, run / 'fold0_seed0/distilled/model.safetensors')
    with pytest.raises(DamagedFile, match='model.safetensors holds other weights'):
        load_model(run / 'fold0_seed0/distilled')


def test_lost_and_foreign_files_are_named(run):
    shutil.copytree(run / 'fold0_seed0', run / 'fold0_seed9')
    with pytest.raises(DamagedFile, match='fold0_seed9/.* does not belong to this run'):
        Run(run)
    shutil.rmtree(run / 'fold0_seed9')
    (run / 'files.json').rename(run / 'export.json')
    with pytest.raises(DamagedFile, match='files.json is missing; restore it'):
        Run(run)
    (run / 'export.json').rename(run / 'files.json')
    (run / 'fold0_seed0/distilled/history.csv').unlink()
    with pytest.raises(DamagedFile, match='history.csv is missing'):
        Run(run)


def test_what_is_made_later_does_not_break_the_seal(run):
    for name in ('export/bundle.json', 'explain/map.png', 'distill.ipynb', '.lock'):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text('{}')
    assert Run(run).finished and Run(run).sealed


def test_an_older_run_opens_and_says_that_it_is_not_sealed(run, made):
    saved = read_json(run / 'config.json')
    write_json(run / 'config.json', {k: saved[k] for k in saved if k not in ('run_format',)})
    (run / 'files.json').unlink()
    with pytest.warns(UserWarning, match='is of an older version: it has no files.json'):
        models = open_run(run)[3]
    assert 'not sealed' in repr(Run(run)) and set(models) == {'teacher', 'control', 'distilled'}


def test_a_finished_run_stays_as_it_is(run, made):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in small_files(run)}
    again = run_distill(config(made[0]), run)
    assert again.finished
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in small_files(run)} == before


def test_a_run_that_was_killed_ends_with_the_same_bytes(run, made, tmp_path):
    shutil.rmtree(run / 'fold1_seed0/distilled')
    for name in ('metrics.json', 'fold1_seed0/rows.json'):
        (run / name).unlink()
    run_distill(config(made[0]), run)
    for path in small_files(run):
        name = path.relative_to(run)
        if name.parts[0] in ('fold0_seed0', 'fold1_seed0'):
            assert path.read_bytes() == (made[1] / name).read_bytes(), name
