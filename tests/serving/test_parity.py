"""What clients get is what the export computes: all signatures, both protocols.

The model is a real export, at 32 px: `serving_default`, `pixels`, `explain` and
`classify`.
"""

import base64

import grpc
import numpy as np
import pytest
import requests

from serving import local_server
from tests.conftest import encode, make_pixels
from tests.export import examples as exports
from trainer.data import preprocessing
from trainer.export import saved_model, serving_module, signature

tf = pytest.importorskip("tensorflow")

from tensorflow_serving.apis import (  # noqa: E402
    predict_pb2,
    prediction_service_pb2_grpc,
)

IMAGES = [encode(make_pixels(i, i % 2)) for i in range(31)] + [b"garbage"]


@pytest.fixture(scope="module")
def exported(classifier_model, tmp_path_factory):
    """Base path of one version."""
    base_path = tmp_path_factory.mktemp("parity")
    module = serving_module.ServingModule(
        classifier_model,
        class_names=exports.CLASS_NAMES,
        positive_index=1,
        temperature=exports.TEMPERATURE,
        operating_point=exports.OPERATING_POINT,
        detector=exports.make_detector(classifier_model),
    )
    saved_model.export_version(
        module, str(base_path), assets={}, warmup=None, facts={}
    )
    return base_path


@pytest.fixture(scope="module")
def functions(exported):
    return tf.saved_model.load(str(exported / "1")).signatures


@pytest.fixture(scope="module")
def running(exported):
    server = local_server.start(str(exported), "m")
    yield server
    server.stop()


def example(image):
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    return tf.train.Example(
        features=tf.train.Features(feature={signature.IMAGE_BYTES: feature})
    ).SerializeToString()


def inputs_of(name, image_size):
    """Returns the input's name and its rows."""
    if name == signature.PIXELS:
        pixels = [
            preprocessing.prepare_image(image, image_size, 1).numpy()
            for image in IMAGES[:-1]
        ]
        return signature.PIXELS_INPUT, np.stack(pixels)
    if name == signature.CLASSIFY:
        return signature.EXAMPLES, np.array(
            [example(image) for image in IMAGES], object
        )
    return signature.IMAGE_BYTES, np.array(IMAGES, object)


def ask_over_grpc(server, name, input_name, rows):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    request.model_spec.signature_name = name
    request.inputs[input_name].CopyFrom(tf.make_tensor_proto(rows))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        outputs = stub.Predict(request, timeout=60).outputs
    return {key: tf.make_ndarray(value) for key, value in outputs.items()}


def ask_over_rest(server, name, input_name, rows):
    if rows.dtype == object:
        rows = [{"b64": base64.b64encode(row).decode()} for row in rows]
    else:
        rows = rows.astype(float).tolist()
    answer = requests.post(
        f"{server.rest_target}/v1/models/m:predict",
        json={"signature_name": name, "inputs": {input_name: rows}},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    outputs = {}
    for key, values in answer.json()["outputs"].items():
        if key.endswith("_bytes"):
            values = [base64.b64decode(value["b64"]) for value in values]
        outputs[key] = np.array(values)
    return outputs


@pytest.mark.parametrize("batch_size", [1, 32])
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize("name", signature.SIGNATURES)
def test_served_outputs_are_those_of_the_export(
    functions, running, name, protocol, batch_size
):
    ask = {"grpc": ask_over_grpc, "rest": ask_over_rest}[protocol]
    input_name, rows = inputs_of(name, 32)
    expected = functions[name](**{input_name: tf.constant(rows)})
    served = [
        ask(running, name, input_name, rows[start : start + batch_size])
        for start in range(0, len(rows), batch_size)
    ]
    assert set(served[0]) == set(expected)
    for key, tensor in expected.items():
        values = np.concatenate([outputs[key] for outputs in served])
        if tensor.dtype != tf.string:
            np.testing.assert_allclose(values, tensor, rtol=0, atol=1e-5)
        # Overlays of single images may differ by a rounded grey level.
        elif key != signature.OVERLAY or batch_size == 32:
            texts = [
                value if isinstance(value, bytes) else value.encode()
                for value in values.flat
            ]
            assert texts == tensor.numpy().ravel().tolist()
