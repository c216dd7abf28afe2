"""Random batches for tests and benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from features.batches import CaptionBatch, ImageBatch


def _counts(n: int, low: int, high: int, make: torch.Generator) -> Tensor:
    """Return n counts in low..high; the last one is high, so that no column is all padding."""
    counts = torch.randint(low, high + 1, (n,), generator=make)
    counts[-1] = high
    return counts


def _real(counts: Tensor, width: int) -> Tensor:
    return torch.arange(width) < counts.unsqueeze(1)


def random_images(
    n: int = 4,
    *,
    objects: tuple[int, int] = (2, 6),
    relations: tuple[int, int] = (0, 4),
    dim: int = 16,
    n_labels: int = 12,
    n_predicates: int = 8,
    seed: int = 0,
) -> ImageBatch:
    """Return n images with random graphs and features of unit variance.

    Args:
        n: images, in store rows 0..n-1.
        objects, relations: smallest and largest number per image.
        dim: width of a region feature.
        n_labels, n_predicates: table sizes (ids 2.. are used).
        seed: the same seed gives the same batch.
    """
    make = torch.Generator().manual_seed(seed)
    n_objects, n_relations = _counts(n, *objects, make), _counts(n, *relations, make)
    K, R = objects[1], max(relations[1], 1)
    object_mask, relation_mask = _real(n_objects, K), _real(n_relations, R)
    corners = torch.rand(n, K, 2, 2, generator=make).sort(dim=2).values
    boxes = corners.flatten(2) * object_mask.unsqueeze(-1)  # xyxy
    ends = torch.rand(n, R, 2, generator=make) * n_objects.view(n, 1, 1)
    pairs = ends.long() * relation_mask.unsqueeze(-1)  # (n, R, 2)
    first = boxes.gather(1, pairs[..., :1].expand(-1, -1, 4))
    second = boxes.gather(1, pairs[..., 1:].expand(-1, -1, 4))
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    return ImageBatch(
        rows=torch.arange(n),
        objects=torch.randn(n, K, dim, generator=make) * object_mask.unsqueeze(-1),
        object_mask=object_mask,
        boxes=boxes,
        labels=torch.randint(2, n_labels, (n, K), generator=make) * object_mask,
        scores=torch.rand(n, K, generator=make) * object_mask,
        unions=torch.randn(n, R, dim, generator=make) * relation_mask.unsqueeze(-1),
        union_boxes=torch.cat([low, high], -1) * relation_mask.unsqueeze(-1),
        relations=pairs,
        predicates=torch.randint(2, n_predicates, (n, R), generator=make) * relation_mask,
        relation_mask=relation_mask,
        sizes=torch.randint(200, 640, (n, 2), generator=make).float(),
    )


def random_captions(
    n: int = 4,
    *,
    images: int | None = None,
    words: tuple[int, int] = (3, 7),
    triplets: tuple[int, int] = (0, 3),
    vocab_size: int = 50,
    n_tags: int = 10,
    pieces: int | None = None,
    seed: int = 1,
) -> CaptionBatch:
    """Return n captions with random words, trees, roles and triplets.

    Args:
        n: captions; caption i describes image ``i % images``.
        images: how many images there are; None: one per caption.
        words: smallest and largest number of words, without ``<start>`` and ``<end>``.
        triplets: smallest and largest number per caption.
        vocab_size, n_tags: table sizes.
        pieces: size of the word-piece table; None: no pieces.
        seed: the same seed gives the same batch.
    """
    make = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=make)

    lengths = _counts(n, *words, make) + 2
    T = words[1] + 2
    mask = _real(lengths, T)
    at = torch.arange(T).expand(n, T)
    inner = mask & (at > 0) & (at < (lengths - 1).unsqueeze(1))  # no <start>, no <end>
    ends = at == (lengths - 1).unsqueeze(1)
    ids = torch.where(inner, draw(4, vocab_size, n, T), 0)
    ids = torch.where(at == 0, 1, torch.where(ends, 2, ids))
    # Word 1 is the root, and the head of every later word is an earlier one: a tree.
    heads = 1 + (torch.rand(n, T, generator=make) * (at - 1).clamp(min=1)).long()
    heads = torch.where(inner & (at > 1), heads, -1)
    roles = torch.where(inner, draw(1, 5, n, T), torch.where(mask, 4, 0))

    P, parts = max(triplets[1], 1), 2
    n_triplets = _counts(n, *triplets, make)
    real = _real(n_triplets, P)
    spans = draw(1, parts + 1, n, P, 3) * real.unsqueeze(-1)
    L = 3 * parts + 2
    place = torch.arange(L).expand(n, P, L)
    total = spans.sum(-1, keepdim=True)
    path = torch.where(place <= total, draw(4, vocab_size, n, P, L), 0)
    path = torch.where(place == 0, 1, torch.where(place == total + 1, 2, path))
    batch = {
        "rows": torch.arange(n),
        "image_rows": torch.arange(n) % (images or n),
        "words": ids,
        "word_mask": mask,
        "tags": torch.where(inner, draw(2, n_tags, n, T), mask.long()),
        "roles": roles,
        "heads": heads,
        "triplets": path * real.unsqueeze(-1),
        "triplet_spans": spans,
    }
    if pieces is None:
        return CaptionBatch(**batch)
    # Every word has two pieces; [CLS] and [SEP] belong to <start> and <end>.
    S = 2 * (T - 2) + 2
    slot = torch.arange(S).expand(n, S)
    n_pieces = (2 * (lengths - 2) + 2).unsqueeze(1)
    word = torch.where(slot == n_pieces - 1, lengths.unsqueeze(1) - 1, (slot + 1) // 2)
    held = slot < n_pieces
    return CaptionBatch(
        **batch,
        pieces=torch.where(held, draw(1, pieces, n, S), 0),
        piece_words=torch.where(held, word, -1),
    )
