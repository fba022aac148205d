import keras
import numpy as np

from tests.samples import IMAGE_SIZE
from trainer.model import folding


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


def test_folded_classifier_gives_the_same_logits(classifier_model):
    model = keras.models.clone_model(classifier_model)
    model.set_weights(classifier_model.get_weights())
    randomize(model)
    folded = folding.fold_batch_norm(model)
    assert not any(
        isinstance(layer, keras.layers.BatchNormalization)
        for layer in folded.layers
    )
    assert [a.name for a in folded.layers] == [b.name for b in model.layers]
    pixels = np.random.default_rng(1).uniform(
        0, 255, (3, IMAGE_SIZE, IMAGE_SIZE, 1)
    )
    for name in ("block4a_project_bn", "logits"):
        found, expected = (
            keras.Model(m.input, m.get_layer(name).output)(pixels)
            for m in (folded, model)
        )
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)


def test_norm_that_does_not_follow_a_convolution_alone_is_kept():
    inputs = keras.Input([8, 8, 3])
    x = keras.layers.BatchNormalization()(inputs)
    x = keras.layers.Conv2D(4, 3, use_bias=False)(x)
    normed = keras.layers.BatchNormalization()(x)
    model = keras.Model(inputs, keras.layers.Add()([x, normed]))
    randomize(model)
    pixels = np.random.default_rng(1).uniform(size=(2, 8, 8, 3))
    np.testing.assert_allclose(
        folding.fold_batch_norm(model)(pixels), model(pixels), atol=1e-5
    )
