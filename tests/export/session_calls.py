"""Asks a version in a session; runs in the Python of another TensorFlow.

    python session_calls.py VERSION_DIR INPUTS.npz OPS.txt ANSWERS.npz

Writes what each signature answers, as SIGNATURE/OUTPUT, and says which of the
ops this TensorFlow lacks.
"""

import sys

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

version_dir, inputs, ops, answers = sys.argv[1:]
with open(ops) as file:
    absent = [op for op in file.read().split() if not op_def_registry.get(op)]
given = np.load(inputs, allow_pickle=True)
found = {}
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], version_dir)
    for name in given:
        definition = meta_graph.signature_def[name]
        (tensor,) = definition.inputs.values()
        outputs = {key: t.name for key, t in definition.outputs.items()}
        values = session.run(outputs, {tensor.name: given[name]})
        found |= {f"{name}/{key}": value for key, value in values.items()}
np.savez(answers, **found)
print(tf.version.VERSION, *absent)
