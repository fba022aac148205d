"""JPEG and PNG files without what they say about anything but pixels.

EXIF, XMP, comments and text chunks name patients, places and devices. They
are cut out of the file; the compressed pixels are copied byte by byte.
"""

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
_JPEG_START_OF_SCAN = 0xDA
_JPEG_END = 0xD9
_JPEG_COMMENT = 0xFE
_JPEG_JFIF = 0xE0
_JPEG_ADOBE = 0xEE
_JPEG_APPLICATION = range(0xE0, 0xF0)
_JFIF_LENGTH = 16  # without a thumbnail


def strip(data: bytes, image_format: str) -> bytes:
    """A "jpeg" or "png" file without its metadata.

    Raises:
        ValueError: if its segments or chunks do not fill the file.
    """
    return _strip_jpeg(data) if image_format == "jpeg" else _strip_png(data)


def _strip_png(data: bytes) -> bytes:
    """Keeps the chunks of a PNG that make its pixels."""
    parts = [_PNG_SIGNATURE]
    position = len(_PNG_SIGNATURE)
    while True:
        if position + 12 > len(data):
            raise ValueError("it is damaged (a PNG without its end)")
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        end = position + 12 + length
        if end > len(data):
            raise ValueError("it is damaged (a PNG chunk is cut off)")
        if kind in _PNG_CHUNKS:
            parts.append(data[position:end])
        if kind == b"IEND":
            return b"".join(parts)
        position = end


def _strip_jpeg(data: bytes) -> bytes:
    """Drops application segments, comments and what follows the end.

    JFIF and Adobe segments stay: they say how to read the colours.
    """
    parts = [data[:2]]
    position = 2
    while True:
        # Fill bytes may stand before any marker.
        while data[position : position + 2] == b"\xff\xff":
            position += 1
        if position + 2 > len(data):
            raise ValueError("it is damaged (a JPEG without its end)")
        if data[position] != 0xFF:
            raise ValueError("it is damaged (a JPEG segment is missing)")
        marker = data[position + 1]
        if marker == _JPEG_END:
            parts.append(data[position : position + 2])
            return b"".join(parts)
        if position + 4 > len(data):
            raise ValueError("it is damaged (a JPEG without its end)")
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        end = position + 2 + length
        if marker == _JPEG_START_OF_SCAN:
            end = _end_of_scan(data, end)
        if _is_kept(marker, data[position + 4 : position + 9], length):
            parts.append(data[position:end])
        position = end


def _is_kept(marker: int, start: bytes, length: int) -> bool:
    if marker == _JPEG_COMMENT:
        return False
    if marker not in _JPEG_APPLICATION:
        return True
    if marker == _JPEG_JFIF:
        return start == b"JFIF\0" and length == _JFIF_LENGTH
    return marker == _JPEG_ADOBE and start == b"Adobe"


def _end_of_scan(data: bytes, position: int) -> int:
    """Position of the marker behind the entropy-coded data."""
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 1 >= len(data):
            raise ValueError("it is damaged (a JPEG without its end)")
        # FF00 is a literal FF, D0 to D7 restart the decoder, FF fills.
        following = data[position + 1]
        if following == 0xFF:
            position += 1
        elif following == 0 or 0xD0 <= following <= 0xD7:
            position += 2
        else:
            return position
