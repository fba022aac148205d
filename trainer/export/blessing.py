"""Whether a version may be published: it was tried in a process of its own.

    python -m trainer.export.blessing --version_dir=run/export/1 \\
        --data_dir=records --predictions=run/evaluation/predictions.csv

A run does this after each export; the command repeats it, for example on the
machine that will serve. The result is `blessing.json` in the version directory,
beside `saved_model.pb`, where TF Serving does not look:

    blessed           whether all checks passed
    manifest_sha256   of the `manifest.json` that was tried: a blessing does not
                      hold for other files
    checks            list of name, passed and detail, a sentence

What is tried: `version_checks`. Who publishes asks `refusal`; it needs no
TensorFlow. A blessing guards against accidents; it is no signature: who can
write to the version can write another.
"""

import json
import os
import subprocess
import sys

from absl import app, flags, logging

from trainer import startup
from trainer.export import signature, versions
from trainer.storage import paths

# A version that takes longer to try than this is of no use.
_TIMEOUT_S = 1800


def read_blessing(version_dir: str) -> dict | None:
    """The content of a version's `blessing.json`, None if there is none."""
    path = paths.join(version_dir, signature.BLESSING_FILE)
    try:
        blessing = json.loads(paths.read_bytes(path))
    except (FileNotFoundError, ValueError):  # Half a file blesses nothing.
        return None
    return blessing if isinstance(blessing, dict) else None


def write_blessing(version_dir: str, checks: list[dict]) -> dict:
    """Writes what the checks of a version found, and returns the content."""
    blessing = {
        "blessed": all(check["passed"] for check in checks),
        "manifest_sha256": versions.manifest_sha256(version_dir),
        "checks": checks,
    }
    path = paths.join(version_dir, signature.BLESSING_FILE)
    paths.write_atomically(path, json.dumps(blessing, indent=2) + "\n")
    return blessing


def refusal(version_dir: str) -> str:
    """Why a version must not be published; empty if it is blessed."""
    blessing = read_blessing(version_dir)
    if blessing is None:
        return (
            f"{version_dir} has not been tried (it has no "
            f"{signature.BLESSING_FILE}): run trainer.export.blessing on it."
        )
    if blessing.get("manifest_sha256") != versions.manifest_sha256(version_dir):
        return (
            f"{version_dir} has changed since it was tried: run "
            "trainer.export.blessing on it again."
        )
    failed = [
        f"{check['name']} ({check['detail']})"
        for check in blessing.get("checks", [])
        if not check["passed"]
    ]
    if failed or blessing.get("blessed") is not True:
        return f"{version_dir} failed when it was tried: {'; '.join(failed)}."
    return ""


def bless_in_new_process(
    version_dir: str, data_dir: str, predictions_path: str
) -> str:
    """Tries a version as a server would find it: files, and nothing else.

    Args:
        version_dir: of the version, local.
        data_dir: the records that it was evaluated on.
        predictions_path: `predictions.csv` of that evaluation.

    Returns:
        See `refusal`.
    """
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    import_paths = [root, os.environ.get("PYTHONPATH", "")]
    # This process holds the memory of the accelerators. And a worker of a
    # cluster tries its export alone.
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"} | {
        "CUDA_VISIBLE_DEVICES": "-1",
        # libtpu, and TensorFlow's two ways to find it.
        "TPU_LOAD_LIBRARY": "0",
        "NEXT_PLUGGABLE_DEVICE_USE_C_API": "",
        "TF_PLUGGABLE_DEVICE_LIBRARY_PATH": "",
        "PYTHONPATH": os.pathsep.join(filter(None, import_paths)),
    }
    # It is about an earlier trial.
    paths.remove(paths.join(version_dir, signature.BLESSING_FILE))
    process = subprocess.run(
        [
            *(sys.executable, "-m", "trainer.export.blessing"),
            f"--version_dir={version_dir}",
            f"--data_dir={data_dir}",
            f"--predictions={predictions_path}",
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if read_blessing(version_dir) is None:
        lines = process.stderr.strip().splitlines()
        return (
            f"{version_dir} could not be tried: "
            f"{lines[-1] if lines else f'exit code {process.returncode}'}"
        )
    return refusal(version_dir)


def _define_flags() -> None:
    for name, text in (
        ("version_dir", "Exported version, for example run/export/1."),
        ("data_dir", "Records that the model was evaluated on."),
        ("predictions", "predictions.csv of the run that exported it."),
    ):
        flags.DEFINE_string(name, None, text, required=True)
    for name, limit, text in (
        ("max_latency_ms", 1000.0, "Median time of one image."),
        (
            "max_megabytes",
            32.0,
            "Files of one model; a second copy is over.",
        ),
    ):
        flags.DEFINE_float(name, limit, text, lower_bound=0.0)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    values = flags.FLAGS
    startup.import_keras()
    # It brings TensorFlow, which `refusal` does without.
    import tensorflow as tf

    from trainer.export import version_checks

    # Of gradients, which a frozen graph has none of.
    tf.get_logger().setLevel("ERROR")
    startup.set_up_logging(os.path.dirname(os.path.dirname(__file__)))
    try:
        checks = version_checks.run_checks(
            values.version_dir,
            values.data_dir,
            values.predictions,
            max_latency_ms=values.max_latency_ms,
            max_megabytes=values.max_megabytes,
        )
        blessing = write_blessing(values.version_dir, checks)
    except (ValueError, OSError) as error:
        sys.exit(f"blessing: {error}")
    for check in checks:
        mark = "passed" if check["passed"] else "FAILED"
        logging.info("%s  %-11s %s", mark, check["name"], check["detail"])
    if not blessing["blessed"]:
        sys.exit(f"blessing: {refusal(values.version_dir)}")
    print(f"{values.version_dir} is blessed: it may be published.")


if __name__ == "__main__":
    _define_flags()
    startup.run(main)
