"""Figures of folds, together and apart."""

import dataclasses

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from tests.evaluation import samples
from trainer.evaluation import calibration, cross_validation, metrics


def make_folds(num_classes=2, num_folds=2):
    folds = []
    for seed in range(num_folds):
        fold = {
            split: samples.random_predictions(
                num_images, num_classes, first + seed, skill=1 + seed
            )
            for split, num_images, first in (
                ("validation", 40, 10),
                ("test", 30 + 10 * seed, 0),
            )
        }
        # Groups of different folds are different ones.
        fold["test"].groups[:] = [f"{seed} {g}" for g in fold["test"].groups]
        folds.append(fold)
    return folds


def test_pooled_decisions_are_those_of_each_fold():
    folds = make_folds()
    decided = [
        cross_validation.decide(fold, samples.NAMES, 0, "youden")
        for fold in folds
    ]
    summary = cross_validation.summarize(decided, (0.1,))
    confusion, scores, truth = np.zeros((2, 2), int), [], []
    for fold, split in zip(folds, summary.folds, strict=True):
        chosen = calibration.choose(fold["validation"], 0, "youden")
        alone = dataclasses.replace(
            fold["test"],
            temperature=chosen.temperature,
            operating_point=chosen.operating_point,
        )
        own = metrics.compute_metrics(alone)
        assert split.confusion_matrix == own.confusion_matrix
        for name, metric in own.metrics.items():
            assert split.metrics[name].value == pytest.approx(
                metric.value, abs=1e-12
            )
        confusion += own.confusion_matrix
        scores += alone.probabilities[:, 0].tolist()
        truth += (alone.labels == 0).tolist()
    pooled = summary.pooled
    assert pooled.confusion_matrix == confusion.tolist()
    assert pooled.num_images == 70
    assert pooled.metrics["roc_auc"].value == pytest.approx(
        sklearn_metrics.roc_auc_score(truth, scores), abs=1e-6
    )
    areas = [split.metrics["roc_auc"].value for split in summary.folds]
    mean = summary.mean["roc_auc"]
    assert mean.value == pytest.approx(np.mean(areas))
    assert mean.sd == pytest.approx(np.std(areas, ddof=1))
    assert list(pooled.at_prevalence) == ["0.1"]


def test_finished_fold_survives_json_bit_for_bit():
    (fold,) = make_folds(4, 1)
    again = cross_validation.from_json(cross_validation.to_json(fold), "f")
    for split, p in fold.items():
        assert again[split].ids == p.ids and again[split].groups == p.groups
        np.testing.assert_array_equal(again[split].labels, p.labels)
        np.testing.assert_array_equal(again[split].logits, p.logits)
        assert again[split].logits.dtype == np.float32
    with pytest.raises(ValueError, match=r"fold\.json is damaged"):
        cross_validation.from_json("{}1", "fold.json")
