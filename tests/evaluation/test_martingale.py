"""Bets against exchangeability: fair while nothing moves, won when it does."""

import numpy as np
import pytest

from trainer.evaluation import martingale

LEVEL = 0.05


def test_ranks_are_shares_of_all_before_and_ties_are_at_random():
    generator = np.random.default_rng(3)
    reference = generator.normal(size=13)
    stream = generator.normal(size=9)
    ranks = martingale.p_values(reference, stream)
    for i, rank in enumerate(ranks):
        known = np.concatenate([reference, stream[:i]])
        below = np.sum(known < stream[i])
        assert below < rank * (len(known) + 1) < below + 1
    # A longer stream begins alike.
    np.testing.assert_array_equal(
        martingale.p_values(reference, stream[:4]), ranks[:4]
    )
    tied = martingale.p_values(np.zeros(11), np.zeros(3000))
    counts, _ = np.histogram(tied, 10, (0, 1))
    assert counts.min() > 230 and counts.max() < 370


def test_capital_is_that_of_bets_that_begin_with_every_number():
    ranks = np.random.default_rng(5).random(7) ** 2
    bets = [
        lambda p, stake=stake, sign=sign, end=end: (
            1 + stake * sign * (2 * abs(2 * p - 1) - 1 if end else 2 * p - 1)
        )
        for stake in (0.3, 0.9)
        for sign in (1, -1)
        for end in (False, True)
    ]
    grid = (np.arange(1000) + 0.5) / 1000
    for bet in bets:
        assert np.mean(bet(grid)) == pytest.approx(1, abs=1e-5)  # fair
        assert min(bet(grid)) > 0
    for m, total in enumerate(martingale.capital(ranks), start=1):
        expected = sum(1 / (k * (k + 1)) for k in range(m + 1, 10**5))
        for k in range(1, m + 1):
            won = [np.prod([bet(p) for p in ranks[k - 1 : m]]) for bet in bets]
            expected += np.mean(won) / (k * (k + 1))
        assert total == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("num_known", [25, 150])
def test_alarms_are_false_as_seldom_as_promised_over_many_looks(num_known):
    """A test that looks 200 times, and still errs in 5 % of logs at most."""
    alarms, naive = [], []
    for i in range(200):
        generator = np.random.default_rng(i)
        # Decisions and scores alike: half of them are tied.
        scores = np.round(generator.normal(size=num_known + 200), i % 2 * 3)
        known, stream = scores[:num_known], scores[num_known:]
        totals = martingale.capital(martingale.p_values(known, stream, i))
        alarms.append(martingale.first_time(totals, LEVEL) is not None)
        # What a z-test at every tenth answer would have done.
        sizes = np.arange(10, 201, 10)
        means = np.array([stream[:n].mean() for n in sizes]) - known.mean()
        z = means / np.sqrt(1 / sizes + 1 / num_known)
        naive.append(np.abs(z).max() > 1.96)
    # At most 5 %, and 2.6 standard errors of 200 logs.
    assert np.mean(alarms) <= LEVEL + 0.04
    assert np.mean(naive) > 3 * LEVEL


@pytest.mark.parametrize("num_before", [0, 400])
@pytest.mark.parametrize(
    ("shift", "scale"), [(1.0, 1.0), (-1.0, 1.0), (0.0, 2.5), (0.0, 0.4)]
)
def test_change_is_noticed_early_or_late(shift, scale, num_before):
    times = []
    for i in range(20):
        generator = np.random.default_rng(i)
        stream = generator.normal(size=num_before + 150)
        stream[num_before:] = shift + scale * stream[num_before:]
        ranks = martingale.p_values(generator.normal(size=80), stream, i)
        found = martingale.first_time(martingale.capital(ranks), LEVEL / 3)
        times.append((found or 10**6) - num_before)
    assert np.sum(np.array(times) < 150) >= 18
    assert np.median(times) < 100


def test_capital_of_long_drift_is_finite():
    totals = martingale.capital(np.full(5000, 0.999))
    assert np.isfinite(totals).all() and totals[-1] > 1e90
    assert martingale.first_time(totals, LEVEL) < 20
    assert martingale.first_time(np.array([1.0, 19.9]), LEVEL) is None
