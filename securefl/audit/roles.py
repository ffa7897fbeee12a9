"""Whose part a party says that it had in a run: what it did there shows it, not its own word.

Which checks a ledger is held to follows from its owner's part. Each entry that tells of one is therefore held against
what requests, reservations and plans show, in this ledger and in the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from securefl.audit.ledger_files import Ledger
from securefl.terms import MemberId, MessageReceived, MessageSent, PublicKey, Reserved, RunId, RunJoined

COORDINATES, TRAINS, OPENS = "coordinator", "member", "custodian"
ROLES: Final = frozenset({COORDINATES, TRAINS, OPENS})
ASKS: Final = frozenset({"Invite", "Enrol", "Propose", "Ask", "Close"})  # what a coordinator alone sends


def check(ledgers: Mapping[MemberId, Ledger]) -> None:
    """Check that each party had the part in each run that it says.

    Raises:
        Tampered: it says another word; it sent requests and did not coordinate; it was asked to train and says that it
            opened sums; or plans name it as the one who opens sums, and it says that it trained.
    """
    asked, opens = _asked(ledgers), _opens(ledgers)
    for ledger in ledgers.values():
        trained = {entry.plan.run for _, entry in ledger.each(Reserved)}
        for index, opened in ledger.each(RunJoined):
            run, role = opened.run, opened.role
            if role not in ROLES:
                raise ledger.wrong("a part in a run that there is not", index)
            if role != COORDINATES and ledger.owner in asked.get(run, ()) and run not in ledger.apart:
                raise ledger.wrong(f"the {role} of a run that it coordinated", index)
            if role != TRAINS and run in trained:
                raise ledger.wrong(f"the {role} of a run in which it was to train", index)
            if role != OPENS and not opens.get(run, set()).isdisjoint(ledger.keys) and run not in ledger.apart:
                raise ledger.wrong(f"the {role} of a run whose plans name it as custodian", index)


def _asked(ledgers: Mapping[MemberId, Ledger]) -> Mapping[RunId, set[MemberId]]:
    """Return who sent requests in each run, by its own ledger or by that of whoever got them."""
    asked: dict[RunId, set[MemberId]] = defaultdict(set)
    for ledger in ledgers.values():
        for _, sent in ledger.each(MessageSent):
            if sent.receipt.kind in ASKS:
                asked[sent.receipt.run].add(ledger.owner)
        for _, got in ledger.each(MessageReceived):
            if got.receipt.kind in ASKS and got.receipt.run not in ledger.apart:
                asked[got.receipt.run].add(got.receipt.sender)
    return asked


def _opens(ledgers: Mapping[MemberId, Ledger]) -> Mapping[RunId, set[PublicKey]]:
    """Return the keys that plans of each run name as their custodian's."""
    opens: dict[RunId, set[PublicKey]] = defaultdict(set)
    for ledger in ledgers.values():
        for _, entry in ledger.each(Reserved):
            if entry.plan.run not in ledger.apart and entry.plan.cover.custodian:
                opens[entry.plan.run].add(entry.plan.cover.custodian)
    return opens
