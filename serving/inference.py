"""Answers TF Serving's requests: protos in, protos out, StatusError if not.

The gRPC and the REST server are thin layers over these functions, so both
protocols give the same answers. The order of checks and the wording follow
TF Serving (`predict_util.cc`, `classifier.cc`, `get_model_*_impl.cc`).
"""

from tensorflow.core.example import example_pb2
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    status_pb2,
)

from serving import (
    metadata_json,
    model_versions,
    saved_models,
    status_codes,
)
from trainer.export import signature

DEFAULT_SIGNATURE = signature.SERVING_DEFAULT
# Names that TF Serving's Classify API asks of a signature.
CLASSIFY_INPUTS = "inputs"
CLASSIFY_CLASSES = "classes"
CLASSIFY_SCORES = "scores"


def find_model(
    versions: model_versions.ModelVersions, spec: model_pb2.ModelSpec
) -> saved_models.LoadedModel:
    """Returns the version that a request's ModelSpec asks for."""
    return versions.get(
        spec.name,
        spec.version.value if spec.HasField("version") else None,
        spec.version_label if spec.HasField("version_label") else None,
    )


def predict(
    versions: model_versions.ModelVersions, request: predict_pb2.PredictRequest
) -> predict_pb2.PredictResponse:
    """Answers PredictionService.Predict."""
    model = find_model(versions, request.model_spec)
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    if name not in model.functions:
        raise status_codes.StatusError(
            "FAILED_PRECONDITION", f'Serving signature key "{name}" not found.'
        )
    declared = model.signature_defs[name]
    _check_inputs(set(request.inputs), set(declared.inputs))
    output_names = _select_outputs(
        list(request.output_filter), list(declared.outputs)
    )
    outputs = model.run(name, request.inputs, output_names)
    response = predict_pb2.PredictResponse()
    _fill_model_spec(
        response.model_spec, request.model_spec.name, model.version, name
    )
    for output_name, tensor in outputs.items():
        response.outputs[output_name].CopyFrom(tensor)
    return response


def classify(
    versions: model_versions.ModelVersions,
    request: classification_pb2.ClassificationRequest,
) -> classification_pb2.ClassificationResponse:
    """Answers PredictionService.Classify."""
    model = find_model(versions, request.model_spec)
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    if name not in model.functions:
        raise status_codes.invalid_argument(
            f"No signature was found with the name: {name}"
        )
    output_names = _check_classify_signature(model.signature_defs[name])
    examples = _serialized_examples(request.input)
    if not examples:
        raise status_codes.invalid_argument("Input is empty.")
    inputs = tensor_pb2.TensorProto(
        dtype=types_pb2.DT_STRING, string_val=examples
    )
    inputs.tensor_shape.dim.add(size=len(examples))
    outputs = model.run(name, {CLASSIFY_INPUTS: inputs}, output_names)
    response = classification_pb2.ClassificationResponse()
    _fill_model_spec(
        response.model_spec, request.model_spec.name, model.version, name
    )
    _fill_classifications(outputs, len(examples), response.result)
    return response


def get_model_metadata(
    versions: model_versions.ModelVersions,
    request: get_model_metadata_pb2.GetModelMetadataRequest,
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Answers PredictionService.GetModelMetadata."""
    if not request.HasField("model_spec"):
        raise status_codes.invalid_argument("Missing ModelSpec")
    if not request.metadata_field:
        raise status_codes.invalid_argument(
            "GetModelMetadataRequest must specify at least one metadata_field"
        )
    for field in request.metadata_field:
        if field != metadata_json.SIGNATURE_DEF:
            raise status_codes.invalid_argument(
                f"Metadata field {field} is not supported"
            )
    model = find_model(versions, request.model_spec)
    signature_map = get_model_metadata_pb2.SignatureDefMap()
    for name, declared in model.signature_defs.items():
        signature_map.signature_def[name].CopyFrom(declared)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    _fill_model_spec(
        response.model_spec, request.model_spec.name, model.version, ""
    )
    response.metadata[metadata_json.SIGNATURE_DEF].Pack(signature_map)
    return response


def get_model_status(
    versions: model_versions.ModelVersions,
    request: get_model_status_pb2.GetModelStatusRequest,
) -> get_model_status_pb2.GetModelStatusResponse:
    """Answers ModelService.GetModelStatus."""
    if not request.HasField("model_spec"):
        raise status_codes.invalid_argument("Missing ModelSpec")
    spec = request.model_spec
    version = spec.version.value if spec.HasField("version") else None
    response = get_model_status_pb2.GetModelStatusResponse()
    for number, state in versions.states(spec.name, version).items():
        response.model_version_status.add(
            version=number,
            state=state.state,
            status=status_pb2.StatusProto(
                error_code=state.error_code,
                error_message=state.error_message,
            ),
        )
    return response


def _fill_model_spec(
    spec: model_pb2.ModelSpec, name: str, version: int, signature_name: str
) -> None:
    spec.name = name
    spec.version.value = version
    spec.signature_name = signature_name


def _check_inputs(sent: set[str], declared: set[str]) -> None:
    if sent == declared:
        return
    if len(sent) != len(declared):
        raise status_codes.invalid_argument(
            f"input size does not match signature: {len(sent)}!="
            f"{len(declared)} len({_braces(sent)}) != "
            f"len({_braces(declared)}). Sent extra: "
            f"{_braces(sent - declared)}. Missing but required: "
            f"{_braces(declared - sent)}."
        )
    raise status_codes.invalid_argument(
        f"Signature input alias: {min(declared - sent)} not found in request "
        "and no default value provided. Inputs expected to be in the request "
        f"{_braces(sent)}"
    )


def _select_outputs(wanted: list[str], declared: list[str]) -> list[str]:
    seen = set()
    for name in wanted:
        if name not in declared:
            raise status_codes.invalid_argument(
                f"output tensor alias not found in signature: {name} Outputs "
                f"expected to be in the set {_braces(declared)}."
            )
        if name in seen:
            raise status_codes.invalid_argument(
                f"duplicate output tensor alias: {name}"
            )
        seen.add(name)
    return wanted or declared


def _braces(names) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _check_classify_signature(declared) -> list[str]:
    if len(declared.inputs) != 1:
        raise status_codes.invalid_argument("Expected one input Tensor.")
    if len(declared.outputs) not in (1, 2):
        raise status_codes.invalid_argument(
            f"Expected one or two output Tensors, found {len(declared.outputs)}"
        )
    if CLASSIFY_INPUTS not in declared.inputs:
        raise status_codes.StatusError(
            "FAILED_PRECONDITION",
            "No classification inputs found in SignatureDef: "
            f"{_braces(declared.inputs)}",
        )
    names = [
        name
        for name in (CLASSIFY_CLASSES, CLASSIFY_SCORES)
        if name in declared.outputs
    ]
    if not names:
        raise status_codes.StatusError(
            "FAILED_PRECONDITION",
            "Expected classification signature outputs to contain at least "
            f'one of "{CLASSIFY_CLASSES}" or "{CLASSIFY_SCORES}". Signature '
            f"was: {_braces(declared.outputs)}",
        )
    return names


def _serialized_examples(request_input) -> list[bytes]:
    if request_input.WhichOneof("kind") == "example_list_with_context":
        with_context = request_input.example_list_with_context
        examples = []
        for example in with_context.examples:
            # Of a feature in both, the example's own value counts.
            merged = example_pb2.Example()
            merged.CopyFrom(with_context.context)
            merged.MergeFrom(example)
            examples.append(merged.SerializeToString())
        return examples
    return [
        example.SerializeToString()
        for example in request_input.example_list.examples
    ]


def _fill_classifications(outputs, num_examples: int, result) -> None:
    for name, proto in outputs.items():
        sizes = [dim.size for dim in proto.tensor_shape.dim]
        if len(sizes) != 2:
            raise status_codes.invalid_argument(
                "Expected Tensor shape: [batch_size num_classes] but got "
                f"{sizes}"
            )
        if sizes[0] != num_examples:
            raise status_codes.invalid_argument(
                f"Expected {name} output batch size of {num_examples}. Got: "
                f"{sizes[0]}"
            )
    classes = outputs.get(CLASSIFY_CLASSES)
    scores = outputs.get(CLASSIFY_SCORES)
    num_classes = (classes or scores).tensor_shape.dim[1].size
    for row in range(num_examples):
        classifications = result.classifications.add()
        for column in range(num_classes):
            index = row * num_classes + column
            entry = classifications.classes.add()
            if classes is not None:
                entry.label = classes.string_val[index].decode("utf-8")
            if scores is not None:
                entry.score = scores.float_val[index]
