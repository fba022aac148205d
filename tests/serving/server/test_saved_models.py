"""What must hold for a version to load."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving import status_codes
from serving.external import exported
from serving.server import saved_models as loader
from tests.serving import brightness
from trainer.export import versions


@pytest.fixture
def directory(saved_models, tmp_path):
    return shutil.copytree(saved_models / "1", tmp_path / "1")


def test_class_names_are_those_of_an_export(directory):
    assert loader.load(str(directory), 1).class_names == brightness.CLASS_NAMES
    (directory / "assets" / "dataset.json").write_text('{"a": 1}')
    assert loader.load(str(directory), 1).class_names == ()


def test_warm_up_requests_are_replayed(directory):
    (directory / "assets.extra").mkdir()
    path = str(directory / "assets.extra" / "tf_serving_warmup_requests")

    def write(value):
        request = brightness.predict_request(
            "inverse", x=np.array(value, float)
        )
        log = prediction_log_pb2.PredictionLog()
        log.predict_log.request.CopyFrom(request)
        with tf.io.TFRecordWriter(path) as writer:
            writer.write(log.SerializeToString())

    write([[1, 2]])
    assert loader.load(str(directory), 1).version == 1
    write([1])
    with pytest.raises(status_codes.StatusError, match="must have shape"):
        loader.load(str(directory), 1)


def test_file_that_differs_from_the_manifest_does_not_load(directory):
    versions.write_manifest(str(directory), {})
    assert loader.load(str(directory), 1).version == 1
    graph = directory / "saved_model.pb"
    graph.write_bytes(graph.read_bytes().replace(b"dark", b"dork"))
    with pytest.raises(ValueError, match=r"saved_model.pb differs"):
        loader.load(str(directory), 1)


@pytest.mark.parametrize("load", [lambda d: loader.load(d, 1), exported.load])
def test_pipe_is_not_waited_for(tmp_path, load):
    os.mkfifo(tmp_path / "saved_model.pb")
    with pytest.raises(ValueError, match=r"saved_model.pb must be a file of"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("sizes", "is_plausible"),
    [
        ((2**26,), True),  # of four bytes: the limit itself
        ((2**26 + 1,), False),
        ((2**13, 2**13), True),
        ((2**13, 2**13 + 1), False),
        ((2**40, 0), True),
        ((-1, 2), False),
        ((), True),
    ],
)
def test_tensor_may_claim_no_more_than_a_limit(sizes, is_plausible):
    proto = tf.make_tensor_proto(1.0)
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    assert loader._has_plausible_size(proto) == is_plausible
