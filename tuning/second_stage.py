"""How deep to fine-tune: the whole run of the best head, once for each depth.

A run takes minutes where a head takes a moment, so the depth is searched after
the head, over few values, and judged on the validation split.
"""

import dataclasses
import json

import numpy as np
import tensorflow as tf
from absl import logging

from trainer import config, config_flags, train
from trainer.data import input_pipeline
from trainer.run import claim_job_dir
from trainer.storage import paths
from tuning import objectives, optimism, trial

DIRECTORY = "second_stage"
RESULT_FILE = "result.json"


@dataclasses.dataclass(frozen=True)
class Depth:
    """What a run with so many blocks fine-tuned gave.

    Attributes:
        blocks: of the backbone that were fine-tuned; 0: the head alone.
        score: the objective on the validation split.
        metrics: all of them.
        logits: float32 `[validation images, K]`.
    """

    blocks: int
    score: float
    metrics: dict[str, float]
    logits: np.ndarray


def try_depths(
    cfg: config.TrainConfig,
    strategy: tf.distribute.Strategy,
    options,
    best_trial: str,
    settings: dict,
) -> list[Depth]:
    """Trains once for each depth; a depth that is finished is kept.

    Args:
        cfg: of the sweep.
        strategy: of this process.
        options: of the sweep; a depth of 0 trains the head alone.
        best_trial: the trial whose head it is.
        settings: of that trial, fields of a `TrainConfig`.

    Raises:
        ValueError: if an earlier result is of other flags, or the objective is
            not defined on the validation split.
    """
    info = input_pipeline.read_dataset_info(cfg.data_dir)
    tried = []
    for blocks in options.depths:
        job_dir = paths.join(
            cfg.job_dir, DIRECTORY, f"trial-{best_trial}-blocks-{blocks}"
        )
        changes = settings | depth_settings(cfg, blocks) | {"job_dir": job_dir}
        run_cfg = config_flags.make_config(vars(cfg) | changes)
        claim_job_dir(run_cfg, info, is_chief=True)
        path = paths.join(job_dir, RESULT_FILE)
        if not paths.exists(path):
            logging.info("second stage: %d block(s) fine-tuned", blocks)
            trained = train.train_and_predict(run_cfg, info, strategy)
            validation = trained.predictions["validation"]
            metrics = objectives.point_metrics(
                validation.decide(info.class_names, info.positive_index, 0.5)
            )
            result = {"metrics": metrics, "logits": validation.logits.tolist()}
            paths.write_atomically(path, json.dumps(result) + "\n")
            tf.io.gfile.rmtree(paths.join(job_dir, "checkpoints"))
        result = json.loads(paths.read_bytes(path))
        score = result["metrics"][options.objective]
        if not np.isfinite(score):
            raise ValueError(
                f"{options.objective} is not defined: the validation split "
                "lacks a class. Leave --second_stage out."
            )
        logits = np.array(result["logits"], np.float32)
        tried.append(Depth(blocks, score, result["metrics"], logits))
    return tried


def depth_settings(cfg: config.TrainConfig, blocks: int) -> dict:
    """Fields of a `TrainConfig` that fine-tune so many blocks."""
    if not blocks:
        return {"fine_tune_epochs": 0}
    return {
        "fine_tune_blocks": blocks,
        "fine_tune_epochs": cfg.fine_tune_epochs,
        "fine_tune_learning_rate": cfg.fine_tune_learning_rate,
    }


def make_verdict(
    depths: list[Depth], data: trial.SweepData, objective: str
) -> str:
    """What the depths gave and how far that may be believed, in a sentence.

    Args:
        depths: by `try_depths`.
        data: of the sweep, whose last images are the validation split.
        objective: a metric of `metrics.json`.
    """
    best = objectives.best(depths, objective)
    scores = ", ".join(f"{d.blocks}: {d.score:.3f}" for d in depths)
    places = np.arange(len(data.labels))
    num_train = len(places) - len(best.logits)
    on_validation = dataclasses.replace(
        data, folds=[(places[:num_train], places[num_train:])]
    )
    estimate = optimism.correct(
        [depth.logits for depth in depths], on_validation, objective
    )
    sentence = (
        f"Second stage, {objective} on the validation split by number "
        f"of blocks fine-tuned ({scores}): {best.blocks} is best"
    )
    if estimate.value is None:
        return f"{sentence}; there are too few images to say by what luck."
    return (
        f"{sentence}; chosen on some of the groups and judged on the others, "
        f"the choice gives {estimate.value:.3f}."
    )
