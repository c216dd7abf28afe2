"""What a run works on: the opened store, its splits, the codebook, the model; and its lineage."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import ConfigError, MismatchError
from models.configuration.config import Config, from_dict, to_dict
from models.registry import build_options, options_class, options_for

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from features.batches.batch import CaptionBatch, ImageBatch
    from features.store import Store
    from features.vocab.codebook import Codebook
    from models.compute.distributed import World
    from models.evaluation.metrics import Recall

__all__ = [
    "CODEBOOK",
    "STORE",
    "Data",
    "about_run",
    "about_store",
    "check_keys",
    "check_resumable",
    "make_model",
    "open_data",
    "resolve_split",
    "store_keys",
]

CODEBOOK = "codebook.json"
STORE = "store.json"
"""What a run says about the store that it reads, so that ``features gc`` keeps it."""
_FREE = {
    "data": frozenset({"store", "eval_batch_size"}),
    "run": frozenset(
        {
            *("folder", "epochs", "max_steps", "device", "deterministic", "threads", "resume"),
            *("eval_epochs", "eval_steps", "save_steps", "log_steps", "patience", "tensorboard"),
        }
    ),
}
"""What may change when a run goes on."""
_PARTS = re.compile(r"(\[-?\d*:-?\d*\])+$")  # of a split, see ``Store.image_rows``


@dataclass(frozen=True)
class Data:
    """An opened store as one configuration sees it.

    Attributes:
        config: the run.   store: the opened store.   codebook: ids of words, labels, ...
        keys: what the store is made of, see ``store_keys``.
    """

    config: Config
    store: Store
    codebook: Codebook
    keys: dict[str, str]

    def batches_per_epoch(self, world: int) -> int:
        """Return how many batches an epoch has, the same on each of ``world`` ranks.

        Raises: ConfigError: the batch cannot be shared equally, or there is nothing to learn from.
        """
        size, group = self.config.data.batch_size, self.config.data.neighbours
        if self.config.data.neighbours_from and size % group:
            raise ConfigError(
                f"data.batch_size {size} is no multiple of data.neighbours {group}; choose one."
            )
        if size % world:
            raise ConfigError(
                f"data.batch_size {size} cannot be shared by {world} ranks; choose a multiple."
            )
        pairs = len(self.store.caption_rows(self.config.data.train))
        if pairs == 0:
            raise ConfigError(f"split {self.config.data.train!r} has no captions to learn from.")
        return -(-pairs // size)

    def train_batches(
        self, epoch: int, pairs: int, world: World, *, unions: bool = True
    ) -> Iterable[Any]:
        """Return this rank's batches of an epoch, from where ``pairs`` of it have been used.

        ``unions=False`` leaves the features of union boxes out.
        """
        data, seed = self.config.data, self.config.run.seed
        options: dict[str, Any] = {
            "batch_size": data.batch_size // world.size,
            "codebook": self.codebook,
            "rank": world.rank,
            "world": world.size,
            "start_step": pairs // data.batch_size,
            "unions": unions,
        }
        if not 0 < data.neighbours_from <= epoch + 1:
            return self.store.loader(
                data.train, seed=seed, epoch=epoch, order=data.order, **options
            )
        from models.training.neighbours import NeighbourLoader, neighbour_order

        rows = neighbour_order(
            self.store,
            data.train,
            self._points,
            clusters=data.clusters,
            per_cluster=data.neighbours,
            batch_size=data.batch_size,
            batches=self.batches_per_epoch(world.size),
            seed=seed * 100_003 + epoch,
        )
        return NeighbourLoader(self.store, data.train, rows=rows, **options)

    @functools.cached_property
    def stand_in(self) -> tuple[ImageBatch, CaptionBatch]:
        """One pair of the split, for a rank that has none in the last step of an epoch."""
        rows: dict[str, Any] = {
            "batch_size": 1,
            "codebook": self.codebook,
            "shuffle": False,
            "prefetch": 0,
        }
        pair: tuple[ImageBatch, CaptionBatch] = next(
            iter(self.store.loader(self.config.data.train, **rows))
        )
        return pair

    @functools.cached_property
    def _points(self) -> Tensor:
        from models.training.neighbours import mean_regions

        return mean_regions(self.store, self.config.data.train, self.codebook)

    def evaluate(
        self, model: nn.Module, device: torch.device, world: World | None = None
    ) -> Recall | None:
        """Return the recall on the validation split, scored by all ranks; None but on the first."""
        from models.compute.distributed import World
        from models.evaluation.metrics import recall
        from models.evaluation.score_shares import score_split

        split, size = self.config.data.val, self.config.data.eval_batch_size
        sims = score_split(
            model,
            self.store,
            split,
            self.codebook,
            world or World(),
            device=device,
            batch_size=size,
        )
        return None if sims is None else recall(sims, self.store.caption_image_rows(split))


def open_data(config: Config) -> Data:
    """Open the store of a run, name its splits and fix its codebook in the run folder.

    A run that goes on uses the codebook in its folder, whatever the store would give now.

    Raises: ConfigError, MissingInput, FormatError, UnknownName: what cannot be opened, and why.
    """
    from features.store import open_store
    from features.vocab.codebook import Codebook

    if not config.data.store:
        raise ConfigError("data.store is missing; name a store: --data.store FOLDER.")
    store = open_store(config.data.store)
    for split in (config.data.train, config.data.val):
        resolve_split(store, split)
    if _base(config.data.val) == "test" != _base(config.data.train):
        raise ConfigError(
            "data.val is 'test': weights must not be selected on the test split; use val."
        )
    saved, last = (Path(config.run.folder) / name for name in (CODEBOOK, "last.pt"))
    goes_on = last.is_file() if config.run.resume == "auto" else config.run.resume != "never"
    if goes_on and saved.exists():  # one alone may be of another store
        codebook = Codebook.load(saved)
    else:
        codebook = Codebook.from_store(store, vocab=config.data.vocab)
    return Data(config, store, codebook, store_keys(store))


def _base(split: str) -> str:
    return _PARTS.sub("", split)


def resolve_split(store: Store, split: str) -> str:
    """Check that a split, or a part of one such as ``val[:-200]``, has images; return it.

    Raises:
        UnknownName: no such split.
        ConfigError: the part has no image.
    """
    if not len(store.image_rows(split)):
        name = _base(split)
        images = len(store.image_rows(name))
        raise ConfigError(f"split {split!r} is empty: {name!r} has {images} images.")
    return split


def store_keys(store: Store) -> dict[str, str]:
    """Return what identifies the data behind a store: the key and content hash of each group."""
    groups: Mapping[str, Mapping[str, Any]] = store.manifest["groups"]
    keys = {name: f"{entry['key'][:12]}/{entry['hash'][:12]}" for name, entry in groups.items()}
    return {"store": store.hash[:12], **dict(sorted(keys.items()))}


def about_store(store: Store) -> str:
    """Return ``store.json``: name, key and hash of a store's manifest, and its groups."""
    manifest = store.manifest
    about = {
        "path": str(store.path),
        **{name: manifest[name] for name in ("key", "hash", "groups")},
    }
    return json.dumps(about, indent=1) + "\n"


def check_keys(trained: Mapping[str, str], given: Mapping[str, str], what: str, cure: str) -> None:
    """Raise MismatchError when a store is not the one that weights were trained on.

    Args:
        trained: keys kept with the weights.   given: keys of the store at hand.
        what: the weights, for the message.   cure: what to do.
    """
    different = sorted(
        name for name in {*trained, *given} - {"store"} if trained.get(name) != given.get(name)
    )
    if different:
        parts = [f"{n} {trained.get(n, 'none')} != {given.get(n, 'none')}" for n in different]
        raise MismatchError(f"{what} was trained on other data: {'; '.join(parts)}. {cure}")


def make_model(config: Config, data: Data) -> Any:
    """Build the model with sizes from the data and, when asked for, word vectors."""
    import torch

    from models.registry import create
    from models.training.word_vectors import start_from_vectors

    codebook, name, vectors = data.codebook, config.model.name, config.data.vectors
    options = model_options(config)
    build_options(name, **options)  # a mistake in the options is told before data are read
    torch.manual_seed(config.run.seed)
    filled = options_for(name, data.store, codebook, None, **options)
    model: Any = create(name, **vars(filled))
    if hasattr(model, "prepare"):
        model.prepare(data.store, codebook)
    if vectors != "none" and getattr(model, "learns", True):
        start_from_vectors(model, vectors, codebook, labels=config.data.label_vectors)
    return model


def model_options(config: Config) -> dict[str, Any]:
    """Return the model's options as configured; with word vectors, their width is word_dim."""
    known = {item.name for item in dataclasses.fields(options_class(config.model.name))}
    if config.data.vectors == "none" or "word_dim" not in known:
        return dict(config.model.options)
    from models.training.word_vectors import word_width

    return word_width(config.data.vectors, config.model.options)


def about_run(
    config: Config, options: Any, keys: Mapping[str, str], **where: float
) -> dict[str, Any]:
    """Return what best.safetensors says about itself: enough to use it without its config file.

    Args:
        config: the run.   options: the model's, every field.   keys: of the store.
        where: step, epoch and rsum of the weights.
    """
    return {
        "config": to_dict(config),
        "options": dataclasses.asdict(options),
        "keys": dict(keys),
        **where,
    }


def check_resumable(
    state: Mapping[str, Any], config: Config, keys: Mapping[str, str], path: Path
) -> None:
    """Raise when a checkpoint belongs to another experiment than the one that is to go on.

    How long, where and how often may change; model, data, seed and optimiser may not: weights
    would carry settings that they were not made with.
    """
    if missing := sorted({"config", "keys", "model", "position"} - state.keys()):
        raise ConfigError(
            f"{path}: is no checkpoint of a run, it lacks {missing[0]!r}. "
            "Start afresh with --run.resume never, or name another file."
        )
    before, now = to_dict(from_dict(state["config"], str(path))), to_dict(config)
    for section, settings in now.items():
        for name in settings.keys() - _FREE.get(section, frozenset()):
            if before[section][name] != now[section][name]:
                raise ConfigError(
                    f"{path} was made with {section}.{name} = {before[section][name]!r}, now it is "
                    f"{now[section][name]!r}. Use another --run.folder, or --run.resume never."
                )
    check_keys(
        state["keys"],
        keys,
        str(path),
        "Use that store, another --run.folder, or --run.resume never.",
    )
