"""Paths that may be local or `gs://`, and writes that are whole or absent.

Small files in Cloud Storage are read and written by google-cloud-storage, with
checksums and retries. Commands bring whole directories here and back, see
`staging`; only records may be streamed, by TensorFlow's own file system.
"""

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from typing import BinaryIO

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Written when everything else is there.
SUCCESS_FILE = "_SUCCESS"
# Local copy -> the path in Cloud Storage that it stands for.
_copies: dict[str, str] = {}


def is_remote(path: str) -> bool:
    """Whether a path is a URL; those of Cloud Storage alone can be read."""
    return "://" in path


def is_bucket(path: str) -> bool:
    """Whether a path is one of Cloud Storage."""
    return path.startswith("gs://")


def join(directory: str, *names: str) -> str:
    return os.path.join(directory, *names)


def add_copy(local: str, url: str) -> None:
    """Remembers that a local path stands for one in Cloud Storage."""
    _copies[local] = url.rstrip("/")


def as_given(text: str) -> str:
    """A text in which local copies have the names that the user gave."""
    for local, url in _copies.items():
        text = text.replace(local, url)
    return text


def write_atomically(path: str, data: bytes | str) -> None:
    """Writes a file that a reader sees whole or not at all.

    A full disk or a kill leaves the previous content. An object in a bucket
    appears only when its upload is complete.
    """
    data = data.encode("utf-8") if isinstance(data, str) else data
    if is_remote(path):
        from trainer.storage import buckets

        buckets.write_bytes(path, data)
        return
    with open_atomically(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Says which path has no space: the system's own error does not."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        full = OSError(
            f"{as_given(path)} cannot be written ({error.strerror}); free some "
            "space there, or choose another directory."
        )
        full.errno = error.errno
        raise full from error


@contextlib.contextmanager
def open_atomically(path: str) -> Iterator[BinaryIO]:
    """A local file to write, which is there once the block has ended well."""
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with writing(path), _open_new(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        remove(temporary)


def _open_new(path: str) -> BinaryIO:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    return open(path, "wb")


def read_bytes(path: str) -> bytes:
    """Content of a regular file: a pipe or a device might have no end.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if it cannot be read.
    """
    if is_remote(path):
        from trainer.storage import buckets

        return buckets.read_bytes(path)
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(
                errno.EINVAL, "must be a file, not a pipe or device", path
            )
        return file.read()


def _open_at_once(path: str, how: int) -> int:
    """Without waiting for somebody who writes to it, if it is a pipe."""
    return os.open(path, how | os.O_NONBLOCK)


def list_files(directory: str) -> list[str]:
    """Relative names of all files below a directory; none if it is absent.

    Raises:
        OSError: if they cannot be listed.
    """
    if is_remote(directory):
        from trainer.storage import buckets

        return list(buckets.Folder(directory).list())
    return [
        os.path.relpath(os.path.join(folder, name), directory)
        for folder, _, names in os.walk(directory)
        for name in names
    ]


def exists(path: str) -> bool:
    if is_remote(path):
        from trainer.storage import buckets

        return buckets.exists(path)
    return os.path.exists(path)


def remove(path: str) -> None:
    """Deletes a local file, if it is there."""
    if os.path.exists(path):
        os.remove(path)


def remove_folder(path: str) -> None:
    """Deletes a folder with all that is in it, if it is there.

    Raises:
        OSError: if something in a bucket cannot be deleted.
    """
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    from trainer.storage import buckets

    folder = buckets.Folder(path)
    for name in folder.list():
        folder.delete(name)
