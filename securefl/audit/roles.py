"""Whose part a party says that it had in a run: what it did there shows it, not its own word.

Which checks a ledger is held to follows from its owner's part. Each entry that tells of one is therefore held against
what requests, reservations and plans show, in this ledger and in the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from securefl.audit.ledger_files import Ledger
from securefl.protocol.member import REQUESTS  # what a coordinator alone sends
from securefl.terms import MemberId, MessageReceived, MessageSent, PublicKey, Reserved, RunId, RunJoined
from securefl.terms.entries import ROLES


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
            if run in ledger.apart:
                continue
            if role != "coordinator" and ledger.owner in asked.get(run, ()):
                raise ledger.wrong(f"the {role} of a run that it coordinated", index)
            if role != "member" and run in trained:
                raise ledger.wrong(f"the {role} of a run in which it was to train", index)
            if role != "custodian" and not opens.get(run, set()).isdisjoint(ledger.keys):
                raise ledger.wrong(f"the {role} of a run whose plans name it as custodian", index)


def _asked(ledgers: Mapping[MemberId, Ledger]) -> Mapping[RunId, set[MemberId]]:
    """Return who sent requests in each run, by its own ledger or by that of whoever got them."""
    asked: dict[RunId, set[MemberId]] = defaultdict(set)
    for ledger in ledgers.values():
        for _, sent in ledger.each(MessageSent):
            if sent.receipt.kind in REQUESTS:
                asked[sent.receipt.run].add(ledger.owner)
        for _, got in ledger.each(MessageReceived):
            if got.receipt.kind in REQUESTS:
                asked[got.receipt.run].add(got.receipt.sender)
    return asked


def _opens(ledgers: Mapping[MemberId, Ledger]) -> Mapping[RunId, set[PublicKey]]:
    """Return the keys that plans of each run name as their custodian's."""
    opens: dict[RunId, set[PublicKey]] = defaultdict(set)
    for ledger in ledgers.values():
        for _, entry in ledger.each(Reserved):
            if entry.plan.cover.custodian:
                opens[entry.plan.run].add(entry.plan.cover.custodian)
    return opens
