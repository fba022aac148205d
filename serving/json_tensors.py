"""TF Serving's JSON: request bodies to protos, protos to response bodies.

Rules and messages follow TF Serving's `util/json_tensor.cc`. One deliberate
difference: an offending value is quoted up to `MAX_QUOTED` characters, since
it may be a whole image.
"""

import base64
import binascii
import json
import math
import re

import numpy as np
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import predict_pb2

from serving import status_codes

MAX_QUOTED = 1024
ROW = "instances"
COLUMNAR = "inputs"

_INT_FIELDS = {
    types_pb2.DT_INT8: ("int_val", -(2**31), 2**31 - 1),
    types_pb2.DT_INT16: ("int_val", -(2**31), 2**31 - 1),
    types_pb2.DT_INT32: ("int_val", -(2**31), 2**31 - 1),
    types_pb2.DT_UINT8: ("int_val", -(2**31), 2**31 - 1),
    types_pb2.DT_INT64: ("int64_val", -(2**63), 2**63 - 1),
    types_pb2.DT_UINT32: ("uint32_val", 0, 2**32 - 1),
    types_pb2.DT_UINT64: ("uint64_val", 0, 2**64 - 1),
}
# Field, name, largest integer without gaps, largest finite value.
_FLOAT_FIELDS = {
    types_pb2.DT_FLOAT: (
        "float_val",
        "float",
        2**24 - 1,
        float(np.finfo(np.float32).max),
    ),
    types_pb2.DT_DOUBLE: (
        "double_val",
        "double",
        2**53 - 1,
        float(np.finfo(np.float64).max),
    ),
}
_TYPE_NAMES = {
    type(None): "Null",
    dict: "Object",
    list: "Array",
    str: "String",
    int: "Number",
    float: "Number",
}
# RapidJSON's words for Python's.
_PARSE_ERRORS = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": (
        "Missing a name for object member."
    ),
    "Illegal trailing comma before end of object": (
        "Missing a name for object member."
    ),
    "Illegal trailing comma before end of array": "Invalid value.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Unterminated string starting at": (
        "Missing a closing quotation mark in string."
    ),
    "Invalid control character at": "Invalid encoding in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": (
        "Incorrect hex digit after \\u escape in string."
    ),
}


def parse(body: bytes) -> dict:
    """Returns the JSON object that a request body starts with.

    Strings keep bytes that are not UTF-8 as surrogate escapes, because TF
    Serving hands them to the model as they came.

    Raises:
        StatusError: the body does not start with a JSON object.
    """
    if not body:
        raise status_codes.invalid_argument(
            "JSON Parse error: The document is empty"
        )
    text = body.decode("utf-8", "surrogateescape").lstrip("\ufeff \t\r\n")
    skipped = len(body) - len(text.encode("utf-8", "surrogateescape"))
    if not text:
        raise _parse_error("The document is empty.", skipped)
    try:
        document, _ = json.JSONDecoder(strict=True).raw_decode(text)
    except json.JSONDecodeError as error:
        reason = _PARSE_ERRORS.get(error.msg) or _missing_comma(
            text[: error.pos]
        )
        read = len(text[: error.pos].encode("utf-8", "surrogateescape"))
        raise _parse_error(reason, skipped + read) from error
    except ValueError as error:  # An integer of more digits than Python reads.
        raise _parse_error(
            "Number too big to be stored in double.", skipped
        ) from error
    except RecursionError as error:
        raise _parse_error("Nested too deeply.", skipped) from error
    if not isinstance(document, dict):
        raise _format_error(document, "Is not object")
    return document


def signature_name(document: dict) -> str:
    """Returns the `signature_name` of a request, empty if it has none."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise _format_error(
            document,
            "not formatted correctly. 'signature_name' key must be a string "
            "value.",
        )
    return to_name(name)


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
    if ROW in document and COLUMNAR in document:
        raise _format_error(
            document,
            f"Not formatted correctly expecting only one of '{COLUMNAR}' or "
            f"'{ROW}' keys to exist ",
        )
    if ROW in document:
        _check_instances(document, declared)
        _fill_from_instances(document[ROW], declared, request)
        return ROW
    if COLUMNAR in document:
        _fill_from_inputs(document[COLUMNAR], declared, request)
        return COLUMNAR
    raise status_codes.invalid_argument("Missing 'inputs' or 'instances' key")


def decode_base64(value: dict) -> bytes:
    """Returns the bytes of a `{"b64": "..."}` object."""
    if not is_base64_object(value):
        raise _format_error(value, "not formatted correctly for base64 data")
    text = value["b64"].replace("\n", "").replace("\r", "")
    try:
        # As absl does, take the padding or its absence.
        padding = "=" * (-len(text.rstrip("=")) % 4)
        return base64.b64decode(text.rstrip("=") + padding, validate=True)
    # ValueError: characters outside ASCII.
    except (binascii.Error, ValueError) as error:
        raise status_codes.invalid_argument(
            "Unable to base64 decode"
        ) from error


def is_base64_object(value) -> bool:
    """Returns whether `value` is an object with the one key `b64`."""
    return (
        isinstance(value, dict)
        and len(value) == 1
        and isinstance(value.get("b64"), str)
    )


def quote(value) -> str:
    """Returns a JSON value as text for an error message."""
    text = json.dumps(value, indent=4, ensure_ascii=False)
    if len(text) > MAX_QUOTED:
        text = text[:MAX_QUOTED] + "..."
    return text.encode("utf-8", "replace").decode("utf-8")


def type_name(value) -> str:
    """Returns RapidJSON's name for the type of a JSON value."""
    if isinstance(value, bool):
        return str(value)
    return _TYPE_NAMES[type(value)]


def to_bytes(text: str) -> bytes:
    """Returns a parsed string's bytes, as they stood in the body."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise status_codes.invalid_argument(
            "JSON Parse error: The surrogate pair in string is invalid."
        ) from error


def to_name(text: str) -> str:
    """Returns a parsed string as a name, which must be valid UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _parse_error(reason: str, offset: int) -> status_codes.StatusError:
    return status_codes.invalid_argument(
        f"JSON Parse error: {reason} at offset: {offset}"
    )


def _missing_comma(text: str) -> str:
    """Names the innermost bracket that is open at the end of `text`."""
    depth = 0
    for bracket in reversed(re.sub(r'"(\\.|[^"\\])*"', "", text)):
        depth += (bracket in "}]") - (bracket in "{[")
        if depth < 0:
            if bracket == "[":
                return "Missing a comma or ] after an array element."
            break
    return "Missing a comma or } after an object member."


def _format_error(value, problem: str) -> status_codes.StatusError:
    return status_codes.invalid_argument(
        f"JSON Value: {quote(value)} {problem}"
    )


def _check_instances(document: dict, declared) -> None:
    instances = document[ROW]
    if not isinstance(instances, list):
        raise _format_error(document, f"Excepting '{ROW}' to be an list/array")
    if not instances:
        raise _format_error(document, f"No values in '{ROW}' array")
    if not isinstance(instances[0], dict) and len(declared) > 1:
        raise status_codes.invalid_argument(
            "instances is a plain list, but expecting list of objects as "
            "multiple input tensors required as per tensorinfo_map"
        )


def _fill_from_instances(instances: list, declared, request) -> None:
    def is_object(value):
        return isinstance(value, dict) and not is_base64_object(value)

    shapes: dict[str, list[int]] = {}
    objects = is_object(instances[0])
    for index, element in enumerate(instances):
        if objects != is_object(element):
            raise status_codes.invalid_argument(
                f"Expecting object but got list at item {index} of input list"
                if objects
                else "Expecting value/list but got object at item "
                f"{index} of input list"
            )
        items = element if objects else {next(iter(declared)): element}
        for name, value in items.items():
            try:
                _add_instance(name, value, declared, shapes, request)
            except status_codes.StatusError as error:
                key = f" key: {name}" if objects else ""
                raise status_codes.invalid_argument(
                    f"Failed to process element: {index}{key} of 'instances' "
                    f"list. Error: {error}"
                ) from error
        if objects and set(element) != set(declared):
            raise status_codes.invalid_argument(
                f"Failed to process element: {index} of 'instances' list. "
                f"JSON object: {quote(element)} keys must be equal to: "
                f"{','.join(sorted(declared))}"
            )
    for name, shape in shapes.items():
        _set_shape(request.inputs[name], [len(instances), *shape])


def _add_instance(name: str, value, declared, shapes, request) -> None:
    if name not in declared:
        raise status_codes.invalid_argument(
            f"JSON object: does not have named input: {name}"
        )
    shape = _dense_shape(value)
    tensor = request.inputs[name]
    tensor.dtype = declared[name].dtype
    _add_values(value, 0, shape, tensor)
    expected = shapes.setdefault(name, shape)
    if math.prod(expected) != math.prod(shape):
        raise status_codes.invalid_argument(
            f"Expecting tensor size: {math.prod(expected)} but got: "
            f"{math.prod(shape)}"
        )
    if expected != shape:
        raise status_codes.invalid_argument(
            f"Expecting shape {_shape_text(expected)} but got: "
            f"{_shape_text(shape)}"
        )


def _fill_from_inputs(value, declared, request) -> None:
    named = value
    if not isinstance(value, dict) or is_base64_object(value):
        if len(declared) > 1:
            raise status_codes.invalid_argument(
                "inputs is a plain value/list, but expecting an object as "
                "multiple input tensors required as per tensorinfo_map"
            )
        named = {next(iter(declared)): value}
    for name, info in declared.items():
        if name not in named:
            raise status_codes.invalid_argument(
                f"Missing named input: {name} in 'inputs' object."
            )
        shape = _dense_shape(named[name])
        tensor = request.inputs[name]
        tensor.dtype = info.dtype
        _set_shape(tensor, shape)
        _add_values(named[name], 0, shape, tensor)


def _dense_shape(value) -> list[int]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def _shape_text(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _set_shape(tensor: tensor_pb2.TensorProto, shape: list[int]) -> None:
    tensor.tensor_shape.Clear()
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)


def _add_values(value, level: int, shape: list[int], tensor) -> None:
    rank = len(shape)
    if not isinstance(value, list):
        if level != rank:
            raise _format_error(
                value,
                f"found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {rank}",
            )
        _add_value(value, tensor)
        return
    if level >= rank:
        raise status_codes.invalid_argument(
            f"Encountered list at unexpected level: {level} expected < {rank}"
        )
    if len(value) != shape[level]:
        raise status_codes.invalid_argument(
            f"Encountered list at unexpected size: {len(value)} at level: "
            f"{level} expected size: {shape[level]}"
        )
    if level == rank - 1 and _add_finite_floats(value, tensor):
        return
    for element in value:
        _add_values(element, level + 1, shape, tensor)


def _add_finite_floats(values: list, tensor) -> bool:
    """Adds a row of plain floats at once; pixels come by the million."""
    if tensor.dtype not in _FLOAT_FIELDS or set(map(type, values)) != {float}:
        return False
    field, _, _, largest = _FLOAT_FIELDS[tensor.dtype]
    if not max(map(abs, values)) <= largest:
        return False
    getattr(tensor, field).extend(values)
    return True


def _add_value(value, tensor: tensor_pb2.TensorProto) -> None:
    dtype = tensor.dtype
    is_number = type(value) in (int, float)
    if dtype == types_pb2.DT_STRING and isinstance(value, dict):
        tensor.string_val.append(decode_base64(value))
    elif dtype == types_pb2.DT_STRING and isinstance(value, str):
        tensor.string_val.append(to_bytes(value))
    elif dtype == types_pb2.DT_BOOL and isinstance(value, bool):
        tensor.bool_val.append(value)
    elif dtype in _INT_FIELDS and type(value) is int:
        field, smallest, largest = _INT_FIELDS[dtype]
        if not smallest <= value <= largest:
            raise _type_error(value, dtype)
        getattr(tensor, field).append(value)
    elif dtype in _FLOAT_FIELDS and is_number:
        _add_number(value, tensor)
    elif (
        dtype in _FLOAT_FIELDS
        or dtype in _INT_FIELDS
        or dtype
        in (
            types_pb2.DT_STRING,
            types_pb2.DT_BOOL,
        )
    ):
        raise _type_error(value, dtype)
    else:
        raise status_codes.StatusError(
            "UNIMPLEMENTED",
            f"Conversion of JSON Value: {quote(value)} to type: "
            f"{_data_type_name(dtype)}",
        )


def _add_number(value, tensor: tensor_pb2.TensorProto) -> None:
    field, name, largest_int, largest = _FLOAT_FIELDS[tensor.dtype]
    lossless = (
        abs(value) <= largest_int
        if isinstance(value, int)
        else not math.isfinite(value) or abs(value) <= largest
    )
    if not lossless:
        raise status_codes.invalid_argument(
            f"Cannot convert JSON value: {quote(value)} to {name} without "
            "loss of precision."
        )
    getattr(tensor, field).append(value)


def _type_error(value, dtype: int) -> status_codes.StatusError:
    return status_codes.invalid_argument(
        f"JSON Value: {quote(value)} Type: {type_name(value)} is not of "
        f"expected type: {_data_type_name(dtype)}"
    )


def _data_type_name(dtype: int) -> str:
    return types_pb2.DataType.Name(dtype).removeprefix("DT_").lower()
