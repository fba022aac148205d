"""Trivial baselines against brute force, and who beats them."""

import numpy as np
import pytest

from tests.evaluation import samples
from tests.samples import encode
from trainer.evaluation import baselines


def make_image(seed, label, size=90, image_format="PNG"):
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 150, (size, size)) + 80 * label
    return encode(pixels.astype(np.uint8), image_format)


def test_description_holds_pixels_and_facts_of_the_file():
    grey, colour = (
        make_image(0, 0),
        encode(np.full((30, 50, 3), 200, np.uint8), "JPEG"),
    )
    described = baselines.describe_images([grey, colour], [0, 1])
    assert described.pixels.shape == (2, 64 * 64)
    np.testing.assert_allclose(described.pixels[1], 200, atol=2)
    facts = dict(zip(baselines.METADATA, described.metadata.T, strict=True))
    np.testing.assert_allclose(np.exp(facts["width"]), [90, 50])
    np.testing.assert_allclose(np.exp(facts["height"]), [90, 30])
    np.testing.assert_allclose(np.exp(facts["bytes"]), [len(grey), len(colour)])
    assert facts["is_jpeg"].tolist() == [0, 1]
    assert facts["is_colour"].tolist() == [0, 1]


def test_majority_class_gives_the_shares_of_training():
    scores = baselines.majority_class(np.array([0, 2, 2, 2]), 5, 3)
    assert scores.tolist() == [[0.25, 0, 0.75]] * 5


def test_nearest_neighbor_equals_brute_force():
    generator = np.random.default_rng(0)
    train = generator.random((40, 12)).astype(np.float32)
    labels = np.arange(40) % 3
    images = generator.random((15, 12)).astype(np.float32)
    scores = baselines.nearest_neighbor(train, labels, images, 4)
    distances = np.linalg.norm(
        train[np.newaxis] - images[:, np.newaxis], axis=2
    )
    assert scores.argmax(axis=1).tolist() == (
        labels[distances.argmin(axis=1)].tolist()
    )
    assert (scores[:, 3] == 0).all()
    np.testing.assert_allclose(scores.sum(axis=1), 1)


def test_copy_of_a_training_image_is_certain():
    train = np.eye(4, dtype=np.float32)
    scores = baselines.nearest_neighbor(train, np.array([0, 1, 0, 1]), train, 2)
    assert scores.max(axis=1).min() > 0.99


def test_metadata_regression_learns_from_file_size_alone():
    train, validation, test = (
        baselines.describe_images(
            [
                make_image(i, 0, 60 + 30 * (i % 2))
                for i in range(seed, seed + 20)
            ],
            [i % 2 for i in range(seed, seed + 20)],
        )
        for seed in (0, 100, 200)
    )
    scores = baselines.make_baselines(train, test, 2, validation)
    assert set(scores) == {
        "majority class",
        "nearest neighbour",
        "file metadata",
    }
    decided = scores["file metadata"].argmax(axis=1)
    assert decided.tolist() == test.labels.tolist()
    # What records store resized does not tell of files.
    assert "file metadata" not in baselines.make_baselines(train, test, 2)


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 2]])
def test_classes_that_regression_never_saw_get_nothing(labels):
    scores = baselines.metadata_regression(
        np.arange(6.0).reshape(3, 2), np.array(labels), np.ones((2, 2)), 3
    )
    assert np.isfinite(scores).all()
    assert (scores[:, [c for c in range(3) if c not in labels]] == 0).all()


@pytest.mark.parametrize("num_classes", [2, 4])
def test_model_beats_chance_and_not_itself(num_classes):
    p = samples.random_predictions(200, num_classes, skill=2.5)
    chance = np.full((200, num_classes), 1 / num_classes)
    compared = baselines.compare(
        p, {"chance": chance, "itself": p.probabilities}, 200
    )
    assert compared["chance"].beaten is True
    assert compared["chance"].value == pytest.approx(
        0.5 if num_classes == 2 else 1 / num_classes
    )
    assert compared["itself"].difference == 0
    assert compared["itself"].beaten is False
    if num_classes == 2:
        assert compared["itself"].delong_p_value == 1


def test_lead_that_may_be_chance_beats_nothing():
    p = samples.random_predictions(30, skill=0.5)
    (chance,) = baselines.compare(p, {"x": np.full((30, 2), 0.5)}, 200).values()
    assert chance.difference_interval[0] < 0 < chance.difference
    assert chance.beaten is False


def test_one_class_cannot_be_compared():
    p = samples.random_predictions(20)
    p = p.select(p.labels == 1)
    compared = baselines.compare(p, {"x": p.probabilities}, 50)
    assert compared["x"].beaten is None and compared["x"].value is None
    assert compared["x"].reason
