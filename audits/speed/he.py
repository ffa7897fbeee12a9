"""What it costs to encrypt an update: our schemes beside TenSEAL's tutorial context and NVFLARE-like parameters.

Arms take turns in one process on one thread, each on the same 16-bit grid integers, from integers to the bytes that are
sent; a figure is the median over turns of the tutorial's CPU time over the arm's own of the same turn, per value, so
what else the machine does falls out. Bytes per value stand beside it.

`tutorial` is a degree of 8192, primes of 60 + 40 + 40 + 60 bits, a scale of 2**40 and `ckks_vector` of 4096 values, as
in TenSEAL's first tutorial; `nvflare-like` is the same with 60 + 40 + 60 bits, which needs no multiplication either.

    python -m audits.speed.he [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

from securefl.protection import bfv_coefficients, ckks_slots, digits, seal
from securefl.terms import FixedPoint

ENCODING, MEMBERS = FixedPoint(16, 12, 32), 16
FASTER, BYTES = 5.0, 8.2
OURS = ("ckks", "bfv")
SIZES, QUICK = (1_000_000,), (65_536,)


def _vectors(primes: list[int]) -> Callable[[np.ndarray], int]:
    ts = seal.tenseal()
    context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=primes)
    context.global_scale = 2.0**40

    def encrypt(values: np.ndarray) -> int:
        reals = values / 2.0**ENCODING.fraction_bits
        return sum(len(ts.ckks_vector(context, reals[i : i + 4096]).serialize()) for i in range(0, len(reals), 4096))

    return encrypt


def _ours(name: str) -> Callable[[np.ndarray], int]:
    cipher = ckks_slots if name == "ckks" else bfv_coefficients
    public, packed = seal.public_half(cipher.new_context()), cipher.packing(ENCODING, MEMBERS)

    def encrypt(values: np.ndarray) -> int:
        return sum(map(len, cipher.encrypt(public, digits.pack(values, packed), packed)))

    return encrypt


def arms() -> dict[str, Callable[[np.ndarray], int]]:
    """Bytes that are sent for a vector of grid integers, by name."""
    others = {"tutorial": _vectors([60, 40, 40, 60]), "nvflare-like": _vectors([60, 40, 60])}
    return others | {name: _ours(name) for name in OURS}


def measure(size: int, turns: int) -> dict[str, tuple[float, float, float]]:
    """For each arm: times as fast as the tutorial, milliseconds, and bytes, the last per value."""
    made, values = arms(), np.random.default_rng(0).integers(-(2**15), 2**15, size)
    names = list(made)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    spent: dict[str, list[float]] = {name: [] for name in names}
    sent: dict[str, int] = {}
    for turn in range(turns + 1):
        taken = {}
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            began = time.process_time()
            sent[name] = made[name](values)
            taken[name] = time.process_time() - began
        if turn:  # the first turn warms up
            for name in names:
                ratios[name].append(taken["tutorial"] / taken[name])
                spent[name].append(1000 * taken[name])
    return {
        name: (statistics.median(ratios[name]), statistics.median(spent[name]), sent[name] / size) for name in names
    }


def main() -> int:
    """All rows; 1 if a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short vector, few turns")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--turns", type=int, default=None)
    given = parser.parse_args()
    figures = []
    for size in QUICK if given.quick else SIZES:
        found = measure(size, given.turns or (3 if given.quick else 9))
        for name, (ratio, milliseconds, bytes_) in found.items():
            mine = name in OURS
            for what, value, bar, holds in (
                ("times as fast as the tutorial", ratio, FASTER, ratio >= FASTER),
                ("bytes a value", bytes_, BYTES, bytes_ <= BYTES),
                ("ms", milliseconds, None, True),
            ):
                figures.append(
                    {
                        "name": f"{size} values, {name}: {what}",
                        "value": round(value, 3),
                        "bar": bar if mine else None,
                        "holds": holds or not mine,
                    }
                )
            if not given.json:
                print(f"{size:<10}{name:<14}{ratio:6.2f}x  {milliseconds:8.1f} ms  {bytes_:6.2f} B", flush=True)
    if given.json:
        command = "python -m audits.speed.he --json" + (" --quick" if given.quick else "")
        versions = {name: version(name) for name in ("tenseal", "numpy")}
        print(json.dumps({"figures": figures, "command": command, "versions": versions}, indent=1))
    return 0 if all(figure["holds"] for figure in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
