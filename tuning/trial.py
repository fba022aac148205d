"""Runs a trial: trains heads with its hyperparameters and judges them."""

import dataclasses
import time

import numpy as np

from trainer import run
from trainer.evaluation import metrics
from trainer.evaluation.predictions import Predictions, make_predictions
from trainer.training import head_training

# A trial that after this share of its epochs is no better than the untrained
# head is not going to be the best.
PROBATION = 1 / 3
_LOWER_IS_BETTER = ("log_loss", "brier", "expected_calibration_error")


@dataclasses.dataclass(frozen=True)
class SweepData:
    """What all trials of a sweep share.

    Attributes:
        views: augmentation strength -> each view, float16 `[images, features]`.
        features: float16 `[judged, features]` of the images to judge on, as
            they are served.
        first_judged: the place among the images of the first of those.
        ids: of the images.
        groups: likewise.
        labels: int32 `[images]`.
        folds: of each, places of the images to train and to judge on.
        class_names: in the order of the labels.
        positive_index: of the positive of two classes.
    """

    views: dict[float, list[np.ndarray]]
    features: np.ndarray
    first_judged: int
    ids: list[str]
    groups: list[str]
    labels: np.ndarray
    folds: list[tuple[np.ndarray, np.ndarray]]
    class_names: tuple[str, ...]
    positive_index: int | None

    def predictions(
        self, places: np.ndarray, logits: np.ndarray
    ) -> Predictions:
        """What a head said of some images."""
        return make_predictions(
            [self.ids[i] for i in places],
            [self.groups[i] for i in places],
            self.labels[places].tolist(),
            logits,
        )

    @property
    def judged(self) -> np.ndarray:
        """Places of all images that some fold judges on, ascending."""
        return np.sort(np.concatenate([judged for _, judged in self.folds]))


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """What came of a trial.

    Attributes:
        metrics: mean over seeds and folds of each metric of `metrics.json`.
        executions: the objective of each seed and fold.
        logits: float32 `[judged, K]`, mean over the seeds.
        num_epochs: mean epochs until the best.
        seconds: that the trial took.
    """

    metrics: dict[str, float]
    executions: list[float]
    logits: np.ndarray
    num_epochs: float
    seconds: float


def metric_names(num_classes: int) -> list[str]:
    """What an objective may be: metrics of a whole split in `metrics.json`."""
    names = tuple(f"class_{i}" for i in range(num_classes))
    labels = list(range(num_classes)) * 2
    logits = np.eye(num_classes, dtype=np.float32)[labels]
    found = point_metrics(
        make_predictions(list("x" * len(labels)), labels, labels, logits),
        names,
        1 if num_classes == 2 else None,
    )
    return sorted(found)


def direction(objective: str) -> str:
    """Whether "max" or "min" of a metric is best."""
    return "min" if objective in _LOWER_IS_BETTER else "max"


def point_metrics(
    predictions: Predictions,
    class_names: tuple[str, ...],
    positive_index: int | None,
    weights: np.ndarray | None = None,
) -> dict[str, float]:
    """Metrics of a split without intervals, decided at a probability of 1/2.

    Args:
        predictions: of the split.
        class_names: in the order of the labels.
        positive_index: of the positive of two classes.
        weights: float64 `[resamples, images]`; one of ones by default.

    Returns:
        A number of each metric, or an array `[resamples]` if there are
        weights.
    """
    statistics = metrics.make_statistics(
        predictions.decide(class_names, positive_index, 0.5)
    )
    once = np.ones((1, len(predictions.labels)))
    found = statistics(once if weights is None else weights)
    return {
        name: values if weights is not None else float(values[0])
        for (part, name), values in found.items()
        if not part
    }


def run_trial(
    settings: dict,
    strength: float,
    data: SweepData,
    seeds: list[int],
    objective: str,
) -> TrialResult:
    """Trains a head for each seed and fold and judges it.

    Args:
        settings: fields of a `TrainConfig`.
        strength: of the augmentation, one of `data.views`.
        data: of the sweep.
        seeds: of the heads, one execution each.
        objective: one of `metric_names`.

    Raises:
        ValueError: if a loss is not finite, or the objective is not defined.
    """
    start = time.monotonic()
    found, logits, epochs = [], 0.0, []
    for seed in seeds:
        head = run.make_head_settings(
            {**settings, "seed": seed}, len(data.class_names)
        )
        places, of_seed = [], []
        for train, judged in data.folds:
            trained = head_training.train_head(
                head,
                data.views[strength],
                train,
                data.labels[train],
                data.features[judged - data.first_judged],
                data.labels[judged],
                goes_on=_Probation(head.head_epochs),
            )
            predictions = data.predictions(judged, trained.logits)
            found.append(
                point_metrics(
                    predictions, data.class_names, data.positive_index
                )
            )
            epochs.append(trained.best_epoch)
            places.append(judged)
            of_seed.append(trained.logits)
        order = np.argsort(np.concatenate(places))
        logits = logits + np.concatenate(of_seed)[order] / len(seeds)
    executions = [one[objective] for one in found]
    if not np.isfinite(executions).all():
        raise ValueError(
            f"{objective} is not defined: the images judged on lack a class."
        )
    return TrialResult(
        {
            name: float(np.mean([one[name] for one in found]))
            for name in found[0]
        },
        executions,
        logits.astype(np.float32),
        float(np.mean(epochs)),
        time.monotonic() - start,
    )


class _Probation:
    """Stops a head that has not become better than it began."""

    def __init__(self, num_epochs: int):
        self._last = max(3, int(num_epochs * PROBATION))

    def __call__(self, history: list[dict]) -> bool:
        if len(history) != self._last:
            return True
        return min(row["val_loss"] for row in history) < history[0]["val_loss"]
