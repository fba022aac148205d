"""The tf.Example schema and `dataset.json`, which says what shards hold.

Writers (`build_records`) and readers (`input_pipeline`) meet here and nowhere
else. Only `parse_example` imports TensorFlow, so that `build_records` and REST
clients start quickly.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable

from trainer.data import tfrecord

SCHEMA_VERSION = 2
DATASET_FILE = "dataset.json"
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file of a data set, with the hex digest of its bytes."""

    name: str
    split: str
    num_records: int
    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` holds.

    Attributes:
        class_names: sorted; the index of a name is its label.
        positive_class: name of the positive class of a two-class set, else
            None.
        channels: 1 if every image is grey, else 3.
        stored_size: short side of stored training images, in pixels.
        counts: images per split and class, `counts["train"]["tumor"]`.
        shards: every TFRecord file.
        fingerprint: see `with_fingerprint`.
        options: the flags that the data set was built with.
        leaks: images that share a group with another split and were let in on
            purpose (`--on_leak=allow`), 0 if none.
        schema_version: of what was read; 1 differs in its fingerprint alone.
    """

    class_names: tuple[str, ...]
    positive_class: str | None
    channels: int
    stored_size: int
    counts: dict[str, dict[str, int]]
    shards: tuple[Shard, ...]
    fingerprint: str
    options: dict
    leaks: int = 0
    schema_version: int = SCHEMA_VERSION

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def positive_index(self) -> int | None:
        """Label of the positive class, None unless there are two classes."""
        if self.positive_class is None:
            return None
        return self.class_names.index(self.positive_class)

    @property
    def reading(self) -> dict:
        """The options of `readers.decode_images` that it was built with."""
        names = ("window_center", "window_width", "slice_axis")
        return {n: self.options[n] for n in names if n in self.options}

    @property
    def window(self) -> tuple[float, float] | None:
        """Center and width, if it was built with a window."""
        options = self.options
        center = options.get("window_center")
        return None if center is None else (center, options["window_width"])

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that hold images, in the order of `SPLITS`."""
        return tuple(s for s in SPLITS if self.num_images(s))

    def num_images(self, split: str) -> int:
        return sum(self.counts.get(split, {}).values())

    def shard_names(self, split: str) -> list[str]:
        return [s.name for s in self.shards if s.split == split]

    def shard_sizes(self, split: str) -> list[int]:
        """Records in each shard of a split."""
        return [s.num_records for s in self.shards if s.split == split]

    def with_fingerprint(
        self, rows: Iterable[tuple[str, str, int, str]]
    ) -> "DatasetInfo":
        """The same with the fingerprint of `(id, pixel sha256, label, split)`.

        A hex sha256. Two data sets with the same fingerprint hold the same
        images in the same splits, whatever the order they were written in,
        with labels that mean the same; of version 1, with the same labels.
        """
        meaning = [self.class_names, self.positive_class, self.counts]
        head = [] if self.schema_version == 1 else [meaning]
        digest = hashlib.sha256()
        for row in head + sorted(rows):
            line = json.dumps(row, sort_keys=True)
            digest.update(line.encode("utf-8") + b"\n")
        return dataclasses.replace(self, fingerprint=digest.hexdigest())

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = DATASET_FILE) -> "DatasetInfo":
        """Parses the text of a `dataset.json`.

        Raises:
            ValueError: if it is not JSON, misses a field, or has another
                schema version. The message names `source`.
        """
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{source} is not JSON ({error}); build the records again."
            ) from error
        is_dict = isinstance(fields, dict)
        version = fields.get("schema_version") if is_dict else None
        if version not in (1, SCHEMA_VERSION):
            raise ValueError(
                f"{source} has schema version {version}, this program reads "
                f"up to version {SCHEMA_VERSION}: build the records again with "
                "`python -m trainer.data.build_records`."
            )
        try:
            fields["class_names"] = tuple(fields["class_names"])
            fields["shards"] = tuple(Shard(**s) for s in fields["shards"])
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{source} is incomplete ({error}); build the records again."
            ) from error


def describe(info: DatasetInfo) -> str:
    """Counts per split and class, with shares of the split."""
    width = max(len(name) for name in (*info.class_names, "class"))
    lines = [f"{'class':<{width}}" + "".join(f"{s:>18}" for s in info.splits)]
    for name in info.class_names:
        line = f"{name:<{width}}"
        for split in info.splits:
            count = info.counts[split][name]
            share = count / info.num_images(split)
            line += f"{f'{count:,} ({share:.0%})':>18}"
        lines.append(line)
    totals = "".join(f"{info.num_images(s):>18,}" for s in info.splits)
    lines.append(f"{'all':<{width}}{totals}")
    lines.append(
        f"{info.channels} channel{'s' if info.channels > 1 else ''}, "
        f"{len(info.shards)} shards, fingerprint {info.fingerprint[:16]}"
    )
    if info.leaks:
        lines.append(
            f"{info.leaks} validation and test images share a patient or are "
            "copies of images of another split (--on_leak=allow): results on "
            "them are inflated."
        )
    return "\n".join(lines)


def shard_name(split: str, index: int, num_shards: int) -> str:
    return f"{split}-{index:05d}-of-{num_shards:05d}.tfrecord"


def make_example(
    *,
    encoded: bytes,
    image_format: str,
    height: int,
    width: int,
    channels: int,
    image_id: str,
    group: str,
    sha256: str,
    label: int,
    class_name: str,
) -> bytes:
    """One image as a serialized tf.Example.

    `image_format` is "jpeg" or "png", `image_id` a path relative to the input
    directory, `sha256` the hex digest of the decoded pixels; images of one
    `group` (patient, duplicates) share a split.
    """
    return tfrecord.serialize_example(
        {
            "image/encoded": encoded,
            "image/format": image_format,
            "image/height": height,
            "image/width": width,
            "image/channels": channels,
            "image/id": image_id,
            "image/group": group,
            "image/sha256": sha256,
            "image/class/label": label,
            "image/class/text": class_name,
        }
    )


def parse_example(serialized):
    """Parses a serialized tf.Example, a string scalar, in a graph.

    Returns:
        Dictionary of scalars: `image` (string, JPEG or PNG bytes), `id`,
        `group`, `sha256` (of the decoded pixels), `class_name` (strings) and
        `label` (int32).
    """
    import tensorflow as tf

    text = tf.io.FixedLenFeature([], tf.string)
    features = tf.io.parse_single_example(
        serialized,
        {
            "image/encoded": text,
            "image/id": text,
            "image/group": text,
            "image/sha256": text,
            "image/class/label": tf.io.FixedLenFeature([], tf.int64),
            "image/class/text": text,
        },
    )
    return {
        "image": features["image/encoded"],
        "id": features["image/id"],
        "group": features["image/group"],
        "sha256": features["image/sha256"],
        "class_name": features["image/class/text"],
        "label": tf.cast(features["image/class/label"], tf.int32),
    }
