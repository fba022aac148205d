"""Between reading and writing: what was found, and what is decided of it."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

from trainer.data.build import duplicates, groups, leaks, scan, shards, splits


@dataclasses.dataclass(frozen=True)
class Findings:
    """All that is known of the images; the sequences are parallel.

    Attributes:
        facts: of every readable image.
        image_ids: unique.
        group_names: patients and copies, see `groups`.
        near_pairs: indices of near-duplicates.
        unreadable: files that are no image.
    """

    facts: Sequence[scan.ImageFacts]
    image_ids: Sequence[str]
    group_names: Sequence[str]
    near_pairs: Sequence[duplicates.NearPair]
    unreadable: Sequence[scan.ScannedFile]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is written where: images with their splits, their number per split
    and class, and the groups that spanned given splits.
    """

    members: Sequence[shards.Member]
    counts: dict[str, dict[str, int]]
    leaks: leaks.Leaks


def examine(
    scan_files: Callable[[BinaryIO], tuple[list, list]],
    num_workers: int,
    directory: str,
) -> Findings:
    """Reads every file once and joins images that belong together.

    Args:
        scan_files: see `scan.scan_files`; of a file for the thumbnails.
        num_workers: processes that confirm near-duplicates.
        directory: for that file; the system's own may be held in memory.
    """
    with tempfile.TemporaryFile(dir=directory) as thumbnail_file:
        facts, unreadable = scan_files(thumbnail_file)
        sets = groups.join_known(facts)
        near_pairs = []
        if facts:
            thumbnails = scan.load_thumbnails(thumbnail_file, len(facts))
            near_pairs = duplicates.find_near_duplicates(
                thumbnails, sets, num_workers
            )
    return Findings(
        facts=facts,
        image_ids=groups.make_image_ids(facts),
        group_names=groups.name_groups(facts, sets),
        near_pairs=near_pairs,
        unreadable=unreadable,
    )


def make_plan(
    findings: Findings,
    class_names: Sequence[str],
    previous: Mapping[str, str],
    split_options: splits.SplitOptions,
    on_leak: str,
) -> Plan:
    """Decides the split of every image.

    Args:
        findings: of `examine`.
        class_names: sorted; the index of a name is its label.
        previous: splits of an earlier build, by pixel hash and by id.
        split_options: how images are shared out.
        on_leak: one of `leaks.REMEDIES`.

    Raises:
        ValueError: if given splits leak and `on_leak` is "error", or a class
            has too few groups for the splits.
    """
    facts, names = findings.facts, findings.group_names
    given = [fact.split for fact in facts]
    found_leaks = leaks.find_leaks(names, given)
    resolved = leaks.resolve(names, given, found_leaks, on_leak)
    kept = [i for i, split in enumerate(resolved) if split != leaks.DROPPED]
    before = [
        previous.get(facts[i].sha256) or previous.get(findings.image_ids[i], "")
        for i in kept
    ]
    decided = splits.split_images(
        [names[i] for i in kept],
        [facts[i].class_name for i in kept],
        [resolved[i] for i in kept],
        before,
        split_options,
    )
    members = [
        shards.Member(
            image_id=findings.image_ids[i],
            group=names[i],
            split=split,
            label=class_names.index(facts[i].class_name),
            scan_index=i,
            facts=facts[i],
        )
        for i, split in zip(kept, decided, strict=True)
    ]
    counts = splits.count_images(
        decided, [member.facts.class_name for member in members], class_names
    )
    return Plan(members, counts, found_leaks)
