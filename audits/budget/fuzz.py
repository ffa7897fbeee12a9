"""Malformed policies, at random: a clear error every time, no code that runs, little memory.

Each input is a shipped policy or one of SEEDS, spoiled a few times: bytes flipped, pieces cut, doubled, moved or taken
from HOSTILE. It may load as a policy or be a fault of the operator with a place; nothing else may come of it.

    python -m audits.budget.fuzz [--quick] [--json] [--slice K/N]
"""

from __future__ import annotations

import argparse
import builtins
import os
import random
import resource
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from audits.figures import figure, report
from securefl.errors import OperatorFault
from securefl.policy import load
from tests.policy.test_policy_oracle import POLICY

FULL, QUICK, LIMIT_BYTES = 1_000_000, 3_000, 64 * 1024 * 1024
WATCHED = 50  # one in so many inputs has its memory counted; all of them share LIMIT_BYTES
SHIPPED = Path(__file__).parents[2] / "policies"
SEEDS = (
    yaml.safe_dump(POLICY).encode(),
    b"securefl_policy: 1\nfederation: a\nversion: 1\n",
    b"{a: {b: [c, {d: e}]}}\n",
)
HOSTILE = tuple(
    piece.encode("utf-8", "surrogatepass")
    for piece in (
        "!!python/object/apply:os.system ['touch fuzzed']", "!!python/name:os.system", "&a [*a, *a]", "*a", "<<: *a",
        "!<tag:yaml.org,2002:python/module:os> x", "&a {a: &b [*a, *b, *a, *b]}", "--- # the policy above\n", "---\n",
        "...\n", "%YAML 1.2\n", "? {a: b}\n", "[" * 64, "{" * 64, "9" * 80, "1e999", "1e-999", ".nan", "-.inf", "0x1f",
        "010", "1_000",
        "2026-01-01", "\0", "\ufeff", "\u2028", "\x85", "\ud800", "\t", "\r", "|\n  x", ">-\n", "'", '"',
        "#", ": ", "- ", "\n\n", "null", "~", "true", "1/0", "1/3", "sha256:", "any", "parent: x.yaml\n",
        "approvals: {required: 9, keys: {}}\n",
    )
)  # fmt: skip


def spoiled(drawn: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    """One input."""
    text = bytearray(drawn.choice(seeds))
    for _ in range(drawn.choice((1, 1, 2, 3, 5, 8))):
        place, other = drawn.randint(0, len(text)), drawn.randint(0, len(text))
        low, high = min(place, other), min(max(place, other), min(place, other) + 200)
        kind = drawn.randrange(6)
        if kind == 0 and text:
            text[place % len(text)] = drawn.randrange(256)
        elif kind == 1:
            del text[low:high]
        elif kind == 2:
            text[place:place] = text[low:high]
        elif kind == 3:
            text[place:place] = drawn.choice(HOSTILE)
        elif kind == 4:
            text[low:high] = drawn.choice(HOSTILE)
        else:
            lines = bytes(text).split(b"\n")
            drawn.shuffle(lines)
            text = bytearray(b"\n".join(lines))
    return bytes(text)


@contextmanager
def nothing_runs() -> Iterator[list[str]]:
    """While it lasts, whatever would run code or start something is written down, and does not happen."""
    found: list[str] = []
    places = [(builtins, "eval"), (os, "system"), (os, "popen"), (subprocess, "Popen")]
    kept = [(place, name, getattr(place, name)) for place, name in places]
    for place, name, _ in kept:
        setattr(place, name, lambda *given, name=name, **__: found.append(f"{name}{given!r}"))
    try:
        yield found
    finally:
        for place, name, before in kept:
            setattr(place, name, before)


def fuzzed(count: int, seed: int) -> tuple[Counter[str], list[str], int]:
    """What came of so many inputs, all that may not happen, and the most bytes that one of every WATCHED took."""
    seeds = (*SEEDS, *(path.read_bytes() for path in sorted(SHIPPED.glob("*.yaml"))))
    drawn, answers, wrong, peak = random.Random(seed), Counter[str](), list[str](), 0  # noqa: S311 - to be repeated
    with nothing_runs() as ran:
        for number in range(count):
            text, watched = spoiled(drawn, seeds), number % WATCHED == 0
            if watched:
                tracemalloc.start()
            try:
                load.parse(text, "policy.yaml")
                answers["loaded"] += 1
            except OperatorFault as fault:
                answers["refused"] += 1
                if not str(fault).startswith("policy.yaml"):
                    wrong.append(f"input {number} of seed {seed}: an error without a place: {str(fault)[:200]!r}")
            except Exception as fault:  # noqa: BLE001 - this is what is looked for
                wrong.append(f"input {number} of seed {seed}: {type(fault).__name__}: {str(fault)[:200]}")
            if watched:
                peak = max(peak, tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
    return answers, [*wrong, *ran], peak


def bound_memory() -> None:
    """From here on this process gets LIMIT_BYTES more, all inputs together, and a MemoryError beyond them."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1024 * int(line.split()[1]) + LIMIT_BYTES, most))


def main() -> None:
    """Print the figures; exit 1 where one does not hold."""
    parser = argparse.ArgumentParser(description="Malformed policies, at random.")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} inputs instead of {FULL}")
    parser.add_argument("--slice", default="1/1", help="K/N: the K-th of N equal parts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    part, parts = map(int, options.slice.split("/"))
    if not 1 <= part <= parts:
        sys.exit("--slice is K/N with 1 <= K <= N")
    count = (QUICK if options.quick else FULL) // parts
    bound_memory()
    answers, wrong, peak = fuzzed(count, seed=part)
    refused, loaded = answers["refused"], answers["loaded"]
    figures = [
        figure("inputs", count, f">= {count}", holds=refused + loaded + len(wrong) >= count),
        figure("inputs refused with a place", refused, "> 0", holds=refused > 0),
        figure("inputs that load", loaded, "> 0", holds=loaded > 0),
        figure("crashes, errors without a place, code that ran", len(wrong), "= 0", holds=not wrong),
        figure(f"most memory for one of every {WATCHED} (bytes)", peak, f"<= {LIMIT_BYTES}", holds=peak <= LIMIT_BYTES),
    ]
    raise SystemExit(report(figures, as_json=options.json, wrong=wrong[:20]))


if __name__ == "__main__":
    main()
