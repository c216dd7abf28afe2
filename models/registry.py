"""Registry of models and their typed options.

A model is an ``nn.Module`` built from one frozen dataclass of options::

    @register("sgm", SgmOptions)
    class Sgm(nn.Module):
        def __init__(self, options: SgmOptions) -> None: ...

and has ``encode_images``, ``encode_captions``, ``score`` and ``loss`` (see ``MatchingModel``).
docs/plugins.md shows how to add one outside of this package.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from features.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from features.batches import CaptionBatch, ImageBatch
    from models.compute import Exchange

__all__ = [
    "MODELS",
    "MatchingModel",
    "WordRegions",
    "build_options",
    "create",
    "list_models",
    "options_class",
    "options_for",
    "reads_unions",
    "register",
]

M = TypeVar("M", bound=type)


class MatchingModel(Protocol):
    """Interface of a model in training, scoring and evaluation.

    Codes are named tuples of tensors whose first axis is the item; other axes may be padded with
    zeros (masks with False). ``plain_score`` is a literal implementation of the definition for one
    caption, the reference for tests and benchmarks of ``score``; training, evaluation and search do
    not call it. A model with ``learns = False`` is evaluated without training and has no loss.

    A model that does not use the features of union boxes sets ``reads_unions = False`` and gets
    batches without them; with 36 objects and 25 relations they are two fifths of the bytes.
    """

    options: Any

    def encode_images(self, images: ImageBatch) -> tuple[Tensor, ...]:
        """Return the codes of images, as ``score`` takes them."""
        ...

    def encode_captions(self, captions: CaptionBatch) -> tuple[Tensor, ...]:
        """Return the codes of captions, as ``score`` takes them."""
        ...

    def score(self, images: tuple[Tensor, ...], captions: tuple[Tensor, ...]) -> Tensor:
        """Return (n_images, n_captions) similarities."""
        ...

    def plain_score(self, images: tuple[Tensor, ...], captions: tuple[Tensor, ...]) -> Tensor:
        """Return (n_images, 1) similarities to one caption, computed literally."""
        ...

    def loss(self, images: ImageBatch, captions: CaptionBatch, exchange: Exchange) -> Tensor:
        """Return the training loss, a scalar.

        Args:
            images, captions: B pairs; row i of the images matches row i of the captions.
            exchange: ``exchange.scores(self, images, captions)`` returns the scores of the whole
                batch, ``exchange.rows(captions.image_rows)`` its images, also if this process has
                only some of the pairs.
        """
        ...


class WordRegions(NamedTuple):
    """How the words of one caption relate to the regions of one image, for displays.

    A model that aligns words with regions has ``word_regions(images, captions)``, which takes the
    codes of one image and one caption and returns this, or None.

    Attributes:
        rows: what the rows are: ``words`` (position 0 is ``<start>``) or ``ends``, the subject and
            object of each triplet in turn.
        weights: (T, R).
        what: what the numbers are, for readers: ``attention``, ``similarity``.
    """

    rows: str
    weights: Tensor
    what: str


MODELS: Registry[Any] = Registry(
    "model",
    "scenestore.models",
    {
        "cfsgr": "models.papers.cfsgr",
        "clip": "models.baselines.clip",
        "gsmn": "models.papers.gsmn",
        "hrem": "models.papers.hrem",
        "racg": "models.papers.racg",
        "scan": "models.baselines.scan",
        "sgm": "models.papers.sgm",
        "tfidf": "models.baselines.tfidf",
        "vse": "models.baselines.vse",
    },
)
_OPTIONS: dict[str, type] = {}  # name -> options class


def register(name: str, options: type) -> Callable[[M], M]:
    """Return a decorator that registers a model class under ``name``.

    Args:
        name: lower-case name of the model.
        options: frozen dataclass; the model's only constructor argument.

    Raises:
        UsageError: the name is taken by another class.
    """

    def add(model: M) -> M:
        MODELS.register(name)(model)
        _OPTIONS[name] = options
        return model

    return add


def reads_unions(model: object) -> bool:
    """Return whether a model uses the features of union boxes; the default is True."""
    return bool(getattr(model, "reads_unions", True))


def list_models() -> list[str]:
    """Return the names of all models, including those of installed plug-ins, sorted."""
    return MODELS.names()


def options_class(name: str) -> type:
    """Return the options dataclass of a model. Raises: UnknownName."""
    MODELS.get(name)  # imports the module that defines it
    return _OPTIONS[name]


def create(name: str, **options: object) -> Any:
    """Build a model; options that are not given keep their defaults.

    Raises:
        UnknownName: no such model.
        ConfigError: an unknown option, or a value of the wrong type.
    """
    return MODELS.get(name)(build_options(name, **options))


def build_options(name: str, **options: object) -> Any:
    """Check options and return the model's options dataclass.

    Raises: ConfigError: an unknown option, or a value of the wrong type.
    """
    from models.configuration import checked_options  # loads pydantic

    kind = options_class(name)
    return kind(**checked_options(kind, options, f"model {name!r}"))


def options_for(
    name: str, store: Any, codebook: Any, image_dim: int | None = None, **overrides: object
) -> Any:
    """Return a model's options with the sizes that depend on the data.

    Args:
        name: the model.
        store: an open store, for the feature width if ``image_dim`` is None.
        codebook: for the numbers of words, labels, predicates and tags.
        image_dim: width of a region feature.
        overrides: any other option; takes precedence over the data.
    """
    known = {item.name for item in dataclasses.fields(options_class(name))}
    if image_dim is None:
        image_dim = int(store.row_shape("object_features")[-1])
    data = {
        "image_dim": image_dim,
        "vocab_size": len(codebook.words),
        "n_labels": len(codebook.labels),
        "n_predicates": len(codebook.predicates),
        "n_tags": len(codebook.tags),
    }
    filled = {key: value for key, value in data.items() if key in known}
    return build_options(name, **{**filled, **overrides})
