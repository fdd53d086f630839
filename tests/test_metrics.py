"Metrics, intervals and tests against values counted by hand, scipy, and known laws"

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from harkd.metrics import (
    calibration_error,
    corrected_t_test,
    holm,
    mcnemar_test,
    mean_interval,
    paired_bootstrap,
    per_class,
    plot_confusion,
    scores,
    show_interval,
    sign_flip_test,
    wilson_interval,
)

matplotlib.use('Agg')
Y = np.array([0, 0, 0, 1, 1, 2])
PRED = np.array([0, 0, 1, 1, 1, 0])


def test_scores_by_hand():
    "F1 of class 0: 2·2/(2·2+1+1), of 1: 2·2/(2·2+1+0), of 2: 0"
    got = scores(Y, PRED)
    assert got['n'] == 6
    assert got['accuracy'] == pytest.approx(4 / 6)
    assert got['macro_f1'] == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)


def test_kappa_by_hand():
    "Chance agreement from 3, 2, 1 labels and 3, 3, 0 predictions"
    chance = (3 * 3 + 2 * 3 + 1 * 0) / 36
    assert scores(Y, PRED)['kappa'] == pytest.approx((4 / 6 - chance) / (1 - chance))


def test_one_class_rightly_predicted_has_kappa_one():
    assert scores(np.zeros(3, int), np.zeros(3, int))['kappa'] == 1.0


@pytest.mark.parametrize('y, pred', [(Y, PRED[:5]), ([], [])])
def test_unequal_or_empty_labels_are_refused(y, pred):
    with pytest.raises(ValueError, match='must be equally many'):
        scores(y, pred)


def test_micro_f1_is_the_accuracy():
    table = per_class(Y, PRED, ('walk', 'sit', 'fall'))
    assert table.f1['micro'] == pytest.approx(scores(Y, PRED)['accuracy'])
    assert list(table.index) == ['walk', 'sit', 'fall', 'macro', 'micro', 'weighted']
    assert list(table.support) == [3, 2, 1, 6, 6, 6]


def test_a_confusion_matrix_shows_the_counts_that_are_not_zero():
    ax = plot_confusion(Y, PRED, ('walk', 'sit', 'fall'))
    assert sorted(t.get_text() for t in ax.texts) == ['1', '1', '2', '2']


def test_more_classes_get_a_larger_square_of_nine_inches_at_most():
    sides = []
    for k in (2, 8, 40):
        figure = plot_confusion([0, 1], [0, 1], [f'class {i}' for i in range(k)]).figure
        sides.append(tuple(figure.get_size_inches()))
        plt.close(figure)
    assert all(width == height for width, height in sides)
    assert sides[0] < sides[1] < sides[2] == (9, 9)


def test_mean_interval_is_student_t():
    mean, low, high = mean_interval([0.9, 0.92, 0.94])
    assert mean == pytest.approx(0.92)
    assert high - mean == pytest.approx(4.302653 * 0.02 / 3**0.5, abs=1e-6)
    assert mean - low == pytest.approx(high - mean)


def test_a_single_repetition_has_no_interval():
    mean, low, high = mean_interval([0.9])
    assert mean == 0.9 and np.isnan([low, high]).all()
    assert show_interval(mean, low, high) == '90.0'


def test_show_interval_gives_half_the_width():
    assert show_interval(*mean_interval([0.9, 0.92, 0.94])) == '92.0 ± 5.0'


def test_wilson_interval_is_scipys():
    assert wilson_interval(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-4)
    reference = stats.binomtest(8, 10).proportion_ci(method='wilson')
    assert wilson_interval(8, 10) == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_drawing_whole_subjects_widens_the_interval():
    a, b = np.repeat([1, 1, 0, 1], 5), np.repeat([1, 0, 1, 1], 5)
    by_subject = paired_bootstrap(a, b, groups=np.repeat([1, 2, 3, 4], 5))
    by_trial = paired_bootstrap(a, b)
    assert by_subject['diff'] == pytest.approx(0.0)
    assert by_subject['high'] - by_subject['low'] > by_trial['high'] * 1.5


def test_sign_flips_are_counted_exactly_for_few_subjects():
    assert sign_flip_test([0.1, 0.2, 0.1, 0.3]) == pytest.approx(2 / 16)
    assert sign_flip_test([0.1, -0.1]) == pytest.approx(1.0)
    assert sign_flip_test([0.0, 0.0]) == 1.0


def test_sign_flips_are_drawn_for_many_subjects():
    assert sign_flip_test(np.full(20, 0.1)) == pytest.approx(1 / 100_001)


def test_mcnemar_counts_discordant_trials():
    a, b = np.r_[np.ones(6), np.zeros(4)], np.zeros(10)
    assert mcnemar_test(a, b) == pytest.approx(2 / 64)
    assert mcnemar_test(a, a) == 1.0


def test_the_corrected_t_test_without_overlap_is_the_t_test():
    diffs = [0.01, 0.02, 0.03]
    p = corrected_t_test(diffs, 0.0)[3]
    assert p == pytest.approx(stats.ttest_1samp(diffs, 0).pvalue, abs=1e-9)
    assert corrected_t_test(diffs, 0.33)[3] > p


@pytest.mark.parametrize('value, p', [(0.0, 1.0), (0.25, 0.0)])
def test_the_corrected_t_test_of_equal_differences(value, p):
    assert corrected_t_test([value] * 3, 0.3)[3] == p


def test_holm_keeps_order_and_never_exceeds_one():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]).max() == 1.0


@pytest.mark.parametrize('right, error', [(9, 0.0), (5, 0.4), (10, 0.1)])
def test_calibration_error_is_the_gap_between_confidence_and_accuracy(right, error):
    probs = np.tile([0.9, 0.1], (10, 1))
    y = np.r_[np.zeros(right), np.ones(10 - right)]
    assert calibration_error(probs, y) == pytest.approx(error)


def test_the_bootstrap_is_two_sided():
    "Three trials with differences 1, 1, -1: two or three draws of the last give a mean <= 0"
    a, b = [1, 1, 0], [0, 0, 1]
    below = 3 * (1 / 3) ** 2 * (2 / 3) + (1 / 3) ** 3
    result = paired_bootstrap(a, b)
    assert result['diff'] == pytest.approx(1 / 3)
    assert result['p'] == pytest.approx(2 * below, abs=0.03)
    assert paired_bootstrap(b, a)['p'] == pytest.approx(2 * below, abs=0.03)
    assert (result['low'], result['high']) == (-1.0, 1.0)
    assert paired_bootstrap([1, 1], [1, 1])['p'] == 1.0
    assert paired_bootstrap([1, 1, 1], [0, 0, 0], draws=500)['p'] == 1 / 500  # never 0


def test_a_subject_weighs_by_its_trials():
    "Five subjects with one trial each (difference 1), and one with five (difference 0)"
    a, subjects = np.r_[np.ones(5), np.zeros(5)], [1, 2, 3, 4, 5, 6, 6, 6, 6, 6]
    result = paired_bootstrap(a, np.zeros(10), groups=subjects)
    assert result['diff'] == 0.5
    assert result['low'] == pytest.approx(3 / 18)  # the sixth is drawn three times of six


def test_drawn_sign_flips_count_the_observed_one():
    "Of nine random sign vectors none gives so large a sum: (1 + 0) / (1 + 9)"
    assert sign_flip_test(np.full(20, 0.1), draws=9) == pytest.approx(1 / 10)


def test_the_corrected_t_test_by_hand():
    "Standard error of 1, 2, 3 with a quarter as many test as training windows"
    error = np.sqrt((1 / 3 + 0.25) * 1.0)
    mean, low, high, p = corrected_t_test([1, 2, 3], 0.25)
    assert mean == 2
    assert (mean - low) / error == pytest.approx(stats.t.ppf(0.975, 2))
    assert high - mean == pytest.approx(mean - low)
    assert p == pytest.approx(2 * stats.t.sf(2 / error, 2))
    assert np.isnan(corrected_t_test([1.0], 0.25)[1:]).all()
