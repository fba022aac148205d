"""Stratified splits that keep groups whole.

A group is what must not be torn apart: the images of a patient, and copies of
an image. Each group has a place on a line that only the seed and its content
decide; a split is a stretch of that line. So an image that is added moves few
others, and none whose split is already known.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

from trainer.data import records


@dataclasses.dataclass(frozen=True)
class Group:
    """What goes into one split as a whole.

    Attributes:
        name: unique, and the same in every build of the same images.
        class_counts: images per class name.
        split: where it must go, "" if that is open.
    """

    name: str
    class_counts: Mapping[str, int]
    split: str = ""

    @property
    def size(self) -> int:
        return sum(self.class_counts.values())

    @property
    def main_class(self) -> str:
        """The most frequent class of its images."""
        return min(
            self.class_counts, key=lambda name: (-self.class_counts[name], name)
        )


@dataclasses.dataclass(frozen=True)
class SplitOptions:
    """How images are shared out where the user gave no split.

    Attributes:
        validation_fraction: of all images, or of the training images where a
            test split is given.
        test_fraction: of all images.
        seed: another one gives another assignment.
        num_folds: parts for cross-validation, 0 for none.
        fold: which part is the test split, from 0.
    """

    validation_fraction: float
    test_fraction: float
    seed: int
    num_folds: int = 0
    fold: int = 0

    def __post_init__(self):
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                "--validation_fraction must lie between 0 and 1. Received: "
                f"{self.validation_fraction}."
            )
        if not 0 <= self.test_fraction < 1 - self.validation_fraction:
            raise ValueError(
                "--test_fraction must not be negative and must leave images "
                f"to train on. Received: test_fraction={self.test_fraction}, "
                f"validation_fraction={self.validation_fraction}."
            )
        if self.num_folds and self.num_folds < 2:
            raise ValueError(
                f"--num_folds must be 2 or more. Received: {self.num_folds}."
            )
        if self.num_folds and not 0 <= self.fold < self.num_folds:
            raise ValueError(
                f"--fold must be at least 0 and less than --num_folds. "
                f"Received: fold={self.fold}, num_folds={self.num_folds}."
            )

    def fractions(self, test_fraction: float = 0.0) -> dict[str, float]:
        """Of the images per split."""
        return {
            "train": 1 - self.validation_fraction - test_fraction,
            "validation": self.validation_fraction,
            "test": test_fraction,
        }


def split_images(
    group_names: Sequence[str],
    class_names: Sequence[str],
    given: Sequence[str],
    previous: Sequence[str],
    options: SplitOptions,
) -> list[str]:
    """The split of every image.

    Args:
        group_names: of every image, as what follows.
        class_names: the labels.
        given: splits that the user gave, all "" if none. If no image has
            "validation", it is taken from the training groups.
        previous: splits of an earlier build, "" for a new image.
        options: how the rest is shared out.

    Raises:
        ValueError: if a class has too few groups for the splits.
    """
    if not any(given):
        groups = _collect_groups(group_names, class_names, previous)
        if options.num_folds:
            assigned = assign_fold(groups, options)
        else:
            fractions = options.fractions(options.test_fraction)
            assigned = assign_splits(groups, fractions, options.seed)
        return [assigned[name] for name in group_names]
    if options.num_folds:
        raise ValueError(
            "--num_folds makes splits of its own, but the input has given "
            "ones; leave the flag out, or put all images into class folders."
        )
    if "validation" in given:
        return list(given)
    # A group that was let into several splits on purpose stays as it is.
    elsewhere = {
        n for n, s in zip(group_names, given, strict=True) if s != "train"
    }
    is_open = [name not in elsewhere for name in group_names]
    groups = _collect_groups(
        *(
            [value for value, o in zip(values, is_open, strict=True) if o]
            for values in (group_names, class_names, previous)
        )
    )
    assigned = assign_splits(groups, options.fractions(), options.seed)
    return [
        assigned[name] if o else split
        for name, split, o in zip(group_names, given, is_open, strict=True)
    ]


def count_images(
    split_of_images: Sequence[str],
    class_of_images: Sequence[str],
    class_names: Sequence[str],
) -> dict[str, dict[str, int]]:
    """Images per split and class.

    Raises:
        ValueError: if a split lacks a class. The test split may be empty, and
            it may be the only one: such a set judges models of others.
    """
    present = collections.Counter(
        zip(split_of_images, class_of_images, strict=True)
    )
    counts = {
        split: {name: present[split, name] for name in class_names}
        for split in records.SPLITS
    }
    if set(split_of_images) == {"test"}:
        return counts
    for split, per_class in counts.items():
        missing = [name for name, count in per_class.items() if not count]
        if missing and (split != "test" or any(per_class.values())):
            raise ValueError(
                f"The {split} split has no readable images of {missing}; "
                "every split needs images of every class."
            )
    return counts


def _collect_groups(
    group_names: Sequence[str],
    class_names: Sequence[str],
    previous: Sequence[str],
) -> list[Group]:
    counts = collections.defaultdict(collections.Counter)
    held = collections.defaultdict(set)
    for name, class_name, split in zip(
        group_names, class_names, previous, strict=True
    ):
        counts[name][class_name] += 1
        held[name].add(split)
    # A new image may join groups that were in several splits: what was once
    # tested on must not be trained on.
    return [
        Group(
            name,
            dict(counts[name]),
            next((s for s in records.SPLITS[::-1] if s in held[name]), ""),
        )
        for name in sorted(counts)
    ]


def assign_splits(
    groups: Sequence[Group], fractions: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Assigns a split to every group, by name.

    Args:
        groups: those with a split keep it and count towards its fraction.
        fractions: of the images per split, which sum to 1; a split without one,
            or with 0, gets no groups but those that are given to it.
        seed: another one gives another assignment.

    Raises:
        ValueError: if a class has too few groups for the splits.
    """
    assigned = {group.name: group.split for group in groups if group.split}
    for _, members in _by_class(groups):
        open_groups = sorted(
            (group for group in members if not group.split),
            key=lambda group: _place(group.name, seed),
        )
        remaining = _remaining_sizes(members, fractions)
        assigned.update(_cut_line(open_groups, remaining))
    open_names = {group.name for group in groups if not group.split}
    splits = [s for s in records.SPLITS if fractions.get(s, 0) > 0]
    _fill_empty(groups, assigned, open_names, splits)
    return assigned


def assign_fold(
    groups: Sequence[Group], options: SplitOptions
) -> dict[str, str]:
    """Assigns one of `num_folds` even parts to the test split.

    Every group is in the test split of exactly one fold; the rest is divided
    into training and validation.

    Raises:
        ValueError: if a class has fewer groups than there are folds.
    """
    num_folds = options.num_folds
    in_test = []
    for class_name, members in _by_class(groups):
        if len(members) < num_folds:
            raise ValueError(
                f"--num_folds={num_folds} needs as many groups (patients, or "
                f"images without copies) of each class; {class_name} has "
                f"{len(members)}."
            )
        # Dealt out like cards, the largest first, so that folds are even.
        members.sort(key=lambda g: (-g.size, _place(g.name, options.seed)))
        sizes = [0] * num_folds
        for group in members:
            smallest = sizes.index(min(sizes))
            sizes[smallest] += group.size
            if smallest == options.fold:
                in_test.append(group.name)
    rest = [group for group in groups if group.name not in in_test]
    assigned = assign_splits(rest, options.fractions(), options.seed)
    return {**assigned, **dict.fromkeys(in_test, "test")}


def _by_class(groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """Groups by their main class, in the order of its name."""
    by_class = collections.defaultdict(list)
    for group in groups:
        by_class[group.main_class].append(group)
    return sorted(by_class.items())


def _place(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _remaining_sizes(
    members: Sequence[Group], fractions: Mapping[str, float]
) -> dict[str, float]:
    """Images that each split still needs, in the order of the line."""
    total = sum(group.size for group in members)
    remaining = {}
    for split in records.SPLITS[::-1]:
        taken = sum(group.size for group in members if group.split == split)
        wanted = fractions.get(split, 0) * total
        remaining[split] = max(wanted - taken, 0)
    return remaining


def _cut_line(
    ordered: Sequence[Group], remaining: Mapping[str, float]
) -> dict[str, str]:
    """Cuts the line into stretches of the remaining sizes."""
    splits = [split for split, size in remaining.items() if size > 0]
    if not splits:
        # What was given has filled every split: training takes the rest.
        return {group.name: "train" for group in ordered}
    open_size = sum(group.size for group in ordered)
    scale = open_size / sum(remaining.values())
    assigned, position = {}, 0.0
    for group in ordered:
        middle = position + group.size / 2
        end = 0.0
        for split in splits:
            end += remaining[split] * scale
            if middle < end:
                break
        assigned[group.name] = split
        position += group.size
    return assigned


def _fill_empty(
    groups: Sequence[Group],
    assigned: dict[str, str],
    open_names: set[str],
    splits: Sequence[str],
) -> None:
    """Moves the smallest groups into splits that lack a class."""
    class_names = sorted({name for g in groups for name in g.class_counts})
    for class_name in class_names:
        members = [g for g in groups if class_name in g.class_counts]
        for split in splits:
            if any(assigned[group.name] == split for group in members):
                continue
            counts = collections.Counter(assigned[g.name] for g in members)
            candidates = [
                group
                for group in members
                if group.name in open_names and counts[assigned[group.name]] > 1
            ]
            if not candidates:
                raise ValueError(
                    f"Each of the splits {list(splits)} needs images of every "
                    f"class, but the groups of class {class_name} (patients, "
                    f"or images without copies) are only {len(members)}. Add "
                    "images, or set --test_fraction=0."
                )
            smallest = min(
                candidates,
                key=lambda g: (-counts[assigned[g.name]], g.size, g.name),
            )
            assigned[smallest.name] = split
