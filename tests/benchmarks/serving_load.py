r"""The local server beside LitServe and mosec, with 32 clients.

    make peers
    python -m tests.benchmarks.serving_load --export_dir=run/export scan.png

All serve the same SavedModel, get the same JSON and merge requests into batches
of up to 8: the peers wait 10 ms for company. They take turns, the others halted
meanwhile. In a closed loop each client asks as soon as it is answered; in an
open one requests are due at random moments, at 60 % of what the slowest can.
"""

import base64
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np
import requests
from absl import app, flags

from serving import load_test
from tests.benchmarks import environments, serving_latency
from tests.benchmarks.ratios import tell
from trainer.export import versions

FLAGS = flags.FLAGS
flags.DEFINE_integer("num_clients", 32, "In the closed loop.", 1)
flags.DEFINE_integer("num_turns", 5, "Of each, in either loop.", 1)
flags.DEFINE_float("turn_s", 10.0, "Seconds of a turn.", 0.1)

OURS = "the local server"
# By name, the path that it answers by default.
PEERS = {"litserve": "/predict", "mosec": "/inference"}
LOAD = 0.6
START_S = 300
_PROGRAMS = pathlib.Path(__file__).with_name("peers")


class Contestant:
    """A server in processes of its own, halted but for its turns."""

    def __init__(self, program: list[str], port_flag: str, path: str):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}{path}"
        self._connect()
        self._process = subprocess.Popen(
            [*program, f"{port_flag}={port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _connect(self) -> None:
        """Those that were idle may be closed at any moment."""
        adapter = requests.adapters.HTTPAdapter(
            pool_maxsize=load_test.MAX_UNDER_WAY
        )
        self._session = requests.Session()
        self._session.mount("http://", adapter)

    def predict(self, images: list[bytes]) -> list[float]:
        """Returns the probabilities of the first image."""
        rows = [{"b64": base64.b64encode(image).decode()} for image in images]
        answer = self._session.post(
            self._url, json={"instances": rows}, timeout=60
        )
        answer.raise_for_status()
        return answer.json()["predictions"][0]["probabilities"]

    def wait_for_answer(self, images: list[bytes]) -> list[float]:
        for _ in range(START_S):
            with contextlib.suppress(requests.RequestException):
                return self.predict(images)
            time.sleep(1)
        raise TimeoutError(f"{self._process.args} does not answer.")

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to all of its processes."""
        os.killpg(self._process.pid, number)

    def processor_s(self) -> float:
        """Returns the processor time of all of its processes."""
        ticks = 0
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # It has ended.
                values = path.read_text().rpartition(")")[2].split()
                if int(values[3]) == self._process.pid:  # its session
                    ticks += int(values[11]) + int(values[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    @contextlib.contextmanager
    def turn(self):
        self._connect()
        self.send(signal.SIGCONT)
        yield
        self.send(signal.SIGSTOP)


def start(directory: str) -> dict[str, Contestant]:
    """Returns the contestants by name; a peer not installed is told of."""
    local = [
        *(sys.executable, "-m", "serving.local_server", "--port=0"),
        *(f"--model_base_path={directory}", "--model_name=m"),
    ]
    path = "/v1/models/m:predict"
    contestants = {OURS: Contestant(local, "--rest_api_port", path)}
    os.environ["EXPORT"] = versions.find_newest(directory)
    for name, path in PEERS.items():
        if not environments.is_installed(name):
            continue
        python = str(environments.ENVIRONMENTS / name / "bin/python")
        program = [python, str(_PROGRAMS / f"{name}_server.py")]
        contestants[name] = Contestant(program, "--port", path)
    return contestants


def take_turns(
    contestants: dict[str, Contestant], images: list[bytes]
) -> dict[str, list[tuple[dict, dict]]]:
    """Returns what each did in its turns, in a closed and an open loop."""
    found = {name: [] for name in contestants}
    for number in range(FLAGS.num_turns):
        closed, opened = {}, {}
        for name, asked in contestants.items():
            with asked.turn():
                for seconds in (1.0, FLAGS.turn_s):
                    before_s = asked.processor_s()
                    samples = load_test.run_closed(
                        asked, [images], FLAGS.num_clients, seconds
                    )
                used_s = asked.processor_s() - before_s
            closed[name] = load_test.summarize(samples, 1)
            closed[name]["processor_ms"] = 1e3 * used_s / len(samples)
        rate = LOAD * min(each["requests_per_s"] for each in closed.values())
        for name, asked in contestants.items():
            with asked.turn():
                samples = load_test.run_open(
                    asked, [images], rate, FLAGS.turn_s, number
                )
            opened[name] = load_test.summarize(samples, 1)
            found[name].append((closed[name], opened[name]))
        # Who came first comes last.
        first = next(iter(contestants))
        contestants[first] = contestants.pop(first)
    return found


def tell_all(found: dict[str, list[tuple[dict, dict]]]) -> None:
    """Prints the figures of each, and the ratios to ours."""
    figures = {
        name: {
            "throughput": [closed["requests_per_s"] for closed, _ in turns],
            "processor": [closed["processor_ms"] for closed, _ in turns],
            **{
                f"{loop} {key}": [turn[i]["latency_ms"][key] for turn in turns]
                for i, loop in enumerate(("closed", "open"))
                for key in ("p50", "p99")
            },
        }
        for name, turns in found.items()
    }
    for name, values in figures.items():
        texts = (f"{k} {np.median(v):.1f}" for k, v in values.items())
        print(f"{name}: {', '.join(texts)}")
    ours = figures.pop(OURS)
    for name, values in figures.items():
        for key, theirs in values.items():
            ratios = np.array(theirs) / ours[key]
            what = f"{FLAGS.num_clients} clients, {key}"
            tell(what, name, 1 / ratios if key == "throughput" else ratios)


def main(argv):
    with tempfile.TemporaryDirectory() as scratch:
        directory, image = serving_latency.find_export_and_image(argv, scratch)
        contestants = start(directory)
        try:
            answers = {
                name: each.wait_for_answer([image])
                for name, each in contestants.items()
            }
            for name, each in contestants.items():
                np.testing.assert_allclose(
                    answers[name], answers[OURS], atol=1e-5, err_msg=name
                )
                each.send(signal.SIGSTOP)
            found = take_turns(contestants, [image])
        finally:
            for each in contestants.values():
                each.send(signal.SIGKILL)
    tell_all(found)


if __name__ == "__main__":
    app.run(main)
