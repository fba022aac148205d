r"""32 good clients and an attacker: what the local server survives.

    python -m tests.benchmarks.soak --minutes=10

The server is a process of its own, with its default limits and a tiny model.
The attacker cycles through what takes memory, threads or connections of a
server that lets it. Fails if a good request failed, if the server's memory
afterwards is more than 1.3 times what it was before the attacks, or if it does
not end within its grace period. Takes up to 8 GB.
"""

import collections
import contextlib
import gzip
import io
import itertools
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent import futures

import requests
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_float("minutes", 10.0, "Of the attacks.", 0.1)
flags.DEFINE_integer("num_clients", 32, "Half over gRPC, half over REST.", 1)
flags.DEFINE_float("grace_s", 30.0, "The server's --shutdown_grace_s.", 1)

WARM_UP_S = 20
CALM_S = 10
MAX_GROWTH = 1.3
PREDICT = "/v1/models/m:predict"


class Server:
    """The process, its targets and its memory."""

    def __init__(self, base_path, log):
        resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "serving.local_server"),
                *(f"--model_base_path={base_path}", "--model_name=m"),
                *("--port=0", "--rest_api_port=0"),
                f"--shutdown_grace_s={FLAGS.grace_s}",
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        words = self.process.stdout.readline().split()
        self.grpc, self.rest = words[2], words[4].rstrip(".")
        self.address = ("127.0.0.1", int(self.rest.rpartition(":")[2]))

    def memory_mb(self, kind="VmRSS"):
        path = f"/proc/{self.process.pid}/status"
        lines = pathlib.Path(path).read_text().splitlines()
        line = next(line for line in lines if line.startswith(kind))
        return int(line.split()[1]) / 1024

    def stop(self) -> float:
        """Returns the seconds that it takes to end."""
        started = time.monotonic()
        with socket.create_connection(self.address) as unfinished:
            unfinished.sendall(
                f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\n"
                "Content-Length: 9\r\n\r\n{".encode()
            )
            time.sleep(0.1)
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(2 * FLAGS.grace_s)
        return time.monotonic() - started


class Attacker:
    """Each method is an attack; what the server answers is counted."""

    def __init__(self, server: Server, base_path: pathlib.Path):
        from tensorflow_serving.apis import predict_pb2

        self._server, self._base_path = server, base_path
        self.answers = collections.Counter()
        objects = b'{"instances":[' + b"{}," * 33_000_000 + b"{}]}"
        syntax = b'{"instances":[{"b64":"' + b"A" * 100_000_000 + b'"} {'
        self._zipped = [gzip.compress(body) for body in (objects, syntax)]
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "m"
        tensor = request.inputs["image_bytes"]
        tensor.dtype = 7
        tensor.tensor_shape.dim.add(size=1)
        tensor.string_val.append(b"x" * 200_000_000)
        self._message = request.SerializeToString()
        tensor.string_val[:] = [b""] * 30_000_000
        self._strings = request.SerializeToString()
        self._pages = [_make_pages(number) for number in (15, 60)]

    def attacks(self):
        return [
            self.zip_much,
            self.send_pages,
            self.send_large_messages,
            self.send_nothing,
            self.keep_connections,
            self.leave_early,
            self.come_from_elsewhere,
            self.publish_devices,
        ]

    def zip_much(self):
        headers = {"Content-Encoding": "gzip"}
        self._at_once(
            lambda body: self._post(PREDICT, body, headers), self._zipped * 2
        )

    def send_pages(self):
        pages = self._pages * 8
        self._at_once(lambda body: self._post("/page/images", body), pages)

    def send_large_messages(self):
        messages = [self._message] * 20 + [self._strings] * 2
        self._at_once(lambda message: self._call([message]), messages)

    def send_nothing(self):
        def wait():
            time.sleep(5)
            yield from ()

        self._at_once(lambda _: self._call(wait()), range(50))

    def keep_connections(self):
        with contextlib.ExitStack() as stack:
            for number in range(1100):
                opened = stack.enter_context(
                    socket.create_connection(self._server.address)
                )
                if number % 2:
                    with contextlib.suppress(OSError):
                        opened.sendall(b"GET / HTTP/1.1\r\nX: ")
            time.sleep(5)

    def leave_early(self):
        for _ in range(100):
            with socket.create_connection(self._server.address) as opened:
                opened.sendall(
                    f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\n"
                    "Content-Length: 99\r\n\r\n{".encode()
                )

    def come_from_elsewhere(self):
        for name in ("Host", "Origin"):
            for _ in range(50):
                self._post(PREDICT, b"{}", {name: "http://attacker.example"})

    def publish_devices(self):
        for name, make in (
            ("8", os.mkfifo),
            ("9", lambda path: os.symlink("/dev/zero", path)),
        ):
            version = self._base_path / name
            version.mkdir()
            make(version / "saved_model.pb")
        time.sleep(3)
        for name in ("8", "9"):
            shutil.rmtree(self._base_path / name)

    def _at_once(self, attack, items):
        with futures.ThreadPoolExecutor(len(items)) as executor:
            list(executor.map(attack, items))

    def _post(self, path, body, headers=None):
        try:
            url = self._server.rest + path
            answer = requests.post(url, body, headers=headers, timeout=90)
            self.answers[answer.status_code] += 1
        except requests.RequestException as error:
            self.answers[type(error).__name__] += 1

    def _call(self, messages):
        import grpc

        name = "/tensorflow.serving.PredictionService/Predict"
        options = [("grpc.max_send_message_length", -1)]
        address = self._server.grpc.removeprefix("grpc://")
        with grpc.insecure_channel(address, options) as channel:
            call = channel.stream_unary(name)
            try:
                call(iter(messages), timeout=90)
                self.answers["OK"] += 1
            except grpc.RpcError as error:
                self.answers[error.code().name] += 1


def _make_pages(number: int) -> bytes:
    from PIL import Image

    image = Image.new("1", (8000, 8000), 1)
    file = io.BytesIO()
    others = [image] * (number - 1)
    image.save(
        file, "TIFF", save_all=True, append_images=others, compression="group4"
    )
    return file.getvalue()


def ask(target: str, stop: threading.Event) -> collections.Counter:
    """Asks until it is told to stop; counts what becomes of it."""
    from serving import client
    from tests.serving import brightness

    image = brightness.encode_image(204)
    outcomes = collections.Counter()
    # A single attempt: a retry would hide a failed request.
    with client.Client(target, "m", max_attempts=1) as asked:
        while not stop.wait(0.05):
            started = time.monotonic()
            try:
                label = asked.predict([image])[0].label
                outcomes["good" if label == "bright" else label] += 1
            except client.ServerError as error:
                outcomes[f"{target[:4]} {error.code} {error}"] += 1
            waited_s = time.monotonic() - started
            outcomes["longest_ms"] = max(
                outcomes["longest_ms"], int(1000 * waited_s)
            )
    return outcomes


def main(argv):
    from tests.serving import brightness

    scratch = pathlib.Path(tempfile.mkdtemp())
    brightness.save_versions(scratch / "models")
    log = scratch / "log"
    server = Server(scratch / "models", log.open("w"))
    attacker = Attacker(server, scratch / "models")
    stop = threading.Event()
    with futures.ThreadPoolExecutor(FLAGS.num_clients) as executor:
        clients = [
            executor.submit(ask, (server.grpc, server.rest)[n % 2], stop)
            for n in range(FLAGS.num_clients)
        ]
        time.sleep(WARM_UP_S)
        before_mb = server.memory_mb()
        ends = time.monotonic() + 60 * FLAGS.minutes
        for attack in itertools.cycle(attacker.attacks()):
            started = time.monotonic()
            if started > ends:
                break
            attack()
            print(
                f"{attack.__name__}: {time.monotonic() - started:.1f} s, then "
                f"{server.memory_mb():.0f} MB",
                flush=True,
            )
        time.sleep(CALM_S)
        after_mb, peak_mb = server.memory_mb(), server.memory_mb("VmHWM")
        stop.set()
        outcomes = [each.result() for each in clients]
    exit_s = server.stop()
    longest_ms = max(outcome.pop("longest_ms") for outcome in outcomes)
    outcome = sum(outcomes, collections.Counter())
    num_good = outcome.pop("good", 0)
    print(
        f"{num_good} good requests answered, the slowest after {longest_ms} "
        f"ms; {outcome.total()} failed. Attacks were answered with "
        f"{dict(attacker.answers)}. Memory {before_mb:.0f} MB before, "
        f"{peak_mb:.0f} MB at most, {after_mb:.0f} MB afterwards; "
        f"{log.stat().st_size / 1000:.0f} kB of log; ended in {exit_s:.1f} s "
        f"with {server.process.returncode}"
    )
    for line, number in outcome.most_common(10):
        print(f"{number} times {line}", file=sys.stderr)
    shutil.rmtree(scratch)
    is_good = (
        not outcome
        and after_mb <= MAX_GROWTH * before_mb
        and exit_s <= FLAGS.grace_s
        and server.process.returncode == 0
    )
    sys.exit(not is_good)


if __name__ == "__main__":
    app.run(main)
