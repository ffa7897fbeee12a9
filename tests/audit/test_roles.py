"""Which checks a ledger is held to is not its owner's to choose: what it did in a run shows its part there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from securefl.audit.verify import verify
from securefl.home.home import Home
from securefl.terms import RunId, RunJoined
from tests.audit.test_two_federations import Some, plan_of_its_own, played
from tests.support.parties import COORDINATOR
from tests.support.rotating import folder_of

LIED = RunId((1).to_bytes(16, "big"))


def judged(folder: Path, who: str, **lie: str) -> tuple[bool, str | None]:
    """What an auditor of all ledgers says where one party wrote another word about itself into its first run."""
    federation = replace(Some(folder / "homes", names=("a", "b", "c")), priced=True).made()
    honest = Home._append

    def append(self, conn, now, entries):
        if self.owner == who:
            entries = [replace(e, **lie) if isinstance(e, RunJoined) and e.run == LIED else e for e in entries]
        return honest(self, conn, now, entries)

    with mock.patch.object(Home, "_append", append):
        played(federation, 1, 1, plan_of_its_own if who == COORDINATOR else None)
        played(federation, 2, 1)
    found = verify(folder_of(federation, folder / "copies"))
    return found.ok, found.why


@pytest.mark.parametrize(
    ("who", "lie", "why"),
    [
        (COORDINATOR, {"role": "observer"}, "coordinator.ledger, entry 0: a part in a run that there is not"),
        (COORDINATOR, {"role": "member"}, "coordinator.ledger, entry 0: the member of a run that it coordinated"),
        (COORDINATOR, {"role": "custodian"}, "coordinator.ledger, entry 0: the custodian of a run that it coordinated"),
        ("a", {"role": "observer"}, "a.ledger, entry 0: a part in a run that there is not"),
        ("a", {"role": "custodian"}, "a.ledger, entry 0: the custodian of a run in which it was to train"),
    ],
)
def test_another_word_about_itself_takes_no_ledger_out_of_a_check(
    tmp_path: Path, who: str, lie: dict[str, str], why: str
) -> None:
    ok, said = judged(tmp_path, who, **lie)
    assert not ok
    assert why in (said or "")


def test_without_such_a_word_the_same_member_is_right(tmp_path: Path) -> None:
    assert judged(tmp_path, "a") == (True, "")
