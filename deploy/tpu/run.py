r"""Trains on a Cloud TPU: creates a TPU VM, runs, shows the log, deletes it.

    python -m deploy.tpu.run --name=brain --zone=us-west4-a --spot \
        --accelerator_type=v5litepod-8 \
        --image=europe-docker.pkg.dev/PROJECT/lightbox/train:tpu \
        -- --data_dir=gs://BUCKET/records --job_dir=gs://BUCKET/run

What follows `--` are flags of `trainer.task`. `--dry_run` prints the commands.
The VM is deleted in the end, after an error and after Ctrl-C; only if this
computer itself is cut off, it stays.
"""

import shlex
import shutil
import sys

from absl import app, flags, logging

from deploy.tpu import vm
from trainer import startup

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_string("name", None, "Of the TPU VM; must be free.")
    flags.DEFINE_string("zone", None, "For example us-west4-a.")
    flags.DEFINE_enum(
        "accelerator_type",
        "v5litepod-8",
        vm.ACCELERATOR_TYPES,
        "TPU type; the last number counts cores (v2 to v4, v5p) or chips.",
    )
    flags.DEFINE_string(
        "image", None, "Of train-tpu.Dockerfile, in a registry."
    )
    flags.DEFINE_string("project", "", "'' for the one gcloud is set to.")
    flags.DEFINE_string(
        "service_account",
        "",
        "Whom the VM acts for: needs to read the image and to write the "
        "bucket. '' for the project's default.",
    )
    flags.DEFINE_string("network", "", "VPC network; '' for the default.")
    flags.DEFINE_string("subnetwork", "", "'' for the network's.")
    flags.DEFINE_bool(
        "internal_ips", False, "No address outside of the network."
    )
    flags.DEFINE_bool(
        "spot", False, "Cheaper, and taken back at any time: the run resumes."
    )
    flags.DEFINE_integer(
        "max_restarts", 10, "VMs that may be taken away.", lower_bound=0
    )
    flags.DEFINE_float(
        "retry_wait_s", 60.0, "Seconds before the next VM is asked for."
    )
    flags.DEFINE_bool("dry_run", False, "Print the commands, call none.")
    flags.mark_flags_as_required(["name", "zone", "image"])


def check_arguments(arguments: list[str]) -> None:
    """Raises ValueError if the run would leave nothing behind."""
    given = {
        key.lstrip("-"): value
        for key, _, value in (argument.partition("=") for argument in arguments)
    }
    for name in ("data_dir", "job_dir"):
        if not given.get(name, "").startswith("gs://"):
            raise ValueError(
                f"--{name}=gs://… must be among the flags after --: the disk "
                f"of the VM goes with it. Received: {given.get(name, '')!r}."
            )


def main(argv: list[str]) -> None:
    startup.set_up_logging(vm.__file__.rpartition("/")[0])
    try:
        check_arguments(argv[1:])
        machine = vm.Machine(
            name=FLAGS.name,
            zone=FLAGS.zone,
            accelerator_type=FLAGS.accelerator_type,
            project=FLAGS.project,
            service_account=FLAGS.service_account,
            network=FLAGS.network,
            subnetwork=FLAGS.subnetwork,
            internal_ips=FLAGS.internal_ips,
            spot=FLAGS.spot,
        )
        if FLAGS.dry_run:
            for command in vm.commands(machine, FLAGS.image, argv[1:]):
                print(shlex.join(command))
            return
        if not shutil.which("gcloud"):
            raise ValueError(
                "gcloud is not on the PATH: install Google Cloud's command "
                "line tools, or see the commands with --dry_run."
            )
        code = vm.run(
            machine,
            FLAGS.image,
            argv[1:],
            FLAGS.max_restarts,
            FLAGS.retry_wait_s,
        )
    except ValueError as error:
        sys.exit(f"deploy.tpu.run: {error}")
    logging.info("The trainer ended with code %d.", code)
    sys.exit(code)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
