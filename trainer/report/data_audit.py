"""What the audit of the data found, as the report tells and shows it.

`build_records` measured it and wrote `audit.json` and `images.csv`; here it
becomes sentences, the gravest first, and pairs of pictures to look at.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Sequence

from trainer.data.build import output
from trainer.storage import paths

MAX_PAIRS = 12
MAX_UNREADABLE = 20
_WHAT_WAS_DONE = {
    "move": "each such group was moved as a whole to the split of its test "
    "image (--on_leak=move), so nothing leaks.",
    "drop": "of each such group only the images of its test split, else of "
    "validation, were kept (--on_leak=drop), so nothing leaks.",
    "allow": "they were let in (--on_leak=allow), so the figures are too good. "
    "Build the records again with --on_leak=move or --on_leak=drop.",
}


@dataclasses.dataclass(frozen=True)
class Sentence:
    """One finding.

    Attributes:
        text: for a reader who knows no statistics.
        is_alarm: whether the figures may not mean what they seem to.
    """

    text: str
    is_alarm: bool = False


@dataclasses.dataclass(frozen=True)
class Side:
    """One image of a pair; its class is "" where it was left out."""

    image_id: str
    class_name: str
    split: str
    given_split: str
    picture: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images that show the same.

    Attributes:
        sides: both.
        agreement: of a near-duplicate, at most 1; None for identical pixels.
    """

    sides: tuple[Side, Side]
    agreement: float | None

    @property
    def is_conflict(self) -> bool:
        first, second = (side.class_name for side in self.sides)
        return bool(first and second and first != second)

    @property
    def is_leak(self) -> bool:
        first, second = (side.given_split for side in self.sides)
        return bool(first and second and first != second)

    @property
    def title(self) -> str:
        if self.agreement is None:
            kind = "identical pixels"
        else:
            kind = f"near-duplicates, agreement {self.agreement:.3f}"
        if self.is_conflict:
            kind += ", different labels"
        if self.is_leak:
            kind += ", given in two splits"
        return kind

    @property
    def gravity(self) -> tuple[bool, bool, bool]:
        return (
            not self.is_conflict,
            not self.is_leak,
            self.agreement is None,
        )


@dataclasses.dataclass(frozen=True)
class Audit:
    """What the report says of the data.

    Attributes:
        problem: why there is no audit, "" if there is one.
        sentences: the gravest first.
        unreadable: `id` and `reason` of files that were left out.
        shortcuts: rows of `shortcuts.measure_shortcuts`.
        pairs: to look at, the gravest first.
        num_pairs: how many there are in all.
    """

    problem: str = ""
    sentences: Sequence[Sentence] = ()
    unreadable: Sequence[dict[str, str]] = ()
    shortcuts: Sequence[dict] = ()
    pairs: Sequence[Pair] = ()
    num_pairs: int = 0

    @property
    def alarms(self) -> list[str]:
        """What to know before the figures; of leaks `findings` speaks."""
        return [
            sentence.text
            for sentence in self.sentences
            if sentence.is_alarm and "--on_leak" not in sentence.text
        ]


def read_audit(
    data_dir: str,
    read_pictures: Callable[[Sequence[str]], dict[str, bytes]] | None = None,
) -> Audit:
    """Reads what `build_records` found.

    Args:
        data_dir: where it wrote the records; local or `gs://`.
        read_pictures: image ids -> JPEG or PNG bytes of those that are in the
            records; None leaves pictures out.
    """
    path = paths.join(data_dir, output.AUDIT_FILE)
    images_path = paths.join(data_dir, output.IMAGES_FILE)
    for needed in (path, images_path):
        if not paths.exists(needed):
            return _without(f"{needed} does not exist")
    try:
        report = json.loads(paths.read_bytes(path))
        pairs = _list_pairs(report, paths.read_bytes(images_path))
        audit = Audit(
            sentences=_make_sentences(report),
            unreadable=[
                {"id": str(file["id"]), "reason": str(file["reason"])}
                for file in report["unreadable"]["files"][:MAX_UNREADABLE]
            ],
            shortcuts=report["shortcuts"],
            pairs=pairs[:MAX_PAIRS],
            num_pairs=report["near_duplicates"]["count"]
            + report["exact_duplicates"]["surplus"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error):
        return _without(f"{path} or {images_path} is damaged")
    if read_pictures is None:
        return audit
    return dataclasses.replace(
        audit, pairs=_with_pictures(audit.pairs, read_pictures)
    )


def _without(reason: str) -> Audit:
    return Audit(
        problem=f"{reason}, so nothing is known of copies, leaks and "
        "shortcuts: build the records again."
    )


def _with_pictures(
    pairs: Sequence[Pair],
    read_pictures: Callable[[Sequence[str]], dict[str, bytes]],
) -> list[Pair]:
    wanted = {side.image_id for pair in pairs for side in pair.sides}
    pictures = read_pictures(sorted(wanted))
    return [
        dataclasses.replace(
            pair,
            sides=tuple(
                dataclasses.replace(side, picture=pictures.get(side.image_id))
                for side in pair.sides
            ),
        )
        for pair in pairs
    ]


def _list_pairs(report: dict, images_csv: bytes) -> list[Pair]:
    """All listed pairs, the gravest first; of a set of copies, each once."""
    linked = [
        (cluster[0], copy, None)
        for cluster in report["exact_duplicates"]["clusters"]
        for copy in cluster[1:]
    ]
    linked += [
        (pair["first"], pair["second"], float(pair["agreement"]))
        for pair in report["near_duplicates"]["pairs"]
    ]
    wanted = {image_id for pair in linked for image_id in pair[:2]}
    classes, splits = _look_up(images_csv, wanted)
    # Images that were left out have no row, but may be named here.
    for group in report["conflicting_labels"]["groups"]:
        for image in group["images"]:
            classes.setdefault(image["id"], image["class"])
    given = {
        member["id"]: member["split"]
        for members in report["leaks"]["members"].values()
        for member in members
    }
    pairs = [
        Pair(
            tuple(
                Side(
                    image_id,
                    classes.get(image_id, ""),
                    splits.get(image_id, ""),
                    given.get(image_id, ""),
                )
                for image_id in pair[:2]
            ),
            pair[2],
        )
        for pair in linked
    ]
    return sorted(pairs, key=lambda pair: pair.gravity)


def _look_up(
    images_csv: bytes, wanted: Iterable[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Class and split of some images."""
    classes, splits = {}, {}
    for row in csv.DictReader(io.StringIO(images_csv.decode("utf-8"))):
        if row["id"] in wanted:
            classes[row["id"]] = row["class"]
            splits[row["id"]] = row["split"]
    return classes, splits


def _make_sentences(report: dict) -> list[Sentence]:
    sentences = [
        *_tell_leaks(report["leaks"]),
        *_tell_conflicts(report),
        *_tell_shortcuts(report["shortcuts"]),
        *_tell_patients(report["patients"]),
        *_tell_copies(report),
        *_tell_left_out(report),
    ]
    return sorted(sentences, key=lambda sentence: not sentence.is_alarm)


def _tell_leaks(leaks: dict) -> list[Sentence]:
    if not leaks["groups"]:
        return [
            Sentence(
                "No patient, no copy and no near-duplicate is in two splits."
            )
        ]
    counts = ", ".join(
        f"{count} of {split}"
        for split, count in leaks["images_per_split"].items()
    )
    return [
        Sentence(
            f"In the splits as they were given, {_count(leaks['groups'])} of "
            f"patients or copies lay in more than one split ({counts}); "
            + _WHAT_WAS_DONE[leaks["remedy"]],
            is_alarm=leaks["remedy"] == "allow",
        )
    ]


def _tell_conflicts(report: dict) -> list[Sentence]:
    groups = report["conflicting_labels"]["groups"]
    identical = sum(group["same_pixels"] for group in groups)
    near = report["near_duplicates"]["with_different_labels"]
    sentences = []
    if identical:
        sentences.append(
            Sentence(
                f"{_count(identical)} of images with identical pixels carry "
                "different labels: at least one label of each is wrong, so no "
                "model can be right on all of them.",
                is_alarm=True,
            )
        )
    if near:
        pairs = "pair" if near == 1 else "pairs"
        sentences.append(
            Sentence(
                f"{near:,} {pairs} of near-duplicates carry different labels: "
                "look whether one of them is wrong.",
                is_alarm=True,
            )
        )
    return sentences


def _tell_shortcuts(rows: Sequence[dict]) -> list[Sentence]:
    told = [
        f"{row['cue']} tells {row['class_name']} from the rest with an AUC of "
        f"{row['auc']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        for row in rows
        if row["suspicious"]
    ]
    if not told:
        return []
    return [
        Sentence(
            f"Alone, {', '.join(told)}: a model may have learned that instead "
            "of the disease.",
            is_alarm=True,
        )
    ]


def _tell_patients(patients: dict) -> list[Sentence]:
    if not patients["known"]:
        return [
            Sentence(
                "No patient is known, so different images of one patient may "
                "be in two splits, and the figures too good: name patients in "
                "a --manifest or by --patient_regex.",
                is_alarm=True,
            )
        ]
    number = patients["known"]
    text = f"{number:,} {'patient is' if number == 1 else 'patients are'} known"
    if patients["with_several_labels"]:
        text += f", {patients['with_several_labels']:,} with several labels"
    sentences = [Sentence(text + ".")]
    if patients["images_without_patient"]:
        sentences.append(
            Sentence(
                f"Images without a patient: "
                f"{patients['images_without_patient']:,}. Whether they share "
                "one with another split is unknown.",
                is_alarm=True,
            )
        )
    return sentences


def _tell_copies(report: dict) -> list[Sentence]:
    exact = report["exact_duplicates"]["surplus"]
    near = report["near_duplicates"]["count"]
    text = f"{report['images']:,} images were read."
    if exact or near:
        text += (
            f" {exact:,} repeat the pixels of another, and {near:,} are "
            "near-duplicates: re-encoded, resized, brightened or cropped "
            "copies. Copies count as one in every interval."
        )
    return [Sentence(text)]


def _tell_left_out(report: dict) -> list[Sentence]:
    sentences = []
    unreadable = report["unreadable"]["count"]
    if unreadable:
        sentences.append(
            Sentence(
                f"Files that could not be read and were left out "
                f"(--skip_unreadable): {unreadable:,}. If they are of one "
                "class or scanner, the figures do not hold for it.",
                is_alarm=True,
            )
        )
    if report["left_out"]:
        sentences.append(
            Sentence(
                "Files outside of the class folders, which were left out: "
                f"{report['left_out']:,}."
            )
        )
    return sentences


def _count(number: int) -> str:
    return f"{number:,} {'group' if number == 1 else 'groups'}"
