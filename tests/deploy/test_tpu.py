"""The TPU VM's life, told by a `gcloud` that only takes notes."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from deploy.tpu import run as tpu_run
from deploy.tpu import vm
from tests.conftest import ROOT

# Keeps one VM in a file; `ssh` does the next thing that it was told to.
GCLOUD = """#!{python}
import json, pathlib, sys, time
here = pathlib.Path({directory!r})
machine, plan = here / "machine", here / "plan.json"
verb = sys.argv[4]
with open(here / "calls.jsonl", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
steps = json.loads(plan.read_text())
step = steps[verb].pop(0) if steps.get(verb) else None
# Whole or not at all: the next step may be that this is killed.
(here / "next.json").write_text(json.dumps(steps))
(here / "next.json").rename(plan)
if step == "sleep":
    time.sleep(60 if verb == "ssh" else 2)
elif step == "preempt":
    machine.write_text("PREEMPTED")
    sys.exit(255)
elif step == "repair":
    machine.write_text("REPAIRING")
    sys.exit(1)
elif step is not None:
    sys.stderr.write("ERROR: PERMISSION_DENIED: no.\\n")
    sys.exit(step)
if verb == "create":
    machine.write_text("READY")
elif verb == "ssh":
    print("epoch 1")
elif not machine.exists():
    sys.stderr.write("ERROR: NOT_FOUND: Resource was not found.\\n")
    sys.exit(1)
elif verb == "describe":
    print(machine.read_text())
elif verb == "delete":
    machine.unlink()
"""
TRAINER = ("--data_dir=gs://b/records", "--job_dir=gs://b/run")


class Cloud:
    """A directory with the fake `gcloud`, and what it was called with."""

    def __init__(self, directory):
        self.directory = directory
        command = directory / "gcloud"
        command.write_text(
            GCLOUD.format(python=sys.executable, directory=str(directory))
        )
        command.chmod(0o755)
        self.plan()

    def plan(self, **steps):
        (self.directory / "plan.json").write_text(json.dumps(steps))

    def start(self, *flags, trainer=TRAINER):
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "deploy.tpu.run",
                "--name=brain",
                "--zone=us-west4-a",
                "--image=europe-docker.pkg.dev/p/lightbox/train:tpu",
                "--retry_wait_s=0",
                *flags,
                "--",
                *trainer,
            ],
            cwd=ROOT,
            env=os.environ
            | {
                "PATH": f"{self.directory}:/usr/bin:/bin",
                # No credentials are looked for on the network.
                "NO_GCE_CHECK": "true",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *flags, trainer=TRAINER):
        process = self.start(*flags, trainer=trainer)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    @property
    def calls(self):
        path = self.directory / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def verbs(self):
        return [call[3] for call in self.calls]

    @property
    def has_machine(self):
        return (self.directory / "machine").exists()


@pytest.fixture
def tpus(tmp_path):
    return Cloud(tmp_path)


def test_run_creates_trains_shows_the_log_and_deletes(tpus):
    code, out, err = tpus.run("--spot", "--service_account=a@p.example")
    assert code == 0, err
    assert "epoch 1" in out
    assert tpus.verbs == ["describe", "create", "ssh", "ssh", "delete"]
    create, start, follow = tpus.calls[1:4]
    assert create == [
        *("compute", "tpus", "tpu-vm", "create", "brain"),
        "--zone=us-west4-a",
        "--accelerator-type=v5litepod-8",
        "--version=v2-alpha-tpuv5-lite",
        "--service-account=a@p.example",
        "--spot",
    ]
    script = start[-1].removeprefix("--command=")
    words = shlex.split(script)
    assert words[words.index("trainer.task") :] == [
        "trainer.task",
        "--strategy=tpu",
        *TRAINER[:-1],
        # Closes the group.
        f"{TRAINER[-1]};",
        "}",
    ]
    assert "docker logs --follow" in follow[-1]
    assert not tpus.has_machine


def test_dry_run_prints_the_commands_and_calls_none(tpus):
    code, out, _ = tpus.run("--dry_run", "--project=p", "--internal_ips")
    assert code == 0
    lines = [shlex.split(line) for line in out.splitlines()]
    assert [line[4] for line in lines] == [
        "describe",
        "create",
        "ssh",
        "ssh",
        "delete",
    ]
    assert all("--project=p" in line for line in lines)
    assert "--internal-ips" in lines[1]
    assert "--internal-ip" in lines[2]
    assert tpus.calls == []


def test_code_of_the_trainer_is_handed_on_and_the_vm_deleted(tpus):
    tpus.plan(ssh=[None, 1])
    code, _, _ = tpus.run()
    assert code == 1
    assert tpus.verbs[-2:] == ["describe", "delete"]
    assert not tpus.has_machine


@pytest.mark.parametrize("step", ["preempt", "repair", 42])
def test_preempted_vm_is_deleted_and_another_one_goes_on(tpus, step):
    tpus.plan(ssh=[None, step])
    code, _, err = tpus.run("--spot")
    assert code == 0, err
    assert tpus.verbs.count("create") == tpus.verbs.count("delete") == 2
    # Deleted before the second one, which has its name.
    assert tpus.verbs.index("delete") < tpus.verbs.index("create", 3)
    starts = [c[-1] for c in tpus.calls if "docker run" in c[-1]]
    assert len(starts) == 2
    assert starts[0] == starts[1]
    assert not tpus.has_machine


def test_vm_that_is_always_taken_away_is_given_up(tpus):
    tpus.plan(ssh=["preempt"] * 9)
    code, _, err = tpus.run("--spot", "--max_restarts=2")
    assert code == 1
    assert "3 VMs were taken away" in err.strip().splitlines()[-1]
    assert tpus.verbs.count("create") == tpus.verbs.count("delete") == 3
    assert not tpus.has_machine


def test_restart_without_capacity_is_tried_again(tpus):
    tpus.plan(ssh=[None, "preempt"], create=[None, 1, None])
    code, _, err = tpus.run("--spot")
    assert code == 0, err
    assert tpus.verbs.count("create") == 3
    assert not tpus.has_machine


def test_vm_without_a_connection_is_given_up_and_deleted(tpus):
    tpus.plan(ssh=[255] * 10)
    code, _, err = tpus.run()
    assert code == 1
    assert "let SSH through" in err.strip().splitlines()[-1]
    assert not tpus.has_machine


def test_broken_connection_follows_the_same_vm_again(tpus):
    tpus.plan(ssh=[255, None, 255, None])
    code, _, err = tpus.run()
    assert code == 0, err
    assert tpus.verbs.count("create") == tpus.verbs.count("delete") == 1
    scripts = [c[-1] for c in tpus.calls if c[3] == "ssh"]
    assert scripts[0] == scripts[1]
    assert "--tail=all" in scripts[2]
    assert "--tail=20" in scripts[3]


def wait_for_verb(tpus, verb, count=1):
    deadline = time.monotonic() + 30
    while tpus.verbs.count(verb) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
)
def test_signal_while_training_deletes_the_vm(tpus, number):
    tpus.plan(ssh=[None, "sleep"])
    process = tpus.start()
    wait_for_verb(tpus, "ssh", 2)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number, err
    assert tpus.verbs[-1] == "delete"
    assert not tpus.has_machine


def test_signal_while_creating_waits_and_deletes_the_vm(tpus):
    tpus.plan(create=["sleep"])
    process = tpus.start()
    wait_for_verb(tpus, "create")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT, err
    assert tpus.verbs == ["describe", "create", "delete"]
    assert not tpus.has_machine


def test_vm_of_the_same_name_is_left_alone(tpus):
    (tpus.directory / "machine").write_text("READY")
    code, _, err = tpus.run()
    assert code == 1
    assert "already" in err.strip().splitlines()[-1]
    assert tpus.verbs == ["describe"]
    assert tpus.has_machine


def test_vm_that_cannot_be_created_is_a_sentence(tpus):
    tpus.plan(create=[1])
    code, _, err = tpus.run()
    assert code == 1
    assert "PERMISSION_DENIED" in err
    assert "try another --zone" in err.strip().splitlines()[-1]
    assert tpus.verbs == ["describe", "create", "delete"]


def test_missing_rights_are_told_and_nothing_is_created(tpus):
    tpus.plan(describe=[1])
    code, _, err = tpus.run()
    assert code == 1
    assert "PERMISSION_DENIED" in err.strip().splitlines()[-1]
    assert tpus.verbs == ["describe"]


def test_vm_that_cannot_be_deleted_is_told_with_the_command(tpus):
    tpus.plan(delete=[1, 1, 1])
    code, _, err = tpus.run()
    assert code == 0
    assert "COSTS MONEY" in err
    assert "gcloud compute tpus tpu-vm delete brain" in err
    assert tpus.verbs.count("delete") == 3


@pytest.mark.parametrize(
    "trainer",
    [(), ("--data_dir=gs://b/records",), ("--data_dir=x", "--job_dir=gs://b")],
)
def test_paths_that_go_with_the_vm_are_refused(trainer):
    with pytest.raises(ValueError, match="the disk of the VM goes with it"):
        tpu_run.check_arguments(list(trainer))


def test_slices_of_several_machines_and_v6e_are_refused():
    for accelerator_type in ("v5litepod-16", "v6e-8", "v2-32"):
        with pytest.raises(ValueError, match="a TPU of one VM"):
            vm.Machine("n", "z", accelerator_type)
    for accelerator_type in vm.ACCELERATOR_TYPES:
        command = vm.Machine("n", "z", accelerator_type).create_command()
        assert f"--accelerator-type={accelerator_type}" in command


def test_arguments_reach_the_shell_of_the_vm_as_they_are():
    script = vm.start_script("r/i:t", ["--job_dir=gs://b/a b;$(id)'"])
    start = script.index("sudo docker run")
    words = shlex.split(script[start:].removesuffix("; }"))
    assert words[-1] == "--job_dir=gs://b/a b;$(id)'"
