"""The pixels that the exported graph makes are those of the readers."""

import functools
import io
import itertools
import struct

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tests.data.images import raster
from tests.samples import encode
from trainer.data import preprocessing
from trainer.data.images import image, readers

SIZE = 20
ORDERS = ("<", ">")
JPEG_KINDS = {
    "colour": ("RGB", {}),
    "fine": ("RGB", {"subsampling": 0, "quality": 95}),
    "grey": ("L", {}),
    "progressive": ("RGB", {"progressive": True}),
    "restarts": ("RGB", {"restart_marker_blocks": 1, "subsampling": 0}),
    "rgb": ("RGB", {"keep_rgb": True}),
    "profile": ("RGB", {"icc_profile": bytes(70_000)}),
}


def jpeg(mode: str = "RGB", **options) -> bytes:
    pixels = raster.samples(8, 2).astype(np.uint8)
    return encode(PIL.Image.fromarray(pixels).convert(mode), "JPEG", **options)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_exif(data: bytes, exif: bytes, at: int = 2) -> bytes:
    """A JPEG with an EXIF segment."""
    return data[:at] + segment(0xE1, b"Exif\0\0" + exif) + data[at:]


@functools.cache
def make_graph(channels: int, window):
    """A function as it is exported."""
    return tf.function(
        lambda data: preprocessing.prepare_batch(data, SIZE, channels, window),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )


def graph(images: list[bytes], channels: int, window=None):
    """Pixels and validity of a batch."""
    images, valid = make_graph(channels, window)(tf.constant(images))
    return images.numpy(), valid.numpy()


def assert_same(images: dict[str, bytes], invalid=(), window=()):
    """The graph makes of files what it makes of what the readers send."""
    options = dict(zip(("window_center", "window_width"), window, strict=False))
    sent = []
    for data in images.values():
        (found,) = readers.decode_images(data, **options)
        sent.append(found.encoded)
        # What is sent has the pixels of the reader, with a JPEG's rounding.
        shown = np.asarray(PIL.Image.open(io.BytesIO(sent[-1])).convert("RGB"))
        expected = found.pixels
        if expected.ndim == 2:
            expected = np.repeat(expected[..., None], 3, axis=-1)
        np.testing.assert_array_equal(shown, expected)
    expected_valid = [name not in invalid for name in images]
    for channels in (1, 3):
        raw, valid = graph(list(images.values()), channels, window or None)
        read, _ = graph(sent, channels)
        assert valid.tolist() == expected_valid
        for name, one, other, is_valid in zip(
            images, raw, read, valid, strict=True
        ):
            np.testing.assert_array_equal(one, other * is_valid, err_msg=name)


def test_png_of_every_kind_has_the_readers_pixels():
    images = {
        f"{depth} bits, type {color_type}, interlaced {interlaced}": raster.png(
            depth, color_type, interlaced
        )
        for color_type, depths in raster.DEPTHS.items()
        for depth, interlaced in itertools.product(depths, (False, True))
    }
    transparent = {0: b"\0\1", 2: b"\0\1" * 3, 3: b"\0\x80"}
    gamma = raster.chunk(b"gAMA", struct.pack(">I", 45455))
    for color_type, value in transparent.items():
        for depth in raster.DEPTHS[color_type]:
            name = f"{depth} bits, type {color_type}"
            images[f"{name}, tRNS"] = raster.png(
                depth, color_type, before=raster.chunk(b"tRNS", value)
            )
            images[f"{name}, gAMA"] = raster.png(
                depth, color_type, before=gamma
            )
    assert_same(images)


@pytest.mark.parametrize("order", ORDERS)
def test_png_of_every_orientation_has_the_readers_pixels(order):
    images = {}
    for orientation, (depth, color_type) in itertools.product(
        range(1, 9), ((1, 0), (8, 2), (4, 3), (8, 4), (16, 0), (16, 6))
    ):
        chunk = raster.chunk(b"eXIf", raster.exif(orientation, order))
        for where in ("before", "behind"):
            name = f"{orientation}, {depth} bits, type {color_type}, {where}"
            images[name] = raster.png(depth, color_type, **{where: chunk})
    assert_same(images)


def test_jpeg_of_every_kind_and_orientation_has_the_readers_pixels():
    images = {}
    for name, (mode, options) in JPEG_KINDS.items():
        data = jpeg(mode, **options)
        images[name] = data
        for orientation, order in itertools.product(range(1, 9), ORDERS):
            exif = raster.exif(orientation, order)
            images[f"{name} {orientation}{order}"] = with_exif(data, exif)
    assert_same(images)


def test_jpeg_with_cmyk_colours_is_invalid():
    images = {"plain": jpeg("CMYK")}
    images["turned"] = with_exif(images["plain"], raster.exif(6, "<"))
    assert_same(images, invalid=images)


def test_exif_counts_where_it_may_be_and_nowhere_else():
    data, exif = jpeg(), raster.exif(6, ">")
    tables_end, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    others = segment(0xE2, b"ICC " * 9) + segment(0xFE, b"Exif\0\0" + exif)
    others = data[:2] + others + data[2:]
    junk = data[:20] + b"\xff\xff\0\x12\xff\xd0\xff\xd7" + data[20:]
    xmp = segment(0xE1, b'adobe.com <x tiff:Orientation="6"/>Exif\0\0')
    turned = {
        "behind tables": with_exif(data, exif, tables_end),
        "behind others": with_exif(others, exif, len(others) - len(data) + 2),
        "behind junk": with_exif(junk, exif, 28),
        "before another": with_exif(with_exif(data, raster.exif(3, "<")), exif),
    }
    upright = {
        "comment": others,
        "behind another": with_exif(with_exif(data, exif), exif[:9]),
        "next image": data + with_exif(data, exif),
        "other type": with_exif(data, raster.exif(6, "<", kind=4)),
        "0": with_exif(data, raster.exif(0, ">")),
        "9": with_exif(data, raster.exif(9, "<")),
        "no TIFF": with_exif(data, b"II+\0" + exif[4:]),
        "XMP": data[:scan] + xmp + data[scan:],
    }
    for size in (*range(0, len(exif) - 12, 3), len(exif) - 5):
        upright[f"cut to {size}"] = with_exif(data, exif[:size])
    assert_same(turned | upright)
    for expected, images in ((raster.WIDTH, turned), (raster.HEIGHT, upright)):
        for name, data in images.items():
            height = readers.decode_images(data)[0].height
            assert height == expected, name


def test_given_window_is_that_of_the_readers():
    images = {f"{kind}": raster.png(16, kind) for kind in (0, 2, 4, 6)}
    images["8 bits"] = raster.png(8, 0)
    assert_same(images, window=(2000.0, 1001.0))


DOTS = np.full((30, 30), 7, np.uint16)
DOTS[5, 5:7] = (0, 999)


@given(
    arrays(np.uint16, array_shapes(min_dims=2, max_dims=2, max_side=9)),
    st.none()
    | st.tuples(st.floats(-1000, 70_000), st.floats(0, 60_000, width=16)),
)
@example(np.full((30, 30), 7, np.uint16), None)
@example(DOTS, None)
def test_any_window_is_that_of_the_readers_and_keeps_the_order(values, window):
    shown = image.apply_window(values, window)
    in_graph = preprocessing._apply_window(values, window)
    np.testing.assert_array_equal(in_graph, shown)
    order = np.argsort(values, axis=None, kind="stable")
    assert (np.diff(shown.ravel()[order].astype(int)) >= 0).all()
    low, high = values.min(), values.max()
    if window:
        low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    if low < high:
        assert (shown[values <= low] == 0).all()
        assert (shown[values >= high] == 255).all()


def test_endless_walk_is_refused():
    exif = raster.chunk(b"eXIf", raster.exif(6, "<"))
    many = raster.png(8, 0, behind=raster.chunk(b"IDAT", b"") * 10_001 + exif)
    _, valid = graph([many, raster.png(8, 0, behind=exif)], 1)
    assert valid.tolist() == [False, True]
