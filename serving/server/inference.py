"""Answers TF Serving's requests: protos in, protos out, StatusError if not.

The gRPC and the REST server are thin layers over these functions, which take
and return the protos of the methods that they name, so both protocols give the
same answers. The order of checks and the wording follow
TF Serving (`predict_util.cc`, `get_model_*_impl.cc`, `model_service_impl.cc`).
"""

from google.protobuf import wrappers_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
    status_pb2,
)

from serving import status_codes
from serving.server import saved_models, served_models
from trainer.export import signature

DEFAULT_SIGNATURE = signature.SERVING_DEFAULT
SIGNATURE_DEF = "signature_def"  # the metadata that can be asked for


def find_model(
    models: served_models.ServedModels, spec: model_pb2.ModelSpec
) -> saved_models.LoadedModel:
    """Returns the version that a request's ModelSpec asks for."""
    return models.get(
        spec.name,
        spec.version.value if spec.HasField("version") else None,
        spec.version_label if spec.HasField("version_label") else None,
    )


def predict(models: served_models.ServedModels, request):
    """Answers PredictionService.Predict."""
    model = find_model(models, request.model_spec)
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
    return predict_pb2.PredictResponse(
        model_spec=_answering_spec(request.model_spec.name, model, name),
        outputs=model.run(name, request.inputs, output_names),
    )


def get_model_metadata(models: served_models.ServedModels, request):
    """Answers PredictionService.GetModelMetadata."""
    if not request.HasField("model_spec"):
        raise status_codes.invalid_argument("Missing ModelSpec")
    if not request.metadata_field:
        raise status_codes.invalid_argument(
            "GetModelMetadataRequest must specify at least one metadata_field"
        )
    for field in request.metadata_field:
        if field != SIGNATURE_DEF:
            raise status_codes.invalid_argument(
                f"Metadata field {field} is not supported"
            )
    model = find_model(models, request.model_spec)
    response = get_model_metadata_pb2.GetModelMetadataResponse(
        model_spec=_answering_spec(request.model_spec.name, model, "")
    )
    response.metadata[SIGNATURE_DEF].Pack(
        get_model_metadata_pb2.SignatureDefMap(
            signature_def=model.signature_defs
        )
    )
    return response


def get_model_status(models: served_models.ServedModels, request):
    """Answers ModelService.GetModelStatus."""
    if not request.HasField("model_spec"):
        raise status_codes.invalid_argument("Missing ModelSpec")
    spec = request.model_spec
    version = spec.version.value if spec.HasField("version") else None
    response = get_model_status_pb2.GetModelStatusResponse()
    for number, state in models.states(spec.name, version).items():
        response.model_version_status.add(
            version=number,
            state=state.state,
            status=status_pb2.StatusProto(
                error_code=state.error_code, error_message=state.error_message
            ),
        )
    return response


def reload_config(models: served_models.ServedModels, request):
    """Answers ModelService.HandleReloadConfigRequest."""
    models.reload(request.config)
    return model_management_pb2.ReloadConfigResponse(
        status=status_pb2.StatusProto()
    )


def _answering_spec(
    name: str, model: saved_models.LoadedModel, signature_name: str
) -> model_pb2.ModelSpec:
    return model_pb2.ModelSpec(
        name=name,
        version=wrappers_pb2.Int64Value(value=model.version),
        signature_name=signature_name,
    )


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
    for index, name in enumerate(wanted):
        if name not in declared:
            raise status_codes.invalid_argument(
                f"output tensor alias not found in signature: {name} Outputs "
                f"expected to be in the set {_braces(declared)}."
            )
        if name in wanted[:index]:
            raise status_codes.invalid_argument(
                f"duplicate output tensor alias: {name}"
            )
    return wanted or declared


def _braces(names) -> str:
    """Returns names as TF Serving lists them, `{a,b}`."""
    return "{" + ",".join(sorted(names)) + "}"
