"""`predictions.csv` and `classification_report.txt`."""

from collections.abc import Mapping

import numpy as np
from sklearn import metrics as sklearn_metrics

from trainer.evaluation.predictions import Decided
from trainer.storage import csv_text

COLUMNS = ("split", "id", "group", "label", "predicted", "score", "decision")


def predictions_csv(predictions: Mapping[str, Decided]) -> str:
    """A row per image: `COLUMNS` and a column `probability_CLASS` per class.

    `predicted` is the most probable class, `decision` the one that the
    operating point decides on. Nine digits, which float32 survives. Where the
    model gave no finite answer, both are empty. If there are prediction sets,
    a column `in_set_CLASS` per class is 1 where the set holds it, else 0.
    """
    first = next(iter(predictions.values()))
    names = first.class_names
    rows = [[*COLUMNS, *(f"probability_{name}" for name in names)]]
    if first.set_thresholds is not None:
        rows[0] += [f"in_set_{name}" for name in names]
    for split, p in predictions.items():
        predicted = p.logits.argmax(axis=-1)
        sets = np.empty((len(p.labels), 0), int)
        if p.set_thresholds is not None:
            sets = p.prediction_sets.astype(int)
        scores = p.scores
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
                ]
            )
    return csv_text.write(rows)


def classification_report(predictions: Mapping[str, Decided]) -> str:
    """scikit-learn's report on the decisions of every split."""
    texts = []
    for split, p in predictions.items():
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
