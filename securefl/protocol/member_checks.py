"""What a member checks of a plan, a cohort and its peers before it reserves anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from securefl import keys, wire
from securefl.errors import Forged, Unsafe
from securefl.keys import Secret
from securefl.protocol import messages as m
from securefl.protocol import seen_heads
from securefl.protocol.acceptances import checked
from securefl.protocol.key_standing import revocation
from securefl.protocol.member_state import Seated
from securefl.terms import AdapterRule, MemberId, Participant, Plan, SignedHead, SignedReceipt
from securefl.terms.uploads import upload_of


def check_as_agreed(seat: Seated, plan: Plan) -> None:
    """Check the plan's cover against the session, and its model, name and digest, against this site's own.

    The policy's rule on models judges the name in the plan: only the name this site knows the digest by is let through.
    """
    session = seat.session
    custodian = session.custodian.key if session.custodian else None
    if (plan.cover.scheme, plan.cover.threshold, plan.cover.custodian) != (
        session.scheme, session.threshold, custodian,
    ):  # fmt: skip
        raise Unsafe("a plan under another protection than the session", "protocol.another-cover")
    if plan.model != seat.charter.model:
        raise Unsafe("a plan for another model than this site has loaded", "protocol.another-model")


def check_cohort(seat: Seated, plan: Plan) -> None:
    """Return if the cohort is of the roster, each member once and this one among them; all of it for what is kept.

    Raises:
        Forged: it has strangers or doubles, or members whose acceptance this one was not shown.
        Unsafe: it is without this member, or sums of a run over different cohorts could be solved for one member.
    """
    roster = seat.session.roster
    if any(each not in roster for each in plan.cohort) or len(set(plan.cohort)) != len(plan.cohort):
        raise Forged("a cohort with strangers or doubles", "protocol.stranger")
    unseen = [each.member for each in plan.cohort if each.member not in seat.boxes]
    if unseen:  # so this member has not heard what they saw of its ledger, nor they what it saw of theirs
        raise Forged(f"a cohort with members whose acceptance was not shown: {', '.join(unseen)}", "protocol.stranger")
    if seat.charter.me not in {each.member for each in plan.cohort}:
        raise Unsafe("a cohort without this member", "protocol.without-me")
    if not upload_of(plan.sharing).is_fresh and len(plan.cohort) != len(roster):
        raise Unsafe("weights that members keep, over another cohort than the whole roster", "protocol.stale-input")


def covers(plan: Plan, size: int) -> bool:
    """Whether a state of ``size`` bytes holds what the plan's update moves: all of it, or more where tensors rest."""
    rests = plan.adapter.rule in (AdapterRule.ALTERNATING, AdapterRule.SVD)
    return size % 4 == 0 and upload_of(plan.sharing).covers(plan.dimension, size // 4, rests=rests)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the peers' acceptances hold, each under its sender's signature."""

    boxes: Mapping[str, bytes]
    material: bytes
    shown: tuple[SignedHead, ...]  # of each peer's own ledger: the head it named itself, and what was laid beside it
    seen: tuple[SignedHead, ...]  # what each peer saw of the others, this member among them


def acceptances(seat: Seated, frames: tuple[m.Frame, ...]) -> Accepted:
    """Return what every peer said as it joined, from a ledger that is not empty where it was not before.

    Raises:
        Forged: an acceptance is not its sender's, is a stranger's or stands there twice; this member's own is missing
            or altered, or the custodian's is missing.
    """
    session = seat.session
    boxes: dict[str, bytes] = {}
    shown, seen = list[SignedHead](), list[SignedHead]()
    material = b""
    for frame in frames:
        sender = frame.envelope.receipt.sender
        if sender in boxes:
            raise Forged(f"an acceptance of {sender} stands here twice", "protocol.stranger")
        accept = checked(frame, session)
        assert frame.head is not None, "checked with the acceptance"
        boxes[sender] = accept.box
        shown += (*seen_heads.bound(seat.charter, frame.envelope.receipt), frame.head)
        seen += accept.seen
        if session.custodian is not None and sender == session.custodian.member:
            material = accept.material
    if boxes.get(seat.charter.me) != keys.public_half(Secret(seat.box)):
        raise Forged("this member's own acceptance is missing or altered", "protocol.swapped-key")
    if any(each.member not in boxes for each in custodian_of(seat)):
        raise Forged("the custodian's acceptance is missing", "protocol.stranger")
    return Accepted(boxes, material, tuple(shown), tuple(seen))


def inputs_of(
    seat: Seated, plan: Plan, sealed: tuple[SignedReceipt, ...], about: frozenset[str],
    standing: Callable[[Participant], None],
) -> list[SignedHead]:  # fmt: skip
    """The ledger that each member of a sum named as it handed its input in: what paid for the input stands in it.

    Args:
        about: whose inputs the sum is of.
        standing: raises Forged if a party's key does not count now. Of an input only this is asked, that its sender's
            key was not revoked: one that counted with the round's plan, and was handed over or left behind since,
            signed an input that its owner meant.

    Raises:
        Forged: a receipt is missing or stands there twice, is not its sender's, or is of another plan or message; or
            its sender's key was revoked.
    """
    session, name = seat.session, wire.plan_hash(plan)
    keys_of = {each.member: each.key for each in plan.cohort}
    if len(sealed) != len(about) or {each.receipt.sender for each in sealed} != about:
        raise Forged("a question about other members than the receipts that came with it", "protocol.another-set")
    for sender in plan.cohort:
        if sender.member in about and (fault := revocation(sender, standing)):
            raise fault
    shown = list[SignedHead]()
    for each in sealed:
        receipt = each.receipt
        m.check_receipt(each, receipt.sender, session.coordinator.member, session.run, keys_of[receipt.sender])
        if (receipt.kind, receipt.round, receipt.plan) != (m.Submitted.__name__, plan.round, name):
            raise Forged(f"the receipt of {receipt.sender} is of no input to this sum", "protocol.another-plan")
        shown.append(seen_heads.paying(receipt))
    return shown


def members_only(seat: Seated) -> dict[MemberId, bytes]:
    """The boxes of the members, without the custodian's."""
    members = {each.member for each in seat.session.roster}
    return {MemberId(name): box for name, box in seat.boxes.items() if name in members}


def custodian_of(seat: Seated) -> tuple[Participant, ...]:
    """The custodian, if the run has one."""
    return (seat.session.custodian,) if seat.session.custodian else ()
