"""What a version must stand before it is published.

It is loaded into a session of TensorFlow's C++ runtime and asked there, as TF
Serving does; no Python function of the SavedModel is made. Each check
returns a sentence on what it saw, or raises `CheckError`.
"""

import functools
import itertools
import os
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from trainer.data import preprocessing
from trainer.export import (
    evaluated_images,
    loaded_version,
    oldest_tensorflow,
    runtime_files,
    signature,
    versions,
    warmup,
)
from trainer.export.loaded_version import LoadedVersion
from trainer.storage import paths

# Between what evaluation computed and what the version answers.
TOLERANCE = 1e-5
_BATCH_SIZES = (1, 3, 32)
_FEW = 9  # images that are asked of in small batches
_NUM_TIMED = 20
_BROKEN = (b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0")


class CheckError(Exception):
    """A check failed; the message says what was seen."""


def run_checks(
    version_dir: str,
    data_dir: str,
    predictions_path: str,
    *,
    max_latency_ms: float,
    max_megabytes: float,
) -> list[dict]:
    """Tries a version.

    Args:
        version_dir: of the version, local.
        data_dir: the records that it was evaluated on.
        predictions_path: `predictions.csv` of that evaluation.
        max_latency_ms: of the median call with one image.
        max_megabytes: of all files, for each model whose mean is served.

    Returns:
        Per check its `name`, whether it `passed`, and `detail`.

    Raises:
        FileNotFoundError: if there is no such version, data or file.
        ValueError: if the records are not those that the version was made of,
            or see `versions.list_plain_files`.
    """
    versions.list_plain_files(version_dir)
    info = evaluated_images.read_info(version_dir)
    evaluated = evaluated_images.read_evaluated(
        data_dir, predictions_path, info, _evaluated_splits(version_dir)
    )
    checks = [
        _run("manifest", lambda: _check_manifest(version_dir)),
        _run("size", lambda: _check_size(version_dir, max_megabytes)),
    ]
    try:
        version = loaded_version.load(version_dir, info)
    # On a damaged SavedModel TensorFlow raises a dozen kinds of errors, and
    # whichever it is, the version must not be published.
    except Exception as error:
        checks.append(_failed("load", error))
        return checks
    trials = {
        "load": lambda: f"The version loads in {version.load_s:.1f} s.",
        "TensorFlow": lambda: oldest_tensorflow.describe(version.meta_graph),
        "signatures": lambda: _check_signatures(version),
        "warm-up": lambda: _check_warmup(version),
        "predictions": lambda: _check_predictions(version, evaluated),
        "bad input": lambda: _check_bad_input(version, evaluated.images[0]),
        "latency": lambda: _check_latency(
            version, evaluated.images[0], max_latency_ms
        ),
    }
    present = paths.list_files(version_dir)
    for runtime, path in signature.RUNTIME_FILES.items():
        if path in present:
            trials[runtime] = functools.partial(
                _check_runtime, runtime, version, evaluated
            )
    return checks + [_run(name, check) for name, check in trials.items()]


def _evaluated_splits(version_dir: str) -> tuple[str, ...]:
    """Splits whose predictions are the version's own.

    Those of validation are of single folds where it is the mean of several.
    """
    try:
        members = versions.read_manifest(version_dir).get("members", 1)
    except ValueError:  # which is a check of its own
        members = 1
    return ("test",) if members > 1 else ("validation", "test")


def _run(name: str, check: Callable[[], str]) -> dict:
    try:
        return {"name": name, "passed": True, "detail": check()}
    # See `run_checks`: what a broken graph raises cannot be listed.
    except Exception as error:
        return _failed(name, error)


def _failed(name: str, error: Exception) -> dict:
    detail = " ".join(str(error).split())[:300]
    if not isinstance(error, CheckError):
        detail = f"{type(error).__name__}: {detail}"
    return {"name": name, "passed": False, "detail": detail}


def _check_manifest(version_dir: str) -> str:
    changed = versions.changed_files(version_dir)
    if changed:
        raise CheckError(f"{changed[0]} is not the file that was exported.")
    count = len(versions.read_manifest(version_dir)["files"])
    return f"All {count} files are as they were exported."


def _check_size(version_dir: str, max_megabytes: float) -> str:
    extra = signature.RUNTIME_FILES.values()
    names = {*paths.list_files(version_dir)} - {*extra}
    size = sum(os.path.getsize(os.path.join(version_dir, n)) for n in names)
    manifest = versions.read_manifest(version_dir)
    limit = max_megabytes * manifest.get("members", 1)
    detail = f"What is served has {size / 1e6:.1f} MB, of {limit:g} MB."
    if size > 1e6 * limit:
        raise CheckError(detail)
    return detail


def _check_signatures(version: LoadedVersion) -> str:
    strings = (tf.string, [None])
    answer = {
        signature.PROBABILITIES: (tf.float32, [None, version.info.num_classes]),
        signature.LABEL: strings,
        signature.LABEL_INDEX: (tf.int32, [None]),
        signature.SCORE: (tf.float32, [None]),
        signature.VALID: (tf.bool, [None]),
        signature.CLASS_NAMES: (tf.string, [None, version.info.num_classes]),
        signature.PREDICTION_SET: (tf.bool, [None, version.info.num_classes]),
    }
    manifest = versions.read_manifest(version.directory)
    if manifest.get("detector", True):
        answer[signature.OUT_OF_DISTRIBUTION] = (tf.float32, [None])
        answer[signature.IS_OUT_OF_DISTRIBUTION] = (tf.bool, [None])
    if version.info.positive_index is not None:
        answer |= {
            signature.DECISION: (tf.bool, [None]),
            signature.DECISION_LABEL: strings,
            signature.THRESHOLD: (tf.float32, [None]),
        }
        if manifest.get("study"):
            answer[signature.STUDY_RULE] = strings
            answer[signature.STUDY_THRESHOLD] = (tf.float32, [None])
    encoded = {signature.IMAGE_BYTES: strings}
    pixels = {signature.PIXELS_INPUT: (tf.float32, version.pixels_shape)}
    contract = {
        signature.SERVING_DEFAULT: (encoded, answer),
        signature.EXPLAIN: (encoded, answer | {signature.OVERLAY: strings}),
        signature.PIXELS: (pixels, answer),
    }
    for name, (inputs, outputs) in contract.items():
        definition = version.meta_graph.signature_def.get(name)
        if definition is None:
            raise CheckError(f"There is no signature {name}.")
        for expected, tensors in (
            (inputs, definition.inputs),
            (outputs, definition.outputs),
        ):
            seen = {
                key: (tf.as_dtype(info.dtype), loaded_version.shape(info))
                for key, info in tensors.items()
            }
            if seen != expected:
                raise CheckError(f"{name} has {seen} where {expected} must be.")
    return f"There are {', '.join(contract)}, as the contract says."


def _check_warmup(version: LoadedVersion) -> str:
    path = os.path.join(version.directory, signature.WARMUP_FILE)
    warmed = []
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = log.predict_log.request
        (tensor,) = request.inputs.values()
        values = tf.make_ndarray(tensor)
        name = request.model_spec.signature_name
        outputs = version.call(name, values)
        _require_finite(outputs, f"Warming {name}")
        if not outputs[signature.VALID].all():
            raise CheckError(f"Warming {name} asks about what is no image.")
        warmed.append((name, len(values)))
    needed = set(itertools.product(signature.SIGNATURES, warmup.BATCH_SIZES))
    absent = needed - set(warmed)
    if absent:
        raise CheckError(f"No record warms {sorted(absent)[0]}.")
    if len(warmed) > warmup.MAX_RECORDS:
        raise CheckError(
            f"{len(warmed)} records are more than TF Serving takes."
        )
    return f"All {len(warmed)} records are answered."


def _require_finite(outputs: dict[str, np.ndarray], doing: str) -> None:
    for name, values in outputs.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise CheckError(f"{doing} gave {name} that is not finite.")


def _in_batches(version, name, values, batch_size) -> dict[str, np.ndarray]:
    parts = [
        version.call(name, values[i : i + batch_size])
        for i in range(0, len(values), batch_size)
    ]
    return {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}


def _check_predictions(
    version: LoadedVersion, evaluated: evaluated_images.EvaluatedImages
) -> str:
    """Every signature gives what evaluation gave, in batches of any size."""
    pixels = _prepare(version, evaluated)
    furthest = 0.0
    for name, size in itertools.product(signature.SIGNATURES, _BATCH_SIZES):
        # One signature in one size is asked of all.
        asked = evaluated.head(size if size == _BATCH_SIZES[-1] else _FEW)
        if (name, size) == (signature.SERVING_DEFAULT, _BATCH_SIZES[-1]):
            asked = evaluated
        given = pixels if name == signature.PIXELS else asked.images
        given = given[: len(asked.images)]
        outputs = _in_batches(version, name, given, size)
        _require_finite(outputs, f"{name} of a batch of {size}")
        if not outputs[signature.VALID].all():
            raise CheckError("An evaluated image is called invalid.")
        furthest = max(furthest, _gap(outputs, asked))
        _check_labels(version, outputs, asked)
        _check_sets(version, outputs, asked)
        for overlay in outputs.get(signature.OVERLAY, []):
            tf.io.decode_png(overlay)  # Raises if it is none.
    detail = (
        f"All signatures give probabilities within {furthest:.1e} of "
        f"predictions.csv, for {len(evaluated.images)} images."
    )
    if furthest > TOLERANCE:
        raise CheckError(detail)
    return detail


def _prepare(version, evaluated) -> np.ndarray:
    """Pixels of the first images, a batch."""
    _, size, _, channels = version.pixels_shape
    images = evaluated.head(_BATCH_SIZES[-1]).images
    return np.stack(
        [preprocessing.prepare_image(i, size, channels) for i in images]
    )


def _gap(outputs, evaluated) -> float:
    gaps = np.abs(outputs[signature.PROBABILITIES] - evaluated.probabilities)
    # What is not finite in the file must not pass for a small distance.
    return float(np.max(np.nan_to_num(gaps, nan=1.0)))


def _check_runtime(
    runtime: str,
    version: LoadedVersion,
    evaluated: evaluated_images.EvaluatedImages,
) -> str:
    """Another runtime gives the same outputs, in a batch and alone."""
    path = os.path.join(version.directory, signature.RUNTIME_FILES[runtime])
    pixels = _prepare(version, evaluated)
    asked = evaluated.head(len(pixels))
    served = version.call(signature.PIXELS, pixels)
    served = {k: v for k, v in served.items() if v.dtype != object}
    for chosen in (slice(None), slice(1)):
        outputs = runtime_files.answer(runtime, path, pixels[chosen])
        if set(outputs) != set(served):
            raise CheckError(f"The file has the outputs {sorted(outputs)}.")
        for name, values in outputs.items():
            is_same = values == served[name][chosen]
            if values.dtype.kind == "f":
                is_same = np.isclose(
                    values, served[name][chosen], 1e-4, TOLERANCE
                )
            if not np.all(is_same):
                raise CheckError(f"Its {name} is not what is served.")
    gap = _gap(runtime_files.answer(runtime, path, pixels), asked)
    detail = f"Its probabilities lie within {gap:.1e} of predictions.csv."
    if gap > TOLERANCE:
        raise CheckError(detail)
    return detail


def _check_labels(version, outputs, evaluated) -> None:
    """Where it is no matter of rounding, names are equal."""
    info = version.info
    ordered = np.sort(evaluated.probabilities, axis=1)
    is_clear = ordered[:, -1] - ordered[:, -2] > 2 * TOLERANCE
    labels = [label.decode("utf-8") for label in outputs[signature.LABEL]]
    for i in np.flatnonzero(is_clear):
        if labels[i] != evaluated.predicted[i]:
            raise CheckError(
                f"A label is {labels[i]}, in predictions.csv "
                f"{evaluated.predicted[i]}."
            )
    if info.positive_index is None:
        return
    positive = info.class_names[info.positive_index]
    expected = np.array([name == positive for name in evaluated.decisions])
    manifest = versions.read_manifest(version.directory)
    gaps = np.abs(outputs[signature.SCORE] - manifest["operating_point"])
    wrong = outputs[signature.DECISION] != expected
    if np.any(wrong & (gaps > TOLERANCE)):
        raise CheckError("A decision is not that of predictions.csv.")


def _check_sets(version, outputs, evaluated) -> None:
    """Where it is no matter of rounding, prediction sets are equal."""
    sets = versions.read_manifest(version.directory).get("sets")
    if sets is None or evaluated.sets is None:
        return
    gaps = np.abs(evaluated.probabilities - np.array(sets["thresholds"]))
    wrong = outputs[signature.PREDICTION_SET] != evaluated.sets
    # A decision that rounding changes takes its class into the set.
    is_sure = np.array(evaluated.decisions) == _decided(outputs)
    if np.any(wrong & (gaps > TOLERANCE) & is_sure[:, np.newaxis]):
        raise CheckError("A prediction set is not that of predictions.csv.")


def _decided(outputs) -> np.ndarray:
    """Names of the classes decided on."""
    key = signature.DECISION_LABEL
    names = outputs[key if key in outputs else signature.LABEL]
    return np.array([name.decode("utf-8") for name in names])


def _check_bad_input(version: LoadedVersion, image: bytes) -> str:
    """Broken images harm nobody else; nothing and a lot can be asked."""
    for name in (signature.SERVING_DEFAULT, signature.EXPLAIN):
        alone = version.call(name, [image])
        outputs = version.call(name, [image, *_BROKEN, image])
        _require_finite(outputs, "A broken image")
        valid = outputs[signature.VALID].tolist()
        if valid != [True] + [False] * len(_BROKEN) + [True]:
            raise CheckError(f"Broken images are not found: valid is {valid}.")
        gap = np.abs(
            outputs[signature.PROBABILITIES][[0, -1]]
            - alone[signature.PROBABILITIES]
        )
        if not np.max(gap) <= TOLERANCE:
            raise CheckError("A broken image changes its neighbours' answers.")
    for name in signature.SIGNATURES:
        empty = np.zeros([0], "S1")
        if name == signature.PIXELS:
            empty = np.zeros([0, *version.pixels_shape[1:]], np.float32)
        if any(map(len, version.call(name, empty).values())):
            raise CheckError(f"{name} answers an empty batch with something.")
    return f"{len(_BROKEN)} broken images and empty batches do no harm."


def _check_latency(version: LoadedVersion, image: bytes, max_latency_ms) -> str:
    times = []
    for _ in range(_NUM_TIMED):
        start = time.perf_counter()
        version.call(signature.SERVING_DEFAULT, [image])
        times.append(time.perf_counter() - start)
    median = 1e3 * float(np.median(times))
    detail = f"One image takes {median:.0f} ms, of {max_latency_ms:g} ms."
    if median > max_latency_ms:
        raise CheckError(detail)
    return detail
