"""What a coordinator or a peer may try on a masked round, and what the members say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from securefl import keys, merkle, wire
from securefl.errors import Forged, Unsafe
from securefl.keys import Secret
from securefl.protection import enrolments, fixed_point, mask_streams, masking, masking_terms, schemes, shamir
from securefl.terms import FixedPoint, Hash, MemberId, RunId, Scheme
from tests.protection.test_protection import Round, secret, unpacked
from tests.support.worlds import identity, seat

RUN = RunId(bytes(16))


class SplitRoster:
    """Seven members; two groups are shown two plans, and the first member stands in both."""

    def __init__(self) -> None:
        self.made = Round(7, dimension=50, threshold=3)
        self.victim = self.made.names[0]
        first, second = self.made.names[:4], [self.victim, *self.made.names[4:]]
        self.views = [(names, self._plan(names, bytes([i]) * 32)) for i, names in enumerate((first, second))]

    def _plan(self, names, base):
        return replace(self.made.plan, cohort=tuple(seat(name) for name in names), base=Hash(base))

    def seal(self, name: MemberId, view: int) -> bytes:
        names, plan = self.views[view]
        relay = self.made.coordinator.relay(tuple(names), {peer: self.made.enrolled[peer] for peer in names})
        return self.made.seal(name, plan=plan, relay=relay[name])

    def told(self, name: MemberId, view: int, survivors: list[MemberId]) -> masking_terms.Revealed:
        question = wire.encode(masking_terms.Survivors(tuple(survivors)))
        return wire.decode(
            self.made.member.answer(name, self.views[view][1], self.made.kept[name], question), masking_terms.Revealed
        )

    def steal(self) -> bool:
        """Whether the coordinator holds the first member's bare vector at the end."""
        victim, made = self.victim, self.made
        (first, plan), (second, _) = self.views
        elements = unpacked(self.seal(victim, 0), plan)
        seeds, sks = {}, {}
        for name in first[1:]:
            self.seal(name, 0)
            seeds[made.names.index(name) + 1] = self.told(name, 0, first).seeds[victim]
        for name in second[1:]:
            self.seal(name, 1)
            sks[made.names.index(name) + 1] = self.told(name, 1, second[1:]).keys[victim]
        seed, sk = shamir.combine(seeds, 3), shamir.combine(sks, 3)
        context = wire.plan_hash(plan)
        mask_streams.mask(elements, [mask_streams.Stream(mask_streams.self_key(seed, context), subtract=True)])
        for peer in first[1:]:
            theirs = wire.decode(made.enrolled[peer], masking_terms.Public).statement.mask_key
            pair = mask_streams.pair_key(sk, theirs, context, victim, peer)
            mask_streams.mask(elements, [mask_streams.Stream(pair, subtract=victim < peer)])
        low = (1 << mask_streams.sum_bits(plan)) - 1
        bare = fixed_point.to_ring(fixed_point.encode(made.values[victim], plan.cover.encoding), 32)
        return np.array_equal(elements & low, bare & low)


def test_a_coordinator_cannot_show_two_halves_of_a_roster_two_cohorts() -> None:
    split = SplitRoster()
    enrolments.check_cover(split.views[0][1])  # each cohort alone looks safe
    with pytest.raises(Unsafe, match="3 of 7"):
        split.seal(split.victim, 0)


def test_without_the_roster_in_the_threshold_that_attack_opens_one_vector(monkeypatch) -> None:
    monkeypatch.setattr(masking, "check_threshold", lambda plan, holders: None)
    assert SplitRoster().steal()


def test_an_accepted_threshold_is_never_met_for_both_secrets_and_a_refused_one_can_be() -> None:
    plan = Round(3).plan
    for holders in range(2, 13):
        for colluding in range(holders):
            for threshold in range(2, holders + 1):
                chosen = replace(plan, cover=replace(plan.cover, threshold=threshold, colluding=colluding))
                honest = holders - colluding
                both = any(min(said + colluding, honest - said + colluding) >= threshold for said in range(honest + 1))
                if both:
                    with pytest.raises(Unsafe):
                        enrolments.check_threshold(chosen, holders)
                elif 2 * threshold > holders + colluding:
                    enrolments.check_threshold(chosen, holders)


def enrolled_again(made: Round, name: MemberId, roster: list[MemberId], **changes) -> masking_terms.Public:
    """The same member's enrolment with another roster, or a statement changed and signed again."""
    boxes = {peer: keys.public_half(made.box[peer]) for peer in roster}
    public = wire.decode(
        made.member.enrol(name, RUN, 1, made.threshold, boxes, identity(name), secret("again")).public,
        masking_terms.Public,
    )
    statement = replace(public.statement, **changes)
    return replace(public, statement=statement, signature=identity(name).sign("mask-key", wire.encode(statement)))


def with_enrolled(made: Round, name: MemberId, public: masking_terms.Public) -> bytes:
    made.enrolled[name] = wire.encode(public)
    return made.coordinator.relay(tuple(made.names), made.enrolled)[made.names[0]]


def test_a_peer_that_dealt_to_another_roster_is_named() -> None:
    made = Round(5)
    made.box[MemberId("zz")] = secret("zz")
    relay = with_enrolled(made, made.names[1], enrolled_again(made, made.names[1], [*made.names, MemberId("zz")]))
    with pytest.raises(Forged, match="m01 dealt"):
        made.seal(made.names[0], relay=relay)


def test_a_cohort_with_a_member_outside_the_roster_is_refused() -> None:
    made = Round(5)
    stranger = MemberId("stranger")
    made.box[stranger] = secret("stranger")
    public = enrolled_again(made, stranger, [*made.names, stranger])
    short = public.commitments[:-1]
    fits = replace(
        public.statement,
        roster=enrolments.roster_hash(tuple(made.names)),
        shares=merkle.root(tuple(map(merkle.leaf_hash, short))),
    )
    made.enrolled[stranger] = wire.encode(
        masking_terms.Public(
            fits, identity(stranger).sign("mask-key", wire.encode(fits)), tuple(made.names), short, public.boxes
        )
    )
    plan = replace(
        made.plan, cohort=(*made.plan.cohort, seat(stranger)), cover=replace(made.plan.cover, threshold=made.threshold)
    )
    relay = made.coordinator.relay((*made.names, stranger), made.enrolled)[made.names[0]]
    with pytest.raises(Forged, match="nobody dealt"):
        made.seal(made.names[0], plan=plan, relay=relay)


@pytest.mark.parametrize("changes", [
    {"commitments": (bytes(64), bytes(64))}, {"commitments": (bytes(64),) * 4}, {"roster": ("m00", "m01", "m02")},
    {"roster": ("m00", "m01", "m03", "m02")},
])  # fmt: skip
def test_what_a_statements_hashes_are_not_of_names_its_dealer_and_opens_nothing(changes) -> None:
    made = Round(4)
    for name in made.names:
        made.seal(name)
    public = replace(wire.decode(made.enrolled[made.names[1]], masking_terms.Public), **changes)
    with pytest.raises(Forged, match="m01 shows"):
        with_enrolled(made, made.names[1], public)
    with pytest.raises(Forged, match="m01 shows"):
        made.finish()


def test_commitments_to_other_shares_than_were_dealt_are_found_by_each_who_was_dealt_them() -> None:
    made = Round(4)
    public = wire.decode(made.enrolled[made.names[1]], masking_terms.Public)
    mixed = public.commitments[1:] + public.commitments[:1]
    public = replace(
        enrolled_again(made, made.names[1], made.names, shares=merkle.root(tuple(map(merkle.leaf_hash, mixed)))),
        commitments=mixed,
    )
    with pytest.raises(Forged, match="m01 that it did not commit to"):
        made.seal(made.names[0], relay=with_enrolled(made, made.names[1], public))


def test_a_box_that_does_not_open_names_its_dealer() -> None:
    made = Round(4)
    public = wire.decode(made.enrolled[made.names[2]], masking_terms.Public)
    broken = replace(public, boxes={**public.boxes, "m00": public.boxes["m01"]})
    with pytest.raises(Forged, match="m02"):
        made.seal(made.names[0], relay=with_enrolled(made, made.names[2], broken))


def test_a_dealer_whose_shares_are_of_no_polynomial_is_named_and_no_sum_opens(monkeypatch) -> None:
    made = Round(5)
    cheat, honestly = made.names[3], shamir.split

    def crooked(*arguments):
        return {
            point: bytes(60) + bytes([1, 2, 3, 4, 5, point]) if point < 3 else share
            for point, share in honestly(*arguments).items()
        }

    monkeypatch.setattr(shamir, "split", crooked)
    boxes = {peer: keys.public_half(made.box[peer]) for peer in made.names}
    made.enrolment[cheat] = made.member.enrol(cheat, RUN, 1, made.threshold, boxes, identity(cheat), secret("crooked"))
    monkeypatch.undo()
    made.enrolled[cheat] = made.enrolment[cheat].public
    made.relays = made.coordinator.relay(tuple(made.names), made.enrolled)
    for name in made.names:
        made.seal(name)
    with pytest.raises(Forged, match="m03"):
        made.finish()


@pytest.mark.parametrize(("threshold", "with_me"), [(0, True), (1, True), (-1, True), (5, True), (3, False)])
def test_a_sharing_that_hides_nothing_or_cannot_be_is_not_made(threshold: int, with_me: bool) -> None:
    made = Round(4)
    boxes = {name: keys.public_half(made.box[name]) for name in made.names[0 if with_me else 1 :]}
    with pytest.raises(Unsafe):
        made.member.enrol(made.names[0], RUN, 1, threshold, boxes, identity(made.names[0]), secret("x"))


def test_secrets_and_shares_do_not_print() -> None:
    made = Round(4)
    for name in made.names:
        made.seal(name)
    private = wire.decode(made.enrolment[made.names[0]].secret, masking_terms.Private)
    kept = wire.decode(made.kept[made.names[0]], masking_terms.Kept)
    shown = repr((private, kept, kept.shares, masking_terms.Revealed({"a": private.seed}, {})))
    for hidden in (private.key, private.seed, kept.shares["m01"].key, kept.shares["m01"].seed):
        assert repr(hidden)[2:-1] not in shown


@pytest.mark.parametrize("beyond", [1e6, -1e6, 1e200, np.inf, -np.inf, np.nan])
def test_an_update_leaves_and_does_not_say_how_many_of_its_values_saturate(beyond: float) -> None:
    grid, sizes = FixedPoint(24, 16, 32), set()
    for saturated in (0, 10, 500, 1000):
        made = Round(3, dimension=1000)
        values = np.full(1000, 0.25)
        values[:saturated] = beyond
        held = 0 if np.isnan(beyond) else (1 << 23) - 1 if beyond > 0 else -(1 << 23)
        assert fixed_point.encode(values, grid).tolist() == [held] * saturated + [1 << 14] * (1000 - saturated)
        assert fixed_point.outside(values, grid) == saturated, "told to the site's operator alone"
        made.values[made.names[0]] = values
        sizes.add(len(made.seal(made.names[0])))
        for name in made.names[1:]:
            made.seal(name)
        made.finish()
    assert len(sizes) == 1


@pytest.mark.parametrize("name", ["", "Clear", "rot13"])
def test_an_unknown_scheme_has_no_halves(name: str) -> None:
    for halves in (schemes.member_half, schemes.coordinator_half):
        with pytest.raises(ValueError, match="Scheme"):
            halves(name)


@pytest.mark.parametrize("scheme", list(Scheme))
def test_every_scheme_has_both_halves_of_its_own(scheme: Scheme) -> None:
    assert schemes.member_half(scheme).scheme == schemes.coordinator_half(scheme).scheme == scheme


def test_pairwise_masks_alone_are_not_the_secret_of_either_end() -> None:
    made = Round(3)
    a, b = (wire.decode(made.enrolment[name].secret, masking_terms.Private) for name in made.names[:2])
    theirs = [wire.decode(made.enrolled[name], masking_terms.Public).statement.mask_key for name in made.names[:2]]
    context = wire.plan_hash(made.plan)
    one = mask_streams.pair_key(Secret(a.key), theirs[1], context, made.names[0], made.names[1])
    two = mask_streams.pair_key(Secret(b.key), theirs[0], context, made.names[1], made.names[0])
    other = mask_streams.pair_key(Secret(a.key), theirs[1], Hash(bytes(32)), made.names[0], made.names[1])
    assert one.raw == two.raw
    assert other.raw != one.raw
