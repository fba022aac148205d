"""Versions of a model in Cloud Storage: copied here once they are complete.

TF Serving reads a version from the bucket while it loads it. Here it is copied
first, so that checks of the files, and reading them again, cost no requests.
"""

import atexit
import functools
import os
import shutil
import tempfile

from serving import model_versions

_GRAPH_FILE = "saved_model.pb"


def find_versions(base_path: str) -> dict[int, str]:
    """Returns a local directory of each complete version under `base_path`.

    A version counts when its `saved_model.pb` is there, which `deploy.publish`
    uploads last; one that is gone is removed here, too.

    Raises:
        OSError: the bucket cannot be read.
    """
    import tensorflow as tf

    directory = _local_directory(base_path)
    try:
        found = _complete_versions(base_path)
        for version in found:
            target = os.path.join(directory, str(version))
            if not os.path.exists(target):
                _copy(f"{base_path.rstrip('/')}/{version}", target)
    except tf.errors.OpError as error:
        reason = str(error).strip().splitlines()[0]
        raise OSError(
            f"{base_path} cannot be read ({reason}): does it exist, and does "
            "this account have roles/storage.objectViewer on its bucket?"
        ) from error
    local = model_versions.find_versions(directory)
    for version in set(local) - set(found):
        shutil.rmtree(local.pop(version))
    return local


@functools.cache
def _local_directory(base_path: str) -> str:
    """Of this process, for what is under a base path."""
    directory = tempfile.mkdtemp(prefix="lightbox-versions-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _complete_versions(base_path: str) -> list[int]:
    import tensorflow as tf

    names = [n.rstrip("/") for n in tf.io.gfile.listdir(base_path)]
    return [
        int(name)
        for name in names
        if model_versions.VERSION_PATTERN.fullmatch(name)
        and int(name) <= model_versions.MAX_VERSION
        and tf.io.gfile.exists(f"{base_path.rstrip('/')}/{name}/{_GRAPH_FILE}")
    ]


def _copy(source: str, target: str) -> None:
    """Copies a version; it appears as a whole."""
    import tensorflow as tf

    staging = os.path.join(os.path.dirname(target), "tmp.copied")
    shutil.rmtree(staging, ignore_errors=True)
    for parent, _, names in tf.io.gfile.walk(source):
        relative = parent[len(source) :].strip("/")
        os.makedirs(os.path.join(staging, relative), exist_ok=True)
        for name in names:
            tf.io.gfile.copy(
                f"{parent.rstrip('/')}/{name}",
                os.path.join(staging, relative, name),
            )
    os.rename(staging, target)
