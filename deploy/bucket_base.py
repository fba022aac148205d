"""A model base path in Cloud Storage, where no directory can be renamed.

The objects under BASE/ for a version N:

    claims/N.json       taken first, by a precondition that only one publisher
                        can meet; says which export N is
    N/...               all files, `saved_model.pb` last: until it is there, a
                        server finds no model in N and keeps the one it has
    withdrawn.N/...     instead of N/, after a rollback
"""

import contextlib
import datetime
import json
import re
import uuid
from collections.abc import Iterator

from google.api_core import exceptions
from google.cloud import storage
from google.cloud.storage import transfer_manager

from deploy import export_files, local_base
from trainer.export import signature
from trainer.storage import buckets

_CLAIM = re.compile(r"claims/(\d+)\.json")
_WITHDRAWN = re.compile(r"withdrawn\.(\d+)/.*")
_VERSION = re.compile(r"(\d+)/(.+)")
_MANIFEST = "manifest_sha256"
_NUM_THREADS = 8


class BucketBase:
    """What `local_base.LocalBase` is on a disk."""

    def __init__(self, url: str):
        self.path = url.rstrip("/")
        bucket, prefix = buckets.split_url(self.path)
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = storage.Client()
        self._bucket = self._client.bucket(bucket)

    def _list(self) -> dict[str, storage.Blob]:
        """Everything under the base path, by name relative to it."""
        start = len(self._prefix)
        blobs = self._client.list_blobs(self._bucket, prefix=self._prefix)
        return {blob.name[start:]: blob for blob in blobs}

    def _blob(self, name: str) -> storage.Blob:
        return self._bucket.blob(self._prefix + name)

    def version_path(self, number: int) -> str:
        return f"{self.path}/{number}"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Nothing: publishers may meet, their preconditions part them."""
        yield

    def tidy(self) -> list[int]:
        """Finishes withdrawals that were begun, and returns their versions."""
        there = self._list()
        begun = sorted(_withdrawn(there) & _taken_by_claims(there))
        for number in begun:
            self._withdraw(number, there)
        return begun

    def versions(self) -> list[int]:
        """Numbers of the versions that are complete, ascending."""
        return _complete(self._list())

    def begun_versions(self) -> list[int]:
        """Also those that are not complete, yet or any more, ascending."""
        there = self._list()
        return sorted(_taken(there) - _withdrawn(there))

    def find(self, export: export_files.Export) -> int | None:
        """The version that was begun or finished with this export."""
        found = [
            int(match[1])
            for name, blob in self._list().items()
            if (match := _CLAIM.fullmatch(name))
            and (blob.metadata or {}).get(_MANIFEST) == export.manifest_sha256
        ]
        if not found:
            return None
        self._upload(max(found), export)
        return max(found)

    def add(self, export: export_files.Export) -> int:
        """Uploads an export as the next version; returns its number.

        Raises:
            ValueError: if what is there afterwards is not what was exported.
        """
        number = max(_taken(self._list()), default=0) + 1
        while not self._claim(number, export):
            number += 1
        self._upload(number, export)
        return number

    def _claim(self, number: int, export: export_files.Export) -> bool:
        """Takes a number; False if another publisher of another export has."""
        blob = self._blob(f"claims/{number}.json")
        claim = {
            _MANIFEST: export.manifest_sha256,
            "publication": uuid.uuid4().hex,
        }
        # The listing tells it without a download.
        blob.metadata = claim
        now = datetime.datetime.now(datetime.timezone.utc)
        try:
            blob.upload_from_string(
                json.dumps(claim | {"begun": now.isoformat()}),
                content_type="application/json",
                if_generation_match=0,
            )
            return True
        except exceptions.PreconditionFailed:
            # Perhaps it was this one: applied, and its answer lost.
            blob.reload()
            theirs = (blob.metadata or {}).get(_MANIFEST)
            return theirs == export.manifest_sha256

    def _upload(self, number: int, export: export_files.Export) -> None:
        """Uploads what is missing, and compares everything."""
        there = {
            match[2]: blob
            for name, blob in self._list().items()
            if (match := _VERSION.fullmatch(name)) and int(match[1]) == number
        }
        missing = [name for name in export.names if name not in there]
        others = [n for n in missing if n != export_files.GRAPH_FILE]
        graph = [n for n in missing if n == export_files.GRAPH_FILE]
        for names in (others, graph):
            pairs = [
                (export.path(name), self._blob(f"{number}/{name}"))
                for name in names
            ]
            results = transfer_manager.upload_many(
                pairs,
                worker_type=transfer_manager.THREAD,
                max_workers=_NUM_THREADS,
                upload_kwargs={
                    "checksum": "crc32c",
                    "if_generation_match": 0,
                },
            )
            for result in results:
                # Another publisher, or this one's lost answer: see `verify`.
                if isinstance(result, BaseException) and not isinstance(
                    result, exceptions.PreconditionFailed
                ):
                    raise result
        self.verify(number, export)

    def verify(self, number: int, export: export_files.Export) -> None:
        """Compares every object of a version with the export's file.

        Raises:
            ValueError: if one differs, or there is one more.
        """
        there = {
            match[2]: blob
            for name, blob in self._list().items()
            if (match := _VERSION.fullmatch(name)) and int(match[1]) == number
        }
        names = set(export.compared_names)
        wrong = sorted((set(there) - {signature.BLESSING_FILE}) ^ names)
        wrong += [
            name
            for name in sorted(names & set(there))
            if there[name].crc32c != buckets.file_crc32c(export.path(name))
        ]
        if wrong:
            raise ValueError(
                f"{self.version_path(number)}/{wrong[0]} is not what "
                f"{export.directory} has: remove {self.version_path(number)} "
                "and publish again."
            )

    def withdraw(self) -> int:
        """Hides the newest version from servers, and returns its number.

        Raises:
            ValueError: if there is no earlier version to go back to.
        """
        there = self._list()
        number = local_base.newest_of_several(self.path, _complete(there))
        self._withdraw(number, there)
        return number

    def _withdraw(self, number: int, there: dict[str, storage.Blob]) -> None:
        for name, blob in there.items():
            if name.startswith(f"{number}/"):
                self._bucket.copy_blob(
                    blob, self._bucket, f"{self._prefix}withdrawn.{name}"
                )
        self._delete(number, there)

    def remove(self, number: int) -> None:
        """Removes a version, the graph first."""
        self._delete(number, self._list())

    def _delete(self, number: int, there: dict[str, storage.Blob]) -> None:
        """Deletes a version: the graph, the rest, and its claim last."""
        graph = f"{number}/{export_files.GRAPH_FILE}"
        claim = f"claims/{number}.json"
        others = [name for name in there if name.startswith(f"{number}/")]
        others = [name for name in others if name != graph]
        for name in [graph, *others, claim]:
            if name in there:
                _delete_one(there[name])


def _delete_one(blob: storage.Blob) -> None:
    try:
        blob.delete()
    except exceptions.NotFound:
        return  # It was deleted, and the answer lost.


def _complete(there) -> list[int]:
    """Versions with a graph: what servers can load."""
    numbers = {
        int(match[1])
        for name in there
        if (match := _VERSION.fullmatch(name))
        and match[2] == export_files.GRAPH_FILE
    }
    return sorted(numbers)


def _withdrawn(there) -> set[int]:
    return {int(m[1]) for name in there if (m := _WITHDRAWN.fullmatch(name))}


def _taken_by_claims(there) -> set[int]:
    return {int(m[1]) for name in there if (m := _CLAIM.fullmatch(name))}


def _taken(there) -> set[int]:
    """All numbers that were ever given and are not removed."""
    visible = {int(m[1]) for name in there if (m := _VERSION.fullmatch(name))}
    return visible | _withdrawn(there) | _taken_by_claims(there)
