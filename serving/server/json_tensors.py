"""TF Serving's JSON for the Predict API: parsed bodies to tensors.

Rules and messages follow TF Serving's `util/json_tensor.cc`.
"""

import math

import numpy as np
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import predict_pb2

from serving import status_codes
from serving.server import json_text

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


def fill_predict_request(
    document: dict, declared, request: predict_pb2.PredictRequest
) -> str:
    """Fills a request's inputs from a JSON object.

    Args:
        document: what `json_text.parse` returned.
        declared: TensorInfo of each input of the signature, by name.
        request: gets the inputs.

    Returns:
        `ROW` or `COLUMNAR`, the format that the answer must have.
    """
    if ROW in document and COLUMNAR in document:
        raise json_text.format_error(
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


def _check_instances(document: dict, declared) -> None:
    instances = document[ROW]
    if not isinstance(instances, list):
        raise json_text.format_error(
            document, f"Excepting '{ROW}' to be an list/array"
        )
    if not instances:
        raise json_text.format_error(document, f"No values in '{ROW}' array")
    if not isinstance(instances[0], dict) and len(declared) > 1:
        raise status_codes.invalid_argument(
            "instances is a plain list, but expecting list of objects as "
            "multiple input tensors required as per tensorinfo_map"
        )


def _fill_from_instances(instances: list, declared, request) -> None:
    def is_object(value):
        return isinstance(value, dict) and not json_text.is_base64_object(value)

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
                f"JSON object: {json_text.quote(element)} keys must be equal "
                f"to: {','.join(sorted(declared))}"
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
    if not isinstance(value, dict) or json_text.is_base64_object(value):
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
            raise json_text.format_error(
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
        tensor.string_val.append(json_text.decode_base64(value))
    elif dtype == types_pb2.DT_STRING and isinstance(value, str):
        tensor.string_val.append(json_text.to_bytes(value))
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
            f"Conversion of JSON Value: {json_text.quote(value)} to type: "
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
            f"Cannot convert JSON value: {json_text.quote(value)} to {name} "
            "without loss of precision."
        )
    getattr(tensor, field).append(value)


def _type_error(value, dtype: int) -> status_codes.StatusError:
    return status_codes.invalid_argument(
        f"JSON Value: {json_text.quote(value)} Type: "
        f"{json_text.type_name(value)} is not of expected type: "
        f"{_data_type_name(dtype)}"
    )


def _data_type_name(dtype: int) -> str:
    return types_pb2.DataType.Name(dtype).removeprefix("DT_").lower()
