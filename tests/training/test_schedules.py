import numpy as np
import pytest

from trainer.training import schedules


@pytest.mark.parametrize(
    ("rule", "batch", "rate"),
    [
        ("sqrt", 32, 0.1),
        ("sqrt", 128, 0.2),
        ("sqrt", 8, 0.05),
        ("linear", 128, 0.4),
        ("none", 128, 0.1),
    ],
)
def test_rate_grows_with_the_batch_by_the_rule(rule, batch, rate):
    assert schedules.scale_for_batch(0.1, batch, rule) == pytest.approx(rate)


def test_rate_rises_to_its_peak_and_falls_to_zero():
    schedule = schedules.warmup_cosine(0.4, warmup_steps=10, total_steps=110)
    rates = [float(schedule(step)) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(rates, [0.04, 0.22, 0.4, 0.2, 0.0], atol=1e-6)
