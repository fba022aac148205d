"""Starts `trainer.task` as one pod of an Indexed Job.

Kubernetes tells a pod its index; `trainer.task` wants to know its cluster, by
`TF_CONFIG`. This sets it and becomes the command:

    python -m deploy.kubernetes.join trainer.task --data_dir=... --job_dir=...

It reads `JOB_COMPLETION_INDEX`, which Kubernetes sets, and from the manifest
`JOB_NAME`, `SERVICE_NAME` (the headless service: `spec.subdomain` of the pods),
`NUM_PODS` (the Job's `completions`) and `PORT`.
"""

import json
import os
import sys
from collections.abc import Mapping


def training_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """`TF_CONFIG` of a worker; worker 0 is the chief."""
    names = ("JOB_NAME", "SERVICE_NAME", "PORT", "NUM_PODS")
    job, service, port, num_pods = (environment[name] for name in names)
    hosts = [f"{job}-{i}.{service}:{port}" for i in range(int(num_pods))]
    task = {"type": "worker", "index": int(environment["JOB_COMPLETION_INDEX"])}
    return {
        "TF_CONFIG": json.dumps({"cluster": {"worker": hosts}, "task": task})
    }


def main(argv: list[str]) -> None:
    module = argv[1] if len(argv) > 1 else ""
    if module != "trainer.task":
        sys.exit(
            "deploy.kubernetes.join: the first argument must be trainer.task. "
            f"Received: {module!r}."
        )
    try:
        variables = training_variables(os.environ)
    except (KeyError, ValueError) as error:
        sys.exit(
            "deploy.kubernetes.join: the pod must be one of an Indexed Job "
            "with JOB_NAME, SERVICE_NAME, NUM_PODS and PORT in its "
            f"environment ({type(error).__name__}: {error})."
        )
    # In the place of this process: SIGTERM reaches the command itself.
    os.execve(
        sys.executable,
        [sys.executable, "-m", *argv[1:]],
        os.environ | variables,
    )


if __name__ == "__main__":
    main(sys.argv)
