"""Do 95 % intervals hold the truth in 95 % of simulated studies?"""

import numpy as np
import pytest
from scipy import stats

from trainer.evaluation import (
    baselines,
    intervals,
    predictions,
    proportions,
    ranking,
    resampling,
)

NUM_STUDIES = 400
ALIKE = 0.7  # correlation of scores within a patient
SHIFT = 1.2  # of the scores of the diseased
THRESHOLD = 0.4
TRUE_AUC = stats.norm.cdf(SHIFT / np.sqrt(2))
TRUE_SENSITIVITY = stats.norm.sf(THRESHOLD - SHIFT)


def make_study(generator, num_patients, num_positive=None):
    """Truth, score and patient of one to four images per patient."""
    sizes = generator.integers(1, 5, num_patients)
    is_positive = np.arange(num_patients) % 2 == 0
    if num_positive is not None:
        is_positive = np.arange(num_patients) < num_positive
    shared = np.sqrt(ALIKE) * generator.normal(size=num_patients)
    shared += SHIFT * is_positive
    own = np.sqrt(1 - ALIKE) * generator.normal(size=sizes.sum())
    patients = np.repeat(np.arange(num_patients), sizes)
    return is_positive[patients], shared[patients] + own, patients


def holds(interval, truth):
    return interval[0] <= truth <= interval[1]


def test_intervals_over_groups_hold_the_truth_and_others_do_not():
    generator = np.random.default_rng(0)
    held = np.zeros(4)
    for study in range(NUM_STUDIES):
        truth, scores, patients = make_study(generator, 150)
        (weights,) = resampling.resample_weights(patients, 400, study)
        areas = ranking.roc_auc(truth, scores, weights)
        called = scores[truth] >= THRESHOLD
        sensitivity = proportions.proportion(called, patients[truth], "none")
        held += (
            holds(intervals.percentile_interval(areas), TRUE_AUC),
            holds(sensitivity.interval, TRUE_SENSITIVITY),
            holds(ranking.delong_interval(truth, scores), TRUE_AUC),
            holds(
                intervals.wilson_interval(called.mean(), len(called)),
                TRUE_SENSITIVITY,
            ),
        )
    bootstrap, wilson_for_groups, delong, wilson = held / NUM_STUDIES
    assert 0.93 <= bootstrap <= 0.97
    assert 0.93 <= wilson_for_groups <= 0.97
    # These take the images of a patient as independent, and are too sure.
    assert delong < 0.9
    assert wilson < 0.9


@pytest.mark.parametrize("num_positive", [1, 2, 5])
def test_areas_and_leads_of_few_positives_hold_the_truth_or_say_nothing(
    num_positive,
):
    generator = np.random.default_rng(num_positive)
    held = []
    for study in range(NUM_STUDIES):
        truth, scores, patients = make_study(generator, 43, num_positive)
        # A baseline that knows as much, and one that knows nothing.
        _, rivals, _ = make_study(generator, 43, num_positive)
        rivals = generator.normal(SHIFT * truth)
        p = predictions.make_predictions(
            ["" for _ in truth], patients.tolist(), truth, scores[:, None]
        ).decide(("well", "sick"), 1, 0.5)
        rivals, nothing = (
            np.stack([np.zeros(len(truth)), s], axis=1)
            for s in (rivals, np.zeros(len(truth)))
        )
        compared = baselines.compare(
            p, {"rival": rivals, "nothing": nothing}, 100, study
        )
        found = [b.difference_interval for b in compared.values()]
        if num_positive == 1:
            assert found == [None, None]
            assert not any(b.beaten for b in compared.values())
            assert {b.delong_p_value for b in compared.values()} == {None}
            return
        held.append([holds(found[0], 0), holds(found[1], TRUE_AUC - 0.5)])
    assert np.mean(held, axis=0).min() >= 0.93
