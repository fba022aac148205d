"""PNG files of every kind, byte by byte, and EXIF blocks."""

import struct
import zlib

import numpy as np

HEIGHT, WIDTH = 23, 37
# By colour type.
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16)}
DEPTHS |= {6: (8, 16)}
_NUM_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Adam7's passes: start and step of rows and of columns.
_PASSES = "08 08, 08 48, 48 04, 04 24, 24 02, 02 12, 12 01"


def samples(depth: int, color_type: int) -> np.ndarray:
    """Noisy slopes, the values of 16 bits in a part of their range."""
    channels = _NUM_CHANNELS[color_type]
    place = np.mgrid[:HEIGHT, :WIDTH, :channels]
    slopes = place[0] / HEIGHT / (1 + place[2]) + place[1] / WIDTH
    noise = np.random.default_rng(depth).normal(0, 0.03, slopes.shape)
    top = 2**depth - 1 if depth < 16 else 5000
    return np.clip(np.rint((slopes / 2 + noise) * top), 0, top).astype(int)


def _scanlines(values: np.ndarray, depth: int) -> bytes:
    """With the filter Sub, which counts in whole pixels."""
    size = max(8, depth)
    rows = values.astype(f">u{size // 8}").reshape(len(values), -1)
    rows = rows.view(np.uint8)
    if depth < 8:
        bits = np.unpackbits(rows[..., None], axis=-1)[..., 8 - depth :]
        rows = np.packbits(bits.reshape(len(rows), -1), axis=-1)
    step = max(1, depth * values.shape[-1] // 8)
    left = np.pad(rows, ((0, 0), (step, 0)))[:, : rows.shape[1]]
    return np.pad(rows - left, ((0, 0), (1, 0)), constant_values=1).tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + checksum


def png(
    depth: int, color_type: int, interlaced=False, before=b"", behind=b""
) -> bytes:
    """A PNG of `samples`, with chunks before and behind its pixels."""
    values = samples(depth, color_type)
    parts = [values]
    if interlaced:
        steps = [
            [int(c) for c in p.replace(" ", "")] for p in _PASSES.split(", ")
        ]
        parts = [values[r::rs, c::cs] for r, rs, c, cs in steps]
    packed = zlib.compress(b"".join(_scanlines(p, depth) for p in parts))
    header = (WIDTH, HEIGHT, depth, color_type, 0, 0, interlaced)
    if color_type == 3:
        colours = np.random.default_rng(1).bytes(3 * 2**depth)
        before = chunk(b"PLTE", colours) + before
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", *header)),
            before,
            *(
                chunk(b"IDAT", packed[i : i + 300])
                for i in range(0, len(packed), 300)
            ),
            behind,
            chunk(b"IEND", b""),
        ]
    )


def exif(orientation: int, order: str, kind: int = 3) -> bytes:
    """An EXIF block whose orientation comes behind two other entries."""
    entries = [struct.pack(order + "HHII", 0x0100 + i, 4, 1, 6) for i in (0, 1)]
    entries.append(
        struct.pack(order + "HHIHH", 0x0112, kind, 1, orientation, 0)
    )
    head = b"II*\0" if order == "<" else b"MM\0*"
    head += struct.pack(order + "I6sH", 14, b"unused", len(entries))
    return b"".join([head, *entries, bytes(4)])
