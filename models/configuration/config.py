"""What a training run is: five small tables read from YAML, each value open to an override.

::

    model:    {name: gsmn, options: {embed_dim: 1024}}
    data:     {store: stores/flickr30k, batch_size: 64}
    optim:    {name: adam, lr: 2e-4}
    schedule: {name: step, milestones: [15]}
    run:      {epochs: 30, seed: 0}

Precedence: ``--section.key value`` over the file over the defaults below. Reading is strict: an
unknown key, a duplicate key or a value of the wrong type is a ``ConfigError`` that names it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml

from features.errors import ConfigError, MissingInput, UnknownName
from models.configuration.values import coerce, describe

__all__ = [
    "Config",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "ScheduleConfig",
    "from_dict",
    "load",
    "to_dict",
    "to_yaml",
    "usage",
]


def _of(default: Any, about: str, *, low: float | None = None, high: float | None = None) -> Any:
    """Return a field with a default, a line of help and the range of numbers that make sense."""
    return field(default=default, metadata={"help": about, "low": low, "high": high})


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Which model, and its options (the fields of its options dataclass)."""

    name: str = _of("", "registered name of the model: gsmn, sgm, ...")
    options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "options of the model, each checked by it"}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What the model sees."""

    store: str = _of("", "store folder or store manifest")
    train: str = _of("train", "split to learn from; a part of one as val[:-200]")
    val: str = _of("val", "split that selects the best weights; never the test split")
    batch_size: int = _of(128, "pairs scored against each other, all ranks together", low=1)
    eval_batch_size: int = _of(128, "images or captions encoded at a time in evaluation", low=1)
    vocab: str | None = _of(None, "vocabulary JSON; null: the one bound in the store")
    vectors: str = _of("none", "word vectors to start from: none, minilm, or a text or npz file")
    label_vectors: bool = _of(True, "start label and predicate tables from the same vectors")
    order: Literal["random", "block"] = _of("random", "order of an epoch; block reads cold disks")
    neighbours_from: int = _of(
        0, "epoch (from 1) whose batches begin to hold neighbours; 0: none", low=0
    )
    neighbours: int = _of(4, "images of one cluster in such a batch", low=1)
    clusters: int = _of(100, "clusters of images that neighbours come from", low=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """How weights move."""

    name: Literal["adam", "adamw"] = _of("adam", "optimiser")
    lr: float = _of(2e-4, "learning rate", low=0)
    betas: tuple[float, ...] = _of((0.9, 0.999), "decay of both moments")
    weight_decay: float = _of(0.0, "decoupled for adamw", low=0)
    clip: float = _of(2.0, "largest norm of the gradient; 0: no clipping", low=0)
    accumulate: int = _of(1, "batches per optimiser step; their losses are averaged", low=1)
    ema: float = _of(0.0, "decay of averaged weights used in evaluation; 0: none", low=0, high=1)
    lr_scale: dict[str, float] = field(
        default_factory=dict, metadata={"help": "parameter name prefix -> factor on the rate"}
    )
    global_negatives: bool = _of(True, "several ranks: negatives from all ranks, not one's own")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """How the learning rate moves."""

    name: Literal["constant", "step", "cosine"] = _of("step", "shape after the warm-up")
    milestones: tuple[int, ...] = _of((15,), "step: epochs after which the rate falls")
    gamma: float = _of(0.1, "step: factor of each fall", low=0, high=1)
    floor: float = _of(0.0, "cosine: share of the rate that is left at the end", low=0, high=1)
    warmup_steps: int = _of(0, "steps of linear growth from 0", low=0)
    easy_epochs: int = _of(
        0, "first epochs with all negatives, where a model has hard_negatives", low=0
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Where, how long and how exactly."""

    folder: str = _of("", "run folder; empty: runs/NAME OF THE CONFIG FILE")
    seed: int = _of(0, "of weights, order, dropout and dropping", low=0, high=2**32 - 1)
    epochs: int = _of(30, "passes over the training split", low=1)
    max_steps: int = _of(0, "stop after so many steps; 0: after the epochs", low=0)
    device: str = _of("auto", "auto, cpu, cuda or cuda:N")
    amp: Literal["auto", "none", "bf16", "fp16"] = _of(
        "auto", "mixed precision; auto: bf16 on CUDA, none on a CPU"
    )
    deterministic: bool = _of(False, "bit-identical repeats and resumes; slower on CUDA")
    threads: int = _of(0, "CPU threads of torch; 0: leave them alone", low=0, high=1024)
    eval_epochs: int = _of(1, "evaluate after every so many epochs", low=1)
    eval_steps: int = _of(0, "and after every so many steps; 0: no", low=0)
    save_steps: int = _of(0, "save last.pt every so many steps, besides each evaluation", low=0)
    log_steps: int = _of(10, "steps per row of metrics.csv", low=1)
    patience: int = _of(0, "stop after so many evaluations without a better rsum; 0: never", low=0)
    tensorboard: bool = _of(False, "also write TensorBoard events")
    resume: str = _of("auto", "auto: from last.pt if there is one; never; or a checkpoint's path")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A whole run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    run: RunConfig = field(default_factory=RunConfig)


SECTIONS: dict[str, type] = {
    "model": ModelConfig,
    "data": DataConfig,
    "optim": OptimConfig,
    "schedule": ScheduleConfig,
    "run": RunConfig,
}


def load(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file and apply command-line overrides.

    Args:
        path: YAML file.
        overrides: ``["--optim.lr", "1e-4", "--run.seed=3", "--run.deterministic"]``.

    Raises:
        MissingInput: no such file.
        ConfigError: unknown or duplicate key, wrong type or range, or no model name.
    """
    path = Path(path)
    tree = _read_yaml(path)
    for key, value in _parse_overrides(overrides):
        section, _, rest = key.partition(".")
        if not rest:
            raise _unknown(f"--{key}", "option", _all_keys())
        if section not in SECTIONS:
            raise _unknown(f"--{key}", "section", SECTIONS)
        *parents, leaf = rest.split(".")
        branch = tree
        for parent in (section, *parents):
            below = branch[parent] if branch.get(parent) is not None else {}
            if not isinstance(below, dict):
                raise ConfigError(f"{path}: {parent} is {below!r}, so --{key} has no place.")
            branch[parent] = branch = below
        branch[leaf] = value
    config = from_dict(tree, str(path))
    if not config.model.name:
        raise ConfigError(f"{path}: model.name is missing; name a model, for example sgm.")
    if not config.run.folder:
        folder = str(Path("runs") / path.stem)
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, folder=folder))
    return config


def from_dict(tree: Mapping[str, Any], source: str = "configuration") -> Config:
    """Build a configuration from nested dicts, strictly. Raises: ConfigError."""
    sections: dict[str, Any] = {}
    for name, values in tree.items():
        if name not in SECTIONS:
            raise _unknown(f"{source}: {name}", "section", SECTIONS)
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"{source}: {name} is {values!r}, but it should hold keys and values."
            )
        kind = SECTIONS[name]
        fields = {item.name: item for item in dataclasses.fields(kind)}
        chosen: dict[str, Any] = {}
        for key, value in values.items():
            if key not in fields:
                raise _unknown(f"{source}: {name}.{key}", "key", fields)
            chosen[key] = coerce(value, kind, fields[key], f"{source}: {name}.{key}")
        sections[name] = kind(**chosen)
    return Config(**sections)


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Return plain dicts and lists, as ``from_dict`` takes them."""
    plain = dataclasses.asdict(config)
    return {
        section: {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        for section, values in plain.items()
    }


def to_yaml(config: Config) -> str:
    """Return the resolved configuration as YAML; ``load`` reads it back as the same values."""
    return str(yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None))


def usage() -> str:
    """Return all options with type, default and meaning, for ``--help``."""
    lines = [
        "usage: python -m models.train CONFIG.yaml [--section.key value ...]",
        "",
        "Train a matching model from a store. The same command runs under torchrun and sbatch:",
        "  python -m models.train configs/sgm_f30k.yaml --data.store stores/flickr30k",
        "  torchrun --standalone --nproc_per_node 4 -m models.train CONFIG.yaml ...",
        "",
        "Exit codes: 0 finished, 1 training had to stop, 2 a mistake in the options,",
        "75 stopped by SIGTERM or SIGUSR1 after saving: run the same command to go on.",
    ]
    for section, kind in SECTIONS.items():
        lines.append(f"\n{section}: {(kind.__doc__ or '').strip()}")
        for item in dataclasses.fields(kind):
            name = f"--{section}.{item.name}"
            if item.name == "options":
                name += ".KEY"
            lines.append(f"  {name:<26} {item.metadata['help']} ({describe(kind, item)})")
    return "\n".join(lines)


class _StrictLoader(yaml.SafeLoader):
    """YAML without silent duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands there twice."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"{self.name}: line {line}: {key!r} stands there twice.")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MissingInput(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text; expected a YAML file.") from error
    try:
        loader = _StrictLoader(text)
        loader.name = str(path)
        tree = loader.get_single_data() or {}
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds {tree!r}, but it should hold sections of keys.")
    return tree


def _parse_overrides(words: Sequence[str]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    at = 0
    while at < len(words):
        word = words[at]
        if not word.startswith("--"):
            raise ConfigError(f"{word!r}: expected --section.key value.")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if at + 1 < len(words) and not words[at + 1].startswith("--"):
                at += 1
                text = words[at]
            else:
                text = "true"  # a bare --run.deterministic
        try:
            pairs.append((key, text if _is_name(key, text) else yaml.safe_load(text)))
        except (yaml.YAMLError, ValueError, TypeError) as error:
            raise ConfigError(f"--{key}: {text!r} is not a YAML value.") from error
        at += 1
    return pairs


def _is_name(key: str, text: str) -> bool:
    """Say whether a value is text as it stands: YAML reads the folder 123_45 as a number."""
    section, _, name = key.partition(".")
    hint = get_type_hints(SECTIONS[section]).get(name) if section in SECTIONS else None
    if hint == str | None and yaml.safe_load(text or "''") is None:
        return False
    return not text or (hint in (str, str | None) and text[0] not in "'\"")


def _all_keys() -> list[str]:
    return [f"{s}.{item.name}" for s, kind in SECTIONS.items() for item in dataclasses.fields(kind)]


def _unknown(where: str, what: str, known: Any) -> ConfigError:
    name = where.rsplit(" ", 1)[-1].rsplit(".", 1)[-1].lstrip("-")
    if what == "section":
        name = name if name in known else where.rsplit(" ", 1)[-1].lstrip("-").split(".")[0]
    return ConfigError(f"{where}: {UnknownName.of(what, name, known)}")
