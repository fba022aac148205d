"""The gRPC side of the local server: TF Serving's services over `inference`.

A message is read when its turn comes, and as bytes: what it would become is
known before it does.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent import futures

import grpc
from absl import logging
from grpc_health.v1 import health_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)

from serving import status_codes
from serving.server import (
    inference,
    limits,
    message_size,
    metrics,
    served_models,
)

# TF Serving cuts messages here; longer ones do not fit into gRPC's trailers.
MAX_MESSAGE_LENGTH = 1024
# More get RESOURCE_EXHAUSTED.
MAX_CONCURRENT_REQUESTS = 512
# Of any method but Predict, as gRPC itself has it.
MAX_OTHER_BYTES = 4 * 2**20
# Nobody knows how large a message is until it has arrived.
MAX_ARRIVING = 2
# While others wait for their turn, a message may take so long to arrive.
ARRIVAL_S = 2.0
MAX_CONNECTIONS = 256
HANDSHAKE_TIMEOUT_MS = 10_000
# Of a connection without a call; clients connect anew by themselves.
MAX_IDLE_MS = 60_000
# TF Serving's names for its health service, and the whole server's.
HEALTH_SERVICES = ("", "PredictionService", "ModelService")

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    # Otherwise a second server on the same port would go unnoticed and get
    # half of the requests.
    ("grpc.so_reuseport", 0),
    # It reads ahead of what we ask for, by megabytes of every call.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
    ("grpc.max_connection_idle_ms", MAX_IDLE_MS),
]


class GrpcServer:
    """A gRPC server in a thread of its own."""

    def __init__(
        self,
        models: served_models.ServedModels,
        counters: metrics.Metrics,
        limited: limits.Limits,
        host: str,
        port: int,
        *,
        timeout_s: float,
        allow_config_reload: bool,
        grace_s: float,
    ):
        """Binds the port and starts serving.

        Args:
            port: port to bind, 0 for a free one.
            timeout_s: for a message to arrive.
            allow_config_reload: otherwise such requests get PERMISSION_DENIED.
            grace_s: for calls to be answered when it stops.

        Raises:
            OSError: the port is taken.
        """
        self._models, self._metrics = models, counters
        self._limits = limited
        self._timeout_s, self._grace_s = timeout_s, grace_s
        self._allow_config_reload = allow_config_reload
        self._num_arriving = 0
        self._waiting: list[asyncio.Future] = []  # for their turn to arrive
        bound: futures.Future = futures.Future()
        self._thread = threading.Thread(
            target=self._run,
            args=(host, port, bound),
            name="grpc-server",
            daemon=True,
        )
        self._thread.start()
        self.port = bound.result()

    def close(self) -> None:
        """Closes the port; what is under way goes on."""
        self._loop.call_soon_threadsafe(self._closed.set)

    def join(self) -> None:
        """Waits until what was under way is answered, or cancelled."""
        self._thread.join()

    def _run(self, host: str, port: int, bound: futures.Future) -> None:
        try:
            asyncio.run(self._serve(host, port, bound))
        except Exception as error:
            if bound.done():
                raise
            bound.set_exception(error)

    async def _serve(self, host: str, port: int, bound: futures.Future) -> None:
        self._loop, self._closed = asyncio.get_running_loop(), asyncio.Event()
        max_bytes = self._limits.max_request_bytes
        server = grpc.aio.server(
            maximum_concurrent_rpcs=MAX_CONCURRENT_REQUESTS,
            options=[("grpc.max_receive_message_length", max_bytes), *_OPTIONS],
        )
        server.add_generic_rpc_handlers(self._make_handlers())
        try:
            url_host = f"[{host}]" if ":" in host else host
            bound_port = server.add_insecure_port(f"{url_host}:{port}")
            await server.start()
        except RuntimeError as error:
            raise OSError(
                f"The gRPC port must be free. Received: {host}:{port}. Choose "
                "another with --port, or --port=0 for any free one."
            ) from error
        bound.set_result(bound_port)
        await self._closed.wait()
        await server.stop(self._grace_s)

    def _make_handlers(self) -> list[grpc.GenericRpcHandler]:
        services = {
            "tensorflow.serving.PredictionService": {
                "Predict": self._predict,
                "GetModelMetadata": self._plain(
                    get_model_metadata_pb2.GetModelMetadataRequest,
                    inference.get_model_metadata,
                ),
                **dict.fromkeys(
                    ("Classify", "Regress", "MultiInference"), _refuse
                ),
            },
            "tensorflow.serving.ModelService": {
                "GetModelStatus": self._plain(
                    get_model_status_pb2.GetModelStatusRequest,
                    inference.get_model_status,
                ),
                "HandleReloadConfigRequest": self._plain(
                    model_management_pb2.ReloadConfigRequest, self._reload
                ),
            },
        }
        # A client sends one message; as a stream of one, it is read when its
        # turn comes.
        handlers = {
            service: {
                name: grpc.stream_unary_rpc_method_handler(method)
                for name, method in methods.items()
            }
            for service, methods in services.items()
        }
        check = self._plain(health_pb2.HealthCheckRequest, _check_health)
        handlers["grpc.health.v1.Health"] = {
            "Check": grpc.stream_unary_rpc_method_handler(check),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch_health),
        }
        return [
            grpc.method_handlers_generic_handler(*each)
            for each in handlers.items()
        ]

    def _plain(self, request_type, method: Callable) -> Callable:
        """A handler of short messages."""

        async def handle(unused_messages, context) -> bytes:
            def work(message: bytes) -> bytes:
                if len(message) > MAX_OTHER_BYTES:
                    raise limits.too_large(MAX_OTHER_BYTES)
                request = request_type.FromString(message)
                return method(self._models, request).SerializeToString()

            loads = method == self._reload
            return await self._answer(context, work, loads)

        return handle

    async def _predict(self, unused_messages, context) -> bytes:
        started, name = time.perf_counter(), ""

        def work(message: bytes) -> bytes:
            nonlocal name
            message_size.check(message, self._limits.max_request_bytes)
            request = predict_pb2.PredictRequest.FromString(message)
            del message  # The request has a copy.
            name = request.model_spec.name
            response = inference.predict(self._models, request)
            return response.SerializeToString()

        try:
            return await self._answer(context, work)
        finally:
            code = (context.code() or grpc.StatusCode.OK).name
            latency_s = time.perf_counter() - started
            self._metrics.record(name, "Predict", "GRPC", code, latency_s)

    def _reload(self, models: served_models.ServedModels, request):
        if not self._allow_config_reload:
            raise status_codes.StatusError(
                "PERMISSION_DENIED",
                "This server was started with --noallow_config_reload",
            )
        return inference.reload_config(models, request)

    async def _watch_health(
        self, unused_messages, context
    ) -> AsyncIterator[bytes]:
        check = self._plain(health_pb2.HealthCheckRequest, _check_health)
        yield await check(None, context)
        await self._closed.wait()

    async def _answer(
        self,
        context: grpc.aio.ServicerContext,
        work: Callable[[bytes], bytes],
        loads: bool = False,
    ) -> bytes:
        """Returns what `work` makes of a call's message, or aborts the call."""
        charge = limits.Charge(self._limits)
        messages = []  # emptied: a frame lives as long as what it raised
        try:
            messages.append(await self._receive(context))
            charge.add(len(messages[0]))

            def call() -> bytes:
                remaining_s = context.time_remaining()
                if remaining_s is not None and remaining_s <= 0:
                    # It waited for its thread until nobody waited for it.
                    raise status_codes.StatusError(
                        "DEADLINE_EXCEEDED", "Deadline exceeded in the queue"
                    )
                return work(messages.pop())

            return await asyncio.wrap_future(
                self._limits.submit(charge, call, loads=loads)
            )
        except status_codes.StatusError as error:
            code, text = error.code, error.message
        # The server outlives whatever one request does to it.
        except Exception as error:
            logging.exception("A request failed")
            code, text = "INTERNAL", f"{type(error).__name__}: {error}"
        messages.clear()
        await context.abort(grpc.StatusCode[code], text[:MAX_MESSAGE_LENGTH])

    async def _receive(self, context: grpc.aio.ServicerContext) -> bytes:
        """Returns the message of a call once it has arrived.

        Raises:
            StatusError: it takes too long.
        """
        task, is_late = asyncio.current_task(), False
        started = time.monotonic()

        def look() -> None:
            nonlocal is_late, timer
            limit_s = ARRIVAL_S if self._waiting else self._timeout_s
            is_late = time.monotonic() - started > limit_s
            if is_late:
                task.cancel()
            else:
                timer = self._loop.call_later(ARRIVAL_S / 4, look)

        async with self._turn():
            started = time.monotonic()
            timer = self._loop.call_later(ARRIVAL_S / 4, look)
            try:
                message = await context.read()
            except asyncio.CancelledError:
                if not is_late:
                    raise
                raise status_codes.StatusError(
                    "DEADLINE_EXCEEDED", "The message took too long to come"
                ) from None
            finally:
                timer.cancel()
        # Also when the connection broke.
        if not isinstance(message, bytes):
            raise status_codes.invalid_argument("A call must have a message")
        return message

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Lets few messages arrive at a time, of those that wait the newest.

        Calls that send nothing then do not keep those that come after them.
        """
        while self._num_arriving >= MAX_ARRIVING:
            turn = self._loop.create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._pass_turn_on()
                raise
        self._num_arriving += 1
        try:
            yield
        finally:
            self._num_arriving -= 1
            self._pass_turn_on()

    def _pass_turn_on(self) -> None:
        if self._waiting:
            self._waiting.pop().set_result(None)


async def _refuse(unused_messages, context) -> None:
    await context.abort(
        grpc.StatusCode.UNIMPLEMENTED, "This server answers Predict only"
    )


def _check_health(unused_models, request) -> health_pb2.HealthCheckResponse:
    if request.service not in HEALTH_SERVICES:
        raise status_codes.not_found(f"Unknown service: {request.service}")
    return health_pb2.HealthCheckResponse(
        status=health_pb2.HealthCheckResponse.SERVING
    )
