"""Backbone features computed once, in augmented views.

With the backbone frozen, an image's features never change. The head is
trained on view `e mod V` in epoch `e`, which equals running the backbone on
that view in that epoch, at a thousandth of the time.
"""

import hashlib
import inspect

import keras
import numpy as np
import tensorflow as tf

from trainer.data import augmentation, preprocessing
from trainer.model import folding

# Features that take more stay in their file and are read a batch at a time.
MAX_BYTES_IN_MEMORY = 4 << 30


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


def epoch_order(num_images: int, num_epochs: int, seed: int) -> np.ndarray:
    """Image indices in the order in which they are trained on.

    Returns:
        int32 `[num_epochs, num_images]`, a permutation per epoch.
    """
    order = np.tile(np.arange(num_images, dtype=np.int32), (num_epochs, 1))
    for epoch in range(num_epochs):
        np.random.default_rng([seed, epoch]).shuffle(order[epoch])
    return order


def make_feature_dataset(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    total_steps: int,
    global_batch_size: int,
    per_replica_batch_size: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 1,
    worker_index: int = 0,
) -> tf.data.Dataset:
    """Training batches of cached features, one a replica.

    Args:
        features: float32 `[views, images, features]`.
        labels: int32 `[images]`.
        total_steps: of the whole phase.
        global_batch_size: images per step, over all replicas.
        per_replica_batch_size: images per element of the result.
        seed: of the order.
        start_step: steps already done by the run that is continued.
        num_workers: processes that share the stream.
        worker_index: of this one.

    Returns:
        Dataset of dictionaries: `inputs` float32 `[per_replica_batch,
        features]`, `labels` int32 and `places` int64 `[per_replica_batch]`.
    """
    num_views, num_images, num_features = features.shape
    num_epochs = -(-total_steps * global_batch_size // num_images)
    order = epoch_order(num_images, num_epochs, seed)
    views = np.arange(num_epochs, dtype=np.int64)[:, np.newaxis] % num_views
    rows = tf.constant((views * num_images + order).reshape(-1))
    gather = _gatherer(features.reshape(-1, num_features))
    flat_labels = tf.constant(labels)
    per_worker = global_batch_size // num_workers
    replicas = per_worker // per_replica_batch_size

    def make_batch(element):
        step, replica = element // replicas, element % replicas
        first = worker_index * per_worker + replica * per_replica_batch_size
        places = first + tf.range(per_replica_batch_size, dtype=tf.int64)
        batch_rows = tf.gather(rows, step * global_batch_size + places)
        return {
            "inputs": gather(batch_rows),
            "labels": tf.gather(flat_labels, batch_rows % num_images),
            "places": places,
        }

    dataset = tf.data.Dataset.range(
        start_step * replicas, total_steps * replicas
    )
    return dataset.map(make_batch).prefetch(4)


def _gatherer(flat_features: np.ndarray):
    """Function of row numbers that returns those rows of features."""
    if flat_features.nbytes <= MAX_BYTES_IN_MEMORY:
        tensor = tf.constant(flat_features)
        return lambda rows: tf.gather(tensor, rows)

    def read(rows):
        found = tf.numpy_function(
            lambda some: flat_features[some], [rows], tf.float32
        )
        return tf.ensure_shape(found, [None, flat_features.shape[1]])

    return read
