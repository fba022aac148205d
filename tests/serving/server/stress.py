"""Many clients, versions that come and go, and garbage, all at once."""

import collections
import dataclasses
import pathlib
import random
import shutil
import threading
import time
from concurrent import futures

import requests

from serving import client, local_server
from tests.serving import brightness
from tests.serving.helpers import wait_for
from tests.serving.server.test_model_versions import write_version

# Of the requests; the others must all be answered.
MALFORMED_SHARE = 0.05
MALFORMED = [b"", b"{", b"[" * 5000, b'{"instances": [1]}', b"\xff" * 99]
GOOD, REFUSED = "good", "refused"


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
    grpc, rest = asked = [
        client.Client(target, "m")
        for target in (server.grpc_target, server.rest_target)
    ]

    def states():
        return {status.version: status.state for status in grpc.status()}

    def decide():
        bright = brightness.encode_image(204)
        return [each.predict([bright])[0].decision for each in asked]

    with futures.ThreadPoolExecutor(num_clients) as executor:
        workers = [
            executor.submit(
                _ask, asked[number % 2].target, rest.target, stop, seed + number
            )
            for number in range(num_clients)
        ]
        try:
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
            shutil.copytree(
                saved_models / "2", base_path / "3", dirs_exist_ok=True
            )
            wait_for(lambda: states().get(1) == "END")
            versions = states()
            time.sleep(duration_s * 3 / 8)
            decisions.append(decide())
            memory_after = resident_mb()
        finally:
            stop.set()
    for each in asked:
        each.close()
    server.stop()
    outcomes = sum(
        (worker.result() for worker in workers), collections.Counter()
    )
    return Outcome(
        num_good=outcomes.pop(GOOD, 0),
        num_malformed=outcomes.pop(REFUSED, 0),
        failures=list(outcomes.elements()),
        decisions=decisions,
        broken=broken,
        versions=versions,
        memory_mb=(memory_before, memory_after),
    )


def resident_mb() -> float:
    """Memory of this process, as Linux counts it."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def _ask(
    target: str, rest_target: str, stop: threading.Event, seed: int
) -> collections.Counter:
    """Asks until it is told to stop and counts what becomes of it."""
    generator = random.Random(seed)
    outcomes: collections.Counter = collections.Counter()
    with (
        # A single attempt: a retry would hide a failed request.
        client.Client(target, "m", max_attempts=1) as asked,
        requests.Session() as session,
    ):
        while not stop.is_set():
            if generator.random() < MALFORMED_SHARE:
                body = generator.choice(MALFORMED)
                answer = session.post(
                    f"{rest_target}/v1/models/m:predict", data=body, timeout=30
                )
                refused = answer.status_code == 400
                line = f"{body[:20]!r}: {answer.status_code}"
                outcomes[REFUSED if refused else line] += 1
                continue
            level, label = generator.choice([(51, "dark"), (204, "bright")])
            images = [brightness.encode_image(level), b"garbage"]
            try:
                image, garbage = asked.predict(images)
            except client.ServerError as error:
                outcomes[str(error)] += 1
                continue
            found = (image.valid, image.label, garbage.valid)
            right = found == (True, label, False)
            outcomes[GOOD if right else f"{image}, {garbage}"] += 1
    return outcomes
