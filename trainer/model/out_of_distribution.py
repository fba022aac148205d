"""How unlike the training set an image is, and from where on to say so.

The distance of an image is that to its nearest training images, by the cosine
of their pooled features (Sun et al., 2022, "Out-of-Distribution Detection with
Deep Nearest Neighbors", https://arxiv.org/abs/2204.06507), at the backbone's
last two stages: both, since fine-tuning may narrow the last one to what tells
the classes apart. The features are not centred: what all training images have
in common is what a photograph lacks.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from trainer.data import preprocessing

# Stages whose pooled outputs describe an image.
STAGES = ("block7a_project_bn", "top_activation")
# More training images would add to the export, and little to what is known.
MAX_EXEMPLARS = 1000
_NUM_NEIGHBOURS = 5
_RANK = 64
# Of numbers between -1 and 1 in 16 bits.
_STEP = 1 / 32767
# The share of validation images that is not flagged, by the threshold.
_COVERAGE = 0.95
# Below it distances are rounding: of copies of training images.
_MIN_DISTANCE = 1e-6
_BATCH_SIZE = 32


def descriptor_model(model: keras.Model) -> keras.Model:
    """Pixels -> what the detector sees of an image.

    Returns:
        Model: pixels of a classifier -> float32 `[batch, D]`, the pooled
        outputs of `STAGES` side by side.
    """
    # In float32, whatever the policy that the model was trained under.
    pool = keras.layers.GlobalAveragePooling2D(dtype="float32")
    pooled = [pool(model.get_layer(name).output) for name in STAGES]
    descriptor = keras.layers.Concatenate(dtype="float32")(pooled)
    return keras.Model(model.input, descriptor)


def stage_sizes(model: keras.Model) -> tuple[int, ...]:
    """How many numbers of a descriptor come from each of `STAGES`."""
    return tuple(model.get_layer(name).output.shape[-1] for name in STAGES)


def describe_images(model: keras.Model, images: list[bytes]) -> np.ndarray:
    """Descriptors of encoded images.

    Args:
        model: a trained classifier.
        images: JPEG or PNG each, which decode.

    Returns:
        float32 `[images, D]`.
    """
    _, image_size, _, channels = model.input.shape
    describe = tf.function(
        descriptor_model(model), autograph=False, reduce_retracing=True
    )
    descriptors = []
    for start in range(0, len(images), _BATCH_SIZE):
        pixels = [
            preprocessing.prepare_image(image, image_size, channels)
            for image in images[start : start + _BATCH_SIZE]
        ]
        descriptors.append(describe(tf.stack(pixels), training=False).numpy())
    return np.concatenate(descriptors)


@dataclasses.dataclass(frozen=True)
class _Stage:
    """Training images at one stage, as points on the unit sphere.

    Attributes:
        basis: `[features, rank]`, orthonormal: the directions in which the
            training images lie.
        exemplars: `[exemplars, rank]`, the training images in it. Both are
            int16 in units of `_STEP`, which halves what is exported.
        scale: the median distance of validation images.
    """

    basis: np.ndarray
    exemplars: np.ndarray
    scale: float = 1.0

    def distances(self, features: tf.Tensor) -> tf.Tensor:
        """1 - cosine, mean over the nearest exemplars, float32 `[batch]`."""
        unit = tf.math.l2_normalize(features, axis=-1)
        basis = _STEP * tf.cast(self.basis, tf.float32)
        exemplars = _STEP * tf.cast(self.exemplars, tf.float32)
        cosines = tf.matmul(unit @ basis, exemplars, transpose_b=True)
        k = min(_NUM_NEIGHBOURS, len(self.exemplars))
        nearest = tf.reduce_mean(tf.math.top_k(cosines, k).values, axis=-1)
        return tf.maximum(1 - nearest, _MIN_DISTANCE)


@dataclasses.dataclass(frozen=True)
class Detector:
    """Scores images by their distance to the training set; from `fit`.

    Attributes:
        stages: one per stage of the descriptor.
        threshold: what `score` divides by, so that 1 is the threshold.
    """

    stages: tuple[_Stage, ...]
    threshold: float = 1.0

    def score(self, descriptors: tf.Tensor) -> tf.Tensor:
        """How unlike the training set images are.

        Args:
            descriptors: float32 `[batch, D]`, from `descriptor_model`.

        Returns:
            float32 `[batch]`, positive: the geometric mean over the stages of
            the distance in units of a typical one. Above 1 an image is further
            away than 95 % of the validation images are.
        """
        sizes = [len(stage.basis) for stage in self.stages]
        parts = tf.split(descriptors, sizes, axis=-1)
        logs = [
            tf.math.log(stage.distances(part) / stage.scale)
            for stage, part in zip(self.stages, parts, strict=True)
        ]
        return tf.exp(tf.add_n(logs) / len(logs)) / self.threshold


def _quantize(values: np.ndarray) -> np.ndarray:
    """int16 of values in [-1, 1], in units of `_STEP`."""
    return np.clip(np.rint(values / _STEP), -32767, 32767).astype(np.int16)


def choose_exemplars(num_images: int) -> list[int]:
    """Indices of the training images that stand for all, evenly spread."""
    count = min(num_images, MAX_EXEMPLARS)
    return [i * num_images // count for i in range(count)]


def fit(
    train: np.ndarray, validation: np.ndarray, sizes: tuple[int, ...]
) -> Detector:
    """The detector of a training set, its threshold set on validation.

    Args:
        train: float32 `[images, D]`, descriptors of training images, at most
            `MAX_EXEMPLARS`.
        validation: float32 `[images, D]`, of validation images.
        sizes: from `stage_sizes`.

    Returns:
        Detector whose `score` is at most 1 for 95 % of images like those of
        validation (Vovk et al., 2005, "Algorithmic Learning in a Random
        World"); with fewer than 19 of them, for all of them.
    """
    # A model that diverged still gets a detector: its report says the rest.
    train, validation = np.nan_to_num(train), np.nan_to_num(validation)
    bounds = np.cumsum(sizes)[:-1]
    stages = []
    for known, unseen in zip(
        np.split(train, bounds, axis=1),
        np.split(validation, bounds, axis=1),
        strict=True,
    ):
        norms = np.linalg.norm(known, axis=1, keepdims=True)
        unit = (known / np.maximum(norms, 1e-6)).astype(np.float32)
        # Exemplars lie near few directions: the product with the basis gives
        # their cosines at a twentieth of the size.
        _, _, directions = np.linalg.svd(unit, full_matrices=False)
        basis = directions[:_RANK].T
        stage = _Stage(_quantize(basis), _quantize(unit @ basis))
        typical = np.median(stage.distances(unseen).numpy())
        stages.append(dataclasses.replace(stage, scale=float(typical)))
    detector = Detector(tuple(stages))
    scores = np.sort(detector.score(validation).numpy())
    rank = int(np.ceil(_COVERAGE * (len(scores) + 1)))
    threshold = scores[min(rank, len(scores)) - 1]
    return dataclasses.replace(detector, threshold=float(threshold))
