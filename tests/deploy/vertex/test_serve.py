"""A model is uploaded, deployed and asked, and nothing of it is sent twice."""

import json
from unittest import mock

import pytest
from google.cloud import aiplatform_v1

from deploy.vertex import serve
from tests.samples import ROOT, encode, make_pixels

BASE_PATH = "--model_base_path=gs://bucket/run/model/"
PARENT = "projects/project/locations/us-central1"


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.png"
    path.write_bytes(encode(make_pixels(0, 1)))
    return str(path)


def test_pinned_image_is_that_of_the_dockerfile():
    text = (ROOT / "deploy/docker/serve.Dockerfile").read_text()
    assert f"SERVING_IMAGE={serve.IMAGE.split('/', 1)[1]}\n" in text


def test_dry_run_prints_what_the_calls_take(run, scan):
    calls = json.loads(run(serve, "--dry_run", BASE_PATH, scan))
    upload, deploy, predict = (
        "Model.upload",
        "Endpoint.deploy",
        "Endpoint.predict",
    )
    assert list(calls) == [upload, deploy, predict]
    assert calls[deploy]["machine_type"] == "n1-standard-4"
    assert len(calls[predict]) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model_base_path=run/export"], "--model_base_path must be gs://"),
        (["--model_base_path=gs://bucket/run/model/1"], "not one of them"),
        ([BASE_PATH, "--accelerator_type=GPU"], "Invalid enum value GPU"),
        ([BASE_PATH, "/no/scan.png"], "/no/scan.png"),
        ([BASE_PATH, "LARGE", "LARGE"], r"at most 1.5 MB.*Received: 1.6 MB"),
        ([BASE_PATH], "gcloud auth application-default login"),
    ],
)
def test_mistake_is_answered_by_a_sentence(run, tmp_path, arguments, sentence):
    large = tmp_path / "large.png"
    large.write_bytes(b"x" * 600_000)
    arguments = [str(large) if a == "LARGE" else a for a in arguments]
    with pytest.raises(SystemExit, match=sentence):
        run(serve, *arguments)


@pytest.fixture
def service(signed_in, monkeypatch):
    """Keeps a model and an endpoint once made, and what it was asked."""
    requests, models, endpoints = [], [], []

    def done(response):
        return mock.Mock(**{"result.return_value": response})

    def upload(_, request, timeout=None):
        requests.append(request)
        model = request.model
        model.name, version = f"{PARENT}/models/7", str(1 + len(models))
        model.version_id = version
        model.supported_deployment_resources_types = ["DEDICATED_RESOURCES"]
        models.append(model)
        response = aiplatform_v1.UploadModelResponse
        return done(response(model=model.name, model_version_id=version))

    def create_endpoint(_, parent, endpoint, **__):
        requests.append(endpoint)
        endpoint.name = f"{PARENT}/endpoints/9"
        endpoints.append(endpoint)
        return done(endpoint)

    def deploy(_, endpoint, deployed_model, traffic_split, **__):
        requests.append(deployed_model)
        deployed_model.id = str(100 + len(requests))
        # "0" is the model that this request deploys.
        endpoints[0].traffic_split = {
            deployed_model.id if key == "0" else key: share
            for key, share in traffic_split.items()
        }
        endpoints[0].deployed_models.append(deployed_model)
        return done(None)

    def predict(_, endpoint, instances, **__):
        requests.append(instances)
        answer = {"predictions": [{"probabilities": [0.25, 0.75]}]}
        return aiplatform_v1.PredictResponse.from_json(json.dumps(answer))

    for kind, name, method in (
        ("Model", "upload_model", upload),
        ("Model", "list_models", lambda *_, **__: models),
        ("Model", "get_model", lambda *_, **__: models[-1]),
        ("Endpoint", "create_endpoint", create_endpoint),
        ("Endpoint", "list_endpoints", lambda *_, **__: endpoints),
        ("Endpoint", "get_endpoint", lambda *_, **__: endpoints[0]),
        ("Endpoint", "deploy_model", deploy),
        ("Prediction", "predict", predict),
    ):
        client = getattr(aiplatform_v1, f"{kind}ServiceClient")
        monkeypatch.setattr(client, name, method)
    return requests, endpoints


def test_model_is_served_by_tf_serving_with_its_routes(run, service):
    requests, endpoints = service
    key = "projects/p/locations/us-central1/keyRings/r/cryptoKeys/k"
    text = run(
        serve,
        BASE_PATH,
        "--accelerator_type=NVIDIA_TESLA_T4",
        "--max_replicas=3",
        "--service_account=server@p.iam.gserviceaccount.com",
        f"--kms_key={key}",
    )
    upload, endpoint, deployed = requests
    model = upload.model
    assert model.display_name == endpoint.display_name == "classifier"
    assert model.artifact_uri == "gs://bucket/run/model"
    container = model.container_spec
    assert list(container.command) == ["/usr/bin/tensorflow_model_server"]
    assert container.predict_route == "/v1/models/classifier:predict"
    assert container.health_route == "/v1/models/classifier/metadata"
    (port,) = container.ports
    assert f"--rest_api_port={port.container_port}" in container.args
    assert "--model_base_path=$(AIP_STORAGE_URI)" in container.args
    for resource in (model, endpoint):
        assert resource.encryption_spec.kms_key_name == key
    resources = deployed.dedicated_resources
    assert resources.machine_spec.machine_type == "n1-standard-4"
    assert resources.machine_spec.accelerator_type.name == "NVIDIA_TESLA_T4"
    assert resources.machine_spec.accelerator_count == 1
    assert (resources.min_replica_count, resources.max_replica_count) == (1, 3)
    assert deployed.service_account.startswith("server@")
    assert f"undeploy-model {endpoints[0].name} " in text


def test_second_upload_is_a_version_at_the_same_endpoint(run, service, scan):
    requests, endpoints = service
    run(serve, BASE_PATH)
    text = run(serve, BASE_PATH, scan)
    first, _, old, second, new, instances = requests
    assert (first.parent_model, second.parent_model) == ("", first.model.name)
    assert (old.model[-2:], new.model[-2:]) == ("@1", "@2")
    assert dict(endpoints[0].traffic_split) == {new.id: 100}
    assert list(endpoints[0].deployed_models) == [old, new]
    assert list(instances[0]) == ["b64"]
    assert '{"probabilities": [0.25, 0.75]}' in text
