"""The client over both protocols, against the local server."""

import dataclasses
import http.server
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
import trustme

from serving import client
from tests.serving import brightness


def test_images_give_the_model_s_predictions(target, images, probabilities):
    with client.Client(target, brightness.MODEL_NAME) as asked:
        predictions = asked.predict(images)
    np.testing.assert_allclose(
        [p.probabilities for p in predictions],
        probabilities,
        atol=1e-6,
    )
    assert [p.label for p in predictions] == ["dark", "bright", "dark"]
    assert [p.label_index for p in predictions] == [0, 1, 0]
    assert [p.decision for p in predictions] == [False, True, False]
    assert [p.valid for p in predictions] == [True, True, False]


def test_explain_adds_overlays(target, images):
    with client.Client(target, brightness.MODEL_NAME) as asked:
        explained = asked.explain(images)
        predicted = asked.predict(images)
    overlays = [p.overlay for p in explained]
    assert overlays == [brightness.OVERLAY, brightness.OVERLAY, None]
    assert [
        dataclasses.replace(p, overlay=None) for p in explained
    ] == predicted
    assert [p.is_out_of_distribution for p in predicted] == [False, True, False]
    assert predicted[1].out_of_distribution == pytest.approx(1.6)


@pytest.fixture(scope="module")
def certificate():
    """Returns a certificate for 127.0.0.1 and the authority behind it."""
    authority = trustme.CA()
    return authority.issue_cert("127.0.0.1"), authority


@pytest.fixture(scope="module")
def ca_file(certificate, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("authority") / "ca.pem")
    certificate[1].cert_pem.write_to_path(path)
    return path


@pytest.fixture
def scripted_grpc():
    """Returns a function that starts a server whose Predict is a function."""
    servers = []

    def start(answer, credentials=None):
        handler = grpc.unary_unary_rpc_method_handler(answer)
        service = grpc.method_handlers_generic_handler(
            "tensorflow.serving.PredictionService", {"Predict": handler}
        )
        running = grpc.server(futures.ThreadPoolExecutor(1), [service])
        servers.append(running)
        if credentials is None:
            port = running.add_insecure_port("127.0.0.1:0")
        else:
            port = running.add_secure_port("127.0.0.1:0", credentials)
        running.start()
        return f"127.0.0.1:{port}"

    yield start
    for running in servers:
        running.stop(None).wait()


def test_grpc_over_tls_sends_the_token(scripted_grpc, certificate, ca_file):
    tokens = []

    def answer(request, context):
        tokens.append(dict(context.invocation_metadata())["authorization"])
        context.abort(grpc.StatusCode.INTERNAL, "reached")

    chain = certificate[0].cert_chain_pems[0].bytes()
    credentials = grpc.ssl_server_credentials(
        [(certificate[0].private_key_pem.bytes(), chain)]
    )
    target = f"grpcs://{scripted_grpc(answer, credentials)}"
    with (
        client.Client(target, "m", token="secret", ca_file=ca_file) as asked,
        pytest.raises(client.ServerError, match="INTERNAL: reached"),
    ):
        asked.predict([b"a"])
    # A server that nobody vouches for is not spoken to.
    with (
        client.Client(target, "m", timeout_s=1, token="secret") as asked,
        pytest.raises(client.ServerError),
    ):
        asked.predict([b"a"])
    assert tokens == ["Bearer secret"]


def test_rest_over_tls_trusts_the_given_authority(
    scripted, certificate, ca_file
):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate[0].configure_cert(context)
    scripted.socket = context.wrap_socket(scripted.socket, server_side=True)
    target = scripted.target.replace("http://", "https://")
    scripted.statuses = [200]
    with client.Client(target, "m", token="secret", ca_file=ca_file) as asked:
        assert asked.predict([b"a"])[0].label == "b"
    with (
        client.Client(target, "m", token="secret") as asked,
        pytest.raises(client.ServerError, match="no trust in its certificate"),
    ):
        asked.predict([b"a"])
    assert scripted.tokens == ["Bearer secret"]


def test_both_protocols_give_equal_results(grpc_target, rest_target, images):
    answers = []
    for target in (grpc_target, rest_target):
        with client.Client(target, brightness.MODEL_NAME) as asked:
            answers.append(
                (asked.predict(images), asked.status(), asked.metadata())
            )
    assert answers[0] == answers[1]
    assert answers[0][1] == [client.VersionStatus(1, "AVAILABLE", "")]
    assert (
        "serving_default"
        in (answers[0][2]["metadata"]["signature_def"]["signature_def"])
    )


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_batches_give_what_one_request_gives(rest_target, images, batch_size):
    with client.Client(
        rest_target, brightness.MODEL_NAME, batch_size=batch_size
    ) as asked:
        labels = [p.label for p in asked.predict(images * 3)]
    assert labels == ["dark", "bright", "dark"] * 3


def test_batches_end_where_a_request_would_be_too_large(monkeypatch):
    monkeypatch.setattr(client, "MAX_BATCH_BYTES", 10)
    images = [b"1234", b"123456", b"1", b"x" * 11, b"12"]
    assert list(client.split_batches(images, 3)) == [
        [b"1234", b"123456"],
        [b"1"],
        [b"x" * 11],
        [b"12"],
    ]


def test_no_images_need_no_server():
    with client.Client("http://127.0.0.1:1", "m") as asked:
        assert asked.predict([]) == []


@pytest.mark.parametrize(
    ("model_name", "version", "message"),
    [
        ("x", None, "does not serve model 'x'"),
        (brightness.MODEL_NAME, 7, r"Specific\(brightness, 7\)"),
    ],
)
def test_unknown_model_raises_one_line(target, model_name, version, message):
    with (
        client.Client(target, model_name, version=version) as asked,
        pytest.raises(client.ServerError, match=message) as caught,
    ):
        asked.predict([b"a"])
    assert caught.value.code == "NOT_FOUND"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_unreachable_server_raises_one_line(scheme, monkeypatch):
    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.01)
    with socket.socket() as bound:  # Bound but not listening: refused.
        bound.bind(("127.0.0.1", 0))
        target = f"{scheme}://127.0.0.1:{bound.getsockname()[1]}"
        with (
            client.Client(target, "m") as asked,
            pytest.raises(client.ServerError) as caught,
        ):
            asked.predict([b"a"])
    assert str(caught.value).startswith(f"{target} cannot be reached (")
    assert caught.value.code == "UNAVAILABLE"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "target",
    ["localhost:8500", "ftp://h:1", "grpc://h", "http://h:x", "http://h:1/v1"],
)
def test_target_of_another_form_raises(target):
    with pytest.raises(ValueError, match="grpc://HOST:PORT"):
        client.Client(target, "m")


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers each request with the next of the server's statuses."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.server.connections.add(self.client_address)
        self.server.tokens.append(self.headers["authorization"])
        status = self.server.statuses.pop(0)
        if status == "hang":
            time.sleep(2)
            status = 200
        row = {
            "probabilities": [0.25, 0.75],
            "label": "b",
            "label_index": 1,
            "score": 0.75,
            "valid": True,
        }
        body = {"error": "busy"} if status != 200 else {"predictions": [row]}
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *unused_args):
        pass


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.01)
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    running.statuses, running.connections, running.tokens = [], set(), []
    running.target = f"http://127.0.0.1:{running.server_port}"
    thread = threading.Thread(target=running.serve_forever, args=[0.01])
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def test_busy_server_is_asked_again_over_the_same_connection(scripted):
    scripted.statuses = [503, 503, 200]
    with client.Client(scripted.target, "m", token="secret") as asked:
        (prediction,) = asked.predict([b"a"])
    assert prediction == client.Prediction(
        (0.25, 0.75), "b", 1, 0.75, None, True
    )
    assert scripted.statuses == []
    assert len(scripted.connections) == 1
    assert scripted.tokens == ["Bearer secret"] * 3


def test_busy_server_is_given_up_after_four_attempts(scripted):
    scripted.statuses = [503] * 5
    with (
        client.Client(scripted.target, "m") as asked,
        pytest.raises(client.ServerError, match="busy"),
    ):
        asked.predict([b"a"])
    assert len(scripted.statuses) == 1


@pytest.mark.parametrize("status", [400, 401, 429, 500, 504])
def test_other_errors_are_not_tried_again(scripted, status):
    scripted.statuses = [status, 200]
    with (
        client.Client(scripted.target, "m") as asked,
        pytest.raises(client.ServerError),
    ):
        asked.predict([b"a"])
    assert scripted.statuses == [200]


def test_deadline_raises_one_line(scripted):
    scripted.statuses = ["hang"]
    with (
        client.Client(scripted.target, "m", timeout_s=0.2) as asked,
        pytest.raises(client.ServerError, match=r"within 0\.2 s"),
    ):
        asked.predict([b"a"])


def test_retries_end_at_the_deadline(scripted, monkeypatch):
    monkeypatch.setattr(client, "FIRST_DELAY_S", 5)
    scripted.statuses = [503, 200]
    started = time.monotonic()
    with (
        client.Client(scripted.target, "m", timeout_s=0.5) as asked,
        pytest.raises(client.ServerError, match="busy"),
    ):
        asked.predict([b"a"])
    assert time.monotonic() - started < 2


def test_busy_grpc_server_is_asked_again(scripted_grpc, monkeypatch):
    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.01)
    codes = ["UNAVAILABLE", "UNAVAILABLE", "INTERNAL"]

    def answer(request, context):
        context.abort(grpc.StatusCode[codes.pop(0)], f"{len(codes)} left")

    with (
        client.Client(f"grpc://{scripted_grpc(answer)}", "m") as asked,
        pytest.raises(client.ServerError, match="INTERNAL: 0 left"),
    ):
        asked.predict([b"a"])


def test_model_without_lightbox_s_outputs_raises(scripted, monkeypatch):
    monkeypatch.setattr(
        client.rest_transport.RestTransport,
        "predict",
        lambda self, name, images, timeout_s: {"scores": [[0.5]]},
    )
    with (
        client.Client(scripted.target, "m") as asked,
        pytest.raises(client.ServerError, match="Missing: probabilities"),
    ):
        asked.predict([b"a"])


def test_rest_path_imports_no_tensorflow(rest_target, tmp_path):
    (tmp_path / "a.png").write_bytes(brightness.encode_image(51))
    done = subprocess.run(
        [
            *(sys.executable, "-X", "importtime", "-m", "serving.predict"),
            f"--target={rest_target}",
            f"--model_name={brightness.MODEL_NAME}",
            str(tmp_path / "a.png"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "serving.client" in imported
    heavy = {"tensorflow", "tensorflow_serving", "grpc", "keras"}
    assert not heavy & imported
