"""Check the opcodes of a pickle before it is loaded.

The C unpickler trusts some numbers of the file before it reads the bytes after them: a memo index
of 200,000,000 in a nine-byte pickle allocates 3 GB, and so does the stated length of a bytearray.
A frame is read as one block, and an opcode that crosses its end makes the unpickler continue at a
wrong position; no pickler writes one.
"""

from __future__ import annotations

import pickle
import pickletools

_LINE, _PAIR = -1, -2
_COUNTS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


def _widths() -> tuple[list[int | None], list[int]]:
    """Return for each opcode the bytes of its argument (or a line code) and of its length."""
    widths: list[int | None] = [None] * 256
    counts = [0] * 256
    for opcode in pickletools.opcodes:
        code, argument = ord(opcode.code), opcode.arg
        if argument is None:
            widths[code] = 0
        elif argument.name == "stringnl_noescape_pair":
            widths[code] = _PAIR
        elif argument.n == pickletools.UP_TO_NEWLINE:
            widths[code] = _LINE
        else:
            counts[code] = _COUNTS.get(argument.n, 0)
            widths[code] = counts[code] or argument.n
    return widths, counts


_WIDTHS, _LENGTHS = _widths()
_STOP, _FRAME = pickle.STOP[0], pickle.FRAME[0]
_PUT, _LONG_PUT = pickle.PUT[0], pickle.LONG_BINPUT[0]


def check_opcodes(data: bytes) -> None:
    """Compare the numbers stated in a pickle with its length; cheap, because data are skipped.

    Raises: UnpicklingError: a memo index, length or frame that the pickle cannot have.
    """
    at = frame = 0
    end = len(data)
    while at < end:
        if at >= frame:
            frame = end  # past the frame, if there was one
        code = data[at]
        start, at = at + 1, at + 1
        width = _WIDTHS[code]
        if width == 0:
            if code == _STOP:
                return
            continue
        if width is None:
            return  # unknown opcode: the unpickler stops here, too
        if width < 0:
            for _ in range(-width):
                at = data.find(b"\n", at) + 1 or end + 1
        else:
            at += width
            if _LENGTHS[code]:
                at += int.from_bytes(data[start:at], "little")
        if at > frame:
            raise pickle.UnpicklingError(f"the opcode at byte {start - 1} reads past the end")
        if code == _FRAME:
            if frame != end:
                raise pickle.UnpicklingError("a frame inside a frame")
            frame = at + int.from_bytes(data[start:at], "little")
            if frame > end:
                raise pickle.UnpicklingError("a frame longer than the pickle")
        elif code in (_PUT, _LONG_PUT):
            place = data[start:at]
            number = int.from_bytes(place, "little") if code == _LONG_PUT else int(place)
            if number > end:  # every memo entry needs bytes of its own
                raise pickle.UnpicklingError(f"a memo index beyond {end}")
