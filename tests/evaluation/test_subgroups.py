"""Parts of a split, by the values of a column."""

from tests.evaluation import samples
from trainer.evaluation import metrics, subgroups


def test_rare_values_are_taken_together():
    p = samples.random_predictions(60)
    values = [f"site {i}" if i < 30 else "main" for i in range(59)] + [""]
    overall = metrics.compute_metrics(p).metrics
    parts = subgroups.compute_subgroups(p, values, overall)
    assert len(parts) == 21
    assert parts["main"].num_images == 29
    assert sum(part.num_images for part in parts.values()) == 60
