"""The client over both protocols, against the local server."""

import dataclasses
import http.server
import json
import socket
import ssl
import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
import requests
import trustme

from serving import client, rest_transport, status_codes
from tests.serving import brightness
from tests.serving.helpers import error_of

# A dark and a bright image, and no image.
IMAGES = [
    brightness.encode_image(51),
    brightness.encode_image(204, "JPEG"),
    b"no image\x00\xff\x00",
]


def test_both_protocols_give_the_model_s_answers(server):
    answers = []
    for target in (server.grpc_target, server.rest_target):
        with client.Client(target, brightness.MODEL_NAME) as asked:
            answers.append(
                (
                    asked.predict(IMAGES),
                    asked.explain(IMAGES),
                    asked.status(),
                    asked.metadata(),
                )
            )
    assert answers[0] == answers[1]
    predicted, explained, status, metadata = answers[0]
    np.testing.assert_allclose(
        [p.probabilities for p in predicted],
        [[0.2, 0.8], [0.8, 0.2], [0.0, 1.0]],
        atol=1e-6,
    )
    assert [(p.label, p.label_index, p.decision) for p in predicted] == [
        ("dark", 1, False),
        ("bright", 0, True),
        ("dark", 1, False),
    ]
    assert [p.valid for p in predicted] == [True, True, False]
    assert [p.is_out_of_distribution for p in predicted] == [False, True, False]
    assert predicted[1].out_of_distribution == pytest.approx(1.6)
    overlays = [brightness.OVERLAY, brightness.OVERLAY, None]
    assert explained == [
        dataclasses.replace(p, overlay=overlay)
        for p, overlay in zip(predicted, overlays, strict=True)
    ]
    assert status == [client.VersionStatus(1, "AVAILABLE", "")]
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert {"serving_default", "pixels"} <= set(signatures)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Returns a certificate for 127.0.0.1 and the file of its authority."""
    authority = trustme.CA()
    path = str(tmp_path_factory.mktemp("authority") / "ca.pem")
    authority.cert_pem.write_to_path(path)
    return authority.issue_cert("127.0.0.1"), path


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
        credentials = credentials or grpc.insecure_server_credentials()
        port = running.add_secure_port("127.0.0.1:0", credentials)
        running.start()
        return f"127.0.0.1:{port}"

    yield start
    for running in servers:
        running.stop(None).wait()


def test_grpc_over_tls_sends_the_token(scripted_grpc, certificate):
    tokens = []

    def answer(request, context):
        tokens.append(dict(context.invocation_metadata())["authorization"])
        context.abort(grpc.StatusCode.INTERNAL, "reached")

    issued, ca_file = certificate
    chain = issued.cert_chain_pems[0].bytes()
    credentials = grpc.ssl_server_credentials(
        [(issued.private_key_pem.bytes(), chain)]
    )
    target = f"grpcs://{scripted_grpc(answer, credentials)}"
    error = error_of(target, token="secret", ca_file=ca_file)
    assert "INTERNAL: reached" in str(error)
    # A server that nobody vouches for is not spoken to.
    error_of(target, timeout_s=1, token="secret")
    assert tokens == ["Bearer secret"]


def test_rest_over_tls_trusts_the_given_authority(scripted, certificate):
    issued, ca_file = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    scripted.socket = context.wrap_socket(scripted.socket, server_side=True)
    target = scripted.target.replace("http://", "https://")
    scripted.statuses = [200]
    with client.Client(target, "m", token="secret", ca_file=ca_file) as asked:
        assert asked.predict([b"a"])[0].label == "b"
    error = error_of(target, token="secret")
    assert "no trust in its certificate" in str(error)
    assert scripted.tokens == ["Bearer secret"]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_batches_give_what_one_request_gives(rest_target, batch_size):
    with client.Client(
        rest_target, brightness.MODEL_NAME, batch_size=batch_size
    ) as asked:
        labels = [p.label for p in asked.predict(IMAGES * 3)]
    assert labels == ["dark", "bright", "dark"] * 3


def test_batches_end_where_a_request_would_be_too_large(monkeypatch):
    monkeypatch.setattr(client, "MAX_BATCH_BYTES", 10)
    batches = [[b"1234", b"123456"], [b"1"], [b"x" * 11], [b"12"]]
    images = [image for batch in batches for image in batch]
    assert list(client.split_batches(images, 3)) == batches


def test_no_images_need_no_server():
    with client.Client("http://127.0.0.1:1", "m") as asked:
        assert asked.predict([]) == []


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("x", None, "does not serve model 'x'"),
        (brightness.MODEL_NAME, 7, "Specific(brightness, 7)"),
    ],
)
def test_unknown_model_raises_one_line(server, name, version, message):
    for target in (server.grpc_target, server.rest_target):
        error = error_of(target, name, version=version)
        assert error.code == "NOT_FOUND"
        assert message in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_unreachable_server_raises_one_line(scheme, monkeypatch):
    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.01)
    with socket.socket() as bound:  # Bound but not listening: refused.
        bound.bind(("127.0.0.1", 0))
        target = f"{scheme}://127.0.0.1:{bound.getsockname()[1]}"
        error = error_of(target)
    assert str(error).startswith(f"{target} cannot be reached (")
    assert error.code == "UNAVAILABLE" and "\n" not in str(error)


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
            time.sleep(1)
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
        if status == 301:
            self.send_header("location", "https://elsewhere:1/v1/models/m")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *unused_args):
        pass


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.01)
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    running.handle_error = lambda *unused_args: None
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
    assert len(scripted.connections) == 1
    assert scripted.tokens == ["Bearer secret"] * 3


def test_netrc_is_for_other_services(scripted, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password of_another\n")
    monkeypatch.setenv("NETRC", str(netrc))
    scripted.statuses = [200, 200]
    for token in ("secret", None):
        with client.Client(scripted.target, "m", token=token) as asked:
            asked.predict([b"a"])
    assert scripted.tokens == ["Bearer secret", None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"error": "busy"}', "busy"),
        (b"<html>", "HTTP 502 Bad Gateway"),
        (b"[1]", "HTTP 502 Bad Gateway"),
        (b"{}", "HTTP 502 Bad Gateway"),
    ],
)
def test_error_of_another_kind_of_server_is_its_status(content, message):
    response = requests.Response()
    response.status_code, response.reason = 502, "Bad Gateway"
    response._content = content
    assert rest_transport._error_message(response) == message


def test_codes_and_their_status_are_one_the_other_s():
    codes = status_codes.CODE_OF_HTTP_STATUS
    for status in status_codes.HTTP_STATUS.values():
        assert status_codes.HTTP_STATUS[codes[status]] == status
    assert (codes[400], codes[409]) == ("INVALID_ARGUMENT", "ABORTED")
    assert (codes[408], codes[504]) == ("DEADLINE_EXCEEDED",) * 2
    assert (codes[413], codes[429]) == ("RESOURCE_EXHAUSTED",) * 2
    assert (codes[502], codes[503]) == ("UNAVAILABLE",) * 2
    assert codes[500] == "INTERNAL"


def test_redirect_is_told_and_not_followed(scripted):
    scripted.statuses = [301, 200]
    message = str(error_of(scripted.target, token="secret"))
    assert "redirects to https://elsewhere:1/v1/models/m; the target" in message
    assert scripted.statuses == [200]


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_proxy_that_refuses_is_told(scheme, monkeypatch):
    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.01)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with socket.socket() as bound:  # Bound but not listening: refused.
        bound.bind(("127.0.0.1", 0))
        proxy = f"127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setenv("http_proxy", f"http://user:password@{proxy}")
        message = str(error_of(f"{scheme}://127.0.0.2:1"))
    assert f"through the proxy {proxy} of the environment (" in message
    assert "Is the server running" not in message


@pytest.mark.parametrize(
    ("content", "token"),
    [
        (b"\xef\xbb\xbfsecret\r\n", "secret"),
        (b"Bearer secret\n", "secret"),
        (b"bearer  secret", "secret"),
        (b"sec\nret\n", None),
        (b"\n", None),
        (b"Bearer\n", None),
        ("secret".encode("utf-16"), None),
        ("secr\N{ZERO WIDTH SPACE}et".encode(), None),
    ],
)
def test_token_file_holds_one_token_and_is_never_shown(
    tmp_path, content, token
):
    path = tmp_path / "token"
    path.write_bytes(content)
    if token:
        assert client.read_token(path) == token
        return
    with pytest.raises(ValueError, match="token must hold a token") as caught:
        client.read_token(path)
    assert "sec" not in str(caught.value)
    with pytest.raises(ValueError, match="`token` must hold a token"):
        client.Client("http://h:1", "m", token=content.decode("latin-1"))


@pytest.mark.parametrize(
    "statuses", [[503] * 4, [400], [401], [429], [500], [504]]
)
def test_attempts_are_four_if_busy_and_one_if_not(scripted, statuses):
    scripted.statuses = [*statuses, 200]
    error_of(scripted.target)
    assert scripted.statuses == [200]


def test_deadline_ends_waiting_and_retries(scripted, monkeypatch):
    scripted.statuses = ["hang", 503, 200]
    assert "within 0.2 s" in str(error_of(scripted.target, timeout_s=0.2))
    monkeypatch.setattr(client, "FIRST_DELAY_S", 5)
    started = time.monotonic()
    assert "busy" in str(error_of(scripted.target, timeout_s=0.5))
    assert time.monotonic() - started < 2
    # A sleep that ends after the deadline.
    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(
        client.time, "sleep", lambda _: threading.Event().wait(0.3)
    )
    scripted.statuses = [503, "hang"]
    assert "within 0.2 s" in str(error_of(scripted.target, timeout_s=0.2))


def test_busy_grpc_server_is_asked_again(scripted_grpc, monkeypatch):
    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.01)
    codes = ["UNAVAILABLE", "UNAVAILABLE", "INTERNAL"]

    def answer(request, context):
        context.abort(grpc.StatusCode[codes.pop(0)], f"{len(codes)} left")

    error = error_of(f"grpc://{scripted_grpc(answer)}")
    assert "INTERNAL: 0 left" in str(error)


def test_model_without_lightbox_s_outputs_raises(monkeypatch):
    monkeypatch.setattr(
        client.rest_transport.RestTransport,
        "predict",
        lambda self, name, images, timeout_s: {"scores": [[0.5]]},
    )
    assert "Missing: probabilities" in str(error_of("http://h:1"))
