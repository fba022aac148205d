"""Refuses what Vertex AI would refuse, or fail at, before it is sent."""

import json
import re

from deploy.vertex import job_spec, machines

_MAX_WORKERS = 64


def check_options(options: job_spec.JobOptions) -> None:
    """Checks what the API's types do not.

    Raises:
        ValueError: with a sentence that names the flag.
    """
    for problem in (
        _find_name_problem(options),
        machines.find_problem(options.machine),
        _find_count_problem(options),
        _find_identity_problem(options),
        _find_network_problem(options),
    ):
        if problem:
            raise ValueError(problem)


def _refuse(flag: str, rule: str, value) -> str:
    return f"--{flag} must be {rule}. Received: {flag}={value}."


def _find_name_problem(options: job_spec.JobOptions) -> str:
    if not 1 <= len(options.name) <= 128:
        return _refuse("name", "of 1 to 128 characters", options.name or "''")
    if options.region not in machines.REGIONS:
        near = sorted(
            r
            for r in machines.REGIONS
            if r.split("-")[0] == options.region.split("-")[0]
        )
        return _refuse(
            "region",
            "a region of Vertex AI, for example "
            f"{', '.join(near[:3] or ['us-central1', 'europe-west4'])}",
            options.region or "''",
        )
    if not re.fullmatch(
        r"[a-z0-9.-]+(:\d+)?/[a-z0-9._/-]+(:[\w.-]+)?(@sha256:[0-9a-f]{64})?",
        options.image_uri,
    ):
        return _refuse(
            "image_uri",
            "an image in a registry, for example "
            "us-central1-docker.pkg.dev/PROJECT/REPOSITORY/lightbox:1",
            options.image_uri or "''",
        )
    if len(options.labels) > 64:
        return _refuse("labels", "64 at most", len(options.labels))
    for key, value in options.labels.items():
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key) or not re.fullmatch(
            r"[a-z0-9_-]{0,63}", value
        ):
            return _refuse(
                "labels",
                "KEY=VALUE,… of lower-case letters, digits, - and _, at most "
                "63 each, a key beginning with a letter",
                f"{key}={value}",
            )
    return ""


def _find_count_problem(options: job_spec.JobOptions) -> str:
    if not 1 <= options.num_workers <= _MAX_WORKERS:
        return _refuse(
            "num_workers", f"between 1 and {_MAX_WORKERS}", options.num_workers
        )
    if options.machine.is_tpu and options.num_workers > 1:
        return _refuse(
            "num_workers",
            "1 on a TPU: training does not run on slices of several machines",
            options.num_workers,
        )
    if options.machine.is_tpu and options.spot:
        return "--spot is not for TPUs: Vertex AI has no spot capacity of them."
    if not 60 <= options.timeout_s <= 30 * 86_400:
        return _refuse(
            "timeout_s", "between 60 and 2592000 (30 days)", options.timeout_s
        )
    if not 100 <= options.boot_disk_gb <= 64_000:
        return _refuse(
            "boot_disk_gb", "between 100 and 64000", options.boot_disk_gb
        )
    return ""


def _find_identity_problem(options: job_spec.JobOptions) -> str:
    if options.service_account and not re.fullmatch(
        r"[a-z0-9-]+@[a-z0-9.-]+\.gserviceaccount\.com", options.service_account
    ):
        return _refuse(
            "service_account",
            "the address of a service account, for example "
            "trainer@PROJECT.iam.gserviceaccount.com, not a person or a key "
            "file",
            options.service_account,
        )
    if options.kms_key:
        match = re.fullmatch(
            r"projects/[^/]+/locations/([^/]+)/keyRings/[^/]+/cryptoKeys/[^/]+",
            options.kms_key,
        )
        if not match or match[1] != options.region:
            return _refuse(
                "kms_key",
                "projects/PROJECT/locations/"
                f"{options.region}/keyRings/RING/cryptoKeys/KEY, in the region "
                "of the job",
                options.kms_key,
            )
    if options.tensorboard:
        match = re.fullmatch(
            r"projects/[^/]+/locations/([^/]+)/tensorboards/\d+",
            options.tensorboard,
        )
        if not match or match[1] != options.region:
            return _refuse(
                "tensorboard",
                f"projects/PROJECT/locations/{options.region}/tensorboards/"
                "NUMBER, in the region of the job",
                options.tensorboard,
            )
        if not options.service_account:
            return (
                "--tensorboard needs --service_account: Vertex AI writes to it "
                "as the job's own account (roles/aiplatform.user)."
            )
    return ""


def _find_network_problem(options: job_spec.JobOptions) -> str:
    if options.network and not re.fullmatch(
        r"projects/\d+/global/networks/[a-z]([-a-z0-9]*[a-z0-9])?",
        options.network,
    ):
        return _refuse(
            "network",
            "projects/NUMBER/global/networks/NAME, with the project's number "
            "and not its id",
            options.network,
        )
    if options.reserved_ip_ranges and not options.network:
        return "--reserved_ip_ranges are ranges of a --network: give it too."
    attachment = options.psc_network_attachment
    if not attachment:
        return ""
    if options.network:
        return (
            "--network (VPC peering) and --psc_network_attachment (Private "
            "Service Connect) exclude each other: give one."
        )
    match = re.fullmatch(
        r"projects/[^/]+/regions/([^/]+)/networkAttachments/[^/]+", attachment
    )
    if "/" in attachment and (not match or match[1] != options.region):
        return _refuse(
            "psc_network_attachment",
            f"a name or projects/PROJECT/regions/{options.region}/"
            "networkAttachments/NAME, in the region of the job",
            attachment,
        )
    return ""


def check_config(config: dict, options: job_spec.JobOptions) -> None:
    """Checks the trainer's own settings against the job.

    Args:
        config: the fields of a `TrainConfig`.

    Raises:
        ValueError: if they do not go together.
    """
    for flag in ("data_dir", "job_dir"):
        if not re.fullmatch(r"gs://[a-z0-9][\w.-]+[a-z0-9]/.+", config[flag]):
            raise ValueError(
                _refuse(
                    flag,
                    "gs://BUCKET/PATH: a machine of Vertex AI is gone with its "
                    "disk when the job ends",
                    config[flag],
                )
            )
    wanted = {"tpu"} if options.machine.is_tpu else {"multi_worker"}
    if not options.machine.is_tpu and options.num_workers == 1:
        wanted = {"one_device", "mirrored"}
    if config["strategy"] not in {"auto"} | wanted:
        raise ValueError(
            _refuse(
                "strategy",
                f"auto or {' or '.join(sorted(wanted))} on "
                f"{options.num_workers} x {options.machine.machine_type}",
                config["strategy"],
            )
        )
    num_replicas = machines.num_devices(options.machine) * options.num_workers
    if config["global_batch_size"] % num_replicas:
        raise ValueError(
            "--global_batch_size must be a multiple of the number of replicas. "
            f"Received: global_batch_size={config['global_batch_size']}, "
            f"{num_replicas} replicas ({options.num_workers} x "
            f"{options.machine.machine_type})."
        )


def parse(kind: str, job: dict):
    """Parses a job into the API's own type.

    Args:
        kind: CustomJob, HyperparameterTuningJob, Model or another type of
            `aiplatform_v1`.
        job: in the API's JSON names.

    Returns:
        A message of `google.cloud.aiplatform_v1`.

    Raises:
        ValueError: if it has a field or value that the type has not, or this
            package is not installed.
    """
    try:
        from google.cloud import aiplatform_v1
    except ImportError as error:
        raise ValueError(
            "google-cloud-aiplatform is not installed: pip install -e "
            "'.[cloud]'."
        ) from error
    from google.protobuf import json_format

    try:
        return getattr(aiplatform_v1, kind).from_json(json.dumps(job))
    except json_format.ParseError as error:
        raise ValueError(f"This is no {kind}: {error}.") from error


_REQUIRED_OF_POOL = ("machineSpec", "replicaCount", "containerSpec")


def check_job_spec(spec: dict) -> None:
    """Checks a CustomJobSpec for what its type does not require.

    Raises:
        ValueError: if a field is missing or a pool has the wrong size.
    """
    pools = spec.get("workerPoolSpecs") or []
    if not pools:
        raise ValueError("workerPoolSpecs must have a pool.")
    for index, pool in enumerate(pools):
        for field in _REQUIRED_OF_POOL:
            if not pool.get(field):
                raise ValueError(f"workerPoolSpecs[{index}] must have {field}.")
        if not pool["containerSpec"].get("imageUri"):
            raise ValueError(f"workerPoolSpecs[{index}] must have imageUri.")
        if not pool["machineSpec"].get("machineType"):
            raise ValueError(f"workerPoolSpecs[{index}] must have machineType.")
    if pools[0]["replicaCount"] != 1:
        raise ValueError(
            "The first worker pool is the chief: its replicaCount must be 1. "
            f"Received: replicaCount={pools[0]['replicaCount']}."
        )
    output = spec.get("baseOutputDirectory", {}).get("outputUriPrefix", "")
    if not output.startswith("gs://"):
        raise ValueError(
            f"baseOutputDirectory must be gs://BUCKET/PATH. Received: {output}."
        )
