"""The one place that says what happens in what order."""

import dataclasses
import hashlib
import sys

import keras
import tensorflow as tf
from absl import logging

from trainer import config, phases, storage
from trainer import job as job_lib
from trainer.data import input_pipeline, output, records
from trainer.evaluation import (
    baselines,
    calibration,
    data_audit,
    metrics,
    predict,
    report,
)
from trainer.evaluation import predictions as predictions_lib
from trainer.export import (
    blessing,
    saved_model,
    serving_module,
    signature,
    warmup,
)
from trainer.model import classifier, out_of_distribution
from trainer.training import (
    cluster,
    distribution,
    loop,
    run_record,
)

CONFIG_FILE = "config.json"
MODEL_FILE = "medical_image_classifier.keras"


def run(cfg: config.TrainConfig) -> str:
    """Trains, evaluates and exports; goes on where an earlier run stopped.

    Args:
        cfg: what to do.

    Returns:
        Directory of the exported version; empty if this process is not the
        one that exports.

    Raises:
        FileNotFoundError: if data or weights are missing.
        ValueError: if data, weights, job directory or hardware do not fit the
            configuration.
    """
    # What evaluation needs is checked before hours of training.
    calibration.parse_rule(cfg.operating_point)
    metrics.parse_prevalences(cfg.prevalences.split(","))
    _read_columns(cfg)
    info = input_pipeline.read_dataset_info(cfg.data_dir)
    if "train" not in info.splits or "validation" not in info.splits:
        raise ValueError(
            f"{cfg.data_dir} has the splits {', '.join(info.splits)}; training "
            "needs train and validation: build the records again."
        )
    if cluster.is_evaluator():
        logging.info(
            "The chief evaluates when it has trained: the evaluator has "
            "nothing to do."
        )
        return ""
    # Weights have a seed before anything could draw one.
    keras.utils.set_random_seed(cfg.seed)
    if cfg.deterministic:
        distribution.make_deterministic()
    strategy = distribution.create_strategy(cfg.strategy, cfg.cluster_timeout_s)
    distribution.per_replica_batch_size(
        strategy, cfg.global_batch_size, cfg.accumulation_steps
    )
    keras.config.set_dtype_policy(distribution.choose_precision(cfg.precision))
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
        _claim_job_dir(cfg, info, job.is_chief)
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
    # Outside the scope: what one worker does alone must create no variables
    # that the others would have to create with it.
    if not job.is_chief:
        tf.io.gfile.rmtree(job.scratch_dir)
        return ""
    evaluation = _evaluate(job, predictions, rows)
    version_dir = _export(job, _copy_for_inference(job), evaluation)
    _bless(job, version_dir)
    return version_dir


def _read_columns(cfg: config.TrainConfig) -> dict[str, dict[str, str]]:
    names = [name for name in cfg.subgroups.split(",") if name]
    return output.read_columns(cfg.data_dir, names)


def _claim_job_dir(
    cfg: config.TrainConfig, info: records.DatasetInfo, is_chief: bool
) -> None:
    """Checks that the job directory is this run's; the chief writes into it."""
    config_path = storage.join(cfg.job_dir, CONFIG_FILE)
    dataset_path = storage.join(cfg.job_dir, records.DATASET_FILE)
    if storage.exists(config_path):
        text = storage.read_bytes(config_path).decode("utf-8")
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
    if storage.exists(dataset_path):
        text = storage.read_bytes(dataset_path).decode("utf-8")
        previous_info = records.DatasetInfo.from_json(text, dataset_path)
        if previous_info.fingerprint != info.fingerprint:
            raise ValueError(
                f"{cfg.job_dir} belongs to another data set than "
                f"{cfg.data_dir} holds (fingerprints "
                f"{previous_info.fingerprint[:12]} and "
                f"{info.fingerprint[:12]}): use another --job_dir."
            )
    if is_chief:
        storage.write_atomically(dataset_path, info.to_json())
        storage.write_atomically(config_path, cfg.to_json())


def _predict(job: job_lib.Job) -> dict[str, predictions_lib.Predictions]:
    """Predicts every image of validation and test; on all workers."""
    # What is evaluated is what is served: in float32, whatever it was trained
    # in.
    mixed = keras.config.dtype_policy().name != "float32"
    model = _copy_for_inference(job) if mixed else job.model
    # GPUs would round what they multiply to ten bits.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    predict_step = loop.make_predict_function(job.strategy, model)
    predictions = {}
    for split in job.info.splits:
        if split == "train":
            continue
        ids, groups, labels = job.index[split]
        predictions[split] = predict.make_predictions(
            ids, groups, labels, job.outputs(predict_step, split)
        )
    return predictions


def _copy_for_inference(job: job_lib.Job) -> keras.Model:
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


def _evaluate(
    job: job_lib.Job,
    predictions: dict[str, predictions_lib.Predictions],
    rows: list[dict],
) -> report.Evaluation:
    """Writes `job_dir/evaluation`."""
    evaluation = report.evaluate(
        predictions,
        job.info,
        rows,
        dataclasses.asdict(job.cfg),
        job.cfg.operating_point,
        job.cfg.seed,
        _report_context(job),
    )
    directory = storage.join(job.cfg.job_dir, "evaluation")
    for name, content in evaluation.files.items():
        storage.write_atomically(storage.join(directory, name), content)
    for split, found in evaluation.metrics["splits"].items():
        logging.info(
            "evaluate  %s: %d images, accuracy %s, ROC AUC %s",
            split,
            found["num_images"],
            report.format_metric(found["metrics"]["accuracy"]),
            report.format_metric(found["metrics"]["roc_auc"]),
        )
    logging.info("evaluate  %s", storage.join(directory, "report.html"))
    return evaluation


def _report_context(job: job_lib.Job) -> report.Context:
    """Trivial baselines and pictures for the report."""
    images = {
        split: baselines.describe_images(
            input_pipeline.iterate_encoded(job.files(split)),
            job.index[split].labels,
        )
        for split in job.info.splits
    }
    columns = {
        name: {
            split: [value_of.get(image_id, "") for image_id in index.ids]
            for split, index in job.index.items()
        }
        for name, value_of in _read_columns(job.cfg).items()
    }
    return report.Context(
        prevalences=metrics.parse_prevalences(job.cfg.prevalences.split(",")),
        columns=columns,
        baselines=baselines.make_baselines(images, job.info.num_classes),
        train_groups=frozenset(job.index["train"].groups),
        read_images=lambda split, indices: input_pipeline.read_encoded(
            job.files(split), indices
        ),
        audit=data_audit.read_audit(job.cfg.data_dir, job.read_by_id),
        starts=run_record.read_starts(job.cfg.job_dir),
    )


def _export(
    job: job_lib.Job, model: keras.Model, evaluation: report.Evaluation
) -> str:
    """Writes the Keras file and the next SavedModel version."""
    cfg, info = job.cfg, job.info
    saved_model.save_keras(model, storage.join(cfg.job_dir, MODEL_FILE))
    facts = {
        "weights_sha256": saved_model.weights_sha256(model),
        "dataset_fingerprint": info.fingerprint,
        "temperature": evaluation.temperature,
        "operating_point": evaluation.operating_point,
        "signatures": list(signature.SIGNATURES),
    }
    export_dir = cfg.export_dir or storage.join(cfg.job_dir, "export")
    existing = saved_model.find_version(export_dir, facts)
    if existing:
        logging.info("export    %s holds this model already.", existing)
        return existing
    module = serving_module.ServingModule(
        model,
        class_names=info.class_names,
        positive_index=info.positive_index,
        temperature=evaluation.temperature,
        operating_point=evaluation.operating_point,
        detector=_make_detector(job, model),
    )
    count = min(8, info.num_images("validation"))
    images = input_pipeline.read_encoded(
        job.files("validation"), list(range(count))
    )
    version_dir = saved_model.export_version(
        module,
        export_dir,
        assets={
            records.DATASET_FILE: info.to_json().encode("utf-8"),
            "model_card.md": evaluation.files["model_card.md"],
        },
        warmup=warmup.make_warmup_file(
            images, signature.MODEL_NAME, cfg.image_size, info.channels
        ),
        facts=facts,
    )
    logging.info("export    %s", version_dir)
    return version_dir


def _bless(job: job_lib.Job, version_dir: str) -> None:
    """Tries the export in a process of its own."""
    if not blessing.refusal(version_dir):
        return
    refusal = blessing.bless_in_new_process(
        version_dir,
        job.cfg.data_dir,
        storage.join(job.cfg.job_dir, "evaluation", "predictions.csv"),
    )
    if refusal:
        logging.error("export    must not be published: %s", refusal)
    else:
        logging.info("export    blessed: it may be published.")


def _make_detector(
    job: job_lib.Job, model: keras.Model
) -> out_of_distribution.Detector:
    """Knows the training images, and from validation how far is too far."""

    def describe(split):
        chosen = out_of_distribution.choose_exemplars(
            job.info.num_images(split)
        )
        return out_of_distribution.describe_images(
            model, input_pipeline.read_encoded(job.files(split), chosen)
        )

    return out_of_distribution.fit(
        describe("train"),
        describe("validation"),
        out_of_distribution.stage_sizes(model),
    )
