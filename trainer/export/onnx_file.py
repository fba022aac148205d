"""The `pixels` signature as an ONNX file, for runtimes that are no TensorFlow.

Needs the extra `onnx`: tf2onnx writes the file, ONNX Runtime tries it.
"""

import importlib.util
import json
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from trainer.export import signature

_OPSET = 17  # of ONNX 1.12 (2022)


def require_converter() -> None:
    """Asks for what writes and tries the file, before hours of training.

    Raises:
        ValueError: if it is not installed.
    """
    for name in ("tf2onnx", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"--export_formats=saved_model,onnx needs {name}: install it "
                "with pip install 'lightbox[onnx]', or leave onnx out."
            )


def convert(function, spec: tf.TensorSpec, names: Sequence[str]) -> bytes:
    """An ONNX file of a function of one tensor that gives a dict.

    Args:
        function: without variables. What it gives of strings is left out: not
            every runtime has them.
        spec: of the tensor; the file names it alike.
        names: of the classes, for the metadata `class_names`.
    """
    # Slow to import, and an extra.
    import tf2onnx.convert

    def call(given):
        outputs = function(given)
        return {
            key: tf.identity(output, key)
            for key, output in outputs.items()
            if output.dtype != tf.string
        }

    concrete = tf.function(call, autograph=False).get_concrete_function(spec)
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
    proto.metadata_props.add(key=signature.CLASS_NAMES, value=json.dumps(names))
    return proto.SerializeToString()


def answer(path: str, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """What ONNX Runtime makes of a batch by a version's file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {signature.PIXELS_INPUT: pixels})
    return dict(zip(names, values, strict=True))
