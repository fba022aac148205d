"""Versions of a model in Cloud Storage: copied here once they are complete.

TF Serving reads a version from the bucket while it loads it. Here it is copied
first, so that checks of the files, and reading them again, cost no requests.
"""

import atexit
import functools
import os
import shutil
import tempfile

from trainer.export import versions
from trainer.storage import paths

_copies: list[str] = []


def find_versions(base_path: str) -> dict[int, str]:
    """Returns a local directory of each version under `base_path`.

    In a bucket a version counts when its `saved_model.pb` is there, which
    `deploy.publish` uploads last; one that is gone is removed here, too.

    Raises:
        OSError: `base_path` cannot be listed.
    """
    if not paths.is_bucket(base_path):
        return versions.list_versions(base_path)
    folder, directory = _open(base_path)
    blobs = folder.list()
    complete = versions.find_complete(blobs)
    for version, name in complete.items():
        target = os.path.join(directory, str(version))
        if os.path.exists(target):
            continue
        files = {n: b for n, b in blobs.items() if n.startswith(f"{name}/")}
        staging = os.path.join(directory, "tmp.copied")
        shutil.rmtree(staging, ignore_errors=True)
        folder.download(files, staging)
        # It appears as a whole.
        os.rename(os.path.join(staging, name), target)
    local = versions.list_versions(directory)
    for version in set(local) - set(complete):
        shutil.rmtree(local.pop(version))
    return local


@functools.cache
def _open(base_path: str):
    """A folder of Cloud Storage, and a directory of this process for it."""
    from trainer.storage import buckets

    folder = buckets.Folder(base_path)
    directory = tempfile.mkdtemp(prefix="lightbox-versions-")
    _copies.append(directory)
    return folder, directory


@atexit.register
def remove_copies() -> None:
    """Removes all copies, when the process ends."""
    while _copies:
        shutil.rmtree(_copies.pop(), ignore_errors=True)
