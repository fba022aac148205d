"""Areas, Wilson, DeLong and resamples against references and brute force."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trainer.evaluation import intervals, proportions, ranking, resampling


@given(st.integers(0, 300), st.integers(0, 300))
def test_wilson_interval_is_scipys_and_in_range(successes, failures):
    trials = max(1, successes + failures)
    share = successes / trials
    low, high = intervals.wilson_interval(share, trials)
    scipys = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx([scipys.low, scipys.high], abs=1e-12)
    assert 0 <= low <= share <= high <= 1


NUMBERS = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0])


@given(
    st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=9),
    st.integers(1, 9),
    st.sampled_from([0.0, -1.0]),
)
def test_any_interval_holds_its_value_and_lies_in_its_range(
    drawn, num_groups, least
):
    judged = []
    for values in np.array(drawn).T * (1 - least) + least:
        value = values[0]
        interval = intervals.score_interval(value, values, num_groups, least)
        assert (interval is None) == (num_groups < 2)
        if interval is None:
            return
        low, high = interval
        assert least <= low <= value + 1e-12
        assert value - 1e-12 <= high <= 1
        judged.append((value, values, interval))
    difference = judged[0][0] - judged[1][0]
    low, high = intervals.difference_interval(*judged, num_groups)
    independent = intervals.independent_difference(
        *((value, interval) for value, _, interval in judged)
    )
    for below, above in ((low, high), independent):
        assert least - 1 - 1e-9 <= below <= difference + 1e-9
        assert difference - 1e-9 <= above <= 1 - least + 1e-9


def test_wilson_interval_equals_newcombes_table():
    # Newcombe, 1998, table I: 81 of 263, and 0 of 20.
    interval = intervals.wilson_interval(81 / 263, 263)
    assert interval == pytest.approx([0.2553, 0.3662], abs=5e-5)
    interval = intervals.wilson_interval(0, 20)
    assert interval == pytest.approx([0, 0.1611], abs=5e-5)


def test_effective_trials_count_copies_once():
    effective = proportions.effective_trials
    # Groups of their own count fully.
    assert effective(np.array([True, False, True, True]), np.arange(4)) == 4
    # Five copies each: the design effect is 5 up to the two variances' n - 1.
    success = np.repeat([True, False, True, False, False, True], 5)
    copies = effective(success, np.repeat(np.arange(6), 5))
    assert copies == pytest.approx(30 / (29 / 5), rel=1e-12)
    # Pairs that never agree are no more than independent images.
    assert effective(np.arange(40) % 2 == 0, np.arange(40) // 2) == 40
    # Where all succeed, each group counts once.
    assert effective(np.ones(30, bool), np.arange(30) // 3) == 10


def test_score_interval_is_wilsons_of_the_effective_number():
    resampled = np.append(
        np.random.default_rng(0).normal(0.8, 0.06, 99), np.nan
    )
    variance = np.nanvar(resampled) + 0.8 * 0.2 / 12**2
    expected = intervals.wilson_interval(0.8, 0.8 * 0.2 / variance)
    interval = intervals.score_interval(0.8, resampled, 12)
    assert interval == pytest.approx(expected, abs=1e-12)
    # A correlation of 0.6 is 0.8 of the way from -1 to 1.
    interval = intervals.score_interval(0.6, 2 * resampled - 1, 12, -1.0)
    assert interval == pytest.approx([2 * e - 1 for e in expected], abs=1e-12)


def test_few_groups_are_worth_no_more_than_an_image_each():
    none_varies, all_vary = np.ones(50), np.arange(50) % 2.0
    wilsons = intervals.wilson_interval
    score = intervals.score_interval
    assert score(1.0, none_varies, 3) == wilsons(1.0, 3)
    assert score(0.5, all_vary, 3) == wilsons(0.5, 3)
    assert score(1.0, none_varies, 1) is None
    assert score(1.0, np.where(all_vary, 1, np.nan), 3) == wilsons(1.0, 3)
    assert score(1.0, np.where(np.arange(50) % 3, np.nan, 1), 3) is None


def test_difference_is_as_sure_as_the_statistics_are_alike():
    drawn = np.random.default_rng(0).normal(0.8, 0.02, (2, 400))
    this, other = (0.9, drawn[0], (0.8, 0.95)), (0.7, drawn[1], (0.5, 0.8))

    def of(other, groups=40):
        return intervals.difference_interval(this, other, groups)

    # Newcombe, 1998, "Interval estimation for the difference between
    # independent proportions", method 10, where they are not.
    independent = of(other)
    expected = 0.2 - math.hypot(0.1, 0.1), 0.2 + math.hypot(0.05, 0.2)
    assert independent == pytest.approx(expected, abs=0.01)
    alike = of((0.7, drawn[0] + drawn[1] / 4, (0.5, 0.8)))
    assert independent[0] < alike[0] and alike[1] < independent[1]
    # Two groups cannot tell that they are alike.
    assert of((0.7, drawn[0] + drawn[1] / 4, (0.5, 0.8)), 2)[0] < alike[0]
    assert of(this) == (0, 0)
    assert of((0.7, drawn[1], None)) is None


def test_difference_of_independent_proportions_is_newcombes():
    # The first example of his table II: 56/70 and 48/80.
    this, other = (
        (k / n, intervals.wilson_interval(k / n, n))
        for k, n in ((56, 70), (48, 80))
    )
    difference = intervals.independent_difference(this, other)
    assert difference == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert intervals.independent_difference(other, this) == pytest.approx(
        (-0.3339, -0.0524), abs=5e-5
    )
    assert intervals.independent_difference(this, (0.6, None)) is None
    assert intervals.independent_difference((None, None), other) is None


def placements(is_positive, scores):
    """The area, and what share of the other class each image beats: by all
    pairs, of which ties count half."""
    gaps = scores[is_positive][:, np.newaxis] - scores[~is_positive]
    wins = (np.sign(gaps) + 1) / 2
    return wins.mean(), wins.mean(axis=1), wins.mean(axis=0)


@given(st.integers(0, 10**6), st.sampled_from([0, 1, 8]))
def test_delong_interval_equals_the_quadratic_definition(seed, decimals):
    generator = np.random.default_rng(seed)
    is_positive = generator.random(60) < 0.3
    scores = np.round(generator.random(60) + 0.4 * is_positive, decimals)
    area, *parts = placements(is_positive, scores)
    variance = sum(np.var(part, ddof=1) / len(part) for part in parts)
    half = 1.959963984540054 * math.sqrt(variance)
    assert ranking.delong_interval(is_positive, scores) == pytest.approx(
        [max(0, area - half), min(1, area + half)], abs=1e-12
    )


def test_delong_p_value_equals_the_paired_definition():
    generator = np.random.default_rng(3)
    is_positive = np.arange(50) % 2 == 0
    a = generator.random(50) + 0.5 * is_positive
    b = generator.random(50) + 0.2 * is_positive
    (area_a, *parts_a), (area_b, *parts_b) = (
        placements(is_positive, scores) for scores in (a, b)
    )
    contrast = np.array([1, -1])
    variance = sum(
        contrast @ np.cov(of_a, of_b) @ contrast / len(of_a)
        for of_a, of_b in zip(parts_a, parts_b, strict=True)
    )
    expected = 2 * stats.norm.sf(abs(area_a - area_b) / math.sqrt(variance))
    test = ranking.delong_test(is_positive, a, b)
    assert test.p_value == pytest.approx(expected, rel=1e-9)
    assert test.difference == pytest.approx(area_a - area_b)
    half = 1.959964 * math.sqrt(variance)
    assert test.interval == pytest.approx(
        (area_a - area_b - half, area_a - area_b + half), rel=1e-5
    )
    assert ranking.delong_test(is_positive, a, a).p_value == 1.0
    for is_rare in (np.arange(50) < 10, np.arange(50) >= 10):
        assert ranking.delong_test(is_rare, a, b)
        assert ranking.delong_interval(is_rare, a)
        is_rare[[0, -1]] = is_rare[10]
        assert ranking.delong_test(is_rare, a, b) is None
        assert ranking.delong_interval(is_rare, a) is None


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


def test_a_constant_and_another_are_not_taken_for_alike():
    constant = 0.5, np.full(50, 0.5), (0.4, 0.55)
    other = 0.3, np.random.default_rng(0).normal(0.3, 0.1, 50), (0.2, 0.4)
    low, high = intervals.difference_interval(constant, other, 30)
    # As of two that are independent: Newcombe's.
    assert low == pytest.approx(0.2 - math.hypot(0.1, 0.1))
    assert high == pytest.approx(0.2 + math.hypot(0.05, 0.1))
