"""What a PredictRequest becomes, told from its bytes before it is parsed.

Two bytes are enough for an empty string, which takes sixteen once it is an
object, and a packed number of one byte becomes one of eight.
"""

from collections.abc import Iterator

from serving import status_codes
from serving.server import limits

# Beside the strings of a batch.
MAX_OTHER_FIELDS = 1000

# Wire types of four and eight bytes.
_FIXED = {5: 4, 1: 8}
_FIELD_BYTES = 64
# PredictRequest.inputs, the entry's value, its shape, the shape's sizes.
_INPUTS = _VALUE = _SHAPE = _DIM = 2
_PATH = (_INPUTS, _VALUE, _SHAPE, _DIM)
# TensorProto's half_val, int_val, int64_val, bool_val, uint32 and uint64_val:
# bytes that each packed one may become.
_PACKED = {13: 4, 7: 4, 10: 8, 11: 1, 16: 4, 17: 8}
# Its resource_handle_val and variant_val, which hold messages of any depth.
_NESTED = (14, 15)


def check(message: bytes, max_request_bytes: int) -> None:
    """Raises StatusError if a message would become more than it may.

    Also if it is no PredictRequest.
    """
    num_bytes = len(message)
    try:
        costs = _measure(message, 0, len(message), 0)
        for number, cost in enumerate(costs):
            limits.check_instances(number - MAX_OTHER_FIELDS)
            num_bytes += cost
    except (IndexError, ValueError) as error:
        raise status_codes.invalid_argument(
            "The message is no PredictRequest"
        ) from error
    limits.check_growth(num_bytes, max_request_bytes)


def _measure(message: bytes, start: int, end: int, depth: int) -> Iterator[int]:
    """Yields the bytes that each field between two positions becomes."""
    while start < end:
        key, start = _read_number(message, start)
        field, kind = key >> 3, key & 7
        length = 0
        if kind == 0:
            _, start = _read_number(message, start)
        elif kind in _FIXED:
            start += _FIXED[kind]
        elif kind == 2:
            length, start = _read_number(message, start)
            if start + length > end:
                raise ValueError("A field is longer than its message.")
            if depth == 2 and field in _NESTED:
                raise ValueError("A tensor holds messages.")
            start += length
            if depth < len(_PATH) and field == _PATH[depth]:
                yield from _measure(message, start - length, start, depth + 1)
                length = 0
        else:
            raise ValueError("A field is of a kind that is not in use.")
        factor = _PACKED.get(field, 1) if depth == 2 else 1
        yield _FIELD_BYTES + factor * length


def _read_number(message: bytes, start: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where the next field starts."""
    number = shift = 0
    while True:
        byte = message[start]
        start += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, start
        shift += 7
        if shift > 63:
            raise ValueError("A number is longer than 64 bits.")
