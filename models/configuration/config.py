"""Configuration of a training run: five sections, each a table of typed values with defaults.

::

    model:    {name: gsmn, options: {embed_dim: 1024}}
    data:     {store: stores/flickr30k, batch_size: 64}
    optim:    {name: adam, lr: 2e-4}
    schedule: {name: step, milestones: [15]}
    run:      {epochs: 30, seed: 0}

Unknown keys and values of the wrong type are errors. Two conversions correct what YAML 1.1 reads:
``2e-4``, which is text in YAML, becomes a number, and a name such as ``2026``, which is a number in
YAML, becomes text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from models.configuration.validation import Strict, validated


def _number(value: Any) -> Any:
    """Read a number written as text, such as ``2e-4``; give integral floats the type int."""
    if isinstance(value, str) and value[:1] in "+-.0123456789":
        try:
            value = float(value)
        except ValueError:
            return value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _texts(value: Any) -> Any:
    """Read names separated by commas, as the command line has them."""
    return [name.strip() for name in value.split(",") if name] if isinstance(value, str) else value


def _option(value: Any) -> Any:
    """Read an option of a model, whose type only the model knows."""
    number = _number(value) if isinstance(value, str) else value
    if isinstance(number, float) and not math.isfinite(number):
        raise PydanticCustomError("finite_number", "Input should be a finite number")
    return number


Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number)]
Count = Annotated[Int, Field(ge=0)]
Positive = Annotated[Int, Field(ge=1)]
Amount = Annotated[Float, Field(ge=0)]
Share = Annotated[Float, Field(ge=0, le=1)]
Seed = Annotated[Int, Field(ge=0, le=2**32 - 1)]
Threads = Annotated[Int, Field(ge=0, le=1024)]
Ints = Annotated[tuple[Int, ...], Field(strict=False)]  # YAML has lists
Floats = Annotated[tuple[Float, ...], Field(strict=False)]
Text = Annotated[str, BeforeValidator(_text)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_texts), Field(strict=False)]
TextOrNone = Annotated[str | None, BeforeValidator(_text)]
Option = Annotated[Any, AfterValidator(_option)]


def _value(default: Any, description: str) -> Any:
    return Field(default=default, description=description)


class ModelConfig(Strict):
    """Which model to train."""

    name: Text = _value("", "registered name of the model: gsmn, sgm, ...")
    options: dict[str, Option] = _value(
        {}, "options of the model, checked against its options class"
    )


class DataConfig(Strict):
    """What to train on."""

    store: Text = _value("", "store folder or store manifest")
    train: Text = _value("train", "split to train on, or a part of one: val[:-200]")
    val: Text = _value("val", "split that selects the best weights; never the test split")
    batch_size: Positive = _value(128, "pairs in a batch, over all ranks")
    eval_batch_size: Positive = _value(128, "images or captions encoded at a time in an evaluation")
    drop_last: bool = _value(
        False, "leave out the pairs of an epoch that do not fill a batch, as HREM's released code"
    )
    vocab: TextOrNone = _value(None, "vocabulary JSON; null: the store's own")
    negatives: Text = _value(
        "", "store of false captions (python -m pipeline negatives); empty: none"
    )
    vectors: Text = _value("none", "initial word vectors: none, minilm, or a text or npz file")
    label_vectors: bool = _value(True, "use them for labels and predicates, too")
    order: Literal["random", "block"] = _value(
        "random", "order of an epoch; block suits slow disks"
    )
    without: Texts = _value(
        (),
        "parts of the graphs to leave out: labels, predicates, attributes, relations, unions, "
        "features, features[A:B], scene",
    )
    neighbours_from: Count = _value(
        0, "first epoch, from 1, with batches of similar images; 0: none"
    )
    neighbours: Positive = _value(4, "images of one cluster in such a batch")
    clusters: Positive = _value(100, "number of clusters of similar images")
    neighbours_by: Literal["regions", "embeddings"] = _value(
        "regions", "cluster images by mean region features, or by the model's embeddings"
    )


class OptimConfig(Strict):
    """How to update the weights."""

    name: Literal["adam", "adamw"] = _value("adam", "optimiser")
    lr: Amount = _value(2e-4, "learning rate")
    betas: Floats = _value((0.9, 0.999), "decay rates of the two moments")
    weight_decay: Amount = _value(0.0, "weight decay; decoupled for adamw")
    clip: Amount = _value(2.0, "largest norm of the gradient; 0: no clipping")
    accumulate: Positive = _value(1, "batches per optimiser step; losses are averaged")
    ema: Share = _value(0.0, "decay of the averaged weights to evaluate; 0: no averaging")
    lr_scale: dict[str, Float] = _value({}, "parameter name prefix -> factor on its learning rate")
    negatives_weight: Amount = _value(0.2, "data.negatives: weight of their hinge loss")
    negatives_margin: Amount = _value(0.2, "data.negatives: margin of their hinge loss")
    global_negatives: bool = _value(True, "several ranks: negatives from all of them")


class ScheduleConfig(Strict):
    """How the learning rate changes."""

    name: Literal["constant", "step", "cosine"] = _value("step", "shape after warm-up")
    milestones: Ints = _value((15,), "step: epochs after which the rate falls")
    gamma: Share = _value(0.1, "step: factor at each milestone")
    floor: Share = _value(0.0, "cosine: final share of the rate")
    warmup_steps: Count = _value(0, "steps of linear growth from 0")
    easy_epochs: Count = _value(0, "first epochs with hard_negatives off, in models that have it")


class RunConfig(Strict):
    """Where to save the run, how long to train, and on what device."""

    folder: Text = _value("", "run folder; empty: runs/NAME OF THE CONFIGURATION")
    seed: Seed = _value(0, "seed of weights, order and dropout")
    epochs: Positive = _value(30, "passes over the training split")
    max_steps: Count = _value(0, "stop after this many steps; 0: after the epochs")
    device: Text = _value("auto", "auto, cpu, cuda or cuda:N")
    amp: Literal["auto", "none", "bf16", "fp16"] = _value(
        "auto", "mixed precision; auto: bf16 on CUDA only"
    )
    deterministic: bool = _value(False, "bit-identical repeats and resumes; slower on CUDA")
    threads: Threads = _value(0, "CPU threads of torch; 0: torch's default")
    eval_epochs: Positive = _value(1, "evaluate every this many epochs")
    eval_steps: Count = _value(0, "also evaluate every this many steps; 0: no")
    save_steps: Count = _value(
        0, "also save last.pt every this many steps, besides each evaluation"
    )
    log_steps: Positive = _value(10, "steps per row of metrics.csv")
    patience: Count = _value(0, "stop after this many evaluations without a better rsum; 0: never")
    tensorboard: bool = _value(False, "also write TensorBoard events")
    resume: Text = _value(
        "auto", "auto: from last.pt if it exists; never; or the path of a checkpoint"
    )


class Config(Strict):
    """Configuration of a whole run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    run: RunConfig = RunConfig()


SECTIONS: dict[str, type[Strict]] = {
    name: type(field.default) for name, field in Config.model_fields.items()
}


def from_dict(tree: Mapping[str, Any], source: str = "configuration") -> Config:
    """Build a configuration from nested dicts; ``source`` starts the message of an error.

    Raises: ConfigError: an unknown key, a value of the wrong type or out of range.
    """
    return validated(Config, tree, source, ("section", "key"))


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Return plain dicts and lists, as ``from_dict`` takes them."""
    return config.model_dump(mode="json")


def to_yaml(config: Config) -> str:
    """Return the configuration as YAML, defaults included."""
    return str(yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None))


def describe_options() -> str:
    """Return a line for each ``--section.key`` with its meaning, type and default."""
    lines = []
    for section, kind in SECTIONS.items():
        lines.append(f"\n\b\n{section}: {kind.__doc__}")  # \b: click keeps the line breaks
        for name, field in kind.model_fields.items():
            option = f"--{section}.{name}" + (".KEY" if name == "options" else "")
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            shown = "null" if default is None else default or repr(default)
            lines.append(f"  {option:<26} {field.description} ({_type(field.annotation)}, {shown})")
    return "\n".join(lines)


def _type(hint: Any) -> str:
    """Return the name of a field's type: ``float``, ``adam|adamw``, ``list of int``."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _type(parts[0])
    if origin is Literal:
        return "|".join(parts)
    if origin is tuple:
        return f"list of {_type(parts[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(hint, UnionType) or type(None) in parts:
        return f"{_type(parts[0])} or null"
    return str(hint.__name__)
