"""What the REST API answers: TF Serving's paths and JSON over `inference`.

Paths, methods and messages follow TF Serving's `http_rest_api_util.cc` and
`http_rest_api_handler.cc`. One deliberate difference: where TF Serving refuses
a version number of too many digits with an empty body, this says so.
"""

import json
import re
import urllib.parse

from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from serving import status_codes
from serving.server import (
    inference,
    json_requests,
    json_responses,
    served_models,
)
from trainer.export import versions

_NAME = r"/v1/models/(?P<name>[^/:]+)"
_VERSION = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_PREDICT = re.compile(f"{_NAME}{_VERSION}:predict", re.IGNORECASE)
_STATUS = re.compile(
    f"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?P<metadata>/metadata)?",
    re.IGNORECASE,
)


def predicted_model(method: str, path: str) -> str | None:
    """Returns the model that a predict request names, None of another one."""
    match = _PREDICT.fullmatch(path) if method == "POST" else None
    return urllib.parse.unquote(match["name"]) if match else None


def answer(
    models: served_models.ServedModels,
    max_request_bytes: int,
    method: str,
    path: str,
    body: bytes | bytearray,
) -> bytes:
    """Returns the body of a successful answer.

    The path is as it was sent: names are matched before they are decoded. What
    a body becomes is limited by `max_request_bytes`, see `limits`.

    Raises:
        StatusError: the request cannot be answered.
    """
    if method == "POST" and (match := _PREDICT.fullmatch(path)):
        document = json_requests.parse(body, max_request_bytes)
        return _predict(models, _model_spec(match), document)
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


def _predict(models, spec: model_pb2.ModelSpec, document: dict) -> bytes:
    request = predict_pb2.PredictRequest(model_spec=spec)
    name = json_requests.signature_name(document)
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
    form = json_requests.fill_predict_request(document, declared, request)
    response = inference.predict(models, request)
    return json_responses.predictions(dict(response.outputs), form)


def _status(models, spec: model_pb2.ModelSpec) -> bytes:
    request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
    response = inference.get_model_status(models, request)
    return json.dumps(_to_dict(response), indent=1).encode()


def _metadata(models, spec: model_pb2.ModelSpec) -> bytes:
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec=spec, metadata_field=[inference.SIGNATURE_DEF]
    )
    document = _to_dict(inference.get_model_metadata(models, request))
    del document["metadata"][inference.SIGNATURE_DEF]["@type"]
    return json.dumps(document, indent=1).encode()


def _to_dict(message) -> dict:
    return json_format.MessageToDict(
        message,
        always_print_fields_with_no_presence=True,
        preserving_proto_field_name=True,
    )
