"""The page that Prometheus scrapes."""

import types

import pytest
from prometheus_client import parser

from serving.server import metrics

COUNT = ":tensorflow:serving:request_count"
LATENCY = ":tensorflow:serving:request_latency"
NAME = 'a"b\\'


@pytest.fixture(scope="module")
def page():
    """Returns the page after four requests, and what Prometheus reads."""
    counters = metrics.Metrics(types.SimpleNamespace(names=[NAME]))
    for name, latency_s, code in (
        (NAME, 5e-6, "OK"),
        (NAME, 15e-6, "OK"),
        (NAME, 1.0, "INTERNAL"),
        ("made up", 1.0, "NOT_FOUND"),
    ):
        counters.record(name, "Predict", "GRPC", code, latency_s)
    text = counters.to_text()
    families = parser.text_string_to_metric_families(text)
    return text, {family.name: family for family in families}


def test_names_types_and_counts_are_tf_serving_s(page):
    text, families = page
    names = {line.partition("{")[0] for line in text.splitlines()}
    assert COUNT in names and f"{COUNT}_total" not in names
    kinds = {name: family.type for name, family in families.items()}
    assert kinds == {COUNT: "counter", LATENCY: "histogram"}
    assert {
        (s.labels["model_name"], s.labels["status"]): s.value
        for s in families[COUNT].samples
    } == {(NAME, "OK"): 2, (NAME, "INTERNAL"): 1, ("", "NOT_FOUND"): 1}


def test_latencies_of_answers_fall_into_buckets(page):
    samples = page[1][LATENCY].samples
    labels = {"model_name": NAME, "API": "Predict", "entrypoint": "GRPC"}
    assert all(labels.items() <= s.labels.items() for s in samples)
    totals = [
        (float(s.labels["le"]), s.value) for s in samples if "le" in s.labels
    ]
    assert len(totals) == 34
    # 10 us, 10 * 1.8 us, 10 * 1.8 * 1.8 us.
    assert totals[:3] == [(10, 1), (18, 2), (pytest.approx(32.4), 2)]
    assert totals[-1] == (float("inf"), 2)
    values = {s.name: s.value for s in samples}
    assert values[f"{LATENCY}_count"] == 2
    assert values[f"{LATENCY}_sum"] == pytest.approx(20)
