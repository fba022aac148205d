"""Trains a model per fold; a fold that is finished is not trained again."""

import dataclasses
import functools
import hashlib

import tensorflow as tf
from absl import logging

from trainer import config, train
from trainer.data import fold_records, input_pipeline, records
from trainer.evaluation import cross_validation
from trainer.evaluation.predictions import Predictions
from trainer.run import claim_job_dir
from trainer.storage import paths
from trainer.training import distribution

FOLD_FILE = "predictions.json"


def train_folds(
    cfg: config.TrainConfig,
    info: records.DatasetInfo,
    strategy: tf.distribute.Strategy,
) -> list[dict[str, Predictions]]:
    """Trains and predicts each of `cfg.num_folds` folds.

    The same as a run does on the whole data set, with the same flags. The test
    split of the whole takes no part.

    Returns:
        Predictions of "validation" and "test" of each fold, uncalibrated.

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


def _train_fold(cfg, info, strategy, fold, split_of_images):
    """Predictions of a fold, kept as soon as they are there."""
    is_chief = distribution.is_chief(strategy)
    name = f"fold {fold + 1} of {cfg.num_folds}"
    directory = paths.join(
        cfg.job_dir, "folds", f"{fold + 1}-of-{cfg.num_folds}"
    )
    path = paths.join(directory, FOLD_FILE)
    if paths.exists(path):
        logging.info("%s is finished; its result is kept.", name)
        text = paths.read_bytes(path).decode("utf-8")
        return cross_validation.from_json(text, path)
    logging.info("%s", name)
    fold_cfg = dataclasses.replace(
        cfg,
        data_dir=paths.join(directory, "records"),
        job_dir=paths.join(directory, "run"),
        num_folds=0,
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
    if is_chief:
        text = cross_validation.to_json(trained.predictions)
        paths.write_atomically(path, text)
    # All have their predictions: none reads these any more.
    _wait_for_chief(strategy, name)
    if is_chief or is_private:
        tf.io.gfile.rmtree(fold_cfg.data_dir)
    if is_chief:
        tf.io.gfile.rmtree(fold_cfg.job_dir)
    return trained.predictions


def _wait_for_chief(strategy: tf.distribute.Strategy, name: str) -> None:
    """All workers meet here, after what the chief did before."""
    with strategy.scope():
        distribution.check_agreement(
            strategy,
            {"fold": hashlib.sha256(name.encode()).hexdigest()},
            "give all of them the same --job_dir, on storage that they share",
        )
