"""Secure aggregation by pairwise masks: the coordinator sees uniform noise from each, and the sum of all.

After Bonawitz et al. (2017) with keys of one round. Member ``i`` adds a self mask from its seed ``b_i`` and, for every
peer ``j``, plus or minus a mask both derive from X25519(sk_i, pk_j). Pairwise masks cancel in the sum. Seeds and keys
are shared ``T`` of ``n``; seeds of survivors and keys of the dropped are revealed, so the sum opens although members
fall silent. A survivor's key and a dropped member's seed are never revealed, so no single vector opens.

A coordinator may show two halves of a roster two plans with two cohorts, call a member a survivor in one and dropped in
the other, and collect shares of both its secrets. So ``T`` is held against everybody shares were dealt to, not against
the cohort: with ``2 * T > roster + colluding`` the two collections do not both reach ``T``.

Masks are bound to the plan's hash: masks of members who were shown different plans do not cancel, and their sum is
noise. Nothing in the sum says so: the coordinator that caused it gains nothing, and cannot tell it from a sum.

A member commits to all its shares with the root of a Merkle tree, so what each peer is given of it is some 700 bytes,
however many there are.
"""

from __future__ import annotations

from collections.abc import Mapping

from securefl import keys, merkle, wire
from securefl.errors import Forged, PeerFault, Unsafe
from securefl.keys import Identity, Secret
from securefl.protection import fixed_point, packing, shamir
from securefl.protection.enrolments import (
    check_cover,
    check_dealt,
    check_statement,
    check_threshold,
    commitments_of,
    place_of,
    public_of,
    roster_hash,
    seed_commitment,
)
from securefl.protection.mask_streams import Stream, mask, pair_key, self_key, sum_bits
from securefl.protection.masking_terms import (
    Kept,
    Masked,
    Pair,
    Private,
    Public,
    Relay,
    Relayed,
    Revealed,
    Statement,
    Survivors,
    question_about,
)
from securefl.protection.schemes import Powers, SchemeSpec
from securefl.protection.unmasking import check_revealed, masks_left, publics_of
from securefl.seams import Enrolment
from securefl.terms import (
    Aggregate,
    Envelope,
    Hash,
    MemberId,
    Participant,
    Plan,
    ProtectionSpec,
    PublicKey,
    RunId,
    Scheme,
    SignedReceipt,
    Update,
)


class MaskingMember:
    """The member's half."""

    scheme = Scheme.MASKING

    def enrol(
        self, me: MemberId, run: RunId, round_: int, threshold: int, boxes: Mapping[MemberId, bytes],
        identity: Identity, rand: Secret,
    ) -> Enrolment:  # fmt: skip
        """A key and a seed of one round, each shared ``threshold`` of n among the roster in ``boxes``.

        Raises:
            Unsafe: fewer than two shares would give a secret, or more than there are; or this member is not among them.
        """
        roster = tuple(sorted(boxes))
        if me not in boxes or not 2 <= threshold <= len(roster):
            what = f"keys to be shared {threshold} of {len(roster)} among {', '.join(roster)}, by {me}"
            raise Unsafe(what, "protocol.unsafe-threshold")
        points = tuple(range(1, len(roster) + 1))
        key, seed = keys.derive(rand, "mask-key"), keys.derive(rand, "self-mask-seed")
        key_shares = shamir.split(key, threshold, points, keys.derive(rand, "key-polynomial"))
        seed_shares = shamir.split(seed, threshold, points, keys.derive(rand, "seed-polynomial"))
        pairs = {point: Pair(key_shares[point], seed_shares[point]) for point in points}
        commitments = tuple(commitments_of(run, round_, me, point, pair) for point, pair in pairs.items())
        statement = Statement(
            run, round_, me, threshold, keys.public_half(key), seed_commitment(seed.raw), roster_hash(roster),
            merkle.root(tuple(map(merkle.leaf_hash, commitments))),
        )  # fmt: skip
        sealed = {}
        for point, peer in zip(points, roster, strict=True):
            pair = pairs[point]
            if peer == me:
                continue
            place = place_of(run, round_, me, peer)
            fresh = keys.derive(rand, "box", peer.encode())
            sealed[str(peer)] = keys.seal_box(boxes[peer], "shares", place, wire.encode(pair), fresh)
        private = Private(round_, threshold, key.raw, seed.raw, pairs[1 + roster.index(me)])
        public = Public(statement, identity.sign("mask-key", wire.encode(statement)), roster, commitments, sealed)
        return Enrolment(wire.encode(private), wire.encode(public))

    def admit(self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes, material: bytes) -> None:
        """A sum under this plan is safe, and every peer's keys and shares hold."""
        del material
        self._checked(me, plan, box, enrolment, relayed)

    def _checked(
        self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes
    ) -> tuple[Private, dict[str, Statement], dict[str, Pair]]:
        check_cover(plan)
        private: Private = wire.decode(enrolment, Private)
        if (private.round, private.threshold) != (plan.round, plan.cover.threshold):
            raise Unsafe(f"keys of round {private.round} for a plan of round {plan.round}", "protocol.replayed-key")
        relay: Relay = wire.decode(relayed, Relay)
        seats = {seat.member: seat for seat in plan.cohort}
        if sorted(peer.statement.member for peer in relay.peers) != sorted(seats):
            raise Forged("keys of others than the cohort", "protocol.another-cohort")
        roster, named = relay.roster, roster_hash(relay.roster)
        if list(roster) != sorted(set(roster)) or not {me, *seats} <= set(roster):
            raise Forged("a cohort with members nobody dealt shares to", "protocol.stranger")
        statements: dict[str, Statement] = {}
        shares: dict[str, Pair] = {}
        for peer in relay.peers:
            member = peer.statement.member
            check_statement(peer.statement, peer.signature, plan, seats[member], named)
            pair = private.own if member == me else _opened(peer, plan, me, box)
            _check_pair(peer, roster, me, pair)
            statements[member], shares[member] = peer.statement, pair
        check_threshold(plan, len(roster))  # of all who hold a share, in whatever cohort they are told they are
        if statements[me].mask_key != keys.public_half(Secret(private.key)):
            raise Forged("this member's own key was replaced", "protocol.swapped-key")
        return private, statements, shares

    def seal(
        self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes, material: bytes,
        update: Update, rand: Secret,
    ) -> tuple[bytes, bytes]:  # fmt: skip
        """The masked vector, and the shares that may be asked for."""
        del material
        bits = plan.cover.encoding.ring_bits
        elements = fixed_point.to_ring(fixed_point.encode_update(update, plan, rand), bits)
        streams, kept = self.streams(me, plan, box, enrolment, relayed)
        mask(elements, streams)
        return wire.encode(Masked(packing.pack(elements, sum_bits(plan)))), kept

    def streams(
        self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes
    ) -> tuple[list[Stream], bytes]:
        """This member's masks under the plan, for a vector of any length and ring; the shares that may be asked for."""
        private, statements, shares = self._checked(me, plan, box, enrolment, relayed)
        context = wire.plan_hash(plan)
        streams = [Stream(self_key(Secret(private.seed), context))]
        for peer, statement in statements.items():
            if peer != me:
                shared = pair_key(Secret(private.key), statement.mask_key, context, me, MemberId(peer))
                streams.append(Stream(shared, subtract=me > peer))
        return streams, wire.encode(Kept(shares))

    def answer(self, me: MemberId, plan: Plan, kept: bytes, question: bytes) -> bytes:
        """Seed shares of the survivors and key shares of the dropped."""
        survivors: Survivors = wire.decode(question, Survivors)
        cohort = {seat.member for seat in plan.cohort}
        named = set(survivors.members)
        if not named <= cohort or len(named) != len(survivors.members):
            raise Unsafe("survivors who are not in the cohort, or stand there twice", "protocol.stranger")
        if me not in named:
            raise Unsafe("this member's vector was sent, and is said to be missing", "protocol.called-dropped")
        if len(named) < max(plan.cover.threshold, plan.cover.min_cohort):
            raise Unsafe(f"a sum over {len(named)} of {len(cohort)} members", "protocol.few-survivors")
        shares = wire.decode(kept, Kept).shares
        return wire.encode(
            Revealed(
                {name: shares[name].seed for name in sorted(named)},
                {name: shares[name].key for name in sorted(cohort - named)},
            )
        )

    def about(self, question: bytes) -> frozenset[str]:
        """The survivors."""
        survivors: Survivors = wire.decode(question, Survivors)
        return frozenset(survivors.members)

    def check_material(self, material: bytes, custodian: PublicKey | None) -> None:
        """This scheme has no key that somebody else holds."""
        if material or custodian is not None:
            raise Forged("masking has no custodian")


def _opened(peer: Relayed, plan: Plan, me: MemberId, box: Secret) -> Pair:
    place = place_of(plan.run, plan.round, peer.statement.member, me)
    try:
        pair: Pair = wire.decode(keys.open_box(box, "shares", place, peer.box), Pair)
    except PeerFault as fault:
        what = f"{peer.statement.member} sent this member no shares it can open: {fault}"
        raise Forged(what, "protocol.box") from fault
    return pair


def _check_pair(peer: Relayed, roster: tuple[MemberId, ...], receiver: MemberId, pair: Pair) -> None:
    stated, index = peer.statement, roster.index(receiver)
    committed = commitments_of(stated.run, stated.round, stated.member, index + 1, pair)
    path = tuple(Hash(peer.path[start : start + 32]) for start in range(0, len(peer.path), 32))
    if not merkle.includes(merkle.leaf_hash(committed), index, len(roster), path, stated.shares):
        raise Forged(f"shares of {stated.member} that it did not commit to", "protocol.wrong-share")


class MaskingCoordinator:
    """The coordinator's half: it relays boxes it cannot open, and opens the sum alone."""

    scheme = Scheme.MASKING
    phases = 1

    def relay(self, cohort: tuple[MemberId, ...], enrolled: Mapping[MemberId, bytes]) -> Mapping[MemberId, bytes]:
        """Everybody's statement for everybody, and to each the boxes meant for it.

        Raises:
            Forged: an enrolment that is none, or that does not hold what its statement's hashes are of.
        """
        publics = {member: public_of(enrolled[member]) for member in sorted(cohort)}
        paths = {member: _paths(public) for member, public in publics.items()}
        relays = {}
        for receiver in cohort:
            peers = tuple(
                Relayed(
                    public.statement,
                    public.signature,
                    public.boxes.get(str(receiver), b""),
                    paths[member].get(receiver, b""),
                )
                for member, public in publics.items()
            )
            relays[receiver] = wire.encode(Relay(publics[receiver].roster, peers))
        return relays

    def admit(self, plan: Plan, seat: Participant, roster: tuple[MemberId, ...], enrolled: bytes) -> None:
        """A statement and boxes that every peer of this roster takes, as far as they can be seen into."""
        check_dealt(plan, seat, roster, enrolled)

    def add(self, plan: Plan, total: bytes, member: MemberId, payload: bytes) -> bytes:
        """The masked vectors so far and this one, packed as each of them is: a state is no longer than an input.

        Raises:
            Forged: it is no vector of this plan.
        """
        width, dtype = sum_bits(plan), fixed_point.ring_dtype(plan.cover.encoding.ring_bits)
        masked: Masked = wire.decode(payload, Masked)
        blocks = packing.unpacked(masked.elements, plan.dimension, width, dtype)
        try:
            if not total:
                next(blocks)  # refuses what is no vector of this plan
                return masked.elements
            added = packing.whole(total, plan.dimension, width, dtype)
            for start, block in blocks:
                added[start : start + len(block)] += block
        except ValueError as error:
            raise Forged(f"{member} sent {error}") from error
        return packing.pack(added, width)

    def ask(
        self, phase: int, plan: Plan, enrolled: Mapping[MemberId, bytes],
        sealed: Mapping[MemberId, Envelope | SignedReceipt], answers: Mapping[MemberId, bytes],
    ) -> Mapping[MemberId, bytes]:  # fmt: skip
        """The same question to every survivor: the audit holds what each was asked against this."""
        del phase, plan, enrolled, answers
        return dict.fromkeys(sealed, question_about(sealed))

    def check_answer(
        self, plan: Plan, enrolled: Mapping[MemberId, bytes], survivors: tuple[MemberId, ...], member: MemberId,
        answer: bytes,
    ) -> None:  # fmt: skip
        """Shares that open masks: of these survivors' seeds, of the others' keys, as they were committed to."""
        check_revealed(publics_of(plan, enrolled), survivors, member, answer)

    def open(
        self, plan: Plan, enrolled: Mapping[MemberId, bytes], survivors: tuple[MemberId, ...], total: bytes,
        answers: Mapping[MemberId, bytes],
    ) -> Aggregate:  # fmt: skip
        """The exact integer sum over the survivors.

        Raises:
            TooFew: fewer survivors or usable answers than the plan needs.
            Forged: a secret that comes out is not what its member published.
            Unsafe: the plan is priced for more noise than its sums are sure to have.
        """
        fixed_point.check_plan(plan)
        bits, masks = plan.cover.encoding.ring_bits, masks_left(plan, enrolled, survivors, answers)
        width = sum_bits(plan)
        opened = packing.whole(total, plan.dimension, width, fixed_point.ring_dtype(bits))
        mask(opened, masks)
        return Aggregate(fixed_point.from_ring(opened, bits, width), survivors, plan.cover.encoding)


def _paths(public: Public) -> dict[MemberId, bytes]:
    """From each peer's commitments to their root."""
    proofs = merkle.inclusion_proofs(tuple(map(merkle.leaf_hash, public.commitments)))
    return {member: b"".join(proof) for member, proof in zip(public.roster, proofs, strict=True)}


def _statement(cover: ProtectionSpec, shares: int | None) -> str:
    del shares
    return f"nobody alone; the coordinator with {cover.threshold} or more members could open updates"


def _powers(threshold: int) -> Powers:
    return (
        ("the coordinator", "the sum over the survivors"),
        (f"the coordinator and fewer than {threshold} members", "the sum of the others' updates"),
        (f"the coordinator and {threshold} members", "every update"),
    )


SPEC = SchemeSpec(MaskingMember, MaskingCoordinator, _statement, _powers)
