"""tf.Examples in TFRecord files, written without TensorFlow.

Building records needs nothing else of TensorFlow, which takes seconds to
import and cannot be installed beside every version of Apache Beam. The formats:
`core/example/feature.proto` and `core/lib/io/record_writer.h` of TensorFlow.
"""

import hashlib
import struct
from collections.abc import Mapping
from typing import BinaryIO

import google_crc32c
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

_PACKAGE = "tensorflow"
_CRC_MASK = 0xA282EAD8


def _make_example_class() -> type:
    """The message `tensorflow.Example`, with the features that are used."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="trainer/data/example.proto", package=_PACKAGE, syntax="proto3"
    )

    def message(name, *fields):
        proto = file.message_type.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, start=1):
            is_message = isinstance(kind, str)
            proto.field.add(
                name=field,
                number=number,
                type=kinds.TYPE_MESSAGE if is_message else kind,
                type_name=f".{_PACKAGE}.{kind}" if is_message else None,
                label=(
                    kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
                ),
            )
        return proto

    message("BytesList", ("value", kinds.TYPE_BYTES, True))
    message("FloatList", ("value", kinds.TYPE_FLOAT, True))
    message("Int64List", ("value", kinds.TYPE_INT64, True))
    feature = message(
        "Feature",
        ("bytes_list", "BytesList", False),
        ("float_list", "FloatList", False),
        ("int64_list", "Int64List", False),
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    # On the wire, a map is a list of such entries.
    message(
        "Entry",
        ("key", kinds.TYPE_STRING, False),
        ("value", "Feature", False),
    )
    message("Features", ("feature", "Entry", True))
    message("Example", ("features", "Features", False))
    # A pool of its own: TensorFlow puts these names into the common one.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptor = pool.FindMessageTypeByName(f"{_PACKAGE}.Example")
    return message_factory.GetMessageClass(descriptor)


_Example = _make_example_class()


def serialize_example(features: Mapping[str, bytes | str | int]) -> bytes:
    """Serializes scalar features as a tf.Example.

    Args:
        features: name -> value; text is stored as UTF-8.

    Returns:
        The bytes that TensorFlow's deterministic serialization gives.
    """
    example = _Example()
    for name in sorted(features):
        value = features[name]
        entry = example.features.feature.add(key=name)
        if isinstance(value, int):
            entry.value.int64_list.value.append(value)
        else:
            data = value.encode("utf-8") if isinstance(value, str) else value
            entry.value.bytes_list.value.append(data)
    return example.SerializeToString(deterministic=True)


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    rotated = (crc >> 15) | (crc << 17)
    return struct.pack("<I", (rotated + _CRC_MASK) & 0xFFFFFFFF)


def frame_record(data: bytes) -> bytes:
    """One record as it stands in a TFRecord file: length, data, checksums."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _masked_crc(length), data, _masked_crc(data)))


class RecordWriter:
    """Writes records into an open file and keeps count.

    Attributes:
        num_records: written so far.
        num_bytes: written so far.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._digest = hashlib.sha256()
        self.num_records = 0
        self.num_bytes = 0

    def write(self, data: bytes) -> None:
        framed = frame_record(data)
        self._file.write(framed)
        self._digest.update(framed)
        self.num_records += 1
        self.num_bytes += len(framed)

    def sha256(self) -> str:
        """Hex digest of what was written."""
        return self._digest.hexdigest()
