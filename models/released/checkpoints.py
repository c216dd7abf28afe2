"""Load released checkpoints of GSMN, HREM and SGM into our models.

``python -m models.released.checkpoints gsmn model_best.pth.tar gsmn.safetensors`` prints which
tensor became which and where each option comes from, and writes the weights with the options that
rebuild the model. Checkpoints are read with ``weights_only``, so no code in a file is ever run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from features.commands import Program
from features.errors import InputError, MissingInput, UnknownName
from features.format import replacing
from models.nn import BertConfig, BertText
from models.papers import Hrem
from models.registry import build_options, create
from models.released.layouts import LAYOUTS, Layout, join_kernels
from models.training import check_weights, weights_digest

BERT = "txt_enc.bert."  # prefix of a BERT's tensors in released checkpoints


@dataclass(frozen=True)
class Converted:
    """A released checkpoint as our model, and what happened to each tensor."""

    model: Any
    name: str
    matched: tuple[tuple[str, str], ...]  # (their name, our name)
    ignored: tuple[tuple[str, str], ...]  # (their name, why)
    fresh: tuple[str, ...]  # our tensors that the checkpoint does not have
    origins: Mapping[str, str]  # option -> where its value comes from, if it is not the default

    def report(self) -> str:
        """Return one line for each tensor and each option, and a summary."""
        lines = [f"{theirs} -> {ours}" for theirs, ours in self.matched]
        lines += [f"{theirs}: left out, {why}" for theirs, why in self.ignored]
        lines += [f"{ours}: not in the checkpoint, keeps its initial value" for ours in self.fresh]
        values = dataclasses.asdict(self.model.options)
        lines += [
            f"{key} = {value!r}: {self.origins.get(key, 'not in the checkpoint, our default')}"
            for key, value in values.items()
        ]
        total = sum(p.numel() for p in self.model.parameters())
        lines.append(f"{self.name}: {len(self.matched)} tensors matched, {total:,} parameters")
        return "\n".join(lines)


def load_official(name: str, checkpoint: Path | str | Mapping[str, Any], **options: object) -> Any:
    """Return our model with the weights of a released checkpoint, in evaluation mode.

    Args:
        name: ``gsmn``, ``hrem`` or ``sgm``.
        checkpoint: the ``.pth.tar`` file, or its content: ``{"model": [state dict, ...]}``, that
            list, or one state dict whose names have the prefixes of the parts.
        options: options of the model; they take precedence. Sizes are read from the tensors, and
            settings such as GSMN's lambda and HREM's heads from the ``opt`` that the released
            code saves beside them. Other options default to the released code (GSMN:
            ``propagation="official"``). Without ``opt``, pass what the weights do not show: GSMN's
            ``scale`` (20 on Flickr30K, 10 on COCO), HREM's ``heads``.

    Raises:
        UnknownName: there is no layout for this model.
        MissingInput: the file does not exist.
        InputError: a tensor is missing, unknown or of the wrong shape, or the weights were trained
            with a setting that our model does not have.
    """
    return convert(name, checkpoint, **options).model


def convert(name: str, checkpoint: Path | str | Mapping[str, Any], **options: object) -> Converted:
    """Load a checkpoint like ``load_official`` and report what happened to each tensor."""
    if name not in LAYOUTS:
        raise UnknownName.of("checkpoint layout", name, LAYOUTS)
    layout = LAYOUTS[name]
    if isinstance(checkpoint, str | Path):
        source, content = str(checkpoint), _read(Path(checkpoint))
    else:
        source, content = "checkpoint", checkpoint
    state = _flatten(content, layout, source)
    try:
        found = layout.options(state)
    except KeyError as error:
        raise InputError(
            f"{source}: has no tensor {error.args[0]!r}, so it is not a released {name} "
            f"checkpoint. Its names begin with {sorted(state)[:3]}."
        ) from error
    settings = _settings(content)
    saved = layout.read_settings(settings, source)
    origins = {
        **dict.fromkeys(found, "from the tensors, or as released"),
        **dict.fromkeys(saved, "from the settings in the checkpoint"),
        **dict.fromkeys(options, "given"),
    }
    model = _build(name, {**found, **saved, **options}, state, source)
    return _fill(name, model, layout, state, source, origins)


def _settings(content: Any) -> dict[str, Any]:
    """Return the settings that the released code saves as ``opt``; {} without them."""
    found = content.get("opt") if isinstance(content, Mapping) else None
    if isinstance(found, argparse.Namespace):
        found = vars(found)
    return dict(found) if isinstance(found, Mapping) else {}


def _read(path: Path) -> Any:
    if not path.is_file():
        raise MissingInput(f"{path}: no such checkpoint file.")
    scalar = np.float64(0).__reduce__()[0]  # numpy pickles the best score beside the weights
    allowed: list[Any] = [argparse.Namespace, np.dtype, type(np.dtype(np.float64))]
    allowed += [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        with _allowed(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on a damaged or foreign file
        raise InputError(
            f"{path}: cannot be read as a checkpoint without running its code "
            f"({str(error).splitlines()[0]})."
        ) from error


def _allowed(objects: list[Any]) -> AbstractContextManager[None]:
    """Let ``weights_only`` rebuild these objects.

    Torch 2.4 has no context manager for it and no names for objects that have moved; there a
    checkpoint with a numpy number is refused.
    """
    if hasattr(torch.serialization, "safe_globals"):
        found: AbstractContextManager[None] = torch.serialization.safe_globals(objects)
        return found
    torch.serialization.add_safe_globals([one for one in objects if not isinstance(one, tuple)])
    return nullcontext()


def _flatten(content: Any, layout: Layout, source: str) -> dict[str, Tensor]:
    """Return one state dict whose names have the prefixes of the parts."""
    if isinstance(content, Mapping) and "model" in content:
        content = content["model"]
    if isinstance(content, list | tuple):
        if len(content) > len(layout.parts):
            raise InputError(
                f"{source}: has {len(content)} state dicts, but this layout has only "
                f"{len(layout.parts)} parts ({', '.join(layout.parts)})."
            )
        content = dict(zip(layout.parts, content, strict=False))
    if not isinstance(content, Mapping):
        raise InputError(f"{source}: holds a {type(content).__name__}, not state dicts.")
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            prefix = f"{key}." if key else ""
            flat.update({prefix + name: tensor for name, tensor in value.items()})
        else:
            flat[key] = value
    named = {re.sub(r"(^|\.)module\.", r"\1", name): value for name, value in flat.items()}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def _build(name: str, options: dict[str, Any], state: Mapping[str, Tensor], source: str) -> Any:
    """Build the model; a BERT gets its sizes from the weights unless its folder is given."""
    if options.get("text_encoder") != "bert" or "bert" in options:
        return create(name, **options)
    bert = {key.removeprefix(BERT): tensor for key, tensor in state.items() if BERT in key}
    if not bert:
        raise InputError(
            f"{source}: has no tensors of a BERT ({BERT}...). Pass the folder of the BERT it was "
            "trained with: bert=FOLDER, or --option bert=FOLDER on the command line."
        )
    return _hrem_with_bert(options, _bert_sizes(bert))


def _hrem_with_bert(options: dict[str, Any], sizes: BertConfig) -> Hrem:
    chosen = build_options("hrem", **options)
    return Hrem(chosen, text=BertText(sizes, chosen.embed_dim))


def _bert_sizes(tensors: Mapping[str, Tensor]) -> BertConfig:
    words = tensors["embeddings.word_embeddings.weight"]
    layers = {key.split(".")[2] for key in tensors if key.startswith("encoder.layer.")}
    return BertConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, words.shape[1] // 64),
        intermediate_size=tensors["encoder.layer.0.intermediate.dense.weight"].shape[0],
        max_position_embeddings=tensors["embeddings.position_embeddings.weight"].shape[0],
        type_vocab_size=tensors["embeddings.token_type_embeddings.weight"].shape[0],
    )


def _fill(
    name: str,
    model: nn.Module,
    layout: Layout,
    state: Mapping[str, Tensor],
    source: str,
    origins: Mapping[str, str],
) -> Converted:
    """Rename, check and load the tensors; all that do not fit are reported in one error."""
    wanted = model.state_dict()
    matched, ignored, unknown = [], [], []
    renamed: dict[str, Tensor] = {}
    for theirs, tensor in state.items():
        ours, why = layout.rename(theirs), layout.reason(theirs)
        if ours is not None and ours.partition("#")[0] in wanted:
            matched.append((theirs, ours.partition("#")[0]))
            renamed[ours] = tensor
        elif why is not None:
            ignored.append((theirs, why))
        else:
            unknown.append(theirs)
    ready = {
        key: tensor.view(wanted[key].shape) if tensor.numel() == wanted[key].numel() else tensor
        for key, tensor in join_kernels(renamed).items()
    }
    optional = [*layout.optional]
    if not any(key.startswith("text.bert.") for key in ready):
        optional.append(r"text\.bert\..+")  # loaded from its folder
    missing = [key for key in wanted if key not in ready]
    fresh = [key for key in missing if any(re.fullmatch(pattern, key) for pattern in optional)]
    lacking = [key for key in missing if key not in fresh]
    wrong = [
        f"{key} is {tuple(ready[key].shape)}, expected {tuple(wanted[key].shape)}"
        for key in ready
        if ready[key].shape != wanted[key].shape
    ]
    problems = [
        f"{what}: {', '.join(items[:5])}" + (f" and {len(items) - 5} more" if items[5:] else "")
        for what, items in (("unknown", unknown), ("missing", lacking), ("shapes", wrong))
        if items
    ]
    if problems:
        raise InputError(
            f"{source}: does not match {name} with these options. {'; '.join(problems)}. Pass the "
            "options the checkpoint was trained with, or check that it has the released layout."
        )
    model.load_state_dict({**{key: wanted[key] for key in fresh}, **ready})
    model.eval()
    return Converted(model, name, tuple(matched), tuple(ignored), tuple(fresh), dict(origins))


def save_converted(converted: Converted, path: Path) -> None:
    """Write weights and options to a ``.safetensors`` file."""
    from safetensors.torch import save_file  # optional dependency

    model = converted.model
    about = {"model": converted.name, "options": json.dumps(dataclasses.asdict(model.options))}
    if isinstance(getattr(model, "text", None), BertText):
        about["bert"] = json.dumps(dataclasses.asdict(model.text.bert.config))
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    header = {"sha256": weights_digest(tensors, about), **about}
    with replacing(path) as partial:
        save_file(tensors, str(partial), metadata=header)


def load_converted(path: Path | str) -> Any:
    """Rebuild a model from a file that ``save_converted`` wrote, in evaluation mode.

    Raises:
        MissingInput: no such file.   InputError: not a file of ``save_converted``.
        TrainingError: the weights differ from what was written.
    """
    from safetensors import SafetensorError, safe_open  # optional dependency

    if not Path(path).is_file():
        raise MissingInput(f"{path}: no such file.")
    try:
        with safe_open(str(path), framework="pt") as file:
            about = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path}: not a file of weights ({error}).") from error
    check_weights(Path(path), tensors, about)
    if "options" not in about:
        raise InputError(
            f"{path}: has no options beside its weights. Convert the checkpoint again."
        )
    options = json.loads(about["options"])
    if "bert" in about:
        model = _hrem_with_bert(options, BertConfig(**json.loads(about["bert"])))
    else:
        model = create(about["model"], **options)
    model.load_state_dict(tensors)
    return model.eval()


app = Program("python -m models.released.checkpoints")


@app.command("convert")
def _convert(
    name: Annotated[str, typer.Argument(metavar="NAME", help="gsmn, hrem or sgm.")],
    checkpoint: Annotated[Path, typer.Argument(metavar="FILE.pth.tar", help="As released.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="File to write.")],
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of the model; repeatable."),
    ] = None,
) -> None:
    """Convert a released checkpoint; print what happened to each tensor, and all options."""
    options = {}
    for item in option or ():
        key, _, value = item.partition("=")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    converted = convert(name, checkpoint, **options)
    save_converted(converted, out)
    sys.stdout.write(f"{converted.report()}\nwrote {out}\n")


if __name__ == "__main__":
    app.run()
