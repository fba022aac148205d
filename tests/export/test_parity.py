"""What clients get is what the export computes, over both protocols."""

import base64
import pathlib

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving import local_server
from tests.export import examples
from tests.samples import encode, make_pixels
from trainer.export import signature

pytestmark = pytest.mark.slow

IMAGES = [encode(make_pixels(i, i % 2)) for i in range(31)] + [b"garbage"]


@pytest.fixture(scope="module")
def running(exported):
    server = local_server.start(str(pathlib.Path(exported).parent), "m")
    yield server
    server.stop()


def inputs_of(name):
    """Returns the input's name and its rows."""
    if name == signature.PIXELS:
        return signature.PIXELS_INPUT, examples.prepare(IMAGES[:-1])
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
@pytest.mark.parametrize("ask", [ask_over_grpc, ask_over_rest])
@pytest.mark.parametrize("name", signature.SIGNATURES)
def test_served_outputs_are_those_of_the_export(
    signatures, running, name, ask, batch_size
):
    input_name, rows = inputs_of(name)
    expected = signatures[name](rows)
    served = [
        ask(running, name, input_name, rows[start : start + batch_size])
        for start in range(0, len(rows), batch_size)
    ]
    assert set(served[0]) == set(expected)
    for key, wanted in expected.items():
        values = np.concatenate([outputs[key] for outputs in served])
        if wanted.dtype != object:
            np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-5)
        # Overlays of single images may differ by a rounded grey level.
        elif key != signature.OVERLAY or batch_size == 32:
            texts = [
                value if isinstance(value, bytes) else value.encode()
                for value in values.flat
            ]
            assert texts == wanted.ravel().tolist()
