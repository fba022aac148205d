"""What the phases of a run share: its model, its data and its strategy."""

import dataclasses
import functools
import time
from collections.abc import Sequence

import keras
import numpy as np
from absl import logging

from trainer.data import augmentation, input_pipeline
from trainer.model import classifier, dropout, folding
from trainer.storage import paths
from trainer.training import (
    distribution,
    feature_cache,
    features,
    loop,
    preemption,
)


def make_augmentation(settings: dict) -> augmentation.Augmentation:
    """The augmentation that the fields of a `TrainConfig` say."""
    return augmentation.Augmentation(
        **{
            field.name: settings[field.name]
            for field in dataclasses.fields(augmentation.Augmentation)
        }
    )


class Job:
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
        self.scratch_dir = paths.join(
            cfg.job_dir, "checkpoints", distribution.worker_name(strategy)
        )
        self.sigterm = preemption.SigtermWatch()
        self.index = input_pipeline.read_index(cfg.data_dir, info)
        start = time.monotonic()
        self.head = classifier.build_head(
            info.num_classes,
            cfg.hidden_units,
            cfg.dropout,
            dropout.GlobalBatchDropout,
            cfg.head_activation,
            cfg.head_batch_norm,
        )
        self.model = classifier.build_classifier(
            cfg.image_size,
            info.channels,
            self.head,
            cfg.weights,
            dropout.GlobalBatchDropout,
        )
        self.augmentation = make_augmentation(dataclasses.asdict(cfg))
        logging.info(
            "Model: EfficientNetB0 at %d px, %d channel(s), weights=%s, built "
            "in %.0f s.",
            cfg.image_size,
            info.channels,
            cfg.weights,
            time.monotonic() - start,
        )

    def files(self, split):
        return input_pipeline.split_files(self.cfg.data_dir, self.info, split)

    # Traced once, and used for every split and phase.
    @functools.cached_property
    def predict_step(self):
        """Compiled: the logits of the model."""
        return loop.make_predict_function(self.strategy, self.model)

    @functools.cached_property
    def _backbone(self) -> keras.Model:
        return classifier.features_model(self.model)

    @functools.cached_property
    def _features_step(self):
        # It is frozen, and half as fast again without its batch norm.
        return loop.make_predict_function(
            self.strategy, folding.fold_batch_norm(self._backbone)
        )

    def outputs(self, predict_step, split, view=0, augmented_by=None):
        """Outputs of a compiled step for every image of a split."""
        num_images = self.info.num_images(split)
        batch_size = self.cfg.global_batch_size // self.cfg.accumulation_steps

        def make_dataset(num_workers, worker_index):
            return input_pipeline.make_evaluation_dataset(
                self.files(split),
                shard_sizes=self.info.shard_sizes(split),
                image_size=self.cfg.image_size,
                channels=self.info.channels,
                global_batch_size=batch_size,
                per_replica_batch_size=self.per_replica,
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
        )

    def features(
        self,
        split: str,
        num_views: int = 1,
        augmented_by: augmentation.Augmentation | None = None,
    ) -> np.ndarray:
        """Features of a split by the backbone as it came, cached on disk.

        Args:
            split: "train" or "validation".
            num_views: of each image; one if they are not augmented.
            augmented_by: None for the images as they are served.

        Returns:
            float32 `[views, images, features]`.
        """
        facts = {
            "data": self.info.fingerprint,
            "split": split,
            "num_views": num_views,
            "augmentation": augmented_by and dataclasses.asdict(augmented_by),
            "seed": augmented_by and self.cfg.seed,
            "image_size": self.cfg.image_size,
            "backbone": features.weights_sha256(self._backbone),
            "precision": keras.config.dtype_policy().name,
            "code": features.code_sha256(),
        }

        def compute():
            start = time.monotonic()
            views = [
                self.outputs(self._features_step, split, view, augmented_by)
                for view in range(num_views)
            ]
            logging.info(
                "features  of %d %s images in %d view(s): %.0f images/s",
                len(views[0]),
                split,
                len(views),
                len(views) * len(views[0]) / (time.monotonic() - start),
            )
            return np.stack(views)

        return feature_cache.load_or_compute(
            self.cfg.features_dir or paths.join(self.cfg.data_dir, "features"),
            facts,
            compute,
            is_chief=self.is_chief,
            all_have=lambda has: distribution.all_agree(self.strategy, has),
        )

    def read_by_id(self, image_ids: Sequence[str]) -> dict[str, bytes]:
        """The encoded images of those ids that are in the records."""
        wanted, found = set(image_ids), {}
        for split in self.info.splits:
            ids = self.index[split].ids
            places = [i for i, name in enumerate(ids) if name in wanted]
            encoded = input_pipeline.read_encoded(self.files(split), places)
            found |= {
                ids[i]: data for i, data in zip(places, encoded, strict=True)
            }
        return found
