"""What a malicious coordinator tries on a member, at random, and by which name it is refused.

The member is a whole site, unmodified: its machine, its half of masking, its policy, its account and its ledger. Every
other party is its real machine, and the coordinator plays honestly but for one forged message, put before the one the
victim would have got. A trial is refused if the victim does not act on it, the name stands in the victim's own ledger,
and nothing else moved: the genuine message is then answered, and the run ends as if nothing had been tried. What the
coordinator did not sign is refused by its name as well, and leaves nothing in the ledger.

    python -m audits.protection.attacks [--trials 100] [--only ATTACK] [--processes 2] [--into FILE] [--json]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import platform
import random
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from audits.protection.attempt import Outcome, attempts
from audits.protection.forging import ATTACKS, ROUNDS, Field, rules_of
from securefl import wire
from securefl.errors import PeerFault
from securefl.ledger import store
from securefl.protection import masking_terms
from securefl.protocol import coordinator_state
from securefl.protocol import messages as m
from securefl.terms import Hash

TRIALS = 100
LIBRARIES = ("cryptography", "numpy", "cbor2", "torch", "tenseal")


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial, judged."""

    refused: bool  # by the expected name, with an entry in the victim's ledger, and nothing moved
    succeeded: bool  # the victim acted on it
    name: str  # the name it was refused by
    finished: bool  # the run ended with the right state all the same


def draw(attack: str, number: int) -> tuple[random.Random, dict[str, int]]:
    """The shape of one federation: 4 to 8 members, a safe threshold, an update of up to 200 entries."""
    drawn = random.Random(f"{attack}/{number}")  # noqa: S311 - trials that can be repeated
    members, colluding = drawn.randint(4, 8), drawn.randint(1, 2)
    least = (members + colluding) // 2 + 1
    return drawn, {
        "members": members, "colluding": colluding, "min_cohort": drawn.randint(colluding + 2, members),
        "threshold": drawn.randint(least, members), "dimension": drawn.randint(1, 200),
    }  # fmt: skip


def trial(attack: str, number: int, base: Path) -> Trial:
    """One attack on one random federation."""
    drawn, shape = draw(attack, number)
    names = tuple("abcdefgh"[: shape.pop("members")])
    given, unsafe = ATTACKS[attack], False
    if attack == "a threshold below the safe one" and drawn.random() < 0.5:  # agreed on from the beginning
        unsafe = True
        shape["threshold"] = drawn.randint(1, (len(names) + shape["colluding"]) // 2)
    with tempfile.TemporaryDirectory(dir=base) as folder:
        field = Field(names, rounds=ROUNDS, **shape)
        field.prepare(drawn, Path(folder), shape["colluding"])
        if unsafe:
            return _unsafe_session(field)
        moment = drawn.randint(max(given.since, 1), ROUNDS) if given.since else 0
        expected = ""

        def attempt(frame: m.Frame) -> m.Frame | None:
            nonlocal expected
            receipt = frame.envelope.receipt
            if (receipt.kind, receipt.round) != (given.kind, moment):
                return None
            forged, expected = given.forge(field, frame)
            return forged

        field.attempt = attempt
        end = field.play()
        tried = field.tried
        assert tried is not None, "an attack was tried"
        with field.home.transaction() as conn:
            store.read(conn, field.home.identity.public, "the victim's ledger")
        told, refused = tried.names(), tried.refused_by(expected)
        right = end.outcome == "finished" and _right(field, end, without=tried.answer == "Declined", round_=moment)
        field.home.engine.dispose()
        acted = tried.answer not in ("refused", "Declined")
        return Trial(
            refused, acted, ", ".join(told), right or (tried.answer == "Declined" and end.outcome != "finished")
        )


def _unsafe_session(field: Field) -> Trial:
    """A whole run under an unsafe threshold: the victim neither trains nor answers."""
    field.play()
    with field.home.transaction() as conn:
        acted = bool(field.home.account(conn).charges)
    told = set(rules_of(field.written()))
    field.home.engine.dispose()
    return Trial("protocol.unsafe-threshold" in told and not acted, acted, ", ".join(sorted(told)), True)


def _right(field: Field, end: coordinator_state.Ended, *, without: bool, round_: int) -> bool:
    """Whether the run ended with the sums of those who took part."""
    left_out = {round_: field.victim} if without else {}
    rounds = [tuple(name for name in field.names if name != left_out.get(number)) for number in range(1, ROUNDS + 1)]
    return bool(np.array_equal(field.reached(end), field.expected(*rounds)))


# What no member can refuse alone: the coordinator shows different members different things.


def two_survivor_sets(number: int) -> bool:
    """Whether shares of both secrets of one member were had, by telling half that it survived and half that it fell."""
    from tests.protection.test_protection import Round  # noqa: PLC0415

    drawn, shape = draw("two survivor sets", number)
    made = Round(shape["members"], 3, drawn.randint((shape["members"] + 1) // 2 + 1, shape["members"]))
    for name in made.names:
        made.seal(name)
    victim = drawn.choice(made.names)
    rest = [name for name in made.names if name != victim]
    told = set(drawn.sample(rest, drawn.randint(0, len(rest))))
    seeds, privates = 1, 1  # one colluding peer, which gives both
    for name in rest[1:]:
        survivors = [*rest, victim] if name in told else rest
        question = wire.encode(masking_terms.Survivors(tuple(sorted(survivors))))
        try:
            answer = wire.decode(made.member.answer(name, made.plan, made.kept[name], question), masking_terms.Revealed)
        except PeerFault:
            continue
        seeds, privates = seeds + (victim in answer.seeds), privates + (victim in answer.keys)
    own = wire.encode(masking_terms.Survivors(tuple(sorted(made.names))))
    seeds += (
        victim
        in wire.decode(made.member.answer(victim, made.plan, made.kept[victim], own), masking_terms.Revealed).seeds
    )
    return min(seeds, privates) >= made.threshold


def two_states(number: int) -> bool:
    """Whether the sum still opens when one member was shown another state, properly named."""
    from tests.protection.test_protection import Round  # noqa: PLC0415

    drawn, shape = draw("two states", number)
    made = Round(shape["members"], 16)
    victim = drawn.choice(made.names)
    for name in made.names:
        other = replace(made.plan, base=Hash(drawn.randbytes(32)))
        made.seal(name, plan=other if name == victim else None)
    right = made.expected()
    values = {name: np.rint(made.values[name] * 2**16).astype(np.int64) for name in made.names}
    opened = made.finish()
    return any(np.array_equal(opened, each) for each in (right, right - values[victim], values[victim]))


VIEWS = {"two survivor sets": two_survivor_sets, "another state for one member": two_states}


def attempted(name: str, trials: int, base: Path) -> dict[str, object]:
    """One attack of `hostile/`, at most so many times; a trial that raises was stopped by nothing."""
    attempt = next(each for each in attempts() if each.name == name)
    made: list[Outcome] = []
    for number in range(trials):
        with tempfile.TemporaryDirectory(dir=base) as folder:
            try:
                made.append(attempt.trial(number, Path(folder)))
            except Exception:  # noqa: BLE001 - the other rows are still tried, and this one does not hold
                print(f"{name}, trial {number}:\n{traceback.format_exc()}", file=sys.stderr)
                made.append(Outcome(succeeded=False, stopped_by=""))
    row: dict[str, object] = {
        "attack": name, "trials": len(made), "successes": sum(outcome.succeeded for outcome in made),
        "stopped_by": dict(sorted(Counter(outcome.stopped_by for outcome in made).items())),
    }  # fmt: skip
    print(f"{name}: {row['successes']} of {len(made)} succeeded", file=sys.stderr)
    return row


def forged(attack: str, trials: int, base: Path) -> dict[str, object]:
    """One attack of ``ATTACKS``, so many times."""
    made = [trial(attack, number, base) for number in range(trials)]
    row: dict[str, object] = {
        "attack": attack, "trials": trials, "successes": sum(t.succeeded for t in made),
        "refused_by_name": sum(t.refused for t in made), "ended_right": sum(t.finished for t in made),
        "names": dict(sorted(Counter(t.name for t in made).items())),
    }  # fmt: skip
    print(f"{attack}: {row['refused_by_name']} of {trials}", file=sys.stderr)
    return row


def shown(view: str, trials: int, base: Path) -> dict[str, object]:
    """One view of ``VIEWS``, so many times."""
    del base
    return {"attack": view, "trials": trials, "opened": sum(VIEWS[view](number) for number in range(trials))}


def run(trials: int, only: str | None = None, processes: int = 1, into: Path | None = None) -> dict[str, object]:
    """Every attack so many times, or one of them; ``processes`` attacks at a time.

    ``into`` is a result that is gone on with: its rows that are full are kept, each with the commit it was measured at,
    and what is measured now is written there row by row.
    """
    shared_memory = Path("/dev/shm")  # noqa: S108 - homes that are thrown away
    base = shared_memory if shared_memory.is_dir() else Path(tempfile.gettempdir())
    told = json.loads(into.read_text()) if into and into.exists() else {}
    calls: dict[str, dict[str, Callable[..., Any]]] = {
        "attacks": dict.fromkeys(ATTACKS, forged), "views": dict.fromkeys(VIEWS, shown),
        "attempts": {attempt.name: attempted for attempt in attempts()},
    }  # fmt: skip
    made: dict[str, dict[str, dict[str, object]]] = {
        kind: {row["attack"]: row for row in told.get(kind, []) if row["trials"] >= trials and row["attack"] != only}
        for kind in calls
    }
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip

    def result() -> dict[str, object]:
        rows = {kind: [made[kind][name] for name in names if name in made[kind]] for kind, names in calls.items()}
        return {
            "command": f"python -m audits.protection.attacks --trials {trials} --processes {processes} --json",
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES}
            | {"python": platform.python_version()},
            **rows,
        }

    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        waiting = {
            pool.submit(call, name, trials, base): kind
            for kind, names in calls.items()
            for name, call in names.items()
            if name not in made[kind] and only in (None, name)
        }
        for row in as_completed(waiting):
            told = {**row.result(), "commit": commit}
            made[waiting[row]][str(told["attack"])] = told
            if into:
                into.write_text(json.dumps(result(), indent=1) + "\n")
    return result()


def holds(told: dict[str, object]) -> bool:
    """Whether nothing succeeded, and everything was refused by its name."""
    rows, views, tried = told["attacks"], told["views"], told["attempts"]
    assert isinstance(rows, list)
    assert isinstance(views, list)
    assert isinstance(tried, list)
    full = all(row["refused_by_name"] == row["ended_right"] == row["trials"] and not row["successes"] for row in rows)
    stopped = all(not row["successes"] and "" not in row["stopped_by"] for row in tried)
    return full and stopped and not any(row["opened"] for row in views)


def main() -> None:
    """Print what came of it; exit 1 if an attack got through or was refused by another name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--only", choices=[*ATTACKS, *(each.name for each in attempts())], metavar="ATTACK")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--into", type=Path, metavar="FILE", help="go on with this result, and write each row there")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    told = run(given.trials, given.only, given.processes, given.into)
    if given.json:
        print(json.dumps(told, indent=1))
    else:
        for row in told["attacks"]:  # type: ignore[attr-defined]
            print(f"{row['attack']:<46}{row['successes']} of {row['trials']} succeeded; refused by {row['names']}")
        for row in told["views"]:  # type: ignore[attr-defined]
            print(f"{row['attack']:<46}{row['opened']} of {row['trials']} opened anything")
        for row in told["attempts"]:  # type: ignore[attr-defined]
            print(f"{row['attack']:<46}{row['successes']} of {row['trials']} succeeded; stopped by {row['stopped_by']}")
    raise SystemExit(0 if holds(told) else 1)


if __name__ == "__main__":
    main()
