"""Trains or tunes on Vertex AI.

    python -m deploy.vertex.submit --action=train --region=us-central1 \\
        --image_uri=us-central1-docker.pkg.dev/PROJECT/lightbox/train:1 \\
        --machine_type=g2-standard-8 --accelerator_type=NVIDIA_L4 \\
        -- --data_dir=gs://bucket/records --job_dir=gs://bucket/run

What stands after -- are the flags of `trainer.task`, as on any machine. With
--dry_run nothing is sent or asked: the job is printed. Who runs it is known by
application default credentials alone.
"""

import logging
import math
import re

from absl import flags

from deploy import command_lines
from deploy.vertex import api, study, vertex_flags
from trainer import startup
from trainer.storage import paths

FLAGS = flags.FLAGS


def _define_flags() -> None:
    vertex_flags.define(machine_type="n1-standard-8")
    flags.adopt_module_key_flags(vertex_flags)
    flags.DEFINE_enum(
        "action",
        "train",
        ["train", "tune"],
        "train: one run. tune: a HyperparameterTuningJob, whose trials are "
        "runs in directories of their own under --job_dir.",
    )
    text, number = flags.DEFINE_string, flags.DEFINE_integer
    text("name", "lightbox", "Name of the job.")
    text("image_uri", None, "Image of this package.", required=True)
    text("tpu_topology", "", "Of a TPU v5e: 2x4 on ct5lp-hightpu-8t.")
    number("num_workers", 1, "Machines that train in step.", 1)
    flags.DEFINE_bool(
        "spot",
        False,
        "Spot capacity: cheaper, and taken away at any time; the run then "
        "continues from its checkpoint.",
    )
    number("timeout_s", 86_400, "Seconds until the job is ended.", 1)
    flags.DEFINE_bool(
        "restart",
        True,
        "Restart all workers when one is restarted; the run then continues "
        "from its checkpoint. --norestart ends the job at the first failure.",
    )
    number("boot_disk_gb", 100, "Disk of each machine, in GB.")
    text("network", "", "To peer with: projects/NUMBER/global/networks/NAME.")
    flags.DEFINE_list("reserved_ip_ranges", [], "Of --network to stay within.")
    text("psc_network_attachment", "", "That of Private Service Connect.")
    text("tensorboard", "", "Vertex AI's that shows logs: --service_account.")
    flags.DEFINE_list("labels", [], "KEY=VALUE,… of the job, for bills.")
    flags.DEFINE_bool("wait", True, "Wait until the job has ended.")
    number("max_trials", 20, "Trials of --action=tune.", 1)
    number("parallel_trials", 2, "Trials at a time.", 1)
    flags.DEFINE_enum(
        "objective",
        "roc_auc",
        study.OBJECTIVES,
        "Metric of the validation split that a trial is chosen by.",
    )
    flags.DEFINE_enum("oracle", "bayesian", study.ORACLES, "What to try next.")
    text(
        "search_space",
        "",
        "JSON file that narrows the space, as for tuning.task; flags after -- "
        "are not searched either.",
    )


def _num_replicas() -> int:
    per_machine = FLAGS.accelerator_count if FLAGS.accelerator_type else 1
    if FLAGS.tpu_topology:
        chips = re.findall(r"\d+", FLAGS.tpu_topology)
        per_machine = math.prod(int(number) for number in chips)
    return per_machine * FLAGS.num_workers


def _check(config: dict) -> None:
    """Checks what would fail only minutes later, on the machines.

    Args:
        config: the fields of a `TrainConfig`.
    """
    for flag in ("data_dir", "job_dir"):
        if not paths.is_bucket(config[flag]):
            raise ValueError(
                f"--{flag} must be gs://BUCKET/PATH: a machine of Vertex AI is "
                "gone with its disk when the job ends. Received: "
                f"{flag}={config[flag]}."
            )
    if config["global_batch_size"] % _num_replicas():
        raise ValueError(
            "--global_batch_size must be a multiple of the number of replicas. "
            f"Received: global_batch_size={config['global_batch_size']}, "
            f"{_num_replicas()} replicas ({FLAGS.num_workers} x "
            f"{FLAGS.machine_type})."
        )


def _make_job_spec(arguments: list[str], job_dir: str) -> dict:
    """The fields of a CustomJobSpec."""
    machine = vertex_flags.machine()
    container = {
        "image_uri": FLAGS.image_uri,
        "command": ["python", "-m", "trainer.task"],
        "args": arguments,
    }
    if FLAGS.tpu_topology:
        machine["tpu_topology"] = FLAGS.tpu_topology
    if FLAGS.tpu_topology or FLAGS.accelerator_type.startswith("TPU"):
        container["env"] = [{"name": "TPU_NAME", "value": "local"}]
    pool = {
        "machine_spec": machine,
        "disk_spec": {
            "boot_disk_type": "pd-ssd",
            "boot_disk_size_gb": FLAGS.boot_disk_gb,
        },
        "container_spec": container,
    }
    attachment = FLAGS.psc_network_attachment
    return {
        # The first pool is the chief; the second the other workers.
        "worker_pool_specs": [
            pool | {"replica_count": count}
            for count in (1, FLAGS.num_workers - 1)
            if count
        ],
        "scheduling": {
            "timeout": f"{FLAGS.timeout_s}s",
            "strategy": "SPOT" if FLAGS.spot else "STANDARD",
            # The survivors of a lost worker end too: all must start again.
            "restart_job_on_worker_restart": FLAGS.restart,
            "disable_retries": not FLAGS.restart,
        },
        "base_output_directory": {"output_uri_prefix": job_dir},
        "service_account": FLAGS.service_account,
        "network": FLAGS.network,
        "reserved_ip_ranges": FLAGS.reserved_ip_ranges,
        "tensorboard": FLAGS.tensorboard,
        "psc_interface_config": (
            {"network_attachment": attachment} if attachment else None
        ),
    }


def make_job(arguments: list[str]):
    """The job that the flags describe, as the API's own type.

    Args:
        arguments: of `trainer.task`.

    Raises:
        ValueError: if it would fail.
        json_format.ParseError: if a value is none that the API has.
    """
    config = command_lines.check("trainer.task", arguments)
    _check(config)
    labels = dict(pair.partition("=")[::2] for pair in FLAGS.labels)
    key = FLAGS.kms_key
    job = {
        "display_name": FLAGS.name,
        "labels": labels,
        "encryption_spec": {"kms_key_name": key} if key else None,
    }
    if FLAGS.action == "train":
        job["job_spec"] = _make_job_spec(arguments, config["job_dir"])
        return api.parse("CustomJob", job)
    given = re.findall(r"^--?(?:no)?([a-z_]+)", "\n".join(arguments), re.M)
    job["study_spec"] = study.make_study_spec(
        FLAGS.objective,
        FLAGS.oracle,
        FLAGS.search_space,
        set(given),
        _num_replicas(),
    )
    # A trial writes where Vertex AI tells it to, below this directory.
    job["trial_job_spec"] = _make_job_spec(
        [*arguments, "--job_dir="], config["job_dir"]
    )
    job["max_trial_count"] = FLAGS.max_trials
    job["parallel_trial_count"] = min(FLAGS.parallel_trials, FLAGS.max_trials)
    # A user's mistake fails every trial alike.
    job["max_failed_trial_count"] = min(3, FLAGS.max_trials)
    return api.parse("HyperparameterTuningJob", job)


def _submit(message) -> None:
    """Sends a job, says where it is, and waits for it.

    Raises:
        RuntimeError: if it did not succeed.
    """
    aiplatform = api.connect(FLAGS.project, FLAGS.region)
    cloud = aiplatform.initializer.global_config
    client = cloud.create_client(aiplatform.utils.JobClientWithOverride)
    parent = cloud.common_location_path()
    if FLAGS.action == "train":
        kind, collection = aiplatform.CustomJob, "custom-jobs"
        sent = client.create_custom_job(parent=parent, custom_job=message)
    else:
        kind, collection = aiplatform.HyperparameterTuningJob, "hp-tuning-jobs"
        sent = client.create_hyperparameter_tuning_job(
            parent=parent, hyperparameter_tuning_job=message
        )
    name = sent.name
    _, project, _, region, _, number = name.split("/")
    print(f"Sent {name}")
    print(
        "  page    https://console.cloud.google.com/agent-platform/locations/"
        f"{region}/training/{number}?project={project}"
    )
    print(f"  logs    gcloud ai {collection} stream-logs {name}")
    print(f"  cancel  gcloud ai {collection} cancel {name}")
    if not FLAGS.wait:
        return
    logging.getLogger("google.cloud.aiplatform.jobs").addFilter(_OnlyNews())
    try:
        kind.get(name).wait_for_completion()
    except KeyboardInterrupt:
        print("The job goes on; cancel it with the command above.")


class _OnlyNews(logging.Filter):
    """Passes a state once: the library logs it every five seconds."""

    _last = ""

    def filter(self, record: logging.LogRecord) -> bool:
        is_new = record.getMessage() != self._last
        self._last = record.getMessage()
        return is_new


def main(argv: list[str]) -> None:
    with api.one_sentence("deploy.vertex.submit"):
        message = make_job(argv[1:])
        if FLAGS.dry_run:
            print(
                type(message).to_json(
                    message,
                    use_integers_for_enums=False,
                    always_print_fields_with_no_presence=False,
                )
            )
        else:
            _submit(message)


if __name__ == "__main__":
    _define_flags()
    startup.run(
        main,
        {
            "action": "Job",
            "network": "Network and surroundings",
            "max_trials": "Tuning",
            "dry_run": "Machines and account",
        },
    )
