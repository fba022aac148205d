"""Requests that are too large or too slow, and what is counted of them."""

import asyncio
import collections
import functools
import socket
import threading
import time
import types
from concurrent import futures

import pytest
import requests
from prometheus_client import parser

from serving import client, local_server, status_codes
from serving.server import inference, limits, rest_api, rest_handlers
from tests.serving import brightness
from tests.serving.helpers import error_of

PREDICT = "/v1/models/m:predict"


@pytest.fixture(scope="module")
def strict(saved_models):
    """A server that takes 10,000 bytes and waits half a second."""
    running = local_server.start(
        str(saved_models), "m", timeout_s=0.5, max_request_bytes=10_000
    )
    yield running
    running.stop()


@pytest.fixture
def post(strict):
    return functools.partial(
        requests.post, strict.rest_target + PREDICT, timeout=10
    )


def test_large_requests_are_refused(strict, post):
    answer = post(b"x" * 5_000_000)  # Once they have arrived.
    assert answer.status_code == 429
    assert answer.json()["error"] == "A request must have at most 10000 bytes."
    error = error_of(strict.grpc_target, image=b"x" * 20_000)
    assert error.code == "RESOURCE_EXHAUSTED"


def test_body_that_does_not_arrive_gets_deadline_exceeded(strict):
    address = ("127.0.0.1", strict.rest_port)
    with socket.create_connection(address, timeout=10) as opened:
        opened.sendall(
            f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Length: 100\r\n\r\n{".encode()
        )
        answer = b""
        while not answer.endswith(b"}"):
            answer += opened.recv(4096)
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"Timed out waiting for notification" in answer


def test_request_that_takes_too_long_gets_deadline_exceeded(post, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(
        rest_handlers, "answer", lambda *unused: released.wait(10)
    )
    answer = post(b"{}")
    released.set()
    assert answer.status_code == 504
    assert "Timed out" in answer.json()["error"]


def test_too_many_bytes_under_way_get_unavailable(post, monkeypatch):
    monkeypatch.setattr(limits, "MAX_PENDING_BYTES", 1_000)
    monkeypatch.setattr(limits, "FREE_BYTES", 0)
    assert post(b"x" * 2_000).status_code == 503
    monkeypatch.undo()
    assert post(b"x" * 2_000).status_code == 400


def test_every_request_is_counted(server):
    def read_page():
        page = requests.get(
            f"{server.rest_target}/monitoring/prometheus/metrics", timeout=10
        )
        assert page.headers["content-type"].startswith("text/plain")
        counts = collections.Counter()
        for family in parser.text_string_to_metric_families(page.text):
            for sample in family.samples:
                if not sample.name.endswith(("_bucket", "_sum")):
                    key = (sample.name, *sorted(sample.labels.values()))
                    counts[key] = sample.value
        return counts

    before = read_page()
    for target in (server.grpc_target, server.rest_target):
        with client.Client(target, brightness.MODEL_NAME) as asked:
            asked.predict([brightness.encode_image(204)])
        error_of(target, "made up")
    page = read_page()
    assert {key[1:]: n for key, n in (page - before).items()} == {
        ("OK", brightness.MODEL_NAME): 2,
        ("", "NOT_FOUND"): 2,
        ("GRPC", "Predict", brightness.MODEL_NAME): 1,
        ("REST", brightness.MODEL_NAME, "predict"): 1,
    }
    latency = ":tensorflow:serving:request_latency_count"
    assert (latency, "GRPC", "Predict", brightness.MODEL_NAME) in page


def test_expired_requests_in_the_queue_are_not_computed(
    saved_models, monkeypatch
):
    monkeypatch.setattr(limits, "NUM_THREADS", 1)
    computed = []

    def slow(models, request):
        computed.append(request)
        time.sleep(0.6)
        return original(models, request)

    original = inference.predict
    monkeypatch.setattr(inference, "predict", slow)
    running = local_server.start(str(saved_models), "m")

    def ask(unused_number):
        return error_of(running.grpc_target, timeout_s=0.3).code

    with futures.ThreadPoolExecutor(4) as executor:
        codes = list(executor.map(ask, range(4)))
    running.stop()
    assert codes == ["DEADLINE_EXCEEDED"] * 4
    assert len(computed) < 4


@pytest.mark.parametrize("num_bytes", [1_000, 1_001])
def test_memory_of_a_large_request_goes_back_to_the_system(
    monkeypatch, num_bytes
):
    returned = threading.Event()
    monkeypatch.setattr(limits, "LARGE_BYTES", 1_000)
    monkeypatch.setattr(limits, "TRIM_AFTER_S", 0.0)
    monkeypatch.setattr(limits, "return_free_memory", returned.set)
    limited = limits.Limits(10_000)
    charge = limits.Charge(limited)
    charge.add(num_bytes)
    limited.submit(charge, lambda: b"").result()
    assert returned.wait(5.0 if num_bytes > 1_000 else 0.2) == (
        num_bytes > 1_000
    )


def test_free_memory_is_returned():
    def resident_mb():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 2**20

    before = resident_mb()
    # Small pieces, of which the last stays: the C library keeps all below it.
    pieces = [bytearray(50_000) for _ in range(2_000)]
    last = pieces.pop()
    pieces.clear()
    limits.return_free_memory()
    assert resident_mb() - before < 40, len(last)


class Charge:
    """Takes two bytes; says whether it has ended."""

    def __init__(self):
        self.num_bytes, self.has_ended = 0, False

    def add(self, num_bytes):
        self.num_bytes += num_bytes
        if self.num_bytes > 2:
            raise status_codes.StatusError("UNAVAILABLE", "too much")

    def close(self):
        self.has_ended = True


@pytest.mark.parametrize("error", [None, ConnectionError("gone")])
@pytest.mark.parametrize("count", [1, 3])
def test_charge_ends_with_a_body_that_is_not_taken(error, count):
    async def stream():
        for _ in range(count):
            yield b"a"
        if error:
            raise error

    charge = Charge()
    read = rest_api._read_body(types.SimpleNamespace(stream=stream), charge)
    if count == 1 and error is None:
        assert asyncio.run(read) == b"a" and not charge.has_ended
        return
    expected = type(error) if error else status_codes.StatusError
    with pytest.raises(expected):
        asyncio.run(read)
    assert charge.has_ended
