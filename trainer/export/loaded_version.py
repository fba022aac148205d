"""A version in a session of TensorFlow's C++ runtime, as in TF Serving.

No Python function of the SavedModel is made.
"""

import dataclasses
import time

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from trainer.data import records
from trainer.export import signature


@dataclasses.dataclass(frozen=True)
class LoadedVersion:
    """A loaded version: its signatures, and what it was made of."""

    directory: str
    info: records.DatasetInfo
    session: tf.compat.v1.Session
    meta_graph: meta_graph_pb2.MetaGraphDef
    load_s: float

    @property
    def pixels_shape(self) -> list[int | None]:
        definition = self.meta_graph.signature_def[signature.PIXELS]
        size = shape(definition.inputs[signature.PIXELS_INPUT])[1:3]
        return [None, *size, self.info.channels]

    def call(self, name: str, values) -> dict[str, np.ndarray]:
        """What a signature answers to a batch."""
        definition = self.meta_graph.signature_def[name]
        (given,) = definition.inputs.values()
        wanted = {key: info.name for key, info in definition.outputs.items()}
        return self.session.run(wanted, {given.name: values})


def load(directory: str, info: records.DatasetInfo) -> LoadedVersion:
    """Loads a version; on a damaged one TensorFlow raises all kinds."""
    start = time.monotonic()
    with tf.Graph().as_default():
        session = tf.compat.v1.Session()
        meta_graph = tf.compat.v1.saved_model.load(
            session, ["serve"], directory
        )
    load_s = time.monotonic() - start
    return LoadedVersion(directory, info, session, meta_graph, load_s)


def shape(info: meta_graph_pb2.TensorInfo) -> list[int | None]:
    return tf.TensorShape(info.tensor_shape).as_list()
