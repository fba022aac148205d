"""Folds of a data set: the same records, shared out anew.

A fold is a data directory of its own, so whatever trains on a data set trains
on a fold. The test split of the whole stays out of all of them: what
cross-validation helps to choose must not have seen it.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from trainer.data import input_pipeline, records, tfrecord
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
    """The split of every image of the pool in one of several folds.

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
    """Writes a fold as a local data directory; does nothing if it is there.

    Args:
        data_dir: of the whole, as `info`.
        info: what its `dataset.json` holds.
        split_of_images: from `assign`.
        fold_dir: where to.
        seed: of the shards that training images go to.
    """
    dataset_path = paths.join(fold_dir, records.DATASET_FILE)
    if paths.exists(dataset_path):
        return
    os.makedirs(fold_dir, exist_ok=True)
    num_bytes = sum(s.num_bytes for s in info.shards if s.split in _POOL)
    num_shards = dict.fromkeys(records.SPLITS, 1) | {
        "train": max(
            shards.MIN_TRAIN_SHARDS, -(-num_bytes // shards.SHARD_BYTES)
        )
    }
    generator = np.random.default_rng(seed)
    rows, counts = [], {}
    with paths.writing(fold_dir), contextlib.ExitStack() as stack:
        writers = {}
        for split, count in num_shards.items():
            for shard in range(count):
                name = records.shard_name(split, shard, count)
                path = os.path.join(fold_dir, name)
                file = stack.enter_context(open(path, "wb"))
                writers[split, shard] = name, tfrecord.RecordWriter(file)
        for split, example in zip(
            split_of_images, _read_pool(data_dir, info), strict=True
        ):
            _, writer = writers[split, generator.integers(num_shards[split])]
            writer.write(example["serialized"])
            label = int(example["label"])
            image_id = example["id"].decode()
            rows.append((image_id, example["sha256"].decode(), label, split))
            of_split = counts.setdefault(
                split, dict.fromkeys(info.class_names, 0)
            )
            of_split[info.class_names[label]] += 1
    fold = dataclasses.replace(
        info,
        counts=counts,
        shards=tuple(
            records.Shard(name, split, w.num_records, w.num_bytes, w.sha256())
            for (split, _), (name, w) in writers.items()
        ),
        # Groups stay whole, whatever was let in before.
        leaks=0,
    ).with_fingerprint(rows)
    # Last: a fold whose writing was interrupted is written again.
    paths.write_atomically(dataset_path, fold.to_json())


def _read_pool(data_dir: str, info: records.DatasetInfo) -> Iterator[dict]:
    files = []
    for split in _POOL:
        files += input_pipeline.split_files(data_dir, info, split)
    dataset = tf.data.TFRecordDataset(files).map(
        lambda text: records.parse_example(text) | {"serialized": text},
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return dataset.as_numpy_iterator()
