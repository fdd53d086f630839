"Chapter 07f: predictions that are kept, and the difference of two models"

import gzip

import numpy as np
import pandas as pd
import pytest
import torch

from harkd.experiment import DataConfig
from harkd.runs import Run, save_tensors, write_json
from harkd.significance import (
    PREDICTION_COLUMNS,
    SignificanceConfig,
    class_table,
    collect_predictions,
    confusions,
    difference,
    plot_predictions,
    read_predictions,
    run_significance,
    score_table,
    show_scores,
    subject_table,
    write_predictions,
)
from harkd.split import LeakError

CLASSES = ('sit', 'walk', 'run')
STUDENT, ALONE = ('distilled', 'conv'), ('control', 'conv')


def toy_run(folder, protocol='official', finished=True):
    "Two models and three windows: the control errs once, the distilled student never"
    run = Run(folder, DataConfig('utd_mhad'), 'd')
    one_hot = torch.eye(3)
    logits = {'control': one_hot[[0, 1, 1]], 'distilled': one_hot[[0, 1, 2]]}
    windows = {'y': torch.tensor([0, 1, 2]), 'ids': torch.tensor([4, 5, 7])}
    fold = run / 'fold0_seed0'
    save_tensors(fold / 'predictions.safetensors', logits | windows, {'subject': ['a', 'a', 'b']})
    shared = dict(dataset='utd_mhad', protocol=protocol, model='conv', seed=0, fold='')
    hashes = dict(config_hash='c', data_hash='d')
    write_json(fold / 'rows.json', [{'arm': arm, **shared, **hashes} for arm in logits])
    if finished:
        run.finish({'rows': []})
    return run


@pytest.fixture
def toy(tmp_path):
    return collect_predictions(toy_run(tmp_path / 'toy').path)


def test_every_model_of_a_run_is_collected(toy):
    assert list(toy) == PREDICTION_COLUMNS
    correct = (toy.y == toy.pred).groupby(toy.arm).apply(list).to_dict()
    assert correct == {'control': [True, True, False], 'distilled': [True, True, True]}


def test_unfinished_empty_and_leaky_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match='is not finished'):
        collect_predictions(toy_run(tmp_path / 'a', finished=False).path)
    empty = Run(tmp_path / 'b', DataConfig('utd_mhad'), 'd')
    empty.finish({'rows': []})
    with pytest.raises(ValueError, match='keeps no predictions'):
        collect_predictions(empty.path)
    with pytest.raises(LeakError, match='test subjects were trained on'):
        collect_predictions(toy_run(tmp_path / 'c', 'random_trials').path)


def test_kept_predictions_come_back(toy):
    path = write_predictions('toy', toy)
    first = path.read_bytes()
    assert write_predictions('toy', toy).read_bytes() == first
    columns = ['arm', 'window', 'subject', 'y', 'pred']

    def in_order(d):
        return d.sort_values(['arm', 'window'])[columns].values.tolist()

    assert in_order(read_predictions('toy')) == in_order(toy)


def test_two_predictions_for_a_window_are_refused(toy):
    with pytest.raises(ValueError, match='two predictions for a window'):
        write_predictions('toy', pd.concat([toy, toy]))


@pytest.mark.parametrize(
    'old, new, message',
    [
        ('|0|c', '|0|', 'without its configuration'),
        (',d,', ',,', 'does not say which data'),
    ],
)
def test_predictions_without_their_origin_are_refused(toy, old, new, message):
    path = write_predictions('toy', toy)
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(text.replace(old, new).encode()))
    with pytest.raises(ValueError, match=message):
        read_predictions('toy')


@pytest.mark.parametrize('rows', [slice(0, 1), slice(2, 3)])
def test_one_window_without_its_data_is_enough_to_refuse_a_table(toy, rows):
    path = write_predictions('toy', toy)
    table = pd.read_csv(path)
    table.loc[table.index[rows], 'data_hash'] = None
    table.to_csv(path, index=False)
    with pytest.raises(ValueError, match="'toy.*' does not say which data"):
        read_predictions('toy')
    table.drop(columns='data_hash').to_csv(path, index=False)
    with pytest.raises(ValueError, match="'toy.*' does not say which data"):
        read_predictions('toy')


def test_a_missing_table_is_named():
    with pytest.raises(FileNotFoundError, match="no predictions 'nothing'"):
        read_predictions('nothing')


def test_scores_by_hand(toy):
    table = score_table(toy, CLASSES, {'still': ('sit',), 'moving': ('walk', 'run')})
    control = table.loc[ALONE]
    columns = ['accuracy', 'still', 'moving', 'moving_crossed']
    assert control[columns].tolist() == [2 / 3, 1.0, 0.5, 0.0]
    assert control[['worst', 'worst_subject']].tolist() == ['b', 0.0]
    assert table.loc[STUDENT, 'kappa'] == pytest.approx(1.0)
    assert control.macro_recall == pytest.approx(2 / 3)
    assert control.micro_f1 == pytest.approx(2 / 3)  # one label a window: the accuracy
    assert show_scores(table).loc[ALONE, 'worst subject'] == '0.0 (b)'


def test_one_differing_trial_shows_nothing(toy):
    x = difference(toy, STUDENT, ALONE)
    assert x['diff'] == pytest.approx(1 / 3)
    assert (x['better'], x['worse'], x['p_subjects'], x['p_mcnemar']) == (1, 0, 1.0, 1.0)


def test_the_difference_changes_its_sign(toy):
    x, flipped = difference(toy, STUDENT, ALONE), difference(toy, ALONE, STUDENT)
    assert flipped['diff'] == pytest.approx(-x['diff'])
    assert flipped['trials_low'] == pytest.approx(-x['trials_high'])


def test_many_subjects_show_a_difference(toy):
    many = pd.concat(
        [toy.assign(window=toy.window + 10 * i, subject=toy.subject + str(i)) for i in range(12)]
    )
    x = difference(many, STUDENT, ALONE)
    assert x['trials_low'] > 0 and x['subjects_low'] > 0
    assert x['p_subjects'] < 0.01 and x['p_mcnemar'] < 0.01


def one_seed_loses_the_gain(toy):
    def decisions(seed):
        lost = (toy.arm == 'distilled') & (seed == 1) & (toy.window == 7)
        return np.where(lost, 0, toy.pred)

    return pd.concat([toy.assign(seed=s, pred=decisions(s)) for s in range(3)])


def test_the_interval_over_seeds_is_around_the_difference(toy):
    one_run = one_seed_loses_the_gain(toy)
    x = difference(one_run, STUDENT, ALONE)
    assert x['diff'] == pytest.approx(2 / 9)
    assert (x['seeds_low'] + x['seeds_high']) / 2 == pytest.approx(x['diff'])


def test_models_of_two_runs_get_the_interval_of_welch(toy):
    two_runs = one_seed_loses_the_gain(toy)
    two_runs = two_runs.assign(config_hash=two_runs.arm)
    x = difference(two_runs, STUDENT, ALONE)
    assert (x['seeds_low'] + x['seeds_high']) / 2 == pytest.approx(x['diff'])
    correct = two_runs.assign(ok=two_runs.y == two_runs.pred)
    by_seed = correct.groupby(['arm', 'seed']).ok.mean().distilled
    # the control does not vary, so two degrees of freedom are left
    half_width = 4.303 * by_seed.std() / 3**0.5
    assert x['seeds_high'] - x['diff'] == pytest.approx(half_width, abs=1e-3)


def test_a_loss_that_both_share_cancels_within_a_run_only(toy):
    right = toy.assign(ok=toy.y == toy.pred).groupby('window').ok.all().idxmax()

    def decisions(seed):
        return np.where((seed == 1) & (toy.window == right), (toy.y + 1) % 3, toy.pred)

    shared = pd.concat([toy.assign(seed=s, pred=decisions(s)) for s in range(3)])
    one_run = difference(shared, STUDENT, ALONE)
    two_runs = difference(shared.assign(config_hash=shared.arm), STUDENT, ALONE)
    assert one_run['seeds_low'] == pytest.approx(one_run['seeds_high'])
    half_width = 2.776 * (2 * np.var([0, 1 / 3, 0], ddof=1) / 3) ** 0.5
    assert two_runs['seeds_high'] - two_runs['diff'] == pytest.approx(half_width, abs=1e-3)


def test_one_seed_against_three_either_way_round(toy):
    two_runs = one_seed_loses_the_gain(toy)
    two_runs = two_runs.assign(config_hash=two_runs.arm)
    once = two_runs[(two_runs.arm == 'distilled') | (two_runs.seed == 0)]
    x, flipped = difference(once, STUDENT, ALONE), difference(once, ALONE, STUDENT)
    assert x['seeds_low'] == pytest.approx(difference(two_runs, STUDENT, ALONE)['seeds_low'])
    assert flipped['seeds_high'] == pytest.approx(-x['seeds_low'])


def test_only_the_same_windows_are_compared(toy):
    message = 'no predictions of teacher conv, only of: control conv, distilled conv'
    with pytest.raises(ValueError, match=message):
        difference(toy, ('teacher', 'conv'), ALONE)
    with pytest.raises(ValueError, match='were not tested on the same windows'):
        difference(toy[(toy.arm == 'control') | (toy.window != 4)], STUDENT, ALONE)


def test_tables_of_classes_subjects_and_confusions(toy):
    assert class_table(toy, CLASSES)[ALONE].tolist() == [1.0, 1.0, 0.0]
    assert subject_table(toy)[ALONE].to_dict() == {'a': 1.0, 'b': 0.0}
    control, distilled = toy[toy.arm == 'control'], toy[toy.arm == 'distilled']
    assert confusions(control, CLASSES).values.tolist() == [['walk', 'run', 1, 1.0]]
    assert len(confusions(distilled, CLASSES)) == 0


def test_a_line_joins_the_worst_and_the_best_model_of_a_class(toy):
    "The distilled student is right everywhere, the control never in the class on top"
    ax = plot_predictions(class_table(toy, CLASSES), title='toy')
    assert [t.get_text() for t in ax.get_yticklabels()][-1] == 'run'  # worst on top
    lines, *dots = ax.collections
    ends = [segment[:, 0].tolist() for segment in lines.get_segments()]
    assert ends == [[100, 100], [100, 100], [0, 100]]
    right = {d.get_label(): d.get_offsets()[:, 0].tolist() for d in dots}
    assert right == {'control: conv': [100, 100, 0], 'distilled: conv': [100, 100, 100]}
    assert (ax.get_title(), ax.get_xlabel()) == ('toy', 'correct (%)')
    assert ax.get_legend() is not None


def test_runs_are_compared_and_kept(tmp_path):
    run = toy_run(tmp_path / 'a')
    found = run_significance(SignificanceConfig(str(run.path), 'toy'))
    assert found['differences'].index[0] == (*STUDENT, 'against', *ALONE)
    assert found['differences'].iloc[0]['diff'] == pytest.approx(1 / 3)
    again = run_significance(SignificanceConfig(results='toy'))
    assert again['scores'].equals(found['scores'])


def test_what_cannot_be_compared_is_named(tmp_path):
    run = toy_run(tmp_path / 'a')
    message = "no arm 'teacher' to compare with, only: control, distilled"
    with pytest.raises(ValueError, match=message):
        run_significance(SignificanceConfig(str(run.path), against='teacher'))
    with pytest.raises(ValueError, match='name finished runs'):
        run_significance(SignificanceConfig())


def test_predictions_of_other_runs_or_data_are_not_mixed(toy):
    write_predictions('other', pd.concat([toy, toy.assign(config_hash='e', pred=0)]))
    with pytest.raises(ValueError, match='comes from two configurations'):
        run_significance(SignificanceConfig(results='other'))
    write_predictions('other', pd.concat([toy, toy.assign(data_hash='e', seed=1)]))
    with pytest.raises(ValueError, match='read 2 different data sets'):
        run_significance(SignificanceConfig(results='other'))
