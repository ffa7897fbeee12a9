"""Masks cancel, ciphertexts add, single vectors stay closed."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl import keys, wire
from securefl.errors import Forged, Missing, OperatorFault, PeerFault, Unsafe
from securefl.keys import Secret
from securefl.protection import bfv_coefficients as bfv
from securefl.protection import (
    ckks_coefficients,
    ckks_slots,
    clear,
    encrypted,
    fixed_point,
    key_file,
    mask_streams,
    masking_terms,
    packing,
    residues,
    schemes,
    shamir,
    tenseal_context,
)
from securefl.protection.summation import Unopened
from securefl.terms import Envelope, FixedPoint, Hash, MemberId, Plan, Receipt, RunId, Scheme, Update
from tests.support.sums import sum_of
from tests.support.worlds import EVENT, World, identity, seat

RUN = RunId(bytes(16))


def secret(label: str) -> Secret:
    return Secret(hashlib.sha256(label.encode()).digest())


def unpacked(vector: bytes, plan: Plan) -> np.ndarray:
    """The ring elements of a masked vector, modulo 2**sum_bits."""
    packed = wire.decode(vector, masking_terms.Masked).elements
    blocks = packing.unpacked(packed, plan.dimension, mask_streams.sum_bits(plan), "<u4")
    return np.concatenate([block for _, block in blocks])


class Round:
    """One masked round between members that all behave, up to what the test makes of it."""

    def __init__(
        self, n: int, dimension: int = 5, threshold: int | None = None, scheme: Scheme = Scheme.MASKING, label: str = ""
    ) -> None:
        self.names = [MemberId(f"m{i:02d}") for i in range(n)]
        self.threshold = threshold or (n + 1) // 2 + 1
        plan = World().coordinator.state.course.plan
        cover = replace(
            plan.cover,
            scheme=scheme,
            threshold=self.threshold,
            min_cohort=3,
            colluding=1,
            encoding=FixedPoint(24, 16, 32),
        )
        self.plan = replace(
            plan, run=RUN, cohort=tuple(seat(name) for name in self.names), cover=cover, dimension=dimension
        )
        self.member, self.coordinator = schemes.member_half(scheme), schemes.coordinator_half(scheme)
        self.box = {name: secret(f"{label}box {name}") for name in self.names}
        boxes = {name: keys.public_half(self.box[name]) for name in self.names}
        self.enrolment = {
            name: self.member.enrol(name, RUN, 1, self.threshold, boxes, identity(name), secret(f"{label}enrol {name}"))
            for name in self.names
        }
        self.enrolled = {name: self.enrolment[name].public for name in self.names}
        self.relays = self.coordinator.relay(tuple(self.names), self.enrolled)
        self.values = {
            name: np.random.default_rng(i).integers(-(2**20), 2**20, dimension) / 2**16
            for i, name in enumerate(self.names)
        }
        self.sealed: dict[MemberId, bytes] = {}
        self.kept: dict[MemberId, bytes] = {}

    def seal(self, name: MemberId, plan=None, relay: bytes | None = None) -> bytes:
        update = Update(self.values[name], EVENT)
        payload, kept = self.member.seal(
            name,
            plan or self.plan,
            self.box[name],
            self.enrolment[name].secret,
            relay or self.relays[name],
            b"",
            update,
            secret("s"),
        )
        self.sealed[name], self.kept[name] = payload, kept
        return payload

    def finish(self, silent: tuple[MemberId, ...] = ()) -> np.ndarray:
        envelopes = {
            name: Envelope(
                Receipt(name, MemberId("c"), RUN, 1, "Submitted", None, 0, Hash(bytes(32)), 0), bytes(64), b""
            )
            for name in self.sealed
        }
        questions = self.coordinator.ask(0, self.plan, self.enrolled, envelopes, {})
        answers = {
            name: self.member.answer(name, self.plan, self.kept[name], question)
            for name, question in questions.items()
            if name not in silent
        }
        return sum_of(self.coordinator, self.plan, self.enrolled, self.sealed, answers).total

    def expected(self) -> np.ndarray:
        return sum(np.rint(self.values[name] * 2**16).astype(np.int64) for name in self.sealed)


@given(st.integers(3, 9), st.integers(1, 20), st.data())
@settings(max_examples=40)
def test_the_sum_is_exact_whoever_survives_in_whatever_order(n: int, dimension: int, data: st.DataObject) -> None:
    made = Round(n, dimension)
    need = max(made.threshold, 3)
    survivors = data.draw(st.permutations(made.names))[: data.draw(st.integers(need, n))]
    for name in survivors:
        made.seal(name)
    silent = tuple(survivors[: data.draw(st.integers(0, len(survivors) - made.threshold))])
    assert np.array_equal(made.finish(silent), made.expected())


@pytest.mark.parametrize("n", [3, 5, 6])
def test_too_few_survivors_or_answers_end_cleanly(n: int) -> None:
    made = Round(n)
    need = max(made.threshold, 3)
    for name in made.names[: need - 1]:
        made.seal(name)
    with pytest.raises(PeerFault):
        made.finish()
    for name in made.names:
        made.seal(name)
    with pytest.raises(masking_terms.TooFew):
        made.finish(silent=tuple(made.names[: n - made.threshold + 1]))


def test_a_wrong_share_is_left_out_and_too_many_wrong_ones_end_cleanly() -> None:
    made = Round(6)
    for name in made.names:
        made.seal(name)

    def lie(name: MemberId) -> None:
        shares = wire.decode(made.kept[name], masking_terms.Kept).shares
        made.kept[name] = wire.encode(
            masking_terms.Kept({peer: replace(pair, seed=bytes(66)) for peer, pair in shares.items()})
        )

    for name in made.names[: 6 - made.threshold]:
        lie(name)
    assert np.array_equal(made.finish(), made.expected())
    lie(made.names[-1])
    with pytest.raises(masking_terms.TooFew):
        made.finish()


def test_a_dropped_members_vector_stays_closed_although_its_key_is_known() -> None:
    made = Round(5, dimension=400)
    for name in made.names:
        made.seal(name)
    late = made.names[0]
    vector = made.sealed.pop(late)
    total = made.finish()
    assert np.array_equal(total, made.expected())
    # With every pairwise mask of the late member taken off, its own mask still covers it.
    private = wire.decode(made.enrolment[late].secret, masking_terms.Private)
    elements = unpacked(vector, made.plan)
    context = wire.plan_hash(made.plan)
    for peer in made.names[1:]:
        theirs = wire.decode(made.enrolled[peer], masking_terms.Public).statement.mask_key
        pair = mask_streams.pair_key(Secret(private.key), theirs, context, late, peer)
        mask_streams.mask(elements, [mask_streams.Stream(pair, subtract=late < peer)])
    low = (1 << mask_streams.sum_bits(made.plan)) - 1
    bare = fixed_point.to_ring(fixed_point.encode(made.values[late], made.plan.cover.encoding), 32) & low
    assert (elements & low == bare).mean() < 0.05
    mask_streams.mask(
        elements, [mask_streams.Stream(mask_streams.self_key(Secret(private.seed), context), subtract=True)]
    )
    assert np.array_equal(elements & low, bare)


def test_members_who_were_shown_different_plans_give_noise() -> None:
    made = Round(5, dimension=300)
    for name in made.names[:-1]:
        made.seal(name)
    other = replace(made.plan, base=Hash(b"x" * 32))
    made.seal(made.names[-1], plan=other)
    assert (made.finish() == made.expected()).mean() < 0.05


def test_a_masked_vector_is_uniform_and_two_rounds_of_one_update_are_independent() -> None:
    vectors, packed = [], []
    for label in ("one", "two"):
        made = Round(3, dimension=40_000, label=label)
        sealed = made.seal(made.names[0])
        vectors.append(unpacked(sealed, made.plan))
        packed.append(np.frombuffer(wire.decode(sealed, masking_terms.Masked).elements, "u1"))
    for vector, top in [(vector, vector >> mask_streams.sum_bits(made.plan) - 8) for vector in vectors] + [
        (on_wire, on_wire) for on_wire in packed
    ]:
        counts = np.bincount(top, minlength=256)
        chi = ((counts - len(top) / 256) ** 2 / (len(top) / 256)).sum()
        assert 150 < chi < 380, "255 degrees of freedom: p between 1e-6 and 1 - 1e-6"
        centred = vector.astype(float) - vector.mean()
        assert abs((centred[1:] * centred[:-1]).mean() / centred.var()) < 0.025
    for a, b in (vectors, packed):
        assert abs(np.corrcoef(a.astype(float), b.astype(float))[0, 1]) < 0.025


@given(st.sampled_from(["<u4", "<u8"]), st.data())
@settings(max_examples=60)
def test_packed_integers_are_one_number_in_base_two_to_the_width(dtype: str, data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 32 if dtype == "<u4" else 64))
    elements = np.array(data.draw(st.lists(st.integers(0, (1 << width) - 1), max_size=200)), dtype)
    packed = packing.pack(elements, width)
    whole = sum(int(each) << (width * place) for place, each in enumerate(elements))
    assert packed == whole.to_bytes(packing.size(len(elements), width), "little")
    blocks = [block for _, block in packing.unpacked(packed, len(elements), width, dtype)]
    assert [int(each) for block in blocks for each in block] == [int(each) for each in elements]


@pytest.mark.parametrize(("dtype", "width"), [("<u4", 27), ("<u8", 27), ("<u8", 41), ("<u4", 32)])
def test_packing_goes_on_where_a_block_ends_and_takes_elements_modulo_the_width(dtype: str, width: int) -> None:
    elements = np.random.default_rng(width).integers(0, 1 << 32, 2 * packing.BLOCK + 3).astype(dtype)
    packed = packing.pack(elements, width)
    assert len(packed) == packing.size(len(elements), width)
    blocks = list(packing.unpacked(packed, len(elements), width, dtype))
    assert [start for start, _ in blocks] == [0, packing.BLOCK, 2 * packing.BLOCK]
    assert np.array_equal(np.concatenate([block for _, block in blocks]), elements & np.array((1 << width) - 1, dtype))


@pytest.mark.parametrize("packed", [b"", b"\0" * 2, b"\0" * 4, b"\0\0\x10"])
def test_bytes_that_no_packing_makes_are_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="bytes where|after the last"):
        list(packing.unpacked(packed, 4, 5, "<u4"))


@pytest.mark.parametrize("n", [3, 6])
def test_a_vector_takes_as_few_bytes_as_a_sum_over_its_cohort_needs(n: int) -> None:
    made = Round(n, dimension=5000)
    floor = (5000 * (24 + (n - 1).bit_length()) + 7) // 8
    assert floor <= len(made.seal(made.names[0])) <= floor + 20


REFUSALS: dict[str, Callable[[Round], dict]] = {
    "a threshold that a minority could meet": lambda r: {
        "plan": replace(r.plan, cover=replace(r.plan.cover, threshold=3))
    },
    "a threshold nobody meets": lambda r: {"plan": replace(r.plan, cover=replace(r.plan.cover, threshold=7))},
    "a cohort of two": lambda r: {"plan": replace(r.plan, cohort=r.plan.cohort[:2])},
    "all but one colluding": lambda r: {"plan": replace(r.plan, cover=replace(r.plan.cover, colluding=2))},
    "a sum that overflows": lambda r: {
        "plan": replace(r.plan, cover=replace(r.plan.cover, encoding=FixedPoint(31, 16, 32)))
    },
    "another round": lambda r: {"plan": replace(r.plan, round=2)},
    "another run": lambda r: {"plan": replace(r.plan, run=RunId(b"x" * 16))},
    "keys of fewer than the cohort": lambda r: {
        "relay": wire.encode(
            masking_terms.Relay(tuple(r.names), wire.decode(r.relays[r.names[0]], masking_terms.Relay).peers[:-1])
        )
    },
    "bytes that are no relay": lambda r: {"relay": b"\x00"},
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_member_refuses_before_it_masks(what: str) -> None:
    made = Round(6)
    arguments = REFUSALS[what](made)
    plan, relay = arguments.get("plan", made.plan), arguments.get("relay", made.relays[made.names[0]])
    with pytest.raises(PeerFault):
        made.member.admit(
            made.names[0], plan, made.box[made.names[0]], made.enrolment[made.names[0]].secret, relay, b""
        )
    with pytest.raises(PeerFault):
        made.seal(made.names[0], plan=plan, relay=relay)


@pytest.mark.parametrize("change", ["key", "seed", "share", "path", "short path", "box", "signature"])
def test_a_coordinator_that_alters_what_it_relays_is_found(change: str) -> None:
    made = Round(4)
    relay = wire.decode(made.relays[made.names[0]], masking_terms.Relay)
    peers = list(relay.peers)
    other = peers[1]
    statement = other.statement
    peers[1] = {
        "key": replace(other, statement=replace(statement, mask_key=keys.public_half(secret("mallory")))),
        "seed": replace(other, statement=replace(statement, seed=bytes(32))),
        "share": replace(other, statement=replace(statement, shares=Hash(bytes(32)))),
        "path": replace(other, path=other.path[32:] + other.path[:32]),
        "short path": replace(other, path=other.path[:-1]),
        "box": replace(other, box=other.box[:-1] + bytes([other.box[-1] ^ 1])),
        "signature": replace(other, signature=bytes(64)),
    }[change]
    with pytest.raises(Forged):
        made.seal(made.names[0], relay=wire.encode(masking_terms.Relay(relay.roster, tuple(peers))))


@pytest.mark.parametrize("survivors", [
    ["m00", "m01", "m02"], ["m01", "m02", "m03", "m04"], ["m00", "m01", "m02", "mallory"], ["m00", "m00", "m01", "m02"], [],
])  # fmt: skip
def test_a_member_does_not_answer_what_would_open_too_little(survivors: list[str]) -> None:
    made = Round(6)
    made.seal(made.names[0])
    question = wire.encode(masking_terms.Survivors(tuple(MemberId(name) for name in survivors)))
    with pytest.raises(Unsafe):
        made.member.answer(made.names[0], made.plan, made.kept[made.names[0]], question)


def test_an_answer_never_holds_both_shares_of_one_member() -> None:
    made = Round(6)
    made.seal(made.names[0])
    question = wire.encode(masking_terms.Survivors(tuple(made.names[:4])))
    told = wire.decode(
        made.member.answer(made.names[0], made.plan, made.kept[made.names[0]], question), masking_terms.Revealed
    )
    assert set(told.seeds) == set(made.names[:4])
    assert set(told.keys) == set(made.names[4:])


# Shamir


@given(st.integers(1, 7), st.data())
@settings(max_examples=40)
def test_any_threshold_shares_give_the_secret_and_one_fewer_does_not(threshold: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(threshold, 9))
    whole = secret(f"{threshold}/{n}")
    shares = shamir.split(whole, threshold, tuple(range(1, n + 1)), secret("polynomial"))
    chosen = data.draw(st.permutations(sorted(shares)))
    assert shamir.combine({point: shares[point] for point in chosen[:threshold]}, threshold).raw == whole.raw
    with pytest.raises(Forged):
        shamir.combine({point: shares[point] for point in chosen[: threshold - 1]}, threshold)
    if threshold > 1:
        with pytest.raises(Forged):  # the wrong number of true shares gives no 32-byte secret
            shamir.combine({point: shares[point] for point in chosen[: threshold - 1]}, threshold - 1)


# Fixed point

ENDS_ = [
    -(2.0**7),
    -(2.0**7) - 2.0**-16,
    2.0**7 - 2.0**-16,
    2.0**7,
    2.0**6,
    math.inf,
    math.nan,
]  # of 24 bits, 16 of them after the point


@given(st.integers(2, 52), st.integers(1, 64), st.sampled_from([32, 64]))
def test_every_accepted_plan_is_free_of_overflow(value_bits: int, members: int, ring_bits: int) -> None:
    encoding = FixedPoint(value_bits, 4, ring_bits)
    try:
        fixed_point.check_encoding(encoding, members)
    except Unsafe:
        return
    top, bottom = 2 ** (value_bits - 1) - 1, -(2 ** (value_bits - 1))
    for extreme in (top, bottom):
        total = sum(int(x) for x in [extreme] * members)
        ring = np.zeros(1, fixed_point.ring_dtype(ring_bits))
        for _ in range(members):
            ring += fixed_point.to_ring(np.array([extreme], np.int64), ring_bits)
        assert int(fixed_point.from_ring(ring, ring_bits, ring_bits)[0]) == total


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_encoding_is_within_half_a_grid_step(values: list[float]) -> None:
    encoded = fixed_point.encode(np.array(values), FixedPoint(24, 12, 32))
    assert np.abs(encoded / 2**12 - np.array(values)).max() <= 0.5 / 2**12


@given(st.lists(st.floats(-300, 300, width=16), min_size=1, max_size=20), st.lists(st.sampled_from(ENDS_), max_size=9))
def test_what_encoding_changes_by_more_than_rounding_is_counted(values: list[float], more: list[float]) -> None:
    given_ = np.array(values + more)
    encoded = fixed_point.encode(given_, FixedPoint(24, 16, 32))
    assert fixed_point.outside(given_, FixedPoint(24, 16, 32)) == int((encoded != np.rint(given_ * 2**16)).sum())


@pytest.mark.parametrize("values", [[np.nan], [np.inf], [-np.inf], [1e9] * 10])
def test_what_is_no_number_or_far_out_of_range_is_clamped_and_never_refused(values: list[float]) -> None:
    """A refusal would say on which side of a bound a member's own value lies."""
    encoded = fixed_point.encode(np.array(values), FixedPoint(24, 16, 32))
    expected = [0 if v != v else 2**23 - 1 if v > 0 else -(2**23) for v in values]
    assert encoded.tolist() == expected
    assert fixed_point.outside(np.array(values), FixedPoint(24, 16, 32)) == len(values)


# Encryption

ENCRYPTED = [scheme for scheme in Scheme if scheme.has_custodian]


class Encrypted(Round):
    def __init__(self, n: int = 4, dimension: int = 50, scheme: Scheme = Scheme.CKKS) -> None:
        super().__init__(n, dimension, scheme=scheme)
        self.holder = schemes.key_holder(scheme, identity("custodian"))
        self.opens = secret("the custodian's box")
        self.show()
        self.plan = replace(self.plan, cover=replace(self.plan.cover, custodian=identity("custodian").public))

    def seal(self, name: MemberId, plan=None, relay: bytes | None = None) -> bytes:
        update = Update(self.values[name], EVENT)
        payload, self.kept[name] = self.member.seal(
            name, plan or self.plan, self.box[name], self.enrolment[name].secret, relay or self.relays[name],
            self.material, update, secret("s"),
        )  # fmt: skip
        self.sealed[name] = payload
        return payload

    def show(self) -> None:
        """The custodian's keys, as members are shown them."""
        self.material = self.holder.material(keys.public_half(self.opens), identity("custodian"))

    def boxed(self, name: MemberId, given_: encrypted.Encrypted) -> bytes:
        """Something else, in a box of this member's own."""
        place = encrypted.sealed_at(RUN, 1, wire.plan_hash(self.plan), name)
        return keys.seal_box(keys.public_half(self.opens), "he-input", place, wire.encode(given_), secret("another"))

    def inside(self, name: MemberId) -> encrypted.Encrypted:
        """What a member sealed, as the custodian reads it."""
        place = encrypted.sealed_at(RUN, 1, wire.plan_hash(self.plan), name)
        return wire.decode(keys.open_box(self.opens, "he-input", place, self.sealed[name]), encrypted.Encrypted)

    def answers(self) -> dict[MemberId, bytes]:
        """What the survivors reveal, where there are masks."""
        if not self.plan.cover.scheme.has_masks:
            return {}
        question = wire.encode(masking_terms.Survivors(tuple(sorted(self.sealed))))
        return {name: self.member.answer(name, self.plan, self.kept[name], question) for name in self.sealed}

    def opened(self, **changes: object) -> bytes:
        """The custodian's answer."""
        masked = self.plan.cover.scheme.has_masks
        given_ = {"enrolled": self.enrolled if masked else {}, **changes}
        if "answers" not in given_:
            given_["answers"] = self.answers()
        return self.holder.open_sum(self.holder.prepare(self.plan, self.opens, self.sealed, **given_))

    def sum(self) -> np.ndarray:
        """The sum, through the members, where there are masks, and the custodian."""
        answers = {**self.answers(), encrypted.CUSTODIAN: self.opened()}
        return sum_of(self.coordinator, self.plan, self.enrolled, self.sealed, answers).total


@pytest.mark.parametrize("scheme", ENCRYPTED)
@pytest.mark.parametrize(("n", "left", "dimension"), [(3, 3, 1), (4, 3, 2048), (8, 6, 5000)])
def test_an_encrypted_sum_is_exact_whoever_survives(scheme: Scheme, n: int, left: int, dimension: int) -> None:
    made = Encrypted(n, dimension, scheme)
    for name in made.names[:left]:
        made.seal(name)
    assert np.array_equal(made.sum(), made.expected())


def chi_square(values: np.ndarray, bits: int) -> float:
    """Of the top eight of ``bits`` bits against uniform: 255 degrees."""
    counts, each = np.bincount((values >> np.uint64(bits - 8)).astype(int), minlength=256), len(values) / 256
    return float(((counts - each) ** 2 / each).sum())


def with_the_key(made: Encrypted, which: list[MemberId]) -> np.ndarray:
    """What whoever has the secret key, and was handed these members' ciphertexts, would read: residues modulo q."""
    context = tenseal_context.loaded(made.holder._secret)
    api, data = tenseal_context.tenseal().sealapi, context.seal_context().data
    decryptor, evaluator, found = api.Decryptor(data, context.secret_key().data), api.Evaluator(data), []
    with tenseal_context.passage() as path:
        unit = ckks_coefficients._transformed(api, data, path, np.zeros(4096, np.uint64))
        for index in range(len(made.inside(which[0]).chunks)):
            plain, readable = api.Plaintext(), api.Ciphertext()
            decryptor.decrypt(
                tenseal_context.total(api, data, path, [(name, made.inside(name).chunks[index]) for name in which]),
                plain,
            )
            evaluator.add_plain(unit, plain, readable)
            evaluator.transform_from_ntt_inplace(readable)
            found += map(readable.dyn_array().at, range(4096))
    return np.array(found, np.uint64)


def test_under_masks_the_custodian_itself_decrypts_noise_and_a_sum_of_noise() -> None:
    made = Encrypted(4, 4000, Scheme.MASKED_BFV)
    for name in made.names:
        made.values[name][:] = 0
        made.seal(name)
    for which in (made.names[:1], made.names):  # one input, which an honest custodian never opens; and the sum
        ring = bfv.open_ring(made.holder._secret, {name: made.inside(name).chunks for name in which}, 4000)
        assert (ring == 0).sum() == 0
        assert chi_square(ring, 44) < 390  # p > 1e-7
    assert not made.sum().any()


def test_a_masked_ckks_input_under_the_real_key_is_uniform_whatever_is_in_it() -> None:
    top = 2.0**7 - 2.0**-16  # 24 bits, 16 of them after the point
    for value in (0.0, top, -(2.0**7)):
        made = Encrypted(4, 9000, Scheme.MASKED_CKKS)
        for name in made.names:
            made.values[name][:] = value
            made.seal(name)
        for which in (made.names[:1], made.names[:3], made.names):  # what is left in the sum of all are self masks
            found = with_the_key(made, which)
            assert chi_square(found, 60) < 390
            assert chi_square((found & np.uint64(0x3FFF)) << np.uint64(46), 60) < 390  # the bits below the scale too
            rounded = (residues.centred(found) + (1 << 13)) >> 14
            assert np.abs(residues.centred(found) - (rounded << 14)).max() > 8000  # no grid shows through
        assert np.array_equal(made.sum(), made.expected())


@pytest.mark.parametrize("scheme", ENCRYPTED)
def test_the_material_holds_no_secret_and_only_the_custodians_is_accepted(scheme: Scheme) -> None:
    made = Encrypted(scheme=scheme)
    made.member.check_material(made.material, identity("custodian").public)
    context = tenseal_context.tenseal().context_from(wire.decode(made.material, encrypted.Material).context)
    assert not context.has_secret_key()
    box = keys.public_half(made.opens)

    def signed(context: bytes, box: bytes = box, said: bytes = box) -> bytes:
        name = wire.encode((context, said))
        return wire.encode(encrypted.Material(context, box, identity("custodian").sign("he-key", name)))

    public = wire.decode(made.material, encrypted.Material).context
    with pytest.raises(Unsafe):
        made.member.check_material(signed(made.holder._secret), identity("custodian").public)
    with pytest.raises(Forged) as fault:  # the coordinator's box in the place of the custodian's
        made.member.check_material(signed(public, keys.public_half(secret("mine"))), identity("custodian").public)
    assert fault.value.rule == "protocol.signature"
    with pytest.raises(Forged) as fault:
        made.member.check_material(signed(public, bytes(32), bytes(32)), identity("custodian").public)
    assert fault.value.rule == "protocol.weak-key"
    for other in (identity("mallory").public, None):
        with pytest.raises(Forged):
            made.member.check_material(made.material, other)
    ts = tenseal_context.tenseal()
    weak = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 60])
    raw = weak.serialize(save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False)
    others = bfv if scheme in (Scheme.CKKS, Scheme.MASKED_CKKS) else ckks_slots
    for context, why in ((raw, "degree"), (tenseal_context.public_half(others.new_context()), "not of")):
        with pytest.raises(Unsafe, match=why):
            made.member.check_material(signed(context), identity("custodian").public)


@pytest.mark.parametrize(("degree", "primes", "why"), [(4096, (60, 50), "110 bits"), (2048, (54, 1), "55 bits"),
                                                       (1000, (20,), "allows 0"), (8192, (60, 49), "a context of")])  # fmt: skip
def test_parameters_below_128_bits_or_not_ours_are_refused(degree: int, primes: tuple[int, ...], why: str) -> None:
    tenseal_context.check_security(tenseal_context.DEGREE, tenseal_context.PRIMES)
    with pytest.raises(Unsafe, match=why):
        tenseal_context.check_security(degree, primes)


@pytest.mark.parametrize(
    ("degree", "bits"), [(1024, 27), (2048, 54), (4096, 109), (8192, 218), (16384, 438), (32768, 881)]
)
def test_the_table_of_the_standard_is_copied_right(degree: int, bits: int) -> None:
    """Albrecht et al. 2018, table 1: ternary secrets, classical attacks, 128 bits."""
    with pytest.raises(Unsafe, match=f"{bits + 1} bits of primes: the standard allows {bits} at"):
        tenseal_context.check_security(degree, (bits + 1,))
    with pytest.raises(Unsafe, match="a context of degree"):  # secure, and not ours
        tenseal_context.check_security(degree, (bits,))


@pytest.mark.parametrize("scheme", ENCRYPTED)
@pytest.mark.parametrize(
    ("what", "rule"),
    [("another key", "protocol.another-input"), ("another shape", "protocol.another-input"),
     ("another plan", "protocol.box"), ("a flipped byte", "protocol.box"), ("no box", "protocol.box"),
     ("another's box", "protocol.box"), ("another run's box key", "protocol.box"),
     ("too few", "protocol.few-survivors")],
)  # fmt: skip
def test_a_custodian_opens_nothing_that_does_not_fit(what: str, rule: str, scheme: Scheme) -> None:
    made = Encrypted(scheme=scheme)
    for name in made.names:
        made.seal(name)
    first, second, given_ = *made.names[:2], made.inside(made.names[0])
    if what == "another key":
        made.sealed[first] = made.boxed(first, replace(given_, key=encrypted.key_id(Encrypted().material)))
    elif what == "another plan":
        made.seal(first, plan=replace(made.plan, base=Hash(b"x" * 32)))
    elif what == "a flipped byte":
        box = bytearray(made.sealed[first])
        box[-20] ^= 1
        made.sealed[first] = bytes(box)
    elif what == "another shape":
        made.sealed[first] = made.boxed(first, replace(given_, dimension=49))
    elif what == "no box":
        made.sealed[first] = wire.encode(given_)
    elif what == "another's box":
        made.sealed[first] = made.sealed[second]
    elif what == "another run's box key":
        made.opens = secret("the next run's")
    else:
        made.sealed = dict(list(made.sealed.items())[:2])
    with pytest.raises(PeerFault) as fault:
        made.opened(answers={})
    assert fault.value.rule == rule


@pytest.mark.parametrize("scheme", ENCRYPTED)
def test_what_is_decrypted_and_no_sum_is_told_in_one_word(scheme: Scheme) -> None:
    made = Encrypted(scheme=scheme)
    for name in made.names:
        made.seal(name)
    first = made.names[0]
    chunk = made.inside(first).chunks[0]
    for chunks in ((chunk[:-9],), (b"",), (chunk[:20] + bytes(len(chunk) - 20),)):
        whole = made.sealed[first]
        made.sealed[first] = made.boxed(first, replace(made.inside(first), chunks=chunks))
        assert wire.decode(made.opened(), Unopened) == Unopened("protocol.no-sum")
        with pytest.raises(Forged) as fault:
            made.sum()
        assert fault.value.rule == "protocol.no-sum"
        made.sealed[first] = whole
    assert np.array_equal(made.sum(), made.expected())


MASKED = [scheme for scheme in ENCRYPTED if scheme.has_masks]


def forged_seed(made: Encrypted) -> dict[MemberId, bytes]:
    """Survivors whose shares of one member's seed are all another's."""
    found = {}
    for name, answer in made.answers().items():
        told = wire.decode(answer, masking_terms.Revealed)
        seeds = {**told.seeds, made.names[0]: told.seeds[made.names[1]]}
        found[name] = wire.encode(replace(told, seeds=seeds))
    return found


def another_enrolment(made: Encrypted) -> dict[MemberId, bytes]:
    other = Round(len(made.names), 50, scheme=made.plan.cover.scheme, label="other ")
    return {**made.enrolled, made.names[0]: other.enrolled[made.names[0]]}


def unsigned_enrolment(made: Encrypted) -> dict[MemberId, bytes]:
    public = wire.decode(made.enrolled[made.names[0]], masking_terms.Public)
    return {**made.enrolled, made.names[0]: wire.encode(replace(public, signature=bytes(64)))}


@pytest.mark.parametrize("scheme", MASKED)
def test_a_custodian_takes_out_masks_that_members_signed_and_shared_and_no_others(scheme: Scheme) -> None:
    made = Encrypted(5, scheme=scheme)
    for name in made.names[:4]:
        made.seal(name)
    good = made.answers()
    cases = {
        "protocol.too-few": [{"answers": {}}, {"answers": dict(list(good.items())[:2])}],
        "protocol.wrong-share": [{"answers": forged_seed(made)}],
        "protocol.another-cohort": [{"enrolled": {}}, {"enrolled": dict(list(made.enrolled.items())[:4])}],
        "protocol.swapped-key": [{"enrolled": unsigned_enrolment(made)}],
        "protocol.malformed": [{"answers": {**good, made.names[0]: b"x"}}],
        "protocol.another-set": [{"answers": {**good, made.names[4]: good[made.names[0]]}}],
    }  # fmt: skip
    for rule, changes in cases.items():
        for changed in changes:
            with pytest.raises(PeerFault) as fault:
                made.opened(**changed)
            assert fault.value.rule == rule
    short = dict(list(made.sealed.items())[:3])
    for sealed in (short, {**short, made.names[4]: made.seal(made.names[4])}):  # shares are of the four, not of these
        made.sealed = sealed
        with pytest.raises(PeerFault) as fault:
            made.opened(answers=good)
        assert fault.value.rule == "protocol.another-set"


@pytest.mark.parametrize("scheme", MASKED)
def test_another_enrolment_than_the_one_that_was_masked_by_opens_nothing(scheme: Scheme) -> None:
    made = Encrypted(scheme=scheme)
    for name in made.names:
        made.seal(name)
    with pytest.raises(PeerFault) as fault:
        made.opened(enrolled=another_enrolment(made))
    assert fault.value.rule == "protocol.wrong-share"


@given(st.integers(3, 7), st.sampled_from([1, 2, 4095, 4096, 4097, 8193]), st.sampled_from([8, 16, 24, 35]), st.data())
@settings(max_examples=20, deadline=None)
def test_a_masked_ckks_sum_is_exact_whoever_survives_at_whatever_packing(
    n: int, dimension: int, bits: int, data: st.DataObject
) -> None:
    made = Encrypted(n, dimension, Scheme.MASKED_CKKS)
    made.plan = replace(
        made.plan,
        cover=replace(made.plan.cover, encoding=FixedPoint(bits, 4, 64)),
        learning=replace(made.plan.learning, learning_rate=Fraction(1 << 40)),  # honest updates fill any of these grids
    )
    rand = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    top = 1 << (bits - 1)
    survivors = data.draw(st.permutations(made.names))[: data.draw(st.integers(max(made.threshold, 3), n))]
    for name in survivors:
        values = rand.integers(-top, top, dimension)
        values[rand.random(dimension) < 0.3] = top - 1
        values[rand.random(dimension) < 0.3] = -top
        made.values[name] = values / 16
        made.seal(name)
    assert np.array_equal(made.sum(), sum(np.rint(made.values[name] * 16).astype(np.int64) for name in made.sealed))


@pytest.mark.parametrize("scheme", ENCRYPTED)
def test_an_encoding_too_wide_for_a_cipher_is_refused_before_training(scheme: Scheme) -> None:
    made = Encrypted(scheme=scheme)
    wide = replace(made.plan, cover=replace(made.plan.cover, encoding=FixedPoint(48, 23, 64)))
    name = made.names[0]
    with pytest.raises(Unsafe, match="not exact"):
        made.member.admit(name, wide, made.box[name], made.enrolment[name].secret, made.relays[name], made.material)


@pytest.mark.parametrize("scheme", ENCRYPTED)
def test_the_custodians_key_is_its_owners_alone(scheme: Scheme, tmp_path) -> None:
    path = tmp_path / schemes.key_name(scheme)
    first = schemes.key_holder(scheme, identity("custodian"), tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    box = keys.public_half(secret("a box"))
    again, me = schemes.key_holder(scheme, identity("custodian"), tmp_path), identity("custodian")
    assert again.material(box, me) == first.material(box, me)
    path.chmod(0o644)
    with pytest.raises(OperatorFault, match="chmod 600"):
        schemes.key_holder(scheme, identity("custodian"), tmp_path)


def test_a_key_opens_so_many_sums_and_no_more_whoever_restarts(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(key_file, "MOST_SUMS", 3)
    made = Encrypted()
    made.holder = schemes.key_holder(Scheme.CKKS, identity("custodian"), tmp_path)
    made.show()
    for name in made.names:
        made.seal(name)
    for _ in range(3):
        assert np.array_equal(made.sum(), made.expected())
        made.holder = schemes.key_holder(Scheme.CKKS, identity("custodian"), tmp_path)  # a restart
    with pytest.raises(key_file.Exhausted, match="3 sums"):
        made.sum()
    (tmp_path / "he.key").rename(tmp_path / "old.key")  # what the refusal asks for: a new key has its own count
    made.holder = schemes.key_holder(Scheme.CKKS, identity("custodian"), tmp_path)
    made.show()
    for name in made.names:
        made.seal(name)
    assert np.array_equal(made.sum(), made.expected())


def test_a_sum_is_counted_before_it_is_opened_and_an_input_that_does_not_fit_is_not(tmp_path) -> None:
    made = Encrypted()
    made.holder = schemes.key_holder(Scheme.CKKS, identity("custodian"), tmp_path)
    made.show()
    for name in made.names:
        made.seal(name)
    file, secret_ = key_file.KeyFile(tmp_path / "he.key", identity("custodian")), made.holder._secret
    first = made.names[0]
    given_ = made.inside(first)
    made.sealed[first] = made.boxed(first, replace(given_, dimension=9))
    with pytest.raises(Forged):
        made.sum()
    assert file.spent(secret_) == 0
    made.sealed[first] = made.boxed(first, replace(given_, chunks=(given_.chunks[0][:-9],)))
    with pytest.raises(Forged):
        made.sum()  # ends inside the decryption: it counts
    assert file.spent(secret_) == 1


@pytest.mark.parametrize("written", [None, b"", b"0000001", b"-0000001", b"00000001\n"])
def test_a_key_without_a_count_opens_nothing(written: bytes | None, tmp_path) -> None:
    made = Encrypted()
    made.holder = schemes.key_holder(Scheme.CKKS, identity("custodian"), tmp_path)
    made.show()
    for name in made.names:
        made.seal(name)
    path = key_file.KeyFile(tmp_path / "he.key", identity("custodian")).count_of(made.holder._secret)
    path.unlink() if written is None else path.write_bytes(written)
    with pytest.raises(OperatorFault, match="how many sums"):
        made.sum()
    with pytest.raises(OperatorFault, match="how many sums"):
        schemes.key_holder(Scheme.CKKS, identity("custodian"), tmp_path)


# Nothing readable leaves.

CANARY = float(Fraction(0x5A5A5A, 2**16))


@pytest.mark.parametrize(("scheme", "readable"), [(scheme, scheme is Scheme.CLEAR) for scheme in Scheme])
def test_a_planted_value_is_in_no_byte_that_leaves_unless_nothing_is_hidden(
    scheme: Scheme, readable: bool, monkeypatch
) -> None:
    import tests.support.worlds as worlds

    monkeypatch.setattr(worlds, "an_update", lambda name, round_, dimension: np.full(dimension, CANARY))
    world = World(scheme=scheme, dimension=64)
    assert world.play().outcome == "finished"
    integer = round(CANARY * 2**16)
    forms = [np.full(2, integer, dtype).tobytes() for dtype in ("<i8", "<u4")] + [
        np.full(2, CANARY, dtype).tobytes() for dtype in ("<f8", "<f4")
    ]
    left = b"".join(data for name, data in world.carried if name in world.names)
    assert any(form in left for form in forms) == readable


@pytest.mark.parametrize("scheme", ENCRYPTED)
def test_without_tenseal_masking_works_and_encryption_says_what_to_install(scheme: Scheme, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tenseal", None)
    assert World().play().outcome == "finished"
    with pytest.raises(Missing, match=r"pip install 'securefl-core\[he\]'"):
        schemes.key_holder(scheme, identity("custodian"))


def test_without_tenseal_every_module_is_imported_and_help_is_printed() -> None:
    code = """
import importlib, pkgutil, sys
sys.modules["tenseal"] = None
import securefl
for found in pkgutil.walk_packages(securefl.__path__, "securefl."):
    if not found.name.startswith(("securefl.__main__", "securefl.ledger.migrations.")):
        importlib.import_module(found.name)
from securefl.cli.main import command_line
command_line()(["--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout


@given(st.integers(0, 2**32 - 1), st.floats(0, 300), st.integers(0, 4), st.integers(1, 4000))
def test_what_is_sealed_lies_within_the_grid_whatever_training_gave(
    seed: int, size: float, outliers: int, dimension: int
) -> None:
    plan = replace(World(scheme=Scheme.CLEAR).coordinator.state.course.plan, dimension=dimension)
    plan = replace(plan, cohort=tuple(seat(name) for name in "abc"))
    values = np.random.default_rng(seed).uniform(-size, size, dimension)
    values[:outliers] = 1e30
    top = 2 ** (plan.cover.encoding.value_bits - 1)
    given = (MemberId("a"), plan, secret("b"), b"", b"", b"", Update(values, EVENT), secret("s"))
    sealed, _ = schemes.member_half(Scheme.CLEAR).seal(*given)
    sent = np.frombuffer(wire.decode(sealed, clear.Bare).values, "<i8")
    assert len(sent) == dimension
    assert -top <= sent.min() <= sent.max() < top
