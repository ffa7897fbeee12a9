"""Masks cancel, ciphertexts add, single vectors stay closed."""

from __future__ import annotations

import hashlib
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
    ckks_slots,
    clear,
    encrypted,
    fixed_point,
    key_file,
    masking,
    packing,
    schemes,
    seal,
    shamir,
)
from securefl.protection.fixed_point import Unsound
from securefl.terms import Envelope, FixedPoint, Hash, MemberId, Plan, Receipt, RunId, Scheme, Update
from tests.worlds import EVENT, World, identity, seat

RUN = RunId(bytes(16))


def secret(label: str) -> Secret:
    return Secret(hashlib.sha256(label.encode()).digest())


def unpacked(vector: bytes, plan: Plan) -> np.ndarray:
    """The ring elements of a masked vector, modulo 2**sum_bits."""
    packed = wire.decode(vector, masking.Masked).elements
    blocks = packing.unpacked(packed, plan.dimension, masking.sum_bits(plan), "<u4")
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
            name: Envelope(Receipt(name, MemberId("c"), RUN, 1, "Submitted", None, 0, Hash(b""), 0), b"", b"")
            for name in self.sealed
        }
        questions = self.coordinator.ask(self.plan, envelopes)
        answers = {
            name: self.member.answer(name, self.plan, self.kept[name], question)
            for name, question in questions.items()
            if name not in silent
        }
        return self.coordinator.open(self.plan, self.enrolled, self.sealed, answers).total

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
    with pytest.raises(masking.TooFew):
        made.finish(silent=tuple(made.names[: n - made.threshold + 1]))


def test_a_wrong_share_is_left_out_and_too_many_wrong_ones_end_cleanly() -> None:
    made = Round(6)
    for name in made.names:
        made.seal(name)

    def lie(name: MemberId) -> None:
        shares = wire.decode(made.kept[name], masking.Kept).shares
        made.kept[name] = wire.encode(
            masking.Kept({peer: replace(pair, seed=bytes(66)) for peer, pair in shares.items()})
        )

    for name in made.names[: 6 - made.threshold]:
        lie(name)
    assert np.array_equal(made.finish(), made.expected())
    lie(made.names[-1])
    with pytest.raises(masking.TooFew):
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
    private = wire.decode(made.enrolment[late].secret, masking.Private)
    elements = unpacked(vector, made.plan)
    context = wire.plan_hash(made.plan)
    for peer in made.names[1:]:
        theirs = wire.decode(made.enrolled[peer], masking.Public).statement.mask_key
        pair = masking._pair_key(Secret(private.key), theirs, context, late, peer)
        masking.mask(elements, [masking.Stream(pair, subtract=late < peer)])
    low = (1 << masking.sum_bits(made.plan)) - 1
    bare = fixed_point.to_ring(fixed_point.encode(made.values[late], made.plan.cover.encoding), 32) & low
    assert (elements & low == bare).mean() < 0.05
    masking.mask(elements, [masking.Stream(masking._self_key(Secret(private.seed), context), subtract=True)])
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
        packed.append(np.frombuffer(wire.decode(sealed, masking.Masked).elements, "u1"))
    for vector, top in [(vector, vector >> masking.sum_bits(made.plan) - 8) for vector in vectors] + [
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
        "relay": wire.encode(masking.Relay(tuple(r.names), wire.decode(r.relays[r.names[0]], masking.Relay).peers[:-1]))
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
    relay = wire.decode(made.relays[made.names[0]], masking.Relay)
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
        made.seal(made.names[0], relay=wire.encode(masking.Relay(relay.roster, tuple(peers))))


@pytest.mark.parametrize("survivors", [
    ["m00", "m01", "m02"], ["m01", "m02", "m03", "m04"], ["m00", "m01", "m02", "mallory"], ["m00", "m00", "m01", "m02"], [],
])  # fmt: skip
def test_a_member_does_not_answer_what_would_open_too_little(survivors: list[str]) -> None:
    made = Round(6)
    made.seal(made.names[0])
    question = wire.encode(masking.Survivors(tuple(MemberId(name) for name in survivors)))
    with pytest.raises(Unsafe):
        made.member.answer(made.names[0], made.plan, made.kept[made.names[0]], question)


def test_an_answer_never_holds_both_shares_of_one_member() -> None:
    made = Round(6)
    made.seal(made.names[0])
    question = wire.encode(masking.Survivors(tuple(made.names[:4])))
    told = wire.decode(
        made.member.answer(made.names[0], made.plan, made.kept[made.names[0]], question), masking.Revealed
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


@pytest.mark.parametrize("values", [[np.nan], [np.inf], [-np.inf], [1e9] * 10])
def test_what_is_not_finite_or_far_out_of_range_is_not_sealed(values: list[float]) -> None:
    with pytest.raises(Unsound):
        fixed_point.encode(np.array(values), FixedPoint(24, 16, 32))


# Encryption

ENCRYPTED = [scheme for scheme in Scheme if scheme.has_custodian]


class Encrypted(Round):
    def __init__(self, n: int = 4, dimension: int = 50, scheme: Scheme = Scheme.CKKS) -> None:
        super().__init__(n, dimension, scheme=scheme)
        self.holder = schemes.key_holder(scheme, identity("custodian"))
        self.material = self.holder.material()
        self.plan = replace(self.plan, cover=replace(self.plan.cover, custodian=identity("custodian").public))

    def seal(self, name: MemberId, plan=None, relay: bytes | None = None) -> bytes:
        update = Update(self.values[name], EVENT)
        payload, self.kept[name] = self.member.seal(
            name, plan or self.plan, self.box[name], self.enrolment[name].secret, relay or self.relays[name],
            self.material, update, secret("s"),
        )  # fmt: skip
        self.sealed[name] = payload
        return payload

    def sum(self) -> np.ndarray:
        """The sum, through the custodian and, where there are masks, the members."""
        given = self.holder.open_sum(self.plan, self.sealed)
        answers = {encrypted.CUSTODIAN: given}
        if self.plan.cover.scheme.has_masks:
            question = wire.encode(masking.Survivors(tuple(sorted(self.sealed))))
            answers |= {name: self.member.answer(name, self.plan, self.kept[name], question) for name in self.sealed}
        return self.coordinator.open(self.plan, self.enrolled, self.sealed, answers).total


@pytest.mark.parametrize("scheme", ENCRYPTED)
@pytest.mark.parametrize(("n", "left", "dimension"), [(3, 3, 1), (4, 3, 2048), (8, 6, 5000)])
def test_an_encrypted_sum_is_exact_whoever_survives(scheme: Scheme, n: int, left: int, dimension: int) -> None:
    made = Encrypted(n, dimension, scheme)
    for name in made.names[:left]:
        made.seal(name)
    assert np.array_equal(made.sum(), made.expected())


def test_under_masks_the_custodian_itself_decrypts_noise_and_a_sum_of_noise() -> None:
    made = Encrypted(4, 4000, Scheme.MASKED_BFV)
    for name in made.names:
        made.values[name][:] = 0
        made.seal(name)
    public = wire.decode(made.material, encrypted.Material).context
    for which in (made.names[:1], made.names):  # one input, which an honest custodian never opens; and the sum
        chunks = {name: wire.decode(made.sealed[name], encrypted.Encrypted).chunks for name in which}
        opened = bfv.open_sum(made.holder._secret, chunks, 4000, bfv.packing(made.plan.cover.encoding, 4))
        assert encrypted.key_id(public) == wire.decode(made.sealed[which[0]], encrypted.Encrypted).key
        assert (opened == 0).sum() == 0
        ring = opened.astype(np.uint64) & np.uint64(2**44 - 1)
        counts = np.bincount((ring >> np.uint64(36)).astype(int), minlength=256)
        assert ((counts - 4000 / 256) ** 2 / (4000 / 256)).sum() < 390  # chi-square, 255 degrees, p > 1e-7
    assert not made.sum().any()


@pytest.mark.parametrize("scheme", ENCRYPTED)
def test_the_material_holds_no_secret_and_only_the_custodians_is_accepted(scheme: Scheme) -> None:
    made = Encrypted(scheme=scheme)
    made.member.check_material(made.material, identity("custodian").public)
    context = seal.tenseal().context_from(wire.decode(made.material, encrypted.Material).context)
    assert not context.has_secret_key()
    leaky = wire.encode(
        encrypted.Material(made.holder._secret, identity("custodian").sign("he-key", made.holder._secret))
    )
    with pytest.raises(Unsafe):
        made.member.check_material(leaky, identity("custodian").public)
    for other in (identity("mallory").public, None):
        with pytest.raises(Forged):
            made.member.check_material(made.material, other)
    ts = seal.tenseal()
    weak = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 60])
    raw = weak.serialize(save_public_key=True, save_secret_key=False, save_galois_keys=False, save_relin_keys=False)
    others = bfv if scheme is Scheme.CKKS else ckks_slots
    for context, why in ((raw, "degree"), (seal.public_half(others.new_context()), "not of")):
        signed = encrypted.Material(context, identity("custodian").sign("he-key", context))
        with pytest.raises(Unsafe, match=why):
            made.member.check_material(wire.encode(signed), identity("custodian").public)


@pytest.mark.parametrize(("degree", "primes", "why"), [(4096, (60, 50), "110 bits"), (2048, (54, 1), "55 bits"),
                                                       (1000, (20,), "allows 0"), (8192, (60, 49), "a context of")])  # fmt: skip
def test_parameters_below_128_bits_or_not_ours_are_refused(degree: int, primes: tuple[int, ...], why: str) -> None:
    seal.check_security(seal.DEGREE, seal.PRIMES)
    with pytest.raises(Unsafe, match=why):
        seal.check_security(degree, primes)


@pytest.mark.parametrize("scheme", ENCRYPTED)
@pytest.mark.parametrize("what", ["another key", "another plan", "a flipped byte", "another shape", "too few"])
def test_a_custodian_opens_nothing_that_does_not_fit(what: str, scheme: Scheme) -> None:
    made = Encrypted(scheme=scheme)
    for name in made.names:
        made.seal(name)
    first = made.names[0]
    given_ = wire.decode(made.sealed[first], encrypted.Encrypted)
    if what == "another key":
        other = Encrypted(scheme=scheme)
        made.sealed[first] = other.seal(first)
    elif what == "another plan":
        made.seal(first, plan=replace(made.plan, base=Hash(b"x" * 32)))
    elif what == "a flipped byte":
        chunk = bytearray(given_.chunks[0])
        chunk[0] ^= 0xFF
        made.sealed[first] = wire.encode(replace(given_, chunks=(bytes(chunk),)))
    elif what == "another shape":
        made.sealed[first] = wire.encode(replace(given_, dimension=49))
    else:
        made.sealed = dict(list(made.sealed.items())[:2])
    with pytest.raises(PeerFault):
        made.sum()


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
    assert schemes.key_holder(scheme, identity("custodian"), tmp_path).material() == first.material()
    path.chmod(0o644)
    with pytest.raises(OperatorFault, match="chmod 600"):
        schemes.key_holder(scheme, identity("custodian"), tmp_path)


def test_a_key_opens_so_many_sums_and_no_more_whoever_restarts(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(key_file, "MOST_SUMS", 3)
    made = Encrypted()
    made.holder = schemes.key_holder(Scheme.CKKS, identity("custodian"), tmp_path)
    made.material = made.holder.material()
    for name in made.names:
        made.seal(name)
    for _ in range(3):
        assert np.array_equal(made.sum(), made.expected())
        made.holder = schemes.key_holder(Scheme.CKKS, identity("custodian"), tmp_path)  # a restart
    with pytest.raises(key_file.Exhausted, match="3 sums"):
        made.sum()
    (tmp_path / "he.key").rename(tmp_path / "old.key")  # what the refusal asks for: a new key has its own count
    made.holder = schemes.key_holder(Scheme.CKKS, identity("custodian"), tmp_path)
    made.material = made.holder.material()
    for name in made.names:
        made.seal(name)
    assert np.array_equal(made.sum(), made.expected())


def test_a_sum_is_counted_before_it_is_opened_and_an_input_that_does_not_fit_is_not(tmp_path) -> None:
    made = Encrypted()
    made.holder = schemes.key_holder(Scheme.CKKS, identity("custodian"), tmp_path)
    made.material = made.holder.material()
    for name in made.names:
        made.seal(name)
    file, secret_ = key_file.KeyFile(tmp_path / "he.key"), made.holder._secret
    whole = dict(made.sealed)
    made.sealed[made.names[0]] = wire.encode(
        replace(wire.decode(whole[made.names[0]], encrypted.Encrypted), dimension=9)
    )
    with pytest.raises(Forged):
        made.sum()
    assert file.spent(secret_) == 0
    given_ = wire.decode(whole[made.names[0]], encrypted.Encrypted)
    made.sealed[made.names[0]] = wire.encode(replace(given_, chunks=(given_.chunks[0][:-9],)))
    with pytest.raises(Forged):
        made.sum()  # ends inside the decryption: it counts
    assert file.spent(secret_) == 1


@pytest.mark.parametrize("written", [None, b"", b"0000001", b"-0000001", b"00000001\n"])
def test_a_key_without_a_count_opens_nothing(written: bytes | None, tmp_path) -> None:
    made = Encrypted()
    made.holder = schemes.key_holder(Scheme.CKKS, identity("custodian"), tmp_path)
    made.material = made.holder.material()
    for name in made.names:
        made.seal(name)
    path = key_file.KeyFile(tmp_path / "he.key").count_of(made.holder._secret)
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
    import tests.worlds as worlds

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
    with pytest.raises(Missing, match=r"pip install 'securefl\[he\]'"):
        schemes.key_holder(scheme, identity("custodian"))


def test_without_tenseal_every_module_is_imported_and_help_is_printed() -> None:
    code = """
import importlib, pkgutil, sys
sys.modules["tenseal"] = None
import securefl
for found in pkgutil.walk_packages(securefl.__path__, "securefl."):
    if not found.name.startswith(("securefl.__main__", "securefl.ledger.migrations.")):
        importlib.import_module(found.name)
from securefl.cli import app
app(["--help"])
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
    outside = int((np.abs(np.rint(values * 2.0**plan.cover.encoding.fraction_bits)) > top).sum())
    given = (MemberId("a"), plan, secret("b"), b"", b"", b"", Update(values, EVENT), secret("s"))
    if outside > 0.001 * dimension:
        with pytest.raises(Unsound):
            schemes.member_half(Scheme.CLEAR).seal(*given)
    else:
        sealed, _ = schemes.member_half(Scheme.CLEAR).seal(*given)
        sent = np.frombuffer(wire.decode(sealed, clear.Bare).values, "<i8")
        assert len(sent) == dimension
        assert -top <= sent.min() <= sent.max() < top
