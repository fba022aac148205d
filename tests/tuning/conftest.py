"""A sweep without records: features that tell the classes apart."""

import numpy as np
import pytest

from tuning import trial


@pytest.fixture(scope="session")
def data():
    """28 images to train on and 12 to judge on, two groups of each image."""
    rng = np.random.default_rng(0)
    labels = (np.arange(40) % 2).astype(np.int32)
    features = rng.normal(size=(40, 1280)).astype(np.float16)
    features[:, :8] += np.float16(1.2) * labels[:, np.newaxis]
    train, judged = np.arange(28), np.arange(28, 40)
    return trial.SweepData(
        views={
            0.0: [features[:28]],
            1.0: [features[:28], features[:28] + np.float16(0.1)],
        },
        features=features[28:],
        first_judged=28,
        ids=[f"image_{i}" for i in range(40)],
        groups=[f"group_{i // 2}" for i in range(40)],
        labels=labels,
        folds=[(train, judged)],
        class_names=("no_tumor", "tumor"),
        positive_index=1,
    )
