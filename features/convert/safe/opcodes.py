"""A look at the opcodes of a pickle before anything is made of them.

The C unpickler believes some numbers of the file before it looks at the bytes behind them: memo
place 200,000,000 of a nine-byte pickle takes 3 GB, and a bytearray is allocated in the length that
it is said to have. A frame is read as a block, and an opcode that reaches over its end makes the
unpickler go on somewhere else than the bytes say; no pickler writes one.
"""

from __future__ import annotations

import pickle
import pickletools

__all__ = ["check_opcodes"]

_LINE, _PAIR = -1, -2
_COUNTS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


def _widths() -> tuple[list[int | None], list[int]]:
    """Return, per opcode, the bytes of its argument (or a kind of line), and of its length."""
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
    """Compare what a pickle says about itself with its length; cheap: arrays are stepped over.

    Raises: UnpicklingError: a memo place, a length or a frame that the pickle cannot have.
    """
    at = frame = 0
    end = len(data)
    while at < end:
        if at >= frame:
            frame = end  # the frame, if there was one, is used up
        code = data[at]
        start, at = at + 1, at + 1
        width = _WIDTHS[code]
        if width == 0:
            if code == _STOP:
                return
            continue
        if width is None:
            return  # the unpickler stops here as well
        if width < 0:
            for _ in range(-width):
                at = data.find(b"\n", at) + 1 or end + 1
        else:
            at += width
            if _LENGTHS[code]:
                at += int.from_bytes(data[start:at], "little")
        if at > frame:
            raise pickle.UnpicklingError(f"byte {start - 1} asks for more than there is")
        if code == _FRAME:
            if frame != end:
                raise pickle.UnpicklingError("a frame inside a frame")
            frame = at + int.from_bytes(data[start:at], "little")
            if frame > end:
                raise pickle.UnpicklingError("a frame that is longer than the pickle")
        elif code in (_PUT, _LONG_PUT):
            place = data[start:at]
            number = int.from_bytes(place, "little") if code == _LONG_PUT else int(place)
            if number > end:  # every memo place was written by bytes of its own
                raise pickle.UnpicklingError(f"a memo place beyond {end} bytes")
