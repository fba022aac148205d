"""Answers the requests that carry tf.Example: Classify, Regress, both at once.

The order of checks and the wording follow TF Serving (`classifier.cc`,
`regressor.cc`, `multi_inference.cc`, `util.cc`), which by default asks nothing
of a signature's method name but of the names of its inputs and outputs.
"""

from collections.abc import Mapping

from tensorflow.core.example import example_pb2
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    regression_pb2,
)

from serving import status_codes
from serving.server import inference, saved_models, served_models

INPUTS = "inputs"
CLASSES = "classes"
SCORES = "scores"
REGRESSIONS = "outputs"
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"


def classify(
    models: served_models.ServedModels,
    request: classification_pb2.ClassificationRequest,
) -> classification_pb2.ClassificationResponse:
    """Answers PredictionService.Classify."""
    model = inference.find_model(models, request.model_spec)
    name = request.model_spec.signature_name or inference.DEFAULT_SIGNATURE
    output_names = _check_classify_signature(_find_signature(model, name))
    response = classification_pb2.ClassificationResponse()
    examples = _serialized_examples(request.input)
    outputs = _run(model, name, examples, output_names)
    _fill_classifications(outputs, len(examples), response.result)
    inference.fill_model_spec(
        response.model_spec, request.model_spec.name, model.version, name
    )
    return response


def regress(
    models: served_models.ServedModels,
    request: regression_pb2.RegressionRequest,
) -> regression_pb2.RegressionResponse:
    """Answers PredictionService.Regress."""
    model = inference.find_model(models, request.model_spec)
    name = request.model_spec.signature_name or inference.DEFAULT_SIGNATURE
    output_names = _check_regress_signature(_find_signature(model, name))
    response = regression_pb2.RegressionResponse()
    examples = _serialized_examples(request.input)
    outputs = _run(model, name, examples, output_names)
    _fill_regressions(outputs, len(examples), response.result)
    inference.fill_model_spec(
        response.model_spec, request.model_spec.name, model.version, name
    )
    return response


def multi_inference(
    models: served_models.ServedModels,
    request: inference_pb2.MultiInferenceRequest,
) -> inference_pb2.MultiInferenceResponse:
    """Answers PredictionService.MultiInference.

    TF Serving computes all tasks in one run of the graph, so their signatures
    must share an input tensor. Those of a TensorFlow 2 SavedModel never do:
    what works is one signature for each request.
    """
    spec = model_pb2.ModelSpec()
    if request.tasks:
        spec = request.tasks[0].model_spec
    model = inference.find_model(models, spec)
    outputs_of_task = _check_tasks(model, request.tasks)
    examples = _serialized_examples(request.input)
    response = inference_pb2.MultiInferenceResponse()
    for task, output_names in zip(request.tasks, outputs_of_task, strict=True):
        name = task.model_spec.signature_name or inference.DEFAULT_SIGNATURE
        outputs = _run(model, name, examples, output_names)
        result = response.results.add()
        if task.method_name == CLASSIFY_METHOD:
            _fill_classifications(
                outputs, len(examples), result.classification_result
            )
        else:
            _fill_regressions(outputs, len(examples), result.regression_result)
        inference.fill_model_spec(
            result.model_spec, task.model_spec.name, model.version, name
        )
    return response


def _check_tasks(model: saved_models.LoadedModel, tasks) -> list[list[str]]:
    """Returns the outputs that each task needs."""
    model_name, tensor_name = "", ""
    signature_names, outputs_of_task = set(), []
    for task in tasks:
        if not task.model_spec.name:
            raise status_codes.invalid_argument(
                "Found ModelSpec with an empty model name."
            )
        model_name = model_name or task.model_spec.name
        if model_name != task.model_spec.name:
            raise status_codes.invalid_argument(
                "All ModelSpecs in a MultiInferenceRequest must access the "
                "same model name."
            )
        name = task.model_spec.signature_name or inference.DEFAULT_SIGNATURE
        if name in signature_names:
            raise status_codes.invalid_argument(
                f"Duplicate evaluation of signature: {name}"
            )
        signature_names.add(name)
        if name not in model.functions:
            raise status_codes.invalid_argument(
                f"Requested signature not found in model graph: {name}"
            )
        declared = model.signature_defs[name]
        outputs_of_task.append(_check_task(task.method_name, declared))
        tensor_name = tensor_name or declared.inputs[INPUTS].name
        if tensor_name != declared.inputs[INPUTS].name:
            raise status_codes.invalid_argument(
                "Input tensor must be the same for all Signatures."
            )
    return outputs_of_task


def _check_task(method_name: str, declared) -> list[str]:
    if method_name == CLASSIFY_METHOD:
        return _check_classify_signature(declared)
    if method_name == REGRESS_METHOD:
        return _check_regress_signature(declared)
    raise status_codes.StatusError(
        "UNIMPLEMENTED", f"Unsupported signature method_name: {method_name}"
    )


def _find_signature(model: saved_models.LoadedModel, name: str):
    if name not in model.functions:
        raise status_codes.invalid_argument(
            f"No signature was found with the name: {name}"
        )
    return model.signature_defs[name]


def _check_classify_signature(declared) -> list[str]:
    """Returns the outputs to compute."""
    if len(declared.inputs) != 1:
        raise status_codes.invalid_argument("Expected one input Tensor.")
    if len(declared.outputs) not in (1, 2):
        raise status_codes.invalid_argument(
            f"Expected one or two output Tensors, found {len(declared.outputs)}"
        )
    if INPUTS not in declared.inputs:
        raise _missing("No classification inputs found in", declared.inputs)
    names = [name for name in (CLASSES, SCORES) if name in declared.outputs]
    if not names:
        raise status_codes.StatusError(
            "FAILED_PRECONDITION",
            "Expected classification signature outputs to contain at least "
            f'one of "{CLASSES}" or "{SCORES}". Signature was: '
            f"{inference.braces(declared.outputs)}",
        )
    return names


def _check_regress_signature(declared) -> list[str]:
    """Returns the outputs to compute."""
    if len(declared.inputs) != 1:
        raise status_codes.invalid_argument("Expected one input Tensor.")
    if len(declared.outputs) != 1:
        raise status_codes.invalid_argument("Expected one output Tensor.")
    if INPUTS not in declared.inputs:
        raise _missing("No regression inputs found in", declared.inputs)
    if REGRESSIONS not in declared.outputs:
        raise _missing("No regression outputs found in", declared.outputs)
    return [REGRESSIONS]


def _missing(problem: str, names) -> status_codes.StatusError:
    return status_codes.StatusError(
        "FAILED_PRECONDITION",
        f"{problem} SignatureDef: {inference.braces(names)}",
    )


def _serialized_examples(request_input: input_pb2.Input) -> list[bytes]:
    if request_input.WhichOneof("kind") == "example_list_with_context":
        with_context = request_input.example_list_with_context
        examples = []
        for example in with_context.examples:
            # Of a feature in both, the example's own value counts.
            merged = example_pb2.Example()
            merged.CopyFrom(with_context.context)
            merged.MergeFrom(example)
            examples.append(merged.SerializeToString())
    else:
        examples = [
            example.SerializeToString()
            for example in request_input.example_list.examples
        ]
    if not examples:
        raise status_codes.invalid_argument("Input is empty.")
    return examples


def _run(
    model: saved_models.LoadedModel,
    signature_name: str,
    examples: list[bytes],
    output_names: list[str],
) -> dict[str, tensor_pb2.TensorProto]:
    inputs = tensor_pb2.TensorProto(
        dtype=types_pb2.DT_STRING, string_val=examples
    )
    inputs.tensor_shape.dim.add(size=len(examples))
    return model.run(signature_name, {INPUTS: inputs}, output_names)


def _fill_classifications(
    outputs: Mapping[str, tensor_pb2.TensorProto], num_examples: int, result
) -> None:
    for name, dtype in ((CLASSES, "DT_STRING"), (SCORES, "DT_FLOAT")):
        if name in outputs:
            _check_class_tensor(name, outputs[name], dtype, num_examples)
    classes, scores = outputs.get(CLASSES), outputs.get(SCORES)
    num_classes = (classes or scores).tensor_shape.dim[1].size
    if classes and scores and scores.tensor_shape.dim[1].size != num_classes:
        raise status_codes.invalid_argument(
            "Tensors class and score should match in dim_size(1). Got "
            f"{num_classes} vs. {scores.tensor_shape.dim[1].size}"
        )
    for row in range(num_examples):
        classifications = result.classifications.add()
        for column in range(num_classes):
            index = row * num_classes + column
            entry = classifications.classes.add()
            if classes is not None:
                label = classes.string_val[index]
                entry.label = label.decode("utf-8", "replace")
            if scores is not None:
                entry.score = scores.float_val[index]


def _check_class_tensor(
    name: str, tensor: tensor_pb2.TensorProto, dtype: str, num_examples: int
) -> None:
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    if len(sizes) != 2:
        raise status_codes.invalid_argument(
            f"Expected Tensor shape: [batch_size num_classes] but got {sizes}"
        )
    _check_dtype(f"{name} Tensor", tensor, dtype)
    if sizes[0] != num_examples:
        raise status_codes.invalid_argument(
            f"Expected {name} output batch size of {num_examples}. Got: "
            f"{sizes[0]}"
        )


def _fill_regressions(
    outputs: Mapping[str, tensor_pb2.TensorProto], num_examples: int, result
) -> None:
    tensor = outputs[REGRESSIONS]
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    if len(sizes) != 1 and not (len(sizes) == 2 and sizes[1] == 1):
        raise status_codes.invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or "
            f"[batch_size, 1] but got [{','.join(map(str, sizes))}]"
        )
    if sizes[0] != num_examples:
        raise status_codes.invalid_argument(
            "Input batch size did not match output batch size: "
            f"{num_examples} vs. {sizes[0]}"
        )
    _check_dtype("output Tensor", tensor, "DT_FLOAT")
    for value in tensor.float_val:
        result.regressions.add(value=value)


def _check_dtype(
    what: str, tensor: tensor_pb2.TensorProto, expected: str
) -> None:
    received = types_pb2.DataType.Name(tensor.dtype)
    if received != expected:
        raise status_codes.invalid_argument(
            f"Expected {what} of {expected}. Got: {received}"
        )
