"""Zero-shot CLIP, SigLIP and SigLIP 2: the cosine of an image vector and a caption vector.

Nothing is trained. Caption vectors come from the text tower of a local folder or from a file. Image
vectors are those of whole photos from the image tower of the same folder, of a file, or what the
store holds: region features that an image tower computed (variant ``regions@clip``).
docs/models/zero_shot.md has the commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from features.batches import CaptionBatch, ImageBatch
from features.errors import ConfigError, InputError, MismatchError, MissingInput, TrainingError
from features.names import bad_file
from features.npz_files import ARRAY_DAMAGE
from models.baselines.towers import Towers
from models.nn import DataOptions, cosine, l2norm, masked_l2norm, masked_max, masked_mean
from models.registry import register

BATCH = 64  # photos or captions that go through a tower at a time


@dataclass(frozen=True)
class ClipOptions(DataOptions):
    """Options of zero-shot CLIP."""

    image_dim: int = 512
    """Width of the stored region features; not read with ``photos``."""
    captions: str = ""
    """``.npy`` file with one vector per caption row of the store, or a local folder of CLIP, SigLIP
    or SigLIP 2."""
    photos: str = ""
    """Folder of the store's photos, for whole images through the image tower of the folder in
    ``captions``; or an ``.npy`` file with one vector per image row. Empty: stored regions."""
    pool: Literal["mean", "max"] = "mean"
    """Of stored regions: one mean vector per image, or the region that fits a caption best."""


class ClipImages(NamedTuple):
    """Regions and the pooled image of I images."""

    regions: Tensor  # (I, K, D), unit length, zeros where padded; K = 0 with one vector per image
    mask: Tensor  # (I, K) bool
    pooled: Tensor  # (I, D), unit length


class ClipCaptions(NamedTuple):
    """One unit vector per caption."""

    vectors: Tensor  # (C, D)


@register("clip", ClipOptions)
class Clip(nn.Module):
    """Cosine of the vectors of two towers; call ``attach`` before scoring."""

    reads_unions = False
    learns = False  # there is no loss to minimise

    place: Tensor  # empty; it is where the model is, and part of no checkpoint

    def __init__(self, options: ClipOptions) -> None:
        super().__init__()
        self.options = options
        self.register_buffer("place", torch.zeros(0), persistent=False)
        self._towers: Towers | None = None
        self._texts: list[str] = []
        self._files: list[Path] = []
        self._caption_vectors: Tensor | None = None  # unit length, of the rows of a store
        self._image_vectors: Tensor | None = None

    def prepare(self, store: Any, codebook: Any) -> None:
        """Attach a store; the codebook is not used, as captions are read as text."""
        del codebook
        self.attach(store)

    def attach(self, store: Any) -> None:
        """Use the captions and photos of a store; vectors are computed when they are encoded.

        Raises:
            ConfigError: an option is missing.   MissingInput, InputError: a file is no such thing.
            MissingDependency: a folder needs the package ``transformers``.
            MismatchError: the vectors of a file do not match the store.
        """
        o = self.options
        if not o.captions:
            raise ConfigError(
                "clip needs the option 'captions'. Set it to the folder of a CLIP, SigLIP or "
                "SigLIP 2, or to an .npy file with one vector per caption."
            )
        self._texts = [str(text) for text in store.column("caption")]
        source = Path(o.captions)
        if not source.exists():
            raise MissingInput(f"{source}: no such file or folder. Check the option 'captions'.")
        if source.is_file():
            self._caption_vectors = _vectors(source, len(self._texts), "captions")
        else:
            self._towers = Towers(source)
        if o.photos:
            self._attach_photos(store, Path(o.photos))
        elif self._caption_vectors is not None:
            self._compare(self._caption_vectors, o.image_dim)

    def _attach_photos(self, store: Any, photos: Path) -> None:
        if not photos.exists():
            raise MissingInput(f"{photos}: no such file or folder. Check the option 'photos'.")
        files = [str(name) for name in store.column("image_file")]
        if photos.is_file():
            self._image_vectors = _vectors(photos, len(files), "images")
            if self._caption_vectors is not None:
                self._compare(self._caption_vectors, self._image_vectors.shape[1])
            return
        if self._towers is None:
            raise ConfigError(
                "clip: whole photos need an image tower. Set the option 'captions' to the folder "
                "of the model, or 'photos' to an .npy file with one vector per image."
            )
        for name in files:
            if reason := bad_file(name):
                raise InputError(f"{name}: is no file name under {photos}: {reason}.")
        self._files = [photos / name for name in files]

    def _compare(self, captions: Tensor, width: int) -> None:
        if captions.shape[1] != width:
            raise MismatchError(
                f"{self.options.captions}: caption vectors have shape {tuple(captions.shape)}, but "
                f"the images have vectors of width {width}. Use vectors of the same model."
            )

    def encode_images(self, images: ImageBatch) -> ClipImages:
        """Return unit vectors of the images; with ``pool: max`` also of their regions.

        Raises: MissingInput, InputError: a photo cannot be read.
        """
        mask = images.object_mask
        pooled = self._whole(images.rows)
        if pooled is not None:
            regions = pooled.new_zeros(len(pooled), 0, pooled.shape[1])
            return ClipImages(regions, mask[:, :0], pooled)
        regions = masked_l2norm(images.objects.float(), mask)
        pooled = l2norm(masked_mean(regions, mask.unsqueeze(-1), 1))
        if self.options.pool == "mean":
            regions, mask = regions[:, :0], mask[:, :0]
        return ClipImages(regions, mask, pooled)

    def _whole(self, rows: Tensor) -> Tensor | None:
        """Return unit vectors of whole photos, None where the store's regions are used."""
        if self._image_vectors is not None:
            return self._image_vectors[rows.cpu()].to(self.place.device)
        if not self._files:
            return None
        assert self._towers is not None
        chosen = [self._files[row] for row in rows.tolist()]
        parts = [
            self._towers.embed_photos(chosen[start : start + BATCH], self.place.device)
            for start in range(0, len(chosen), BATCH)
        ]
        return l2norm(torch.cat(parts))

    def encode_captions(self, captions: CaptionBatch) -> ClipCaptions:
        """Return unit vectors of the captions, which are known by their row in the store.

        Raises: TrainingError: neither ``prepare`` nor ``attach`` was called.
        """
        rows = captions.rows
        if self._caption_vectors is not None:
            return ClipCaptions(self._caption_vectors[rows.cpu()].to(self.place.device))
        if self._towers is None:
            raise TrainingError("clip has no caption vectors. Call prepare(store, codebook) first.")
        chosen = [self._texts[row] for row in rows.tolist()]
        parts = [
            self._towers.embed_texts(chosen[start : start + BATCH], self.place.device)
            for start in range(0, len(chosen), BATCH)
        ]
        return ClipCaptions(l2norm(torch.cat(parts)))

    def score(self, images: ClipImages, captions: ClipCaptions) -> Tensor:
        """Return the cosines of all pairs: (I, C).

        Raises: MismatchError: images and captions have vectors of different widths.
        """
        self._compare(captions.vectors, images.pooled.shape[1])
        if images.regions.shape[1] == 0:
            return images.pooled @ captions.vectors.T
        scores = images.regions @ captions.vectors.T  # (I, K, C)
        return masked_max(scores, images.mask.unsqueeze(-1), 1)

    def plain_score(self, images: ClipImages, captions: ClipCaptions) -> Tensor:
        """Return the cosines of I images with one caption: (I, 1)."""
        if images.regions.shape[1] == 0:
            return cosine(images.pooled, captions.vectors).unsqueeze(1)
        scores = cosine(images.regions, captions.vectors.unsqueeze(1))
        return masked_max(scores, images.mask, 1).unsqueeze(1)


def _vectors(path: Path, rows: int, what: str) -> Tensor:
    """Return unit vectors of a file, (rows, D) float32.

    Raises:
        InputError: not an array of finite numbers.
        MismatchError: not one vector per row of the store.
    """
    try:
        values = torch.from_numpy(np.load(path, allow_pickle=False)).float()
    except ARRAY_DAMAGE as error:
        raise InputError(f"{path}: cannot be read as a numeric .npy array ({error}).") from error
    if values.dim() != 2 or len(values) != rows:
        raise MismatchError(
            f"{path}: has the shape {tuple(values.shape)}, but the store has {rows} {what}. "
            "It should hold one vector for each, in the order of the store."
        )
    if not bool(values.isfinite().all()):
        row = int((~values.isfinite().all(1)).nonzero()[0])
        raise InputError(f"{path}: row {row} has a value that is not finite. Write it again.")
    return l2norm(values)
