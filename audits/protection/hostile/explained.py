"""What `explain` is made to say of a run that was otherwise, and what `compare` is made to take for its own run."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from audits.protection.attempt import Attempt, Outcome
from audits.protection.hostile.evidence import check_of, rebound, signed
from audits.protection.hostile.evidence import home as home_of_two
from securefl import files, keys, merkle
from securefl.audit import explain as e
from securefl.audit import folder
from securefl.audit.ledger_files import read_all
from securefl.compare.run_cell import finished, folder_of
from securefl.documents import experiment
from securefl.errors import Tampered
from securefl.policy import approvals
from securefl.simulation import federation
from securefl.terms import Closed, Leaf, MemberId, MessageSent, Reported, RunId, RunJoined
from tests.support import audited

OFFICER = keys.Identity(keys.Secret(hashlib.sha256(b"officer").digest()))
SIGNED = audited.POLICY + f"approvals: {{required: 0, keys: {{officer: {OFFICER.public.hex()}}}}}\n"
PARTIES = (*audited.MEMBERS, "coordinator")
EXPERIMENT = (
    "securefl_experiment: 1\nname: e\nfederation: federation.yaml\nepsilon: [8, none]\nseeds: [1]\n"
    "arms: [{name: plain}, {name: other, set: {training.learning_rate: 0.05}}]\n"
)


def _state(run: Path, line: str) -> e.State:
    return next(each.state for each in e.explain(run).lines if each.name == line)


def agreed_without_signatures(number: int, base: Path) -> Outcome:
    """Some parties joined under a policy that nobody signed for them, and others show signatures."""
    drawn = random.Random(number)  # noqa: S311 - trials that can be repeated
    without = set(drawn.sample(PARTIES, drawn.randint(1, 4)))
    story = audited.Story(policy=SIGNED)
    made = approvals.sign(OFFICER, approvals.Kind.AUTHOR, story.policy, audited.NOW - 1, audited.NOW + 10**6)
    story.shown = lambda name: b"" if name in without else approvals.encode([made])
    story.begin()
    story.round(1)
    story.close()
    line = next(each for each in e.explain(story.export(base)).lines if each.name == "policy")
    return Outcome(line.state is e.State.ON or not all(name in line.shown for name in without), "policy OFF, by name")


def looked_at_afterwards(number: int, base: Path) -> Outcome:
    """What the bench saw is written by somebody else: that it looked at every message and ledger, and saw nothing."""
    drawn = random.Random(number)  # noqa: S311
    run = audited.told(rounds=1).leave(base / "run")
    facts = [{"what": "seed", "source": "os.urandom", "bits": 256}]
    for ledger in read_all(run).values():
        facts.append(
            {
                "what": "ledger", "name": ledger.name, "size": len(ledger.hashes),
                "root": merkle.root(ledger.hashes).hex(), "records": False,
            }
        )  # fmt: skip
        for _, entry in ledger.each(MessageSent):
            facts.append({"what": "message", "digest": entry.receipt.digest.hex(), "records": False})
    drawn.shuffle(facts)
    (run / e.MEASURED).write_text("\n".join(map(json.dumps, facts)))
    return Outcome(
        _state(run, "records") is e.State.ON or _state(run, "generator") is e.State.ON, "not bound: not read"
    )


def _facts(run: Path, *, records: bool) -> list[dict[str, object]]:
    """What a bench says that looked at every message and ledger: whether it saw a record's text."""
    facts: list[dict[str, object]] = []
    for ledger in read_all(run).values():
        size = len(ledger.hashes) - sum(1 for _ in ledger.each(Reported))
        root = merkle.root(ledger.hashes[:size]).hex()
        facts.append({"what": "ledger", "name": ledger.name, "size": size, "root": root, "records": False})
        for _, entry in ledger.each(MessageSent):
            facts.append({"what": "message", "digest": entry.receipt.digest.hex(), "records": records})
    return facts


def bound_by_a_member(number: int, base: Path) -> Outcome:
    """What the bench saw was bound by the coordinator; a member writes another, and says that the run left that.

    Of this run, of one that nobody knows, or of one of its own that it begins for this.
    """
    drawn = random.Random(number)  # noqa: S311
    run = audited.told(rounds=1).leave(base / "run")
    about = RunId(bytes.fromhex(json.loads((run / "run.json").read_text())["run"]))
    (run / e.MEASURED).write_text("\n".join(map(json.dumps, _facts(run, records=True))))
    rebound(run)
    if _state(run, "records") is not e.State.OFF:
        return Outcome(succeeded=True, stopped_by="it is not even told of what is bound")
    (run / e.MEASURED).write_text("\n".join(map(json.dumps, _facts(run, records=False))))
    name = drawn.choice(audited.MEMBERS)
    leaves = list(read_all(run)[MemberId(name)].leaves)
    if number % 3 == 2:
        made = next(leaf.entry for leaf in leaves if isinstance(leaf.entry, RunJoined))
        about = RunId(drawn.randbytes(16))
        more = (replace(made, run=about, role="coordinator", dataset=""), Closed(about, "finished", ""))
        leaves += [Leaf(leaves[-1].at, each) for each in more]
        if drawn.random() < 0.5:
            (run / "run.json").unlink()
            (run / "report.json").unlink()
    elif number % 3 == 1:
        (run / "run.json").unlink()
        (run / "report.json").unlink()
    said = folder.reported(about, read_all(run), folder.files(run))
    signed(run, name, [*leaves, Leaf(leaves[-1].at, said)])
    try:
        state = _state(run, "records")
    except Tampered as fault:
        return Outcome(succeeded=False, stopped_by=check_of(f"{fault.where}: {fault.why}"))
    return Outcome(state is e.State.ON, "what a member binds is not read")


def what_was_off_forgotten(number: int, base: Path) -> Outcome:
    """The report of a run whose bench also trained without privacy is edited, cut short, or taken away."""
    drawn = random.Random(number)  # noqa: S311
    run = audited.told(rounds=1).leave(base / "run")
    path = run / "report.json"
    report = json.loads(path.read_text())
    report["accuracy"]["without_privacy"] = 0.9
    path.write_text(json.dumps(report))
    rebound(run)
    if _state(run, "open arm") is not e.State.OFF:
        return Outcome(succeeded=True, stopped_by="it is not even told of a report that is bound")
    report["accuracy"]["without_privacy"] = None
    how = drawn.randrange(4)
    if how == 0:
        path.unlink()
    else:
        del report["accuracy" if how == 1 else "seconds"]
        path.write_text(json.dumps(report) if how < 3 else "{")
    try:
        lines = [each.state for each in e.explain(run).lines if each.name == "open arm"]
    except Tampered as fault:
        return Outcome(succeeded=False, stopped_by=check_of(f"{fault.where}: {fault.why}"))
    return Outcome(lines != [e.State.UNKNOWN], "open arm NOT MEASURED")


def an_earlier_run_named(number: int, base: Path) -> Outcome:
    """The folder of a run names one before it, with some or all of what was left of that: it looked better."""
    drawn = random.Random(number)  # noqa: S311
    run = base / "run"
    shutil.copytree(home_of_two() / "two", run)
    names = ["run.json", "report.json", "measured.jsonl"]
    for name in names if drawn.random() < 0.5 else names[:2]:
        shutil.copy(home_of_two() / "one" / name, run / name)
    if drawn.random() < 0.3:
        (run / drawn.choice(names[:2])).unlink()
    try:
        told = e.explain(run)
    except Tampered as fault:
        return Outcome(succeeded=False, stopped_by=check_of(f"{fault.where}: {fault.why}"))
    return Outcome(succeeded=True, stopped_by=told.run)


@cache
def _experiment() -> experiment.Experiment:
    from tests.support.small import Small  # noqa: PLC0415

    folder = Path(mkdtemp(prefix="experiment-"))
    Small(folder)
    (folder / "e.yaml").write_text(EXPERIMENT)
    return experiment.load(folder / "e.yaml")


def _taken(base: Path, drawn: random.Random, *, private: bool) -> Outcome:
    """Whether what lies in a cell's folder is taken for a run of it."""
    cells = [(cell, loaded) for cell, loaded in _experiment().runs if (cell.epsilon is not None) is private]
    cell, loaded = drawn.choice(cells)
    folder = base / folder_of(cell)
    folder.parent.mkdir(parents=True, exist_ok=True)
    (base / "planted").rename(folder)
    try:
        outcome = finished(cell, loaded, base)
    except Tampered as fault:
        return Outcome(succeeded=False, stopped_by=check_of(f"{fault.where}: {fault.why}"))
    return Outcome(succeeded=outcome is not None, stopped_by="taken for a run that is not over")


def _best(drawn: random.Random) -> dict[str, object]:
    return {
        "outcome": {"status": "finished", "why": "x"}, "seconds": {"total": 1}, "epsilon": {"spent": 0.01},
        "accuracy": {"after": drawn.uniform(0.9, 1), "macro_f1": 0.9, "majority": 0.5},
        "run": drawn.randbytes(16).hex(),
    }  # fmt: skip


def a_report_alone(number: int, base: Path) -> Outcome:
    """A cell's folder holds a report with the best accuracy, and nothing else; or a mark that it is over."""
    drawn = random.Random(number)  # noqa: S311
    run = base / "planted" / "run"
    run.mkdir(parents=True)
    report = _best(drawn)
    (run / "report.json").write_text(json.dumps(report))
    if drawn.random() < 0.5:
        (run / "run.json").write_text(json.dumps({"run": report["run"], "outcome": "finished"}))
    return _taken(base, drawn, private=True)


@cache
def _elsewhere() -> Path:
    """A run that verifies, of another federation, with the homes that made it."""
    folder = Path(mkdtemp(prefix="elsewhere-"))
    audited.told(rounds=1).leave(folder / "run")
    for name in PARTIES:
        seed = hashlib.sha256(b"audited " + name.encode()).digest()
        (folder / "sites" / name).mkdir(parents=True)
        files.write(folder / "sites" / name / "identity.key", seed)
    return folder


def a_run_of_another_experiment(number: int, base: Path) -> Outcome:
    """A cell's folder holds a run of another federation that verifies; with its homes, with others, or with none."""
    drawn = random.Random(number)  # noqa: S311
    shutil.copytree(_elsewhere(), base / "planted")
    how = drawn.randrange(3)
    if how == 1:
        shutil.rmtree(base / "planted" / "sites")
    elif how == 2:
        files.write(base / "planted" / "sites" / "north" / "more.key", drawn.randbytes(32))
        (base / "planted" / "sites" / "north" / "more.key").replace(
            base / "planted" / "sites" / "north" / "identity.key"
        )
    return _taken(base, drawn, private=True)


def a_run_that_was_polished(number: int, base: Path) -> Outcome:
    """A cell's own run, whose report says a better accuracy than the one that was bound."""
    drawn = random.Random(number)  # noqa: S311
    shutil.copytree(_elsewhere(), base / "planted")
    path = base / "planted" / "run" / "report.json"
    path.write_text(path.read_text().replace('"after": 0.75', f'"after": {drawn.uniform(0.8, 1)}'))
    return _taken(base, drawn, private=True)


def a_report_without_privacy(number: int, base: Path) -> Outcome:
    """A cell without privacy holds a report that says nothing of what it was made from, or another cell's."""
    drawn = random.Random(number)  # noqa: S311
    run = base / "planted" / "run"
    run.mkdir(parents=True)
    report = _best(drawn)
    if drawn.random() < 0.5:
        report["federation_file"] = drawn.randbytes(32).hex()
    (run / "report.json").write_text(json.dumps(report))
    return _taken(base, drawn, private=False)


@cache
def _tree() -> tuple[Path, experiment.Experiment]:
    """A finished run of a tree's cell, with the homes that made it: two levels, and no home of the experiment's own."""
    from tests.support.trees import Tree  # noqa: PLC0415

    folder = Path(mkdtemp(prefix="tree-"))
    Tree(folder).tree("tree.yaml")
    (folder / "e.yaml").write_text(
        "securefl_experiment: 1\nname: tree\nfederation: tree.yaml\nepsilon: [8]\nseeds: [1]\narms: [{name: plain}]\n"
    )
    found = experiment.load(folder / "e.yaml")
    federation.run(found.runs[0][1], folder / "made" / "run", sites=folder / "made" / "sites")
    return folder / "made", found


def a_tree_of_other_homes(number: int, base: Path) -> Outcome:
    """A cell's run of a tree was made by other homes than the cell's: none is there, one is gone, or is another."""
    drawn = random.Random(number)  # noqa: S311
    made, found = _tree()
    cell, loaded = found.runs[0]
    place = base / folder_of(cell)
    shutil.copytree(made, place)
    if finished(cell, loaded, base) is None:
        return Outcome(succeeded=True, stopped_by="the good one is not taken")
    homes = sorted((place / "sites").rglob("identity.key"))
    how, path = number % 4, drawn.choice(homes)
    if how == 0:
        shutil.rmtree(place / "sites")
    elif how == 1:
        path.unlink()
    else:  # another's key, at the root or below it
        deep = [each for each in homes if ("below" in each.parts) is (how == 3)]
        path = drawn.choice(deep or homes)
        path.unlink()
        files.write(path, drawn.randbytes(32))
    try:
        outcome = finished(cell, loaded, base)
    except Tampered as fault:
        return Outcome(succeeded=False, stopped_by=check_of(f"{fault.where}: {fault.why}"))
    return Outcome(succeeded=outcome is not None, stopped_by="taken for a run that is not over")


ATTEMPTS: tuple[Attempt, ...] = (
    Attempt("explain says signed of a run that some joined unsigned", agreed_without_signatures),
    Attempt("explain is told that all was looked at", looked_at_afterwards),
    Attempt("a member says what the bench saw, and binds it in its own ledger", bound_by_a_member),
    Attempt("explain forgets what a report said was off", what_was_off_forgotten),
    Attempt("explain is given an earlier run's name", an_earlier_run_named),
    Attempt("compare takes up a tree's run by homes that are not its own", a_tree_of_other_homes),
    Attempt("compare takes a report for a run", a_report_alone),
    Attempt("compare takes a run of another experiment", a_run_of_another_experiment),
    Attempt("compare takes a run whose report was polished", a_run_that_was_polished),
    Attempt("compare takes any report for one without privacy", a_report_without_privacy),
)
