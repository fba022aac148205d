"""What the figures say, in sentences: the verdict and what limits it."""

import numpy as np

from trainer.data import records
from trainer.evaluation import predictions as predictions_lib
from trainer.evaluation import subgroups

_FEW_GROUPS = 100
_COMPARED_BY = {
    "roc_auc": "ROC AUC",
    "balanced_accuracy": "balanced accuracy",
}


def shown_split(splits: dict) -> str:
    """The split that a report is about."""
    return "test" if "test" in splits else "validation"


def interval_text(metric: dict) -> str:
    """A metric's 95 % interval in words, or why there is none."""
    if metric["interval"] is None:
        return f"no interval: {metric['reason']}"
    low, high = metric["interval"]
    return f"95 % interval {low:.3f} to {high:.3f}"


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def verdict(
    split: dict, class_names: tuple[str, ...], positive_index: int | None
) -> list[str]:
    """What was found on a split, in sentences that a clinician reads.

    Args:
        split: from `metrics.compute_metrics`.
        class_names: in the order of the labels.
        positive_index: label of the positive class, None unless there are two.
    """
    counts = np.array(split["confusion_matrix"])
    if not counts.sum():
        return ["No image was judged, so nothing is known."]
    if positive_index is None:
        return _verdict_of_many(split, class_names, counts)
    metrics = split["metrics"]
    positive = class_names[positive_index]
    of_positive, of_negative = (
        counts[positive_index],
        counts[1 - positive_index],
    )
    sentences = []
    if of_positive.sum():
        sentences.append(
            f"Of {_images(of_positive.sum())} with {positive}, "
            f"{of_positive[positive_index]} found and "
            f"{of_positive[1 - positive_index]} missed: sensitivity "
            f"{metrics['sensitivity']['value']:.3f} "
            f"({interval_text(metrics['sensitivity'])})."
        )
    if of_negative.sum():
        sentences.append(
            f"Of {_images(of_negative.sum())} of "
            f"{class_names[1 - positive_index]}, "
            f"{of_negative[1 - positive_index]} cleared and "
            f"{of_negative[positive_index]} called {positive} by mistake: "
            f"specificity {metrics['specificity']['value']:.3f} "
            f"({interval_text(metrics['specificity'])})."
        )
    area = metrics["roc_auc"]
    if area["value"] is not None:
        sentences.append(
            f"Shown one image of each class, it gives the one with {positive} "
            f"the higher score in {100 * area['value']:.0f} % of pairs: ROC "
            f"AUC {area['value']:.3f} ({interval_text(area)})."
        )
    return sentences


def _verdict_of_many(split, class_names, counts) -> list[str]:
    accuracy = split["metrics"]["accuracy"]
    sentences = [
        f"Of {_images(counts.sum())}, {np.trace(counts)} named right: accuracy "
        f"{accuracy['value']:.3f} ({interval_text(accuracy)})."
    ]
    totals = counts.sum(axis=1)
    present = np.flatnonzero(totals)
    recalls = np.diagonal(counts)[present] / totals[present]
    worst = present[np.argmin(recalls)]
    sentences.append(
        f"It recognizes {class_names[worst]} worst: "
        f"{counts[worst, worst]} of {_images(totals[worst])}."
    )
    mistakes = counts - np.diag(np.diagonal(counts))
    if mistakes.any():
        true, decided = np.unravel_index(mistakes.argmax(), mistakes.shape)
        sentences.append(
            f"Its most frequent mistake: {class_names[true]} called "
            f"{class_names[decided]} ({mistakes[true, decided]} of "
            f"{_images(totals[true])})."
        )
    return sentences


def caveats(
    info: records.DatasetInfo,
    predictions: dict[str, predictions_lib.Predictions],
    splits: dict[str, dict],
    operating_point_note: str,
    cross_validation: dict | None = None,
) -> list[str]:
    """What a reader must know before the figures, the gravest first.

    Args:
        info: the data set.
        predictions: by split, as the model gave them.
        splits: their metrics, as in `metrics.json`.
        operating_point_note: from `calibration.choose_operating_point`.
        cross_validation: from `cross_validation.summarize`, if it was made.
    """
    shown = shown_split(predictions)
    split = splits[shown]
    found = []
    if info.leaks:
        found.append(
            f"{_images(info.leaks)} share a patient or a copy with another "
            "split (--on_leak=allow): the figures are too good."
            + _without_leaks(split, info.positive_index)
        )
    if "test" not in predictions:
        found.append(
            "There is no test split: the figures are those of validation, "
            "which chose weights, temperature and threshold, and are "
            "optimistic." + _of_folds(cross_validation, info.positive_index)
        )
    for name, p in predictions.items():
        without = int(np.sum(~p.is_finite))
        if without:
            found.append(
                f"The model gave no finite answer for {without} of "
                f"{_images(len(p.ids))} of {name}; they are left out of every "
                "figure."
            )
    found += _unbeaten(split.get("baselines", {}))
    if split["num_groups"] < _FEW_GROUPS:
        found.append(
            f"The {shown} split is small, {_images(split['num_images'])} of "
            f"{split['num_groups']} independent groups (patients or copies): "
            "read the intervals, not the figures."
        )
    missing = [
        name
        for c, name in enumerate(info.class_names)
        if not np.any(predictions[shown].labels == c)
    ]
    if missing:
        found.append(f"The {shown} split has no image of {', '.join(missing)}.")
    if _is_flawless(split):
        found.append(
            f"Every image of {shown} is on the right side. Intervals of width "
            "zero then say that the images are too few or too easy to show "
            "the model's mistakes, not that it makes none."
        )
    if operating_point_note:
        found.append(f"Operating point: {operating_point_note}.")
    return found


def _without_leaks(split: dict, positive_index: int | None) -> str:
    parts = split.get("subgroups", {}).get(subgroups.KINSHIP, {})
    if subgroups.INDEPENDENT not in parts:
        return ""
    part = parts[subgroups.INDEPENDENT]
    name = "accuracy" if positive_index is None else "roc_auc"
    title = "accuracy" if positive_index is None else "ROC AUC"
    metric = part["metrics"][name]
    if metric["value"] is None:
        return f" Without them, {title} is not computed: {metric['reason']}."
    said = (
        f" On the {_images(part['num_images'])} that share nothing with "
        f"training, {title} is {metric['value']:.3f} "
        f"({interval_text(metric)})"
    )
    nearest = part.get("baselines", {}).get("nearest neighbour", {})
    if nearest.get("value") is None:
        return f"{said}."
    of_all = split["baselines"]["nearest neighbour"]
    metric_name = _COMPARED_BY[nearest["metric"]]
    return (
        f"{said}; the nearest training image by pixels has a {metric_name} of "
        f"{nearest['value']:.3f} there and {of_all['value']:.3f} on all."
    )


def _of_folds(found: dict | None, positive_index: int | None) -> str:
    if found is None:
        return ""
    name = "accuracy" if positive_index is None else "roc_auc"
    title = "Accuracy" if positive_index is None else "ROC AUC"
    metric = found["pooled"]["metrics"][name]
    if metric["value"] is None:
        return ""
    return (
        f" Those of the {found['num_folds']} folds are not: {title} "
        f"{metric['value']:.3f} ({interval_text(metric)})."
    )


def _is_flawless(split: dict) -> bool:
    counts = np.array(split["confusion_matrix"])
    area = split["metrics"].get("roc_auc", {}).get("value")
    return bool(counts.sum()) and (
        np.trace(counts) == counts.sum() or area == 1.0
    )


def _unbeaten(baselines: dict[str, dict]) -> list[str]:
    """A sentence per trivial baseline that the model does not beat."""
    sentences = []
    for name, baseline in baselines.items():
        if baseline["beaten"] is not False:
            continue
        metric = (
            baseline["metric"].replace("_", " ").replace("roc auc", "ROC AUC")
        )
        interval = baseline["difference_interval"]
        between = (
            f"95 % interval {interval[0]:+.3f} to {interval[1]:+.3f}"
            if interval
            else "no interval"
        )
        sentences.append(
            f"The model is not shown to beat a trivial baseline, {name}: its "
            f"{metric} is {baseline['value']:.3f}, the model's differs by "
            f"{baseline['difference']:+.3f} ({between})."
        )
    return sentences
