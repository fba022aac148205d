"""Features that an earlier run has computed, found again by what made them.

A file's name is a hash over everything that its content follows from, so a
stale one is never found; a checksum beside it keeps a damaged one from use.
"""

import hashlib
import io
import json
import mmap
import os
from collections.abc import Callable

import numpy as np
from absl import logging

from trainer.storage import paths


def load_or_compute(
    directory: str,
    facts: dict,
    compute: Callable[[], np.ndarray],
    *,
    is_chief: bool = True,
    all_have: Callable[[bool], bool] = lambda has: has,
) -> np.ndarray:
    """The features that follow from `facts`, from the cache if it has them.

    Args:
        directory: of the cache, local or `gs://`; where it cannot be written
            the features are used and forgotten.
        facts: whatever the features depend on, as JSON holds it.
        compute: returns the features; all workers of a cluster take part.
        is_chief: whether this process writes the cache.
        all_have: says, given whether this worker found the features, whether
            all did: else none reads them and all compute.

    Returns:
        float32, of the shape that `compute` gives; memory-mapped and read-only
        if it comes from a local file.
    """
    text = json.dumps(facts, sort_keys=True)
    name = hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]
    path = paths.join(directory, f"{name}.npy")
    found = _load(path)
    if all_have(found is not None):
        return found
    computed = compute()
    if is_chief:
        _save(path, computed, facts)
    return computed


def _load(path: str) -> np.ndarray | None:
    """What is at a path, or None if it is absent or damaged."""
    try:
        described = json.loads(paths.read_bytes(_description(path)))
        if paths.is_remote(path):
            data = paths.read_bytes(path)
            digest = hashlib.sha256(data).hexdigest()
            features = np.load(io.BytesIO(data))
        else:
            with (
                open(path, "rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                digest = hashlib.sha256(data).hexdigest()
            features = np.load(path, mmap_mode="r")
        is_whole = digest == described["sha256"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logging.warning("%s cannot be used (%s).", path, error)
        return None
    if not is_whole:
        logging.warning("%s is damaged: it is computed anew.", path)
        return None
    return features


def _save(path: str, features: np.ndarray, facts: dict) -> None:
    buffer = io.BytesIO()
    np.save(buffer, features)
    data = buffer.getvalue()
    description = {"sha256": hashlib.sha256(data).hexdigest(), **facts}
    try:
        # Without its description a file does not count, so that comes last.
        paths.write_atomically(path, data)
        paths.write_atomically(
            _description(path), json.dumps(description, indent=2) + "\n"
        )
    except OSError as error:
        logging.warning(
            "The features could not be kept in %s (%s): the next run computes "
            "them again, unless --features_dir names another place.",
            os.path.dirname(path),
            error.strerror or error,
        )


def _description(path: str) -> str:
    return path.removesuffix(".npy") + ".json"
