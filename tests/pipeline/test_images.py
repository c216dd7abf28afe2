"""Pictures as they are: each becomes RGB or one ImageError with path and reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from features.errors import ImageError
from pipeline.images import read_image, read_size

RED, GREEN, BLUE = (200, 30, 30), (30, 160, 40), (20, 40, 210)


def halves(width=40, height=20):
    """Left half red, right half blue."""
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
    """A PNG header that claims side x side pixels, with no data behind it."""

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

# name -> (bytes, what to expect at the left and at the right)
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
    "text.jpg": (b"this is a note, not a picture\n" * 20, "not a picture"),
    "html.jpg": (b"<html><body>404 Not Found</body></html>", "not a picture"),
    "truncated.jpg": (saved(Image.effect_noise((200, 200), 90), "JPEG")[:3000], "truncated"),
    "truncated.png": (saved(Image.effect_noise((200, 200), 90), "PNG")[:9000], "damaged"),
    "header-only.jpg": (JPEG[:20], "not a picture"),
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


def test_the_table_is_long():
    assert len(GOOD) + len(BAD) >= 30


@pytest.mark.parametrize("name", GOOD)
def test_good_pictures(name, write):
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
def test_bad_pictures_name_path_and_reason(name, write):
    data, reason = BAD[name]
    path = write(name, data)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_turned_pictures_swap_their_sides(orientation, write):
    path = write("turned.jpg", saved(RGB, "JPEG", quality=95, exif=exif(orientation)))
    pixels = read_image(path)
    assert pixels.shape == (40, 20, 3)
    assert read_size(path) == (20, 40)
    # 6: the picture's left side is shown on top, 8: below.
    top = RED if orientation in (5, 6) else BLUE
    np.testing.assert_allclose(pixels[2, 10], top, atol=7)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)


def test_limit_is_an_option(write):
    path = write("plain.png", GOOD["plain.png"][0])
    with pytest.raises(ImageError, match="limit of 799"):
        read_image(path, max_pixels=799)
    assert read_image(path, max_pixels=800).shape == (20, 40, 3)


def test_dark_16_bit_stays_dark(write):
    dark = Image.fromarray(np.full((4, 4), 250, np.uint16))
    assert read_image(write("dark.png", saved(dark, "PNG"))).max() <= 1


def test_path_may_be_text(write):
    assert read_image(str(write("plain.jpg", JPEG))).shape == (20, 40, 3)
