import hashlib
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import IMAGE_SIZE, encode, make_pixels
from trainer.data import preprocessing
from trainer.export import saved_model, signature, warmup
from trainer.model import classifier

TEMPERATURE = 1.7
OPERATING_POINT = 0.4
IMAGES = [encode(make_pixels(i, i % 2)) for i in range(4)]


@pytest.fixture(scope="module")
def exported(classifier_model, tmp_path_factory):
    """Path of version 1 of the two-class classifier."""
    module = saved_model.ServingModule(
        classifier_model,
        class_names=("no_tumor", "tumor"),
        positive_index=1,
        temperature=TEMPERATURE,
        operating_point=OPERATING_POINT,
    )
    return saved_model.export_version(
        module,
        str(tmp_path_factory.mktemp("export")),
        assets={"dataset.json": b"{}"},
        warmup=warmup.make_warmup_file(IMAGES, "brain_mri"),
        facts={"model": "test"},
    )


@pytest.fixture(scope="module")
def signatures(exported):
    return tf.saved_model.load(exported).signatures


def expected_probabilities(model, images):
    pixels = tf.stack(
        [preprocessing.prepare_image(i, IMAGE_SIZE, 1) for i in images]
    )
    z = model(pixels, training=False).numpy().astype(np.float64)[:, 0]
    p = 1 / (1 + np.exp(-z / TEMPERATURE))
    return np.stack([1 - p, p], -1)


def test_bytes_signature_gives_calibrated_probabilities(
    classifier_model, signatures
):
    outputs = signatures[signature.SERVING_DEFAULT](tf.constant(IMAGES))
    expected = expected_probabilities(classifier_model, IMAGES)
    np.testing.assert_allclose(
        outputs[signature.PROBABILITIES], expected, atol=1e-5
    )
    np.testing.assert_allclose(
        outputs[signature.SCORE], expected[:, 1], atol=1e-5
    )
    names = np.array([b"no_tumor", b"tumor"])[expected.argmax(-1)]
    assert outputs[signature.LABEL].numpy().tolist() == names.tolist()
    np.testing.assert_array_equal(
        outputs[signature.DECISION], expected[:, 1] >= OPERATING_POINT
    )
    assert outputs[signature.VALID].numpy().all()


def test_signature_types_are_those_of_the_contract(signatures):
    outputs = signatures[signature.SERVING_DEFAULT].structured_outputs
    types = {name: spec.dtype.name for name, spec in outputs.items()}
    assert types == {
        "probabilities": "float32",
        "label": "string",
        "label_index": "int32",
        "score": "float32",
        "decision": "bool",
        "valid": "bool",
    }
    inputs = signatures[signature.PIXELS].structured_input_signature[1]
    assert inputs["pixels"].shape.as_list() == [None, IMAGE_SIZE, IMAGE_SIZE, 1]


def test_pixels_signature_equals_bytes_signature(signatures):
    pixels = tf.stack(
        [preprocessing.prepare_image(i, IMAGE_SIZE, 1) for i in IMAGES]
    )
    by_pixels = signatures[signature.PIXELS](pixels=pixels)
    by_bytes = signatures[signature.SERVING_DEFAULT](tf.constant(IMAGES))
    np.testing.assert_allclose(
        by_pixels[signature.PROBABILITIES],
        by_bytes[signature.PROBABILITIES],
        atol=1e-6,
    )


def test_broken_image_is_invalid_and_leaves_its_neighbours(signatures):
    serve = signatures[signature.SERVING_DEFAULT]
    batch = [IMAGES[0], b"", IMAGES[1][:50], IMAGES[1]]
    outputs = {k: v.numpy() for k, v in serve(tf.constant(batch)).items()}
    assert outputs["valid"].tolist() == [True, False, False, True]
    assert outputs["label"].tolist()[1:3] == [b"", b""]
    assert outputs["label_index"].tolist()[1:3] == [-1, -1]
    assert not outputs["decision"][1:3].any()
    assert not outputs["probabilities"][1:3].any()
    assert not outputs["score"][1:3].any()
    alone = serve(tf.constant([IMAGES[1]]))["probabilities"]
    np.testing.assert_allclose(outputs["probabilities"][3:], alone, atol=1e-6)


def test_pixels_that_are_not_finite_are_invalid(signatures):
    pixels = np.full((2, IMAGE_SIZE, IMAGE_SIZE, 1), 100, np.float32)
    pixels[1, 0, 0, 0] = np.nan
    outputs = signatures[signature.PIXELS](pixels=tf.constant(pixels))
    assert outputs["valid"].numpy().tolist() == [True, False]
    assert np.isfinite(outputs["probabilities"].numpy()).all()


def test_empty_batch_gives_empty_outputs(signatures):
    outputs = signatures[signature.SERVING_DEFAULT](tf.constant([], tf.string))
    assert outputs["probabilities"].shape == (0, 2)


def test_version_is_one_file_of_weights_under_18_megabytes(exported):
    variables = os.path.join(exported, "variables")
    size = sum(
        os.path.getsize(os.path.join(directory, name))
        for directory, _, names in os.walk(exported)
        for name in names
    )
    assert size < 18e6
    names = os.listdir(variables) if os.path.isdir(variables) else []
    data = [n for n in names if n.startswith("variables.data")]
    assert all(os.path.getsize(os.path.join(variables, n)) < 1000 for n in data)


def test_manifest_lists_every_file_with_its_hash(exported):
    with open(os.path.join(exported, signature.MANIFEST_FILE)) as file:
        manifest = json.load(file)
    assert manifest["model"] == "test"
    found = {
        os.path.relpath(os.path.join(directory, name), exported)
        for directory, _, names in os.walk(exported)
        for name in names
    }
    assert set(manifest["files"]) == found - {signature.MANIFEST_FILE}
    for name in ("saved_model.pb", "assets/dataset.json"):
        with open(os.path.join(exported, name), "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        assert manifest["files"][name]["sha256"] == digest


def test_warmup_file_replays_against_the_signature(exported, signatures):
    from tensorflow_serving.apis import prediction_log_pb2

    path = os.path.join(exported, signature.WARMUP_FILE)
    sizes = []
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = log.predict_log.request
        batch = tf.make_ndarray(request.inputs[signature.IMAGE_BYTES])
        serve = signatures[request.model_spec.signature_name]
        assert serve(tf.constant(batch))["valid"].numpy().all()
        sizes.append(len(batch))
    assert sizes == list(warmup.BATCH_SIZES)


def test_next_version_counts_up_and_ignores_other_names(tmp_path):
    assert saved_model.next_version(str(tmp_path / "absent")) == 1
    for name in ("1", "7", "tmp.12", "notes"):
        (tmp_path / name).mkdir()
    assert saved_model.next_version(str(tmp_path)) == 8


def test_failed_export_leaves_nothing(classifier_model, tmp_path, monkeypatch):
    module = saved_model.ServingModule(
        classifier_model,
        class_names=("a", "b"),
        positive_index=1,
        temperature=1.0,
        operating_point=0.5,
    )

    def fail(*args, **kwargs):
        os.makedirs(args[1])
        raise OSError("No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    monkeypatch.setattr(module, "signatures", dict)
    with pytest.raises(OSError, match="No space"):
        saved_model.export_version(
            module, str(tmp_path), assets={}, warmup=None, facts={}
        )
    assert os.listdir(tmp_path) == []


def test_three_classes_give_softmax_and_no_decision(tmp_path):
    keras.utils.set_random_seed(0)
    head = classifier.build_head(3, (), 0.2)
    model = classifier.build_classifier(IMAGE_SIZE, 1, head)
    module = saved_model.ServingModule(
        model,
        class_names=("a", "b", "c"),
        positive_index=None,
        temperature=1.0,
        operating_point=None,
    )
    outputs = module.signatures()[signature.SERVING_DEFAULT](
        tf.constant(IMAGES)
    )
    assert signature.DECISION not in outputs
    probabilities = outputs["probabilities"].numpy()
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(outputs["score"], probabilities.max(-1))
    names = np.array([b"a", b"b", b"c"])[probabilities.argmax(-1)]
    assert outputs["label"].numpy().tolist() == names.tolist()
