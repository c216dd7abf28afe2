"""The table of models: names, classes and their typed options.

A model is an ``nn.Module`` built from one frozen dataclass of options::

    @register("sgm", SgmOptions)
    class Sgm(nn.Module):
        def __init__(self, options: SgmOptions) -> None: ...

and has ``encode_images``, ``encode_captions``, ``score`` and ``loss`` (see ``MatchingModel``).
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_args, get_origin

from features.errors import ConfigError
from features.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from features.batches.batch import CaptionBatch, ImageBatch

__all__ = [
    "MODELS",
    "MatchingModel",
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
    """What training, scoring and evaluation ask of a model.

    Codes are named tuples of tensors; the first axis is the item, further axes may be padded
    with zeros (masks with False), and rows can be picked or concatenated along the first axis.
    ``plain_score`` is the definition written down literally for a single caption: the reference
    that the batched ``score`` is tested and measured against.

    A model that never looks at the features of union boxes says ``reads_unions = False``, and is
    given batches without them: with 25 relations beside 36 objects, two fifths of the bytes.
    """

    options: Any

    def encode_images(self, images: ImageBatch) -> tuple[Tensor, ...]:
        """Return what ``score`` needs of each image."""
        ...

    def encode_captions(self, captions: CaptionBatch) -> tuple[Tensor, ...]:
        """Return what ``score`` needs of each caption."""
        ...

    def score(self, images: tuple[Tensor, ...], captions: tuple[Tensor, ...]) -> Tensor:
        """Return (n_images, n_captions) similarities."""
        ...

    def plain_score(self, images: tuple[Tensor, ...], captions: tuple[Tensor, ...]) -> Tensor:
        """Return (n_images, 1) similarities to one caption, without any shortcut."""
        ...

    def loss(self, images: ImageBatch, captions: CaptionBatch) -> Tensor:
        """Return the training loss of B pairs, row by row; scores the batch against itself."""
        ...


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
    """Return whether a model looks at the features of union boxes; it does unless it denies."""
    return bool(getattr(model, "reads_unions", True))


def list_models() -> list[str]:
    """Return the names of all models, sorted; those of installed plug-in packages included."""
    return MODELS.names()


def options_class(name: str) -> type:
    """Return the options dataclass of a model. Raises: UnknownName."""
    MODELS.get(name)  # imports the module that defines it
    return _OPTIONS[name]


def create(name: str, **options: object) -> Any:
    """Build a model from its options; what is not named keeps its default.

    Raises:
        UnknownName: no such model.
        ConfigError: an option nobody knows, or a value of the wrong type.
    """
    return MODELS.get(name)(build_options(name, **options))


def build_options(name: str, **options: object) -> Any:
    """Check options and return the model's options dataclass.

    Raises: ConfigError: unknown option (the nearest is suggested), wrong type or choice.
    """
    kind = options_class(name)
    known = [item.name for item in dataclasses.fields(kind)]
    hints = typing.get_type_hints(kind)
    for key, value in options.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"model {name!r} has no option {key!r}.{hint} Known: {', '.join(sorted(known))}."
            )
        options[key] = _check(name, key, value, hints[key])
    return kind(**options)


def _check(model: str, key: str, value: object, hint: object) -> object:
    """Return ``value`` if it fits the annotation, numbers widened to float where asked."""
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if value in choices:
            return value
        listed = ", ".join(repr(choice) for choice in choices)
        raise ConfigError(f"model {model!r}: option {key!r} is {value!r}, not one of {listed}.")
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    plain = tuple(get_origin(kind) or kind for kind in kinds)
    if float in plain and isinstance(value, int) and not isinstance(value, bool):
        return value if int in plain else float(value)
    if tuple in plain and isinstance(value, list):
        return tuple(value)
    fits = isinstance(value, plain) and (bool in plain or not isinstance(value, bool))
    if fits:
        return value
    wanted = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    kind_name = type(value).__name__
    raise ConfigError(
        f"model {model!r}: option {key!r} is {value!r} ({kind_name}), but it wants {wanted}."
    )


def options_for(
    name: str, store: Any, codebook: Any, image_dim: int | None = None, **overrides: object
) -> Any:
    """Return a model's options with the fields that follow from the data filled in.

    Args:
        name: the model.
        store: an open store; asked for the feature width when ``image_dim`` is None.
        codebook: its tables give vocabulary, label, predicate and tag counts.
        image_dim: width of one region feature.
        overrides: any other option; wins over what the data says.
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
