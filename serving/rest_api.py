"""The REST side of the local server: TF Serving's routes over `inference`.

Paths, methods and codes follow TF Serving's `http_rest_api_util.cc` and
`http_rest_api_handler.cc`. What lies outside `/v1/` is a plain 404 page, as
with TF Serving's HTTP library.
"""

import json
import re
import socket
import threading
import urllib.parse
import zlib
from collections.abc import Callable

import uvicorn
from absl import logging
from google.protobuf import json_format
from starlette import applications, concurrency, requests, responses, routing
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from serving import (
    inference,
    json_examples,
    json_responses,
    json_tensors,
    json_text,
    metadata_json,
    model_versions,
    status_codes,
)

MAX_BODY_BYTES = 256 * 2**20
MAX_GUNZIPPED_BYTES = 100 * 2**20  # TF Serving's limit.
STOP_TIMEOUT_S = 10

_NAME = r"/v1/models/(?P<name>[^/:]+)"
_VERSION = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_PREDICTION = re.compile(
    _NAME + _VERSION + ":(?P<method>classify|regress|predict)", re.IGNORECASE
)
_STATUS = re.compile(
    f"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?P<metadata>/metadata)?",
    re.IGNORECASE,
)
_NOT_FOUND_PAGE = (
    "<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n"
    "<H1>Not Found</H1>\n</BODY></HTML>\n"
)


class RestServer:
    """An HTTP server in a thread of its own."""

    def __init__(
        self, versions: model_versions.ModelVersions, host: str, port: int
    ):
        """Binds the port and starts serving.

        Args:
            versions: the model.
            host: address to bind.
            port: port to bind, 0 for a free one.

        Raises:
            OSError: the port is taken.
        """
        self._socket = _bind(host, port)
        self.port = self._socket.getsockname()[1]
        config = uvicorn.Config(
            make_app(versions),
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=STOP_TIMEOUT_S,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run,
            kwargs={"sockets": [self._socket]},
            name="rest-server",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Answers what is under way, then closes the port."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


def make_app(
    versions: model_versions.ModelVersions,
) -> applications.Starlette:
    """Returns the ASGI application."""

    async def endpoint(request: requests.Request) -> responses.Response:
        # The path as it was sent: names are matched before they are decoded.
        path = request.scope["raw_path"].decode("latin-1")
        if not path.lower().startswith("/v1/"):
            return responses.HTMLResponse(_NOT_FOUND_PAGE, 404)
        try:
            body = await _read_body(request)
            content = await concurrency.run_in_threadpool(
                _answer, versions, request.method, path, body
            )
            status = 200
        except status_codes.StatusError as error:
            content = json_responses.error(error.message)
            status = status_codes.HTTP_STATUS[error.code]
        # The server outlives whatever one request does to it.
        except Exception as error:
            logging.exception("A request failed")
            content = json_responses.error(f"{type(error).__name__}: {error}")
            status = 500
        return responses.Response(
            content, status, media_type="application/json"
        )

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    return applications.Starlette(
        routes=[routing.Route("/{path:path}", endpoint, methods=methods)]
    )


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, or asyncio does not turn Nagle's algorithm off, and every answer
    # waits 40 ms for an acknowledgement.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        # Now, so that the port answers before the thread has started.
        bound.listen(1024)
    except OSError as error:
        bound.close()
        raise OSError(
            f"The REST port must be free. Received: {host}:{port} "
            f"({error.strerror}). Choose another with --rest_api_port, or "
            "--rest_api_port=0 for any free one."
        ) from error
    return bound


async def _read_body(request: requests.Request) -> bytes:
    chunks = []
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > MAX_BODY_BYTES:
            raise status_codes.StatusError(
                "RESOURCE_EXHAUSTED",
                f"A request must have at most {MAX_BODY_BYTES} bytes.",
            )
        chunks.append(chunk)
    body = b"".join(chunks)
    if request.headers.get("content-encoding", "").lower() != "gzip":
        return body
    return _gunzip(body)


def _gunzip(body: bytes) -> bytes:
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = decompressor.decompress(body, MAX_GUNZIPPED_BYTES)
    except zlib.error as error:
        raise status_codes.invalid_argument(
            "Failed to uncompress the gzipped body"
        ) from error
    if decompressor.unconsumed_tail or not decompressor.eof:
        raise status_codes.invalid_argument(
            "Failed to uncompress the gzipped body: it must be whole and at "
            f"most {MAX_GUNZIPPED_BYTES} bytes long"
        )
    return content


def _answer(
    versions: model_versions.ModelVersions, method: str, path: str, body: bytes
) -> bytes:
    """Returns the body of a successful answer."""
    if method == "POST" and (match := _PREDICTION.fullmatch(path)):
        handler = _PREDICTION_HANDLERS.get(match["method"].lower())
        if handler is None:
            raise status_codes.StatusError(
                "UNIMPLEMENTED",
                "This server answers predict and classify requests only.",
            )
        return handler(versions, _model_spec(match), body)
    if method == "GET" and (match := _STATUS.fullmatch(path)):
        spec = _model_spec(match)
        if not spec.name:
            raise status_codes.invalid_argument(
                "Missing model name in request."
            )
        if match["metadata"]:
            return _metadata(versions, spec)
        return _status(versions, spec)
    raise status_codes.invalid_argument(f"Malformed request: {method} {path}")


def _model_spec(match: re.Match) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=urllib.parse.unquote(match["name"] or ""))
    if match["version"]:
        version = int(match["version"])
        if version > model_versions.MAX_VERSION:
            raise status_codes.invalid_argument(
                f"Failed to convert version: {match['version']} to numeric."
            )
        spec.version.value = version
    if match["label"]:
        spec.version_label = urllib.parse.unquote(match["label"])
    return spec


def _predict(versions, spec: model_pb2.ModelSpec, body: bytes) -> bytes:
    document = json_text.parse(body)
    request = predict_pb2.PredictRequest(model_spec=spec)
    name = json_text.signature_name(document)
    request.model_spec.signature_name = name
    model = inference.find_model(versions, spec)
    name = name or inference.DEFAULT_SIGNATURE
    if name not in model.signature_defs:
        raise status_codes.invalid_argument(
            f'Serving signature name: "{name}" not found in signature def'
        )
    declared = dict(model.signature_defs[name].inputs)
    if not declared:
        raise status_codes.invalid_argument(
            f"Failed to get input map for signature: {name}"
        )
    request_format = json_tensors.fill_predict_request(
        document, declared, request
    )
    response = inference.predict(versions, request)
    return json_responses.predictions(dict(response.outputs), request_format)


def _classify(versions, spec: model_pb2.ModelSpec, body: bytes) -> bytes:
    request = classification_pb2.ClassificationRequest(model_spec=spec)
    json_examples.fill_classification_request(json_text.parse(body), request)
    response = inference.classify(versions, request)
    return json_responses.classifications(response.result)


_PREDICTION_HANDLERS: dict[str, Callable] = {
    "predict": _predict,
    "classify": _classify,
}


def _status(versions, spec: model_pb2.ModelSpec) -> bytes:
    response = inference.get_model_status(
        versions, get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
    )
    return json_format.MessageToJson(
        response,
        always_print_fields_with_no_presence=True,
        preserving_proto_field_name=True,
    ).encode()


def _metadata(versions, spec: model_pb2.ModelSpec) -> bytes:
    response = inference.get_model_metadata(
        versions,
        get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=[metadata_json.SIGNATURE_DEF]
        ),
    )
    document = metadata_json.to_document(response)
    return json.dumps(document, indent=1).encode()
