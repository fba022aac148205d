"""How good the best of many trials really is.

The best score of N trials is too good: it was chosen for being the best on
these images. Tsamardinos, Greasidou and Borboudakis, 2018, "Bootstrapping the
out-of-sample predictions for efficient and accurate cross-validation",
https://arxiv.org/abs/1708.07180: draw the images with replacement, choose the
best trial on those drawn, and judge it on those that were not.
"""

import dataclasses

import numpy as np

from trainer.evaluation import intervals, resampling
from tuning import objectives, trial

NUM_RESAMPLES = 200
_FEWEST_GROUPS = 10  # of a class, for the interval


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A score without the optimism of the choice.

    Attributes:
        value: mean over resamples, None if no resample defines it.
        interval: 95 %, likewise, None for few groups of a class.
    """

    value: float | None
    interval: list[float] | None


def correct(
    logits: list[np.ndarray],
    data: trial.SweepData,
    objective: str,
    seed: int = 0,
) -> Estimate:
    """What the choice of the best trial gives on images not chosen by.

    Whole groups are drawn, so images of one patient are on one side.

    Args:
        logits: of each completed trial, float32 `[judged, K]`.
        data: of the sweep.
        objective: that the trial was chosen by.
        seed: of the draws.
    """
    places = data.judged
    groups = [data.groups[i] for i in places]
    drawn = np.concatenate(
        list(resampling.resample_weights(groups, NUM_RESAMPLES, seed))
    )
    left_out = (drawn == 0).astype(np.float64)
    scores_drawn, scores_left_out = (
        np.array([data.metrics(places, z, weights)[objective] for z in logits])
        for weights in (drawn, left_out)
    )
    scores_drawn *= objectives.sign(objective)
    best = np.argmax(
        np.where(np.isfinite(scores_drawn), scores_drawn, -np.inf), axis=0
    )
    scores = scores_left_out[best, np.arange(NUM_RESAMPLES)]
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return Estimate(None, None)
    labels = data.labels[places]
    interval = None
    if intervals.fewest_groups(groups, labels) >= _FEWEST_GROUPS:
        interval = intervals.percentile_interval(scores)
    return Estimate(float(finite.mean()), interval)
