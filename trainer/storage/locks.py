"""One writer of a local directory at a time, under a name that others see.

The kernel keeps the lock, and drops it when its holder dies, however that is:
the file that stays is then taken over. In buckets preconditions do the same.
"""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator

from absl import logging

LOCK_FILE = ".lock"


@contextlib.contextmanager
def held(directory: str, given: str) -> Iterator[None]:
    """Makes a directory, if need be, and keeps other writers out of it.

    Args:
        directory: local; holds `LOCK_FILE` meanwhile.
        given: how the user named it, `--job_dir=run`.

    Raises:
        FileExistsError: if another process holds it.
        OSError: if it cannot be made.
    """
    is_new = not os.path.isdir(directory)
    path = os.path.join(directory, LOCK_FILE)
    file = _open_locked(directory, path, given)
    try:
        yield
    finally:
        # While it is held: nobody is left with a lock on a file that is gone.
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        if is_new:
            with contextlib.suppress(OSError):  # It is not empty.
                os.rmdir(directory)
        os.close(file)


def _open_locked(directory: str, path: str, given: str) -> int:
    while True:
        os.makedirs(directory, exist_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:  # Another holder has just removed it.
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(file, 1000, 0).decode("utf-8", "replace")
            os.close(file)
            raise FileExistsError(
                f"{given} is being written by {holder or 'another process'}: "
                "wait for it, stop it, or give another directory."
            ) from error
        except OSError as error:
            logging.warning(
                "%s cannot be locked (%s): start no second command on it.",
                given,
                error.strerror,
            )
        if _is_same_file(file, path):
            break
        os.close(file)
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    holder = f"process {os.getpid()} on {socket.gethostname()}, since {now}"
    with contextlib.suppress(OSError):  # A full disk: it has no name.
        os.truncate(file, 0)
        os.pwrite(file, holder.encode(), 0)
    return file


def _is_same_file(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
