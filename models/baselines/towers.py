"""Text and image towers of a local CLIP, SigLIP or SigLIP 2 folder, run by ``transformers``.

The package is optional, and nothing is downloaded: a folder is what ``save_pretrained`` writes or
the files of a model page, with ``config.json``, the weights, and the files of the tokenizer and of
the image processor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.decoding import DAMAGE, decode, orientation, turned
from features.errors import InputError, MissingDependency, MissingInput

FAMILIES = ("clip", "siglip", "siglip2")  # model_type in config.json


class Towers:
    """The two towers of a folder, in evaluation mode; they are loaded when first used.

    Args:
        folder: the local folder.

    Raises:
        MissingInput: the folder has no ``config.json``.
        InputError: it is not one of ``FAMILIES``.
        MissingDependency: ``transformers`` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import transformers  # optional; slow to load
        except ImportError as error:
            raise MissingDependency.of(
                "transformers", "the towers of a CLIP folder", "pip install 'transformers>=5'"
            ) from error
        self._library = transformers
        self.folder = folder
        try:
            stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except OSError as error:
            raise MissingInput(
                f"{folder}: has no config.json, so it is not the folder of a CLIP or SigLIP."
            ) from error
        except ValueError as error:
            raise InputError(f"{folder / 'config.json'}: is not JSON ({error}).") from error
        self.family = stated.get("model_type") if isinstance(stated, dict) else None
        if self.family not in FAMILIES:
            raise InputError(
                f"{folder / 'config.json'}: model_type is {self.family!r}, but should be one of "
                f"{', '.join(FAMILIES)}."
            )

    def _load(self, kind: str) -> Any:
        try:
            return getattr(self._library, kind).from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError, ImportError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{self.folder}: {kind} cannot load it ({reason}).") from error

    @cached_property
    def network(self) -> Any:
        """The model with both towers."""
        return self._load("AutoModel").eval()

    @cached_property
    def _tokenizer(self) -> Any:
        return self._load("AutoTokenizer")

    @cached_property
    def _processor(self) -> Any:
        return self._load("AutoImageProcessor")

    def embed_texts(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Return one vector per text, (N, D) float32, not normalised.

        SigLIP was trained on lower-case texts that are padded to their full length, without a mask.
        """
        length = self.network.config.text_config.max_position_embeddings
        if self.family == "clip":
            tokens = self._tokenizer(
                list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt"
            )
            inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        else:
            tokens = self._tokenizer(
                [text.lower() for text in texts],
                padding="max_length",
                truncation=True,
                max_length=length,
                return_tensors="pt",
            )
            inputs = {"input_ids": tokens["input_ids"]}
        return self._run("get_text_features", inputs, device)

    def embed_photos(self, files: Sequence[Path], device: torch.device) -> Tensor:
        """Return one vector per photo, (N, D) float32, not normalised.

        Raises: InputError: a photo cannot be read.
        """
        inputs = self._processor(images=[_photo(path) for path in files], return_tensors="pt")
        return self._run("get_image_features", dict(inputs), device)

    def _run(self, feature: str, inputs: dict[str, Tensor], device: torch.device) -> Tensor:
        network = self.network.to(device)
        with torch.inference_mode():
            found = getattr(network, feature)(
                **{name: value.to(device) for name, value in inputs.items()}
            )
        vectors: Tensor = getattr(found, "pooler_output", found)  # a tensor before version 5
        return vectors.float().clone()


def _photo(path: Path) -> Any:
    """Return a photo upright, as the RGB image of Pillow."""
    from PIL import Image  # loads Pillow

    try:
        return decode(
            path,
            lambda opened: Image.fromarray(
                turned(np.array(opened.convert("RGB")), orientation(opened))
            ),
        )
    except FileNotFoundError as error:
        raise MissingInput(f"{path}: no such photo. Check the option 'photos'.") from error
    except DAMAGE as error:
        raise InputError(f"{path}: cannot be read as a photo ({error}).") from error
