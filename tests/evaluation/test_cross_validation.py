"""Figures of folds, together and apart."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from tests.evaluation import samples
from trainer.evaluation import cross_validation
from trainer.report import report


def make_folds(num_classes=2, num_folds=3):
    folds = []
    for seed in range(num_folds):
        fold = {
            "validation": samples.random_predictions(
                40, num_classes, 10 + seed, skill=1 + seed
            ),
            "test": samples.random_predictions(
                30 + 10 * seed, num_classes, seed, skill=1 + seed
            ),
        }
        # Groups of different folds are different ones.
        fold["test"].groups[:] = [f"{seed} {g}" for g in fold["test"].groups]
        folds.append(fold)
    return folds


def test_pooled_decisions_are_those_of_each_fold():
    folds = make_folds()
    info = samples.make_info({"validation": folds[0]["validation"]})
    summary, table = cross_validation.summarize(
        folds, info.class_names, info.positive_index, "youden", (0.1,)
    )
    confusion, scores, truth = np.zeros((2, 2), int), [], []
    for fold, found in zip(folds, summary["folds"], strict=True):
        alone = report.evaluate(
            fold,
            info,
            samples.HISTORY,
            {"image_size": 1, "weights": ""},
            "youden",
        )
        own = alone.metrics["splits"]["test"]
        assert found["confusion_matrix"] == own["confusion_matrix"]
        for name, metric in own["metrics"].items():
            assert found["metrics"][name]["value"] == pytest.approx(
                metric["value"], abs=1e-12
            )
        confusion += own["confusion_matrix"]
        logits = fold["test"].logits[:, 1] / alone.temperature
        scores += logits.tolist()
        truth += fold["test"].labels.tolist()
    pooled = summary["pooled"]
    assert pooled["confusion_matrix"] == confusion.tolist()
    assert pooled["num_images"] == 120
    assert pooled["metrics"]["roc_auc"]["value"] == pytest.approx(
        sklearn_metrics.roc_auc_score(truth, scores), abs=1e-6
    )
    areas = [f["metrics"]["roc_auc"]["value"] for f in summary["folds"]]
    assert summary["mean"]["roc_auc"]["value"] == pytest.approx(np.mean(areas))
    assert summary["mean"]["roc_auc"]["sd"] == pytest.approx(
        np.std(areas, ddof=1)
    )
    assert list(pooled["at_prevalence"]) == ["0.1"]
    assert len(table.splitlines()) == 121


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


def test_report_without_a_test_split_gives_the_folds_beside_it():
    folds = make_folds()
    predictions = {"validation": folds[0]["validation"]}
    info = samples.make_info(predictions)
    summary, _ = cross_validation.summarize(
        folds, info.class_names, info.positive_index, "youden"
    )
    evaluation = report.evaluate(
        predictions,
        info,
        samples.HISTORY,
        {"image_size": 1, "weights": ""},
        "youden",
        context=report.Context(cross_validation=summary),
    )
    value = summary["pooled"]["metrics"]["roc_auc"]["value"]
    (said,) = [c for c in evaluation.metrics["caveats"] if "no test split" in c]
    assert f"Those of the 3 folds are not: ROC AUC {value:.3f}" in said
    assert evaluation.metrics["cross_validation"] == summary
    page = evaluation.files["report.html"].decode()
    assert "Cross-validation over 3 folds" in page
    assert page.count('<th scope="col">fold ') == 3
