"""Two models on the same images: what do they differ in?

Differences have intervals from paired resamples of whole groups. DeLong's and
McNemar's tests, which reviewers ask for, take images as independent and stand
beside them.
"""

import numpy as np
from scipy import stats

from trainer.evaluation import (
    intervals,
    metrics,
    ranking,
    resampling,
    results,
)
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
        classes = list(range(len(this.class_names)))
        if this.positive_index is not None:
            classes = [this.positive_index]
        delong = {
            this.class_names[c]: ranking.delong_test(
                this.labels == c,
                this.probabilities[:, c],
                other.probabilities[:, c],
            )
            if intervals.fewest_groups(this.groups, this.labels == c) > 1
            else None
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
    models = {"this": this, "other": other}
    of_models = {m: metrics.make_statistics(p) for m, p in models.items()}

    def statistics(weights: np.ndarray) -> resampling.Statistics:
        found = {m: of_model(weights) for m, of_model in of_models.items()}
        return {(m, name): found[m]["", name] for m in models for name in names}

    values, resampled = resampling.resample(
        statistics,
        this.groups,
        num_resamples,
        seed,
        width=len(this.class_names) ** 2,
    )
    differences = {}
    for name in names:
        num_groups = _num_groups(this, name)
        of_this, of_other = (values[model, name] for model in models)
        if not np.isfinite(of_this) or not np.isfinite(of_other):
            differences[name] = results.Difference(
                of_this if np.isfinite(of_this) else None,
                of_other if np.isfinite(of_other) else None,
                None,
                None,
                "needs images of both classes",
            )
            continue
        drawn = [resampled[model, name] for model in models]
        if name == "brier":  # a mean over images, whatever their class
            needed = intervals.FEWEST_FOR_PERCENTILES
            interval = intervals.percentile_interval(
                drawn[0] - drawn[1], num_groups
            )
        else:
            needed = 2
            judged = [
                (value, d, intervals.score_interval(value, d, num_groups))
                for value, d in zip((of_this, of_other), drawn, strict=True)
            ]
            interval = intervals.difference_interval(
                judged[0], judged[1], num_groups
            )
        reason = None
        if interval is None:
            reason = intervals.too_few_groups(num_groups, needed)
        differences[name] = results.Difference(
            of_this, of_other, of_this - of_other, interval, reason
        )
    return differences


def _num_groups(predictions: Decided, name: str) -> int:
    """Groups that a metric is of, of the class that has the fewest."""
    groups = np.asarray(predictions.groups)
    is_positive = predictions.labels == predictions.positive_index
    counted = {"sensitivity": is_positive, "specificity": ~is_positive}
    counted["accuracy"] = slice(None)
    if name in counted:
        return len(set(groups[counted[name]]))
    return intervals.fewest_groups(groups, predictions.labels)
