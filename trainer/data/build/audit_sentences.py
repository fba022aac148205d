"""What the audit of a data set found, in sentences, the gravest first."""

import dataclasses

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


def make_sentences(report: dict) -> list[Sentence]:
    """Sentences of what `audit.make_audit` gives; `audit.json` holds it."""
    sentences = [
        *_leaks(report["leaks"]),
        *_conflicts(report),
        *_shortcuts(report["shortcuts"]),
        *_patients(report["patients"]),
        *_copies(report),
        *_left_out(report),
    ]
    return sorted(sentences, key=lambda sentence: not sentence.is_alarm)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def _alarm(text: str) -> Sentence:
    return Sentence(text, is_alarm=True)


def _leaks(leaks: dict) -> list[Sentence]:
    if not leaks["groups"]:
        text = "No patient, no copy and no near-duplicate is in two splits."
        return [Sentence(text)]
    counts = ", ".join(
        f"{count} of {split}"
        for split, count in leaks["images_per_split"].items()
    )
    text = (
        "In the splits as they were given, "
        f"{_count(leaks['groups'], 'group')} of patients or copies lay in more "
        f"than one split ({counts}); {_WHAT_WAS_DONE[leaks['remedy']]}"
    )
    return [Sentence(text, is_alarm=leaks["remedy"] == "allow")]


def _conflicts(report: dict) -> list[Sentence]:
    groups = report["conflicting_labels"]["groups"]
    identical = sum(group["same_pixels"] for group in groups)
    near = report["near_duplicates"]["with_different_labels"]
    sentences = []
    if identical:
        sentences.append(
            _alarm(
                f"{_count(identical, 'group')} of images with identical pixels "
                "carry different labels: at least one label of each is wrong, "
                "so no model can be right on all of them."
            )
        )
    if near:
        sentences.append(
            _alarm(
                f"{_count(near, 'pair')} of near-duplicates carry different "
                "labels: look whether one of them is wrong."
            )
        )
    return sentences


def _shortcuts(rows: list[dict]) -> list[Sentence]:
    cues = [
        f"{row['cue']} tells {row['class_name']} from the rest with an AUC of "
        f"{row['auc']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        for row in rows
        if row["suspicious"]
    ]
    if not cues:
        return []
    return [
        _alarm(
            f"Alone, {', '.join(cues)}: a model may have learned that instead "
            "of the disease."
        )
    ]


def _patients(patients: dict) -> list[Sentence]:
    stand_ins = patients.get("stand_ins")
    if not patients["known"] and not stand_ins:
        return [
            _alarm(
                "No patient is known, so different images of one patient may "
                "be in two splits, and the figures too good: name patients in "
                "a --manifest or by --patient_regex."
            )
        ]
    sentences = []
    if patients["known"]:
        verb = "is" if patients["known"] == 1 else "are"
        text = f"{_count(patients['known'], 'patient')} {verb} known"
        if patients["with_several_labels"]:
            text += f", {patients['with_several_labels']:,} with several labels"
        sentences.append(Sentence(f"{text}."))
    num_unknown = patients["images_without_patient"]
    if stand_ins:
        sentences.append(_stand_ins(stand_ins))
        num_unknown -= stand_ins["images"]
    if num_unknown:
        sentences.append(
            _alarm(
                f"Images without a patient: {num_unknown:,}. Whether they "
                "share one with another split is unknown."
            )
        )
    return sentences


def _stand_ins(stand_ins: dict) -> Sentence:
    """What was taken for patients where none is named."""
    kinds = []
    if stand_ins["images_of_series"]:
        kinds.append(
            "of one study, series or frame of reference of DICOM "
            f"({stand_ins['images_of_series']:,} images)"
        )
    if stand_ins["images_in_folders"]:
        kinds.append(
            "of one sub-folder of a class "
            f"({stand_ins['images_in_folders']:,} images in "
            f"{_count(stand_ins['folders'], 'sub-folder')})"
        )
    text = (
        f"Without a patient's name, images {' and '.join(kinds)} were taken as "
        "one patient's: --patient_regex or a --manifest can name patients."
    )
    if stand_ins["had_one_id"]:
        text = f"All files carry one PatientID, which tells none apart. {text}"
    return Sentence(text, is_alarm=stand_ins["had_one_id"])


def _copies(report: dict) -> list[Sentence]:
    exact = report["exact_duplicates"]["surplus"]
    near = report["near_duplicates"]["count"]
    text = f"{report['images']:,} images were read."
    if exact or near:
        text += (
            f" {exact:,} repeat the pixels of another, and {near:,} are "
            "near-duplicates: re-encoded, resized, brightened, mirrored, "
            "turned or cropped copies. Copies count as one in every interval."
        )
    return [Sentence(text)]


def _left_out(report: dict) -> list[Sentence]:
    sentences = []
    if report["unreadable"]["count"]:
        sentences.append(
            _alarm(
                "Files that could not be read and were left out "
                f"(--skip_unreadable): {report['unreadable']['count']:,}. If "
                "they are of one class or scanner, the figures do not hold for "
                "it."
            )
        )
    for key, what in (
        ("links", "Links to files and folders that were followed"),
        (
            "ignored_columns",
            "Columns of the manifest that have no name, ignored",
        ),
        ("corrected_labels", "Labels that were corrected (--corrections)"),
    ):
        if report.get(key):
            sentences.append(Sentence(f"{what}: {report[key]:,}."))
    if masks := report.get("masks"):
        sentences.append(
            Sentence(
                f"Masks were left out: {_count(masks['count'], 'file')} that "
                "by name (_mask, _seg) or folder (masks) belong to an image "
                "beside them (--keep_masks keeps them, in its split)."
            )
        )
    if no_images := report.get("no_images"):
        reasons = sorted({file["reason"] for file in no_images["files"]})
        sentences.append(
            Sentence(
                "Files that hold no image of a patient were left out: "
                f"{no_images['count']:,} ({'; '.join(reasons)})."
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
