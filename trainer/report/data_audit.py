"""The audit of the data as the report shows it: sentences, tables and pairs.

`build_records` measured it and wrote `audit.json` and `images.csv`.
"""

import csv
import dataclasses
import json
from collections.abc import Callable, Sequence

from trainer.data.build import audit_sentences, output
from trainer.storage import csv_text, paths

MAX_PAIRS = 12
MAX_UNREADABLE = 20

ReadPictures = Callable[[Sequence[str]], dict[str, bytes]]


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
        return not self.is_conflict, not self.is_leak, self.agreement is None


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
    sentences: Sequence[audit_sentences.Sentence] = ()
    unreadable: Sequence[dict[str, str]] = ()
    shortcuts: Sequence[dict] = ()
    pairs: Sequence[Pair] = ()
    num_pairs: int = 0

    @property
    def alarms(self) -> list[str]:
        """What to know before the figures; leaks are a caveat by themselves."""
        return [
            sentence.text
            for sentence in self.sentences
            if sentence.is_alarm and "--on_leak" not in sentence.text
        ]


def read_audit(
    data_dir: str, read_pictures: ReadPictures | None = None
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
        audit = Audit(
            sentences=audit_sentences.make_sentences(report),
            unreadable=[
                {"id": str(file["id"]), "reason": str(file["reason"])}
                for file in report["unreadable"]["files"][:MAX_UNREADABLE]
            ],
            shortcuts=report["shortcuts"],
            pairs=_list_pairs(report, paths.read_bytes(images_path)),
            num_pairs=report["near_duplicates"]["count"]
            + report["exact_duplicates"]["surplus"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error):
        return _without(f"{path} or {images_path} is damaged")
    if read_pictures is None:
        return audit
    return _with_pictures(audit, read_pictures)


def _without(reason: str) -> Audit:
    return Audit(
        problem=f"{reason}, so nothing is known of copies, leaks and "
        "shortcuts: build the records again."
    )


def _with_pictures(audit: Audit, read_pictures: ReadPictures) -> Audit:
    sides = [side for pair in audit.pairs for side in pair.sides]
    pictures = read_pictures(sorted({side.image_id for side in sides}))
    shown = [
        dataclasses.replace(side, picture=pictures.get(side.image_id))
        for side in sides
    ]
    return dataclasses.replace(
        audit,
        pairs=[
            dataclasses.replace(pair, sides=(first, second))
            for pair, first, second in zip(
                audit.pairs, shown[::2], shown[1::2], strict=True
            )
        ],
    )


def _list_pairs(report: dict, images_csv: bytes) -> list[Pair]:
    """The gravest of all listed pairs; of a set of copies, each once."""
    linked: list[tuple[str, str, float | None]] = [
        (cluster[0], copy, None)
        for cluster in report["exact_duplicates"]["clusters"]
        for copy in cluster[1:]
    ]
    linked += [
        (pair["first"], pair["second"], float(pair["agreement"]))
        for pair in report["near_duplicates"]["pairs"]
    ]
    wanted = {image_id for pair in linked for image_id in pair[:2]}
    rows = {
        row["id"]: row
        for row in csv_text.read(images_csv.decode("utf-8"))
        if row["id"] in wanted
    }
    classes = {
        image["id"]: image["class"]
        for group in report["conflicting_labels"]["groups"]
        for image in group["images"]
    }
    given = {
        member["id"]: member["split"]
        for members in report["leaks"]["members"].values()
        for member in members
    }

    def side(image_id: str) -> Side:
        # Images that were left out have no row, but may be named elsewhere.
        row = rows.get(image_id)
        return Side(
            image_id,
            row["class"] if row else classes.get(image_id, ""),
            row["split"] if row else "",
            given.get(image_id, ""),
        )

    pairs = [Pair((side(a), side(b)), agreement) for a, b, agreement in linked]
    return sorted(pairs, key=lambda pair: pair.gravity)[:MAX_PAIRS]
