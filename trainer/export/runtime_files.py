"""The `pixels` signature as a file for runtimes that are no TensorFlow.

Needs the extra of each format: what writes its files, and the runtime that
tries them.
"""

import importlib.util
import json
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from trainer.export import signature

_OPSET = 17  # of ONNX 1.12 (2022)
_PACKAGES = {"onnx": ("tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}


def require_converters(formats: Sequence[str]) -> None:
    """Asks for what writes and tries the files, before hours of training.

    Raises:
        ValueError: if it is not installed.
    """
    for name in formats:
        for package in _PACKAGES.get(name, ()):
            if importlib.util.find_spec(package) is None:
                raise ValueError(
                    f"--export_formats={','.join(formats)} needs {package}: "
                    f"install it with pip install 'lightbox[{name}]', or leave "
                    f"{name} out."
                )


def convert(
    name: str, function, spec: tf.TensorSpec, class_names: Sequence[str]
) -> bytes:
    """A file of a function of one tensor that gives a dict.

    Args:
        name: `onnx` or `litert`.
        function: without variables. What it gives of strings is left out: not
            every runtime has them.
        spec: of the tensor; the file names it alike.
        class_names: for ONNX's metadata `class_names`.
    """

    def call(given):
        outputs = function(given)
        return {
            key: tf.identity(output, key)
            for key, output in outputs.items()
            if output.dtype != tf.string
        }

    call = tf.function(call, autograph=False)
    concrete = call.get_concrete_function(spec)
    if name == "litert":
        owner = tf.Module()
        owner.call = call
        return tf.lite.TFLiteConverter.from_concrete_functions(
            [concrete], owner
        ).convert()
    # Slow to import, and an extra.
    import tf2onnx.convert

    # It has none left: functions are put in the places that call them.
    graph = convert_to_constants.convert_variables_to_constants_v2(
        concrete
    ).graph
    outputs = {f"{key}:0": key for key in concrete.structured_outputs}
    proto, _ = tf2onnx.convert.from_graph_def(
        graph.as_graph_def(),
        input_names=[f"{spec.name}:0"],
        output_names=list(outputs),
        opset=_OPSET,
        tensors_to_rename={f"{spec.name}:0": spec.name, **outputs},
    )
    proto.metadata_props.add(
        key=signature.CLASS_NAMES, value=json.dumps(class_names)
    )
    return proto.SerializeToString()


def answer(name: str, path: str, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """What the runtime of a format makes of a batch by a version's file."""
    given = {signature.PIXELS_INPUT: pixels}
    if name == "litert":
        from ai_edge_litert import interpreter

        return interpreter.Interpreter(path).get_signature_runner()(**given)
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    keys = [output.name for output in session.get_outputs()]
    return dict(zip(keys, session.run(keys, given), strict=True))
