"""The one place that says what happens in what order."""

import dataclasses
import hashlib
import sys
import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainer import config, storage
from trainer.data import augmentation, input_pipeline, records
from trainer.evaluation import (
    baselines,
    calibration,
    data_audit,
    predict,
    report,
)
from trainer.evaluation import predictions as predictions_lib
from trainer.export import saved_model, signature, warmup
from trainer.model import classifier, dropout, losses
from trainer.training import (
    checkpoints,
    cluster,
    distribution,
    features,
    history,
    loop,
    preemption,
    profiling,
    run_record,
    schedules,
    train_step,
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
    calibration.parse_rule(cfg.operating_point)
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
        job = _Job(cfg, info, strategy)
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
        rows = job.train()
        predictions = job.predict()
    # Outside the scope: what one worker does alone must create no variables
    # that the others would have to create with it.
    if not job.is_chief:
        tf.io.gfile.rmtree(job.scratch_dir)
        return ""
    evaluation = job.evaluate(predictions, rows)
    return job.export(evaluation)


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


class _Job:
    """One run: the model, the data and the strategy that its steps share."""

    def __init__(self, cfg, info, strategy):
        self.cfg = cfg
        self.info = info
        self.strategy = strategy
        # Images that a replica holds at a time.
        self.per_replica = distribution.per_replica_batch_size(
            strategy, cfg.global_batch_size, cfg.accumulation_steps
        )
        self.is_chief = distribution.is_chief(strategy)
        self.scratch_dir = storage.join(
            cfg.job_dir, "checkpoints", distribution.worker_name(strategy)
        )
        self.stop_requested = preemption.watch_sigterm()
        start = time.monotonic()
        self.head = classifier.build_head(
            info.num_classes,
            cfg.hidden_units,
            cfg.dropout,
            dropout.GlobalBatchDropout,
        )
        self.model = classifier.build_classifier(
            cfg.image_size,
            info.channels,
            self.head,
            cfg.weights,
            dropout.GlobalBatchDropout,
        )
        self.augmentation = augmentation.Augmentation(
            **{
                field.name: getattr(cfg, field.name)
                for field in dataclasses.fields(augmentation.Augmentation)
            }
        )
        self.labels = {
            split: input_pipeline.read_labels(self._files(split))
            for split in info.splits
        }
        logging.info(
            "Model: EfficientNetB0 at %d px, %d channel(s), weights=%s, built "
            "in %.0f s.",
            cfg.image_size,
            info.channels,
            cfg.weights,
            time.monotonic() - start,
        )

    def _files(self, split):
        return input_pipeline.split_files(self.cfg.data_dir, self.info, split)

    def _outputs(self, predict_step, split, view=None):
        """Outputs of a compiled step for every image of a split."""
        num_images = self.info.num_images(split)
        batch_size = self.cfg.global_batch_size // self.cfg.accumulation_steps

        def make_dataset(num_workers, worker_index):
            return input_pipeline.make_evaluation_dataset(
                self._files(split),
                num_images=num_images,
                image_size=self.cfg.image_size,
                channels=self.info.channels,
                global_batch_size=batch_size,
                per_replica_batch_size=self.per_replica,
                num_workers=num_workers,
                worker_index=worker_index,
                augmentation=None if view is None else self.augmentation,
                seed=self.cfg.seed,
                view=view or 0,
            )

        return loop.predict_all(
            predict_step,
            distribution.distribute(self.strategy, make_dataset),
            num_images,
            batch_size,
        )

    def train(self) -> list[dict]:
        """Runs both phases and returns the rows of the history."""
        rows = []
        if self.cfg.is_pretrained and self.cfg.head_epochs:
            rows += self._train_head()
        if self.cfg.fine_tune_epochs:
            rows += self._fine_tune(rows)
        if self.is_chief:
            history.write_csv(self.cfg.job_dir, rows)
        return rows

    def _train_head(self) -> list[dict]:
        cfg = self.cfg
        classifier.set_trainable(self.model, 0, train_batch_norm=False)
        self.head.trainable = True
        setup = self._set_up("head", self.head, cfg.head_learning_rate)
        if setup.checkpoint.progress.finished:
            logging.info("head      already finished; its result is kept.")
            self.head.set_weights(setup.checkpoint.progress.best_weights)
            return setup.checkpoint.progress.history
        start = time.monotonic()
        backbone = loop.make_predict_function(
            self.strategy, classifier.features_model(self.model)
        )
        train_features = np.stack(
            [
                self._outputs(backbone, "train", view)
                for view in range(cfg.feature_views)
            ]
        )
        validation_features = self._outputs(backbone, "validation")
        logging.info(
            "head      features of %d images in %d views: %.0f images/s",
            self.info.num_images("train"),
            cfg.feature_views,
            (train_features[..., 0].size + len(validation_features))
            / (time.monotonic() - start),
        )

        def make_dataset(start_step):
            return distribution.distribute(
                self.strategy,
                lambda num_workers, worker_index: features.make_feature_dataset(
                    train_features,
                    np.array(self.labels["train"][2], np.int32),
                    total_steps=setup.total_steps,
                    global_batch_size=cfg.global_batch_size,
                    per_replica_batch_size=self.per_replica,
                    seed=cfg.seed,
                    start_step=start_step,
                    num_workers=num_workers,
                    worker_index=worker_index,
                ),
            )

        def validate():
            return loop.validation_metrics(
                np.array(self.labels["validation"][2], np.int32),
                self.head(validation_features, training=False).numpy(),
            )

        return self._run_phase(setup, make_dataset, validate, [])

    def _fine_tune(self, rows_before) -> list[dict]:
        cfg = self.cfg
        classifier.set_trainable(
            self.model,
            cfg.fine_tune_blocks
            if cfg.is_pretrained
            else len(classifier.BLOCKS),
            train_batch_norm=not cfg.is_pretrained,
        )
        setup = self._set_up(
            "fine_tune", self.model, cfg.peak_fine_tune_learning_rate
        )
        if setup.checkpoint.progress.finished:
            logging.info("fine_tune already finished; its result is kept.")
            self.model.set_weights(setup.checkpoint.progress.best_weights)
            return setup.checkpoint.progress.history
        predict_step = loop.make_predict_function(self.strategy, self.model)

        def make_dataset(start_step):
            return distribution.distribute(
                self.strategy,
                lambda num_workers, worker_index: (
                    input_pipeline.make_train_dataset(
                        self._files("train"),
                        num_images=self.info.num_images("train"),
                        image_size=cfg.image_size,
                        channels=self.info.channels,
                        augmentation=self.augmentation,
                        global_batch_size=cfg.global_batch_size,
                        per_replica_batch_size=self.per_replica,
                        seed=cfg.seed,
                        start_step=start_step,
                        num_workers=num_workers,
                        worker_index=worker_index,
                    )
                ),
            )

        def validate():
            return loop.validation_metrics(
                np.array(self.labels["validation"][2], np.int32),
                self._outputs(predict_step, "validation"),
            )

        return self._run_phase(setup, make_dataset, validate, rows_before)

    def predict(self) -> dict[str, predictions_lib.Predictions]:
        """Predicts every image of validation and test; on all workers."""
        predict_step = loop.make_predict_function(self.strategy, self.model)
        predictions = {}
        for split in self.info.splits:
            if split == "train":
                continue
            ids, groups, labels = self.labels[split]
            predictions[split] = predict.make_predictions(
                ids, groups, labels, self._outputs(predict_step, split)
            )
        return predictions

    def evaluate(
        self,
        predictions: dict[str, predictions_lib.Predictions],
        rows: list[dict],
    ) -> report.Evaluation:
        """Writes `job_dir/evaluation`."""
        evaluation = report.evaluate(
            predictions,
            self.info,
            rows,
            dataclasses.asdict(self.cfg),
            self.cfg.operating_point,
            self.cfg.seed,
            self._report_context(),
        )
        directory = storage.join(self.cfg.job_dir, "evaluation")
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

    def _report_context(self) -> report.Context:
        """Trivial baselines and pictures for the report."""
        images = {
            split: baselines.describe_images(
                input_pipeline.iterate_encoded(self._files(split)),
                self.labels[split][2],
            )
            for split in self.info.splits
        }
        return report.Context(
            baselines=baselines.make_baselines(images, self.info.num_classes),
            train_groups=frozenset(self.labels["train"][1]),
            read_images=lambda split, indices: input_pipeline.read_encoded(
                self._files(split), indices
            ),
            audit=data_audit.read_audit(self.cfg.data_dir, self._read_by_id),
        )

    def _read_by_id(self, image_ids: Sequence[str]) -> dict[str, bytes]:
        """The encoded images of those ids that are in the records."""
        wanted, found = set(image_ids), {}
        for split in self.info.splits:
            ids = self.labels[split][0]
            places = [i for i, name in enumerate(ids) if name in wanted]
            encoded = input_pipeline.read_encoded(self._files(split), places)
            found |= {
                ids[i]: data for i, data in zip(places, encoded, strict=True)
            }
        return found

    def export(self, evaluation: report.Evaluation) -> str:
        """Writes the Keras file and the next SavedModel version."""
        cfg, info = self.cfg, self.info
        model = classifier.copy_for_inference(
            self.model,
            cfg.image_size,
            info.channels,
            info.num_classes,
            cfg.hidden_units,
            cfg.dropout,
            cfg.weights,
        )
        saved_model.save_keras(model, storage.join(cfg.job_dir, MODEL_FILE))
        module = saved_model.ServingModule(
            model,
            class_names=info.class_names,
            positive_index=info.positive_index,
            temperature=evaluation.temperature,
            operating_point=evaluation.operating_point,
        )
        facts = {
            "weights_sha256": saved_model.weights_sha256(model),
            "dataset_fingerprint": info.fingerprint,
            "temperature": evaluation.temperature,
            "operating_point": evaluation.operating_point,
        }
        export_dir = cfg.export_dir or storage.join(cfg.job_dir, "export")
        existing = saved_model.find_version(export_dir, facts)
        if existing:
            logging.info("export    %s holds this model already.", existing)
            return existing
        count = min(8, info.num_images("validation"))
        images = input_pipeline.read_encoded(
            self._files("validation"), list(range(count))
        )
        version_dir = saved_model.export_version(
            module,
            export_dir,
            assets={
                records.DATASET_FILE: info.to_json().encode("utf-8"),
                "model_card.md": evaluation.files["model_card.md"],
            },
            warmup=warmup.make_warmup_file(images, signature.MODEL_NAME),
            facts=facts,
        )
        logging.info("export    %s", version_dir)
        return version_dir

    def _set_up(self, name, model, peak_learning_rate) -> "_PhaseSetup":
        """Optimizer and restored checkpoint of a phase."""
        cfg = self.cfg
        steps_per_epoch = -(
            -self.info.num_images("train") // cfg.global_batch_size
        )
        num_epochs = cfg.head_epochs if name == "head" else cfg.fine_tune_epochs
        total_steps = steps_per_epoch * num_epochs
        warmup_steps = int(cfg.warmup_fraction * total_steps)
        peak_rate = schedules.scale_for_batch(
            peak_learning_rate, cfg.global_batch_size, cfg.learning_rate_scaling
        )
        logging.info(
            "%-9s learning rate %.3g (%.3g at %d images a step, scaled to %d "
            "by the rule %r), reached after %d of %d steps.",
            name,
            peak_rate,
            peak_learning_rate,
            schedules.BASE_BATCH_SIZE,
            cfg.global_batch_size,
            cfg.learning_rate_scaling,
            warmup_steps,
            total_steps,
        )
        optimizer = keras.optimizers.AdamW(
            schedules.warmup_cosine(peak_rate, warmup_steps, total_steps),
            weight_decay=cfg.weight_decay,
        )
        if keras.config.dtype_policy().name == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build(model.trainable_variables)
        checkpoint = checkpoints.PhaseCheckpoint(
            storage.join(cfg.job_dir, "checkpoints", name),
            model,
            optimizer,
            None if self.is_chief else storage.join(self.scratch_dir, name),
        )
        if checkpoint.restore():
            logging.info(
                "%-9s continues after step %d.", name, checkpoint.progress.step
            )
        progress = f"{name} {checkpoint.progress.step}"
        distribution.check_agreement(
            self.strategy,
            {"checkpoint": hashlib.sha256(progress.encode()).hexdigest()},
            "give all of them the same --job_dir, on storage that they share",
        )
        return _PhaseSetup(
            name, model, optimizer, checkpoint, steps_per_epoch, num_epochs
        )

    def _run_phase(self, setup, make_dataset, validate, rows_before):
        cfg = self.cfg
        class_counts = np.bincount(
            self.labels["train"][2], minlength=self.info.num_classes
        )
        if cfg.class_weights == "balanced":
            class_weights = losses.balanced_class_weights(class_counts.tolist())
        else:
            class_weights = np.ones(self.info.num_classes, np.float32)
        replica_step = train_step.ReplicaStep(
            setup.model,
            setup.optimizer,
            class_weights=class_weights,
            label_smoothing=cfg.label_smoothing,
            global_batch_size=cfg.global_batch_size,
            seed=cfg.seed,
            gradient_clip_norm=cfg.gradient_clip_norm,
            # The head is some matrix products on cached features.
            jit_compile=setup.name == "head"
            and not distribution.compiles_steps(self.strategy),
        )
        phase = loop.Phase(
            name=setup.name,
            model=setup.model,
            optimizer=setup.optimizer,
            train_steps=train_step.make_train_function(
                self.strategy,
                replica_step,
                cfg.accumulation_steps,
                measures_waiting=not cfg.deterministic,
            ),
            make_dataset=make_dataset,
            validate=validate,
            steps_per_epoch=setup.steps_per_epoch,
            num_epochs=setup.num_epochs,
            patience=cfg.patience,
            steps_per_execution=cfg.steps_per_execution,
            stop_requested=self.stop_requested,
            profiler=profiling.StepProfiler(
                storage.join(cfg.job_dir, "logs", setup.name)
                if self.is_chief
                else "",
                cfg.profile_range,
            ),
        )
        if not self.is_chief:
            return loop.run_phase(phase, setup.checkpoint, lambda _: None)
        logs = history.EpochLog(cfg.job_dir, setup.name, rows_before)
        progress = setup.checkpoint.progress
        return loop.run_phase(
            phase, setup.checkpoint, lambda _: logs.write(progress.history)
        )


@dataclasses.dataclass(frozen=True)
class _PhaseSetup:
    name: str
    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    checkpoint: checkpoints.PhaseCheckpoint
    steps_per_epoch: int
    num_epochs: int

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.num_epochs
