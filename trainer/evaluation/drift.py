"""Whether answers of a model in use look like those it was evaluated with."""

import dataclasses

import numpy as np

from trainer.evaluation import (
    intervals,
    martingale,
    ranking,
    resampling,
    results,
)
from trainer.evaluation.answers import Answers

FALSE_ALARMS = 0.05  # of all streams together, however often one looks
FEWEST = 20  # answers, below which little can be shown

SCORES, DECISIONS, UNLIKENESS = "scores", "decisions", "unlikeness"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval, None where there is none."""

    value: float
    interval: results.Interval | None


@dataclasses.dataclass(frozen=True)
class Change:
    """A share of the answers of the reference, and of those in use."""

    before: Estimate
    now: Estimate

    @property
    def difference(self) -> Estimate:
        """What `now` is more than `before`."""
        now, before = (
            (share.value, share.interval) for share in (self.now, self.before)
        )
        return Estimate(
            now[0] - before[0], intervals.independent_difference(now, before)
        )


@dataclasses.dataclass(frozen=True)
class Drift:
    """What is known of answers in use.

    Attributes:
        evidence: by stream, the capital after each answer, see `martingale`.
        needed: capital from which a stream has moved.
        moved: by stream, the answer, from 1, that showed it, or None.
        higher: chance that an answer scores higher than one of the reference.
        called: of the class whose share of the decisions changed most.
        class_name: its name; the positive one of two.
        flagged: share that is unlike the training set; None if not known.
    """

    evidence: dict[str, np.ndarray]
    needed: float
    moved: dict[str, int | None]
    higher: Estimate
    called: Change
    class_name: str
    flagged: Change | None


def compare(
    reference: Answers,
    used: Answers,
    positive_index: int | None = None,
    seed: int = 0,
) -> Drift:
    """Compares answers in use, in their order, with those of a reference.

    All are taken as independent: of other patients each.

    Raises:
        ValueError: if there are too few of either.
    """
    for answers, what in ((used, "The log"), (reference, "The evaluation")):
        if len(answers.scores) < FEWEST:
            raise ValueError(
                f"{what} has {len(answers.scores)} answers; {FEWEST} are "
                "needed to say anything, each of another patient."
            )
    streams = {
        SCORES: (reference.scores, used.scores),
        DECISIONS: (reference.decisions, used.decisions),
    }
    known = reference.unlikeness[np.isfinite(reference.unlikeness)]
    flagged = None
    if len(known) >= FEWEST and np.isfinite(used.unlikeness).all():
        streams[UNLIKENESS] = known, used.unlikeness
        flagged = _change(known > 1, used.unlikeness > 1)
    evidence = {
        name: martingale.capital(martingale.p_values(before, now, seed))
        for name, (before, now) in streams.items()
    }
    level = FALSE_ALARMS / len(streams)
    class_index = positive_index
    if class_index is None:
        before, now = (
            np.bincount(a.decisions, minlength=len(a.class_names))
            / len(a.decisions)
            for a in (reference, used)
        )
        class_index = int(np.abs(now - before).argmax())
    return Drift(
        evidence,
        1 / level,
        {n: martingale.first_time(e, level) for n, e in evidence.items()},
        _higher(reference.scores, used.scores, seed),
        _change(
            reference.decisions == class_index, used.decisions == class_index
        ),
        used.class_names[class_index],
        flagged,
    )


def _change(before: np.ndarray, now: np.ndarray) -> Change:
    return Change(
        *(
            Estimate(
                float(s.mean()), intervals.wilson_interval(s.mean(), len(s))
            )
            for s in (before, now)
        )
    )


def _higher(before: np.ndarray, now: np.ndarray, seed: int) -> Estimate:
    is_used = np.repeat([False, True], [len(before), len(now)])
    scores = np.concatenate([before, now])
    key = SCORES, "higher"
    values, resampled = resampling.resample(
        lambda weights: {key: ranking.roc_auc(is_used, scores, weights)},
        [str(i) for i in range(len(scores))],
        resampling.NUM_RESAMPLES,
        seed,
    )
    fewest = min(len(before), len(now))
    return Estimate(
        values[key],
        intervals.score_interval(values[key], resampled[key], fewest),
    )
