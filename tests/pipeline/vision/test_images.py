"""Decoding: every file gives RGB pixels or an ImageError with path and reason."""

import errno
import hashlib
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, UnidentifiedImageError

from features import decoding
from features.decoding import open_image
from features.drawing.scene_graph import _read as _drawn
from features.errors import ImageError, MissingInput, UnreadableImage
from features.format import hash_file
from pipeline.vision.images import LazyImage, read_image, read_size

RED, GREEN, BLUE = (200, 30, 30), (30, 160, 40), (20, 40, 210)


def halves(width=40, height=20):
    """Return pixels with a red left half and a blue right half."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = RED, BLUE
    return pixels


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def huge_png(side):
    """Return a PNG with a header of side x side pixels and no data."""

    def chunk(kind, body):
        head = struct.pack(">I", len(body)) + kind + body
        return head + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


RGB = Image.fromarray(halves())
RGBA = RGB.convert("RGBA")
RGBA.putalpha(
    Image.fromarray(np.where(np.arange(40) < 20, 255, 0).astype(np.uint8)[None].repeat(20, 0))
)
GREY16 = Image.fromarray((np.linspace(0, 65535, 40)[None].repeat(20, 0)).astype(np.uint16))
JPEG = saved(RGB, "JPEG", quality=95)
PALETTE = RGB.quantize(4)
FRAMES = [RGB, Image.new("RGB", (40, 20), GREEN)]

# name -> (bytes, expected colours at the left and at the right)
GOOD = {
    "plain.jpg": (JPEG, RED, BLUE),
    "progressive.jpg": (saved(RGB, "JPEG", progressive=True, quality=95), RED, BLUE),
    "cmyk.jpg": (saved(RGB.convert("CMYK"), "JPEG", quality=95), RED, BLUE),
    "grey.jpg": (saved(RGB.convert("L"), "JPEG", quality=95), (81,) * 3, (53,) * 3),
    "plain.png": (saved(RGB, "PNG"), RED, BLUE),
    "palette.png": (saved(PALETTE, "PNG"), RED, BLUE),
    "palette-cutout.png": (
        saved(PALETTE, "PNG", transparency=PALETTE.getpixel((39, 0))),
        RED,
        (255,) * 3,
    ),
    "alpha.png": (saved(RGBA, "PNG"), RED, (255,) * 3),
    "grey-alpha.png": (saved(RGBA.convert("LA"), "PNG"), (81,) * 3, (255,) * 3),
    "grey16.png": (saved(GREY16, "PNG"), (13,) * 3, (242,) * 3),
    "grey16.tif": (saved(GREY16, "TIFF"), (13,) * 3, (242,) * 3),
    "float.tif": (
        saved(Image.fromarray(np.linspace(0, 1, 40, dtype=np.float32)[None].repeat(20, 0)), "TIFF"),
        (13,) * 3,
        (242,) * 3,
    ),
    "two-level.png": (
        saved(RGB.convert("L").point(lambda v: 255 * (v > 60)).convert("1"), "PNG"),
        (255,) * 3,
        (0,) * 3,
    ),
    "lab.tif": (saved(Image.new("LAB", (40, 20), (128, 128, 128)), "TIFF"), None, None),
    "animated.gif": (saved(RGB, "GIF", save_all=True, append_images=FRAMES[1:]), RED, BLUE),
    "animated.webp": (
        saved(RGB, "WEBP", save_all=True, append_images=FRAMES[1:], lossless=True),
        RED,
        BLUE,
    ),
    "plain.webp": (saved(RGB, "WEBP", lossless=True), RED, BLUE),
    "alpha.webp": (saved(RGBA, "WEBP", lossless=True), RED, (255,) * 3),
    "plain.bmp": (saved(RGB, "BMP"), RED, BLUE),
    "plain.ppm": (saved(RGB, "PPM"), RED, BLUE),
    "pages.tif": (saved(RGB, "TIFF", save_all=True, append_images=FRAMES[1:]), RED, BLUE),
    "wrong-extension.png": (JPEG, RED, BLUE),
    "no-extension": (JPEG, RED, BLUE),
    "name with spaces.jpg": (JPEG, RED, BLUE),
    "fotografía-写真-🐈.jpg": (JPEG, RED, BLUE),
    "mirrored.jpg": (saved(RGB, "JPEG", quality=95, exif=exif(2)), BLUE, RED),
    "upside-down.jpg": (saved(RGB, "JPEG", quality=95, exif=exif(3)), BLUE, RED),
    "bad-exif.jpg": (saved(RGB, "JPEG", quality=95, exif=exif(77)), RED, BLUE),
    "one-pixel.png": (saved(Image.new("RGB", (1, 1), RED), "PNG"), RED, RED),
    "long.png": (saved(Image.new("RGB", (20_000, 2), RED), "PNG"), RED, RED),
}
# name -> (bytes, words of the reason)
BAD = {
    "empty.jpg": (b"", "empty"),
    "text.jpg": (b"this is a note, not an image\n" * 20, "not an image"),
    "html.jpg": (b"<html><body>404 Not Found</body></html>", "not an image"),
    "truncated.jpg": (saved(Image.effect_noise((200, 200), 90), "JPEG")[:3000], "truncated"),
    "truncated.png": (saved(Image.effect_noise((200, 200), 90), "PNG")[:9000], "damaged"),
    "header-only.jpg": (JPEG[:20], "not an image"),
    "zeros.jpg": (JPEG[:2] + bytes(2000), ""),
    "bomb.png": (huge_png(30_000), "limit"),
    "large-bomb.png": (huge_png(100_000), "limit"),
    "truncated.gif": (saved(RGB, "GIF")[:60], "damaged"),
}


@pytest.fixture
def write(tmp_path):
    def put(name, data):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return put


def test_the_tables_have_at_least_30_cases():
    assert len(GOOD) + len(BAD) >= 30


@pytest.mark.parametrize("name", GOOD)
def test_readable_files(name, write):
    data, left, right = GOOD[name]
    path = write(name, data)
    pixels = read_image(path)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.flags["C_CONTIGUOUS"]
    assert pixels.flags["WRITEABLE"]
    assert read_size(path) == (pixels.shape[1], pixels.shape[0])
    if left is not None:
        width = pixels.shape[1]
        np.testing.assert_allclose(pixels[0, width // 20], left, atol=7)
        np.testing.assert_allclose(pixels[0, -1 - width // 20], right, atol=7)


@pytest.mark.parametrize("name", BAD)
def test_unreadable_files_have_path_and_reason(name, write):
    data, reason = BAD[name]
    path = write(name, data)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_rotated_images_swap_their_sides(orientation, write):
    path = write("turned.jpg", saved(RGB, "JPEG", quality=95, exif=exif(orientation)))
    pixels = read_image(path)
    assert pixels.shape == (40, 20, 3)
    assert read_size(path) == (20, 40)
    # 6: the left side is on top; 8: at the bottom.
    top = RED if orientation in (5, 6) else BLUE
    np.testing.assert_allclose(pixels[2, 10], top, atol=7)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UnreadableImage, match="no such file"):
        read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(UnreadableImage, match="cannot be read"):
        read_image(tmp_path)
    os.mkfifo(pipe := tmp_path / "pipe.jpg")  # reading it would block
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(UnreadableImage, match="a pipe or a device"):
            read_image(path)
        with pytest.raises(UnreadableImage, match="a pipe or a device"):
            LazyImage.open("1", path, "00")
        with pytest.raises(MissingInput, match="a pipe or a device"):
            hash_file(path)


def test_limit_is_an_option(write):
    path = write("plain.png", GOOD["plain.png"][0])
    with pytest.raises(ImageError, match="limit of 799"):
        read_image(path, max_pixels=799)
    assert read_image(path, max_pixels=800).shape == (20, 40, 3)


def test_dark_16_bit_stays_dark(write):
    dark = Image.fromarray(np.full((4, 4), 250, np.uint16))
    assert read_image(write("dark.png", saved(dark, "PNG"))).max() <= 1


def test_path_can_be_a_string(write):
    assert read_image(str(write("plain.jpg", JPEG))).shape == (20, 40, 3)


def scene(width, height, seed=0):
    """Return an image with edges, ramps and noise, similar to a photo."""
    draw = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([200 * x, 180 * y, 90 + 60 * np.sin(9 * x + 5 * y)], 2)
    for _ in range(12):
        left, top = draw.integers(0, width), draw.integers(0, height)
        pixels[top : top + height // 4, left : left + width // 5] = draw.integers(0, 255, 3)
    pixels += draw.normal(0, 4, pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def averages(pixels, factor):
    """Average blocks from the top left corner on, including incomplete ones."""
    height, width, _ = pixels.shape
    rows, columns = np.arange(height) // factor, np.arange(width) // factor
    sums = np.zeros((rows[-1] + 1, columns[-1] + 1, 3))
    np.add.at(sums, (rows[:, None], columns[None]), pixels.astype(float))
    counts = np.bincount(rows)[:, None] * np.bincount(columns)[None]
    return sums / counts[..., None]


@pytest.mark.parametrize("limit", [1.0, 1.99, 2.0, 3.9, 7.0, 8.5, 16.0])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_reduced_images_are_averages(kind, limit, write):
    path = write("large", saved(Image.fromarray(scene(645, 403)), kind, quality=92, subsampling=0))
    image = LazyImage.open("large", path)
    few, factor = image.reduced(limit)
    assert factor == 2 ** int(np.log2(limit))
    assert image.size == (645, 403)
    assert few.shape == (-(-403 // factor), -(-645 // factor), 3)
    wanted = averages(image.rgb(), factor)
    apart = np.abs(few[:-1, :-1] - wanted[:-1, :-1])
    # The scaling of a JPEG decoder is not exactly an average; the others are rounded.
    assert apart.mean() <= (0.0 if factor == 1 else 1.0 if kind == "JPEG" else 0.3)
    assert np.percentile(apart, 99) <= (6 if kind == "JPEG" else 1)
    assert np.abs(few - wanted).mean() <= 1.5  # including incomplete blocks
    again, _ = image.reduced(limit)
    assert again is few


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("size", [(640, 400), (645, 403)])
def test_reduced_images_are_upright(orientation, size, write):
    """Incomplete blocks are at the right and the bottom for every orientation."""
    data = saved(
        Image.fromarray(scene(*size)), "JPEG", quality=92, subsampling=0, exif=exif(orientation)
    )
    image = LazyImage.open("turned", write("turned.jpg", data))
    few, factor = image.reduced(4)
    wanted = averages(image.rgb(), factor)
    assert factor == 4
    assert few.shape == wanted.shape
    assert np.abs(few - wanted)[:-1, :-1].mean() <= 1.0


def test_the_decoder_scales_a_jpeg(write, monkeypatch):
    """The decoder is asked for a reduced size, and may ignore it."""
    from PIL.JpegImagePlugin import JpegImageFile

    asked = []
    draft = JpegImageFile.draft

    def spy(self, mode, size):
        asked.append((mode, size))
        return draft(self, mode, size)

    monkeypatch.setattr(JpegImageFile, "draft", spy)
    image = Image.fromarray(scene(645, 403))
    for name, mode in {"rgb": "RGB", "grey": "L", "cmyk": "CMYK"}.items():
        path = write(f"{name}.jpg", saved(image.convert(mode), "JPEG", quality=92))
        few, factor = LazyImage.open(name, path).reduced(16)
        assert (few.shape, factor) == ((26, 41, 3), 16)
        wanted = averages(read_image(path), 16)
        assert np.abs(few - wanted)[:-1, :-1].mean() <= 1.5, name
    assert asked == [(mode, (40, 25)) for mode in ("RGB", "L", "CMYK")]
    progressive = write("p.jpg", saved(image, "JPEG", quality=92, progressive=True))
    assert LazyImage.open("p", progressive).reduced(8)[0].shape == (51, 81, 3)
    monkeypatch.setattr(JpegImageFile, "draft", lambda self, mode, size: None)
    assert LazyImage.open("p", progressive).reduced(8)[0].shape == (51, 81, 3)


def test_reduced_images_do_not_depend_on_earlier_calls(write):
    path = write("large.jpg", saved(Image.fromarray(scene(640, 400)), "JPEG", quality=80))
    first, second = LazyImage.open("a", path), LazyImage.open("b", path)
    second.rgb(), second.reduced(2)
    np.testing.assert_array_equal(first.reduced(4)[0], second.reduced(4)[0])


def test_damage_is_found_when_pixels_are_decoded(write):
    data = saved(Image.fromarray(scene(645, 403)), "JPEG")
    image = LazyImage.open("cut", write("cut.jpg", data[: len(data) // 2]))
    for look in (image.rgb, lambda: image.reduced(4)):
        with pytest.raises(ImageError, match=r"cut\.jpg: damaged"):
            look()
    with pytest.raises(ImageError, match="pixels are needed"):
        LazyImage("none").rgb()
    with pytest.raises(ImageError, match="no such file"):
        LazyImage.open("gone", write("cut.jpg", data).with_name("gone.jpg"))


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
0 0 10 10 rectfill
showpage
%%EOF
"""


@pytest.mark.parametrize("read", [read_image, read_size, _drawn, open_image])
def test_no_decoder_starts_a_process(read, write, monkeypatch):
    """Pillow would start Ghostscript for EPS, whatever the file is called."""

    def refuse(*args, **options):
        raise AssertionError(f"a photo started {args}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    with pytest.raises((ImageError, UnidentifiedImageError)):
        read(write("photo.jpg", EPS))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), MemoryError()])
def test_failures_of_the_system_are_no_damage(error, write, monkeypatch):
    path = write("good.jpg", JPEG)

    def fail(*args, **options):
        raise error

    monkeypatch.setattr(decoding, "open_image", fail)
    for read in (read_image, read_size):
        with pytest.raises(UnreadableImage, match=r"good\.jpg: cannot be read"):
            read(path)


def test_a_file_with_another_hash_is_refused(write):
    path = write("good.jpg", JPEG)
    digest = hashlib.sha256(JPEG).hexdigest()[:32]
    image = LazyImage.open("good", path, digest)
    path.write_bytes(saved(Image.new("RGB", (40, 20), GREEN), "JPEG"))
    np.testing.assert_allclose(image.rgb()[10, 5], RED, atol=7)  # the bytes that were checked
    with pytest.raises(UnreadableImage, match=r"good\.jpg: the file has changed"):
        LazyImage.open("good", path, digest)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["I;16", "RGBA", "LA"])
def test_a_small_file_of_many_pixels_needs_no_more_memory_than_rgb(mode, write):
    path = write("large.png", saved(Image.new(mode, (6000, 5000)), "PNG"))
    code = (
        "import resource, sys; from pipeline.vision.images import read_image; from PIL import *\n"
    )
    code += "read_image(sys.argv[1]); import numpy as np\n"
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", code, str(file)]))
        for file in (write("small.jpg", JPEG), path)
    ]
    assert (peaks[1] - peaks[0]) * 1024 < 13 * 6000 * 5000  # bytes a pixel
