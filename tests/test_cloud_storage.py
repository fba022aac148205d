"""The emulator and its faults are what the tests of gs:// rest on."""

import numpy as np
import pytest
import tensorflow as tf
from google.cloud import exceptions, storage

from tests import cloud_storage


@pytest.fixture
def bucket(bucket_name):
    return storage.Client().bucket(bucket_name)


def test_client_and_tensorflow_see_the_same_objects(bucket):
    bucket.blob("a/b.txt").upload_from_string(b"from the client")
    path = f"gs://{bucket.name}/a/c.tfrecord"
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(b"from TensorFlow")
    with tf.io.gfile.GFile(f"gs://{bucket.name}/a/b.txt", "rb") as file:
        assert file.read() == b"from the client"
    names = [blob.name for blob in bucket.list_blobs()]
    assert names == ["a/b.txt", "a/c.tfrecord"]
    (record,) = tf.data.TFRecordDataset(path)
    assert record.numpy() == b"from TensorFlow"


@pytest.mark.parametrize("fault", [503, 429])
def test_passing_fault_is_retried_by_tensorflow(cloud, bucket, fault):
    content = np.random.default_rng(0).bytes(20_000)
    bucket.blob("a").upload_from_string(content)
    cloud.inject(fault, "GET /.*/a$")
    with tf.io.gfile.GFile(f"gs://{bucket.name}/a", "rb") as file:
        assert file.read() == content
    assert not cloud.pending


def test_upload_applied_then_refused_meets_its_own_precondition(cloud, bucket):
    cloud.inject(cloud_storage.APPLIED, "POST /upload")
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("a").upload_from_string(b"content", if_generation_match=0)
    assert bucket.blob("a").download_as_bytes() == b"content"
