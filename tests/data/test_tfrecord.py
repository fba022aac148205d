"""The records that are written without TensorFlow are those that it writes."""

import hashlib
import io

import pytest
import tensorflow as tf

from trainer.data import tfrecord

FEATURES = {
    "image/encoded": bytes(range(256)) * 3,
    "image/class/text": "Tumör",
    "image/height": 300,
    "image/class/label": 0,
    "negative": -1,
    "empty": b"",
}


def test_example_has_the_bytes_that_tensorflow_writes():
    example = tf.train.Example()
    for name, value in FEATURES.items():
        feature = example.features.feature[name]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            feature.bytes_list.value.append(value)
    expected = example.SerializeToString(deterministic=True)
    assert tfrecord.serialize_example(FEATURES) == expected


def test_file_has_the_bytes_that_tensorflow_writes(tmp_path):
    payloads = [b"", b"x", tfrecord.serialize_example(FEATURES), b"\0" * 70_000]
    with open(tmp_path / "ours", "wb") as file:
        writer = tfrecord.RecordWriter(file)
        for payload in payloads:
            writer.write(payload)
    with tf.io.TFRecordWriter(str(tmp_path / "tensorflow")) as tf_writer:
        for payload in payloads:
            tf_writer.write(payload)
    data = (tmp_path / "ours").read_bytes()
    assert data == (tmp_path / "tensorflow").read_bytes()
    assert writer.num_records == 4
    assert writer.num_bytes == len(data)
    assert writer.sha256() == hashlib.sha256(data).hexdigest()


def test_tensorflow_refuses_a_record_with_a_changed_bit(tmp_path):
    buffer = io.BytesIO()
    tfrecord.RecordWriter(buffer).write(b"payload")
    framed = bytearray(buffer.getvalue())
    framed[14] ^= 1
    (tmp_path / "damaged").write_bytes(framed)
    dataset = tf.data.TFRecordDataset(str(tmp_path / "damaged"))
    with pytest.raises(tf.errors.DataLossError):
        list(dataset)
