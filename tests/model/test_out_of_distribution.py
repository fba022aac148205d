import numpy as np
import pytest

from tests.samples import encode, make_pixels
from trainer.data import preprocessing
from trainer.model import out_of_distribution as ood

SIZES = (6, 10)


def make_set(seed, count, offset=0.0):
    """Descriptors around a common direction, that `offset` turns away from."""
    generator = np.random.default_rng(seed)
    centre = np.concatenate([np.ones(8), offset * np.ones(8)])
    noise = generator.normal(scale=0.2, size=(count, sum(SIZES)))
    return (centre + noise).astype(np.float32)


@pytest.fixture(scope="module")
def detector():
    return ood.fit(make_set(0, 60), make_set(1, 39), SIZES)


def expected_distances(train, images):
    """1 - cosine to the five nearest, with no projection."""

    def unit(a):
        return a / np.linalg.norm(a, axis=1, keepdims=True)

    cosines = np.sort(unit(images) @ unit(train).T, axis=1)[:, ::-1]
    return 1 - cosines[:, :5].mean(1)


def test_score_equals_that_computed_stage_by_stage(detector):
    train, validation = make_set(0, 60), make_set(1, 39)
    images = make_set(2, 7, offset=0.5)
    logs = []
    for part in (slice(0, 6), slice(6, 16)):
        known = train[:, part].astype(np.float64)
        scale = np.median(expected_distances(known, validation[:, part]))
        logs.append(np.log(expected_distances(known, images[:, part]) / scale))
    raw = np.exp(np.mean(logs, axis=0))
    np.testing.assert_allclose(
        detector.score(images) * detector.threshold, raw, rtol=1e-3
    )


def test_threshold_leaves_out_the_promised_share_of_validation(detector):
    # The 38th of 39 is the 95 % quantile of a forty-first image's rank.
    scores = np.sort(detector.score(make_set(1, 39)))
    np.testing.assert_allclose(scores[37], 1, rtol=1e-5)
    assert np.sum(scores > 1.0001) == 1


def test_unlike_images_score_above_the_threshold(detector):
    assert np.mean(detector.score(make_set(3, 200)).numpy() > 1) < 0.15
    assert detector.score(-make_set(4, 50)).numpy().min() > 1


def test_brightness_of_features_does_not_count(detector):
    images = make_set(5, 4)
    np.testing.assert_allclose(
        detector.score(images), detector.score(3 * images), rtol=1e-4
    )


def test_copy_of_training_images_scores_low_and_finite():
    train = np.repeat(make_set(0, 3), 5, axis=0)
    found = ood.fit(train, train, SIZES).score(train).numpy()
    assert np.isfinite(found).all() and found.max() <= 1 + 1e-5


@pytest.mark.parametrize(("num_train", "num_validation"), [(1, 1), (3, 2)])
def test_few_images_give_a_detector(num_train, num_validation):
    detector = ood.fit(
        make_set(0, num_train), make_set(1, num_validation), SIZES
    )
    assert np.isfinite(detector.score(make_set(2, 4))).all()


def test_features_of_a_diverged_model_give_finite_detector():
    train = np.full((6, 16), np.nan, np.float32)
    detector = ood.fit(train, train, SIZES)
    assert np.isfinite(detector.score(make_set(2, 4))).all()


def test_empty_batch_has_no_scores(detector):
    assert detector.score(np.zeros((0, 16), np.float32)).shape == (0,)


@pytest.mark.parametrize("num_images", [1, 7, 1000, 2500])
def test_exemplars_are_distinct_and_spread_over_the_split(num_images):
    chosen = ood.choose_exemplars(num_images)
    assert len(chosen) == len(set(chosen)) == min(num_images, 1000)
    assert chosen[0] == 0
    # Behind the last one too.
    gaps = np.diff([*chosen, num_images])
    assert 0 < min(gaps) <= max(gaps) <= min(gaps) + 1


def test_descriptor_is_the_pooled_output_of_each_stage(classifier_model):
    images = [encode(make_pixels(i, 0)) for i in range(3)]
    found = ood.describe_images(classifier_model, images)
    assert ood.stage_sizes(classifier_model) == (320, 1280)
    assert found.shape == (3, 1600)
    pixels = np.stack([preprocessing.prepare_image(i, 32, 1) for i in images])
    from trainer.model import classifier

    pooled = classifier.features_model(classifier_model)(pixels, training=False)
    np.testing.assert_allclose(found[:, 320:], pooled, atol=1e-5)
