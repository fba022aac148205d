"""What the figures say, in sentences: the verdict and what limits it."""

from collections.abc import Mapping, Sequence

import numpy as np

from trainer.data import records
from trainer.evaluation import (
    calibration,
    intervals,
    ordinal,
    results,
    subgroups,
)
from trainer.evaluation.prediction_sets import fewest_groups

_FEW_GROUPS = 100
_SIGNIFICANT = 0.05
_TITLES = {
    "roc_auc": "ROC AUC",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
}


def interval_text(metric: results.Metric) -> str:
    """A metric's 95 % interval in words, or why there is none."""
    if metric.interval is None:
        return f"95 % interval not computed: {metric.reason}"
    low, high = metric.interval
    return f"95 % interval {low:.3f} to {high:.3f}"


def _with_interval(metric: results.Metric) -> str:
    return f"{metric.value:.3f} ({interval_text(metric)})"


def _images(count: int, unit: str = "image") -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def verdict(
    split: results.Split,
    class_names: tuple[str, ...],
    positive_index: int | None,
    unit: str = "image",
    ranks: tuple[int, ...] = (),
) -> list[str]:
    """What was found on a split, in sentences that a clinician reads.

    `unit` is what is judged: an image or a patient; `ranks` are those of the
    classes, if they have an order.
    """
    counts = np.array(split.confusion_matrix)
    if not counts.sum():
        return [f"No {unit} was judged, so nothing is known."]
    if positive_index is None:
        spoken = _verdict_of_many(split, class_names, counts, unit)
        return spoken + _in_order(split, class_names, counts, ranks, unit)
    order = [1 - positive_index, positive_index]
    negative, positive = (class_names[i] for i in order)
    (cleared, alarms), (missed, hits) = counts[np.ix_(order, order)]
    metrics, spoken = split.metrics, []
    if hits + missed:
        spoken.append(
            f"Of {_images(hits + missed, unit)} with {positive}, {hits} found "
            f"and {missed} missed: sensitivity "
            f"{_with_interval(metrics['sensitivity'])}."
        )
    if cleared + alarms:
        spoken.append(
            f"Of {_images(cleared + alarms, unit)} of {negative}, {cleared} "
            f"cleared and {alarms} called {positive} by mistake: specificity "
            f"{_with_interval(metrics['specificity'])}."
        )
    area = metrics["roc_auc"]
    if area.value is not None:
        spoken.append(
            f"Shown one {unit} of each class, it gives the one with {positive} "
            f"the higher score in {100 * area.value:.0f} % of pairs: ROC AUC "
            f"{_with_interval(area)}."
        )
    return spoken


def _verdict_of_many(
    split: results.Split,
    class_names: Sequence[str],
    counts: np.ndarray,
    unit: str,
) -> list[str]:
    spoken = [
        f"Of {_images(counts.sum(), unit)}, {np.trace(counts)} named right: "
        f"accuracy {_with_interval(split.metrics['accuracy'])}."
    ]
    totals = counts.sum(axis=1)
    present = np.flatnonzero(totals)
    recalls = np.diagonal(counts)[present] / totals[present]
    worst = int(present[np.argmin(recalls)])
    spoken.append(
        f"It recognizes {class_names[worst]} worst: "
        f"{counts[worst, worst]} of {_images(totals[worst], unit)}."
    )
    mistakes = counts - np.diag(np.diagonal(counts))
    if mistakes.any():
        true, decided = divmod(int(mistakes.argmax()), len(class_names))
        spoken.append(
            f"Its most frequent mistake: {class_names[true]} called "
            f"{class_names[decided]} ({mistakes[true, decided]} of "
            f"{_images(totals[true], unit)})."
        )
    return spoken


def _in_order(
    split: results.Split,
    class_names: Sequence[str],
    counts: np.ndarray,
    ranks: tuple[int, ...],
    unit: str,
) -> list[str]:
    """How far off decisions are, if the classes have an order."""
    if not ranks:
        return []
    order = " < ".join(class_names[c] for c in np.argsort(ranks))
    far = int(counts[ordinal.distances(ranks) > 1].sum())
    kappa = split.metrics["quadratic_kappa"]
    figure = f"not computed: {kappa.reason}"
    if kappa.value is not None:
        figure = _with_interval(kappa)
    return [
        f"In the order {order}, {_images(far, unit)} of {counts.sum()} called "
        f"more than one step off: quadratic weighted kappa {figure}."
    ]


def per_patient(
    choice: calibration.StudyChoice,
    split: results.Split,
    shown: str,
    num_mixed: int,
    class_names: tuple[str, ...],
    positive_index: int | None,
    ranks: tuple[int, ...] = (),
) -> list[str]:
    """What was found on the groups of a split.

    `num_mixed` of them have images of several classes; for the other
    arguments see `verdict`.
    """
    spoken = verdict(split, class_names, positive_index, "patient", ranks)
    if num_mixed:
        counted = "as the class that most of them show"
        if positive_index is not None:
            name = class_names[positive_index]
            counted = f"as {name}, for one of their images shows it"
        spoken.append(
            f"The images of {_images(num_mixed, 'patient')} of {shown} are of "
            f"several classes; these count {counted}."
        )
    if choice.note:
        spoken.append(f"Operating point of patients: {choice.note}.")
    return spoken


def prediction_sets(
    found: results.PredictionSets, choice: calibration.SetChoice
) -> list[str]:
    """What the sets of classes hold, and which class they cannot leave out."""
    asked = f"{100 * found.coverage:g} %"
    spoken = []
    for name, of_class in found.by_class.items():
        if of_class.coverage.value is None:
            continue
        spoken.append(
            f"Of the sets of images of {name}, a share of "
            f"{_with_interval(of_class.coverage)} holds it, where {asked} was "
            f"asked for; mean size {_with_interval(of_class.size)}."
        )
    if found.uncertain.value is not None:
        spoken.append(
            "Uncertain, with several classes in the set, is a share of "
            f"{_with_interval(found.uncertain)} of all."
        )
    needed = fewest_groups(found.coverage)
    for name, count in zip(found.by_class, choice.num_groups, strict=True):
        if count < needed:
            spoken.append(
                f"Validation has {count} groups (patients or copies) of "
                f"{name}, and {asked} needs {needed}: no set leaves {name} "
                "out. Give validation more patients, or ask for less "
                "(--coverage)."
            )
    return spoken


def caveats(
    info: records.DatasetInfo,
    splits: Mapping[str, results.Split],
    labels: np.ndarray,
    operating_point_note: str,
    cross_validation: results.CrossValidation | None = None,
) -> list[str]:
    """What a reader must know before the figures, the gravest first.

    `labels` are of the split that is shown.
    """
    shown = "test" if "test" in splits else "validation"
    split = splits[shown]
    spoken = []
    if info.leaks:
        spoken.append(
            f"{_images(info.leaks)} share a patient or a copy with another "
            "split (--on_leak=allow): the figures are too good."
            + _without_leaks(split, info.positive_index)
        )
    if "test" not in splits:
        spoken.append(
            "There is no test split: the figures are those of validation, "
            "which chose weights, temperature and threshold, and are "
            "optimistic." + _of_folds(cross_validation, info.positive_index)
        )
    for name, part in splits.items():
        if part.num_without_answer:
            total = part.num_images + part.num_without_answer
            spoken.append(
                "The model gave no finite answer for "
                f"{part.num_without_answer} of {_images(total)} of {name}; "
                "they are left out of every figure."
            )
    spoken += _unbeaten(split.baselines or {})
    spoken += _apart(splits, _main_metric(info.positive_index))
    if split.num_groups < _FEW_GROUPS:
        spoken.append(
            f"The {shown} split is small, {_images(split.num_images)} of "
            f"{split.num_groups} independent groups (patients or copies): "
            "read the intervals, not the figures."
        )
    missing = set(range(info.num_classes)) - set(labels)
    if missing:
        names = ", ".join(info.class_names[c] for c in sorted(missing))
        spoken.append(f"The {shown} split has no image of {names}.")
    if _is_flawless(split):
        spoken.append(
            f"Every image of {shown} is on the right side: the images are too "
            "few or too easy to show the model's mistakes, which does not say "
            "that it makes none."
        )
    if operating_point_note:
        spoken.append(f"Operating point: {operating_point_note}.")
    return spoken


def _apart(splits: Mapping[str, results.Split], name: str) -> list[str]:
    """How far validation and test lie apart, on images that share nothing."""
    if not {"validation", "test"} <= splits.keys():
        return []
    validation, test = (
        splits[split].metrics[name] for split in ("validation", "test")
    )
    interval = intervals.independent_difference(
        (test.value, test.interval), (validation.value, validation.interval)
    )
    if interval is None or test.value is None or validation.value is None:
        return []
    low, high = interval
    spoken = (
        f"From {validation.value:.3f} on validation, {_TITLES[name]} "
        f"changes by {test.value - validation.value:+.3f} on test "
        f"(95 % interval {low:+.3f} to {high:+.3f})"
    )
    if low <= 0 <= high:
        return [f"{spoken}: no more than chance explains."]
    return [
        f"{spoken}, more than chance explains: the images of test are unlike "
        "those that weights, temperature and threshold were chosen on, and so "
        "may be those of another place or year."
    ]


def _main_metric(positive_index: int | None) -> str:
    return "accuracy" if positive_index is None else "roc_auc"


def _without_leaks(split: results.Split, positive_index: int | None) -> str:
    parts = (split.subgroups or {}).get(subgroups.KINSHIP, {})
    if subgroups.INDEPENDENT not in parts:
        return ""
    part = parts[subgroups.INDEPENDENT]
    name = _main_metric(positive_index)
    metric = part.metrics[name]
    if metric.value is None:
        return (
            f" Without them, {_TITLES[name]} is not computed: {metric.reason}."
        )
    text = (
        f" On the {_images(part.num_images)} that share nothing with "
        f"training, {_TITLES[name]} is {_with_interval(metric)}"
    )
    nearest = (part.baselines or {}).get("nearest neighbour")
    on_all = (split.baselines or {}).get("nearest neighbour")
    if on_all is None or nearest is None or nearest.value is None:
        return f"{text}."
    return (
        f"{text}; the nearest training image by pixels has a "
        f"{_TITLES[nearest.metric]} of {nearest.value:.3f} there and "
        f"{on_all.value:.3f} on all."
    )


def _of_folds(
    folds: results.CrossValidation | None, positive_index: int | None
) -> str:
    if folds is None:
        return ""
    name = _main_metric(positive_index)
    metric = folds.pooled.metrics[name]
    if metric.value is None:
        return ""
    title = _TITLES[name]
    return (
        f" Those of the {folds.num_folds} folds are not: "
        f"{title[0].upper()}{title[1:]} {_with_interval(metric)}."
    )


def _is_flawless(split: results.Split) -> bool:
    counts = np.array(split.confusion_matrix)
    return bool(counts.sum()) and (
        np.trace(counts) == counts.sum()
        or split.metrics["roc_auc"].value == 1.0
    )


def _unbeaten(baselines: results.Baselines) -> list[str]:
    """A sentence per trivial baseline that the model does not beat."""
    spoken = []
    for name, baseline in baselines.items():
        if baseline.beaten is not False:
            continue
        between = "interval not computed: too few groups of a class"
        if baseline.difference_interval:
            low, high = baseline.difference_interval
            between = f"95 % interval {low:+.3f} to {high:+.3f}"
        spoken.append(
            f"The model is not shown to beat a trivial baseline, {name}: its "
            f"{_TITLES[baseline.metric]} is {baseline.value:.3f}, the model's "
            f"differs by {baseline.difference:+.3f} ({between})."
        )
    return spoken


def compare(comparison: results.Comparison) -> list[str]:
    """Which of two models is better."""
    decisions = comparison.mcnemar
    if decisions is None:
        return ["There is no image that both models answered."]

    def better(lead: float, p_value: float, what: str) -> str:
        name = comparison.this if lead > 0 else comparison.other
        return f"{name if p_value < _SIGNIFICANT else 'neither'} {what} better"

    spoken = []
    for class_name, test in comparison.delong.items():
        if test is None:
            continue
        low, high = test.interval
        spoken.append(
            f"ROC AUC of {class_name}: "
            f"{better(test.difference, test.p_value, 'ranks')} (difference "
            f"{test.difference:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}, "
            f"DeLong p = {test.p_value:.3g})."
        )
    lead = decisions.only_this_right - decisions.only_other_right
    spoken.append(
        f"Decisions: {better(lead, decisions.p_value, 'decides')} "
        f"({decisions.only_this_right} images are right by {comparison.this} "
        f"alone, {decisions.only_other_right} by {comparison.other} alone, "
        f"McNemar p = {decisions.p_value:.3g})."
    )
    return spoken
