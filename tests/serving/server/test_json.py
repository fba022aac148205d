"""Tensors survive JSON, and its two formats say the same."""

import json

import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import predict_pb2

from serving.server import json_requests, json_responses

NUMBERS = st.sampled_from(["f2", "f4", "f8", "i1", "u1", "i4", "i8", "u8", "?"])


@st.composite
def tensors(draw, num_rows):
    """Rows of a tensor: numbers, or bytes that may be any."""
    shape = draw(array_shapes(min_dims=0, max_dims=2, max_side=3))
    shape = (num_rows, *shape)
    if draw(st.booleans()):
        return draw(arrays(draw(NUMBERS), shape))
    return draw(arrays(object, shape, elements=st.binary(max_size=5)))


def read(body: bytes, declared):
    """The inputs of a body, and its format."""
    document = json_requests.parse(body, 10**9)
    request = predict_pb2.PredictRequest()
    form = json_requests.fill_predict_request(document, declared, request)
    return {n: tf.make_ndarray(t) for n, t in request.inputs.items()}, form


@given(st.data(), st.integers(1, 4), st.integers(1, 3))
def test_answers_sent_back_as_inputs_are_the_same_tensors(
    data, num_rows, num_names
):
    names = ["image_bytes", "label", "x"][:num_names]
    values = {name: data.draw(tensors(num_rows)) for name in names}
    outputs = {n: tf.make_tensor_proto(v) for n, v in values.items()}
    declared = {
        name: meta_graph_pb2.TensorInfo(dtype=tensor.dtype)
        for name, tensor in outputs.items()
    }
    for form, key in (("inputs", "outputs"), ("instances", "predictions")):
        answer = json_responses.predictions(outputs, form)
        ((answered, content),) = json_requests.parse(answer, 10**9).items()
        assert answered == key
        body = json.dumps({form: content}, ensure_ascii=False)
        seen, answered = read(body.encode("utf-8", "surrogateescape"), declared)
        assert answered == form
        for name, value in values.items():
            assert seen[name].dtype == value.dtype
            np.testing.assert_array_equal(seen[name], value)
