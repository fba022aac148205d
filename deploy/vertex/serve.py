"""Serves an exported model from an endpoint of Vertex AI, and asks it.

    python -m deploy.vertex.serve --region=us-central1 --model_name=model \\
        --model_base_path=gs://bucket/run/model some.jpg

The model is uploaded with TF Serving's container, deployed to an endpoint (an
endpoint of its name is used again) and asked about the images given. With
--dry_run nothing is sent: what the calls take is printed. Who runs it is known
by application default credentials alone.
"""

import base64
import json
import re

from absl import flags

from deploy.vertex import api, vertex_flags
from trainer import startup
from trainer.export import signature
from trainer.storage import paths

FLAGS = flags.FLAGS

# As deploy/docker/serve.Dockerfile pins it. Vertex AI pulls from Artifact
# Registry and Docker Hub.
IMAGE = "docker.io/tensorflow/serving:2.20.0"
_REST_PORT, _GRPC_PORT = 8080, 8500
# Of a public endpoint; base64 and JSON included.
_MAX_REQUEST_BYTES = 1_500_000


def _define_flags() -> None:
    vertex_flags.define(machine_type="n1-standard-4")
    flags.adopt_module_key_flags(vertex_flags)
    flags.DEFINE_string(
        "model_base_path",
        "",
        "gs://BUCKET/PATH with a directory per version, as deploy.publish and "
        "a job on Vertex AI write it.",
    )
    flags.DEFINE_string(
        "model_name", signature.MODEL_NAME, "Of model, endpoint and requests."
    )
    flags.DEFINE_string(
        "serving_image", IMAGE, "TF Serving's, where Vertex AI can read it."
    )
    flags.DEFINE_integer("min_replicas", 1, "Replicas at least.", lower_bound=1)
    flags.DEFINE_integer("max_replicas", 1, "Replicas at most.", lower_bound=1)


def _read_instances(images: list[str]) -> list[dict]:
    encoded = [base64.b64encode(paths.read_bytes(path)) for path in images]
    instances = [{"b64": text.decode("ascii")} for text in encoded]
    num_bytes = len(json.dumps(instances))
    if num_bytes > _MAX_REQUEST_BYTES:
        raise ValueError(
            "A request to an endpoint has at most 1.5 MB, images as base64. "
            f"Received: {num_bytes / 1e6:.1f} MB. Ask about fewer images, or "
            "smaller ones."
        )
    return instances


def _make_upload() -> dict:
    """What `Model.upload` takes."""
    base_path = FLAGS.model_base_path.rstrip("/")
    if not paths.is_bucket(base_path):
        raise ValueError(
            "--model_base_path must be gs://BUCKET/PATH; put an export there "
            f"with deploy.publish. Received: model_base_path={base_path}."
        )
    if re.search(r"/\d+$", base_path):
        raise ValueError(
            "--model_base_path must be the directory that has the versions, "
            "not one of them: TF Serving looks for numbers in it. Received: "
            f"model_base_path={base_path}."
        )
    route = f"/v1/models/{FLAGS.model_name}"
    return {
        "display_name": FLAGS.model_name,
        "artifact_uri": base_path,
        "serving_container_image_uri": FLAGS.serving_image,
        "serving_container_command": ["/usr/bin/tensorflow_model_server"],
        "serving_container_args": [
            f"--model_name={FLAGS.model_name}",
            # Vertex AI's copy of the artifacts.
            "--model_base_path=$(AIP_STORAGE_URI)",
            f"--rest_api_port={_REST_PORT}",
            f"--port={_GRPC_PORT}",
            "--rest_api_timeout_in_ms=60000",
        ],
        "serving_container_environment_variables": {
            "TF_CPP_MIN_LOG_LEVEL": "1"
        },
        "serving_container_ports": [_REST_PORT],
        "serving_container_predict_route": f"{route}:predict",
        # The status of a model answers at once, its metadata only when a
        # version of it is loaded: that is readiness.
        "serving_container_health_route": f"{route}/metadata",
    }


def _make_deployment() -> dict:
    """What `Endpoint.deploy` takes."""
    machine = vertex_flags.machine()
    api.parse("MachineSpec", machine)
    return machine | {
        "min_replica_count": FLAGS.min_replicas,
        "max_replica_count": FLAGS.max_replicas,
        "service_account": FLAGS.service_account or None,
        # What was deployed before stays without traffic, which can go back.
        "traffic_percentage": 100,
    }


def _serve(upload: dict, deployment: dict, instances: list[dict]) -> None:
    aiplatform = api.connect(FLAGS.project, FLAGS.region)
    by_name = f'display_name="{FLAGS.model_name}"'
    encryption = {"encryption_spec_key_name": FLAGS.kms_key or None}
    models = aiplatform.Model.list(filter=by_name)
    if models:
        # It becomes a version of this model.
        upload["parent_model"] = models[0].resource_name
    model = aiplatform.Model.upload(**upload, **encryption)
    endpoints = aiplatform.Endpoint.list(filter=by_name)
    if not endpoints:
        name = FLAGS.model_name
        endpoints = [
            aiplatform.Endpoint.create(display_name=name, **encryption)
        ]
    endpoint = endpoints[0]
    endpoint.deploy(model, **deployment)
    print(
        "It serves, and costs until `gcloud ai endpoints undeploy-model "
        f"{endpoint.resource_name} --deployed-model-id=ID`; `gcloud ai "
        f"endpoints describe {endpoint.resource_name}` tells the ID."
    )
    if instances:
        for prediction in endpoint.predict(instances).predictions:
            print(json.dumps(prediction))


def main(argv: list[str]) -> None:
    with api.one_sentence("deploy.vertex.serve"):
        upload, deployment = _make_upload(), _make_deployment()
        instances = _read_instances(argv[1:])
        if FLAGS.dry_run:
            calls = {
                "Model.upload": upload,
                "Endpoint.deploy": deployment,
                "Endpoint.predict": [f"{i['b64'][:24]}…" for i in instances],
            }
            print(json.dumps(calls, indent=2, ensure_ascii=False))
            return
        _serve(upload, deployment, instances)


if __name__ == "__main__":
    _define_flags()
    startup.run(
        main,
        {
            "model_base_path": "Model and endpoint",
            "dry_run": "Machines and account",
        },
    )
