"""Check values from untrusted files before they are used, and shorten them for messages.

A value that is not as expected is an InputError, which begins with ``where``: file and image.
"""

from __future__ import annotations

import binascii
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from features.convert.safe.inputs import damaged
from features.errors import InputError
from features.names import bad_text

MAX_BOXES = 10_000  # of one image; more means a broken file
_QUOTED = re.compile(rb"""["']*(?:[bB]["']+)?([^"']*)["']*""")
_STANDARD = bytes.maketrans(b"-_", b"+/")


def integers(where: str, what: str, values: object, count: int) -> tuple[int, ...]:
    """Return ``count`` integers from JSON, text or numpy values."""
    listed = isinstance(values, (list, tuple)) or (isinstance(values, np.ndarray) and values.ndim)
    if not listed or len(cast("Sequence[object]", values)) != count:
        raise InputError(f"{where}: {what} must be {count} numbers, not {brief(values)}.")
    numbers = []
    for value in cast("Sequence[Any]", values):
        try:
            if isinstance(value, (bool, np.bool_)):
                raise TypeError("true and false are no numbers")
            if isinstance(value, str) and not re.fullmatch(r"[0-9.eE+\s-]*", value):
                raise ValueError("Python would read 1_0 as 10")
            whole = isinstance(value, int | np.integer)  # of large ones a float is another number
            number = int(value) if whole else float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{where}: {what} {brief(value)} is not a number.") from error
        if number != number // 1:  # infinity and NaN, too
            raise InputError(f"{where}: {what} {brief(value)} is not an integer.")
        if not -(2**62) < number < 2**62:
            raise InputError(f"{where}: {what} {brief(value)} is too large.")
        numbers.append(int(number))
    return tuple(numbers)


def box_count(where: str, stated: object) -> int:
    """Return an image's number of boxes, from the file's ``num_boxes``."""
    (count,) = integers(where, "num_boxes", [stated], 1)
    if not 0 <= count <= MAX_BOXES:
        raise InputError(f"{where}: num_boxes {count} is not possible.")
    return count


def real_rows(where: str, stated: object, rows: int) -> int:
    """Return how many of ``rows`` rows are boxes, from the file's ``num_boxes`` (None: all).

    MMF's extraction writes a fixed number of rows, best first; ``num_boxes`` is how many of them
    have a score.
    """
    if stated is None:
        return rows
    (count,) = integers(where, "num_boxes", [stated], 1)
    if not 0 <= count <= rows:
        raise InputError(f"{where}: num_boxes is {count}, there are {rows} features.")
    return count


def pick_names(where: str, what: str, names: Sequence[str], codes: Iterable[int]) -> list[str]:
    """Return the names that codes stand for."""
    found = []
    for code in codes:
        if not 0 <= code < len(names):
            raise InputError(f"{where}: {what} {code} is not in a list of {len(names)}.")
        found.append(names[code])
    return found


def json_object(where: str, value: object) -> dict[str, Any]:
    """Return a value that must be a JSON object."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: must be a JSON object, not {brief(value)}.")
    return value


def json_list(where: str, entry: Mapping[str, Any], key: str) -> list[Any]:
    """Return the list at ``key``, empty if the key is missing."""
    value = entry.get(key, [])
    if not isinstance(value, list):
        raise InputError(f"{where}: {key!r} must be a list, not {brief(value)}.")
    return value


def json_objects(where: str, entry: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the list of JSON objects at ``key``, empty if the key is missing."""
    return [json_object(f"{where}, {key!r}", item) for item in json_list(where, entry, key)]


def text_of(where: str, what: str, value: object) -> str:
    """Return a name or id from a file as text.

    Bytes are UTF-8, as pickles of Python 2 have them; whole numbers become their digits. ``null``,
    ``NaN``, ``true`` and lists are no names: ``str`` would turn them into words.

    Raises: InputError: any other value.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        with damaged(f"{where}: {what} {brief(value)} is not UTF-8 text", UnicodeDecodeError):
            return value.decode()
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, float) and number.is_integer() and abs(number) < 2**53:
        number = int(number)  # pandas writes whole numbers as 3.0 where one is missing
    if isinstance(number, int) and not isinstance(number, bool) and number.bit_length() < 999:
        return str(number)
    raise InputError(f"{where}: {what} is {brief(value)}, not text.")


def decode_base64(field: bytes | str, where: str) -> bytes:
    """Decode a base64 field, in the standard or the URL-safe alphabet.

    A field in quotes, or written by Python 3 as the text ``b'...'``, is read as what is inside.
    """
    with damaged(f"{where}: not base64", ValueError, advice="The line may be torn."):
        raw = field.encode("ascii") if isinstance(field, str) else field
        quoted = _QUOTED.fullmatch(raw.strip())
        packed = (raw if quoted is None else quoted[1]).replace(b"\\n", b"")
        packed = packed.translate(_STANDARD, b"\r\n")
        return binascii.a2b_base64(packed, strict_mode=True) if packed else b""


def decode_floats(
    field: bytes | str, shape: tuple[int, int], where: str, *, size: int = 0
) -> npt.NDArray[np.float32]:
    """Decode base64 of little-endian floats into ``shape``; -1 takes the width from the length.

    They are float32 by convention. Float16 and float64 are told from it by their length, or, if
    the width is open, by their bit patterns.

    Args:
        field: base64 text.   shape: rows and width.   where: file, image and column, for messages.
        size: bytes of a number where the width is open, 0 if unknown.

    Raises: InputError: another length, or the bytes are whole numbers or of another byte order.
    """
    rows, width = shape
    raw = decode_base64(field, where)
    if width < 0:
        size = size or _float_bytes(raw)
        width = len(raw) // (size * rows) if rows else 0
    else:
        size = len(raw) // (rows * width) if rows * width else 0
    if len(raw) != size * rows * width or size not in (0, 2, 4, 8):
        raise InputError(
            f"{where}: {len(raw)} bytes, expected {4 * rows * width} for {rows} boxes of {width} "
            "float32. The line is torn, or the columns are in another order."
        )
    wide = np.frombuffer(raw, dtype=f"<f{size or 4}").reshape(rows, width)
    if _strange(wide):
        raise InputError(
            f"{where}: read as little-endian float{8 * size}, most numbers are almost 0 or huge. "
            "Write float32; whole numbers and big-endian bytes are not read."
        )
    with np.errstate(over="ignore"):
        return wide.astype(np.float32)


def _strange(values: npt.NDArray[np.floating]) -> bool:
    """Return whether bytes of another type were read as these numbers: their exponents tell.

    As floats, small whole numbers are almost 0; bytes in the wrong order are of any size.
    """
    with np.errstate(invalid="ignore"):
        sizes = np.abs(values[values != 0].astype(np.float64))
    least = 2.0**-14 if values.dtype.itemsize == 2 else 1e-20  # the least normal float16
    sizes = sizes[np.isfinite(sizes)]  # the others are reported with their place
    return bool(sizes.size and ((sizes < least) | (sizes > 1e20)).mean() > 0.1)


def _float_bytes(raw: bytes) -> int:
    """Return the bytes of a float in data of unknown type: 2, 4 or 8.

    In float32 the lower half of a number is the end of its mantissa: read as float16, it takes any
    exponent. If these halves are all of ordinary size instead, they are numbers themselves. The
    three bits that numbers widened from float16 leave there say nothing. In the same way, the lower
    halves of float64 have exponents that no feature has.
    """
    if len(raw) % 4:
        return 2 if len(raw) % 2 == 0 else 4
    with np.errstate(over="ignore", invalid="ignore"):
        low = np.unique(np.frombuffer(raw, "<u2")[::2])
        low = low[(low & 0x1FFF) != 0]
        halves = low.view("<f2").astype(np.float32)
        ordinary = (np.abs(halves) >= 2**-14) & (np.abs(halves) < 2**9)
        # 72 % of all patterns are ordinary, 36 % are and have a plus, as all features behind a ReLU
        if len(low) >= 32 and ordinary.mean() > 0.95:
            return 2
        if len(low) >= 7 and (ordinary & (halves > 0)).all():
            return 2
        if len(raw) % 8 == 0:
            words = np.abs(np.frombuffer(raw, "<f4"))
            strange = (words != 0) & ~((words > 1e-9) & (words < 1e9))
            low, high = strange[::2], strange[1::2]
            if low.sum() >= 2 and low.mean() > 0.1 and high.mean() < 0.01:
                return 8
    return 4


class _Brief(reprlib.Repr):
    """Short text of any value, even of a list that contains itself a million times."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 60, 60

    def repr_int(self, value: int, level: int) -> str:
        # Python refuses to print more than 4,300 digits
        bits = value.bit_length()
        return super().repr_int(value, level) if bits < 999 else f"an integer of {bits} bits"

    def repr_ndarray(self, array: npt.NDArray[np.generic], _level: int) -> str:
        return f"an array of {array.dtype} {array.shape}"


def brief(value: object) -> str:
    """Return a value as text for a message, at most 80 characters.

    >>> brief([[[[1] * 9] * 9] * 9] * 9)[:20]
    '[[[...], [...], [...'
    """
    return _Brief().repr(value)[:80]


def check_text(where: object, what: str, names: Iterable[str]) -> None:
    """Check that names can be written as UTF-8; JSON and file names may have surrogates."""
    for name in names:
        if reason := bad_text(name):
            raise InputError(f"{where}: {what} {name[:80]!a}: {reason}. Rename it.")
