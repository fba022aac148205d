"""The gRPC side of the local server: official servicers over `inference`."""

import time
from collections.abc import Callable
from concurrent import futures

import grpc
from absl import logging
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving import status_codes
from serving.server import inference, metrics, served_models

# TF Serving cuts messages here; longer ones do not fit into gRPC's trailers.
MAX_MESSAGE_LENGTH = 1024
NUM_THREADS = 16
# Those that wait hold their request in memory. More get RESOURCE_EXHAUSTED.
MAX_CONCURRENT_REQUESTS = 512
# TF Serving's names for its health service, and the whole server's.
HEALTH_SERVICES = ("", "PredictionService", "ModelService")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata."""

    def __init__(
        self, models: served_models.ServedModels, counters: metrics.Metrics
    ):
        self._models = models
        self._metrics = counters

    def Predict(self, request, context):
        started = time.perf_counter()
        try:
            return _answer(inference.predict, self._models, request, context)
        finally:
            code = (context.code() or grpc.StatusCode.OK).name
            latency_s = time.perf_counter() - started
            self._metrics.record(
                request.model_spec.name, "Predict", "GRPC", code, latency_s
            )

    def GetModelMetadata(self, request, context):
        method = inference.get_model_metadata
        return _answer(method, self._models, request, context)

    def Classify(self, unused_request, context):
        context.abort(
            grpc.StatusCode.UNIMPLEMENTED, "This server answers Predict only"
        )

    Regress = MultiInference = Classify


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest."""

    def __init__(
        self, models: served_models.ServedModels, allow_config_reload: bool
    ):
        self._models = models
        self._allow_config_reload = allow_config_reload

    def GetModelStatus(self, request, context):
        method = inference.get_model_status
        return _answer(method, self._models, request, context)

    def HandleReloadConfigRequest(self, request, context):
        if not self._allow_config_reload:
            context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                "This server was started with --noallow_config_reload",
            )
        return _answer(inference.reload_config, self._models, request, context)


def start(
    models: served_models.ServedModels,
    counters: metrics.Metrics,
    host: str,
    port: int,
    max_request_bytes: int,
    allow_config_reload: bool,
) -> tuple[grpc.Server, int]:
    """Starts serving and returns the running server and its port.

    Args:
        port: port to bind, 0 for a free one.
        max_request_bytes: longer messages get RESOURCE_EXHAUSTED.
        allow_config_reload: otherwise such requests get PERMISSION_DENIED.

    Raises:
        OSError: the port is taken.
    """
    server = grpc.server(
        futures.ThreadPoolExecutor(
            NUM_THREADS, thread_name_prefix="grpc-request"
        ),
        maximum_concurrent_rpcs=MAX_CONCURRENT_REQUESTS,
        options=[
            # The default of 4 MiB refuses eight images as floats.
            ("grpc.max_receive_message_length", max_request_bytes),
            ("grpc.max_send_message_length", -1),
            # Otherwise a second server on the same port would go unnoticed
            # and get half of the requests.
            ("grpc.so_reuseport", 0),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(models, counters), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(
        ModelService(models, allow_config_reload), server
    )
    health_service = health.HealthServicer()
    for name in HEALTH_SERVICES:
        health_service.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
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


def _answer(method: Callable, models, request, context):
    remaining_s = context.time_remaining()
    if remaining_s is not None and remaining_s <= 0:
        # It waited for its thread until nobody waited for it.
        context.abort(
            grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded in the queue"
        )
    try:
        return method(models, request)
    except status_codes.StatusError as error:
        code, message = error.code, error.message
    # The server outlives whatever one request does to it.
    except Exception as error:
        logging.exception("A request failed")
        code, message = "INTERNAL", f"{type(error).__name__}: {error}"
    context.abort(grpc.StatusCode[code], message[:MAX_MESSAGE_LENGTH])
