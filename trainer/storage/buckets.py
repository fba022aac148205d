"""Objects in Cloud Storage: whole, checked by crc32c, and asked for again.

google-cloud-storage repeats what a server refuses for a moment; a download that
arrives altered it only reports, so that is repeated here. What fails for good
is an OSError whose sentence says what to do.
"""

import base64
import concurrent.futures
import contextlib
import io
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import google_crc32c
import requests

with warnings.catch_warnings():
    # They warn of an old Python, beside the one sentence of a user's mistake.
    warnings.simplefilter("ignore", FutureWarning)
    from google.api_core import exceptions
    from google.auth import exceptions as auth_exceptions
    from google.cloud import storage
    from google.cloud.storage import exceptions as storage_exceptions

# What a bucket may answer, after the library's own retries.
_ERRORS = (
    exceptions.GoogleAPIError,
    auth_exceptions.GoogleAuthError,
    requests.RequestException,
    storage_exceptions.DataCorruption,
    storage_exceptions.InvalidResponse,
)
_NUM_THREADS = 8
_NUM_DOWNLOADS = 5
_CHUNK = 1 << 20


def _google_says(error: Exception) -> str:
    """The first line of an answer, without the request that it is to."""
    response, text = getattr(error, "response", None), ""
    if response is not None and not response.ok:
        try:
            text = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            text = response.text
    text = text or str(error)
    return (text.strip().splitlines() or ["no reason given"])[0].rstrip(".")


def _explain(error: Exception, url: str) -> str:
    bucket, says = split_url(url)[0], _google_says(error)
    response = getattr(error, "response", None)
    code: int = (
        getattr(error, "code", None) or getattr(response, "status_code", 0) or 0
    )
    if isinstance(error, auth_exceptions.GoogleAuthError):
        return (
            f"there are no credentials for {url}: run `gcloud auth "
            "application-default login`, or run as a service account."
        )
    if isinstance(error, exceptions.NotFound):
        return f"gs://{bucket} does not exist: create it, or correct {url}."
    if isinstance(error, (exceptions.Forbidden, exceptions.Unauthorized)):
        return (
            f"access to {url} was denied: {says}. Unless that names another "
            f"reason, it takes roles/storage.objectUser on gs://{bucket}, or "
            "objectViewer if it is only read."
        )
    if code == 429:
        return (
            f"{url} refuses further requests (429: a quota or rate limit of "
            f"the project or of gs://{bucket} is used up: {says}): run the "
            "same command again later, it continues."
        )
    if 400 <= code < 500 and code != 408:
        return (
            f"{url} was refused ({code:d}): {says}. The same command would be "
            "refused again until that is changed."
        )
    return (
        f"{url} could not be reached or kept refusing "
        f"({type(error).__name__}: {says}): run the same command again, it "
        "finishes what was begun."
    )


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    try:
        yield
    except exceptions.PreconditionFailed as error:
        raise FileExistsError(
            f"{url} was written by another process: only one may write there. "
            "Stop the other, or give this one another directory."
        ) from error
    except _ERRORS as error:
        raise OSError(_explain(error, url)) from error


def split_url(url: str) -> tuple[str, str]:
    """Bucket and object name of `gs://BUCKET/NAME`.

    Raises:
        ValueError: if it is not of that form.
    """
    match = re.fullmatch(r"gs://([a-z0-9][\w.-]*)(?:/(.*))?", url)
    if not match:
        raise ValueError(
            f"A path in Cloud Storage must be gs://BUCKET/PATH. Received: {url}"
        )
    return match[1], match[2] or ""


def _bucket(url: str) -> storage.Bucket:
    name = split_url(url)[0]
    with explained(url):
        return storage.Client().bucket(name)


def _blob(url: str) -> storage.Blob:
    return _bucket(url).blob(split_url(url)[1])


def read_bytes(url: str) -> bytes:
    """Content of an object.

    Raises:
        FileNotFoundError: if there is none.
    """
    blob = _blob(url)
    with explained(url):
        try:
            return _until_intact(blob.download_as_bytes)
        except exceptions.NotFound as error:
            raise FileNotFoundError(f"{url} does not exist.") from error


def write_bytes(url: str, data: bytes) -> None:
    """Makes or replaces an object; if it fails, what was there is intact."""
    with explained(url):
        _blob(url).upload_from_string(data, "application/octet-stream")


def exists(url: str) -> bool:
    """Whether there is an object of this name."""
    with explained(url):
        return _blob(url).exists()


def _until_intact(download: Callable[[], Any]) -> Any:
    for attempt in range(_NUM_DOWNLOADS):
        try:
            return download()
        except storage_exceptions.DataCorruption:
            if attempt == _NUM_DOWNLOADS - 1:
                raise


class Folder:
    """The objects below `gs://BUCKET/PREFIX/`, by their names below it."""

    def __init__(self, url: str):
        """Opens it; it need not exist.

        Raises:
            ValueError: if the URL is none of Cloud Storage.
        """
        self.url = url.rstrip("/")
        prefix = split_url(self.url)[1]
        self._prefix = f"{prefix}/" if prefix else ""
        self._bucket = _bucket(self.url)

    def _blob(self, name: str) -> storage.Blob:
        return self._bucket.blob(self._prefix + name)

    def list(self) -> dict[str, storage.Blob]:
        """All objects, with their size, checksum and generation."""
        start, blobs = len(self._prefix), {}
        with explained(self.url):
            for blob in self._bucket.list_blobs(prefix=self._prefix):
                name = blob.name[start:]
                # Consoles make an empty object to show a folder.
                if not name or name.endswith("/"):
                    continue
                if {"", ".", ".."} & set(name.split("/")):
                    raise OSError(
                        f"{self.url}/{name} cannot be a file's name: rename "
                        "the object."
                    )
                blobs[name] = blob
        return blobs

    def download(
        self,
        blobs: dict[str, storage.Blob],
        directory: str,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Downloads objects that `list` gave, each with its checksum.

        Args:
            blobs: by name.
            directory: where they go, below their names.
            on_progress: is given the bytes of each that has arrived.
        """

        def fetch(name: str) -> int:
            path = os.path.join(directory, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            blob = blobs[name]
            _until_intact(
                lambda: blob.download_to_filename(path, checksum="crc32c")
            )
            return blob.size

        with explained(self.url):
            try:
                for size in in_threads(fetch, blobs):
                    on_progress(size)
            except exceptions.NotFound as error:
                raise OSError(
                    f"{self.url} was changed while it was read: run the same "
                    "command again."
                ) from error

    def upload(
        self, content: str | bytes, name: str, generation: int | None = None
    ) -> int:
        """Makes or replaces an object in one step; returns its generation.

        Args:
            content: the bytes, or the path of a file that has them.
            name: of the object, below the folder.
            generation: of the object to replace, 0 if there must be none;
                None replaces any.

        Raises:
            FileNotFoundError: if the file is gone.
            FileExistsError: if another process has written the object.
        """
        blob = self._blob(name)
        # What is appended to a file meanwhile is no part of this upload.
        with _open(content) as file, explained(f"{self.url}/{name}"):
            try:
                blob.upload_from_file(
                    file,
                    size=file.seek(0, os.SEEK_END),
                    rewind=True,
                    content_type="application/octet-stream",
                    checksum="crc32c",
                    if_generation_match=generation,
                )
            except exceptions.PreconditionFailed:
                # Perhaps it was this upload: applied, and its answer lost.
                if not _has_content(blob, content):
                    raise
        return blob.generation

    def rename(self, name: str, new_name: str) -> None:
        """Gives an object another name below the folder, replacing any there.

        Raises:
            OSError: if it cannot be copied or deleted.
        """
        with explained(f"{self.url}/{name}"):
            self._bucket.rename_blob(
                self._bucket.blob(self._prefix + name), self._prefix + new_name
            )

    def delete(self, name: str, generation: int | None = None) -> None:
        """Deletes an object; nothing if it is gone.

        Raises:
            FileExistsError: if another process has replaced it.
        """
        with (
            explained(f"{self.url}/{name}"),
            contextlib.suppress(exceptions.NotFound),
        ):
            self._blob(name).delete(if_generation_match=generation)


def _has_content(blob: storage.Blob, content: str | bytes) -> bool:
    try:
        blob.reload()
    except exceptions.NotFound:
        return False
    return blob.crc32c == crc32c(content)


def crc32c(content: str | bytes) -> str:
    """Of bytes or a file, as Cloud Storage gives it: base64 of its big end."""
    checksum = google_crc32c.Checksum()
    with _open(content) as file:
        while data := file.read(_CHUNK):
            checksum.update(data)
    return base64.b64encode(checksum.digest()).decode()


def _open(content: str | bytes) -> BinaryIO:
    if isinstance(content, bytes):
        return io.BytesIO(content)
    return open(content, "rb")


def in_threads(function: Callable, items: Iterable) -> Iterator:
    """Results of a function for all items, as they come.

    Raises:
        Exception: the first that one call raises; those that have not begun
            are left out then.
    """
    with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()
