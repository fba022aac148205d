"""Parts of a split, by the values of a column."""

from tests.evaluation.samples import random_predictions
from trainer.evaluation import metrics, subgroups


def test_rare_values_are_taken_together():
    p = random_predictions(60)
    values = [f"site {i}" if i < 30 else "main" for i in range(59)] + [""]
    overall = metrics.compute_metrics(p).metrics
    parts = subgroups.compute_subgroups(p, values, overall)
    assert len(parts) == 21
    assert parts["main"].num_images == 29
    assert sum(part.num_images for part in parts.values()) == 60


def test_part_that_is_worse_is_marked():
    p = random_predictions(400, 2, 1, skill=3)
    p.logits[:100] = random_predictions(100, 2, 3, skill=0).logits
    values = ["old" if i < 100 else "new" for i in range(400)]
    overall = metrics.compute_metrics(p).metrics
    parts = subgroups.compute_subgroups(p, values, overall)
    assert "roc_auc" in parts["old"].below and parts["new"].below == []
    assert (parts["old"].num_images, parts["new"].num_images) == (100, 300)
    # Nor one that is only a little worse than the whole, as one of two is.
    equal = subgroups.compute_subgroups(p, list("aabb") * 100, overall)
    areas = [part.metrics["roc_auc"] for part in equal.values()]
    assert min(a.interval[0] for a in areas) < overall["roc_auc"].value
    assert [part.below for part in equal.values()] == [[], []]
