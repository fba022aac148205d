"""What the folds of a cross-validation say together.

Each fold chooses its temperature and its operating point on its own
validation images and applies them to the images that it has not seen.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np

from trainer.evaluation import calibration, metrics, results
from trainer.evaluation.predictions import (
    Decided,
    Predictions,
    concatenate,
)


def decide(
    fold: Mapping[str, Predictions],
    class_names: tuple[str, ...],
    positive_index: int | None,
    rule: str,
) -> Decided:
    """A fold's "test" predictions, calibrated and decided by "validation".

    For the rule see `calibration.parse_rule`.
    """
    chosen = calibration.choose(fold["validation"], positive_index, rule)
    test = fold["test"].decide(
        class_names,
        positive_index,
        chosen.operating_point,
        chosen.temperature,
    )
    # Folds have choices of their own, what is pooled has none.
    return dataclasses.replace(
        test,
        logits=test.logits.astype(np.float64) / chosen.temperature,
        temperature=1.0,
        operating_point=None,
        own_decisions=test.decisions,
    )


def summarize(
    folds: Sequence[Decided],
    prevalences: tuple[float, ...] = (),
    seed: int = 0,
) -> results.CrossValidation:
    """Pooled and per-fold figures of what `decide` gave.

    `prevalences` are those at which pooled predictive values are asked for.
    """
    by_fold = [metrics.compute_metrics(p, seed=seed) for p in folds]
    pooled = metrics.compute_metrics(
        concatenate(folds), seed=seed, prevalences=prevalences
    )
    return results.CrossValidation(
        num_folds=len(folds),
        pooled=pooled,
        folds=by_fold,
        mean={
            name: _mean([fold.metrics[name].value for fold in by_fold])
            for name in pooled.metrics
        },
    )


def _mean(values: Sequence[float | None]) -> results.FoldMean:
    known = [value for value in values if value is not None]
    return results.FoldMean(
        value=float(np.mean(known)) if known else None,
        sd=float(np.std(known, ddof=1)) if len(known) > 1 else None,
        num_folds=len(known),
    )


def to_json(fold: Mapping[str, Predictions]) -> str:
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


def from_json(text: str, source: str) -> dict[str, Predictions]:
    """Parses what `to_json` wrote; `source` is named in errors."""
    try:
        return {
            split: Predictions(
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
