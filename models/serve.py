"""Look through stores and runs in a browser: ``python -m models.serve STORE --run RUN``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from features.commands import (
    AllowHost,
    Host,
    ImagesDir,
    NoToken,
    Port,
    Program,
    Stores,
    serve_stores,
)

__all__ = ["app", "serve"]

app = Program("python -m models.serve", plugins=True)


@app.command("serve")
def serve(
    stores: Stores,
    run: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN...", help="Run folders, trained on one of the stores."),
    ] = None,
    images_dir: ImagesDir = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    allow_host: AllowHost = None,
    no_token: NoToken = False,
) -> None:
    """Look through stores and trained runs in a browser.

    The address that is printed has a token, without which the pages are refused. A token of your
    own is taken from SCENESTORE_TOKEN.
    """
    extensions: tuple[object, ...] = ()
    if run:
        from models.web import Runs, add_runs  # load Flask, which is optional

        extensions = (add_runs(lambda shelf: Runs(run, shelf)),)
    serve_stores(
        stores, images_dir or (), host, port, allow_host or (), extensions, no_token=no_token
    )


if __name__ == "__main__":
    app.run()
