"""Ten thousand runs that somebody changed: is every one found? And a thousand that nobody did: is any called bad?

A good run is a whole federation's ledgers with real keys, prices and decisions, and all that a bench leaves of it: four
to six members, one to three rounds, members that drop out, runs that end refused or aborted, homes with earlier runs,
runs that were killed. A few are real ones: one federation, a tree, many tasks.

A mutation is what one party, or somebody without a key, can do to a copy: a bit, an entry, a file, a ledger, a key,
the report, the page, the adapter, the policy; changed, dropped, doubled, moved, put in from elsewhere; as it is, signed
again by another key, or by the party's own with consistent heads, and bound again where it is the coordinator. Not
among them, for nobody could find it: all parties signing together; more entries at a ledger's end, which are a ledger
that went on; what stands on the coordinator's word alone (accuracy, seconds) when the coordinator itself changes it.

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from audits.protection.hostile.evidence import check_of, edit, rebound, signed
from securefl import keys, wire
from securefl.audit.ledger_files import read_all
from securefl.audit.verify import verify
from securefl.ledger import export
from securefl.terms import (
    Closed,
    Got,
    Hash,
    Leaf,
    MemberId,
    Opened,
    Opening,
    Receipt,
    Released,
    Reserved,
    Sent,
    Settled,
)
from tests.support import audited

GOOD, EACH, QUICK = 1000, 10, 30
NAMES = ("north", "south", "east", "west", "centre", "isles")
LOOSE = (".lock", "timings.json")
BASE = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - thrown away


@dataclass(frozen=True)
class Run:
    """A run's folder, who is in it, and what an auditor knows of them."""

    path: Path
    known: Mapping[str, str] | None
    identity: Callable[[str], keys.Identity] | None  # of a party, where this audit made it up


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
        made.append(Run(out, verify(out).keys, None))
    return made


# What can be done to one.

Mutation = Callable[[random.Random, Run], bool]  # False: this run has nothing that it could be done to


def _files(run: Run) -> list[Path]:
    return sorted(path for path in run.path.rglob("*") if path.is_file() and path.name not in LOOSE)


def a_bit(drawn: random.Random, run: Run) -> bool:
    """One bit of one file."""
    path = drawn.choice([each for each in _files(run) if each.stat().st_size])
    data = bytearray(path.read_bytes())
    place = drawn.randrange(8 * len(data))
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)
    return True


def a_file_cut_or_longer(drawn: random.Random, run: Run) -> bool:
    """A file that ends early, or goes on."""
    path = drawn.choice([each for each in _files(run) if each.stat().st_size])
    data = path.read_bytes()
    path.write_bytes(data + drawn.randbytes(3) if drawn.random() < 0.5 else data[: drawn.randrange(len(data))])
    return True


def a_file_dropped(drawn: random.Random, run: Run) -> bool:
    """A file that is gone."""
    drawn.choice(_files(run)).unlink()
    return True


def a_file_for_another(drawn: random.Random, run: Run) -> bool:
    """One file in the place of another, or of one's own beside it."""
    one, other = drawn.sample(_files(run), 2)
    if one.read_bytes() == other.read_bytes():
        return False
    shutil.copy(one, other)
    return True


def a_file_more(drawn: random.Random, run: Run) -> bool:
    """A file among the adapter's or the ledgers that nobody left there."""
    place = run.path / drawn.choice(("ledger", "adapter"))
    if not place.is_dir():
        return False
    source = drawn.choice(_files(run))
    (place / f"more{source.suffix}").write_bytes(source.read_bytes())
    return True


def an_entry_unsigned(drawn: random.Random, run: Run) -> bool:
    """An entry dropped, doubled or moved by somebody without a key."""
    path = drawn.choice(sorted((run.path / "ledger").iterdir()))
    file = export.read(path)
    leaves = _moved(drawn, list(file.leaves))
    export.write(path, replace(file, leaves=tuple(leaves)))
    return leaves != list(file.leaves)


def _moved(drawn: random.Random, leaves: list[bytes]) -> list[bytes]:
    place = drawn.randrange(len(leaves) - 1)
    how = drawn.randrange(4)
    if how == 0:
        return [*leaves[:place], *leaves[place + 1 :]]
    if how == 1:
        return [*leaves[:place], leaves[place], *leaves[place:]]
    if how == 2:
        other = drawn.randrange(len(leaves))
        return [*leaves[:place], leaves[other], *leaves[place + 1 :]]
    return [*leaves[:place], leaves[place + 1], leaves[place], *leaves[place + 2 :]]


def _owned(drawn: random.Random, run: Run) -> tuple[str, list[Leaf]] | None:
    if run.identity is None:
        return None
    name = drawn.choice(sorted(path.stem for path in (run.path / "ledger").iterdir()))
    return name, list(read_all(run.path)[MemberId(name)].leaves)


def an_entry_by_its_owner(drawn: random.Random, run: Run) -> bool:
    """An entry dropped, doubled or moved, under a head that the ledger's owner signs again."""
    owned = _owned(drawn, run)
    if owned is None:
        return False
    name, leaves = owned
    raws = [wire.encode(leaf) for leaf in leaves]
    moved = _moved(drawn, raws)
    signed(run.path, name, [wire.decode(raw, Leaf) for raw in moved])
    return moved[: len(raws)] != raws


def an_entry_altered_by_its_owner(drawn: random.Random, run: Run) -> bool:
    """What an entry says, under a head that the ledger's owner signs again, and receipts signed anew."""
    owned = _owned(drawn, run)
    if owned is None:
        return False
    name, leaves = owned
    place = drawn.randrange(len(leaves) - 1)  # the last one's time is its owner's word
    leaf = leaves[place]
    entry = _altered(drawn, leaf.entry, name) if drawn.random() < 0.8 else leaf.entry
    leaves[place] = Leaf(leaf.at + (entry == leaf.entry), entry)
    signed(run.path, name, leaves)
    if name == "coordinator" and drawn.random() < 0.5:
        rebound(run.path)
    return True


def _altered(drawn: random.Random, entry: object, owner: str) -> object:
    other = Hash(drawn.randbytes(32))
    match entry:
        case Opened():
            return replace(entry, policy=entry.policy.replace(b"epsilon: 4", b"epsilon: 5"))
        case Reserved():
            dearer = {level: cost // 2 for level, cost in entry.price.after.items()}
            return replace(entry, price=replace(entry.price, after=dearer))
        case Settled():
            return replace(entry, did=replace(entry.did, noise_multiplier=entry.did.noise_multiplier + Fraction(1, 8)))
        case Sent() if entry.receipt.sender == owner:
            receipt: Receipt = replace(entry.receipt, digest=other)
            return Sent(receipt, audited.identity(owner).sign("receipt", wire.encode(receipt)))
        case Sent() | Got():
            return replace(entry, signature=drawn.randbytes(64))
        case Opening():
            return replace(entry, survivors=entry.survivors[1:])
        case Released():
            return replace(entry, digest=other)
        case Closed():
            return replace(entry, outcome="aborted" if entry.outcome == "finished" else "finished")
    return entry


def a_ledger_cut_by_its_owner(drawn: random.Random, run: Run) -> bool:
    """A ledger as it was before, to nothing at all, under a head that its owner signs."""
    owned = _owned(drawn, run)
    if owned is None:
        return False
    name, leaves = owned
    signed(run.path, name, leaves[: drawn.randrange(len(leaves))])
    return True


def a_ledger_by_another_key(drawn: random.Random, run: Run) -> bool:
    """A whole ledger under somebody else's key, with or without the seat to it."""
    owned = _owned(drawn, run)
    if owned is None:
        return False
    name, leaves = owned
    key = keys.Identity(keys.Secret(drawn.randbytes(32)))
    if drawn.random() < 0.5:
        leaves = [replace(leaf, entry=_seated(leaf.entry, name, key)) for leaf in leaves]
    signed(run.path, name, leaves, key)
    return True


def _seated(entry: object, name: str, key: keys.Identity) -> object:
    if not isinstance(entry, Opened):
        return entry
    peers = tuple(replace(seat, key=key.public) if seat.member == name else seat for seat in entry.peers)
    return replace(entry, peers=peers)


def a_ledger_dropped(drawn: random.Random, run: Run) -> bool:
    """A party's ledger is not there; and its coordinator began something since."""
    owned = _owned(drawn, run)
    if owned is None:
        return False
    name, _ = owned
    (run.path / "ledger" / f"{name}.ledger").unlink()
    if name != "coordinator" and drawn.random() < 0.5:
        leaves = list(read_all(run.path)[MemberId("coordinator")].leaves)
        opened = next(leaf for leaf in leaves if isinstance(leaf.entry, Opened))
        more = replace(opened.entry, run=drawn.randbytes(16))  # type: ignore[type-var]
        signed(run.path, "coordinator", [*leaves, Leaf(leaves[-1].at, more)])
    return _took_part(run, name)


def _took_part(run: Run, name: str) -> bool:
    """Whether the folder's run was this party's too: whose earlier ones were with others may be missing."""
    ledgers = read_all(run.path) if (run.path / "ledger").is_dir() else {}
    if name == "coordinator":
        return True
    own = bytes.fromhex(json.loads((run.path / "run.json").read_text())["run"])
    opened = ledgers[MemberId("coordinator")].opened(own)  # type: ignore[arg-type]
    return opened is not None and any(seat.member == name for seat in opened.peers)


def the_report(drawn: random.Random, run: Run) -> bool:
    """A figure of the report, by somebody; or by the coordinator, that binds it again."""
    path = run.path / "report.json"
    if not path.is_file():
        return False
    before = json.loads(path.read_text())
    edit(run.path, drawn)
    after = json.loads(path.read_text())
    if run.identity is not None and drawn.random() < 0.5:
        rebound(run.path)
    return before != after


def the_adapter(drawn: random.Random, run: Run) -> bool:
    """The state or its files, by somebody; or by the coordinator, that binds the state again."""
    path = run.path / "adapter" / "released.f32"
    if not path.is_file():
        return False
    data = path.read_bytes()
    path.write_bytes(drawn.randbytes(len(data)))
    if run.identity is not None and drawn.random() < 0.5:
        rebound(run.path)
    return True


def the_policy(drawn: random.Random, run: Run) -> bool:
    """The policy in every entry of one party's ledger, under a head that it signs again."""
    owned = _owned(drawn, run)
    if owned is None:
        return False
    name, leaves = owned
    changed = [replace(leaf, entry=_lax(leaf.entry)) for leaf in leaves]
    signed(run.path, name, changed)
    return changed != leaves


def _lax(entry: object) -> object:
    return (
        replace(entry, policy=entry.policy.replace(b"at_least: 0.5", b"at_least: 0.4"))
        if isinstance(entry, Opened)
        else entry
    )


MUTATIONS: tuple[Mutation, ...] = (
    a_bit, a_file_cut_or_longer, a_file_dropped, a_file_for_another, a_file_more, an_entry_unsigned,
    an_entry_by_its_owner, an_entry_altered_by_its_owner, a_ledger_cut_by_its_owner, a_ledger_by_another_key,
    a_ledger_dropped, the_report, the_adapter, the_policy,
)  # fmt: skip


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
