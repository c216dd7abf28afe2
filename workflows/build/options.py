"""The options of a build, each declared once.

A field of ``BuildOptions`` becomes a parameter of the Luigi tasks (``takes``), a value of the plan
and a row of the README's table (``python -m workflows.build.option_table``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import luigi

from features.errors import UsageError
from pipeline.vision.visual import GraphRules
from workflows.cluster import usable_cores

__all__ = ["BuildOptions", "Option", "TextOptions", "described", "option_parameter", "takes"]

NO_DETECTOR = "none"
_RULES = GraphRules()
_Task = TypeVar("_Task", bound=type[luigi.Task])
_Options = TypeVar("_Options", bound="TextOptions")


@dataclass(frozen=True)
class Option:
    """What the command line and the documentation say about an option.

    Attributes:
        help: the help text.
        group: the first group whose content key it enters, "" if it enters none.
        values: its values as Markdown, where the help text does not list them.
        default: its default as Markdown, where the value itself says too little.
        significant: False for options that change no result.
    """

    help: str
    group: str = ""
    values: str = ""
    default: str = ""
    significant: bool = True


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """The options of ``AddText``: how the captions of a store are parsed."""

    store_dir: Annotated[str, Option("folder of the store, or one store manifest")]
    parser: Annotated[
        str,
        Option("caption parser: spacy, stanza or a plug-in", "tokens", "`spacy`, `stanza`"),
    ] = "spacy"
    profile: Annotated[
        str,
        Option(
            "rules for triplets: spice or extended",
            "text",
            "`spice` (what SPICE extracts), `extended` (also clauses, passives, ...)",
        ),
    ] = "extended"
    scheme: Annotated[
        str,
        Option(
            "stored dependency scheme: ud, clear or ud1-basic",
            "tokens",
            "`ud`, `clear`, `ud1-basic` (used by GSMN)",
        ),
    ] = "ud"
    jobs: Annotated[
        int, Option("local worker processes", default="all cores", significant=False)
    ] = usable_cores()
    scheduler_address: Annotated[
        str,
        Option("address of a running Dask scheduler to use instead", significant=False),
    ] = ""

    @classmethod
    def of(cls: type[_Options], task: luigi.Task) -> _Options:
        """Return the values of a task's parameters."""
        return cls(**{field.name: getattr(task, field.name) for field in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class BuildOptions(TextOptions):
    """The options of a build.

    Raises: UsageError: no store folder, or a limit below 1.
    """

    store_dir: Annotated[str, Option("folder of the store")] = ""
    dataset: Annotated[str, Option("name of the data set")] = "dataset"
    images_dir: Annotated[
        str, Option("folder of the images; not needed with precomputed features", "visual")
    ] = ""
    captions: Annotated[
        str,
        Option(
            "captions file, several separated by commas, or a folder of them",
            "index",
            "Karpathy JSON, COCO captions JSON (or their folder), `results_20130124.token`, "
            "Entities `Sentences`",
        ),
    ] = ""
    detector: Annotated[
        str,
        Option(
            "object detector; none: store captions only",
            "visual",
            "see [docs/detectors.md](docs/detectors.md): `nanodet`, `entities`, `scene-graphs`, "
            "..., or `none`: captions only",
        ),
    ] = "nanodet"
    detections: Annotated[
        str, Option("file or folder of precomputed detections or gold boxes", "visual")
    ] = ""
    relations: Annotated[
        str,
        Option(
            "relation predictor; auto: the detector's relations if it provides any",
            "visual",
            "`geometric`, `prior`, `precomputed`",
            "the detector's own, else `geometric`",
        ),
    ] = "auto"
    features: Annotated[
        str,
        Option(
            "feature extractor; auto: the detector's features if it provides any",
            "regions",
            "`detector`, `nanodet`, `label`, `none`, ...",
            "the detector's own, else pixels, else `label`",
        ),
    ] = "auto"
    max_objects: Annotated[int, Option("at most this many objects per image", "visual")] = (
        _RULES.max_objects
    )
    max_relations: Annotated[int, Option("at most this many relations per image", "visual")] = (
        _RULES.max_relations
    )
    min_score: Annotated[
        float | None,
        Option("drop objects with a lower score", "visual", default="depends on the detector"),
    ] = None
    cross_class_iou: Annotated[
        float | None,
        Option(
            "drop the weaker of two boxes that overlap more than this, whatever their labels; "
            "1 keeps all",
            "visual",
            default="depends on the detector",
        ),
    ] = None
    whole_image: Annotated[
        Literal["auto", "always", "empty"],
        Option(
            "add the whole image as an object: always, or only if no object was found",
            "visual",
            default="depends on the detector",
        ),
    ] = "auto"
    on_error: Annotated[
        Literal["fail", "skip"],
        Option("fail at the first bad image or caption, or skip, count and name it"),
    ] = "fail"

    def __post_init__(self) -> None:
        if not self.store_dir:
            raise UsageError("--store-dir is empty. Pass the folder of the store.")
        if min(self.max_objects, self.max_relations) < 1:
            raise UsageError("--max-objects and --max-relations must be at least 1.")

    @property
    def has_graphs(self) -> bool:
        """False for ``--detector none``: captions only."""
        return self.detector != NO_DETECTOR

    def rules(self) -> dict[str, object]:
        """Return the graph rules that are set; the others depend on the detector."""
        given = {field.name: getattr(self, field.name) for field in fields(GraphRules)}
        return {name: value for name, value in given.items() if value not in (None, "auto")}


def described(options: type[TextOptions]) -> list[tuple[Field[Any], Any, Option]]:
    """Return each field of a class of options with its type and description."""
    hints = get_type_hints(options, include_extras=True)
    return [(field, *get_args(hints[field.name])) for field in fields(options)]


def option_parameter(
    options: type[TextOptions], name: str, **changes: Any
) -> luigi.Parameter[Any]:
    """Return the Luigi parameter of one option.

    Args:
        options: the class that declares it.
        name: its field.
        changes: arguments of the parameter that differ for one task, for example ``default``.
    """
    field, kind, option = next(item for item in described(options) if item[0].name == name)
    given: dict[str, Any] = {"description": option.help, "significant": option.significant}
    if field.default is not MISSING:
        given["default"] = field.default
    given |= changes
    if get_origin(kind) is Literal:
        return luigi.ChoiceParameter(choices=list(get_args(kind)), **given)
    kinds = {str: luigi.Parameter, int: luigi.IntParameter}
    return kinds.get(kind, luigi.OptionalFloatParameter)(**given)


def takes(options: type[TextOptions]) -> Callable[[_Task], _Task]:
    """Return a class decorator that gives a task one parameter per option."""

    def decorate(task: _Task) -> _Task:
        for field in fields(options):
            parameter = option_parameter(options, field.name)
            setattr(task, field.name, parameter)
            parameter.__set_name__(task, field.name)  # setattr does not
        return task

    return decorate
