"""What a member published of its masks before a round, and what has to hold of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from securefl import keys, merkle, wire
from securefl.errors import Forged, Unsafe
from securefl.keys import Secret
from securefl.protection import fixed_point, honest_count, shamir
from securefl.protection.masking_terms import (
    Pair,
    Public,
    Statement,
)
from securefl.terms import Hash, MemberId, Participant, Plan, RunId
from securefl.terms.names import CommitmentBytes, ShareBytes

_SHARE: Final = ShareBytes(bytes(shamir.SHARE_BYTES))
BOX_BYTES: Final = keys.BOX_BYTES + len(wire.encode(Pair(_SHARE, _SHARE)))  # of one peer's shares, sealed to it


def check_cover(plan: Plan) -> None:
    """Check that a sum under this plan is safe to open.

    Raises:
        Unsafe: two groups could each open the other's half, a colluding minority could open one input, or it overflows.
    """
    cover, members = plan.cover, len(plan.cohort)
    if members < cover.min_cohort:
        raise Unsafe(f"a cohort of {members}; at least {cover.min_cohort} are needed", "protocol.small-cohort")
    honest_count.check(plan)
    check_threshold(plan, members)
    if cover.threshold > members:
        what = f"a threshold of {cover.threshold}, which a cohort of {members} cannot meet"
        raise Unsafe(what, "protocol.small-cohort")
    fixed_point.check_plan(plan)


def check_threshold(plan: Plan, holders: int) -> None:
    """Check that ``threshold`` shares of one secret and ``threshold`` of another cannot both be had.

    Each of ``holders`` reveals one of the two, and ``colluding`` of them reveal both.

    Raises:
        Unsafe: they can.
    """
    cover = plan.cover
    if 2 * cover.threshold <= holders + cover.colluding:
        what = f"a threshold of {cover.threshold} of {holders} with {cover.colluding} colluding is not safe"
        raise Unsafe(what, "protocol.unsafe-threshold")


def seed_commitment(seed: bytes) -> Hash:
    """Return what a member publishes of its own mask's seed."""
    return Hash(hashlib.sha256(b"self-mask-seed\0" + seed).digest())


def place_of(statement_run: RunId, round_: int, dealer: MemberId, peer: MemberId) -> bytes:
    """The place of a share: run, round, dealer, receiver."""
    return wire.encode((bytes(statement_run), round_, dealer, peer))


def roster_hash(roster: tuple[MemberId, ...]) -> Hash:
    """Return what a statement says of those who were dealt shares."""
    return Hash(hashlib.sha256(b"roster\0" + wire.encode(roster)).digest())


def commitments_of(run: RunId, round_: int, member: MemberId, point: int, pair: Pair) -> CommitmentBytes:
    """Return what a dealer publishes of the two shares of one peer."""
    dealer = place_of(run, round_, member, MemberId(""))
    of_key, of_seed = (shamir.commitment(dealer, kind, point, getattr(pair, kind)) for kind in ("key", "seed"))
    return CommitmentBytes(of_key + of_seed)


def check_statement(statement: Statement, signature: bytes, plan: Plan, seat: Participant, roster: Hash) -> None:
    """Check that this is a member's statement for this plan's run and round, over this roster, and its key is one.

    Whoever passes a statement on checks this as it comes, and whoever is given it checks the same again.

    Raises:
        Forged: it is not.
    """
    member = seat.member
    if (statement.run, statement.round, statement.member) != (plan.run, plan.round, member):
        what = f"{statement.member}'s key of round {statement.round} where {member}'s of {plan.round} belongs"
        raise Forged(what, "protocol.replayed-key")
    if statement.threshold != plan.cover.threshold:
        what = f"{member} shared its keys {statement.threshold} of n; the plan says {plan.cover.threshold}"
        raise Forged(what, "protocol.another-threshold")
    try:
        keys.verify(seat.key, "mask-key", wire.encode(statement), signature)
    except Forged as fault:
        raise Forged(f"{member}'s keys for the round: {fault}", "protocol.swapped-key") from fault
    if statement.roster != roster:
        raise Forged(f"{member} dealt its shares to another roster than is shown", "protocol.another-roster")
    keys.agree(Secret(roster), statement.mask_key)  # with any secret: found now, a weak key costs nobody's budget


def check_dealt(plan: Plan, seat: Participant, roster: tuple[MemberId, ...], enrolled: bytes) -> None:
    """Check that what a member dealt to a roster can be passed on: all that every peer will ask of it but its own box.

    What is in a box its receiver alone can see.

    Raises:
        PeerFault: a peer would refuse it, or could not read it.
    """
    public = public_of(enrolled)
    check_statement(public.statement, public.signature, plan, seat, roster_hash(roster))
    if public.boxes.keys() != set(roster) - {seat.member} or {*map(len, public.boxes.values())} - {BOX_BYTES}:
        raise Forged(f"{seat.member} sealed shares to others than its roster, or none that are any", "protocol.box")


def check_enrolled(plan: Plan, enrolled: Mapping[MemberId, bytes]) -> None:
    """Check every enrolment of a cohort: signed by its member for this round, dealt to one roster, shared safely.

    Raises:
        Forged: one is not its member's, or was dealt to another roster.
        Unsafe: the threshold is too low for the roster.
    """
    rosters = set()
    for seat in plan.cohort:
        roster = public_of(enrolled[seat.member]).roster
        check_dealt(plan, seat, roster, enrolled[seat.member])
        rosters.add(roster)
    if len(rosters) != 1:
        raise Forged("members of one cohort dealt their shares to several rosters", "protocol.another-roster")
    check_threshold(plan, len(rosters.pop()))


def public_of(enrolled: bytes) -> Public:
    """An enrolment that holds what its statement's hashes are of."""
    public: Public = wire.decode(enrolled, Public)
    stated = public.statement
    if roster_hash(public.roster) != stated.roster or len(public.commitments) != len(public.roster):
        raise Forged(f"{stated.member} shows another roster than it stated", "protocol.another-roster")
    if merkle.root(tuple(map(merkle.leaf_hash, public.commitments))) != stated.shares:
        raise Forged(f"{stated.member} shows other commitments than it stated", "protocol.wrong-share")
    return public
