"""What is wrong with a data set, as `audit.json` tells it.

The file holds image ids, group names and counts, so that a report can show
the images; no patient id goes into it.
"""

import collections
from collections.abc import Sequence

from trainer.data.build import output, planning, scan

# Lists in the file end here; the counts beside them do not.
MAX_LISTED = 1000


def make_audit(
    findings: planning.Findings,
    plan: planning.Plan,
    shortcut_rows: Sequence[dict],
    on_leak: str,
    num_left_out: int = 0,
) -> dict:
    """Everything that `audit.json` holds; `num_left_out` files lie beside
    the folders of the classes.
    """
    facts, image_ids = findings.facts, findings.image_ids
    group_names, near_pairs = findings.group_names, findings.near_pairs
    unreadable = findings.unreadable
    return {
        "images": len(facts),
        "groups": len(set(group_names)),
        "counts": plan.counts,
        "unreadable": {
            "count": len(unreadable),
            "files": [
                {"id": output.visible_id(file), "reason": file.error}
                for file in unreadable[:MAX_LISTED]
            ],
        },
        "left_out": num_left_out,
        "exact_duplicates": _exact_duplicates(facts, image_ids),
        "near_duplicates": {
            "count": len(near_pairs),
            "with_different_labels": sum(
                facts[pair.first].class_name != facts[pair.second].class_name
                for pair in near_pairs
            ),
            "pairs": [
                {
                    "first": image_ids[pair.first],
                    "second": image_ids[pair.second],
                    "agreement": pair.agreement,
                }
                for pair in near_pairs[:MAX_LISTED]
            ],
        },
        "leaks": _describe_leaks(findings, plan, on_leak),
        "conflicting_labels": _conflicts(facts, image_ids, group_names),
        "patients": _patients(facts),
        "shortcuts": list(shortcut_rows),
    }


def _exact_duplicates(
    facts: Sequence[scan.ImageFacts], image_ids: Sequence[str]
) -> dict:
    copies = collections.defaultdict(list)
    for fact, image_id in zip(facts, image_ids, strict=True):
        copies[fact.sha256].append(image_id)
    clusters = sorted(sorted(ids) for ids in copies.values() if len(ids) > 1)
    return {
        "surplus": sum(len(ids) - 1 for ids in clusters),
        "clusters": clusters[:MAX_LISTED],
    }


def _describe_leaks(
    findings: planning.Findings, plan: planning.Plan, on_leak: str
) -> dict:
    members = collections.defaultdict(list)
    spanning = set(plan.leaks.groups[:MAX_LISTED])
    for fact, image_id, name in zip(
        findings.facts, findings.image_ids, findings.group_names, strict=True
    ):
        if name in spanning:
            members[name].append({"id": image_id, "split": fact.split})
    return {
        "groups": len(plan.leaks.groups),
        "images_per_split": plan.leaks.images,
        "remedy": on_leak if plan.leaks.groups else "none needed",
        "members": dict(sorted(members.items())),
    }


def _conflicts(
    facts: Sequence[scan.ImageFacts],
    image_ids: Sequence[str],
    group_names: Sequence[str],
) -> dict:
    """Groups of copies, or of one patient, with several labels.

    Copies with different labels mean that one is wrong; slices of a patient may
    differ rightly, so the two are told apart by `same_pixels`.
    """
    members = collections.defaultdict(list)
    for index, name in enumerate(group_names):
        members[name].append(index)
    conflicts = []
    for name, indices in sorted(members.items()):
        if len({facts[i].class_name for i in indices}) < 2:
            continue
        labels = collections.defaultdict(set)
        for i in indices:
            labels[facts[i].sha256].add(facts[i].class_name)
        conflicts.append(
            {
                "group": name,
                "same_pixels": any(len(names) > 1 for names in labels.values()),
                "images": [
                    {"id": image_ids[i], "class": facts[i].class_name}
                    for i in indices
                ],
            }
        )
    return {"count": len(conflicts), "groups": conflicts[:MAX_LISTED]}


def _patients(facts: Sequence[scan.ImageFacts]) -> dict:
    """Counts of patients, where they are known."""
    splits, labels = collections.defaultdict(set), collections.defaultdict(set)
    for fact in facts:
        if fact.patient_key:
            splits[fact.patient_key].add(fact.split)
            labels[fact.patient_key].add(fact.class_name)
    return {
        "known": len(splits),
        "images_without_patient": sum(not f.patient_key for f in facts),
        "in_several_given_splits": sum(len(s) > 1 for s in splits.values()),
        "with_several_labels": sum(len(s) > 1 for s in labels.values()),
    }


def summarize(report: dict) -> list[str]:
    """The audit in a few lines for the terminal."""
    exact, near = report["exact_duplicates"], report["near_duplicates"]
    leaking, conflicts = report["leaks"], report["conflicting_labels"]
    lines = [
        f"{_count(report['images'], 'image')} in "
        f"{_count(report['groups'], 'group')} that share patients or copies",
        f"{_count(exact['surplus'], 'surplus copy', 'surplus copies')}, "
        f"{_count(near['count'], 'near-duplicate')}",
    ]
    if report["unreadable"]["count"]:
        number = _count(report["unreadable"]["count"], "unreadable file")
        lines.append(f"left out: {number}")
    if report["left_out"]:
        number = _count(report["left_out"], "file")
        lines.append(f"left out: {number} outside of the class folders")
    if leaking["groups"]:
        lines.append(
            f"across the given splits: {_count(leaking['groups'], 'group')} "
            f"(--on_leak={leaking['remedy']})"
        )
    if conflicts["count"]:
        number = _count(conflicts["count"], "group")
        lines.append(f"with conflicting labels: {number}")
    for row in report["shortcuts"]:
        if row["suspicious"]:
            lines.append(
                f"possible shortcut: {row['cue']} alone predicts "
                f"{row['class_name']}, AUC {row['auc']:.2f} "
                f"({row['low']:.2f} to {row['high']:.2f})"
            )
    return lines


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
