"""What Docker and Kubernetes ask to learn whether a server is well."""

import json
import subprocess

import pytest
import requests

from tests.samples import ROOT
from tests.serving import brightness

yaml = pytest.importorskip("yaml")


def health_check(name, port):
    """The HEALTHCHECK of serve.Dockerfile for another model and port."""
    text = (ROOT / "deploy/docker/serve.Dockerfile").read_text()
    text = text.partition("HEALTHCHECK")[2].replace("\\\n", "")
    command = json.loads(text.partition(" CMD ")[2].partition("\n")[0])
    script = command[-1].replace("classifier", name).replace("8501", str(port))
    return subprocess.run([*command[:-1], script], timeout=20).returncode


def test_health_check_of_the_image_wants_a_loaded_model(rest_target):
    port = rest_target.rpartition(":")[2]
    assert health_check(brightness.MODEL_NAME, port) == 0
    assert health_check("absent", port) != 0
    assert health_check(brightness.MODEL_NAME, 1) != 0


def test_probes_of_the_deployment_tell_a_model_from_none(rest_target):
    deployment = yaml.safe_load(
        (ROOT / "deploy/kubernetes/serving/deployment.yaml").read_text()
    )
    (container,) = deployment["spec"]["template"]["spec"]["containers"]

    def code(probe, name):
        path = container[probe]["httpGet"]["path"].replace("classifier", name)
        return requests.get(rest_target + path, timeout=10).status_code

    for probe in ("startupProbe", "readinessProbe"):
        assert code(probe, brightness.MODEL_NAME) == 200
        assert code(probe, "absent") == 404
    assert code("livenessProbe", "absent") == 200
