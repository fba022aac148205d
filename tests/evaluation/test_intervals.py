"""Areas, Wilson, DeLong and resamples against references and brute force."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from trainer.evaluation import proportions, ranking, resampling


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [1, 8])
def test_weighted_areas_equal_scikit_learn_on_repeated_images(seed, decimals):
    generator = np.random.default_rng(seed)
    is_positive = np.arange(40) % 3 == 0
    scores = np.round(generator.random(40) + 0.3 * is_positive, decimals)
    weights = generator.integers(0, 3, (6, 40)).astype(float)
    areas = ranking.roc_auc(is_positive, scores, weights)
    precisions = ranking.average_precision(is_positive, scores, weights)
    for i, row in enumerate(weights.astype(int)):
        truth, score = np.repeat(is_positive, row), np.repeat(scores, row)
        expected = sklearn_metrics.roc_auc_score(truth, score)
        assert areas[i] == pytest.approx(expected, abs=1e-12)
        expected = sklearn_metrics.average_precision_score(truth, score)
        assert precisions[i] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 10), (10, 10), (3, 10), (81, 263), (1, 1)]
)
def test_wilson_interval_equals_scipy_and_the_published_formula(
    successes, trials
):
    interval = proportions.wilson_interval(successes / trials, trials)
    scipys = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert interval == pytest.approx([scipys.low, scipys.high], abs=1e-12)
    # Newcombe, 1998, "Two-sided confidence intervals for the single
    # proportion", method 3.
    z, p, n = 1.959963984540054, successes / trials, trials
    root = z * math.sqrt(z**2 + 4 * n * p * (1 - p))
    expected = [
        (2 * n * p + z**2 + sign * root) / (2 * (n + z**2)) for sign in (-1, 1)
    ]
    assert interval == pytest.approx(expected, abs=1e-12)


def test_wilson_interval_equals_newcombes_table():
    # Newcombe, 1998, table I: 81 of 263, and 0 of 20.
    interval = proportions.wilson_interval(81 / 263, 263)
    assert interval == pytest.approx([0.2553, 0.3662], abs=5e-5)
    interval = proportions.wilson_interval(0, 20)
    assert interval == pytest.approx([0, 0.1611], abs=5e-5)


def test_images_of_groups_of_their_own_count_fully():
    success = np.array([True, False, True, True])
    assert proportions.effective_trials(success, np.arange(4)) == 4


def test_copies_count_once():
    success = np.repeat([True, False, True, False, False, True], 5)
    groups = np.repeat(np.arange(6), 5)
    effective = proportions.effective_trials(success, groups)
    # Five copies each: the design effect is 5 up to the two variances' n - 1.
    assert effective == pytest.approx(30 / (29 / 5), rel=1e-12)


def test_all_right_counts_each_group_once():
    success = np.ones(30, bool)
    assert proportions.effective_trials(success, np.arange(30) // 3) == 10


def brute_force_delong(is_positive, scores):
    """Variance by the definition: pairwise wins and their covariances."""
    positive, negative = scores[is_positive], scores[~is_positive]
    wins = [
        [1.0 if a > b else 0.5 if a == b else 0.0 for b in negative]
        for a in positive
    ]
    m, n = len(positive), len(negative)
    auc = sum(map(sum, wins)) / (m * n)
    v10 = [sum(row) / n for row in wins]
    v01 = [sum(wins[i][j] for i in range(m)) / m for j in range(n)]
    s10 = sum((v - auc) ** 2 for v in v10) / (m - 1)
    s01 = sum((v - auc) ** 2 for v in v01) / (n - 1)
    half = 1.959963984540054 * math.sqrt(s10 / m + s01 / n)
    return [max(0, auc - half), min(1, auc + half)]


@pytest.mark.parametrize("decimals", [1, 8])
@pytest.mark.parametrize("seed", range(4))
def test_delong_interval_equals_the_quadratic_definition(seed, decimals):
    generator = np.random.default_rng(seed)
    is_positive = generator.random(60) < 0.3
    scores = np.round(generator.random(60) + 0.4 * is_positive, decimals)
    assert ranking.delong_interval(is_positive, scores) == pytest.approx(
        brute_force_delong(is_positive, scores), abs=1e-12
    )


def test_delong_p_value_equals_the_paired_definition():
    generator = np.random.default_rng(3)
    is_positive = np.arange(50) % 2 == 0
    a = generator.random(50) + 0.5 * is_positive
    b = generator.random(50) + 0.2 * is_positive

    def parts(scores):
        wins = (
            scores[is_positive][:, np.newaxis] > scores[~is_positive]
        ).astype(float)
        return wins.mean(), wins.mean(axis=1), wins.mean(axis=0)

    (auc_a, *parts_a), (auc_b, *parts_b) = parts(a), parts(b)
    variance = 0
    for of_a, of_b in zip(parts_a, parts_b, strict=True):
        covariance = np.cov(of_a, of_b)
        contrast = np.array([1, -1])
        variance += contrast @ covariance @ contrast / len(of_a)
    expected = 2 * stats.norm.sf(abs(auc_a - auc_b) / math.sqrt(variance))
    test = ranking.delong_test(is_positive, a, b)
    assert test.p_value == pytest.approx(expected, rel=1e-9)
    assert test.difference == pytest.approx(auc_a - auc_b)
    assert ranking.delong_test(is_positive, a, a).p_value == 1.0


def test_resamples_hold_whole_groups():
    groups = ["x", "y", "x", "z", "z", "z"]
    weights = np.concatenate(list(resampling.resample_weights(groups, 300, 0)))
    assert weights.shape == (300, 6)
    for name in "xyz":
        members = [i for i, group in enumerate(groups) if group == name]
        assert np.ptp(weights[:, members], axis=1).max() == 0
    # Three groups are drawn each time, of two, one and three images.
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert len(np.unique(weights, axis=0)) > 5


def test_resamples_do_not_depend_on_chunks():
    groups = [str(i % 7) for i in range(20)]
    whole = list(resampling.resample_weights(groups, 50, 3))
    parts = list(resampling.resample_weights(groups, 50, 3, width=300_000))
    assert len(whole) == 1 and len(parts) > 5
    np.testing.assert_array_equal(whole[0], np.concatenate(parts))
