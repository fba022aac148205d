"""`predictions.csv` and `classification_report.txt`."""

import types
from collections.abc import Mapping

import numpy as np
from sklearn import metrics as sklearn_metrics

from trainer.evaluation.predictions import Decided
from trainer.storage import csv_text

COLUMNS = ("split", "id", "group", "label", "predicted", "score", "decision")


def predictions_csv(
    predictions: Mapping[str, Decided],
    unlikeness: Mapping[str, np.ndarray | None] = types.MappingProxyType({}),
) -> str:
    """A row per image: `COLUMNS` and a column `probability_CLASS` per class.

    `predicted` is the most probable class, `decision` the one that the
    operating point decides on. Nine digits, which float32 survives. Where the
    model gave no finite answer, both are empty. If there are prediction sets,
    a column `in_set_CLASS` per class is 1 where the set holds it, else 0; if
    `unlikeness` of a split is known, so is a column `out_of_distribution`.
    """
    first = next(iter(predictions.values()))
    names = first.class_names
    rows = [[*COLUMNS, *(f"probability_{name}" for name in names)]]
    if first.set_thresholds is not None:
        rows[0] += [f"in_set_{name}" for name in names]
    is_scored = any(scores is not None for scores in unlikeness.values())
    rows[0] += ["out_of_distribution"] * is_scored
    for split, p in predictions.items():
        predicted = p.logits.argmax(axis=-1)
        sets = np.empty((len(p.labels), 0), int)
        if p.set_thresholds is not None:
            sets = p.prediction_sets.astype(int)
        scores, far = p.scores, unlikeness.get(split)
        if far is None:
            far = np.full(len(scores), np.nan)
        for i, is_finite in enumerate(p.is_finite):
            rows.append(
                [
                    split,
                    p.ids[i],
                    p.groups[i],
                    names[p.labels[i]],
                    names[predicted[i]] if is_finite else "",
                    f"{scores[i]:.9g}",
                    names[p.decisions[i]] if is_finite else "",
                    *(f"{value:.9g}" for value in p.probabilities[i]),
                    *sets[i].tolist(),
                    *([_known(far[i])] if is_scored else []),
                ]
            )
    return csv_text.write(rows)


def _known(value: float) -> str:
    return f"{value:.9g}" if np.isfinite(value) else ""


def classification_report(predictions: Mapping[str, Decided]) -> str:
    """scikit-learn's report on the decisions of every split."""
    texts = []
    for split, decided in predictions.items():
        p = decided.select(decided.is_finite)
        text = "There is no image to judge by.\n"
        if len(p.labels):
            text = sklearn_metrics.classification_report(
                p.labels,
                p.decisions,
                labels=range(len(p.class_names)),
                target_names=list(p.class_names),
                digits=3,
                zero_division=0,
            )
        texts.append(f"{split}\n\n{text}")
    return "\n".join(texts)
