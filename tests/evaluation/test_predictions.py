"""Probabilities and decisions."""

import dataclasses

import numpy as np

from tests.evaluation import samples
from trainer.evaluation.predictions import concatenate, make_predictions


def test_one_logit_gives_sigmoid_probabilities():
    logits = np.array([[-3.0], [0.0], [2.0]], np.float32)
    made = make_predictions(list("abc"), list("abc"), [0, 1, 1], logits)
    made = made.decide(samples.NAMES, 1, 0.5)
    expected = 1 / (1 + np.exp(-logits[:, 0].astype(np.float64)))
    np.testing.assert_allclose(made.probabilities[:, 1], expected, atol=1e-15)
    np.testing.assert_allclose(made.probabilities.sum(axis=1), 1, atol=1e-15)
    # A score at the operating point is positive.
    assert made.decisions.tolist() == [0, 1, 1]


def test_temperature_divides_the_logits():
    made = samples.random_predictions(num_classes=3)
    hot = dataclasses.replace(made, temperature=2.0)
    exponentials = np.exp(made.logits.astype(np.float64) / 2)
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(hot.probabilities, expected, atol=1e-14)
    # What was chosen for the first of several is chosen for all.
    assert concatenate([hot, made]).temperature == 2.0


def test_image_without_a_finite_answer_can_be_left_out():
    made = samples.random_predictions(5)
    made.logits[2, 1] = np.nan
    assert made.select(made.is_finite).ids == made.ids[:2] + made.ids[3:]
