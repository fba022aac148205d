"""Features of the backbone, computed once a view and kept as float16 rows.

With the backbone frozen, an image's features never change. The head is
trained on view `e mod V` in epoch `e`, which equals running the backbone on
that view in that epoch, to the rounding of float16, at a thousandth of the
time.

Each view is a file, kept as soon as it is done. Its name is a hash over all
that its content follows from, so a stale one is never found; a checksum beside
it keeps a damaged one from use.
"""

import functools
import hashlib
import inspect
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainer.data import augmentation, preprocessing
from trainer.model import folding
from trainer.storage import paths

# Of the features that are in memory at a time.
_PIECE_BYTES = 32 << 20


def weights_sha256(model: keras.Model) -> str:
    """Hex sha256 over the weights of a model, in their order."""
    digest = hashlib.sha256()
    for weights in model.get_weights():
        digest.update(np.ascontiguousarray(weights).data)
    return digest.hexdigest()


def code_sha256() -> str:
    """Hex sha256 of what makes features, and of TensorFlow's version."""
    source = tf.version.VERSION + keras.__version__
    for module in (augmentation, preprocessing, folding):
        source += inspect.getsource(module)
    return hashlib.sha256(source.encode("utf-8")).hexdigest()


def load_or_compute(
    directory: str,
    facts: dict,
    shape: tuple[int, int],
    compute: Callable[[np.ndarray], None],
    *,
    is_chief: bool = True,
    all_have: Callable[[bool], bool] = lambda has: has,
) -> np.ndarray | None:
    """The features that follow from `facts`, from their file if it is there.

    Args:
        directory: of the files, local or `gs://`; where it cannot be written
            the features are kept as long as this process.
        facts: whatever the features depend on, as JSON holds it.
        shape: images and features.
        compute: fills an array of this shape; all workers take part.
        is_chief: whether this process reads and writes the files.
        all_have: says, given whether the chief lacks nothing, whether that is
            so: all workers compute, or none.

    Returns:
        float16 of that shape, memory-mapped and read-only; None for a worker
        that is not the chief.

    Raises:
        ValueError: if a feature is beyond the range of float16.
    """
    text = json.dumps({**facts, "dtype": "float16"}, sort_keys=True)
    name = hashlib.sha256(text.encode("utf-8")).hexdigest()[:32] + ".npy"
    path = paths.join(directory, name)
    if is_chief and paths.is_remote(path):
        path = _download(path)
    if all_have(not is_chief or _is_whole(path)):
        return np.load(path, mmap_mode="r") if is_chief else None
    computed = np.zeros(shape, np.float16)
    compute(computed)
    if not is_chief:
        return None
    if not np.isfinite(computed.max()):
        raise ValueError(
            "The features of the backbone are not finite in float16: --weights "
            "are not those of an EfficientNetB0 trained on images."
        )
    try:
        _save(path, computed, text)
        if paths.is_remote(directory):
            _copy(path, paths.join(directory, name))
    except OSError as error:
        logging.warning(
            "The features could not be kept in %s (%s): the next run computes "
            "them again, unless --features_dir names another place.",
            directory,
            error.strerror or error,
        )
        path = os.path.join(_temporary().name, name)
        _save(path, computed, text)
    return np.load(path, mmap_mode="r")


def epoch_order(num_images: int, num_epochs: int, seed: int) -> np.ndarray:
    """Image indices in the order in which they are trained on.

    Returns:
        int32 `[num_epochs, num_images]`, a permutation per epoch.
    """
    order = np.tile(np.arange(num_images, dtype=np.int32), (num_epochs, 1))
    for epoch in range(num_epochs):
        np.random.default_rng([seed, epoch]).shuffle(order[epoch])
    return order


class Stream:
    """Training batches, in an order that is a function of seed and step.

    The images are shuffled anew in every epoch, and a batch may reach over the
    end of one into the next, so that none is ever dropped.
    """

    def __init__(
        self,
        views: Sequence[np.ndarray],
        rows: np.ndarray,
        labels: np.ndarray,
        num_steps: int,
        batch_size: int,
        seed: int,
    ):
        """Says what to read, and in which order.

        Args:
            views: each float16 `[rows, features]`; epoch `e` has `e mod V`.
            rows: int64 `[images]`, the rows to train on.
            labels: int32 `[images]`, of those rows.
            num_steps: of the whole training.
            batch_size: images per step.
            seed: of the order.
        """
        self._views, self._rows, self._labels = views, rows, labels
        num_places = num_steps * batch_size
        order = epoch_order(len(rows), -(-num_places // len(rows)), seed)
        self._images = order.reshape(-1)[:num_places].reshape(-1, batch_size)

    def pieces(
        self, first: int, last: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Batches of some steps, in pieces that take little memory.

        Yields:
            Numbers of the steps int64 `[steps]`, features float16 `[steps,
            batch, features]` and labels int32 `[steps, batch]`.
        """
        num_features = self._views[0].shape[1]
        row_bytes = num_features * np.float16().itemsize
        batch_size = self._images.shape[1]
        length = max(1, _PIECE_BYTES // (batch_size * row_bytes))
        for start in range(first, last, length):
            steps = np.arange(start, min(start + length, last))
            images = self._images[steps]
            places = steps[:, np.newaxis] * batch_size + np.arange(batch_size)
            view_of = places // len(self._rows) % len(self._views)
            batches = np.empty((*images.shape, num_features), np.float16)
            for view in np.unique(view_of):
                in_view = view_of == view
                batches[in_view] = read_rows(
                    self._views[view], self._rows[images[in_view]]
                )
            yield steps, batches, self._labels[images]


def read_rows(view: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of features, float16 `[rows, features]`."""
    if isinstance(view, np.memmap):
        # Pages that were read leave the memory with the map that read them.
        view = np.memmap(
            view.filename, view.dtype, "r", view.offset, view.shape
        )
    return np.asarray(view[rows], np.float16)


def _is_whole(path: str) -> bool:
    """Whether features are there as they were written."""
    try:
        described = json.loads(paths.read_bytes(_description(path)))
        is_whole = _sha256(path) == described["sha256"]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        logging.warning("%s cannot be used (%s).", path, error)
        return False
    if not is_whole:
        logging.warning("%s is damaged: it is computed anew.", path)
    return is_whole


def _save(path: str, features: np.ndarray, facts: str) -> None:
    with paths.open_atomically(path) as file:
        np.save(file, features)
    # Without its description a file does not count, so that comes last.
    description = {"sha256": _sha256(path), **json.loads(facts)}
    paths.write_atomically(
        _description(path), json.dumps(description, indent=2) + "\n"
    )


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _download(url: str) -> str:
    """A local path for features in Cloud Storage, with them if they exist."""
    path = os.path.join(_temporary().name, os.path.basename(url))
    try:
        if not os.path.exists(path) and paths.exists(_description(url)):
            _copy(url, path)
    except OSError as error:
        logging.warning("%s cannot be used (%s).", url, error)
    return path


def _copy(source: str, target: str) -> None:
    paths.write_atomically(target, paths.read_bytes(source))
    paths.write_atomically(
        _description(target), paths.read_bytes(_description(source))
    )


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory:
    """Goes with this process."""
    return tempfile.TemporaryDirectory(
        prefix="lightbox-features-", ignore_cleanup_errors=True
    )


def _description(path: str) -> str:
    return path.removesuffix(".npy") + ".json"
