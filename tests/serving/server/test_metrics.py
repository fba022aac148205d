"""The page that Prometheus scrapes."""

import re

import pytest

from serving.server import metrics

NAME = ":tensorflow:serving:request_latency"


def make_metrics():
    counters = metrics.Metrics()
    for latency_s, code in ((5e-6, "OK"), (15e-6, "OK"), (1.0, "INTERNAL")):
        counters.record(
            model_name='a"b\\',
            api="Predict",
            entrypoint="GRPC",
            code=code,
            latency_s=latency_s,
        )
    return counters


def test_requests_are_counted_by_model_and_code():
    lines = make_metrics().to_text().splitlines()
    assert "# TYPE :tensorflow:serving:request_count counter" in lines
    for code, count in (("OK", 2), ("INTERNAL", 1)):
        assert (
            ':tensorflow:serving:request_count{model_name="a\\"b\\\\",'
            f'status="{code}"}} {count}' in lines
        )


def test_latencies_of_answers_fall_into_buckets():
    text = make_metrics().to_text()
    labels = r'{model_name="a\"b\\",API="Predict",entrypoint="GRPC"'
    # 10 us, 10 * 1.8 us, 10 * 1.8 * 1.8 us.
    for limit, total in (("10", 1), ("18", 2), ("32.4", 2), ("+Inf", 2)):
        assert f'{NAME}_bucket{labels},le="{limit}"}} {total}\n' in text
    assert f"{NAME}_count{labels}}} 2\n" in text
    assert f"{NAME}_sum{labels}}} 20\n" in text
    assert len(re.findall("_bucket", text)) == 34


def test_prometheus_understands_the_page():
    parser = pytest.importorskip("prometheus_client.parser")
    families = parser.text_string_to_metric_families(make_metrics().to_text())
    types = {family.name: family.type for family in families}
    assert types == {
        ":tensorflow:serving:request_count": "counter",
        NAME: "histogram",
    }
