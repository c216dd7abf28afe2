"""The options of a build, each declared once.

A field of ``BuildOptions`` becomes a parameter of the Luigi tasks (``takes``), a value of the plan
and a row of the table in docs/howto/building.md (``python -m workflows.build.option_table``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import luigi

from features.errors import UsageError
from pipeline.vision import GraphRules
from workflows.cluster import usable_cores

NO_DETECTOR = "none"
_RULES = GraphRules()
_AUTO = "depends on the detector"
_Task = TypeVar("_Task", bound=type[luigi.Task])
_Options = TypeVar("_Options", bound="TextOptions")


@dataclass(frozen=True)
class Option:
    """What the command line and the documentation say about an option.

    Attributes:
        help: the help text.
        group: the first group whose content key it enters, "" if it enters none.
        shown: the default in the documentation, if the value itself says too little.
        significant: False for options that change no result.
    """

    help: str
    group: str = ""
    shown: str = ""
    significant: bool = True


def option(default: Any, help: str, group: str = "", **more: Any) -> Any:
    """Return a dataclass field with a default (or ``MISSING``) and the values of an ``Option``."""
    return field(default=default, metadata={"option": Option(help, group, **more)})


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """The options of ``AddText``: how the captions of a store are parsed."""

    store_dir: str = option(MISSING, "folder of the store, or one store manifest")
    parser: str = option("spacy", "caption parser: spacy, stanza or a plug-in", "tokens")
    profile: str = option(
        "extended", "triplets: spice (as SPICE) or extended (also clauses, passives, ...)", "text"
    )
    scheme: str = option("ud", "dependency scheme: ud, clear or ud1-basic (as GSMN)", "tokens")
    plugins: str = option(
        "",
        "modules or Python files that register plug-ins, separated by commas (docs/plugins.md)",
        significant=False,
    )
    jobs: int = option(
        usable_cores(), "local worker processes", shown="all cores", significant=False
    )
    scheduler_address: str = option(
        "", "address of a running Dask scheduler to use instead", significant=False
    )
    item_timeout: float = option(
        600.0,
        "seconds that one image, or the parse of 100 captions, may take; 0: no limit",
        significant=False,
    )
    worker_memory: int = option(
        0, "megabytes of data that a local process may allocate; 0: no limit", significant=False
    )

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise UsageError(f"--jobs {self.jobs}: must be at least 1.")

    @classmethod
    def of(cls: type[_Options], task: luigi.Task) -> _Options:
        """Return the values of a task's parameters."""
        return cls(**{field.name: getattr(task, field.name) for field in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class BuildOptions(TextOptions):
    """The options of a build.

    Raises: UsageError: no store folder, a limit below 1, or options that exclude each other.
    """

    dataset: str = option("dataset", "name of the data set")
    images_dir: str = option("", "folder of the image files", "visual")
    captions: str = option(
        "",
        "captions: JSON of Karpathy or COCO, a CSV, TSV, JSONL or Parquet table, a folder of "
        "photos with texts, tars ... (docs/importing.md); several separated by commas, or a folder",
        "index",
    )
    split_by: str = option(
        "",
        "split the images that have no split by a hash of their ids: 80/10/10 (train/val/test)",
        "index",
    )
    store_dir: str = option("", "folder of the store")
    detector: str = option(
        "labelled", "object detector (docs/detectors.md), or none: captions only", "visual"
    )
    detections: str = option("", "file or folder of precomputed detections or gold boxes", "visual")
    labels: str = option(
        "packaged",
        "label head of the detector 'labelled': packaged, unseen (other heads label the photos "
        "that the packaged one was fitted on), or a file written by fit-labels",
        "visual",
    )
    relations: str = option(
        "auto",
        "relation predictor: fitted, geometric, prior or precomputed; auto: the detector's "
        "relations if it provides any, fitted for 'labelled', else geometric",
        "visual",
    )
    features: str = option(
        "auto",
        "feature extractor: detector, nanodet, label, none, ...; auto: the detector's features if "
        "it provides any, those that 'labelled' was fitted on, else nanodet, without images label",
        "regions",
    )
    max_objects: int = option(_RULES.max_objects, "maximum number of objects per image", "visual")
    max_relations: int = option(_RULES.max_relations, "maximum number of relations", "visual")
    min_score: float | None = option(None, "drop objects with a lower score", "visual", shown=_AUTO)
    cross_class_iou: float | None = option(
        None,
        "drop the weaker of two boxes that overlap more, whatever their labels; 1 keeps all",
        "visual",
        shown=_AUTO,
    )
    whole_image: Literal["auto", "always", "empty"] = option(
        "auto",
        "add the whole image as an object: always, or only if no other was found (empty)",
        "visual",
        shown=_AUTO,
    )
    verify: bool = option(
        False,
        "compare every byte of the store with its hash first, and build damaged shards again",
        significant=False,
    )
    on_error: Literal["fail", "skip"] = option(
        "fail", "fail at the first bad image or caption, or skip and report it"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.store_dir:
            raise UsageError("--store-dir is empty. Pass the folder of the store.")
        if min(self.max_objects, self.max_relations) < 1:
            raise UsageError("--max-objects and --max-relations must be at least 1.")
        if self.labels != "packaged" and self.detector != "labelled":
            raise UsageError(
                f"--labels {self.labels} is for the detector 'labelled', not {self.detector!r}. "
                "Drop one of the two options."
            )
        if self.detector == "labelled" and self.detections:
            raise UsageError(
                f"--detections {self.detections}: name the detector that reads it with --detector, "
                "for example bottom-up or entities."
            )

    @property
    def has_graphs(self) -> bool:
        """False for ``--detector none``: captions only."""
        return self.detector != NO_DETECTOR

    @property
    def detector_file(self) -> tuple[str, str]:
        """Name of the detector and the file that it reads, "" if it reads none."""
        return self.detector, self.labels if self.detector == "labelled" else self.detections

    def rules(self) -> dict[str, object]:
        """Return the graph rules that are set; the others depend on the detector."""
        given = {field.name: getattr(self, field.name) for field in fields(GraphRules)}
        return {name: value for name, value in given.items() if value not in (None, "auto")}


def absolute_plugin(name: str) -> str:
    """Return the name of a plug-in with an absolute path where its argument is a file.

    >>> absolute_plugin("nanodet"), absolute_plugin("clip:openai/clip-vit-base-patch32")
    ('nanodet', 'clip:openai/clip-vit-base-patch32')
    """
    key, colon, argument = name.partition(":")
    if argument and Path(argument).exists():
        argument = str(Path(argument).absolute())
    return f"{key}{colon}{argument}"


def described(options: type[TextOptions]) -> list[tuple[Field[Any], Any, Option]]:
    """Return each field with its type and description; inherited fields are last."""
    hints = get_type_hints(options)
    found = {field.name: field for field in fields(options)}
    order = dict.fromkeys([*options.__annotations__, *found])
    return [(found[name], hints[name], found[name].metadata["option"]) for name in order]


def option_parameter(options: type[TextOptions], name: str, **changes: Any) -> luigi.Parameter[Any]:
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
    if kind is int:
        return luigi.IntParameter(**given)
    if kind is bool:
        return luigi.BoolParameter(**given)
    if kind is float:
        return luigi.FloatParameter(**given)
    return luigi.Parameter(**given) if kind is str else luigi.OptionalFloatParameter(**given)


def takes(options: type[TextOptions]) -> Callable[[_Task], _Task]:
    """Return a class decorator that gives a task one parameter per option."""

    def decorate(task: _Task) -> _Task:
        for one, _, _ in described(options):
            parameter = option_parameter(options, one.name)
            setattr(task, one.name, parameter)
            parameter.__set_name__(task, one.name)  # setattr does not
        return task

    return decorate
