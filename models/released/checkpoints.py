"""Released checkpoints of GSMN, HREM and SGM as our models.

``python -m models.released.checkpoints gsmn model_best.pth.tar gsmn.safetensors`` prints what was matched and
writes the weights with the options that rebuild the model. Checkpoints are read with
``weights_only``: a file can bring tensors, never code.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from features.commands.program import exit_cleanly
from features.errors import InputError, MissingInput, UnknownName
from models.nn.bert import BertConfig
from models.nn.text_encoders import BertText
from models.registry import build_options, create
from models.released.layouts import LAYOUTS, Layout, join_kernels

__all__ = ["Converted", "convert", "load_converted", "load_official", "save_converted"]


@dataclass(frozen=True)
class Converted:
    """A released checkpoint as our model, and the account of what went where."""

    model: Any
    name: str
    matched: tuple[tuple[str, str], ...]  # (their name, our name)
    ignored: tuple[tuple[str, str], ...]  # (their name, why)
    fresh: tuple[str, ...]  # our tensors that keep their random start

    def report(self) -> str:
        """Return the account as text, one tensor a line."""
        lines = [f"{theirs} -> {ours}" for theirs, ours in self.matched]
        lines += [f"{theirs}: left out, {why}" for theirs, why in self.ignored]
        lines += [f"{ours}: not in the checkpoint, random" for ours in self.fresh]
        total = sum(p.numel() for p in self.model.parameters())
        lines.append(f"{self.name}: {len(self.matched)} tensors matched, {total:,} parameters")
        return "\n".join(lines)


def load_official(name: str, checkpoint: Path | str | Mapping[str, Any], **options: object) -> Any:
    """Return our model with the weights of a released checkpoint, in evaluation mode.

    Args:
        name: ``gsmn``, ``hrem`` or ``sgm``.
        checkpoint: the ``.pth.tar`` file, or what it holds: ``{"model": [state dict, ...]}``, that
            list, or one state dict whose names carry the parts' prefixes.
        options: options of the model; sizes are read off the tensors, the rest defaults to what
            the released code computes (GSMN: ``propagation="official"``). HREM's ``heads`` cannot
            be seen in the weights.

    Raises:
        UnknownName: no layout for this model.
        MissingInput: no such file.
        InputError: tensors that are missing, unknown or of the wrong shape.
    """
    return convert(name, checkpoint, **options).model


def convert(name: str, checkpoint: Path | str | Mapping[str, Any], **options: object) -> Converted:
    """Do what ``load_official`` does and return the account beside the model."""
    if name not in LAYOUTS:
        raise UnknownName.of("checkpoint layout", name, LAYOUTS)
    layout = LAYOUTS[name]
    source = str(checkpoint) if isinstance(checkpoint, str | Path) else "checkpoint"
    content = _read(Path(source)) if isinstance(checkpoint, str | Path) else checkpoint
    state = _flatten(content, layout, source)
    try:
        found = layout.options(state)
    except KeyError as error:
        raise InputError(
            f"{source}: no tensor {error.args[0]!r}, so this is not a {name} checkpoint as "
            f"released. Its names begin with {sorted(state)[:3]}."
        ) from error
    model = _build(name, {**found, **options}, state, source)
    return _fill(name, model, layout, state, source)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise MissingInput(f"{path}: no such checkpoint file.")
    kinds: list[Any] = [argparse.Namespace, np.dtype, type(np.dtype(np.float64))]
    scalar = np.float64(0).__reduce__()[0]  # how numpy pickles the best score beside the weights
    kinds += [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    try:
        with torch.serialization.safe_globals(kinds):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on a damaged or foreign file
        raise InputError(
            f"{path}: not a checkpoint that can be read without running its code "
            f"({str(error).splitlines()[0]})."
        ) from error


def _flatten(content: Any, layout: Layout, source: str) -> dict[str, Tensor]:
    """Return {name with its part's prefix: tensor}."""
    if isinstance(content, Mapping) and "model" in content:
        content = content["model"]
    if isinstance(content, list | tuple):
        if len(content) > len(layout.parts):
            raise InputError(
                f"{source}: {len(content)} state dicts, but this layout has "
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
    """Build the model; a BERT takes its sizes from the weights unless its folder is given."""
    if options.get("text_encoder") != "bert":
        return create(name, **options)
    prefix = "txt_enc.bert."
    tensors = {key.removeprefix(prefix): value for key, value in state.items() if prefix in key}
    if "bert" in options:
        return create(name, **options)
    if not tensors:
        raise InputError(
            f"{source}: no BERT among its tensors ({prefix}...). Give the folder of the BERT it "
            "was trained with: bert=FOLDER, or --option bert=FOLDER on the command line."
        )
    return _with_bert(name, options, _bert_sizes(tensors))


def _with_bert(name: str, options: dict[str, Any], sizes: BertConfig) -> Any:
    from models.papers.hrem import Hrem

    chosen = build_options(name, **options)
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
    name: str, model: nn.Module, layout: Layout, state: Mapping[str, Tensor], source: str
) -> Converted:
    """Rename, check and load; whatever does not fit is one clear error."""
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
    missing = [key for key in wanted if key not in ready]
    brought = not all(re.match(r"text\.bert\.", key) is None for key in ready)
    fresh = [key for key in missing if _may_lack(layout, key, brought=brought)]
    wrong = [
        f"{key} is {tuple(ready[key].shape)}, wanted {tuple(wanted[key].shape)}"
        for key in ready
        if ready[key].shape != wanted[key].shape
    ]
    lacking = [key for key in missing if key not in fresh]
    problems = [
        f"{what}: {', '.join(items[:5])}" + (f" and {len(items) - 5} more" if items[5:] else "")
        for what, items in (("unknown", unknown), ("missing", lacking), ("shapes", wrong))
        if items
    ]
    if problems:
        raise InputError(
            f"{source}: does not fit {name} with these options. {'; '.join(problems)}. Give the "
            "options the checkpoint was trained with, or check that it is the released layout."
        )
    model.load_state_dict({**{key: wanted[key] for key in fresh}, **ready})
    model.eval()
    return Converted(model, name, tuple(matched), tuple(ignored), tuple(fresh))


def _may_lack(layout: Layout, key: str, *, brought: bool) -> bool:
    """Say whether a checkpoint may lack our tensor; BERT's own may come from its folder."""
    if not brought and key.startswith("text.bert."):
        return True
    return key.endswith("num_batches_tracked") or any(
        re.fullmatch(pattern, key) for pattern in layout.optional
    )


def save_converted(converted: Converted, path: Path) -> None:
    """Write weights and options to a ``.safetensors`` file."""
    from safetensors.torch import save_file

    model = converted.model
    about = {"model": converted.name, "options": json.dumps(dataclasses.asdict(model.options))}
    if isinstance(getattr(model, "text", None), BertText):
        about["bert"] = json.dumps(dataclasses.asdict(model.text.bert.config))
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    save_file(tensors, str(path), metadata=about)


def load_converted(path: Path | str) -> Any:
    """Rebuild a model from a file that ``python -m models.released.checkpoints`` wrote, in evaluation mode."""
    from safetensors import safe_open

    if not Path(path).is_file():
        raise MissingInput(f"{path}: no such file.")
    with safe_open(str(path), framework="pt") as file:
        about = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if "options" not in about:
        raise InputError(f"{path}: has no options beside its weights; convert it again.")
    name, options = about["model"], json.loads(about["options"])
    if "bert" in about:
        model = _with_bert(name, options, BertConfig(**json.loads(about["bert"])))
    else:
        model = create(name, **options)
    model.load_state_dict(tensors)
    return model.eval()


def main(arguments: list[str] | None = None) -> int:
    """Convert one checkpoint from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m models.released.checkpoints", description=__doc__
    )
    parser.add_argument("name", choices=sorted(LAYOUTS), metavar="NAME", help="gsmn, hrem or sgm")
    parser.add_argument("checkpoint", type=Path, metavar="FILE.pth.tar")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="option of the model"
    )
    args = parser.parse_args(arguments)
    options = {}
    for item in args.option:
        key, _, value = item.partition("=")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    converted = convert(args.name, args.checkpoint, **options)
    save_converted(converted, args.out)
    sys.stdout.write(f"{converted.report()}\nwrote {args.out}\n")
    return 0


if __name__ == "__main__":
    exit_cleanly(main)
