"""What gives a class away beside the anatomy."""

import numpy as np

from tests.data.builders import make_facts
from trainer.data.build import shortcuts


def test_size_that_gives_the_class_away_is_a_suspicious_shortcut():
    generator = np.random.default_rng(0)
    facts = []
    for index in range(200):
        class_name = "ab"[index % 2]
        side = 100 if class_name == "a" else int(generator.choice([90, 110]))
        facts.append(
            make_facts(
                index,
                class_name,
                width=side,
                height=side,
                mean_brightness=float(generator.normal(50, 9)),
                group=f"g{index}",
            )
        )
    rows = shortcuts.measure_shortcuts(facts, ["a", "b"])
    by_cue = {row["cue"]: row for row in rows}
    # Not monotonous: neither a threshold nor a line would find it.
    assert by_cue["image size"]["auc"] == 1.0
    assert by_cue["image size"]["suspicious"]
    brightness = by_cue["mean brightness"]
    assert brightness["low"] < 0.5 < brightness["high"]
    assert not brightness["suspicious"]
    assert not by_cue["file format"]["suspicious"]


def test_too_few_groups_give_no_shortcuts():
    facts = [make_facts(i, "ab"[i % 2], group=f"g{i}") for i in range(8)]
    assert shortcuts.measure_shortcuts(facts, ["a", "b"]) == []
