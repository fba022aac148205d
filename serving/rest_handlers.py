"""What the REST API answers: TF Serving's paths and JSON over `inference`.

Paths, methods and messages follow TF Serving's `http_rest_api_util.cc` and
`http_rest_api_handler.cc`. One deliberate difference: where TF Serving refuses
a version number of too many digits with an empty body, this says so.
"""

import json
import re
import urllib.parse
from collections.abc import Callable

from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from serving import (
    example_inference,
    inference,
    json_examples,
    json_responses,
    json_tensors,
    json_text,
    metadata_json,
    served_models,
    status_codes,
)
from trainer.export import versions

_NAME = r"/v1/models/(?P<name>[^/:]+)"
_VERSION = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_PREDICTION = re.compile(
    _NAME + _VERSION + ":(?P<method>classify|regress|predict)", re.IGNORECASE
)
_STATUS = re.compile(
    f"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?P<metadata>/metadata)?",
    re.IGNORECASE,
)


def parse_prediction(method: str, path: str) -> tuple[str, str] | None:
    """Returns the model's name and "predict", "classify" or "regress".

    None if the request is of another kind.
    """
    match = _PREDICTION.fullmatch(path) if method == "POST" else None
    if match is None:
        return None
    return urllib.parse.unquote(match["name"]), match["method"].lower()


def answer(
    models: served_models.ServedModels, method: str, path: str, body: bytes
) -> bytes:
    """Returns the body of a successful answer.

    Args:
        models: what is served.
        method: of HTTP, in capitals.
        path: as it was sent: names are matched before they are decoded.
        body: of the request.

    Raises:
        StatusError: the request cannot be answered.
    """
    if method == "POST" and (match := _PREDICTION.fullmatch(path)):
        handler = _PREDICTION_HANDLERS[match["method"].lower()]
        return handler(models, _model_spec(match), body)
    if method == "GET" and (match := _STATUS.fullmatch(path)):
        spec = _model_spec(match)
        if not spec.name:
            raise status_codes.invalid_argument(
                "Missing model name in request."
            )
        if match["metadata"]:
            return _metadata(models, spec)
        return _status(models, spec)
    raise status_codes.invalid_argument(f"Malformed request: {method} {path}")


def _model_spec(match: re.Match) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=urllib.parse.unquote(match["name"] or ""))
    if match["version"]:
        version = versions.parse_number(match["version"])
        if version is None:
            raise status_codes.invalid_argument(
                f"Failed to convert version: {match['version']} to numeric."
            )
        spec.version.value = version
    if match["label"]:
        spec.version_label = urllib.parse.unquote(match["label"])
    return spec


def _predict(models, spec: model_pb2.ModelSpec, body: bytes) -> bytes:
    document = json_text.parse(body)
    request = predict_pb2.PredictRequest(model_spec=spec)
    name = json_text.signature_name(document)
    request.model_spec.signature_name = name
    model = inference.find_model(models, spec)
    name = name or inference.DEFAULT_SIGNATURE
    if name not in model.signature_defs:
        raise status_codes.invalid_argument(
            f'Serving signature name: "{name}" not found in signature def'
        )
    declared = dict(model.signature_defs[name].inputs)
    if not declared:
        raise status_codes.invalid_argument(
            f"Failed to get input map for signature: {name}"
        )
    request_format = json_tensors.fill_predict_request(
        document, declared, request
    )
    response = inference.predict(models, request)
    return json_responses.predictions(dict(response.outputs), request_format)


def _classify(models, spec: model_pb2.ModelSpec, body: bytes) -> bytes:
    request = classification_pb2.ClassificationRequest(model_spec=spec)
    json_examples.fill_request(json_text.parse(body), request)
    response = example_inference.classify(models, request)
    return json_responses.classifications(response.result)


def _regress(models, spec: model_pb2.ModelSpec, body: bytes) -> bytes:
    request = regression_pb2.RegressionRequest(model_spec=spec)
    json_examples.fill_request(json_text.parse(body), request)
    response = example_inference.regress(models, request)
    return json_responses.regressions(response.result)


_PREDICTION_HANDLERS: dict[str, Callable] = {
    "predict": _predict,
    "classify": _classify,
    "regress": _regress,
}


def _status(models, spec: model_pb2.ModelSpec) -> bytes:
    response = inference.get_model_status(
        models, get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
    )
    return json_format.MessageToJson(
        response,
        always_print_fields_with_no_presence=True,
        preserving_proto_field_name=True,
    ).encode()


def _metadata(models, spec: model_pb2.ModelSpec) -> bytes:
    response = inference.get_model_metadata(
        models,
        get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=[metadata_json.SIGNATURE_DEF]
        ),
    )
    document = metadata_json.to_document(response)
    return json.dumps(document, indent=1).encode()
