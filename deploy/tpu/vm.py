"""A TPU VM for one run: created, used, and deleted whatever happens.

All goes through the `gcloud` command and the credentials that it has. The run
goes on in a container on the VM when the connection breaks; it ends with the
VM, and with it a new VM goes on from the last checkpoint in `gs://`.
"""

import contextlib
import dataclasses
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator

from absl import logging

# TPU software by generation. It brings Docker and drivers; TensorFlow and
# libtpu are the image's (deploy/docker/train-tpu.Dockerfile). Google supports
# no TensorFlow from v6e on.
RUNTIMES = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
}
# Those of one VM. A larger slice is several, with a process in each.
ACCELERATOR_TYPES = (
    "v2-8",
    "v3-8",
    "v4-8",
    "v5litepod-1",
    "v5litepod-4",
    "v5litepod-8",
    "v5p-8",
)

_CONTAINER = "lightbox"
# Any other state is one to start anew from: preempted, repaired, deleted.
_READY = "READY"
# Of the trainer, when it has been told to stop and has saved.
_PREEMPTED_CODE = 42
# Of ssh, and of gcloud after ten attempts: no connection (any more).
_SSH_CODE = 255
_DELETE_ATTEMPTS = 3
_SSH_ATTEMPTS = 10
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@dataclasses.dataclass(frozen=True)
class Machine:
    """What to create.

    Attributes:
        name: of the VM; must be free.
        zone: which has TPUs of this type.
        accelerator_type: one of `ACCELERATOR_TYPES`.
        project: "" for the one that gcloud is set to.
        service_account: whom the VM acts for; "" for the project's default.
        network: "" for the default one.
        subnetwork: "" for the network's.
        internal_ips: no address outside of the network.
        spot: cheaper, and taken back at any time.
    """

    name: str
    zone: str
    accelerator_type: str
    project: str = ""
    service_account: str = ""
    network: str = ""
    subnetwork: str = ""
    internal_ips: bool = False
    spot: bool = False

    def __post_init__(self):
        if self.accelerator_type not in ACCELERATOR_TYPES:
            raise ValueError(
                "--accelerator_type must be a TPU of one VM that TensorFlow "
                f"runs on: {', '.join(ACCELERATOR_TYPES)}. Received: "
                f"{self.accelerator_type}."
            )

    def _command(self, verb: str, *options: str) -> list[str]:
        command = ["gcloud", "compute", "tpus", "tpu-vm", verb, self.name]
        command.append(f"--zone={self.zone}")
        if self.project:
            command.append(f"--project={self.project}")
        return [*command, *options]

    def create_command(self) -> list[str]:
        generation = self.accelerator_type.partition("-")[0]
        options = [
            f"--accelerator-type={self.accelerator_type}",
            f"--version={RUNTIMES[generation]}",
        ]
        for flag in ("service_account", "network", "subnetwork"):
            value = getattr(self, flag)
            if value:
                options.append(f"--{flag.replace('_', '-')}={value}")
        if self.internal_ips:
            options.append("--internal-ips")
        if self.spot:
            options.append("--spot")
        return self._command("create", *options)

    def describe_command(self) -> list[str]:
        return self._command("describe", "--format=value(state)")

    def delete_command(self) -> list[str]:
        return self._command("delete", "--quiet")

    def ssh_command(self, script: str) -> list[str]:
        options = ["--quiet", f"--command={script}"]
        if self.internal_ips:
            options.append("--internal-ip")
        return self._command("ssh", *options)


def start_script(image: str, arguments: list[str]) -> str:
    """What starts the trainer on the VM and returns at once.

    Args:
        image: of train-tpu.Dockerfile, in a registry.
        arguments: flags of `trainer.task`.
    """
    registry = image.partition("/")[0]
    container = [
        "sudo",
        "docker",
        "run",
        "--detach",
        f"--name={_CONTAINER}",
        # The chips are devices of the VM, which is there for this alone.
        "--privileged",
        "--user=root",
        "--network=host",
        "--ulimit=memlock=-1",
        image,
        "trainer.task",
        "--strategy=tpu",
        *arguments,
    ]
    login = ["sudo", "gcloud", "auth", "configure-docker", "--quiet", registry]
    # Whoever comes again, because his connection broke, finds it running.
    return (
        f"sudo docker container inspect {_CONTAINER} > /dev/null 2>&1 || "
        f"{{ {shlex.join(login)} && {shlex.join(container)}; }}"
    )


def follow_script(num_lines: str = "all") -> str:
    """What shows the trainer's log until it ends, and ends with its code."""
    return (
        f"sudo docker logs --follow --tail={num_lines} {_CONTAINER}; "
        f"exit $(sudo docker wait {_CONTAINER})"
    )


def commands(
    machine: Machine, image: str, arguments: list[str]
) -> list[list[str]]:
    """What a run without trouble calls, in this order."""
    return [
        machine.describe_command(),
        machine.create_command(),
        machine.ssh_command(start_script(image, arguments)),
        machine.ssh_command(follow_script()),
        machine.delete_command(),
    ]


def state(machine: Machine) -> str:
    """Of the VM, for example READY; "" if there is none of this name.

    Raises:
        ValueError: if gcloud cannot tell.
    """
    done = subprocess.run(
        machine.describe_command(), capture_output=True, text=True
    )
    if done.returncode == 0:
        return done.stdout.strip()
    if "NOT_FOUND" in done.stderr:
        return ""
    raise ValueError(f"gcloud cannot see the VM: {_last_line(done.stderr)}")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it did not say why."


def run(
    machine: Machine,
    image: str,
    arguments: list[str],
    max_restarts: int,
    wait_s: float,
) -> int:
    """Trains on a VM of its own, and on another one when it is taken away.

    Args:
        machine: what to create.
        image: to run there.
        arguments: flags of the trainer.
        max_restarts: VMs that may be taken away before this gives up.
        wait_s: seconds before another VM is asked for.

    Returns:
        The trainer's exit code.

    Raises:
        ValueError: if there is a VM of this name, or none can be had.
    """
    if state(machine):
        raise ValueError(
            f"there is a TPU VM {machine.name} in {machine.zone} already: "
            "choose another --name, or delete it. It was left alone."
        )
    for attempt in range(max_restarts + 1):
        if attempt:
            logging.info(
                "The VM was taken away: asking for another one in %.0f s "
                "(%d of %d).",
                wait_s,
                attempt,
                max_restarts,
            )
            time.sleep(wait_s)
        with _deleted_in_the_end(machine):
            if not _create(machine):
                if attempt:
                    continue  # Spot capacity comes and goes.
                raise ValueError(
                    "gcloud could not create the TPU VM, as it says above: "
                    "try another --zone or --accelerator_type, or ask for "
                    "quota."
                )
            code = _train(machine, image, arguments, wait_s)
            if code is not None:
                return code
    raise ValueError(
        f"{max_restarts + 1} VMs were taken away or not to be had: the same "
        "command continues from the last checkpoint."
    )


def _create(machine: Machine) -> bool:
    """Creates the VM and says whether it could.

    A signal waits until then: nobody could delete what is half created.
    """
    logging.info("Creating the VM %s takes some minutes.", machine.name)
    with _signals_wait():
        return subprocess.run(machine.create_command()).returncode == 0


def _train(
    machine: Machine, image: str, arguments: list[str], wait_s: float
) -> int | None:
    """Exit code of the trainer; None if the VM was taken away."""
    start = start_script(image, arguments)
    code = _ssh(machine, start, start, wait_s)
    if code == 0:
        code = _ssh(machine, follow_script(), follow_script("20"), wait_s)
    if code == _PREEMPTED_CODE or (code and state(machine) != _READY):
        return None
    return code


def _ssh(
    machine: Machine, script: str, script_again: str, wait_s: float
) -> int | None:
    """Exit code of a script on the VM; None if the VM was taken away."""
    for _ in range(_SSH_ATTEMPTS):
        code = subprocess.run(machine.ssh_command(script)).returncode
        if code != _SSH_CODE:
            return code
        if state(machine) != _READY:
            return None
        logging.info("No connection to the VM, which is there: again.")
        time.sleep(min(wait_s, 10.0))
        script = script_again
    raise ValueError(
        f"no connection to the VM in {_SSH_ATTEMPTS} attempts: its network "
        "must let SSH through (port 22)."
    )


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Keeps signals back, from the commands called in the block too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _deleted_in_the_end(machine: Machine) -> Iterator[None]:
    """Deletes the VM after the block, also after an error or a signal."""
    handlers = {number: signal.signal(number, _stop) for number in _SIGNALS}
    try:
        yield
    finally:
        with _signals_wait():
            _delete(machine)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _delete(machine: Machine) -> None:
    command = machine.delete_command()
    for attempt in range(_DELETE_ATTEMPTS):
        time.sleep(attempt)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0 or "NOT_FOUND" in done.stderr:
            logging.info("The VM %s is deleted.", machine.name)
            return
    logging.error(
        "THE TPU VM IS STILL THERE AND COSTS MONEY (%s). Delete it: %s",
        _last_line(done.stderr),
        shlex.join(command),
    )
