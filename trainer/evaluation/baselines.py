"""What a model must beat: guesses that know no medicine.

The majority class, the nearest training image by raw pixels, and a logistic
regression on facts about the file. A model that does not beat them has
learned no more than copies of images, or how the files were made.
"""

import dataclasses
import io
import warnings
from collections.abc import Iterable

import numpy as np
from PIL import Image
from sklearn import exceptions, linear_model, pipeline, preprocessing

from trainer.evaluation import intervals, ranking, resampling, results
from trainer.evaluation.predictions import Decided

PIXEL_SIZE = 64
METADATA = ("width", "height", "bytes", "is_jpeg", "is_colour", "brightness")
_CHUNK = 2048  # images as float64 in memory at a time


@dataclasses.dataclass(frozen=True)
class SplitImages:
    """One split as the baselines see it, in the order of its records.

    Attributes:
        labels: int `[images]`.
        pixels: uint8 `[images, 64 * 64]`, grey.
        metadata: float64 `[images, facts]`, see `METADATA`.
    """

    labels: np.ndarray
    pixels: np.ndarray
    metadata: np.ndarray


def describe_images(
    encoded: Iterable[bytes], labels: Iterable[int]
) -> SplitImages:
    """Reads what the baselines use from encoded images, JPEG or PNG each."""
    pixels, metadata = [], []
    for image_bytes in encoded:
        with Image.open(io.BytesIO(image_bytes)) as image:
            grey = image.convert("L").resize(
                (PIXEL_SIZE, PIXEL_SIZE), Image.Resampling.BOX
            )
            small = np.asarray(grey).ravel()
            pixels.append(small)
            metadata.append(
                (
                    np.log(image.width),
                    np.log(image.height),
                    np.log(len(image_bytes)),
                    image.format == "JPEG",
                    image.mode not in ("L", "1", "I", "I;16"),
                    small.mean() / 255,
                )
            )
    return SplitImages(
        np.fromiter(labels, np.int64),
        np.array(pixels, np.uint8).reshape(-1, PIXEL_SIZE**2),
        np.array(metadata, np.float64).reshape(-1, len(METADATA)),
    )


def majority_class(
    train_labels: np.ndarray, num_images: int, num_classes: int
) -> np.ndarray:
    """The classes' shares of training for every image, `[images, classes]`."""
    counts = np.bincount(train_labels, minlength=num_classes)
    return np.tile(counts / max(1, counts.sum()), (num_images, 1))


def nearest_neighbor(
    train_pixels: np.ndarray,
    train_labels: np.ndarray,
    pixels: np.ndarray,
    num_classes: int,
) -> np.ndarray:
    """Scores of each class by its nearest training image.

    float64 `[images, classes]`: inverse distances that sum to 1, so the
    greatest is of the class of the nearest image.
    """
    nearest = np.full((len(pixels), num_classes), np.inf)
    for start in range(0, len(train_labels), _CHUNK):
        # Whole numbers in float64: distances are exact, and a copy's is 0.
        part = train_pixels[start : start + _CHUNK].astype(np.float64)
        labels = train_labels[start : start + _CHUNK]
        norms = np.sum(part**2, axis=1)
        for first in range(0, len(pixels), _CHUNK):
            images = pixels[first : first + _CHUNK].astype(np.float64)
            squared = norms - 2 * images @ part.T
            squared += np.sum(images**2, axis=1, keepdims=True)
            best = nearest[first : first + _CHUNK]
            for c in np.unique(labels):
                closest = squared[:, labels == c].min(axis=1)
                best[:, c] = np.minimum(best[:, c], closest)
    closeness = 1 / np.sqrt(np.maximum(nearest, 1e-9))
    return closeness / closeness.sum(axis=1, keepdims=True)


def metadata_regression(
    train_metadata: np.ndarray,
    train_labels: np.ndarray,
    metadata: np.ndarray,
    num_classes: int,
) -> np.ndarray:
    """Probabilities of a logistic regression, `[images, classes]`."""
    probabilities = np.zeros((len(metadata), num_classes))
    classes = np.unique(train_labels)
    if len(classes) < 2 or not len(metadata):
        probabilities[:, classes] = 1.0
        return probabilities
    model = pipeline.make_pipeline(
        preprocessing.StandardScaler(),
        linear_model.LogisticRegression(max_iter=1000),
    )
    with warnings.catch_warnings():
        # A baseline that stops a little early is still a baseline.
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        model.fit(train_metadata, train_labels)
    probabilities[:, classes] = model.predict_proba(metadata)
    return probabilities


def make_baselines(
    train: SplitImages,
    images: SplitImages,
    num_classes: int,
    originals: SplitImages | None = None,
) -> dict[str, np.ndarray]:
    """Scores of every baseline for a split, float64 `[images, classes]`.

    Args:
        train: the training images, as records store them.
        images: of the split.
        num_classes: of the data set.
        originals: images to learn facts about files from. Records store
            training images resized, so those are not the facts of a test
            image: test learns from validation, and validation from none.
    """
    scores = {
        "majority class": majority_class(
            train.labels, len(images.labels), num_classes
        ),
        "nearest neighbour": nearest_neighbor(
            train.pixels, train.labels, images.pixels, num_classes
        ),
    }
    if originals is not None:
        scores["file metadata"] = metadata_regression(
            originals.metadata, originals.labels, images.metadata, num_classes
        )
    return scores


def _comparable(
    labels: np.ndarray,
    probabilities: np.ndarray,
    positive_index: int | None,
    weights: np.ndarray,
) -> np.ndarray:
    """ROC AUC of two classes, balanced accuracy of more, per resample."""
    if positive_index is not None:
        return ranking.roc_auc(
            labels == positive_index, probabilities[:, positive_index], weights
        )
    hit = probabilities.argmax(axis=-1) == labels
    recalls = []
    for c in np.unique(labels):
        counted = weights[:, labels == c]
        recalls.append(
            ranking.ratio(counted @ hit[labels == c], counted.sum(axis=1))
        )
    # A resample without one of the classes does not tell.
    return np.mean(recalls, axis=0)


def compare(
    predictions: Decided,
    baselines: dict[str, np.ndarray],
    num_resamples: int = resampling.NUM_RESAMPLES,
    seed: int = 0,
) -> results.Baselines:
    """Every baseline's figure, and how far the model is above it.

    The model's predictions are finite. Model and baselines, float `[images,
    classes]` of the same images, are judged on the same draws of groups.
    """
    labels, positive = predictions.labels, predictions.positive_index

    def statistics(weights: np.ndarray) -> resampling.Statistics:
        scored = {"": predictions.probabilities} | baselines
        return {
            (name, ""): _comparable(labels, scores, positive, weights)
            for name, scores in scored.items()
        }

    values, resampled = resampling.resample(
        statistics, predictions.groups, num_resamples, seed
    )
    fewest = intervals.fewest_groups(predictions.groups, labels)

    def judged(name: str) -> intervals.Judged:
        value, drawn = values[name, ""], resampled[name, ""]
        interval = intervals.score_interval(value, drawn, fewest)
        return value, drawn, interval

    model = judged("")
    compared: results.Baselines = {}
    for name, scores in baselines.items():
        value, drawn, of_baseline = judged(name)
        difference = model[0] - value
        if not np.isfinite(difference):
            compared[name] = results.NoBaseline(
                None, "needs images of both classes", None
            )
            continue
        if not np.ptp(scores, axis=0).any():  # knows nothing, and surely so
            of_baseline = value, value
        interval = intervals.difference_interval(
            model, (value, drawn, of_baseline), fewest
        )
        beaten = interval is not None and interval[0] > 0
        figures = value, difference, interval, beaten
        if positive is None:
            compared[name] = results.Baseline("balanced_accuracy", *figures)
            continue
        test = None
        if interval is not None:
            test = ranking.delong_test(
                labels == positive,
                predictions.probabilities[:, positive],
                scores[:, positive],
            )
        compared[name] = results.BaselineOfTwo(
            "roc_auc", *figures, None if test is None else test.p_value
        )
    return compared
