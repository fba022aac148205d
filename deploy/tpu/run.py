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
import sys

from absl import flags

from deploy.tpu import vm
from trainer import startup
from trainer.storage import buckets

FLAGS = flags.FLAGS


def _define_flags() -> None:
    text, switch = flags.DEFINE_string, flags.DEFINE_bool
    text("name", None, "Of the TPU VM; must be free.", required=True)
    text("zone", None, "For example us-west4-a.", required=True)
    text("image", None, "Of train-tpu.Dockerfile.", required=True)
    text("project", "", "'' for the one gcloud is set to.")
    text("service_account", "", "The VM's; '' for the project's default.")
    text("network", "", "VPC network; '' for the default.")
    text("subnetwork", "", "'' for the network's.")
    switch("internal_ips", False, "No address outside of the network.")
    switch("spot", False, "Cheaper, taken back at any time: the run resumes.")
    switch("dry_run", False, "Print the commands, call none.")
    flags.DEFINE_enum(
        "accelerator_type",
        "v5litepod-8",
        list(vm.SOFTWARE),
        "TPU of one VM; the last number counts cores (v2 to v4, v5p) or chips.",
    )
    flags.DEFINE_integer("max_restarts", 10, "VMs that may be taken away.", 0)
    flags.DEFINE_float("retry_wait_s", 60.0, "Seconds before the next VM.")


def check_arguments(arguments: list[str]) -> None:
    """Raises ValueError if the run would leave nothing behind."""
    given = dict(a.lstrip("-").partition("=")[::2] for a in arguments)
    for name in ("data_dir", "job_dir"):
        try:
            buckets.split_url(given.get(name, ""))
        except ValueError as error:
            raise ValueError(
                f"--{name} must be among the flags after --, and in a bucket: "
                f"the disk of the VM goes with it. {error}"
            ) from error


def _options(*names: str) -> list[str]:
    """Those of the flags that are set, as gcloud writes them."""
    values = ((name.replace("_", "-"), FLAGS[name].value) for name in names)
    return [f"--{name}={value}" for name, value in values if value]


def _commands(arguments: list[str]) -> vm.Commands:
    choices = ("accelerator_type", "service_account", "network", "subnetwork")
    options = {
        "describe": ["--format=value(state)"],
        "create": [
            *_options(*choices),
            f"--version={vm.SOFTWARE[FLAGS.accelerator_type]}",
            *["--internal-ips"] * FLAGS.internal_ips,
            *["--spot"] * FLAGS.spot,
        ],
        "ssh": [
            "--quiet",
            *["--internal-ip"] * FLAGS.internal_ips,
            f"--command={vm.script(FLAGS.image, arguments)}",
        ],
        "delete": ["--quiet"],
    }
    machine = [FLAGS.name, *_options("zone", "project")]
    return {
        verb: ["gcloud", "compute", "tpus", "tpu-vm", verb, *machine, *others]
        for verb, others in options.items()
    }


def main(argv: list[str]) -> None:
    startup.set_up_logging(vm.__file__.rpartition("/")[0])
    try:
        check_arguments(argv[1:])
        commands = _commands(argv[1:])
        if FLAGS.dry_run:
            print(*map(shlex.join, commands.values()), sep="\n")
            return
        sys.exit(vm.run(commands, FLAGS.max_restarts, FLAGS.retry_wait_s))
    except FileNotFoundError:
        sys.exit("deploy.tpu.run: install gcloud, or see --dry_run.")
    except ValueError as error:
        sys.exit(f"deploy.tpu.run: {error}")


if __name__ == "__main__":
    _define_flags()
    startup.run(main, {"name": "Machine", "max_restarts": "Restarts"})
