"""Trains a model per fold; a fold that is finished is not trained again."""

import dataclasses
import functools
import hashlib
import os

import numpy as np
import tensorflow as tf
from absl import logging

from trainer import config, train
from trainer.data import fold_records, input_pipeline, records
from trainer.evaluation import cross_validation
from trainer.evaluation.predictions import Predictions
from trainer.run import claim_job_dir
from trainer.storage import paths
from trainer.training import checkpoints, distribution, history

FOLD_FILE = "predictions.json"
MEMBER_FILE = "member.npz"


@dataclasses.dataclass(frozen=True)
class Fold:
    """What is left of a fold.

    Attributes:
        predictions: of its "validation" and its "test", uncalibrated.
        weights: of its model, on the chief; none without `--ensemble`.
    """

    predictions: dict[str, Predictions]
    weights: list[np.ndarray]


def train_folds(
    cfg: config.TrainConfig,
    info: records.DatasetInfo,
    strategy: tf.distribute.Strategy,
) -> list[Fold]:
    """Trains and predicts each of `cfg.num_folds` folds.

    The same as a run does on the whole data set, with the same flags. The test
    split of the whole takes no part.

    Raises:
        ValueError: if a class has fewer groups than there are folds, or as of
            `train.train_and_predict`.
    """
    if not cfg.num_folds:
        return []
    claim_job_dir(cfg, info, distribution.is_chief(strategy))
    index = input_pipeline.read_index(cfg.data_dir, info)
    # Refused for all folds before the first is trained.
    split_of_images = [
        fold_records.assign(index, info, cfg.num_folds, fold, cfg.seed)
        for fold in range(cfg.num_folds)
    ]
    return [
        _train_fold(cfg, info, strategy, fold, split_of_images[fold])
        for fold in range(cfg.num_folds)
    ]


def _train_fold(cfg, info, strategy, fold, split_of_images) -> Fold:
    """A fold, kept as soon as it is there."""
    is_chief = distribution.is_chief(strategy)
    name = f"fold {fold + 1} of {cfg.num_folds}"
    directory = paths.join(
        cfg.job_dir, "folds", f"{fold + 1}-of-{cfg.num_folds}"
    )
    path = paths.join(directory, FOLD_FILE)
    member_path = paths.join(directory, MEMBER_FILE)
    if paths.exists(path):
        logging.info("%s is finished; its result is kept.", name)
        text = paths.read_bytes(path).decode("utf-8")
        return Fold(
            cross_validation.from_json(text, path),
            _read_member(member_path) if cfg.ensemble and is_chief else [],
        )
    logging.info("%s", name)
    fold_cfg = dataclasses.replace(
        cfg,
        data_dir=paths.join(directory, "records"),
        job_dir=paths.join(directory, "run"),
        num_folds=0,
        ensemble=False,
        subgroups="",
        # In a bucket they are of no use to another run: they go with the
        # fold's records.
        features_dir=(
            "" if paths.is_remote(cfg.features_dir) else cfg.features_dir
        ),
    )
    write_records = functools.partial(
        fold_records.write_fold,
        cfg.data_dir,
        info,
        split_of_images,
        fold_cfg.data_dir,
        cfg.seed,
    )
    if is_chief:
        write_records()
    _wait_for_chief(strategy, name)
    # Where the job directory is in a bucket, each has a copy of its own.
    is_private = not is_chief and not paths.exists(
        paths.join(fold_cfg.data_dir, records.DATASET_FILE)
    )
    if is_private:
        write_records()
    trained = train.train_and_predict(
        fold_cfg, input_pipeline.read_dataset_info(fold_cfg.data_dir), strategy
    )
    weights = []
    if cfg.ensemble and is_chief:
        weights = trained.run.model.get_weights()
        kept = checkpoints.Progress(finished=True, best_weights=weights)
        paths.write_atomically(member_path, kept.to_bytes())
        history.write_csv(directory, trained.rows)
    if is_chief:
        text = cross_validation.to_json(trained.predictions)
        paths.write_atomically(path, text)
    # All have their predictions: none reads these any more.
    _wait_for_chief(strategy, name)
    if is_chief or is_private:
        tf.io.gfile.rmtree(fold_cfg.data_dir)
    if is_chief:
        tf.io.gfile.rmtree(fold_cfg.job_dir)
    return Fold(trained.predictions, weights)


def _read_member(path: str) -> list[np.ndarray]:
    kept = checkpoints.read_progress(path)
    if kept is None:
        raise ValueError(
            f"{path} is absent or damaged: delete {os.path.dirname(path)}, and "
            "the fold is trained again."
        )
    return kept.best_weights


def _wait_for_chief(strategy: tf.distribute.Strategy, name: str) -> None:
    """All workers meet here, after what the chief did before."""
    with strategy.scope():
        distribution.check_agreement(
            strategy,
            {"fold": hashlib.sha256(name.encode()).hexdigest()},
            "give all of them the same --job_dir, on storage that they share",
        )
