"""Small batches, and checks of the invariances that every model must have."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from features.batches.batch import CaptionBatch, ImageBatch
from models.training.synthetic import random_captions, random_images

GOLDEN = Path(__file__).resolve().parents[1] / "golden"

# Options of tiny models that fit the synthetic batches.
TINY = {"image_dim": 16, "vocab_size": 50, "n_labels": 12, "n_predicates": 8, "n_tags": 10}


@pytest.fixture(scope="session")
def tiny() -> dict[str, int]:
    """Options that fit ``make_images`` and ``make_captions``."""
    return dict(TINY)


@pytest.fixture(scope="session")
def make_images() -> Callable[..., ImageBatch]:
    return random_images


@pytest.fixture(scope="session")
def make_captions() -> Callable[..., CaptionBatch]:
    return random_captions


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """Return a reader of tests/golden/NAME.npz -> {name: tensor}."""

    def read(name: str) -> dict[str, Any]:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return {key: torch.from_numpy(np.array(arrays[key])) for key in arrays.files}

    return read


@pytest.fixture(scope="session")
def rank_env() -> Callable[[int], list[dict[str, str]]]:
    """Return a function that makes the environment torchrun would give to ``size`` ranks."""

    def make(size: int) -> list[dict[str, str]]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
        return [{**meet, "RANK": str(rank)} for rank in range(size)]

    return make


def _widen(tensor: torch.Tensor, axis: int, by: int, value: float = 0) -> torch.Tensor:
    shape = list(tensor.shape)
    shape[axis] = by
    return torch.cat([tensor, torch.full(shape, value).to(tensor)], axis)


def pad_images(batch: ImageBatch, objects: int = 3, relations: int = 2) -> ImageBatch:
    """Add padded objects and relations."""
    by = {
        **dict.fromkeys(("objects", "object_mask", "boxes", "labels", "scores"), objects),
        **dict.fromkeys(
            ("unions", "union_boxes", "relations", "predicates", "relation_mask"), relations
        ),
    }
    return dataclasses.replace(
        batch, **{name: _widen(getattr(batch, name), 1, n) for name, n in by.items()}
    )


def without_regions(batch: ImageBatch, row: int) -> ImageBatch:
    """Take all objects and relations from one image, as those in which nothing was detected."""

    def clear(values: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(len(values)).view(-1, *[1] * (values.dim() - 1))
        return values.masked_fill(rows == row, 0)

    names = [field.name for field in dataclasses.fields(batch)]
    names = [name for name in names if name not in ("rows", "sizes")]
    names = [name for name in names if getattr(batch, name) is not None]
    return dataclasses.replace(batch, **{name: clear(getattr(batch, name)) for name in names})


def without_words(batch: CaptionBatch, row: int) -> CaptionBatch:
    """Take all words and triplets from one caption."""
    kept = (torch.arange(len(batch.words)) != row).unsqueeze(1)
    bare = {"words": batch.words * kept, "word_mask": batch.word_mask & kept}
    bare |= {"tags": batch.tags * kept, "roles": batch.roles * kept}
    bare["heads"] = batch.heads.masked_fill(~kept, -1)
    bare["triplets"] = batch.triplets * kept.unsqueeze(2)
    bare["triplet_spans"] = batch.triplet_spans * kept.unsqueeze(2)
    if batch.pieces is not None and batch.piece_words is not None:
        bare["pieces"] = batch.pieces * kept
        bare["piece_words"] = batch.piece_words.masked_fill(~kept, -1)
    return dataclasses.replace(batch, **bare)


def pad_captions(
    batch: CaptionBatch, words: int = 3, triplets: int = 2, triplet_words: int = 2
) -> CaptionBatch:
    """Add padded words and triplets."""
    wide = {name: _widen(getattr(batch, name), 1, words) for name in ("words", "word_mask")}
    wide |= {name: _widen(getattr(batch, name), 1, words) for name in ("tags", "roles")}
    wide["heads"] = _widen(batch.heads, 1, words, -1)
    wide["triplets"] = _widen(_widen(batch.triplets, 1, triplets), 2, triplet_words)
    wide["triplet_spans"] = _widen(batch.triplet_spans, 1, triplets)
    if batch.pieces is not None and batch.piece_words is not None:
        wide["pieces"] = _widen(batch.pieces, 1, words)
        wide["piece_words"] = _widen(batch.piece_words, 1, words, -1)
    return dataclasses.replace(batch, **wide)


def reverse_objects(batch: ImageBatch) -> ImageBatch:
    """Reverse the order of the objects, padding first, and adapt the relations."""
    turned = {
        name: getattr(batch, name).flip(1)
        for name in ("objects", "object_mask", "boxes", "labels", "scores")
    }
    last = batch.objects.shape[1] - 1
    pairs = (last - batch.relations) * batch.relation_mask.unsqueeze(-1)
    return dataclasses.replace(batch, relations=pairs, **turned)


def half(batch: ImageBatch) -> ImageBatch:
    """Convert features to the dtype they are stored in."""
    return dataclasses.replace(batch, objects=batch.objects.half(), unions=batch.unions.half())


@pytest.fixture(scope="session")
def widen_images() -> Callable[..., ImageBatch]:
    return pad_images


@pytest.fixture(scope="session")
def widen_captions() -> Callable[..., CaptionBatch]:
    return pad_captions


def _score(model: Any, images: ImageBatch, captions: CaptionBatch) -> torch.Tensor:
    with torch.no_grad():
        return model.score(model.encode_images(images), model.encode_captions(captions))


@pytest.fixture(scope="session")
def check_invariances() -> Callable[..., None]:
    """Return a check that a model's scores depend on real content only (evaluation mode)."""

    def check(model: Any, *, atol: float = 1e-6, reorder: bool = True, **captions_as: Any) -> None:
        model.eval()
        make = torch.Generator().manual_seed(7)
        for value in model.parameters():  # a bias of zero would hide what padding does
            if value.dim() == 1:
                value.data += 0.1 * torch.randn(value.shape, generator=make)
        images = random_images(4)
        captions = random_captions(6, images=4, **captions_as)
        scores = _score(model, images, captions)
        assert scores.shape == (4, 6)
        assert scores.dtype == torch.float32
        assert torch.isfinite(scores).all()
        assert scores.std() > 0

        def same(other: torch.Tensor, what: str, expected: torch.Tensor = scores) -> None:
            worst = (other - expected).abs().max().item()
            assert worst <= atol, f"{what} changed a score by {worst:.2e}"

        same(_score(model, pad_images(images), captions), "padding the images")
        same(_score(model, images, pad_captions(captions)), "padding the captions")
        if reorder:
            same(_score(model, reverse_objects(images), captions), "reordering the objects")
        alone = torch.cat(
            [
                _score(model, images.index(slice(i, i + 1)), captions.index(slice(j, j + 1)))
                for i in range(4)
                for j in range(6)
            ]
        ).view(4, 6)
        same(alone, "scoring the pairs one by one")

    return check


@pytest.fixture(scope="session")
def check_edges() -> Callable[..., None]:
    """Return a check of the smallest inputs, of images without regions and captions without words,
    of float16 and gradients."""

    def check(model: Any, **captions_as: Any) -> None:
        images = random_images(3, objects=(1, 1), relations=(0, 0))
        captions = random_captions(3, words=(1, 1), triplets=(0, 0), **captions_as)
        model.eval()
        assert torch.isfinite(_score(model, images, captions)).all()
        assert torch.isfinite(_score(model, half(random_images(3)), captions)).all()
        bare = without_regions(random_images(3), 1)
        empty = without_words(random_captions(3, **captions_as), 2)
        for texts in (random_captions(3, **captions_as), empty):
            assert torch.isfinite(_score(model, bare, texts)).all()
        model.train()
        one = images.index(slice(1)), captions.index(slice(1))  # the last batch of an epoch
        for batch in (images, half(random_images(3, relations=(0, 4))), bare, one[0]):
            for texts in (captions, random_captions(3, **captions_as), empty):
                texts = one[1] if batch is one[0] else texts
                model.zero_grad()
                loss = model.loss(batch, texts)
                assert loss.shape == ()
                assert torch.isfinite(loss)
                loss.backward()
                for name, value in model.named_parameters():
                    assert value.grad is None or torch.isfinite(value.grad).all(), name

    return check


@pytest.fixture(scope="session")
def check_gradients() -> Callable[..., None]:
    """Return a float64 check of the loss gradient against central differences."""

    def check(model: Any, *, samples: int = 3, **captions_as: Any) -> None:
        model.double().eval()
        images = dataclasses.replace(random_images(3), objects=random_images(3).objects.double())
        images = dataclasses.replace(images, unions=images.unions.double())
        captions = random_captions(3, **captions_as)
        model.zero_grad()
        model.loss(images, captions).backward()
        make = torch.Generator().manual_seed(0)
        step = 1e-6
        for name, value in model.named_parameters():
            if value.grad is None:
                continue
            flat, slope = value.data.view(-1), value.grad.reshape(-1)
            for k in torch.randint(len(flat), (samples,), generator=make).tolist():
                kept = flat[k].item()
                ends = []
                for at in (kept + step, kept - step):
                    flat[k] = at
                    with torch.no_grad():
                        ends.append(model.loss(images, captions).item())
                flat[k] = kept
                numeric = (ends[0] - ends[1]) / (2 * step)
                assert slope[k].item() == pytest.approx(numeric, rel=1e-4, abs=1e-6), name

    return check
