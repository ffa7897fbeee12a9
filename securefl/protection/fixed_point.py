"""Reals as integers on a public grid, and integers as elements of a ring that cannot overflow.

A sum of ``n`` values of ``value_bits`` bits fits the ring if ``n <= 2**(ring_bits - value_bits)``; that is checked
before anything is trained.

Where the plan hides members, each member's share of the noise is added here: to the integers, before any scheme sees
them, so that a sum carries the shares of exactly those whose updates are in it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from securefl.errors import Fault, Unsafe
from securefl.keys import Secret
from securefl.protection import max_update, noise_share
from securefl.terms import DistributedDiscreteGaussian, FixedPoint, Plan, Update
from securefl.terms.uploads import upload_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 1 << 14  # values encoded at a time


class Unsound(Fault):
    """An update that has not the planned shape: nothing of it leaves."""

    exit_code = 2


def check_encoding(encoding: FixedPoint, members: int) -> None:
    """Check that a sum over ``members`` values cannot wrap around.

    Raises:
        Unsafe: it can, or the encoding is not one this code carries.
    """
    if encoding.ring_bits not in (32, 64) or not 2 <= encoding.value_bits <= min(encoding.ring_bits, 52):
        raise Unsafe(f"no such encoding: {encoding.value_bits} bits in a ring of {encoding.ring_bits}")
    if not 0 <= encoding.fraction_bits < encoding.value_bits + 16:
        raise Unsafe(f"{encoding.fraction_bits} fraction bits in {encoding.value_bits}-bit values")
    if members > encoding.capacity():
        what = f"a sum over {members} members can overflow: the encoding holds {encoding.capacity()}"
        raise Unsafe(what, "protocol.overflow")


def check_plan(plan: Plan) -> None:
    """Check that a sum under this plan cannot wrap around, and its noise is what the plan is priced at.

    Raises:
        Unsafe: otherwise.
    """
    check_encoding(plan.cover.encoding, len(plan.cohort))
    event, encoding = plan.learning.event, plan.cover.encoding
    if not isinstance(event, DistributedDiscreteGaussian):
        return
    said = (event.clip_l2, event.dimension, event.fraction_bits)
    if said != (plan.learning.clip_l2, plan.dimension, encoding.fraction_bits):
        raise Unsafe("a price for another clip, dimension or grid than the plan's own")
    if event.honest > plan.cover.honest:
        raise Unsafe(f"a price for {event.honest} honest shares of noise, where {plan.cover.honest} are sure")
    if event.deviation > noise_share.LARGEST:
        found, most = float(event.deviation), noise_share.LARGEST
        raise Unsafe(f"shares of deviation {found:.0f} grid units; at most {most}: lower fraction_bits")
    if event.longest >= 1 << (encoding.value_bits - 1):
        found, bits = event.longest, encoding.value_bits
        raise Unsafe(f"an update and its noise reach {found} grid units, more than {bits} bits hold")


def encode(values: NDArray[np.float64], encoding: FixedPoint) -> NDArray[np.int64]:
    """The nearest grid points, clamped to ``value_bits``, 0 for what is no number: (dimension,) -> (dimension,).

    Nothing is refused because of a value: a refusal would tell who asked on which side of a bound a private value lies.
    """
    top = (1 << (encoding.value_bits - 1)) - 1
    scale = float(1 << encoding.fraction_bits)
    integers = np.empty(len(values), np.int64)
    for start in range(0, len(values), BLOCK):
        scaled = np.nan_to_num(values[start : start + BLOCK] * scale, nan=0.0)  # an infinity is clamped below
        integers[start : start + BLOCK] = np.clip(np.rint(scaled), -top - 1, top)
    return integers


def outside(values: NDArray[np.float64], encoding: FixedPoint) -> int:
    """How many values `encode` changes by more than rounding: for the site's operator alone, never for a message."""
    top = (1 << (encoding.value_bits - 1)) - 1
    scaled = np.rint(values * float(1 << encoding.fraction_bits))
    return int((~((scaled >= -top - 1) & (scaled <= top))).sum())


def held(values: NDArray[np.float64], plan: Plan) -> NDArray[np.float64]:
    """The values, held to what `max_update.longest` says, with 0 for what is no number: (dimension,), in grid units."""
    most, grid = max_update.longest(plan), float(1 << plan.cover.encoding.fraction_bits)
    entry = math.floor(most.entry)  # which rounding does not take a value beyond
    weights = [place for place, _ in upload_of(plan.sharing).weighed(plan.dimension)]
    values = np.clip(np.nan_to_num(values, nan=0.0), -entry, entry)
    values[weights] = np.clip(values[weights], 0.0, grid)  # at most 1 each
    if _l2(np.rint(values)) <= most.l2:
        return values
    l2 = most.l2 - math.sqrt(plan.dimension)  # there is room for rounding
    changes = values.copy()  # these are shortened, and no weight is
    changes[weights] = 0
    room = math.sqrt(max(0.0, l2**2 - float(np.sum(values[weights] ** 2))))
    changes *= room / _l2(changes) * (1 - 2.0**-40)
    changes[weights] = values[weights]
    return changes


def encode_update(update: Update, plan: Plan, rand: Secret) -> NDArray[np.int64]:
    """An update of the planned shape, on the plan's grid, with this member's share of the noise if the plan has one.

    Args:
        update: the change that leaves.
        plan: checked by `check_plan`.
        rand: fresh for every update; the share is drawn from it.

    Whatever the values are, something of this shape leaves: they are clamped, never refused.

    Raises:
        Unsound: it has another shape, which follows from the plan and the code alone.
    """
    if update.values.shape != (plan.dimension,):
        raise Unsound(f"an update of shape {update.values.shape} where the plan says {plan.dimension} values")
    event, encoding = plan.learning.event, plan.cover.encoding
    if isinstance(event, DistributedDiscreteGaussian):
        integers = encode(_short(update.values, float(event.clip_l2)), encoding)
        norm = _l2(integers.astype(np.float64))
        assert norm <= float(event.sensitivity) * (1 + 2.0**-30), "the sensitivity has room for rounding"
        return integers + noise_share.draw(rand, plan.dimension, event.deviation)
    scale = float(1 << encoding.fraction_bits)
    return encode(held(update.values * scale, plan) / scale, encoding)


def _short(values: NDArray[np.float64], clip_l2: float) -> NDArray[np.float64]:
    """The values, scaled to the clip where they are longer; zeros where they have no length: (dimension,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        norm = _l2(values)
    if not np.isfinite(norm):
        return np.zeros_like(values)
    return values if norm <= clip_l2 else values * (clip_l2 / norm * (1 - 2.0**-40))


def _l2(values: NDArray[np.float64]) -> float:
    """The length of a vector, however long: numpy adds in pairs, a product of two vectors one by one."""
    return float(np.sqrt(np.sum(np.square(values))))


def to_ring(values: NDArray[np.int64], ring_bits: int) -> NDArray[np.unsignedinteger]:
    """Two's complement modulo 2**ring_bits, little endian."""
    return values.astype("<u4" if ring_bits == 32 else "<u8")


def from_ring(elements: NDArray[np.unsignedinteger], ring_bits: int, width: int) -> NDArray[np.int64]:
    """The integers whose `to_ring` is ``elements`` modulo 2**width, as long as ``width`` bits with sign hold them."""
    spare = ring_bits - width
    signed = (elements << elements.dtype.type(spare)).view("<i4" if ring_bits == 32 else "<i8")
    return (signed >> spare).astype(np.int64)


def ring_dtype(ring_bits: int) -> str:
    """Return how one element lies in memory."""
    return "<u4" if ring_bits == 32 else "<u8"
