"""Versions of a SavedModel under a base path, and the Keras file.

What is in a version: `serving_module`. Weights are frozen to constants: the
file is half the size that `model.export` writes, inference is faster, and a
version is one file, so that no reader can meet one whose variables have not
arrived.
"""

import os
import shutil
import uuid

import keras
import tensorflow as tf

from trainer.export import serving_module, versions
from trainer.storage import paths


def save_keras(model: keras.Model, path: str) -> None:
    """Saves a `.keras` file; a full disk leaves the previous one."""
    temporary = os.path.join(
        os.path.dirname(path), f"tmp.{uuid.uuid4().hex}.keras"
    )
    try:
        with paths.writing(path):
            model.save(temporary)
        os.replace(temporary, path)
    finally:
        paths.remove(temporary)


def export_version(
    module: serving_module.ServingModule,
    export_dir: str,
    *,
    assets: dict[str, bytes],
    extra: dict[str, bytes],
    facts: dict,
) -> str:
    """Writes the next version under a base path; a reader sees all or nothing.

    Args:
        module: to save.
        export_dir: base path, local.
        assets: files for the `assets` directory.
        extra: other files, by their names in the version.
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
        files = {f"assets/{name}": content for name, content in assets.items()}
        for name, content in (files | extra).items():
            paths.write_atomically(os.path.join(temporary, name), content)
        versions.write_manifest(temporary, facts)
        number = versions.next_number(export_dir)
        version_dir = os.path.join(export_dir, str(number))
        os.rename(temporary, version_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return version_dir
