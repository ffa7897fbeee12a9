"""A run of many parts whose part with the breach is taken away, or named as another, before `explain` tells of it."""

from __future__ import annotations

import json
import random
import shutil
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp

from audits.protection.attempt import Attempt, Outcome
from audits.protection.hostile import tasks, unfinished
from audits.protection.hostile.evidence import check_of
from securefl.audit import folder, run_tree, suites
from securefl.audit.explain import MEASURED
from securefl.audit.ledger_files import read_all
from securefl.errors import Tampered
from securefl.terms import Leaf, MemberId, MessageSent, Reported

LEFT, TASK = "left", "mood"


def _breached(part: Path) -> None:
    """What the bench saw: text of a record in every message of this part."""
    sent = [entry for ledger in read_all(part).values() for _, entry in ledger.each(MessageSent)]
    facts = ({"what": "message", "digest": each.receipt.digest.hex(), "records": True} for each in sent)
    (part / MEASURED).write_text("\n".join(map(json.dumps, facts)))


def _told(run: Path, names: tuple[str, ...]) -> Outcome:
    try:
        told, text, breached = run_tree.explain(run)
    except Tampered as fault:
        return Outcome(succeeded=False, stopped_by=check_of(f"{fault.where}: {fault.why}"))
    said = [each for each in told.get("not_measured", ()) if any(name in each for name in names)]
    shown = all(f"NOT MEASURED: {each}" in text for each in said)
    return Outcome(not breached and not (said and shown), "a breach" if breached else "told as not measured")


@cache
def _tree() -> Path:
    """A tree in one of whose federations text of records left."""
    run = unfinished.world(Path(mkdtemp(prefix="told-less-")) / "homes").left(
        Path(mkdtemp(prefix="told-less-")) / "run"
    )
    _breached(run / "below" / LEFT)
    assert run_tree.explain(run)[2], "it is told while it is there"
    return run


def a_federation_taken_away(number: int, base: Path) -> Outcome:
    """Somebody removes a federation's folder, its ledgers alone, or all that is below."""
    run = base / "run"
    shutil.copytree(_tree(), run)
    shutil.rmtree((run / "below" / LEFT, run / "below" / LEFT / "ledger", run / "below")[number % 3])
    return _told(run, (f"below/{LEFT}",))


def another_federations_ledgers(number: int, base: Path) -> Outcome:
    """Ledgers of another federation of the tree stand in the place of those with the breach."""
    run, other = base / "run", random.Random(number).choice(("mid", "right"))  # noqa: S311
    shutil.copytree(_tree(), run)
    shutil.rmtree(run / "below" / LEFT)
    shutil.copytree(run / "below" / other, run / "below" / LEFT)
    return _told(run, (f"below/{LEFT}",))


@cache
def _suite() -> Path:
    """A run with tasks, of one of which text of records left."""
    run = Path(mkdtemp(prefix="told-less-")) / "run"
    shutil.copytree(tasks.made() / "run", run)
    _breached(run / folder.TASKS / TASK)
    assert run_tree.explain(run)[2], "it is told while it is there"
    return run


def a_task_taken_away(number: int, base: Path, *, bound: bool) -> Outcome:
    """The report of all tasks names it no more, or names it as another one, or is gone; its folder may be gone too.

    With ``bound`` the coordinator does it, and says that this is what the run left.
    """
    drawn, run = random.Random(number), base / "run"  # noqa: S311
    shutil.copytree(_suite(), run)
    own = json.loads((run / folder.TASKS / TASK / folder.REPORT).read_text())["run"]
    path = run / folder.SUITE
    told = json.loads(path.read_text())
    gone = told["tasks"].pop(TASK)
    how = number % 3 if not bound else drawn.randrange(2)
    if how == 1:
        told["tasks"][f"{TASK}/../tone"] = gone
    path.write_text(json.dumps(told))
    if how == 2:
        path.unlink()
    if (bound and how == 0) or drawn.random() < 0.5:
        shutil.rmtree(run / folder.TASKS / TASK)
    if bound:
        _said_anew(run)
    return _told(run, (TASK, own[:12]))


def _said_anew(run: Path) -> None:
    """The coordinator's last word is on these tasks alone."""
    leaves = list(read_all(run)[MemberId("coordinator")].leaves)
    place = max(index for index, leaf in enumerate(leaves) if isinstance(leaf.entry, Reported))
    kept = leaves[:place]
    tasks._signed(run, "coordinator", kept)  # noqa: SLF001
    try:
        about = suites.id_in(run)
    except Tampered:  # of a task by the name of a way: it is called as before
        about = leaves[place].entry.run  # type: ignore[union-attr]
    said = folder.reported(about, read_all(run), folder.files(run))
    tasks._signed(run, "coordinator", [*kept, Leaf(kept[-1].at, said)])  # noqa: SLF001


ATTEMPTS = (
    Attempt("somebody takes the federation with the breach away before explain tells", a_federation_taken_away),
    Attempt("explain is given another federation's ledgers for those with the breach", another_federations_ledgers),
    Attempt(
        "somebody takes the task with the breach away before explain tells", partial(a_task_taken_away, bound=False)
    ),
    Attempt(
        "a coordinator takes the task with the breach away and binds the rest", partial(a_task_taken_away, bound=True)
    ),
)
