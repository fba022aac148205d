import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from trainer.model import losses

LABELS = np.array([0, 1, 1, 0], np.int32)


def test_cross_entropy_one_logit_equals_numpy():
    logits = np.array([[-2.0], [0.5], [-1.0], [5.0]], np.float32)
    p = special.expit(logits[:, 0].astype(np.float64))
    expected = -np.where(LABELS == 1, np.log(p), np.log1p(-p))
    np.testing.assert_allclose(
        losses.cross_entropy(LABELS, logits), expected, rtol=1e-5
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_softmax_equals_numpy(smoothing):
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    targets = np.eye(3)[LABELS] * (1 - smoothing) + smoothing / 3
    expected = -np.sum(targets * special.log_softmax(logits, -1), -1)
    np.testing.assert_allclose(
        losses.cross_entropy(LABELS, logits, smoothing), expected, rtol=1e-5
    )


def test_label_smoothing_one_logit_equals_two_class_softmax():
    z = np.array([[-2.0], [0.5], [-1.0], [3.0]], np.float32)
    two = np.concatenate([np.zeros_like(z), z], -1)
    np.testing.assert_allclose(
        losses.cross_entropy(LABELS, z, 0.1),
        losses.cross_entropy(LABELS, two, 0.1),
        rtol=1e-5,
    )


def test_focal_loss_equals_its_formula():
    z = np.array([[-2.0], [0.5], [-1.0], [40.0]], np.float32)
    two = np.concatenate([np.zeros_like(z), z], -1)
    p = special.expit(np.where(LABELS, z[:, 0], -z[:, 0]).astype(np.float64))
    expected = -((1 - p) ** 2) * np.log(p)
    for logits in (z, two):
        np.testing.assert_allclose(
            losses.cross_entropy(LABELS, logits, focal_gamma=2.0),
            expected,
            rtol=1e-5,
        )


@pytest.mark.parametrize("num_logits", [1, 2])
def test_focal_loss_of_a_certain_example_has_a_finite_gradient(num_logits):
    logits = tf.constant([[0.0, 200.0][2 - num_logits :]] * 2)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.cross_entropy(
            np.array([1, 0], np.int32), logits, focal_gamma=0.5
        )
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_is_correct_one_logit_and_softmax():
    z = np.array([[-2.0], [0.5], [-1.0], [3.0]], np.float32)
    assert losses.is_correct(LABELS, z).numpy().tolist() == [1, 1, 0, 0]
    two = np.concatenate([np.zeros_like(z), z], -1)
    assert losses.is_correct(LABELS, two).numpy().tolist() == [1, 1, 0, 0]


def test_balanced_class_weights_equal_scikit_learn():
    from sklearn.utils import class_weight

    labels = np.repeat([0, 1, 2], [5, 20, 1])
    expected = class_weight.compute_class_weight(
        "balanced", classes=np.arange(3), y=labels
    )
    np.testing.assert_allclose(
        losses.balanced_class_weights([5, 20, 1]), expected, rtol=1e-6
    )
