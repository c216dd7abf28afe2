"""The pages about runs: tables and curves, one run, captions of an image, words on regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, Flask, Response, request, url_for

from features.errors import UnknownName, UsageError
from features.reading import text_graph
from features.web import Extension, Links, Shelf, Site, graph_of, page, picture
from models.reporting import training_charts
from models.web.served import Runs
from models.web.tables import differences, evaluated_splits, failures, results
from models.web.words import rows_of

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
        app.register_blueprint(blueprint)
        links.add_assets("models.web", {"runs.js": "text/javascript"})

        def tab(site: Site) -> Sequence[tuple[str, str]]:
            return [("Runs", url_for("runs.overview", name=site.name))] if runs.of(site) else []

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


def _add_overview(blueprint: Blueprint, shelf: Shelf, runs: Runs) -> None:
    @blueprint.get("/<name>/runs/")
    def overview(name: str) -> Response:
        site = shelf.site(name)
        own = runs.of(site)
        splits = evaluated_splits(own)
        split = request.args.get("split") or (splits[0] if splits else "")
        if splits and split not in splits:
            raise UnknownName.of("evaluated split", split, splits)
        found = results(site, own, split or "test")
        trained = [run for run in found["runs"] if run["learns"]]
        return page(
            "runs/overview.html",
            site=site,
            served=own,
            splits=splits,
            split=split,
            found=found,
            differences=differences(site, found, split),
            charts=training_charts(trained) if trained else [],
        )

    @blueprint.get("/<name>/runs/<run>")
    def one(name: str, run: str) -> Response:
        site = shelf.site(name)
        served = runs.one(site, run)
        splits = evaluated_splits([served])
        split = request.args.get("split") or (splits[0] if splits else "")
        if splits and split not in splits:
            raise UnknownName.of("evaluated split", split, splits)
        found = results(site, [served], split or "test")
        read = found["runs"][0] if found["runs"] else None
        table = read["queries"] if read else None
        about = read["results"].get("runs", [{}])[0] if read and read["results"] else {}
        return page(
            "runs/one.html",
            site=site,
            served=served,
            splits=splits,
            split=split,
            found=found,
            charts=training_charts([read]) if read and read["learns"] else [],
            failures=failures(site, table, FAILURES) if table else [],
            options=about.get("config", {}).get("model", {}),
            step=about.get("step"),
        )


def _add_of_image(blueprint: Blueprint, shelf: Shelf, runs: Runs) -> None:
    def chosen(site: Site, row: int) -> Any:
        if row >= len(site.store) or not site.store.usable[row]:
            raise UnknownName(f"image row {row}: this store has no usable image there.")
        own = runs.of(site)
        if not own:
            raise UsageError("No run of this store is loaded. Start with --run RUN.")
        return runs.one(site, request.args.get("run") or own[0].name)

    @blueprint.get("/<name>/images/<int:row>/captions")
    def captions(name: str, row: int) -> Response:
        site = shelf.site(name)
        served = chosen(site, row)
        split = served.split(request.args.get("split", ""))
        own = set(site.caption_rows(row))
        found = [
            (at, site.caption(at), score, at in own, int(site.store.image_of_caption([at])[0]))
            for at, score in served.rank_captions(row, split)
        ]
        return page(
            "runs/captions.html",
            site=site,
            row=row,
            id=site.image_id(row),
            photo=site.photos.has(site.file(row)),
            served=served,
            runs=runs.of(site),
            split=split,
            found=found,
            inside=site.split_of(row) == split,
            own=[site.caption(at) for at in site.caption_rows(row)],
        )

    @blueprint.get("/<name>/images/<int:row>/words")
    def words(name: str, row: int) -> Response:
        site = shelf.site(name)
        served = chosen(site, row)
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
        first = next((at for at, one in enumerate(rows) if one.content), 0)
        return page(
            "runs/words.html",
            site=site,
            row=row,
            id=site.image_id(row),
            photo=site.photos.has(site.file(row)),
            served=served,
            runs=runs.of(site),
            text=text,
            caption=caption,
            said=graph.caption,
            captions=[(at, site.caption(at)) for at in known],
            picture=picture(seen),
            rows=rows,
            first=first,
            what=found.what if found is not None else "",
            score=score,
        )
