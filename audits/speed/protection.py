"""What masking costs beside its own keystreams: a member, the coordinator, bytes on the wire, memory.

The floor draws the same number of AES-256-CTR bytes in 64 KiB chunks into one buffer and adds them, and does nothing
else. Arms take turns in one process on one thread; a figure is the median of the paired ratios of CPU time to the floor
of the same turn. Memory is the peak of a process that seals one update. A quick run states no bar for time: keys and
checks, which do not grow with the vector, weigh most there.

Where Flower is installed (`pip install flwr==1.41.0`, in an environment of its own) its own functions are one more arm:
the same update and number of masks, through `quantize`, `pseudo_rand_gen`, and the sums and modulus that its client
applies to them.

`--many N` measures the coordinator alone, with N members, none and 30 % of whom dropped.

    python -m audits.speed.protection [--quick] [--many 500] [--json]
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from securefl import keys, wire
from securefl.keys import Secret
from securefl.protection import fixed_point, packing
from securefl.protection.mask_streams import Stream, mask, sum_bits
from securefl.protection.masking import MaskingCoordinator, MaskingMember, _opened
from securefl.protection.masking_terms import Masked, Private, Public, Relayed, Revealed, Survivors
from securefl.protocol.messages import Submitted
from securefl.terms import FixedPoint, MemberId, Plan, RunId, Update
from tests.support.sums import sum_of
from tests.support.worlds import EVENT, World, identity, seat

BAR, BYTES_BAR, BYTES_SPARE, MEMORY_BAR, MANY_BAR = 1.3, 1.02, 2048, 600, 1.1
PEERS = 32
FLOWER = "Flower's own functions"
CHUNK = 64 * 1024

Figure = dict[str, Any]
Arm = Callable[[], None]


class Cohort:
    """A round of ``n`` enrolled members, ready to seal."""

    def __init__(self, n: int, dimension: int, width: int = 24) -> None:
        self.names = [MemberId(f"m{i:03d}") for i in range(n)]
        threshold = (n + 1) // 2 + 1
        plan = World().coordinator.state.course.plan
        cover = replace(plan.cover, threshold=threshold, min_cohort=3, colluding=1, encoding=FixedPoint(width, 16, 32))
        self.plan: Plan = replace(plan, cohort=tuple(map(seat, self.names)), cover=cover, dimension=dimension)
        self.member, self.coordinator = MaskingMember(), MaskingCoordinator()
        self.box = {name: _secret(f"box {name}") for name in self.names}
        boxes = {name: keys.public_half(self.box[name]) for name in self.names}
        run = RunId(self.plan.run)
        self.enrolment = {
            name: self.member.enrol(name, run, 1, threshold, boxes, identity(name), _secret(f"enrol {name}"))
            for name in self.names
        }
        self.enrolled = {name: self.enrolment[name].public for name in self.names}

    @cached_property
    def relays(self) -> Mapping[MemberId, bytes]:
        """What each is given: n**2 statements of n commitments, so long for many members."""
        return self.coordinator.relay(tuple(self.names), self.enrolled)

    def masked(self, name: MemberId, elements: np.ndarray) -> bytes:
        """The shares that may be asked for, once the member's masks are on ``elements``."""
        secret = self.enrolment[name].secret
        streams, kept = self.member.streams(name, self.plan, self.box[name], secret, self.relays[name])
        mask(elements, streams)
        return kept


def _secret(label: str) -> Secret:
    return Secret(hashlib.sha256(label.encode()).digest())


def floor(streams: int, dimension: int) -> Arm:
    """``streams`` keystreams of ``dimension`` 32-bit elements, drawn and added."""
    into, zeros, drawn = np.zeros(dimension, "<u4"), bytes(CHUNK), bytearray(CHUNK)
    elements, width = np.frombuffer(drawn, "<u4"), CHUNK // 4

    def run() -> None:
        for number in range(streams):
            stream = Cipher(algorithms.AES(number.to_bytes(32)), modes.CTR(bytes(16))).encryptor()
            for start in range(0, dimension, width):
                part = into[start : start + width]
                begun = elements[: len(part)]
                stream.update_into(memoryview(zeros)[: begun.nbytes], drawn)
                np.add(part, begun, out=part)

    return run


def _member(dimension: int) -> Mapping[str, Arm]:
    """A member's arms: what a round costs with ``PEERS`` peers."""
    cohort = Cohort(PEERS + 1, dimension)
    name, plan = cohort.names[0], cohort.plan
    update = Update(np.random.default_rng(0).normal(0, 1, dimension), EVENT)
    streams = [Stream(_secret(str(number)), subtract=number % 2 == 0) for number in range(PEERS + 1)]
    width = sum_bits(plan)

    def masking() -> None:
        elements = fixed_point.to_ring(fixed_point.encode(update.values, plan.cover.encoding), 32)
        mask(elements, streams)
        packing.pack(elements, width)

    def sealing() -> None:
        secret = cohort.enrolment[name].secret
        cohort.member.seal(name, plan, cohort.box[name], secret, cohort.relays[name], b"", update, _secret("s"))

    made = {
        "floor": floor(PEERS + 1, dimension),
        "masks alone": lambda: mask(np.zeros(dimension, "<u4"), streams),
        "grid, masks and packing": masking,
        "seal, with key agreement and every check": sealing,
    }
    return made | ({FLOWER: _flower(update.values)} if importlib.util.find_spec("flwr") else {})


def _flower(values: np.ndarray) -> Arm:
    """Return what Flower's SecAgg+ client does between its update and its message, with its own functions."""
    from flwr.common.secure_aggregation.ndarrays_arithmetic import (  # noqa: PLC0415
        parameters_addition,
        parameters_mod,
        parameters_subtraction,
    )
    from flwr.common.secure_aggregation.quantization import quantize  # noqa: PLC0415
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen  # noqa: PLC0415

    modulus, seeds = 1 << 32, [hashlib.sha256(bytes([number])).digest() for number in range(PEERS + 1)]

    def run() -> None:
        held = quantize([values], 8.0, 1 << 22)
        for number, seed in enumerate(seeds):
            drawn = pseudo_rand_gen(seed, modulus, [values.shape])
            held = (parameters_subtraction if number % 2 == 0 else parameters_addition)(held, drawn)
        parameters_mod(held, modulus)[0].tobytes()

    return run


def _coordinator(n: int, dimension: int) -> Mapping[str, Arm]:
    """The coordinator's: 30 % of ``n`` dropped. Its time does not depend on what the vectors say."""
    cohort = Cohort(n, dimension)
    survivors = cohort.names[: n - 3 * n // 10]
    question = wire.encode(Survivors(tuple(survivors)))
    answers = {}
    for name in survivors:
        kept = cohort.masked(name, np.zeros(1, "<u4"))
        answers[name] = cohort.member.answer(name, cohort.plan, kept, question)
    vector = np.random.default_rng(1).integers(0, 1 << 32, dimension).astype("<u4")
    payload = wire.encode(Masked(packing.pack(vector, sum_bits(cohort.plan))))
    sealed = dict.fromkeys(survivors, payload)
    streams = len(survivors) * (1 + n - len(survivors))

    def opening() -> None:
        sum_of(cohort.coordinator, cohort.plan, cohort.enrolled, sealed, answers)

    return {"floor": floor(streams, dimension), "open": opening}


def many(n: int, dimension: int) -> list[Figure]:
    """The coordinator's CPU seconds for ``n`` members: from their vectors, statements and answers to the sum."""
    cohort = Cohort(n, dimension, width=22)
    vector = np.random.default_rng(1).integers(0, 1 << 32, dimension).astype("<u4")
    payload = wire.encode(Masked(packing.pack(vector, sum_bits(cohort.plan))))
    statements = {name: wire.decode(cohort.enrolled[name], Public) for name in cohort.names}
    spent = {}
    for dropped in (0, 3 * n // 10):
        present, gone = cohort.names[: n - dropped], cohort.names[n - dropped :]
        answers = {}
        for place, name in enumerate(present[: cohort.plan.cover.threshold]):
            pairs = {}
            for dealer, public in statements.items():
                relayed = Relayed(public.statement, public.signature, public.boxes.get(name, b""), b"")
                own = wire.decode(cohort.enrolment[dealer].secret, Private).own
                pairs[dealer] = own if dealer == name else _opened(relayed, cohort.plan, name, cohort.box[name])
            answers[name] = wire.encode(
                Revealed({each: pairs[each].seed for each in present}, {each: pairs[each].key for each in gone})
            )
            print(f"\r{n} members, {dropped} dropped: answer {place + 1}  ", end="", file=sys.stderr, flush=True)
        began = time.process_time()
        sum_of(cohort.coordinator, cohort.plan, cohort.enrolled, dict.fromkeys(present, payload), answers)
        spent[dropped] = time.process_time() - began
    (_, none), (dropped, some) = spent.items()
    return [
        _figure(f"coordinator, none of {n} dropped, d={dimension}: CPU seconds", none, None),
        _figure(f"coordinator, {dropped} of {n} dropped, d={dimension}: CPU seconds", some, None),
        _figure(f"coordinator, {dropped} of {n} dropped / none", some / none, MANY_BAR),
    ]


def ratios(arms: Mapping[str, Arm], turns: int) -> dict[str, float]:
    """Each arm's CPU time as a multiple of the floor's: the median over turns."""
    found: dict[str, list[float]] = {arm: [] for arm in arms}
    order = list(arms)
    for turn in range(turns + 1):
        spent = {}
        for place in range(len(order)):
            arm = order[(turn + place) % len(order)]
            began = time.process_time()
            arms[arm]()
            spent[arm] = time.process_time() - began
        if turn:  # the first turn warms up
            for arm in order:
                found[arm].append(spent[arm] / spent["floor"])
    return {arm: statistics.median(values) for arm, values in found.items() if arm != "floor"}


def sizes(n: int, dimension: int) -> list[Figure]:
    """Bytes one upload takes above the fewest that hold a sum, without and with the next round's keys and shares."""
    cohort = Cohort(n, dimension)
    least = (dimension * (24 + (n - 1).bit_length()) + 7) // 8
    name = cohort.names[0]
    vector = np.zeros(dimension, "<u4")
    cohort.masked(name, vector)
    payload = wire.encode(Masked(packing.pack(vector, sum_bits(cohort.plan))))
    following = len(cohort.enrolled[name])
    what = f"n={n} d={dimension}"
    most = BYTES_BAR * least + BYTES_SPARE
    return [
        _figure(f"{what}: sealed payload, bytes", len(payload), round(most)),
        _figure(f"{what}: with the next round's keys and shares, bytes", len(payload) + following, None),
        _figure(f"{what}: the next round's keys and shares, bytes", following, None),
    ]


def memory(dimension: int) -> float:
    """Peak MiB of a process that makes and seals one update of ``dimension`` and encodes the message it leaves in."""
    done = subprocess.run(  # noqa: S603 - this file itself
        [sys.executable, "-m", "audits.speed.protection", "--peak", str(dimension)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def peak(dimension: int) -> float:
    """In this process."""
    cohort = Cohort(4, dimension)
    name = cohort.names[0]
    update = Update(np.random.default_rng(0).normal(0, 1, dimension), EVENT)
    secret = cohort.enrolment[name].secret
    payload, _ = cohort.member.seal(
        name, cohort.plan, cohort.box[name], secret, cohort.relays[name], b"", update, _secret("s")
    )
    wire.encode(Submitted(1, payload, cohort.enrolled[name]))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _figure(name: str, value: float, bar: float | None) -> Figure:
    return {"name": name, "value": round(value, 3), "bar": bar, "holds": bar is None or value <= bar}


def main() -> int:
    """All rows; 1 if a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short vectors, small cohorts, few turns")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--turns", type=int, default=None)
    parser.add_argument("--many", type=int, help="the coordinator alone, with so many members")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        print(peak(given.peak))
        return 0
    if given.many:
        return told(many(given.many, 20_000 if given.quick else 1_000_000), as_json=given.json)
    turns = given.turns or (3 if given.quick else 11)
    dimension, members = (200_000, 30) if given.quick else (1_000_000, 100)
    figures = []
    for arm, ratio in ratios(_member(dimension), turns).items():
        bar = BAR if arm == "grid, masks and packing" and not given.quick else None
        figures.append(_figure(f"member, {PEERS} peers, d={dimension}: {arm} / floor", ratio, bar))
    opened = ratios(_coordinator(members, dimension), max(3, turns // 2))["open"]
    bar = None if given.quick else BAR
    figures.append(_figure(f"coordinator, 30 % of {members} dropped, d={dimension}: open / floor", opened, bar))
    for n in (10,) if given.quick else (10, 50, 100):
        figures += sizes(n, dimension)
    if not given.quick:
        figures.append(_figure("member, d=10000000: peak MiB of the process", memory(10_000_000), MEMORY_BAR))
    return told(figures, as_json=given.json)


def told(figures: list[Figure], *, as_json: bool) -> int:
    """Figures on standard output; 1 if a bar does not hold."""
    if as_json:
        command = " ".join(["python -m audits.speed.protection", *sys.argv[1:]])
        names = ("numpy", "cryptography", *(["flwr"] if importlib.util.find_spec("flwr") else []))
        print(
            json.dumps({"figures": figures, "command": command, "versions": {n: version(n) for n in names}}, indent=1)
        )
    else:
        for each in figures:
            bar = "" if each["bar"] is None else f"  (bar {each['bar']}{'' if each['holds'] else ', ABOVE'})"
            print(f"{each['name']:<90}{each['value']}{bar}", flush=True)
    return 0 if all(each["holds"] for each in figures) else 1


if __name__ == "__main__":
    raise SystemExit(main())
