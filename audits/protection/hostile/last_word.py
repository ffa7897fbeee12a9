"""Who says what a run left, and what it is held against: words of members, words on ledgers that were cut, and none."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from safetensors.numpy import save

from audits.protection.attempt import Attempt, Outcome
from audits.protection.hostile.evidence import KNOWN, _leaves, check_of, rebound, signed, tried
from securefl import merkle
from securefl.audit import figures, folder
from securefl.audit.ledger_files import read_all
from securefl.audit.verify import verify
from securefl.terms import (
    Closed,
    Entry,
    Head,
    Leaf,
    MemberId,
    MessageReceived,
    Released,
    Reported,
    Reserved,
    RunId,
    RunJoined,
    Witnessed,
)
from tests.support import audited

PAGE = "<h1>epsilon 0.01, approved by the regulator</h1>"
Forged = Callable[[random.Random, dict[str, Any]], None]


def _other_files(drawn: random.Random, run: Path, *, whole: bool) -> None:
    """Another page and other weights stand in the folder; without ``whole``, neither report nor mark."""
    for name in () if whole else ("run.json", "report.json"):
        (run / name).unlink()
    (run / "report.html").write_text(PAGE)
    (run / "adapter" / "adapter_model.safetensors").write_bytes(save({"x.lora_B.weight": np.ones(7, "<f4")}))
    (run / "adapter" / "released.f32").write_bytes(drawn.randbytes(64))


def _say(run: Path, name: str, about: RunId, before: tuple[Entry, ...] = ()) -> None:
    """This party's ledger says, at its end, that what stands in the folder now is what a run left."""
    leaves = _leaves(run, name)
    at = leaves[-1].at
    leaves += [Leaf(at, each) for each in before]
    signed(run, name, leaves)
    signed(run, name, [*leaves, Leaf(at, folder.reported(about, read_all(run), folder.files(run)))])


def said_by_a_member(drawn: random.Random, run: Path) -> None:
    """A member takes report and mark away, puts in other weights, and says in its own ledger that the run left them."""
    about = _run_of(run)
    _other_files(drawn, run, whole=drawn.random() < 0.3)
    _say(run, drawn.choice(audited.MEMBERS), drawn.choice((about, RunId(drawn.randbytes(16)))))


def _run_of(run: Path) -> RunId:
    return RunId(bytes.fromhex(json.loads((run / "run.json").read_text())["run"]))


def said_by_a_member_that_says_it_coordinates(drawn: random.Random, run: Path) -> None:
    """A member begins and ends a run of its own making as its coordinator, and says what that, or another, left."""
    about, name = _run_of(run), drawn.choice(audited.MEMBERS)
    own = next(entry for _, entry in read_all(run)[MemberId(name)].each(RunJoined))
    made = replace(own, run=RunId(drawn.randbytes(16)), role="coordinator", dataset="")
    _other_files(drawn, run, whole=False)
    if drawn.random() < 0.5:
        (run / "run.json").write_text(json.dumps({"run": made.run.hex(), "outcome": "finished"}))
    _say(run, name, drawn.choice((about, made.run)), (made, Closed(made.run, "finished", "")))


def report_and_mark_taken_away_and_bound(drawn: random.Random, run: Path) -> None:
    """The coordinator leaves a folder that names no run: page, weights and released state are whatever it likes.

    It says so of the run, of one that nobody knows, as if this were a federation below, or not at all.
    """
    _other_files(drawn, run, whole=False)
    leaves = _leaves(run, "coordinator")
    place = max(index for index, leaf in enumerate(leaves) if isinstance(leaf.entry, Reported))
    how = drawn.randrange(4)
    if how == 0:
        rebound(run)
        return
    kept = leaves[:place]
    signed(run, "coordinator", kept)
    if how == 1:
        _say(run, "coordinator", RunId(drawn.randbytes(16)))
    elif how == 2:  # nothing is said, and some of the files that might be asked about are gone
        for name in drawn.sample(("report.html", "adapter", "measured.jsonl", "keys.json"), 2):
            path = run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def computed_from_less(drawn: random.Random, run: Path) -> None:
    """The coordinator computes the report from ledgers that it left out or cut, and binds it; all are here, whole."""
    ledgers, about = read_all(run), _run_of(run)
    leaves = _leaves(run, "coordinator")
    place = max(index for index, leaf in enumerate(leaves) if isinstance(leaf.entry, Reported))
    entry = leaves[place].entry
    assert isinstance(entry, Reported)
    hashes = ledgers[MemberId("coordinator")].hashes
    own = Head(MemberId("coordinator"), place, merkle.root(hashes[:place]))
    shorter = drawn.sample(audited.MEMBERS, drawn.randint(1, 4))
    left_out = drawn.random() < 0.4  # the others: or they are named as they are
    cut = []
    for name in shorter if left_out else audited.MEMBERS:
        ledger = ledgers[MemberId(name)]
        reserved = [index for index, each in ledger.each(Reserved) if each.plan.run == about]
        size = drawn.choice((reserved[0] + 1, reserved[-1])) if name in shorter else len(ledger.hashes)
        cut.append(Head(ledger.owner, size, merkle.root(ledger.hashes[:size])))
    heads = tuple(sorted((own, *cut), key=lambda head: head.owner))
    leaves[place] = replace(leaves[place], entry=replace(entry, ledgers=heads))
    signed(run, "coordinator", leaves)
    _compute(run, heads, about)
    rebound(run)


def _compute(run: Path, heads: tuple[Head, ...], about: RunId) -> None:
    """The report says what these ledgers give, cut as these heads say."""
    ledgers = read_all(run)
    then = {
        head.owner: replace(
            ledgers[head.owner], leaves=ledgers[head.owner].leaves[: head.size],
            hashes=ledgers[head.owner].hashes[: head.size],
        )
        for head in heads
    }  # fmt: skip
    report = json.loads((run / "report.json").read_text())
    _put(json.loads(json.dumps(figures.figures(then, about))), report)
    (run / "report.json").write_text(json.dumps(report))


def _put(due: Mapping[str, Any], told: dict[str, Any]) -> None:
    for name, value in due.items():
        if isinstance(value, dict) and isinstance(told.get(name), dict):
            _put(value, told[name])
        elif name != "members":
            told[name] = value


def computed_from_less_and_seen_nothing(drawn: random.Random, run: Path) -> None:
    """As before, and its own ledger says nothing of the heads that it saw."""
    leaves = [leaf for leaf in _leaves(run, "coordinator") if not isinstance(leaf.entry, Witnessed)]
    signed(run, "coordinator", leaves)
    computed_from_less(drawn, run)


def computed_before_the_end(drawn: random.Random, run: Path) -> None:
    """The coordinator names its own ledger as it was before the last messages, so that fewer bytes travelled."""
    leaves, about = _leaves(run, "coordinator"), _run_of(run)
    place = max(index for index, leaf in enumerate(leaves) if isinstance(leaf.entry, Reported))
    entry = leaves[place].entry
    assert isinstance(entry, Reported)
    last = [
        leaf for leaf in leaves[:place] if isinstance(leaf.entry, MessageReceived) and leaf.entry.receipt.run == about
    ]
    late = last[-drawn.randint(1, 2) :]  # goodbyes: nobody saw its ledger since
    moved = [*(leaf for leaf in leaves[:place] if leaf not in late), *late]
    signed(run, "coordinator", [*moved, leaves[place]])
    hashes = read_all(run)[MemberId("coordinator")].hashes
    size = len(moved) - len(late)
    heads = tuple(
        Head(head.owner, size, merkle.root(hashes[:size])) if head.owner == "coordinator" else head
        for head in entry.ledgers
    )
    signed(run, "coordinator", [*moved, Leaf(leaves[place].at, replace(entry, ledgers=heads))])
    _compute(run, heads, about)
    rebound(run)


# What the report says, so that two readers read two things, or a figure passes for another.

TIGHT = audited.POLICY.replace("delta: 1e-5", "delta: 1e-7")


@cache
def tight() -> Path:
    """A run under a small delta."""
    base = Path(mkdtemp(prefix="tight-"))
    audited.told(rounds=1, policy=TIGHT).leave(base / "run")
    return base / "run"


def small_figures(number: int, base: Path) -> Outcome:
    """The coordinator writes another small figure, such as a delta of zero, and binds it."""
    drawn = random.Random(number)  # noqa: S311 - trials that can be repeated
    run = base / "run"
    shutil.copytree(tight(), run)
    report = json.loads((run / "report.json").read_text())
    changes: tuple[Forged, ...] = (
        lambda _, told: told["epsilon"].update(delta=0.0),
        lambda d, told: told["epsilon"].update(delta=told["epsilon"]["delta"] * d.uniform(0.1, 0.9)),
        lambda d, told: d.choice(told["accounts"]).update(delta=1e-30),
        lambda _, told: told["protections"].update(clip_l2=told["protections"]["clip_l2"] - 5e-7),
        lambda _, told: told["protections"].update(noise_multiplier=told["protections"]["noise_multiplier"] + 9e-7),
        lambda _, told: told["rounds"][0].update(epsilon_after=told["rounds"][0]["epsilon_after"] - 9e-7),
        lambda d, told: d.choice(told["accounts"]).update(limit=8 + 9e-7),
    )
    drawn.choice(changes)(drawn, report)
    (run / "report.json").write_text(json.dumps(report))
    rebound(run)
    found = verify(run, KNOWN)
    return Outcome(found.ok, check_of(found.why))


def a_key_twice(drawn: random.Random, run: Path) -> None:
    """The coordinator writes a key twice: a reader takes the first, a parser the last. Or another encoding of text."""
    name = drawn.choice(("report.json", "run.json"))
    text = (run / name).read_text().lstrip()
    first = '"epsilon": {"spent": 0.01, "delta": 0}' if name == "report.json" else '"outcome": "refused"'
    inside = text.replace('"limit": ', '"limit": 0.1, "limit": ', 1)
    changed = drawn.choice([f"{{{first}, {text[1:]}", inside]) if name == "report.json" else f"{{{first}, {text[1:]}"
    (run / name).write_bytes(changed.encode() if drawn.random() < 0.7 else text.encode("utf-16-le"))
    rebound(run)


def a_member_twice(drawn: random.Random, run: Path) -> None:
    """The coordinator lists a member twice, elsewhere and with another accuracy, or in the place of another."""
    report = json.loads((run / "report.json").read_text())
    again = json.loads(json.dumps(drawn.choice(report["members"])))
    again["heldout"]["after"] = 0.999
    if drawn.random() < 0.7:
        again["region"] = "elsewhere"
    report["members"].insert(drawn.randrange(2), again)
    if report["members"][-1]["name"] != again["name"] and drawn.random() < 0.3:
        report["members"].pop()
    (run / "report.json").write_text(json.dumps(report))
    rebound(run)


def release_without_a_word(drawn: random.Random, run: Path) -> None:
    """The coordinator cuts its last word off, and leaves weights of its own, with or without ledgers to them."""
    leaves = _leaves(run, "coordinator")
    assert any(isinstance(leaf.entry, Released) for leaf in leaves)
    signed(run, "coordinator", [leaf for leaf in leaves if not isinstance(leaf.entry, Reported)])
    _other_files(drawn, run, whole=drawn.random() < 0.3)


ATTEMPTS: tuple[Attempt, ...] = (
    Attempt("a member says in its own ledger what the run left", tried(said_by_a_member)),
    Attempt("a member coordinates a run of its own making and says what it left",
            tried(said_by_a_member_that_says_it_coordinates)),
    Attempt("the coordinator takes report and mark away and binds the rest",
            tried(report_and_mark_taken_away_and_bound)),
    Attempt("the coordinator cuts its last word off and leaves other weights", tried(release_without_a_word, "one")),
    Attempt("the coordinator computes the report from fewer and shorter ledgers", tried(computed_from_less)),
    Attempt("the coordinator does so and forgets the heads that it saw",
            tried(computed_from_less_and_seen_nothing, "one")),
    Attempt("the coordinator computes the report before its own last words", tried(computed_before_the_end)),
    Attempt("the coordinator writes another small figure and binds it", small_figures),
    Attempt("the coordinator writes a key twice, or in another encoding", tried(a_key_twice)),
    Attempt("the coordinator lists a member twice", tried(a_member_twice)),
)  # fmt: skip
