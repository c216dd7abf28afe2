"""Fit a label head on regions and gold boxes; needs torch.

A region has the nouns and attributes of the gold boxes that it overlaps by half. Regions without a
gold box count as regions without a name: the head then gives the probability that people name a
region so, by which a graph ranks its objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from features.errors import MissingDependency, UsageError
from features.records import Detections
from pipeline.vision.boxes import iou_matrix
from pipeline.vision.folds import Folds, image_keys
from pipeline.vision.label_head import LabelHead, box_geometry, box_steps, context_row

if TYPE_CHECKING:
    import torch

Float = npt.NDArray[np.float32]

MATCH = 0.5  # IoU from which a region has the names of a gold box
COMPONENTS = 512  # of the features' principal components that training sees
KEEP = 0.35  # share of the regions without a name that an epoch sees, with their weight raised


class GoldBoxes(NamedTuple):
    """The gold boxes of an image.

    Attributes:
        boxes: (g, 4) xyxy pixels.
        nouns, attributes: the names that people gave each box.
    """

    boxes: Float
    nouns: Sequence[frozenset[str]]
    attributes: Sequence[frozenset[str]]


class LabelledRegions(NamedTuple):
    """One image: its regions (the whole image among them), their features (n, D), and the gold."""

    image_id: str
    found: Detections
    features: npt.NDArray[np.floating]
    gold: GoldBoxes


@dataclass(frozen=True)
class FitOptions:
    """How to fit.

    Attributes:
        min_boxes: nouns and attributes with fewer gold boxes are left out.
        hidden: hidden units.   epochs: passes over the images.   seed: of the initial weights.
        images: images in a batch.   rate: highest learning rate.   dropout: of the hidden units.
        folds: parts of the images, for each of which a head is fitted without it; 0: none.
        fold_components, fold_hidden: principal components that these heads see, hidden units.
    """

    min_boxes: int = 20
    hidden: int = 512
    epochs: int = 8
    images: int = 24
    rate: float = 2e-3
    dropout: float = 0.3
    seed: int = 0
    folds: int = 0
    fold_components: int = 256
    fold_hidden: int = 512


class Recall(NamedTuple):
    """How well labelled objects agree with gold boxes, in percent.

    Attributes:
        boxes: gold boxes.
        found: share that an object overlaps by half.
        named: share that such an object names with one of its nouns.
        shown: objects above ``threshold`` per image.
        precision: share of these that overlap a gold box and name it.
        threshold: lowest score with a precision of at least 60 % above it.
    """

    boxes: int
    found: float
    named: float
    shown: float
    precision: float
    threshold: float


class _Rows(NamedTuple):
    """All regions of all images."""

    starts: npt.NDArray[np.int64]  # (images + 1,)
    parts: npt.NDArray[np.float16]  # (rows, components)
    context: npt.NDArray[np.float16]  # (images, components)
    geometry: Float
    label: npt.NDArray[np.int64]  # row of the detector's label, the last for none
    score: Float
    steps: Float
    has_box: npt.NDArray[np.bool_]
    nouns: list[npt.NDArray[np.int64]]
    attributes: list[npt.NDArray[np.int64]]


def fit_head(
    images: Sequence[LabelledRegions],
    extractor: str,
    options: FitOptions | None = None,
    about: str = "",
) -> LabelHead:
    """Fit a label head.

    Args:
        images: training images, in memory. Each is known by its id to the heads of the folds.
        extractor: name of the extractor of their features, stored in the head.
        options: how to fit.   about: description of the images, stored in the head.

    Raises:
        UsageError: no noun has enough gold boxes.
        MissingDependency: torch is missing.
    """
    options = options or FitOptions()
    nouns = _frequent((image.gold.nouns for image in images), options)
    attributes = _frequent((image.gold.attributes for image in images), options)
    if not nouns:
        raise UsageError(f"no noun has {options.min_boxes} gold boxes; fit on more images.")
    found = Counter(label for image in images for label in set(image.found.labels))
    labels = tuple(sorted(name for name in found if found[name] >= 5))
    mean, basis = _components(images)
    rows = _rows(images, nouns, attributes, labels, mean, basis)
    sizes = (len(nouns), len(attributes), len(labels))
    weights = _train(rows, *sizes, options, np.arange(len(images)))
    weights = _centred(weights, mean @ basis)
    weights |= {name: basis @ weights[name] for name in ("region", "context")}
    return LabelHead(
        extractor=extractor,
        nouns=nouns,
        attributes=attributes,
        detector_labels=labels,
        together=_together((image.gold.nouns for image in images), nouns),
        about=about,
        folds=_folds(images, rows, sizes, mean, basis, options) if options.folds else None,
        **weights,  # type: ignore[arg-type]
    )


def _folds(
    images: Sequence[LabelledRegions],
    rows: _Rows,
    sizes: tuple[int, int, int],
    mean: Float,
    basis: Float,
    options: FitOptions,
) -> Folds:
    """Fit the heads for the images themselves."""
    keys = image_keys(image.image_id for image in images)
    fold_of = keys % np.uint64(options.folds)
    basis = basis[:, : options.fold_components]
    rows = rows._replace(
        parts=rows.parts[:, : basis.shape[1]], context=rows.context[:, : basis.shape[1]]
    )
    options = replace(options, hidden=options.fold_hidden)
    fitted = [
        _centred(_train(rows, *sizes, options, np.flatnonzero(fold_of != fold)), mean @ basis)
        for fold in range(options.folds)
    ]
    weights = {name: np.stack([each[name] for each in fitted]) for name in fitted[0]}
    return Folds(np.unique(keys), basis, weights)


def _centred(weights: dict[str, Float], shift: Float) -> dict[str, Float]:
    """Return the weights for features whose mean is not subtracted."""
    moved = shift @ weights["region"] + shift @ weights["context"]
    return weights | {"bias": (weights["bias"] - moved).astype(np.float32)}


def _frequent(named: Iterable[Sequence[frozenset[str]]], options: FitOptions) -> tuple[str, ...]:
    """Return the names with enough boxes, the most frequent first."""
    counts = Counter(name for names in named for box in names for name in box)
    return tuple(
        name
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        if count >= options.min_boxes
    )


def _together(named: Iterable[Sequence[frozenset[str]]], nouns: tuple[str, ...]) -> Float:
    """Return P(column noun | row noun) of one box, a little below what was counted."""
    row = {noun: at for at, noun in enumerate(nouns)}
    counts = np.zeros((len(nouns), len(nouns)), np.float32)
    for names in named:
        for box in names:
            known = [row[name] for name in box if name in row]
            counts[np.ix_(known, known)] += 1
    shares: Float = counts / (counts.diagonal()[:, None] + 5)
    return shares


def _components(images: Sequence[LabelledRegions]) -> tuple[Float, Float]:
    """Return mean (D,) and basis (D, components) of the features, whitened with damping."""
    step = max(1, sum(len(image.features) for image in images) // 30_000)
    sample = np.concatenate([image.features[at % step :: step] for at, image in enumerate(images)])
    sample = sample.astype(np.float32)
    mean, spread = sample.mean(0), sample.std(0) + 1e-3
    sample = (sample - mean) / spread  # so that features of a small scale are not lost
    values, vectors = np.linalg.eigh(sample.T @ sample / max(len(sample), 1))
    order = np.argsort(-values)[:COMPONENTS]
    scale = np.sqrt(np.maximum(values[order], 0) + 1e-3 * values[order[0]] + 1e-12)
    return mean, (vectors[:, order] / spread[:, None] / scale).astype(np.float32)


def _rows(
    images: Sequence[LabelledRegions],
    nouns: tuple[str, ...],
    attributes: tuple[str, ...],
    labels: tuple[str, ...],
    mean: Float,
    basis: Float,
) -> _Rows:
    """Collect the regions of all images and what is to be learned about them."""
    noun, attribute, label = (
        {name: at for at, name in enumerate(names)} for names in (nouns, attributes, labels)
    )
    total = sum(len(image.found.labels) for image in images)
    rows = _Rows(
        starts=np.cumsum([0, *(len(image.found.labels) for image in images)]),
        parts=np.empty((total, basis.shape[1]), np.float16),
        context=np.empty((len(images), basis.shape[1]), np.float16),
        geometry=np.empty((total, 10), np.float32),
        label=np.empty(total, np.int64),
        score=np.empty(total, np.float32),
        steps=np.zeros((total, 4), np.float32),
        has_box=np.zeros(total, np.bool_),
        nouns=[],
        attributes=[],
    )
    for at, (_, found, features, gold) in enumerate(images):
        part = slice(rows.starts[at], rows.starts[at + 1])
        rows.parts[part] = (features.astype(np.float32) - mean) @ basis
        rows.context[at] = rows.parts[part][context_row(found.labels)]
        rows.geometry[part] = box_geometry(found.boxes, found.size)
        rows.label[part] = [label.get(name, len(labels)) for name in found.labels]
        rows.score[part] = found.scores
        overlap = iou_matrix(found.boxes, gold.boxes.reshape(-1, 4))
        for row, ious in enumerate(overlap):
            matched = np.flatnonzero(ious >= MATCH).tolist()
            for names, known, ids in (
                (gold.nouns, noun, rows.nouns),
                (gold.attributes, attribute, rows.attributes),
            ):
                union = {known[name] for box in matched for name in names[box] if name in known}
                ids.append(np.array(sorted(union), np.int64))
            if len(matched):
                best = gold.boxes[ious.argmax()][None]
                rows.steps[part][row] = box_steps(found.boxes[row][None], best)[0]
                rows.has_box[part][row] = True
    return rows


def _train(
    rows: _Rows,
    n: int,
    a: int,
    labels: int,
    options: FitOptions,
    chosen: npt.NDArray[np.intp],
) -> dict[str, Float]:
    """Return the weights of a head over principal components, fitted on the chosen images."""
    try:
        import torch  # loads torch
    except ImportError as error:
        raise MissingDependency.of("torch", "fit-labels", "pip install torch") from error
    functional = torch.nn.functional
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    width, hidden = rows.parts.shape[1], options.hidden
    region = torch.nn.Linear(width, hidden)
    context = torch.nn.Linear(width, hidden, bias=False)
    geometry = torch.nn.Linear(10, hidden, bias=False)
    detector = torch.nn.Linear(labels + 1, hidden, bias=False)
    output = torch.nn.Linear(hidden, n + a + 4)
    with torch.no_grad():
        output.weight.mul_(0.1)
        output.bias[:n] = -5
        output.bias[n : n + a] = -4
        output.bias[n + a :] = 0
    layers = torch.nn.ModuleList([region, context, geometry, detector, output])
    batches = max(1, len(chosen) // options.images)
    optimizer = torch.optim.AdamW(layers.parameters(), options.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.rate, total_steps=batches * options.epochs, pct_start=0.15
    )
    named = np.array([len(ids) > 0 for ids in rows.nouns])
    for _ in range(options.epochs):
        order = rng.permutation(chosen)
        for batch in np.array_split(order, batches):
            every = np.concatenate([np.arange(*rows.starts[at : at + 2]) for at in batch])
            image = np.repeat(np.arange(len(batch)), np.diff(rows.starts)[batch])
            kept = named[every] | (rng.random(len(every)) < KEEP)
            every, image = every[kept], image[kept]
            weight = torch.from_numpy(np.where(named[every], 1, 1 / KEEP).astype(np.float32))
            parts = torch.from_numpy(rows.parts[every].astype(np.float32))
            whole = torch.from_numpy(rows.context[batch].astype(np.float32))
            scored = np.zeros((len(every), labels + 1), np.float32)
            has_label = rows.label[every] < labels
            scored[has_label, rows.label[every][has_label]] = rows.score[every][has_label]
            scored[:, labels] = rows.score[every]
            value = region(functional.dropout(parts, options.dropout / 2))
            value = value + context(functional.dropout(whole, options.dropout))[image]
            value = value + geometry(torch.from_numpy(rows.geometry[every]))
            value = value + detector(torch.from_numpy(scored))
            values = output(functional.dropout(functional.relu(value), options.dropout))
            loss = _loss(values, rows, every, weight, n, a)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return {
        "region": region.weight.detach().numpy().T,
        "context": context.weight.detach().numpy().T,
        "geometry": geometry.weight.detach().numpy().T,
        "detector": detector.weight.detach().numpy().T,
        "bias": region.bias.detach().numpy(),
        "output": output.weight.detach().numpy().T,
        "output_bias": output.bias.detach().numpy(),
    }


def _loss(
    values: torch.Tensor,
    rows: _Rows,
    every: npt.NDArray[np.int64],
    weight: torch.Tensor,
    n: int,
    a: int,
) -> torch.Tensor:
    """Return cross-entropy of nouns and attributes, and the error of the boxes, per region."""
    import torch  # loads torch

    functional = torch.nn.functional
    nouns = torch.from_numpy(_hot(rows.nouns, every, n))
    of_nouns = functional.binary_cross_entropy_with_logits(
        values[:, :n], nouns, reduction="none"
    ).sum(1)
    boxed = np.flatnonzero(rows.has_box[every])
    attributes = torch.from_numpy(_hot(rows.attributes, every[boxed], a))
    of_attributes = functional.binary_cross_entropy_with_logits(
        values[boxed, n : n + a], attributes, reduction="sum"
    )
    # Which of the attributes, given that people stated one.
    share = functional.log_softmax(values[boxed, n : n + a], 1) * attributes
    of_boxes = functional.smooth_l1_loss(
        values[boxed, n + a :], torch.from_numpy(rows.steps[every[boxed]]), reduction="sum"
    )
    others = 0.5 * of_attributes - 0.25 * share.sum() + 0.3 * of_boxes
    return ((of_nouns * weight).sum() + others) / weight.sum()


def _hot(ids: list[npt.NDArray[np.int64]], every: npt.NDArray[np.int64], width: int) -> Float:
    table = np.zeros((len(every), width), np.float32)
    for at, row in enumerate(every):
        table[at, ids[row]] = 1
    return table


def measure(
    head: LabelHead, images: Iterable[LabelledRegions], limit: int = 36, precision: float = 0.6
) -> Recall:
    """Compare the objects that a head chooses with gold boxes.

    Args:
        head: to be measured.   images: held-out images.
        limit: objects per image.   precision: of the objects that are shown.
    """
    total = found = named = count = 0
    scores: list[float] = []
    right: list[bool] = []
    for _, regions, features, gold in images:
        count += 1
        context = features[context_row(regions.labels)]
        objects = head.objects(regions, head.predict(regions, features, context), limit)
        matches = iou_matrix(gold.boxes.reshape(-1, 4), objects.boxes) >= MATCH
        fits = np.array(
            [[label in nouns for label in objects.labels] for nouns in gold.nouns], np.bool_
        ).reshape(matches.shape)
        total += len(matches)
        found += int(matches.any(1).sum())
        named += int(np.any(matches & fits, axis=1).sum())
        scores += objects.scores.tolist()
        right += np.any(matches & fits, axis=0).tolist()
    order = np.argsort(-np.array(scores), kind="stable")
    so_far = np.cumsum(np.array(right)[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(so_far >= precision)
    shown = int(enough[-1]) + 1 if len(enough) else 0
    return Recall(
        boxes=total,
        found=100 * found / max(total, 1),
        named=100 * named / max(total, 1),
        shown=shown / max(count, 1),
        precision=100 * float(so_far[shown - 1]) if shown else 0.0,
        threshold=float(np.array(scores)[order[shown - 1]]) if shown else 1.0,
    )
