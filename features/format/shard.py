"""One shard of a group: an HDF5 file and the JSON sidecar that describes it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

from features.errors import DamagedError, FormatError, NewerFormatError, StoreError
from features.format.files import closing, read_sealed, unreadable
from features.format.hdf5 import BLOCK, REPAIR, hash_rest, open_file, read_part
from features.format.record import ShardRecord
from features.format.schema import Columns, check_columns


def file_names(number: int) -> tuple[str, str]:
    """Return the names of the HDF5 file and of the sidecar of a shard."""
    return f"{number:05d}.h5", f"{number:05d}.json"


class Shard:
    """Shard ``number`` in the folder of a group, whether it exists yet or not.

    Attributes:
        path: the HDF5 file.   sidecar: the JSON file beside it, written after it.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        file, sidecar = file_names(number)
        self.path = folder / file
        self.sidecar = folder / sidecar

    def __repr__(self) -> str:
        """Return the path of the file."""
        return f"Shard({str(self.path)!r})"

    @functools.cached_property
    def record(self) -> ShardRecord:
        """The contents of the sidecar.

        Raises:
            FormatError: there is no sidecar, or it contradicts itself.
            DamagedError: its bytes differ from what was written.
        """
        return self._read()

    def _read(self) -> ShardRecord:
        document = read_sealed(self.sidecar, "shard")
        try:
            record = ShardRecord.of_document(document)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise FormatError(
                f"{self.sidecar}: not a shard description ({error!r}). Build it again."
            ) from error
        if record.number != self.number:
            raise FormatError(
                f"{self.sidecar}: describes shard {record.number}, not {self.number}."
            )
        return record

    @property
    def image_rows(self) -> range:
        """The image rows of the shard."""
        return self.record.image_rows

    def columns(self) -> Columns:
        """Read all columns into memory and check every byte of the file.

        Raises:
            FormatError: the shard does not exist.
            DamagedError: the file differs from what was written.
        """
        record = self.record
        with closing(open_file(self.path, record.size)) as descriptor:
            columns = {
                name: read_part(descriptor, self.path, name, part)
                for name, part in record.parts.items()
            }
            rest = hash_rest(descriptor, self.path, record.size, record.spans)
        if rest != record.rest:
            raise DamagedError(
                f"{self.path}: the HDF5 headers differ from what was written. {REPAIR}"
            )
        return columns

    def has_size(self, size: int) -> bool:
        """Return True when the file exists and has this size."""
        try:
            return self.path.stat().st_size == size
        except OSError:
            return False

    def finished(self, key: str, rows: range | None = None) -> ShardRecord | None:
        """Return the record if the shard is finished under a key, else None.

        Args:
            key: content key of the group.
            rows: image rows the shard must have; any if None.

        Raises: NewerFormatError: a newer release wrote it; building it here would replace that.
        """
        try:
            record = self._read()
        except NewerFormatError:
            raise
        except StoreError:
            return None
        if rows is not None and record.image_rows != rows:
            return None
        return record if record.key == key and self.has_size(record.size) else None

    def problems(self, record: ShardRecord) -> Iterator[tuple[str, str]]:
        """Yield (column, problem) for every difference between the file and a record.

        The column is "" for the file as a whole. Memory use is one block, whatever its size.

        Raises: OSError: the file is missing or cannot be read.
        """
        size = self.path.stat().st_size
        if size != record.size:
            yield "", f"has {size} bytes, {record.size} were written"
            return
        with self.path.open("rb", buffering=0) as file:
            for name, part in record.parts.items():
                digest, left = hashlib.sha256(), part.nbytes
                file.seek(part.offset)
                while left and (block := file.read(min(left, BLOCK))):
                    digest.update(block)
                    left -= len(block)
                if digest.hexdigest() != part.sha256:
                    yield name, "differs from what was written"
            rest = hash_rest(file.fileno(), self.path, record.size, record.spans)
        if rest != record.rest:
            yield "", "has HDF5 headers that differ from what was written"

    def check(self, record: ShardRecord) -> None:
        """Compare every byte of the file with a record, before the file is copied or exported.

        Raises: DamagedError: it differs. StoreError: it cannot be read.
        """
        try:
            problems = list(self.problems(record))
        except OSError as error:
            raise unreadable(self.path, error) from error
        for column, problem in problems:
            raise DamagedError(
                f"{self.path}: {column or 'the file'} {problem}. Repair it first: python -m "
                f"features verify --repair {self.path.parents[1]}"
            )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Yield (column, problem) where an intact file contradicts its sidecar or the schema."""
        import h5py  # loads libhdf5, which readers of a store do not need

        record = self.record
        with h5py.File(self.path, "r", locking=False) as file:
            for name, part in record.parts.items():
                dataset = file[name]
                found = (dataset.id.get_offset() or 0, dataset.shape, dataset.dtype.str)
                if found != (part.offset, part.shape, part.dtype):
                    yield name, f"HDF5 has (offset, shape, dtype) {found}"
                    return
        if record.group != "regions":  # plain features cannot contradict the schema
            try:
                check_columns(record.group, self.columns(), record.rows)
            except FormatError as error:
                yield "", str(error)

    def delete(self) -> None:
        """Delete the sidecar, then the file."""
        self.sidecar.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
