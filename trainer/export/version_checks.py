"""What a version must stand before it is published.

Each check returns a sentence on what it saw, or raises `CheckError`.
"""

import dataclasses
import itertools
import os
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from trainer.data import preprocessing, records
from trainer.export import evaluated_images, signature, versions, warmup

# Between what evaluation computed and what the version answers.
TOLERANCE = 1e-5
_BATCH_SIZES = (1, 32)
_NUM_TIMED = 20
_BROKEN = (b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0")


class CheckError(Exception):
    """A check failed; the message says what was seen."""


@dataclasses.dataclass(frozen=True)
class _Version:
    """A loaded version: a function per signature, and what it was made of."""

    directory: str
    info: records.DatasetInfo
    loaded: object
    load_s: float

    def call(self, name: str, values) -> dict[str, np.ndarray]:
        function = self.loaded.signatures[name]
        (argument,) = function.structured_input_signature[1]
        outputs = function(**{argument: tf.constant(values)})
        return {key: tensor.numpy() for key, tensor in outputs.items()}


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
        max_megabytes: of all files.

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
        start = time.monotonic()
        loaded = tf.saved_model.load(version_dir, tags=["serve"])
        version = _Version(version_dir, info, loaded, time.monotonic() - start)
    # On a damaged SavedModel TensorFlow raises a dozen kinds of errors, and
    # whichever it is, the version must not be published.
    except Exception as error:
        checks.append(_failed("load", error))
        return checks
    trials = {
        "load": lambda: f"The version loads in {version.load_s:.1f} s.",
        "signatures": lambda: _check_signatures(version),
        "warm-up": lambda: _check_warmup(version),
        "predictions": lambda: _check_predictions(version, evaluated),
        "agreement": lambda: _check_agreement(version, evaluated),
        "bad input": lambda: _check_bad_input(version, evaluated.images[0]),
        "latency": lambda: _check_latency(
            version, evaluated.images[0], max_latency_ms
        ),
    }
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
    size = sum(versions.file_sizes(version_dir))
    detail = f"All files have {size / 1e6:.1f} MB, of {max_megabytes:g} MB."
    if size > 1e6 * max_megabytes:
        raise CheckError(detail)
    return detail


def _check_signatures(version: _Version) -> str:
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
    pixels = {signature.PIXELS_INPUT: (tf.float32, _pixels_shape(version))}
    contract = {
        signature.SERVING_DEFAULT: (encoded, answer),
        signature.EXPLAIN: (encoded, answer | {signature.OVERLAY: strings}),
        signature.PIXELS: (pixels, answer),
    }
    for name, (inputs, outputs) in contract.items():
        function = version.loaded.signatures.get(name)
        if function is None:
            raise CheckError(f"There is no signature {name}.")
        for expected, specs in (
            (inputs, function.structured_input_signature[1]),
            (outputs, function.structured_outputs),
        ):
            seen = {k: (s.dtype, s.shape.as_list()) for k, s in specs.items()}
            if seen != expected:
                raise CheckError(f"{name} has {seen} where {expected} must be.")
    return f"There are {', '.join(contract)}, as the contract says."


def _pixels_shape(version: _Version) -> list[int | None]:
    function = version.loaded.signatures[signature.PIXELS]
    spec = function.structured_input_signature[1][signature.PIXELS_INPUT]
    return [None, *spec.shape.as_list()[1:3], version.info.channels]


def _check_warmup(version: _Version) -> str:
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
    version: _Version, evaluated: evaluated_images.EvaluatedImages
) -> str:
    """Probabilities, labels, decisions and sets are those of evaluation."""
    manifest = versions.read_manifest(version.directory)
    operating_point = manifest.get("operating_point")
    furthest = 0.0
    for batch_size in _BATCH_SIZES:
        outputs = _in_batches(
            version, signature.SERVING_DEFAULT, evaluated.images, batch_size
        )
        _require_finite(outputs, f"A batch of {batch_size}")
        if not outputs[signature.VALID].all():
            raise CheckError("An evaluated image is called invalid.")
        probabilities = outputs[signature.PROBABILITIES]
        gaps = np.abs(probabilities - evaluated.probabilities)
        # What is not finite in the file must not pass for a small distance.
        furthest = max(furthest, float(np.max(np.nan_to_num(gaps, nan=1.0))))
        _check_labels(version.info, operating_point, outputs, evaluated)
        _check_sets(manifest.get("sets"), outputs, evaluated)
    detail = (
        f"Probabilities of {len(evaluated.images)} images lie within "
        f"{furthest:.1e} of predictions.csv."
    )
    if furthest > TOLERANCE:
        raise CheckError(detail)
    return detail


def _check_labels(info, operating_point, outputs, evaluated) -> None:
    """Where it is no matter of rounding, names are equal."""
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
    gaps = np.abs(outputs[signature.SCORE] - operating_point)
    wrong = outputs[signature.DECISION] != expected
    if np.any(wrong & (gaps > TOLERANCE)):
        raise CheckError("A decision is not that of predictions.csv.")


def _check_sets(sets, outputs, evaluated) -> None:
    """Where it is no matter of rounding, prediction sets are equal."""
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


def _check_agreement(
    version: _Version, evaluated: evaluated_images.EvaluatedImages
) -> str:
    """All signatures answer alike."""
    images = evaluated.images[: _BATCH_SIZES[-1]]
    default = version.call(signature.SERVING_DEFAULT, images)
    _, height, _, channels = _pixels_shape(version)
    pixels = np.stack(
        [preprocessing.prepare_image(i, height, channels) for i in images]
    )
    inputs = {signature.PIXELS: pixels, signature.EXPLAIN: images}
    for name, values in inputs.items():
        outputs = version.call(name, values)
        key = signature.PROBABILITIES
        gap = np.max(np.abs(outputs[key] - default[key]))
        if not gap <= TOLERANCE:
            raise CheckError(f"{name} differs by {gap:.1e} from the default.")
    for overlay in outputs[signature.OVERLAY]:
        tf.io.decode_png(overlay)  # Raises if it is none.
    return f"All signatures agree on {len(images)} images."


def _check_bad_input(version: _Version, image: bytes) -> str:
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
            empty = np.zeros([0, *_pixels_shape(version)[1:]], np.float32)
        if any(map(len, version.call(name, empty).values())):
            raise CheckError(f"{name} answers an empty batch with something.")
    return f"{len(_BROKEN)} broken images and empty batches do no harm."


def _check_latency(version: _Version, image: bytes, max_latency_ms) -> str:
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
