"""Convert records to the columns of one shard, and back.

``pack_*`` makes the datasets of a shard of each group. ``unpack_*`` reads what a stage needs of the
stage before it: a stage works shard by shard and does not open the whole store.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import FeatureOverflow, InputError, UsageError
from features.format.schema import ROLES, Columns
from features.records import Caption, Detections, ImageEntry, Skipped, TextGraph, union_boxes

Float = npt.NDArray[np.floating]
_TOKEN_FIELDS = {
    "form": "tokens",
    "lemma": "lemmas",
    "upos": "upos",
    "xpos": "xpos",
    "deprel": "deprels",
}  # column -> field of TextGraph
MAX_WIDTH = 65_536  # D; no network has wider features, so a larger number means a broken file


def pack_index(entries: Sequence[ImageEntry]) -> Columns:
    """Pack ids, files, splits and captions of the images of one shard."""
    captions = [caption for entry in entries for caption in entry.captions]
    return {
        **_text("image_id", [entry.id for entry in entries]),
        **_text("image_file", [entry.file for entry in entries]),
        **_coded("split", [entry.split for entry in entries]),
        "caption_offsets": _offsets(len(entry.captions) for entry in entries),
        **_text("caption_id", [caption.id for caption in captions]),
        **_text("caption", [caption.text for caption in captions]),
    }


def pack_visual(
    detections: Sequence[Detections | Skipped],
    max_objects: int,
    max_relations: int,
    *,
    scored: bool = False,
) -> Columns:
    """Pack the scene graphs of one shard.

    Args:
        detections: one per image, or why the image was skipped.
        max_objects: K, objects kept per image, best first.
        max_relations: R, relations kept per image, best first; one whose subject or object is
            not among the K goes.
        scored: write the probabilities of attributes even if no image of the shard has any.
    """
    scored |= any(isinstance(d, Detections) and d.attribute_scores is not None for d in detections)
    n, k, r = len(detections), max_objects, max_relations
    sizes, counts = np.zeros((n, 2), "<i4"), np.zeros(n, "<i4")
    boxes, scores = np.zeros((n, k, 4), "<f4"), np.zeros((n, k), "<f4")
    relation_counts, pairs = np.zeros(n, "<i4"), np.zeros((n, r, 2), "<i4")
    relation_scores, unions = np.zeros((n, r), "<f4"), np.zeros((n, r, 4), "<f4")
    labels = [[""] * k for _ in range(n)]
    predicates = [[""] * r for _ in range(n)]
    attributes: list[list[tuple[int, str]]] = [[] for _ in range(n)]
    attribute_scores: list[float] = []
    for row, found in enumerate(detections):
        if isinstance(found, Skipped):
            continue
        count = min(len(found.labels), k)
        sizes[row], counts[row] = found.size, count
        boxes[row, :count] = np.reshape(found.boxes, (-1, 4))[:count]
        scores[row, :count] = found.scores[:count]
        labels[row][:count] = found.labels[:count]
        if found.attributes is not None:
            named = enumerate(found.attributes[:count])
            attributes[row] = [(at, name) for at, names in named for name in names]
            given = found.attribute_scores or [(1.0,) * len(names) for names in found.attributes]
            attribute_scores += itertools.chain.from_iterable(given[:count])
        known = found.relations or ()
        kept = [at for at, (s, _, o) in enumerate(known) if 0 <= s < k and 0 <= o < k][:r]
        chosen = [known[at] for at in kept]
        if any(max(s, o) >= count for s, _, o in chosen):
            raise InputError(
                f"a relation of image {row} of the shard names an object beyond {count}"
            )
        m = len(chosen)
        if not m:
            continue
        relation_counts[row] = m
        pairs[row, :m] = [(s, o) for s, _, o in chosen]
        predicates[row][:m] = [p for _, p, _ in chosen]
        known_scores = found.relation_scores
        relation_scores[row, :m] = 1.0 if known_scores is None else known_scores[kept]
        unions[row, :m] = union_boxes(boxes[row], pairs[row, :m])
    return {
        **_coded("skipped", [d.reason if isinstance(d, Skipped) else "" for d in detections]),
        "image_size": sizes,
        "num_objects": counts,
        "boxes": boxes,
        **_coded("labels", list(itertools.chain.from_iterable(labels)), (n, k)),
        "scores": scores,
        "num_relations": relation_counts,
        "relations": pairs,
        **_coded("predicates", list(itertools.chain.from_iterable(predicates)), (n, r)),
        "relation_scores": relation_scores,
        "union_boxes": unions,
        "object_attribute_offsets": _offsets(len(named) for named in attributes),
        "object_attribute_object": _ints(at for named in attributes for at, _ in named),
        **_coded("object_attribute", [name for named in attributes for _, name in named]),
        **({"object_attribute_score": np.array(attribute_scores, "<f4")} if scored else {}),
    }


def pack_regions(
    object_features: Sequence[Float],
    union_features: Sequence[Float],
    max_objects: int,
    max_relations: int,
    *,
    dtype: str = "float16",
    dim: int | None = None,
    ids: Sequence[str] | None = None,
) -> Columns:
    """Pack region and union features, zero padded.

    Args:
        object_features: (n_i, D) per image; rows behind ``max_objects`` are cut.
        union_features: (m_i, D) per image, row i belongs to relation i of the visual group.
        max_objects: K.
        max_relations: R.
        dtype: ``float16`` or ``float32``.
        dim: D, needed only where no image of the shard has a feature.
        ids: image ids, for the error message.

    Raises:
        FeatureOverflow: a value is not finite or does not fit; the message names the image.
        InputError: D is more than ``MAX_WIDTH``.
        UsageError: the features disagree about D.
    """
    wide = np.dtype({"float16": "<f2", "float32": "<f4"}.get(dtype, "V1"))
    if wide.kind != "f":
        raise UsageError(f"features can be stored as float16 or float32, not {dtype!r}.")
    widths = {f.shape[1] for f in (*object_features, *union_features) if f.ndim == 2 and len(f)}
    widths |= set() if dim is None else {dim}
    if len(widths) != 1:
        found = sorted(widths) or "none"
        raise UsageError(f"the features of one shard must have one width; found {found}.")
    width = widths.pop()
    if width > MAX_WIDTH:
        raise InputError(f"features of width {width}; at most {MAX_WIDTH} can be stored.")
    packed: Columns = {}
    for name, features, most in (
        ("object_features", object_features, max_objects),
        ("union_features", union_features, max_relations),
    ):
        out = np.zeros((len(features), most, width), wide)
        for row, values in enumerate(features):
            count = min(len(values), most)
            if not count:
                continue
            with np.errstate(over="ignore"):
                out[row, :count] = values[:count]
            if not np.isfinite(out[row, :count]).all():
                image = ids[row] if ids is not None else f"row {row} of the shard"
                largest = float(np.abs(np.asarray(values[:count], np.float64)).max())
                raise FeatureOverflow(
                    f"image {image}, column {name}: a value is not finite or too large for "
                    f"{dtype} (largest magnitude {largest:g}). Scale the features or store float32."
                )
        packed[name] = out
    return packed


def pack_tokens(graphs: Sequence[TextGraph]) -> Columns:
    """Pack tokens and dependency graphs of the captions of one shard."""
    for row, graph in enumerate(graphs):
        n = len(graph.tokens)
        for field in (*_TOKEN_FIELDS.values(), "heads"):
            if len(getattr(graph, field)) != n:
                raise InputError(f"caption {row} of the shard: {field} and tokens differ in length")
        if any(not -1 <= head < n for head in graph.heads):
            raise InputError(f"caption {row} of the shard: a head lies outside the caption")
    columns: Columns = {"token_offsets": _offsets(len(graph.tokens) for graph in graphs)}
    for name, field in _TOKEN_FIELDS.items():
        columns |= _coded(name, _flat(graphs, field))
    return {
        **columns,
        "head": _ints(_flat(graphs, "heads")),
        **_coded("scheme", [graph.scheme for graph in graphs]),
        **_coded("parse_problem", [graph.problem for graph in graphs]),
    }


def pack_text(graphs: Sequence[TextGraph]) -> Columns:
    """Pack roles, objects, attributes and relations of the captions of one shard."""
    other = ROLES.index("other")
    codes = {name: code for code, name in enumerate(ROLES)}
    roles = [
        codes.get(role, other)
        for graph in graphs
        for role in (graph.roles or ("other",) * len(graph.tokens))
    ]
    attributes = _flat(graphs, "attributes")
    relations = _flat(graphs, "relations")
    for row, graph in enumerate(graphs):
        _check_graph(row, graph)
    return {
        "role": np.asarray(roles, "|u1"),
        "object_offsets": _offsets(len(graph.objects) for graph in graphs),
        **_coded("object_lemma", _flat(graphs, "objects")),
        **_lists("mention", _flat(graphs, "object_positions")),
        "attribute_offsets": _offsets(len(graph.attributes) for graph in graphs),
        **_coded("attribute", [name for _, name in attributes]),
        "attribute_object": _ints(_flat(graphs, "attribute_objects")),
        "attribute_position": _ints(_flat(graphs, "attribute_positions")),
        "relation_offsets": _offsets(len(graph.relations) for graph in graphs),
        "relation_subject": _ints(subject for subject, _, _ in relations),
        "relation_object": _ints(target for _, _, target in relations),
        **_coded("relation_predicate", [predicate for _, predicate, _ in relations]),
        **_lists("predicate_position", _flat(graphs, "relation_positions")),
    }


def _check_graph(row: int, graph: TextGraph) -> None:
    pairs = {
        "roles": (len(graph.roles) or len(graph.tokens), len(graph.tokens)),
        "object_positions": (len(graph.object_positions), len(graph.objects)),
        "attribute_objects": (len(graph.attribute_objects), len(graph.attributes)),
        "attribute_positions": (len(graph.attribute_positions), len(graph.attributes)),
        "relation_positions": (len(graph.relation_positions), len(graph.relations)),
    }
    for name, (found, wanted) in pairs.items():
        if found != wanted:
            raise InputError(f"caption {row} of the shard: {found} {name}, expected {wanted}")
    ends = [end for s, _, o in graph.relations for end in (s, o)]
    if any(not 0 <= end < len(graph.objects) for end in (*ends, *graph.attribute_objects)):
        raise InputError(f"caption {row} of the shard: an edge names an object that is not there")


def _flat(graphs: Sequence[TextGraph], field: str) -> list[Any]:
    return [value for graph in graphs for value in getattr(graph, field)]


def _ints(values: Iterable[object]) -> npt.NDArray[np.generic]:
    return np.asarray(list(values), "<i4").reshape(-1)


def _offsets(lengths: Iterable[int]) -> npt.NDArray[np.int64]:
    return np.cumsum([0, *lengths], dtype="<i8")


def _lists(name: str, lists: Sequence[Sequence[int]]) -> Columns:
    return {
        f"{name}_offsets": _offsets(map(len, lists)),
        name: _ints(itertools.chain.from_iterable(lists)),
    }


def _text(name: str, values: Sequence[str]) -> Columns:
    encoded = [value.encode("utf-8", "surrogatepass") for value in values]
    return {
        f"{name}/bytes": np.frombuffer(b"".join(encoded), "|u1"),
        f"{name}/offsets": _offsets(len(value) for value in encoded),
    }


def _coded(name: str, values: Sequence[str], shape: tuple[int, ...] | None = None) -> Columns:
    names = sorted(set(values))
    codes = {value: code for code, value in enumerate(names)}
    array = np.asarray([codes[value] for value in values], "<i4")
    return {
        f"{name}/codes": array.reshape((len(values),) if shape is None else shape),
        **_text(f"{name}/names", names),
    }


def unpack_index(columns: Columns) -> list[ImageEntry]:
    """Return the images of one shard of the index with their captions."""
    ids, files = _read_text(columns, "image_id"), _read_text(columns, "image_file")
    splits = _read_coded(columns, "split")
    captions = [
        Caption(name, text)
        for name, text in zip(
            _read_text(columns, "caption_id"), _read_text(columns, "caption"), strict=True
        )
    ]
    ends = columns["caption_offsets"].tolist()
    return [
        ImageEntry(ids[row], files[row], splits[row], tuple(captions[ends[row] : ends[row + 1]]))
        for row in range(len(ids))
    ]


def unpack_tokens(columns: Columns, captions: Sequence[str]) -> list[TextGraph]:
    """Return the parsed captions of one shard of the tokens group.

    Args:
        columns: datasets of the shard.
        captions: the texts of its captions, from the same shard of the index.
    """
    fields = {field: _read_coded(columns, name) for name, field in _TOKEN_FIELDS.items()}
    fields["heads"] = columns["head"].tolist()
    schemes, problems = _read_coded(columns, "scheme"), _read_coded(columns, "parse_problem")
    ends = columns["token_offsets"].tolist()
    graphs = []
    for row, caption in enumerate(captions):
        span = slice(ends[row], ends[row + 1])
        cut: dict[str, Any] = {name: tuple(values[span]) for name, values in fields.items()}
        graphs.append(
            TextGraph(
                caption,
                scheme=schemes[row],
                problem=problems[row],
                sentence_starts=sentence_starts(cut["heads"]),
                **cut,
            )
        )
    return graphs


def sentence_starts(heads: Sequence[int]) -> tuple[int, ...]:
    """Return the first token of each sentence; a sentence is what hangs on one root.

    >>> sentence_starts([1, -1, 1, 4, -1])
    (0, 3)
    """
    first: dict[int, int] = {}
    for token in range(len(heads)):
        root = token
        for _ in heads:  # a cycle, which no parse has, would end here too
            if heads[root] < 0:
                break
            root = heads[root]
        first.setdefault(root, token)
    return tuple(sorted(first.values()))


def _read_text(columns: Columns, name: str) -> list[str]:
    return decode_texts(columns[f"{name}/bytes"], columns[f"{name}/offsets"])


def _read_coded(columns: Columns, name: str) -> list[str]:
    names = _read_text(columns, f"{name}/names")
    return [names[code] for code in columns[f"{name}/codes"].tolist()]


def decode_texts(raw: npt.NDArray[Any], offsets: npt.NDArray[Any]) -> list[str]:
    """Return the strings of a text column, given its UTF-8 bytes and (n + 1,) offsets."""
    data, ends = raw.tobytes(), offsets.tolist()
    return [
        data[start:stop].decode("utf-8", "surrogatepass")
        for start, stop in itertools.pairwise(ends)
    ]
