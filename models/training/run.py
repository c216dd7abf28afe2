"""A run on disk: the files of its folder, and its trained model."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import MismatchError, MissingInput, ScenestoreError, TrainingError
from features.format import replacing, sweep, write_errors
from features.vocab import Codebook
from models.configuration import Config, to_yaml
from models.registry import create
from models.training.lineage import (
    check_keys,
    check_metadata,
    check_same_run,
    store_keys,
    store_reference,
)

if TYPE_CHECKING:
    import torch

    from features.store import Store


@dataclass(frozen=True)
class RunFolder:
    """The folder of a training run.

    It contains ``config.yaml`` (all settings), ``codebook.json``, ``store.json`` (the store it
    was trained on), ``metrics.csv``, ``last.pt`` (to resume from), ``best.safetensors`` (the
    weights with the best rsum on the validation split) and, if configured, ``events``.
    """

    path: Path

    @property
    def codebook(self) -> Path:
        """Ids of words, labels, predicates and tags."""
        return self.path / "codebook.json"

    @property
    def metrics(self) -> Path:
        """Table of losses and evaluations."""
        return self.path / "metrics.csv"

    @property
    def last(self) -> Path:
        """Checkpoint to resume from."""
        return self.path / "last.pt"

    @property
    def best(self) -> Path:
        """Best weights, with the run's metadata."""
        return self.path / "best.safetensors"

    def checkpoint(self, resume: str) -> Path | None:
        """Return the checkpoint that ``run.resume`` names, None to start from scratch."""
        if resume == "auto":  # a link to a disk that is not there is no reason to start again
            return self.last if os.path.lexists(self.last) else None
        return None if resume == "never" else Path(resume)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Create and lock the folder; the lock is released when the process dies.

        Some network file systems have no such locks; there the folder is only created.

        Raises: TrainingError: another job has the lock. WriteError: not a writable folder.
        """
        with write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with contextlib.suppress(OSError):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise TrainingError(
                        f"{self.path}: another job is training in this run folder. Wait for it, "
                        "or choose another --run.folder."
                    ) from None
            yield
        finally:
            os.close(descriptor)

    def prepare(self, config: Config, store: Store, codebook: Codebook, *, resumed: bool) -> None:
        """Write the configuration, the codebook and a reference to the store.

        Files of an earlier run are deleted: results of its weights whenever training starts from
        scratch, and with ``run.resume: never`` its weights and codebook, too. Call this only after
        the configuration, store and model are known to be usable.

        Raises: WriteError: the folder cannot be written.
        """
        with write_errors(self.path):
            sweep(self.path)
            stale = []
            if config.run.resume == "never":
                stale = [self.codebook, self.last, self.best]
            if not resumed:
                for pattern in ("results-*", "queries-*", "evaluation-*", "trained.json"):
                    stale += self.path.glob(pattern)
            for file in stale:
                file.unlink(missing_ok=True)
        reference = json.dumps(store_reference(store), indent=1) + "\n"
        for name, text in (("config.yaml", to_yaml(config)), ("store.json", reference)):
            with replacing(self.path / name) as partial:
                partial.write_text(text, encoding="utf-8")
        if not resumed or self.saved_codebook() != codebook.digest:
            codebook.save(self.codebook)

    def saved_codebook(self) -> str:
        """Return the digest of the codebook in the folder, "" if it cannot be read."""
        with contextlib.suppress(ScenestoreError):
            return Codebook.load(self.codebook).digest
        return ""


@dataclass(frozen=True)
class Run:
    """A trained model.

    Attributes:
        folder: the run folder.   model: with the best weights, in evaluation mode.
        codebook: the ids it was trained with.   metadata: see ``run_metadata``.
    """

    folder: Path
    model: Any
    codebook: Codebook
    metadata: dict[str, Any]

    @property
    def name(self) -> str:
        """The model's registered name."""
        return str(self.metadata["config"]["model"]["name"])


def load_run(
    folder: Path, store: Store, *, device: torch.device | str = "cpu", allow_mismatch: bool = False
) -> Run:
    """Load the best weights of a run for use with a store.

    Args:
        folder: the run folder.   store: the store to use it with.   device: of the model.
        allow_mismatch: accept a store with other data than the run was trained on.

    Raises:
        MissingInput: no such folder, or no weights in it.
        MismatchError: the store has other data, or the weights do not fit the model.
    """
    from models.training.checkpoint import load_best, load_weights  # loads torch

    if not folder.is_dir():
        raise MissingInput(f"{folder}: there is no run folder. Train first, or check the path.")
    files = RunFolder(folder)
    weights, metadata = load_best(files.best)
    check_metadata(metadata, files.best)
    if not allow_mismatch:
        advice = "Use that store, or pass --allow-mismatch."
        keys = metadata["keys"], store_keys(store)
        check_keys(*keys, str(folder), advice, run=folder, store=str(store.path))
    codebook = Codebook.load(files.codebook)
    check_same_run(metadata, files.best, codebook)
    for name, value in weights.items():
        if not bool(value.isfinite().all()):
            raise TrainingError(f"{files.best}: {name} is not finite. Train the model again.")
    options = metadata["options"]
    width = store.row_shape("object_features")[-1]
    if options.get("image_dim", width) != width:
        raise MismatchError(
            f"{folder} was trained on features of width {options['image_dim']}, but those of "
            f"{store.path} have width {width}. Use a store with the same features."
        )
    model = create(metadata["config"]["model"]["name"], **options)
    load_weights(model, weights, str(folder))
    if hasattr(model, "attach"):  # its codes come from files beside a store
        model.attach(store)
    return Run(folder, model.to(device).eval(), codebook, metadata)
