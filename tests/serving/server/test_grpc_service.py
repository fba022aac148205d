"""Raw calls with the official stubs, as other clients make them."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from tests.serving import brightness
from tests.serving.brightness import predict_request

BRIGHT = brightness.encode_image(204)
INVALID = "INVALID_ARGUMENT"


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def assert_refused(call, request, code, message):
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=10)
    assert caught.value.code().name == code
    assert message in caught.value.details()


def test_values_are_in_the_field_of_their_type(stub):
    request = predict_request(image_bytes=[BRIGHT])
    response = stub.Predict(request, timeout=10)
    assert response.model_spec.name == brightness.MODEL_NAME
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"
    outputs = response.outputs
    assert list(outputs["score"].float_val) == [np.float32(0.8)]
    assert list(outputs["label"].string_val) == [b"bright"]
    assert list(outputs["label_index"].int_val) == [0]
    assert list(outputs["decision"].bool_val) == [True]
    assert not outputs["probabilities"].tensor_content
    assert tf.make_ndarray(outputs["probabilities"]).shape == (1, 2)
    request.output_filter.append("score")
    assert set(stub.Predict(request, timeout=10).outputs) == {"score"}


def test_eight_megabytes_of_pixels_are_accepted(stub):
    pixels = np.full((32_768, 8, 8, 1), 51, np.float32)
    request = predict_request("pixels", pixels=pixels)
    response = stub.Predict(request, timeout=30)
    np.testing.assert_allclose(response.outputs["score"].float_val, 0.2, 1e-5)


def test_empty_batch_has_empty_outputs(stub):
    request = predict_request("inverse", x=np.zeros((0, 2)))
    outputs = stub.Predict(request, timeout=10).outputs
    assert tf.make_ndarray(outputs["y"]).shape == (0, 2)


@pytest.mark.parametrize("method", ["Classify", "Regress", "MultiInference"])
def test_other_predictions_are_unimplemented(channel, method):
    service = "/tensorflow.serving.PredictionService"
    call = channel.unary_unary(f"{service}/{method}")
    assert_refused(call, b"", "UNIMPLEMENTED", "Predict only")


@pytest.mark.parametrize("service", ["", "PredictionService", "ModelService"])
def test_health_is_serving(channel, service):
    request = health_pb2.HealthCheckRequest(service=service)
    answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reload_with_a_relative_path_is_refused(channel):
    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.config.add(name="m", base_path="a")
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    call = stub.HandleReloadConfigRequest
    assert_refused(call, request, INVALID, "to have an absolute path")


def spoil(size=1, dtype=tf.string.as_datatype_enum, label="", outputs=()):
    """Returns a good request with other fields."""
    request = predict_request(image_bytes=[b"a"])
    tensor = request.inputs["image_bytes"]
    tensor.tensor_shape.dim[0].size = size
    tensor.dtype = dtype
    if label:
        request.model_spec.version_label = label
    request.output_filter.extend(outputs)
    return request


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (predict_request(name=""), "ModelSpec has no name specified."),
        (
            predict_request(),
            "input size does not match signature: 0!=1 len({}) != "
            "len({image_bytes}). Sent extra: {}. Missing but required: "
            "{image_bytes}.",
        ),
        (
            predict_request(image_bytes=[b"a"], x=[1]),
            "input size does not match signature: 2!=1 len({image_bytes,x}) != "
            "len({image_bytes}). Sent extra: {x}. Missing but required: {}.",
        ),
        (predict_request(x=[b"a"]), "Signature input alias: image_bytes"),
        (
            predict_request(image_bytes=[1.5]),
            "Expects arg[0] to be string but float is provided",
        ),
        (spoil(dtype=99), "string but unknown dtype enum (99) is provided"),
        (
            predict_request("pixels", pixels=np.zeros((1, 4, 4, 1), "f")),
            "must have shape [?,8,8,1], but [1,4,4,1] is provided",
        ),
        (
            predict_request(image_bytes=b"a"),
            "must have shape [?], but [] is provided",
        ),
        (spoil(size=-1), "tensor parsing error: image_bytes"),
        # Out of memory, if anybody believed it.
        (spoil(size=2**50), "tensor parsing error: image_bytes"),
        (spoil(label="x"), "Unrecognized servable version label: x"),
        (
            spoil(outputs=["x"]),
            "output tensor alias not found in signature: x Outputs",
        ),
        (
            spoil(outputs=["score", "score"]),
            "duplicate output tensor alias: score",
        ),
    ],
)
def test_bad_request_gets_invalid_argument(stub, request_, message):
    assert_refused(stub.Predict, request_, INVALID, message)


def test_unknown_model_and_signature_get_tf_serving_s_codes(stub):
    for request, code, message in (
        (predict_request(name="x"), "NOT_FOUND", "for request: Latest(x)"),
        (
            predict_request("x", image_bytes=[b"a"]),
            "FAILED_PRECONDITION",
            'Serving signature key "x" not found.',
        ),
    ):
        assert_refused(stub.Predict, request, code, message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [([], "at least one metadata_field"), (["x"], "x is not supported")],
)
def test_bad_metadata_field_gets_invalid_argument(stub, fields, message):
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        metadata_field=fields
    )
    request.model_spec.name = brightness.MODEL_NAME
    assert_refused(stub.GetModelMetadata, request, INVALID, message)
