"""Who is answered where the server listens on this machine alone."""

import grpc
import pytest
import requests
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
)

from serving import local_server

STATUS = "/v1/models/m"
REFUSED = [
    ({"Host": "evil.example"}, "Host evil.example is refused"),
    ({"Host": "evil.example:{port}"}, "Host evil.example:"),
    ({"Host": "localhost.evil.example"}, "Host localhost.evil"),
    ({"Host": "127.0.0.1@evil.example"}, "Host 127.0.0.1@evil"),
    ({"Host": "192.168.7.5:{port}"}, "Host 192.168.7.5"),
    ({"Origin": "http://evil.example"}, "Origin http://evil.example is"),
    ({"Origin": "null"}, "Origin null"),
    ({"Origin": "http://127.0.0.1"}, "Origin http://127.0.0.1 is"),
    ({"Origin": "http://localhost:{port}"}, "Origin http://localhost:"),
    ({"Origin": "http://[evil"}, "Origin http://[evil"),
]
ANSWERED = [
    {},
    {"Origin": "http://127.0.0.1:{port}"},
    {"Host": "127.0.0.1"},
    {"Host": "LocalHost:9000", "Origin": "http://localhost:9000"},
    {"Host": "[::1]:9000", "Origin": "https://[::1]:9000"},
]
ADDED = [
    {"Host": "Scans.LAN"},
    {"Origin": "https://scans.lan:444"},
    {"Host": "127.0.0.1", "Origin": "https://scans.lan"},
]


@pytest.fixture(scope="module")
def start(saved_models):
    running = {}

    def get(**options):
        key = tuple(options.items())
        if key not in running:
            running[key] = local_server.start(str(saved_models), "m", **options)
        return running[key]

    yield get
    for server in running.values():
        server.stop()


def ask(server, headers, method="GET", path=STATUS, **options):
    headers = {k: v.format(port=server.rest_port) for k, v in headers.items()}
    url = f"http://127.0.0.1:{server.rest_port}{path}"
    return requests.request(method, url, headers=headers, timeout=10, **options)


@pytest.mark.parametrize(("headers", "message"), REFUSED)
def test_page_from_elsewhere_is_refused(start, headers, message):
    for path in (STATUS, "/", "/page/models", "/monitoring/prometheus/metrics"):
        answer = ask(start(), headers, path=path)
        assert answer.status_code == 403
        assert answer.json()["error"].startswith(message)
    answer = ask(
        start(),
        {**headers, "Content-Type": "text/plain"},
        *("POST", f"{STATUS}:predict"),
        data='{"instances": ["a"]}',
    )
    assert answer.status_code == 403


@pytest.mark.parametrize("headers", ANSWERED)
def test_this_machine_and_tunnels_to_it_are_answered(start, headers):
    assert ask(start(), headers).status_code == 200


@pytest.mark.parametrize("headers", ADDED)
def test_added_name_is_answered_and_no_other(start, headers):
    server = start(allowed_hosts=("scans.LAN",), allow_config_reload=False)
    assert ask(server, headers).status_code == 200
    assert ask(server, {"Host": "evil.scans.lan"}).status_code == 403
    assert ask(start(), headers).status_code == 403


@pytest.mark.parametrize("headers", [headers for headers, _ in REFUSED[:6]])
def test_server_for_other_machines_has_no_names(start, headers):
    assert ask(start(host="0.0.0.0"), headers).status_code == 200


def test_config_is_not_reloaded_where_that_is_off(start):
    server = start(allowed_hosts=("scans.LAN",), allow_config_reload=False)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="--noallow_config_reload"):
            stub.HandleReloadConfigRequest(
                model_management_pb2.ReloadConfigRequest(), timeout=10
            )
