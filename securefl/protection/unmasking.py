"""The masks that are left in a sum, from the shares that members revealed: taken out, never one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from securefl import keys, wire
from securefl.errors import Forged, PeerFault
from securefl.keys import Secret
from securefl.protection import shamir
from securefl.protection.enrolments import place_of, public_of, seed_commitment
from securefl.protection.mask_streams import Stream, pair_key, self_key
from securefl.protection.masking_terms import (
    Public,
    Revealed,
    TooFew,
)
from securefl.terms import MemberId, Plan


def _to_take_out(
    plan: Plan, publics: Mapping[MemberId, Public], survivors: tuple[MemberId, ...],
    revealed: Mapping[MemberId, Revealed],
) -> Iterator[Stream]:  # fmt: skip
    """Every mask that is left in the sum of the survivors' vectors."""
    context, threshold = wire.plan_hash(plan), plan.cover.threshold
    for member in survivors:
        offered = {name: told.seeds.get(member) for name, told in revealed.items()}
        seed = _gathered(publics[member], "seed", offered, threshold)
        if seed_commitment(seed.raw) != publics[member].statement.seed:
            raise Forged(f"the seed of {member} is not the one it committed to")
        yield Stream(self_key(seed, context), subtract=True)
    present = frozenset(survivors)
    for member in (seat.member for seat in plan.cohort if seat.member not in present):
        offered = {name: told.keys.get(member) for name, told in revealed.items()}
        key = _gathered(publics[member], "key", offered, threshold)
        if keys.public_half(key) != publics[member].statement.mask_key:
            raise Forged(f"the key of {member} is not the one it published")
        for survivor in survivors:  # what each survivor added for the dropped member is taken out
            shared = pair_key(key, publics[survivor].statement.mask_key, context, member, survivor)
            yield Stream(shared, subtract=survivor < member)


def _readable(answers: Mapping[MemberId, bytes], survivors: tuple[MemberId, ...]) -> dict[MemberId, Revealed]:
    revealed = {}
    for member, answer in answers.items():
        if member in survivors:
            try:
                revealed[member] = wire.decode(answer, Revealed)
            except PeerFault:
                continue  # the others may be enough
    return revealed


def _gathered(public: Public, kind: str, offered: Mapping[MemberId, bytes | None], threshold: int) -> Secret:
    """A secret from the shares that match their commitments; a wrong one is left out."""
    statement = public.statement
    dealer = place_of(statement.run, statement.round, statement.member, MemberId(""))
    part = slice(0, 32) if kind == "key" else slice(32, 64)
    good: dict[int, bytes] = {}
    for point, (member, committed) in enumerate(zip(public.roster, public.commitments, strict=True), 1):
        share = offered.get(member)
        if share is None or len(good) == threshold:
            continue
        if shamir.commitment(dealer, kind, point, share) == committed[part]:
            good[point] = share
    if len(good) < threshold:
        raise TooFew(f"{len(good)} good {kind} shares of {statement.member}; {threshold} are needed")
    try:
        return shamir.combine(good, threshold)
    except Forged as fault:
        raise Forged(f"the {kind} shares {statement.member} committed to: {fault}") from fault


def masks_left(
    plan: Plan, enrolled: Mapping[MemberId, bytes], survivors: tuple[MemberId, ...], answers: Mapping[MemberId, bytes]
) -> Iterator[Stream]:
    """Yield what takes the masks that are left out of the survivors' sum, of any length and ring.

    Raises:
        TooFew: fewer survivors or usable answers than the plan needs.
        Forged: a secret that comes out is not what its member published.
    """
    if len(survivors) < max(plan.cover.threshold, plan.cover.min_cohort):
        raise TooFew(f"{len(survivors)} survivors; {max(plan.cover.threshold, plan.cover.min_cohort)} are needed")
    publics = {seat.member: public_of(enrolled[seat.member]) for seat in plan.cohort}
    return _to_take_out(plan, publics, survivors, _readable(answers, survivors))
