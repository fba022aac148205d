"""Folds of a data set: the same records, shared out anew.

A fold is a data directory of its own, so whatever trains on a data set trains
on a fold. The test split of the whole stays out of all of them: what
cross-validation helps to choose must not have seen it.
"""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from trainer.data import input_pipeline, records
from trainer.data.build import shards, splits
from trainer.storage import paths

_POOL = ("train", "validation")
_VALIDATION_FRACTION = 0.15


def assign(
    index: Mapping[str, input_pipeline.SplitIndex],
    info: records.DatasetInfo,
    num_folds: int,
    fold: int,
    seed: int,
) -> list[str]:
    """The split of every image of the pool in one fold.

    Args:
        index: of the data set.
        info: likewise.
        num_folds: in all.
        fold: which of them is the test split, from 0.
        seed: another one gives other folds.

    Returns:
        For the images of train, then of validation, in the order of their
        records. Every group is in the test split of exactly one fold.

    Raises:
        ValueError: if a class has fewer groups than there are folds.
    """
    groups, class_names = [], []
    for split in _POOL:
        groups += index[split].groups
        class_names += [info.class_names[i] for i in index[split].labels]
    nothing = [""] * len(groups)
    options = splits.SplitOptions(
        validation_fraction=info.options.get(
            "validation_fraction", _VALIDATION_FRACTION
        ),
        test_fraction=0.0,
        seed=seed,
        num_folds=num_folds,
        fold=fold,
    )
    return splits.split_images(groups, class_names, nothing, nothing, options)


def write_fold(
    data_dir: str,
    info: records.DatasetInfo,
    split_of_images: Sequence[str],
    fold_dir: str,
    seed: int,
) -> None:
    """Writes a fold as a data directory; does nothing if it is there.

    Args:
        data_dir: of the whole.
        info: likewise.
        split_of_images: from `assign`.
        fold_dir: where to.
        seed: of the shards that training images go to.
    """
    dataset_path = paths.join(fold_dir, records.DATASET_FILE)
    if paths.exists(dataset_path):
        return
    tf.io.gfile.makedirs(fold_dir)
    pool_bytes = sum(s.num_bytes for s in info.shards if s.split in _POOL)
    num_shards = {
        "train": max(
            shards.MIN_TRAIN_SHARDS, -(-pool_bytes // shards.SHARD_BYTES)
        )
    }
    names = {
        (split, shard): records.shard_name(split, shard, count)
        for split in records.SPLITS
        for count in [num_shards.get(split, 1)]
        for shard in range(count)
    }
    writers = {
        key: tf.io.TFRecordWriter(paths.join(fold_dir, name))
        for key, name in names.items()
    }
    generator = np.random.default_rng(seed)
    num_records = dict.fromkeys(names, 0)
    rows, counts = [], {}
    files = [f for s in _POOL for f in _files(data_dir, info, s)]
    dataset = tf.data.TFRecordDataset(files).map(
        _parse, num_parallel_calls=tf.data.AUTOTUNE
    )
    for split, example in zip(
        split_of_images, dataset.as_numpy_iterator(), strict=True
    ):
        shard = generator.integers(num_shards.get(split, 1))
        writers[split, shard].write(example["serialized"])
        num_records[split, shard] += 1
        label = int(example["label"])
        image_id, sha256 = example["id"].decode(), example["sha256"].decode()
        rows.append((image_id, sha256, label, split))
        of_class = counts.setdefault(split, dict.fromkeys(info.class_names, 0))
        of_class[info.class_names[label]] += 1
    for writer in writers.values():
        writer.close()
    fold = dataclasses.replace(
        info,
        counts=counts,
        shards=tuple(
            _describe(fold_dir, name, key[0], num_records[key])
            for key, name in names.items()
        ),
        fingerprint=records.compute_fingerprint(rows),
        # Groups stay whole, whatever was let in before.
        leaks=0,
    )
    # Last: a fold whose writing was interrupted is written again.
    paths.write_atomically(dataset_path, fold.to_json())


def _parse(serialized) -> dict:
    return records.parse_example(serialized) | {"serialized": serialized}


def _files(data_dir, info, split) -> list[str]:
    return input_pipeline.split_files(data_dir, info, split)


def _describe(directory, name, split, num_records) -> records.Shard:
    data = paths.read_bytes(os.path.join(directory, name))
    digest = hashlib.sha256(data).hexdigest()
    return records.Shard(name, split, num_records, len(data), digest)
