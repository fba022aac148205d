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

_CRC_MASK = 0xA282EAD8


def serialize_example(features: Mapping[str, bytes | str | int]) -> bytes:
    """Serializes scalar features as a tf.Example.

    Args:
        features: name -> value; text is stored as UTF-8.

    Returns:
        The bytes that TensorFlow's deterministic serialization gives.
    """
    entries = []
    for name, value in sorted(features.items()):
        if isinstance(value, int):
            feature = _message(3, _message(1, _varint(value)))  # Int64List
        else:
            data = value.encode("utf-8") if isinstance(value, str) else value
            feature = _message(1, _message(1, data))  # BytesList
        key = _message(1, name.encode("utf-8"))
        entries.append(_message(1, key + _message(2, feature)))
    return _message(1, b"".join(entries))


def _message(field: int, data: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes or a message."""
    return bytes([field << 3 | 2]) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    number &= 2**64 - 1
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    rotated = (crc >> 15) | (crc << 17)
    return struct.pack("<I", (rotated + _CRC_MASK) & 0xFFFFFFFF)


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
        length = struct.pack("<Q", len(data))
        framed = length + _masked_crc(length) + data + _masked_crc(data)
        self._file.write(framed)
        self._digest.update(framed)
        self.num_records += 1
        self.num_bytes += len(framed)

    def sha256(self) -> str:
        """Hex digest of what was written."""
        return self._digest.hexdigest()
