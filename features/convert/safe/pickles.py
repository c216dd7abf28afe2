"""Load pickles and .npy files from untrusted sources without running code.

A pickle is a program. The unpickler here resolves no class or function of the system: the few
names that numpy arrays, numbers and plain containers need are replaced by stand-ins defined here,
which check their arguments; every other name is an InputError.
"""

from __future__ import annotations

import io
import pickle
import re
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from features.convert.safe.inputs import damaged, opened
from features.convert.safe.opcodes import check_opcodes
from features.convert.safe.values import brief
from features.errors import InputError

Array = npt.NDArray[np.generic]
_NUMERIC = re.compile(r"[<>|=]?[biufcSU]\d{1,6}|[<>|=]?O8?|[?bBhHiIlLqQefdg]")
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUFFERS = ("numpy.core.numeric", "numpy._core.numeric")
_PLAIN = (str, bytes, bytearray, int, float, complex, type(None))
_DAMAGED = (ValueError, TypeError, LookupError, EOFError, OverflowError, MemoryError)
_BROKEN = (*_DAMAGED, RecursionError, pickle.UnpicklingError, AttributeError, ImportError)
_ADVICE = (
    "Only numbers, text, lists, dicts and numpy arrays are loaded, because a pickle with anything "
    "else can run code."
)

BROKEN_ARRAY = (*_DAMAGED, RecursionError, OSError, SyntaxError, tokenize.TokenError)
"""Errors of numpy for a damaged .npy header, which it parses as a Python literal."""


class _Budget:
    """How much data stand-ins may create from one pickle: four times its size.

    Without a limit, a few bytes each could turn one long text into bytes again and again.
    """

    def __init__(self, size: int) -> None:
        self.left = 4 * size

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise pickle.UnpicklingError("more data than the pickle has bytes")


class _Call:
    """A function that a pickle may name and call but not modify."""

    __slots__ = ("_budget", "_function")

    def __init__(self, function: Callable[..., object], budget: _Budget) -> None:
        self._function, self._budget = function, budget

    def __call__(self, *args: object) -> object:
        return self._function(self._budget, *args)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("state for a function")


class _Type:
    """Stand-in for ``numpy.dtype``: only plain numbers, strings and object."""

    def __init__(self, _: _Budget, code: object = "", *_more: object) -> None:
        if not isinstance(code, str) or not _NUMERIC.fullmatch(code):
            raise pickle.UnpicklingError(f"an array of type {brief(code)}")
        self.code = code

    def __setstate__(self, state: tuple[object, ...]) -> None:
        # only the byte order of the state is used; fields, sizes and flags could be forged
        if state[1] in ("<", ">") and self.code[0] not in "<>|=":
            self.code = f"{state[1]}{self.code}"


class _Array:
    """Stand-in for an array while it is loaded; ``value`` is the real one."""

    value: Array | None = None

    def __init__(self, budget: _Budget, *_: object) -> None:
        self.budget = budget

    def __setstate__(self, state: tuple[object, ...]) -> None:
        _, shape, kind, fortran, data = state
        self.value = _build(self.budget, shape, kind, data, fortran=bool(fortran))


def _nothing(*_: object) -> None:
    """Stand-in for ``numpy.ndarray``, which may be named but not called."""
    raise pickle.UnpicklingError("a direct call of numpy.ndarray")


def _build(budget: _Budget, shape: object, kind: object, data: object, *, fortran: bool) -> Array:
    if not isinstance(shape, tuple) or not isinstance(kind, _Type):
        raise pickle.UnpicklingError("an array without shape or type")
    dtype: np.dtype[np.generic] = np.dtype(kind.code)
    if isinstance(data, (list, str, bytes, bytearray)):
        budget.spend(len(data))
    if dtype.kind == "O":
        if not isinstance(data, list):
            raise pickle.UnpicklingError("an object array whose data are not a list")
        flat = np.empty(len(data), dtype=object)
        for at, item in enumerate(data):
            flat[at] = item  # one by one: numpy would unpack lists
        fortran = False  # numpy pickles objects row by row whatever their order in memory
    else:
        raw = data.encode("latin1") if isinstance(data, str) else data  # Python 2 wrote str
        if not isinstance(raw, (bytes, bytearray)):
            raise pickle.UnpicklingError("an array whose data are not bytes")
        flat = np.frombuffer(raw, dtype=dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _scalar(budget: _Budget, kind: object, data: object = None) -> object:
    return _build(budget, (1,), kind, data, fortran=False)[0].item()


def _from_buffer(
    budget: _Budget, data: object, kind: object, shape: object, order: object = "C"
) -> _Array:
    array = _Array(budget)
    array.value = _build(budget, shape, kind, data, fortran=order == "F")
    return array


def _encode(budget: _Budget, text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("a call of codecs.encode")
    budget.spend(len(text))
    return text.encode("latin1")


def _bytes(_: _Budget, *parts: object) -> bytes:
    if parts:
        raise pickle.UnpicklingError("a call of bytes")
    return b""


def _ordered(budget: _Budget, pairs: object = ()) -> dict[Any, Any]:
    if not isinstance(pairs, (list, tuple)):
        raise pickle.UnpicklingError("an OrderedDict without pairs")
    budget.spend(len(pairs))
    return dict(pairs)


_KNOWN: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _nothing,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _bytes,
    ("__builtin__", "bytes"): _bytes,
    ("collections", "OrderedDict"): _ordered,
    **{(module, "_reconstruct"): _Array for module in _MODULES},
    **{(module, "scalar"): _scalar for module in _MODULES},
    **{(module, "_frombuffer"): _from_buffer for module in _BUFFERS},
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._budget = _Budget(len(data))

    def find_class(self, module: str, name: str) -> object:
        """Return the stand-in for a name; refuse any other name."""
        try:
            return _Call(_KNOWN[module, name], self._budget)
        except KeyError:
            raise pickle.UnpicklingError(f"the name {module}.{name}") from None

    def persistent_load(self, pid: object) -> object:
        """Refuse references to objects outside the pickle."""
        raise pickle.UnpicklingError("a reference to an object outside")


def load_pickle(data: bytes, where: str) -> object:
    """Load a pickle of dicts, lists, tuples, strings, bytes, numbers and numpy arrays.

    Args:
        data: the pickle.
        where: file and key, for messages.

    Raises: InputError: the pickle is torn, or names anything else.
    """
    with damaged(f"{where}: not a plain pickle", *_BROKEN, advice=_ADVICE):
        check_opcodes(data)
        return _finish(_Unpickler(data).load(), {}, 0)


def _finish(value: object, done: dict[int, object], depth: int) -> object:
    """Replace stand-ins inside containers with the real arrays; refuse anything not plain."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, _Array) and value.value is not None:
        array = value.value
        if array.dtype == object and id(array) not in done:
            done[id(array)] = array
            for at in np.ndindex(array.shape):
                cast(Any, array)[at] = _finish(array[at], done, depth + 1)
        return array
    if id(value) in done:
        return done[id(value)]
    if depth > 50:
        raise pickle.UnpicklingError("containers nested more than 50 deep")
    if isinstance(value, dict):
        done[id(value)] = value
        for key in value:
            parts = key if isinstance(key, tuple) else (key,)
            if not all(isinstance(part, _PLAIN) for part in parts):
                raise pickle.UnpicklingError("a key that is not a number or text")
            value[key] = _finish(value[key], done, depth + 1)
        return value
    if isinstance(value, list):
        done[id(value)] = value
        value[:] = [_finish(item, done, depth + 1) for item in value]
        return value
    if isinstance(value, tuple):
        parts = tuple(_finish(item, done, depth + 1) for item in value)
        done[id(value)] = parts
        return parts
    raise pickle.UnpicklingError(f"a bare {type(value).__name__.strip('_')}")


def load_array(path: Path | str) -> Array:
    """Open a .npy file: numbers as a read-only memory map, object arrays with ``load_pickle``.

    Raises: MissingInput: no such file. InputError: not a .npy file, or a torn one.
    """
    path = Path(path)
    with damaged(f"{path}: not a complete .npy file", *BROKEN_ARRAY):
        with opened(path) as file:
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(file)
            if dtype.hasobject:
                value = load_pickle(file.read(), str(path))
                if not isinstance(value, np.ndarray) or value.shape != shape:
                    raise InputError(f"{path}: the pickle inside is not an array of shape {shape}.")
                return value
        if dtype.names is not None:
            raise ValueError("a table with named fields")
        if 0 in shape:
            return np.empty(shape, dtype)
        return cast(Array, np.load(path, mmap_mode="r", allow_pickle=False))
