"""A TPU VM for one run: created, used, and deleted whatever happens.

All goes through the `gcloud` command and the credentials that it has. The run
goes on in a container on the VM when the connection breaks; it ends with the
VM, and with it a new VM goes on from the last checkpoint in `gs://`.
"""

import contextlib
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator

from absl import logging

from trainer import startup

# TPUs of one VM (a larger slice is several, with a process in each), and their
# software. That brings Docker and drivers; TensorFlow and libtpu are the
# image's. Google supports no TensorFlow from v6e on.
SOFTWARE = {
    **dict.fromkeys(("v2-8", "v3-8", "v4-8"), "tpu-ubuntu2204-base"),
    **{f"v5litepod-{chips}": "v2-alpha-tpuv5-lite" for chips in (1, 4, 8)},
    "v5p-8": "v2-alpha-tpuv5",
}
Commands = dict[str, list[str]]  # Of gcloud, by what they do with the VM.
_SSH_CODE = 255  # Of gcloud, when ssh has not got through in its ten attempts.
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def script(image: str, arguments: list[str]) -> str:
    """What the VM does: starts the trainer, shows its log, has its exit code.

    Whoever comes again, because his connection broke, finds it running.
    """
    registry = shlex.quote(image.partition("/")[0])
    # The chips are devices of the VM, which is there for this alone.
    options = "--privileged --user=root --network=host --ulimit=memlock=-1"
    trainer = shlex.join([image, "trainer.task", "--strategy=tpu", *arguments])
    return (
        "tail=20; sudo docker container inspect lightbox > /dev/null 2>&1 || { "
        f"tail=all; sudo gcloud auth configure-docker --quiet {registry} && "
        f"sudo docker run --detach --name=lightbox {options} {trainer}; "
        "} || exit; sudo docker logs --follow --tail=$tail lightbox; "
        "exit $(sudo docker wait lightbox)"
    )


def run(commands: Commands, max_restarts: int, wait_s: float) -> int:
    """Trains on a VM of its own, and on another one when it is taken away.

    Returns the trainer's exit code. Raises ValueError if there is a VM of this
    name, or none can be had.
    """
    for number in _SIGNALS:
        signal.signal(number, _stop)
    if _ask(commands["describe"]):
        raise ValueError(
            "there is a TPU VM of this name already: choose another --name, or "
            "delete it. It was left alone."
        )
    # From here on signals wait, also in what is called, but for where they are
    # let through: nobody could delete what is half created.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    for attempt in range(max_restarts + 1):
        if attempt:
            logging.info("No VM (any more): another try in %.0f s.", wait_s)
            with _signals_let_through():
                time.sleep(wait_s)
        try:
            if subprocess.run(commands["create"]).returncode == 0:
                code = _train(commands)
                if code is not None:
                    return code
            elif not attempt:  # Later: spot capacity comes and goes.
                raise ValueError(
                    "gcloud could not create the TPU VM, as it says above: try "
                    "another --zone or --accelerator_type, or ask for quota."
                )
        finally:
            _delete(commands["delete"])
    raise ValueError(
        f"{max_restarts + 1} VMs were taken away or not to be had: the same "
        "command continues from the last checkpoint."
    )


def _train(commands: Commands) -> int | None:
    """Exit code of the trainer; None if the VM was taken away."""
    for _ in range(10):
        with _signals_let_through():
            code = subprocess.run(commands["ssh"]).returncode
        if code == 0:
            return code
        # Others than READY: preempted, repaired, gone.
        if code == startup.PREEMPTED or _ask(commands["describe"]) != "READY":
            return None
        if code != _SSH_CODE:
            return code
        logging.info("No connection to the VM, which is there: again.")
    raise ValueError(
        "no connection to the VM: its network must let SSH through (port 22)."
    )


def _ask(command: list[str]) -> str:
    """What a command prints; "" if there is no such VM."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "NOT_FOUND" not in done.stderr:
        _, _, reason = done.stderr.partition("ERROR: ")
        reason = reason.split("\n")[0] or done.stderr.strip()
        raise ValueError(f"`{shlex.join(command)}` failed: {reason}")
    return done.stdout.strip()


def _delete(command: list[str]) -> None:
    for attempt in range(3):
        time.sleep(attempt)
        try:
            _ask(command)
            logging.info("The VM is deleted.")
            return
        except ValueError as error:
            reason = error
    logging.error("THE TPU VM IS STILL THERE AND COSTS MONEY: %s", reason)


@contextlib.contextmanager
def _signals_let_through() -> Iterator[None]:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _stop(number: int, frame: object) -> None:
    # A second one must not keep the VM from being deleted.
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)
