import os
from unittest import mock

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.export import examples
from trainer.export import saved_model, signature, versions
from trainer.storage import paths

pytestmark = pytest.mark.slow


def test_version_is_one_file_of_weights_under_18_megabytes(exported):
    sizes = {
        name: os.path.getsize(os.path.join(exported, name))
        for name in paths.list_files(exported)
    }
    assert sum(sizes.values()) < 18e6
    data = [name for name in sizes if name.startswith("variables/variables.d")]
    assert all(sizes[name] < 1000 for name in data)


def test_manifest_has_the_facts_and_every_file(exported):
    manifest = versions.read_manifest(exported)
    assert manifest["operating_point"] == examples.OPERATING_POINT
    assert {"saved_model.pb", "assets/dataset.json"} <= set(manifest["files"])
    assert versions.changed_files(exported) == []


def test_every_signature_is_declared_for_predict(exported):
    graph = paths.read_bytes(os.path.join(exported, "saved_model.pb"))
    saved = saved_model_pb2.SavedModel.FromString(graph)
    methods = {
        name: declared.method_name
        for name, declared in saved.meta_graphs[0].signature_def.items()
        if not name.startswith("__")
    }
    assert methods == dict.fromkeys(
        signature.SIGNATURES, "tensorflow/serving/predict"
    )


def test_failed_export_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        os.makedirs(args[1])
        raise OSError("No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="No space"):
        saved_model.export_version(
            mock.Mock(), str(tmp_path), assets={}, extra={}, facts={}
        )
    assert os.listdir(tmp_path) == []
