"""The program ``python -m features``: the commands of stores and of other formats together."""

from __future__ import annotations

from features.commands import exchange, finding, serving, store
from features.commands.program import Program

app = Program(
    "python -m features", help="Inspect, check, search, show, draw, import and export stores."
)
app.add_typer(store.app)
app.add_typer(exchange.app)
app.add_typer(finding.app)
app.add_typer(serving.app)
