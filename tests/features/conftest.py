"""Damage, as tests of the store do it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def flip() -> Callable[[Path, int], None]:
    """Return what changes one bit of a file; stored files are read-only, so it is replaced."""

    def flip_bit(path: Path, bit: int) -> None:
        data = bytearray(path.read_bytes())
        data[bit // 8] ^= 1 << bit % 8
        path.unlink()
        path.write_bytes(data)

    return flip_bit
