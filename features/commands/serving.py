"""The command ``serve``: look through stores in a browser."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from features.commands.program import Program
from features.errors import MissingInput, UsageError

app = Program("python -m features")
TOKEN = (
    "SCENESTORE_TOKEN"  # not an option: all users of a machine can list the options of a process
)
SHORTEST = 16  # characters of a token

Stores = Annotated[list[str], typer.Argument(metavar="STORE", help="Folders or store manifests.")]
ImagesDir = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="DIR",
        help="Photos, one folder per store or one for all [the folder the store was built from].",
    ),
]
Host = Annotated[str, typer.Option(help="Address to listen on; others can then reach the app.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Name under which others reach this machine. Repeatable."),
]
NoToken = Annotated[
    bool,
    typer.Option("--no-token", help="Show everything to everyone who reaches the address."),
]


@app.command("serve")
def serve(
    stores: Stores,
    images_dir: ImagesDir = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    allow_host: AllowHost = None,
    no_token: NoToken = False,
) -> None:
    """Look through stores in a browser: a grid with filters, each image with its graph.

    The address that is printed has a token, without which the pages are refused. A token of your
    own is taken from SCENESTORE_TOKEN.
    """
    serve_stores(stores, images_dir or (), host, port, allow_host or (), no_token=no_token)


def serve_stores(
    stores: list[str],
    images_dir: list[Path] | tuple[Path, ...],
    host: str,
    port: int,
    allow_host: list[str] | tuple[str, ...],
    extensions: tuple[object, ...] = (),
    *,
    no_token: bool = False,
) -> None:
    """Serve stores until Ctrl-C; ``extensions`` as in ``features.web.create_app``.

    Raises:
        MissingInput: no such folder of photos.
        UsageError: the address cannot be used, or the token is too short.
    """
    # load Flask, which is optional
    from features.web import Shelf, create_app, is_loopback, serve

    for folder in images_dir:
        if not folder.exists():
            raise MissingInput(f"{folder}: there is no such folder. Check --images-dir.")
    token = "" if no_token else _token()
    shelf = Shelf(stores, images_dir)
    local = is_loopback(host)
    app = create_app(
        shelf,
        hosts=[host, *allow_host],
        any_address=not local,
        token=token,
        extensions=extensions,  # type: ignore[arg-type]
    )

    def ready(url: str) -> None:
        for site in shelf.sites.values():
            photos = site.photos.folder or "not found; --images-dir DIR shows them"
            typer.echo(f"{site.store.path}\n  photos: {photos}")
        if not token:
            who = "every user of this machine" if local else "everyone who reaches this address"
            typer.echo(f"note: {who} can see the photos and captions.")
        typer.echo(f"{url}  (Ctrl-C stops it)")

    serve(app, host, port, ready, token)


def _token() -> str:
    """Return the token of the environment, or a random one."""
    token = os.environ.get(TOKEN, "")
    if token and not (len(token) >= SHORTEST and token.isascii() and token.isprintable()):
        raise UsageError(
            f"{TOKEN} must have {SHORTEST} or more printable ASCII characters, and has "
            f"{len(token)} characters. Unset it for a random token."
        )
    return token or secrets.token_urlsafe(24)
