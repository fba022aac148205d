"""Mutated requests: the server answers each, and answers well afterwards."""

import base64
import json
import random

import grpc
import pytest
import requests

from serving import client
from tests.serving import brightness

# Of each kind: JSON, protobuf, images and deadlines, 2,000 in all.
NUM_REQUESTS = 500
IMAGE = brightness.encode_image(204)
B64 = {"b64": base64.b64encode(IMAGE).decode()}
BODIES = (
    {"instances": [{"image_bytes": B64}, {"image_bytes": B64}]},
    {"inputs": [B64]},
    {"signature_name": "inverse", "instances": [[1, 2.5], [1e5, -3]]},
)
# INTERNAL: gRPC itself could not parse the message.
CODES = [
    "INTERNAL",
    "INVALID_ARGUMENT",
    "FAILED_PRECONDITION",
    "NOT_FOUND",
]
PIECES = (
    *(b"[", b"{", b'"', b"]", b"}", b",", b"null", b"NaN", b"-", b"1e999"),
    *(b"\\ud800", b"9" * 30, b"\xff\xff\xff", b"\x00", b"[" * 2000),
)


def mutate(data: bytes, generator: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(generator.choice([1, 1, 2, 5, 20])):
        start = generator.randrange(len(changed) + 1)
        end = start + generator.choice([0, 0, 1, 1, 20])
        piece = generator.choice(
            [generator.choice(PIECES), bytes([generator.randrange(256)]), b""]
        )
        changed[start:end] = piece
    return bytes(changed)


@pytest.fixture(autouse=True)
def still_answers(rest_target):
    yield
    with client.Client(rest_target, brightness.MODEL_NAME) as asked:
        assert asked.predict([IMAGE])[0].label == "bright"


def test_mutated_json_gets_an_answer_or_a_client_error(rest_target):
    generator = random.Random(1)
    url = f"{rest_target}/v1/models/{brightness.MODEL_NAME}"
    with requests.Session() as session:
        for _ in range(NUM_REQUESTS):
            good = json.dumps(generator.choice(BODIES))
            body = mutate(good.encode(), generator)
            answer = session.post(f"{url}:predict", data=body, timeout=10)
            assert answer.status_code in (200, 400), body
            if answer.status_code == 400:
                assert list(json.loads(answer.content)) == ["error"]


@pytest.fixture
def predict(channel):
    return channel.unary_unary("/tensorflow.serving.PredictionService/Predict")


def test_mutated_protos_get_an_answer_or_an_error(predict):
    good = brightness.predict_request(image_bytes=[IMAGE]).SerializeToString()
    generator = random.Random(2)
    for _ in range(NUM_REQUESTS):
        try:
            predict(mutate(good, generator), timeout=10)
        except grpc.RpcError as error:
            assert error.code().name in CODES
            assert "Traceback" not in error.details()


def test_mutated_images_are_valid_or_not(server):
    generator = random.Random(3)
    formats = ("PNG", "JPEG", "BMP", "GIF")
    images = [brightness.encode_image(204, each) for each in formats]
    with client.Client(server.grpc_target, brightness.MODEL_NAME) as asked:
        for _ in range(NUM_REQUESTS // 10):
            batch = [
                mutate(generator.choice(images), generator) for _ in range(10)
            ]
            # A neighbour that must not suffer.
            predictions = asked.predict([*batch, IMAGE])
            assert predictions[-1].label == "bright"
            for prediction in predictions:
                assert prediction.valid in (True, False)
                assert all(0 <= p <= 1 for p in prediction.probabilities)


def test_mutated_deadlines_are_kept(predict):
    request = brightness.predict_request(image_bytes=[IMAGE] * 8)
    body = request.SerializeToString()
    generator = random.Random(4)
    codes = set()
    for _ in range(NUM_REQUESTS):
        try:
            predict(body, timeout=10 ** generator.uniform(-6, 1))
            codes.add("OK")
        except grpc.RpcError as error:
            codes.add(error.code().name)
    assert codes == {"OK", "DEADLINE_EXCEEDED"}
