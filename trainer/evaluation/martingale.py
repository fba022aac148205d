"""Whether a stream of numbers still looks like a reference, however often.

Conformal test martingales: Vovk et al., 2021, "Retrain or not retrain:
conformal test martingales for change-point detection". While reference and
stream are exchangeable, a bet on the rank of each new number is fair, so that
at any time the capital has reached N with a probability of at most 1 / N
(Ville, 1939): one may look after every answer, and stop when one likes.
"""

import bisect

import numpy as np

# One gains on numbers that rank high, low, at both ends or in the middle.
_STAKES = (0.3, 0.9)
_MOST = 1e100  # what is won is not staked for ever: it would overflow


def p_values(
    reference: np.ndarray, stream: np.ndarray, seed: int = 0
) -> np.ndarray:
    """The rank of each number among all before it, ties at random.

    Args:
        reference: `[n]`, finite.
        stream: `[m]`, finite, in order.
        seed: of the ties; a longer stream begins with the same values.

    Returns:
        float64 `[m]`; independent and uniform in [0, 1] if both are
        exchangeable.
    """
    known = sorted(np.asarray(reference, float).tolist())
    ties = np.random.default_rng(seed).random(len(stream))
    ranks = np.empty(len(stream))
    for i, value in enumerate(np.asarray(stream, float).tolist()):
        below = bisect.bisect_left(known, value)
        same = bisect.bisect_right(known, value) - below + 1  # and itself
        ranks[i] = (below + ties[i] * same) / (len(known) + 1)
        known.insert(below, value)
    return ranks


def capital(ranks: np.ndarray) -> np.ndarray:
    """What bets against uniform ranks have made of 1, float64 `[m]`.

    Of each bet a part begins with every number, so that a change is noticed
    though all was well for long: the k-th with 1 / (k (k + 1)) of it.
    """
    side = 2 * np.asarray(ranks) - 1
    ends = 2 * np.abs(side) - 1
    bets = np.stack([side, -side, ends, -ends], axis=1)
    gains = np.concatenate([1 + stake * bets for stake in _STAKES], axis=1)
    held, totals = np.zeros(gains.shape[1]), np.empty(len(gains))
    for i, gain in enumerate(gains, start=1):
        held = (held + 1 / (i * (i + 1) * len(gain))) * gain
        held *= min(1.0, _MOST / max(held.sum(), 1.0))
        # The rest begins later.
        totals[i - 1] = held.sum() + 1 / (i + 1)
    return totals


def first_time(totals: np.ndarray, false_alarms: float) -> int | None:
    """The number, from 1, at which a test of that level is sure, or None."""
    sure = np.flatnonzero(totals >= 1 / false_alarms)
    return int(sure[0]) + 1 if len(sure) else None
