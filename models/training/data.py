"""Data of a run: the opened store, its codebook and splits, and a model sized for them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import ConfigError
from features.store import open_store
from features.vocab import Codebook
from models.evaluation import Negatives, Recall, recall
from models.registry import MODELS, build_options, create, options_class, options_for
from models.training.lineage import store_keys
from models.training.run import RunFolder
from models.training.word_vectors import start_from_vectors, word_width

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor, nn

    from features.batches import CaptionBatch, ImageBatch
    from features.store import Store
    from models.compute import World
    from models.configuration import Config


@dataclass(frozen=True)
class Data:
    """A store as one run uses it.

    Attributes:
        config: the run.   store: the opened store.   codebook: ids of words, labels, ...
        keys: identify the data in the store, see ``store_keys``.
    """

    config: Config
    store: Store
    codebook: Codebook
    keys: dict[str, str]

    def batches_per_epoch(self, world: int) -> int:
        """Return the number of batches in an epoch, the same on each of ``world`` ranks.

        Raises: ConfigError: the batch cannot be divided equally, or the split has no captions.
        """
        size, group = self.config.data.batch_size, self.config.data.neighbours
        if self.config.data.neighbours_from and size % group:
            raise ConfigError(
                f"data.batch_size {size} is not a multiple of data.neighbours {group}. Change one."
            )
        if size % world:
            raise ConfigError(
                f"data.batch_size {size} cannot be divided among {world} ranks. Use a multiple."
            )
        pairs = len(self.store.caption_rows(self.config.data.train))
        if pairs == 0:
            raise ConfigError(f"split {self.config.data.train!r} has no captions to train on.")
        if not self.config.data.drop_last:
            return -(-pairs // size)
        if pairs < size:
            raise ConfigError(
                f"split {self.config.data.train!r} has {pairs} pairs, which do not fill one batch "
                f"of {size}. Lower --data.batch_size, or pass --data.drop_last false."
            )
        return pairs // size

    def has_neighbours(self, epoch: int) -> bool:
        """Return whether the batches of an epoch, from 0, have groups of similar images."""
        return 0 < self.config.data.neighbours_from <= epoch + 1

    def clusters(self, model: nn.Module, epoch: int) -> Tensor:
        """Return the cluster of each training image by the model's embeddings: (N,) int64.

        Raises: ConfigError: the model has no single vector for an image.
        """
        from models.training.neighbours import embeddings, k_means  # loads torch

        points = embeddings(model, self.store, self.config.data.train, self.codebook)
        count = min(self.config.data.clusters, len(points))
        return k_means(points, count, seed=self._draw(epoch))

    def _draw(self, epoch: int) -> int:
        return self.config.run.seed * 100_003 + epoch

    def train_batches(
        self,
        epoch: int,
        pairs: int,
        world: World,
        *,
        unions: bool = True,
        clusters: Tensor | None = None,
    ) -> Iterable[tuple[ImageBatch, CaptionBatch]]:
        """Return this rank's batches of an epoch.

        Args:
            epoch: from 0.   pairs: pairs of the epoch, over all ranks, to skip.
            world: this process among the ranks.   unions: load the features of union boxes.
            clusters: of the images, in an epoch with neighbours; None: those of mean regions.
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
        if not self.has_neighbours(epoch):
            return self.store.loader(
                data.train, seed=seed, epoch=epoch, order=data.order, **options
            )
        from models.training.neighbours import NeighbourLoader, neighbour_order  # loads torch

        rows = neighbour_order(
            self.store,
            data.train,
            self._mean_regions if clusters is None else None,
            labels=clusters,
            clusters=data.clusters,
            per_cluster=data.neighbours,
            batch_size=data.batch_size,
            batches=self.batches_per_epoch(world.size),
            seed=self._draw(epoch),
        )
        return NeighbourLoader(self.store, data.train, rows=rows, **options)

    @functools.cached_property
    def negatives(self) -> Negatives | None:
        """The store of false captions, if the configuration names one."""
        path = self.config.data.negatives
        return Negatives(path, self.store) if path else None

    @property
    def resume_keys(self) -> dict[str, str]:
        """``keys`` and what identifies the negatives: a resumed run needs the same ones."""
        known = self.negatives
        return self.keys if known is None else {**self.keys, "negatives": known.identity}

    def draw_negatives(
        self, captions: npt.NDArray[np.int64], epoch: int
    ) -> tuple[CaptionBatch, npt.NDArray[np.int64]] | None:
        """Return a negative of each caption that has one, and which captions those are.

        Args:
            captions: (B,) caption rows.   epoch: from 0; each epoch draws others.
        """
        if self.negatives is None:
            return None
        seed = self.config.run.seed * 100_003 + epoch
        rows, position = self.negatives.draw(captions, seed)
        return (self.negatives.batch(rows, self.codebook), position) if len(rows) else None

    @functools.cached_property
    def stand_in(self) -> tuple[ImageBatch, CaptionBatch]:
        """One pair of the split, for a rank that has none in the last step of an epoch."""
        first = self.store.loader(
            self.config.data.train,
            batch_size=1,
            codebook=self.codebook,
            shuffle=False,
            prefetch=0,
        )
        return next(iter(first))

    @functools.cached_property
    def _mean_regions(self) -> Tensor:
        from models.training.neighbours import mean_regions  # loads torch

        return mean_regions(self.store, self.config.data.train, self.codebook)

    def evaluate(
        self, model: nn.Module, device: torch.device, world: World | None = None
    ) -> Recall | None:
        """Score the validation split on all ranks; return its recall on the first, else None."""
        from models.compute import World  # loads torch
        from models.evaluation import score_split  # loads torch

        split = self.config.data.val
        sims = score_split(
            model,
            self.store,
            split,
            self.codebook,
            world or World(),
            device=device,
            batch_size=self.config.data.eval_batch_size,
        )
        return None if sims is None else recall(sims, self.store.caption_image_rows(split))


def open_data(config: Config) -> Data:
    """Open the store of a run, check its splits and choose the codebook.

    A resumed run uses the codebook beside its checkpoint; another one makes it from the store.

    Raises: ConfigError, MissingInput, FormatError, UnknownName: something cannot be used.
    """
    if not config.data.store:
        raise ConfigError("data.store is missing. Name a store: --data.store FOLDER.")
    store = open_store(config.data.store)
    for split in (config.data.train, config.data.val):
        check_split(store, split)
    if _whole(config.data.val) == "test" != _whole(config.data.train):
        raise ConfigError(
            "data.val is 'test': weights must not be selected on the test split. Use val."
        )
    # A codebook without a checkpoint could belong to another store.
    checkpoint = RunFolder(Path(config.run.folder)).checkpoint(config.run.resume)
    saved = checkpoint and RunFolder(checkpoint.parent).codebook
    if saved and saved.exists():
        codebook = Codebook.load(saved)
    else:
        codebook = Codebook.from_store(store, vocab=config.data.vocab, without=config.data.without)
    data = Data(config, store, codebook, store_keys(store))
    _ = data.negatives  # raises now if they are of other images
    return data


def _whole(split: str) -> str:
    """Return the split that ``val[:-200]`` is a part of."""
    return split.partition("[")[0]


def check_split(store: Store, split: str) -> None:
    """Check that a split, or a part of one such as ``val[:-200]``, has images.

    Raises:
        UnknownName: no such split.
        ConfigError: the part has no image.
    """
    if not len(store.image_rows(split)):
        name = _whole(split)
        images = len(store.image_rows(name))
        raise ConfigError(f"split {split!r} is empty: {name!r} has {images} images.")


def make_model(config: Config, data: Data) -> Any:
    """Build the model with sizes from the data and, if configured, initial word vectors."""
    import torch

    name, vectors = config.model.name, config.data.vectors
    options = dict(config.model.options)
    fields = {field.name for field in dataclasses.fields(options_class(name))}
    if vectors != "none" and "word_dim" in fields:
        options = word_width(vectors, options)
    build_options(name, **options)  # report a mistake in the options before any data are read
    torch.manual_seed(config.run.seed)
    filled = options_for(name, data.store, data.codebook, None, **options)
    model: Any = create(name, **vars(filled))
    needed = ("encode_captions", "encode_images", "score")
    MODELS.check(name, model, (*needed, "loss") if getattr(model, "learns", True) else needed)
    if hasattr(model, "prepare"):
        model.prepare(data.store, data.codebook)
    if vectors != "none" and getattr(model, "learns", True):
        start_from_vectors(model, vectors, data.codebook, labels=config.data.label_vectors)
    return model
