"""TF Serving's JSON for the Predict API: bodies to tensors.

What a body may be follows TF Serving's `util/json_tensor.cc`; what is wrong
with another one is said in a sentence of this project.
"""

import base64
import itertools
import json
import re

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

from serving import status_codes
from serving.server import limits

ROW = "instances"
COLUMNAR = "inputs"
_FLOATS = (tf.float16, tf.float32, tf.float64)
_START = re.compile(r"[\ufeff \t\r\n]*")
# Bytes that Python takes for what each of these characters stands for, at
# most: a value and its place in a list, a list, an object, its key, a string.
_COSTS = {b",": 48, b"[": 112, b"{": 80, b":": 184, b'"': 32}
# Characters beyond ASCII make each one of a text up to four bytes long.
_WIDE_COST = 6


def parse(body: bytes | bytearray, max_request_bytes: int) -> dict:
    """Returns the JSON object that a request body starts with.

    What comes after it is ignored. NaN and infinity may stand as bare tokens.
    Strings keep bytes that are not UTF-8 as surrogate escapes: the model gets
    them as they came.

    Raises:
        StatusError: the body does not start with a JSON object, or its values
            would take more memory than `limits` allows.
    """
    num_bytes = len(body) * (1 + (1 if body.isascii() else _WIDE_COST))
    num_bytes += sum(body.count(mark) * n for mark, n in _COSTS.items())
    limits.check_growth(num_bytes, max_request_bytes)
    text = body.decode("utf-8", "surrogateescape")
    start = _START.match(text).end()
    try:
        document, _ = json.JSONDecoder().raw_decode(text, start)
    # ValueError: also an integer of more digits than Python reads.
    except (ValueError, RecursionError) as error:
        raise status_codes.invalid_argument(
            f"The body must be a JSON object. JSON parse error: {error}"
        ) from error
    if not isinstance(document, dict):
        raise status_codes.invalid_argument("The body must be a JSON object.")
    return document


def signature_name(document: dict) -> str:
    """Returns the `signature_name` of a request, empty if it has none."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise status_codes.invalid_argument(
            "'signature_name' must be a string."
        )
    return name.encode("utf-8", "replace").decode()


def fill_predict_request(
    document: dict, declared, request: predict_pb2.PredictRequest
) -> str:
    """Fills a request's inputs from a JSON object.

    Args:
        document: what `parse` returned.
        declared: TensorInfo of each input of the signature, by name.
        request: gets the inputs.

    Returns:
        `ROW` or `COLUMNAR`, the format that the answer must have.
    """
    if (ROW in document) == (COLUMNAR in document):
        raise status_codes.invalid_argument(
            f"The body must have either '{ROW}' or '{COLUMNAR}'."
        )
    form, read = (
        (ROW, _read_rows) if ROW in document else (COLUMNAR, _read_columns)
    )
    columns = read(document[form], list(declared))
    for name, info in declared.items():
        tensor = _to_tensor(name, columns[name], tf.as_dtype(info.dtype))
        request.inputs[name].CopyFrom(tensor)
    return form


def _read_rows(instances, names: list[str]) -> dict[str, list]:
    if not isinstance(instances, list) or not instances:
        raise status_codes.invalid_argument(
            f"'{ROW}' must be a list of at least one instance."
        )
    limits.check_instances(len(instances))
    if len(names) == 1 and not any(map(_is_object, instances)):
        return {names[0]: instances}
    for index, instance in enumerate(instances):
        if not _is_object(instance) or set(instance) != set(names):
            raise status_codes.invalid_argument(
                f"Each of '{ROW}' must be an object with these keys: "
                f"{', '.join(sorted(names))}. Number {index} is not."
            )
    return {name: [row[name] for row in instances] for name in names}


def _read_columns(inputs, names: list[str]) -> dict:
    if len(names) == 1 and not _is_object(inputs):
        return {names[0]: inputs}
    if not _is_object(inputs) or not set(names) <= set(inputs):
        raise status_codes.invalid_argument(
            f"'{COLUMNAR}' must be an object with these keys: "
            f"{', '.join(sorted(names))}."
        )
    return inputs


def _is_object(value) -> bool:
    return isinstance(value, dict) and set(value) != {"b64"}


def _to_tensor(name: str, value, dtype: tf.DType) -> tensor_pb2.TensorProto:
    """Returns a tensor of nested lists, or of a bare value."""
    values, shape = [value], []
    while list in (kinds := set(map(type, values))):
        sizes = {len(v) if isinstance(v, list) else -1 for v in values}
        if len(sizes) > 1:
            raise status_codes.invalid_argument(
                f"Input {name} must be a tensor: all lists of one depth must "
                "have one length."
            )
        shape.append(sizes.pop())
        values = list(itertools.chain.from_iterable(values))
    if dtype == tf.string and kinds <= {str, dict}:
        array = np.array([_to_bytes(name, v) for v in values], object)
    elif dtype == tf.bool and kinds <= {bool}:
        array = np.array(values, bool)
    elif dtype.is_integer and kinds <= {int}:
        if values and not dtype.min <= min(values) <= max(values) <= dtype.max:
            raise _lossy(name, dtype)
        array = np.array(values, dtype.as_numpy_dtype)
    elif dtype in _FLOATS and kinds <= {int, float}:
        array = _to_floats(name, values, dtype)
    else:
        known = dtype.is_integer or dtype in (*_FLOATS, tf.string, tf.bool)
        raise status_codes.StatusError(
            "INVALID_ARGUMENT" if known else "UNIMPLEMENTED",
            f"Input {name} must hold values of type {dtype.name}.",
        )
    return tf.make_tensor_proto(array.reshape(shape), dtype, shape)


def _to_floats(name: str, values: list, dtype: tf.DType) -> np.ndarray:
    numpy_type = dtype.as_numpy_dtype
    # Up to here there is a float for every integer.
    largest = int(2 / np.finfo(numpy_type).eps) - 1
    # Pixels come by the million, as plain floats.
    integers = int in set(map(type, values))
    if integers and any(type(v) is int and abs(v) > largest for v in values):
        raise _lossy(name, dtype)
    doubles = np.array(values, np.float64)
    with np.errstate(over="ignore"):
        array = doubles.astype(numpy_type)
    if np.any(np.isinf(array) & np.isfinite(doubles)):
        raise _lossy(name, dtype)
    return array


def _lossy(name: str, dtype: tf.DType) -> status_codes.StatusError:
    return status_codes.invalid_argument(
        f"Input {name} has a number that {dtype.name} cannot hold without loss."
    )


def _to_bytes(name: str, value: str | dict) -> bytes:
    """Returns a string's bytes as they came, or those of `{"b64": "…"}`."""
    try:
        if isinstance(value, str):
            return value.encode("utf-8", "surrogateescape")
        (text,) = [value["b64"]] if len(value) == 1 else []
        text = text.translate({10: None, 13: None}).rstrip("=")
        # TF Serving takes the padding or its absence.
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (ValueError, KeyError, AttributeError) as error:
        raise status_codes.invalid_argument(
            f"Input {name} must hold strings, or objects with a base64 string "
            "as the only key, 'b64'."
        ) from error
