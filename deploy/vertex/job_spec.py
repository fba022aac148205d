"""What a job on Vertex AI is made of, as its API and `gcloud ai` take it."""

import dataclasses

from deploy.vertex import machines

COMMAND = ["python", "-m", "trainer.task"]


@dataclasses.dataclass(frozen=True)
class JobOptions:
    """Where and how a job runs.

    Attributes:
        name: that the console shows.
        region: for example us-central1.
        image_uri: of a container with this package.
        machine: of each worker.
        num_workers: machines that train in step.
        spot: on capacity that may be taken away.
        timeout_s: after which the job is ended.
        restart: all workers when one of them is restarted.
        boot_disk_gb: of each machine.
        service_account: that the job runs as; "": Vertex AI's own.
        network: projects/NUMBER/global/networks/NAME to peer with.
        reserved_ip_ranges: of that network to stay within.
        psc_network_attachment: of Private Service Connect, instead.
        kms_key: that encrypts what Vertex AI keeps of the job.
        tensorboard: a Vertex AI TensorBoard to stream the logs to.
        labels: of the job, for bills.
    """

    name: str
    region: str
    image_uri: str
    machine: machines.Machine
    num_workers: int = 1
    spot: bool = False
    timeout_s: int = 86_400
    restart: bool = True
    boot_disk_gb: int = 100
    service_account: str = ""
    network: str = ""
    reserved_ip_ranges: tuple[str, ...] = ()
    psc_network_attachment: str = ""
    kms_key: str = ""
    tensorboard: str = ""
    labels: dict[str, str] = dataclasses.field(default_factory=dict)


def machine_spec(machine: machines.Machine) -> dict:
    """A MachineSpec in the API's JSON names."""
    spec = {"machineType": machine.machine_type}
    if machine.accelerator_type:
        spec["acceleratorType"] = machine.accelerator_type
        spec["acceleratorCount"] = machine.accelerator_count
    if machine.tpu_topology:
        spec["tpuTopology"] = machine.tpu_topology
    return spec


def make_job_spec(
    options: JobOptions, arguments: list[str], base_output_dir: str
) -> dict:
    """A CustomJobSpec in the API's JSON names.

    Args:
        arguments: of `trainer.task`.
        base_output_dir: `gs://` path; Vertex AI derives AIP_MODEL_DIR and its
            like from it.
    """
    container = {
        "imageUri": options.image_uri,
        "command": list(COMMAND),
        "args": list(arguments),
    }
    if options.machine.is_tpu:
        container["env"] = [{"name": "TPU_NAME", "value": "local"}]
    pools = [
        {
            "machineSpec": machine_spec(options.machine),
            "replicaCount": count,
            "diskSpec": {
                "bootDiskType": "pd-ssd",
                "bootDiskSizeGb": options.boot_disk_gb,
            },
            "containerSpec": container,
        }
        # The first pool is the chief; the second the other workers.
        for count in (1, options.num_workers - 1)
        if count
    ]
    scheduling = {
        "timeout": f"{options.timeout_s}s",
        "strategy": "SPOT" if options.spot else "STANDARD",
    }
    if options.restart:
        # The survivors of a lost worker end too: all must start again.
        scheduling["restartJobOnWorkerRestart"] = True
    else:
        scheduling["disableRetries"] = True
    spec = {
        "workerPoolSpecs": pools,
        "scheduling": scheduling,
        "baseOutputDirectory": {"outputUriPrefix": base_output_dir},
    }
    for field, value in (
        ("serviceAccount", options.service_account),
        ("network", options.network),
        ("reservedIpRanges", list(options.reserved_ip_ranges)),
        ("tensorboard", options.tensorboard),
    ):
        if value:
            spec[field] = value
    if options.psc_network_attachment:
        spec["pscInterfaceConfig"] = {
            "networkAttachment": options.psc_network_attachment
        }
    return spec


def _wrap(options: JobOptions, job: dict) -> dict:
    job = {"displayName": options.name, **job}
    if options.labels:
        job["labels"] = dict(options.labels)
    if options.kms_key:
        job["encryptionSpec"] = {"kmsKeyName": options.kms_key}
    return job


def make_custom_job(options: JobOptions, job_spec: dict) -> dict:
    """A CustomJob in the API's JSON names."""
    return _wrap(options, {"jobSpec": job_spec})


def make_tuning_job(
    options: JobOptions,
    job_spec: dict,
    study_spec: dict,
    max_trials: int,
    parallel_trials: int,
) -> dict:
    """A HyperparameterTuningJob in the API's JSON names."""
    return _wrap(
        options,
        {
            "studySpec": study_spec,
            "maxTrialCount": max_trials,
            "parallelTrialCount": parallel_trials,
            # A user's mistake fails every trial alike.
            "maxFailedTrialCount": min(3, max_trials),
            "trialJobSpec": job_spec,
        },
    )
