"""Which versions of a model are served: found, loaded, swapped and dropped.

Follows TF Serving: every directory with a numeric name under the base path is
a version, a policy says which of them are served, and what is served stays
until one that replaces it has loaded. Two deliberate differences, both for
people who work with models on one machine: a version that failed to load is
tried again as soon as its files change, and when the base path is empty for a
moment the last version stays. Knows nothing of TensorFlow: loading is passed
in.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import Any

from absl import logging

from serving.server import bucket_versions


@dataclasses.dataclass(frozen=True)
class VersionState:
    """What the status API says of one version.

    Attributes:
        state: "LOADING", "AVAILABLE", "UNLOADING" or "END".
        error_code: "OK", or why the version did not load.
        error_message: empty, or one line.
    """

    state: str
    error_code: str = "OK"
    error_message: str = ""


@dataclasses.dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions on disk are served; by default the newest.

    Attributes:
        num_latest: how many of the newest, None for all.
        specific: these and no others, if there are any.
    """

    num_latest: int | None = 1
    specific: frozenset[int] = frozenset()

    def choose(self, versions: Iterable[int]) -> list[int]:
        """Returns those to serve, newest first."""
        newest_first = sorted(versions, reverse=True)
        if self.specific:
            return [v for v in newest_first if v in self.specific]
        return newest_first[: self.num_latest]


LATEST = VersionPolicy()


class ModelVersions:
    """The versions of one model.

    `refresh` looks at the disk once. Requests only read `_available`, which
    is replaced and never changed, so they take no lock and a version stays
    alive until the last request that uses it has been answered.
    """

    def __init__(
        self,
        base_path: str,
        load: Callable[[str, int], Any],
        policy: VersionPolicy = LATEST,
    ):
        """Does not look at the disk yet.

        Args:
            base_path: the directory that holds the version directories.
            load: returns the model in a version directory, given the directory
                and the version number; whatever it raises marks the version
                as failed.
            policy: which versions are served.
        """
        self.base_path = base_path
        self.policy = policy
        self._load = load
        self._available: dict[int, Any] = {}
        self._states: dict[int, VersionState] = {}
        self._failed_contents: dict[int, tuple] = {}

    def find(self, version: int | None) -> Any:
        """Returns a model by its number, the newest for None, or None."""
        available = self._available
        if version is None and available:
            return available[max(available)]
        return available.get(version)

    def states(self) -> dict[int, VersionState]:
        """Returns the state of every version seen so far, newest first."""
        return dict(sorted(self._states.items(), reverse=True))

    def refresh(self) -> None:
        """Loads what the policy asks for, then drops what it does not.

        Raises:
            OSError: the base path cannot be listed.
        """
        on_disk = bucket_versions.find_versions(self.base_path)
        wanted = self.policy.choose(on_disk)
        for version in wanted:
            if version not in self._available:
                self._try_version(version, on_disk[version])
        # What is served stays until one that replaces it is available.
        if any(version in self._available for version in wanted):
            for version in [v for v in self._available if v not in wanted]:
                self._unload_version(version)

    def unload(self) -> None:
        """Drops every version."""
        for version in list(self._available):
            self._unload_version(version)

    def _try_version(self, version: int, directory: str) -> None:
        """Loads a version, unless it failed before and has not changed."""
        contents = _directory_contents(directory)
        if self._failed_contents.get(version) == contents:
            return
        logging.info("Loading version %d from %s", version, directory)
        self._states[version] = VersionState("LOADING")
        try:
            model = self._load(directory, version)
        # A damaged SavedModel raises anything from KeyError to DataLossError.
        except Exception as error:
            message = " ".join(f"{type(error).__name__}: {error}".split())
            code = getattr(error, "code", None)
            self._states[version] = VersionState(
                "END", code if isinstance(code, str) else "UNKNOWN", message
            )
            logging.error("Version %d did not load: %s", version, message)
            self._failed_contents[version] = contents
            return
        self._available = {**self._available, version: model}
        self._states[version] = VersionState("AVAILABLE")
        logging.info("Version %d is available", version)

    def _unload_version(self, version: int) -> None:
        self._states[version] = VersionState("UNLOADING")
        self._available = {
            v: model for v, model in self._available.items() if v != version
        }
        self._states[version] = VersionState("END")
        logging.info("Version %d is no longer served", version)


def _directory_contents(directory: str) -> tuple:
    """Returns names, sizes and times, equal as long as nothing changes."""
    contents = []
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            try:
                status = os.stat(path)
            except FileNotFoundError:
                continue  # Removed or renamed while we looked: it changed.
            contents.append((path, status.st_size, status.st_mtime_ns))
    return tuple(sorted(contents))
