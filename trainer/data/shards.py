"""The second pass: images -> TFRecord shards.

Training images were encoded when they were first read. Workers read the files
of validation and test images again; this process makes the records and writes
them, one shard after the other.
"""

import collections
import csv
import dataclasses
import functools
import hashlib
import io
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from trainer.data import (
    parallel,
    readers,
    records,
    scan,
    tfrecord,
    training_images,
)

SHARD_BYTES = 100_000_000
# Enough for a handful of replicas or readers to share.
MIN_TRAIN_SHARDS = 4


@dataclasses.dataclass(frozen=True)
class Member:
    """One image with all that was decided about it.

    Attributes:
        scan_index: its place among all images that were read.
    """

    image_id: str
    group: str
    split: str
    label: int
    scan_index: int
    facts: scan.ImageFacts


@dataclasses.dataclass(frozen=True)
class FileTask:
    """One file to read again, and those of its images that are kept."""

    path: str
    members: tuple[Member, ...]


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """The bytes that stand for an image in a record, and what they are."""

    member: Member
    encoded: bytes
    format: str
    height: int
    width: int


def encode_held_out(
    task: FileTask, options: scan.ReadOptions
) -> list[EncodedImage]:
    """Reads a file again: evaluation scores what a client will send.

    Raises:
        ValueError: if the file changed since it was first read.
    """
    file_sha256 = task.members[0].facts.file_sha256
    if scan.hash_file(task.path) != file_sha256:
        raise ValueError(
            f"{task.members[0].image_id} changed while the records were "
            "built; build them again."
        )
    kept_format = task.members[0].facts.kept_format
    if kept_format:
        with open(task.path, "rb") as file:
            data = readers.strip_metadata(file.read(), kept_format)
        encoded = {task.members[0].facts.suffix: data}
    else:
        encoded = {i.suffix: i.encoded for i in options.read(task.path)}
    return [
        EncodedImage(
            member,
            encoded[member.facts.suffix],
            kept_format or "png",
            member.facts.height,
            member.facts.width,
        )
        for member in task.members
    ]


def encode_training(
    member: Member,
    spool: training_images.Spool,
    form: training_images.TrainingFormat,
) -> EncodedImage:
    """Takes an image that was encoded when its file was first read."""
    facts = member.facts
    height, width = training_images.training_shape(
        facts.height, facts.width, form.stored_size
    )
    encoded = spool.read(member.scan_index, form.channels)
    return EncodedImage(member, encoded, "jpeg", height, width)


def count_shards(members: Sequence[Member], num_bytes: int) -> int:
    """Shards of about `SHARD_BYTES`, of whole files.

    Args:
        members: of one split.
        num_bytes: of their images in the records, about.
    """
    wanted = max(1, math.ceil(num_bytes / SHARD_BYTES))
    if members[0].split != "train":
        return wanted
    num_files = len({member.facts.source_index for member in members})
    return min(max(MIN_TRAIN_SHARDS, wanted), num_files)


def _estimate_held_out_bytes(members: Sequence[Member]) -> int:
    """Files that are kept have their size, pixels half of it as PNG."""
    return sum(
        m.facts.num_bytes
        if m.facts.kept_format
        else m.facts.width * m.facts.height * m.facts.channels // 2
        for m in members
    )


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
    spool: training_images.Spool,
    *,
    options: scan.ReadOptions,
    form: training_images.TrainingFormat,
    seed: int,
    num_workers: int,
    report_progress: Callable[[int], None],
) -> list[records.Shard]:
    """Writes the shards of all splits.

    Args:
        directory: an existing directory.
        members: all images.
        paths: of the sources that `facts.source_index` counts.
        spool: the images as they are stored for training, by `scan_index`.
        options: how files are read again.
        form: how training images are stored, with the channels of the set.
        seed: of the order of training images.
        num_workers: processes.
        report_progress: called with the number of images just written.

    Raises:
        ValueError: if a file changed since the first pass.
        OSError: if the disk is full, or a worker died.
    """
    written = []
    for split in records.SPLITS:
        of_split = [member for member in members if member.split == split]
        if not of_split:
            continue
        tasks = _group_by_file(of_split, paths)
        if split == "train":
            tasks = order_files(tasks, seed)
            num_bytes = sum(
                spool.num_bytes(m.scan_index, form.channels) for m in of_split
            )
            encoded_files = (
                [encode_training(m, spool, form) for m in task.members]
                for task in tasks
            )
        else:
            num_bytes = _estimate_held_out_bytes(of_split)
            encoded_files = parallel.map_ordered(
                functools.partial(encode_held_out, options=options),
                tasks,
                num_workers,
            )
        written += _write_split(
            directory,
            split,
            encoded_files,
            len(tasks),
            count_shards(of_split, num_bytes),
            form.channels,
            report_progress,
        )
    return written


def _group_by_file(
    members: Sequence[Member], paths: Sequence[str]
) -> list[FileTask]:
    by_file = collections.defaultdict(list)
    for member in members:
        by_file[member.facts.source_index].append(member)
    return [
        FileTask(paths[index], tuple(of_file))
        for index, of_file in sorted(by_file.items())
    ]


def _write_split(
    directory: str,
    split: str,
    encoded_files: Iterator[list[EncodedImage]],
    num_files: int,
    num_shards: int,
    channels: int,
    report_progress: Callable[[int], None],
) -> list[records.Shard]:
    shards = []
    for index in range(num_shards):
        first = index * num_files // num_shards
        last = (index + 1) * num_files // num_shards
        name = records.shard_name(split, index, num_shards)
        shards.append(
            _write_shard(
                os.path.join(directory, name),
                split,
                itertools.islice(encoded_files, last - first),
                channels,
                report_progress,
            )
        )
    return shards


def _write_shard(
    path: str,
    split: str,
    encoded_files: Iterable[list[EncodedImage]],
    channels: int,
    report_progress: Callable[[int], None],
) -> records.Shard:
    with tfrecord.RecordWriter(path) as writer:
        for images in encoded_files:
            for image in images:
                writer.write(_make_example(image, channels))
            report_progress(len(images))
    return records.Shard(
        name=os.path.basename(path),
        split=split,
        num_records=writer.num_records,
        num_bytes=writer.num_bytes,
        sha256=writer.sha256(),
    )


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
