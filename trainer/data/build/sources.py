"""Which files to read, and what is known of each before it is opened.

Class folders and manifests end here; the rest of the room sees `Source`.
"""

import collections
import dataclasses
import os
import pathlib
import re
import stat
import unicodedata
from collections.abc import Sequence

from trainer.data import records
from trainer.data.build import pseudonyms

# Begins what images of one sub-folder of a class have in common.
FOLDER = "folder:"
# Begins what an image and its mask have in common.
CASE = "case:"
# Marks a mask: those without a lesion are all black, but no copies.
MASK = "mask:"
SPLIT_SYNONYMS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


@dataclasses.dataclass(frozen=True)
class Source:
    """One file to read.

    Attributes:
        path: where it is.
        image_id: path relative to the input directory, with slashes, and
            `pseudonyms.MARK` for a patient id that was found in it.
        class_name: its label.
        split: the split that the user gave it, "" if Lightbox chooses.
        patient_id: as the user gave it, "" if unknown. Never to be written.
        kin: what only images of one patient have in common, as far as paths
            tell: the `FOLDER` in a class, the `CASE` of an image and its mask.
        columns: values of the columns that the user asked to keep.
    """

    path: str
    image_id: str
    class_name: str
    split: str = ""
    patient_id: str = dataclasses.field(default="", repr=False)
    kin: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Listing:
    """What there is to read, and what lies beside it.

    Attributes:
        files: to read.
        num_beside: files that lie where no class is named.
        num_links: links to files and folders that were followed.
        num_ignored_columns: columns of a manifest that have no name.
        masks: files that are left out since they are masks of others.
    """

    files: list[Source]
    num_beside: int = 0
    num_links: int = 0
    num_ignored_columns: int = 0
    masks: Sequence[Source] = ()


def list_folders(input_dir: str) -> Listing:
    """Files of `input_dir`, which holds a folder per class or per split.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is not laid out so, or a folder of it is empty.
    """
    if not os.path.isdir(input_dir):
        raise FileNotFoundError(
            f"--input_dir={input_dir} is not a folder; it must hold a folder "
            "of images per class, or train, validation and test folders."
        )
    names = _subfolders(input_dir)
    relative_paths, links = [], set()
    for name in names:
        folder = os.path.join(input_dir, name)
        classes = [folder]
        if _is_split(names):
            classes = [os.path.join(folder, n) for n in _subfolders(folder)]
        links.update(filter(os.path.islink, (folder, *classes)))
        for class_folder in classes:
            paths, links_below = walk_files(class_folder)
            links.update(links_below)
            if not paths:
                raise ValueError(
                    f"{class_folder} holds no files; remove it, or put the "
                    "images of the class into it."
                )
            for path in paths:
                check_file(path)
                relative = os.path.relpath(path, input_dir)
                relative_paths.append(relative.replace(os.sep, "/"))
    files = arrange_files(input_dir, relative_paths)
    return Listing(files, count_left_out(input_dir), len(links))


def arrange_files(input_dir: str, relative_paths: list[str]) -> list[Source]:
    """Reads classes and splits from paths with slashes, relative to a folder.

    Raises:
        ValueError: if they are not laid out so.
    """
    parts = [path.split("/") for path in relative_paths]
    parts = [p for p in parts if not any(map(_is_ignored, p))]
    names = sorted({p[0] for p in parts if len(p) > 1})
    if not names:
        raise ValueError(
            f"--input_dir={input_dir} has no folders; put the images of each "
            "class into a folder with the name of the class."
        )
    splits = {}
    if _is_split(names):
        splits = {name: SPLIT_SYNONYMS.get(name.lower()) for name in names}
        _check_split_folders(input_dir, splits)
        for name in names:
            if not any(p[0] == name and len(p) > 2 for p in parts):
                raise ValueError(
                    f"{os.path.join(input_dir, name)} has no class folders."
                )
    depth = 1 if splits else 0
    return [
        Source(
            path=os.path.join(input_dir, *p),
            image_id="/".join(p),
            class_name=unicodedata.normalize("NFC", p[depth]),
            split=splits.get(p[0], ""),
        )
        for p in sorted(parts, key="/".join)
        if len(p) > depth + 1
    ]


def mark_subfolders(files: list[Source]) -> list[Source]:
    """Notes in which sub-folder of its class each file lies.

    A folder that all files of a class lie in, as in `tumor/images/`, is none.
    """
    in_class = collections.defaultdict(list)
    for file in files:
        folder = os.path.dirname(file.image_id)
        in_class[file.split, file.class_name].append(folder)
    shared = {
        name: os.path.commonpath(folders) for name, folders in in_class.items()
    }
    marked = []
    for file in files:
        end = len(shared[file.split, file.class_name].split("/")) + 1
        parts = file.image_id.split("/")
        if len(parts) > end:
            kin = (*file.kin, FOLDER + "/".join(parts[:end]))
            file = dataclasses.replace(file, kin=kin)
        marked.append(file)
    return marked


def count_left_out(input_dir: str) -> int:
    """Files beside the folders of the classes: nothing says what they show."""
    folders = [input_dir]
    names = _subfolders(input_dir)
    if _is_split(names):
        folders += [os.path.join(input_dir, name) for name in names]
    return sum(
        not entry.is_dir() and not _is_ignored(entry.name)
        for folder in folders
        for entry in os.scandir(folder)
    )


def _is_split(names: list[str]) -> bool:
    return any(name.lower() in SPLIT_SYNONYMS for name in names)


def _check_split_folders(input_dir: str, splits: dict[str, str | None]):
    others = [name for name, split in splits.items() if split is None]
    if others:
        raise ValueError(
            f"{input_dir} holds both split folders and others: {others[0]}. "
            "Keep either train, validation and test folders or a folder per "
            "class."
        )
    known = list(splits.values())
    for split in set(known):
        if known.count(split) > 1:
            raise ValueError(
                f"{input_dir} has two folders for the {split} split: "
                f"{sorted(n for n, s in splits.items() if s == split)}."
            )
    if "train" not in known and known != ["test"]:
        raise ValueError(
            f"{input_dir} has no train folder, only {sorted(splits)}; add it, "
            "or keep test alone, to judge models of others."
        )


def _subfolders(folder: str) -> list[str]:
    names = []
    for entry in os.scandir(folder):
        if _is_ignored(entry.name):
            continue
        if entry.is_symlink() and not os.path.exists(entry.path):
            raise ValueError(
                f"{show(entry.path)} is a link to nothing; remove it."
            )
        if entry.is_dir():
            names.append(entry.name)
    return sorted(names)


def _is_ignored(name: str) -> bool:
    """Whether an operating system, a browser or a disk station wrote a file."""
    return (
        name.startswith(".")
        or name.endswith(":Zone.Identifier")
        or name in ("__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir")
    )


def walk_files(folder: str) -> tuple[list[str], list[str]]:
    """Files below a folder, and the links on the way to them, in order.

    Raises:
        ValueError: if a folder cannot be listed, or a link leads back.
    """
    paths, links = [], []
    # `walk` would leave out in silence what it cannot list.
    for parent, folders, files in os.walk(
        folder, onerror=_refuse_folder, followlinks=True
    ):
        folders[:] = sorted(n for n in folders if not _is_ignored(n))
        below = [os.path.join(parent, name) for name in folders]
        names = sorted(name for name in files if not _is_ignored(name))
        paths += [os.path.join(parent, name) for name in names]
        links += filter(os.path.islink, below)
        for path in filter(os.path.islink, below):
            above = pathlib.Path(os.path.abspath(path)).parents
            if os.path.realpath(path) in map(os.path.realpath, above):
                raise ValueError(
                    f"{show(path)} is a link to a folder that it lies in; "
                    "remove it."
                )
    return paths, [*links, *filter(os.path.islink, paths)]


def _refuse_folder(error: OSError) -> None:
    raise ValueError(
        f"{show(str(error.filename))} cannot be listed ({error.strerror}); "
        "get the right to read it, shorten its path, or move it elsewhere."
    ) from error


def check_file(path: str) -> None:
    """Raises ValueError unless a path names a file that can be listed.

    Pipes are not opened: that would wait for ever.
    """
    check_text(path, "name")
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ValueError(
            f"{path} cannot be found ({error.strerror}); "
            + ("fetch what the link names, or " if os.path.islink(path) else "")
            + "remove it."
        ) from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise ValueError(f"{path} is {kind}, not a file; remove it.")


def check_text(text: str, what: str) -> None:
    """Raises ValueError unless text can stand in records and tables."""
    # Not `isprintable`: names of files have wide spaces and joiners, too.
    is_plain = not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text)
    is_unicode = not any(0xD800 <= ord(c) < 0xE000 for c in text)
    if not is_plain or not is_unicode:
        raise ValueError(
            f"{show(text)} has line breaks, control characters or bytes that "
            f"are not UTF-8 in its {what}; change it."
        )


def show(text: str) -> str:
    """Text as messages show it: on one line, whatever is in it."""
    return text if text.isprintable() else ascii(text)[1:-1]


def check_classes(sources: list[Source]) -> tuple[str, ...]:
    """Sorted class names.

    Raises:
        ValueError: if there are fewer than two, two are the same but for case
            and blanks, or a given split lacks one.
    """
    names = tuple(sorted({source.class_name for source in sources}))
    spelled = {}
    for name in names:
        same = spelled.setdefault("".join(name.split()).casefold(), name)
        if same != name:
            raise ValueError(
                f"The classes {same!r} and {name!r} differ only in case or "
                "blanks; spell them alike."
            )
    if len(names) < 2:
        raise ValueError(
            f"A classifier needs two classes or more. Received: {list(names)}."
        )
    for split in records.SPLITS:
        present = {s.class_name for s in sources if s.split == split}
        missing = sorted(set(names) - present)
        if present and missing:
            raise ValueError(
                f"Every class must be in every split. The {split} split has "
                f"no images of {missing}; class names must be spelled alike "
                "in all of them."
            )
    return names


def find_patients(sources: list[Source], pattern: str) -> list[Source]:
    """Takes patient ids out of the paths.

    The pattern is searched for in the relative path; its first group is the id,
    or all of it if it has none.

    Raises:
        ValueError: if it is no regular expression, or a path does not match.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"--patient_regex={pattern} is not a regular expression: {error}."
        ) from error
    with_patients = []
    for source in sources:
        match = compiled.search(source.image_id)
        group = min(compiled.groups, 1)
        if not match or not match.group(group):
            raise ValueError(
                f"--patient_regex={pattern} finds no patient id in "
                f"{source.image_id}; every path must have one."
            )
        start, end = match.span(group)
        image_id = source.image_id
        with_patients.append(
            dataclasses.replace(
                source,
                image_id=image_id[:start] + pseudonyms.MARK + image_id[end:],
                patient_id=source.patient_id or match.group(group),
            )
        )
    return with_patients
