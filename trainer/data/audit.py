"""What is wrong with a data set, as `audit.json` tells it."""

import collections
from collections.abc import Sequence

from trainer.data import leaks as leaks_lib
from trainer.data import scan


def make_audit(
    facts: Sequence[scan.ImageFacts],
    image_ids: Sequence[str],
    group_names: Sequence[str],
    leaks: leaks_lib.Leaks,
    unreadable: Sequence[scan.ScannedFile],
) -> dict:
    """Everything that `audit.json` holds."""
    copies = collections.defaultdict(list)
    for fact, image_id in zip(facts, image_ids, strict=True):
        copies[fact.sha256].append(image_id)
    clusters = sorted(ids for ids in copies.values() if len(ids) > 1)
    return {
        "images": len(facts),
        "groups": len(set(group_names)),
        "unreadable": [
            {"id": f.image_id, "reason": f.error} for f in unreadable
        ],
        "exact_duplicates": {
            "surplus": sum(len(ids) - 1 for ids in clusters),
            "clusters": clusters,
        },
        "leaks": {
            "groups": list(leaks.groups),
            "images_per_split": leaks.images,
        },
    }
