"""TF Serving's REST routes, formats and codes."""

import base64
import gzip
import json

import numpy as np
import pytest
import requests

from serving.server import rest_api
from tests.serving import brightness

MODEL = f"/v1/models/{brightness.MODEL_NAME}"
PREDICT = f"{MODEL}:predict"
BRIGHT = {"b64": base64.b64encode(brightness.encode_image(204)).decode()}


def post(target, path, body, **options):
    if not isinstance(body, (str, bytes)):
        body = json.dumps(body)
    return requests.post(target + path, data=body, timeout=10, **options)


def test_row_format_gives_an_object_for_each_instance(rest_target):
    body = {"instances": [{"image_bytes": BRIGHT}, {"image_bytes": BRIGHT}]}
    answer = post(rest_target, PREDICT, body)
    assert answer.headers["content-type"] == "application/json"
    # Numbers have the digits that a float32 needs.
    assert answer.json() == {
        "predictions": [
            {
                "probabilities": [0.19999999, 0.8],
                "label": "bright",
                "label_index": 1,
                "score": 0.8,
                "decision": True,
                "valid": True,
                "out_of_distribution": 1.6,
                "is_out_of_distribution": True,
            }
        ]
        * 2
    }


@pytest.mark.parametrize(
    "inputs", [{"image_bytes": [BRIGHT]}, [BRIGHT]], ids=["named", "bare"]
)
def test_columnar_format_gives_a_list_for_each_output(rest_target, inputs):
    answer = post(rest_target, PREDICT, {"inputs": inputs}).json()
    assert answer["outputs"]["score"] == [0.8]
    probabilities = np.float32(answer["outputs"]["probabilities"])
    np.testing.assert_array_equal(
        probabilities, [[1 - np.float32(0.8), np.float32(0.8)]]
    )


def test_bare_instances_and_versioned_url_are_understood(rest_target):
    path = f"{MODEL.upper().replace('BRIGHTNESS', 'brightness')}"
    answer = post(
        rest_target, f"{path}/versions/1:Predict", {"instances": [BRIGHT]}
    )
    assert answer.json()["predictions"][0]["label"] == "bright"


def test_text_after_the_first_object_is_ignored(rest_target):
    body = json.dumps({"instances": [BRIGHT]}) + "}{ garbage"
    assert post(rest_target, PREDICT, body).status_code == 200


def test_gzipped_body_is_understood(rest_target, monkeypatch):
    monkeypatch.setattr(rest_api, "MAX_GUNZIPPED_BYTES", 1000)
    headers = {"Content-Encoding": "gzip"}
    body = gzip.compress(json.dumps({"instances": [BRIGHT]}).encode())
    assert post(rest_target, PREDICT, body, headers=headers).ok
    # Cut off, damaged, and too long.
    for bad in (body[:-9], b"x" + body, gzip.compress(b" " * 1001)):
        answer = post(rest_target, PREDICT, bad, headers=headers)
        assert answer.status_code == 400
        assert "Failed to uncompress the gzipped body" in answer.json()["error"]


def test_one_output_is_not_named_and_infinity_is_a_bare_token(rest_target):
    body = {"signature_name": "inverse", "instances": [[1, 0], [-0.0, 3]]}
    answer = post(rest_target, PREDICT, body)
    assert answer.text == (
        '{"predictions": [[1.0, Infinity], [-Infinity, 0.3333333333333333]]}'
    )


def test_nan_is_understood_and_answered(rest_target):
    body = '{"signature_name": "inverse", "inputs": [[NaN, Infinity]]}'
    answer = post(rest_target, PREDICT, body)
    assert answer.text == '{"outputs": [[NaN, 0.0]]}'


def test_no_rows_in_columnar_format_give_none(rest_target):
    for body, expected in (
        ({"signature_name": "explain", "inputs": []}, []),
        ({"signature_name": "explain", "inputs": {"image_bytes": []}}, []),
    ):
        answer = post(rest_target, PREDICT, body).json()["outputs"]
        assert answer["label"] == answer["overlay_bytes"] == expected


def test_pixels_signature_takes_nested_lists(rest_target):
    pixels = [[[51.0]] * 8] * 8
    body = {"signature_name": "pixels", "instances": [{"pixels": pixels}]}
    answer = post(rest_target, PREDICT, body).json()
    assert answer["predictions"][0]["score"] == pytest.approx(0.2)


def test_status_is_tf_serving_s_document(rest_target):
    for path in (MODEL, f"{MODEL}/versions/1"):
        assert requests.get(rest_target + path, timeout=10).json() == {
            "model_version_status": [
                {
                    "version": "1",
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
            ]
        }


def test_metadata_is_tf_serving_s_document(rest_target):
    answer = requests.get(f"{rest_target}{MODEL}/metadata", timeout=10).json()
    assert set(answer) == {"model_spec", "metadata"}
    assert answer["model_spec"] == {
        "name": brightness.MODEL_NAME,
        "signature_name": "",
        "version": "1",
    }
    assert set(answer["metadata"]["signature_def"]) == {"signature_def"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    declared = signatures["serving_default"]["inputs"]["image_bytes"]
    assert declared["dtype"] == "DT_STRING"
    assert declared["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}],
        "unknown_rank": False,
    }


MALFORMED = [
    ("GET", "/v1/foo"),
    ("GET", PREDICT),
    ("POST", MODEL),
    ("DELETE", MODEL),
    ("GET", f"{MODEL}/versions/x"),
    ("GET", f"{MODEL}:regress"),
    ("POST", f"{MODEL}:classify"),
    ("POST", f"{MODEL}:regress"),
]
BAD_PATHS = [
    *(
        (method, path, 400, f"Malformed request: {method} {path}")
        for method, path in MALFORMED
    ),
    ("GET", "/v1/models", 400, "Missing model name in request."),
    ("GET", "/v1/models/x", 404, "Could not find any versions of model x"),
    (
        "GET",
        f"{MODEL}/versions/7",
        404,
        "Could not find version 7 of model brightness",
    ),
    (
        "GET",
        f"{MODEL}/versions/7/metadata",
        404,
        "Servable not found for request: Specific(brightness, 7)",
    ),
    (
        "POST",
        f"{MODEL}/versions/99999999999999999999:predict",
        400,
        "Failed to convert version: 99999999999999999999 to numeric.",
    ),
]


@pytest.mark.parametrize(("method", "path", "status", "message"), BAD_PATHS)
def test_bad_path_gets_tf_serving_s_answer(
    rest_target, method, path, status, message
):
    answer = requests.request(method, rest_target + path, timeout=10)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"error": message}


def test_path_outside_the_api_gets_a_page(rest_target):
    answer = requests.get(f"{rest_target}/favicon.ico", timeout=10)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")


NO_JSON = "The body must be a JSON object. JSON parse error: "
KEYS = "must be an object with these keys: image_bytes."
BASE64 = "with a base64 string as the only key, 'b64'."
RAGGED = "all lists of one depth must have one length."
LOSSY = "has a number that float32 cannot hold without loss."


def inverse(**fields):
    return {"signature_name": "inverse", **fields}


def pixels(value):
    return {"signature_name": "pixels", "instances": [[[[value]]]]}


BAD_BODIES = {
    "empty": ("", NO_JSON + "Expecting value: line 1 column 1 (char 0)"),
    "blank": (" \n", NO_JSON),
    "text": ("abc", NO_JSON),
    "bytes": (b"\xff\xfe", NO_JSON),
    "trailing comma": ('{"a": 1,}', NO_JSON),
    "no colon": ('{"a" 1}', "Expecting ':' delimiter: line 1 column 6"),
    "no comma": ('{"a": [1 2]}', "Expecting ',' delimiter"),
    "open string": ('{"a', "Unterminated string"),
    "deep": ("[" * 100_000, NO_JSON),
    "huge integer": ('{"a": 1' + "0" * 5000 + "}", NO_JSON),
    "no object": ("[1]", "The body must be a JSON object."),
    "no inputs": ("{}", "either 'instances' or 'inputs'."),
    "both": ({"inputs": [], "instances": []}, "either 'instances' or 'inputs'"),
    "instances no list": ({"instances": "a"}, "'instances' must be a list"),
    "no instances": ({"instances": []}, "list of at least one instance."),
    "signature no text": (
        {"signature_name": 1, "instances": ["a"]},
        "'signature_name' must be a string.",
    ),
    "unknown signature": (
        {"signature_name": "x", "instances": ["a"]},
        'Serving signature name: "x" not found in signature def',
    ),
    "wrong type": ({"instances": [1]}, "values of type string."),
    "mixed types": ({"instances": ["a", 1]}, "values of type string."),
    "number for text": (inverse(inputs=[["1", "2"]]), "of type float64."),
    "truth for a number": (inverse(inputs=[[True, 1]]), "of type float64."),
    "null": ({"instances": [None]}, "values of type string."),
    "wrong name": ({"instances": [{"x": "a"}]}, KEYS + " Number 0 is not."),
    "extra name": (
        {"instances": [{"image_bytes": "a"}, {"image_bytes": "a", "x": "a"}]},
        KEYS + " Number 1 is not.",
    ),
    "object, then value": (
        {"instances": [{"image_bytes": "a"}, "a"]},
        KEYS + " Number 1 is not.",
    ),
    "no column": ({"inputs": {"x": []}}, f"'inputs' {KEYS}"),
    "no base64": ({"instances": [{"b64": "?"}]}, BASE64),
    "base64 of no text": ({"instances": [{"b64": 1}]}, BASE64),
    "base64 with company": (
        {"instances": [{"image_bytes": {"b64": "AA==", "x": 1}}]},
        BASE64,
    ),
    "lone surrogate": ('{"instances": ["\\ud800"]}', BASE64),
    "ragged": (inverse(instances=[[1, 2], [1]]), RAGGED),
    "ragged inside": (inverse(inputs=[[1, 2], [1]]), RAGGED),
    "value among lists": (inverse(inputs=[[1, 2], 1]), RAGGED),
    "list among values": (inverse(inputs=[1, [1]]), RAGGED),
    "large integer": (pixels(2**24), LOSSY),
    "large number": (pixels(1e39), LOSSY),
    "wrong shape": (
        {"signature_name": "pixels", "instances": [[1.0, 2.0]]},
        "Input pixels must have shape [?,8,8,1], but [1,2] is provided",
    ),
    "signature that is no UTF-8": (
        b'{"signature_name": "\xff", "instances": ["a"]}',
        'Serving signature name: "?" not found in signature def',
    ),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_bad_body_is_told_in_one_sentence(rest_target, case):
    body, message = BAD_BODIES[case]
    answer = post(rest_target, PREDICT, body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]


@pytest.mark.parametrize("path", ["/v1/models/x", "/v1/models/%78"])
def test_unknown_model_gets_404(rest_target, path):
    answer = post(rest_target, f"{path}:predict", {"instances": ["a"]})
    assert answer.status_code == 404
    assert answer.json()["error"] == (
        "Servable not found for request: Latest(x)"
    )


def test_unknown_label_gets_400(rest_target):
    answer = post(rest_target, f"{MODEL}/labels/x:predict", {"instances": [1]})
    assert answer.status_code == 400
    assert answer.json()["error"] == "Unrecognized servable version label: x"


def test_body_of_fifty_megabytes_is_answered(rest_target):
    b64 = base64.b64encode(bytes(37_500_000)).decode()
    answer = post(rest_target, PREDICT, {"instances": [{"b64": b64}]})
    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["valid"] is False


def test_body_of_fifty_megabytes_of_garbage_is_refused(rest_target):
    answer = post(rest_target, PREDICT, b"x" * 50_000_000)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(NO_JSON)


def test_truncated_image_is_not_valid_and_its_neighbour_is(rest_target):
    half = base64.b64encode(brightness.encode_image(204)[:40]).decode()
    # TF Serving takes base64 without its padding, too.
    body = {"instances": [{"b64": half.rstrip("=")}, BRIGHT]}
    answer = post(rest_target, PREDICT, body).json()["predictions"]
    assert [row["valid"] for row in answer] == [False, True]
