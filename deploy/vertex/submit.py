"""Trains or tunes on Vertex AI.

    python -m deploy.vertex.submit --action=train --region=us-central1 \\
        --image_uri=us-central1-docker.pkg.dev/PROJECT/lightbox/train:1 \\
        --machine_type=g2-standard-8 \\
        -- --data_dir=gs://bucket/records --job_dir=gs://bucket/run

What stands after -- are the flags of `trainer.task`, as on any machine. With
--dry_run nothing is sent or asked: what `gcloud ai` takes is printed. Who runs
it is known by application default credentials alone.
"""

import logging as python_logging
import re
import sys

from absl import app, flags

from deploy import command_lines
from deploy.vertex import job_checks, job_spec, machines, study

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_enum(
        "action",
        "train",
        ["train", "tune"],
        "train: one run. tune: a HyperparameterTuningJob, whose trials are "
        "runs in directories of their own under --job_dir.",
    )
    flags.DEFINE_bool("dry_run", False, "Print the job instead of sending it.")
    flags.DEFINE_string("name", "lightbox", "Name of the job.")
    flags.DEFINE_string(
        "project", "", "Project; empty: that of the credentials."
    )
    flags.DEFINE_string("region", "us-central1", "Region that it runs in.")
    flags.DEFINE_string(
        "image_uri", "", "Container image with this package in a registry."
    )
    flags.DEFINE_string(
        "machine_type",
        "n1-standard-8",
        "Machine of each worker, for example n1-standard-8, g2-standard-8 (one "
        "L4), a2-highgpu-1g (one A100), ct5lp-hightpu-8t (eight TPU v5e).",
    )
    flags.DEFINE_string(
        "accelerator_type",
        "",
        "GPU to attach to an N1 machine, for example NVIDIA_TESLA_T4, or "
        "TPU_V3 for cloud-tpu; other machines have theirs built in.",
    )
    flags.DEFINE_integer(
        "accelerator_count", 0, "Accelerators of each machine; 0: as built in."
    )
    flags.DEFINE_string("tpu_topology", "", "Of TPU v5e; empty: the machine's.")
    flags.DEFINE_integer("num_workers", 1, "Machines that train in step.")
    flags.DEFINE_bool(
        "spot",
        False,
        "Spot capacity: cheaper, and taken away at any time; the run then "
        "continues from its checkpoint.",
    )
    flags.DEFINE_integer(
        "timeout_s",
        job_spec.JobOptions.timeout_s,
        "Seconds until the job is ended.",
    )
    flags.DEFINE_bool(
        "restart",
        True,
        "Restart all workers when one is restarted; the run then continues "
        "from its checkpoint. --norestart ends the job at the first failure.",
    )
    flags.DEFINE_integer(
        "boot_disk_gb",
        job_spec.JobOptions.boot_disk_gb,
        "Disk of each machine, in GB.",
    )
    flags.DEFINE_string(
        "service_account",
        "",
        "Account that the job runs as; empty: Vertex AI's own.",
    )
    flags.DEFINE_string(
        "network", "", "VPC to peer with: projects/NUMBER/global/networks/NAME."
    )
    flags.DEFINE_list(
        "reserved_ip_ranges", [], "Ranges of --network to stay within."
    )
    flags.DEFINE_string(
        "psc_network_attachment",
        "",
        "Network attachment for Private Service Connect.",
    )
    flags.DEFINE_string(
        "kms_key",
        "",
        "Cloud KMS key (CMEK): projects/…/locations/REGION/keyRings/…/"
        "cryptoKeys/…; buckets have keys of their own.",
    )
    flags.DEFINE_string(
        "tensorboard", "", "Vertex AI TensorBoard that shows the logs."
    )
    flags.DEFINE_list("labels", [], "KEY=VALUE,… of the job, for bills.")
    _define_tuning_flags()
    flags.DEFINE_bool(
        "wait", True, "Print the job's states until it has ended."
    )
    flags.DEFINE_float(
        "poll_s", 30.0, "Seconds between two looks at it.", lower_bound=0.0
    )


def _define_tuning_flags() -> None:
    flags.DEFINE_integer(
        "max_trials", 20, "Trials of --action=tune.", lower_bound=1
    )
    flags.DEFINE_integer(
        "parallel_trials", 2, "Trials at a time.", lower_bound=1
    )
    flags.DEFINE_enum(
        "objective",
        "roc_auc",
        study.OBJECTIVES,
        "Metric of the validation split that a trial is chosen by.",
    )
    flags.DEFINE_enum(
        "oracle",
        "bayesian",
        study.ORACLES,
        "What says which hyperparameters to try next.",
    )
    flags.DEFINE_string(
        "search_space",
        "",
        "JSON file that narrows the space, as for tuning.task; flags after -- "
        "are not searched either.",
    )


def _read_labels(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(
                f"--labels must be KEY=VALUE,…. Received: labels={pair}."
            )
    return dict(pair.split("=", 1) for pair in pairs)


def _read_options() -> job_spec.JobOptions:
    machine = machines.complete(
        machines.Machine(
            FLAGS.machine_type,
            FLAGS.accelerator_type,
            FLAGS.accelerator_count,
            FLAGS.tpu_topology,
        )
    )
    return job_spec.JobOptions(
        name=FLAGS.name,
        region=FLAGS.region,
        image_uri=FLAGS.image_uri,
        machine=machine,
        num_workers=FLAGS.num_workers,
        spot=FLAGS.spot,
        timeout_s=FLAGS.timeout_s,
        restart=FLAGS.restart,
        boot_disk_gb=FLAGS.boot_disk_gb,
        service_account=FLAGS.service_account,
        network=FLAGS.network,
        reserved_ip_ranges=tuple(FLAGS.reserved_ip_ranges),
        psc_network_attachment=FLAGS.psc_network_attachment,
        kms_key=FLAGS.kms_key,
        tensorboard=FLAGS.tensorboard,
        labels=_read_labels(FLAGS.labels),
    )


def _given_flags(arguments: list[str]) -> set[str]:
    """Names of the flags in a command line; of --noNAME both."""
    matches = (re.match(r"--?(no)?([a-z_]+)", word) for word in arguments)
    return {
        name for m in matches if m for name in (m[2], f"{m[1] or ''}{m[2]}")
    }


def _without_flag(arguments: list[str], name: str) -> list[str]:
    kept, skips = [], False
    for word in arguments:
        if skips:
            skips = False
        elif word.lstrip("-") == name and word.startswith("-"):
            skips = True
        elif not re.match(rf"--?{name}=", word):
            kept.append(word)
    return kept


def make_job(options, arguments: list[str]) -> tuple[str, dict]:
    """The job that the flags describe, checked.

    Returns:
        Its type, and the job in the API's JSON names.

    Raises:
        ValueError: if it would be refused or would fail.
    """
    job_checks.check_options(options)
    config = command_lines.check("trainer.task", arguments)
    job_checks.check_config(config, options)
    if FLAGS.action == "train":
        spec = job_spec.make_job_spec(options, arguments, config["job_dir"])
        kind, job = "CustomJob", job_spec.make_custom_job(options, spec)
    else:
        if FLAGS.parallel_trials > FLAGS.max_trials:
            raise ValueError(
                "--parallel_trials must be at most --max_trials. Received: "
                f"parallel_trials={FLAGS.parallel_trials}, "
                f"max_trials={FLAGS.max_trials}."
            )
        # A trial writes where Vertex AI tells it to, below this directory.
        arguments = _without_flag(arguments, "job_dir")
        spec = job_spec.make_job_spec(options, arguments, config["job_dir"])
        study_spec = study.make_study_spec(
            FLAGS.objective,
            FLAGS.oracle,
            FLAGS.search_space,
            _given_flags(arguments),
            machines.num_devices(options.machine) * options.num_workers,
        )
        kind = "HyperparameterTuningJob"
        job = job_spec.make_tuning_job(
            options, spec, study_spec, FLAGS.max_trials, FLAGS.parallel_trials
        )
    job_checks.check_job_spec(spec)
    return kind, job


def _print_dry_run(kind: str, job: dict, options: job_spec.JobOptions) -> None:
    import yaml

    from deploy.vertex import jobs

    command = jobs.create_command(
        kind, job, options.region, FLAGS.project, "job.yaml"
    )
    # The rest are flags of the command.
    config = job.get("jobSpec") or {
        name: job[name] for name in ("studySpec", "trialJobSpec")
    }
    dumper = yaml.SafeDumper
    # Workers share parts; a reader should see them, not references.
    dumper.ignore_aliases = lambda *_: True
    print(f"# Save as job.yaml, then: {command}")
    print(yaml.dump(config, Dumper=dumper, sort_keys=False), end="")


def _submit(kind: str, message, options) -> bool:
    """Sends a job and watches it; says whether it succeeded."""
    from deploy.vertex import jobs

    project = jobs.find_project(FLAGS.project)
    client = jobs.make_client(options.region)
    name = jobs.submit(client, kind, message, project, options.region)
    print(f"Sent {name}")
    print(f"  page    {jobs.link(name)}")
    print(f"  logs    {jobs.logs_command(name)}")
    print(f"  cancel  {jobs.cancel_command(name)}")
    if not FLAGS.wait:
        return True
    try:
        return jobs.watch(client, kind, name, FLAGS.poll_s)
    except KeyboardInterrupt:
        print("The job goes on; cancel it with the command above.")
        return True


def main(argv: list[str]) -> None:
    # Its warnings would come before the sentence about the same.
    python_logging.getLogger("google.auth").setLevel(python_logging.ERROR)
    try:
        options = _read_options()
        kind, job = make_job(options, argv[1:])
        message = job_checks.parse(kind, job)
    except (ValueError, OSError) as error:
        sys.exit(f"deploy.vertex.submit: {error}")
    if FLAGS.dry_run:
        _print_dry_run(kind, job, options)
        return
    from deploy.vertex import api_errors

    try:
        succeeded = _submit(kind, message, options)
    except (ValueError, OSError) as error:
        sys.exit(f"deploy.vertex.submit: {error}")
    except api_errors.ERRORS as error:
        said = api_errors.explain(
            error, FLAGS.project or "PROJECT", options.region, "--name"
        )
        sys.exit(f"deploy.vertex.submit: {said}")
    if not succeeded:
        sys.exit(
            "deploy.vertex.submit: the job did not succeed; its logs say why "
            "(command above)."
        )


if __name__ == "__main__":
    _define_flags()
    app.run(main)
