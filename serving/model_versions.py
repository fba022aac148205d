"""Which versions of a model are served: found, loaded, swapped and dropped.

Follows TF Serving's default policy: every directory with a numeric name under
the base path is a version, the newest one is served, and the one before stays
until the newest has loaded. Two deliberate differences, both for people who
work with one model on one machine: a version that failed to load is tried
again as soon as its files change, and when the base path is empty for a moment
the last version stays. Knows nothing of TensorFlow: loading is passed in.
"""

import dataclasses
import os
import re
import threading
from collections.abc import Callable
from typing import Any

from absl import logging

from serving import status_codes

VERSION_PATTERN = re.compile(r"[0-9]+")
MAX_VERSION = 2**63 - 1


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


class ModelVersions:
    """The versions of one model.

    `refresh` looks at the disk once; `start_polling` does so each second in
    the background. Requests only read `_available`, which is replaced and
    never changed, so they take no lock and a version stays alive until the
    last request that uses it has been answered.
    """

    def __init__(
        self,
        name: str,
        base_path: str,
        load: Callable[[str, int], Any],
    ):
        """Does not look at the disk yet.

        Args:
            name: what clients call the model.
            base_path: the directory that holds the version directories.
            load: returns the model in a version directory, given the directory
                and the version number; whatever it raises marks the version
                as failed.
        """
        self.name = name
        self._base_path = base_path
        self._load = load
        self._available: dict[int, Any] = {}
        self._states: dict[int, VersionState] = {}
        self._failed_contents: dict[int, tuple] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def get(self, name: str, version: int | None, label: str | None) -> Any:
        """Returns the model that answers a request.

        Args:
            name: the model that the request names.
            version: a version number, or None for the newest.
            label: a version label, or None.

        Raises:
            StatusError: nothing of that name is served.
        """
        if not name:
            raise status_codes.invalid_argument(
                "ModelSpec has no name specified."
            )
        if label is not None:
            # Labels come from a model config file, which one model on one
            # machine does not have.
            raise status_codes.invalid_argument(
                f"Unrecognized servable version label: {label}"
            )
        available = self._available if name == self.name else {}
        if version is None and available:
            return available[max(available)]
        if version in available:
            return available[version]
        wanted = (
            f"Latest({name})"
            if version is None
            else f"Specific({name}, {version})"
        )
        raise status_codes.StatusError(
            "NOT_FOUND", f"Servable not found for request: {wanted}"
        )

    def states(self, name: str, version: int | None) -> dict[int, VersionState]:
        """Returns the state of one version or of all, newest first."""
        states = dict(self._states) if name == self.name else {}
        if version is not None:
            if version not in states:
                raise status_codes.StatusError(
                    "NOT_FOUND",
                    f"Could not find version {version} of model {name}",
                )
            return {version: states[version]}
        if not states:
            raise status_codes.StatusError(
                "NOT_FOUND", f"Could not find any versions of model {name}"
            )
        return dict(sorted(states.items(), reverse=True))

    def refresh(self) -> None:
        """Loads the newest version on disk if it is not served yet."""
        versions = find_versions(self._base_path)
        if not versions:
            return
        newest = max(versions)
        directory = versions[newest]
        if newest not in self._available:
            contents = _directory_contents(directory)
            if self._failed_contents.get(newest) == contents:
                return
            if not self._load_version(newest, directory):
                self._failed_contents[newest] = contents
                return
        for version in [v for v in self._available if v != newest]:
            self._unload_version(version)

    def start_polling(self, interval_s: float = 1.0) -> None:
        """Calls `refresh` every `interval_s` seconds until `stop`."""

        def poll():
            while not self._stopped.wait(interval_s):
                try:
                    self.refresh()
                except OSError as error:
                    # A network file system may be gone for a while.
                    logging.warning(
                        "Cannot look for versions in %s: %s",
                        self._base_path,
                        error,
                    )

        self._thread = threading.Thread(
            target=poll, name="model-versions", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Ends the polling; what is loaded stays."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _load_version(self, version: int, directory: str) -> bool:
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
            return False
        self._available = {**self._available, version: model}
        self._states[version] = VersionState("AVAILABLE")
        logging.info("Version %d is available", version)
        return True

    def _unload_version(self, version: int) -> None:
        self._states[version] = VersionState("UNLOADING")
        self._available = {
            v: model for v, model in self._available.items() if v != version
        }
        self._states[version] = VersionState("END")
        logging.info("Version %d is no longer served", version)


def find_versions(base_path: str) -> dict[int, str]:
    """Returns the directory of each version under `base_path`.

    Raises:
        OSError: `base_path` cannot be listed.
    """
    versions = {}
    for entry in os.scandir(base_path):
        if VERSION_PATTERN.fullmatch(entry.name) and entry.is_dir():
            version = int(entry.name)
            if version <= MAX_VERSION:
                versions[version] = entry.path
    return versions


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
