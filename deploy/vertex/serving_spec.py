"""A model, an endpoint and a deployment as the API of Vertex AI takes them."""

import dataclasses
import re

from deploy.vertex import job_spec, machines

# As deploy/docker/serve.Dockerfile pins it. Vertex AI pulls from Artifact
# Registry and Docker Hub.
IMAGE = "docker.io/tensorflow/serving:2.20.0"
_REST_PORT, _GRPC_PORT = 8080, 8500
# Of a public endpoint; base64 and JSON included.
_MAX_REQUEST_BYTES = 1_500_000


@dataclasses.dataclass(frozen=True)
class ServingOptions:
    """What serves where.

    Attributes:
        name: of model, endpoint and in requests.
        region: for example us-central1.
        model_base_path: `gs://` directory with a directory per version.
        image_uri: of TF Serving.
        machine: of each replica.
        min_replicas: at least.
        max_replicas: at most.
        service_account: that the containers run as; "": Vertex AI's own.
        kms_key: that encrypts model and endpoint.
    """

    name: str
    region: str
    model_base_path: str
    image_uri: str
    machine: machines.Machine
    min_replicas: int = 1
    max_replicas: int = 1
    service_account: str = ""
    kms_key: str = ""


def check(options: ServingOptions) -> None:
    """Checks what the API's types do not.

    Raises:
        ValueError: with a sentence that names the flag.
    """
    problem = machines.find_problem(options.machine)
    if options.machine.is_tpu:
        problem = (
            "--machine_type must have no TPU: TF Serving's image has none."
        )
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,127}", options.name):
        problem = (
            "--model_name must be letters, digits, - and _, beginning with a "
            f"letter. Received: model_name={options.name}."
        )
    if options.region not in machines.REGIONS:
        problem = (
            "--region must be a region of Vertex AI, for example us-central1. "
            f"Received: region={options.region}."
        )
    if not re.fullmatch(
        r"gs://[a-z0-9][\w.-]+[a-z0-9]/.+", options.model_base_path
    ):
        problem = (
            "--model_base_path must be gs://BUCKET/PATH; put an export there "
            "with deploy.publish. Received: model_base_path="
            f"{options.model_base_path}."
        )
    elif re.search(r"/\d+$", options.model_base_path):
        problem = (
            "--model_base_path must be the directory that has the versions, "
            "not one of them: TF Serving looks for numbers in it. Received: "
            f"model_base_path={options.model_base_path}."
        )
    if not 1 <= options.min_replicas <= options.max_replicas:
        problem = (
            "--min_replicas must be at least 1 and at most --max_replicas. "
            f"Received: min_replicas={options.min_replicas}, "
            f"max_replicas={options.max_replicas}."
        )
    if problem:
        raise ValueError(problem)


def check_instances(instances: list[dict]) -> None:
    """Checks the size of a request.

    Raises:
        ValueError: if an endpoint would refuse it.
    """
    num_bytes = sum(len(instance["b64"]) + 12 for instance in instances)
    if num_bytes > _MAX_REQUEST_BYTES:
        raise ValueError(
            "A request to an endpoint has at most 1.5 MB, images as base64. "
            f"Received: {num_bytes / 1e6:.1f} MB. Ask about fewer images, or "
            "smaller ones."
        )


def _encrypt(options: ServingOptions, resource: dict) -> dict:
    if options.kms_key:
        resource["encryptionSpec"] = {"kmsKeyName": options.kms_key}
    return resource


def make_model(options: ServingOptions) -> dict:
    """A Model with TF Serving's container, in the API's JSON names."""
    route = f"/v1/models/{options.name}"
    # The status of a model answers at once, its metadata only when a version
    # of it is loaded: that is readiness.
    ready = {"path": f"{route}/metadata", "port": _REST_PORT}
    return _encrypt(
        options,
        {
            "displayName": options.name,
            "artifactUri": options.model_base_path,
            "containerSpec": {
                "imageUri": options.image_uri,
                "command": ["/usr/bin/tensorflow_model_server"],
                "args": [
                    f"--model_name={options.name}",
                    # Vertex AI's copy of the artifacts.
                    "--model_base_path=$(AIP_STORAGE_URI)",
                    f"--rest_api_port={_REST_PORT}",
                    f"--port={_GRPC_PORT}",
                    "--rest_api_timeout_in_ms=60000",
                ],
                "env": [{"name": "TF_CPP_MIN_LOG_LEVEL", "value": "1"}],
                "ports": [{"containerPort": _REST_PORT}],
                "predictRoute": f"{route}:predict",
                "healthRoute": route,
                "startupProbe": {
                    "httpGet": ready,
                    "periodSeconds": 10,
                    "failureThreshold": 60,
                },
                "healthProbe": {
                    "httpGet": ready,
                    "periodSeconds": 10,
                    "timeoutSeconds": 5,
                },
            },
        },
    )


def make_endpoint(options: ServingOptions) -> dict:
    """An Endpoint in the API's JSON names."""
    return _encrypt(options, {"displayName": options.name})


def make_deployed_model(options: ServingOptions) -> dict:
    """A DeployedModel in the API's JSON names; its `model` is not known yet."""
    deployed = {
        "displayName": options.name,
        "dedicatedResources": {
            "machineSpec": job_spec.machine_spec(options.machine),
            "minReplicaCount": options.min_replicas,
            "maxReplicaCount": options.max_replicas,
        },
    }
    if options.service_account:
        deployed["serviceAccount"] = options.service_account
    return deployed
