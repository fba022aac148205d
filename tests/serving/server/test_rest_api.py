"""TF Serving's REST routes, formats, codes and messages."""

import base64
import gzip
import json

import pytest
import requests

from tests.serving import conftest

MODEL = f"/v1/models/{conftest.MODEL_NAME}"
PREDICT = f"{MODEL}:predict"
BRIGHT = {"b64": base64.b64encode(conftest.encode_image(204)).decode()}


def post(target, path, body):
    if not isinstance(body, (str, bytes)):
        body = json.dumps(body)
    return requests.post(target + path, data=body, timeout=10)


def test_row_format_gives_an_object_for_each_instance(rest_target):
    body = {"instances": [{"image_bytes": BRIGHT}, {"image_bytes": BRIGHT}]}
    answer = post(rest_target, PREDICT, body)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "predictions": [
            {
                "probabilities": [0.199999988, 0.8],
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
    assert answer["outputs"]["probabilities"] == [[0.199999988, 0.8]]


def test_bare_instances_and_versioned_url_are_understood(rest_target):
    path = f"{MODEL.upper().replace('BRIGHTNESS', 'brightness')}"
    answer = post(
        rest_target, f"{path}/versions/1:Predict", {"instances": [BRIGHT]}
    )
    assert answer.json()["predictions"][0]["label"] == "bright"


def test_text_after_the_first_object_is_ignored(rest_target):
    body = json.dumps({"instances": [BRIGHT]}) + "}{ garbage"
    assert post(rest_target, PREDICT, body).status_code == 200


def test_gzipped_body_is_understood(rest_target):
    body = gzip.compress(json.dumps({"instances": [BRIGHT]}).encode())
    answer = requests.post(
        rest_target + PREDICT,
        data=body,
        headers={"Content-Encoding": "gzip"},
        timeout=10,
    )
    assert answer.status_code == 200


def test_one_output_is_not_named_and_infinity_is_a_bare_token(rest_target):
    body = {"signature_name": "inverse", "instances": [[1, 0], [-0.0, 3]]}
    answer = post(rest_target, PREDICT, body)
    # As RapidJSON's pretty writer lays it out.
    assert answer.text == (
        '{\n    "predictions": [[1.0, Infinity], '
        "[-Infinity, 0.33333333333333331]\n    ]\n}"
    )


def test_nan_is_understood_and_answered(rest_target):
    body = '{"signature_name": "inverse", "inputs": [[NaN, Infinity]]}'
    answer = post(rest_target, PREDICT, body)
    assert answer.text == '{\n    "outputs": [[NaN, 0.0]]\n}'


def test_pixels_signature_takes_nested_lists(rest_target):
    pixels = [[[51.0]] * 8] * 8
    body = {"signature_name": "pixels", "instances": [{"pixels": pixels}]}
    answer = post(rest_target, PREDICT, body).json()
    assert answer["predictions"][0]["score"] == pytest.approx(0.2)


def test_classify_gives_labels_and_scores(rest_target):
    body = {
        "signature_name": "classify",
        "examples": [{"image_bytes": BRIGHT}, {"image_bytes": [BRIGHT]}],
    }
    answer = post(rest_target, f"{MODEL}:classify", body).json()
    expected = [["dark", 0.199999988], ["bright", 0.8]]
    assert answer == {"results": [expected] * 2}


def test_context_feature_is_added_to_each_example(rest_target):
    body = {
        "signature_name": "classify",
        "context": {"image_bytes": BRIGHT},
        "examples": [{}, {"unused": [1, 2]}],
    }
    answer = post(rest_target, f"{MODEL}:classify", body).json()
    assert [row[1][1] for row in answer["results"]] == [0.8, 0.8]


def test_regress_gives_numbers(rest_target):
    body = {"signature_name": "regress", "examples": [{"image_bytes": BRIGHT}]}
    answer = post(rest_target, f"{MODEL}:regress", body)
    assert answer.text == '{\n    "results": [0.8]\n}'


def test_regress_asks_for_its_signature(rest_target):
    body = {"signature_name": "classify", "examples": [{"image_bytes": BRIGHT}]}
    answer = post(rest_target, f"{MODEL}:regress", body)
    assert answer.status_code == 400
    assert answer.json()["error"] == "Expected one output Tensor."


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
    assert answer["model_spec"] == {
        "name": conftest.MODEL_NAME,
        "signature_name": "",
        "version": "1",
    }
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    declared = signatures["serving_default"]["inputs"]["image_bytes"]
    assert declared["dtype"] == "DT_STRING"
    assert declared["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}],
        "unknown_rank": False,
    }


BAD_PATHS = [
    ("GET", "/v1/models", 400, "Missing model name in request."),
    ("GET", "/v1/foo", 400, "Malformed request: GET /v1/foo"),
    ("GET", PREDICT, 400, f"Malformed request: GET {PREDICT}"),
    ("POST", MODEL, 400, f"Malformed request: POST {MODEL}"),
    ("DELETE", MODEL, 400, f"Malformed request: DELETE {MODEL}"),
    ("GET", f"{MODEL}/versions/x", 400, "Malformed request: GET "),
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
    (
        "GET",
        f"{MODEL}:regress",
        400,
        f"Malformed request: GET {MODEL}:regress",
    ),
]


@pytest.mark.parametrize(("method", "path", "status", "message"), BAD_PATHS)
def test_bad_path_gets_tf_serving_s_answer(
    rest_target, method, path, status, message
):
    answer = requests.request(method, rest_target + path, timeout=10)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert message in answer.json()["error"]


def test_path_outside_the_api_gets_a_page(rest_target):
    answer = requests.get(f"{rest_target}/favicon.ico", timeout=10)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")


ELEMENT = "Failed to process element: 0"
BAD_BODIES = {
    "empty": ("", "JSON Parse error: The document is empty"),
    "blank": (" \n", "JSON Parse error: The document is empty. at offset: 2"),
    "text": ("abc", "JSON Parse error: Invalid value. at offset: 0"),
    "bytes": (b"\xff\xfe", "JSON Parse error: Invalid value. at offset: 0"),
    "trailing comma": (
        '{"a": 1,}',
        "JSON Parse error: Missing a name for object member. at offset: 8",
    ),
    "no colon": ('{"a" 1}', "Missing a colon after a name of object member."),
    "no comma in list": (
        '{"a": [1 2]}',
        "Missing a comma or ] after an array element.",
    ),
    "no comma in object": (
        '{"a": [1], "b": "[" "c": 2}',
        "Missing a comma or } after an object member.",
    ),
    "open string": ('{"a', "Missing a closing quotation mark in string."),
    "deep": ("[" * 100_000, "JSON Parse error: "),
    "huge integer": ('{"a": 1' + "0" * 5000 + "}", "Number too big"),
    "no object": ("[1]", "JSON Value: [\n    1\n] Is not object"),
    "no inputs": ("{}", "Missing 'inputs' or 'instances' key"),
    "both": (
        {"inputs": [], "instances": []},
        "Not formatted correctly expecting only one of 'inputs' or "
        "'instances' keys to exist ",
    ),
    "instances no list": (
        {"instances": "a"},
        "Excepting 'instances' to be an list/array",
    ),
    "no instances": ({"instances": []}, "No values in 'instances' array"),
    "signature no text": (
        {"signature_name": 1, "instances": ["a"]},
        "'signature_name' key must be a string value.",
    ),
    "unknown signature": (
        {"signature_name": "x", "instances": ["a"]},
        'Serving signature name: "x" not found in signature def',
    ),
    "wrong type": (
        {"instances": [1]},
        f"{ELEMENT} of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: "
        "1 Type: Number is not of expected type: string",
    ),
    "wrong name": (
        {"instances": [{"x": "a"}]},
        f"{ELEMENT} key: x of 'instances' list. Error: INVALID_ARGUMENT: JSON "
        "object: does not have named input: x",
    ),
    "missing name": ({"instances": [{}]}, "keys must be equal to: image_bytes"),
    "mixed": (
        {"instances": ["a", {"image_bytes": "a"}]},
        "Expecting value/list but got object at item 1 of input list",
    ),
    "mixed the other way": (
        {"instances": [{"image_bytes": "a"}, "a"]},
        "Expecting object but got list at item 1 of input list",
    ),
    "no base64": (
        {"instances": [{"b64": "?"}]},
        f"{ELEMENT} of 'instances' list. Error: INVALID_ARGUMENT: Unable to "
        "base64 decode",
    ),
    "base64 with company": (
        {"instances": [{"image_bytes": {"b64": "AA==", "x": 1}}]},
        "not formatted correctly for base64 data",
    ),
    "ragged": (
        {"signature_name": "inverse", "instances": [[1, 2], [1]]},
        "Failed to process element: 1 of 'instances' list. Error: "
        "INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1",
    ),
    "ragged inside": (
        {"signature_name": "inverse", "inputs": [[1, 2], [1]]},
        "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
    ),
    "value among lists": (
        {"signature_name": "inverse", "inputs": [[1, 2], 1]},
        "JSON Value: 1 found at incorrect level: 2 in the JSON DOM. Expected "
        "at level: 2",
    ),
    "list among values": (
        {"signature_name": "inverse", "inputs": [1, [1]]},
        "Encountered list at unexpected level: 1 expected < 1",
    ),
    "lossy number": (
        {"signature_name": "pixels", "instances": [[[[2**24]]]]},
        "Cannot convert JSON value: 16777216 to float without loss of "
        "precision.",
    ),
    "wrong shape": (
        {"signature_name": "pixels", "instances": [[1.0, 2.0]]},
        "Input pixels must have shape [?,8,8,1], but [1,2] is provided",
    ),
    "signature that is no UTF-8": (
        b'{"signature_name": "\xff", "instances": ["a"]}',
        'Serving signature name: "?" not found in signature def',
    ),
    "lone surrogate": ('{"instances": ["\\ud800"]}', "surrogate pair"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_bad_body_gets_tf_serving_s_message(rest_target, case):
    body, message = BAD_BODIES[case]
    answer = post(rest_target, PREDICT, body)
    assert message in answer.json()["error"]
    assert answer.status_code == 400


BAD_EXAMPLES = {
    "no examples": ({}, "key 'examples' is expected and was not found"),
    "no list": ({"examples": 1}, "value to be an list/array"),
    "empty": ({"examples": []}, "'examples' value is an empty array"),
    "no object": ({"examples": [1]}, "must be JSON object but got JSON Number"),
    "two types": (
        {"examples": [{"a": [1, 1.5]}]},
        "Unexpected element type in feature: a expecting type: int64",
    ),
    "null": ({"examples": [{"a": None}]}, "unexpected JSON type: Null"),
    "no classify signature": (
        {"signature_name": "serving_default", "examples": [{}]},
        "Expected one or two output Tensors, found 8",
    ),
    "unknown signature": (
        {"signature_name": "x", "examples": [{}]},
        "No signature was found with the name: x",
    ),
    "missing feature": (
        {"examples": [{"x": 1}]},
        "Feature: image_bytes (data type: string) is required",
    ),
}


@pytest.mark.parametrize("case", BAD_EXAMPLES)
def test_bad_example_gets_tf_serving_s_message(rest_target, case):
    body, message = BAD_EXAMPLES[case]
    body = {"signature_name": "classify", **body}
    answer = post(rest_target, f"{MODEL}:classify", body)
    assert message in answer.json()["error"]
    assert answer.status_code == 400


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
    assert answer.json()["error"] == (
        "JSON Parse error: Invalid value. at offset: 0"
    )


def test_truncated_image_is_not_valid_and_its_neighbour_is(rest_target):
    half = base64.b64encode(conftest.encode_image(204)[:40]).decode()
    body = {"instances": [{"b64": half}, BRIGHT]}
    answer = post(rest_target, PREDICT, body).json()["predictions"]
    assert [row["valid"] for row in answer] == [False, True]
