"""TF Serving's JSON answers, written as `util/json_tensor.cc` writes them.

By hand rather than with `json.dumps`, for three reasons: a float32 is written
with the digits it needs and not as the double it would become, NaN and
infinity are bare tokens, and strings may hold bytes that are not UTF-8.
"""

import base64
import json
import math

import numpy as np
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving import status_codes
from serving.server import json_tensors

_BYTES_SUFFIX = "_bytes"
_VALUE_FIELDS = {
    types_pb2.DT_INT8: "int_val",
    types_pb2.DT_INT16: "int_val",
    types_pb2.DT_INT32: "int_val",
    types_pb2.DT_UINT8: "int_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_UINT32: "uint32_val",
    types_pb2.DT_UINT64: "uint64_val",
}


def predictions(outputs: dict, request_format: str) -> bytes:
    """Returns the body that answers a predict request.

    Args:
        outputs: TensorProto of each output, values in the field of their type.
        request_format: `json_tensors.ROW` or `json_tensors.COLUMNAR`.
    """
    if not outputs:
        raise status_codes.invalid_argument(
            "Cannot convert empty tensor map to JSON"
        )
    outputs = dict(sorted(outputs.items()))
    if request_format == json_tensors.ROW:
        text = _rows(outputs)
    else:
        text = _columns(outputs)
    return text.encode("utf-8", "surrogateescape")


def classifications(result: classification_pb2.ClassificationResult) -> bytes:
    """Returns the body that answers a classify request."""
    rows = [
        ", ".join(
            f"[{_string(entry.label)}, {_decimal(np.float32(entry.score))}]"
            for entry in row.classes
        )
        for row in result.classifications
    ]
    lists = ", ".join(f"[{row}]" for row in rows)
    return f'{{\n    "results": [{lists}\n    ]\n}}'.encode()


def regressions(result: regression_pb2.RegressionResult) -> bytes:
    """Returns the body that answers a regress request."""
    values = ", ".join(
        _decimal(np.float32(regression.value))
        for regression in result.regressions
    )
    return f'{{\n    "results": [{values}]\n}}'.encode()


def error(message: str) -> bytes:
    """Returns the body of every answer that is an error."""
    # A message may quote what a client sent, whatever that was.
    text = message.encode("utf-8", "replace").decode("utf-8")
    return f'{{\n    "error": {_string(text)}\n}}'.encode()


def _rows(outputs: dict[str, tensor_pb2.TensorProto]) -> str:
    batch_size = None
    for name, tensor in outputs.items():
        if not tensor.tensor_shape.dim:
            raise status_codes.invalid_argument(
                f"Tensor name: {name} has no shape information "
            )
        size = tensor.tensor_shape.dim[0].size
        if batch_size not in (None, size):
            raise status_codes.invalid_argument(
                f"Tensor name: {name} has inconsistent batch size: {size} "
                f"expecting: {batch_size}"
            )
        batch_size = size
    columns = {
        name: _nest(_values(name, tensor), _shape(tensor)[1:], batch_size)
        for name, tensor in outputs.items()
    }
    if len(columns) == 1:
        (rows,) = columns.values()
        return f'{{\n    "predictions": [{", ".join(rows)}\n    ]\n}}'
    objects = [
        "        {\n"
        + ",\n".join(
            f"            {_string(name)}: {column[row]}"
            for name, column in columns.items()
        )
        + "\n        }"
        for row in range(batch_size)
    ]
    body = ",\n".join(objects)
    return f'{{\n    "predictions": [\n{body}\n    ]\n}}'


def _columns(outputs: dict[str, tensor_pb2.TensorProto]) -> str:
    columns = {
        name: _nest(_values(name, tensor), _shape(tensor), 1)[0]
        for name, tensor in outputs.items()
    }
    if len(columns) == 1:
        (column,) = columns.values()
        return f'{{\n    "outputs": {column}\n}}'
    members = ",\n".join(
        f"        {_string(name)}: {column}" for name, column in columns.items()
    )
    return f'{{\n    "outputs": {{\n{members}\n    }}\n}}'


def _shape(tensor: tensor_pb2.TensorProto) -> list[int]:
    return [dim.size for dim in tensor.tensor_shape.dim]


def _nest(values: list[str], shape: list[int], count: int) -> list[str]:
    """Returns `count` JSON texts, each a nested list of `shape`."""
    for size, outer in zip(
        reversed(shape), _outer_counts(shape, count), strict=True
    ):
        values = [
            f"[{', '.join(values[row * size : (row + 1) * size])}]"
            for row in range(outer)
        ]
    return values


def _outer_counts(shape: list[int], count: int) -> list[int]:
    """Returns how many lists there are at each level, innermost first."""
    counts = [count]
    for size in shape[:-1]:
        counts.append(counts[-1] * size)
    return list(reversed(counts)) if shape else []


def _values(name: str, tensor: tensor_pb2.TensorProto) -> list[str]:
    """Returns each value of a tensor as JSON."""
    dtype = tensor.dtype
    if dtype == types_pb2.DT_FLOAT:
        return [_decimal(np.float32(value)) for value in tensor.float_val]
    if dtype == types_pb2.DT_DOUBLE:
        return [_decimal(np.float64(value)) for value in tensor.double_val]
    if dtype == types_pb2.DT_BOOL:
        return ["true" if value else "false" for value in tensor.bool_val]
    if dtype in _VALUE_FIELDS:
        return [str(value) for value in getattr(tensor, _VALUE_FIELDS[dtype])]
    if dtype != types_pb2.DT_STRING:
        raise status_codes.invalid_argument(
            "Failed to write JSON value for tensor type: "
            f"{types_pb2.DataType.Name(dtype).removeprefix('DT_').lower()}"
        )
    if name.endswith(_BYTES_SUFFIX):
        return [
            f'{{"b64": "{base64.b64encode(value).decode()}"}}'
            for value in tensor.string_val
        ]
    return [
        _string(value.decode("utf-8", "surrogateescape"))
        for value in tensor.string_val
    ]


def _decimal(value: np.floating) -> str:
    """Returns the shortest of TF Serving's two notations that round-trips."""
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    text = f"{number:.6g}"
    if type(value)(text) != value:
        text = f"{number:.{9 if value.itemsize == 4 else 17}g}"
    return text if "." in text or "e" in text else text + ".0"


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
