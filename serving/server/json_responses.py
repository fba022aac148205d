"""TF Serving's JSON answers.

NaN and infinity are bare tokens, as TF Serving writes them, and strings may
hold bytes that are not UTF-8.
"""

import base64
import json

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving import status_codes
from serving.server import json_requests


def predictions(
    outputs: dict[str, tensor_pb2.TensorProto], request_format: str
) -> bytes:
    """Returns the body that answers a predict request.

    Args:
        outputs: of the model, at least one.
        request_format: `json_requests.ROW` or `json_requests.COLUMNAR`.
    """
    arrays = {name: tf.make_ndarray(outputs[name]) for name in sorted(outputs)}
    columns = {name: _to_lists(name, array) for name, array in arrays.items()}
    if request_format == json_requests.COLUMNAR:
        key, answer = "outputs", columns
    else:
        sizes = {array.shape[:1] for array in arrays.values()}
        if len(sizes) > 1 or () in sizes:
            raise status_codes.invalid_argument(
                "All outputs must have one batch size to answer 'instances': "
                "ask with 'inputs'."
            )
        key = "predictions"
        answer = [
            dict(zip(columns, row, strict=True))
            for row in zip(*columns.values(), strict=True)
        ]
    if len(columns) == 1:  # It goes without its name.
        (answer,) = columns.values()
    text = json.dumps({key: answer}, ensure_ascii=False)
    return text.encode("utf-8", "surrogateescape")


def error(message: str) -> bytes:
    """Returns the body of every answer that is an error."""
    # A message may quote what a client sent, whatever that was.
    text = json.dumps({"error": message}, ensure_ascii=False)
    return text.encode("utf-8", "replace")


def _to_lists(name: str, array: np.ndarray):
    """Returns nested lists, or a bare value, that JSON can hold."""
    if array.dtype == np.object_:
        encode = _to_base64 if name.endswith("_bytes") else _to_text
        array = np.vectorize(encode, [object])(array)
    elif array.dtype == np.float32:
        # With the digits that it needs, not those of the double it becomes.
        array = array.astype(str).astype(np.float64)
    elif array.dtype.kind not in "fiub":
        raise status_codes.invalid_argument(
            f"Output {name} is of a type that JSON cannot hold: {array.dtype}."
        )
    return array.tolist()


def _to_base64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def _to_text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
