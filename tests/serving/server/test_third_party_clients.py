"""Clients that others have written, unchanged, against the local server."""

import base64
import json
import pathlib
import shutil
import subprocess

import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2
from tensorflow_serving.apis import prediction_service_pb2

from serving import local_server
from tests.serving import brightness, clients


def test_curl_gets_an_answer(rest_target):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    b64 = base64.b64encode(brightness.encode_image(204)).decode()
    done = subprocess.run(
        [
            *("curl", "--silent", "--write-out", "%{http_code}"),
            *("--data", "@-"),
            f"{rest_target}/v1/models/{brightness.MODEL_NAME}:predict",
        ],
        input=json.dumps({"instances": [{"b64": b64}]}),
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("200")
    answer = json.loads(done.stdout[:-3])
    assert answer["predictions"][0]["label"] == "bright"


def test_min_tfs_client_gets_answers_and_errors(tmp_path):
    """A package from PyPI, of 2020, with protos of its own."""
    if not pathlib.Path(clients.CLIENTS_PYTHON).exists():
        pytest.skip("run `make clients` first")
    inverse = brightness.build_signatures(0.5)["inverse"]
    signatures = {"serving_default": inverse}
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"), signatures)
    running = local_server.start(str(tmp_path), "inverse")
    program = pathlib.Path(__file__).with_name("min_tfs_client_calls.py")
    done = subprocess.run(
        [clients.CLIENTS_PYTHON, str(program), str(running.grpc_port)],
        capture_output=True,
        text=True,
    )
    running.stop()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "[[1.0, 0.25], [-0.5, 2.0]]",
        "NOT_FOUND Servable not found for request: Latest(x)",
        "INVALID_ARGUMENT Signature input alias: x not found in request and no "
        "default value provided. Inputs expected to be in the request {z}",
        "INVALID_ARGUMENT Expects arg[0] to be double but int32 is provided",
    ]


@pytest.mark.parametrize(
    ("program", "python", "ports", "expected"),
    [
        (
            "ovmsclient_calls.py",
            clients.CLIENTS_PYTHON,
            ("grpc_port", "rest_port"),
            2 * ["AVAILABLE [0.8, 0.0, 0.2]"],
        ),
        (
            "kserve_calls.py",
            clients.KSERVE_PYTHON,
            ("rest_port",),
            ["[0.8, 0.0, 0.2]"],
        ),
    ],
)
def test_client_of_another_server_gets_answers(
    server, tmp_path, program, python, ports, expected
):
    """Packages from PyPI, of OpenVINO Model Server and KServe."""
    if not pathlib.Path(python).exists():
        pytest.skip("run `make clients` first")
    files = [brightness.encode_image(204), b"no image"]
    files.append(brightness.encode_image(51, "JPEG"))
    paths = [tmp_path / str(number) for number in range(len(files))]
    for path, content in zip(paths, files, strict=True):
        path.write_bytes(content)
    done = subprocess.run(
        [
            python,
            str(pathlib.Path(__file__).with_name(program)),
            *(str(getattr(server, port)) for port in ports),
            brightness.MODEL_NAME,
            *map(str, paths),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected


def test_node_client_gets_answers_and_errors(server, tmp_path):
    """Packages from npm, with an HTTP/2 of their own."""
    if not pathlib.Path(clients.NODE_MODULES).exists():
        pytest.skip("run `make clients` first")
    found = {}

    def add(descriptor):
        for each in descriptor.dependencies:
            add(each)
        found[descriptor.name] = descriptor

    add(prediction_service_pb2.DESCRIPTOR)
    protos = descriptor_pb2.FileDescriptorSet()
    for descriptor in found.values():
        descriptor.CopyToProto(protos.file.add())
    (tmp_path / "protos").write_bytes(protos.SerializeToString())
    (tmp_path / "image").write_bytes(brightness.encode_image(204))
    (tmp_path / "other").write_bytes(b"no image")
    program = pathlib.Path(__file__).with_name("grpc_js_calls.js")
    done = subprocess.run(
        [
            *(clients.NODE, str(program), str(tmp_path / "protos")),
            *(str(server.grpc_port), brightness.MODEL_NAME),
            *(str(tmp_path / "image"), str(tmp_path / "other")),
        ],
        env={"NODE_PATH": clients.NODE_MODULES},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "[0.8, 0.0]",
        "NOT_FOUND Servable not found for request: Latest(x)",
    ]
