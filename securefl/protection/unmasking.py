"""The masks that are left in a sum, from the shares that members revealed: taken out, never one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from types import MappingProxyType

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
        offered = {name: told.seeds[member] for name, told in revealed.items()}
        seed = _gathered(publics[member], "seed", offered, threshold)
        if seed_commitment(seed.raw) != publics[member].statement.seed:
            raise Forged(f"the seed of {member} is not the one it committed to")
        yield Stream(self_key(seed, context), subtract=True)
    present = frozenset(survivors)
    for member in (seat.member for seat in plan.cohort if seat.member not in present):
        offered = {name: told.keys[member] for name, told in revealed.items()}
        key = _gathered(publics[member], "key", offered, threshold)
        if keys.public_half(key) != publics[member].statement.mask_key:
            raise Forged(f"the key of {member} is not the one it published")
        for survivor in survivors:  # what each survivor added for the dropped member is taken out
            shared = pair_key(key, publics[survivor].statement.mask_key, context, member, survivor)
            yield Stream(shared, subtract=survivor < member)


def check_revealed(
    publics: Mapping[MemberId, Public], survivors: tuple[MemberId, ...], member: MemberId, answer: bytes
) -> Revealed:
    """Return a survivor's shares: of exactly these survivors' seeds and the others' keys, as they were dealt to it.

    What an honest member was dealt it held against the same commitments before it sealed anything.

    Raises:
        Forged: it is no survivor, or gave shares for another set, or one that was not committed to.
        Malformed: it gave none.
    """
    told: Revealed = wire.decode(answer, Revealed)
    dropped = publics.keys() - set(survivors)
    if member not in survivors or told.seeds.keys() != set(survivors) or told.keys.keys() != dropped:
        raise Forged(f"shares of {member} for other survivors than the inputs are of", "protocol.another-set")
    for kind, shares in (("seed", told.seeds), ("key", told.keys)):
        for owner, share in shares.items():
            if not _is_committed(publics[MemberId(owner)], kind, member, share):
                raise Forged(f"{member} gave a {kind} share of {owner} that it was not dealt", "protocol.wrong-share")
    return told


def _is_committed(public: Public, kind: str, holder: MemberId, share: bytes) -> bool:
    """Whether this is the share that a dealer committed to for this holder."""
    if holder not in public.roster:
        return False
    statement, index = public.statement, public.roster.index(holder)
    dealer = place_of(statement.run, statement.round, statement.member, MemberId(""))
    part = slice(0, 32) if kind == "key" else slice(32, 64)
    return shamir.commitment(dealer, kind, index + 1, share) == public.commitments[index][part]


def readable(
    publics: Mapping[MemberId, Public], survivors: tuple[MemberId, ...], answers: Mapping[MemberId, bytes]
) -> dict[MemberId, Revealed]:
    """The answers that hold; the others are left out, for these may be enough."""
    found = {}
    for member, answer in answers.items():
        with suppress(PeerFault):
            found[member] = check_revealed(publics, survivors, member, answer)
    return found


def _gathered(public: Public, kind: str, offered: Mapping[MemberId, bytes], threshold: int) -> Secret:
    """A secret from shares that hold."""
    points = {member: point for point, member in enumerate(public.roster, 1)}
    good = dict(sorted((points[member], share) for member, share in offered.items())[:threshold])
    if len(good) < threshold:
        raise TooFew(f"{len(good)} good {kind} shares of {public.statement.member}; {threshold} are needed")
    try:
        return shamir.combine(good, threshold)
    except Forged as fault:
        raise Forged(f"the {kind} shares {public.statement.member} committed to: {fault}") from fault


def publics_of(plan: Plan, enrolled: Mapping[MemberId, bytes]) -> Mapping[MemberId, Public]:
    """What each of the cohort published.

    Raises:
        Forged: one does not hold what its statement's hashes are of.
    """
    cohort = tuple(seat.member for seat in plan.cohort)
    return _read(cohort, tuple(enrolled[member] for member in cohort))


@lru_cache(maxsize=2)  # every answer of a round is held against the same
def _read(cohort: tuple[MemberId, ...], enrolled: tuple[bytes, ...]) -> Mapping[MemberId, Public]:
    return MappingProxyType({member: public_of(each) for member, each in zip(cohort, enrolled, strict=True)})


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
    publics = publics_of(plan, enrolled)
    return _to_take_out(plan, publics, survivors, readable(publics, survivors, answers))
