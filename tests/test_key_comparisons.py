"""A party is a line of keys: where one key is compared with another, that is said here, and why the line is not asked.

Ask `Standings.line` whose a key is, `Standings.check` whether it counts now; a home has both (`line`, `standing_in`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "securefl"
FOLDERS = ("home", "site", "protocol", "coordinator", "audit")
WORDS = {"key", "public", "successor"}
ALLOWED: dict[tuple[str, str], str] = {
    (
        "audit/cross_checks.py",
        "_seen_by",
    ): "the keys of a party are put in the order in which they came; none is left out",
    ("audit/key_checks.py", "judge"): "the seat that a run's plan names as its custodian; its standing is asked then",
    ("audit/pins.py", "read"): "two files that an auditor was given are held against each other",
    ("audit/ledger_files.py", "former_keys"): "the steps back from a ledger's own key are looked up: a line is made",
    (
        "home/introduced.py",
        "_check_keys",
    ): "a card is held against the pin, which follows each hand-over that was taken in",
    ("home/introduced.py", "everybody_in"): "a roster is by the very card that this home's invitation was by",
    ("home/ledger_view.py", "is_another_ledger"): "an earlier hand-over to the very key that this one hands over",
    ("home/live_ledger.py", "take"): "whether this home's own key is another one now",
    ("home/notices.py", "revoke"): "a word in a message, at this home's own present key",
    ("home/notices.py", "take"): "whether the pin has to follow the line",
    ("home/peers.py", "check"): "the pin follows the line; who shows another key is refused, and a notice is asked for",
    ("protocol/key_standing.py", "_admit_handover"): "here lines are made",
    ("protocol/key_standing.py", "sign"): "a party speaks of its own key",
}


def compared(node: ast.Compare) -> bool:
    """Whether this asks whether one key is another."""
    alike = any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops)
    return alike and any(_is_key(part) for part in (node.left, *node.comparators))


def _is_key(part: ast.expr) -> bool:
    if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr == "hex":
        part = part.func.value
    name = part.attr if isinstance(part, ast.Attribute) else part.id if isinstance(part, ast.Name) else ""
    return name in WORDS


def found() -> Iterator[tuple[str, str]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).glob("*.py")):
            for outer in ast.walk(ast.parse(path.read_text())):
                if isinstance(outer, ast.FunctionDef):
                    if any(isinstance(each, ast.Compare) and compared(each) for each in ast.walk(outer)):
                        yield f"{folder}/{path.name}", outer.name


def test_one_key_is_compared_with_another_only_where_that_is_said() -> None:
    assert set(found()) == set(ALLOWED)
