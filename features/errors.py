"""Every error that Scenestore raises on purpose, one tree.

Each error is also the builtin that a caller would catch, and its message says what happened
(with file, key and value) and then what to do::

    ScenestoreError
    ├── UsageError (ValueError)              an option, path or configuration that the user gave
    │   ├── MissingInput (FileNotFoundError) a file or folder that is not there
    │   ├── UnknownName (KeyError)           a detector, parser, model, split or id nobody knows
    │   └── ConfigError                      a YAML file or --section.key override
    ├── MissingDependency (ImportError)      an optional package; the message has the pip command
    ├── InputError (ValueError)              a file from outside that cannot be read as promised
    │   └── ImageError                       one picture that cannot be decoded
    ├── StoreError (OSError)                 something about the store on disk
    │   ├── FormatError (ValueError)         not a store, or a manifest that makes no sense
    │   │   └── NewerFormatError             written by a newer release
    │   ├── DamagedError (ValueError)        bytes that differ from what was written
    │   ├── WriteError                       disk full, permission denied, read-only folder
    │   └── MismatchError (ValueError)       variants or runs that belong to different data
    ├── FeatureOverflow (OverflowError)      a value that float16 cannot hold
    ├── StageError (RuntimeError)            a build stage that lost a shard or a worker
    └── TrainingError (RuntimeError)         NaN loss, out of memory, checkpoint not usable
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "DamagedError",
    "FeatureOverflow",
    "FormatError",
    "ImageError",
    "InputError",
    "MismatchError",
    "MissingDependency",
    "MissingInput",
    "NewerFormatError",
    "ScenestoreError",
    "StageError",
    "StoreError",
    "TrainingError",
    "UnknownName",
    "UsageError",
    "WriteError",
]


class ScenestoreError(Exception):
    """Base of all errors raised on purpose; the message is written for the user."""

    def __str__(self) -> str:
        """Return the message as written (``KeyError`` would quote it)."""
        return " ".join(str(part) for part in self.args)


class UsageError(ScenestoreError, ValueError):
    """An option, path or value that the user gave makes no sense."""


class MissingInput(UsageError, FileNotFoundError):
    """A file or folder that the user named is not there."""


class UnknownName(UsageError, KeyError):
    """A name that no registry, table or store knows; the message lists the known ones."""

    @classmethod
    def of(cls, what: str, name: str, known: Iterable[str]) -> UnknownName:
        """Build the error for one unknown name.

        Args:
            what: kind of thing, for example ``"detector"``.
            name: what the user wrote.
            known: the names that exist; the nearest one is suggested.
        """
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listed = ", ".join(names[:40]) + (f", ... ({len(names)} in all)" if len(names) > 40 else "")
        return cls(f"unknown {what} {name!r}.{hint} Known: {listed or 'none'}.")


class ConfigError(UsageError):
    """A configuration file or override cannot be used."""


class MissingDependency(ScenestoreError, ImportError):
    """An optional package is not installed; the message ends with the pip command."""

    @classmethod
    def of(cls, package: str, why: str, command: str) -> MissingDependency:
        """Build the error for one package, why it is needed and the command that installs it."""
        return cls(f"{why} needs the package {package!r}, which is not installed. Run: {command}")


class InputError(ScenestoreError, ValueError):
    """A file from outside cannot be read as the format it should have."""


class ImageError(InputError):
    """A picture cannot be decoded, or is too large to decode safely."""


class StoreError(ScenestoreError, OSError):
    """Something is wrong with a store on disk."""


class FormatError(StoreError, ValueError):
    """The path holds no store, a newer format, or a manifest that contradicts itself."""


class NewerFormatError(FormatError):
    """Written by a newer release; nothing here may touch it."""


class DamagedError(StoreError, ValueError):
    """Bytes on disk differ from what was written."""


class WriteError(StoreError):
    """A shard or manifest could not be written; what stood there before still stands."""


class MismatchError(StoreError, ValueError):
    """Two things that must belong to the same data do not."""


class FeatureOverflow(ScenestoreError, OverflowError):
    """A feature value is not finite or does not fit the stored type."""


class StageError(ScenestoreError, RuntimeError):
    """A build stage could not finish; finished shards are kept and the next run goes on there."""


class TrainingError(ScenestoreError, RuntimeError):
    """A training or evaluation job had to stop; the last checkpoint is still good."""
