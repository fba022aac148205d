"""Groups that span given splits, and what to do about them."""

import collections
import dataclasses
from collections.abc import Sequence

from trainer.data import records

# What `--on_leak` accepts.
REMEDIES = ("error", "move", "drop", "allow")
DROPPED = "dropped"


@dataclasses.dataclass(frozen=True)
class Leaks:
    """Images that share a group with an image of another given split.

    Attributes:
        groups: names of the groups that span splits.
        images: how many of their images each split holds.
    """

    groups: tuple[str, ...]
    images: dict[str, int]

    @property
    def num_held_out(self) -> int:
        """Validation and test images that a model could know by heart."""
        return sum(n for split, n in self.images.items() if split != "train")


def find_leaks(group_names: Sequence[str], given: Sequence[str]) -> Leaks:
    """Compares groups with given splits, "" where Lightbox chooses."""
    splits_of = collections.defaultdict(set)
    for name, split in zip(group_names, given, strict=True):
        if split:
            splits_of[name].add(split)
    spanning = {name for name, splits in splits_of.items() if len(splits) > 1}
    images = collections.Counter(
        split
        for name, split in zip(group_names, given, strict=True)
        if split and name in spanning
    )
    return Leaks(
        groups=tuple(sorted(spanning)),
        images={s: images[s] for s in records.SPLITS if images[s]},
    )


def resolve(
    group_names: Sequence[str], given: Sequence[str], leaks: Leaks, on_leak: str
) -> list[str]:
    """The split of every image once leaks are dealt with.

    Returns:
        Splits, "" where Lightbox still chooses, `DROPPED` for images that are
        left out.

    Raises:
        ValueError: if there are leaks and `on_leak`, one of `REMEDIES`, is
            "error".
    """
    if not leaks.groups or on_leak == "allow":
        return list(given)
    if on_leak == "error":
        raise ValueError(_explain(leaks))
    held = collections.defaultdict(set)
    for name, split in zip(group_names, given, strict=True):
        held[name].add(split)
    resolved = []
    for name, split in zip(group_names, given, strict=True):
        # A published test set stays whole, then the validation set.
        target = next((s for s in records.SPLITS[::-1] if s in held[name]), "")
        if not split or split == target:
            resolved.append(split)
        else:
            resolved.append(target if on_leak == "move" else DROPPED)
    return resolved


def _explain(leaks: Leaks) -> str:
    counts = ", ".join(f"{n} {split}" for split, n in leaks.images.items())
    return (
        f"The given splits leak: {len(leaks.groups)} groups (one patient, or "
        f"copies of one image) span splits, with {counts} images. Results "
        "would be inflated. Choose --on_leak=move (the whole group goes to "
        "the split of its test or validation member), --on_leak=drop (leaking "
        "training images are left out) or --on_leak=allow (recorded, and "
        "every report says so)."
    )
