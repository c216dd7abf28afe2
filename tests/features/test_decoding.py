"""Photos of strangers: broken metadata, formats that start programs, memory."""

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from features.decoding import decode, orientation, turned, upright_size
from features.errors import ImageError
from pipeline.vision.images import read_image, read_size

ROOT = Path(__file__).resolve().parents[2]
PICTURE = np.zeros((6, 8, 3), np.uint8)
PICTURE[:3, :4] = (250, 10, 10)


def saved(kind, **options):
    out = io.BytesIO()
    Image.fromarray(PICTURE).save(out, kind, **options)
    return out.getvalue()


def png_with(*chunks, after=False):
    """Return the picture as PNG with further chunks in front of the pixels or after them."""
    raw = saved("PNG")
    at = raw.index(b"IEND" if after else b"IDAT") - 4
    extra = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return raw[:at] + extra + raw[at:]


def tiff_header(tag_type, count, value):
    """Return EXIF with one orientation entry of any type."""
    return b"II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, tag_type, count) + value + b"\0" * 4


BOMB = zlib.compress(b" " * (3 << 20))
BROKEN = {
    "eXIf that is no TIFF": png_with((b"eXIf", b"broken!")),
    "eXIf after the pixels": png_with((b"eXIf", b"broken!"), after=True),
    "empty eXIf": png_with((b"eXIf", b"")),
    "raw profile that is no hex": png_with(
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n  10\nnothex!!\n"))
    ),
    "text that unpacks to 3 MB": png_with((b"zTXt", b"Comment\0\0" + BOMB)),
    "text after the pixels": png_with((b"zTXt", b"Comment\0\0" + BOMB), after=True),
    "international text": png_with((b"iTXt", b"Comment\0\1\0\0\0" + BOMB)),
    "colour profile that does not unpack": png_with((b"iCCP", b"name\0\0garbage")),
    "text chunk that does not unpack": png_with((b"zTXt", b"Comment\0\0garbage")),
    "EXIF of a JPEG that is no TIFF": saved("JPEG", exif=b"Exif\0\0broken!"),
    "orientation as text": saved("JPEG", exif=b"Exif\0\0" + tiff_header(2, 3, b"6\0\0\0")),
    "orientation NaN": saved("JPEG", exif=b"Exif\0\0" + tiff_header(11, 1, b"\0\0\xc0\x7f")),
    "orientation 99": saved("JPEG", exif=b"Exif\0\0" + tiff_header(3, 1, b"\x63\0\0\0")),
    "orientation that points outside": saved(
        "JPEG", exif=b"Exif\0\0" + tiff_header(4, 999, b"\xff\xff\xff\x7f")
    ),
    "EXIF of a WebP": saved("WEBP", lossless=True, exif=b"garbage garbage"),
    "XMP of a WebP": saved("WEBP", lossless=True, xmp=b"\xff\xfe<not xml"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_metadata_that_cannot_be_read_are_ignored(name, tmp_path):
    path = tmp_path / "photo"
    path.write_bytes(BROKEN[name])
    assert read_size(path) == (8, 6)
    pixels = read_image(path)
    assert pixels.shape == (6, 8, 3)
    assert pixels[0, 0, 0] > 200
    assert pixels[5, 7, 0] < 60


def test_damaged_pixels_stay_an_error_beside_broken_metadata(tmp_path):
    path = tmp_path / "torn.png"
    raw = png_with((b"zTXt", b"Comment\0\0" + BOMB))
    path.write_bytes(raw[:-30])
    with pytest.raises(ImageError, match=r"torn\.png: damaged"):
        read_image(path)
    path.write_bytes(raw[:-25] + b"\0\0\0" + raw[-22:])  # inside the pixels
    with pytest.raises(ImageError, match=r"torn\.png: damaged"):
        read_image(path)


@pytest.mark.parametrize("how", range(1, 9))
def test_turned_is_what_pillow_does(how, tmp_path):
    tags = Image.Exif()
    tags[0x0112] = how
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(how).integers(0, 255, (5, 9, 3), np.uint8)).save(
        path, exif=tags
    )
    from PIL import ImageOps

    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    found = decode(path, lambda image: turned(np.asarray(image), orientation(image)))
    np.testing.assert_array_equal(found, expected)
    assert decode(path, upright_size) == expected.shape[1::-1]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\nshowpage\n%%EOF\n"
OTHERS = {
    "EPS": EPS,
    "DOS EPS": struct.pack("<IIIIIIIH", 0xC6D3D0C5, 30, len(EPS), 0, 0, 0, 0, 0xFFFF) + EPS,
    "PDF": b"%PDF-1.4\n",
    "WMF": b"\xd7\xcd\xc6\x9a" + b"\0" * 40,
    "FLI": b"\x00\x00\x00\x00\x11\xaf" + b"\0" * 130,
}


@pytest.mark.parametrize("name", OTHERS)
def test_no_photo_starts_a_program(name, tmp_path, monkeypatch):
    def never(*args, **_):
        raise AssertionError(f"a photo started {args}")

    for module in ("subprocess.Popen", "subprocess.check_call", "os.system"):
        monkeypatch.setattr(module, never)
    path = tmp_path / "photo.jpg"
    path.write_bytes(OTHERS[name])
    for read in (read_image, read_size):
        with pytest.raises(ImageError, match=r"photo\.jpg: not an image that Scenestore reads"):
            read(path)


def test_every_decoder_lists_its_formats():
    found = [
        f"{path.relative_to(ROOT)}: {call}"
        for package in ("features", "pipeline", "models", "workflows", "benchmarks", "examples")
        for path in sorted((ROOT / package).rglob("*.py"))
        for call in re.findall(r"(?s)\bImage\.open\(.{120}", path.read_text(encoding="utf-8"))
    ]
    assert found
    assert [call for call in found if "formats=" not in call] == []


def test_text_chunks_of_a_good_file_still_turn_it(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    path = tmp_path / "a.png"
    Image.fromarray(PICTURE).save(path, pnginfo=info)
    assert read_size(path) == (6, 8)


@pytest.mark.parametrize("how", range(1, 9))
def test_tiff_is_turned_like_png(tmp_path, how):
    (tmp_path / "a.tiff").write_bytes(saved("TIFF", tiffinfo={0x0112: how}))
    tag = Image.Exif()
    tag[0x0112] = how
    (tmp_path / "a.png").write_bytes(saved("PNG", exif=tag.tobytes()))
    wanted = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tiff"), wanted)
    assert read_size(tmp_path / "a.tiff") == (wanted.shape[1], wanted.shape[0])


@pytest.mark.parametrize("marker", [b"\xff\xe0\x00\x07JFIF\x00", b"\xff\xee\x00\x07Adobe"])
def test_short_markers_of_jpeg_are_ignored(tmp_path, marker):
    raw = saved("JPEG", quality=95)
    (tmp_path / "a.jpg").write_bytes(raw[:2] + marker + raw[2:])
    assert read_image(tmp_path / "a.jpg").shape == PICTURE.shape
