"""What is wrong with a data set, as `audit.json` tells it.

The file holds image ids, group names and counts, so that a report can show
the images; no patient id goes into it.
"""

import collections
from collections.abc import Sequence

from trainer.data.build import (
    audit_sentences,
    planning,
    scan,
    sources,
)

# Lists in the file end here; the counts beside them do not.
MAX_LISTED = 1000


def make_audit(
    findings: planning.Findings,
    plan: planning.Plan,
    shortcut_rows: Sequence[dict],
    on_leak: str,
    listing: sources.Listing,
) -> dict:
    """Everything that `audit.json` holds."""
    facts, near_pairs = findings.facts, findings.near_pairs
    optional = {
        "links": listing.num_links,
        "ignored_columns": listing.num_ignored_columns,
        "corrected_labels": findings.num_corrected,
        # Not their names: nobody has compared them with a header.
        "masks": listing.masks and {"count": len(listing.masks)},
        "no_images": findings.no_images and _list_files(findings.no_images),
    }
    return {
        "images": len(facts),
        "groups": len({fact.group for fact in facts}),
        "counts": plan.counts,
        "unreadable": _list_files(findings.unreadable),
        "left_out": listing.num_beside,
        **{key: value for key, value in optional.items() if value},
        "exact_duplicates": _exact_duplicates(facts),
        "near_duplicates": {
            "count": len(near_pairs),
            "with_different_labels": sum(
                facts[pair.first].class_name != facts[pair.second].class_name
                for pair in near_pairs
            ),
            "pairs": [
                {
                    "first": facts[pair.first].image_id,
                    "second": facts[pair.second].image_id,
                    "agreement": pair.agreement,
                }
                for pair in near_pairs[:MAX_LISTED]
            ],
        },
        "leaks": _describe_leaks(facts, plan, on_leak),
        "conflicting_labels": _conflicts(facts),
        "patients": _patients(facts, findings.has_common_patient),
        "shortcuts": list(shortcut_rows),
    }


def _list_files(files: Sequence[scan.ScannedFile]) -> dict:
    """Files that were not taken, and why."""
    listed = [
        {"id": file.image_id, "reason": file.error}
        for file in files[:MAX_LISTED]
    ]
    return {"count": len(files), "files": listed}


def _exact_duplicates(facts: Sequence[scan.ImageFacts]) -> dict:
    copies = collections.defaultdict(list)
    for fact in facts:
        copies[fact.sha256].append(fact.image_id)
    clusters = sorted(sorted(ids) for ids in copies.values() if len(ids) > 1)
    return {
        "surplus": sum(len(ids) - 1 for ids in clusters),
        "clusters": clusters[:MAX_LISTED],
    }


def _describe_leaks(
    facts: Sequence[scan.ImageFacts], plan: planning.Plan, on_leak: str
) -> dict:
    members = collections.defaultdict(list)
    spanning = set(plan.leaks.groups[:MAX_LISTED])
    for fact in facts:
        if fact.group in spanning:
            image = {"id": fact.image_id, "split": fact.split}
            members[fact.group].append(image)
    return {
        "groups": len(plan.leaks.groups),
        "images_per_split": plan.leaks.images,
        "remedy": on_leak if plan.leaks.groups else "none needed",
        "members": dict(sorted(members.items())),
    }


def _conflicts(facts: Sequence[scan.ImageFacts]) -> dict:
    """Groups of copies, or of one patient, with several labels.

    Copies with different labels mean that one is wrong; slices of a patient may
    differ rightly, so the two are told apart by `same_pixels`.
    """
    members = collections.defaultdict(list)
    for fact in facts:
        members[fact.group].append(fact)
    conflicts = []
    for name, of_group in sorted(members.items()):
        if len({fact.class_name for fact in of_group}) < 2:
            continue
        labels = collections.defaultdict(set)
        for fact in of_group:
            labels[fact.sha256].add(fact.class_name)
        conflicts.append(
            {
                "group": name,
                "same_pixels": any(len(names) > 1 for names in labels.values()),
                "images": [
                    {"id": fact.image_id, "class": fact.class_name}
                    for fact in of_group
                ],
            }
        )
    return {"count": len(conflicts), "groups": conflicts[:MAX_LISTED]}


def _patients(facts: Sequence[scan.ImageFacts], has_common: bool) -> dict:
    """Counts of patients, where they are known, and of what stands for them."""
    splits, labels = collections.defaultdict(set), collections.defaultdict(set)
    for fact in facts:
        if fact.patient_key:
            splits[fact.patient_key].add(fact.split)
            labels[fact.patient_key].add(fact.class_name)
    unknown = [fact for fact in facts if not fact.patient_key]
    in_folders = [k for f in unknown for k in f.kin_of(sources.FOLDER)]
    stand_ins = {
        "images": sum(
            bool(f.kin_of(scan.UID, sources.FOLDER)) for f in unknown
        ),
        "images_of_series": sum(bool(f.kin_of(scan.UID)) for f in unknown),
        "images_in_folders": len(in_folders),
        "folders": len(set(in_folders)),
        "had_one_id": has_common,
    }
    return {
        "known": len(splits),
        "images_without_patient": sum(not f.patient_key for f in facts),
        "in_several_given_splits": sum(len(s) > 1 for s in splits.values()),
        "with_several_labels": sum(len(s) > 1 for s in labels.values()),
        **({"stand_ins": stand_ins} if stand_ins["images"] else {}),
    }


def summarize(report: dict) -> list[str]:
    """The audit for the terminal."""
    return [s.text for s in audit_sentences.make_sentences(report)]
