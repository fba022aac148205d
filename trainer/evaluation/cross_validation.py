"""What the folds of a cross-validation say together.

Each fold chooses its temperature and its operating point on its own
validation images and applies them to the images that it has not seen.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np

from trainer.evaluation import calibration, metrics
from trainer.evaluation import predictions as predictions_lib


def summarize(
    folds: Sequence[Mapping[str, predictions_lib.Predictions]],
    class_names: tuple[str, ...],
    positive_index: int | None,
    operating_point_rule: str,
    prevalences: tuple[float, ...] = (),
    seed: int = 0,
) -> tuple[dict, str]:
    """Pooled and per-fold figures.

    Args:
        folds: "validation" and "test" of each fold, uncalibrated.
        class_names: in the order of the labels.
        positive_index: label of the positive class, None unless there are two.
        operating_point_rule: see `calibration.parse_rule`.
        prevalences: at which pooled predictive values are asked for.
        seed: of the bootstrap.

    Returns:
        What `report` documents as `cross_validation`, and the text of a table
        as `predictions.csv`, with the fold instead of the split.
    """
    names, positive = class_names, positive_index
    decided = [_decide(fold, positive, operating_point_rule) for fold in folds]
    judged = [p.select(p.is_finite) for p in decided]
    found = [
        metrics.compute_metrics(p, names, positive, None, seed=seed)
        | {"num_without_answer": len(every.ids) - len(p.ids)}
        for p, every in zip(judged, decided, strict=True)
    ]
    pooled = metrics.compute_metrics(
        _concatenate(judged),
        names,
        positive,
        None,
        seed=seed,
        prevalences=prevalences,
    )
    pooled["num_without_answer"] = sum(f["num_without_answer"] for f in found)
    summary = {
        "num_folds": len(folds),
        "pooled": pooled,
        "folds": found,
        "mean": {
            name: _mean([fold["metrics"][name]["value"] for fold in found])
            for name in pooled["metrics"]
        },
    }
    table = predictions_lib.predictions_csv(
        {f"fold {i}": p for i, p in enumerate(decided, start=1)},
        names,
        positive,
        None,
    )
    return summary, table


def _decide(
    fold: Mapping[str, predictions_lib.Predictions],
    positive_index: int | None,
    rule: str,
) -> predictions_lib.Predictions:
    """A fold's test predictions, calibrated and decided by its validation."""
    chosen = calibration.choose(fold["validation"], positive_index, rule)
    test = dataclasses.replace(
        fold["test"],
        # Folds have temperatures of their own, what is pooled has none.
        logits=fold["test"].logits.astype(np.float64) / chosen.temperature,
    )
    return dataclasses.replace(
        test, decisions=test.decided(positive_index, chosen.operating_point)
    )


def _concatenate(
    parts: Sequence[predictions_lib.Predictions],
) -> predictions_lib.Predictions:
    return predictions_lib.Predictions(
        ids=[name for part in parts for name in part.ids],
        groups=[group for part in parts for group in part.groups],
        labels=np.concatenate([part.labels for part in parts]),
        logits=np.concatenate([part.logits for part in parts]),
        decisions=np.concatenate([part.decisions for part in parts]),
    )


def _mean(values: Sequence[float | None]) -> dict:
    """Mean and standard deviation over the folds that have a value."""
    known = [value for value in values if value is not None]
    return {
        "value": float(np.mean(known)) if known else None,
        "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "num_folds": len(known),
    }


def to_json(fold: Mapping[str, predictions_lib.Predictions]) -> str:
    """A finished fold as text, from which its figures can be made again."""
    return json.dumps(
        {
            split: {
                "ids": p.ids,
                "groups": p.groups,
                "labels": p.labels.tolist(),
                "logits": p.logits.tolist(),
            }
            for split, p in fold.items()
        }
    )


def from_json(text: str, source: str) -> dict[str, predictions_lib.Predictions]:
    """Parses what `to_json` wrote; `source` is named in errors."""
    try:
        return {
            split: predictions_lib.Predictions(
                ids=part["ids"],
                groups=part["groups"],
                labels=np.array(part["labels"], np.int32),
                logits=np.array(part["logits"], np.float32),
            )
            for split, part in json.loads(text).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{source} is damaged ({error}): delete it, and the fold is "
            "trained again."
        ) from error
