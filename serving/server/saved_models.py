"""Loads one version of a SavedModel and calls its signatures.

Checks inputs and words errors as TF Serving does, so that a client cannot tell
the difference; `model_versions` decides what is loaded and when.
"""

import copy
import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from serving import status_codes
from serving.server import batching
from trainer.data import records
from trainer.export import signature, versions, warmup

# A few bytes can claim a shape of any size. Beyond this, a tensor must bring
# its values along.
MAX_CLAIMED_BYTES = 256 * 2**20

# `tf.errors.OpError.error_code` counts the canonical codes in this order.
_CODE_NAMES = tuple(status_codes.HTTP_STATUS)
# What Python adds to a message of the C++ runtime.
_PYTHON_DETAILS = re.compile(
    r"^Graph execution error: .*?<stack traces unavailable> |"
    r"^\{\{function_node [^}]*\}\} | \[Op:\w+\]( name: \S*)?$"
)
_DTYPE_NAMES = {"float32": "float", "float64": "double", "float16": "half"}


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """One version in memory.

    Attributes:
        version: its number.
        signature_defs: what the SavedModel declares, by signature name.
        functions: the callable signatures, by name.
        class_names: in the order of the probabilities, empty if unknown.
        reading: how files became its training images, options of
            `readers.decode_images`.
        root: keeps alive what the functions use.
    """

    version: int
    signature_defs: Mapping
    functions: Mapping[str, Callable]
    class_names: tuple[str, ...]
    reading: Mapping[str, Any]
    root: object

    def run(
        self,
        signature_name: str,
        inputs: Mapping[str, tensor_pb2.TensorProto],
        output_names: list[str],
    ) -> dict[str, tensor_pb2.TensorProto]:
        """Calls one signature.

        Args:
            signature_name: a key of `functions`.
            inputs: one tensor for each input of the signature.
            output_names: the outputs to return.

        Raises:
            StatusError: an input does not fit, or the model failed on it.
        """
        declared = self.signature_defs[signature_name].inputs
        tensors = {
            name: _to_tensor(name, inputs[name], declared)
            for name in sorted(inputs)
        }
        outputs = _call(self.functions[signature_name], tensors)
        return {name: to_proto(outputs[name]) for name in output_names}


def load(directory: str, version: int) -> LoadedModel:
    """Loads a version and replays its warm-up requests.

    Args:
        directory: holds `saved_model.pb`.
        version: the number that the directory stands for.

    Raises:
        ValueError: a file differs from the manifest or is no file, or the
            graph has no signatures.
        StatusError: a warm-up request fails.
        Exception: whatever TensorFlow raises on a damaged SavedModel.
    """
    _verify_manifest(directory)
    root = tf.saved_model.load(directory, tags=["serve"])
    # The loader does not give the declarations back, so read them again.
    contents = pathlib.Path(directory, versions.GRAPH_FILE).read_bytes()
    graphs = saved_model_pb2.SavedModel.FromString(contents).meta_graphs
    graph = next(g for g in graphs if "serve" in g.meta_info_def.tags)
    signature_defs = {
        # A copy does not keep the whole SavedModel in memory.
        name: copy.deepcopy(declared)
        for name, declared in graph.signature_def.items()
    }
    functions = dict(root.signatures)
    if not functions:
        raise ValueError(
            "A SavedModel must have at least one signature to be served. "
            f"Received: {directory}. Export it with `trainer.task`."
        )
    info = _read_dataset(directory)
    if info:  # In another SavedModel one image may change another's answer.
        for name, function in functions.items():
            if set(signature_defs[name].inputs) == {signature.IMAGE_BYTES}:
                functions[name] = batching.Batched(function)
    model = LoadedModel(
        version,
        signature_defs,
        functions,
        info.class_names if info else (),
        info.reading if info else {},
        root,
    )
    num_replayed = _warm_up(model, directory)
    logging.info("Replayed %d warm-up requests", num_replayed)
    return model


def data_type_name(dtype: int) -> str:
    """Returns the C++ name of a DataType, such as `float` for DT_FLOAT."""
    try:
        name = tf.dtypes.as_dtype(dtype).name
    except TypeError:
        return f"unknown dtype enum ({dtype})"
    return _DTYPE_NAMES.get(name, name)


def to_proto(tensor: tf.Tensor) -> tensor_pb2.TensorProto:
    """Returns a tensor with its values in the field of their type.

    TF Serving answers so, and clients read `float_val`; `tf.make_tensor_proto`
    would pack the values into `tensor_content`.
    """
    values = tensor.numpy()
    if tensor.dtype == tf.string:
        values = np.asarray(values, dtype=object)  # A scalar comes as bytes.
    field = _VALUE_FIELDS.get(tensor.dtype)
    if field is None:
        return tf.make_tensor_proto(values)
    proto = tensor_pb2.TensorProto(
        dtype=tensor.dtype.as_datatype_enum,
        tensor_shape=tensor.shape.as_proto(),
    )
    getattr(proto, field).extend(values.ravel().tolist())
    return proto


_VALUE_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    **dict.fromkeys(
        (tf.int8, tf.int16, tf.int32, tf.uint8, tf.uint16), "int_val"
    ),
    tf.uint32: "uint32_val",
    tf.int64: "int64_val",
    tf.uint64: "uint64_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
}


def _to_tensor(name: str, proto: tensor_pb2.TensorProto, declared) -> tf.Tensor:
    info = declared[name]
    if proto.dtype != info.dtype:
        feeds = sorted(declared, key=lambda alias: declared[alias].name)
        raise status_codes.invalid_argument(
            f"Expects arg[{feeds.index(name)}] to be "
            f"{data_type_name(info.dtype)} but "
            f"{data_type_name(proto.dtype)} is provided"
        )
    if not _has_plausible_size(proto):
        raise status_codes.invalid_argument(f"tensor parsing error: {name}")
    try:
        tensor = _parse(proto)
    # TensorFlow's message quotes the bytes, which need not be valid UTF-8.
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        raise status_codes.invalid_argument(
            f"tensor parsing error: {name}"
        ) from error
    expected = tf.TensorShape(info.tensor_shape)
    if not expected.is_compatible_with(tensor.shape):
        raise status_codes.invalid_argument(
            f"Input {name} must have shape {_shape_text(expected)}, "
            f"but {_shape_text(tensor.shape)} is provided"
        )
    return tensor


def _parse(proto: tensor_pb2.TensorProto) -> tf.Tensor:
    """The tensor of a proto.

    TensorFlow's parser makes four copies: it is left what clients do not send.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    dtype = tf.dtypes.as_dtype(proto.dtype)
    size, is_known = math.prod(shape), not proto.tensor_shape.unknown_rank
    if is_known and dtype == tf.string and len(proto.string_val) == size:
        return tf.constant(list(proto.string_val), dtype, shape)
    if is_known and dtype.is_floating and size and proto.tensor_content:
        content = np.frombuffer(proto.tensor_content, dtype.as_numpy_dtype)
        if content.size == size:
            return tf.constant(content.reshape(shape))
    return tf.io.parse_tensor(proto.SerializeToString(), proto.dtype)


def _shape_text(shape: tf.TensorShape) -> str:
    """Returns a shape as TensorFlow's C++ code writes it, `[?,224,224,3]`."""
    sizes = ("?" if size is None else str(size) for size in shape)
    return f"[{','.join(sizes)}]"


def _has_plausible_size(proto: tensor_pb2.TensorProto) -> bool:
    sizes = [dim.size for dim in proto.tensor_shape.dim]
    itemsize = max(tf.dtypes.as_dtype(proto.dtype).size or 8, 1)
    limit = max(MAX_CLAIMED_BYTES, 2 * proto.ByteSize())
    return min(sizes, default=0) >= 0 and itemsize * math.prod(sizes) <= limit


def _call(function: Callable, tensors: dict) -> dict[str, tf.Tensor]:
    try:
        return function(**tensors)
    except tf.errors.OpError as error:
        message = " ".join(error.message.split())
        code = _CODE_NAMES[error.error_code]
        message = _PYTHON_DETAILS.sub("", message)
        raise status_codes.StatusError(code, message) from error
    # TensorFlow's message quoted bytes of the request; see `_to_tensor`.
    except UnicodeDecodeError as error:
        raise status_codes.invalid_argument(
            "The model cannot read the bytes it was sent."
        ) from error


def _verify_manifest(directory: str) -> None:
    """Raises ValueError if a file is not what the export wrote.

    The graph has no checksum of its own: with a flipped bit it loads, and
    answers wrongly. A SavedModel from elsewhere has no manifest.
    """
    if signature.MANIFEST_FILE not in versions.list_plain_files(directory):
        return
    changed = versions.changed_files(directory)
    if changed:
        raise ValueError(
            f"Every file must be as the export wrote it, but {changed[0]} "
            f"differs from {signature.MANIFEST_FILE}."
        )


def _read_dataset(directory: str) -> records.DatasetInfo | None:
    path = os.path.join(directory, "assets", signature.DATASET_ASSET)
    try:
        text = pathlib.Path(path).read_text("utf-8")
        return records.DatasetInfo.from_json(text)
    except (OSError, ValueError):  # It is from elsewhere.
        return None


def _warm_up(model: LoadedModel, directory: str) -> int:
    path = os.path.join(directory, signature.WARMUP_FILE)
    if not os.path.exists(path):
        return 0
    num_records = 0
    for num_records, record in enumerate(tf.data.TFRecordDataset(path), 1):
        if num_records > warmup.MAX_RECORDS:
            raise ValueError(
                "A warm-up file must hold at most "
                f"{warmup.MAX_RECORDS} records: {path}"
            )
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        kind = log.WhichOneof("log_type")
        if kind != "predict_log":
            logging.warning("Skipped a warm-up record of type %s", kind)
            continue
        request = log.predict_log.request
        name = request.model_spec.signature_name or signature.SERVING_DEFAULT
        outputs = list(model.signature_defs[name].outputs)
        model.run(name, request.inputs, outputs)
    return num_records
