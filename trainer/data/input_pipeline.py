"""TFRecord shards -> batches, in an order that is a function of seed and step.

Every image has a place in one global stream (see `record_order`). The strategy
changes who reads an image, never which images share a batch or how one is
augmented; and a resumed run starts at the place where it stopped.
"""

import os
import typing
from collections.abc import Iterator

import tensorflow as tf

from trainer.data import preprocessing, record_order, records
from trainer.data.augmentation import Augmentation, augment_image


def read_dataset_info(data_dir: str) -> records.DatasetInfo:
    """Reads `dataset.json` and checks that every shard is there.

    Raises:
        FileNotFoundError: if `data_dir` has no `dataset.json`.
        ValueError: if it has another schema version, or a shard is missing or
            not of the recorded size.
    """
    path = os.path.join(data_dir, records.DATASET_FILE)
    if not tf.io.gfile.exists(path):
        raise FileNotFoundError(
            f"{path} does not exist: --data_dir must name a directory that "
            "`python -m trainer.data.build_records` wrote."
        )
    with tf.io.gfile.GFile(path) as file:
        info = records.DatasetInfo.from_json(file.read(), source=path)
    for shard in info.shards:
        shard_path = os.path.join(data_dir, shard.name)
        if not tf.io.gfile.exists(shard_path):
            raise ValueError(
                f"{shard_path} is missing: {path} lists it. Copy the whole "
                "directory again, or build the records again."
            )
        num_bytes = tf.io.gfile.stat(shard_path).length
        if num_bytes != shard.num_bytes:
            raise ValueError(
                f"{shard_path} has {num_bytes} bytes, {path} lists "
                f"{shard.num_bytes}: it was damaged or replaced. Copy it "
                "again, or build the records again."
            )
    return info


def split_files(
    data_dir: str, info: records.DatasetInfo, split: str
) -> list[str]:
    """Paths of the shards of one split."""
    return [os.path.join(data_dir, n) for n in info.shard_names(split)]


def make_train_dataset(
    files: list[str],
    *,
    shard_sizes: list[int],
    image_size: int,
    channels: int,
    augmentation: Augmentation,
    global_batch_size: int,
    per_replica_batch_size: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 1,
    worker_index: int = 0,
) -> tf.data.Dataset:
    """An endless stream of augmented training batches, one a replica.

    The images are shuffled anew in every epoch, and a batch may reach over the
    end of one into the next, so that no image is ever dropped.

    Args:
        files: TFRecord shards.
        shard_sizes: records in each of them.
        image_size: height and width of a training image, in pixels.
        channels: 1 or 3.
        augmentation: ranges to draw from.
        global_batch_size: images per step, over all replicas.
        per_replica_batch_size: images per element of the result.
        seed: of order and augmentation.
        start_step: steps already done by the run that is continued.
        num_workers: processes that share the stream.
        worker_index: of this one.

    Returns:
        Dataset of dictionaries: `inputs` float32 `[per_replica_batch,
        image_size, image_size, channels]` in [0, 255], `labels` int32 and
        `places` int64, of each image in the global batch,
        `[per_replica_batch]`.
    """

    @tf.autograph.experimental.do_not_convert
    def prepare(position, serialized):
        example = records.parse_example(serialized)
        image = preprocessing.decode_image(example["image"], channels)
        image = augment_image(
            image, tf.stack([seed, position]), image_size, augmentation
        )
        return {
            "inputs": image,
            "labels": example["label"],
            "places": position % global_batch_size,
        }

    dataset = record_order.make_training_records(
        files,
        shard_sizes,
        global_batch_size=global_batch_size,
        seed=seed,
        start_step=start_step,
        num_workers=num_workers,
        worker_index=worker_index,
    )
    dataset = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(per_replica_batch_size, drop_remainder=True)
    return dataset.prefetch(4)


def make_evaluation_dataset(
    files: list[str],
    *,
    shard_sizes: list[int],
    image_size: int,
    channels: int,
    global_batch_size: int,
    per_replica_batch_size: int,
    num_workers: int = 1,
    worker_index: int = 0,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    view: int = 0,
) -> tf.data.Dataset:
    """Every image exactly once, in the order of the shards, padded.

    Padding fills the last global batch, so that all replicas take the same
    number of steps. For the arguments see `make_train_dataset`; with an
    augmentation, its view number `view` is drawn instead of resizing.

    Returns:
        Dataset of dictionaries: `inputs` float32 `[per_replica_batch,
        image_size, image_size, channels]` in [0, 255], and,
        `[per_replica_batch]`, `indices` int64, places in the split, and
        `weights` float32, 0 for padding.
    """
    num_images = sum(shard_sizes)
    shape = [image_size, image_size, channels]

    def make_pixels(position, serialized):
        encoded = records.parse_example(serialized)["image"]
        if augmentation is None:
            return preprocessing.prepare_image(encoded, image_size, channels)
        image = preprocessing.decode_image(encoded, channels)
        image_seed = tf.stack([seed, view * num_images + position])
        return augment_image(image, image_seed, image_size, augmentation)

    @tf.autograph.experimental.do_not_convert
    def prepare(position, serialized):
        is_real = position < num_images
        image = tf.cond(
            is_real,
            lambda: make_pixels(position, serialized),
            lambda: tf.zeros(shape),
        )
        image.set_shape(shape)
        return {
            "inputs": image,
            "indices": position,
            "weights": tf.cast(is_real, tf.float32),
        }

    dataset = record_order.make_records_once(
        files,
        shard_sizes,
        global_batch_size=global_batch_size,
        num_workers=num_workers,
        worker_index=worker_index,
    )
    dataset = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(per_replica_batch_size, drop_remainder=True)
    return dataset.prefetch(4)


class SplitIndex(typing.NamedTuple):
    """What is known of the images of a split, in the order of the shards."""

    ids: list[str]
    groups: list[str]
    labels: list[int]


def read_index(
    data_dir: str, info: records.DatasetInfo
) -> dict[str, SplitIndex]:
    """Reads every record of each split once and checks that it is listed.

    TFRecord's checksums are verified by the way: later passes over the shards
    may rely on them being whole.

    Raises:
        ValueError: if a split has more or fewer records than `info` says, or
            they are not those that its fingerprint was taken of.
    """
    index, rows, counts = {}, [], {}
    for split in info.splits:
        dataset = tf.data.TFRecordDataset(split_files(data_dir, info, split))
        dataset = dataset.map(
            records.parse_example, num_parallel_calls=tf.data.AUTOTUNE
        )
        index[split] = SplitIndex([], [], [])
        for example in dataset.as_numpy_iterator():
            image_id = example["id"].decode("utf-8")
            label = int(example["label"])
            name = example["class_name"].decode("utf-8")
            if info.class_names[label : label + 1] != (name,):
                raise ValueError(
                    f"{records.DATASET_FILE} in {data_dir} has another class "
                    f"than {name} for label {label} of the records: copy the "
                    "directory again, or build the records again."
                )
            index[split].ids.append(image_id)
            index[split].groups.append(example["group"].decode("utf-8"))
            index[split].labels.append(label)
            rows.append((image_id, example["sha256"].decode(), label, split))
        if len(index[split].ids) != info.num_images(split):
            raise ValueError(
                f"The shards of {split} in {data_dir} hold "
                f"{len(index[split].ids)} records, {records.DATASET_FILE} "
                f"lists {info.num_images(split)}: copy the directory again, "
                "or build the records again."
            )
        counts[split] = {
            name: index[split].labels.count(label)
            for label, name in enumerate(info.class_names)
        }
    if counts != {s: info.counts[s] for s in info.splits} or (
        info.with_fingerprint(rows) != info
    ):
        raise ValueError(
            f"The shards in {data_dir} hold other images, labels or splits "
            f"than {records.DATASET_FILE} was written for, or it has another "
            "positive class or other counts: copy the directory again, or "
            "build the records again."
        )
    return index


def iterate_encoded(files: list[str]) -> Iterator[bytes]:
    """The encoded images of a split, in the order of the shards."""
    dataset = tf.data.TFRecordDataset(files).map(
        records.parse_example, num_parallel_calls=tf.data.AUTOTUNE
    )
    for example in dataset.as_numpy_iterator():
        yield example["image"]


def read_encoded(files: list[str], indices: list[int]) -> list[bytes]:
    """The encoded images at `indices`, by the order of the shards."""
    wanted = set(indices)
    images = {
        i: encoded
        for i, encoded in enumerate(iterate_encoded(files))
        if i in wanted
    }
    return [images[i] for i in indices]
