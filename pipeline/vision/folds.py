"""Cross-fitting: the images that a label head was fitted on get a head that has not seen them.

A head is better on the images that it was fitted on than on others, so what is measured on graphs
of these images says too much. The images are divided into folds, and for each fold one more head
is fitted without its images.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]

# Data sets name photos of Flickr by the number of the photo, with or without what follows it.
_FLICKR = re.compile(r"(\d{6,})(?:_[0-9a-f]{8,}.*)?")
_LEVELS = 63  # of a stored weight, on each side of 0; 7 bits keep the packaged file below 5 MB
WEIGHTS = ("region", "context", "geometry", "detector", "bias", "output", "output_bias")


def image_keys(image_ids: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return a number for each image: a hash of its name without folder and ending, (n,)."""
    keys = []
    for image_id in image_ids:
        name = PurePosixPath(image_id).name
        name = name.rpartition(".")[0] or name
        if number := _FLICKR.fullmatch(name):
            name = number.group(1)
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        keys.append(int.from_bytes(digest, "little"))
    return np.array(keys, np.uint64)


@dataclass(frozen=True, eq=False)
class Folds:
    """Weights of K heads over C principal components, each fitted without one fold.

    Attributes:
        images: (m,) sorted keys of the images that the heads were fitted on. The fold of an image
            is its key modulo K.
        basis: (D, C), the components.
        weights: the weights of ``LabelHead`` by name, with the fold as first dimension; ``region``
            is (K, C, H) and ``context`` (K, C, H).
    """

    images: npt.NDArray[np.uint64]
    basis: Float
    weights: Mapping[str, Float]

    def __len__(self) -> int:
        return len(self.weights["bias"])

    @property
    def components(self) -> int:
        """C, the principal components."""
        return int(self.basis.shape[1])

    def of(self, image_id: str) -> int | None:
        """Return the fold of an image, None if the heads were not fitted on it."""
        (key,) = image_keys([image_id])
        at = int(np.searchsorted(self.images, key))
        known = at < len(self.images) and self.images[at] == key
        return int(key % np.uint64(len(self))) if known else None

    def weights_of(self, fold: int) -> dict[str, Float]:
        """Return the weights of the head that was fitted without the images of a fold."""
        found = {name: self.weights[name][fold] for name in WEIGHTS}
        return found | {name: self.basis @ found[name] for name in ("region", "context")}

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return what is stored: the weights in 7 bits with one scale a column."""
        stored: dict[str, npt.NDArray[np.generic]] = {"fold_images": self.images}
        for name, value in {"basis": self.basis, **self.weights}.items():
            if name.endswith("bias"):
                stored[f"fold_{name}"] = value.astype(np.float16)
                continue
            scale = np.abs(value).max(-2, keepdims=True).astype(np.float32) / _LEVELS + 1e-12
            stored[f"fold_{name}"] = np.round(value / scale).astype(np.int8)
            stored[f"fold_{name}_scale"] = scale
        return stored

    @classmethod
    def of_arrays(cls, stored: Mapping[str, npt.NDArray[np.generic]]) -> Folds | None:
        """Return what ``arrays`` made, None if there is nothing.

        The caller compares the shapes of the weights with those of the head.

        Raises: KeyError, ValueError: an array is missing or is not what it should be.
        """
        if "fold_images" not in stored:
            return None
        found: dict[str, Float] = {}
        for name in ("basis", *WEIGHTS):
            raw = stored[f"fold_{name}"]
            if raw.dtype != (np.float16 if name.endswith("bias") else np.int8):
                raise ValueError(f"'fold_{name}' has the dtype {raw.dtype}")
            value: Float = raw.astype(np.float32)
            if not name.endswith("bias"):
                scale = stored[f"fold_{name}_scale"]  # numpy would repeat it
                shape = (*value.shape[:-2], 1, *value.shape[-1:])
                if scale.dtype != np.float32 or scale.shape != shape:
                    raise ValueError(f"'fold_{name}_scale' does not fit 'fold_{name}'")
                value = value * scale.astype(np.float32)
            found[name] = value
        basis, images = found.pop("basis"), stored["fold_images"].astype(np.uint64)
        if (
            stored["fold_images"].dtype != np.uint64
            or images.ndim != 1
            or (images[1:] < images[:-1]).any()
        ):
            raise ValueError("'fold_images' are not sorted keys")
        if basis.ndim != 2 or found["bias"].ndim != 2 or not len(found["bias"]):
            raise ValueError("the weights of the folds do not fit")
        return cls(images, basis, found)
