"""A safetensors file, read without a framework: each tensor's name, shape and numbers, and what is said beside them.

The format is a length, a JSON header and one buffer. Here the header has one reading, and the tensors fill the buffer
without gap or overlap, so that no other reader finds other numbers in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securefl.audit import json_files
from securefl.errors import Tampered

META = "__metadata__"
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True, slots=True)
class TensorFile:
    """What a file holds."""

    tensors: Mapping[str, tuple[tuple[int, ...], bytes]]  # by name: the shape, and the bytes of its float32 numbers
    others: frozenset[str]  # those whose numbers are of another type: their bytes say something else
    said: Mapping[str, str]  # text that its writer put beside them


def read(path: Path, name: str) -> TensorFile:
    """The file; ``name`` is what a finding calls it.

    Raises:
        Tampered: it is missing, or no file of tensors that has one reading.
    """
    try:
        data = path.read_bytes()
    except OSError as fault:
        raise Tampered(name, f"missing: {fault.strerror}") from fault
    try:
        return parse(data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise Tampered(name, f"no tensors: {fault}") from fault


def parse(data: bytes) -> TensorFile:
    """The file in these bytes.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is none.
    """
    size = int.from_bytes(data[:8], "little")
    header = json_files.loads(data[8 : 8 + size])
    said = header.pop(META, {})
    if not all(isinstance(each, str) for each in said.values()):
        raise ValueError("something beside the tensors is no text")
    buffer, end = data[8 + size :], 0
    found: dict[str, tuple[tuple[int, ...], bytes]] = {}
    for name, each in sorted(header.items(), key=lambda item: _offsets(item[1])):
        start, stop = _offsets(each)
        shape = tuple(each["shape"])
        if not all(type(side) is int and side > 0 for side in shape):
            raise ValueError(f"{name} has no shape")
        if start != end or stop - start != WIDTHS[each["dtype"]] * math.prod(shape):
            raise ValueError(f"{name} does not stand where the one before it ends, or is not as long as its shape")
        found[name], end = (shape, buffer[start:stop]), stop
    if end != len(buffer):
        raise ValueError("more bytes than tensors")
    return TensorFile(found, frozenset(name for name in found if header[name]["dtype"] != "F32"), said)


def _offsets(each: Mapping[str, Any]) -> tuple[int, int]:
    start, stop = each["data_offsets"]
    if type(start) is not int or type(stop) is not int:
        raise ValueError("an offset that is no number")
    return start, stop
