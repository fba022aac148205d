import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.export.examples import (
    CLASS_NAMES,
    OPERATING_POINT,
    SET_THRESHOLDS,
    TEMPERATURE,
    make_module,
)
from tests.samples import IMAGE_SIZE
from trainer.data import input_pipeline, preprocessing
from trainer.evaluation.predictions import make_predictions
from trainer.export import (
    blessing,
    signature,
    version_checks,
    versions,
)
from trainer.report import tables

pytestmark = pytest.mark.slow

ALL_CHECKS = (
    "manifest",
    "size",
    "load",
    "TensorFlow",
    "signatures",
    "warm-up",
    "predictions",
    "bad input",
    "latency",
)


@pytest.fixture(scope="module")
def predictions_path(classifier_model, tiny_records, tmp_path_factory):
    """`predictions.csv` of the model on the records, by Keras."""
    info = input_pipeline.read_dataset_info(str(tiny_records))
    answers = {}
    for split in ("validation", "test"):
        files = input_pipeline.split_files(str(tiny_records), info, split)
        images = input_pipeline.iterate_encoded(files)
        pixels = [preprocessing.prepare_image(i, IMAGE_SIZE, 1) for i in images]
        index = input_pipeline.read_index(str(tiny_records), info)[split]
        logits = classifier_model(np.stack(pixels), training=False).numpy()
        answers[split] = make_predictions(*index, logits).decide(
            info.class_names,
            info.positive_index,
            OPERATING_POINT,
            TEMPERATURE,
            SET_THRESHOLDS,
        )
    path = tmp_path_factory.mktemp("evaluation") / "predictions.csv"
    path.write_text(tables.predictions_csv(answers))
    return path


@pytest.fixture
def version(exported, tmp_path):
    """A copy to damage."""
    return shutil.copytree(exported, tmp_path / "1")


def run_checks(version, *given, max_latency_ms=60_000.0, max_megabytes=32.0):
    checks = version_checks.run_checks(
        *map(str, (version, *given)),
        max_latency_ms=max_latency_ms,
        max_megabytes=max_megabytes,
    )
    return {check["name"]: check for check in checks}


def failed(checks):
    return {name for name, check in checks.items() if not check["passed"]}


def test_sound_version_is_blessed_by_a_new_process(
    version, tiny_records, predictions_path
):
    assert "has not been tried" in blessing.refusal(version)
    refusal = blessing.bless_in_new_process(
        str(version), str(tiny_records), str(predictions_path)
    )
    assert refusal == ""
    content = blessing.read_blessing(str(version))
    assert content["blessed"] is True
    assert tuple(check["name"] for check in content["checks"]) == ALL_CHECKS
    assert all(check["passed"] for check in content["checks"])
    # It is not one of the files it is about: it may be written again.
    assert versions.changed_files(str(version)) == []


def test_missing_warmup_record_and_tight_limits_fail_their_checks(
    version, tiny_records, predictions_path
):
    path = str(version / signature.WARMUP_FILE)
    requests = list(tf.data.TFRecordDataset(path).as_numpy_iterator())
    with tf.io.TFRecordWriter(path) as writer:
        for request in requests[1:]:
            writer.write(request)
    checks = run_checks(
        version,
        tiny_records,
        predictions_path,
        max_megabytes=1.0,
        max_latency_ms=0.0,
    )
    assert failed(checks) == {"manifest", "size", "warm-up", "latency"}
    assert signature.WARMUP_FILE in checks["manifest"]["detail"]
    assert "('serving_default', 1)" in checks["warm-up"]["detail"]
    content = blessing.write_blessing(str(version), list(checks.values()))
    assert content["blessed"] is False
    assert "failed when it was tried: manifest" in blessing.refusal(version)


@pytest.mark.parametrize("is_other", [False, True])
def test_files_of_other_runtimes_are_tried_by_them(
    is_other,
    version,
    module,
    detector,
    classifier_model,
    tiny_records,
    predictions_path,
):
    for package in ("tf2onnx", "onnxruntime", "ai_edge_litert"):
        pytest.importorskip(package)
    import onnxruntime

    if is_other:
        module = make_module(classifier_model, detector, num_views=2)
    for name, path in signature.RUNTIME_FILES.items():
        (version / path).write_bytes(module.convert(name))
    session = onnxruntime.InferenceSession(version / "assets.extra/pixels.onnx")
    described = session.get_modelmeta().custom_metadata_map
    assert json.loads(described["class_names"]) == list(CLASS_NAMES)
    facts = versions.read_manifest(str(version))
    del facts["files"]
    # The files are copies of the weights, and do not count; an ensemble may be
    # as large as its members.
    versions.write_manifest(str(version), facts | {"members": 2})
    checks = run_checks(
        version, tiny_records, predictions_path, max_megabytes=10.0
    )
    assert failed(checks) == ({"onnx", "litert"} if is_other else set())
    sentence = "not what is served" if is_other else "probabilities lie within"
    for name in signature.RUNTIME_FILES:
        assert sentence in checks[name]["detail"]


def test_half_a_graph_fails_to_load(version, tiny_records, predictions_path):
    path = version / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:5000])
    checks = run_checks(version, tiny_records, predictions_path)
    assert failed(checks) == {"manifest", "load"}
    blessing.write_blessing(str(version), list(checks.values()))
    assert blessing.refusal(version)


def test_absent_files_and_records_of_another_set_are_refused(
    run, version, tiny_records, predictions_path, tmp_path, monkeypatch
):
    monkeypatch.setattr(tf.get_logger(), "setLevel", lambda _: None)
    flags = [f"--version_dir={version}", f"--data_dir={tiny_records}"]
    sentence = r"\Ablessing: absent\.csv does not exist.*\Z"
    with pytest.raises(SystemExit, match=sentence):
        run(blessing, *flags, "--predictions=absent.csv")
    with pytest.raises(FileNotFoundError, match="--version_dir must name"):
        run_checks(tmp_path / "absent", tiny_records, "absent.csv")
    path = version / "assets/dataset.json"
    info = json.loads(path.read_text()) | {"fingerprint": "f" * 64}
    path.write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"another data set .* ffffffffffff"):
        run_checks(version, tiny_records, predictions_path)


def test_version_with_a_pipe_is_not_tried(tmp_path):
    (tmp_path / "assets").mkdir()
    os.mkfifo(tmp_path / "assets/dataset.json")
    with pytest.raises(
        ValueError, match=r"dataset\.json must be a file of its"
    ):
        run_checks(tmp_path, "records", "absent.csv")


def test_process_that_cannot_try_says_why_and_leaves_no_old_blessing(
    version, tmp_path, monkeypatch
):
    blessing.write_blessing(str(version), [])
    assert blessing.refusal(version) == ""
    (tmp_path / "tensorflow.py").write_text("raise OSError('no device')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    refusal = blessing.bless_in_new_process(str(version), "records", "absent")
    assert "1 could not be tried: OSError: no device" in refusal
    assert not (version / signature.BLESSING_FILE).exists()
