"""What a command reads from Cloud Storage is brought here, and back.

Inside a `Workspace` a command has local paths alone, so that a run in the cloud
is the same run as on a laptop. In messages and in what is written, the paths
are those that the user gave.
"""

import logging as python_logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from absl import logging

from trainer import startup
from trainer.progress import Progress
from trainer.storage import paths

if TYPE_CHECKING:
    from trainer.storage import mirror


class Workspace:
    """Local copies of paths in Cloud Storage, for one command.

    Local paths are given back as they are. At the end the mirrors are flushed,
    and what they could not bring to the bucket is kept and named. What cannot
    be read or written is an OSError.
    """

    def __init__(self) -> None:
        self._directory = ""
        # By URL, each with its local directory.
        self._mirrors: dict[str, tuple[mirror.Mirror, str]] = {}

    def __enter__(self) -> "Workspace":
        logging.get_absl_handler().addFilter(_say_as_given)
        # Its warnings would come before the sentence about the same.
        python_logging.getLogger("google.auth").setLevel(python_logging.ERROR)
        return self

    def stage(
        self, path: str, flag: str, wanted: Callable[[str], bool] = bool
    ) -> str:
        """Copies a directory here.

        Args:
            path: local or `gs://`.
            flag: that gave the path.
            wanted: says of each name below the directory whether to copy it.

        Returns:
            A local path.

        Raises:
            FileNotFoundError: if there is nothing to copy.
            OSError: if this disk is too small.
        """
        if not paths.is_bucket(path):
            return path
        from trainer.storage import buckets

        folder = buckets.Folder(path)
        blobs = {n: b for n, b in folder.list().items() if wanted(n)}
        if not blobs:
            raise FileNotFoundError(
                f"--{flag}={path} holds no files: correct it."
            )
        local = self._make_directory(path)
        num_bytes = sum(blob.size for blob in blobs.values())
        free = shutil.disk_usage(local).free
        if num_bytes > free:
            raise OSError(
                f"--{flag}={path} takes {num_bytes / 1e9:.1f} GB and {local} "
                f"has {free / 1e9:.1f} GB free: set TMPDIR to a directory on a "
                "larger disk."
            )
        with Progress(num_bytes, f"from {path}", "B") as progress:
            folder.download(blobs, local, progress.update)
        logging.info(
            "Copied %d files (%.1f MB) from %s.",
            len(blobs),
            num_bytes / 1e6,
            path,
        )
        return local

    def stage_records(self, data_dir: str) -> str:
        """Copies records here, without the features that lie below them."""
        return self.stage(data_dir, "data_dir", lambda name: "/" not in name)

    def stage_file(self, path: str, flag: str) -> str:
        """Copies a file here, under its own name; returns its local path.

        Raises:
            FileNotFoundError: if there is none.
        """
        if not paths.is_bucket(path):
            return path
        if not paths.exists(path):
            raise FileNotFoundError(f"--{flag}={path} does not exist.")
        local = os.path.join(
            self._make_directory(os.path.dirname(path)), os.path.basename(path)
        )
        paths.write_atomically(local, paths.read_bytes(path))
        return local

    def output(
        self, path: str, last: str = "", wanted: Sequence[str] = ()
    ) -> str:
        """A local directory for one that a command writes anew.

        Args:
            path: local or `gs://`.
            last: name of a file that says that everything is there.
            wanted: names of what the command reads of what is there.
        """
        return self._mirror(path, True, wanted.__contains__, last, False)

    def mirror(self, path: str, is_writer: bool = True) -> str:
        """A local directory for one that a command continues and writes.

        Args:
            path: local or `gs://`; empty stays empty.
            is_writer: False for a process that only reads what an earlier one
                has left there.
        """
        return self._mirror(path, is_writer, bool, paths.SUCCESS_FILE, True)

    def _mirror(
        self,
        path: str,
        is_writer: bool,
        wanted: Callable[[str], bool],
        last: str,
        in_order: bool,
    ) -> str:
        if not paths.is_bucket(path):
            return path
        for url, (_, local) in self._mirrors.items():
            if f"{path.rstrip('/')}/".startswith(f"{url.rstrip('/')}/"):
                return os.path.join(local, path[len(url) :].strip("/"))
        from trainer.storage import mirror

        local = self._make_directory(path)
        opened = mirror.Mirror(path, local, last, in_order)
        num_bytes = opened.restore(wanted)
        if num_bytes:
            logging.info(
                "Copied %.1f MB of an earlier start from %s.",
                num_bytes / 1e6,
                path,
            )
        self._mirrors[path] = opened, local
        if is_writer:
            opened.start()
        return local

    def _make_directory(self, url: str) -> str:
        if not self._directory:
            self._directory = tempfile.mkdtemp(prefix="lightbox-")
            signal.signal(signal.SIGTERM, _stop)
        local = tempfile.mkdtemp(dir=self._directory)
        paths.add_copy(local, url)
        return local

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: object
    ) -> None:
        sentence = ""
        if isinstance(error, SystemExit) and isinstance(error.code, str):
            sentence = paths.as_given(error.code)
        if self._directory:
            # A second signal does not take away the time to finish.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        lost = []
        for url, (mirror, local) in self._mirrors.items():
            try:
                mirror.close()
            except (OSError, KeyboardInterrupt) as failure:
                reason = str(failure).rstrip(".") or "interrupted"
                lost.append(
                    f"{local} has what could not be brought to {url} "
                    f"({reason}): once that is over, copy it with `gcloud "
                    f"storage rsync --recursive {local} {url}`, or run the "
                    "same command again."
                )
        if not lost:
            if self._directory:
                shutil.rmtree(self._directory, ignore_errors=True)
            if sentence:
                sys.exit(sentence)
            return
        if sentence:
            print(sentence, file=sys.stderr)
        sys.exit("\n".join(lost))


def _say_as_given(record: python_logging.LogRecord) -> bool:
    record.msg, record.args = paths.as_given(record.getMessage()), ()
    return True


def _stop(*_: object) -> None:
    """Ends the process so that what it has is brought to the bucket."""
    logging.warning("Stopped by SIGTERM; the same command continues.")
    sys.exit(startup.PREEMPTED)
