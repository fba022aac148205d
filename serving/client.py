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

import numpy as np

from serving import rest_transport, status_codes
from trainer import startup
from trainer.export import signature

SCHEMES = ("grpc", "grpcs", "http", "https")
BATCH_SIZE = 32
# Of one request. REST adds a third to it in base64.
MAX_BATCH_BYTES = 32 * 2**20
MAX_ATTEMPTS = 4
FIRST_DELAY_S = 0.2
# Fields of `Prediction` are called as the outputs are, but for the overlay.
_REQUIRED = ("probabilities", "label", "label_index", "score", "valid")
_NUMBERS = (
    "probabilities",
    "score",
    "out_of_distribution",
    "threshold",
    "study_threshold",
)
_TUPLES = ("probabilities", "class_names", "prediction_set")


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        probabilities: one per class, in the order of the class names.
        label: name of the most probable class.
        label_index: its index.
        score: probability of the positive class, or of `label`.
        decision: whether `score` reaches the threshold; None if the model has
            more than two classes.
        valid: False if the server could not decode the image; then the other
            fields mean nothing.
        out_of_distribution: how unlike the training images it is, above 1 is
            unusual; None if the model does not say.
        is_out_of_distribution: whether it is above 1, or None.
        overlay: PNG of what the label rests on, if `explain` asked for it.
        decision_label: name of the class that was decided on, or None.
        threshold: of the decision, or None.
        class_names: in the order of the probabilities, or None.
        prediction_set: per class, whether it is left possible, or None; where
            it holds several, the answer is uncertain.
        study_rule: how scores of a patient's images become one, or None.
        study_threshold: threshold on that score, or None.
    """

    probabilities: tuple[float, ...]
    label: str
    label_index: int
    score: float
    decision: bool | None
    valid: bool
    out_of_distribution: float | None = None
    is_out_of_distribution: bool | None = None
    overlay: bytes | None = dataclasses.field(default=None, repr=False)
    decision_label: str | None = None
    threshold: float | None = None
    class_names: tuple[str, ...] | None = None
    prediction_set: tuple[bool, ...] | None = None
    study_rule: str | None = None
    study_threshold: float | None = None

    @property
    def possible(self) -> tuple[str, ...]:
        """Names of the classes in the prediction set, none if unknown."""
        if self.class_names is None or self.prediction_set is None:
            return ()
        return tuple(itertools.compress(self.class_names, self.prediction_set))


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
            predictions.extend(_to_predictions(outputs, len(batch)))
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


def combine(predictions: Iterable[Prediction]) -> Prediction:
    """What the model says of a patient, from what it says of the images.

    As in the report of the run: by the rule and the threshold that the model
    was exported with, or the mean of more than two classes.

    Args:
        predictions: of all images of a study, such as the slices of a volume;
            those that are not valid are left out.

    Returns:
        Its `decision` is None if the model has no threshold for patients,
        there is no prediction set, and `out_of_distribution` is the median of
        the images. Not valid if no image is.

    Raises:
        ValueError: there is no prediction, or the model tells no class names.
    """
    from trainer.evaluation import studies  # slow to import

    every = list(predictions)
    if not every:
        raise ValueError("There must be at least one prediction of a study.")
    images = [image for image in every if image.valid]
    if not images:
        return every[0]
    first = images[0]
    if first.class_names is None:
        raise ValueError(
            "The model tells no class names, which a study needs: export it "
            "again with this version of Lightbox."
        )
    positive = None
    if first.decision_label is not None:
        decided = first.class_names.index(first.decision_label)
        positive = decided if first.decision else 1 - decided
    probabilities = studies.combine(
        np.array([image.probabilities for image in images]),
        first.study_rule or studies.DEFAULT_RULE,
        positive,
    )
    index = int(probabilities.argmax())
    score = float(probabilities[index if positive is None else positive])
    decision = decision_label = None
    if positive is not None and first.study_threshold is not None:
        decision = score >= first.study_threshold
        called = positive if decision else 1 - positive
        decision_label = first.class_names[called]
    unlike = None
    if first.out_of_distribution is not None:
        far = [image.out_of_distribution or 0.0 for image in images]
        unlike = float(np.median(far))
    return Prediction(
        probabilities=tuple(probabilities.tolist()),
        label=first.class_names[index],
        label_index=index,
        score=score,
        decision=decision,
        valid=True,
        out_of_distribution=unlike,
        is_out_of_distribution=None if unlike is None else unlike > 1,
        decision_label=decision_label,
        threshold=first.study_threshold,
        class_names=first.class_names,
        study_rule=first.study_rule,
        study_threshold=first.study_threshold,
    )


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


def _to_predictions(outputs: dict, num_images: int) -> list[Prediction]:
    """Returns predictions from the columns of a server's answer."""
    missing = [name for name in _REQUIRED if name not in outputs]
    if missing:
        raise ServerError(
            "FAILED_PRECONDITION",
            "The model must have the outputs of Lightbox's serving_default "
            f"signature. Missing: {', '.join(missing)}.",
        )
    unknown = [None] * num_images
    columns = {
        field.name: outputs.get(field.name, unknown)
        for field in dataclasses.fields(Prediction)
    }
    # The model's numbers are float32. REST writes them with the digits that
    # tell them apart, which as doubles would differ from what gRPC carries.
    for name in _NUMBERS:
        if name in outputs:
            columns[name] = np.float32(outputs[name]).tolist()
    for name in _TUPLES:
        if name in outputs:
            columns[name] = map(tuple, columns[name])
    # Empty for an image that cannot be decoded.
    overlays = outputs.get(signature.OVERLAY, unknown)
    columns["overlay"] = [overlay or None for overlay in overlays]
    return [Prediction(*row) for row in zip(*columns.values(), strict=True)]
