"""Serves an exported model from an endpoint of Vertex AI, and asks it.

    python -m deploy.vertex.serve --region=us-central1 --model_name=brain_mri \\
        --model_base_path=gs://bucket/run/model some.jpg

The model is uploaded with TF Serving's container, deployed to an endpoint (an
endpoint of its name is used again) and asked about the images given. With
--dry_run nothing is sent: the requests are printed. Who runs it is known by
application default credentials alone.
"""

import base64
import json
import logging as python_logging
import sys

from absl import app, flags

from deploy.vertex import job_checks, machines, serving_spec
from trainer.export import signature

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_bool("dry_run", False, "Print the requests, send nothing.")
    flags.DEFINE_string(
        "project", "", "Project; empty: that of the credentials."
    )
    flags.DEFINE_string("region", "us-central1", "Region of the endpoint.")
    flags.DEFINE_string(
        "model_base_path",
        "",
        "gs://BUCKET/PATH with a directory per version, as deploy.publish and "
        "a job on Vertex AI write it.",
    )
    flags.DEFINE_string(
        "model_name",
        signature.MODEL_NAME,
        "Name of the model, of its endpoint and in requests.",
    )
    flags.DEFINE_string(
        "serving_image",
        serving_spec.IMAGE,
        "TF Serving's image; Vertex AI wants a registry that it can read.",
    )
    flags.DEFINE_string("machine_type", "n1-standard-4", "Of each replica.")
    flags.DEFINE_string(
        "accelerator_type", "", "GPU to attach to an N1 machine."
    )
    flags.DEFINE_integer("accelerator_count", 0, "GPUs of each replica.")
    flags.DEFINE_integer("min_replicas", 1, "Replicas at least.")
    flags.DEFINE_integer("max_replicas", 1, "Replicas at most.")
    flags.DEFINE_string(
        "service_account", "", "Account that the containers run as."
    )
    flags.DEFINE_string("kms_key", "", "Cloud KMS key (CMEK) of both.")
    flags.DEFINE_integer(
        "timeout_s", 1800, "Seconds to wait for each step.", lower_bound=1
    )


def _read_options() -> serving_spec.ServingOptions:
    machine = machines.complete(
        machines.Machine(
            FLAGS.machine_type, FLAGS.accelerator_type, FLAGS.accelerator_count
        )
    )
    return serving_spec.ServingOptions(
        name=FLAGS.model_name,
        region=FLAGS.region,
        model_base_path=FLAGS.model_base_path.rstrip("/"),
        image_uri=FLAGS.serving_image,
        machine=machine,
        min_replicas=FLAGS.min_replicas,
        max_replicas=FLAGS.max_replicas,
        service_account=FLAGS.service_account,
        kms_key=FLAGS.kms_key,
    )


def _read_instances(paths: list[str]) -> list[dict]:
    instances = []
    for path in paths:
        with open(path, "rb") as file:
            text = base64.b64encode(file.read()).decode("ascii")
        instances.append({"b64": text})
    serving_spec.check_instances(instances)
    return instances


def make_requests(options, instances: list[dict]) -> dict[str, dict]:
    """The requests in their order, parsed into the API's types.

    Raises:
        ValueError: if one would be refused.
    """
    requests = {
        "uploadModel": serving_spec.make_model(options),
        "createEndpoint": serving_spec.make_endpoint(options),
        "deployModel": serving_spec.make_deployed_model(options),
    }
    for request, kind in zip(
        requests, ("Model", "Endpoint", "DeployedModel"), strict=True
    ):
        job_checks.parse(kind, requests[request])
    if instances:
        requests["predict"] = {"instances": instances}
        job_checks.parse("PredictRequest", requests["predict"])
    return requests


def _shorten(requests: dict[str, dict]) -> dict[str, dict]:
    shown = dict(requests)
    if "predict" in shown:
        shown["predict"] = {
            "instances": [
                {"b64": f"{instance['b64'][:24]}…"}
                for instance in shown["predict"]["instances"]
            ]
        }
    return shown


def _send(options, requests: dict[str, dict]) -> None:
    from deploy.vertex import endpoints, jobs

    project = jobs.find_project(FLAGS.project)
    service = endpoints.Service.of_region(options.region, FLAGS.timeout_s)
    parent = f"projects/{project}/locations/{options.region}"
    model = service.upload(parent, requests["uploadModel"])
    print(f"Model     {model}")
    endpoint = service.find_or_create_endpoint(
        parent, requests["createEndpoint"]
    )
    print(f"Endpoint  {endpoint}")
    service.deploy(endpoint, model, requests["deployModel"])
    number = endpoint.rsplit("/", 1)[-1]
    print(
        f"It serves. Take it away, and its costs: gcloud ai endpoints "
        f"undeploy-model {number} --region={options.region} "
        f"--project={project} --deployed-model-id=ID (gcloud ai endpoints "
        f"describe {number} --region={options.region} tells the ID)."
    )
    if "predict" in requests:
        for prediction in service.predict(
            endpoint, requests["predict"]["instances"]
        ):
            print(json.dumps(prediction))


def main(argv: list[str]) -> None:
    # Its warnings would come before the sentence about the same.
    python_logging.getLogger("google.auth").setLevel(python_logging.ERROR)
    try:
        options = _read_options()
        serving_spec.check(options)
        requests = make_requests(options, _read_instances(argv[1:]))
    except (ValueError, OSError) as error:
        sys.exit(f"deploy.vertex.serve: {error}")
    if FLAGS.dry_run:
        print(json.dumps(_shorten(requests), indent=2, ensure_ascii=False))
        return
    from deploy.vertex import api_errors

    try:
        _send(options, requests)
    except (ValueError, OSError) as error:
        sys.exit(f"deploy.vertex.serve: {error}")
    except api_errors.ERRORS as error:
        said = api_errors.explain(
            error, FLAGS.project or "PROJECT", options.region, "--model_name"
        )
        sys.exit(f"deploy.vertex.serve: {said}")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
