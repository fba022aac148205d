"""A model that answers encoded images: an export, or a server of one.

What is known of it beside its answers may be little: a server tells neither
the names of its classes nor its threshold. Both follow from its answers.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from trainer.evaluation.predictions import Predictions


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model said of images, in their order.

    Attributes:
        probabilities: float32 `[images, classes]`.
        labels: names of the most probable classes.
        label_indices: int `[images]`, their places among the classes.
        scores: float32 `[images]`, of the positive class or of the label.
        decisions: bool `[images]`; None for more than two classes.
        valid: bool `[images]`; False where an image could not be decoded.
        unlike: float32 `[images]`, above 1 where an image is unlike the
            training set; None if the model does not tell.
    """

    probabilities: np.ndarray
    labels: list[str]
    label_indices: np.ndarray
    scores: np.ndarray
    decisions: np.ndarray | None
    valid: np.ndarray
    unlike: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class AskedModel:
    """A model to evaluate.

    Attributes:
        name: where it is.
        ask: answers some encoded images.
        class_names: in the order of its classes; None if it does not tell.
        operating_point: its threshold on the score, if it tells.
        dataset_fingerprint: of what it was trained on, "" if unknown.
        explain: pictures of the evidence in some encoded images, if it can.
    """

    name: str
    ask: Callable[[list[bytes]], Answers]
    class_names: tuple[str, ...] | None = None
    operating_point: float | None = None
    dataset_fingerprint: str = ""
    explain: Callable[[list[bytes]], list[bytes]] | None = None


@dataclasses.dataclass(frozen=True)
class Judgeable:
    """What a model told of itself and of images.

    Attributes:
        class_names: in the order of its classes.
        positive_index: of the positive class, None unless there are two.
        operating_point: a threshold that decides as it did, None likewise.
        predictions: of the images, decided as it did.
    """

    class_names: tuple[str, ...]
    positive_index: int | None
    operating_point: float | None
    predictions: Predictions


def make_answers(answered: Sequence) -> Answers:
    """Answers from one object per image, as `serving.client` returns them."""
    decisions = [answer.decision for answer in answered]
    return Answers(
        np.array([answer.probabilities for answer in answered], np.float32),
        [answer.label for answer in answered],
        np.array([answer.label_index for answer in answered]),
        np.array([answer.score for answer in answered], np.float32),
        None if None in decisions else np.array(decisions, bool),
        np.array([answer.valid for answer in answered], bool),
    )


def join_answers(parts: Sequence[Answers]) -> Answers:
    """Answers of all batches, one after the other."""

    def join(name):
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    names = [field.name for field in dataclasses.fields(Answers)]
    joined = {name: join(name) for name in names if name != "labels"}
    labels = [label for part in parts for label in part.labels]
    return Answers(labels=labels, **joined)


def interpret(
    model: AskedModel,
    answers: Answers,
    ids: list[str],
    groups: list[str],
    true_names: list[str],
    default_positive: str | None = None,
) -> Judgeable:
    """Makes predictions of answers.

    Args:
        model: that gave them.
        answers: for all images.
        ids: of the images.
        groups: likewise.
        true_names: names of the images' true classes.
        default_positive: the positive class, where all scores are a half.

    Raises:
        ValueError: if the images are of a class that the model does not know,
            or the answers contradict themselves.
    """
    names = _class_names(model, answers, sorted(set(true_names)))
    unknown = sorted(set(true_names) - set(names))
    if unknown:
        raise ValueError(
            f"{model.name} tells {', '.join(names)} apart, but there are "
            f"images of {', '.join(unknown)}: name the classes of the record "
            "set as the model does."
        )
    label_of = {name: i for i, name in enumerate(names)}
    # Zeros of invalid images become NaN, which stands for no answer.
    probabilities = answers.probabilities.astype(np.float64)
    logits = np.where(
        answers.valid[:, np.newaxis],
        np.log(np.clip(probabilities, 1e-30, None)),
        np.nan,
    )
    logits[~np.isfinite(probabilities).all(axis=1)] = np.nan
    predictions = Predictions(
        ids=ids,
        groups=groups,
        labels=np.array([label_of[name] for name in true_names], np.int32),
        logits=logits,
        decisions=np.where(answers.valid, answers.label_indices, 0),
    )
    if answers.decisions is None:
        return Judgeable(names, None, None, predictions)
    positive = _positive_index(answers, names, default_positive)
    decided = np.where(answers.decisions, positive, 1 - positive)
    return Judgeable(
        names,
        positive,
        _threshold(model, answers)
        if model.operating_point is None
        else model.operating_point,
        dataclasses.replace(predictions, decisions=decided),
    )


def _class_names(
    model: AskedModel, answers: Answers, true_names: list[str]
) -> tuple[str, ...]:
    """What the model calls its classes."""
    num_classes = answers.probabilities.shape[1]
    if model.class_names is not None:
        return model.class_names
    label_of = {
        int(index): label
        for index, label, valid in zip(
            answers.label_indices, answers.labels, answers.valid, strict=True
        )
        if valid
    }
    # Lightbox's classes are sorted by name.
    if len(true_names) == num_classes and all(
        true_names[i] == name for i, name in label_of.items()
    ):
        return tuple(true_names)
    return tuple(label_of.get(i, f"class {i}") for i in range(num_classes))


def _positive_index(
    answers: Answers, names: tuple[str, ...], default: str | None
) -> int:
    """The class whose probability is the score."""
    gaps = np.abs(answers.probabilities - answers.scores[:, np.newaxis])
    gaps = gaps[answers.valid].sum(axis=0)
    if default in names and np.ptp(gaps) < 1e-6:
        return names.index(default)
    return int(np.argmin(gaps))


def _threshold(model: AskedModel, answers: Answers) -> float:
    """A threshold between the scores that were decided either way."""
    scores = answers.scores[answers.valid].astype(np.float64)
    called = answers.decisions[answers.valid]
    if not len(scores):
        return 0.5
    lowest = scores[called].min(initial=np.inf)
    highest = scores[~called].max(initial=-np.inf)
    if highest >= lowest:
        raise ValueError(
            f"{model.name} decides against its own scores ({highest:.4f} is "
            f"negative, {lowest:.4f} positive): it is no export of Lightbox."
        )
    if not np.isfinite(highest):
        return float(lowest)
    if not np.isfinite(lowest):
        return float(np.nextafter(highest, np.inf))
    return float((lowest + highest) / 2)


def ask_all(
    model: AskedModel,
    images: Iterable[bytes],
    batch_size: int,
    report_progress: Callable[[int], None],
) -> Answers:
    """Asks a model about images, some at a time.

    Args:
        model: to ask.
        images: JPEG or PNG each; at least one.
        batch_size: of a call.
        report_progress: called with the number of answers there are.
    """
    parts, batch, done = [], [], 0
    for image in images:
        batch.append(image)
        if len(batch) == batch_size:
            parts.append(model.ask(batch))
            done += len(batch)
            report_progress(done)
            batch = []
    if batch:
        parts.append(model.ask(batch))
        report_progress(done + len(batch))
    return join_answers(parts)
