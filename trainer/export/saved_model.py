"""Versions of a SavedModel under a base path, and the Keras file.

What is in a version: `serving_module`. Weights are frozen to constants: the
file is half the size that `model.export` writes, inference is faster, and a
version is one file, so that no reader can meet one whose variables have not
arrived.
"""

import hashlib
import json
import os
import shutil
import uuid

import keras
import tensorflow as tf

from trainer.export import serving_module, signature


def next_version(export_dir: str) -> int:
    """One more than the newest version under a base path, 1 for the first."""
    if not os.path.isdir(export_dir):
        return 1
    versions = [int(n) for n in os.listdir(export_dir) if n.isdigit()]
    return max(versions, default=0) + 1


def find_version(export_dir: str, facts: dict) -> str | None:
    """The newest version under a base path, if its manifest has these facts.

    A finished run that is started again then exports nothing new.
    """
    newest = os.path.join(export_dir, str(next_version(export_dir) - 1))
    path = os.path.join(newest, signature.MANIFEST_FILE)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        manifest = json.load(file)
    same = all(manifest.get(name) == value for name, value in facts.items())
    return newest if same else None


def save_keras(model: keras.Model, path: str) -> None:
    """Saves a `.keras` file; a full disk leaves the previous one."""
    temporary = os.path.join(
        os.path.dirname(path), f"tmp.{uuid.uuid4().hex}.keras"
    )
    try:
        model.save(temporary)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def weights_sha256(model: keras.Model) -> str:
    """Hex digest of all weights."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(weight.tobytes())
    return digest.hexdigest()


def write_manifest(version_dir: str, facts: dict) -> None:
    """Writes the sha256 of every file of a version, and `facts`.

    `saved_model.pb` has no checksum of its own: a flipped bit would load.
    """
    files = {}
    for directory, _, names in sorted(os.walk(version_dir)):
        for name in sorted(names):
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                digest = hashlib.sha256(file.read()).hexdigest()
            relative = os.path.relpath(path, version_dir)
            files[relative] = {
                "sha256": digest,
                "num_bytes": os.path.getsize(path),
            }
    with open(os.path.join(version_dir, signature.MANIFEST_FILE), "w") as file:
        json.dump({**facts, "files": files}, file, indent=2)


def export_version(
    module: serving_module.ServingModule,
    export_dir: str,
    *,
    assets: dict[str, bytes],
    warmup: bytes | None,
    facts: dict,
) -> str:
    """Writes the next version under a base path; a reader sees all or nothing.

    Args:
        module: to save.
        export_dir: base path, local.
        assets: files for the `assets` directory.
        warmup: content of the warm-up file, a TFRecord of PredictionLogs.
        facts: for the manifest.

    Returns:
        Path of the version directory.
    """
    os.makedirs(export_dir, exist_ok=True)
    # Not a number, so TF Serving does not take it for a version.
    temporary = os.path.join(export_dir, f"tmp.{uuid.uuid4().hex}")
    try:
        tf.saved_model.save(
            module,
            temporary,
            signatures=module.signatures(),
            # Frozen graphs have lost the gradient functions they name.
            options=tf.saved_model.SaveOptions(
                experimental_custom_gradients=False
            ),
        )
        for name, content in assets.items():
            _write(os.path.join(temporary, "assets", name), content)
        if warmup is not None:
            _write(os.path.join(temporary, signature.WARMUP_FILE), warmup)
        write_manifest(temporary, facts)
        version_dir = os.path.join(export_dir, str(next_version(export_dir)))
        os.rename(temporary, version_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return version_dir


def _write(path: str, content: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
