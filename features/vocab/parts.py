"""Names of the parts of a visual graph that a batch can leave out, for ablations."""

from __future__ import annotations

import re
from collections.abc import Iterable

from features.errors import UsageError

PARTS = {
    "labels": "every label becomes <unk>",
    "predicates": "every predicate becomes <unk>",
    "attributes": "objects have no attributes",
    "relations": "no relation, and so no union box",
    "unions": "features of union boxes become zero",
    "features": "features of regions become zero",
    "scene": "no object for the whole image, unless it is the only one",
}
_SLICE = re.compile(r"features\[(\d+):(\d+)\]")


def check_parts(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names without repetitions, sorted.

    Raises: UsageError: a name that is neither in ``PARTS`` nor a slice ``features[A:B]``, A < B.
    """
    names = sorted(set(names))
    for name in names:
        found = _SLICE.fullmatch(name)
        if name not in PARTS and not (found and int(found[1]) < int(found[2])):
            known = ", ".join((*PARTS, "features[A:B]"))
            raise UsageError(
                f"{name!r} is no part of a graph that can be left out. Known: {known}."
            )
    return tuple(names)


def feature_slices(names: Iterable[str]) -> list[slice]:
    """Return the columns of region features that ``features`` and ``features[A:B]`` name."""
    found = [_SLICE.fullmatch(name) for name in names if name != "features"]
    slices = [slice(int(match[1]), int(match[2])) for match in found if match]
    return [slice(None)] if "features" in names else slices
