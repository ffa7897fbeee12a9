"""A Gaussian, rounded to whole grid units, drawn exactly: its price is a true Gaussian's, with nothing left out.

A value is ``round(centre + deviation * z)`` where z is a normal by Box and Muller (1958): radius and angle are two
uniform *reals*, of which as many bits are drawn as the rounding needs (lazily, after Karney 2016). 64 bits of each and
float64 decide all but about one value in 500,000; for these the interval that the bits leave is computed with
whole numbers, and bits are added until both its ends round alike. So nothing of float64 is in the result: no tail that
ends, no levels of a radius, no residue by which sum and noise are told apart (Mironov 2012).

What rests on float64 is a bound on its error alone: ``TOLERANCE``, eight times what an analysis gives (below). Tests
hold it against the exact values. It does not run in constant time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 2.0**-40  # of z from 64 bits by float64, where the radius word is within EDGE: at most 2**-43
EDGE = 1 << 44  # a radius word this near 0 or 2**64, once in 2**19 pairs, is left to whole numbers
BLOCK = 1 << 13  # pairs at a time
_FIRST = 4  # words of 64 bits that whole numbers begin with
_GUARD = 64  # bits of fractions beyond those drawn

More = Callable[[int, int], tuple[int, int]]  # pair, words: radius and angle as so many 64-bit words, one prefix always


def approximate(radius: NDArray[np.uint64], angle: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Standard normal values from 64-bit words, all cosines before all sines: (pairs,) twice -> (2 * pairs,).

    The error, for a radius word w within ``EDGE`` of neither end: u = w / 2**64 stands for a real in a cell of relative
    width at most 2**-44, and float64 adds 2**-53, so -2 ln u is right to 2**-42.7 where u < 2**-20, hence r > 5, and to
    2**-51.9 where u is near 1, hence r > 2**-9.6. Either way r is right to 2**-43.4, and cosine and sine to 2**-48.
    """
    length = np.sqrt(-2.0 * np.log((radius.astype(np.float64) + 0.5) * 2.0**-64))
    turned = angle.astype(np.float64) * (2.0 * math.pi * 2.0**-64)
    return np.concatenate([length * np.cos(turned), length * np.sin(turned)])


def rounded(
    centre: NDArray[np.float64], deviation: Fraction, radius: NDArray[np.uint64], angle: NDArray[np.uint64], more: More
) -> NDArray[np.float64]:
    """``centre`` plus normal noise of this deviation, each rounded to the nearest whole number: (size,) -> (size,).

    Args:
        centre: finite, in grid units.
        deviation: above 0, in grid units.
        radius: fresh uniform words, one for two values: (pairs,).
        angle: the same.
        more: the same words with more behind them, as whole numbers.
    """
    found = np.empty(len(centre))
    for start in range(0, len(radius), BLOCK):  # pairs that stay in the cache
        part = slice(start, start + BLOCK)
        held = slice(2 * start, 2 * start + 2 * len(radius[part]))
        found[held] = _block(centre[held], deviation, radius[part], angle[part], partial(_from, more, start))
    return found


def _from(more: More, start: int, pair: int, words: int) -> tuple[int, int]:
    return more(start + pair, words)


def _block(
    centre: NDArray[np.float64], deviation: Fraction, radius: NDArray[np.uint64], angle: NDArray[np.uint64], more: More
) -> NDArray[np.float64]:
    made = centre + float(deviation) * approximate(radius, angle)[: len(centre)]
    whole = np.rint(made)
    near = 0.5 - np.abs(made - whole)  # how far from where rounding changes
    unsure = ~(near > float(deviation) * TOLERANCE + np.abs(made) * 2.0**-50)  # a NaN is unsure too
    edge = np.nonzero((radius < np.uint64(EDGE)) | (radius > np.uint64((1 << 64) - EDGE)))[0]
    both = np.concatenate([edge, edge + len(radius)])
    unsure[both[both < len(centre)]] = True
    for place in np.nonzero(unsure)[0]:
        half, pair = divmod(int(place), len(radius))
        whole[place] = exactly(Fraction(float(centre[place])), deviation, half == 1, pair, more)
    return whole


def exactly(centre: Fraction, deviation: Fraction, sine: bool, pair: int, more: More) -> int:  # noqa: FBT001
    """The one whole number that these reals round to; more bits are drawn until there is one."""
    words = _FIRST
    while True:
        low, high = (
            math.floor(centre + deviation * end + Fraction(1, 2)) for end in normal(*more(pair, words), words, sine)
        )
        if low == high:
            return low
        words *= 2


def normal(radius: int, angle: int, words: int, sine: bool) -> tuple[Fraction, Fraction]:  # noqa: FBT001
    """Two numbers between which the normal value lies, whatever bits come after these."""
    bits, places = 64 * words, 64 * words + _GUARD
    if radius == 0:  # the logarithm of a real that may be 0 has no bound yet
        return Fraction(-(1 << 64)), Fraction(1 << 64)
    shortest = math.isqrt(max(0, 2 * _minus_ln(radius + 1, bits, places) - _SLACK) << places)
    longest = math.isqrt((2 * _minus_ln(radius, bits, places) + _SLACK) << places) + 1
    turned, width = _turned(angle, bits, places, sine), (8 << (places - bits)) + _SLACK  # 2 pi cells, rounded up
    ends = [length * (turned + way) for length in (shortest, longest) for way in (-width, width)]
    return Fraction(min(ends), 1 << 2 * places), Fraction(max(ends), 1 << 2 * places)


_SLACK = 1 << 20  # of 2**-places: what cutting off the terms of the series below adds up to is far less


def _minus_ln(numerator: int, bits: int, places: int) -> int:
    """-ln(numerator / 2**bits) in units of 2**-places, for 0 < numerator <= 2**bits."""
    shift = bits + 1 - numerator.bit_length()
    part = numerator << shift  # part / 2**bits is in [1, 2), and ln x = 2 artanh((x - 1) / (x + 1))
    one = 1 << bits
    return shift * _ln2(places) - 2 * _artanh(((part - one) << places) // (part + one), places)


@cache
def _ln2(places: int) -> int:
    return 2 * _artanh((1 << places) // 3, places)


def _artanh(x: int, places: int) -> int:
    """The series x + x**3 / 3 + ..., for 0 <= x <= 1/3."""
    square, term, total, n = x * x >> places, x, 0, 1
    while term:
        total += term // n
        term = term * square >> places
        n += 2
    return total


@cache
def _half_pi(places: int) -> int:
    """Pi / 2 = 8 arctan(1/5) - 2 arctan(1/239) (Machin)."""

    def arctan(inverse: int) -> int:
        term, total, n = (1 << places) // inverse, 0, 0
        while term:
            total += (-1) ** n * (term // (2 * n + 1))
            term //= inverse * inverse
            n += 1
        return total

    return 8 * arctan(5) - 2 * arctan(239)


def _turned(angle: int, bits: int, places: int, sine: bool) -> int:  # noqa: FBT001
    """The cosine, or sine, of 2 pi * angle / 2**bits in units of 2**-places, of either sign."""
    quarter, rest = divmod(angle, 1 << (bits - 2))
    x = rest * _half_pi(places) >> (bits - 2)  # in [0, pi / 2)
    quarter = (quarter + 3) % 4 if sine else quarter  # sin t = cos(t - pi / 2)
    square, term, n = x * x >> places, (x if quarter % 2 else 1 << places), quarter % 2
    total = 0
    while term:
        total += term
        term = -(term * square >> places) // ((n + 1) * (n + 2))
        n += 2
    return total if quarter in (0, 3) else -total  # cos(t + pi / 2) = -sin t; cos(t + pi) = -cos t
