"""JPEG and PNG files without what they say about anything but pixels.

EXIF, XMP, comments and text chunks name patients, places and devices. They
are cut out of the file; the compressed pixels are copied byte by byte.
"""

import zlib
from collections.abc import Iterator

# Length, kind and checksum of a chunk.
_PNG_FRAME = 12
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Pixels, and what changes how they are decoded, with the length of each where
# it is fixed: decoders pass over those of another, and text may hide there.
# gAMA, cHRM and sRGB hold only numbers, and libpng weighs colours by them when
# it makes grey ones.
_PNG_CHUNKS = {
    b"IHDR": 13,
    b"PLTE": None,
    b"tRNS": None,
    b"gAMA": 4,
    b"cHRM": 32,
    b"sRGB": 1,
    b"IDAT": None,
    b"IEND": 0,
}
_PNG_PALETTE = 3
# Bytes of tRNS by the colour type.
_PNG_TRANSPARENT = {0: 2, 2: 6}
_EXIF = b"Exif\0\0"
_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_JPEG_START_OF_SCAN = 0xDA
_JPEG_EXIF = 0xE1
# Frames, tables, restart intervals and scans: decoders refuse those of a wrong
# length.
_JPEG_KEPT = {*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDD} - {0xC8}
# These two say how to read the colours. Marker -> how the segment begins, how
# many bytes of it are defined, and what ends it: JFIF's thumbnail is left out.
_JPEG_NAMED = {
    0xE0: (b"JFIF\0", 12, b"\0\0"),
    0xEE: (b"Adobe", 12, b""),
}


def strip(data: bytes, image_format: str) -> bytes:
    """A "jpeg" or "png" file without its metadata.

    Raises:
        ValueError: if it is cut off.
    """
    if image_format == "png":
        return b"".join([_PNG_SIGNATURE, *_keep_chunks(data)])
    kept = [_keep_segment(s) for s in _jpeg_segments(data)]
    return b"".join([_JPEG_START, *kept, _JPEG_END])


def _keep_chunks(data: bytes) -> Iterator[bytes]:
    """What a PNG needs, each chunk at its length."""
    colour_type, num_colours = 0, 0
    for kind, chunk in _png_chunks(data):
        length = _PNG_CHUNKS.get(kind, -1)
        if kind == b"IHDR":
            colour_type, num_colours = chunk[17], 2 ** min(chunk[16], 8)
        elif kind == b"PLTE":
            # Of other types it is a hint.
            if colour_type != _PNG_PALETTE:
                continue
            chunk = _cut_chunk(chunk, 3 * num_colours)
        elif kind == b"tRNS":
            length = _PNG_TRANSPARENT.get(colour_type)
            if colour_type == _PNG_PALETTE:
                chunk = _cut_chunk(chunk, num_colours)
        if length is None or len(chunk) == length + _PNG_FRAME:
            yield chunk
        elif kind == b"IEND":
            yield _cut_chunk(chunk, 0)


def _cut_chunk(chunk: bytes, length: int) -> bytes:
    """A chunk without what is beyond a length, its checksum made anew."""
    body = chunk[8:-4]
    if len(body) <= length:
        return chunk
    named = chunk[4:8] + body[:length]
    size, checksum = length.to_bytes(4, "big"), zlib.crc32(named)
    return size + named + checksum.to_bytes(4, "big")


def _keep_segment(segment: bytes) -> bytes:
    """What decoders read of a JPEG's segment; nothing of most."""
    marker, body = segment[1], segment[4:]
    if marker in _JPEG_KEPT:
        return segment
    start, length, end = _JPEG_NAMED.get(marker, (b"", 0, b""))
    if not length or not body.startswith(start) or len(body) < length:
        return b""
    body = body[:length] + end
    return segment[:2] + (len(body) + 2).to_bytes(2, "big") + body


def find_orientation(data: bytes, image_format: str) -> int:
    """The EXIF orientation of a "jpeg" or "png" file, 1 to 8.

    1, which is upright, if it has none that can be read. Others than EXIF's
    (XMP's, or that of a text) do not count: browsers pass them over too.

    Raises:
        ValueError: if the file is cut off.
    """
    if image_format == "png":
        for kind, chunk in _png_chunks(data):
            if kind == b"eXIf":
                return _read_orientation(chunk[8:-4])
        return 1
    for segment in _jpeg_segments(data):
        if segment[1] == _JPEG_START_OF_SCAN:
            break
        if segment[1] == _JPEG_EXIF and segment[4:10] == _EXIF:
            return _read_orientation(segment[10:])
    return 1


def _read_orientation(exif: bytes) -> int:
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(exif[:4])

    def number(start, size):
        # What lies beyond the end counts as 0.
        part = exif[start : start + size].ljust(size, b"\0")
        return int.from_bytes(part, order)

    if order is None:
        return 1
    start = 2 + number(4, 4)
    end = min(start + 12 * number(start - 2, 2), len(exif) - 11)
    for entry in range(start, end, 12):
        # Its tag, and its type: a word.
        if number(entry, 2) == 0x0112 and number(entry + 2, 2) == 3:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and bytes of each chunk of a PNG."""
    position, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise ValueError("it is damaged (a PNG without its end)")
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(data):
            raise ValueError("it is damaged (a PNG chunk is cut off)")
        yield kind, data[position:end]
        position = end


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    """The segments between a JPEG's start and end, scans with their pixels.

    What lies between segments is passed over, as decoders do.
    """
    position = len(_JPEG_START)
    while True:
        position = _next_marker(data, position)
        marker = data[position + 1]
        if marker == _JPEG_END[1]:
            return
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        end = position + 2 + length
        if marker == _JPEG_START_OF_SCAN:
            end = _next_marker(data, end)
        yield data[position:end]
        position = end


def _next_marker(data: bytes, position: int) -> int:
    """Where the next segment, or the end, begins."""
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 2 > len(data):
            raise ValueError("it is damaged (a JPEG without its end)")
        marker = data[position + 1]
        # FF00 is a literal FF, D0 to D7 restart the decoder, FF fills.
        if 1 < marker < 0xFF and not 0xD0 <= marker <= 0xD7:
            return position
        position += 1
