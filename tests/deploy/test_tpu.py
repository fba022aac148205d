"""The TPU VM's life, told by a `gcloud` that only takes notes."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

from deploy.tpu import run as tpu_run
from deploy.tpu import vm
from tests.samples import ROOT

IMAGE = "europe-docker.pkg.dev/p/lightbox/train:tpu"
# The last one is a word for the trainer, whatever a shell would make of it.
TRAINER = ["--data_dir=gs://b/records", "--job_dir=gs://b/a b;$(id)'"]
MACHINE = ["gcloud", "compute", "tpus", "tpu-vm"]


class Cloud:
    """A directory with the stand-in for `gcloud`, and its notes."""

    def __init__(self, directory):
        self.machine = directory / "machine"
        self._calls, self._plan = directory / "calls", directory / "plan"
        self._calls.touch()
        self.plan()
        for name in ("gcloud", "sudo"):
            (directory / name).symlink_to(
                pathlib.Path(__file__).parent / "fake_gcloud.py"
            )

    def plan(self, **steps):
        self._plan.write_text(json.dumps(steps))

    def start(self, *flags):
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "deploy.tpu.run", "--name=brain"),
                *("--zone=us-west4-a", f"--image={IMAGE}", "--retry_wait_s=0"),
                *(*flags, "--", *TRAINER),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A terminal sends its signals to all of a group.
            start_new_session=True,
        )

    def run(self, *flags):
        process = self.start(*flags)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def calls(self, name="gcloud"):
        calls = map(json.loads, self._calls.read_text().splitlines())
        return [call for call in calls if call[0] == name]

    @property
    def verbs(self):
        return [call[4] for call in self.calls()]

    def docker(self, verb):
        return [call[3:] for call in self.calls("sudo") if call[2] == verb]


@pytest.fixture
def tpus(tmp_path, monkeypatch):
    python = os.path.dirname(sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path}:{python}:/usr/bin:/bin")
    # No credentials are looked for on the network.
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    return Cloud(tmp_path)


@pytest.fixture
def train(tpus):
    """Runs in this process, whose signals are as before afterwards."""
    handlers = {number: signal.getsignal(number) for number in vm._SIGNALS}
    yield lambda max_restarts=10: vm.run(
        {
            verb: [*MACHINE, verb, "brain", f"--command={script}"]
            for verb in ("describe", "create", "ssh", "delete")
            for script in [vm.script(IMAGE, TRAINER)]
        },
        max_restarts,
        0,
    )
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)


def test_run_creates_trains_shows_the_log_and_deletes(tpus):
    code, out, err = tpus.run("--spot", "--service_account=a@p.example")
    assert code == 0, err
    assert "epoch 1" in out
    assert tpus.verbs == ["describe", "create", "ssh", "delete"]
    assert tpus.calls()[1] == [
        *(*MACHINE, "create", "brain", "--zone=us-west4-a"),
        "--accelerator-type=v5litepod-8",
        "--service-account=a@p.example",
        "--version=v2-alpha-tpuv5-lite",
        "--spot",
    ]
    login, start = tpus.calls("sudo")[1:3]
    assert login[-1] == "europe-docker.pkg.dev"
    assert start[start.index(IMAGE) + 1 :] == [
        "trainer.task",
        "--strategy=tpu",
        *TRAINER,
    ]
    assert tpus.docker("logs") == [["--follow", "--tail=all", "lightbox"]]
    assert not tpus.machine.exists()


def test_dry_run_prints_the_commands_and_calls_none(tpus):
    code, out, _ = tpus.run("--dry_run", "--project=p", "--internal_ips")
    assert code == 0
    lines = [shlex.split(line) for line in out.splitlines()]
    verbs = [line[4] for line in lines]
    assert verbs == ["describe", "create", "ssh", "delete"]
    assert all("--project=p" in line for line in lines)
    assert "--internal-ips" in lines[1]
    assert "--internal-ip" in lines[2]
    assert tpus.calls() == []


def test_code_of_the_trainer_is_handed_on_and_the_vm_deleted(tpus, train):
    tpus.plan(wait=[1])
    assert train() == 1
    assert tpus.verbs[-2:] == ["describe", "delete"]
    assert not tpus.machine.exists()


@pytest.mark.parametrize(
    "plan", [{"ssh": ["PREEMPTED"]}, {"ssh": ["REPAIRING"]}, {"wait": [42]}]
)
def test_preempted_vm_is_deleted_and_another_one_goes_on(tpus, train, plan):
    # Spot capacity comes and goes.
    tpus.plan(**plan, create=[None, 1, None])
    assert train() == 0
    # Deleted before the next one, which has its name.
    changes = [verb for verb in tpus.verbs if verb in ("create", "delete")]
    assert changes == ["create", "delete"] * 3
    starts = tpus.docker("run")
    assert starts[:-1] == starts[-1:] * (len(starts) - 1)
    assert not tpus.machine.exists()


@pytest.mark.parametrize(
    ("plan", "sentence", "num_vms"),
    [
        ({"ssh": ["PREEMPTED"] * 9}, "3 VMs were taken away", 3),
        ({"ssh": [255] * 10}, "let SSH through", 1),
        ({"create": [1]}, "as it says above: try another --zone", 1),
        ({"describe": [1]}, r"PERMISSION_DENIED\.$", 0),
    ],
)
def test_failure_is_a_sentence_and_leaves_no_vm(
    tpus, train, capfd, plan, sentence, num_vms
):
    tpus.plan(**plan)
    with pytest.raises(ValueError, match=sentence):
        train(max_restarts=2)
    assert tpus.verbs.count("create") == tpus.verbs.count("delete") == num_vms
    assert not tpus.machine.exists()
    if "create" in plan:
        assert "PERMISSION_DENIED" in capfd.readouterr().err


def test_broken_connection_follows_the_same_vm_again(tpus, train):
    tpus.plan(ssh=[255, "break", None])
    assert train() == 0
    assert tpus.verbs.count("create") == tpus.verbs.count("delete") == 1
    assert len(tpus.docker("run")) == 1
    assert [log[1] for log in tpus.docker("logs")] == [
        "--tail=all",
        "--tail=20",
    ]


@pytest.mark.parametrize(
    ("number", "verb"),
    [
        (signal.SIGINT, "ssh"),
        (signal.SIGTERM, "ssh"),
        (signal.SIGHUP, "ssh"),
        (signal.SIGINT, "create"),
    ],
)
def test_signals_delete_the_vm(tpus, number, verb):
    tpus.plan(**{verb: ["sleep"], "delete": ["sleep"]})
    process = tpus.start()
    for awaited, sent in ((verb, number), ("delete", signal.SIGINT)):
        while awaited not in tpus.verbs and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, sent)
        os.killpg(process.pid, sent)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number, err
    assert tpus.verbs == list(
        dict.fromkeys(["describe", "create", verb, "delete"])
    )
    assert not tpus.machine.exists()


def test_vm_of_the_same_name_is_left_alone(tpus):
    tpus.machine.write_text("READY")
    code, _, err = tpus.run()
    assert code == 1
    (line,) = err.splitlines()
    assert "already" in line
    assert tpus.verbs == ["describe"]
    assert tpus.machine.exists()


def test_vm_that_cannot_be_deleted_is_told_with_the_command(tpus):
    tpus.plan(delete=[1, 1, 1])
    code, _, err = tpus.run()
    assert code == 0
    assert "COSTS MONEY" in err
    assert "gcloud compute tpus tpu-vm delete brain" in err
    assert tpus.verbs.count("delete") == 3


def test_absent_gcloud_is_a_sentence(tpus, monkeypatch):
    monkeypatch.setenv("PATH", "/absent")
    code, _, err = tpus.run()
    assert code == 1
    assert err == "deploy.tpu.run: install gcloud, or see --dry_run.\n"


@pytest.mark.parametrize(
    "trainer",
    [(), ("--data_dir=gs://b/records",), ("--data_dir=x", "--job_dir=gs://b")],
)
def test_paths_that_go_with_the_vm_are_refused(trainer):
    with pytest.raises(ValueError, match="the disk of the VM goes with it"):
        tpu_run.check_arguments(list(trainer))


def test_slices_of_several_machines_and_v6e_are_refused(tpus):
    code, _, err = tpus.run("--dry_run", "--accelerator_type=v6e-8")
    assert code == 1
    assert "<v2-8|v3-8|v4-8|v5litepod-1|v5litepod-4|v5litepod-8|v5p-8>" in err
