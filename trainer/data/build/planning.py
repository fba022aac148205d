"""Between reading and writing: what was found, and what is decided of it."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

from trainer.data.build import (
    duplicates,
    groups,
    leaks,
    scan,
    shards,
    sources,
    splits,
)


@dataclasses.dataclass(frozen=True)
class Findings:
    """Facts of all readable images, with ids and groups, and what is amiss.

    Attributes:
        near_pairs: indices of near-duplicates.
        unreadable: files that are damaged, or not of a known format.
        no_images: files that show something else, as segmentations do.
        has_common_patient: all files carried one patient id, which was dropped.
        num_corrected: labels that the user changed.
    """

    facts: Sequence[scan.ImageFacts]
    near_pairs: Sequence[duplicates.NearPair]
    unreadable: Sequence[scan.ScannedFile]
    no_images: Sequence[scan.ScannedFile] = ()
    has_common_patient: bool = False
    num_corrected: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """Images with their splits, their number per split and class, and leaks."""

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
        scanned, failed = scan_files(thumbnail_file)
        facts = groups.drop_common_patient(scanned)
        sets = groups.join_known(facts)
        near_pairs = []
        if facts:
            thumbnails = scan.load_thumbnails(thumbnail_file, len(facts))
            near_pairs = duplicates.find_near_duplicates(
                thumbnails, sets, num_workers
            )
    is_common = facts is not scanned
    named = zip(
        facts,
        groups.make_image_ids(facts),
        groups.name_groups(facts, sets),
        strict=True,
    )
    facts = [
        dataclasses.replace(fact, image_id=image_id, group=group)
        for fact, image_id, group in named
    ]
    # If nothing else is there, it is what is wrong.
    no_images = [file for file in failed if facts and file.is_no_image]
    unreadable = [f for f in failed if not (facts and f.is_no_image)]
    return Findings(facts, near_pairs, unreadable, no_images, is_common)


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
    facts = findings.facts
    names = [fact.group for fact in facts]
    given = [fact.split for fact in facts]
    spanning = leaks.find_leaks(names, given)
    try:
        resolved = leaks.resolve(names, given, spanning, on_leak)
        kept = [i for i, s in enumerate(resolved) if s != leaks.DROPPED]
        decided = splits.split_images(
            [names[i] for i in kept],
            [facts[i].class_name for i in kept],
            [resolved[i] for i in kept],
            [
                previous.get(groups.content_key(facts[i]))
                or previous.get(facts[i].image_id, "")
                for i in kept
            ],
            split_options,
        )
    except ValueError as error:
        raise ValueError(f"{error}{_explain_groups(facts)}") from error
    members = [
        shards.Member(
            split, class_names.index(facts[i].class_name), i, facts[i]
        )
        for i, split in zip(kept, decided, strict=True)
    ]
    counts = splits.count_images(
        decided, [member.facts.class_name for member in members], class_names
    )
    return Plan(members, counts, spanning)


def _explain_groups(facts: Sequence[scan.ImageFacts]) -> str:
    """What made groups large that may be none, and the remedy."""
    remedy = (
        "name patients in a --manifest, or by --patient_regex (--patient_regex="
        "'[^/]+$' if each file is one)."
    )
    for class_name in sorted({fact.class_name for fact in facts}):
        members = [fact for fact in facts if fact.class_name == class_name]
        patients = {fact.patient_key for fact in members}
        if len(members) > 1 and len(patients) == 1 and patients != {""}:
            return (
                f" All {len(members):,} images of class {class_name} carry one "
                f"patient id (of DICOM files, PatientID): {remedy}"
            )
    kinds = (scan.UID, sources.FOLDER)
    if any(f.kin_of(*kinds) and not f.patient_key for f in facts):
        return (
            " Images of one DICOM study, or of one sub-folder of a class, were "
            f"taken as one patient's: {remedy}"
        )
    return ""
