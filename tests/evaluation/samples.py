"""Predictions to evaluate: random, of groups of several images."""

import numpy as np

from trainer.data import records
from trainer.evaluation import predict


def random_predictions(
    num_images=60, num_classes=2, seed=0, num_groups=None, skill=1.5
):
    """Predictions that are right more often than not."""
    generator = np.random.default_rng(seed)
    labels = np.arange(num_images) % num_classes
    logits = generator.normal(size=(num_images, num_classes))
    logits[np.arange(num_images), labels] += skill
    if num_classes == 2:
        logits = logits[:, 1:] - logits[:, :1]
    groups = generator.integers(0, num_groups or num_images, num_images)
    return predict.make_predictions(
        [f"image_{i}.png" for i in range(num_images)],
        [f"group_{g}" for g in groups],
        labels.tolist(),
        logits.astype(np.float32),
    )


def make_info(predictions, class_names=("no_tumor", "tumor"), leaks=0):
    """The data set that predictions by split could be of."""
    counts = {
        split: {
            name: int(np.sum(p.labels == c))
            for c, name in enumerate(class_names)
        }
        for split, p in predictions.items()
    }
    counts["train"] = dict.fromkeys(class_names, 100)
    return records.DatasetInfo(
        class_names=class_names,
        positive_class=class_names[1] if len(class_names) == 2 else None,
        channels=1,
        stored_size=256,
        counts=counts,
        shards=(),
        fingerprint="f" * 64,
        options={},
        leaks=leaks,
    )


HISTORY = [
    {
        "phase": phase,
        "accuracy": 0.5 + epoch / 20,
        "val_accuracy": 0.4 + epoch / 20,
        "loss": 1 / epoch,
        "val_loss": 1.1 / epoch,
    }
    for epoch, phase in enumerate(["head"] * 4 + ["fine_tune"] * 3, start=1)
]
