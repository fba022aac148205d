"""Near-duplicates: re-encoded, resized, brightened or cropped copies."""

from collections.abc import Sequence

from trainer.data import scan


def find_near_duplicates(
    facts: Sequence[scan.ImageFacts],
) -> list[tuple[int, int]]:
    return []
