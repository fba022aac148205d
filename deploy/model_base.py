"""A model base path, on a disk or in a bucket, as the publisher needs it.

On a disk a version appears and goes by one rename. In a bucket nothing can be
renamed, so that the order makes a version N whole:

    N/manifest.json     first, by a precondition that only one publisher can
                        meet: it takes the number, and says which export N is
    N/...               the other files
    N/saved_model.pb    last: until it is there, a server finds no model in N
                        and keeps the one it has
    withdrawn.N/...     instead of N/, after a rollback

What is deleted goes in the opposite order.
"""

import collections
import contextlib
import fcntl
import functools
import os
import shutil
from collections.abc import Iterable, Iterator

from trainer.export import signature, versions
from trainer.storage import buckets, paths

# Children that are no numbers are no versions to TF Serving.
# Whoever the server runs as reads it, whatever the umask here.
_FILE_MODE, _FOLDER_MODE = 0o644, 0o755
_STAGING = "tmp.publish"
_WITHDRAWN = "withdrawn."


def open_base(path: str) -> "LocalBase | BucketBase":
    """A base path on a disk or in a bucket.

    Raises:
        ValueError: if it is of another store.
        OSError: if there are no credentials.
    """
    if paths.is_bucket(path):
        return BucketBase(path)
    if paths.is_remote(path):
        raise ValueError(
            "--model_base_path must be a directory or gs://BUCKET/PATH. "
            f"Received: model_base_path={path}."
        )
    return LocalBase(path)


class LocalBase:
    """On a disk."""

    def __init__(self, path: str):
        self.path = path

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One publisher at a time."""
        if not os.path.isdir(self.path):
            os.makedirs(self.path)
            os.chmod(self.path, _FOLDER_MODE)
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
                shutil.rmtree(self._join(name))
        return []

    def begun_versions(self) -> list[int]:
        """All versions, also those that are not complete: there are none."""
        return list(versions.list_versions(self.path))

    def find(self, version_dir: str) -> int | None:
        """The version that was made of an export, whole; None if none was.

        Raises:
            ValueError: if it is damaged.
        """
        digest = versions.manifest_sha256(version_dir)
        published = versions.list_versions(self.path)
        for number, directory in reversed(published.items()):
            if versions.manifest_sha256(directory) == digest:
                _require_same(versions.changed_files(directory), directory)
                return number
        return None

    def add(self, version_dir: str) -> int:
        """Makes an export the next version; returns its number.

        Raises:
            ValueError: if what was copied is not what was exported.
        """
        staging = self._join(f"{_STAGING}.{os.getpid()}")
        for name in _in_order(paths.list_files(version_dir)):
            path = paths.join(staging, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            shutil.copyfile(paths.join(version_dir, name), path)
            os.chmod(path, _FILE_MODE)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        for folder, _, _ in os.walk(staging):
            os.chmod(folder, _FOLDER_MODE)
        changed = versions.changed_files(staging)
        if versions.manifest_sha256(staging) != versions.manifest_sha256(
            version_dir
        ):
            changed.append(signature.MANIFEST_FILE)
        _require_same(changed, staging)
        number = _next_number(os.listdir(self.path))
        os.rename(staging, self._join(number))
        return number

    def withdraw(self, number: int) -> None:
        """Hides a version from servers; nothing is deleted."""
        os.rename(self._join(number), self._join(f"{_WITHDRAWN}{number}"))

    def remove(self, number: int) -> None:
        """Removes a version, all at once."""
        if os.path.islink(self._join(number)):
            os.remove(self._join(number))
            return
        hidden = self._join(f"{_STAGING}.removed.{number}")
        os.rename(self._join(number), hidden)
        shutil.rmtree(hidden)

    def _join(self, name: str | int) -> str:
        return paths.join(self.path, str(name))


class BucketBase:
    """In a bucket. What its methods promise is said in `LocalBase`."""

    def __init__(self, url: str):
        self.path = url.rstrip("/")
        self._folder = buckets.Folder(self.path)

    def lock(self) -> contextlib.AbstractContextManager:
        """Nothing: publishers may meet, their preconditions part them."""
        return contextlib.nullcontext()

    def tidy(self) -> list[int]:
        """Finishes withdrawals that were begun, and returns their versions."""
        children = self._children()
        begun = sorted(_withdrawn(children) & _claims(children).keys())
        for number in begun:
            self.withdraw(number)
        return begun

    def begun_versions(self) -> list[int]:
        children = self._children()
        return sorted(_numbers(children) - _withdrawn(children))

    def find(self, version_dir: str) -> int | None:
        claim = _crc32c(version_dir, signature.MANIFEST_FILE)
        claims = _claims(self._children()).items()
        number = max((n for n, other in claims if other == claim), default=None)
        if number is not None:
            self._upload(number, version_dir)
        return number

    def add(self, version_dir: str) -> int:
        number = _next_number(self._children())
        while not self._claim(number, version_dir):
            number += 1
        self._upload(number, version_dir)
        return number

    def _claim(self, number: int, version_dir: str) -> bool:
        """Takes a number; False if another publisher of another export has."""
        try:
            self._put(version_dir, number, signature.MANIFEST_FILE)
        except FileExistsError:
            return False
        return True

    def _put(self, version_dir: str, number: int, name: str) -> None:
        path = paths.join(version_dir, name)
        self._folder.upload(path, f"{number}/{name}", generation=0)

    def _upload(self, number: int, version_dir: str) -> None:
        """Uploads what is missing, the graph last, and compares everything."""
        names = _in_order(paths.list_files(version_dir))
        present = self._children()[str(number)]
        missing = [name for name in names if name not in present]
        put = functools.partial(self._put, version_dir, number)
        others = [name for name in missing if name != versions.GRAPH_FILE]
        collections.deque(buckets.in_threads(put, others), maxlen=0)
        if versions.GRAPH_FILE in missing:
            put(versions.GRAPH_FILE)
        present = self._children()[str(number)]
        changed = [
            name
            # Of a blessing there may be another one by now.
            for name in sorted({*names, *present} - {signature.BLESSING_FILE})
            if name not in names
            or name not in present
            or present[name].crc32c != _crc32c(version_dir, name)
        ]
        _require_same(changed, paths.join(self.path, str(number)))

    def withdraw(self, number: int) -> None:
        for name in reversed(_in_order(self._children()[str(number)])):
            path = f"{number}/{name}"
            self._folder.rename(path, f"{_WITHDRAWN}{path}")

    def remove(self, number: int) -> None:
        """Removes a version: the graph, the rest, and its manifest last."""
        for name in reversed(_in_order(self._children()[str(number)])):
            self._folder.delete(f"{number}/{name}")

    def _children(self) -> dict[str, dict]:
        """Objects by what would be their directory, and their name in it."""
        children = collections.defaultdict(dict)
        for path, blob in self._folder.list().items():
            directory, _, name = path.partition("/")
            children[directory][name] = blob
        return children


def _claims(children) -> dict[int, str]:
    """Checksums of the manifests of versions that were begun, by number."""
    return {
        number: files[signature.MANIFEST_FILE].crc32c
        for name, files in children.items()
        if (number := versions.parse_number(name)) is not None
        and signature.MANIFEST_FILE in files
    }


def _crc32c(version_dir: str, name: str) -> str:
    return buckets.crc32c(paths.join(version_dir, name))


def _numbers(names: Iterable[str]) -> set[int]:
    return {versions.parse_number(name) for name in names} - {None}


def _withdrawn(names: Iterable[str]) -> set[int]:
    return _numbers(
        name.removeprefix(_WITHDRAWN)
        for name in names
        if name.startswith(_WITHDRAWN)
    )


def _next_number(names: Iterable[str]) -> int:
    """After all that were ever given and are not removed."""
    return max(_numbers(names) | _withdrawn(names), default=0) + 1


def _in_order(names: Iterable[str]) -> list[str]:
    """The manifest first, the graph last."""
    order = {signature.MANIFEST_FILE: -1, versions.GRAPH_FILE: 1}
    return sorted(names, key=lambda name: order.get(name, 0))


def _require_same(changed: list[str], directory: str) -> None:
    if changed:
        raise ValueError(
            f"{directory}/{changed[0]} is missing or not what was exported: "
            f"remove {directory} and publish again."
        )
