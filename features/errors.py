"""All errors that Scenestore raises on purpose, as one tree.

Each error also derives from the builtin exception that a caller would catch. Its message says what
happened (with file, key and value) and then what to do::

    ScenestoreError
    ├── UsageError (ValueError)              an option, path or configuration from the user
    │   ├── MissingInput (FileNotFoundError) a file or folder that does not exist
    │   ├── UnknownName (KeyError)           an unknown detector, parser, model, split or id
    │   └── ConfigError                      a YAML file or --section.key override
    ├── MissingDependency (ImportError)      an optional package; the message has the pip command
    ├── InputError (ValueError)              an input file that cannot be read in its format
    │   └── ImageError                       an image that cannot be decoded
    ├── UnreadableInput (OSError)            an input that is missing, changed or out of reach now
    │   └── UnreadableImage (ImageError)     an image file of that kind
    ├── PluginError (RuntimeError)           a plug-in that failed or returned unusable values
    ├── StoreError (OSError)                 a problem with the store on disk
    │   ├── FormatError (ValueError)         not a store, or an invalid manifest
    │   │   └── NewerFormatError             written by a newer release
    │   ├── DamagedError (ValueError)        bytes differ from what was written
    │   ├── WriteError                       disk full, permission denied, read-only folder
    │   └── MismatchError (ValueError)       variants or runs that belong to different data
    ├── FeatureOverflow (OverflowError)      a value outside the range of float16
    ├── StageError (RuntimeError)            a build stage that lost a shard or a worker
    └── TrainingError (RuntimeError)         NaN loss, out of memory, unusable checkpoint
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
    "PluginError",
    "ScenestoreError",
    "StageError",
    "StoreError",
    "TrainingError",
    "UnknownName",
    "UnreadableImage",
    "UnreadableInput",
    "UsageError",
    "WriteError",
]


_LISTED = 24  # names in a message; of more, such as the ids of a store, a few as examples
_EXAMPLES = 3
_COMPARED = 10_000  # names searched for the nearest one: a store can have millions of ids


class ScenestoreError(Exception):
    """Base class of all errors raised on purpose; the message is meant for the user."""

    def __str__(self) -> str:
        """Return the message unquoted (``KeyError`` would quote it)."""
        return " ".join(str(part) for part in self.args)


class UsageError(ScenestoreError, ValueError):
    """An option, path or value from the user is invalid."""


class MissingInput(UsageError, FileNotFoundError):
    """A file or folder that the user named does not exist."""


class UnknownName(UsageError, KeyError):
    """A name is unknown; the message suggests the nearest known one."""

    @classmethod
    def of(cls, what: str, name: str, known: Iterable[str]) -> UnknownName:
        """Return the error for an unknown name.

        Args:
            what: what the name stands for, for example ``"detector"``.
            name: what the user wrote.
            known: the names that exist; the nearest one is suggested. All are listed, or a few
                examples if they are many.
        """
        names = list(known)
        compared = sorted(names[:_COMPARED])
        near = difflib.get_close_matches(name, compared, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        if len(names) <= _LISTED:
            return cls(f"unknown {what} {name!r}.{hint} Known: {', '.join(compared) or 'none'}.")
        some = ", ".join(compared[:_EXAMPLES])
        return cls(f"unknown {what} {name!r}.{hint} Known: {len(names):,}, for example {some}.")


class ConfigError(UsageError):
    """A configuration file or override cannot be used."""


class MissingDependency(ScenestoreError, ImportError):
    """An optional package is not installed; the message ends with the pip command."""

    @classmethod
    def of(cls, package: str, why: str, command: str) -> MissingDependency:
        """Return the error for a package, why it is needed and the command that installs it."""
        return cls(f"{why} needs the package {package!r}, which is not installed. Run: {command}")


class InputError(ScenestoreError, ValueError):
    """An input file cannot be read in the format it should have."""


class ImageError(InputError):
    """An image cannot be decoded, or is too large to be decoded safely."""


class UnreadableInput(ScenestoreError, OSError):
    """An input cannot be read now: it is missing, changed, locked, or the machine is out of memory.

    Nothing is known about its contents, so a build never skips it; a later run may succeed.
    """


class UnreadableImage(UnreadableInput, ImageError):
    """An image file cannot be read now; whether it holds an image is unknown."""


class PluginError(ScenestoreError, RuntimeError):
    """A detector, relation predictor, feature extractor or parser failed.

    Its results depend on code that may change without its name or version, so a build that leaves
    out the image stores the other images under another key.
    """


class StoreError(ScenestoreError, OSError):
    """A store on disk cannot be used."""


class FormatError(StoreError, ValueError):
    """The path is not a store, or its manifest is invalid."""


class NewerFormatError(FormatError):
    """A file was written by a newer release; this one must not change it."""


class DamagedError(StoreError, ValueError):
    """Bytes on disk differ from what was written."""


class WriteError(StoreError):
    """A shard or manifest could not be written; the previous file, if any, is unchanged."""


class MismatchError(StoreError, ValueError):
    """Two inputs that must belong to the same data do not."""


class FeatureOverflow(ScenestoreError, OverflowError):
    """A feature value is not finite or does not fit the stored type."""


class StageError(ScenestoreError, RuntimeError):
    """A build stage failed; finished shards are kept and the next run continues from them."""


class TrainingError(ScenestoreError, RuntimeError):
    """A training or evaluation job had to stop; the last checkpoint is unchanged."""
