"""What a run leaves behind: ``last.pt`` to go on from, ``best.safetensors`` to use.

Files are written beside their place, synced and moved into it, so that a reader always finds a
whole file: the new one or the one before. Nothing in them is pickled code: they are read with
``weights_only``.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from features.errors import MismatchError, MissingInput, TrainingError
from features.format.files import partial_path, publish

__all__ = [
    "BEST",
    "LAST",
    "load_best",
    "load_last",
    "load_weights",
    "read_best_metadata",
    "rng_state",
    "save_best",
    "save_last",
    "set_rng_state",
]

LAST = "last.pt"
BEST = "best.safetensors"
FORMAT = 1


def save_last(path: Path, state: dict[str, Any]) -> None:
    """Write a whole training state. Raises: TrainingError: not written; the old one still stands.

    Args:
        path: where; usually RUN/last.pt.
        state: tensors and plain Python values only.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    _replace(path, buffer.getbuffer())


def load_last(path: Path) -> dict[str, Any]:
    """Read a training state onto the CPU.

    Raises:
        MissingInput: no such file.
        TrainingError: not a checkpoint, or one of a newer format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise MissingInput(f"{path}: there is no checkpoint. Check --run.resume.") from error
    except Exception as error:  # torch raises whatever its zip reader or unpickler meets
        message = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"{path}: is not a usable checkpoint ({type(error).__name__}: {message}). "
            "Start afresh with --run.resume never, or name another file."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        known = state.get("format") if isinstance(state, dict) else None
        raise TrainingError(f"{path}: has checkpoint format {known}, this version reads {FORMAT}.")
    return dict(state)


def save_best(path: Path, model: nn.Module, metadata: dict[str, Any]) -> None:
    """Write the weights alone, with ``metadata`` as JSON in the file's header.

    Raises: TrainingError: not written; the old file still stands.
    """
    # tied weights would be refused: every tensor gets storage of its own
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in _state(model)}
    header = {"format": "pt", "scenestore": json.dumps(metadata, sort_keys=True)}
    _replace(path, safetensors_bytes(weights, metadata=header))


def load_best(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (weights, metadata) of a file written by ``save_best``.

    Raises:
        MissingInput: no such file.
        TrainingError: not such a file.
    """
    metadata = read_best_metadata(path)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118


def read_best_metadata(path: Path) -> dict[str, Any]:
    """Return only the metadata; raises like ``load_best``."""
    if not path.is_file():
        raise MissingInput(
            f"{path}: there are no weights here. Train first, or check the run folder."
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        return dict(json.loads(header["scenestore"]))
    except (SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{path}: was not written by models.train ({error}).") from error


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Fill a model. Raises: MismatchError: names or shapes differ; says which."""
    own = dict(_state(model))
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & weights.keys())
        if own[name].shape != weights[name].shape
    ]
    if missing or extra or shapes:
        parts = [
            f"{what} {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
            for what, names in (("missing", missing), ("unknown", extra), ("shape of", shapes))
            if names
        ]
        raise MismatchError(f"{source}: the weights do not fit the model: {'; '.join(parts)}.")
    model.load_state_dict(weights)


def rng_state(device: torch.device) -> dict[str, Any]:
    """Return the state of Python's, numpy's and torch's generators, as plain numbers."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, gauss],
        "torch": torch.get_rng_state().tolist(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device).tolist()
    return state


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Put the generators back into a state that ``rng_state`` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.asarray(keys, np.uint32), *rest))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8), device)


def _state(model: nn.Module) -> list[tuple[str, Tensor]]:
    return list(model.state_dict().items())


def _replace(path: Path, content: bytes | memoryview) -> None:
    """Write ``content`` so that ``path`` is always whole."""
    partial = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        publish(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)  # the first error is the one to report
        kept = " The one before is kept." if path.exists() else ""
        raise TrainingError(
            f"{path}: could not be written ({error.strerror or error}).{kept} "
            "Free some space or choose another --run.folder, then run the same command again."
        ) from error
