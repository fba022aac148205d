"""Starts a command of Lightbox as one pod of an Indexed Job.

Kubernetes tells a pod its index; the commands want to know their cluster:
`trainer.task` by `TF_CONFIG`, `tuning.task` by keras-tuner's variables. This
sets them and becomes the command:

    python -m deploy.kubernetes.join trainer.task --data_dir=... --job_dir=...

It reads `JOB_COMPLETION_INDEX`, which Kubernetes sets, and from the manifest
`JOB_NAME`, `SERVICE_NAME` (the headless service: `spec.subdomain` of the pods),
`NUM_PODS` (the Job's `completions`) and `PORT`.
"""

import json
import os
import sys
from collections.abc import Mapping


def host(environment: Mapping[str, str], index: int) -> str:
    """The name by which the other pods of the Job find one of them."""
    return (
        f"{environment['JOB_NAME']}-{index}.{environment['SERVICE_NAME']}:"
        f"{environment['PORT']}"
    )


def training_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """`TF_CONFIG` of a worker; worker 0 is the chief."""
    hosts = [host(environment, i) for i in range(int(environment["NUM_PODS"]))]
    task = {"type": "worker", "index": int(environment["JOB_COMPLETION_INDEX"])}
    return {
        "TF_CONFIG": json.dumps({"cluster": {"worker": hosts}, "task": task})
    }


def sweep_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """keras-tuner's variables; pod 0 is the chief, the others run trials."""
    index = int(environment["JOB_COMPLETION_INDEX"])
    address, port = host(environment, 0).rsplit(":", 1)
    return {
        "KERASTUNER_TUNER_ID": f"worker-{index}" if index else "chief",
        # The chief listens at all of its addresses: a pod cannot always reach
        # itself by the name that the others use.
        "KERASTUNER_ORACLE_IP": address if index else "0.0.0.0",
        "KERASTUNER_ORACLE_PORT": port,
    }


_VARIABLES = {
    "trainer.task": training_variables,
    "tuning.task": sweep_variables,
}


def main(argv: list[str]) -> None:
    module = argv[1] if len(argv) > 1 else ""
    if module not in _VARIABLES:
        sys.exit(
            "deploy.kubernetes.join: the first argument must be "
            f"{' or '.join(_VARIABLES)}. Received: {module!r}."
        )
    try:
        variables = _VARIABLES[module](os.environ)
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
