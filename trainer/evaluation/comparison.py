"""Two models on the same images: what do they differ in?

Differences have intervals from paired resamples of whole groups. DeLong's and
McNemar's tests, which reviewers ask for, take images as independent and stand
beside them.
"""

import numpy as np
from scipy import stats

from trainer.evaluation import metrics, ranking, resampling, results
from trainer.evaluation.predictions import Decided

_OF_TWO = (
    "roc_auc",
    "sensitivity",
    "specificity",
    "accuracy",
    "balanced_accuracy",
    "brier",
)
_OF_MANY = ("accuracy", "balanced_accuracy", "roc_auc", "macro_f1", "brier")


def mcnemar(
    is_right: np.ndarray, other_is_right: np.ndarray
) -> results.McNemarTest:
    """McNemar's exact test that two models are right equally often.

    McNemar, 1947, "Note on the sampling error of the difference between
    correlated proportions or percentages".
    """
    only_this = int(np.sum(is_right & ~other_is_right))
    only_other = int(np.sum(~is_right & other_is_right))
    p_value = 1.0
    if only_this or only_other:
        test = stats.binomtest(only_this, only_this + only_other)
        p_value = float(test.pvalue)
    return results.McNemarTest(only_this, only_other, p_value)


def compare(
    this: Decided,
    other: Decided,
    names: tuple[str, str] = ("this", "other"),
    num_resamples: int = resampling.NUM_RESAMPLES,
    seed: int = 0,
) -> results.Comparison:
    """What two models differ in on the same images.

    Both predict the same classes of the same images in the same order.
    """
    both = this.is_finite & other.is_finite
    this, other = this.select(both), other.select(both)
    differences, mcnemar_test, delong = {}, None, {}
    if len(this.ids):
        differences = _differences(this, other, num_resamples, seed)
        mcnemar_test = mcnemar(
            this.decisions == this.labels, other.decisions == other.labels
        )
        classes = range(len(this.class_names))
        if this.positive_index is not None:
            classes = [this.positive_index]
        delong = {
            this.class_names[c]: ranking.delong_test(
                this.labels == c,
                this.probabilities[:, c],
                other.probabilities[:, c],
            )
            for c in classes
        }
    return results.Comparison(
        *names,
        num_images=len(this.ids),
        num_groups=len(set(this.groups)),
        num_without_answer=int(np.sum(~both)),
        metrics=differences,
        mcnemar=mcnemar_test,
        delong=delong,
    )


def _differences(
    this: Decided, other: Decided, num_resamples: int, seed: int
) -> dict[str, results.Difference]:
    names = _OF_MANY if this.positive_index is None else _OF_TWO
    of_this, of_other = map(metrics.make_statistics, (this, other))

    def statistics(weights):
        values, other_values = of_this(weights), of_other(weights)
        figures = {}
        for name in names:
            figures["this", name] = values["", name]
            figures["other", name] = other_values["", name]
            difference = values["", name] - other_values["", name]
            figures["difference", name] = difference
        return figures

    values, resampled = resampling.resample(
        statistics,
        this.groups,
        num_resamples,
        seed,
        width=len(this.class_names) ** 2,
    )
    fewest = resampling.fewest_groups(this.groups, this.labels)
    differences = {}
    for name in names:
        figures = [
            values[part, name] if np.isfinite(values[part, name]) else None
            for part in ("this", "other", "difference")
        ]
        interval, reason = None, "needs images of both classes"
        if figures[-1] is not None:
            interval = resampling.percentile_interval(
                resampled["difference", name], fewest
            )
            reason = None if interval else "too few groups for an interval"
        differences[name] = results.Difference(*figures, interval, reason)
    return differences
