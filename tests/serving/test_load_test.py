"""Load over both protocols, and what is reported of it."""

import itertools
import json
import time

import pytest
from PIL import Image

from serving import load_test
from tests import processes
from tests.serving import brightness

BATCHES = [[brightness.encode_image(51)], [brightness.encode_image(204)]]


def test_percentiles_are_those_of_the_samples():
    samples = [load_test.Sample(0.0, ms / 1e3, "") for ms in range(1, 101)]
    samples.append(load_test.Sample(0.0, 1.0, "UNAVAILABLE"))
    summary = load_test.summarize(samples, batch_size=4)
    assert summary["num_errors"] == 1
    assert summary["errors"] == {"UNAVAILABLE": 1}
    assert summary["requests_per_s"] == pytest.approx(100)
    assert summary["images_per_s"] == pytest.approx(400)
    assert summary["latency_ms"] == pytest.approx(
        {"mean": 50.5, "p50": 50, "p95": 95, "p99": 99, "max": 100}
    )


class SlowClient:
    """Takes 0.2 s for an answer."""

    def predict(self, images):
        time.sleep(0.2)


def test_closed_loop_waits_for_each_answer():
    samples = load_test.run_closed(SlowClient(), BATCHES, 1, 1.0)
    assert len(samples) > 1
    for before, after in itertools.pairwise(samples):
        assert after.due_s >= before.due_s + before.latency_s


def test_open_loop_does_not_wait_for_answers():
    samples = load_test.run_open(SlowClient(), BATCHES, 50, 1.0, seed=0)
    # One after the other there would be five.
    assert 25 < len(samples) < 85
    assert min(sample.latency_s for sample in samples) >= 0.2


def test_open_loop_says_when_the_server_is_too_slow(monkeypatch):
    monkeypatch.setattr(load_test, "MAX_UNDER_WAY", 4)
    with pytest.raises(ValueError, match="Choose a lower rate"):
        load_test.run_open(SlowClient(), BATCHES, 100, 1.0, seed=0)


@pytest.mark.parametrize("mode", load_test.MODES)
def test_command_writes_json_and_png(rest_target, tmp_path, mode):
    (tmp_path / "a.png").write_bytes(brightness.encode_image(51))
    done = processes.run(
        "serving.load_test",
        f"--target={rest_target}",
        f"--model_name={brightness.MODEL_NAME}",
        *("--duration_s=0.5", "--warm_up_s=0.1", "--rate=20"),
        *(f"--mode={mode}", f"--output_dir={tmp_path}/load"),
        str(tmp_path / "a.png"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "load" / "load_test.json").read_text())
    assert (report["mode"], report["num_errors"]) == (mode, 0)
    assert report["num_requests"] > 1
    assert set(report["latency_ms"]) == {"mean", "p50", "p95", "p99", "max"}
    assert f"0 errors in {report['num_requests']} requests" in done.stdout
    with Image.open(tmp_path / "load" / "load_test.png") as picture:
        assert picture.width > 800
