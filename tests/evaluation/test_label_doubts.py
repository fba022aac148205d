"""Doubtful labels are those of cleanlab, in its order."""

import dataclasses

import numpy as np
import pytest

from tests.evaluation.samples import class_names
from trainer.evaluation import label_doubts
from trainer.evaluation.predictions import Predictions

# cleanlab 2.9.0: `filter.find_label_issues(labels, probabilities,
# filter_by="confident_learning", return_indices_ranked_by=
# "normalized_margin")`. Of the 30 images of four classes, and of the 20 of
# three, that are off the diagonal of its `compute_confident_joint`, 9 and 5
# have the label that is the most probable.
RANKED = {
    (60, 2, 3): [3, 32, 19, 26, 27, 2, 42, 55],
    (70, 3, 24): [12, 17, 5, 61, 51, 50, 22, 2, 40, 37, 57, 31, 69, 43, 3],
    (70, 4, 4): [25, 10, 59, 64, 50, 39, 17, 40, 58, 53, 34, 61, 29, 1, 0]
    + [69, 52, 42, 63, 21, 57],
}


def make(num_images, num_classes, seed):
    """Predictions of classes that are the more frequent the later."""
    generator = np.random.default_rng(seed)
    shares = np.arange(1, num_classes + 1)
    truth = generator.choice(num_classes, num_images, p=shares / shares.sum())
    logits = generator.normal(size=(num_images, num_classes)) * 1.1
    logits[np.arange(num_images), truth] += 1.7
    is_wrong = generator.random(num_images) < 0.15
    return Predictions(
        ids=[f"{i}.png" for i in range(num_images)],
        groups=[f"group_{i // 3}" for i in range(num_images)],
        labels=np.where(is_wrong, (truth + 1) % num_classes, truth),
        logits=np.round(logits, 3),
    ).decide(class_names(num_classes), None)


@pytest.mark.parametrize("which", RANKED)
def test_doubts_are_those_of_cleanlab_in_its_order(which):
    predictions = make(*which)
    labels, probabilities = predictions.labels, predictions.probabilities
    ranked, suggested = label_doubts.rank(labels, probabilities)
    assert ranked.tolist() == RANKED[which]
    # As the paper counts: over the mean of those that are labelled so.
    for i, c in zip(ranked, suggested, strict=True):
        scores = probabilities[:, c]
        assert scores[i] >= scores[labels == c].mean() - 1e-6
        assert c != labels[i]


@pytest.mark.parametrize("which", RANKED)
def test_doubts_are_of_probabilities_that_match_the_shares(which):
    """A model that was trained with classes weighed alike is put right."""
    predictions = make(*which)
    found = label_doubts.find(predictions)
    labels, matched = predictions.labels, found.probabilities
    shares = np.bincount(labels) / which[0]
    np.testing.assert_allclose(matched.mean(axis=0), shares, atol=1e-5)
    np.testing.assert_allclose(matched.sum(axis=1), 1)
    factors = matched / predictions.probabilities
    factors /= factors[:, :1]
    np.testing.assert_allclose(factors, np.tile(factors[0], (which[0], 1)))
    ranked, suggested = label_doubts.rank(labels, matched)
    np.testing.assert_array_equal(found.ranked, ranked)
    np.testing.assert_array_equal(found.suggested, suggested)
    # However the classes were weighed.
    weighed = dataclasses.replace(
        predictions, logits=predictions.logits + np.arange(which[1])
    )
    again = label_doubts.find(weighed)
    np.testing.assert_array_equal(again.ranked, found.ranked)
    np.testing.assert_allclose(again.probabilities, matched, atol=1e-4)
    assert found.share.value == len(ranked) / which[0]
    low, high = found.share.interval
    assert low < found.share.value < high
    # Three images of a patient say less than three patients.
    assert found.share.n_groups == -(-which[0] // 3)
    assert found.share.n_effective <= which[0]


def test_images_without_answer_and_absent_classes_are_no_doubt():
    predictions = make(70, 3, 24)
    logits = np.concatenate([predictions.logits, np.full((70, 1), 9.0)], axis=1)
    logits[:, 3] -= 5.0
    more = dataclasses.replace(
        predictions, logits=logits, class_names=class_names(4)
    )
    assert 3 not in label_doubts.find(more).suggested
    first = label_doubts.find(predictions).ranked[0]
    predictions.logits[first] = np.nan
    found = label_doubts.find(predictions)
    assert first not in found.ranked
    assert found.share.n == 69
    none = predictions.select(np.zeros(70, bool))
    assert label_doubts.find(none).share.reason == "no image was judged"
