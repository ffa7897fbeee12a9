"""A CKKS sum is the very sum of the integers, or there is none."""

from __future__ import annotations

import tempfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl.errors import Forged, Unsafe
from securefl.protection import ckks_slots as slots
from securefl.terms import FixedPoint, MemberId

ENCODING = FixedPoint(24, 20, 32)
SECRET = slots.new_context()
PUBLIC = slots.public_half(SECRET)


def names(n: int) -> list[MemberId]:
    return [MemberId(f"m{i}") for i in range(n)]


def opened(vectors: np.ndarray, encoding: FixedPoint = ENCODING, **replaced: tuple[bytes, ...]) -> np.ndarray:
    inputs = {
        name: slots.encrypt(PUBLIC, vector, encoding) for name, vector in zip(names(len(vectors)), vectors, strict=True)
    }
    return slots.open_sum(
        SECRET, {**inputs, **{MemberId(k): v for k, v in replaced.items()}}, vectors.shape[1], encoding
    )


@given(
    st.integers(3, 8),
    st.sampled_from([1, 2047, 2048, 2049, 4095, 4096, 4097, 5000]),
    st.sampled_from([FixedPoint(24, 20, 32), FixedPoint(16, 4, 32), FixedPoint(35, 20, 64), FixedPoint(8, 0, 32)]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, deadline=None)
def test_the_sum_is_exact_up_to_the_ends_of_every_range(
    n: int, dimension: int, encoding: FixedPoint, seed: int
) -> None:
    slots.check_exact(encoding, n)
    rand = np.random.default_rng(seed)
    top = 1 << (encoding.value_bits - 1)
    vectors = rand.integers(-top, top, (n, dimension))
    vectors[:, rand.random(dimension) < 0.2] = top - 1
    vectors[:, rand.random(dimension) < 0.2] = -top
    total = opened(vectors, encoding)
    assert total.dtype == np.int64
    assert np.array_equal(total, vectors.sum(0))


def residues(n: int) -> np.ndarray:
    """How far the decryption of a sum of ``n`` lies from its grid, in reals."""
    api, context = slots.tenseal().sealapi, slots._loaded(SECRET)
    seal = context.seal_context().data
    total = None
    with slots._passage() as path:
        for vector in np.random.default_rng(n).integers(-(2**20), 2**20, (n, slots.VALUES)):
            (chunk,) = slots.encrypt(PUBLIC, vector, ENCODING)
            (cipher,) = slots._read(api, seal, path, [(MemberId("m"), chunk)])
            total = cipher if total is None else (api.Evaluator(seal).add_inplace(total, cipher), total)[1]
    plain = api.Plaintext()
    api.Decryptor(seal, context.secret_key().data).decrypt(total, plain)
    reals = np.array(api.CKKSEncoder(seal).decode_complex(plain))
    scaled = np.concatenate([reals.real, reals.imag]) * 2**20
    return (scaled - np.rint(scaled)) / 2**20


def test_the_error_is_a_fiftieth_of_its_bound_and_grows_with_the_root_of_the_inputs() -> None:
    one = np.concatenate([residues(1) for _ in range(4)]).std()
    sixteen = np.concatenate([residues(16) for _ in range(2)]).std()
    assert 0 < 50 * one < slots.error_bound(1)
    assert 50 * sixteen < slots.error_bound(16)
    assert 3 < sixteen / one < 5


@pytest.mark.parametrize(
    ("encoding", "members", "why"),
    [
        (FixedPoint(24, 20, 32), 64, "finer"),
        (FixedPoint(24, 23, 32), 2, "finer"),
        (FixedPoint(38, 20, 64), 3, "overflows"),
        (FixedPoint(24, 4, 32), 2, "overflows"),
    ],
)
def test_an_encoding_whose_sum_would_not_be_exact_is_refused(encoding: FixedPoint, members: int, why: str) -> None:
    with pytest.raises(Unsafe, match=why):
        slots.check_exact(encoding, members)


def test_the_usual_encoding_serves_up_to_sixty_three_members() -> None:
    for members in range(2, 64):
        slots.check_exact(ENCODING, members)


def another_scale() -> tuple[bytes, ...]:
    api, context = slots.tenseal().sealapi, slots._loaded(PUBLIC)
    seal = context.seal_context().data
    plain, cipher = api.Plaintext(), api.Ciphertext()
    api.CKKSEncoder(seal).encode([1 + 1j], 2.0**30, plain)
    api.Encryptor(seal, context.public_key().data).encrypt(plain, cipher)
    with slots._passage() as path:
        cipher.save(str(path))
        return (path.read_bytes(),)


ONES = np.ones(9, np.int64)
BAD = {
    "nothing": ((b"",), "no ciphertext"),
    "noise": ((bytes(range(256)) * 40,), "no ciphertext"),
    "half a ciphertext": ((slots.encrypt(PUBLIC, ONES, ENCODING)[0][:30000],), "no ciphertext"),
    "another scale": (another_scale(), "scale"),
    "another key": (slots.encrypt(slots.public_half(slots.new_context()), ONES, ENCODING), "not on the grid"),
    "a finer grid": (slots.encrypt(PUBLIC, ONES, replace(ENCODING, fraction_bits=22)), "not on the grid"),
    "values behind the end": (slots.encrypt(PUBLIC, np.ones(20, np.int64), ENCODING), "not on the grid"),
    "values out of range": (slots.encrypt(PUBLIC, ONES * 2**30, ENCODING), "range"),
}


@pytest.mark.parametrize("what", BAD)
def test_one_bad_input_ends_the_sum_and_never_makes_a_wrong_one(what: str) -> None:
    chunks, why = BAD[what]
    vectors = np.arange(27).reshape(3, 9)
    assert np.array_equal(opened(vectors), vectors.sum(0))
    with pytest.raises(Forged, match=why):
        opened(vectors, m1=chunks)


def test_a_public_context_opens_nothing() -> None:
    chunks = {name: slots.encrypt(PUBLIC, ONES, ENCODING) for name in names(3)}
    with pytest.raises(ValueError, match="Secret key"):
        slots.open_sum(PUBLIC, chunks, 9, ENCODING)
    slots.check_public(PUBLIC)
    with pytest.raises(Unsafe):
        slots.check_public(SECRET)
    with pytest.raises(Forged):
        slots.check_public(b"no context")


def test_two_encryptions_of_one_vector_differ_and_take_sixteen_bytes_a_value() -> None:
    vector = np.zeros(slots.VALUES, np.int64)
    (one,), (two,) = slots.encrypt(PUBLIC, vector, ENCODING), slots.encrypt(PUBLIC, vector, ENCODING)
    assert one != two
    assert len(one) / slots.VALUES < 16.5


def test_no_file_is_left_behind(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened(np.arange(27).reshape(3, 9))
    with pytest.raises(Forged):
        opened(np.arange(27).reshape(3, 9), m1=(b"",))
    assert not list(tmp_path.iterdir())
