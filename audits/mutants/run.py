"""How many small changes of what decides, prices, speaks, records and hides does a test notice? ``make mutants``.

A sample per folder, drawn by a seed: the longer it runs, the more of it is hunted, and a run goes on where the last one
stopped (``build/mutants``). What survives is read by people: ``explained.json`` says why no test need notice it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from audits.figures import figure, report
from audits.mutants import suite
from audits.mutants.operators import Mutant, mutants, mutated

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / "build" / "mutants"
EXPLAINED = Path(__file__).with_name("explained.json")
RESULT = Path(__file__).with_name("mutants.json")
FOLDERS = ("protocol", "policy", "privacy", "ledger", "protection")
NOTE = (
    "Tests were written for survivors of this very sample, so its share is above that of the whole: "
    "the intervals are fair for mutants that were drawn after the last such test."
)
READ = ("protocol", "policy", "privacy")  # every survivor here is killed or explained
BAR = 0.85
LEAST = 100  # mutants of a folder, or the figure says little
SEED = 14
Found = dict[str, dict[str, Any]]


def of(folder: str) -> list[Mutant]:
    """Every mutant of a folder, in the order of the sample."""
    found = [each for path in sorted((ROOT / "securefl" / folder).glob("*.py")) for each in mutants(ROOT, path)]
    return sorted(found, key=lambda each: each.place(SEED))


def interval(killed: int, tried: int, whole: int) -> tuple[float, float]:
    """95 % interval of the killed share of ``whole``: Wilson's, the narrower the less is left to draw."""
    if not tried:
        return 0.0, 1.0
    z = 1.96 * math.sqrt((whole - tried) / max(1, whole - 1))
    share, more = killed / tried, z * z / tried
    middle, reach = share + more / 2, z * math.sqrt(share * (1 - share) / tried + more / (4 * tried))
    return (middle - reach) / (1 + more), (middle + reach) / (1 + more)


def known(folder: str) -> Found:
    """Return what earlier runs found: the committed ones, and those of this clone."""
    committed: Found = json.loads(RESULT.read_text())["hunted"].get(folder, {}) if RESULT.exists() else {}
    path = STATE / f"{folder}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return committed | {each["name"]: each for each in lines}


def source(mutant: Mutant) -> str:
    """Return which text of the module it is a mutant of."""
    return hashlib.sha256((ROOT / mutant.path).read_bytes()).hexdigest()[:12]


def hunt(
    folder: str, count: int, until: float, seen: suite.Seen, stem: suite.Stem, *, again: bool, whole_s: float
) -> None:
    """Hunt the first ``count`` mutants of the folder's sample that no earlier run decided."""
    found = known(folder)
    left = [
        mutant
        for mutant in of(folder)[:count]
        if (before := found.get(mutant.name)) is None
        or before["source"] != source(mutant)
        or (again and before["outcome"] != suite.KILLED)
    ]

    def work(hunter: suite.Hunter) -> None:
        for mutant in left:
            if time.monotonic() > until:
                return
            line = decided(mutant, seen, hunter, stem, whole_s)
            with (STATE / f"{folder}.jsonl").open("a") as out:
                out.write(json.dumps(line) + "\n")
            print(line["seconds"], line["outcome"], mutant.name, line["by"], file=sys.stderr, flush=True)

    if left and time.monotonic() < until:
        suite.hunting(folder, work)


def decided(mutant: Mutant, seen: suite.Seen, hunter: suite.Hunter, stem: suite.Stem, whole_s: float) -> dict[str, Any]:
    """Return what became of one mutant: a survivor that changes what runs at import is hunted afresh too."""
    started, path = time.monotonic(), ROOT / mutant.path
    tests, at_import = seen.of(mutant.path, mutant.lines, whole_s)
    outcome, by, name = suite.UNSEEN, "", mutant.path.removesuffix(".py").replace("/", ".")
    if tests:
        tree = mutated(path.read_text(), mutant.index)
        quick = hunter.hunted(path, tree, tests)
        if quick is None or (at_import and quick[0] == suite.SURVIVED):
            quick = stem.hunted(path, name, tree, list(tests), 20 + 2 * sum(tests.values()))
        outcome, by = quick
    return {
        "name": mutant.name, "outcome": outcome, "by": by, "tests": len(tests), "source": source(mutant),
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip


def told() -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
    """The figures; what was hunted, and each survivor with its reason; what is wrong."""
    reasons: dict[str, str] = json.loads(EXPLAINED.read_text())
    figures, wrong = list[dict[str, Any]](), list[str]()
    survivors, hunted = dict[str, Any](), dict[str, Any]()
    for folder in FOLDERS:
        whole, found = of(folder), known(folder)
        now = {mutant.name: found[mutant.name] for mutant in whole if _holds(mutant, found)}
        alive = sorted(name for name, each in now.items() if each["outcome"] != suite.KILLED)
        share, bounds = (
            (len(now) - len(alive)) / max(1, len(now)),
            interval(len(now) - len(alive), len(now), len(whole)),
        )
        sample = f"{len(now)} of {len(whole)} mutants hunted; of all {bounds[0]:.3f} to {bounds[1]:.3f} (95 %)"
        holds = share >= BAR and len(now) >= LEAST
        figures.append(figure(f"{folder}: share killed; {sample}", round(share, 3), f">= {BAR}", holds=holds))
        if folder in READ:
            unread = [name for name in alive if not reasons.get(name)]
            wrong += [f"neither killed nor explained: {name}" for name in unread]
            figures.append(figure(f"{folder}: survivors without a reason", len(unread), "= 0", holds=not unread))
        survivors[folder] = {name: reasons.get(name, "") for name in alive}
        hunted[folder] = {name: {key: each[key] for key in ("outcome", "by", "source")} for name, each in now.items()}
    return figures, {"note": NOTE, "survivors": survivors, "hunted": hunted}, wrong


def _holds(mutant: Mutant, found: Found) -> bool:
    return mutant.name in found and found[mutant.name]["source"] == source(mutant)


def main() -> None:
    """Hunt for a while, and print what was found; exit 1 where a figure does not hold."""
    parser = argparse.ArgumentParser(description="How many small changes of the code a test notices.")
    parser.add_argument("--folders", nargs="*", default=FOLDERS, choices=FOLDERS)
    parser.add_argument("--each", type=int, default=120, help="mutants a folder")
    parser.add_argument("--minutes", type=float, default=60.0, help="hunt no longer than this; 0 tells what is known")
    parser.add_argument("--seconds", type=float, default=4.0, help="of CPU, for the tests of one mutant")
    parser.add_argument("--examples", type=int, default=10, help="Hypothesis examples a test")
    parser.add_argument(
        "--watch", nargs="*", help="run these tests anew to see which lines they come by; all, if none is named"
    )
    parser.add_argument("--again", action="store_true", help="hunt survivors of earlier runs again")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    STATE.mkdir(parents=True, exist_ok=True)
    if options.minutes:
        suite.prepare(options.examples)
        stem = suite.Stem()
        for folder in options.folders:  # all before the first hunt, which imports what must be seen being imported
            path = STATE / f"{folder}.seen.json"
            if options.watch:
                suite.watched(ROOT, folder, path, options.watch)
            elif options.watch == [] or not path.exists():
                path.unlink(missing_ok=True)
                suite.watched(ROOT, folder, path)
        for folder in options.folders:
            seen = suite.Seen(**json.loads((STATE / f"{folder}.seen.json").read_text()))
            hunt(folder, options.each, until, seen, stem, again=options.again, whole_s=options.seconds)
    figures, also, wrong = told()
    raise SystemExit(report(figures, as_json=options.json, wrong=wrong, also=also))


if __name__ == "__main__":
    main()
