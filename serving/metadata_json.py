"""The metadata document of TF Serving's REST API, from the gRPC answer."""

from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2

SIGNATURE_DEF = "signature_def"


def to_document(
    response: get_model_metadata_pb2.GetModelMetadataResponse,
) -> dict:
    """Returns `{"model_spec": …, "metadata": {"signature_def": …}}`."""
    signature_map = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[SIGNATURE_DEF].Unpack(signature_map)
    # Part by part: the Any in the whole message would add an "@type".
    model_spec, signature_def = (
        json_format.MessageToDict(
            message,
            always_print_fields_with_no_presence=True,
            preserving_proto_field_name=True,
        )
        for message in (response.model_spec, signature_map)
    )
    return {
        "model_spec": model_spec,
        "metadata": {SIGNATURE_DEF: signature_def},
    }
