"""Checks of a version, before one that answers what it is told to."""

import dataclasses
import json
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from tests.samples import encode
from trainer.data import preprocessing
from trainer.export import (
    evaluated_images,
    runtime_files,
    signature,
    version_checks,
    versions,
    warmup,
)
from trainer.export.version_checks import TOLERANCE, CheckError

SIZE = 8
CLASS_NAMES = ("no_tumor", "tumor")
POSITIVE = 0
OPERATING_POINT = 0.6
THRESHOLDS = (0.3, 0.45)
LAST = 39  # asked of by one signature alone, in its second batch
PNG = encode(np.zeros((5, 7), np.uint8))


def make_evaluated(probabilities):
    generator = np.random.default_rng(0)
    decided = np.where(probabilities[:, POSITIVE] >= OPERATING_POINT, 0, 1)
    sets = probabilities >= THRESHOLDS
    sets[np.arange(len(sets)), decided] = True
    return evaluated_images.EvaluatedImages(
        [
            encode(generator.integers(0, 256, (9, 7)).astype(np.uint8))
            for _ in probabilities
        ],
        probabilities,
        [CLASS_NAMES[i] for i in probabilities.argmax(axis=1)],
        [CLASS_NAMES[i] for i in decided],
        sets,
    )


@pytest.fixture(scope="module")
def evaluated():
    first = np.random.default_rng(1).uniform(0.01, 0.99, LAST + 1)
    # Nothing is a matter of rounding but where a test wants it.
    first[np.abs(first - 0.5) < 0.02] = 0.25
    first[3], first[LAST] = 0.9, 0.52
    return make_evaluated(np.stack([first, 1 - first], axis=1))


class Version:
    """Answers as the evaluation did, and then `change(name, outputs, rows)`.

    Rows of what is no evaluated image are -1.
    """

    pixels_shape = [None, SIZE, SIZE, 1]
    info = types.SimpleNamespace(
        class_names=CLASS_NAMES, num_classes=2, positive_index=POSITIVE
    )

    def __init__(self, directory, evaluated):
        self.directory = str(directory)
        self.change = lambda name, outputs, rows: None
        self.sizes = set()
        self._evaluated = evaluated
        self._rows = {image: i for i, image in enumerate(evaluated.images)}
        for i, image in enumerate(evaluated.images):
            pixels = preprocessing.prepare_image(image, SIZE, 1)
            self._rows[np.asarray(pixels).tobytes()] = i

    def call(self, name, values):
        self.sizes.add((name, len(values)))
        keys = [v.tobytes() if name == "pixels" else v for v in values]
        rows = np.array([self._rows.get(key, -1) for key in keys], int)
        valid = rows >= 0
        told = self._evaluated
        named = [np.array([*names, ""], object) for names in told_names(told)]
        outputs = {
            "probabilities": told.probabilities[rows].astype(np.float32),
            "label": named[0][rows],
            "score": told.probabilities[rows, POSITIVE].astype(np.float32),
            "valid": valid,
            "decision": told.probabilities[rows, POSITIVE] >= OPERATING_POINT,
            "decision_label": named[1][rows],
            "prediction_set": told.sets[rows],
        }
        if name == "explain":
            outputs["overlay_bytes"] = np.array([PNG] * len(rows), object)
        self.change(name, outputs, rows)
        return outputs


def told_names(evaluated):
    for names in (evaluated.predicted, evaluated.decisions):
        yield [name.encode() for name in names]


@pytest.fixture
def version(tmp_path, evaluated):
    (tmp_path / "weights").write_bytes(b"x" * 3000)
    versions.write_manifest(
        str(tmp_path),
        {
            "operating_point": OPERATING_POINT,
            "sets": {"thresholds": THRESHOLDS},
        },
    )
    return Version(tmp_path, evaluated)


def test_every_signature_is_asked_in_every_size(version, evaluated):
    detail = version_checks._check_predictions(version, evaluated)
    assert "for 40 images" in detail and "within 2.9e-08" in detail
    asked = {
        (name, size) for name in signature.SIGNATURES for size in (1, 3, 32)
    }
    assert version.sizes == asked | {("serving_default", 8)}
    assert "4 broken images" in version_checks._check_bad_input(
        version, evaluated.images[5]
    )


def at(row, key, value, signature_name=None):
    """Puts a value where one image is answered."""

    def change(name, outputs, rows):
        if signature_name in (None, name) and key in outputs:
            outputs[key] = np.array(outputs[key])
            outputs[key][rows == row] = value

    return change


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (at(LAST, "probabilities", 0.4801), r"within 4\.0e-02 of"),
        (at(3, "probabilities", (0.9, 0.10003), "pixels"), r"within 3\.0e-05"),
        (at(LAST, "probabilities", np.nan), "probabilities that is not finite"),
        (at(8, "score", np.inf, "explain"), "explain of a batch of 1 gave sco"),
        (at(LAST, "valid", False), "is called invalid"),
        (at(LAST, "label", b"tumor"), "label is tumor, in .* no_tumor"),
        (at(3, "decision", False), "decision is not that"),
        (at(LAST, "decision", True, "serving_default"), "decision is not that"),
        (at(3, "prediction_set", True, "explain"), "prediction set is not"),
        (at(8, "overlay_bytes", b"no PNG"), "PNG"),
    ],
)
def test_one_other_answer_fails(version, evaluated, change, detail):
    version.change = change
    with pytest.raises(Exception, match=detail):
        version_checks._check_predictions(version, evaluated)


def test_predictions_that_are_not_finite_are_no_small_distance(
    version, evaluated
):
    probabilities = evaluated.probabilities.copy()
    probabilities[LAST] = np.nan
    changed = dataclasses.replace(evaluated, probabilities=probabilities)
    with pytest.raises(CheckError, match=r"within 1\.0e\+00"):
        version_checks._check_predictions(version, changed)


def test_what_rounding_decides_is_no_failure(tmp_path, evaluated):
    near = TOLERANCE / 3
    first = np.array([0.6 - near, 0.6 + near, 0.5 + near, 0.5 - near, 0.3])
    told = make_evaluated(np.stack([first, 1 - first], axis=1))
    first[:4] += [2 * near, -2 * near, -2 * near, 2 * near]
    served = make_evaluated(np.stack([first, 1 - first], axis=1))
    assert told.predicted != served.predicted
    assert told.decisions[:2] == served.decisions[1::-1]
    versions.write_manifest(
        str(tmp_path),
        {"operating_point": 0.6, "sets": {"thresholds": THRESHOLDS}},
    )
    version = Version(tmp_path, served)
    images = dataclasses.replace(told, images=served.images)
    assert "5 images" in version_checks._check_predictions(version, images)
    # A set that differs where its class is not decided otherwise is no matter
    # of rounding, however near a decision is.
    version.change = at(1, "prediction_set", (True, False))
    with pytest.raises(CheckError, match="prediction set"):
        version_checks._check_predictions(version, served)


def neighbour(name, outputs, rows):
    if len(rows) > 1:
        outputs["probabilities"][-1] += 2e-5


def rows_for_nothing(name, outputs, rows):
    if name == "explain" and not len(rows):
        outputs["score"] = np.zeros(1)


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (at(-1, "valid", True, "explain"), r"valid is \[True, True"),
        (at(5, "valid", False), r"valid is \[False, False"),
        (at(-1, "score", np.nan), "A broken image gave score"),
        (neighbour, "changes its neighbours"),
        (rows_for_nothing, "explain answers an empty batch"),
    ],
)
def test_broken_images_that_do_harm_fail(version, evaluated, change, detail):
    version.change = change
    with pytest.raises(CheckError, match=detail):
        version_checks._check_bad_input(version, evaluated.images[5])


@pytest.mark.parametrize("runtime", ["onnx", "litert"])
@pytest.mark.parametrize(
    ("key", "change", "detail"),
    [
        ("score", lambda v: v + 5e-6, "lie within 2.9e-08"),
        ("probabilities", lambda v: v + 2e-4, "Its probabilities is not"),
        ("decision", np.logical_not, "Its decision is not"),
        ("score", None, "The file has the outputs"),
    ],
)
@pytest.mark.parametrize("size", [1, 32])
def test_other_runtimes_answer_alike_alone_and_in_a_batch(
    version, evaluated, monkeypatch, key, change, detail, size, runtime
):
    def answer(name, path, pixels):
        assert name == runtime
        assert path == f"{version.directory}/{signature.RUNTIME_FILES[name]}"
        outputs = version.call("pixels", pixels)
        outputs = {k: v for k, v in outputs.items() if v.dtype != object}
        if len(pixels) == size:
            value = outputs.pop(key)
            outputs |= {key: change(value)} if change else {}
        return outputs

    monkeypatch.setattr(runtime_files, "answer", answer)
    if "lie" in detail:
        assert detail in version_checks._check_runtime(
            runtime, version, evaluated
        )
        return
    with pytest.raises(CheckError, match=detail):
        version_checks._check_runtime(runtime, version, evaluated)


def test_file_of_another_model_is_told_from_the_predictions(
    version, evaluated, monkeypatch
):
    version.change = at(3, "probabilities", (0.9, 0.10003))
    monkeypatch.setattr(
        runtime_files,
        "answer",
        lambda name, path, pixels: {
            k: v
            for k, v in version.call("pixels", pixels).items()
            if v.dtype != object
        },
    )
    with pytest.raises(CheckError, match=r"within 3\.0e-05"):
        version_checks._check_runtime("onnx", version, evaluated)


def make_meta_graph(version, **facts):
    """The contract of a binary model, as TensorFlow writes it down."""
    floats, strings, truths = tf.float32, tf.string, tf.bool
    outputs = {
        "probabilities": (floats, [None, 2]),
        "label": (strings, [None]),
        "label_index": (tf.int32, [None]),
        "score": (floats, [None]),
        "valid": (truths, [None]),
        "class_names": (strings, [None, 2]),
        "prediction_set": (truths, [None, 2]),
        "out_of_distribution": (floats, [None]),
        "is_out_of_distribution": (truths, [None]),
        "decision": (truths, [None]),
        "decision_label": (strings, [None]),
        "threshold": (floats, [None]),
        **facts,
    }
    encoded = {"image_bytes": (strings, [None])}
    graph = meta_graph_pb2.MetaGraphDef()
    for name, given, more in (
        ("serving_default", encoded, {}),
        ("explain", encoded, {"overlay_bytes": (strings, [None])}),
        ("pixels", {"pixels": (floats, version.pixels_shape)}, {}),
    ):
        definition = graph.signature_def[name]
        for infos, tensors in (
            (definition.inputs, given),
            (definition.outputs, outputs | more),
        ):
            for key, (dtype, shape) in tensors.items():
                infos[key].dtype = dtype.as_datatype_enum
                shape = tf.TensorShape(shape).as_proto()
                infos[key].tensor_shape.CopyFrom(shape)
    return graph


def change_facts(version, **facts):
    manifest = versions.read_manifest(version.directory) | facts
    del manifest["files"]
    versions.write_manifest(version.directory, manifest)


def test_signatures_are_those_of_the_contract(version):
    version.meta_graph = make_meta_graph(version)
    detail = version_checks._check_signatures(version)
    assert "serving_default, explain, pixels" in detail
    study = {
        "study_rule": (tf.string, [None]),
        "study_threshold": (tf.float32, [None]),
    }
    version.meta_graph = make_meta_graph(version, **study)
    with pytest.raises(CheckError, match=r"study_rule.* must be"):
        version_checks._check_signatures(version)
    change_facts(version, study={"rule": "mean"})
    version_checks._check_signatures(version)
    change_facts(version, study=None, detector=False)
    with pytest.raises(CheckError, match="out_of_distribution"):
        version_checks._check_signatures(version)


@pytest.mark.parametrize("name", ["serving_default", "explain", "pixels"])
def test_signature_that_is_absent_or_another_is_named(version, name):
    version.meta_graph = make_meta_graph(version)
    inputs = version.meta_graph.signature_def[name].inputs
    (given,) = inputs.values()
    given.dtype = tf.float64.as_datatype_enum
    with pytest.raises(CheckError, match=f"{name} has .*float64"):
        version_checks._check_signatures(version)
    del version.meta_graph.signature_def[name]
    with pytest.raises(CheckError, match=f"There is no signature {name}"):
        version_checks._check_signatures(version)


@pytest.fixture
def warm(version, tmp_path):
    """A version that answers its warm-up requests, and their records."""
    (tmp_path / "assets.extra").mkdir()
    path = tmp_path / signature.WARMUP_FILE
    path.write_bytes(warmup.make_warmup_file("classifier", SIZE, 1))
    version.change = at(-1, "valid", True)
    return version, list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())


def rewrite(version, requests):
    path = f"{version.directory}/{signature.WARMUP_FILE}"
    with tf.io.TFRecordWriter(path) as writer:
        for request in requests:
            writer.write(request)


@pytest.mark.parametrize("lost", [0, 4, -1])
def test_each_signature_is_warmed_in_each_size(warm, lost):
    version, requests = warm
    detail = version_checks._check_warmup(version)
    assert detail == f"All {len(requests)} records are answered."
    rewrite(version, requests * 2)
    version_checks._check_warmup(version)
    most = warmup.MAX_RECORDS
    rewrite(version, (requests * most)[: most + 1])
    with pytest.raises(CheckError, match=f"{most + 1} records are more"):
        version_checks._check_warmup(version)
    del requests[lost]
    rewrite(version, requests)
    with pytest.raises(CheckError, match=r"No record warms \('"):
        version_checks._check_warmup(version)


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda *_: None, "Warming serving_default asks about what is no ima"),
        (at(-1, "score", np.nan), "Warming serving_default gave score that"),
    ],
)
def test_warming_with_what_gives_no_answer_fails(warm, change, detail):
    version, _ = warm
    version.change = change
    with pytest.raises(CheckError, match=detail):
        version_checks._check_warmup(version)


def test_size_counts_what_is_served_for_each_member(version, tmp_path):
    (tmp_path / "assets.extra").mkdir()
    for name in signature.RUNTIME_FILES.values():
        (tmp_path / name).write_bytes(b"x" * 10**6)
    served = sum(
        path.stat().st_size
        for path in tmp_path.iterdir()
        if path.name != "assets.extra"
    )
    limit = served / 1e6
    detail = version_checks._check_size(str(tmp_path), limit)
    assert detail.startswith("What is served has 0.0 MB")
    with pytest.raises(CheckError, match=r"MB, of 0\.00"):
        version_checks._check_size(str(tmp_path), limit - 1e-6)
    path = tmp_path / signature.MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"members": 2}))
    limit = (served + 100) / 2e6
    version_checks._check_size(str(tmp_path), limit)


def test_manifest_tells_how_many_files_are_whole(version, tmp_path):
    detail = version_checks._check_manifest(version.directory)
    assert detail == "All 1 files are as they were exported."
    (tmp_path / "weights").write_bytes(b"y" * 3000)
    with pytest.raises(CheckError, match=r"^weights is not the file that was"):
        version_checks._check_manifest(version.directory)


def test_a_slow_version_fails_by_its_median(version, evaluated, monkeypatch):
    # Of twenty calls nine take a second, which is nobody's fault.
    times = iter(np.cumsum([0, *([0.010, 0.0] * 11), *([1.0, 0.0] * 9)]))
    monkeypatch.setattr(version_checks.time, "perf_counter", times.__next__)
    detail = version_checks._check_latency(version, evaluated.images[0], 10.5)
    assert detail == "One image takes 10 ms, of 10.5 ms."
    times = iter(np.cumsum([0, *([0.011, 0.0] * 20)]))
    monkeypatch.setattr(version_checks.time, "perf_counter", times.__next__)
    with pytest.raises(CheckError, match=r"takes 11 ms, of 10\.5 ms"):
        version_checks._check_latency(version, evaluated.images[0], 10.5)


def test_errors_of_others_are_named_by_their_kind():
    def fail(error):
        raise error

    for error, detail in (
        (CheckError("as\n it was"), "as it was"),
        (KeyError("name"), "KeyError: 'name'"),
    ):
        check = version_checks._run("load", lambda error=error: fail(error))
        assert check == {"name": "load", "passed": False, "detail": detail}
    check = version_checks._run("load", lambda: "It loads.")
    assert check == {"name": "load", "passed": True, "detail": "It loads."}
