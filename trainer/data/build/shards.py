"""The second pass: which images go into which shard, and their records."""

import collections
import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO

from trainer.data import records, tfrecord
from trainer.data.build import scan, sources, training_images
from trainer.data.images import strip
from trainer.storage import paths

SHARD_BYTES = 100_000_000
# Enough for a handful of replicas or readers to share.
MIN_TRAIN_SHARDS = 4


@dataclasses.dataclass(frozen=True)
class Member:
    """One image, at its place among all that were read, with its split."""

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
    """One shard to write: its files are in the order of the records."""

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
    files: Sequence[sources.Source],
    channels: int,
    seed: int,
) -> list[ShardTask]:
    """Decides which images lie in which shard, and in which order.

    Args:
        members: all images.
        files: that `facts.source_index` counts.
        channels: of the data set, 1 or 3.
        seed: of the order of training images.
    """
    tasks = []
    for split in records.SPLITS:
        of_split = [member for member in members if member.split == split]
        if not of_split:
            continue
        by_file = collections.defaultdict(list)
        for member in of_split:
            by_file[member.facts.source_index].append(member)
        ordered = [
            FileTask(files[index].path, tuple(of_file))
            for index, of_file in sorted(by_file.items())
        ]
        if split == "train":
            ordered = order_files(ordered, seed)
        num_shards = _count_shards(of_split, len(ordered), channels)
        for index in range(num_shards):
            first = index * len(ordered) // num_shards
            last = (index + 1) * len(ordered) // num_shards
            name = records.shard_name(split, index, num_shards)
            tasks.append(ShardTask(name, split, tuple(ordered[first:last])))
    return tasks


def order_files(tasks: Sequence[FileTask], seed: int) -> list[FileTask]:
    """Training files in an order that mixes classes and folders.

    The order follows from the seed and the ids alone, so that two builds of
    the same images give the same bytes.
    """

    def place(task: FileTask) -> tuple[bytes, str]:
        image_id = task.members[0].facts.image_id
        # By id, not by pixels: copies must not lie side by side.
        text = f"{seed}:{image_id}".encode()
        return hashlib.sha256(text).digest(), image_id

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


def keeps_file(task: FileTask) -> bool:
    """Whether a held-out image keeps the compressed pixels of its file."""
    return bool(task.members[0].facts.kept_format)


def encode_held_out(
    task: FileTask, options: scan.ReadOptions
) -> list[EncodedImage]:
    """Reads a file again: evaluation scores what a client will send.

    Raises:
        ValueError: if the file changed since it was scanned.
    """
    data = _read(task)
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
    images = []
    pixels = {i.suffix: i.pixels for i in options.decode(_read(task))}
    for member in task.members:
        encoded = training_images.encode_for_training(
            pixels[member.facts.suffix], form
        ).for_channels(form.channels)
        images.append(make_training_image(member, encoded, form))
    return images


def make_training_image(
    member: Member, encoded: bytes, form: training_images.TrainingFormat
) -> EncodedImage:
    """An image of `training_images` as it stands in a record."""
    height, width = training_images.training_shape(
        member.facts.height, member.facts.width, form.stored_size
    )
    return EncodedImage(member, encoded, "jpeg", height, width)


def _read(task: FileTask) -> bytes:
    data = paths.read_bytes(task.path)
    facts = task.members[0].facts
    if hashlib.sha256(data).hexdigest() != facts.file_sha256:
        raise ValueError(
            f"{facts.image_id} changed while the records were built; build "
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
        facts = image.member.facts
        example = records.make_example(
            encoded=image.encoded,
            image_format=image.format,
            height=image.height,
            width=image.width,
            channels=channels,
            image_id=facts.image_id,
            group=facts.group,
            sha256=facts.sha256,
            label=image.member.label,
            class_name=facts.class_name,
        )
        writer.write(example)
        report_progress(1)
    return records.Shard(
        task.name,
        task.split,
        writer.num_records,
        writer.num_bytes,
        writer.sha256(),
    )
