"""Asks TF Serving, or the local server, for predictions over gRPC or REST.

    client = Client("grpc://127.0.0.1:8500", "classifier")
    for prediction in client.predict([open("scan.png", "rb").read()]):
        print(prediction.label, prediction.score)

Images are JPEG or PNG; `image_files` streams files and folders of every format
that Lightbox trains on, DICOM included, as the pixels that it trains on.
The REST path imports neither TensorFlow nor gRPC, so a client that speaks REST
starts quickly and runs where they are not installed.
"""

import dataclasses
import itertools
import pathlib
import random
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

from serving import rest_transport, status_codes
from serving.predictions import REQUIRED, Prediction, read_columns
from serving.predictions import combine as combine
from trainer import startup
from trainer.export import signature

SCHEMES = ("grpc", "grpcs", "http", "https")
BATCH_SIZE = 32
# Of one request. REST adds a third to it in base64.
MAX_BATCH_BYTES = 32 * 2**20
MAX_ATTEMPTS = 4
FIRST_DELAY_S = 0.2


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """State of one version of a model, as the server reports it.

    Attributes:
        version: its number.
        state: "START", "LOADING", "AVAILABLE", "UNLOADING" or "END".
        error: empty, or why it is not available.
    """

    version: int
    state: str
    error: str


class ServerError(ConnectionError):
    """The server cannot be reached, or answers with an error.

    Attributes:
        code: canonical name, such as "NOT_FOUND" or "UNAVAILABLE".
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class Client:
    """One model on one server. May be shared between threads."""

    def __init__(
        self,
        target: str,
        model_name: str,
        *,
        version: int | None = None,
        timeout_s: float = 30.0,
        batch_size: int = BATCH_SIZE,
        token: str | None = None,
        ca_file: str | None = None,
        max_attempts: int = MAX_ATTEMPTS,
    ):
        """Does not connect yet.

        Args:
            target: `grpc://HOST:PORT` or `http://HOST:PORT`; `grpcs` and
                `https` for TLS.
            model_name: what the server calls the model.
            version: a version number, None for the newest.
            timeout_s: deadline of each request, retries included.
            batch_size: largest number of images in a request.
            token: sent as `Authorization: Bearer`.
            ca_file: PEM file of the authority that signed the server's
                certificate, None for the well-known ones.
            max_attempts: how often a request is sent to a server that is
                unavailable, waiting longer each time.

        Raises:
            ValueError: an argument is not of this form.
        """
        parts = _parse_target(target)
        if token is not None:
            token = _clean_token(token, "`token`")
        if batch_size < 1:
            raise ValueError(
                "`batch_size` must be at least 1. Received: "
                f"batch_size={batch_size}."
            )
        self.target = target
        self.model_name = model_name
        self._timeout_s = timeout_s
        self._batch_size = batch_size
        self._max_attempts = max_attempts
        secure = parts.scheme in ("grpcs", "https")
        if parts.scheme in ("grpc", "grpcs"):
            # Imports TensorFlow's protos, and with them TensorFlow.
            startup.import_tensorflow()
            from serving import grpc_transport

            self._transport: Any = grpc_transport.GrpcTransport(
                parts.netloc, model_name, version, secure, token, ca_file
            )
        else:
            self._transport = rest_transport.RestTransport(
                target.rstrip("/"), model_name, version, token, ca_file
            )

    def predict(self, images: Iterable[bytes]) -> list[Prediction]:
        """Returns one prediction per image, in their order.

        Args:
            images: JPEG or PNG files. They are sent in batches.

        Raises:
            ServerError: with one line that says what is wrong.
        """
        return self._predict(signature.SERVING_DEFAULT, images)

    def explain(self, images: Iterable[bytes]) -> list[Prediction]:
        """`predict` with overlays; the model must have `explain`."""
        return self._predict(signature.EXPLAIN, images)

    def status(self) -> list[VersionStatus]:
        """Returns the state of each version that the server knows."""
        return [
            VersionStatus(*row) for row in self._call(self._transport.status)
        ]

    def metadata(self) -> dict:
        """Returns the signatures, in the form of TF Serving's JSON."""
        return self._call(self._transport.metadata)

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *unused_exception: object) -> None:
        self.close()

    def _predict(
        self, signature_name: str, images: Iterable[bytes]
    ) -> list[Prediction]:
        predictions = []
        for batch in split_batches(images, self._batch_size):
            outputs = self._call(self._transport.predict, signature_name, batch)
            predictions.extend(_read(outputs, len(batch)))
        return predictions

    def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        """Calls the server, again if it is busy or starting."""
        deadline = time.monotonic() + self._timeout_s
        for attempt in itertools.count(1):
            # A sleep may end after the deadline.
            timeout_s = max(0.001, deadline - time.monotonic())
            try:
                return method(*args, timeout_s=timeout_s)
            except status_codes.StatusError as error:
                # Jitter, so that clients of a restarted server spread out.
                jitter = random.uniform(0.25, 0.75)
                wait_s = FIRST_DELAY_S * 2**attempt * jitter
                if (
                    error.code != "UNAVAILABLE"
                    or attempt >= self._max_attempts
                    or time.monotonic() + wait_s >= deadline
                ):
                    raise self._explain(error) from error
            time.sleep(wait_s)

    def _explain(self, error: status_codes.StatusError) -> ServerError:
        message = " ".join(error.message.split())
        proxy = _find_proxy(self.target)
        if error.code == "UNAVAILABLE" and proxy:
            text = (
                f"cannot be reached through the proxy {proxy} of the "
                f"environment ({message}). NO_PROXY names hosts without one."
            )
        elif error.code == "UNAVAILABLE":
            text = f"cannot be reached ({message}). Is the server running?"
        elif error.code == "DEADLINE_EXCEEDED":
            text = f"did not answer within {self._timeout_s:g} s."
        elif error.code == "NOT_FOUND":
            text = f"does not serve model {self.model_name!r} ({message})."
        else:
            text = f"answered {error.code}: {message}"
        return ServerError(error.code, f"{self.target} {text}")


def read_token(path: str | None) -> str | None:
    """Returns the token in a file, None if there is no file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it does not hold a token.
    """
    if path is None:
        return None
    content = pathlib.Path(path).read_bytes()
    # Windows' editors begin a file with a mark of its encoding.
    return _clean_token(content.decode("utf-8-sig", "replace"), path)


def _clean_token(token: str, source: str) -> str:
    """A token without what stands around it; it is in no message."""
    words = token.split()
    if words and words[0].lower() == "bearer":
        del words[0]
    if len(words) != 1 or not words[0].isascii() or not words[0].isprintable():
        raise ValueError(
            f"{source} must hold a token and nothing else: one word of ASCII "
            "letters, digits and signs."
        )
    return words[0]


def _find_proxy(target: str) -> str | None:
    """Host and port of the proxy that the environment names for a target."""
    parts = urllib.parse.urlsplit(target)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxies = urllib.request.getproxies()
    schemes = [parts.scheme, "all"]
    if parts.scheme.startswith("grpc"):
        schemes = ["grpc", "https", "http"]
    for scheme in filter(proxies.get, schemes):
        # Its name may come with a password.
        return urllib.parse.urlsplit(proxies[scheme]).netloc.rpartition("@")[2]
    return None


def split_batches(
    images: Iterable[bytes], batch_size: int
) -> Iterable[list[bytes]]:
    """Yields lists of images that fit into a request."""
    batch: list[bytes] = []
    num_bytes = 0
    for image in images:
        full = num_bytes + len(image) > MAX_BATCH_BYTES
        if batch and (full or len(batch) == batch_size):
            yield batch
            batch, num_bytes = [], 0
        batch.append(image)
        num_bytes += len(image)
    if batch:
        yield batch


def _parse_target(target: str) -> urllib.parse.SplitResult:
    parts = urllib.parse.urlsplit(target)
    try:
        has_address = bool(parts.hostname and parts.port)
    except ValueError:  # A port that is no number.
        has_address = False
    extra = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in SCHEMES or not has_address or extra:
        raise ValueError(
            "The target must have the form grpc://HOST:PORT or "
            f"http://HOST:PORT. Received: {target!r}."
        )
    return parts


def _read(outputs: dict, num_images: int) -> list[Prediction]:
    missing = [name for name in REQUIRED if name not in outputs]
    if missing:
        raise ServerError(
            "FAILED_PRECONDITION",
            "The model must have the outputs of Lightbox's serving_default "
            f"signature. Missing: {', '.join(missing)}.",
        )
    return read_columns(outputs, num_images)
