"""Predictions to evaluate: random, of groups of several images."""

import string

import numpy as np

from trainer.evaluation.predictions import Decided, make_predictions

NAMES = ("no_tumor", "tumor")
POSITIVE = 0  # of two; what holds for the last class holds for the first


def class_names(num_classes: int) -> tuple[str, ...]:
    if num_classes == 2:
        return NAMES
    return tuple(string.ascii_lowercase[:num_classes])


def random_predictions(
    num_images=60, num_classes=2, seed=0, num_groups=None, skill=1.5
) -> Decided:
    """Predictions that are right more often than not, decided at 0.4."""
    generator = np.random.default_rng(seed)
    labels = np.arange(num_images) % num_classes
    logits = generator.normal(size=(num_images, num_classes))
    logits[np.arange(num_images), labels] += skill
    is_binary = num_classes == 2
    if is_binary:
        logits = logits[:, 1:] - logits[:, :1]
    groups = generator.integers(0, num_groups or num_images, num_images)
    return make_predictions(
        [f"image_{i}.png" for i in range(num_images)],
        [f"group_{g}" for g in groups],
        labels.tolist(),
        logits.astype(np.float32),
    ).decide(
        class_names(num_classes),
        POSITIVE if is_binary else None,
        0.4 if is_binary else None,
    )
