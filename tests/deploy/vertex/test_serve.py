"""Requests that serve a model parse into the API's types and are sent once."""

import base64
import json
import subprocess
import sys
import types

import pytest
from google.cloud import aiplatform_v1

from deploy.vertex import endpoints, job_checks, machines, serving_spec
from tests.conftest import ROOT, encode, make_pixels


def options(**given):
    return serving_spec.ServingOptions(
        **{
            "name": "brain_mri",
            "region": "europe-west4",
            "model_base_path": "gs://bucket/run/model",
            "image_uri": serving_spec.IMAGE,
            "machine": machines.Machine("n1-standard-4"),
            **given,
        }
    )


def test_model_has_routes_probes_and_the_artifacts_of_tf_serving():
    model = job_checks.parse("Model", serving_spec.make_model(options()))
    assert model.artifact_uri == "gs://bucket/run/model"
    container = model.container_spec
    assert container.predict_route == "/v1/models/brain_mri:predict"
    assert container.health_route == "/v1/models/brain_mri"
    (port,) = container.ports
    assert f"--rest_api_port={port.container_port}" in container.args
    assert "--model_base_path=$(AIP_STORAGE_URI)" in container.args
    for probe in (container.startup_probe, container.health_probe):
        assert probe.http_get.path == "/v1/models/brain_mri/metadata"
        assert probe.http_get.port == port.container_port
    # Vertex AI's limits on command, args and routes.
    assert list(container.command) == ["/usr/bin/tensorflow_model_server"]


def test_pinned_image_is_that_of_the_dockerfile():
    text = (ROOT / "deploy/docker/serve.Dockerfile").read_text()
    assert f"SERVING_IMAGE={serving_spec.IMAGE.split('/', 1)[1]}\n" in text


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"model_base_path": "run/export"}, "--model_base_path must be gs://"),
        ({"model_base_path": "gs://bucket/run/model/1"}, "not one of them"),
        ({"region": "mars"}, "--region"),
        ({"name": "brain mri"}, "--model_name"),
        ({"min_replicas": 3}, "--max_replicas"),
        (
            {"machine": machines.Machine("n1-standard-4", "NVIDIA_L4", 1)},
            "cannot be attached",
        ),
        (
            {
                "machine": machines.complete(
                    machines.Machine("ct5lp-hightpu-1t")
                )
            },
            "no TPU",
        ),
    ],
)
def test_wrong_option_is_refused_with_its_flag(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        serving_spec.check(options(**given))


def test_request_that_an_endpoint_refuses_is_not_sent():
    serving_spec.check_instances([{"b64": "x" * 1_400_000}])
    with pytest.raises(ValueError, match=r"at most 1.5 MB.*Received: 1.6 MB"):
        serving_spec.check_instances([{"b64": "x" * 800_000}] * 2)


class Done:
    """A long-running operation that has ended."""

    def __init__(self, found):
        self.found = found

    def result(self, timeout):
        assert timeout == 60
        return self.found


class FakeApi:
    """Keeps what it is asked, and one model and endpoint once made."""

    def __init__(self):
        self.models, self.endpoints, self.asked = [], [], []

    def list_models(self, request):
        assert request["filter"] == 'display_name="brain_mri"'
        return self.models

    def upload_model(self, request):
        self.asked.append(("upload", request.get("parent_model")))
        self.models = [types.SimpleNamespace(name="projects/p/models/7")]
        version = sum(what == "upload" for what, _ in self.asked)
        return Done(
            types.SimpleNamespace(
                model="projects/p/models/7", model_version_id=str(version)
            )
        )

    def list_endpoints(self, request):
        return self.endpoints

    def create_endpoint(self, request):
        self.asked.append(("create", request["endpoint"].display_name))
        self.endpoints = [types.SimpleNamespace(name="projects/p/endpoints/9")]
        return Done(self.endpoints[0])

    def deploy_model(self, request):
        deployed = request["deployed_model"]
        resources = deployed.dedicated_resources
        assert resources.machine_spec.machine_type == "n1-standard-4"
        assert request["traffic_split"] == {"0": 100}
        self.asked.append(("deploy", deployed.model))
        return Done(None)

    def predict(self, request, timeout):
        assert request.endpoint == "projects/p/endpoints/9"
        body = aiplatform_v1.PredictRequest.to_dict(request)["instances"]
        self.asked.append(("predict", body))
        answer = {"probabilities": [0.25, 0.75], "valid": True}
        return aiplatform_v1.PredictResponse.from_json(
            json.dumps({"predictions": [answer]})
        )


def test_second_upload_is_a_version_at_the_same_endpoint():
    api = FakeApi()
    service = endpoints.Service(api, api, api, timeout_s=60)
    parent = "projects/p/locations/europe-west4"
    some = options()
    for _ in range(2):
        model = service.upload(parent, serving_spec.make_model(some))
        endpoint = service.find_or_create_endpoint(
            parent, serving_spec.make_endpoint(some)
        )
        service.deploy(endpoint, model, serving_spec.make_deployed_model(some))
    instance = {"b64": base64.b64encode(b"image").decode()}
    (answer,) = service.predict(endpoint, [instance])
    assert answer == {"probabilities": [0.25, 0.75], "valid": True}
    assert api.asked == [
        ("upload", None),
        ("create", "brain_mri"),
        ("deploy", "projects/p/models/7@1"),
        ("upload", "projects/p/models/7"),
        ("deploy", "projects/p/models/7@2"),
        ("predict", [instance]),
    ]


def test_dry_run_prints_all_requests(tmp_path):
    (tmp_path / "scan.png").write_bytes(encode(make_pixels(0, 1)))

    def run(*arguments):
        return subprocess.run(
            [
                *(sys.executable, "-m", "deploy.vertex.serve", "--dry_run"),
                *arguments,
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )

    key = "projects/p/locations/us-central1/keyRings/r/cryptoKeys/k"
    done = run(
        "--model_base_path=gs://bucket/run/model",
        "--service_account=server@p.iam.gserviceaccount.com",
        f"--kms_key={key}",
        str(tmp_path / "scan.png"),
    )
    assert done.returncode == 0, done.stderr
    requests = json.loads(done.stdout)
    assert list(requests) == [
        "uploadModel",
        "createEndpoint",
        "deployModel",
        "predict",
    ]
    for name in ("uploadModel", "createEndpoint"):
        assert requests[name]["encryptionSpec"]["kmsKeyName"] == key
    assert requests["deployModel"]["serviceAccount"].startswith("server@")
    refused = run("--model_base_path=run/export")
    assert refused.returncode == 1
    assert refused.stderr.startswith("deploy.vertex.serve: --model_base_path")
