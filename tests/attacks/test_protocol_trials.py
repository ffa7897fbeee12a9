"""A slice of the trials in which a malicious coordinator attacks a whole site, and proof that they can fail."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from audits.protection import attacks, forging
from audits.protection.attempt import attempts
from securefl import wire
from securefl.errors import Forged, Malformed, OutOfTurn, PeerFault, Unsafe
from securefl.protection import masking, masking_terms
from securefl.terms import rules

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "audits" / "protection" / "attacks.json"


@pytest.mark.parametrize("attack", forging.ATTACKS)
def test_an_attack_is_refused_by_its_name_stands_in_the_ledger_and_changes_nothing(attack: str, tmp_path: Path) -> None:
    for number in range(3):
        made = attacks.trial(attack, number, tmp_path)
        assert not made.succeeded
        assert made.refused, made.name
        assert made.finished


@pytest.mark.parametrize("view", attacks.VIEWS)
def test_showing_members_different_things_opens_nothing(view: str) -> None:
    assert not any(attacks.VIEWS[view](number) for number in range(10))


def obliging(self, me, plan, kept, question) -> bytes:
    """An answer to whatever is asked."""
    shares = wire.decode(kept, masking_terms.Kept).shares
    return wire.encode(masking_terms.Revealed({name: pair.seed for name, pair in shares.items()}, {}))


def test_a_member_that_does_not_check_is_seen_to_fall(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(masking.MaskingMember, "answer", obliging)
    made = attacks.trial("a cohort that shrinks", 0, tmp_path)
    assert made.succeeded
    assert not made.refused


def test_the_committed_result_is_of_every_attack_and_holds() -> None:
    told = json.loads(RESULT.read_text())
    assert [row["attack"] for row in told["attacks"]] == list(forging.ATTACKS)
    assert [row["attack"] for row in told["views"]] == list(attacks.VIEWS)
    assert [row["attack"] for row in told["attempts"]] == [attempt.name for attempt in attempts()]
    assert all(row["trials"] == attacks.TRIALS for row in (*told["attacks"], *told["views"], *told["attempts"]))
    assert attacks.holds(told)


def raised() -> set[str]:
    """Every name that a fault of a peer is raised with."""
    found = {kind.rule for kind in (PeerFault, OutOfTurn, Malformed, Forged, Unsafe, masking_terms.TooFew)}
    for path in (ROOT / "securefl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"^protocol\.[a-z-]+$", node.value))
    return found


def test_every_name_of_a_refusal_is_explained() -> None:
    text = (ROOT / "audits" / "decisions" / "0010-refusals-have-names.md").read_text()
    names = text.split("## Names")[1].split("## Negative consequences")[0]
    explained = set(re.findall(r"`([a-z]+(?:[.][a-z_.-]+)?)`", names.replace("`securefl/terms/rules.py`", "")))
    assert explained == rules.KNOWN
    assert raised() <= rules.KNOWN
    rows = set(re.findall(r"^\| `(protocol\.[a-z-]+)`", names, re.MULTILINE))
    assert rows == {name for name in rules.FAULTS if name.startswith("protocol.")} | {"protocol.no-answer"}
