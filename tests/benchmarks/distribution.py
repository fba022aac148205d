"""What training on several devices or workers costs, on the same two cores.

    python -m tests.benchmarks.distribution --data_dir=records --weights=FILE

Fine-tunes the whole network at 224 px with a global batch of 32, by the command
that a user runs: on one device, on two replicas (two logical CPUs in one
process) and with two workers (two processes on this machine, a core each). The
cores are the same, so what is lost is what distribution costs. Beside it a
plain script that trains the same model by `Model.fit`, on one device and on two
replicas: also for the time from the start of a command to its first step. They
take turns, and the median of the rounds counts.
"""

import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from tests.benchmarks.ratios import tell

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "Records.", required=True)
flags.DEFINE_string("weights", None, "Of the backbone.", required=True)
flags.DEFINE_integer("image_size", 224, "In pixels.")
flags.DEFINE_integer("num_rounds", 3, "Turns of each.", lower_bound=1)
flags.DEFINE_integer("num_steps", 10, "Of each turn.", lower_bound=4)

BATCH = 32
SCRIPT = pathlib.Path(__file__).parent / "first_steps.py"


def start(run: str, num_devices: int, *arguments: str, **options):
    return subprocess.Popen(
        [
            sys.executable,
            SCRIPT,
            run,
            str(FLAGS.num_steps),
            str(num_devices),
            *arguments,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def start_trainer(job_dir: str, strategy: str, num_devices=1, **options):
    return start(
        "trainer.task",
        num_devices,
        f"--data_dir={FLAGS.data_dir}",
        f"--job_dir={job_dir}",
        f"--weights={FLAGS.weights}",
        f"--image_size={FLAGS.image_size}",
        f"--global_batch_size={BATCH}",
        f"--strategy={strategy}",
        "--head_epochs=0",
        "--fine_tune_epochs=1000",
        **options,
    )


def start_fit(num_devices: int):
    return start(
        "fit",
        num_devices,
        FLAGS.data_dir,
        FLAGS.weights,
        str(FLAGS.image_size),
        str(BATCH),
    )


def start_workers(job_dir: str) -> list[subprocess.Popen]:
    """Two workers, each on its half of the cores."""
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    cores = sorted(os.sched_getaffinity(0))
    processes = []
    for index in range(2):
        cluster = {
            "cluster": {"worker": [f"localhost:{port}" for port in ports]},
            "task": {"type": "worker", "index": index},
        }
        # A process inherits the cores of the one that starts it.
        os.sched_setaffinity(0, cores[index::2])
        processes.append(
            start_trainer(
                job_dir,
                "multi_worker",
                env=os.environ | {"TF_CONFIG": json.dumps(cluster)},
            )
        )
    os.sched_setaffinity(0, cores)
    return processes


RUNS = {
    "one device": lambda job_dir: [start_trainer(job_dir, "one_device")],
    "two replicas": lambda job_dir: [start_trainer(job_dir, "mirrored", 2)],
    "two workers": start_workers,
    "fit": lambda _: [start_fit(1)],
    "fit on two replicas": lambda _: [start_fit(2)],
}


def take_turn(name: str) -> tuple[float, float]:
    """Seconds to the first step, and of one step after it."""
    with tempfile.TemporaryDirectory() as job_dir:
        begin = time.time()
        processes = RUNS[name](job_dir)
        output, error = processes[0].communicate()
        for other in processes[1:]:
            other.kill()
            other.communicate()
    if processes[0].returncode:
        raise ValueError(f"{name}: {error.strip().splitlines()[-1]}")
    first, seconds = map(float, output.split()[-2:])
    return first - begin, seconds


def main(argv):
    del argv
    rounds = {name: [] for name in RUNS}
    for _ in range(FLAGS.num_rounds):
        for name, turns in rounds.items():
            turns.append(take_turn(name))
            print(
                f"{name}: {turns[-1][0]:.1f} s, {turns[-1][1]:.2f} s",
                flush=True,
            )
    print(f"{'':<22}{'s to first step':>16}{'images/s':>10}")
    for name, turns in rounds.items():
        starts, steps = zip(*turns, strict=True)
        print(
            f"{name:<22}{statistics.median(starts):>16.1f}"
            f"{BATCH / statistics.median(steps):>10.1f}"
        )

    def compare(what: str, ours: str, peer: str, column: int) -> None:
        pairs = zip(rounds[ours], rounds[peer], strict=True)
        tell(what, peer, [b[column] / a[column] for a, b in pairs])

    for ours, peer in (
        ("two replicas", "one device"),
        ("two workers", "one device"),
        ("one device", "fit"),
        ("two replicas", "fit on two replicas"),
    ):
        compare(f"A step, {ours}", ours, peer, 1)
        compare(f"Until the first step, {ours}", ours, peer, 0)


if __name__ == "__main__":
    app.run(main)
