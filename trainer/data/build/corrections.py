"""Labels that a reviewer corrected, for images by their ids.

The file is a CSV with the columns `id` and `label`; of others it reads
`given_label`, which guards against a file that is of other images. The
`doubtful_labels.csv` of a cross-validation is one, once those rows are taken
out whose label is right.
"""

import dataclasses
import unicodedata
from collections.abc import Sequence

from trainer.data.build import planning
from trainer.storage import csv_text, paths


def apply(
    findings: planning.Findings, path: str, class_names: Sequence[str]
) -> planning.Findings:
    """Findings with the labels of a file; without a path, as they are.

    Raises:
        ValueError: if it is no such CSV, or not of these images.
        OSError: if it cannot be read.
    """
    if not path:
        return findings
    label_of, facts = {}, list(findings.facts)
    place_of = {fact.image_id: i for i, fact in enumerate(facts)}
    for number, row in enumerate(_read(path), start=2):
        where = f"--corrections={path}, line {number}"
        image_id, label = row["id"], row["label"]
        if image_id not in place_of:
            raise ValueError(
                f"{where}: there is no image {image_id}; give the file of an "
                "evaluation of these images."
            )
        if label not in class_names:
            raise ValueError(
                f"{where}: label {label!r} is none of the classes "
                f"{', '.join(class_names)}."
            )
        if label_of.setdefault(image_id, label) != label:
            raise ValueError(f"{where}: {image_id} has another label above.")
        fact = facts[place_of[image_id]]
        given = row.get("given_label", fact.class_name)
        if fact.class_name not in (given, label):
            raise ValueError(
                f"{where}: {image_id} is labelled {fact.class_name}, not "
                f"{given}; the file is of other labels."
            )
        facts[place_of[image_id]] = dataclasses.replace(fact, class_name=label)
    lost = set(class_names) - {fact.class_name for fact in facts}
    if lost:
        raise ValueError(
            f"--corrections={path} leaves no image of {', '.join(lost)}."
        )
    changed = sum(
        old.class_name != new.class_name
        for old, new in zip(findings.facts, facts, strict=True)
    )
    return dataclasses.replace(findings, facts=facts, num_corrected=changed)


def _read(path: str) -> list[dict[str, str]]:
    """Rows by lower-case column names, without blanks around."""
    try:
        # utf-8-sig: spreadsheet programs put a byte order mark in front.
        text = paths.read_bytes(path).decode("utf-8-sig")
        rows = [
            {k.strip().lower(): _clean(v) for k, v in row.items() if k}
            for row in csv_text.read(text)
        ]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--corrections={path} is not UTF-8 text: save it as CSV in UTF-8."
        ) from error
    if not rows or not {"id", "label"} <= rows[0].keys():
        raise ValueError(
            f"--corrections={path} must have the columns id,label, with "
            "commas, and a line per image to correct."
        )
    return [row for row in rows if any(row.values())]


def _clean(cell: str | None) -> str:
    return unicodedata.normalize("NFC", (cell or "").strip())
