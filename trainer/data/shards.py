"""The second pass: images -> TFRecord shards.

Workers read and encode; this process alone imports TensorFlow, makes the
records and writes them, one shard after the other.
"""

import collections
import csv
import dataclasses
import functools
import hashlib
import io
import math
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import PIL.Image

from trainer.data import parallel, readers, records, scan

SHARD_BYTES = 100_000_000
# Enough for a handful of replicas or readers to share.
MIN_TRAIN_SHARDS = 4
TRAINING_JPEG_QUALITY = 95
# Of JPEG at that quality, per pixel and channel; measured on MRI slices.
TRAINING_BYTES_PER_VALUE = 0.4


@dataclasses.dataclass(frozen=True)
class Member:
    """One image with all that was decided about it."""

    image_id: str
    group: str
    split: str
    label: int
    facts: scan.ImageFacts


@dataclasses.dataclass(frozen=True)
class FileTask:
    """One file to read again; all images of a file share a split."""

    path: str
    members: tuple[Member, ...]


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """What a worker sends back, without the protos that need TensorFlow."""

    member: Member
    encoded: bytes
    format: str
    height: int
    width: int


def encode_file(
    task: FileTask,
    options: scan.ReadOptions,
    stored_size: int,
    channels: int,
) -> list[EncodedImage]:
    """Reads one file again and encodes its images for their split.

    Raises:
        ValueError: if the file changed since the first pass.
    """
    by_suffix = {image.suffix: image for image in options.read(task.path)}
    encoded = []
    for member in task.members:
        image = by_suffix.get(member.facts.suffix)
        if image is None or (
            readers.pixel_sha256(image.pixels) != member.facts.sha256
        ):
            raise ValueError(
                f"{member.image_id} changed while the records were built; "
                "build them again."
            )
        encoded.append(_encode(image, member, stored_size, channels))
    return encoded


def _encode(
    image: readers.Image, member: Member, stored_size: int, channels: int
) -> EncodedImage:
    if member.split != "train":
        # Evaluation scores exactly the bytes that a client will send.
        return EncodedImage(
            member, image.encoded, image.format, image.height, image.width
        )
    pixels = resize_for_training(image.pixels, stored_size, channels)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(
        buffer, "JPEG", quality=TRAINING_JPEG_QUALITY, subsampling=0
    )
    height, width = pixels.shape[:2]
    return EncodedImage(member, buffer.getvalue(), "jpeg", height, width)


def resize_for_training(
    pixels: np.ndarray, stored_size: int, channels: int
) -> np.ndarray:
    """Scales the short side down to `stored_size`; never enlarges.

    Args:
        pixels: uint8 `[height, width]` or `[height, width, 3]`.
        stored_size: in pixels.
        channels: 1 or 3.

    Returns:
        uint8 `[height, width]` or `[height, width, 3]`, as `channels` says.
    """
    image = PIL.Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    short_side = min(image.size)
    if short_side > stored_size:
        width, height = (
            max(1, round(side * stored_size / short_side))
            for side in image.size
        )
        # Pillow widens the filter when it scales down: no aliasing.
        image = image.resize((width, height), PIL.Image.Resampling.BICUBIC)
    return np.asarray(image)


def count_shards(
    split: str,
    members: Sequence[Member],
    num_files: int,
    stored_size: int,
    channels: int,
) -> int:
    """Shards of about `SHARD_BYTES`, known before anything is encoded."""
    if split != "train":
        num_bytes = sum(member.facts.encoded_bytes for member in members)
        return max(1, math.ceil(num_bytes / SHARD_BYTES))
    largest = stored_size * stored_size * 4 / 3
    values = sum(
        min(m.facts.width * m.facts.height, largest) * channels for m in members
    )
    wanted = math.ceil(values * TRAINING_BYTES_PER_VALUE / SHARD_BYTES)
    return min(max(MIN_TRAIN_SHARDS, wanted), num_files)


def members_csv(members: Sequence[Member]) -> str:
    """One line per image, as evaluation reads it to find shortcuts."""
    columns = (
        "sha256",
        "width",
        "height",
        "channels",
        "source_format",
        "bit_depth",
        "quality",
        "num_bytes",
        "mean_brightness",
        "border_brightness",
    )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = [column.removeprefix("source_") for column in columns]
    writer.writerow(["id", "split", "class", "group", *heads])
    for m in sorted(members, key=lambda member: member.image_id):
        values = [getattr(m.facts, column) for column in columns]
        writer.writerow(
            [m.image_id, m.split, m.facts.class_name, m.group, *values]
        )
    return buffer.getvalue()


def order_files(tasks: Sequence[FileTask], seed: int) -> list[FileTask]:
    """Training files in an order that mixes classes and folders.

    The order follows from the seed and the ids alone, so that two builds of
    the same images give the same bytes.
    """

    def place(task: FileTask) -> tuple[bytes, str]:
        first = task.members[0]
        # By id, not by pixels: copies must not lie side by side.
        text = f"{seed}:{first.image_id}".encode()
        return hashlib.sha256(text).digest(), first.image_id

    return sorted(tasks, key=place)


def write_all(
    directory: str,
    members: Sequence[Member],
    paths: Sequence[str],
    *,
    options: scan.ReadOptions,
    stored_size: int,
    channels: int,
    seed: int,
    num_workers: int,
    report_progress: Callable[[int], None],
) -> list[records.Shard]:
    """Writes the shards of all splits.

    Args:
        directory: an existing directory.
        members: all images.
        paths: of the sources that `facts.source_index` counts.
        options: how the files are read.
        stored_size: short side of stored training images, in pixels.
        channels: of the data set, 1 or 3.
        seed: of the order of training images.
        num_workers: processes.
        report_progress: called with the number of images just written.

    Raises:
        ValueError: if a file changed since the first pass.
        OSError: if the disk is full, or a worker died.
    """
    written = []
    for split in records.SPLITS:
        by_file = collections.defaultdict(list)
        for member in members:
            if member.split == split:
                by_file[member.facts.source_index].append(member)
        tasks = [
            FileTask(paths[index], tuple(of_file))
            for index, of_file in sorted(by_file.items())
        ]
        if split == "train":
            tasks = order_files(tasks, seed)
        if tasks:
            written += _write_split(
                directory,
                split,
                tasks,
                options=options,
                stored_size=stored_size,
                channels=channels,
                num_workers=num_workers,
                report_progress=report_progress,
            )
    return written


def _write_split(
    directory: str,
    split: str,
    tasks: Sequence[FileTask],
    *,
    options: scan.ReadOptions,
    stored_size: int,
    channels: int,
    num_workers: int,
    report_progress: Callable[[int], None],
) -> list[records.Shard]:
    members = [member for task in tasks for member in task.members]
    num_shards = count_shards(split, members, len(tasks), stored_size, channels)
    encode = functools.partial(
        encode_file, options=options, stored_size=stored_size, channels=channels
    )
    encoded_files = parallel.map_ordered(encode, tasks, num_workers)
    shards = []
    for index in range(num_shards):
        first = index * len(tasks) // num_shards
        last = (index + 1) * len(tasks) // num_shards
        path = os.path.join(
            directory, records.shard_name(split, index, num_shards)
        )
        num_records = _write_shard(
            path, encoded_files, last - first, channels, report_progress
        )
        shards.append(_describe_shard(path, split, num_records))
    return shards


def _write_shard(
    path: str,
    encoded_files: Iterator[list[EncodedImage]],
    num_files: int,
    channels: int,
    report_progress: Callable[[int], None],
) -> int:
    # Imported here: workers import this module, and TensorFlow takes seconds.
    import tensorflow as tf

    num_records = 0
    try:
        with tf.io.TFRecordWriter(path) as writer:
            for _ in range(num_files):
                images = next(encoded_files)
                for image in images:
                    writer.write(_make_example(image, channels))
                num_records += len(images)
                report_progress(len(images))
    except tf.errors.OpError as error:
        raise OSError(
            f"{path} cannot be written ({error.message}); free some space, or "
            "choose another --output_dir."
        ) from error
    return num_records


def _make_example(image: EncodedImage, channels: int) -> bytes:
    member = image.member
    return records.make_example(
        encoded=image.encoded,
        image_format=image.format,
        height=image.height,
        width=image.width,
        channels=channels,
        image_id=member.image_id,
        group=member.group,
        sha256=member.facts.sha256,
        label=member.label,
        class_name=member.facts.class_name,
    )


def _describe_shard(path: str, split: str, num_records: int) -> records.Shard:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
        os.fsync(file.fileno())
    return records.Shard(
        name=os.path.basename(path),
        split=split,
        num_records=num_records,
        num_bytes=os.path.getsize(path),
        sha256=digest.hexdigest(),
    )
