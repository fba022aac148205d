"""The page that Prometheus scrapes."""

import types

import pytest
from prometheus_client import parser

from serving.server import metrics

COUNT = ":tensorflow:serving:request_count"
LATENCY = ":tensorflow:serving:request_latency"
NAME = 'a"b\\'


@pytest.fixture(scope="module")
def text():
    """Returns the page after four requests."""
    counters = metrics.Metrics(types.SimpleNamespace(names=[NAME]))
    for name, latency_s, code in (
        (NAME, 5e-6, "OK"),
        (NAME, 15e-6, "OK"),
        (NAME, 1.0, "INTERNAL"),
        ("made up", 1.0, "NOT_FOUND"),
    ):
        counters.record(name, "Predict", "GRPC", code, latency_s)
    return counters.to_text()


@pytest.fixture(scope="module")
def families(text):
    """Returns what Prometheus reads, by name."""
    families = parser.text_string_to_metric_families(text)
    return {family.name: family for family in families}


def test_names_and_types_are_tf_serving_s(text, families):
    names = {line.partition("{")[0] for line in text.splitlines()}
    assert COUNT in names and f"{COUNT}_total" not in names
    assert {name: f.type for name, f in families.items()} == {
        COUNT: "counter",
        LATENCY: "histogram",
    }


def test_requests_are_counted_by_model_and_code(families):
    assert {
        (s.labels["model_name"], s.labels["status"]): s.value
        for s in families[COUNT].samples
    } == {(NAME, "OK"): 2, (NAME, "INTERNAL"): 1, ("", "NOT_FOUND"): 1}


def test_latencies_of_answers_fall_into_buckets(families):
    samples = families[LATENCY].samples
    labels = {"model_name": NAME, "API": "Predict", "entrypoint": "GRPC"}
    assert all(labels.items() <= s.labels.items() for s in samples)
    totals = {
        float(s.labels["le"]): s.value for s in samples if "le" in s.labels
    }
    assert len(totals) == 34
    # 10 us, 10 * 1.8 us, 10 * 1.8 * 1.8 us.
    limits = (10, 18, pytest.approx(32.4), float("inf"))
    assert [*list(totals.items())[:3], list(totals.items())[-1]] == list(
        zip(limits, (1, 2, 2, 2), strict=True)
    )
    values = {s.name: s.value for s in samples}
    assert values[f"{LATENCY}_count"] == 2
    assert values[f"{LATENCY}_sum"] == pytest.approx(20)
