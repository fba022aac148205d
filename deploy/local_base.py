"""A model base path on a disk: versions appear and go by one rename each."""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator

from deploy import export_files
from trainer.export import signature

# Children that are no numbers are no versions to TF Serving.
_STAGING = "tmp.publish"
_WITHDRAWN = re.compile(r"withdrawn\.(\d+)")


class LocalBase:
    """What `bucket_base.BucketBase` is in a bucket."""

    def __init__(self, path: str):
        self.path = path

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One publisher at a time."""
        os.makedirs(self.path, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def tidy(self) -> list[int]:
        """Removes what a killed publisher left, within `lock`.

        Returns:
            Versions whose withdrawal had to be finished: none, a rename is
            whole.
        """
        for name in os.listdir(self.path):
            if name.startswith(_STAGING):
                shutil.rmtree(os.path.join(self.path, name))
        return []

    def versions(self) -> list[int]:
        """Numbers of the versions that a server sees, ascending."""
        names = os.listdir(self.path) if os.path.isdir(self.path) else []
        return sorted(int(name) for name in names if name.isdigit())

    def begun_versions(self) -> list[int]:
        """Also those that are not complete: there are none."""
        return self.versions()

    def find(self, export: export_files.Export) -> int | None:
        """The version that is this export, if one is.

        Raises:
            ValueError: if it is damaged.
        """
        for number in reversed(self.versions()):
            directory = self.version_path(number)
            manifest = os.path.join(directory, signature.MANIFEST_FILE)
            if export_files.file_sha256(manifest) == export.manifest_sha256:
                self.verify(number, export)
                return number
        return None

    def version_path(self, number: int) -> str:
        return os.path.join(self.path, str(number))

    def add(self, export: export_files.Export) -> int:
        """Copies an export and makes it the next version; returns its number.

        Raises:
            ValueError: if what was copied is not what was exported.
        """
        staging = os.path.join(self.path, f"{_STAGING}.{os.getpid()}")
        for name in export.names:
            path = os.path.join(staging, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            shutil.copyfile(export.path(name), path)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        _compare(export, staging)
        number = max(self.versions() + self._withdrawn(), default=0) + 1
        os.rename(staging, self.version_path(number))
        return number

    def verify(self, number: int, export: export_files.Export) -> None:
        """Compares every file of a version with the export's.

        Raises:
            ValueError: if one differs.
        """
        _compare(export, self.version_path(number))

    def withdraw(self) -> int:
        """Hides the newest version from servers, and returns its number.

        Raises:
            ValueError: if there is no earlier version to go back to.
        """
        number = newest_of_several(self.path, self.versions())
        os.rename(
            self.version_path(number),
            os.path.join(self.path, f"withdrawn.{number}"),
        )
        return number

    def remove(self, number: int) -> None:
        """Removes a version, all at once."""
        hidden = os.path.join(self.path, f"{_STAGING}.removed.{number}")
        os.rename(self.version_path(number), hidden)
        shutil.rmtree(hidden)

    def _withdrawn(self) -> list[int]:
        matches = map(_WITHDRAWN.fullmatch, os.listdir(self.path))
        return [int(match[1]) for match in matches if match]


def newest_of_several(path: str, versions: list[int]) -> int:
    """The newest of versions.

    Raises:
        ValueError: if there is no other.
    """
    if len(versions) < 2:
        raise ValueError(
            f"{path} has {len(versions)} version(s): there is none to go back "
            "to."
        )
    return versions[-1]


def _compare(export: export_files.Export, directory: str) -> None:
    for name in export.compared_names:
        path = os.path.join(directory, name)
        if export_files.file_sha256(path) != export_files.file_sha256(
            export.path(name)
        ):
            raise ValueError(
                f"{path} is missing or not what {export.path(name)} is: remove "
                f"{directory} and publish again."
            )
