"""What a grid shows, as one object that is read from a URL and written to one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from features.errors import UsageError

__all__ = ["Filters"]

LONGEST = 300  # characters of a value
SOURCES = ("captions", "images")


class Arguments(Protocol):
    """The arguments of a URL, as Werkzeug's ``MultiDict`` has them."""

    def get(self, key: str) -> str | None:
        """Return the first value of an argument."""
        ...

    def getlist(self, key: str) -> list[str]:
        """Return all values of an argument."""
        ...


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which images of a store are shown, and in which order.

    Attributes:
        split: name of a split; "" for all.
        labels: labels of detected objects; an image has all of them.
        attribute: of a detected object or of an object in a caption.
        predicate: of a visual relation or of a triplet.
        find: a query such as ``man - ride - *``, see ``features.finding``; best images first.
        source: where to look for attributes, predicates and queries: ``captions``, ``images`` or
            "" for both.
        least, most: number of objects with at least the confidence.
        confidence: least score of detected objects, 0 to 1; None for the one from which the
            detector's objects are shown.
        certainty: the same for visual relations.
        skipped: show the skipped images instead of the others.
        text: a sentence, for which ``run`` ranks the images.   run: name of the run.
        boxes: draw all boxes on the thumbnails, not only those that match.
        page: from 1.
    """

    split: str = ""
    labels: tuple[str, ...] = ()
    attribute: str = ""
    predicate: str = ""
    find: str = ""
    source: str = ""
    least: int | None = None
    most: int | None = None
    confidence: float | None = None
    certainty: float | None = None
    skipped: bool = False
    text: str = ""
    run: str = ""
    boxes: bool = False
    page: int = 1

    @classmethod
    def read(cls, arguments: Arguments) -> Filters:
        """Read the arguments of a URL; unknown ones are ignored.

        Raises: UsageError: a value that is too long, no number or unknown.
        """

        def text(name: str) -> str:
            value = " ".join((arguments.get(name) or "").split())
            if len(value) > LONGEST:
                raise UsageError(f"{name}: {len(value)} characters; at most {LONGEST} are allowed.")
            return value

        def number(name: str) -> int | None:
            value = text(name)
            if not value:
                return None
            if not (value.isascii() and value.isdigit() and len(value) < 10):
                raise UsageError(f"{name}: {value!r} is not a number from 0.")
            return int(value)

        def share(name: str) -> float | None:
            value = text(name)
            if not value:
                return None
            try:
                found = float(value)
            except ValueError:
                found = -1.0
            if not 0 <= found <= 1:
                raise UsageError(f"{name}: {value!r} is not a number from 0 to 1.")
            return found

        source = text("in")
        if source not in ("", *SOURCES):
            raise UsageError(f"in: {source!r} is neither of {', '.join(SOURCES)}.")
        labels = [" ".join(one.split()) for one in arguments.getlist("label")]
        if any(len(one) > LONGEST for one in labels) or len(labels) > 20:
            raise UsageError(f"label: more than 20 labels, or one of over {LONGEST} characters.")
        return cls(
            split=text("split"),
            labels=tuple(dict.fromkeys(filter(None, labels))),
            attribute=text("attribute"),
            predicate=text("predicate"),
            find=text("find"),
            source=source,
            least=number("min"),
            most=number("max"),
            confidence=share("confidence"),
            certainty=share("relations"),
            skipped=text("skipped") == "1",
            text=text("text"),
            run=text("run"),
            boxes=text("boxes") == "1",
            page=max(number("page") or 1, 1),
        )

    def arguments(self, **changes: Any) -> dict[str, str | Sequence[str]]:
        """Return the arguments of a URL, with changes; defaults are left out.

        A change of anything but the page goes back to the first page.

        >>> Filters(split="test", page=4).arguments(labels=("dog",))
        {'split': 'test', 'label': ('dog',)}
        """
        if changes and "page" not in changes:
            changes["page"] = 1
        changed = dataclasses.replace(self, **changes)
        return {
            _ARGUMENTS.get(name, name): _written(value)
            for name, value in vars(changed).items()
            if value != _DEFAULTS[name]
        }

    @property
    def any(self) -> bool:
        """Whether a filter is set, the page and the drawing of boxes left aside."""
        return bool(self.arguments(page=1, boxes=False))

    def whole(self) -> Filters:
        """Return the same selection without its page."""
        return dataclasses.replace(self, page=1, boxes=False)


_ARGUMENTS: Mapping[str, str] = {
    "labels": "label",
    "source": "in",
    "least": "min",
    "most": "max",
    "certainty": "relations",
}
_DEFAULTS: Mapping[str, Any] = {one.name: one.default for one in dataclasses.fields(Filters)}


def _written(value: Any) -> str | Sequence[str]:
    if isinstance(value, tuple):
        return value
    if isinstance(value, bool):
        return "1"
    return f"{value:g}" if isinstance(value, float) else str(value)
