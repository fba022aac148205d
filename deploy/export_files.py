"""The files of an exported version, checked against its manifest."""

import dataclasses
import hashlib
import json
import os

from trainer.export import signature

GRAPH_FILE = "saved_model.pb"


@dataclasses.dataclass(frozen=True)
class Export:
    """A version as `trainer.task` wrote it.

    Attributes:
        directory: local.
        names: of its files, relative, `saved_model.pb` last: a reader takes a
            version without it for none.
        manifest_sha256: hex digest of `manifest.json`, which has the checksum
            of every file: two exports with the same one are the same.
    """

    directory: str
    names: list[str]
    manifest_sha256: str

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    @property
    def compared_names(self) -> list[str]:
        """All but the blessing: it may have been tried again since."""
        return [n for n in self.names if n != signature.BLESSING_FILE]

    @property
    def num_bytes(self) -> int:
        return sum(os.path.getsize(self.path(name)) for name in self.names)


def find_version_dir(export_dir: str) -> str:
    """A version's directory: the given one, or the newest under it.

    Raises:
        ValueError: if there is none.
    """
    if os.path.exists(os.path.join(export_dir, signature.MANIFEST_FILE)):
        return export_dir
    names = os.listdir(export_dir) if os.path.isdir(export_dir) else []
    versions = [int(name) for name in names if name.isdigit()]
    if not versions:
        raise ValueError(
            f"--export_dir={export_dir} holds no exported version: give the "
            "export directory of a run, or one version in it."
        )
    return os.path.join(export_dir, str(max(versions)))


def read_export(version_dir: str) -> Export:
    """The files of a version, each as the manifest says.

    Raises:
        ValueError: if there is no manifest, or a file is missing or changed.
    """
    path = os.path.join(version_dir, signature.MANIFEST_FILE)
    try:
        with open(path, "rb") as file:
            content = file.read()
        listed = json.loads(content)["files"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): export the model again."
        ) from error
    for name, expected in listed.items():
        if file_sha256(os.path.join(version_dir, name)) != expected["sha256"]:
            raise ValueError(
                f"{os.path.join(version_dir, name)} is missing or not the file "
                "that was exported: export the model again."
            )
    names = sorted(name for name in listed if name != GRAPH_FILE)
    names.append(signature.MANIFEST_FILE)
    blessing = os.path.join(version_dir, signature.BLESSING_FILE)
    if os.path.exists(blessing):
        names.append(signature.BLESSING_FILE)
    return Export(
        version_dir,
        [*names, GRAPH_FILE],
        hashlib.sha256(content).hexdigest(),
    )


def file_sha256(path: str) -> str:
    """Hex digest; empty if there is no such file."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except FileNotFoundError:
        return ""
