"""The program ``python -m pipeline``: the commands for captions and for images together."""

from __future__ import annotations

from features.commands import Program
from pipeline.commands import fitting, images, negatives, text

app = Program(
    "python -m pipeline",
    help="Parse captions, make negatives, detect objects, fit labels and relations, evaluate them.",
)
app.add_typer(text.app)
app.add_typer(negatives.app)
app.add_typer(images.app)
app.add_typer(fitting.app)
