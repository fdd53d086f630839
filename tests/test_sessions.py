"A real data set, rewritten as another lab would keep it, trains without a line of code"

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harkd.data import BadRecording, load_dataset
from harkd.distill import DistillConfig, open_run, run_distill
from tests.conftest import data


def lab_table(path: Path) -> pd.DataFrame:
    "One sp-sw-har file in g and deg/s, with other column names"
    d = pd.read_csv(path)
    acc = {f'A{a}': d[f'{a}_acc'] / 9.80665 for a in 'xyz'}
    gyro = {f'W{a}': np.rad2deg(d[f'{a}_gyro']) for a in 'xyz'}
    return pd.DataFrame({'clock_ms': d.timestamp, **acc, **gyro, 'doing': d.label})


def lab_stream(device: str) -> dict:
    columns = {**{f'acc_{a}': f'A{a}' for a in 'xyz'}, **{f'gyro_{a}': f'W{a}' for a in 'xyz'}}
    units = {'acc': 'g', 'gyro': 'deg/s'}
    return {'columns': columns, 'units': units, 'file': f'file_{device}'}


def rewrite(source: Path, out: Path, subjects: int = 4, runs: int = 3):
    "sp-sw-har as a lab might keep it, with its irregular and doubled stamps in milliseconds"
    rows = []
    for s in sorted(source.glob('DATA/s*'))[:subjects]:
        for p in sorted(s.glob('*_sw.csv'))[:runs]:
            row = {'id': p.stem[:-3], 'subject': f'person {s.name}'}
            for device in ('sw', 'sp'):
                row[f'file_{device}'] = f'{row["id"]}_{device}.csv'
                table = lab_table(p.with_name(p.name.replace('_sw', f'_{device}')))
                table.to_csv(out / row[f'file_{device}'], index=False)
            rows.append(row)
    pd.DataFrame(rows).to_csv(out / 'recordings.csv', index=False)
    manifest = {
        'name': 'lab',
        'fs': 50,
        'time': {'column': 'clock_ms', 'unit': 'ms'},
        'label': 'doing',
        'streams': {'wrist': lab_stream('sw'), 'pocket': lab_stream('sp')},
        'student': ['wrist'],
        'teacher': ['wrist', 'pocket'],
        'window_s': 1.0,
        'stride_s': 0.5,
    }
    (out / 'manifest.json').write_text(json.dumps(manifest))


def test_another_labs_folder_is_the_same_data(tmp_path):
    source = data('sp_sw_har')
    rewrite(source, tmp_path)
    ours, theirs = load_dataset('sessions', tmp_path), load_dataset('sp_sw_har', source)
    same = {r.id: r for r in theirs.recordings}
    assert len(ours.recordings) == 12 and len(ours.subjects) == 4
    for r in ours.recordings:
        for name, published in (('wrist', 'watch'), ('pocket', 'phone')):
            a, b = r.streams[name], same[r.id].streams[published]
            assert np.allclose(a.values, b.values, atol=1e-6)  # kept as float32
            assert np.allclose(a.time, b.time, atol=1e-9)
            assert a.units == b.units
            assert (np.diff(a.time) == 0).any() or name == 'wrist'
        assert [s.label for s in r.spans] == [s.label for s in same[r.id].spans]


def test_it_trains_and_its_teacher_has_more_input(tmp_path):
    (d := tmp_path / 'lab').mkdir()
    rewrite(data('sp_sw_har'), d)
    cfg = DistillConfig(
        'sessions',
        str(d),
        student='conv_8k',
        folds=2,
        fold=0,
        epochs=2,
        teacher_epochs=2,
        seeds=1,
        jobs=1,
    )
    run = run_distill(cfg, tmp_path / 'run')
    modality = {r['arm']: r['modality'] for r in run.metrics['rows']}
    assert modality == {'teacher': 'wrist+pocket', 'control': 'wrist', 'distilled': 'wrist'}
    assert all(0 <= r['accuracy'] <= 1 for r in run.metrics['rows'])
    classes = ('SEATED', 'SITTING_DOWN', 'STANDING_UP', 'TURNING', 'WALKING')
    assert open_run(run.path)[1].split.windows.classes == classes


@pytest.mark.parametrize(
    'break_it,says',
    [
        (lambda d: (d / 's01_01_sw.csv').unlink(), 's01_01_sw.csv: missing'),
        (
            lambda d: (d / 's01_01_sw.csv').write_text('clock_ms,Ax\n1,2\n'),
            "s01_01_sw.csv: has no column 'Ay'",
        ),
        (lambda d: (d / 's01_01_sw.csv').write_bytes(b'\x00\xff\x00'), 's01_01_sw.csv'),
        (lambda d: (d / 'recordings.csv').unlink(), 'recordings.csv: missing'),
        (lambda d: (d / 'manifest.json').unlink(), 'chapter 00c says what goes into it'),
    ],
)
def test_a_broken_folder_names_what_is_broken(tmp_path, break_it, says):
    rewrite(data('sp_sw_har'), tmp_path, 1, 1)
    break_it(tmp_path)
    with pytest.raises((BadRecording, FileNotFoundError), match=says.replace('(', r'\(')):
        load_dataset('sessions', tmp_path)
