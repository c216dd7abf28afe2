"""Match the nodes of two graphs block by block, for all pairs of graphs (GSMN section 3.2.1).

``match_nodes`` never builds the attended contexts c. The cosine of a block needs only u.c and |c|,
and for c = sum_k a_k v_k these are sum_k a_k (u.v_k) and sqrt(a^T G a) with the Gram matrix G of
the block; the products a_i a_j of half the pairs serve all blocks in one matrix product.

On a CPU the gradient is written out below each function: it passes over the products of a tile a
few times, where autograd would pass over them for every operation.

Symbols: C captions of T words, I images of R regions, t blocks of k numbers; B graphs of N nodes.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import leaky_relu

from models.nn.layers import zero_padding

AttentionNorm = Literal["clipped_l2norm", "none"]

CACHE = 512 * 2**10  # bytes of intermediate products at a time on a CPU, half of a usual L2 cache
_LANES = 16  # float32 in a vector register: matrices of a multiple of it multiply a fifth faster
_TINY = 1e-24  # smallest square of a length
_SHORTEST = 1e-8  # smallest product of two lengths


class BlockNodes(NamedTuple):
    """The nodes of B graphs, N each, cut into t blocks."""

    vectors: Tensor  # (t, B * N, k), block by block
    mask: Tensor  # (B, N) bool
    norms: Tensor  # (B, t, N), length of each block
    gram: Tensor  # (B, t, N, N), inner products within a graph
    folded: Tensor  # (B, t, (N // 2 + 1) N), the same, see ``fold_gram``


def cut_blocks(vectors: Tensor, mask: Tensor, blocks: int) -> BlockNodes:
    """Cut (B, N, d) vectors into blocks and compute what all pairs need from one side."""
    if _by_hand(vectors):
        flat, *rest = _CutBlocks.apply(vectors, mask, blocks)  # type: ignore[no-untyped-call]
        return BlockNodes(flat, mask, *rest)
    split = zero_padding(vectors, mask).unflatten(-1, (blocks, -1))  # (B, N, t, k)
    by_block = split.permute(0, 2, 1, 3)
    gram = by_block @ by_block.transpose(2, 3)
    norms = gram.diagonal(dim1=2, dim2=3).clamp_min(_TINY).sqrt()
    flat = split.flatten(0, 1).transpose(0, 1).contiguous()
    return BlockNodes(flat, mask, norms, gram, fold_gram(gram))


def _by_hand(vectors: Tensor) -> bool:
    """Return whether the gradient is that of this module: on a CPU, in the tensor's precision."""
    device = vectors.device.type
    return device == "cpu" and torch.is_grad_enabled() and not torch.is_autocast_enabled(device)


class _CutBlocks(torch.autograd.Function):
    """What ``cut_blocks`` returns; the folded matrices have no gradient of their own."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, mask: Tensor, blocks: int) -> tuple[Tensor, ...]:
        """Cut into blocks."""
        split = zero_padding(vectors, mask).unflatten(-1, (blocks, -1))  # (B, N, t, k)
        by_block = split.permute(0, 2, 1, 3).contiguous()
        gram = by_block @ by_block.transpose(2, 3)
        norms = gram.diagonal(dim1=2, dim2=3).clamp_min(_TINY).sqrt()
        ctx.save_for_backward(by_block, norms, mask)
        folded = fold_gram(gram)
        ctx.mark_non_differentiable(folded)
        return split.flatten(0, 1).transpose(0, 1).contiguous(), norms, gram, folded

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_flat: Tensor, of_norms: Tensor, of_gram: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Add what the vectors themselves and their inner products got."""
        by_block, norms, mask = ctx.saved_tensors
        graphs, blocks, n, _ = by_block.shape
        both = of_gram + of_gram.transpose(2, 3)
        of_squares = (of_norms / norms).masked_fill_(norms * norms <= _TINY, 0.0)
        both.diagonal(dim1=2, dim2=3).add_(of_squares)
        mixed = both @ by_block  # (B, t, N, k)
        whole = of_flat.view(blocks, graphs, n, -1).permute(1, 2, 0, 3) + mixed.transpose(1, 2)
        return zero_padding(whole.flatten(2), mask), None, None


def fold_gram(gram: Tensor) -> Tensor:
    """Fold (..., N, N) symmetric matrices into half of their diagonals: (..., (N // 2 + 1) N).

    Entry ``d * N + i`` belongs to the nodes i and (i + d) mod N. An entry that represents both
    halves of the matrix is doubled.
    """
    n = gram.shape[-1]
    first, step = torch.arange(n, device=gram.device), _steps(n, gram.device)
    places = (first * n + (first + step) % n).flatten()
    twice = torch.where((step == 0) | (2 * step == n), 1.0, 2.0).to(gram.dtype)
    folded = gram.flatten(-2).index_select(-1, places)
    return folded * twice.expand(-1, n).flatten()


def _steps(nodes: int, device: torch.device) -> Tensor:
    return torch.arange(nodes // 2 + 1, device=device).unsqueeze(1)


def quadratic_form(weights: Tensor, folded: Tensor) -> Tensor:
    """Compute a^T G a for many vectors a and all blocks of G, at least 1e-24: (B, t, M).

    Args:
        weights: (B, N, M), M vectors of N weights in each of B graphs.
        folded: (B, t, (N // 2 + 1) N) from ``fold_gram``.
    """
    graphs, n, many = weights.shape
    if weights.is_cuda or torch.is_grad_enabled():
        other = (torch.arange(n, device=weights.device) + _steps(n, weights.device)) % n
        shifted = weights.index_select(1, other.flatten()).unflatten(1, (-1, n))
        products = (shifted * weights.unsqueeze(1)).flatten(1, 2)
        return torch.bmm(folded, products).clamp_min(_TINY)
    ring = _ring(weights)
    wide = ring.shape[2]
    step = max(1, CACHE // (4 * (n // 2 + 1) * n * wide))  # products of a few graphs fit the cache
    room = ring.new_empty(min(step, graphs), n // 2 + 1, n, wide)
    square = weights.new_empty(graphs, folded.shape[1], wide)
    for start in range(0, graphs, step):
        rows = slice(start, start + step)
        products = _pair_products(ring[rows], room)
        torch.bmm(folded[rows], products, out=square[rows])
    return square[..., :many].clamp_min(_TINY)


def _ring(weights: Tensor) -> Tensor:
    """Append the first half of the nodes to (B, N, M) weights; pad M to whole registers."""
    graphs, n, many = weights.shape
    half = n // 2
    ring = weights.new_zeros(graphs, n + half, -(-many // _LANES) * _LANES)
    ring[:, :n, :many] = weights
    ring[:, n:] = ring[:, :half]
    return ring


def _pair_products(ring: Tensor, room: Tensor) -> Tensor:
    """Return a_i a_j in the order of ``fold_gram``: (b, (N // 2 + 1) N, M) of b graphs."""
    n = room.shape[2]
    shifted = ring.unfold(1, n, 1).transpose(2, 3)  # a view, (b, half, n, M)
    return torch.mul(shifted, ring[:, :n].unsqueeze(1), out=room[: len(ring)]).flatten(1, 2)


def _quadratic_gradients(weights: Tensor, gram: Tensor, of_form: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of a^T G a by the weights (B, N, M) and by the Gram matrices.

    Args:
        weights: (B, N, M).   gram: (B, t, N, N).   of_form: (B, t, M), the gradient by the forms.
    """
    graphs, n, many = weights.shape
    of_weights, of_gram = torch.empty_like(weights), torch.empty_like(gram)
    by_row, right = gram.flatten(1, 2).transpose(1, 2), weights.transpose(1, 2)
    step = max(1, 4 * CACHE // (4 * gram.shape[1] * n * many))
    room = weights.new_empty(min(step, graphs), gram.shape[1], n, many)
    for start in range(0, graphs, step):
        rows = slice(start, start + step)
        some = room[: len(weights[rows])]
        torch.mul(of_form[rows].unsqueeze(2), weights[rows].unsqueeze(1), out=some)
        torch.bmm(by_row[rows], some.flatten(1, 2), out=of_weights[rows])
        torch.bmm(some.flatten(1, 2), right[rows], out=of_gram[rows].flatten(1, 2))
    return of_weights.mul_(2), of_gram


def match_nodes(
    words: BlockNodes,
    regions: BlockNodes,
    scale: float,
    norm: AttentionNorm,
    *,
    for_words: bool = True,
    for_regions: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """Compute the matching vectors of all nodes of all pairs. GSMN Eq. (3)-(5).

    Args:
        words: C captions of T words.   regions: I images of R regions.
        scale: lambda.   norm: see ``GsmnOptions.attention_norm``.
        for_words, for_regions: which of the two results to compute.

    Returns:
        (C, T, I, t) for words, whose context is regions (Eq. 3), and (I, t, C, R) for regions
        (Eq. 5); None where not asked for.
    """
    if _by_hand(words.vectors):
        of_words, of_regions = _Match.apply(  # type: ignore[no-untyped-call]
            *(*words, *regions, scale, norm, for_words, for_regions)
        )
        return of_words, of_regions
    products, similar = _similarities(words, regions, norm)
    word_vectors = region_vectors = None
    if for_words:
        weights = _word_weights(similar, regions.mask, scale, norm)
        word_vectors = _word_vectors(words, regions, products, weights)[0]
    if for_regions:
        weights = _region_weights(similar, words.mask, scale, norm)
        region_vectors = _region_vectors(words, regions, products, weights)[0]
    return word_vectors, region_vectors


def _similarities(
    words: BlockNodes, regions: BlockNodes, norm: AttentionNorm
) -> tuple[Tensor, Tensor]:
    """Return the inner products of blocks (t, C, T, I, R), and of nodes, clipped: (C, T, I, R)."""
    shape = (*words.mask.shape, *regions.mask.shape)
    products = torch.bmm(words.vectors, regions.vectors.transpose(1, 2)).view(-1, *shape)
    similar = products.sum(0)
    return products, leaky_relu(similar, 0.1) if norm == "clipped_l2norm" else similar


def _word_weights(similar: Tensor, mask: Tensor, scale: float, norm: AttentionNorm) -> Tensor:
    """Return the attention of words to regions, (C, T, I, R)."""
    squared = similar.square().sum(1, keepdim=True) if norm == "clipped_l2norm" else None
    return attention_logits(similar, squared, scale, mask).softmax(3)


def _region_weights(similar: Tensor, mask: Tensor, scale: float, norm: AttentionNorm) -> Tensor:
    """Return the attention of regions to words, (C, T, I, R)."""
    squared = similar.square().sum(3, keepdim=True) if norm == "clipped_l2norm" else None
    return attention_logits(similar, squared, scale, mask[:, :, None, None]).softmax(1)


def attention_logits(similar: Tensor, squares: Tensor | None, scale: float, mask: Tensor) -> Tensor:
    """Scale similarities, divided by their norm over the queries if ``squares`` sums them.

    Padded sources get the lowest number (not -inf: an image may have no region). Similarities of
    pads are 0, so it can be added, which is cheaper than filling.
    """
    lowest = torch.zeros_like(mask, dtype=similar.dtype)
    lowest = lowest.masked_fill(~mask, torch.finfo(similar.dtype).min)
    if squares is None:
        return torch.add(lowest, similar, alpha=scale)
    # addcmul is slow where the last axis broadcasts
    return (similar * _sharpness(squares, scale)).add_(lowest)


def _sharpness(squares: Tensor, scale: float) -> Tensor:
    return scale / (squares.clamp_min(_TINY).sqrt() + 1e-8)


def _word_vectors(
    words: BlockNodes, regions: BlockNodes, products: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the matching vectors of words and the squared lengths of contexts: (C, T, I, t)."""
    blocks, captions, length, images, _ = products.shape
    dot = _sums_over_regions(products, weights)  # (C, T, I, t)
    rows = weights.flatten(0, 1).permute(1, 2, 0)  # (I, R, C T)
    square = quadratic_form(rows, regions.folded).view(images, blocks, captions, length)
    square = square.permute(2, 3, 0, 1)
    return _block_cosine(dot, words.norms.transpose(1, 2).unsqueeze(2), square), square


def _region_vectors(
    words: BlockNodes, regions: BlockNodes, products: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the matching vectors of regions and the squared lengths of contexts: (I, t, C, R)."""
    blocks, captions, _, images, boxes = products.shape
    dot = _sums_over_words(products, weights)  # (I, t, C, R)
    square = quadratic_form(weights.flatten(2), words.folded)
    square = square.view(captions, blocks, images, boxes).permute(2, 1, 0, 3)
    return _block_cosine(dot, regions.norms.unsqueeze(2), square), square


def _sums_over_regions(products: Tensor, weights: Tensor) -> Tensor:
    """Sum w_r P_r over the regions: (t, C, T, I, R) and (C, T, I, R) to (C, T, I, t)."""
    if products.is_cuda:
        return (products * weights).sum(4).permute(1, 2, 3, 0)
    # one small product per word and image with all blocks: no elementwise product is stored
    rows = products.flatten(1, 3).permute(1, 2, 0)  # (C T I, R, t)
    sums = torch.bmm(weights.reshape(len(rows), 1, -1), rows)
    return sums.view(*weights.shape[:3], -1)


def _sums_over_words(products: Tensor, weights: Tensor) -> Tensor:
    """Sum w_t P_t over the words: (t, C, T, I, R) and (C, T, I, R) to (I, t, C, R)."""
    if products.is_cuda or torch.is_grad_enabled():
        sums = (products * weights).sum(2)
    else:  # the running sum stays in the cache
        sums = products[:, :, 0] * weights[:, 0]
        for word in range(1, weights.shape[1]):
            sums.addcmul_(products[:, :, word], weights[:, word])
    return sums.permute(2, 0, 1, 3)


def _block_cosine(dot: Tensor, own: Tensor, square: Tensor) -> Tensor:
    """Divide by both lengths; as in the released code, their product is at least 1e-8."""
    lengths = square.contiguous().sqrt().mul(own).clamp_min(_SHORTEST)
    return dot.contiguous() / lengths


def _cosine_gradients(
    grad: Tensor, cosines: Tensor, own: Tensor, square: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``_block_cosine``; that by ``own`` is not yet summed."""
    lengths = square.contiguous().sqrt().mul(own)
    shared = (grad * cosines).masked_fill_(lengths < _SHORTEST, 0.0)
    return grad / lengths.clamp_min_(_SHORTEST), shared / -own, shared.div_(square).mul_(-0.5)


class _Match(torch.autograd.Function):
    """See ``match_nodes``; the arguments are the fields of words and regions."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor | None, Tensor | None]:
        """Match, and keep the products of blocks and the attention."""
        words, regions = BlockNodes(*args[:5]), BlockNodes(*args[5:10])
        ctx.scale, ctx.norm, for_words, for_regions = args[10:]
        products, similar = _similarities(words, regions, ctx.norm)
        kept: list[Tensor | None] = [None] * 6
        if for_words:
            weights = _word_weights(similar, regions.mask, ctx.scale, ctx.norm)
            kept[:3] = weights, *_word_vectors(words, regions, products, weights)
        if for_regions:
            weights = _region_weights(similar, words.mask, ctx.scale, ctx.norm)
            kept[3:] = weights, *_region_vectors(words, regions, products, weights)
        ctx.save_for_backward(*words, *regions, products, similar, *kept)
        return kept[1], kept[4]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_words: Tensor, of_regions: Tensor) -> tuple[Tensor | None, ...]:
        """Add up the gradient by the products of blocks, then multiply it with both sides."""
        saved = ctx.saved_tensors
        words, regions = BlockNodes(*saved[:5]), BlockNodes(*saved[5:10])
        products, similar = saved[10:12]
        word_weights, word_vectors, word_square, region_weights, region_vectors, region_square = (
            saved[12:]
        )
        of_similar = torch.zeros_like(similar)
        grad = torch.empty_like(products)  # by the products
        of_word_norms = of_word_gram = of_region_norms = of_region_gram = None
        if word_weights is not None:
            own = words.norms.transpose(1, 2).unsqueeze(2)
            of_dot, of_own, of_square = _cosine_gradients(of_words, word_vectors, own, word_square)
            of_word_norms = of_own.sum(2).transpose(1, 2)
            rows = word_weights.flatten(0, 1).permute(1, 2, 0)  # (I, R, C T)
            of_square = of_square.permute(2, 3, 0, 1).flatten(2)  # (I, t, C T)
            of_rows, of_region_gram = _quadratic_gradients(rows, regions.gram, of_square)
            by_block = products.flatten(1, 3).permute(1, 0, 2)  # (C T I, t, R)
            of_weights = torch.bmm(of_dot.view(-1, 1, of_dot.shape[3]), by_block)
            of_weights = of_weights.view_as(similar) + of_rows.permute(2, 0, 1).view_as(similar)
            _attention_gradient(ctx, of_weights, word_weights, similar, of_similar, 3, 1)
            torch.mul(word_weights, of_dot.permute(3, 0, 1, 2).unsqueeze(4), out=grad)
        if region_weights is not None:
            own = regions.norms.unsqueeze(2)
            of_dot, of_own, of_square = _cosine_gradients(
                of_regions, region_vectors, own, region_square
            )
            of_region_norms = of_own.sum(2)
            of_square = of_square.permute(2, 1, 0, 3).flatten(2)  # (C, t, I R)
            of_rows, of_word_gram = _quadratic_gradients(
                region_weights.flatten(2), words.gram, of_square
            )
            of_weights = of_rows.reshape(similar.shape)
            of_dot = of_dot.permute(1, 2, 0, 3).unsqueeze(2).contiguous()  # (t, C, 1, I, R)
            for block, slope in zip(products, of_dot, strict=True):
                of_weights.addcmul_(block, slope)
            _attention_gradient(ctx, of_weights, region_weights, similar, of_similar, 1, 3)
        if ctx.norm == "clipped_l2norm":
            of_similar = torch.where(similar > 0, of_similar, of_similar * 0.1)
        for block in range(len(grad)):  # a block stays in the cache
            if word_weights is None:
                torch.addcmul(of_similar, region_weights, of_dot[block], out=grad[block])
                continue
            if region_weights is not None:
                grad[block].addcmul_(region_weights, of_dot[block])
            grad[block] += of_similar
        flat = grad.view(len(grad), words.vectors.shape[1], -1)
        return (
            torch.bmm(flat, regions.vectors),
            *(None, of_word_norms, of_word_gram, None),
            torch.bmm(flat.transpose(1, 2), words.vectors),
            *(None, of_region_norms, of_region_gram, None),
            *[None] * 4,
        )


def _attention_gradient(
    ctx: Any,
    of_weights: Tensor,
    weights: Tensor,
    similar: Tensor,
    total: Tensor,
    sources: int,
    queries: int,
) -> None:
    """Add the gradient by the similarities to ``total``.

    Args:
        ctx: has ``scale`` and ``norm``.   of_weights: gradient by the weights.
        weights: softmax over the axis ``sources``.
        similar: what ``attention_logits`` read; normed over the axis ``queries``.
    """
    grad = torch._softmax_backward_data(of_weights, weights, sources, weights.dtype)
    if ctx.norm != "clipped_l2norm":
        total.add_(grad, alpha=ctx.scale)
        return
    length = similar.square().sum(queries, keepdim=True).clamp_min(_TINY).sqrt()
    of_sharp = (grad * similar).sum(queries, keepdim=True)
    slope = of_sharp / (length * (length + 1e-8).square())
    slope = slope.masked_fill_(length * length <= _TINY, 0.0).mul_(-ctx.scale)
    total += grad.mul_(ctx.scale / (length + 1e-8))
    total += similar * slope
