"""Requests to TF Serving's gRPC API, for `client`.

Importing this module imports TensorFlow, which the official protos need.
"""

import pathlib

import grpc
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving import status_codes
from trainer.export import signature


class GrpcTransport:
    """One model behind one gRPC address, over one channel."""

    def __init__(
        self,
        address: str,
        model_name: str,
        version: int | None,
        secure: bool,
        token: str | None,
        ca_file: str | None,
    ):
        """Does not connect yet.

        Args:
            address: `HOST:PORT`.
            secure: whether to use TLS.
            model_name, version, token, ca_file: as of `client.Client`.
        """
        options = [
            # gRPC's default of 4 MiB is less than a batch of images.
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            # The client retries by itself; a channel that waits a second
            # before it connects again would make that useless.
            ("grpc.enable_retries", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
        ]
        if secure:
            roots = pathlib.Path(ca_file).read_bytes() if ca_file else None
            credentials = grpc.ssl_channel_credentials(roots)
            self._channel = grpc.secure_channel(address, credentials, options)
        else:
            self._channel = grpc.insecure_channel(address, options)
        self._spec = model_pb2.ModelSpec(name=model_name)
        if version is not None:
            self._spec.version.value = version
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(
            self._channel
        )
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def predict(
        self, signature_name: str, images: list[bytes], timeout_s: float
    ) -> dict:
        """Returns a list per output of a signature that takes images."""
        request = predict_pb2.PredictRequest(model_spec=self._spec)
        request.model_spec.signature_name = signature_name
        # Not `tf.make_tensor_proto`: it would look at every byte first.
        tensor = request.inputs[signature.IMAGE_BYTES]
        tensor.dtype = types_pb2.DT_STRING
        tensor.tensor_shape.dim.add(size=len(images))
        tensor.string_val.extend(images)
        response = self._call(self._predictions.Predict, request, timeout_s)
        return {
            name: _decode(name, tf.make_ndarray(output).tolist())
            for name, output in response.outputs.items()
        }

    def status(self, timeout_s: float) -> list[tuple[int, str, str]]:
        """Returns version, state and error of each version."""
        request = get_model_status_pb2.GetModelStatusRequest(
            model_spec=self._spec
        )
        answer = self._call(self._models.GetModelStatus, request, timeout_s)
        state_name = get_model_status_pb2.ModelVersionStatus.State.Name
        return [
            (
                status.version,
                state_name(status.state),
                status.status.error_message,
            )
            for status in answer.model_version_status
        ]

    def metadata(self, timeout_s: float) -> dict:
        """Returns the metadata in the form of the REST API."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec, metadata_field=["signature_def"]
        )
        answer = self._call(
            self._predictions.GetModelMetadata, request, timeout_s
        )
        document = json_format.MessageToDict(
            answer,
            always_print_fields_with_no_presence=True,
            preserving_proto_field_name=True,
        )
        del document["metadata"]["signature_def"]["@type"]
        return document

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def _call(self, method, request, timeout_s: float):
        try:
            return method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise status_codes.StatusError(
                error.code().name, error.details() or ""
            ) from error


def _decode(name: str, values: list) -> list:
    """Returns strings as text, as REST does, but for those that are bytes."""
    if name.endswith("_bytes"):
        return values
    return [_to_text(value) for value in values]


def _to_text(value):
    if isinstance(value, list):
        return [_to_text(part) for part in value]
    return (
        value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    )
