"""A tree's folder in which somebody below, or the coordinator above all, left something that nothing bears out."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from audits.protection.attempt import Attempt, Outcome
from audits.protection.hostile.evidence import check_of
from audits.protection.hostile.explained import _tree
from audits.protection.hostile.tasks import _signed
from securefl import key_files, keys
from securefl.audit import folder
from securefl.audit.ledger_files import read_all
from securefl.audit.verify import verify
from securefl.terms import Entry, Leaf, MemberId, Reported, RunId

NODES = ("left", "right")
Trick = Callable[[random.Random, Path], None]


@cache
def homes() -> dict[bytes, Path]:
    """Every home of the tree, by its public key."""
    return {key_files.load(path).public: path for path in (_tree()[0] / "sites").rglob("identity.key")}


@cache
def _known() -> dict[str, str]:
    """The keys that an auditor knows, with the way to each."""
    good = verify(_tree()[0] / "run")
    assert good.ok, good.why
    return dict(good.keys)


def _who(place: Path, name: str) -> keys.Identity:
    return key_files.load(homes()[read_all(place)[MemberId(name)].key])


def _leaves(place: Path, name: str) -> list[Leaf]:
    return list(read_all(place)[MemberId(name)].leaves)


def _sign(place: Path, name: str, leaves: list[Leaf]) -> None:
    _signed(place, name, leaves, partial(lambda who, _: who, _who(place, name)))


def _root() -> RunId:
    return RunId(bytes.fromhex(json.loads((_tree()[0] / "run" / "run.json").read_text())["run"]))


def _said(place: Path, name: str, *, last: bool) -> None:
    """This party's ledger says that what stands in the folder now was left for the run above all."""
    leaves = _leaves(place, name)
    kept = [leaf for leaf in leaves if not (last and isinstance(leaf.entry, Reported))]
    _sign(place, name, kept)
    said: Entry = folder.reported(_root(), read_all(place), folder.files(place))
    _sign(place, name, [*kept, Leaf(leaves[-1].at, said)])


def a_page_below(drawn: random.Random, run: Path) -> None:
    """A coordinator below leaves a page, weights or a report in its folder, and binds them."""
    place = run / "below" / drawn.choice(NODES)
    if drawn.random() < 0.5:
        shutil.copytree(run / "adapter", place / "adapter")
    else:
        (place / drawn.choice(("report.html", "report.json", "run.json", "suite.json"))).write_text('{"epsilon": 0.01}')
    _said(place, "coordinator", last=True)


def measured_by_a_member_below(drawn: random.Random, run: Path) -> None:
    """A member below says what its bench saw, and that the run left this; its coordinator bound another."""
    place = run / "below" / drawn.choice(NODES)
    name = drawn.choice(sorted(set(read_all(place)) - {"coordinator"}))
    (place / "measured.jsonl").write_text('{"what": "seed", "bits": 256}\n')
    _said(place, name, last=False)


def nothing_said_below(drawn: random.Random, run: Path) -> None:
    """A coordinator below cuts its last word off, and leaves other measurements, or other keys to compare with."""
    place = run / "below" / drawn.choice(NODES)
    _sign(
        place, "coordinator", [leaf for leaf in _leaves(place, "coordinator") if not isinstance(leaf.entry, Reported)]
    )
    (place / drawn.choice(("measured.jsonl", "keys.json"))).write_text('{"west": "00"}\n')


def two_words_below(drawn: random.Random, run: Path) -> None:
    """A coordinator below says twice what it left, another thing each time, and shows the files of one of its words."""
    place = run / "below" / drawn.choice(NODES)
    leaves = _leaves(place, "coordinator")
    (place / "measured.jsonl").write_text('{"what": "seed", "bits": 256}\n')
    _said(place, "coordinator", last=False)
    if drawn.random() < 0.5:  # in another order: what is shown was said in between
        mine = _leaves(place, "coordinator")
        _sign(place, "coordinator", [*mine, next(leaf for leaf in leaves if isinstance(leaf.entry, Reported))])
        shutil.copy(_tree()[0] / "run" / "below" / place.name / "measured.jsonl", place / "measured.jsonl")


def no_run_above(drawn: random.Random, run: Path) -> None:
    """The coordinator above all takes report and mark away, and binds the rest, as if it were below another."""
    for name in ("run.json", "report.json"):
        (run / name).unlink()
    (run / "report.html").write_text("<h1>epsilon 0.01</h1>")
    about = drawn.choice((_root(), RunId(drawn.randbytes(16))))
    leaves = [leaf for leaf in _leaves(run, "coordinator") if not isinstance(leaf.entry, Reported)]
    _sign(run, "coordinator", leaves)
    said: Entry = folder.reported(about, read_all(run), folder.files(run))
    _sign(run, "coordinator", [*leaves, Leaf(leaves[-1].at, said)])


def tried(trick: Trick) -> Callable[[int, Path], Outcome]:
    """A trial: the trick is played on a copy of a good run of a tree, and the auditor looks at all of it."""

    def trial(number: int, base: Path) -> Outcome:
        made, run = _tree()[0] / "run", base / "run"
        shutil.copytree(made, run)
        trick(random.Random(number), run)  # noqa: S311 - trials that can be repeated
        found = verify(run, _known())
        return Outcome(found.ok, check_of(found.why))

    return trial


ATTEMPTS: tuple[Attempt, ...] = (
    Attempt("a coordinator below leaves a page or weights and binds them", tried(a_page_below)),
    Attempt("a member below binds what its bench saw", tried(measured_by_a_member_below)),
    Attempt("a coordinator below says nothing of what it left", tried(nothing_said_below)),
    Attempt("a coordinator below says two things of what it left", tried(two_words_below)),
    Attempt("the coordinator above all leaves a tree without report and mark", tried(no_run_above)),
)
