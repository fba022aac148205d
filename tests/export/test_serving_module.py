import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.export.examples import (
    CLASS_NAMES,
    IMAGES,
    OPERATING_POINT,
    POSITIVE,
    SET_THRESHOLDS,
    STUDY,
    TEMPERATURE,
    make_module,
    prepare,
)
from tests.samples import IMAGE_SIZE, encode, make_pixels
from trainer.data.images import readers
from trainer.export import serving_module, signature
from trainer.model import classifier, out_of_distribution, saliency, views

BROKEN = [b"", b"no image", IMAGES[1][:50]]


def test_bytes_signature_gives_calibrated_probabilities(
    classifier_model, signatures
):
    outputs = signatures[signature.SERVING_DEFAULT](IMAGES)
    z = classifier_model(prepare(IMAGES), training=False).numpy()
    last = 1 / (1 + np.exp(-z.astype(np.float64)[:, 0] / TEMPERATURE))
    expected = np.stack([1 - last, last], -1)
    positive = expected[:, POSITIVE]
    np.testing.assert_allclose(
        outputs[signature.PROBABILITIES], expected, atol=1e-5
    )
    np.testing.assert_allclose(outputs[signature.SCORE], positive, atol=1e-5)
    names = np.array(CLASS_NAMES, "S")[expected.argmax(-1)]
    assert outputs[signature.LABEL].tolist() == names.tolist()
    np.testing.assert_array_equal(
        outputs[signature.DECISION], positive >= OPERATING_POINT
    )
    decided = np.array(CLASS_NAMES, "S")[(positive < OPERATING_POINT) + 0]
    assert len(set(decided)) == 2
    assert outputs[signature.DECISION_LABEL].tolist() == decided.tolist()
    assert set(outputs[signature.THRESHOLD]) == {np.float32(OPERATING_POINT)}
    assert outputs[signature.VALID].all()
    assert (outputs[signature.CLASS_NAMES] == np.array(CLASS_NAMES, "S")).all()
    possible = expected >= SET_THRESHOLDS
    decided = np.where(positive >= OPERATING_POINT, POSITIVE, 1 - POSITIVE)
    possible[range(4), decided] = True
    assert outputs[signature.PREDICTION_SET].tolist() == possible.tolist()
    assert set(outputs[signature.STUDY_RULE]) == {STUDY[0].encode()}
    assert set(outputs[signature.STUDY_THRESHOLD]) == {np.float32(STUDY[1])}


def test_signature_types_are_those_of_the_contract(signatures):
    functions = signatures["functions"]
    answer = {
        "probabilities": "float32",
        "label": "string",
        "label_index": "int32",
        "score": "float32",
        "decision": "bool",
        "decision_label": "string",
        "threshold": "float32",
        "valid": "bool",
        "class_names": "string",
        "prediction_set": "bool",
        "study_rule": "string",
        "study_threshold": "float32",
        "out_of_distribution": "float32",
        "is_out_of_distribution": "bool",
    }
    expected = {
        "serving_default": answer,
        "pixels": answer,
        "explain": answer | {"overlay_bytes": "string"},
    }
    assert expected == {
        name: {key: x.dtype.name for key, x in f.structured_outputs.items()}
        for name, f in functions.items()
    }
    inputs = functions["pixels"].structured_input_signature[1]
    assert inputs["pixels"].shape.as_list() == [None, IMAGE_SIZE, IMAGE_SIZE, 1]


def test_all_signatures_give_the_same_answer(signatures):
    by_bytes = signatures["serving_default"](IMAGES)
    by_pixels = signatures["pixels"](prepare(IMAGES))
    explained = signatures["explain"](IMAGES)
    assert set(by_pixels) == set(by_bytes)
    assert set(explained) == set(by_bytes) | {"overlay_bytes"}
    for name, values in by_bytes.items():
        for other in (by_pixels, explained):
            if values.dtype == np.float32:
                np.testing.assert_allclose(other[name], values, rtol=1e-4)
            else:
                np.testing.assert_array_equal(other[name], values)


def test_out_of_distribution_is_the_detectors_score(
    classifier_model, detector, signatures
):
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 255, (40, 40)).astype(np.uint8)
    images = [*IMAGES, encode(noise), encode(255 - noise)]
    outputs = signatures["serving_default"](images)
    descriptors = out_of_distribution.describe_images(classifier_model, images)
    scores = outputs["out_of_distribution"]
    np.testing.assert_allclose(scores, detector.score(descriptors), rtol=1e-3)
    flags = outputs["is_out_of_distribution"]
    np.testing.assert_array_equal(flags, scores > 1)


@pytest.mark.parametrize("name", ["serving_default", "explain"])
def test_broken_image_is_invalid_and_leaves_its_neighbours(signatures, name):
    serve = signatures[name]
    outputs = serve([IMAGES[0], *BROKEN, IMAGES[1]])
    assert outputs["valid"].tolist() == [True, False, False, False, True]
    for key, values in outputs.items():
        if values.dtype == object:
            assert set(values[1:4].ravel()) == {b""}, key
        elif key != "label_index":
            assert not values[1:4].any(), key
    assert set(outputs["label_index"][1:4]) == {-1}
    alone = serve([IMAGES[1]])["probabilities"]
    np.testing.assert_allclose(outputs["probabilities"][4:], alone, atol=1e-6)


def test_file_as_it_is_gets_the_answer_of_what_the_readers_make(signatures):
    pixels = make_pixels(1, 1)[:30]
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [
        encode(np.rot90(pixels).copy(), "JPEG", exif=exif),
        encode(pixels.astype(np.uint16) * 16),
    ]
    read = [readers.decode_images(file)[0].encoded for file in files]
    for name in ("serving_default", "explain"):
        outputs, expected = signatures[name](files), signatures[name](read)
        for key, values in expected.items():
            np.testing.assert_array_equal(outputs[key], values, err_msg=key)
        assert outputs["valid"].all()


def test_pixels_that_are_not_finite_are_invalid(signatures):
    pixels = np.full((2, IMAGE_SIZE, IMAGE_SIZE, 1), 100, np.float32)
    pixels[1, 0, 0, 0] = np.nan
    outputs = signatures["pixels"](pixels)
    assert outputs["valid"].tolist() == [True, False]
    assert np.isfinite(outputs["probabilities"]).all()
    assert np.isfinite(outputs["out_of_distribution"]).all()


def test_overlay_is_the_map_of_the_label_over_the_image(
    classifier_model, signatures
):
    expected = saliency.explain_images(classifier_model, IMAGES)
    overlays = signatures["explain"](IMAGES)["overlay_bytes"]
    for pair in zip(overlays, expected, strict=True):
        overlay, picture = (
            np.asarray(Image.open(io.BytesIO(png)), int) for png in pair
        )
        assert overlay.shape == (40, 40, 3)
        np.testing.assert_allclose(overlay, picture, atol=2)


def test_empty_batch_gives_empty_outputs(signatures):
    pixels = np.zeros((0, IMAGE_SIZE, IMAGE_SIZE, 1), np.float32)
    for name in signature.SIGNATURES:
        empty = pixels if name == "pixels" else np.zeros([0], "S1")
        outputs = signatures[name](empty)
        assert {len(values) for values in outputs.values()} == {0}
        assert outputs["probabilities"].shape == (0, 2)


@pytest.mark.parametrize("num_images", [33, 1000])
def test_large_batch_equals_its_parts(signatures, num_images):
    batch = [IMAGES[i * i % 4] for i in range(num_images - 1)] + [b"no image"]
    outputs = signatures["serving_default"](batch)
    parts = signatures["serving_default"](IMAGES)
    order = [i * i % 4 for i in range(num_images - 1)]
    assert not outputs["valid"][-1]
    for name in ("probabilities", "out_of_distribution"):
        np.testing.assert_allclose(
            outputs[name][:-1], parts[name][order], rtol=1e-3, atol=1e-5
        )
    np.testing.assert_array_equal(outputs["label"][:-1], parts["label"][order])


def test_logits_are_averaged_over_views(classifier_model, detector, signatures):
    module = make_module(classifier_model, detector, num_views=6)
    pixels = prepare(IMAGES)
    outputs = module._serve_pixels(tf.constant(pixels))
    logits = np.mean(
        [
            classifier_model(views.make_view(pixels, i), training=False)
            for i in range(6)
        ],
        axis=0,
    )
    probability = 1 / (1 + np.exp(logits[:, 0] / TEMPERATURE))
    np.testing.assert_allclose(outputs["score"], probability, atol=1e-5)
    alone = signatures["pixels"](pixels)
    assert np.abs(outputs["score"] - alone["score"]).max() > 1e-5
    # The image itself is compared with the training set, and explained.
    name = "out_of_distribution"
    np.testing.assert_allclose(outputs[name], alone[name], rtol=1e-3)
    _, features, _ = module._judge(tf.constant(pixels))
    backbone = keras.Model(
        classifier_model.input,
        classifier_model.get_layer(saliency.FEATURE_MAP).output,
    )
    np.testing.assert_allclose(features, backbone(pixels), rtol=1e-3, atol=1e-3)


def test_three_classes_without_detector_give_softmax_and_no_decision():
    keras.utils.set_random_seed(0)
    head = classifier.build_head(3, (), 0.2)
    model = classifier.build_classifier(IMAGE_SIZE, 3, head)
    module = serving_module.ServingModule(
        [model],
        class_names=("a", "b", "c"),
        positive_index=None,
        temperature=1.0,
        operating_point=None,
        detector=None,
    )
    outputs = module._explain(tf.constant(IMAGES))
    assert set(outputs) == {
        *("probabilities", "label", "label_index", "score", "valid"),
        *("class_names", "prediction_set", "overlay_bytes"),
    }
    # Without thresholds no class is left out.
    assert outputs["prediction_set"].numpy().all()
    probabilities = outputs["probabilities"].numpy()
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(outputs["score"], probabilities.max(-1))
    names = np.array([b"a", b"b", b"c"])[probabilities.argmax(-1)]
    assert outputs["label"].numpy().tolist() == names.tolist()
    expected = saliency.explain_images(model, IMAGES)
    assert len(outputs["overlay_bytes"].numpy()[0]) == len(expected[0])


def test_image_of_another_shape_is_explained_in_its_own(signatures):
    wide = encode(np.tile(make_pixels(0, 1), (1, 3)), "JPEG")
    (overlay,) = signatures["explain"]([wide])["overlay_bytes"]
    assert Image.open(io.BytesIO(overlay)).size == (120, 40)


def test_model_trained_in_mixed_precision_is_served_in_float32(
    classifier_model, detector, signatures
):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        copy = classifier.copy_for_inference(
            classifier_model, IMAGE_SIZE, 1, 2, (8,), 0.3, "none"
        )
        outputs = make_module(copy, detector)._explain(tf.constant(IMAGES))
        descriptors = out_of_distribution.describe_images(copy, IMAGES)
    finally:
        keras.config.set_dtype_policy(policy)
    expected = signatures["explain"](IMAGES)
    for name in ("probabilities", "out_of_distribution"):
        np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-4)
    assert descriptors.dtype == np.float32
