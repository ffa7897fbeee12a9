"""Sums alone are decoded: one member's own, once turned into numbers, is found; and there is no other place to do it.

What a trace must say of every strategy, protection and level is checked where these are, beside the plain references.
"""

from __future__ import annotations

import ast
from collections.abc import Callable

import numpy as np
import pytest

from securefl import keys, wire
from securefl.errors import Unsafe
from securefl.protection import ckks_slots, fixed_point, mask_streams, masking_terms, packing, schemes
from securefl.protection.encrypted import Encrypted, sealed_at
from securefl.terms import Aggregate, MemberId, Plan, Scheme, Sharing
from tests.strategy.test_strategy import ENCODING, HOLDER, OPENS, opened
from tests.support.decoded import Trace, traced
from tests.support.nested import LAYOUT, trained
from tests.test_architecture import ROOT, SOURCES, calls

NAMES = [MemberId(f"m{n}") for n in range(5)]


def played(scheme: Scheme, besides: Callable[[Plan, bytes], object] | None = None) -> Trace:
    """One round of five members, and what somebody does ``besides`` with the plan and the first one's sealed update."""
    half, seals = schemes.member_half(scheme), []
    seal = type(half).seal

    def kept(self, me, plan, *rest):
        seals.append((plan, seal(self, me, plan, *rest)))
        return seals[-1][1]

    with traced() as trace, pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(half), "seal", kept)
        opened(scheme, NAMES, NAMES[:4], 1, Sharing(), lambda name, _: trained(name, 1, np.zeros(LAYOUT.entries)))
        if besides is not None:
            plan, (sealed, _) = seals[0]
            besides(plan, sealed)
    return trace


SCHEMES = [Scheme.CLEAR, Scheme.MASKING, Scheme.CKKS]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_round_opens_one_sum(scheme) -> None:
    trace = played(scheme)
    assert len(trace.check()) == len(trace.sums) == 1
    assert len(trace.read) == (scheme is not Scheme.CLEAR)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_members_integers_in_the_place_of_a_sum_are_found(scheme) -> None:
    trace = played(scheme)
    (given,) = trace.given.values()
    trace.sums[:] *= 2
    with pytest.raises(AssertionError, match="two sums of one plan"):
        trace.check()
    for few in (1, 2, 3):
        trace.sums[:] = [Aggregate(sum(given[:few]), tuple(NAMES[:few]), ENCODING)]
        with pytest.raises(AssertionError, match="a sum of no plan's members"):
            trace.check()
    trace.sums[:] = [Aggregate(sum(given), tuple(NAMES[:1]), ENCODING)]
    with pytest.raises(AssertionError, match="over too few"):
        trace.check()


def masked(plan: Plan, sealed: bytes) -> None:
    """A coordinator that reads one member's vector out of the ring, masks and all."""
    elements = wire.decode(sealed, masking_terms.Masked).elements
    width = mask_streams.sum_bits(plan)
    ((_, block),) = packing.unpacked(elements, plan.dimension, width, "<u4")
    fixed_point.from_ring(block, plan.cover.encoding.ring_bits, width)


def encrypted(plan: Plan, sealed: bytes) -> None:
    """A custodian that decrypts one member's input, past all that keeps it from that."""
    place = sealed_at(plan.run, plan.round, wire.plan_hash(plan), NAMES[0])
    chunks = wire.decode(keys.open_box(OPENS, "he-input", place, sealed), Encrypted).chunks
    packed = ckks_slots.packing(plan.cover.encoding, len(plan.cohort))
    ckks_slots.open_sum(HOLDER._secret, {NAMES[0]: chunks}, packed.count(plan.dimension), packed)


@pytest.mark.parametrize(("scheme", "besides"), [(Scheme.MASKING, masked), (Scheme.CKKS, encrypted)])
def test_one_members_seal_that_is_opened_besides_is_found(scheme, besides) -> None:
    trace = played(scheme, besides)
    assert len(trace.read) == 2
    with pytest.raises(AssertionError, match="something was read that is no sum"):
        trace.check()


def test_a_custodian_that_is_handed_one_input_opens_nothing() -> None:
    with pytest.raises(Unsafe, match="a sum over 1 members"):
        played(
            Scheme.CKKS, lambda plan, sealed: HOLDER.open_sum(HOLDER.prepare(plan, OPENS, {NAMES[0]: sealed}, {}, {}))
        )


CIPHERS = {
    "protection/ckks_slots.py": {"open_sum"}, "protection/bfv_coefficients.py": {"open_ring"},
    "protection/ckks_coefficients.py": {"open_sum"},
}  # fmt: skip
OPENING = {
    "protection/clear.py": {"ClearCoordinator.open"},
    "protection/masking.py": {"MaskingCoordinator.open"},
    "protection/encrypted.py": {"EncryptedCoordinator.open"},
}
PLACES = {
    # what a member sealed: it goes whole from its message to `add`, or to the custodian's `open_sum`
    "payload": {
        "protocol/member.py": {"_submitted"},
        "protocol/coordinator.py": {"on_submitted"},
        "protocol/custodian.py": {"_checked"},
        "protection/clear.py": {"ClearCoordinator.add"},
        "protection/masking.py": {"MaskingCoordinator.add"},
        "protection/encrypted.py": {"Holder._chunks"},
        "simulation/leakage_probe.py": {
            "_Watched.seal"
        },  # a bench's own eyes, at the member, which look and decode nothing
    },
    # its forms: each is made by its member's half, and read where it is added to a sum, in the ring
    "Bare": {"protection/clear.py": {"ClearMember.seal", "ClearCoordinator.add"}},
    "Masked": {"protection/masking.py": {"MaskingMember.seal", "MaskingCoordinator.add"}},
    "Encrypted": {"protection/encrypted.py": {"boxed", "Holder._chunks"}},
    # out of a ring
    "from_ring": {"protection/masking.py": {"MaskingCoordinator.open"}},
    # out of ciphertexts, and from the custodian to the coordinator
    "Decryptor": CIPHERS,
    "decrypt": {**CIPHERS, "keys.py": {"open_at_rest", "open_box"}},  # boxes hold shares of keys
    "secret_key": CIPHERS,
    "decode_complex": {"protection/ckks_slots.py": {"open_sum"}},
    "open_sum": {
        "site/agent.py": {"CustodianAgent._perform"},
        "protection/encrypted.py": {"EncryptedKeyHolder._opening"},
        "protection/masked_encryption.py": {"MaskedKeyHolder._opening"},
    },
    "open_ring": {"protection/bfv_coefficients.py": {"open_sum"}, "protection/masked_bfv_payload.py": {"open_sum"}},
    "Summed": {"protection/encrypted.py": {"Holder.open_sum"}},
    "FromCustodian": {"protection/encrypted.py": {"summed"}, "protocol/custodian.py": {"_what_became"}},
    # what a strategy is handed; it imports no protection, so it can read nothing else
    "Aggregate": {
        **OPENING,
        "simulation/measure.py": {"train_openly"},
    },  # of records in the open, in an arm without privacy
}


@pytest.mark.parametrize("name", PLACES)
def test_there_is_no_other_place_to_decode(name) -> None:
    found = {
        str(path.relative_to(ROOT / "securefl")): set(calls(ast.parse(text), name))
        for path in SOURCES
        if name in (text := path.read_text())
    }
    assert {path: places for path, places in found.items() if places} == PLACES[name]
