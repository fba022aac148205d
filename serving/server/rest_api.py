"""The REST side of the local server: HTTP, limits, metrics and the page.

What `/v1/` answers is in `rest_handlers`. Other paths, but those of the page
and of the metrics, get a plain 404 page, as with TF Serving's HTTP library.
"""

import asyncio
import contextlib
import functools
import ipaddress
import socket
import threading
import time
import urllib.parse
import zlib
from collections.abc import Awaitable, Callable, Collection

import uvicorn
from absl import logging
from starlette import (
    applications,
    datastructures,
    requests,
    responses,
    routing,
)

from serving import status_codes
from serving.server import (
    connections,
    json_responses,
    limits,
    metrics,
    page,
    rest_handlers,
    served_models,
)

METRICS_PATH = "/monitoring/prometheus/metrics"
MAX_GUNZIPPED_BYTES = 100 * 2**20  # TF Serving's limit.
MAX_ACCEPTED = 64  # at a time
BACKLOG = 1024
_PIECE_BYTES = 2**20
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

_NOT_FOUND_PAGE = (
    "<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n"
    "<H1>Not Found</H1>\n</BODY></HTML>\n"
)


class RestApi:
    """The ASGI application and the threads that it works with."""

    def __init__(
        self,
        models: served_models.ServedModels,
        counters: metrics.Metrics,
        limited: limits.Limits,
        timeout_s: float,
    ):
        """Makes `app`; `timeout_s` is to arrive, and then to be answered."""
        self._models, self._metrics = models, counters
        self._limits = limited
        self._timeout_s = timeout_s
        self._reader = page.Reader(models)
        route = routing.Route
        self.app = applications.Starlette(
            routes=[
                route(METRICS_PATH, self._answer_metrics, methods=METHODS),
                *(route(path, self._answer_file) for path in page.FILES),
                route(page.MODELS_PATH, self._answer_models),
                route(page.READ_PATH, self._answer_read, methods=["POST"]),
                route("/{path:path}", self._answer, methods=METHODS),
            ]
        )

    async def _answer_metrics(self, unused_request) -> responses.Response:
        return responses.PlainTextResponse(self._metrics.to_text())

    async def _answer_file(self, request) -> responses.Response:
        content, kind = page.FILES[request.url.path]
        return responses.Response(content, 200, page.HEADERS, kind)

    async def _answer_models(self, unused_request) -> responses.Response:
        return responses.JSONResponse(page.list_models(self._models))

    async def _answer_read(self, request) -> responses.Response:
        name = request.query_params.get("model", "")

        async def read(body: bytearray, charge: limits.Charge) -> bytes:
            with contextlib.closing(charge):
                return await self._reader.read_images(name, body)

        return _to_response(*await self._run(request, read))

    async def _answer(self, request) -> responses.Response:
        # The path as it was sent: names are matched before they are decoded.
        path = request.scope["raw_path"].decode("latin-1")
        if not path.lower().startswith("/v1/"):
            return responses.HTMLResponse(_NOT_FOUND_PAGE, 404)
        started = time.perf_counter()
        work = functools.partial(
            rest_handlers.answer,
            self._models,
            self._limits.max_request_bytes,
            request.method,
            path,
        )
        zipped = request.headers.get("content-encoding", "").lower() == "gzip"

        def answer(body: bytearray, charge: limits.Charge) -> asyncio.Future:
            def call() -> bytes:
                return work(_gunzip(body, charge) if zipped else body)

            is_large = zipped and _announced_bytes(body) > limits.LARGE_BYTES
            future = self._limits.submit(charge, call, is_large)
            return asyncio.wrap_future(future)

        content, code = await self._run(request, answer)
        name = rest_handlers.predicted_model(request.method, path)
        if name is not None:
            latency_s = time.perf_counter() - started
            self._metrics.record(name, "predict", "REST", code, latency_s)
        return _to_response(content, code)

    async def _run(
        self,
        request: requests.Request,
        work: Callable[[bytearray, limits.Charge], Awaitable[bytes]],
    ) -> tuple[bytes, str]:
        """Returns what `work` makes of the body, and the code of the result."""
        charge = limits.Charge(self._limits)
        try:
            body = await asyncio.wait_for(
                _read_body(request, charge), self._timeout_s
            )
            working = work(body, charge)
            del body
            return await asyncio.wait_for(working, self._timeout_s), "OK"
        except status_codes.StatusError as error:
            return json_responses.error(error.message), error.code
        except asyncio.CancelledError:
            message = "The server is stopping."
            return json_responses.error(message), "UNAVAILABLE"
        except requests.ClientDisconnect:
            return b"", "CANCELLED"
        except asyncio.TimeoutError:
            # The words of TensorFlow's session.
            message = "Timed out waiting for notification"
            return json_responses.error(message), "DEADLINE_EXCEEDED"
        # The server outlives whatever one request does to it.
        except Exception as error:
            logging.exception("A request failed")
            message = f"{type(error).__name__}: {error}"
            return json_responses.error(message), "INTERNAL"


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for bound in sockets or ():
            bound.listen(BACKLOG)  # A burst waits in the kernel.


class RestServer:
    """An HTTP server in a thread of its own."""

    def __init__(
        self,
        api: RestApi,
        host: str,
        port: int,
        allowed_hosts: Collection[str],
        grace_s: float,
    ):
        """Binds the port, any free one for 0, and starts serving.

        On a loopback address, or if any are given, only those who ask for
        this machine or for one of `allowed_hosts` are answered. What is under
        way when it stops has `grace_s` seconds to be answered.

        Raises:
            OSError: the port is taken.
        """
        self._socket = _bind(host, port)
        self.port = self._socket.getsockname()[1]
        app = api.app
        if allowed_hosts or _is_loopback(host):
            allowed = {name.lower() for name in allowed_hosts}
            app = _refuse_other_pages(app, host.lower(), allowed)
        config = uvicorn.Config(
            app,
            http=connections.Connection,
            ws="none",
            log_config=None,
            # Warnings are of what clients send, a line for each request.
            log_level="error",
            access_log=False,
            lifespan="off",
            # As many are accepted before the first of them is served.
            backlog=MAX_ACCEPTED,
            timeout_graceful_shutdown=grace_s,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(
            target=self._server.run,
            kwargs={"sockets": [self._socket]},
            name="rest-server",
            daemon=True,
        )
        self._thread.start()

    def close(self) -> None:
        """Closes the port; what is under way goes on."""
        self._server.should_exit = True

    def join(self) -> None:
        """Waits until what was under way is answered, or cancelled."""
        self._thread.join()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_other_pages(
    app: Callable, own: str, allowed: Collection[str]
) -> Callable:
    """An application that no web page from elsewhere reaches.

    A browser on this machine sends what a page tells it to, and names the
    page in `Origin`; other clients send none. A page whose own name was made
    to lead here has that name in `Host`. Ports of hosts may differ, as they do
    behind a tunnel.
    """

    def find_refusal(headers: datastructures.Headers) -> str:
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        name = _host_name(f"//{host}")
        if host and name not in {own, *allowed} and not _is_loopback(name):
            return f"Host {host}"
        if (
            origin is None
            or origin.lower().partition("://")[2] == host
            or _host_name(origin) in allowed
        ):
            return ""
        return f"Origin {origin}"

    async def answer(scope, receive, send) -> None:
        respond = app
        refused = find_refusal(datastructures.Headers(scope=scope))
        if refused:
            message = f"{refused} is refused: --allowed_hosts can add its name."
            error = json_responses.error(message)
            respond = _to_response(error, "PERMISSION_DENIED")
        await respond(scope, receive, send)

    return answer


def _host_name(url: str) -> str:
    """Empty if there is none."""
    try:
        return urllib.parse.urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, or asyncio does not turn Nagle's algorithm off, and every answer
    # waits 40 ms for an acknowledgement.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        # Now, so that the port answers before the thread has started.
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise OSError(
            f"The REST port must be free. Received: {host}:{port} "
            f"({error.strerror}). Choose another with --rest_api_port, or "
            "--rest_api_port=0 for any free one."
        ) from error
    return bound


def _to_response(content: bytes, code: str) -> responses.Response:
    status = status_codes.HTTP_STATUS[code]
    return responses.Response(content, status, media_type="application/json")


async def _read_body(
    request: requests.Request, charge: limits.Charge
) -> bytearray:
    """Returns the body of a request, charged as it arrives.

    What is too much is read to its end and dropped: a client that is not read
    until it has sent everything sees a broken connection, and not the answer.
    """
    body, refusal = bytearray(), None
    try:
        async for chunk in request.stream():
            if refusal is None:
                try:
                    charge.add(len(chunk))
                    body += chunk
                except status_codes.StatusError as error:
                    refusal = error
                    body.clear()
                    charge.close()
        if refusal is not None:
            raise refusal
    except BaseException:
        charge.close()
        raise
    return body


def _announced_bytes(body: bytearray) -> int:
    """What a gzipped body becomes, as it says in its end."""
    return int.from_bytes(body[-4:], "little")


def _gunzip(body: bytearray, charge: limits.Charge) -> bytearray:
    """Unpacks a body piece by piece, and charges what it becomes."""
    most = min(_announced_bytes(body), MAX_GUNZIPPED_BYTES)
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    content = bytearray()
    with contextlib.suppress(zlib.error):
        for start in range(0, len(body), _PIECE_BYTES):
            rest = bytes(body[start : start + _PIECE_BYTES])
            while rest and len(content) <= most:
                content += unpack.decompress(rest, _PIECE_BYTES)
                charge.replace(max(len(body), len(content)))
                rest = unpack.unconsumed_tail
        if unpack.eof and len(content) <= most:
            body.clear()
            return content
    raise status_codes.invalid_argument(
        "Failed to uncompress the gzipped body: it must be whole and at "
        f"most {MAX_GUNZIPPED_BYTES} bytes long"
    )
