"""What is turned from a ring, or from ciphertexts, into numbers: written down where all of it must pass, beside what went in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from securefl import wire
from securefl.protection import ckks_slots, fixed_point, slot_packing, tenseal_context
from securefl.terms import Aggregate, Hash, Plan, Scheme, Sharing
from tests.support.nested import LAYOUT

SEALED = (Scheme.MASKING, Scheme.CKKS)


@dataclass
class Trace:
    """Members' integers by the plan they were for; whatever came out of a ring or a ciphertext; what strategies got."""

    plans: dict[Hash, Plan] = field(default_factory=dict)
    given: dict[Hash, list[np.ndarray]] = field(default_factory=dict)
    read: list[np.ndarray] = field(default_factory=list)
    sums: list[Aggregate] = field(default_factory=list)

    def check(self) -> list[Plan]:
        """The plans that were opened, each once: all that was read is their sums, over as many members as they ask for."""
        opened = [self._plan_of(each) for each in self.sums]
        assert len(set(opened)) == len(opened), "two sums of one plan"
        expected = Counter(part for name in opened for part in self._readable(name))
        found = Counter(each.tobytes() for each in self.read)
        assert found == expected, "something was read that is no sum, or a sum was read twice"
        alone = {part for name, all_ in self.given.items() for each in all_ for part in self._parts(name, each)}
        assert not alone & set(found), "one member's own was read"
        for name in opened:
            assert len(self.given[name][0]) == values_of(self.plans[name].sharing), "another number of sums"
        return [self.plans[name] for name in opened]

    def _plan_of(self, aggregate: Aggregate) -> Hash:
        """The one plan whose members' integers add up to this."""
        found = [name for name, each in self.given.items() if np.array_equal(sum(each), aggregate.total)]
        assert len(found) == 1, "a sum of no plan's members"
        members, least = len(self.given[found[0]]), self.plans[found[0]].cover.min_cohort
        assert len(aggregate.survivors) == members >= least, "a sum over too few"
        return found[0]

    def _readable(self, name: Hash) -> list[bytes]:
        """What opening this plan's sum turns into numbers; in the clear there is nothing to open."""
        return self._parts(name, sum(self.given[name])) if self.plans[name].cover.scheme in SEALED else []

    def _parts(self, name: Hash, integers: np.ndarray) -> list[bytes]:
        """Integers as they come out under a plan: from a ring whole, from ciphertexts packed, one after another."""
        plan = self.plans[name]
        if plan.cover.scheme is not Scheme.CKKS:
            return [integers.tobytes()]
        packed = slot_packing.pack(integers, ckks_slots.packing(plan.cover.encoding, len(plan.cohort)))
        filled = np.zeros(-(-len(packed) // ckks_slots.INTEGERS) * ckks_slots.INTEGERS, np.int64)
        filled[: len(packed)] = packed
        return [part.tobytes() for part in filled.reshape(-1, ckks_slots.INTEGERS)]


def values_of(sharing: Sharing) -> int:
    """How many values ``sharing.sums`` sums over a round's updates are, with the weights behind each."""
    of = sharing.attention
    shared = {each.name: each.entries for each in LAYOUT.tensors if not any(part in each.name for part in sharing.home)}
    keys = {name for name in shared if of is None or any(part in name for part in of.keys)}  # what each sum is over
    weights = len(keys) if of else int(bool(sharing.weightings))
    once = sum(entries for name, entries in shared.items() if name not in keys)
    return once + sharing.sums * (sum(shared[name] for name in keys) + weights)


@contextmanager
def traced() -> Iterator[Trace]:
    """All rounds inside, of whatever federation, are written down."""
    trace, api = Trace(), tenseal_context.tenseal().sealapi
    encode, from_ring, made, decryptor = (
        fixed_point.encode_update, fixed_point.from_ring, Aggregate.__init__, api.Decryptor,
    )  # fmt: skip

    def encoding(update, plan, rand):
        integers = encode(update, plan, rand)
        name = wire.plan_hash(plan)
        trace.plans[name] = plan
        trace.given.setdefault(name, []).append(integers.copy())
        return integers

    def leaving(elements, ring_bits, width):
        trace.read.append(from_ring(elements, ring_bits, width))
        return trace.read[-1].copy()

    def making(self, total, survivors, encoding):
        made(self, total, survivors, encoding)
        trace.sums.append(self)

    class Decrypting:
        def __init__(self, context, key):
            self.inner, self.encoder = decryptor(context, key), api.CKKSEncoder(context)

        def decrypt(self, cipher, plain):
            self.inner.decrypt(cipher, plain)
            slots = np.array(self.encoder.decode_complex(plain))
            trace.read.append(np.rint(np.concatenate([slots.real, slots.imag])).astype(np.int64))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_point, "encode_update", encoding)
        patch.setattr(fixed_point, "from_ring", leaving)
        patch.setattr(Aggregate, "__init__", making)
        patch.setattr(api, "Decryptor", Decrypting)
        yield trace
