"Chapter 07a: classical baselines under the protocols of the networks"

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from harkd.baselines import (
    CLASSICAL,
    BaselineConfig,
    _check_baselines,
    baseline_splits,
    baseline_table,
    make_classifier,
    run_baseline,
    run_baselines,
)
from harkd.experiment import DataConfig, experiment_windows
from harkd.preprocess import cut_windows
from harkd.split import BatchLoader, by_subject
from harkd.synth import synth_dataset
from harkd.teacher import as_array, centre_skeleton

TINY = BaselineConfig(
    'synth', folds=2, kernels=500, trees=20, seeds=2, jobs=1, rungs='random_trials,subject_kfold'
)


def test_a_skeleton_is_centred_and_resampled():
    windows = experiment_windows(DataConfig('synth'))
    array = as_array(windows.batch([0, 1, 2]), ('imu', 'skeleton'))
    assert array.shape == (3, 6 + 60, windows.length['imu'])
    imu = windows.batch([0, 1, 2]).x['imu'].transpose(1, 2).numpy()
    assert np.allclose(array[:, :6], imu)
    skeleton = centre_skeleton(windows.batch([0]).x['skeleton'])[0]
    for frame, sample in ((0, 0), (-1, -1)):  # the first and the last frame are kept
        assert np.allclose(array[0, 6:, sample], skeleton[frame].flatten().numpy(), atol=1e-5)


def test_both_classifiers_are_better_than_the_majority():
    pytest.importorskip('aeon')
    windows = experiment_windows(DataConfig('synth'))
    loader = BatchLoader.fit(by_subject(windows, ['s1', 's2', 's3'], ['s4', 's5']))
    split = loader.split
    train, val = (
        as_array(next(loader.eval_batches(ids, len(ids))), ('imu',))
        for ids in (split.train, split.val)
    )
    y_train, y_val = windows.y[split.train], windows.y[split.val]

    def predictions(name):
        return make_classifier(name, kernels=500, trees=50).fit(train, y_train).predict(val)

    found = {name: predictions(name) for name in CLASSICAL}
    assert set(found['majority']) == {np.bincount(y_train).argmax()}
    assert np.array_equal(found['minirocket'], predictions('minirocket'))  # the same seed
    accuracy = {name: (pred == y_val).mean() for name, pred in found.items()}
    assert accuracy['majority'] < min(accuracy['forest'], accuracy['minirocket'])


def test_an_unknown_baseline_is_named():
    with pytest.raises(ValueError, match="unknown baseline 'svm', choose one of: majority"):
        make_classifier('svm')


def test_every_baseline_is_fitted_once(tmp_path):
    pytest.importorskip('aeon')
    run = run_baselines(TINY, tmp_path / 'a')
    rows = run.metrics['rows']
    assert run_baselines(TINY, tmp_path / 'a').metrics['rows'] == rows
    fold = baseline_splits(TINY, 'subject_kfold', 1)[1].fold
    wanted = ('forest', 'subject_kfold', fold, 1)
    keys = ('model', 'protocol', 'fold', 'seed')
    (row,) = [r for r in rows if tuple(r[k] for k in keys) == wanted]
    assert run_baseline(TINY, run.path, 'forest', 'subject_kfold', 1, 1) == row
    d = pd.DataFrame(rows)
    sizes = d[d.protocol == 'subject_kfold'].groupby('model').size().to_dict()
    assert sizes == {'forest': 4, 'majority': 2, 'minirocket': 4}  # the majority has no seed
    notes = baseline_table(rows).note
    assert (notes.loc['random trials'] == 'test subjects were trained on').all()
    assert (notes.loc['subject kfold'] == '').all()


@pytest.mark.parametrize(
    'window_s, whole, says', [(2.0, False, '_2s'), (1.0, False, ''), (2.0, True, '')]
)
def test_a_row_says_where_windows_were_of_two_seconds(tmp_path, monkeypatch, window_s, whole, says):
    windows = cut_windows(synth_dataset(3, 1), ('imu',))
    windows = replace(windows, card=replace(windows.card, window_s=window_s, whole=whole))
    split = by_subject(windows, ['s1', 's2'], ['s3'])
    monkeypatch.setattr('harkd.baselines.baseline_splits', lambda cfg, rung, seed: [split])
    row = run_baseline(TINY, tmp_path, 'majority', 'subject_kfold', 0, 1)
    assert row['protocol'] == split.protocol + says
    assert (row['model'], row['arm'], row['part'], row['seed']) == (
        'majority',
        'baseline',
        'val',
        1,
    )


def test_a_baseline_may_read_the_inputs_of_the_teacher(tmp_path):
    pytest.importorskip('aeon')
    cfg = replace(TINY, rungs='', models='minirocket', inputs='teacher')
    rows = run_baselines(cfg, tmp_path / 'b').metrics['rows']
    found = {(r['protocol'], r['part'], r['modality']) for r in rows}
    assert found == {('subject_kfold', 'val', 'imu+skeleton')}


@pytest.mark.parametrize(
    'change, message',
    [
        ({'rungs': 'kfold'}, "unknown rung 'kfold'"),
        ({'inputs': 'all'}, "inputs must be 'student' or 'teacher', got 'all'"),
    ],
)
def test_a_configuration_without_meaning_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        run_baselines(replace(TINY, models='majority', **change))


def test_rungs_on_official_test_subjects_need_final():
    card = experiment_windows(DataConfig('synth')).card
    official = replace(card, test_subjects=('s5', 's6'))
    _check_baselines(TINY, card)
    _check_baselines(replace(TINY, final=True), official)
    with pytest.raises(ValueError, match='evaluates on test subjects of synth; say so with final'):
        _check_baselines(TINY, official)
