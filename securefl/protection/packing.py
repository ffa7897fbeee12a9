"""Integers modulo 2**width, side by side without a bit between them, little endian.

Numpy does it in blocks that stay in the cache: 64 / gcd(bits, 64) integers of ``bits`` bits fill whole 64-bit words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 1 << 17  # integers at a time: whole words for every width, and few enough for the second-level cache


def size(count: int, width: int) -> int:
    """Bytes that ``count`` integers take."""
    return (count * width + 7) // 8


def pack(elements: NDArray[np.unsignedinteger], width: int) -> bytes:
    """``elements`` modulo 2**width: (count,) of u4 or u8 -> `size` bytes; the last byte's spare bits are zero.

    ``width`` is from 1 to the bits of an element.
    """
    if width == 8 * elements.itemsize:
        return elements.astype(elements.dtype.newbyteorder("<"), copy=False).tobytes()
    packed = bytearray(size(len(elements), width))
    for start in range(0, len(elements), BLOCK):
        part = elements[start : start + BLOCK]
        if len(part) < BLOCK:
            part = np.concatenate([part, np.zeros(-len(part) % 64, part.dtype)])
        written = _joined(part, width)
        begin = start * width // 8
        end = min(len(packed), begin + len(written))
        packed[begin:end] = written[: end - begin]
    return bytes(packed)


def unpacked(packed: bytes, count: int, width: int, dtype: str) -> Iterator[tuple[int, NDArray[np.unsignedinteger]]]:
    """Yield where each block begins, and its integers as ``dtype`` (u4 or u8), below 2**width.

    Raises:
        ValueError: ``packed`` is not `size` bytes, or its spare bits are not zero.
    """
    if len(packed) != size(count, width):
        raise ValueError(f"{len(packed)} bytes where {size(count, width)} belong")
    if count * width % 8 and packed[-1] >> (count * width % 8):
        raise ValueError("bits after the last integer")
    if width == 8 * np.dtype(dtype).itemsize:
        plain = np.frombuffer(packed, np.dtype(dtype).newbyteorder("<"))
        yield from ((start, plain[start : start + BLOCK]) for start in range(0, count, BLOCK))
        return
    for start in range(0, count, BLOCK):
        block = min(BLOCK, count - start)
        whole = block + -block % 64
        held = packed[start * width // 8 : start * width // 8 + size(block, width)]
        yield start, _parted(held.ljust(size(whole, width), b"\0"), whole, width, dtype)[:block]


def whole(packed: bytes, count: int, width: int, dtype: str) -> NDArray[np.unsignedinteger]:
    """All integers: (count,).

    Raises:
        ValueError: as for `unpacked`.
    """
    found = np.empty(count, dtype)
    for start, block in unpacked(packed, count, width, dtype):
        found[start : start + len(block)] = block
    return found


def _joined(part: NDArray[np.unsignedinteger], width: int) -> bytes:
    """A multiple of 64 integers as bytes."""
    if part.itemsize == 4:  # two at a time: half as many words to shift
        pairs = np.ascontiguousarray(part).view("<u8")
        low, bits = np.uint64((1 << width) - 1), 2 * width
        items = (pairs & low) | (((pairs >> np.uint64(32)) & low) << np.uint64(width))
    else:
        items, bits = part & np.uint64((1 << width) - 1), width
    columns, words = _shape(bits)
    across = np.ascontiguousarray(items.reshape(-1, columns).T)  # (columns, groups)
    joined = np.zeros((words, across.shape[1]), "<u8")
    for column, items in enumerate(across):
        word, shift = divmod(column * bits, 64)
        joined[word] |= items << np.uint64(shift)
        if shift + bits > 64:
            joined[word + 1] |= items >> np.uint64(64 - shift)
    return joined.T.tobytes()


def _parted(held: bytes, count: int, width: int, dtype: str) -> NDArray[np.unsignedinteger]:
    """Return what `_joined` made the bytes from: (count,)."""
    narrow = np.dtype(dtype).itemsize == 4
    bits = 2 * width if narrow else width
    columns, words = _shape(bits)
    joined = np.ascontiguousarray(np.frombuffer(held, "<u8").reshape(-1, words).T)  # (words, groups)
    across = np.empty((columns, joined.shape[1]), "<u8")
    for column in range(columns):
        word, shift = divmod(column * bits, 64)
        np.right_shift(joined[word], np.uint64(shift), out=across[column])
        if shift + bits > 64:
            across[column] |= joined[word + 1] << np.uint64(64 - shift)
    items = across.T.reshape(-1)
    low = np.uint64((1 << width) - 1)
    if not narrow:
        return items & low
    pairs = (items & low) | (((items >> np.uint64(width)) & low) << np.uint64(32))
    return pairs.view("<u4")[:count]


def _shape(bits: int) -> tuple[int, int]:
    """Return how many integers of ``bits`` bits fill how many 64-bit words exactly."""
    step = math.gcd(bits, 64)
    return 64 // step, bits // step
