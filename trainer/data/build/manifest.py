"""A manifest: a CSV that says what every image shows.

Its columns are `path,label[,patient_id][,split]`, in any order; a path is
absolute, or relative to the folder of the manifest. Further columns are kept
only if the user names them, and never where they repeat a patient id; columns
without a name, as pandas writes of its index, are ignored.
"""

import contextlib
import csv
import dataclasses
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence

from trainer.data.build import pseudonyms, sources

_REQUIRED = ("path", "label")
_OPTIONAL = ("patient_id", "split")
_UNNAMED = re.compile(r"(unnamed: \d+)?")
# What tables hold where there is nothing.
_MISSING = ("", "nan", "null", "<na>", "n/a", "#n/a")
# Enough to see what is wrong with a file of thousands of lines.
_MAX_PROBLEMS = 5


def read_manifest(path: str, columns: Sequence[str] = ()) -> sources.Listing:
    """Reads a manifest, and keeps some of its further columns.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a CSV, or lines of it are wrong. The
            message has their numbers.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"--manifest={path} is not a file.")
    taken = [name for name in columns if name in (*_REQUIRED, *_OPTIONAL)]
    if taken:
        raise ValueError(
            f"--columns are further columns of the manifest, not "
            f"{', '.join(taken)}: leave that out."
        )
    with _open(path) as file:
        reader = csv.reader(file, strict=True)
        try:
            return _read_lines(path, reader, tuple(columns))
        except csv.Error as error:
            raise ValueError(
                f"{path} is not a CSV (line {reader.line_num}: {error}); "
                "save it with commas between columns and double quotes "
                "around commas."
            ) from error


@contextlib.contextmanager
def _open(path: str) -> Iterator[Iterator[str]]:
    """Lines of a manifest; whatever is wrong with the file is a sentence."""
    try:
        # utf-8-sig: spreadsheet programs put a byte order mark in front.
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield (_check_line(path, *line) for line in enumerate(file, 1))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text ({error.reason} at byte "
            f"{error.start}); save it as CSV in UTF-8."
        ) from error
    except OSError as error:
        raise OSError(
            f"{path} cannot be read ({error.strerror}); get the right to."
        ) from error


def _check_line(path: str, number: int, line: str) -> str:
    if "\0" in line:
        raise ValueError(
            f"{path} has a NUL in line {number}, as files in UTF-16 do; save "
            "it as CSV in UTF-8."
        )
    return line


def read_paths(path: str) -> list[str]:
    """The paths of a manifest as they are written, right or wrong.

    Raises:
        ValueError: if it is not UTF-8 text.
    """
    with _open(path) as file:
        rows = csv.reader(file)
        header = [name.strip().lower() for name in next(rows, [])]
        if "path" not in header:
            return []
        place = header.index("path")
        return [row[place].strip() for row in rows if len(row) > place]


def _read_lines(path: str, reader, columns: tuple[str, ...]) -> sources.Listing:
    header = [name.strip().lower() for name in next(reader, [])]
    _check_header(path, header, columns)
    folder = os.path.dirname(os.path.abspath(path))
    files, problems, lines_of_path = [], [], {}
    for row in reader:
        if not any(cell.strip() for cell in row):
            continue
        try:
            while len(row) > len(header) and not row[-1].strip():
                row.pop()
            if len(row) != len(header):
                raise ValueError(f"{len(row)} columns instead of {len(header)}")
            cells = {k: v.strip() for k, v in zip(header, row, strict=True)}
            source = _make_source(cells, folder, columns)
            first = lines_of_path.setdefault(source.path, reader.line_num)
            if first != reader.line_num:
                raise ValueError(f"the path of line {first} again")
            files.append(source)
        except ValueError as error:
            reason = _hide_patient(str(error), header, row)
            problems.append(f"line {reader.line_num}: {reason}")
    if problems:
        shown = "; ".join(problems[:_MAX_PROBLEMS])
        more = len(problems) - _MAX_PROBLEMS
        rest = f"; and {more} more" if more > 0 else ""
        raise ValueError(f"{path} has wrong lines. {shown}{rest}.")
    if not files:
        raise ValueError(f"{path} has a header but no lines.")
    given = sum(bool(source.split) for source in files)
    if given not in (0, len(files)):
        raise ValueError(
            f"{path} gives a split for {given} of {len(files)} images; give "
            "one for all of them or for none."
        )
    _check_columns(files, columns)
    files = sorted(_name_images(files, folder), key=lambda file: file.image_id)
    num_ignored = sum(bool(_UNNAMED.fullmatch(name)) for name in header)
    return sources.Listing(files, num_ignored_columns=num_ignored)


def _name_images(
    files: Sequence[sources.Source], folder: str
) -> list[sources.Source]:
    """Ids are relative to the manifest, or to what holds all of the images."""
    folders = [os.path.dirname(file.path) for file in files]
    if os.path.commonpath([folder, *folders]) != folder:
        folder = os.path.commonpath(folders)
    return [
        dataclasses.replace(
            file,
            image_id=os.path.relpath(file.path, folder).replace(os.sep, "/"),
        )
        for file in files
    ]


def _check_columns(
    files: Sequence[sources.Source], columns: tuple[str, ...]
) -> None:
    """Refuses columns that give patient ids away."""
    of_patients = [source for source in files if source.patient_id]
    for i, name in enumerate(columns):
        repeated = [
            source.patient_id
            for source in of_patients
            if pseudonyms.repeats(source.columns[i], source.patient_id)
        ]
        # A short id, such as 7, may also be an age.
        is_certain = any(
            len(patient_id) >= pseudonyms.MIN_LENGTH for patient_id in repeated
        )
        if repeated and (is_certain or len(repeated) == len(of_patients)):
            raise ValueError(
                f"The column {name} repeats patient_id in {len(repeated)} "
                "lines: leave it out of --columns."
            )


def _hide_patient(text: str, header: list[str], row: list[str]) -> str:
    """Takes the patient id of a line, often a part of the path, out."""
    cells = dict(zip(header, row, strict=False))
    patient_id = cells.get("patient_id", "").strip()
    if not patient_id:
        return text
    hidden = pseudonyms.hide(text, (patient_id,))
    return hidden.replace(pseudonyms.MARK, "(patient)")


def _check_header(
    path: str, header: list[str], columns: tuple[str, ...]
) -> None:
    absent = [name for name in columns if name not in header]
    if absent and not set(_REQUIRED) - set(header):
        raise ValueError(
            f"{path} has no column {', '.join(absent)}: choose --columns from "
            f"{','.join(header)[:200]}."
        )
    expected = "path,label[,patient_id][,split]"
    missing = [name for name in _REQUIRED if name not in header]
    known = (*_REQUIRED, *_OPTIONAL, *columns)
    named = [name for name in header if not _UNNAMED.fullmatch(name)]
    unknown = [name for name in named if name not in known]
    if not (missing or unknown or len(set(named)) < len(named)):
        return
    text = ",".join(header)
    problem = f"It has the columns {text[:200]}."
    if missing:
        # Without a header this is an image, and may name its patient.
        problem = f"It has no {' and no '.join(missing)}."
        for name, mark in (("semicolons", ";"), ("tabs", "\t")):
            if mark in text:
                problem = f"It has {name} instead of commas."
    elif unknown:
        names = ",".join(unknown)[:200]
        problem += f" Remove {names}, or keep it with --columns={names}."
    raise ValueError(
        f"The first line of {path} must be {expected}, with commas. {problem}"
    )


def _make_source(
    cells: dict[str, str], folder: str, columns: tuple[str, ...]
) -> sources.Source:
    for name in _REQUIRED:
        if cells[name].lower() in _MISSING:
            raise ValueError(f"no {name}")
    sources.check_text(cells["path"], "path")
    sources.check_text(cells["label"], "label")
    if "|" in cells["label"]:
        raise ValueError(
            f"label {cells['label']} names several; one label per image is "
            "supported"
        )
    split = ""
    if cells.get("split"):
        split = sources.SPLIT_SYNONYMS.get(cells["split"].lower(), "")
        if not split:
            raise ValueError(
                f"split {cells['split']} is not train, validation or test"
            )
    path = _find_file(cells["path"], folder)
    sources.check_file(path)
    patient_id = cells.get("patient_id", "")
    return sources.Source(
        path=path,
        image_id=cells["path"],
        class_name=unicodedata.normalize("NFC", cells["label"]),
        split=split,
        patient_id="" if patient_id.lower() in _MISSING else patient_id,
        columns=tuple(cells[name] for name in columns),
    )


def _find_file(written: str, folder: str) -> str:
    """The path of a file, which another system may have written otherwise."""
    with_slashes = written.replace("\\", "/")
    for name in (
        written,
        with_slashes,
        unicodedata.normalize("NFC", with_slashes),
        unicodedata.normalize("NFD", with_slashes),
    ):
        path = os.path.normpath(os.path.join(folder, name))
        if os.path.exists(path):
            return path
    raise ValueError(f"{written} does not exist")
