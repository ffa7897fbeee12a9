"""The pictures of how it is built are drawn from the code."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def test_the_diagrams_are_what_the_code_says() -> None:
    drawn = runpy.run_path(str(DOCS / "diagrams.py"))["drawn"]
    page = (DOCS / "architecture.md").read_text()
    assert drawn(page) == page, "run python docs/diagrams.py"
    assert page.count("```mermaid") == 4


def test_a_diagram_that_says_something_else_is_found() -> None:
    drawn = runpy.run_path(str(DOCS / "diagrams.py"))["drawn"]
    page = (DOCS / "architecture.md").read_text()
    wrong = page.replace("Sealed --> Ready: ", "Sealed --> Idle: ", 1)
    assert wrong != page
    assert drawn(wrong) == page
    with pytest.raises(SystemExit, match="member"):
        drawn(page.replace("<!-- member -->", ""))


def test_every_file_the_page_names_exists() -> None:
    for name in re.findall(r"`([a-z_/]+\.py)`", (DOCS / "architecture.md").read_text()):
        assert (DOCS.parent / "securefl" / name).exists(), name
    for name in re.findall(r"`([a-z_]+)/`", (DOCS / "architecture.md").read_text()):
        assert (DOCS.parent / "securefl" / name).is_dir(), name
