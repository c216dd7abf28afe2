"""Match a query against every caption triplet and visual relation of a store.

Strings are compared once per distinct name; the rest is arithmetic on the columns of the store.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from features.errors import UnknownName, UsageError
from features.finding.query import Mask, Names, Query, Term, parse_query
from features.reading import CodedColumn
from features.store import Store

if TYPE_CHECKING:
    import pandas as pd

Rows = npt.NDArray[np.int64]
SOURCES = ("captions", "images")
_NAMED: tuple[str, ...] = ("object_lemma", "attribute", "relation_predicate")  # columns of names
_NAMED += ("labels", "object_attribute", "predicates")
_KNOWN: weakref.WeakKeyDictionary[CodedColumn, Names] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Matches:
    """The facts of a store that match a query, those of the best images first.

    An image comes before others if more of its captions match, then by its best score.

    Attributes:
        store: the store.   query: the query.
        image: (n,) image row of each match.
        caption: (n,) caption row, -1 for visual matches.
        subject, object: (n,) number of the object in its graph; ``object`` is -1 for queries of one
            object.
        predicate: n predicates, "" for queries of one object.
        subject_name, object_name: n names.
        score: (n,) float32; 1 for captions.
    """

    store: Store
    query: Query
    image: Rows
    caption: Rows
    subject: Rows
    object: Rows
    score: npt.NDArray[np.float32]
    subject_name: Sequence[str]
    predicate: Sequence[str]
    object_name: Sequence[str]

    def __len__(self) -> int:
        """Return the number of matches."""
        return len(self.image)

    @property
    def images(self) -> Rows:
        """Image rows, each once, best first."""
        return np.asarray(list(dict.fromkeys(self.image.tolist())), np.int64)

    def image_ids(self) -> list[str]:
        """Return the ids of the images, best first."""
        ids = self.store.group("index").text("image_id")
        return [ids[row] for row in self.images.tolist()]

    def table(self) -> pd.DataFrame:
        """Return one row per match.

        Columns: image, file, split, caption (its id, "" for visual matches), text, subject,
        predicate, object, score, subject_object and object_object (numbers in the graph).
        """
        import pandas as pd  # slow to load

        index = self.store.group("index")
        splits = self.store.coded("split")
        ids, files = index.text("image_id"), index.text("image_file")
        caption_ids, texts = index.text("caption_id"), index.text("caption")
        images, captions = self.image.tolist(), self.caption.tolist()
        return pd.DataFrame(
            {
                "image": [ids[row] for row in images],
                "file": [files[row] for row in images],
                "split": [splits.names[code] for code in splits.codes[self.image].tolist()],
                "caption": [caption_ids[row] if row >= 0 else "" for row in captions],
                "text": [texts[row] if row >= 0 else "" for row in captions],
                "subject": list(self.subject_name),
                "predicate": list(self.predicate),
                "object": list(self.object_name),
                "score": self.score,
                "subject_object": self.subject,
                "object_object": self.object,
            }
        )


def find(
    store: Store,
    query: str | Query,
    *,
    split: str | None = None,
    sources: Sequence[str] = SOURCES,
    min_score: float = 0.0,
    synonyms: bool = True,
) -> Matches:
    """Find what matches a query in the captions and in the images of a store.

    Args:
        store: the store.
        query: for example ``dog - catch - frisbee``; see ``parse_query``.
        split: search this split only.
        sources: ``captions``, ``images`` or both.
        min_score: least score of a visual object or relation.
        synonyms: whether synonyms of nouns match, such as bike and bicycle.

    Raises:
        UsageError: not a query, or the store has none of the sources.
        UnknownName: no such split or source.
    """
    wanted = parse_query(query, synonyms=synonyms) if isinstance(query, str) else query
    if unknown := [name for name in sources if name not in SOURCES]:
        raise UnknownName.of("source", unknown[0], SOURCES)
    known = {"captions": store.has("object_lemma"), "images": store.has("labels")}
    usable = [name for name in sources if known[name]]
    if not usable:
        raise UsageError(
            f"{store.path}: this store has no {' and no '.join(sources)} to search: the text stage "
            "or the detector was left out."
        )
    allowed = store.usable.copy()
    if split is not None:
        chosen = np.zeros(len(allowed), bool)
        chosen[store.image_rows(split)] = True
        allowed &= chosen
    parts = []
    if "captions" in usable:
        parts.append(_in_captions(store, wanted, allowed))
    if "images" in usable:
        parts.append(_in_images(store, wanted, allowed, min_score))
    return _ranked(store, wanted, parts)


_Part = tuple[Rows, Rows, Rows, Rows, npt.NDArray[np.float32], list[str], list[str], list[str]]


def _in_captions(store: Store, query: Query, allowed: Mask) -> _Part:
    """Return the matches in the text graphs."""
    objects, starts = store.coded("object_lemma"), store.offsets("object_offsets")

    def owners(offsets: npt.NDArray[Any], at: Rows) -> Rows:
        return np.searchsorted(offsets, at, side="right").astype(np.int64) - 1

    def attributes(word: str) -> Mask:
        """Return the objects that have an attribute."""
        table, offsets = store.coded("attribute"), store.offsets("attribute_offsets")
        at = np.flatnonzero(query.subject.with_word(_names(table), word)[table.codes])
        found = np.zeros(len(objects.codes), bool)
        found[starts[owners(offsets, at)] + store.column("attribute_object")[at]] = True
        return found

    if query.predicate is None:
        mask = _objects(query.subject, objects, attributes)
        assert mask is not None
        subject = np.flatnonzero(mask)
        caption = owners(starts, subject)
        names, other = _texts(objects, subject), np.full(len(subject), -1, np.int64)
        predicates = others = [""] * len(subject)
    else:
        predicate, offsets = store.coded("relation_predicate"), store.offsets("relation_offsets")
        at = np.flatnonzero(query.predicate.predicates(_names(predicate))[predicate.codes])
        caption = owners(offsets, at)
        subject = starts[caption] + store.column("relation_subject")[at]
        other = starts[caption] + store.column("relation_object")[at]
        keep = np.ones(len(at), bool)
        for term, ends in ((query.subject, subject), (query.object, other)):
            mask = _objects(term, objects, attributes)
            keep &= True if mask is None else mask[ends]
        at, caption, subject, other = at[keep], caption[keep], subject[keep], other[keep]
        names, others = _texts(objects, subject), _texts(objects, other)
        predicates = _texts(predicate, at)
        other = other - starts[caption]
    image = np.asarray(store.image_of_caption(caption), np.int64)
    keep = allowed[image]
    kept = np.flatnonzero(keep).tolist()
    return (
        image[keep],
        caption[keep],
        (subject - starts[caption])[keep],
        other[keep],
        np.ones(len(kept), np.float32),
        [names[row] for row in kept],
        [predicates[row] for row in kept],
        [others[row] for row in kept],
    )


def _in_images(store: Store, query: Query, allowed: Mask, min_score: float) -> _Part:
    """Return the matches in the visual graphs."""
    labels, counts = store.coded("labels"), store.column("num_objects")
    width = labels.codes.shape[1]

    def attributes(word: str) -> Mask:
        found = np.zeros(labels.codes.shape, bool)
        if store.has("object_attribute"):
            table, offsets = (
                store.coded("object_attribute"),
                store.offsets("object_attribute_offsets"),
            )
            at = np.flatnonzero(query.subject.with_word(_names(table), word)[table.codes])
            rows = np.searchsorted(offsets, at, side="right") - 1
            found[rows, store.column("object_attribute_object")[at]] = True
        return found

    slots = np.arange(width) < counts[:, None]
    if query.predicate is None:
        mask = _objects(query.subject, labels, attributes)
        assert mask is not None
        scores = store.column("scores")
        image, subject = np.nonzero(mask & slots & allowed[:, None])
        keep = scores[image, subject] >= min_score
        image, subject = image[keep], subject[keep]
        score = scores[image, subject]
        other = np.full(len(image), -1, np.int64)
        names = _texts(labels, (image, subject))
        predicates = others = [""] * len(image)
    else:
        predicate = store.coded("predicates")
        some = np.arange(predicate.codes.shape[1]) < store.column("num_relations")[:, None]
        some &= query.predicate.predicates(_names(predicate))[predicate.codes] & allowed[:, None]
        image, slot = np.nonzero(some)
        pairs = store.column("relations")[image, slot].astype(np.int64)
        score = store.column("relation_scores")[image, slot]
        keep = score >= min_score
        for term, side in ((query.subject, 0), (query.object, 1)):
            mask = _objects(term, labels, attributes)
            keep &= True if mask is None else mask[image, pairs[:, side]]
        image, slot, pairs, score = image[keep], slot[keep], pairs[keep], score[keep]
        subject, other = pairs[:, 0], pairs[:, 1]
        names, others = _texts(labels, (image, subject)), _texts(labels, (image, other))
        predicates = _texts(predicate, (image, slot))
    none = np.full(len(image), -1, np.int64)
    score = np.asarray(score, np.float32)
    return (image.astype(np.int64), none, subject, other, score, names, predicates, others)


def _objects(term: Term, column: CodedColumn, attributes: Any) -> Mask | None:
    """Return which objects a term names, in the shape of the column's codes; None for any.

    The last words are the name, those before it attributes: of *red tennis racket*, *red tennis
    racket*, *tennis racket* with *red*, and *racket* with *red* and *tennis* match.
    """
    if term.anything:
        return None
    known = _names(column)
    found = np.zeros(column.codes.shape, bool)
    for words in term.alternatives:
        for cut in range(len(words)):
            names = term.names(known, words[cut:])
            if not names.any():
                continue
            part: Mask = names[column.codes]
            for word in words[:cut]:
                part &= attributes(word)
            found |= part
    return found


def unknown_words(store: Store, query: Query) -> list[str]:
    """Return the words of a query that no name of a store has, in their order."""
    columns = [name for name in _NAMED if store.has(name)]
    known = [_names(store.coded(name)) for name in columns]
    terms = (query.subject, query.predicate or Term(), query.object)
    words = [word for term in terms for one in term.alternatives for word in one]
    return [
        word
        for word in dict.fromkeys(words)
        if not any(names.tokens_like(word, with_synonyms=True) for names in known)
    ]


def _names(column: CodedColumn) -> Names:
    """Return the words of a column's names; made once."""
    if column not in _KNOWN:
        _KNOWN[column] = Names(column.names)
    return _KNOWN[column]


def _texts(column: CodedColumn, at: Any) -> list[str]:
    names = column.names
    return [names[code] for code in column.codes[at].tolist()]


def _ranked(store: Store, query: Query, parts: Sequence[_Part]) -> Matches:
    """Join the matches of captions and images, those of the best images first."""
    image, caption, subject, other = (
        np.concatenate([part[at] for part in parts]).astype(np.int64) for at in range(4)
    )
    score = np.concatenate([part[4] for part in parts])
    names = [[text for part in parts for text in part[at]] for at in (5, 6, 7)]
    visual = caption < 0
    pairs = np.unique(np.stack([image[~visual], caption[~visual]]), axis=1)[0]
    said = np.bincount(pairs, minlength=len(store))
    best = np.zeros(len(store), np.float32)
    np.maximum.at(best, image[visual], score[visual])
    order = np.lexsort((-score, caption, visual, image, -best[image], -said[image]))
    return Matches(
        store,
        query,
        image[order],
        caption[order],
        subject[order],
        other[order],
        score[order],
        *([texts[at] for at in order.tolist()] for texts in names),
    )
