import os

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.export import examples
from trainer.export import saved_model, signature, versions


def test_version_is_one_file_of_weights_under_18_megabytes(exported):
    variables = os.path.join(exported, "variables")
    size = sum(
        os.path.getsize(os.path.join(directory, name))
        for directory, _, names in os.walk(exported)
        for name in names
    )
    assert size < 18e6
    names = os.listdir(variables) if os.path.isdir(variables) else []
    data = [n for n in names if n.startswith("variables.data")]
    assert all(os.path.getsize(os.path.join(variables, n)) < 1000 for n in data)


def test_manifest_has_the_facts_and_every_file(exported):
    manifest = versions.read_manifest(exported)
    assert manifest["operating_point"] == examples.OPERATING_POINT
    assert {"saved_model.pb", "assets/dataset.json"} <= set(manifest["files"])
    assert versions.changed_files(exported) == []


def test_every_signature_is_declared_for_predict(exported):
    saved = saved_model_pb2.SavedModel()
    with open(os.path.join(exported, "saved_model.pb"), "rb") as file:
        saved.ParseFromString(file.read())
    methods = {
        name: declared.method_name
        for name, declared in saved.meta_graphs[0].signature_def.items()
        if not name.startswith("__")
    }
    assert methods == dict.fromkeys(
        signature.SIGNATURES, "tensorflow/serving/predict"
    )


def test_failed_export_leaves_nothing(module, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        os.makedirs(args[1])
        raise OSError("No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="No space"):
        saved_model.export_version(
            module, str(tmp_path), assets={}, warmup=None, facts={}
        )
    assert os.listdir(tmp_path) == []
