"""The second pass: which images go into which shard, and their records."""

import collections
import csv
import dataclasses
import hashlib
import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO

from trainer.data import records, tfrecord
from trainer.data.build import scan, training_images
from trainer.data.images import strip
from trainer.storage import paths

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
class ShardTask:
    """One shard to write.

    Attributes:
        name: of the file.
        split: one of `records.SPLITS`.
        files: in the order of the records.
    """

    name: str
    split: str
    files: tuple[FileTask, ...]


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """The bytes that stand for an image in a record, and what they are."""

    member: Member
    encoded: bytes
    format: str
    height: int
    width: int


def plan_shards(
    members: Sequence[Member],
    source_paths: Sequence[str],
    channels: int,
    seed: int,
) -> list[ShardTask]:
    """Decides which images lie in which shard, and in which order.

    Args:
        members: all images.
        source_paths: of the sources that `facts.source_index` counts.
        channels: of the data set, 1 or 3.
        seed: of the order of training images.
    """
    tasks = []
    for split in records.SPLITS:
        of_split = [member for member in members if member.split == split]
        if not of_split:
            continue
        files = _group_by_file(of_split, source_paths)
        if split == "train":
            files = order_files(files, seed)
        num_shards = _count_shards(of_split, len(files), channels)
        for index in range(num_shards):
            first = index * len(files) // num_shards
            last = (index + 1) * len(files) // num_shards
            name = records.shard_name(split, index, num_shards)
            tasks.append(ShardTask(name, split, tuple(files[first:last])))
    return tasks


def _group_by_file(
    members: Sequence[Member], source_paths: Sequence[str]
) -> list[FileTask]:
    by_file = collections.defaultdict(list)
    for member in members:
        by_file[member.facts.source_index].append(member)
    return [
        FileTask(source_paths[index], tuple(of_file))
        for index, of_file in sorted(by_file.items())
    ]


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


def _count_shards(
    members: Sequence[Member], num_files: int, channels: int
) -> int:
    """Shards of about `SHARD_BYTES`, of whole files, for one split."""
    is_train = members[0].split == "train"
    num_bytes = sum(
        m.facts.training_bytes[channels != 1]
        if is_train
        else _estimate_held_out_bytes(m.facts)
        for m in members
    )
    wanted = max(1, math.ceil(num_bytes / SHARD_BYTES))
    if is_train:
        wanted = max(MIN_TRAIN_SHARDS, wanted)
    return min(wanted, num_files)


def _estimate_held_out_bytes(facts: scan.ImageFacts) -> int:
    if facts.kept_format:
        return facts.num_bytes
    # What PNG makes of pixels, about.
    return facts.width * facts.height * facts.channels // 2


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


def keeps_file(task: FileTask) -> bool:
    """Whether a held-out image keeps the compressed pixels of its file."""
    return bool(task.members[0].facts.kept_format)


def encode_held_out(
    task: FileTask,
    options: scan.ReadOptions,
) -> list[EncodedImage]:
    """Reads a file again: evaluation scores what a client will send.

    Raises:
        ValueError: if the file changed since it was scanned.
    """
    data = _read_unchanged(task)
    kept_format = task.members[0].facts.kept_format
    if kept_format:
        kept = strip.strip(data, kept_format)
        encoded = {task.members[0].facts.suffix: kept}
    else:
        encoded = {i.suffix: i.encoded for i in options.decode(data)}
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
    task: FileTask,
    options: scan.ReadOptions,
    form: training_images.TrainingFormat,
) -> list[EncodedImage]:
    """Reads a file again and encodes it as when it was scanned.

    Raises:
        ValueError: if the file changed since it was scanned.
    """
    data = _read_unchanged(task)
    pixels = {i.suffix: i.pixels for i in options.decode(data)}
    encoded = [
        training_images.encode_for_training(pixels[m.facts.suffix], form)
        for m in task.members
    ]
    return [
        make_training_image(m, e.for_channels(form.channels), form)
        for m, e in zip(task.members, encoded, strict=True)
    ]


def make_training_image(
    member: Member, encoded: bytes, form: training_images.TrainingFormat
) -> EncodedImage:
    """An image of `training_images` as it stands in a record."""
    height, width = training_images.training_shape(
        member.facts.height, member.facts.width, form.stored_size
    )
    return EncodedImage(member, encoded, "jpeg", height, width)


def _read_unchanged(task: FileTask) -> bytes:
    data = paths.read_bytes(task.path)
    first = task.members[0]
    if hashlib.sha256(data).hexdigest() != first.facts.file_sha256:
        raise ValueError(
            f"{first.image_id} changed while the records were built; build "
            "them again."
        )
    return data


def write_shard(
    file: BinaryIO,
    task: ShardTask,
    images: Iterable[EncodedImage],
    channels: int,
    report_progress: Callable[[int], None],
) -> records.Shard:
    """Writes one shard into an open file and describes it."""
    writer = tfrecord.RecordWriter(file)
    for image in images:
        writer.write(_make_example(image, channels))
        report_progress(1)
    return records.Shard(
        name=task.name,
        split=task.split,
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
