"""The pages about runs: tables and curves, captions of an image or a photo, words on regions."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from flask import Blueprint, Flask, Response, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from features.errors import UnknownName, UsageError
from features.reading import text_graph
from features.web import (
    LARGEST,
    Extension,
    Links,
    Shelf,
    Site,
    graph_of,
    page,
    picture,
    same_text,
)
from models.reporting import training_charts
from models.web.served import Runs, Served
from models.web.tables import differences, evaluated_splits, failures, results
from models.web.uploads import Uploads
from models.web.words import rows_of, shade

__all__ = ["add_runs"]

FAILURES = 12
LONGEST = 300  # characters of a text


def add_runs(runs_of: Any) -> Extension:
    """Return the extension of ``features.web.create_app`` that adds the pages of runs.

    Args:
        runs_of: function of the shelf that returns its ``Runs``.
    """

    def extend(app: Flask, shelf: Shelf, links: Links) -> None:
        runs: Runs = runs_of(shelf)
        blueprint = Blueprint("runs", __name__, template_folder="templates")
        _add_overview(blueprint, shelf, runs)
        _add_of_image(blueprint, shelf, runs)
        _add_of_photo(blueprint, shelf, runs)
        links.uploads.add("runs.hand_in")
        app.register_blueprint(blueprint)
        app.jinja_env.filters["shade"] = shade
        links.add_assets("models.web", {"runs.js": "text/javascript"})

        def tab(site: Site) -> Sequence[tuple[str, str]]:
            if not runs.of(site):
                return []
            return [
                ("Runs", url_for("runs.overview", name=site.name)),
                ("Search by photo", url_for("runs.photo", name=site.name)),
            ]

        def of_image(site: Site, row: int) -> Sequence[tuple[str, str]]:
            if not runs.of(site) or not site.store.usable[row]:
                return []
            where: dict[str, Any] = {"name": site.name, "row": row}
            return [
                ("Captions that fit", url_for("runs.captions", **where)),
                ("Words on regions", url_for("runs.words", **where)),
            ]

        links.of_site.append(tab)
        links.of_image.append(of_image)

    return extend


def _evaluation(site: Site, served: Sequence[Served]) -> dict[str, Any]:
    """Return the split of the request, all evaluated splits, and the results on it."""
    splits = evaluated_splits(served)
    split = request.args.get("split") or (splits[0] if splits else "")
    if splits and split not in splits:
        raise UnknownName.of("evaluated split", split, splits)
    found = results(site, served, split or "test")
    return {"site": site, "splits": splits, "split": split, "found": found}


def _add_overview(blueprint: Blueprint, shelf: Shelf, runs: Runs) -> None:
    @blueprint.get("/<name>/runs/")
    def overview(name: str) -> Response:
        site = shelf.site(name)
        own = runs.of(site)
        values = _evaluation(site, own)
        trained = [run for run in values["found"]["runs"] if run["learns"]]
        return page(
            "runs/overview.html",
            served=own,
            differences=differences(site, values["found"], values["split"]),
            charts=training_charts(trained) if trained else [],
            **values,
        )

    @blueprint.get("/<name>/runs/<run>")
    def one(name: str, run: str) -> Response:
        site = shelf.site(name)
        served = runs.one(site, run)
        values = _evaluation(site, [served])
        read = next(iter(values["found"]["runs"]), None)
        table = read["queries"] if read else None
        about = read["results"].get("runs", [{}])[0] if read and read["results"] else {}
        return page(
            "runs/one.html",
            served=served,
            charts=training_charts([read]) if read and read["learns"] else [],
            failures=failures(site, table, FAILURES) if table else [],
            options=about.get("config", {}).get("model", {}),
            step=about.get("step"),
            **values,
        )


def _chosen(runs: Runs, site: Site) -> Served:
    """Return the run of the request, the first one of the store by default."""
    own = runs.of(site)
    if not own:
        raise UsageError("No run of this store is loaded. Start with --run RUN.")
    return runs.one(site, request.args.get("run") or own[0].name)


def _add_of_image(blueprint: Blueprint, shelf: Shelf, runs: Runs) -> None:
    def about(name: str, row: int) -> dict[str, Any]:
        """Return what both pages of an image show of it."""
        site = shelf.site(name)
        if row >= len(site.store) or not site.store.usable[row]:
            raise UnknownName(f"image row {row}: this store has no usable image there.")
        return {
            "site": site,
            "row": row,
            "id": site.image_id(row),
            "photo": site.photos.has(site.file(row)),
            "served": _chosen(runs, site),
            "runs": runs.of(site),
        }

    @blueprint.get("/<name>/images/<int:row>/captions")
    def captions(name: str, row: int) -> Response:
        values = about(name, row)
        site, served = values["site"], values["served"]
        split = served.split(request.args.get("split", ""))
        own = site.caption_rows(row)
        return page(
            "runs/captions.html",
            split=split,
            found=_ranked(site, served.rank_captions(row, split), own),
            inside=site.split_of(row) == split,
            own=[site.caption(at) for at in own],
            **values,
        )

    @blueprint.get("/<name>/images/<int:row>/words")
    def words(name: str, row: int) -> Response:
        values = about(name, row)
        site, served = values["site"], values["served"]
        text = " ".join(request.args.get("text", "").split())
        if len(text) > LONGEST:
            raise UsageError(f"text: {len(text)} characters; at most {LONGEST} are allowed.")
        known = site.caption_rows(row)
        which = request.args.get("caption", "")
        caption = int(which) if which.isascii() and which.isdigit() and len(which) < 10 else -1
        if caption < 0 and len(known):
            caption = known[0]
        if not text and caption not in known:
            raise UnknownName(f"caption row {which or caption}: not a caption of this image.")
        graph = served.parse(text) if text else text_graph(site.store, caption)
        score, found = served.word_regions(row, graph)
        seen = graph_of(site, row)
        assert seen is not None
        rows = rows_of(graph, found, len(seen.labels)) if found is not None else []
        return page(
            "runs/words.html",
            text=text,
            caption=caption,
            said=graph.caption,
            captions=[(at, site.caption(at)) for at in known],
            picture=picture(seen),
            rows=rows,
            first=next((at for at, one in enumerate(rows) if one.content), 0),
            what=found.what if found is not None else "",
            score=score,
            **values,
        )


def _ranked(
    site: Site, found: Sequence[tuple[int, float]], own: Sequence[int] = ()
) -> list[tuple[int, str, float, bool, int]]:
    """Return (caption row, text, score, whether it is one of ``own``, image row) of captions."""
    images = site.store.image_of_caption([at for at, _ in found]).tolist()
    return [
        (at, site.caption(at), score, at in own, image)
        for (at, score), image in zip(found, images, strict=True)
    ]


def _add_of_photo(blueprint: Blueprint, shelf: Shelf, runs: Runs) -> None:
    uploads = Uploads()
    mark = secrets.token_urlsafe(32)  # in every form, where pages of other sites cannot read it

    @blueprint.get("/<name>/photo")
    def photo(name: str) -> Response:
        site = shelf.site(name)
        served = _chosen(runs, site)
        return page("runs/photo.html", site=site, served=served, runs=runs.of(site), mark=mark,
                    most=LARGEST, handed_in=None)  # fmt: skip

    @blueprint.post("/<name>/photo")
    def hand_in(name: str) -> AnyResponse:
        site = shelf.site(name)
        if not same_text(request.form.get("mark", ""), mark):
            raise UsageError("This form is from an earlier start of the app. Open the page again.")
        served, file = _chosen(runs, site), request.files.get("photo")
        key = uploads.add(site, file.filename or "" if file else "", file.read() if file else b"")
        return redirect(url_for("runs.of_photo", name=name, key=key, run=served.name), 303)

    @blueprint.get("/<name>/photo/<key>")
    def of_photo(name: str, key: str) -> Response:
        site = shelf.site(name)
        handed_in, served = uploads.get(site, key), _chosen(runs, site)
        split = served.split(request.args.get("split", ""))
        return page(
            "runs/photo.html",
            site=site,
            served=served,
            runs=runs.of(site),
            mark=mark,
            most=LARGEST,
            handed_in=handed_in,
            key=key,
            view=handed_in.view(url_for("runs.small_photo", name=name, key=key)),
            split=split,
            found=_ranked(site, served.rank_captions_of_photo(key, handed_in.photo, split)),
        )

    @blueprint.get("/<name>/photo/<key>.jpg")
    def small_photo(name: str, key: str) -> Response:
        return Response(uploads.get(shelf.site(name), key).jpeg, mimetype="image/jpeg")
