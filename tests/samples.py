"""Small data sets, models and strategies that tests are made of."""

import functools
import io
import pathlib

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from tests import quick
from trainer.data import records

ROOT = pathlib.Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
IMAGE_SIZE = 32


def encode(image, image_format: str = "PNG", **options) -> bytes:
    """A file of an image of Pillow, or of uint8 `[height, width]` or
    `[height, width, 3]`.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def make_pixels(index: int, label: int, size: int = 40) -> np.ndarray:
    """A grey image; label 1 has a bright square somewhere."""
    generator = np.random.default_rng([index, label])
    pixels = generator.integers(40, 90, (size, size)).astype(np.uint8)
    if label:
        y, x = generator.integers(4, size - 14, 2)
        pixels[y : y + 10, x : x + 10] = 220
    return pixels


def write_records(
    directory,
    counts: dict[str, int],
    num_shards: int = 2,
    positive_class: str = "tumor",
):
    """Writes a two-class data set of grey 40 px PNGs and returns its info."""
    class_names = ("no_tumor", "tumor")
    shards, rows, split_counts = [], [], {}
    for split, count in counts.items():
        split_counts[split] = {
            name: len(range(label, count, 2))
            for label, name in enumerate(class_names)
        }
        for shard in range(num_shards):
            name = records.shard_name(split, shard, num_shards)
            members = range(shard, count, num_shards)
            with tf.io.TFRecordWriter(str(directory / name)) as writer:
                for i in members:
                    label = i % 2
                    index = i + 1000 * records.SPLITS.index(split)
                    image_id = f"{class_names[label]}/{split}_{i}.png"
                    rows.append((image_id, str(index), label, split))
                    writer.write(
                        records.make_example(
                            encoded=encode(make_pixels(index, label)),
                            image_format="png",
                            height=40,
                            width=40,
                            channels=1,
                            image_id=image_id,
                            group=f"group_{index}",
                            sha256=str(index),
                            label=label,
                            class_name=class_names[label],
                        )
                    )
            size = (directory / name).stat().st_size
            shards.append(records.Shard(name, split, len(members), size, ""))
    info = records.DatasetInfo(
        class_names=class_names,
        positive_class=positive_class,
        channels=1,
        stored_size=40,
        counts=split_counts,
        shards=tuple(shards),
        fingerprint="",
        options={},
    ).with_fingerprint(rows)
    (directory / records.DATASET_FILE).write_text(info.to_json())
    return info


def write_backbone(path, num_kinds: int = 7) -> None:
    """Writes weights of a random backbone whose features tell images apart.

    Features of fresh weights vanish, and labels would be decided by rounding.
    """
    keras.utils.set_random_seed(0)
    backbone = quick.build_backbone(
        num_kinds, include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    rng = np.random.default_rng(0)
    quick.normalize(backbone, rng.uniform(0, 255, (32, 32, 32, 3)))
    backbone.save_weights(path)


@functools.cache
def make_strategy(name: str) -> tf.distribute.Strategy:
    """One device, or two replicas on the two logical CPUs.

    One of each in the process: the collectives of a second MirroredStrategy
    would take up the keys, and so the shapes, of the first one's.
    """
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy("CPU:0")
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
