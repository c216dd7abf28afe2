"""The Flask app: its pages, photos and files."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from flask import Flask, Response, abort, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from features.errors import MissingInput, ScenestoreError, UnknownName, UsageError
from features.web.cards import PAGE, cards, facets, suggestions
from features.web.filters import Filters
from features.web.photos import SIDES
from features.web.scene import graph_of, only_here, picture, said, same_image
from features.web.security import guard
from features.web.selection import least_scores, neighbours, select
from features.web.shelf import Shelf, Site

__all__ = ["Extension", "Links", "create_app", "page"]

ASSETS = {"style.css": "text/css", "app.js": "text/javascript", "icon.svg": "image/svg+xml"}
STAGES = {
    "detector": "detector",
    "relations": "relation predictor",
    "features": "features",
    "parser": "parser",
    "profile": "profile",
}


@dataclass
class Links:
    """What other packages add to the pages.

    Attributes:
        uploads: endpoints that take a photo by POST; all others only answer GET.
        of_site: functions of a site; each returns (title, URL) for the head of every page.
        of_image: functions of a site and an image row; each returns (title, URL).
        assets: files of pages: name -> contents and media type.
    """

    uploads: set[str] = field(default_factory=set)
    assets: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    of_site: list[Callable[[Site], Sequence[tuple[str, str]]]] = field(default_factory=list)
    of_image: list[Callable[[Site, int], Sequence[tuple[str, str]]]] = field(default_factory=list)

    def add_assets(self, package: str, files: Mapping[str, str]) -> None:
        """Add files from the folder ``static`` of a package: name -> media type."""
        folder = resources.files(package).joinpath("static")
        for name, kind in files.items():
            self.assets[name] = folder.joinpath(name).read_bytes(), kind


Extension = Callable[[Flask, Shelf, Links], None]


def create_app(
    shelf: Shelf,
    *,
    hosts: Iterable[str] = (),
    any_address: bool = False,
    token: str = "",
    extensions: Sequence[Extension] = (),
) -> Flask:
    """Return the app that shows the stores of a shelf.

    Args:
        shelf: the stores.   hosts, any_address: names of the app, see ``security.guard``.
        token: what a browser needs to see anything; "" shows it to everyone.
        extensions: add pages and links.
    """
    app = Flask("features.web", static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.jinja_env.undefined = jinja2.StrictUndefined
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters.update(
        difference=difference,
        thousands="{:,}".format,
        with_compare=lambda known, name: {**known, "compare": name} if name else known,
        without=lambda names, one: tuple(name for name in names if name != one),
    )
    links = Links()
    guard(app, hosts, any_address=any_address, token=token, uploads=links.uploads)
    links.add_assets("features.web", ASSETS)
    _add_assets(app, links)
    _add_errors(app)
    _add_pages(app, shelf, links)
    for extend in extensions:
        extend(app, shelf, links)

    @app.context_processor
    def shared() -> dict[str, Any]:
        def tabs(site: Site) -> list[tuple[str, str]]:
            return [link for add in links.of_site for link in add(site)]

        return {"sites": list(shelf.sites.values()), "tabs": tabs, "stages": STAGES}

    return app


def page(template: str, status: int = 200, **values: Any) -> Response:
    """Render a template; unpaired surrogates of a text, which UTF-8 lacks, become ``?``."""
    html = render_template(template, **values)
    return Response(html.encode("utf-8", "replace"), status, mimetype="text/html")


def _add_assets(app: Flask, links: Links) -> None:
    """Serve the files of the packages from memory, under names that change with the contents."""

    @app.get("/-/<name>")
    def asset(name: str) -> Response:
        if name not in links.assets:
            abort(404)
        data, kind = links.assets[name]
        response = Response(data, mimetype=kind)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response

    def asset_url(name: str) -> str:
        mark = hashlib.sha256(links.assets[name][0]).hexdigest()[:12]
        return url_for("asset", name=name, v=mark)

    app.jinja_env.globals["asset_url"] = asset_url


def _add_errors(app: Flask) -> None:
    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> AnyResponse:
        if error.response is not None:
            return error.get_response(request.environ)
        title, text = error.name, error.description or ""
        return page("error.html", error.code or 500, title=title, text=text)

    @app.errorhandler(ScenestoreError)
    def failed(error: ScenestoreError) -> Response:
        unknown = isinstance(error, UnknownName)
        status = 404 if unknown else 400 if isinstance(error, UsageError) else 500
        title = "Not found" if unknown else "This cannot be shown"
        return page("error.html", status, title=title, text=str(error))

    @app.errorhandler(Exception)
    def broken(error: Exception) -> Response:
        sys.stderr.write(f"error: {request.path}: {type(error).__name__}: {error}\n")
        text = f"{type(error).__name__}. The terminal of the server has the details."
        return page("error.html", 500, title="Something went wrong", text=text)


def _add_pages(app: Flask, shelf: Shelf, links: Links) -> None:
    def known(site: Site, row: int) -> int:
        if row >= len(site.store):
            raise UnknownName(f"image row {row}: this store has {len(site.store):,} images.")
        return row

    @app.get("/")
    def home() -> AnyResponse:
        if len(shelf.sites) == 1:
            return redirect(url_for("grid", name=shelf.first.name))
        return page("stores.html")

    @app.get("/<name>/")
    def grid(name: str) -> AnyResponse:
        site = shelf.site(name)
        filters = Filters.read(request.args)
        tidy = filters.arguments(page=filters.page)
        if any(not value for value in request.args.values()):
            return redirect(_grid_url(name, tidy))  # a form sends its empty fields
        try:
            selection, problem = select(site, filters), ""
        except UsageError as error:
            selection, problem = None, str(error)
        values: dict[str, Any] = {"site": site, "filters": filters, "problem": problem}
        if selection is not None:
            last = max(-(-len(selection.rows) // PAGE), 1)
            if filters.page > last:
                return redirect(_grid_url(name, filters.arguments(page=last)))
            values |= {
                "cards": cards(site, filters, selection),
                "facets": facets(site, filters, selection),
                "least": least_scores(site, filters),
                "found": len(selection.rows),
                "notes": selection.notes,
                "last": last,
                "start": (filters.page - 1) * PAGE,
            }
        return page(
            "grid.html",
            200 if selection is not None else 400,
            suggestions=suggestions(site),
            **values,
        )

    @app.get("/<name>/contents")
    def contents(name: str) -> Response:
        site = shelf.site(name)
        reasons: dict[str, int] = {}
        for reason in site.store.skipped.values():
            reasons[reason] = reasons.get(reason, 0) + 1
        everything = select(site, Filters())
        return page(
            "contents.html",
            site=site,
            facets=facets(site, Filters(), everything),
            suggestions=suggestions(site),
            reasons=sorted(reasons.items(), key=lambda item: -item[1]),
            histogram=_histogram(site),
        )

    @app.get("/<name>/image")
    def by_id(name: str) -> AnyResponse:
        site = shelf.site(name)
        wanted = request.args.get("id", "").strip()
        row = int(site.store.rows([wanted])[0])
        return redirect(url_for("image", name=name, row=row))

    @app.get("/<name>/images/<int:row>")
    def image(name: str, row: int) -> Response:
        site = shelf.site(name)
        known(site, row)
        filters = Filters.read(request.args)
        try:
            before, after, place = neighbours(found := select(site, filters), row)
            total = len(found.rows)
        except UsageError:
            before, after, place, total = None, None, 0, 0
        graph = graph_of(site, row)
        compare = request.args.get("compare", "")
        views = [_view(site, row, graph, filters)]
        if compare:
            other = shelf.site(compare)
            match = same_image(site, row, other)
            if match is None:
                raise UnknownName(f"{other.title} has no image {site.image_id(row)!r}.")
            views.append(_view(other, match, graph_of(other, match), filters))
            for at, view in enumerate(views):
                view["only"] = only_here(view["said"], views[1 - at]["said"])
        return page(
            "image.html",
            site=site,
            row=row,
            views=views,
            filters=filters,
            before=before,
            after=after,
            place=place,
            total=total,
            compare=compare,
            variants=[shelf.site(one) for one in site.variants],
            links=[link for add in links.of_image for link in add(site, row)],
        )

    @app.get("/<name>/photos/<int:row>-<int:side>.jpg")
    def photo(name: str, row: int, side: int) -> AnyResponse:
        site = shelf.site(name)
        known(site, row)
        if side not in SIDES:
            abort(404)
        data = site.photos.jpeg(site.file(row), side)
        if not data:
            raise MissingInput("This photo is not here, or it is not an image.")
        response = Response(data, mimetype="image/jpeg")
        response.headers["Cache-Control"] = "private, max-age=600"
        response.set_etag(hashlib.sha256(data).hexdigest()[:16])
        return response.make_conditional(request)


def _photo_url(site: Site, row: int) -> str:
    return url_for("photo", name=site.name, row=row, side=max(SIDES))


def _grid_url(name: str, arguments: Mapping[str, Any]) -> str:
    return url_for("grid", name=name, **arguments)


def difference(site: Site, other: Site) -> str:
    """Return what sets a store apart from another one, in words for a link."""
    parts = [
        f"{STAGES[part]} {name}"
        for part, name in site.made_with.items()
        if other.made_with.get(part) != name
    ]
    return ", ".join(parts) or f"{site.title} {site.store.hash[:6]}"


def _view(site: Site, row: int, graph: Any, filters: Filters) -> dict[str, Any]:
    """Return what the page of an image shows of one store."""
    drawn = None if graph is None else picture(graph)
    return {
        "site": site,
        "row": row,
        "id": site.image_id(row),
        "split": site.split_of(row),
        "skipped": site.why_skipped(row),
        "photo": site.photos.has(site.file(row)) and _photo_url(site, row),
        "picture": drawn,
        "confidence": _start(filters.confidence, drawn.shown if drawn else 0.0),
        "certainty": _start(filters.certainty, drawn.links_shown if drawn else 0.0),
        "said": said(site, row, graph),
        "only": set(),
    }


def _start(chosen: float | None, shown: float) -> float:
    return shown if chosen is None else chosen


def _histogram(site: Site) -> list[tuple[str, list[tuple[str, int, float]]]]:
    """Return (title, bars) of counts per image: (name, images, share of the longest bar)."""
    store = site.store
    counted = []
    if store.has("labels"):
        counted.append(("Objects per image", store.column("num_objects")[store.usable]))
        counted.append(("Relations per image", store.column("num_relations")[store.usable]))
    if store.has("relation_predicate"):
        counted.append(("Triplets per caption", np.diff(store.offsets("relation_offsets"))))
    if store.has("form"):
        counted.append(("Words per caption", np.diff(store.offsets("token_offsets"))))
    charts = []
    for title, values in counted:
        if not len(values):
            continue
        most = int(values.max())
        step = max(-(-(most + 1) // 12), 1)
        counts = np.bincount(np.asarray(values, np.int64) // step)
        ends = [(n * step, min(n * step + step - 1, most)) for n in range(len(counts))]
        names = [str(low) if low == high else f"{low}–{high}" for low, high in ends]
        bars = [
            (name, count, count / max(int(counts.max()), 1))
            for name, count in zip(names, counts.tolist(), strict=True)
        ]
        charts.append((title, bars))
    return charts
