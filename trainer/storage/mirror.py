"""A local directory, and behind it one in Cloud Storage that follows.

Whoever works in the directory knows nothing of the bucket and never waits for
it: a thread brings changes there, oldest first, so that the bucket holds what
the directory held some seconds ago. A run that was killed continues from it as
it would from its own disk. Files are sent whole with their checksum, and never
over what another process has written.
"""

import dataclasses
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator

from absl import logging

from trainer.progress import Progress
from trainer.storage import buckets, paths

# In seconds, between two looks at the directory.
PERIOD_S = 2.0
# Smaller files are read when they are found, so that what is sent is of one
# moment; larger ones once nobody has written to them for a while.
_SMALL = 8 << 20
_SETTLED_S = 0.5
# Bytes of small files to hold at a time; the others wait for the next look.
_HELD = 64 << 20
_GRAPH_FILE = "saved_model.pb"
_WRITE_CHECK = "_write_check"
_DELETABLE = re.compile(r"(^|/)(checkpoints|folds/[^/]+/run)/|\.tfrecord$")
# What is not finished yet, of `storage`, exports and TensorFlow, and records of
# folds, which are sooner made again than brought here.
_NOT_SENT = re.compile(
    r"(^|/)(\.|tmp\.)|\.tmp$|_temp(/|$)|\.tempstate"
    r"|(^|/)folds/[^/]+/records(/|$)"
)
_ASSET = re.compile(r"((?:.*/)?[0-9]+)/assets(?:\.extra)?/.*")


@dataclasses.dataclass
class _Change:
    """A file that the bucket does not have as it is."""

    name: str
    stat: os.stat_result
    content: bytes | None  # None: read it from the file

    @property
    def order(self) -> tuple[bool, int, int]:
        """A version is complete when its graph is there, so that comes last.

        Of files of one moment those in folders come first: see `Mirror._look`.
        """
        is_graph = os.path.basename(self.name) == _GRAPH_FILE
        return is_graph, self.stat.st_mtime_ns, -self.name.count("/")


class Mirror:
    """Brings what changes in a directory to Cloud Storage, in the background.

    One file says that everything is there: it leaves the bucket before
    anything else changes, and is sent at the end, after everything else. What
    is deleted here is deleted there only if that is usual, so that nothing is
    lost by whatever cleans a directory of temporary files. What cannot be read
    or written is an OSError.
    """

    def __init__(
        self,
        url: str,
        directory: str,
        last: str = paths.SUCCESS_FILE,
        in_order: bool = True,
    ):
        """Ties a directory to a bucket; nothing is read or written yet.

        Args:
            url: `gs://BUCKET/PATH`.
            directory: local and empty.
            last: name of the file that says that everything is there.
            in_order: what changed first is sent first; else all at once.

        Raises:
            ValueError: if the URL is none of Cloud Storage.
        """
        self.url = url
        self._directory = directory
        self._folder = buckets.Folder(url)
        self._last = last
        self._in_order = in_order
        # Of what is in the bucket: its generation, and the file's state then.
        self._generations: dict[str, int] = {}
        self._sent: dict[str, tuple] = {}
        self._broken: set[str] = set()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._conflict: FileExistsError | None = None

    def restore(self, wanted: Callable[[str], bool] = bool) -> int:
        """Downloads what an earlier process has left.

        Args:
            wanted: says of a name whether its content is needed; an empty file
                stands for it otherwise, and the object stays as it is until
                that is replaced or deleted.

        Returns:
            The bytes downloaded.
        """
        blobs = self._folder.list()
        blobs.pop(_WRITE_CHECK, None)
        needed = {n: b for n, b in blobs.items() if wanted(n)}
        self._folder.download(needed, self._directory)
        for name, blob in blobs.items():
            path = os.path.join(self._directory, name)
            if name not in needed:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                open(path, "wb").close()
            self._generations[name] = blob.generation
            self._sent[name] = _state(os.stat(path))
        self._broken = self._drop_broken_versions(set(blobs))
        return sum(blob.size for blob in needed.values())

    def _drop_broken_versions(self, names: set[str]) -> set[str]:
        """Files of versions whose upload was killed; they are exported anew."""
        versions = {m[1] for n in names if (m := _ASSET.fullmatch(n))}
        broken = set()
        for version in versions:
            if f"{version}/{_GRAPH_FILE}" not in names:
                shutil.rmtree(os.path.join(self._directory, version))
                broken |= {n for n in names if n.startswith(f"{version}/")}
        return broken

    def start(self) -> None:
        """Checks that the bucket may be written, and begins to."""
        self._folder.upload(b"", _WRITE_CHECK)
        self._folder.delete(_WRITE_CHECK)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Brings the rest to the bucket; if it fails, it is all still here."""
        self._closing.set()
        if not self._thread:
            return
        self._thread.join()
        if self._conflict:
            raise self._conflict
        while self._send(is_last=True):
            pass  # until a look finds nothing to do

    def _follow(self) -> None:
        warned = ""
        while not self._closing.wait(PERIOD_S):
            try:
                self._send(is_last=False)
            except FileExistsError as error:
                self._conflict = error
                logging.error("%s", error)
                return
            # Whatever it is, `close` tries again and tells.
            except Exception as error:
                if str(error) != warned:
                    logging.warning(
                        "Uploads wait, and the run goes on: %s", error
                    )
                warned = str(error)

    def _send(self, is_last: bool) -> int:
        """Makes the bucket follow once; returns what there was to do."""
        changes, num_waiting, names = self._look(is_last)
        gone = {
            name
            for name in set(self._generations) - names
            if name == self._last
            or name in self._broken
            or _DELETABLE.search(name)
        }
        others = [c for c in changes if c.name != self._last]
        final = [c for c in changes if c.name == self._last]
        if self._last in gone or (
            final and others and self._last in self._generations
        ):
            self._delete(self._last)
        num_sent = 0
        with Progress(
            len(others), f"to {self.url}", "files", is_shown=is_last
        ) as progress:
            for is_sent in self._upload_all(others):
                num_sent += is_sent
                progress.update(1)
        # What is newer than these may not be there yet.
        if not num_waiting and num_sent == len(others):
            for name in gone & set(self._generations):
                self._delete(name)
            for change in final if is_last else ():
                self._upload(change)
        return len(changes) + len(gone) + num_waiting

    def _look(self, is_last: bool) -> tuple[list[_Change], int, set[str]]:
        """What has changed, how much of it must wait, and all names.

        Files of a directory are read before those in folders below it: a
        record that names them never mentions one that is not found.
        """
        changes, num_waiting, num_held, names = [], 0, 0, set()
        if not os.path.isdir(self._directory):
            raise OSError(f"{self._directory} was deleted by another process.")
        for folder, folders, files in os.walk(self._directory):
            folders[:] = [
                f
                for f in folders
                if not _NOT_SENT.search(self._name(folder, f))
            ]
            for file in files:
                name = self._name(folder, file)
                path = os.path.join(folder, file)
                if _NOT_SENT.search(name):
                    continue
                try:
                    stat = os.stat(path)
                    names.add(name)
                    if self._sent.get(name) == _state(stat):
                        continue
                    content = None
                    if stat.st_size < _SMALL:
                        with open(path, "rb") as opened:
                            content = opened.read()
                    elif not is_last and _age(stat) < _SETTLED_S:
                        num_waiting += 1
                        continue
                except FileNotFoundError:
                    names.discard(name)  # It was deleted just now.
                    continue
                num_held += len(content or b"")
                if content and num_held > _HELD:
                    num_waiting += 1
                    continue
                changes.append(_Change(name, stat, content))
        return changes, num_waiting, names

    def _name(self, folder: str, file: str) -> str:
        return os.path.relpath(os.path.join(folder, file), self._directory)

    def _upload_all(self, changes: list[_Change]) -> Iterator[bool]:
        changes = sorted(changes, key=lambda change: change.order)
        if self._in_order:
            return map(self._upload, changes)
        return buckets.in_threads(self._upload, changes)

    def _upload(self, change: _Change) -> bool:
        """Sends a file; returns whether it was still there."""
        content: str | bytes | None = change.content
        if content is None:
            content = os.path.join(self._directory, change.name)
        try:
            self._generations[change.name] = self._folder.upload(
                content, change.name, self._generations.get(change.name, 0)
            )
        except FileNotFoundError:
            return False
        # If it has changed meanwhile, the next look finds another state.
        self._sent[change.name] = _state(change.stat)
        return True

    def _delete(self, name: str) -> None:
        self._folder.delete(name, self._generations[name])
        del self._generations[name]
        self._sent.pop(name, None)


def _state(stat: os.stat_result) -> tuple:
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _age(stat: os.stat_result) -> float:
    return time.time() - stat.st_mtime
