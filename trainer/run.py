"""What the phases of a run share: its model, its data and its strategy."""

import dataclasses
import functools
import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainer import config
from trainer.data import augmentation, input_pipeline, records
from trainer.evaluation.predictions import Predictions, make_predictions
from trainer.model import classifier, dropout, folding, views
from trainer.progress import Progress
from trainer.storage import paths
from trainer.training import (
    distribution,
    features,
    head_training,
    loop,
    preemption,
    schedules,
)

CONFIG_FILE = "config.json"
_FORWARD_BATCH = 32


def make_augmentation(settings: dict) -> augmentation.Augmentation:
    """The augmentation that the fields of a `TrainConfig` say."""
    return augmentation.Augmentation(
        **_fields_of(augmentation.Augmentation, settings)
    )


def make_head_settings(
    settings: dict, num_classes: int
) -> head_training.HeadSettings:
    """The head and its training that the fields of a `TrainConfig` say."""
    settings = {
        **settings,
        "num_classes": num_classes,
        "hidden_units": tuple(settings["hidden_units"]),
    }
    return head_training.HeadSettings(
        **_fields_of(head_training.HeadSettings, settings)
    )


def _fields_of(kind: type, settings: dict) -> dict:
    return {f.name: settings[f.name] for f in dataclasses.fields(kind)}


class Run:
    """The model, the data and the strategy that the steps of a run share."""

    def __init__(
        self,
        cfg: config.TrainConfig,
        info: records.DatasetInfo,
        strategy: tf.distribute.Strategy,
    ):
        """Builds the model; call it in the scope of the strategy."""
        self.cfg = cfg
        self.info = info
        self.strategy = strategy
        # Images that a replica holds at a time.
        self.per_replica = distribution.per_replica_batch_size(
            strategy, cfg.global_batch_size, cfg.accumulation_steps
        )
        self.is_chief = distribution.is_chief(strategy)
        self.scratch_dir = paths.join(
            cfg.job_dir, "checkpoints", distribution.worker_name(strategy)
        )
        self.sigterm = preemption.SigtermWatch()
        self.index = input_pipeline.read_index(cfg.data_dir, info)
        settings = dataclasses.asdict(cfg)
        self.augmentation = make_augmentation(settings)
        self.head_settings = make_head_settings(settings, info.num_classes)
        self.num_views = cfg.feature_views or schedules.choose_views(
            info.num_images("train")
        )
        start = time.monotonic()
        self.head = classifier.build_head(
            info.num_classes,
            cfg.hidden_units,
            cfg.dropout,
            dropout.GlobalBatchDropout,
            cfg.head_activation,
            cfg.head_batch_norm,
        )
        self.head.set_weights(head_training.initial_weights(self.head_settings))
        self.model = classifier.build_classifier(
            cfg.image_size,
            info.channels,
            self.head,
            cfg.weights,
            dropout.GlobalBatchDropout,
            cfg.seed,
        )
        logging.info(
            "Model: EfficientNetB0 at %d px, %d channel(s), weights=%s, built "
            "in %.0f s.",
            cfg.image_size,
            info.channels,
            cfg.weights,
            time.monotonic() - start,
        )

    def files(self, split: str) -> list[str]:
        return input_pipeline.split_files(self.cfg.data_dir, self.info, split)

    def labels(self, split: str) -> np.ndarray:
        """int32 `[images]`."""
        return np.array(self.index[split].labels, np.int32)

    # Traced once, and used for every split and phase.
    @functools.cached_property
    def predict_step(self):
        """Compiled: the logits of the model, averaged over views."""
        return self._make_predict_step(self.model)

    def _make_predict_step(self, model: keras.Model):
        return loop.make_predict_function(
            self.strategy, views.averaged(model, self.cfg.test_views)
        )

    @functools.cached_property
    def _backbone(self) -> keras.Model:
        return classifier.features_model(self.model)

    @functools.cached_property
    def _features_step(self):
        # It is frozen, and half as fast again without its batch norm.
        return loop.make_predict_function(
            self.strategy, folding.fold(self._backbone)
        )

    def outputs(
        self,
        predict_step,
        split,
        view=0,
        augmented_by=None,
        outputs=None,
        report=lambda _: None,
    ) -> np.ndarray:
        """Outputs of a compiled step for every image of a split."""
        num_images = self.info.num_images(split)
        # As many a replica, however many replicas there are: they then give
        # the same bits, which another shape of the convolutions would not.
        per_replica = min(
            _FORWARD_BATCH,
            self.cfg.global_batch_size // self.cfg.accumulation_steps,
        )
        batch_size = per_replica * self.strategy.num_replicas_in_sync

        def make_dataset(num_workers, worker_index):
            return input_pipeline.make_evaluation_dataset(
                self.files(split),
                shard_sizes=self.info.shard_sizes(split),
                image_size=self.cfg.image_size,
                channels=self.info.channels,
                global_batch_size=batch_size,
                per_replica_batch_size=per_replica,
                num_workers=num_workers,
                worker_index=worker_index,
                augmentation=augmented_by,
                seed=self.cfg.seed,
                view=view,
            )

        return loop.predict_all(
            predict_step,
            distribution.distribute(self.strategy, make_dataset),
            num_images,
            batch_size,
            outputs,
            report,
        )

    def features(
        self,
        split: str,
        view: int = 0,
        augmented_by: augmentation.Augmentation | None = None,
        bar: Progress | None = None,
    ) -> np.ndarray | None:
        """Features of a split by the backbone as it came, kept on disk.

        Args:
            split: "train" or "validation".
            view: number of the augmented view.
            augmented_by: None for the images as they are served.
            bar: counts the images of this split, among others.

        Returns:
            float16 `[images, features]`; None for a worker that is not the
            chief.
        """
        facts = {
            "data": self.info.fingerprint,
            "split": split,
            "view": view,
            "augmentation": augmented_by and dataclasses.asdict(augmented_by),
            "seed": augmented_by and self.cfg.seed,
            "image_size": self.cfg.image_size,
            "backbone": features.weights_sha256(self._backbone),
            "precision": keras.config.dtype_policy().name,
            "code": features.code_sha256(),
        }
        shape = (self.info.num_images(split), classifier.NUM_FEATURES)
        is_kept = True

        def compute(outputs):
            nonlocal is_kept
            is_kept, start = False, time.monotonic()
            self.outputs(
                self._features_step,
                split,
                view,
                augmented_by,
                outputs,
                bar.update if bar else lambda _: None,
            )
            logging.info(
                "features  of %d %s images, view %d: %.0f images/s",
                len(outputs),
                split,
                view + 1,
                len(outputs) / (time.monotonic() - start),
            )

        found = features.load_or_compute(
            self.cfg.features_dir or paths.join(self.cfg.data_dir, "features"),
            facts,
            shape,
            compute,
            is_chief=self.is_chief,
            all_have=lambda has: distribution.all_agree(self.strategy, has),
        )
        if bar and is_kept:
            bar.leave_out(shape[0])
        return found

    def predict(
        self, splits: Sequence[str] = ("validation", "test")
    ) -> dict[str, Predictions]:
        """Predicts every image of those splits that are; on all workers."""
        # What is evaluated is what is served: in float32, whatever it was
        # trained in.
        predict_step = self.predict_step
        if keras.config.dtype_policy().name != "float32":
            predict_step = self._make_predict_step(self.copy_for_inference())
        # GPUs would round what they multiply to ten bits.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        chosen = [split for split in self.info.splits if split in splits]
        num_images = sum(map(self.info.num_images, chosen))
        with Progress(num_images, "predict") as bar:
            return {
                split: make_predictions(
                    *self.index[split],
                    self.outputs(predict_step, split, report=bar.update),
                )
                for split in chosen
            }

    def copy_for_inference(self) -> keras.Model:
        """The model as it is served: in float32, without dropout."""
        return classifier.copy_for_inference(
            self.model,
            self.cfg.image_size,
            self.info.channels,
            self.info.num_classes,
            self.cfg.hidden_units,
            self.cfg.dropout,
            self.cfg.weights,
            self.cfg.head_activation,
            self.cfg.head_batch_norm,
        )

    def read_by_id(self, image_ids: Sequence[str]) -> dict[str, bytes]:
        """The encoded images of those ids that are in the records."""
        wanted, encoded_of = set(image_ids), {}
        for split in self.info.splits:
            ids = self.index[split].ids
            places = [i for i, name in enumerate(ids) if name in wanted]
            encoded = input_pipeline.read_encoded(self.files(split), places)
            encoded_of |= {
                ids[i]: data for i, data in zip(places, encoded, strict=True)
            }
        return encoded_of


def claim_job_dir(
    cfg: config.TrainConfig, info: records.DatasetInfo, is_chief: bool
) -> None:
    """Checks that the job directory is this run's; the chief writes into it.

    Raises:
        ValueError: if it belongs to a run with other flags or other data.
    """
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
