"""Several images of a patient as one: the decision is about the patient.

A group's calibrated probabilities become one by a rule. What is then judged is
again a `Decided`, so that everything that judges images judges groups too.
"""

import numpy as np

from trainer.evaluation import calibration
from trainer.evaluation.predictions import Decided

DEFAULT_RULE = "mean"
_LEAST = 1e-30  # of a probability whose logarithm is taken


def parse_rule(rule: str, num_classes: int) -> tuple[str, int]:
    """Splits `--study_rule` into a name and the k of `top_k`, else 0.

    Raises:
        ValueError: if it is none of the rules, or none for so many classes.
    """
    name, _, text = rule.partition(":")
    is_top = name == "top_k" and text.isdecimal() and int(text) > 0
    if not is_top and rule not in ("mean", "max", "noisy_or"):
        raise ValueError(
            "--study_rule must be mean, max, top_k:3 (or another number of "
            f"images) or noisy_or. Received: {rule!r}."
        )
    if num_classes > 2 and rule != "mean":
        raise ValueError(
            f"--study_rule={rule} looks for one positive class, and there are "
            f"{num_classes} classes: give --study_rule=mean."
        )
    return name, int(text) if is_top else 0


def combine(
    probabilities: np.ndarray, rule: str, positive_index: int | None
) -> np.ndarray:
    """The probabilities of a group, float64 `[classes]`.

    Args:
        probabilities: `[images, classes]` of its images, one at least.
        rule: "mean"; of the positive class also "max", "top_k:3", the mean of
            the three greatest, or "noisy_or", that one image at least shows
            it, taking images as independent (Pearl, 1988, "Probabilistic
            Reasoning in Intelligent Systems").
        positive_index: None unless there are two classes.
    """
    probabilities = np.asarray(probabilities, np.float64)
    name, count = parse_rule(rule, probabilities.shape[1])
    if name == "mean" or positive_index is None:
        return probabilities.mean(axis=0)
    scores = np.sort(probabilities[:, positive_index])
    if name == "noisy_or":
        negative = np.prod(1 - scores)
    else:
        negative = 1 - scores[-(count or 1) :].mean()
    return np.where(np.arange(2) == positive_index, 1 - negative, negative)


def has_several(groups: list[str]) -> bool:
    """Whether a group has several images."""
    return len(set(groups)) < len(groups)


def _members(predictions: Decided) -> dict[str, np.ndarray]:
    """Indices of the images of each group, in the order of the groups."""
    members: dict[str, list[int]] = {}
    for i, group in enumerate(predictions.groups):
        members.setdefault(group, []).append(i)
    return {group: np.array(images) for group, images in members.items()}


def _label(labels: np.ndarray, positive_index: int | None) -> int:
    """Positive if one is; of more classes the most frequent one."""
    if positive_index is not None and (labels == positive_index).any():
        return positive_index
    return int(np.bincount(labels).argmax())


def num_mixed(predictions: Decided) -> int:
    """Groups whose images are not all of one class."""
    return sum(
        len(np.unique(predictions.labels[images])) > 1
        for images in _members(predictions).values()
    )


def combine_scores(
    predictions: Decided, scores: np.ndarray, rule: str
) -> np.ndarray:
    """Scores of groups `[groups, classes]` of those of their images.

    Images without a finite score are left out; where there is no other, the
    group's are NaN.
    """
    combined = []
    for images in _members(predictions).values():
        rows = scores[images]
        rows = rows[np.isfinite(rows).all(axis=1)]
        combined.append(
            combine(rows, rule, predictions.positive_index)
            if len(rows)
            else np.full(scores.shape[1], np.nan)
        )
    return np.array(combined).reshape(-1, scores.shape[1])


def by_group(
    predictions: Decided, rule: str, operating_point: float | None = None
) -> Decided:
    """One prediction per group; its id is that of the group.

    A group with images of several classes is positive if one of them is, and
    of the most frequent one of more than two classes. Its probabilities are
    those that the rule gives, and not calibrated again.

    Args:
        predictions: of images.
        rule: see `combine`.
        operating_point: threshold on the combined score.
    """
    members = _members(predictions)
    positive = predictions.positive_index
    combined = combine_scores(predictions, predictions.probabilities, rule)
    labels = [_label(predictions.labels[m], positive) for m in members.values()]
    return Decided(
        ids=list(members),
        groups=list(members),
        labels=np.array(labels, np.int32),
        logits=np.log(np.maximum(combined, _LEAST)),
        class_names=predictions.class_names,
        positive_index=positive,
        operating_point=operating_point,
        temperature=1.0,
        ranks=predictions.ranks,
    )


def clearest(predictions: Decided, grouped: Decided) -> np.ndarray:
    """Index of the image that speaks most for what its group is called."""
    scores = np.nan_to_num(predictions.probabilities, nan=-1.0)
    return np.array(
        [
            images[scores[images, decision].argmax()]
            for images, decision in zip(
                _members(predictions).values(), grouped.decisions, strict=True
            )
        ],
        int,
    )


def choose(
    validation: Decided, rule: str, operating_point_rule: str
) -> calibration.StudyChoice:
    """The operating point of groups, chosen on those of validation."""
    chosen = calibration.choose(
        by_group(validation, rule),
        validation.positive_index,
        operating_point_rule,
        temperature=1.0,
    )
    return calibration.StudyChoice(rule, chosen.operating_point, chosen.note)
