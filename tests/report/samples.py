"""Reports of random predictions."""

import functools
import html
import re

import numpy as np

from tests.evaluation.samples import NAMES, POSITIVE, random_predictions
from trainer.data import records
from trainer.report import report
from trainer.report.context import Context, SplitFacts

CONFIG = {
    "image_size": 224,
    "weights": "none",
    "seed": 0,
    "detector": True,
    "ensemble": False,
    "num_folds": 0,
    "class_weights": "balanced",
}
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


def make_splits(num_images=60, num_classes=2, num_groups=40, **options):
    return {
        split: random_predictions(
            num_images, num_classes, seed, num_groups, **options
        )
        for seed, split in enumerate(("validation", "test"))
    }


def make_info(predictions, class_names=NAMES, leaks=0):
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
        positive_class=class_names[POSITIVE] if len(class_names) == 2 else None,
        channels=1,
        stored_size=256,
        counts=counts,
        shards=(),
        fingerprint="f" * 64,
        options={},
        leaks=leaks,
    )


def evaluate(
    predictions,
    class_names=NAMES,
    leaks=0,
    test=None,
    study_rule="mean",
    **context,
):
    """A report; `test` are facts about the test split."""
    if test is not None:
        context["splits"] = {"test": SplitFacts(**test)}
    return report.evaluate(
        predictions,
        make_info(predictions, class_names, leaks),
        HISTORY,
        CONFIG,
        "youden",
        context=Context(**context),
        study_rule=study_rule,
    )


@functools.cache
def evaluate_part(num_classes, kept, skill=1.5):
    """A report of 20 images; its test split has some of the classes."""
    splits = make_splits(20, num_classes, skill=skill)
    test = splits["test"]
    splits["test"] = test.select(np.isin(test.labels, kept))
    return evaluate(splits, test.class_names)


def page_of(evaluation) -> str:
    return evaluation.files["report.html"].decode("utf-8")


def page_text(evaluation) -> str:
    """The words of the page, without tags, scripts and styles."""
    page = re.sub(
        r"<(script|style).*?</\1>", "", page_of(evaluation), flags=re.DOTALL
    )
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    return text.replace("\N{NO-BREAK SPACE}", " ")
