"""Progress lines: when they are written, what they say, and what a scheduler gets."""

from __future__ import annotations

import io

import pytest

from features.commands import progress
from features.commands.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Return a function that lets time pass."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_a_line_every_ten_seconds_and_at_the_end(clock):
    stream = io.StringIO()
    with Progress("run", "steps", 1100, 1040, stream=stream) as shown:
        for _ in range(25):
            clock(1)
            shown.advance(note="epoch 2, loss 1.0")
        clock(1)
        shown.advance(35)
        shown.say("done")
    assert stream.getvalue().splitlines() == [
        "run: 1,050/1,100 steps - epoch 2, loss 1.0 - 50 s left",
        "run: 1,060/1,100 steps - epoch 2, loss 1.0 - 40 s left",
        "run: 1,100/1,100 steps - 2.3/s - 0.0 s left",
        "done",
    ]


def test_quiet_writes_nothing_but_publishes(clock):
    stream, published = io.StringIO(), []
    publish = lambda line, percent: published.append((line, percent))  # noqa: E731
    with Progress("captions", "images", 200, stream=stream, quiet=True, publish=publish) as shown:
        shown.say("hello")
        for _ in range(4):
            clock(0.5)
            shown.advance(50)
    assert stream.getvalue() == ""
    assert published == [
        ("captions: 100/200 images - 100/s - 1.0 s left", 50),
        ("captions: 200/200 images - 100/s - 0.0 s left", 100),
    ]


def test_a_terminal_gets_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with Progress("run", "steps", 3, stream=stream) as shown:
        shown.advance(3, "loss 1.0")
        shown.say("a line")
    assert "a line" in stream.getvalue()
    assert "3/3" in stream.getvalue()
