"""A run's folder in the form of a coordinator that has its own ledger alone: is it held by less than a report's folder?

Whoever is checked chooses which of the two forms he leaves. What one form finds, the other must find, or list by name.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from audits.protection.attempt import Attempt, Outcome
from audits.protection.hostile.evidence import KNOWN, check_of
from securefl.audit.verify import Verdict, verify
from securefl.ledger import export
from securefl.terms import MemberId, SignedHead, Witnessed
from tests.support import audited, saved_adapter

LISTED = "listed as not verified"


def found_in(run: Path) -> Verdict:
    """The auditor's verdict, under the keys that it brought."""
    return verify(run, KNOWN)


def weights(drawn: random.Random, run: Path) -> None:
    """Weights that PEFT loads lie beside the state that was released: of another factor, or a pickle of anything."""
    place = run / "adapter"
    name = drawn.choice(("adapter_model.safetensors", "adapter_model.bin", "adapter.safetensors", "model/x.bin"))
    (place / name).parent.mkdir(exist_ok=True)
    shape = (2, saved_adapter.RANK)
    tensors = {f"{saved_adapter.INNER}.lora_B.weight": np.full(shape, drawn.uniform(-9, 9), "<f4")}
    (place / name).write_bytes(save(tensors, {"format": "pt"}))
    if drawn.random() < 0.5:
        (run / "report.html").write_text("<h1>epsilon 0.01</h1>")


def weights_and_bound(number: int, base: Path) -> Outcome:
    """The coordinator leaves such weights in its own folder, and binds all of it."""
    drawn = random.Random(number)  # noqa: S311 - trials that can be repeated
    found = found_in(audited.told().leave_own(base / "run", lambda run: weights(drawn, run)))
    return Outcome(found.ok, check_of(found.why))


def another_telling_beside_a_report(number: int, base: Path) -> Outcome:
    """A bench's folder has a `coordinated.json` too, which says what its coordinator likes; both are bound."""
    drawn, story = random.Random(number), audited.told()  # noqa: S311
    own = story.leave_own(base / "own", seconds=drawn.uniform(0, 9))
    text = (own / "coordinated.json").read_text()
    leave = saved_adapter.leave

    def left(*made: object) -> None:
        leave(*made)  # type: ignore[arg-type]
        (base / "run" / "coordinated.json").write_text(text.replace('"masking"', '"ckks"'))

    saved_adapter.leave = left
    try:
        found = found_in(audited.told().leave(base / "run"))
    finally:
        saved_adapter.leave = leave
    return Outcome(found.ok, check_of(found.why))


def nobody_can_open(number: int, base: Path) -> Outcome:
    """The coordinator says of itself that nobody can open an update."""
    said = random.Random(number).choice(("nobody", "nobody at all, whoever colludes", ""))  # noqa: S311
    found = found_in(audited.told().leave_own(base / "run", who_can_open=said))
    return Outcome(found.ok, check_of(found.why))


def lost_in_the_last_round(number: int) -> tuple[audited.Story, str, SignedHead]:
    """A member that trained and paid in the last round and was not heard again; and what the coordinator saw before."""
    drawn = random.Random(number)  # noqa: S311
    lost, story = drawn.choice(audited.MEMBERS), audited.Story()
    story.begin()
    story.round(1)
    seen = story.parties[lost].head()
    story.note("coordinator", Witnessed(seen))
    story.round(2, lost=(lost,))
    whole, story.cohort = story.cohort, tuple(name for name in story.cohort if name != lost)
    story.close()
    story.cohort = whole
    return story, lost, seen


def cut(run: Path, owner: str, head: SignedHead) -> None:
    """Nobody's key is needed: a ledger ends where its own signed head, kept by another, says so."""
    path = run / "ledger" / f"{owner}.ledger"
    file = export.read(path)
    export.write(path, export.LedgerFile(MemberId(owner), file.key, file.leaves[: head.head.size], head))


def cut_beside(number: int, base: Path) -> Outcome:
    """An editor cuts a member's ledger, laid beside a coordinator's own folder, at a head that the coordinator kept."""
    story, lost, seen = lost_in_the_last_round(number)
    return _cut(story.leave_own(base / "run"), lost, seen)


def cut_alone(number: int, base: Path) -> Outcome:
    """The same, of ledgers alone."""
    story, lost, seen = lost_in_the_last_round(number)
    return _cut(story.export(base / "run"), lost, seen)


def _cut(run: Path, lost: str, seen: SignedHead) -> Outcome:
    before = found_in(run)
    if not before.ok or _names(before, lost):
        return Outcome(succeeded=True, stopped_by=f"a good one is called bad: {before.why}{before.unverified}")
    cut(run, lost, seen)
    after = found_in(run)
    return Outcome(after.ok and not _names(after, lost), check_of(after.why) or LISTED)


def _names(found: Verdict, lost: str) -> bool:
    return any(each.startswith(f"{lost}.ledger: asked to train round 2") for each in found.unverified)


ATTEMPTS = (
    Attempt("a coordinator of its own leaves weights beside the released state and binds them", weights_and_bound),
    Attempt("a bench leaves another telling of the run beside its report", another_telling_beside_a_report),
    Attempt("a coordinator of its own says that nobody can open an update", nobody_can_open),
    Attempt("somebody cuts a ledger beside a coordinator's own folder at a head that was seen", cut_beside),
    Attempt("somebody cuts one of ledgers alone at a head that was seen", cut_alone),
)
