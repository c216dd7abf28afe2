"""Node-level matching of GSMN: which regions a word means, which words a region means.

``match_nodes`` never builds the attended contexts c. A block's cosine needs only u.c and |c|, and
for c = sum_k a_k v_k these are sum_k a_k (u.v_k) and sqrt(a^T G a) with the Gram matrix G of the
block; the products a_i a_j of half the pairs serve all blocks in one matrix product.
``match_nodes_plainly`` is the definition, for tests and for the speed ratio.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

__all__ = [
    "AttentionNorm",
    "Nodes",
    "attend",
    "fold",
    "match_nodes",
    "match_nodes_plainly",
    "prepare",
    "quadratic_form",
]

AttentionNorm = Literal["clipped_l2norm", "none"]
"""Before the softmax, similarities pass LeakyReLU and an L2 norm over queries, or nothing."""


CACHE = 512 * 2**10  # bytes of intermediate products at a time on a CPU, half of a usual L2 cache
_LANES = 16  # float32 in a vector register: matrices of a multiple of it multiply a fifth faster


class Nodes(NamedTuple):
    """One side of the matching, ready for it.

    B graphs of N nodes with d values in t blocks.
    """

    vectors: Tensor  # (t, B * N, d / t), block by block
    mask: Tensor  # (B, N) bool
    norms: Tensor  # (B, t, N), length of each block
    gram: Tensor  # (B, t, (N // 2 + 1) N), inner products within a graph, see ``fold``


def prepare(vectors: Tensor, mask: Tensor, blocks: int) -> Nodes:
    """Split (B, N, d) vectors into blocks and compute what every pair needs from one side."""
    graphs, nodes, width = vectors.shape
    split = vectors.masked_fill(~mask.unsqueeze(-1), 0.0).view(
        graphs, nodes, blocks, width // blocks
    )
    by_block = split.permute(0, 2, 1, 3)
    gram = by_block @ by_block.transpose(2, 3)
    norms = gram.diagonal(dim1=2, dim2=3).clamp_min(1e-24).sqrt()
    return Nodes(split.flatten(0, 1).transpose(0, 1).contiguous(), mask, norms, fold(gram))


def fold(gram: Tensor) -> Tensor:
    """Fold (..., N, N) symmetric matrices into half their diagonals, wrapped around.

    Entry ``d * N + i`` belongs to the nodes i and (i + d) mod N; what stands for both halves of
    the matrix counts twice.

    Returns:
        (..., (N // 2 + 1) N).
    """
    n = gram.shape[-1]
    wide = torch.cat([gram, gram], -1).flatten(-2)  # (..., N 2N): steps along a row go round
    size, strides = (*gram.shape[:-2], n // 2 + 1, n), (*wide.stride()[:-1], 1, 2 * n + 1)
    step = _steps(n, gram.device)
    twice = torch.where((step == 0) | (2 * step == n), 1.0, 2.0).to(gram.dtype)
    return (wide.as_strided(size, strides) * twice).flatten(-2)


def _steps(nodes: int, device: torch.device) -> Tensor:
    return torch.arange(nodes // 2 + 1, device=device).unsqueeze(1)


def quadratic_form(weights: Tensor, folded: Tensor) -> Tensor:
    """Compute a^T G a for many vectors a and all blocks of G, never below 0.

    Args:
        weights: (B, N, M), M vectors of N weights in each of B graphs.
        folded: (B, t, (N // 2 + 1) N) from ``fold``.

    Returns:
        (B, t, M).
    """
    graphs, n, many = weights.shape
    if weights.is_cuda or torch.is_grad_enabled():
        other = (torch.arange(n, device=weights.device) + _steps(n, weights.device)) % n
        shifted = weights.index_select(1, other.flatten()).unflatten(1, (-1, n))
        products = (shifted * weights.unsqueeze(1)).flatten(1, 2)
        return torch.bmm(folded, products).clamp_min(1e-24)
    half, wide = n // 2 + 1, -(-many // _LANES) * _LANES
    ring = weights.new_zeros(graphs, n + half - 1, wide)
    ring[:, :n, :many] = weights
    ring[:, n:] = ring[:, : half - 1]
    step = max(1, CACHE // (4 * half * n * wide))  # a few graphs' products stay in the cache
    room = weights.new_empty(min(step, graphs), half, n, wide)
    square = weights.new_empty(graphs, folded.shape[1], wide)
    for start in range(0, graphs, step):
        rows = slice(start, start + step)
        some = ring[rows]
        shifted = some.unfold(1, n, 1).transpose(2, 3)  # a view, (b, half, n, M)
        products = torch.mul(shifted, some[:, :n].unsqueeze(1), out=room[: len(some)])
        torch.bmm(folded[rows], products.flatten(1, 2), out=square[rows])
    return square[..., :many].clamp_min(1e-24)


def attend(
    similar: Tensor, source: int, query: int, source_mask: Tensor, scale: float, norm: AttentionNorm
) -> Tensor:
    """Spread each query's attention over the sources.

    The released code normalises the similarities of one source over the queries first
    (``clipped_l2norm``); GSMN Eq. (3) and Eq. (5) show the softmax alone (``none``).

    Args:
        similar: inner products of both sides; zero on pads.
        source: axis of ``similar`` that the attention sums over.
        query: axis of the nodes that attend.
        source_mask: bool, broadcasts with ``similar``.
        scale: the factor lambda.
        norm: see above.
    """
    if norm == "clipped_l2norm":
        similar = leaky_relu(similar, 0.1)
        length = similar.square().sum(query, keepdim=True).clamp_min(1e-24).sqrt()
        similar = similar / (length + 1e-8)
    lowest = torch.finfo(similar.dtype).min  # and not -inf: an image may have no region at all
    return (scale * similar).masked_fill(~source_mask, lowest).softmax(source)


def match_nodes(
    words: Nodes,
    regions: Nodes,
    scale: float,
    norm: AttentionNorm,
    *,
    for_words: bool = True,
    for_regions: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """Compute the matching vectors of all nodes of all pairs, GSMN Eq. (3)-(5).

    Args:
        words: C captions of T words from ``prepare``.
        regions: I images of R regions from ``prepare``.
        scale: the factor lambda.
        norm: see ``attend``.
        for_words: whether the vectors of words are wanted.
        for_regions: whether the vectors of regions are wanted.

    Returns:
        (C, T, I, t) for words and (I, t, C, R) for regions; None where not wanted.
    """
    captions, length = words.mask.shape
    images, boxes = regions.mask.shape
    blocks = words.vectors.shape[0]
    products = torch.bmm(words.vectors, regions.vectors.transpose(1, 2)).view(
        blocks, captions, length, images, boxes
    )
    similar = products.sum(0)  # (C, T, I, R)
    clipped = norm == "clipped_l2norm"
    if clipped:
        similar = leaky_relu(similar, 0.1)
        squares = similar.square()
    word_vectors = region_vectors = None
    if for_words:
        squared = squares.sum(1, keepdim=True) if clipped else None
        weights = _sharpen(similar, squared, scale, regions.mask).softmax(3)
        dot = _sums_over_regions(products, weights)  # (C, T, I, t)
        rows = weights.flatten(0, 1).permute(1, 2, 0)  # (I, R, C T)
        square = quadratic_form(rows, regions.gram).view(images, blocks, captions, length)
        own = words.norms.transpose(1, 2).unsqueeze(2)  # (C, T, 1, t)
        word_vectors = _cosine(dot, own, square.permute(2, 3, 0, 1))
    if for_regions:
        squared = squares.sum(3, keepdim=True) if clipped else None
        weights = _sharpen(similar, squared, scale, words.mask[:, :, None, None]).softmax(1)
        dot = _sums_over_words(products, weights)  # (I, t, C, R)
        square = quadratic_form(weights.flatten(2), words.gram)
        square = square.view(captions, blocks, images, boxes).permute(2, 1, 0, 3)
        region_vectors = _cosine(dot, regions.norms.unsqueeze(2), square)
    return word_vectors, region_vectors


def _sharpen(similar: Tensor, squares: Tensor | None, scale: float, mask: Tensor) -> Tensor:
    """Return what the softmax is taken of, pads at the lowest number; see ``attend``.

    Similarities of pads are zero, so the mask can be added: cheaper than filling.
    """
    lowest = torch.zeros_like(mask, dtype=similar.dtype)
    lowest = lowest.masked_fill(~mask, torch.finfo(similar.dtype).min)
    if squares is None:
        return torch.add(lowest, similar, alpha=scale)
    sharpness = scale / (squares.clamp_min(1e-24).sqrt() + 1e-8)
    return (similar * sharpness).add_(lowest)  # addcmul is slow where the last axis broadcasts


def _sums_over_regions(products: Tensor, weights: Tensor) -> Tensor:
    """Sum w_r P_r over the regions: (t, C, T, I, R) and (C, T, I, R) to (C, T, I, t)."""
    if products.is_cuda:
        return (products * weights).sum(4).permute(1, 2, 3, 0)
    # one small product per word and image, all blocks in it: no product of elements is stored
    rows = products.flatten(1, 3).permute(1, 2, 0)  # (C T I, R, t)
    sums = torch.bmm(weights.reshape(len(rows), 1, -1), rows)
    return sums.view(*weights.shape[:3], -1)


def _sums_over_words(products: Tensor, weights: Tensor) -> Tensor:
    """Sum w_t P_t over the words: (t, C, T, I, R) and (C, T, I, R) to (I, t, C, R)."""
    if products.is_cuda or torch.is_grad_enabled():
        sums = (products * weights).sum(2)
    else:  # what is summed so far stays in the cache
        sums = products[:, :, 0] * weights[:, 0]
        for word in range(1, weights.shape[1]):
            sums.addcmul_(products[:, :, word], weights[:, word])
    return sums.permute(2, 0, 1, 3)


def _cosine(dot: Tensor, own: Tensor, square: Tensor) -> Tensor:
    """Divide by both lengths; like the released code, the product of lengths is at least 1e-8."""
    lengths = square.contiguous().sqrt().mul(own).clamp_min(1e-8)
    return dot.contiguous() / lengths


def match_nodes_plainly(
    queries: Tensor,
    sources: Tensor,
    source_mask: Tensor,
    scale: float,
    norm: AttentionNorm,
    blocks: int,
) -> Tensor:
    """Compute the matching vectors of one side as written, GSMN Eq. (3)-(5).

    Eq. (3) and Eq. (5) mix the sources for each query, Eq. (4) compares block by block.

    Args:
        queries: (..., N, d) nodes, zero where padded.
        sources: (..., M, d) nodes of the other graph, zero where padded.
        source_mask: (..., M) bool.
        scale: the factor lambda.
        norm: see ``attend``.
        blocks: number t of blocks.

    Returns:
        (..., N, t) cosines between each node and its attended context.
    """
    similar = queries @ sources.transpose(-1, -2)  # (..., N, M)
    context = attend(similar, -1, -2, source_mask.unsqueeze(-2), scale, norm) @ sources
    one = queries.unflatten(-1, (blocks, -1))
    other = context.unflatten(-1, (blocks, -1))
    lengths: Tensor = one.norm(dim=-1) * other.norm(dim=-1)
    dots: Tensor = (one * other).sum(-1)
    return dots / lengths.clamp_min(1e-8)
