"""The values of an LMDB file, read by a process that a damaged file may crash."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

from features.errors import InputError

_LENGTH = 8
_TAG = 1


class LmdbProcess:
    """An LMDB environment in a process of its own; see ``lmdb_child``.

    Args:
        path: the folder, or the file.

    Attributes:
        keys: all keys, in the order of the file.

    Raises: InputError: not an LMDB file, a torn or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        child = Path(__file__).with_name("lmdb_child.py")
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(child), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.close = weakref.finalize(self, _end, self._process)
        self.keys: list[bytes] = []
        while True:
            tag, data = self._frame("its list of keys")
            if tag == b".":
                break
            if tag != b"K":
                raise self._unreadable(data.decode("utf-8", "replace"))
            self.keys.append(data)

    def get(self, key: bytes) -> bytes:
        """Return the value of a key.

        Raises: InputError: the file is damaged there.
        """
        what = f"key {key.decode('utf-8', 'backslashreplace')!r}"
        with self._lock:
            with contextlib.suppress(OSError):  # it has crashed: the answer is missing
                assert self._process.stdin is not None
                self._process.stdin.write(len(key).to_bytes(_LENGTH, "big") + key)
                self._process.stdin.flush()
            tag, data = self._frame(what)
        if tag != b"V":
            raise self._unreadable(f"{what}: {data.decode('utf-8', 'replace')}")
        return data

    def _frame(self, what: str) -> tuple[bytes, bytes]:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # closed
            head = self._process.stdout.read(_TAG + _LENGTH)
            size = int.from_bytes(head[_TAG:], "big")
            data = self._process.stdout.read(size)
            if len(head) == _TAG + _LENGTH and len(data) == size:
                return head[:_TAG], data
        code = self._process.wait()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise self._unreadable(f"reading {what} ended the process that reads it: {name}")

    def _unreadable(self, reason: str) -> InputError:
        self.close()
        return InputError(
            f"{self.path}: cannot be read as LMDB ({reason}). The file is damaged: copy it again."
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            assert stream is not None
            stream.close()
    process.kill()
    process.wait()
