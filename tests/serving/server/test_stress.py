"""A short run of what `tests.benchmarks.serving_stress` does for a minute."""

from tests.serving.server import stress


def test_good_requests_survive_reload_bad_version_and_garbage(
    saved_models, tmp_path
):
    outcome = stress.run(saved_models, tmp_path, num_clients=8, duration_s=5)
    assert outcome.failures == []
    assert outcome.num_good > 50
    assert outcome.num_malformed > 0
    assert outcome.broken == {2: "END", 1: "AVAILABLE"}
    assert outcome.versions == {3: "AVAILABLE", 2: "END", 1: "END"}
    assert outcome.decisions == [[True, True], [False, False]]
