"""Per-example losses and class weights."""

import numpy as np
import tensorflow as tf


def cross_entropy(
    labels: tf.Tensor,
    logits: tf.Tensor,
    label_smoothing: float = 0.0,
    focal_gamma: float | tf.Tensor = 0.0,
) -> tf.Tensor:
    """Cross-entropy of each example, possibly focal.

    A function rather than a `keras.losses.Loss`: such an object divides by the
    replica count by itself, and the usual average over the global batch would
    then train with too small a gradient.

    Args:
        labels: int32 `[batch]`.
        logits: float32 `[batch, K]`; K = 1 is the logit of label 1.
        label_smoothing: share of the target that is spread over all classes.
        focal_gamma: multiplies by `(1 - p)^gamma`, p the probability of the
            label, so that what is learned already counts less. Lin et al.,
            2017, "Focal Loss for Dense Object Detection",
            https://arxiv.org/abs/1708.02002. 0 leaves the cross-entropy.

    Returns:
        float32 `[batch]`.
    """
    loss = _smoothed_cross_entropy(labels, logits, label_smoothing)
    if not tf.is_tensor(focal_gamma) and focal_gamma == 0:
        return loss
    if logits.shape[-1] == 1:
        signs = 2.0 * tf.cast(labels, tf.float32) - 1.0
        log_wrong = tf.math.log_sigmoid(-signs * logits[:, 0])
        return tf.exp(focal_gamma * log_wrong) * loss
    right = tf.gather(tf.nn.softmax(logits), labels, batch_dims=1)
    # At p = 1 a root has no slope: the power must not see zero.
    return tf.maximum(1.0 - right, 1e-7) ** focal_gamma * loss


def _smoothed_cross_entropy(labels, logits, label_smoothing):
    if logits.shape[-1] == 1:
        targets = tf.cast(labels, tf.float32)
        targets = targets * (1.0 - label_smoothing) + 0.5 * label_smoothing
        return tf.nn.sigmoid_cross_entropy_with_logits(targets, logits[:, 0])
    num_classes = logits.shape[-1]
    targets = tf.one_hot(labels, num_classes)
    targets = targets * (1.0 - label_smoothing) + label_smoothing / num_classes
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


def is_correct(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """1.0 where the most probable class is the label, float32 `[batch]`."""
    if logits.shape[-1] == 1:
        predicted = tf.cast(logits[:, 0] >= 0.0, tf.int32)
    else:
        predicted = tf.argmax(logits, -1, output_type=tf.int32)
    return tf.cast(predicted == labels, tf.float32)


def balanced_class_weights(class_counts: list[int]) -> np.ndarray:
    """Weights inversely proportional to class frequency, 1 on average.

    `n_samples / (n_classes * count)`, as scikit-learn's "balanced" (King and
    Zeng, 2001, "Logistic Regression in Rare Events Data").

    Args:
        class_counts: training images of each class, all positive.

    Returns:
        float32 `[classes]`.
    """
    counts = np.asarray(class_counts, np.float64)
    return (counts.sum() / (len(counts) * counts)).astype(np.float32)
