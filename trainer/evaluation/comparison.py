"""Two models on the same images: is one of them better?

Differences have intervals from paired resamples of whole groups. DeLong's and
McNemar's tests, which reviewers ask for, take images as independent and stand
beside them.
"""

import numpy as np
from scipy import stats

from trainer.evaluation import metrics, ranking, resampling
from trainer.evaluation import predictions as predictions_lib

_OF_TWO = (
    "roc_auc",
    "sensitivity",
    "specificity",
    "accuracy",
    "balanced_accuracy",
    "brier",
)
_OF_MANY = ("accuracy", "balanced_accuracy", "roc_auc", "macro_f1", "brier")
_SIGNIFICANT = 0.05


def mcnemar(is_right: np.ndarray, other_is_right: np.ndarray) -> dict:
    """McNemar's exact test that two models are right equally often.

    McNemar, 1947, "Note on the sampling error of the difference between
    correlated proportions or percentages".

    Args:
        is_right: bool `[images]`.
        other_is_right: likewise.

    Returns:
        The numbers of images that one of both alone got right, and the
        two-sided `p_value` of their binomial distribution.
    """
    only_first = int(np.sum(is_right & ~other_is_right))
    only_other = int(np.sum(~is_right & other_is_right))
    discordant = only_first + only_other
    p_value = 1.0
    if discordant:
        p_value = float(stats.binomtest(only_first, discordant).pvalue)
    return {
        "only_this_right": only_first,
        "only_other_right": only_other,
        "p_value": p_value,
    }


def compare(
    predictions: predictions_lib.Predictions,
    others: predictions_lib.Predictions,
    class_names: tuple[str, ...],
    positive_index: int | None,
    operating_points: tuple[float | None, float | None],
    num_resamples: int = resampling.NUM_RESAMPLES,
    seed: int = 0,
) -> dict:
    """What two models differ in on the same images.

    Args:
        predictions: calibrated, of one model.
        others: of the other model, for the same images in the same order.
        class_names: in the order of the labels.
        positive_index: label of the positive class, None unless there are two.
        operating_points: of the one and the other, None unless two classes.
        num_resamples: behind an interval.
        seed: of the resamples.

    Returns:
        What `report` documents as `comparison`.
    """
    both = predictions.is_finite & others.is_finite
    first, second = predictions.select(both), others.select(both)
    found = {
        "num_images": len(first.ids),
        "num_groups": len(set(first.groups)),
        "num_without_answer": int(np.sum(~both)),
    }
    if not len(first.ids):
        return found | {"metrics": {}, "delong": {}, "mcnemar": None}
    statistics = [
        metrics.make_statistics(p, class_names, positive_index, point)
        for p, point in zip((first, second), operating_points, strict=True)
    ]
    names = _OF_TWO if positive_index is not None else _OF_MANY

    def differences(weights):
        mine, theirs = (of_model(weights) for of_model in statistics)
        return {
            (part, name): values
            for name in names
            for part, values in (
                ("this", mine["", name]),
                ("other", theirs["", name]),
                ("difference", mine["", name] - theirs["", name]),
            )
        }

    values, resampled = resampling.resample(
        differences,
        first.groups,
        num_resamples,
        seed,
        width=len(class_names) ** 2,
    )
    fewest = resampling.fewest_groups(first.groups, first.labels)
    found["metrics"] = {
        name: _difference(name, values, resampled, fewest) for name in names
    }
    decided = [
        p.decided(positive_index, point)
        for p, point in zip((first, second), operating_points, strict=True)
    ]
    found["mcnemar"] = mcnemar(
        decided[0] == first.labels, decided[1] == first.labels
    )
    classes = (
        range(len(class_names)) if positive_index is None else [positive_index]
    )
    found["delong"] = {
        class_names[c]: ranking.delong_test(
            first.labels == c,
            first.probabilities[:, c],
            second.probabilities[:, c],
        )
        for c in classes
    }
    return found


def _difference(name: str, values: dict, resampled: dict, fewest: int) -> dict:
    found = {
        part: values[part, name] if np.isfinite(values[part, name]) else None
        for part in ("this", "other", "difference")
    }
    found["interval"] = None
    if found["difference"] is None:
        return found | {"reason": "needs images of both classes"}
    found["interval"] = resampling.percentile_interval(
        resampled["difference", name], fewest
    )
    if found["interval"] is None:
        found["reason"] = "too few groups for an interval"
    return found


def verdict(found: dict, this: str, other: str) -> list[str]:
    """Which model is better, in sentences.

    Args:
        found: from `compare`.
        this: name of the one model.
        other: name of the other.
    """
    if not found["num_images"]:
        return ["There is no image that both models answered."]
    sentences = []
    for class_name, test in found["delong"].items():
        if test is None:
            continue
        low, high = test["interval"]
        clear = test["p_value"] < _SIGNIFICANT
        better = this if test["difference"] > 0 else other
        said = f"{better} ranks better" if clear else "neither ranks better"
        sentences.append(
            f"ROC AUC of {class_name}: {said} (difference "
            f"{test['difference']:+.3f}, 95 % interval {low:+.3f} to "
            f"{high:+.3f}, DeLong p = {test['p_value']:.3g})."
        )
    test = found["mcnemar"]
    ahead = test["only_this_right"] - test["only_other_right"]
    better = this if ahead > 0 else other
    clear = test["p_value"] < _SIGNIFICANT
    said = f"{better} decides better" if clear else "neither decides better"
    sentences.append(
        f"Decisions: {said} ({test['only_this_right']} images are right by "
        f"{this} alone, {test['only_other_right']} by {other} alone, McNemar "
        f"p = {test['p_value']:.3g})."
    )
    return sentences
