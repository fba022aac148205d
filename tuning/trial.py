"""Runs a trial: trains heads with its hyperparameters and judges them."""

import dataclasses
import functools

import numpy as np

from trainer import run
from trainer.evaluation.predictions import Decided, make_predictions
from trainer.training import head_training
from tuning import objectives

# A trial that after this share of its epochs is no better than the untrained
# head is not going to be the best.
PROBATION = 1 / 3


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

    def predictions(self, places: np.ndarray, logits: np.ndarray) -> Decided:
        """What a head said of some images, decided at a probability of 1/2."""
        return make_predictions(
            [self.ids[i] for i in places],
            [self.groups[i] for i in places],
            self.labels[places].tolist(),
            logits,
        ).decide(self.class_names, self.positive_index, 0.5)

    def metrics(
        self,
        places: np.ndarray,
        logits: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> dict:
        """See `objectives.point_metrics`."""
        return objectives.point_metrics(
            self.predictions(places, logits), weights
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
        logits: float32 `[judged, K]`, mean over the seeds.
        num_epochs: mean epochs until the best.
    """

    metrics: dict[str, float]
    logits: np.ndarray
    num_epochs: float


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
        objective: one of `objectives.metric_names`.

    Raises:
        ValueError: if a loss is not finite, or the objective is not defined.
    """
    order = np.argsort(np.concatenate([judged for _, judged in data.folds]))
    metrics, epochs, logits = [], [], 0.0
    for seed in seeds:
        head = run.make_head_settings(
            settings | {"seed": seed}, len(data.class_names)
        )
        logits_of_seed = []
        for train, judged in data.folds:
            trained = head_training.train_head(
                head,
                data.views[strength],
                train,
                data.labels[train],
                data.features[judged - data.first_judged],
                data.labels[judged],
                goes_on=functools.partial(_goes_on, head.head_epochs),
            )
            metrics.append(data.metrics(judged, trained.logits))
            epochs.append(trained.best_epoch)
            logits_of_seed.append(trained.logits)
        logits += np.concatenate(logits_of_seed)[order] / len(seeds)
    means = {
        name: float(np.mean([execution[name] for execution in metrics]))
        for name in metrics[0]
    }
    if not np.isfinite(means[objective]):
        raise ValueError(
            f"{objective} is not defined: the images judged on lack a class."
        )
    return TrialResult(means, logits.astype(np.float32), float(np.mean(epochs)))


def _goes_on(num_epochs: int, history: list[dict]) -> bool:
    """Whether a head, at the end of its probation, is better than it began."""
    losses = [row["val_loss"] for row in history]
    is_end = len(losses) == max(3, int(num_epochs * PROBATION))
    return not is_end or min(losses) < losses[0]
