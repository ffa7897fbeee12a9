"""A decrypted sum is the very sum of the integers, or there is none."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl.errors import Forged, Missing, Unsafe
from securefl.keys import Secret
from securefl.protection import bfv_coefficients as bfv
from securefl.protection import ckks_coefficients, residues, slot_packing, tenseal_context
from securefl.protection import ckks_slots as ckks
from securefl.protection.mask_streams import Stream
from securefl.protection.slot_packing import Packing, pack, unpack
from securefl.terms import FixedPoint, MemberId

CIPHERS = [ckks, bfv]
SECRET = {cipher: cipher.new_context() for cipher in CIPHERS}
PUBLIC = {cipher: tenseal_context.public_half(secret) for cipher, secret in SECRET.items()}
SIXTEEN = FixedPoint(16, 12, 32)
ENCODINGS = [FixedPoint(24, 20, 32), FixedPoint(16, 4, 32), FixedPoint(35, 20, 64), FixedPoint(8, 0, 32), SIXTEEN]
ENDS = pytest.mark.parametrize("cipher", CIPHERS, ids=["ckks", "bfv"])


def names(n: int) -> list[MemberId]:
    return [MemberId(f"m{i}") for i in range(n)]


def opened(
    cipher: ModuleType, vectors: np.ndarray, encoding: FixedPoint = SIXTEEN, **replaced: tuple[bytes, ...]
) -> np.ndarray:
    members, dimension = vectors.shape
    packing = cipher.packing(encoding, members)
    inputs = {
        name: cipher.encrypt(PUBLIC[cipher], pack(vector, packing), packing)
        for name, vector in zip(names(members), vectors, strict=True)
    }
    inputs |= {MemberId(name): chunks for name, chunks in replaced.items()}
    total = cipher.open_sum(SECRET[cipher], inputs, packing.count(dimension), packing)
    return unpack(total, packing, dimension, encoding, members)


# Packing


@given(st.data())
def test_digits_of_a_sum_are_the_sums_of_the_digits(data: st.DataObject) -> None:
    members, bits = data.draw(st.integers(1, 1000)), data.draw(st.integers(2, 24))
    encoding = FixedPoint(bits, 0, 64)
    width = slot_packing.width(encoding, members)
    packing = Packing(width, data.draw(st.integers(1, 62 // width)))
    top = 1 << (bits - 1)
    values = data.draw(st.lists(st.sampled_from([-top, top - 1, 0, -1, 1]), min_size=1, max_size=9))
    vector = np.array(values, np.int64)
    assert np.array_equal(
        unpack(members * pack(vector, packing), packing, len(vector), encoding, members), vector * members
    )
    assert 2 ** (width - 1) >= members * top  # the digits of every sum of this many members fit


def test_the_ends_of_a_sums_range_are_in_it() -> None:
    for value in (-3 << 15, 3 * (2**15 - 1)):
        assert unpack(np.array([value]), Packing(18, 2), 1, SIXTEEN, 3).tolist() == [value]


@pytest.mark.parametrize("packed", [[5 << 16], [0, 1], [1 << 40], [-3 << 19], [(-3 << 15) - 1], [3 * (2**15 - 1) + 1]])
def test_a_sum_no_inputs_have_is_refused(packed: list[int]) -> None:
    with pytest.raises(Forged, match="range"):
        unpack(np.array(packed), Packing(18, 2), 1, SIXTEEN, 3)


# Exactness


@given(
    st.sampled_from(CIPHERS),
    st.integers(3, 8),
    st.sampled_from([1, 2047, 2048, 2049, 4095, 4096, 4097, 8192, 8193, 12300]),
    st.sampled_from(ENCODINGS),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_the_sum_is_exact_up_to_the_ends_of_every_range(
    cipher: ModuleType, n: int, dimension: int, encoding: FixedPoint, seed: int
) -> None:
    rand = np.random.default_rng(seed)
    top = 1 << (encoding.value_bits - 1)
    vectors = rand.integers(-top, top, (n, dimension))
    vectors[:, rand.random(dimension) < 0.2] = top - 1
    vectors[:, rand.random(dimension) < 0.2] = -top
    total = opened(cipher, vectors, encoding)
    assert total.dtype == np.int64
    assert np.array_equal(total, vectors.sum(0))


def worst(members: int, dimension: int) -> list[np.ndarray]:
    """All values at one end, at the other, in turns, and ends at random; a single coefficient or slot bears it all."""
    top, rand = 1 << 15, np.random.default_rng(members)
    place = np.arange(dimension)
    ends = [np.full(dimension, -top), np.full(dimension, top - 1), np.where(place % 4 < 2, top - 1, -top)]
    ends += [np.where(rand.random(dimension) < 0.5, top - 1, -top), np.where(place % 2, top - 1, -top)]
    return [np.tile(end, (members, 1)) for end in ends]


@pytest.mark.parametrize(("cipher", "members"), [(ckks, 16), (bfv, 64)], ids=["ckks", "bfv"])
def test_two_values_an_integer_are_exact_at_the_worst_case_of_the_most_members(
    cipher: ModuleType, members: int
) -> None:
    packing = cipher.packing(SIXTEEN, members)
    assert packing.per == 2
    for vectors in worst(members, 8192):
        assert np.array_equal(opened(cipher, vectors), vectors.sum(0))


def test_more_members_take_a_wider_packing_and_then_none() -> None:
    assert [ckks.packing(SIXTEEN, n).per for n in (2, 16, 17, 64, 1000)] == [2, 2, 1, 1, 1]
    assert [bfv.packing(SIXTEEN, n).per for n in (2, 64, 65, 1000)] == [2, 2, 1, 1]
    assert [cipher.packing(FixedPoint(24, 20, 32), 100).per for cipher in CIPHERS] == [1, 1]
    for cipher, encoding, members in [
        (ckks, FixedPoint(48, 20, 64), 3),
        (bfv, FixedPoint(44, 20, 64), 3),
        (bfv, SIXTEEN, 10_000),
    ]:
        with pytest.raises(Unsafe, match="not exact"):
            cipher.packing(encoding, members)


@given(st.integers(2, 52), st.integers(1, 5000))
def test_every_packing_that_is_given_out_fails_with_less_than_two_to_the_minus_128(bits: int, members: int) -> None:
    for cipher in CIPHERS:
        try:
            packing = cipher.packing(FixedPoint(bits, 0, 64), members)
        except Unsafe:
            continue
        assert packing.width >= bits + (members - 1).bit_length()
        assert packing.bits <= 44
        failure = ckks.failure_bits(packing, members) if cipher is ckks else bfv.failure_bits(members)
        assert failure >= 128


def slot_errors(n: int, packing: Packing) -> np.ndarray:
    """How far the decryption of a sum of ``n`` at the ends of the range lies from integers, in units of the scale."""
    api, context = tenseal_context.tenseal().sealapi, tenseal_context.loaded(SECRET[ckks])
    data = context.seal_context().data
    total = None
    with tenseal_context.passage() as path:
        for vector in np.where(np.random.default_rng(n).random((n, 8192)) < 0.5, 2**15 - 1, -(2**15)):
            (chunk,) = ckks.encrypt(PUBLIC[ckks], pack(vector, packing), packing)
            ((_, cipher),) = tenseal_context.read(api, data, path, [(MemberId("m"), chunk)])
            total = cipher if total is None else (api.Evaluator(data).add_inplace(total, cipher), total)[1]
    plain = api.Plaintext()
    api.Decryptor(data, context.secret_key().data).decrypt(total, plain)
    reals = np.array(api.CKKSEncoder(data).decode_complex(plain))
    both = np.concatenate([reals.real, reals.imag])
    return (both - np.rint(both)) * 2.0 ** ckks.scale_bits(packing)


def test_the_error_of_a_slot_is_what_the_bound_says_and_grows_with_the_root_of_the_inputs() -> None:
    packing = ckks.packing(SIXTEEN, 16)
    one = np.concatenate([slot_errors(1, packing) for _ in range(8)])
    sixteen = np.concatenate([slot_errors(16, packing) for _ in range(3)])
    assert 0.9 < one.std() / ckks.DEVIATION < 1.1
    assert 0.9 < sixteen.std() / (4 * ckks.DEVIATION) < 1.1
    assert 8 * np.abs(sixteen).max() < ckks.error_bound(packing) * 2.0 ** ckks.scale_bits(packing)


def test_no_low_order_residue_is_in_a_released_sum() -> None:
    for cipher in CIPHERS:
        vectors = np.random.default_rng(5).integers(-(2**15), 2**15, (3, 9000))
        released = opened(cipher, vectors) / 2.0**SIXTEEN.fraction_bits
        assert np.array_equal(released * 2**12, np.rint(released * 2**12))


def test_the_plain_modulus_is_far_above_the_noise_of_sixty_four_inputs() -> None:
    api, context = tenseal_context.tenseal().sealapi, tenseal_context.loaded(SECRET[bfv])
    data = context.seal_context().data
    packing, total = bfv.packing(SIXTEEN, 64), None
    with tenseal_context.passage() as path:
        for _ in range(64):
            (chunk,) = bfv.encrypt(PUBLIC[bfv], np.full(4096, -1), packing)
            ((_, cipher),) = tenseal_context.read(api, data, path, [(MemberId("m"), chunk)])
            total = cipher if total is None else (api.Evaluator(data).add_inplace(total, cipher), total)[1]
    assert api.Decryptor(data, context.secret_key().data).invariant_noise_budget(total) >= 5  # bits; none left is wrong


# Masked CKKS: the ring of the ciphertexts


def masked_sum(vectors: np.ndarray, encoding: FixedPoint = SIXTEEN) -> np.ndarray:
    """The sum under masks that cancel but for one, which the opener takes out."""
    members, dimension = vectors.shape
    packing, streams = ckks_coefficients.packing(encoding, members), [keyed(n) for n in range(members)]
    inputs = {}
    for n, (name, vector) in enumerate(zip(names(members), vectors, strict=True)):
        mine = [Stream(streams[n]), *([Stream(streams[n - 1], subtract=True)] if n else [])]
        inputs[name] = ckks_coefficients.encrypt(PUBLIC[ckks], pack(vector, packing), packing, mine)
    left = [Stream(streams[-1], subtract=True)]
    total = ckks_coefficients.open_sum(SECRET[ckks], inputs, packing.count(dimension), packing, left)
    return unpack(total, packing, dimension, encoding, members)


def keyed(number: int) -> Secret:
    return Secret(hashlib.sha256(f"stream {number}".encode()).digest())


def test_masked_ckks_is_exact_for_sixty_four_members_at_the_ends_of_the_range() -> None:
    assert ckks_coefficients.packing(SIXTEEN, 64).per == 2
    for vectors in worst(64, 8192)[:4]:
        assert np.array_equal(masked_sum(vectors), vectors.sum(0))


def test_masked_ckks_gives_out_no_packing_that_fails_or_whose_sum_wraps() -> None:
    assert [ckks_coefficients.packing(SIXTEEN, n).per for n in (2, 64, 65, 200)] == [2, 2, 1, 1]
    for members in (2, 16, 64, 128, 256):
        assert ckks_coefficients.failure_bits(members) > 140
        assert ckks_coefficients.error_bound(members) < 1 << 13
        lowest = Packing(ckks_coefficients.SUM_BITS, 1).lowest
        assert residues.Q // 2 > (-lowest << ckks_coefficients.SCALE_BITS) + (1 << 13)
    for encoding, members in [(FixedPoint(45, 20, 64), 3), (SIXTEEN, 400)]:
        with pytest.raises(Unsafe, match="not exact"):
            ckks_coefficients.packing(encoding, members)


@given(st.lists(st.integers(-(2**44), 2**44), min_size=1, max_size=8), st.data())
def test_encodings_add_up_exactly_over_the_whole_range_of_a_sum(values: list[int], data: st.DataObject) -> None:
    parts = [data.draw(st.integers(-(2**43), 2**43)) for _ in values]
    rest = [value - part for value, part in zip(values, parts, strict=True)]
    q, scale = np.uint64(residues.Q), ckks_coefficients.SCALE_BITS
    summed = (residues.scaled(np.array(parts), scale) + residues.scaled(np.array(rest), scale)) % q
    assert np.array_equal(summed, residues.scaled(np.array(values), scale))
    assert np.array_equal(residues.centred(summed), np.array(values) << scale)


@pytest.mark.parametrize("members", [1, 3, 64, 1000])
def test_a_coefficients_bound_and_its_chance_to_fail_are_those_of_hoeffdings_inequality(members: int) -> None:
    """2 exp(-2 t**2 / n): one error in [-1/2, 1/2] for the coefficient and each of 4096 of the secret, of each member."""
    terms, values = members * 4097, 2.0**31
    bound = ckks_coefficients.error_bound(members)
    chance = math.log2(2 * values) - 2 * (bound - 1) ** 2 / terms / math.log(2)  # 1 is for the rounding to integers
    assert chance == pytest.approx(-128, abs=1e-6)
    half_a_step = 2**13 - 1
    fails = math.log2(2 * values) - 2 * half_a_step**2 / terms / math.log(2)
    assert ckks_coefficients.failure_bits(members) == pytest.approx(-fails, rel=1e-12)


def test_a_mask_is_the_low_sixty_bits_of_aes_in_counter_mode_and_the_next_word_where_they_are_no_residue() -> None:
    key = bytes(range(32))
    words = np.frombuffer(Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * 40)), "<u8")
    low = [int(word) & (2**60 - 1) for word in words]
    assert residues.Uniform(key).draw(30).tolist() == low[:30]
    half = 1 << 59
    held = [word for word in low[:20] if word < half]
    after = [word for word in low[20:] if word < half]
    drawn = residues.Uniform(key, half).draw(20).tolist()
    assert drawn[: len(held)] == held
    assert drawn[len(held) :][: len(after)] == after[: 20 - len(held)]


def test_masks_are_residues_whatever_had_to_be_skipped_and_both_sides_draw_the_same() -> None:
    below = 1 << 59  # half of all words are skipped, where once in 2**46 is
    sides = [residues.Uniform(b"k" * 32, below) for _ in range(2)]
    for _ in range(3):
        one, two = (side.draw(8192).copy() for side in sides)
        assert one.max() < below
        assert len(one) == 8192
        assert np.array_equal(one, two)
    whole = np.concatenate([residues.Uniform(b"k" * 32).draw(8192).copy() for _ in range(1)])
    counts = np.bincount((whole >> np.uint64(52)).astype(int), minlength=256)
    assert ((counts - 32) ** 2 / 32).sum() < 390  # chi-square, 255 degrees, p > 1e-7


@given(st.integers(1, 40), st.sampled_from([1, 8191, 8192, 8193, 20000]), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_masks_that_are_added_and_taken_out_leave_nothing(streams: int, length: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, residues.Q, length).astype(np.uint64)
    masked, keys_ = values.copy(), [keyed(n) for n in range(streams)]
    residues.mask(masked, [Stream(key, subtract=n % 3 == 0) for n, key in enumerate(keys_)])
    assert masked.max() < residues.Q
    assert length < 100 or (masked != values).mean() > 0.99
    residues.mask(masked, [Stream(key, subtract=n % 3 != 0) for n, key in enumerate(keys_)])
    assert np.array_equal(masked, values)


def test_a_masked_sum_with_a_mask_too_few_or_too_many_is_no_sum() -> None:
    packing = ckks_coefficients.packing(SIXTEEN, 3)
    inputs = {name: ckks_coefficients.encrypt(PUBLIC[ckks], ONES, packing, [Stream(keyed(1))]) for name in names(3)}
    right = [Stream(keyed(1), subtract=True)] * 3
    assert np.array_equal(ckks_coefficients.open_sum(SECRET[ckks], inputs, 5, packing, right), ONES * 3)
    for wrong in (right[:2], [*right, right[0]], [*right[:2], Stream(keyed(2), subtract=True)], []):
        with pytest.raises(Forged, match="not on the grid"):
            ckks_coefficients.open_sum(SECRET[ckks], inputs, 5, packing, wrong)
    with pytest.raises(Forged, match="not on the grid"):  # another key
        ckks_coefficients.open_sum(ckks_coefficients.new_context(), inputs, 5, packing, right)


def test_another_format_of_seal_is_refused() -> None:
    (chunk,) = ckks.encrypt(PUBLIC[ckks], ONES, TWO)
    tenseal_context.check_format(chunk)
    for place, value in ((0, 0), (2, 17), (3, 3), (4, 9)):  # magic, header, major, minor
        other = bytearray(chunk)
        other[place] = value
        with pytest.raises(Forged, match="no ciphertext"):
            ckks.open_sum(SECRET[ckks], {MemberId("m"): (bytes(other),)}, 5, TWO)


# What is refused


def another_scale() -> tuple[bytes, ...]:
    api, context = tenseal_context.tenseal().sealapi, tenseal_context.loaded(PUBLIC[ckks])
    data = context.seal_context().data
    plain, cipher = api.Plaintext(), api.Ciphertext()
    api.CKKSEncoder(data).encode([1 + 1j], 2.0**30, plain)
    api.Encryptor(data, context.public_key().data).encrypt(plain, cipher)
    with tenseal_context.passage() as path:
        return (tenseal_context.write(cipher, path),)


ONES, TWO = np.ones(5, np.int64), Packing(18, 2)


def bad(cipher: ModuleType) -> dict[str, tuple[tuple[bytes, ...], str]]:
    made = cipher.encrypt(PUBLIC[cipher], ONES, TWO)
    other = tenseal_context.public_half(cipher.new_context())
    foreign = next(each for each in CIPHERS if each is not cipher)
    return {
        "nothing": ((b"",), "no ciphertext"),
        "noise": ((bytes(range(256)) * 40,), "no ciphertext"),
        "half a ciphertext": ((made[0][:30000],), "no ciphertext"),
        "another scheme": (foreign.encrypt(PUBLIC[foreign], ONES, TWO), "no ciphertext"),
        "another key": (cipher.encrypt(other, ONES, TWO), "not on the grid|longer|range"),
        "values behind the end": (cipher.encrypt(PUBLIC[cipher], np.ones(20, np.int64), TWO), "not on the grid|longer"),
        "values out of range": (cipher.encrypt(PUBLIC[cipher], ONES << 35, TWO), "range"),
    }


@ENDS
def test_one_bad_input_ends_the_sum_and_never_makes_a_wrong_one(cipher: ModuleType) -> None:
    vectors = np.arange(27).reshape(3, 9)
    assert np.array_equal(opened(cipher, vectors), vectors.sum(0))
    cases = bad(cipher) | ({"another scale": (another_scale(), "scale")} if cipher is ckks else {})
    for chunks, why in cases.values():
        with pytest.raises(Forged, match=why):
            opened(cipher, vectors, m1=chunks)


@pytest.mark.parametrize("cipher", CIPHERS, ids=["ckks", "bfv"])
def test_a_product_of_ciphertexts_is_of_another_size_and_refused(cipher: ModuleType) -> None:
    """Three polynomials open under the square of the key, of which a sum would show a part."""
    context = tenseal_context.loaded(PUBLIC[cipher])
    api, data = tenseal_context.tenseal().sealapi, context.seal_context().data
    (chunk,) = cipher.encrypt(PUBLIC[cipher], ONES, TWO)
    with tenseal_context.passage() as path:
        ((_, held),) = tenseal_context.read(api, data, path, [(MemberId("m0"), chunk)])
        api.Evaluator(data).square_inplace(held)
        squared = tenseal_context.write(held, path)
    with pytest.raises(Forged, match="m1 sent a ciphertext of another size or level"):
        opened(cipher, np.arange(27).reshape(3, 9), m1=(squared,))


@ENDS
def test_an_input_that_takes_anothers_away_leaves_no_ciphertext_and_is_refused(cipher: ModuleType) -> None:
    """Ciphertexts are malleable: whoever saw one could hand in its negation, and the sum were that of the others."""
    context = tenseal_context.loaded(PUBLIC[cipher])
    api, data = tenseal_context.tenseal().sealapi, context.seal_context().data
    packing = cipher.packing(SIXTEEN, 2)
    chunks = cipher.encrypt(PUBLIC[cipher], ONES, packing)
    with tenseal_context.passage() as path:
        ((_, held),) = tenseal_context.read(api, data, path, [(MemberId("m0"), chunks[0])])
        api.Evaluator(data).negate_inplace(held)
        negated = tenseal_context.write(held, path)
    with pytest.raises(Forged, match="inputs whose sum is no ciphertext"):
        cipher.open_sum(SECRET[cipher], {MemberId("m0"): chunks, MemberId("m1"): (negated,)}, 5, packing)


def length(number: int) -> bytes:
    """An integer as protocol buffers write it."""
    written = b""
    while number > 127:
        number, written = number >> 7, written + bytes([number & 127 | 128])
    return written + bytes([number])


def modulo_another_prime() -> bytes:
    """A public context as TenSEAL saves it, secure and of our size, whose first prime is the next one."""
    api = tenseal_context.tenseal().sealapi
    largest = api.CoeffModulus.Create(4096, [60, 60])
    (other,) = (prime for prime in largest if prime.value() != residues.Q)
    parameters, key = api.EncryptionParameters(api.SCHEME_TYPE.CKKS), api.PublicKey()
    parameters.set_poly_modulus_degree(4096)
    parameters.set_coeff_modulus([other, *api.CoeffModulus.Create(4096, [49])])
    api.KeyGenerator(api.SEALContext(parameters, True, api.SEC_LEVEL_TYPE.TC128)).create_public_key(key)
    saved = []
    for each in (parameters, key):
        with tenseal_context.passage() as path:
            each.save(str(path))
            saved.append(path.read_bytes())
    held = b"\x0a" + length(len(saved[1])) + saved[1]
    return b"\x0a" + length(len(saved[0])) + saved[0] + b"\x12" + length(len(held)) + held


def test_a_context_modulo_another_prime_is_refused_before_a_mask_is_drawn_for_it() -> None:
    """Masks are uniform modulo q: modulo a larger prime what is masked would show through."""
    context = modulo_another_prime()
    tenseal_context.check_public(context, "CKKS")  # of the right degree, sizes and kind
    with pytest.raises(Unsafe, match=f"ciphertexts modulo .*, not {residues.Q}"):
        ckks_coefficients.check_public(context)
    ckks_coefficients.check_public(PUBLIC[ckks])


def test_a_seal_of_another_version_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenseal_context, "VERSION", (4, 2))  # the one that is known; what is installed writes 4.3
    with pytest.raises(Missing, match="no ciphertext of SEAL 4.2") as fault:
        ckks.encrypt(PUBLIC[ckks], ONES, TWO)
    assert "pip install 'tenseal>=0.3.18,<0.4'" in fault.value.remedy


@ENDS
def test_a_public_context_opens_nothing(cipher: ModuleType) -> None:
    chunks = {name: cipher.encrypt(PUBLIC[cipher], ONES, TWO) for name in names(3)}
    with pytest.raises(ValueError, match="Secret key"):
        cipher.open_sum(PUBLIC[cipher], chunks, 5, TWO)
    cipher.check_public(PUBLIC[cipher])
    with pytest.raises(Unsafe):
        cipher.check_public(SECRET[cipher])
    with pytest.raises(Forged):
        cipher.check_public(b"no context")


@ENDS
def test_two_encryptions_of_one_vector_differ_and_take_eight_bytes_a_value(cipher: ModuleType) -> None:
    packing = cipher.packing(SIXTEEN, 16)
    packed = pack(np.zeros(8192, np.int64), packing)
    (one,), (two,) = (cipher.encrypt(PUBLIC[cipher], packed, packing) for _ in range(2))
    assert one != two
    assert len(one) / 8192 < 8.02


@ENDS
@pytest.mark.parametrize("in_memory", [True, False])
def test_nothing_is_left_on_a_disk(cipher: ModuleType, in_memory: bool, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tenseal_context, "IN_MEMORY", in_memory and hasattr(os, "memfd_create"))
    vectors = np.arange(27).reshape(3, 9)
    assert np.array_equal(opened(cipher, vectors), vectors.sum(0))
    with pytest.raises(Forged):
        opened(cipher, vectors, m1=(b"",))
    assert not list(tmp_path.iterdir())


@ENDS
def test_a_custodian_holds_no_more_files_after_many_sums_than_after_one(cipher: ModuleType) -> None:
    chunks = {name: cipher.encrypt(PUBLIC[cipher], ONES, TWO) for name in names(2)}
    cipher.open_sum(SECRET[cipher], chunks, 5, TWO)
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(5):
        cipher.open_sum(SECRET[cipher], chunks, 5, TWO)
        with pytest.raises(Forged):
            cipher.open_sum(SECRET[cipher], {MemberId("m0"): (b"",)}, 5, TWO)
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_a_wider_grid_encodes_the_same_whatever_its_fraction_bits() -> None:
    vectors = np.arange(27).reshape(3, 9)
    for fraction_bits in (0, 15):
        assert np.array_equal(opened(ckks, vectors, replace(SIXTEEN, fraction_bits=fraction_bits)), vectors.sum(0))
