"""Checkpoints: the training state to resume from, and the best weights.

Both are written atomically. Neither contains pickled code: they are read with ``weights_only``.
Both carry a hash of their contents, which is compared whenever they are read: a flipped bit in a
weight would otherwise train on without a word.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from features.errors import MismatchError, MissingInput, ScenestoreError, TrainingError
from features.format import replacing

FORMAT = 1

_SEAL = re.compile(rb"scenestore-sha256:([0-9a-f]{64})")
_SEAL_BYTES = 82
_COMMENT_LENGTH = 2  # bytes at the end of a zip archive without a comment


def save_last(path: Path, state: dict[str, Any]) -> None:
    """Write a training state.

    Args:
        path: usually RUN/last.pt.   state: only tensors and plain Python values.

    Raises: WriteError: the file cannot be written; the earlier one is kept.
    """
    buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError that does not say so
    torch.save({"format": FORMAT, "sealed": True, **state}, buffer)
    buffer.seek(-_COMMENT_LENGTH, io.SEEK_END)
    buffer.write(_SEAL_BYTES.to_bytes(_COMMENT_LENGTH, "little"))
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    buffer.write(f"scenestore-sha256:{digest}".encode())  # the comment of the zip archive
    with replacing(path, read_only=True) as partial:
        partial.write_bytes(buffer.getbuffer())


def load_last(path: Path) -> dict[str, Any]:
    """Read a training state onto the CPU.

    Raises:
        MissingInput: no such file.
        TrainingError: not a checkpoint, one of another format, or a damaged one.
    """
    try:
        sealed = _check_seal(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise MissingInput(f"{path}: no such checkpoint. Check --run.resume.") from error
    except TrainingError:
        raise
    except Exception as error:  # torch passes on the errors of its zip reader and unpickler
        message = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"{path}: not a usable checkpoint ({type(error).__name__}: {message}). "
            "Start again with --run.resume never, or name another file."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else None
        raise TrainingError(
            f"{path}: checkpoint format {found}, but this version reads format {FORMAT}. "
            "Use the version that wrote it, or start again with --run.resume never."
        )
    if state.pop("sealed", False) and not sealed:
        raise _damaged(path)
    return dict(state)


def _check_seal(path: Path) -> bool:
    """Compare a checkpoint with the hash at its end; return False if it has none.

    Files of earlier versions have none; their parts have checksums that are compared instead.

    Raises: TrainingError: the bytes differ from what was written.
    """
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(size - _SEAL_BYTES, 0))
        seal = _SEAL.fullmatch(file.read())
        if seal is None:
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as parts:
                    if parts.testzip() is not None:
                        raise _damaged(path)
            return False
        file.seek(0)
        digest, left = hashlib.sha256(), size - _SEAL_BYTES
        while left and (block := file.read(min(left, 1 << 22))):
            digest.update(block)
            left -= len(block)
    if digest.hexdigest().encode() != seal[1]:
        raise _damaged(path)
    return True


def _damaged(path: Path) -> TrainingError:
    return TrainingError(
        f"{path}: the bytes differ from what was written; the file is damaged. Check the disk, "
        "restore the file from a copy, or train again with --run.resume never."
    )


def weights_digest(weights: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Return the sha256 of names, shapes and values of weights, and of what is said about them."""
    digest = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_weights(path: Path, weights: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Compare the weights of a file with the hash in its header.

    Files of earlier versions have none.

    Raises: TrainingError: weights or header differ from what was written.
    """
    about = {name: value for name, value in header.items() if name not in ("format", "sha256")}
    if "sha256" not in header and set(about) <= _UNSEALED:
        return
    if header.get("sha256") != weights_digest(weights, about):
        raise _damaged(path)


_UNSEALED = {"scenestore", "model", "options", "bert"}  # in headers of earlier versions


def save_best(path: Path, model: nn.Module, metadata: dict[str, Any]) -> None:
    """Write the weights, with ``metadata`` as JSON in the header of the file.

    Raises: WriteError: the file cannot be written; the earlier one is kept.
    """
    # safetensors refuses tensors that share storage, as tied weights do
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in _state(model)}
    about = {"scenestore": json.dumps(metadata, sort_keys=True)}
    header = {"format": "pt", "sha256": weights_digest(weights, about), **about}
    with replacing(path, read_only=True) as partial:
        partial.write_bytes(safetensors_bytes(weights, metadata=header))


def load_best(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights and metadata that ``save_best`` wrote.

    Raises:
        MissingInput: no such file.
        TrainingError: not a file of ``save_best``, or a damaged one.
    """
    metadata = read_best_metadata(path)
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = file.metadata()
    except (SafetensorError, KeyError, ValueError) as error:
        raise _damaged(path) from error
    check_weights(path, weights, header)
    return weights, metadata


def read_best_metadata(path: Path) -> dict[str, Any]:
    """Read only the metadata; raises what ``load_best`` raises."""
    if not path.is_file():
        raise MissingInput(f"{path}: no such file. Train first, or check the run folder.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        return dict(json.loads(header["scenestore"]))
    except (SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(
            f"{path}: not written by models.train ({error}). Check the run folder."
        ) from error


@contextlib.contextmanager
def state_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a training state with unexpected contents into a TrainingError."""
    try:
        yield
    except (ScenestoreError, torch.OutOfMemoryError):
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        message = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"{path}: not a usable checkpoint ({type(error).__name__}: {message}). "
            "Start again with --run.resume never, or name another file."
        ) from error


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimiser; fused steps would write beyond tensors of other shapes.

    Raises: ValueError: it does not fit the parameters.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if not isinstance(value, Tensor) or value.shape not in (parameter.shape, ()):
                raise ValueError(f"{name} of the optimiser does not fit its parameter")


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load weights into a model. Raises: MismatchError: names or shapes differ."""
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
    """Return the states of the random generators of Python, numpy and torch as plain numbers."""
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
    """Restore the random generators to what ``rng_state`` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.asarray(keys, np.uint32), *rest))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8), device)


def _state(model: nn.Module) -> list[tuple[str, Tensor]]:
    return list(model.state_dict().items())
