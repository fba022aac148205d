"""Versions of a model: which there are, and whether they are whole.

A version is what TF Serving takes for one: a directory under the model base
path whose name is a decimal number. Its manifest has the sha256 of every file,
because `saved_model.pb` has no checksum of its own: a flipped bit would load.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable

from trainer.export import signature
from trainer.storage import paths

# Written last: a version without it is not complete.
GRAPH_FILE = "saved_model.pb"
MAX_VERSION = 2**63 - 1


def parse_number(name: str) -> int | None:
    """The version that a directory of this name is; None if it is none."""
    if not (name.isascii() and name.isdecimal()) or int(name) > MAX_VERSION:
        return None
    return int(name)


def list_versions(base_path: str) -> dict[int, str]:
    """Directory of each version under a base path, the newest last.

    In Cloud Storage, where there are no directories, of each complete one.

    Raises:
        OSError: if it cannot be listed.
    """
    if paths.is_bucket(base_path):
        complete = find_complete(paths.list_files(base_path))
        return {n: paths.join(base_path, d) for n, d in complete.items()}
    if not os.path.isdir(base_path):
        return {}
    # Not `DirEntry.is_dir`, which fails on a link that leads back to itself.
    children = {n: os.path.join(base_path, n) for n in os.listdir(base_path)}
    return _by_number({n: p for n, p in children.items() if os.path.isdir(p)})


def find_complete(names: Iterable[str]) -> dict[int, str]:
    """Directory of each version that has a graph, among names of files."""
    directories = [os.path.split(name) for name in names]
    return _by_number({d: d for d, file in directories if file == GRAPH_FILE})


def _by_number(directories: dict[str, str]) -> dict[int, str]:
    numbered = {parse_number(name): d for name, d in directories.items()}
    numbered.pop(None, None)
    return dict(sorted(numbered.items()))


def next_number(base_path: str) -> int:
    """One more than the newest version under a base path, 1 for the first."""
    return max(list_versions(base_path), default=0) + 1


def find_newest(path: str) -> str:
    """A version's directory: the given one, or the newest under it.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if it cannot be listed.
    """
    if paths.exists(paths.join(path, GRAPH_FILE)):
        return path
    versions = list_versions(path)
    if not versions:
        raise FileNotFoundError(
            f"{path} holds no exported version: give the export directory of a "
            "run, or one version in it."
        )
    return versions[max(versions)]


def find_same(base_path: str, facts: dict) -> str | None:
    """The newest version under a base path, if its manifest has these facts.

    A finished run that is started again then exports nothing new.
    """
    versions = list_versions(base_path)
    if not versions:
        return None
    newest = versions[max(versions)]
    try:
        manifest = read_manifest(newest)
    except (OSError, ValueError):
        return None
    is_same = all(manifest.get(name) == fact for name, fact in facts.items())
    return newest if is_same else None


def list_plain_files(version_dir: str) -> list[str]:
    """Relative names of a version's files, which may then be read.

    Whoever loads, tries or publishes a version asks this first: a manifest
    from elsewhere could name any file of this machine, a pipe would be read
    for ever. A SavedModel without a manifest may have links, as downloaded
    ones do.

    Raises:
        ValueError: if a file is none of the version's own: a link, a pipe, a
            device, or a name in the manifest that leads elsewhere.
        OSError: if a link leads nowhere.
    """
    path = os.path.join(version_dir, signature.MANIFEST_FILE)
    has_manifest = os.path.lexists(path)
    names = []
    for folder, directories, files in os.walk(version_dir):
        for name in directories + files:
            path = os.path.join(folder, name)
            mode = os.stat(path, follow_symlinks=not has_manifest).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise ValueError(
                    f"{path} must be a file of its own, not a link, pipe or "
                    "device: export the model again."
                )
        names += [os.path.join(folder, name) for name in files]
    if has_manifest:
        read_manifest(version_dir)
    return [os.path.relpath(name, version_dir) for name in names]


def write_manifest(version_dir: str, facts: dict) -> None:
    """Writes the sha256 of every file of a version, and `facts`."""
    files = {
        name: {
            "sha256": _sha256(os.path.join(version_dir, name)),
            "num_bytes": os.path.getsize(os.path.join(version_dir, name)),
        }
        for name in _list_files(version_dir)
    }
    paths.write_atomically(
        os.path.join(version_dir, signature.MANIFEST_FILE),
        json.dumps({**facts, "files": files}, indent=2),
    )


def read_manifest(version_dir: str) -> dict:
    """The manifest of a version: `files`, and what is known of them.

    Raises:
        ValueError: if it cannot be read or names files outside the version.
    """
    path = paths.join(version_dir, signature.MANIFEST_FILE)
    try:
        manifest = json.loads(paths.read_bytes(path))
        for name, facts in manifest["files"].items():
            facts["sha256"]
            if os.path.isabs(name) or ".." in name.split("/"):
                raise ValueError(f"{name} is not below the version")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): export the model again."
        ) from error
    return manifest


def manifest_sha256(version_dir: str) -> str:
    """Hex digest of a version's manifest: versions with the same are the same.

    Empty where there is none.
    """
    return _sha256(os.path.join(version_dir, signature.MANIFEST_FILE))


def changed_files(version_dir: str) -> list[str]:
    """Names of files that are missing, changed or not in the manifest.

    Raises:
        ValueError: if there is no manifest, or see `list_plain_files`.
    """
    present = _list_files(version_dir)
    listed = read_manifest(version_dir)["files"]
    return [
        name
        for name in sorted({*listed, *present})
        if name not in listed
        or _sha256(os.path.join(version_dir, name)) != listed[name]["sha256"]
    ]


def file_sizes(version_dir: str) -> list[int]:
    """Bytes of each file of a version."""
    names = paths.list_files(version_dir)
    return [os.path.getsize(os.path.join(version_dir, n)) for n in names]


def _list_files(version_dir: str) -> list[str]:
    """Relative names of what a manifest lists."""
    names = list_plain_files(version_dir)
    # A blessing is written later, perhaps again and again.
    return sorted({*names} - {signature.MANIFEST_FILE, signature.BLESSING_FILE})


def _sha256(path: str) -> str:
    """Hex digest; empty if there is no such file."""
    if not os.path.isfile(path):
        return ""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
