"""Reports that are only read: whole pages take a second each."""

import dataclasses
import types

import numpy as np
import pytest

from tests.evaluation.samples import POSITIVE
from tests.report.samples import evaluate, make_splits
from tests.samples import encode, make_pixels
from trainer.report import data_audit


@pytest.fixture(scope="session")
def binary():
    return evaluate(make_splits())


@pytest.fixture(scope="session")
def of_four():
    names = ("glioma", "meningioma", "none", "pituitary")
    return evaluate(make_splits(num_classes=4), names)


@pytest.fixture(params=["binary", "of_four"])
def either(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def illustrated():
    """A report with pictures, its test split and what it asked for."""
    splits = {
        name: dataclasses.replace(p, groups=p.ids)
        for name, p in make_splits(40, skill=0.5).items()
    }
    splits["test"].logits[0] = np.nan  # indices count this image too
    scores = np.full(40, 0.5)
    scores[3], scores[4] = 2.25, np.nan
    read, explained = [], []

    def read_images(split, indices):
        read.append((split, indices))
        return [encode(make_pixels(i, 0)) for i in indices]

    def explain(images, class_index):
        explained.append((len(images), class_index.tolist()))
        return [encode(make_pixels(i, 1)) for i in range(len(images))]

    evaluation = evaluate(
        splits,
        test={
            "unlikeness": scores,
            "columns": {"scanner": ["old"] * 10 + ["new"] * 30},
        },
        audit=data_audit.Audit("R is damaged."),
        read_images=read_images,
        explain=explain,
    )
    return types.SimpleNamespace(
        evaluation=evaluation,
        test=splits["test"].decide(
            splits["test"].class_names,
            POSITIVE,
            evaluation.findings.operating_point,
            evaluation.findings.temperature,
        ),
        read=read,
        explained=explained,
    )
