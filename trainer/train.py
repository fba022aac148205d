"""Trains one model on one data set, and predicts with it."""

import dataclasses
import hashlib
import sys

import keras
import tensorflow as tf

from trainer import config, phases
from trainer import run as job_lib
from trainer.data import records
from trainer.evaluation.predictions import Predictions, make_predictions
from trainer.model import classifier
from trainer.storage import paths
from trainer.training import distribution, loop, run_record

CONFIG_FILE = "config.json"


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model and what it says.

    Attributes:
        job: model, data and strategy.
        rows: of `history.csv`.
        predictions: of every image of validation and test, by split.
    """

    job: job_lib.Job
    rows: list[dict]
    predictions: dict[str, Predictions]


def set_up(cfg: config.TrainConfig) -> tf.distribute.Strategy:
    """Sets up what a process has once: seeds, strategy and precision."""
    keras.utils.set_random_seed(cfg.seed)
    if cfg.deterministic:
        distribution.make_deterministic()
    strategy = distribution.create_strategy(cfg.strategy, cfg.cluster_timeout_s)
    distribution.per_replica_batch_size(
        strategy, cfg.global_batch_size, cfg.accumulation_steps
    )
    keras.config.set_dtype_policy(distribution.choose_precision(cfg.precision))
    return strategy


def train_and_predict(
    cfg: config.TrainConfig,
    info: records.DatasetInfo,
    strategy: tf.distribute.Strategy,
) -> Trained:
    """Trains and predicts on all workers; goes on where it stopped.

    Args:
        cfg: what to do.
        info: the data set of `cfg.data_dir`.
        strategy: of this process.

    Raises:
        FileNotFoundError: if weights are missing.
        ValueError: if data, weights or job directory do not fit the
            configuration.
    """
    # Names of layers, and with them what a seed gives, must not depend on the
    # models that this process has built before.
    keras.backend.clear_session()
    # Weights have a seed before anything could draw one.
    keras.utils.set_random_seed(cfg.seed)
    with strategy.scope():
        job = job_lib.Job(cfg, info, strategy)
        distribution.check_agreement(
            strategy,
            {
                "flags": hashlib.sha256(cfg.shared_json().encode()).hexdigest(),
                "data set": info.fingerprint,
            },
            "start all of them with the same flags on the same data",
        )
        claim_job_dir(cfg, info, job.is_chief)
        if job.is_chief:
            run_record.append(
                cfg.job_dir,
                run_record.describe_start(
                    sys.orig_argv,
                    distribution.describe(strategy),
                    info.fingerprint,
                )
                | {"precision": keras.config.dtype_policy().name},
            )
        rows = phases.train(job)
        predictions = _predict(job)
    if not job.is_chief:
        tf.io.gfile.rmtree(job.scratch_dir)
    return Trained(job, rows, predictions)


def claim_job_dir(
    cfg: config.TrainConfig, info: records.DatasetInfo, is_chief: bool
) -> None:
    """Checks that the job directory is this run's; the chief writes into it."""
    config_path = paths.join(cfg.job_dir, CONFIG_FILE)
    dataset_path = paths.join(cfg.job_dir, records.DATASET_FILE)
    if paths.exists(config_path):
        text = paths.read_bytes(config_path).decode("utf-8")
        previous = config.TrainConfig.from_json(text, config_path)
        differences = cfg.differences(previous)
        if differences:
            changes = ", ".join(
                f"--{name}={old} (now {new})"
                for name, (new, old) in differences.items()
            )
            raise ValueError(
                f"{cfg.job_dir} belongs to a run with {changes}: give the "
                "same flags to continue it, or another --job_dir."
            )
    if paths.exists(dataset_path):
        text = paths.read_bytes(dataset_path).decode("utf-8")
        previous_info = records.DatasetInfo.from_json(text, dataset_path)
        if previous_info.fingerprint != info.fingerprint:
            raise ValueError(
                f"{cfg.job_dir} belongs to another data set than "
                f"{cfg.data_dir} holds (fingerprints "
                f"{previous_info.fingerprint[:12]} and "
                f"{info.fingerprint[:12]}): use another --job_dir."
            )
    if is_chief:
        paths.remove(paths.join(cfg.job_dir, paths.SUCCESS_FILE))
        paths.write_atomically(dataset_path, info.to_json())
        paths.write_atomically(config_path, cfg.to_json())


def _predict(job: job_lib.Job) -> dict[str, Predictions]:
    """Predicts every image of validation and test; on all workers."""
    # What is evaluated is what is served: in float32, whatever it was trained
    # in.
    mixed = keras.config.dtype_policy().name != "float32"
    if mixed:
        model = copy_for_inference(job)
        predict_step = loop.make_predict_function(job.strategy, model)
    else:
        predict_step = job.predict_step
    # GPUs would round what they multiply to ten bits.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    predictions = {}
    for split in job.info.splits:
        if split == "train":
            continue
        ids, groups, labels = job.index[split]
        predictions[split] = make_predictions(
            ids, groups, labels, job.outputs(predict_step, split)
        )
    return predictions


def copy_for_inference(job: job_lib.Job) -> keras.Model:
    """The trained model as it is served: in float32, without dropout."""
    return classifier.copy_for_inference(
        job.model,
        job.cfg.image_size,
        job.info.channels,
        job.info.num_classes,
        job.cfg.hidden_units,
        job.cfg.dropout,
        job.cfg.weights,
        job.cfg.head_activation,
        job.cfg.head_batch_norm,
    )
