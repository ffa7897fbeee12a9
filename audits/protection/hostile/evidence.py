"""Evidence that was made up, cut down, or put in another's place: what an auditor is given by those it is to judge."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from safetensors.numpy import load, save

from audits.protection.attempt import Attempt, Outcome
from securefl import keys, merkle, wire
from securefl.audit import folder
from securefl.audit.ledger_files import read_all
from securefl.audit.verify import verify
from securefl.ledger import export, heads
from securefl.terms import Closed, Head, Leaf, MemberId, Released, Reported, RunId, RunJoined, SignedHead, Witnessed
from tests.support import audited

Trick = Callable[[random.Random, Path], None]
PARTIES = (*audited.MEMBERS, "coordinator")
KNOWN = {name: audited.identity(name).public.hex() for name in PARTIES}


@cache
def home() -> Path:
    """Two runs of one home: what was left of the first in `one`, of the second in `two`."""
    home = Path(mkdtemp(prefix="evidence-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))  # noqa: S108
    story = audited.told(rounds=2)
    story.leave(home / "one")
    story.begin()
    story.round(1)
    story.close()
    story.leave(home / "two")
    return home


def _leaves(run: Path, name: str) -> list[Leaf]:
    return list(read_all(run)[MemberId(name)].leaves)


def signed(run: Path, name: str, leaves: list[Leaf], identity: keys.Identity | None = None) -> None:
    """This party's ledger is these entries, under a head that it signs itself, or another in its name."""
    by = identity or audited.identity(name)
    raws = tuple(wire.encode(leaf) for leaf in leaves)
    head = heads.sign(by, Head(MemberId(name), len(raws), merkle.root([merkle.leaf_hash(raw) for raw in raws])))
    export.write(run / "ledger" / f"{name}.ledger", export.LedgerFile(MemberId(name), by.public, raws, head))


def check_of(why: str) -> str:
    """Which check found it: a verdict's words, without what is of this trial alone."""
    said = re.sub("|".join(PARTIES), "SOMEBODY", why.partition(": ")[2])
    return re.sub(r"[0-9a-f]{12,}|[0-9]+", "#", said).partition(" is ")[0].partition(": ")[0]


def tried(trick: Trick, start: str = "two") -> Callable[[int, Path], Outcome]:
    """A trial: the trick is played on a copy of a good run, and the auditor looks at it."""

    def trial(number: int, base: Path) -> Outcome:
        run = base / "run"
        shutil.copytree(home() / start, run)
        trick(random.Random(number), run)  # noqa: S311 - trials that can be repeated
        found = verify(run, KNOWN)
        return Outcome(found.ok, check_of(found.why))

    return trial


def edit(run: Path, drawn: random.Random) -> None:
    """One figure of the report, of those that ledgers give, is another."""
    report = json.loads((run / "report.json").read_text())
    of_ledgers: tuple[Callable[[], object], ...] = (
        lambda: report["epsilon"].update(spent=0.1),
        lambda: report["epsilon"].update(limit=80.0),
        lambda: report["approvals"].update(approved_by=["the regulator"], signed=True),
        report["rounds"].pop,
        lambda: report["protections"].update(min_cohort=40),
        lambda: report["accounts"][drawn.randrange(len(report["accounts"]))].update(spent=0.0, left=8.0),
        lambda: report["bytes"].update(up=1),
        lambda: report["outcome"].update(why="every member was content"),
        lambda: report["members"][0].update(region="elsewhere"),
    )
    drawn.choice(of_ledgers)()
    (run / "report.json").write_text(json.dumps(report))


def report_edited(drawn: random.Random, run: Path) -> None:
    """A figure of the report is another: one that ledgers give, or one that is the coordinator's word."""
    if drawn.random() < 0.7:
        edit(run, drawn)
    else:
        text = (run / "report.json").read_text()
        (run / "report.json").write_text(text.replace('"after": 0.75', '"after": 0.99'))


def report_edited_and_bound(drawn: random.Random, run: Path) -> None:
    """The coordinator itself edits a figure that ledgers give, and binds the report again."""
    edit(run, drawn)
    rebound(run)


def rebound(run: Path) -> None:
    """The coordinator writes down what stands in the folder now, in place of what stood there."""
    leaves = _leaves(run, "coordinator")
    place = max(index for index, leaf in enumerate(leaves) if isinstance(leaf.entry, Reported))
    entry = leaves[place].entry
    assert isinstance(entry, Reported)
    leaves[place] = replace(leaves[place], entry=replace(entry, files=folder.files(run)))
    signed(run, "coordinator", leaves)


def page_replaced(drawn: random.Random, run: Path) -> None:
    """The page that people read says something else."""
    (run / "report.html").write_text(f"<h1>epsilon {drawn.random():.3f}</h1>")


def adapter_replaced(drawn: random.Random, run: Path) -> None:
    """The weights that are loaded are others: in the adapter's files, or one file more that is loaded first."""
    path = run / "adapter" / drawn.choice(("adapter_model.safetensors", "released.f32", "pytorch_model.bin"))
    path.write_bytes(drawn.randbytes(64))


def adapter_replaced_and_bound(drawn: random.Random, run: Path) -> None:
    """The coordinator itself puts in other weights, and writes their digest down."""
    (run / "adapter" / "released.f32").write_bytes(drawn.randbytes(64))
    rebound(run)


def earlier_report(drawn: random.Random, run: Path) -> None:
    """The report of an earlier run of the same home, alone or with all that was left of it, beside today's ledgers."""
    names = ["report.json", "run.json", "report.html", "adapter", "measured.jsonl", "keys.json"]
    for name in names[: drawn.choice((1, 2, len(names)))]:
        old, new = home() / "one" / name, run / name
        if old.is_dir():
            shutil.rmtree(new)
            shutil.copytree(old, new)
        else:
            shutil.copy(old, new)


def appended_beginning(drawn: random.Random, run: Path) -> None:
    """The coordinator begins one more run, and maybe ends it, so that members of the last one can be left out."""
    leaves = _leaves(run, "coordinator")
    opened = next(leaf.entry for leaf in leaves if isinstance(leaf.entry, RunJoined))
    more: list[RunJoined | Closed] = [replace(opened, run=RunId(drawn.randbytes(16)))]
    more += [Closed(more[0].run, "aborted", "")] * drawn.randrange(2)
    signed(run, "coordinator", [*leaves, *(Leaf(leaves[-1].at, each) for each in more)])
    for name in drawn.sample(audited.MEMBERS, drawn.randint(1, 4)):
        (run / "ledger" / f"{name}.ledger").unlink()


def emptied(drawn: random.Random, run: Path) -> None:
    """A member shows an empty ledger, or its first entries, under a head that it signs."""
    name = drawn.choice(audited.MEMBERS)
    leaves = _leaves(run, name)
    signed(run, name, leaves[: drawn.choice((0, drawn.randrange(len(leaves))))])


def cut_by_all_but_one(drawn: random.Random, run: Path) -> None:
    """All but one party sign their ledgers again without the last run; files are those of the run before."""
    honest = drawn.choice(PARTIES)
    for path in list(run.iterdir()):
        if path.name != "ledger":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (home() / "one").iterdir():
        if path.name == "ledger":
            for each in path.iterdir():
                if each.stem != honest:
                    shutil.copy(each, run / "ledger")
        else:
            shutil.copytree(path, run / path.name) if path.is_dir() else shutil.copy(path, run)


def another_key(drawn: random.Random, run: Path) -> None:
    """One party's ledger, signed by somebody else in its name."""
    name = drawn.choice(PARTIES)
    signed(run, name, _leaves(run, name), keys.Identity(keys.Secret(drawn.randbytes(32))))


def files_taken_away(drawn: random.Random, run: Path) -> None:
    """What would be checked is not there: report, mark, page, adapter, keys, some or all of them, or ledgers."""
    names = ["report.json", "run.json", "report.html", "adapter", "keys.json", "measured.jsonl", "ledger"]
    for name in names[:-1] if drawn.random() < 0.2 else drawn.sample(names, drawn.randint(1, 3)):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def made_up(number: int, base: Path) -> Outcome:
    """A run that nobody made, every key made up by one person: consistent in itself, and not verified."""
    drawn = random.Random(number)  # noqa: S311
    seed, real = drawn.randbytes(32), audited.identity

    def mine(name: str) -> keys.Identity:
        return keys.Identity(keys.Secret(hashlib.sha256(seed + name.encode()).digest()))

    audited.identity = mine
    try:
        run = audited.told(rounds=1).leave(base / "run")
    finally:
        audited.identity = real
    alone, known = verify(run), verify(run, KNOWN)
    return Outcome(alone.pinned or known.ok or not alone.keys, check_of(known.why))


def made_up_in_part(drawn: random.Random, run: Path) -> None:
    """One key of the run is pinned to nobody the auditor knows: a party it never heard of."""
    name = drawn.choice(PARTIES)
    identity = keys.Identity(keys.Secret(drawn.randbytes(32)))
    leaves = []
    for leaf in _leaves(run, name):
        entry = leaf.entry
        if isinstance(entry, RunJoined):
            peers = tuple(replace(seat, key=identity.public) if seat.member == name else seat for seat in entry.peers)
            leaf = replace(leaf, entry=replace(entry, peers=peers))  # noqa: PLW2901
        leaves.append(leaf)
    signed(run, name, leaves, identity)


def release_swapped(drawn: random.Random, run: Path) -> None:
    """The coordinator names another release, with the state to it: members' ledgers say otherwise."""
    state = drawn.randbytes(48)
    leaves = _leaves(run, "coordinator")
    place = max(index for index, leaf in enumerate(leaves) if isinstance(leaf.entry, Released))
    digest = hashlib.sha256(state).digest()
    leaves[place] = replace(leaves[place], entry=replace(leaves[place].entry, digest=digest))  # type: ignore[type-var]
    (run / "adapter" / "released.f32").write_bytes(state)
    signed(run, "coordinator", leaves)
    rebound(run)


def witness_silenced(drawn: random.Random, run: Path) -> None:
    """A member cuts its ledger, and one who saw it leaves that out of its own."""
    name, witness = drawn.sample(audited.MEMBERS, 2)
    signed(run, name, _leaves(run, name)[: -drawn.randint(1, 6)])
    kept = [
        leaf for leaf in _leaves(run, witness)
        if not (isinstance(leaf.entry, Witnessed) and leaf.entry.head.head.owner == name)
    ]  # fmt: skip
    signed(run, witness, kept)


def forged_head(drawn: random.Random, run: Path) -> None:
    """Nobody's signature under a ledger that is complete."""
    name = drawn.choice(PARTIES)
    path = run / "ledger" / f"{name}.ledger"
    file = export.read(path)
    export.write(path, replace(file, head=SignedHead(file.head.head, drawn.randbytes(64))))


def figures_added_and_bound(drawn: random.Random, run: Path) -> None:
    """The coordinator adds figures that no schema names, somewhere in the report, and binds it."""
    report = json.loads((run / "report.json").read_text())
    places = [report, *(each for each in report.values() if isinstance(each, dict)), report["members"][0]]
    places += [report["members"][0]["heldout"], report["rounds"][0], report["accounts"][0]]
    place = drawn.choice([each for each in places if each is not report["seconds"] and each is not report["versions"]])
    place[drawn.choice(("epsilon_in_truth", "regulator", "total", "\n"))] = drawn.choice((0.01, "signed", {}, None))
    (run / "report.json").write_text(json.dumps(report))
    rebound(run)


def weights_replaced_and_bound(drawn: random.Random, run: Path) -> None:
    """The coordinator puts other weights where they are loaded, or others beside them, and binds them."""
    path = run / "adapter" / "adapter_model.safetensors"
    good = load(path.read_bytes())
    how = drawn.randrange(4)
    if how == 0:
        path.write_bytes(drawn.randbytes(64))
    elif how == 1:
        other = {name: each + np.float32(drawn.uniform(0.1, 1)) for name, each in good.items()}
        path.write_bytes(save(other))
    elif how == 2:
        path.write_bytes(save(good | {"layer.lora_B.weight": np.ones(drawn.randint(1, 9), "<f4")}))
    else:
        beside = path.with_name(drawn.choice(("model.safetensors", "adapter.safetensors")))
        beside.write_bytes(save({"x": np.ones(drawn.randint(1, 9), "<f4")}))
    rebound(run)


def linked(drawn: random.Random, run: Path) -> None:
    """A link stands in the run, bound or not: to a folder or a file elsewhere, or to nothing yet."""
    elsewhere = run.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "adapter_model.safetensors").write_bytes(b"other")
    to = drawn.choice((elsewhere, elsewhere / "adapter_model.safetensors", elsewhere / "later"))
    where = run / drawn.choice((".", "adapter", "tasks", "below", "ledger"))
    where.mkdir(exist_ok=True)
    (where / drawn.choice(("best", "report.html.ledger", ".lock", "final_adapter"))).symlink_to(to)


def listed(number: int, base: Path) -> Outcome:
    """A file is put where nobody looks, or a page or note is bound: it is refused, or listed by its name."""
    drawn = random.Random(number)  # noqa: S311 - trials that can be repeated
    run = base / "run"
    shutil.copytree(home() / "two", run)
    for name in (".lock", "timings.json"):
        (run / name).unlink(missing_ok=True)
    names = (
        "tasks/x/report.json", "tasks/report.json", ".lock/report.html", "timings.json/x", "timings.json", ".lock",
        "below/north/report.json", "below/north/adapter/x", "below/north/below/south/x", "report.html", "plots/a.png",
        "notes.txt", "measured.jsonl",
    )  # fmt: skip
    name = drawn.choice(names)
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text("epsilon 0.01, signed by the regulator")
    if drawn.random() < 0.5:
        rebound(run)
    found = verify(run, KNOWN)
    shown = any(name in each for each in found.unverified)
    return Outcome(found.ok and not shown, "listed as not verified" if found.ok else check_of(found.why))


ATTEMPTS: tuple[Attempt, ...] = (
    Attempt("somebody edits a figure of the report", tried(report_edited)),
    Attempt("the coordinator edits a figure of the report and binds it", tried(report_edited_and_bound)),
    Attempt("somebody replaces the report's page", tried(page_replaced)),
    Attempt("somebody replaces the adapter, or adds a file to it", tried(adapter_replaced)),
    Attempt("the coordinator replaces the released state and binds it", tried(adapter_replaced_and_bound)),
    Attempt("the coordinator names another release, with the state to it", tried(release_swapped)),
    Attempt("somebody puts in the report of an earlier run of the same home", tried(earlier_report)),
    Attempt("the coordinator begins one more run, and members are left out", tried(appended_beginning)),
    Attempt("a member shows an empty or shorter ledger that it signed", tried(emptied)),
    Attempt("all parties but one go back to the run before", tried(cut_by_all_but_one)),
    Attempt("a party's ledger is signed by another key", tried(another_key)),
    Attempt("a party's seat and ledger are given to another key", tried(made_up_in_part)),
    Attempt("what would be checked is taken away", tried(files_taken_away)),
    Attempt("one person makes up a run and every key in it", made_up),
    Attempt("a member cuts its ledger, and one witness is silent about it", tried(witness_silenced)),
    Attempt("a head is signed by nobody", tried(forged_head)),
    Attempt("the coordinator adds figures to the report and binds them", tried(figures_added_and_bound)),
    Attempt("the coordinator binds other weights than those released", tried(weights_replaced_and_bound)),
    Attempt("a link stands in a run", tried(linked)),
    Attempt("a file stands where nobody looks, or is the coordinator's word", listed),
)
