"""TF Serving's REST routes, formats and codes."""

import base64
import gzip
import json

import pytest
import requests

from serving.server import rest_api
from tests.serving import brightness

MODEL = f"/v1/models/{brightness.MODEL_NAME}"
PREDICT = f"{MODEL}:predict"
BRIGHT = {"b64": base64.b64encode(brightness.encode_image(204)).decode()}


def ask(signature_name, key, value):
    return {"signature_name": signature_name, key: value}


@pytest.fixture
def post(rest_target):
    def post(body, path=PREDICT, **options):
        if not isinstance(body, (str, bytes)):
            body = json.dumps(body)
        return requests.post(
            rest_target + path, data=body, timeout=10, **options
        )

    return post


# Numbers have the digits that a float32 needs.
ROW = {
    "probabilities": [0.8, 0.19999999],
    "label": "bright",
    "label_index": 0,
    "score": 0.8,
    "decision": True,
    "decision_label": "bright",
    "threshold": 0.5,
    "valid": True,
    "class_names": list(brightness.CLASS_NAMES),
    "prediction_set": [True, False],
    "study_rule": brightness.STUDY_RULE,
    "study_threshold": brightness.STUDY_THRESHOLD,
    "out_of_distribution": 1.6,
    "is_out_of_distribution": True,
}
COLUMNS = {"outputs": {name: [value] for name, value in ROW.items()}}
NO_ROWS = {"outputs": {name: [] for name in [*ROW, "overlay_bytes"]}}
GOOD_BODIES = [
    (
        {"instances": [{"image_bytes": BRIGHT}] * 2},
        {"predictions": [ROW, ROW]},
    ),
    ({"instances": [BRIGHT]}, {"predictions": [ROW]}),
    # What comes after the first object is ignored.
    (json.dumps({"inputs": [BRIGHT]}) + "}{ garbage", COLUMNS),
    ({"inputs": [BRIGHT]}, COLUMNS),
    ({"inputs": {"image_bytes": [BRIGHT]}}, COLUMNS),
    (ask("explain", "inputs", []), NO_ROWS),
    (ask("explain", "inputs", {"image_bytes": []}), NO_ROWS),
    # A single output is not named.
    (
        ask("inverse", "instances", [[1, 0], [-0.0, 3]]),
        '{"predictions": [[1.0, Infinity], [-Infinity, 0.3333333333333333]]}',
    ),
    (
        '{"signature_name": "inverse", "inputs": [[NaN, Infinity]]}',
        '{"outputs": [[NaN, 0.0]]}',
    ),
]
VERSION_1 = "/V1/MODELS/brightness/VERSIONS/1:Predict"


@pytest.mark.parametrize("path", [PREDICT, VERSION_1])
@pytest.mark.parametrize(
    ("body", "expected"), GOOD_BODIES, ids=range(len(GOOD_BODIES))
)
def test_good_body_is_answered(post, path, body, expected):
    answer = post(body, path)
    assert answer.headers["content-type"] == "application/json"
    is_text = isinstance(expected, str)
    assert (answer.text if is_text else answer.json()) == expected


def test_gzipped_body_is_understood(post, monkeypatch):
    monkeypatch.setattr(rest_api, "MAX_GUNZIPPED_BYTES", 1000)
    headers = {"Content-Encoding": "gzip"}
    body = gzip.compress(json.dumps({"instances": [BRIGHT]}).encode())
    assert post(body, headers=headers).ok
    # Cut off, damaged, and too long.
    for bad in (body[:-9], b"x" + body, gzip.compress(b" " * 1001)):
        answer = post(bad, headers=headers)
        assert answer.status_code == 400
        assert "Failed to uncompress the gzipped body" in answer.json()["error"]


def test_pixels_signature_takes_nested_lists(post):
    row = {"pixels": [[[51.0]] * 8] * 8}
    answer = post({"signature_name": "pixels", "instances": [row]}).json()
    assert answer["predictions"][0]["score"] == pytest.approx(0.2)


def test_status_is_tf_serving_s_document(rest_target):
    status = {
        "version": "1",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    for path in (MODEL, f"{MODEL}/versions/1"):
        answer = requests.get(rest_target + path, timeout=10)
        assert answer.json() == {"model_version_status": [status]}


def test_metadata_is_tf_serving_s_document(rest_target):
    answer = requests.get(f"{rest_target}{MODEL}/metadata", timeout=10).json()
    signatures = answer["metadata"]["signature_def"].pop("signature_def")
    spec = {"name": "brightness", "signature_name": "", "version": "1"}
    assert answer == {"model_spec": spec, "metadata": {"signature_def": {}}}
    declared = signatures["serving_default"]["inputs"]["image_bytes"]
    assert declared["dtype"] == "DT_STRING"
    assert declared["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}],
        "unknown_rank": False,
    }


MALFORMED = [
    *("GET /v1/foo", f"GET {PREDICT}", f"POST {MODEL}", f"DELETE {MODEL}"),
    *(f"GET {MODEL}/versions/x", f"GET {MODEL}:regress"),
    *(f"POST {MODEL}:classify", f"POST {MODEL}:regress"),
]
DIGITS = "9" * 20
# Requests by the answer that they get.
BAD_PATHS = {
    (404, "Could not find any versions of model x"): ["GET /v1/models/x"],
    (404, "Could not find version 7 of model brightness"): [
        f"GET {MODEL}/versions/7"
    ],
    (404, "Servable not found for request: Specific(brightness, 7)"): [
        f"GET {MODEL}/versions/7/metadata"
    ],
    (404, "Servable not found for request: Latest(x)"): [
        *("POST /v1/models/x:predict", "POST /v1/models/%78:predict")
    ],
    (400, "Unrecognized servable version label: x"): [
        f"POST {MODEL}/labels/x:predict"
    ],
    (400, f"Failed to convert version: {DIGITS} to numeric."): [
        f"POST {MODEL}/versions/{DIGITS}:predict"
    ],
    (400, "Missing model name in request."): ["GET /v1/models"],
    **{(400, f"Malformed request: {line}"): [line] for line in MALFORMED},
}


@pytest.mark.parametrize(
    ("status", "message", "line"),
    [(*answer, line) for answer, lines in BAD_PATHS.items() for line in lines],
)
def test_bad_path_gets_tf_serving_s_answer(rest_target, status, message, line):
    method, path = line.split()
    body = '{"instances": ["a"]}' if method == "POST" else None
    answer = requests.request(method, rest_target + path, data=body, timeout=10)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"error": message}


def test_path_outside_the_api_gets_a_page(rest_target):
    answer = requests.get(f"{rest_target}/favicon.ico", timeout=10)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")


NO_JSON = "The body must be a JSON object. JSON parse error: "
NOT_FOUND = "not found in signature def"
KEYS = "must be an object with these keys: image_bytes."
BAD_BODIES = {
    f"{NO_JSON}Expecting value: line 1 column 1 (char 0)": [""],
    NO_JSON: [
        *(" \n", "abc", b"\xff\xfe", '{"a": 1,}', "[" * 100_000),
        '{"a": 1' + "0" * 5000 + "}",
    ],
    "Expecting ':' delimiter: line 1 column 6": ['{"a" 1}'],
    "Expecting ',' delimiter": ['{"a": [1 2]}'],
    "Unterminated string": ['{"a'],
    "The body must be a JSON object.": ["[1]"],
    "either 'instances' or 'inputs'.": ["{}", {"inputs": [], "instances": []}],
    "'instances' must be a list": [{"instances": "a"}],
    "list of at least one instance.": [{"instances": []}],
    "'signature_name' must be a string.": [ask(1, "instances", ["a"])],
    f'Serving signature name: "x" {NOT_FOUND}': [ask("x", "instances", ["a"])],
    f'Serving signature name: "?" {NOT_FOUND}': [
        b'{"signature_name": "\xff", "instances": ["a"]}'
    ],
    "values of type string.": [
        {"instances": bad} for bad in ([1], ["a", 1], [None])
    ],
    "of type float64.": [
        ask("inverse", "inputs", [["1", "2"]]),
        ask("inverse", "inputs", [[True, 1]]),
    ],
    f"{KEYS} Number 0 is not.": [{"instances": [{"x": "a"}]}],
    f"{KEYS} Number 1 is not.": [
        {"instances": [{"image_bytes": "a"}, bad]}
        for bad in ({"image_bytes": "a", "x": "a"}, "a")
    ],
    f"'inputs' {KEYS}": [{"inputs": {"x": []}}],
    "with a base64 string as the only key, 'b64'.": [
        {"instances": [{"b64": "?"}]},
        {"instances": [{"b64": 1}]},
        {"instances": [{"image_bytes": {"b64": "AA==", "x": 1}}]},
        '{"instances": ["\\ud800"]}',
    ],
    "all lists of one depth must have one length.": [
        ask("inverse", "instances", [[1, 2], [1]]),
        *(ask("inverse", "inputs", x) for x in ([[1, 2], [1]], [[1, 2], 1])),
        ask("inverse", "inputs", [1, [1]]),
    ],
    "has a number that float32 cannot hold without loss.": [
        ask("pixels", "instances", [[[[x]]]]) for x in (2**24, 1e39)
    ],
    "Input pixels must have shape [?,8,8,1], but [1,2] is provided": [
        ask("pixels", "instances", [[1.0, 2.0]])
    ],
}


@pytest.mark.parametrize(
    ("message", "body"),
    [(message, body) for message in BAD_BODIES for body in BAD_BODIES[message]],
    ids=lambda value: repr(value)[:40],
)
def test_bad_body_is_told_in_one_sentence(post, message, body):
    answer = post(body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]


def test_bodies_of_fifty_megabytes_are_answered(post):
    b64 = base64.b64encode(bytes(37_500_000)).decode()
    answer = post({"instances": [{"b64": b64}]})
    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["valid"] is False
    answer = post(b"x" * 50_000_000)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(NO_JSON)


def test_truncated_image_is_not_valid_and_its_neighbour_is(post):
    half = base64.b64encode(brightness.encode_image(204)[:40]).decode()
    # TF Serving takes base64 without its padding, too.
    answer = post({"instances": [{"b64": half.rstrip("=")}, BRIGHT]}).json()
    assert [row["valid"] for row in answer["predictions"]] == [False, True]
