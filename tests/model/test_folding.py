import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.model import classifier, folding


def randomize(model, seed=0):
    """Statistics and scales that would show if they were lost."""
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights(
                [
                    generator.uniform(0.5, 1.5, w.shape)
                    for w in layer.get_weights()
                ]
            )
        elif isinstance(layer, keras.layers.Normalization):
            mean, variance, count = layer.get_weights()
            layer.set_weights([mean + 0.4, variance * 0.05, count])
    classifier.finalize_normalization(model)


@pytest.fixture(scope="module", params=["even, grey", "odd, colour"])
def model(request, classifier_model):
    source = classifier_model
    if request.param == "odd, colour":
        head = classifier.build_head(3, (), 0.2)
        source = classifier.build_classifier(45, 3, head)
    model = keras.models.clone_model(source)
    model.set_weights(source.get_weights())
    randomize(model)
    return model


def test_folded_classifier_gives_the_same_logits(model):
    folded = folding.fold(model)
    assert [a.name for a in folded.layers] == [b.name for b in model.layers]
    shape = model.input.shape[1:]
    pixels = np.random.default_rng(1).uniform(0, 255, (3, *shape))
    for name in ("block4a_project_bn", "logits"):
        found, expected = (
            keras.Model(m.input, m.get_layer(name).output)(pixels)
            for m in (folded, model)
        )
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)


def test_folded_classifier_has_few_ops(model):
    folded = folding.fold(model)
    spec = tf.TensorSpec(model.input.shape, tf.float32)
    function = tf.function(folded, autograph=False).get_concrete_function(spec)
    ops = collections.Counter(op.type for op in function.graph.get_operations())
    # Of a single pixel none; oneDNN fuses a bias that is added by its own op.
    is_spatial = [
        layer.input.shape[1:3] != (1, 1)
        for layer in folded.layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    assert ops["Conv2D"] == sum(is_spatial) < len(is_spatial)
    assert ops["BiasAdd"] >= ops["DepthwiseConv2dNative"] + len(is_spatial)
    assert not {"FusedBatchNormV3", "Pad", "Pack", "IdentityN", "Sub"} & {*ops}


def test_norm_that_does_not_follow_a_convolution_alone_is_kept():
    inputs = keras.Input([8, 8, 3])
    x = keras.layers.BatchNormalization()(inputs)
    x = keras.layers.Conv2D(4, 3, use_bias=False)(x)
    normed = keras.layers.BatchNormalization()(x)
    model = keras.Model(inputs, keras.layers.Add()([x, normed]))
    randomize(model)
    pixels = np.random.default_rng(1).uniform(size=(2, 8, 8, 3))
    np.testing.assert_allclose(
        folding.fold(model)(pixels), model(pixels), atol=1e-5
    )
