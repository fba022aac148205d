"""TF Serving's JSON for Classify and Regress: objects to tf.Example."""

from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving import status_codes
from serving.server import json_text

_KIND_NAMES = {
    "bytes_list": "bytes",
    "float_list": "float",
    "int64_list": "int64",
}


def fill_request(
    document: dict,
    request: classification_pb2.ClassificationRequest
    | regression_pb2.RegressionRequest,
) -> None:
    """Fills a request from a JSON object with `examples` and `context`."""
    request.model_spec.signature_name = json_text.signature_name(document)
    examples = document.get("examples")
    if "examples" not in document:
        # TF Serving says "classify" for both.
        raise _document_error(
            document,
            "When method is classify, key 'examples' is expected and was not "
            "found",
        )
    if not isinstance(examples, list):
        raise _document_error(
            document, "Expecting 'examples' value to be an list/array"
        )
    if not examples:
        raise _document_error(document, "'examples' value is an empty array")
    target = request.input.example_list
    if "context" in document:
        target = request.input.example_list_with_context
        _fill_example(document["context"], target.context)
    for example in examples:
        _fill_example(example, target.examples.add())


def _document_error(document: dict, problem: str) -> status_codes.StatusError:
    return status_codes.invalid_argument(
        f"JSON Value: {json_text.quote(document)} {problem}"
    )


def _fill_example(value, example: example_pb2.Example) -> None:
    if not isinstance(value, dict):
        raise status_codes.invalid_argument(
            "Example must be JSON object but got JSON "
            f"{json_text.type_name(value)}"
        )
    for key, content in value.items():
        name = json_text.to_name(key)
        feature = example.features.feature[name]
        for item in content if isinstance(content, list) else [content]:
            _add_to_feature(item, name, feature)


def _add_to_feature(value, name: str, feature: feature_pb2.Feature) -> None:
    if isinstance(value, (bool, int)):
        if not -(2**63) <= value < 2**63:
            raise status_codes.invalid_argument(
                f"Feature: {name} has uint64 element. Only int64 is supported."
            )
        _check_kind(feature, "int64_list", name)
        feature.int64_list.value.append(int(value))
    elif isinstance(value, float):
        _check_kind(feature, "float_list", name)
        feature.float_list.value.append(value)
    elif isinstance(value, str):
        _check_kind(feature, "bytes_list", name)
        feature.bytes_list.value.append(json_text.to_bytes(value))
    elif json_text.is_base64_object(value):
        _check_kind(feature, "bytes_list", name)
        feature.bytes_list.value.append(json_text.decode_base64(value))
    else:
        raise status_codes.invalid_argument(
            f"Feature: {name} has element with unexpected JSON type: "
            f"{json_text.type_name(value)}"
        )


def _check_kind(feature: feature_pb2.Feature, kind: str, name: str) -> None:
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        raise status_codes.invalid_argument(
            f"Unexpected element type in feature: {name} expecting type: "
            f"{_KIND_NAMES[present]}"
        )
