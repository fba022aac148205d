"""JPEG and PNG files without what they say about anything but pixels.

EXIF, XMP, comments and text chunks name patients, places and devices. They
are cut out of the file; the compressed pixels are copied byte by byte.
"""

from collections.abc import Iterator

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Pixels, and what changes how they are decoded. gAMA, cHRM and sRGB hold only
# numbers, and libpng weighs colours by them when it makes grey ones.
_PNG_CHUNKS = {
    b"IHDR",
    b"PLTE",
    b"tRNS",
    b"gAMA",
    b"cHRM",
    b"sRGB",
    b"IDAT",
    b"IEND",
}
_EXIF = b"Exif\0\0"
_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_JPEG_START_OF_SCAN = 0xDA
_JPEG_COMMENT = 0xFE
_JPEG_JFIF = 0xE0
_JPEG_EXIF = 0xE1
_JPEG_ADOBE = 0xEE
_JPEG_APPLICATION = range(0xE0, 0xF0)
_JFIF_LENGTH = 16  # without a thumbnail


def strip(data: bytes, image_format: str) -> bytes:
    """A "jpeg" or "png" file without its metadata.

    Raises:
        ValueError: if it is cut off.
    """
    if image_format == "png":
        chunks = [c for kind, c in _png_chunks(data) if kind in _PNG_CHUNKS]
        return b"".join([_PNG_SIGNATURE, *chunks])
    kept = [s for s in _jpeg_segments(data) if _is_kept(s)]
    return b"".join([_JPEG_START, *kept, _JPEG_END])


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


def _is_kept(segment: bytes) -> bool:
    """JFIF and Adobe segments stay: they say how to read the colours."""
    marker = segment[1]
    if marker == _JPEG_COMMENT:
        return False
    if marker not in _JPEG_APPLICATION:
        return True
    if marker == _JPEG_JFIF:
        return segment[4:9] == b"JFIF\0" and len(segment) == 2 + _JFIF_LENGTH
    return marker == _JPEG_ADOBE and segment[4:9] == b"Adobe"
