"""Raw calls with the official stubs, as other clients make them."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from tests.serving import brightness
from tests.serving.brightness import predict_request


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def test_values_are_in_the_field_of_their_type(stub):
    request = predict_request(image_bytes=[brightness.encode_image(204)])
    response = stub.Predict(request, timeout=10)
    assert response.model_spec.name == brightness.MODEL_NAME
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"
    outputs = response.outputs
    assert list(outputs["score"].float_val) == [np.float32(0.8)]
    assert list(outputs["label"].string_val) == [b"bright"]
    assert list(outputs["label_index"].int_val) == [1]
    assert list(outputs["decision"].bool_val) == [True]
    assert not outputs["probabilities"].tensor_content
    assert tf.make_ndarray(outputs["probabilities"]).shape == (1, 2)


def test_output_filter_selects_outputs(stub):
    request = predict_request(image_bytes=[brightness.encode_image(204)])
    request.output_filter.append("score")
    assert set(stub.Predict(request, timeout=10).outputs) == {"score"}


def test_eight_megabytes_of_pixels_are_accepted(stub):
    pixels = np.full((32_768, 8, 8, 1), 51, np.float32)
    request = predict_request("pixels", pixels=pixels)
    response = stub.Predict(request, timeout=30)
    np.testing.assert_allclose(response.outputs["score"].float_val, 0.2, 1e-5)


def test_unknown_label_gets_invalid_argument(stub):
    request = predict_request(image_bytes=[b"a"])
    request.model_spec.version_label = "x"
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "Unrecognized servable version label: x"


def test_empty_batch_has_empty_outputs(stub):
    request = predict_request("inverse", x=np.zeros((0, 2)))
    outputs = stub.Predict(request, timeout=10).outputs
    assert tf.make_ndarray(outputs["y"]).shape == (0, 2)


@pytest.mark.parametrize("method", ["Classify", "Regress", "MultiInference"])
def test_other_predictions_are_unimplemented(channel, method):
    service = "/tensorflow.serving.PredictionService"
    call = channel.unary_unary(f"{service}/{method}")
    with pytest.raises(grpc.RpcError, match="Predict only") as caught:
        call(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("service", ["", "PredictionService", "ModelService"])
def test_health_is_serving(channel, service):
    request = health_pb2.HealthCheckRequest(service=service)
    answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reload_with_a_relative_path_is_refused(channel):
    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.config.add(name="m", base_path="a")
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    with pytest.raises(grpc.RpcError, match="to have an absolute path"):
        stub.HandleReloadConfigRequest(request, timeout=10)


def test_metadata_is_a_signature_map(stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = brightness.MODEL_NAME
    request.metadata_field.append("signature_def")
    response = stub.GetModelMetadata(request, timeout=10)
    signature_map = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signature_map)
    assert {"serving_default", "pixels"} <= set(signature_map.signature_def)


def test_status_lists_the_version(channel):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = brightness.MODEL_NAME
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    (status,) = stub.GetModelStatus(request, timeout=10).model_version_status
    assert status.version == 1
    assert status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE


def spoil(**fields):
    """Returns a good request with other fields in its tensor."""
    request = predict_request(image_bytes=[b"a"])
    tensor = request.inputs["image_bytes"]
    tensor.tensor_shape.dim[0].size = fields.get("size", 1)
    tensor.dtype = fields.get("dtype", tensor.dtype)
    return request


BAD_REQUESTS = {
    "no name": (
        predict_request(name=""),
        "INVALID_ARGUMENT",
        "ModelSpec has no name specified.",
    ),
    "unknown model": (
        predict_request(name="x"),
        "NOT_FOUND",
        "Servable not found for request: Latest(x)",
    ),
    "unknown signature": (
        predict_request("x", image_bytes=[b"a"]),
        "FAILED_PRECONDITION",
        'Serving signature key "x" not found.',
    ),
    "no input": (
        predict_request(),
        "INVALID_ARGUMENT",
        "input size does not match signature: 0!=1 len({}) != "
        "len({image_bytes}). Sent extra: {}. Missing but required: "
        "{image_bytes}.",
    ),
    "extra input": (
        predict_request(image_bytes=[b"a"], x=[1]),
        "INVALID_ARGUMENT",
        "input size does not match signature: 2!=1 len({image_bytes,x}) != "
        "len({image_bytes}). Sent extra: {x}. Missing but required: {}.",
    ),
    "wrong input": (
        predict_request(x=[b"a"]),
        "INVALID_ARGUMENT",
        "Signature input alias: image_bytes",
    ),
    "wrong dtype": (
        predict_request(image_bytes=[1.5]),
        "INVALID_ARGUMENT",
        "Expects arg[0] to be string but float is provided",
    ),
    "unknown dtype": (
        spoil(dtype=99),
        "INVALID_ARGUMENT",
        "Expects arg[0] to be string but unknown dtype enum (99) is provided",
    ),
    "wrong shape": (
        predict_request("pixels", pixels=np.zeros((1, 4, 4, 1), np.float32)),
        "INVALID_ARGUMENT",
        "must have shape [?,8,8,1], but [1,4,4,1] is provided",
    ),
    "scalar": (
        predict_request(image_bytes=b"a"),
        "INVALID_ARGUMENT",
        "must have shape [?], but [] is provided",
    ),
    "negative size": (
        spoil(size=-1),
        "INVALID_ARGUMENT",
        "tensor parsing error: image_bytes",
    ),
    "size out of memory": (
        spoil(size=2**50),
        "INVALID_ARGUMENT",
        "tensor parsing error: image_bytes",
    ),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_request_gets_tf_serving_s_code(stub, case):
    request, code, message = BAD_REQUESTS[case]
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request, timeout=10)
    assert caught.value.code().name == code
    assert message in caught.value.details()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["x"], "output tensor alias not found in signature: x Outputs"),
        (["score", "score"], "duplicate output tensor alias: score"),
    ],
)
def test_bad_output_filter_gets_invalid_argument(stub, names, message):
    request = predict_request(image_bytes=[b"a"])
    request.output_filter.extend(names)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in caught.value.details()


@pytest.mark.parametrize("field", [None, "x"])
def test_bad_metadata_field_gets_invalid_argument(stub, field):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = brightness.MODEL_NAME
    if field:
        request.metadata_field.append(field)
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetModelMetadata(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
