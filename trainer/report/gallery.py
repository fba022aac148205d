"""The galleries of a report: right and wrong decisions, the surest first."""

import base64
import dataclasses
import io
import itertools

import numpy as np
from PIL import Image

from trainer.evaluation.predictions import Decided
from trainer.report.context import Context

MAX_WRONG = 24
MAX_RIGHT = 8
_THUMBNAIL = 224


@dataclasses.dataclass(frozen=True)
class Item:
    """One image of a gallery.

    Attributes:
        image_id: of the image.
        true: its class.
        decided: the class that was decided on.
        probability: of that class.
        picture: a JPEG as base64, None if there are no pictures.
        overlay: likewise, with the evidence for the decision.
        unlike: how unlike the training set, where that is above the threshold
            of 1, else None.
        is_uncertain: whether its prediction set holds several classes.
    """

    image_id: str
    true: str
    decided: str
    probability: float
    picture: str | None = None
    overlay: str | None = None
    unlike: float | None = None
    is_uncertain: bool = False


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images that share an outcome; `items` are the ones that are shown."""

    title: str
    is_wrong: bool
    num_images: int
    items: tuple[Item, ...]


def make_galleries(
    predictions: Decided, split: str, context: Context
) -> list[Gallery]:
    """Galleries of each outcome, mistakes first.

    The context gives pictures, overlays and scores of unlikeness.
    """
    decisions = predictions.decisions
    positive_index = predictions.positive_index
    is_wrong = (decisions != predictions.labels) & predictions.is_finite
    is_right = (decisions == predictions.labels) & predictions.is_finite
    if positive_index is None:
        outcomes = [("Mistakes", is_wrong), ("Named right", is_right)]
    else:
        positive = predictions.class_names[positive_index]
        negative = predictions.class_names[1 - positive_index]
        has = predictions.labels == positive_index
        outcomes = [
            (f"Missed: {positive} called {negative}", is_wrong & has),
            (f"False alarms: {negative} called {positive}", is_wrong & ~has),
            (f"Found: {positive} called {positive}", is_right & has),
            (f"Cleared: {negative} called {negative}", is_right & ~has),
        ]
    chosen = []
    for _, images in outcomes:
        most = MAX_WRONG if (images & is_wrong).any() else MAX_RIGHT
        members = np.flatnonzero(images)
        sure = predictions.probabilities[members, decisions[members]]
        chosen.append(members[np.argsort(-sure, kind="stable")[:most]])
    # All at once: the records are read, and the model called, a single time.
    items = iter(
        _make_items(predictions, np.concatenate(chosen), split, context)
    )
    return [
        Gallery(
            title,
            bool((images & is_wrong).any()),
            int(images.sum()),
            tuple(itertools.islice(items, len(members))),
        )
        for (title, images), members in zip(outcomes, chosen, strict=True)
    ]


def _make_items(
    predictions: Decided, chosen: np.ndarray, split: str, context: Context
) -> list[Item]:
    pictures: list[str | None] = [None] * len(chosen)
    overlays = pictures
    decisions, names = predictions.decisions, predictions.class_names
    if context.read_images is not None and len(chosen):
        encoded = context.read_images(split, chosen.tolist())
        pictures = [thumbnail(image_bytes) for image_bytes in encoded]
        if context.explain is not None:
            drawn = context.explain(encoded, decisions[chosen])
            overlays = [thumbnail(image_bytes) for image_bytes in drawn]
    unlike = context.of(split).unlikeness
    uncertain = np.zeros(len(decisions), bool)
    if predictions.set_thresholds is not None:
        uncertain = predictions.prediction_sets.sum(axis=1) > 1
    return [
        Item(
            image_id=predictions.ids[i],
            true=names[predictions.labels[i]],
            decided=names[decisions[i]],
            probability=float(predictions.probabilities[i, decisions[i]]),
            picture=picture,
            overlay=overlay,
            unlike=float(unlike[i])
            if unlike is not None and unlike[i] > 1
            else None,
            is_uncertain=bool(uncertain[i]),
        )
        for i, picture, overlay in zip(chosen, pictures, overlays, strict=True)
    ]


def thumbnail(image_bytes: bytes) -> str:
    """A small JPEG as base64."""
    with Image.open(io.BytesIO(image_bytes)) as image:
        small = image.convert("RGB" if image.mode != "L" else "L")
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
