"""Read an LMDB file in a process of its own: ``python lmdb_child.py PATH``.

liblmdb follows the page numbers in its memory map without checking them, so a damaged file can end
the process that reads it. This one answers requests over its standard streams and may crash; it
imports nothing of ours. A frame is a tag, the number of bytes as 8 bytes, and the bytes:

- at first ``K`` for every key, then ``.``, or ``E`` and the reason why the file cannot be read;
- for each requested key (its length as 8 bytes, then the key) ``V`` and the value, or ``E``.
"""

import sys
from pathlib import Path
from typing import BinaryIO

import lmdb

LENGTH = 8
LEAST_ENTRY = 8  # bytes of a key with its header


def send(out: BinaryIO, tag: bytes, data: bytes = b"") -> None:
    """Write a frame."""
    out.write(tag + len(data).to_bytes(LENGTH, "big") + data)


def main(path: str) -> None:
    """Answer until the other side closes the stream."""
    asked, out = sys.stdin.buffer, sys.stdout.buffer
    folder = Path(path).is_dir()
    try:
        env = lmdb.open(path, subdir=folder, readonly=True, lock=False, max_dbs=0)
        size = (Path(path) / "data.mdb" if folder else Path(path)).stat().st_size
        wanted = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
        if size < wanted:
            send(out, b"E", f"{size} bytes, its pages need {wanted}; the copy is torn".encode())
            return
        with env.begin() as transaction:
            for number, key in enumerate(transaction.cursor().iternext(values=False)):
                if number > size // LEAST_ENTRY:
                    send(out, b"E", b"its pages refer to each other in a circle")
                    return
                send(out, b"K", bytes(key))
        send(out, b".")
        out.flush()
        while length := asked.read(LENGTH):
            key = asked.read(int.from_bytes(length, "big"))
            try:
                with env.begin() as transaction:
                    send(out, b"V", bytes(transaction.get(key) or b""))
            except lmdb.Error as error:
                send(out, b"E", str(error).encode())
            out.flush()
    except (lmdb.Error, OSError, MemoryError) as error:
        send(out, b"E", str(error).encode())


if __name__ == "__main__":
    main(sys.argv[1])
