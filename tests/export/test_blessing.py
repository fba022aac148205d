import csv
import json
import os
import shutil

import numpy as np
import pytest

from tests.conftest import IMAGE_SIZE
from tests.export.conftest import IMAGES, OPERATING_POINT, TEMPERATURE
from trainer.data import input_pipeline, preprocessing
from trainer.evaluation.predictions import make_predictions
from trainer.export import (
    blessing,
    saved_model,
    signature,
    version_checks,
    warmup,
)
from trainer.report import tables

LIMITS = {"max_latency_ms": 60_000.0, "max_megabytes": 32.0}
ALL_CHECKS = (
    "manifest",
    "size",
    "load",
    "signatures",
    "warm-up",
    "predictions",
    "agreement",
    "bad input",
    "latency",
)


@pytest.fixture(scope="module")
def predictions_path(classifier_model, tiny_records, tmp_path_factory):
    """`predictions.csv` of the model on the records, by Keras."""
    info = input_pipeline.read_dataset_info(str(tiny_records))
    predictions = {}
    for split in ("validation", "test"):
        files = input_pipeline.split_files(str(tiny_records), info, split)
        images = input_pipeline.iterate_encoded(files)
        pixels = [preprocessing.prepare_image(i, IMAGE_SIZE, 1) for i in images]
        index = input_pipeline.read_index(str(tiny_records), info)[split]
        logits = classifier_model(np.stack(pixels), training=False).numpy()
        predictions[split] = make_predictions(*index, logits).decide(
            info.class_names, 1, OPERATING_POINT, TEMPERATURE
        )
    path = tmp_path_factory.mktemp("evaluation") / "predictions.csv"
    path.write_text(tables.predictions_csv(predictions))
    return path


@pytest.fixture(scope="module")
def good_version(module, tiny_records, tmp_path_factory):
    return saved_model.export_version(
        module,
        str(tmp_path_factory.mktemp("export")),
        assets={"dataset.json": (tiny_records / "dataset.json").read_bytes()},
        warmup=warmup.make_warmup_file(IMAGES, "brain_mri", IMAGE_SIZE, 1),
        facts={"operating_point": OPERATING_POINT},
    )


@pytest.fixture
def version(good_version, tmp_path):
    """A copy to damage."""
    return shutil.copytree(good_version, tmp_path / "1")


def run_checks(version, data_dir, predictions_path, **limits):
    checks = version_checks.run_checks(
        str(version), str(data_dir), str(predictions_path), **(LIMITS | limits)
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
    with open(os.path.join(version, "blessing.json")) as file:
        found = json.load(file)
    assert found["blessed"] is True
    assert tuple(check["name"] for check in found["checks"]) == ALL_CHECKS
    assert all(check["passed"] for check in found["checks"])
    # It is not one of the files it is about: it may be written again.
    with open(os.path.join(version, signature.MANIFEST_FILE)) as file:
        assert signature.BLESSING_FILE not in json.load(file)["files"]


def test_other_predictions_and_tight_limits_fail_their_checks(
    version, tiny_records, predictions_path, tmp_path
):
    with open(predictions_path, newline="") as file:
        rows = list(csv.DictReader(file))
    rows[3]["probability_tumor"] = str(
        float(rows[3]["probability_tumor"]) + 5e-5
    )
    other = tmp_path / "predictions.csv"
    with open(other, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    checks = run_checks(
        version, tiny_records, other, max_megabytes=1.0, max_latency_ms=0.0
    )
    assert failed(checks) == {"predictions", "size", "latency"}
    assert "5.0e-05 of predictions.csv" in checks["predictions"]["detail"]
    found = blessing.write_blessing(str(version), list(checks.values()))
    assert found["blessed"] is False
    assert "failed when it was tried: size" in blessing.refusal(version)


def test_other_decision_fails_the_predictions(
    version, tiny_records, predictions_path, tmp_path
):
    with open(predictions_path, newline="") as file:
        rows = list(csv.DictReader(file))
    # Far from the operating point, so that rounding is no excuse.
    assert abs(float(rows[5]["score"]) - OPERATING_POINT) > 0.01
    other = {"tumor": "no_tumor", "no_tumor": "tumor"}
    rows[5]["decision"] = other[rows[5]["decision"]]
    changed = tmp_path / "predictions.csv"
    with open(changed, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    checks = run_checks(version, tiny_records, changed)
    assert failed(checks) == {"predictions"}


def test_missing_warmup_record_and_changed_asset_fail(
    version, tiny_records, predictions_path
):
    with open(version / signature.WARMUP_FILE, "wb"):
        pass
    checks = run_checks(version, tiny_records, predictions_path)
    assert failed(checks) == {"manifest", "warm-up"}
    assert signature.WARMUP_FILE in checks["manifest"]["detail"]


def test_half_a_graph_fails_to_load(version, tiny_records, predictions_path):
    path = version / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:5000])
    checks = run_checks(version, tiny_records, predictions_path)
    assert failed(checks) == {"manifest", "load"}
    blessing.write_blessing(str(version), list(checks.values()))
    assert blessing.refusal(version)


def test_records_of_another_set_are_refused(
    version, tiny_records, predictions_path
):
    path = version / "assets/dataset.json"
    info = json.loads(path.read_text()) | {"fingerprint": "f" * 64}
    path.write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"another data set .* ffffffffffff"):
        run_checks(version, tiny_records, predictions_path)


def test_absent_files_are_named(version, tiny_records, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.csv does not exist"):
        run_checks(version, tiny_records, "absent.csv")
    with pytest.raises(FileNotFoundError, match="--version_dir must name"):
        run_checks(tmp_path / "absent", tiny_records, "absent.csv")


def test_process_that_cannot_try_says_why_and_leaves_no_old_blessing(
    version, tiny_records
):
    blessing.write_blessing(str(version), [])
    assert blessing.refusal(version) == ""
    refusal = blessing.bless_in_new_process(
        str(version), str(tiny_records), "absent.csv"
    )
    assert "could not be tried: blessing: absent.csv does not exist" in refusal
    assert not (version / signature.BLESSING_FILE).exists()


def test_blessing_holds_for_the_files_that_were_tried(version):
    blessing.write_blessing(str(version), [])
    with open(version / signature.MANIFEST_FILE, "a") as file:
        file.write(" ")
    assert "has changed since it was tried" in blessing.refusal(version)


@pytest.mark.parametrize("text", ["", '{"blessed": tr', "[]", "{}"])
def test_damaged_blessing_blesses_nothing(version, text):
    (version / signature.BLESSING_FILE).write_text(text)
    assert blessing.refusal(version)
