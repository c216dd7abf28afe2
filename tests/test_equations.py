"""Every numbered equation of the papers is claimed in the code and listed on the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.errors import UsageError
from models.equations import PAPERS, app, claims, missing, table

ROOT = Path(__file__).resolve().parents[1]


def test_every_equation_is_claimed():
    assert missing(claims(ROOT)) == []


def test_no_claim_is_beyond_a_paper():
    assert [c for c in claims(ROOT) if not 1 <= c.number <= PAPERS[c.paper]] == []


def test_the_page_is_up_to_date():
    page = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    assert page == table(claims(ROOT)), "run: python -m models.equations docs/equations.md"


def test_claims_are_read_from_first_lines_only(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "a.py").write_text(
        '"""Module, GSMN Eq. (12)."""\n'
        "class A:\n"
        '    """Class, RACG Eq. (2)-(4) and SGM Eq. (1), (3)."""\n'
        "    def f(self):\n"
        '        """Method.\n\n        HREM Eq. (1).\n        """\n'
        "    def g(self):\n"
        '        """Method, HREM Eq. (2) and Eq. (5)."""\n'
    )
    found = [(c.paper, c.number, c.name, c.line) for c in claims(tmp_path)]
    assert found == [
        ("SGM", 1, "A", 2),
        ("SGM", 3, "A", 2),
        ("RACG", 2, "A", 2),
        ("RACG", 3, "A", 2),
        ("RACG", 4, "A", 2),
        ("HREM", 2, "A.g", 9),
        ("HREM", 5, "A.g", 9),
    ]
    assert ("GSMN", 12) in missing(claims(tmp_path))


def test_command_writes_the_page(tmp_path, monkeypatch):
    page = tmp_path / "equations.md"
    assert app.call([str(page)]) == 0
    assert page.read_text(encoding="utf-8") == table(claims(ROOT))
    monkeypatch.setitem(PAPERS, "GSMN", 13)
    with pytest.raises(UsageError, match=r"GSMN Eq. \(13\)"):
        app.call([str(page)])
