"""What a party sees of other ledgers: each head that grew is written down in the step that saw it.

So from the moment an answer was seen, no home can be set back to before it: whoever saw more refuses it, and tells it.
A head counts against its owner only where it is bound: in the receipt of a message that its owner signed, or in what a
peer signed that it saw. What a coordinator lays beside a message, it may leave out or swap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from securefl.errors import Forged
from securefl.protocol import messages as m
from securefl.protocol.acceptances import parties
from securefl.terms import Head, MemberId, PublicKey, Receipt, SignedHead, Witnessed

if TYPE_CHECKING:
    from securefl.protocol.member_state import SiteConfig

SET_BACK = "protocol.own-ledger-set-back"
OTHERS_SET_BACK = "protocol.ledger-set-back"


@dataclass(frozen=True, slots=True)
class Seen:
    """The longest heads that one party saw of others' ledgers. A party is a line of keys, and it has one ledger."""

    shown: Mapping[str, SignedHead]  # under the key that each has in a run: everybody in it can check these
    former: Mapping[str, SignedHead]  # longer ones under other keys of its line: held against it, and not handed on


def check_grown(known: Iterable[SignedHead | None], head: SignedHead) -> None:
    """Check that a ledger is no less than any of these heads of it, whatever keys they are under.

    Raises:
        Forged: it was longer before, or is another ledger.
    """
    for before in known:
        m.check_progress(before, head)


def check_named(receipt: Receipt, key: PublicKey, head: SignedHead) -> None:
    """Check that the head in a receipt is its sender's, under this key, and of no more than came beside the message.

    Raises:
        Forged: it is not. Whoever wrote such a receipt down would have a head there that nobody signed.
    """
    if receipt.head is not None:
        m.check_head(receipt.head, receipt.sender, key)
        m.check_progress(receipt.head, head)


def beside(
    charter: SiteConfig, head: SignedHead | None, receipt: Receipt
) -> tuple[SiteConfig, tuple[Witnessed, ...]]:  # fmt: skip
    """Take in the head of the coordinator's ledger that came beside a message with this receipt.

    Raises:
        Forged: there is none, the coordinator did not sign it, or its ledger was longer before; or the receipt names
            another one.
    """
    coordinator = charter.coordinator
    if head is None:
        raise Forged(f"a message of {coordinator.member} without its ledger's head", "protocol.no-ledger")
    m.check_head(head, coordinator.member, coordinator.key)
    check_named(receipt, coordinator.key, head)
    check_grown(_known(charter, coordinator.member), head)
    return _with(charter, {coordinator.member: head})


def relayed(
    charter: SiteConfig, session: m.Session, heads: Iterable[SignedHead], holds: Callable[[Head], bool], *,
    stale: bool = False,
) -> tuple[SiteConfig, tuple[Witnessed, ...]]:  # fmt: skip
    """Take in heads that the coordinator passed on: those of other parties in this run, and this party's own.

    Args:
        session: whose parties count: whoever reads this ledger knows no other in this run.
        holds: whether this party's own ledger had that head before.
        stale: whether an older head than was seen is no fault: the coordinator may know less than this party.

    Raises:
        Forged: one is a stranger's, not signed by its owner, of a ledger that was longer before, or this party's own
            ledger is not the one it signed before.
    """
    custodian = (charter.custodian,) if charter.custodian else ()
    seats, here = (*charter.peers, charter.coordinator, *custodian), parties(session)
    known = {seat.member: seat.key for seat in seats if seat.member in here}
    grown: dict[str, SignedHead] = {}
    for head in heads:
        owner = head.head.owner
        if owner not in known and owner != charter.me:
            raise Forged(f"a head of {owner}, who is no peer in this run", "protocol.stranger")
        before = (grown.get(owner, charter.witnessed.get(owner)), charter.former.get(owner))
        if head == before[0] and (stale or before[1] is None):
            continue
        if owner in known:
            m.check_head(head, owner, known[owner])
        if owner == charter.me:
            if not holds(head.head):
                what = f"this ledger has not the {head.head.size} entries that {owner} has signed: it was set back"
                raise Forged(f"{what}; restore the newest copy of it", SET_BACK)
            continue
        if stale and any(each is not None and head.head.size < each.head.size for each in before):
            continue
        check_grown(before, head)
        grown[owner] = head
    return _with(charter, grown)


def told(charter: SiteConfig, parties: Iterable[MemberId]) -> tuple[SignedHead, ...]:
    """The longest ledger that was seen of each of these parties but this one: said to all of them, when it joins."""
    others = sorted(set(parties) - {charter.me})
    return tuple(charter.witnessed[name] for name in others if name in charter.witnessed)


def bound(charter: SiteConfig, receipt: Receipt) -> tuple[SignedHead, ...]:
    """The head of its sender's ledger that a signed receipt names: none, if the ledger was empty.

    Raises:
        Forged: its sender showed entries before, and names none now.
    """
    return named(_known(charter, receipt.sender), receipt)


def named(known: Iterable[SignedHead | None], receipt: Receipt) -> tuple[SignedHead, ...]:
    """The head that a signed receipt names, held against what was seen of its sender's ledger; none, if it was empty.

    Raises:
        Forged: its sender's ledger was longer before, or is another one.
    """
    before = [each for each in known if each is not None]
    if receipt.head is not None:
        check_grown(before, receipt.head)
        return (receipt.head,)
    if before:
        was = max(each.head.size for each in before)
        raise Forged(f"{receipt.sender} shows an empty ledger, and has shown {was} entries before", OTHERS_SET_BACK)
    return ()


def paying(receipt: Receipt) -> SignedHead:
    """The head that an input's receipt names: what paid for the input stands in that ledger.

    Raises:
        Forged: it names none.
    """
    if receipt.head is None:
        raise Forged(f"an input of {receipt.sender} without its ledger's head", "protocol.no-ledger")
    return receipt.head


def _known(charter: SiteConfig, owner: MemberId) -> tuple[SignedHead | None, ...]:
    """Return what this party's ledger has to be no less than, under this key or another one of its line."""
    return charter.witnessed.get(owner), charter.former.get(owner)


def _with(charter: SiteConfig, seen: Mapping[str, SignedHead]) -> tuple[SiteConfig, tuple[Witnessed, ...]]:
    new = {owner: head for owner, head in seen.items() if head != charter.witnessed.get(owner)}
    return replace(charter, witnessed={**charter.witnessed, **new}), tuple(map(Witnessed, new.values()))
