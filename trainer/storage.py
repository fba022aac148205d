"""Paths that may be local or `gs://`, and writes that are whole or absent."""

import os
import uuid


def is_remote(path: str) -> bool:
    return "://" in path


def join(directory: str, *names: str) -> str:
    return os.path.join(directory, *names)


def write_atomically(path: str, data: bytes | str) -> None:
    """Writes a file that a reader sees whole or not at all.

    A full disk or a kill leaves the previous content. An object in a bucket
    appears only when its upload is complete.
    """
    data = data.encode("utf-8") if isinstance(data, str) else data
    if is_remote(path):
        import tensorflow as tf

        with tf.io.gfile.GFile(path, "wb") as file:
            file.write(data)
        return
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def read_bytes(path: str) -> bytes:
    if is_remote(path):
        import tensorflow as tf

        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    with open(path, "rb") as file:
        return file.read()


def exists(path: str) -> bool:
    if is_remote(path):
        import tensorflow as tf

        return tf.io.gfile.exists(path)
    return os.path.exists(path)
