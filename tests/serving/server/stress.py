"""Many clients, versions that come and go, and garbage, all at once."""

import dataclasses
import pathlib
import random
import shutil
import threading
import time

import requests

from serving import client, local_server
from tests.serving import brightness
from tests.serving.helpers import wait_for
from tests.serving.server.test_model_versions import write_version

# Of the requests; the others must all be answered.
MALFORMED_SHARE = 0.05


@dataclasses.dataclass
class Outcome:
    """What became of the requests.

    Attributes:
        num_good: good requests that were answered.
        num_malformed: others, each refused with a 4xx.
        failures: one line for each good request that failed, and for each
            malformed one that was not refused.
        decisions: on a bright image over gRPC and REST, of version 1 and in
            the end; version 3 decides otherwise.
        broken: states of the versions when 2, which is broken, had come.
        versions: states in the end.
        memory_mb: of the process: when the first version had answered for a
            while, and in the end.
    """

    num_good: int
    num_malformed: int
    failures: list[str]
    decisions: list[list[bool]]
    broken: dict[int, str]
    versions: dict[int, str]
    memory_mb: tuple[float, float]


def run(
    saved_models: pathlib.Path,
    base_path: pathlib.Path,
    *,
    num_clients: int,
    duration_s: float,
    seed: int = 0,
) -> Outcome:
    """Serves version 1, breaks 2, publishes 3 file by file, meanwhile asking.

    Args:
        saved_models: holds versions 1 and 2, to copy.
        base_path: empty.
        num_clients: half over gRPC, half over REST.
        duration_s: of the whole.
        seed: of what is malformed.
    """
    shutil.copytree(saved_models / "1", base_path / "1")
    server = local_server.start(str(base_path), "m")
    stop = threading.Event()
    workers = [
        _Worker(server, stop, seed + number, over_grpc=number % 2 == 0)
        for number in range(num_clients)
    ]
    asked = [
        client.Client(target, "m")
        for target in (server.grpc_target, server.rest_target)
    ]

    def states():
        return {status.version: status.state for status in asked[0].status()}

    def decide():
        bright = brightness.encode_image(204)
        return [each.predict([bright])[0].decision for each in asked]

    for worker in workers:
        worker.start()
    time.sleep(duration_s / 4)
    decisions = [decide()]
    memory_before = resident_mb()
    write_version(base_path, 2, "not a model")
    time.sleep(duration_s / 4)
    wait_for(lambda: states().get(2) == "END")
    broken = states()
    (base_path / "3").mkdir()
    # The graph first, the worst that can be done.
    shutil.copy(saved_models / "2" / "saved_model.pb", base_path / "3")
    time.sleep(duration_s / 8)
    shutil.copytree(saved_models / "2", base_path / "3", dirs_exist_ok=True)
    wait_for(lambda: states().get(1) == "END")
    versions = states()
    time.sleep(duration_s * 3 / 8)
    decisions.append(decide())
    memory_after = resident_mb()
    stop.set()
    for worker in workers:
        worker.join()
    for each in asked:
        each.close()
    server.stop()
    return Outcome(
        num_good=sum(worker.num_good for worker in workers),
        num_malformed=sum(worker.num_malformed for worker in workers),
        failures=[line for worker in workers for line in worker.failures],
        decisions=decisions,
        broken=broken,
        versions=versions,
        memory_mb=(memory_before, memory_after),
    )


def resident_mb() -> float:
    """Memory of this process, as Linux counts it."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


class _Worker(threading.Thread):
    """One client that asks until it is told to stop."""

    def __init__(self, server, stop, seed, over_grpc):
        super().__init__()
        self._stop_asking = stop
        self._rest = server.rest_target
        target = server.grpc_target if over_grpc else server.rest_target
        # A single attempt: a retry would hide a failed request.
        self._client = client.Client(target, "m", max_attempts=1)
        self._random = random.Random(seed)
        self._session = requests.Session()
        self.num_good = 0
        self.num_malformed = 0
        self.failures = []

    def run(self):
        while not self._stop_asking.is_set():
            if self._random.random() < MALFORMED_SHARE:
                self._ask_badly()
            else:
                self._ask_well()
        self._client.close()
        self._session.close()

    def _ask_well(self):
        level = self._random.choice([51, 204])
        images = [brightness.encode_image(level), b"garbage"]
        try:
            answers = self._client.predict(images)
        except client.ServerError as error:
            self.failures.append(str(error))
            return
        label = "bright" if level == 204 else "dark"
        valid = [answer.valid for answer in answers]
        if valid == [True, False] and answers[0].label == label:
            self.num_good += 1
        else:
            self.failures.append(f"wrong answers: {answers}")

    def _ask_badly(self):
        body = self._random.choice(
            [b"", b"{", b"[" * 5000, b'{"instances": [1]}', b"\xff" * 99]
        )
        answer = self._session.post(
            f"{self._rest}/v1/models/m:predict", data=body, timeout=30
        )
        self.num_malformed += 1
        if answer.status_code != 400:
            self.failures.append(f"{body[:20]!r}: {answer.status_code}")
