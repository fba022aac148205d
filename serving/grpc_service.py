"""The gRPC side of the local server: official servicers over `inference`."""

from collections.abc import Callable
from concurrent import futures

import grpc
from absl import logging
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving import inference, model_versions, status_codes

# TF Serving cuts messages here; longer ones do not fit into gRPC's trailers.
MAX_MESSAGE_LENGTH = 1024
NUM_THREADS = 16


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify and GetModelMetadata.

    Regress and MultiInference answer UNIMPLEMENTED: a classifier has no use
    for them.
    """

    def __init__(self, versions: model_versions.ModelVersions):
        self._versions = versions

    def Predict(self, request, context):
        return _answer(inference.predict, self._versions, request, context)

    def Classify(self, request, context):
        return _answer(inference.classify, self._versions, request, context)

    def GetModelMetadata(self, request, context):
        return _answer(
            inference.get_model_metadata, self._versions, request, context
        )


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus; the model list itself cannot be changed from outside."""

    def __init__(self, versions: model_versions.ModelVersions):
        self._versions = versions

    def GetModelStatus(self, request, context):
        return _answer(
            inference.get_model_status, self._versions, request, context
        )


def start(
    versions: model_versions.ModelVersions, host: str, port: int
) -> tuple[grpc.Server, int]:
    """Starts serving.

    Args:
        versions: the model.
        host: address to bind.
        port: port to bind, 0 for a free one.

    Returns:
        The running server and its port.

    Raises:
        OSError: the port is taken.
    """
    server = grpc.server(
        futures.ThreadPoolExecutor(
            NUM_THREADS, thread_name_prefix="grpc-request"
        ),
        options=[
            # Python's default of 4 MiB refuses a batch of eight images as
            # floats.
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            # Otherwise a second server on the same port would go unnoticed
            # and get half of the requests.
            ("grpc.so_reuseport", 0),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(versions), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(
        ModelService(versions), server
    )
    try:
        url_host = f"[{host}]" if ":" in host else host
        bound_port = server.add_insecure_port(f"{url_host}:{port}")
    except RuntimeError as error:
        raise OSError(
            f"The gRPC port must be free. Received: {host}:{port}. Choose "
            "another with --port, or --port=0 for any free one."
        ) from error
    server.start()
    return server, bound_port


def _answer(method: Callable, versions, request, context):
    try:
        return method(versions, request)
    except status_codes.StatusError as error:
        code, message = error.code, error.message
    # The server outlives whatever one request does to it.
    except Exception as error:
        logging.exception("A request failed")
        code, message = "INTERNAL", f"{type(error).__name__}: {error}"
    context.abort(grpc.StatusCode[code], message[:MAX_MESSAGE_LENGTH])
