import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import stats

from tests.samples import encode
from trainer.model import classifier, saliency

SIZE = 64


@pytest.fixture(scope="module")
def model():
    """An untrained classifier of three classes with a hidden layer."""
    keras.utils.set_random_seed(3)
    return classifier.build_classifier(
        SIZE, 1, classifier.build_head(3, (6,), 0.2)
    )


def linear_head(kernel):
    """Mean over places, then a matrix product."""
    inputs = keras.Input([2, 2, 3])
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    layer = keras.layers.Dense(kernel.shape[1], use_bias=False)
    head = keras.Model(inputs, layer(pooled))
    layer.set_weights([kernel])
    return head


def feature_map(model, pixels):
    output = model.get_layer(saliency.FEATURE_MAP).output
    return keras.Model(model.input, output)(pixels, training=False)


def expected_map(features, weights):
    """Of a linear head: the channels, weighed by the class's weights."""
    heat = np.maximum((features * weights).sum(-1), 0)
    return heat / heat.max()


def test_linear_head_gives_map_computed_by_hand():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(2, 2, 2, 3)).astype(np.float32)
    kernel = generator.normal(size=(3, 4)).astype(np.float32)
    heat, logits = saliency.grad_cam(
        linear_head(kernel), tf.constant(features), tf.constant([3, 1])
    )
    for i, label in enumerate((3, 1)):
        np.testing.assert_allclose(
            heat[i], expected_map(features[i], kernel[:, label]), atol=1e-6
        )
    np.testing.assert_allclose(
        logits, features.mean((1, 2)) @ kernel, atol=1e-6
    )


def test_no_class_given_explains_the_most_probable_one():
    generator = np.random.default_rng(1)
    features = generator.normal(size=(5, 2, 2, 3)).astype(np.float32)
    kernel = generator.normal(size=(3, 4)).astype(np.float32)
    head = linear_head(kernel)
    labels = (features.mean((1, 2)) @ kernel).argmax(-1)
    assert len(set(labels)) > 1
    by_default, _ = saliency.grad_cam(head, tf.constant(features))
    chosen, _ = saliency.grad_cam(
        head, tf.constant(features), tf.constant(labels, tf.int32)
    )
    np.testing.assert_array_equal(by_default, chosen)


def test_one_logit_speaks_against_label_zero():
    generator = np.random.default_rng(2)
    features = generator.normal(size=(1, 2, 2, 3)).astype(np.float32)
    kernel = np.array([[1.0], [-2.0], [0.5]], np.float32)
    for label, sign in ((0, -1), (1, 1)):
        heat, _ = saliency.grad_cam(
            linear_head(kernel), tf.constant(features), tf.constant([label])
        )
        np.testing.assert_allclose(
            heat[0], expected_map(features[0], sign * kernel[:, 0]), atol=1e-6
        )


def test_nothing_that_speaks_for_the_class_gives_a_cold_map():
    features = -np.ones((1, 2, 2, 3), np.float32)
    heat, _ = saliency.grad_cam(
        linear_head(np.ones((3, 2), np.float32)), tf.constant(features)
    )
    assert not heat.numpy().any()


def test_head_on_feature_map_equals_the_whole_model(model):
    pixels = np.random.default_rng(0).uniform(0, 255, (3, SIZE, SIZE, 1))
    pixels = pixels.astype(np.float32)
    logits = saliency.head_model(model)(feature_map(model, pixels))
    expected = model(pixels, training=False)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_maps_lie_between_zero_and_one_in_any_batching(model):
    pixels = np.random.default_rng(1).uniform(0, 255, (5, SIZE, SIZE, 1))
    pixels = pixels.astype(np.float32)
    heat = saliency.heat_maps(model, pixels)
    assert heat.shape == (5, 2, 2)
    assert heat.min() >= 0 and heat.max() <= 1
    alone = saliency.heat_maps(model, pixels[4:])
    np.testing.assert_allclose(heat[4:], alone, atol=1e-4)


def test_randomized_head_changes_the_map(model):
    """Adebayo et al., 2018, "Sanity Checks for Saliency Maps"."""
    generator = np.random.default_rng(2)
    pixels = generator.uniform(0, 255, (8, SIZE, SIZE, 1)).astype(np.float32)
    features = feature_map(model, pixels)
    head = saliency.head_model(model)
    heat, logits = saliency.grad_cam(head, features)
    randomized = keras.models.clone_model(head)
    # The trained values in another order: variances stay positive.
    randomized.set_weights(
        [
            generator.permutation(weight.ravel()).reshape(weight.shape)
            for weight in head.get_weights()
        ]
    )
    label = tf.argmax(logits, -1, output_type=tf.int32)
    other, _ = saliency.grad_cam(randomized, features, label)
    correlations = [
        stats.spearmanr(one, two).statistic
        for one, two in zip(
            *(np.reshape(maps, [8, -1]) for maps in (heat, other)), strict=True
        )
        if np.ptp(one) and np.ptp(two)
    ]
    # A map that shows the image and not the model would have 1 everywhere.
    assert correlations and np.mean(correlations) < 0.9


def test_overlay_colours_the_hot_place_and_leaves_the_cold_one():
    image = np.full((40, 60, 3), 100, np.uint8)
    heat = np.zeros((4, 6), np.float32)
    heat[0, 0] = 1
    drawn = saliency.draw_overlay(tf.constant(image), tf.constant(heat)).numpy()
    assert drawn.shape == (40, 60, 3)
    np.testing.assert_array_equal(drawn[30:, 40:], image[30:, 40:])
    assert drawn[1, 1].max() - drawn[1, 1].min() > 60


def test_overlay_keeps_the_aspect_of_a_large_image(model):
    generator = np.random.default_rng(4)
    wide = generator.integers(0, 255, (300, 1200)).astype(np.uint8)
    small = generator.integers(0, 255, (30, 20, 3)).astype(np.uint8)
    overlays = saliency.explain_images(model, [encode(wide), encode(small)])
    sizes = [Image.open(io.BytesIO(png)).size for png in overlays]
    assert sizes == [(512, 128), (20, 30)]
