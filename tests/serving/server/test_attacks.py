"""Callers that would take all memory, all threads or all connections."""

import contextlib
import gzip
import io
import os
import signal
import socket
import threading
import time

import grpc
import PIL.Image
import pytest
import requests
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving import client, local_server, status_codes
from serving.server import (
    connections,
    grpc_service,
    inference,
    limits,
    message_size,
    page,
    served_models,
)
from tests import processes
from tests.serving import brightness
from tests.serving.helpers import wait_for
from tests.serving.server.test_model_versions import write_version
from trainer.data.images import readers

MAX_BYTES = 10_000
BRIGHT = brightness.encode_image(204)


@pytest.fixture(scope="module")
def small(saved_models):
    """A server that takes 10,000 bytes and waits half a second."""
    running = local_server.start(
        str(saved_models), "m", timeout_s=0.5, max_request_bytes=MAX_BYTES
    )
    yield running
    running.stop()


@pytest.fixture(scope="module")
def stub(small):
    with grpc.insecure_channel(small.grpc_target[7:]) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def assert_answers(target, **options):
    with client.Client(target, "m", max_attempts=1, **options) as asked:
        assert asked.predict([BRIGHT])[0].label == "bright"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b" " * 900_000, 429, "at most 10000 bytes"),
        (b'{"instances":[' + b"{}," * 3000 + b"1]}", 429, "fit into 30000"),
        ('{"instances":["é"]}'.encode() + b" " * 7000, 429, "fit into 30000"),
        (b'{"instances":[' + b"1," * 90 + b"1]}", 429, "at most 50 instances"),
        (b'{"instances":[{"b64":"' + b"A" * 9000 + b'"} {', 400, "delimiter"),
    ],
)
def test_small_zipped_body_that_becomes_much_is_refused(
    small, monkeypatch, body, status, message
):
    monkeypatch.setattr(limits, "MAX_INSTANCES", 50)
    answer = requests.post(
        f"{small.rest_target}/v1/models/m:predict",
        data=gzip.compress(body),
        headers={"Content-Encoding": "gzip"},
        timeout=10,
    )
    assert answer.status_code == status
    assert message in answer.json()["error"]


def make_many(strings=0, sizes=0, numbers=0):
    """A request of few bytes with many fields."""
    request = predict_pb2.PredictRequest()
    tensor = request.inputs["image_bytes"]
    tensor.string_val.extend([b""] * strings)
    for _ in range(sizes):
        tensor.tensor_shape.dim.add()
    tensor.int64_val.extend([1] * numbers)
    return request


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strings": 1100}, "at most 50 instances"),
        ({"strings": 900}, "fit into 30000"),
        ({"sizes": 900}, "fit into 30000"),
        ({"numbers": 9000}, "fit into 30000"),
    ],
)
def test_small_message_that_becomes_much_is_refused(
    stub, monkeypatch, fields, message
):
    monkeypatch.setattr(limits, "MAX_INSTANCES", 50)
    with pytest.raises(grpc.RpcError, match=message) as caught:
        stub.Predict(make_many(**fields), timeout=10)
    assert caught.value.code().name == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(
    ("field", "num_bytes"),
    [
        *(("half_val", 4), ("int_val", 4), ("int64_val", 8), ("bool_val", 1)),
        *(("uint32_val", 4), ("uint64_val", 8), ("string_val", 64)),
    ],
)
def test_values_count_as_what_they_become(field, num_bytes):
    value = b"" if field == "string_val" else True
    request = predict_pb2.PredictRequest()
    getattr(request.inputs["x"], field).extend([value] * 3000)
    message = request.SerializeToString()
    total = len(message) + 3000 * num_bytes
    message_size.check(message, (total + 500) // limits.MAX_GROWTH)
    with pytest.raises(status_codes.StatusError, match="fit into"):
        message_size.check(message, total // limits.MAX_GROWTH)


def nested(content):
    """A PredictRequest whose one tensor has these bytes."""
    entry = bytes([0x12, len(content)]) + content
    return bytes([0x12, len(entry)]) + entry


@pytest.mark.parametrize(
    "message",
    [
        *(b"\x0a\x04abc", b"\x0b", b"\x08" + b"\xff" * 10 + b"\x00", b"\x0a"),
        *(nested(b"\x72\x00"), nested(b"\x7a\x00"), nested(b"\x6a\x01")),
    ],
)
def test_message_that_is_no_request_is_told_before_it_is_parsed(message):
    numbers = b"\x29" + b"\xff" * 8 + b"\x25" + b"\xff" * 4 + b"\x08\xff\x01"
    message_size.check(nested(b"\x6a\x00" + numbers), 1000)
    with pytest.raises(status_codes.StatusError, match="is no PredictRequest"):
        message_size.check(message, 1000)


def test_calls_that_send_nothing_do_not_keep_the_others(small, monkeypatch):
    monkeypatch.setattr(grpc_service, "ARRIVAL_S", 0.1)
    ended = threading.Event()

    def send_nothing():
        ended.wait(60)
        yield from ()

    name = "/tensorflow.serving.PredictionService/Predict"
    with grpc.insecure_channel(small.grpc_target[7:]) as channel:
        method = channel.stream_unary(name)
        calls = [method.future(send_nothing(), timeout=60) for _ in range(20)]
        assert_answers(small.grpc_target)
        details = {call.details() for call in calls}
        ended.set()
    assert details == {"The message took too long to come"}


def test_idle_connections_make_room_and_slow_heads_are_cut(small, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 5)
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", small.rest_port)
        opened = [
            stack.enter_context(socket.create_connection(address, timeout=4))
            for _ in range(9)
        ]
        assert_answers(small.rest_target)
        monkeypatch.setattr(connections, "HEADER_TIMEOUT_S", 0.2)
        slow = stack.enter_context(socket.create_connection(address, 4))
        slow.sendall(b"GET / HTTP/1.1\r\nHost: ")
        for each in [opened[0], slow]:
            with contextlib.suppress(ConnectionResetError):
                assert each.recv(9) == b""


def make_pages(number, size):
    image = PIL.Image.new("1", size, 1)
    file = io.BytesIO()
    image.save(
        file,
        "TIFF",
        save_all=True,
        append_images=[image] * (number - 1),
        compression="group4",
    )
    return file.getvalue()


def test_file_of_the_page_has_a_limit_of_memory_and_time(
    rest_target, monkeypatch
):
    def post(data):
        return requests.post(
            f"{rest_target}/page/images", data=data, timeout=60
        )

    monkeypatch.setattr(page, "MAX_MEMORY_BYTES", 400_000_000)
    large = post(make_pages(5, (7900, 8000)))
    assert large.status_code == 400
    assert "more memory than the page has" in large.json()["error"]
    monkeypatch.setattr(page, "READ_TIMEOUT_S", 0.01)
    slow = post(make_pages(3, (40, 30)))
    assert slow.status_code == 504
    assert "more than 0.01 seconds" in slow.json()["error"]
    monkeypatch.undo()
    assert post(make_pages(3, (40, 30))).json()["num_images"] == 3


@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_file_without_an_end_is_not_read(tmp_path, kind):
    path = "/dev/zero"
    if kind == "pipe":
        path = str(tmp_path / "pipe")
        os.mkfifo(path)
    with pytest.raises(OSError, match="must be a file, not a pipe or device"):
        readers.read_images(path)


def test_call_under_way_is_answered_after_the_ports_are_closed(
    saved_models, monkeypatch
):
    begun, ended = threading.Event(), threading.Event()

    def slow(models, request):
        begun.set()
        ended.wait(20)
        return original(models, request)

    original = inference.predict
    monkeypatch.setattr(inference, "predict", slow)
    running = local_server.start(str(saved_models), "m")
    targets = (running.grpc_target, running.rest_target)
    calls = [
        threading.Thread(target=assert_answers, args=(target,))
        for target in targets
    ]
    for call in calls:
        begun.clear()
        call.start()
        assert begun.wait(20)
    stopping = threading.Thread(target=running.stop)
    stopping.start()

    def is_closed(port):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return True
        return False

    wait_for(lambda: is_closed(running.grpc_port))
    wait_for(lambda: is_closed(running.rest_port))
    assert stopping.is_alive()
    ended.set()
    for thread in (*calls, stopping):
        thread.join(20)
        assert not thread.is_alive()


def test_slow_load_delays_no_stop(tmp_path):
    loading, ended = threading.Event(), threading.Event()

    def load(directory, version):
        if version == 2:
            loading.set()
            ended.wait(20)
        return f"model {version}"

    write_version(tmp_path / "m", 1)
    models = served_models.ServedModels(load)
    models.reload(served_models.make_config("m", str(tmp_path / "m")))
    models.start_polling(0.01)
    write_version(tmp_path / "m", 2)
    assert loading.wait(20)
    assert models.get("m", None, None) == "model 1"
    models.stop()
    assert not ended.is_set()
    ended.set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_ends_in_time_whatever_it_does(saved_models, tmp_path, number):
    base_path = tmp_path / "base"
    os.makedirs(base_path / "9")
    (base_path / "1").symlink_to(saved_models / "1")
    os.mkfifo(base_path / "9" / "saved_model.pb")
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{base_path}" '
        'model_platform: "tensorflow" model_version_policy { all {} } } }'
    )
    command = processes.Command(
        "serving.local_server",
        f"--model_config_file={config}",
        *("--port=0", "--rest_api_port=0", "--shutdown_grace_s=1.5"),
    )
    target = command.read_line().split(" and ")[1].split(". ")[0]
    assert_answers(target, timeout_s=20)
    with contextlib.closing(
        socket.create_connection(("127.0.0.1", int(target.split(":")[-1])))
    ) as unfinished:
        unfinished.sendall(
            b"POST /v1/models/m:predict HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        time.sleep(0.2)
        command.send_signal(number)
        command.wait(timeout=15)
    assert command.returncode == 0
    assert "Traceback" not in command.read("stderr")
