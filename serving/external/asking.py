"""Models that answer encoded images, an export or a server, asked about some.

What is known of a model beside its answers may be little: a server tells
neither the names of its classes nor its threshold. Both follow from its
answers.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from trainer.data import input_pipeline
from trainer.evaluation import calibration
from trainer.evaluation.predictions import Decided, Predictions
from trainer.progress import Progress


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
        unlikeness: float32 `[images]`, above 1 where an image is unlike the
            training set; None if the model does not tell.
    """

    probabilities: np.ndarray
    labels: list[str]
    label_indices: np.ndarray
    scores: np.ndarray
    decisions: np.ndarray | None
    valid: np.ndarray
    unlikeness: np.ndarray | None = None


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
        study: how it decides on patients, if it tells.
        sets: which classes it leaves possible, if it tells.
    """

    name: str
    ask: Callable[[list[bytes]], Answers]
    class_names: tuple[str, ...] | None = None
    operating_point: float | None = None
    dataset_fingerprint: str = ""
    explain: Callable[[list[bytes]], list[bytes]] | None = None
    study: calibration.StudyChoice | None = None
    sets: calibration.SetChoice | None = None


@dataclasses.dataclass(frozen=True)
class Images:
    """Images to judge by, in the order of their records.

    `class_names` are their true classes, `positive_class` the positive one of
    these, if it is known.
    """

    files: list[str]
    ids: list[str]
    groups: list[str]
    class_names: list[str]
    positive_class: str | None


def make_answers(answered: Sequence) -> Answers:
    """Answers from one object per image, as `serving.client` returns them."""

    def column(name, dtype=None):
        return np.array([getattr(answer, name) for answer in answered], dtype)

    decisions = [answer.decision for answer in answered]
    return Answers(
        column("probabilities", np.float32),
        [answer.label for answer in answered],
        column("label_index"),
        column("score", np.float32),
        None if None in decisions else np.array(decisions, bool),
        column("valid", bool),
    )


def check_classes(
    model: AskedModel, names: Iterable[str], images: Images
) -> None:
    """Refuses images of a class that is none of a model's.

    Raises:
        ValueError: naming the classes.
    """
    unknown = sorted(set(images.class_names) - set(names))
    if unknown:
        raise ValueError(
            f"{model.name} tells {', '.join(names)} apart, but there are "
            f"images of {', '.join(unknown)}: name the classes of the record "
            "set as the model does."
        )


def ask_all(model: AskedModel, images: Images, batch_size: int) -> Answers:
    """Asks a model about images, at least one, some at a time.

    Raises:
        ValueError: as soon as its answers name all of its classes, and images
            are of another one.
    """
    parts: list[Answers] = []
    named: set[str] = set()
    encoded = iter(input_pipeline.iterate_encoded(images.files))
    with Progress(len(images.ids), f"asking {model.name}") as bar:
        while batch := list(itertools.islice(encoded, batch_size)):
            parts.append(model.ask(batch))
            bar.update(len(batch))
            named.update(itertools.compress(parts[-1].labels, parts[-1].valid))
            if len(named) == parts[-1].probabilities.shape[1]:
                check_classes(model, sorted(named), images)

    def join(name):
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    names = [field.name for field in dataclasses.fields(Answers)]
    joined = {name: join(name) for name in names if name != "labels"}
    labels = [label for part in parts for label in part.labels]
    return Answers(labels=labels, **joined)


def interpret(model: AskedModel, answers: Answers, images: Images) -> Decided:
    """Makes predictions of answers, decided as the model did.

    Raises:
        ValueError: if the images are of a class that the model does not know,
            or the answers contradict themselves.
    """
    names = _class_names(model, answers, sorted(set(images.class_names)))
    check_classes(model, names, images)
    # Zeros of invalid images become NaN, which stands for no answer.
    probabilities = answers.probabilities.astype(np.float64)
    answered = answers.valid & np.isfinite(probabilities).all(axis=1)
    logits = np.log(np.clip(probabilities, 1e-30, None))
    logits[~answered] = np.nan
    positive_index = operating_point = None
    decisions = np.where(answers.valid, answers.label_indices, 0)
    if answers.decisions is not None:
        positive_index = _positive_index(answers, names, images.positive_class)
        decisions = np.where(
            answers.decisions, positive_index, 1 - positive_index
        )
        operating_point = model.operating_point
        if operating_point is None:
            operating_point = _threshold(model, answers)
    return Predictions(
        ids=images.ids,
        groups=images.groups,
        labels=np.array([names.index(n) for n in images.class_names], np.int32),
        logits=logits,
        own_decisions=decisions,
    ).decide(names, positive_index, operating_point)


def _class_names(
    model: AskedModel, answers: Answers, true_names: list[str]
) -> tuple[str, ...]:
    """What the model calls its classes."""
    num_classes = answers.probabilities.shape[1]
    if model.class_names is not None:
        return model.class_names
    name_of = {
        int(index): label
        for index, label, valid in zip(
            answers.label_indices, answers.labels, answers.valid, strict=True
        )
        if valid
    }
    # Lightbox's classes are sorted by name.
    if len(true_names) == num_classes and all(
        true_names[i] == name for i, name in name_of.items()
    ):
        return tuple(true_names)
    return tuple(name_of.get(i, f"class {i}") for i in range(num_classes))


def _positive_index(
    answers: Answers, names: tuple[str, ...], default: str | None
) -> int:
    """The class whose probability is the score, or where all tie `default`."""
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
