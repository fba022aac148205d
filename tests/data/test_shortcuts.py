"""What gives a class away beside the anatomy."""

import numpy as np
import pytest

from tests.data.builders import make_facts
from trainer.data.build import shortcuts


def measure(facts):
    rows = shortcuts.measure_shortcuts(facts, ["a", "b"])
    return {row["cue"]: row for row in rows}


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
                # Of ten images of a patient, which share a file size.
                num_bytes=index % 20,
                group=f"g{index % 20}",
            )
        )
    by_cue = measure(facts)
    # Not monotonous: neither a threshold nor a line would find it.
    assert by_cue["image size"]["auc"] == 1.0
    assert by_cue["image size"]["suspicious"]
    brightness = by_cue["mean brightness"]
    assert brightness["low"] < 0.5 < brightness["high"]
    assert not brightness["suspicious"]
    assert not by_cue["file format"]["suspicious"]
    # Who knows a patient's other images would know the class by it.
    patients = by_cue["file size"]
    assert patients["low"] < 0.5 and not patients["suspicious"]


def test_cue_that_may_be_chance_is_not_suspicious():
    generator = np.random.default_rng(4)
    facts = [
        make_facts(
            index,
            "ab"[index % 2],
            mean_brightness=generator.normal(index % 2),
            group=f"g{index}",
        )
        for index in range(40)
    ]
    found = measure(facts)["mean brightness"]
    assert found["low"] < shortcuts.SUSPICIOUS_AUC < found["auc"]
    assert not found["suspicious"]
    # By hand, after Hanley and McNeil.
    auc = found["auc"]
    parts = auc / (2 - auc) + 2 * auc**2 / (1 + auc) - 2 * auc**2
    error = ((auc * (1 - auc) + 19 * parts) / 400) ** 0.5
    ends = [auc - 1.96 * error, auc + 1.96 * error]
    assert [found["low"], found["high"]] == pytest.approx(ends, abs=2e-3)


def test_too_few_groups_give_no_shortcuts():
    facts = [make_facts(i, "ab"[i % 2], group=f"g{i % 8}") for i in range(40)]
    assert shortcuts.measure_shortcuts(facts, ["a", "b"]) == []
