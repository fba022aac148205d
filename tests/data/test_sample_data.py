"""The sample data set: what it holds, and what must not give a class away."""

import collections
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn import (
    linear_model,
    metrics,
    model_selection,
    pipeline,
    preprocessing,
)

from tests.data.builders import read_files
from tests.samples import ROOT
from trainer.data import sample_data

NUM_IMAGES = 400
IMAGE_SIZE = 64


@pytest.fixture(scope="module")
def image_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("sample") / "images"
    sample_data.make_sample_data(str(path), NUM_IMAGES, IMAGE_SIZE)
    return path


@pytest.fixture(scope="module")
def images(image_dir):
    """Paths, pixels, labels and patients."""
    paths = sorted(image_dir.glob("*/*.png"))
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    labels = np.array([path.parent.name == "tumor" for path in paths])
    finder = re.compile(sample_data.PATIENT_REGEX)
    patients = np.array([finder.search(str(path))[1] for path in paths])
    return paths, pixels.astype(np.float64), labels, patients


def _cross_validated_auc(features, labels, patients):
    """AUC of logistic regression on held-out patients, over three shuffles."""
    model = pipeline.make_pipeline(
        preprocessing.StandardScaler(),
        linear_model.LogisticRegression(C=0.01, max_iter=300),
    )
    aucs = []
    for seed in range(3):
        folds = model_selection.StratifiedGroupKFold(
            5, shuffle=True, random_state=seed
        )
        how = {"cv": folds, "method": "decision_function", "groups": patients}
        scores = model_selection.cross_val_predict(
            model, features, labels, **how
        )
        aucs.append(metrics.roc_auc_score(labels, scores))
    return np.mean(aucs)


@pytest.mark.parametrize(
    ("num_images", "expected"), [(24, (12, 12)), (9, (5, 4))]
)
def test_any_number_of_images_is_written_in_balance(
    tmp_path, num_images, expected
):
    written = sample_data.make_sample_data(str(tmp_path), num_images, 32)
    assert written == num_images
    names = ("no_tumor", "tumor")
    counts = [len(list((tmp_path / name).glob("*.png"))) for name in names]
    assert tuple(counts) == expected


def test_images_are_grey_png_of_the_size_asked_for(image_dir):
    for path in sorted(image_dir.glob("*/*.png"))[::50]:
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("PNG", "L")
            assert image.size == (IMAGE_SIZE, IMAGE_SIZE)


def test_same_seed_writes_the_same_bytes_with_any_number_of_workers(tmp_path):
    for name, seed, num_workers in (("a", 3, 1), ("b", 3, 2), ("c", 4, 1)):
        sample_data.make_sample_data(
            str(tmp_path / name), 20, 32, seed, num_workers
        )
    first, second, other = (read_files(tmp_path / name) for name in "abc")
    assert first == second
    assert set(first.values()).isdisjoint(other.values())


def test_patient_is_in_one_class_with_several_different_slices(images):
    paths, _, labels, patients = images
    classes = collections.defaultdict(set)
    contents = collections.defaultdict(list)
    for path, label, patient in zip(paths, labels, patients, strict=True):
        classes[patient].add(label)
        contents[patient].append(path.read_bytes())
    assert all(len(names) == 1 for names in classes.values())
    assert min(len(images) for images in contents.values()) >= 2
    assert all(len(set(images)) == len(images) for images in contents.values())


def test_linear_model_on_pixels_is_weak(images):
    _, pixels, labels, patients = images
    thumbnails = pixels.reshape(-1, 32, 2, 32, 2).mean((2, 4))
    auc = _cross_validated_auc(
        thumbnails.reshape(len(labels), -1), labels, patients
    )
    assert auc < 0.75


def test_shortcut_cues_do_not_predict_the_class(images):
    paths, pixels, labels, patients = images
    border = [pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]]
    cues = {
        "file size": [[path.stat().st_size] for path in paths],
        "mean brightness": pixels.mean((1, 2))[:, np.newaxis],
        "border": np.stack([side.mean(1) for side in border], axis=1),
        "patient number": [[int(name.split("_")[1])] for name in patients],
    }
    for name, values in cues.items():
        values = np.asarray(values, np.float64)
        held_out = _cross_validated_auc(values, labels, patients)
        assert held_out < 0.6, f"{name} predicts the class, AUC {held_out:.2f}"
        for column in values.T:
            auc = metrics.roc_auc_score(labels, column)
            assert 0.43 < auc < 0.57, f"{name} differs, AUC {auc:.2f}"


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("num_images", 1, r"at least 2.*num_images=1"),
        ("image_size", 16, r"at least 32 pixels.*image_size=16"),
        ("seed", -1, r"not be negative.*seed=-1"),
    ],
)
def test_number_out_of_range_is_named(tmp_path, argument, value, message):
    with pytest.raises(ValueError, match=message):
        sample_data.make_sample_data(str(tmp_path), **{argument: value})


def _run_command(*arguments):
    module = "trainer.data.sample_data"
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_command_writes_images_and_says_how_to_group_them(tmp_path):
    result = _run_command(
        f"--output_dir={tmp_path}/new", "--num_images=8", "--image_size=32"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("--patient_regex='(patient_\\d+)'.\n")
    assert len(read_files(tmp_path / "new")) == 8
    assert "trainer.data.phantom" in result.stderr
    assert "tensorflow" not in result.stderr


def test_command_refuses_a_folder_with_files_in_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("keep")
    result = _run_command(f"--output_dir={tmp_path}")
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    (line,) = (line for line in lines if not line.startswith("import time:"))
    assert "is not empty" in line
    assert os.listdir(tmp_path) == ["notes.txt"]
