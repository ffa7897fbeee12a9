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

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from securefl import keys, merkle, wire
from securefl.errors import Forged, PeerFault, Unsafe
from securefl.keys import Identity, Secret
from securefl.protection import fixed_point, honest, packing, shamir
from securefl.seams import Enrolment
from securefl.terms import Aggregate, Envelope, Hash, MemberId, Plan, PublicKey, RunId, Scheme, Update

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK_BYTES = 64 * 1024  # stays in the cache while every stream is drawn and added
STREAMS = 64  # keystreams that are open at once


class TooFew(PeerFault):
    """Not enough members are left to open a sum."""

    rule = "protocol.too-few"


@dataclass(frozen=True, slots=True)
class Statement:
    """What a member publishes for one round, signed by its identity."""

    run: RunId
    round: int
    member: MemberId
    threshold: int
    mask_key: bytes  # X25519 public key
    seed: bytes  # SHA-256 commitment of the self-mask seed
    roster: Hash  # of the sorted names of all who were dealt shares
    shares: Hash  # root of a Merkle tree: at place i, the commitments of both shares of the roster's i-th


@dataclass(frozen=True, slots=True)
class Public:
    """A statement, its signature, what the statement's hashes are of, and a box for each peer."""

    statement: Statement
    signature: bytes
    roster: tuple[MemberId, ...]  # sorted; a member's point is its place here, from 1
    commitments: tuple[bytes, ...]  # of a key's share and a seed's, 64 bytes, in roster order
    boxes: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, repr=False)
class Pair:
    """One peer's shares of one member's secrets of one round."""

    key: bytes
    seed: bytes


@dataclass(frozen=True, slots=True, repr=False)
class Private:
    """What a member keeps of its enrolment, until the round is over."""

    round: int
    threshold: int
    key: bytes
    seed: bytes
    own: Pair


@dataclass(frozen=True, slots=True)
class Relayed:
    """What one member of a cohort is given of one peer's enrolment."""

    statement: Statement
    signature: bytes
    box: bytes  # empty for a member's own
    path: bytes  # from the receiver's commitments to the root in the statement


@dataclass(frozen=True, slots=True)
class Relay:
    """What one member of a cohort is given of all of them."""

    roster: tuple[MemberId, ...]
    peers: tuple[Relayed, ...]


@dataclass(frozen=True, slots=True)
class Masked:
    """The masked vector: integers modulo 2**`sum_bits`, packed."""

    elements: bytes


@dataclass(frozen=True, slots=True, repr=False)
class Kept:
    """The shares a member holds of its cohort, to answer one question."""

    shares: Mapping[str, Pair]


@dataclass(frozen=True, slots=True)
class Survivors:
    """The question: these members' vectors are in the sum."""

    members: tuple[MemberId, ...]


def question_about(survivors: Iterable[MemberId]) -> bytes:
    """What everybody in this set is asked: one question for one set, to the byte."""
    return wire.encode(Survivors(tuple(sorted(survivors))))


@dataclass(frozen=True, slots=True, repr=False)
class Revealed:
    """The answer: seed shares of survivors, key shares of the dropped; never both of one member."""

    seeds: Mapping[str, bytes]
    keys: Mapping[str, bytes]


def check_cover(plan: Plan) -> None:
    """Nothing happens if a sum under this plan is safe to open.

    Raises:
        Unsafe: two groups could each open the other's half, a colluding minority could open one input, or it overflows.
    """
    cover, members = plan.cover, len(plan.cohort)
    if members < cover.min_cohort:
        raise Unsafe(f"a cohort of {members}; at least {cover.min_cohort} are needed", "protocol.small-cohort")
    honest.check(plan)
    check_threshold(plan, members)
    if cover.threshold > members:
        what = f"a threshold of {cover.threshold}, which a cohort of {members} cannot meet"
        raise Unsafe(what, "protocol.small-cohort")
    fixed_point.check_plan(plan)


def check_threshold(plan: Plan, holders: int) -> None:
    """Nothing happens if ``threshold`` shares of one secret and ``threshold`` of another cannot both be had.

    Each of ``holders`` reveals one of the two, and ``colluding`` of them reveal both.

    Raises:
        Unsafe: they can.
    """
    cover = plan.cover
    if 2 * cover.threshold <= holders + cover.colluding:
        what = f"a threshold of {cover.threshold} of {holders} with {cover.colluding} colluding is not safe"
        raise Unsafe(what, "protocol.unsafe-threshold")


def sum_bits(plan: Plan) -> int:
    """Bits a sum over the plan's cohort needs: what leaves a member is taken modulo 2 to this power."""
    return plan.cover.encoding.value_bits + (len(plan.cohort) - 1).bit_length()


@dataclass(frozen=True, slots=True, repr=False)
class Stream:
    """A keystream to add, or to subtract."""

    key: Secret
    subtract: bool = False


def mask(into: NDArray[np.unsignedinteger], streams: Iterable[Stream]) -> None:
    """``into`` plus (or minus) the AES-256-CTR keystream of each key, in place, modulo the ring."""
    zeros = bytes(CHUNK_BYTES)
    drawn = bytearray(CHUNK_BYTES)
    width = CHUNK_BYTES // into.itemsize
    elements = np.frombuffer(drawn, into.dtype)
    left = iter(streams)
    while batch := tuple(islice(left, STREAMS)):
        opened = [
            (Cipher(algorithms.AES(each.key.raw), modes.CTR(bytes(16))).encryptor().update_into,
             np.subtract if each.subtract else np.add)
            for each in batch
        ]  # fmt: skip
        for start in range(0, len(into), width):
            part = into[start : start + width]
            begun = elements[: len(part)]
            wanted = memoryview(zeros)[: begun.nbytes]
            for draw, add in opened:
                draw(wanted, drawn)
                add(part, begun, out=part)


def _pair_key(mine: Secret, theirs: bytes, context: Hash, a: MemberId, b: MemberId) -> Secret:
    low, high = sorted((a, b))
    place = wire.encode((low, high))
    return keys.derive(keys.agree(mine, theirs), "pair-mask", context + place)


def _self_key(seed: Secret, context: Hash) -> Secret:
    return keys.derive(seed, "self-mask", context)


def _seed_commitment(seed: bytes) -> bytes:
    return hashlib.sha256(b"self-mask-seed\0" + seed).digest()


def _place(statement_run: RunId, round_: int, dealer: MemberId, peer: MemberId) -> bytes:
    return wire.encode((bytes(statement_run), round_, dealer, peer))


def roster_hash(roster: tuple[MemberId, ...]) -> Hash:
    """What a statement says of those who were dealt shares."""
    return Hash(hashlib.sha256(b"roster\0" + wire.encode(roster)).digest())


def _commitments(run: RunId, round_: int, member: MemberId, point: int, pair: Pair) -> bytes:
    dealer = _place(run, round_, member, MemberId(""))
    return shamir.commitment(dealer, "key", point, pair.key) + shamir.commitment(dealer, "seed", point, pair.seed)


def check_statement(statement: Statement, signature: bytes, plan: Plan, member: MemberId, key: PublicKey) -> None:
    """Nothing happens if this is ``member``'s statement for this plan's run and round.

    Raises:
        Forged: it is not.
    """
    if (statement.run, statement.round, statement.member) != (plan.run, plan.round, member):
        what = f"{statement.member}'s key of round {statement.round} where {member}'s of {plan.round} belongs"
        raise Forged(what, "protocol.replayed-key")
    if statement.threshold != plan.cover.threshold:
        what = f"{member} shared its keys {statement.threshold} of n; the plan says {plan.cover.threshold}"
        raise Forged(what, "protocol.another-threshold")
    try:
        keys.verify(key, "mask-key", wire.encode(statement), signature)
    except Forged as fault:
        raise Forged(f"{member}'s keys for the round: {fault}", "protocol.swapped-key") from fault


class MaskingMember:
    """The member's half."""

    scheme = Scheme.MASKING
    enrols = True

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
        commitments = tuple(_commitments(run, round_, me, point, pair) for point, pair in pairs.items())
        statement = Statement(
            run, round_, me, threshold, keys.public_half(key), _seed_commitment(seed.raw), roster_hash(roster),
            merkle.root(tuple(map(merkle.leaf_hash, commitments))),
        )  # fmt: skip
        sealed = {}
        own = Pair(b"", b"")
        for point, peer in zip(points, roster, strict=True):
            pair = pairs[point]
            if peer == me:
                own = pair
                continue
            place = _place(run, round_, me, peer)
            fresh = keys.derive(rand, "box", peer.encode())
            sealed[str(peer)] = keys.seal_box(boxes[peer], "shares", place, wire.encode(pair), fresh)
        private = Private(round_, threshold, key.raw, seed.raw, own)
        public = Public(statement, identity.sign("mask-key", wire.encode(statement)), roster, commitments, sealed)
        return Enrolment(wire.encode(private), wire.encode(public))

    def admit(self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes, material: bytes) -> None:
        """A sum under this plan is safe, and every peer's keys and shares hold."""
        del material
        private, statements, _ = self._checked(me, plan, box, enrolment, relayed)
        for peer, statement in statements.items():
            if peer != me:  # found now, a key that agrees on nothing costs nobody's budget
                keys.agree(Secret(private.key), statement.mask_key)

    def _checked(
        self, me: MemberId, plan: Plan, box: Secret, enrolment: bytes, relayed: bytes
    ) -> tuple[Private, dict[str, Statement], dict[str, Pair]]:
        check_cover(plan)
        private: Private = wire.decode(enrolment, Private)
        if (private.round, private.threshold) != (plan.round, plan.cover.threshold):
            raise Unsafe(f"keys of round {private.round} for a plan of round {plan.round}", "protocol.replayed-key")
        relay: Relay = wire.decode(relayed, Relay)
        seats = {seat.member: seat.key for seat in plan.cohort}
        if sorted(peer.statement.member for peer in relay.peers) != sorted(seats):
            raise Forged("keys of others than the cohort", "protocol.another-cohort")
        roster, named = relay.roster, roster_hash(relay.roster)
        if list(roster) != sorted(set(roster)) or not {me, *seats} <= set(roster):
            raise Forged("a cohort with members nobody dealt shares to", "protocol.stranger")
        statements: dict[str, Statement] = {}
        shares: dict[str, Pair] = {}
        for peer in relay.peers:
            member = peer.statement.member
            check_statement(peer.statement, peer.signature, plan, member, seats[member])
            if peer.statement.roster != named:
                raise Forged(f"{member} dealt its shares to another roster than is shown", "protocol.another-roster")
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
        streams = [Stream(_self_key(Secret(private.seed), context))]
        for peer, statement in statements.items():
            if peer != me:
                pair_key = _pair_key(Secret(private.key), statement.mask_key, context, me, MemberId(peer))
                streams.append(Stream(pair_key, subtract=me > peer))
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

    def check_material(self, material: bytes, custodian: PublicKey | None) -> None:
        """This scheme has no key that somebody else holds."""
        if material or custodian is not None:
            raise Forged("masking has no custodian")


def _opened(peer: Relayed, plan: Plan, me: MemberId, box: Secret) -> Pair:
    place = _place(plan.run, plan.round, peer.statement.member, me)
    try:
        pair: Pair = wire.decode(keys.open_box(box, "shares", place, peer.box), Pair)
    except PeerFault as fault:
        what = f"{peer.statement.member} sent this member no shares it can open: {fault}"
        raise Forged(what, "protocol.box") from fault
    return pair


def _check_pair(peer: Relayed, roster: tuple[MemberId, ...], receiver: MemberId, pair: Pair) -> None:
    stated, index = peer.statement, roster.index(receiver)
    committed = _commitments(stated.run, stated.round, stated.member, index + 1, pair)
    path = tuple(Hash(peer.path[start : start + 32]) for start in range(0, len(peer.path), 32))
    if not merkle.includes(merkle.leaf_hash(committed), index, len(roster), path, stated.shares):
        raise Forged(f"shares of {stated.member} that it did not commit to", "protocol.wrong-share")


class MaskingCoordinator:
    """The coordinator's half: it relays boxes it cannot open, and opens the sum alone."""

    scheme = Scheme.MASKING
    enrols = True
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

    def ask(
        self, phase: int, plan: Plan, enrolled: Mapping[MemberId, bytes], sealed: Mapping[MemberId, Envelope],
        answers: Mapping[MemberId, bytes],
    ) -> Mapping[MemberId, bytes]:  # fmt: skip
        """The same question to every survivor: the audit holds what each was asked against this."""
        del phase, plan, enrolled, answers
        return dict.fromkeys(sealed, question_about(sealed))

    def open(
        self, plan: Plan, enrolled: Mapping[MemberId, bytes], sealed: Mapping[MemberId, bytes],
        answers: Mapping[MemberId, bytes],
    ) -> Aggregate:  # fmt: skip
        """The exact integer sum over the survivors.

        Raises:
            TooFew: fewer survivors or usable answers than the plan needs.
            Forged: a vector is not what the plan says.
            Unsafe: the plan is priced for more noise than its sums are sure to have.
        """
        fixed_point.check_plan(plan)
        survivors = tuple(sorted(sealed))
        cover, bits = plan.cover, plan.cover.encoding.ring_bits
        if len(survivors) < max(cover.threshold, cover.min_cohort):
            raise TooFew(f"{len(survivors)} survivors; {max(cover.threshold, cover.min_cohort)} are needed")
        width, dtype = sum_bits(plan), fixed_point.ring_dtype(bits)
        total = np.zeros(plan.dimension, dtype)
        for member in survivors:
            masked: Masked = wire.decode(sealed[member], Masked)
            try:
                for start, block in packing.unpacked(masked.elements, plan.dimension, width, dtype):
                    total[start : start + len(block)] += block
            except ValueError as error:
                raise Forged(f"{member} sent {error}") from error
        mask(total, masks_left(plan, enrolled, survivors, answers))
        return Aggregate(fixed_point.from_ring(total, bits, width), survivors, cover.encoding)


def check_enrolled(plan: Plan, enrolled: Mapping[MemberId, bytes]) -> None:
    """Check every enrolment of a cohort: signed by its member for this round, dealt to one roster, shared safely.

    Raises:
        Forged: one is not its member's, or was dealt to another roster.
        Unsafe: the threshold is too low for the roster.
    """
    rosters = set()
    for seat in plan.cohort:
        public = public_of(enrolled[seat.member])
        check_statement(public.statement, public.signature, plan, seat.member, seat.key)
        rosters.add(public.roster)
    if len(rosters) != 1:
        raise Forged("members of one cohort dealt their shares to several rosters", "protocol.another-roster")
    check_threshold(plan, len(rosters.pop()))


def masks_left(
    plan: Plan, enrolled: Mapping[MemberId, bytes], survivors: tuple[MemberId, ...], answers: Mapping[MemberId, bytes]
) -> Iterator[Stream]:
    """What takes the masks that are left out of the survivors' sum, of any length and ring.

    Raises:
        TooFew: fewer survivors or usable answers than the plan needs.
        Forged: a secret that comes out is not what its member published.
    """
    if len(survivors) < max(plan.cover.threshold, plan.cover.min_cohort):
        raise TooFew(f"{len(survivors)} survivors; {max(plan.cover.threshold, plan.cover.min_cohort)} are needed")
    publics = {seat.member: public_of(enrolled[seat.member]) for seat in plan.cohort}
    return _to_take_out(plan, publics, survivors, _readable(answers, survivors))


def _to_take_out(
    plan: Plan, publics: Mapping[MemberId, Public], survivors: tuple[MemberId, ...],
    revealed: Mapping[MemberId, Revealed],
) -> Iterator[Stream]:  # fmt: skip
    """Every mask that is left in the sum of the survivors' vectors."""
    context, threshold = wire.plan_hash(plan), plan.cover.threshold
    for member in survivors:
        offered = {name: told.seeds.get(member) for name, told in revealed.items()}
        seed = _gathered(publics[member], "seed", offered, threshold)
        if _seed_commitment(seed.raw) != publics[member].statement.seed:
            raise Forged(f"the seed of {member} is not the one it committed to")
        yield Stream(_self_key(seed, context), subtract=True)
    present = frozenset(survivors)
    for member in (seat.member for seat in plan.cohort if seat.member not in present):
        offered = {name: told.keys.get(member) for name, told in revealed.items()}
        key = _gathered(publics[member], "key", offered, threshold)
        if keys.public_half(key) != publics[member].statement.mask_key:
            raise Forged(f"the key of {member} is not the one it published")
        for survivor in survivors:  # what each survivor added for the dropped member is taken out
            pair_key = _pair_key(key, publics[survivor].statement.mask_key, context, member, survivor)
            yield Stream(pair_key, subtract=survivor < member)


def public_of(enrolled: bytes) -> Public:
    """An enrolment that holds what its statement's hashes are of."""
    public: Public = wire.decode(enrolled, Public)
    stated = public.statement
    if roster_hash(public.roster) != stated.roster or len(public.commitments) != len(public.roster):
        raise Forged(f"{stated.member} shows another roster than it stated", "protocol.another-roster")
    if merkle.root(tuple(map(merkle.leaf_hash, public.commitments))) != stated.shares:
        raise Forged(f"{stated.member} shows other commitments than it stated", "protocol.wrong-share")
    return public


def _paths(public: Public) -> dict[MemberId, bytes]:
    """From each peer's commitments to their root."""
    proofs = merkle.inclusion_proofs(tuple(map(merkle.leaf_hash, public.commitments)))
    return {member: b"".join(proof) for member, proof in zip(public.roster, proofs, strict=True)}


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
    dealer = _place(statement.run, statement.round, statement.member, MemberId(""))
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
