"""Temperature, operating point, and what else is chosen on validation."""

import dataclasses

import numpy as np
from scipy import optimize, special
from sklearn import metrics as sklearn_metrics

from trainer.evaluation.predictions import Predictions

_MAX_TEMPERATURE = 20.0
# The least threshold that a float32 score of 1 does not reach, and then some.
_ABOVE_ONE = 1.000001
_RULES = (
    "youden, sensitivity:0.95, specificity:0.95, cost:FN=5,FP=1 or a number "
    "between 0 and 1"
)


@dataclasses.dataclass(frozen=True)
class StudyChoice:
    """How a group of images is decided on as one, see `studies`.

    Attributes:
        rule: by which their scores become one.
        operating_point: threshold on that; None for more than two classes.
        note: as of `Chosen`.
    """

    rule: str
    operating_point: float | None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class SetChoice:
    """Which classes an answer leaves possible, see `prediction_sets`.

    Attributes:
        coverage: share of the images of a class whose set holds it.
        thresholds: per class, the probability from which a set holds it.
        num_groups: per class, those of validation.
    """

    coverage: float
    thresholds: tuple[float, ...]
    num_groups: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What was decided before the images that judge were looked at.

    Attributes:
        temperature: divides the logits.
        operating_point: threshold on the score; None for more than two
            classes.
        rule: how the operating point was chosen.
        note: empty, or why the rule could not be applied.
        study: None if patients are not decided on.
        sets: None if there are no prediction sets.
    """

    temperature: float
    operating_point: float | None
    rule: str
    note: str = ""
    study: StudyChoice | None = None
    sets: SetChoice | None = None


def log_loss(
    labels: np.ndarray, logits: np.ndarray, temperature: float = 1.0
) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    log_p = special.log_softmax(logits.astype(np.float64) / temperature, -1)
    return float(-np.mean(log_p[np.arange(len(labels)), labels]))


def fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """The temperature with the lowest log loss; never a worse one than 1.

    Guo et al., 2017, "On Calibration of Modern Neural Networks",
    https://arxiv.org/abs/1706.04599.

    Returns:
        Between 0.05 and 20; 1.0 where nothing can be fitted: fewer than two
        classes, or classes that the logits separate without an error, whose
        best temperature is 0.
    """
    if len(np.unique(labels)) < 2:
        return 1.0
    if np.all(logits.argmax(axis=-1) == labels):
        return 1.0
    bound = np.log(_MAX_TEMPERATURE)
    result = optimize.minimize_scalar(
        lambda log_t: log_loss(labels, logits, np.exp(log_t)),
        bounds=(-bound, bound),
        method="bounded",
        options={"xatol": 1e-6},
    )
    temperature = float(np.exp(result.x))
    if log_loss(labels, logits, temperature) >= log_loss(labels, logits):
        return 1.0
    return temperature


def parse_rule(rule: str) -> tuple[str, tuple[float, ...]]:
    """Splits `--operating_point` into a name and its numbers.

    Raises:
        ValueError: if it is none of the rules.
    """
    name, _, text = rule.partition(":")
    try:
        if name == "youden" and not text:
            return name, ()
        if name in ("sensitivity", "specificity"):
            target = float(text)
            if 0 < target <= 1:
                return name, (target,)
        elif name == "cost":
            costs = dict(part.split("=") for part in text.split(","))
            false_negative = float(costs.pop("FN"))
            false_positive = float(costs.pop("FP"))
            both = (false_negative, false_positive)
            if not costs and all(0 < cost < np.inf for cost in both):
                return name, both
        else:
            threshold = float(rule)
            if 0 <= threshold <= 1:
                return "fixed", (threshold,)
    except (ValueError, KeyError):
        pass  # said below, with the rules there are
    raise ValueError(f"--operating_point must be {_RULES}. Received: {rule!r}.")


def choose_operating_point(
    is_positive: np.ndarray, scores: np.ndarray, rule: str
) -> tuple[float, str]:
    """The threshold on the score that a rule picks on validation.

    Args:
        is_positive: bool `[images]`.
        scores: `[images]`, calibrated probabilities of the positive class.
        rule: see `parse_rule`. "youden" maximizes sensitivity + specificity -
            1 (Youden, 1950, "Index for rating diagnostic tests");
            "sensitivity:x" takes the highest specificity with at least that
            sensitivity, "specificity:x" the reverse; "cost" minimizes the cost
            of false negatives and false positives.

    Returns:
        The threshold, half-way between two scores so that it does not hang on
        the last digit of one, and a note: empty, or why the rule could not be
        applied and 0.5 was taken.
    """
    name, numbers = parse_rule(rule)
    if name == "fixed":
        return numbers[0], ""
    if len(np.unique(is_positive)) < 2:
        return 0.5, "validation has one class only; 0.5 is used"
    fpr, tpr, thresholds = sklearn_metrics.roc_curve(
        is_positive, scores, drop_intermediate=False
    )
    positives = int(is_positive.sum())
    negatives = len(is_positive) - positives
    missed = positives - np.rint(tpr * positives)
    alarms = np.rint(fpr * negatives)
    if name == "youden":
        best = np.argmin(missed * negatives + alarms * positives)
    elif name == "sensitivity":
        best = np.flatnonzero((positives - missed) / positives >= numbers[0])[0]
    elif name == "specificity":
        specificity = (negatives - alarms) / negatives
        best = np.flatnonzero(specificity >= numbers[0])[-1]
    else:
        best = np.argmin(numbers[0] * missed + numbers[1] * alarms)
    lower = thresholds[best + 1] if best + 1 < len(thresholds) else 0.0
    if best == 0:  # no image is called positive, not even one that scores 1
        return float((1 + lower) / 2 if lower < 1 else _ABOVE_ONE), ""
    return float((thresholds[best] + lower) / 2), ""


def choose(
    validation: Predictions,
    positive_index: int | None,
    rule: str,
    temperature: float | None = None,
) -> Chosen:
    """Temperature, unless it is given, and operating point, from validation."""
    answered = validation.select(validation.is_finite)
    if temperature is None:
        temperature = fit_temperature(answered.labels, answered.logits)
    if positive_index is None:
        return Chosen(temperature, None, rule)
    logits = answered.logits.astype(np.float64) / temperature
    operating_point, note = choose_operating_point(
        answered.labels == positive_index,
        special.softmax(logits, axis=-1)[:, positive_index],
        rule,
    )
    return Chosen(temperature, operating_point, rule, note)
