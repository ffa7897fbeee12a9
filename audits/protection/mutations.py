"""Ten thousand runs that somebody changed: is every one found? And a thousand that nobody did: is any called bad?

A good run is a whole federation's ledgers with real keys, prices and decisions, and all that a bench leaves of it: four
to six members, one to three rounds, members that drop out, runs that end refused or aborted, homes with earlier runs,
runs that were killed. A few are real ones: one federation, a tree, many tasks.

A mutation is what one party, or somebody without a key, can do to a copy: a bit, an entry, a file, a ledger, a key,
the report, the page, the adapter, the policy; changed, dropped, doubled, moved, put in from elsewhere; as it is, signed
again by another key, or by the party's own with consistent heads, and bound again where it is the coordinator, or by a
member. A list of ledgers is cut, a file is put where PEFT would load it, a key stands twice. Not among them,
for nobody could find it: all parties signing together; more entries at a ledger's end, which are a ledger that went on;
what stands on the coordinator's word alone (accuracy, seconds) when the coordinator itself changes it.

    python -m audits.protection.mutations [--quick] [--real] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from audits.protection.changes import MUTATIONS, Run
from audits.protection.hostile.evidence import check_of
from securefl import key_files
from securefl.audit.verify import verify
from tests.support import audited

GOOD, EACH, QUICK = 1000, 10, 30
NAMES = ("north", "south", "east", "west", "centre", "isles")
BASE = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - thrown away


# Good runs.


def good(number: int, path: Path) -> Run:
    """A run that nobody changed, of its own shape."""
    drawn = random.Random(f"good/{number}")  # noqa: S311 - runs that can be made again
    names = NAMES[: drawn.randint(4, 6)]
    threshold = (len(names) + 1) // 2 + 1
    policy = audited.POLICY.replace("threshold: {at_least: 3}", f"threshold: {{at_least: {threshold}}}")
    if drawn.random() < 0.3:
        policy = policy.replace("epsilon: 8, delta", f"epsilon: {drawn.choice((7, 9))}, delta")
    story = audited.Story(policy=policy, cohort=names, names=NAMES, threshold=threshold)
    for _ in range(drawn.choice((0, 0, 0, 1, 2))):
        _play(story, drawn, last=False)
    if len(names) > 4 and drawn.random() < 0.3:
        story.cohort = names[:-1]
    _play(story, drawn, last=True)
    story.leave(path, page=f"<h1>{drawn.random()}</h1>")
    return Run(path, {name: audited.identity(name).public.hex() for name in story.parties}, audited.identity)


def _play(story: audited.Story, drawn: random.Random, *, last: bool) -> None:
    story.begin()
    rounds = drawn.choice((1, 1, 1, 2, 3)) if last else 1
    for number in range(1, rounds + 1):
        lost = drawn.sample(story.cohort, 1) if len(story.cohort) > 3 and drawn.random() < 0.3 else []
        asked = [name for name in story.cohort if name not in lost]
        story.round(number, lost=lost, asked=(lambda _, a=asked: a) if drawn.random() < 0.5 else None)
    if not last and drawn.random() < 0.3:
        return  # it was killed, and never ended
    away = drawn.sample(story.cohort, 1) if drawn.random() < 0.15 else []
    story.close(drawn.choice(("finished", "finished", "finished", "aborted", "refused")), away=away)


def real(base: Path) -> list[Run]:
    """One federation's run, a run of a tree, and one of many tasks, as `securefl run` leaves them."""
    from tests.simulation.test_suite import Many  # noqa: PLC0415
    from tests.support.small import Small  # noqa: PLC0415
    from tests.support.trees import Tree  # noqa: PLC0415

    made = []
    for name, kind in (("plain", Small), ("tree", Tree), ("tasks", Many)):
        folder, out = base / f"{name}-files", base / name
        folder.mkdir()
        world = kind(folder)
        file = {"file": world.tree()} if isinstance(world, Tree) else {}
        world.run(out, base / f"{name}-sites", **file)
        sites = base / f"{name}-sites"
        made.append(
            Run(out, verify(out).keys, None, lambda party, at=sites: key_files.load(at / party / "identity.key"))
        )
    return made


@dataclass
class Tally:
    """What came of all."""

    good: int = 0
    alarms: list[str] = None  # type: ignore[assignment]
    made: Counter[str] = None  # type: ignore[assignment]
    found: Counter[str] = None  # type: ignore[assignment]
    by: Counter[str] = None  # type: ignore[assignment]
    missed: list[str] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.alarms, self.missed = [], []
        self.made, self.found, self.by = Counter(), Counter(), Counter()


def tried(run: Run, label: str, each: int, tally: Tally, base: Path) -> None:
    """The run as it is, and so many mutations of it."""
    tally.good += 1
    verdict = verify(run.path, run.known)
    if not verdict.ok:
        tally.alarms.append(f"{label}: {verdict.why}")
        return
    done = tries = 0
    while done < each:
        seed = f"{label}/{tries}"
        tries += 1
        drawn = random.Random(seed)  # noqa: S311
        mutation = drawn.choice(MUTATIONS)
        copy = replace(run, path=base / "mutated")
        shutil.copytree(run.path, copy.path)
        if mutation(drawn, copy):
            done += 1
            tally.made[mutation.__name__] += 1
            found = verify(copy.path, run.known if drawn.random() < 0.5 else None)
            if found.ok:
                tally.missed.append(f"{seed}: {mutation.__name__}")
            else:
                tally.found[mutation.__name__] += 1
                tally.by[check_of(found.why)] += 1
        shutil.rmtree(copy.path)


def run(runs: int, each: int, *, with_real: bool) -> dict[str, object]:
    """So many good runs, and so many mutations of each; of real ones, as many as make up the rest."""
    began, tally = time.process_time(), Tally()
    with tempfile.TemporaryDirectory(dir=BASE) as folder:
        base = Path(folder)
        for number in range(runs):
            tried(good(number, base / "good"), f"made/{number}", each, tally, base)
            shutil.rmtree(base / "good")
            if number % 50 == 49:
                print(f"{number + 1} of {runs}, {len(tally.missed)} missed", file=sys.stderr, flush=True)
        for made in real(base) if with_real else ():
            tried(made, f"real/{made.path.name}", each * 10, tally, base)
    return {
        "command": f"python -m audits.protection.mutations{' --quick' if runs == QUICK else ''}"
        f"{' --real' if with_real else ''} --json",
        "python": platform.python_version(),
        "cpu_seconds": round(time.process_time() - began, 1),
        "good_runs": tally.good,
        "false_alarms": len(tally.alarms),
        "mutated_runs": sum(tally.made.values()),
        "found": sum(tally.found.values()),
        "missed": tally.missed,
        "alarms": tally.alarms,
        "by_mutation": {name: [tally.found[name], tally.made[name]] for name in sorted(tally.made)},
        "found_by": dict(sorted(tally.by.items(), key=lambda item: -item[1])),
    }


def holds(told: Mapping[str, object]) -> bool:
    """The bars: everything found, nothing called bad that is not, and something tried."""
    return bool(told["mutated_runs"]) and told["found"] == told["mutated_runs"] and told["false_alarms"] == 0


def main() -> None:
    """Print what came of it; exit 1 if a mutated run was not found, or a good one was called bad."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} good runs, ten mutations of each")
    parser.add_argument("--real", action="store_true", help="and real runs: a federation, a tree, many tasks")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    told = run(QUICK if given.quick else GOOD, EACH, with_real=given.real)
    if given.json:
        print(json.dumps(told, indent=1))
    else:
        print(f"{told['found']} of {told['mutated_runs']} mutated runs found")
        print(f"{told['false_alarms']} false alarms on {told['good_runs']} good runs; {told['cpu_seconds']} s")
    raise SystemExit(0 if holds(told) else 1)


if __name__ == "__main__":
    main()
