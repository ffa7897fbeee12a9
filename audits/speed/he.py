"""What it costs to encrypt an update: our schemes beside TenSEAL's tutorial context and NVFLARE-like parameters.

Arms take turns in one process on one thread, each on the same 16-bit grid integers, from integers to the bytes that are
sent. Time is CPU time; what is compared is the median over turns of the ratio of two arms of the same turn, so what
else the machine does falls out. Bytes per value stand beside it.

`ckks`, `bfv` and their masked forms are what a member of 16 does: 16 keystreams where there are masks, and the box to
the custodian. `bare ckks` and `bare bfv` are the same code without box and masks. `open` is what the custodian does
once inputs are added: decrypt, take out 16 keystreams, decode and check.

`tutorial` is a degree of 8192, primes of 60 + 40 + 40 + 60 bits, a scale of 2**40 and `ckks_vector` of 4096 values, as
in TenSEAL's first tutorial; `nvflare-like` is the same with 60 + 40 + 60 bits, which needs no multiplication either.

    python -m audits.speed.he [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType

import numpy as np

from securefl import keys, wire
from securefl.keys import Secret
from securefl.protection import (
    bfv_coefficients,
    ckks_coefficients,
    ckks_slots,
    masked_bfv_payload,
    slot_packing,
    tenseal_context,
)
from securefl.protection.encrypted import Encrypted
from securefl.protection.mask_streams import Stream
from securefl.terms import FixedPoint, Hash, MemberId

ENCODING, MEMBERS, MOST = FixedPoint(16, 12, 32), 16, 64
FASTER, BYTES, SLOWER, OPEN_S = 5.0, 8.2, 1.2, 0.2
CIPHERS: dict[str, ModuleType] = {
    "ckks": ckks_slots, "bfv": bfv_coefficients, "masked-ckks": ckks_coefficients, "masked-bfv": masked_bfv_payload,
}  # fmt: skip
BARE = {"ckks": "bare ckks", "bfv": "bare bfv", "masked-ckks": "bare ckks", "masked-bfv": "bare bfv"}
SIZES, QUICK = (1_000_000,), (65_536,)
CUSTODIAN = Secret(bytes(range(32)))
STREAMS = [Stream(Secret(bytes([n]) * 32), subtract=bool(n % 2)) for n in range(MEMBERS)]

Arm = Callable[[np.ndarray], int]


def _vectors(primes: list[int]) -> Arm:
    ts = tenseal_context.tenseal()
    context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=primes)
    context.global_scale = 2.0**40

    def encrypt(values: np.ndarray) -> int:
        reals = values / 2.0**ENCODING.fraction_bits
        return sum(len(ts.ckks_vector(context, reals[i : i + 4096]).serialize()) for i in range(0, len(reals), 4096))

    return encrypt


def _ours(name: str) -> Arm:
    """Return what leaves a member of this scheme: masks, ciphertexts, box."""
    cipher = CIPHERS[name]
    public, packed = tenseal_context.public_half(cipher.new_context()), cipher.packing(ENCODING, MEMBERS)
    streams = (STREAMS,) if name.startswith("masked") else ()

    def encrypt(values: np.ndarray) -> int:
        chunks = cipher.encrypt(public, slot_packing.pack(values, packed), packed, *streams)
        given = wire.encode(Encrypted(Hash(bytes(32)), Hash(bytes(32)), len(values), ENCODING, chunks))
        return len(keys.seal_box(keys.public_half(CUSTODIAN), "he-input", b"here", given, Secret(os.urandom(32))))

    return encrypt


def _bare(cipher: ModuleType) -> Arm:
    """The same without masks and box."""
    public, packed = tenseal_context.public_half(cipher.new_context()), cipher.packing(ENCODING, MEMBERS)

    def encrypt(values: np.ndarray) -> int:
        return sum(map(len, cipher.encrypt(public, slot_packing.pack(values, packed), packed)))

    return encrypt


def arms() -> dict[str, Arm]:
    """Bytes that are sent for a vector of grid integers, by name."""
    others = {"tutorial": _vectors([60, 40, 40, 60]), "nvflare-like": _vectors([60, 40, 60])}
    bare = {"bare ckks": _bare(ckks_slots), "bare bfv": _bare(bfv_coefficients)}
    return others | bare | {name: _ours(name) for name in CIPHERS}


class Turns:
    """CPU seconds of each arm, turn by turn, and the bytes it sends."""

    def __init__(self, size: int, turns: int) -> None:
        made, values = arms(), np.random.default_rng(0).integers(-(2**15), 2**15, size)
        names = list(made)
        self.size = size
        self.spent: dict[str, list[float]] = {name: [] for name in names}
        self.sent: dict[str, int] = {}
        for turn in range(turns + 1):
            for place in range(len(names)):
                name = names[(turn + place) % len(names)]
                began = time.process_time()
                self.sent[name] = made[name](values)
                if turn:  # the first turn warms up
                    self.spent[name].append(time.process_time() - began)

    def ratio(self, one: str, other: str) -> float:
        """The median over turns of what one took over what the other took."""
        return statistics.median(a / b for a, b in zip(self.spent[one], self.spent[other], strict=True))

    def seconds(self, name: str) -> float:
        """The median over turns."""
        return statistics.median(self.spent[name])

    def bytes_each(self, name: str) -> float:
        """Return what is sent for one value."""
        return self.sent[name] / self.size


def open_seconds(name: str, size: int, turns: int) -> float:
    """What it takes to read a sum out of ciphertexts that are added, per million values: the median over turns."""
    cipher = CIPHERS[name]
    secret, packed = cipher.new_context(), cipher.packing(ENCODING, MEMBERS)
    masked = name.startswith("masked")
    values = np.random.default_rng(0).integers(-(2**15), 2**15, size)
    chunks = cipher.encrypt(
        tenseal_context.public_half(secret), slot_packing.pack(values, packed), packed, *((STREAMS,) if masked else ())
    )
    left = ([Stream(each.key, not each.subtract) for each in STREAMS],) if masked else ()
    spent = []
    for _ in range(turns + 1):
        began = time.process_time()
        total = cipher.open_sum(secret, {MemberId("m"): chunks}, packed.count(size), packed, *left)
        opened = slot_packing.unpack(total, packed, size, ENCODING, MEMBERS)
        spent.append(time.process_time() - began)
        assert np.array_equal(opened, values), "what was opened is what was sealed"
    return statistics.median(spent[1:]) * 1_000_000 / size


def exact_members() -> int:
    """The most members, of 64, whose masked CKKS sum of two values an integer is exact at both ends of the range."""
    secret = ckks_coefficients.new_context()
    public = tenseal_context.public_half(secret)
    for members in (16, 32, MOST):
        packed = ckks_coefficients.packing(ENCODING, members)
        for end in (-(2**15), 2**15 - 1):
            vector = np.full(8192, end)
            chunks = {
                MemberId(str(n)): ckks_coefficients.encrypt(
                    public, slot_packing.pack(vector, packed), packed, STREAMS[:1]
                )
                for n in range(members)
            }
            left = [Stream(STREAMS[0].key, subtract=True)] * members
            total = ckks_coefficients.open_sum(secret, chunks, packed.count(8192), packed, left)
            right = np.array_equal(slot_packing.unpack(total, packed, 8192, ENCODING, members), vector * members)
            if packed.per < 2 or not right:
                return members - 1
    return MOST


def figures(size: int, turns: int) -> list[dict[str, object]]:
    """Every figure, with its bar where it has one."""
    told: list[dict[str, object]] = []

    def tell(what: str, value: float, bar: float | None = None, *, at_least: bool = False) -> None:
        holds = bar is None or (value >= bar if at_least else value <= bar)
        told.append({"name": f"{size} values, {what}", "value": round(value, 3), "bar": bar, "holds": holds})

    found = Turns(size, turns)
    for name in found.spent:
        ours = name in CIPHERS
        tell(
            f"{name}: times as fast as the tutorial",
            found.ratio("tutorial", name),
            FASTER if ours else None,
            at_least=True,
        )
        tell(f"{name}: bytes a value", found.bytes_each(name), BYTES if ours else None)
        tell(f"{name}: ms", 1000 * found.seconds(name))
    for name, bare in BARE.items():
        bar = SLOWER if name == "masked-ckks" else None
        tell(f"{name}: times as long as {bare}, without box and masks", found.ratio(name, bare), bar)
    for name in CIPHERS:
        bar = OPEN_S if name == "masked-ckks" else None
        tell(f"{name}: s to open a sum, per million values", open_seconds(name, size, turns), bar)
    tell("masked-ckks: members whose sum is exact at the ends of the range", exact_members(), MOST, at_least=True)
    tell(
        "masked-ckks: bits of the bound on a wrong value, 64 members",
        ckks_coefficients.failure_bits(MOST),
        128,
        at_least=True,
    )
    return told


def main() -> int:
    """All rows; 1 if a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short vector, few turns")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--turns", type=int, default=None)
    given = parser.parse_args()
    told = []
    for size in QUICK if given.quick else SIZES:
        told += figures(size, given.turns or (3 if given.quick else 9))
    if given.json:
        command = "python -m audits.speed.he --json" + (" --quick" if given.quick else "")
        versions = {name: version(name) for name in ("tenseal", "numpy", "cryptography")}
        load = [round(each, 1) for each in os.getloadavg()]
        print(json.dumps({"figures": told, "command": command, "versions": versions, "load": load}, indent=1))
    else:
        for each in told:
            bar = "" if each["bar"] is None else f"  (bar {each['bar']}{'' if each['holds'] else ', not met'})"
            print(f"{each['name']:<86}{each['value']:>10}{bar}")
    return 0 if all(each["holds"] for each in told) else 1


if __name__ == "__main__":
    raise SystemExit(main())
