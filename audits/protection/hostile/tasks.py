"""A run with tasks whose report, modules or ledgers somebody changed: a member, or the coordinator, who binds them."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from safetensors.numpy import load, save

from audits.protection.attempt import Attempt, Outcome
from audits.protection.hostile.evidence import check_of
from securefl import key_files, keys, merkle, wire
from securefl.audit import folder, suites
from securefl.audit.ledger_files import read_all
from securefl.audit.verify import verify
from securefl.ledger import export, heads
from securefl.terms import Head, Leaf, MemberId, Reported, RunId

Trick = Callable[[random.Random, Path], None]
Change = Callable[[random.Random, dict[str, Any]], None]


@cache
def made() -> Path:
    """A finished run with three tasks, and the homes that made it."""
    from tests.simulation.test_suite import Many  # noqa: PLC0415

    base = Path(mkdtemp(prefix="tasks-"))
    Many(base).run(base / "run", base / "sites")
    return base


def identity(name: str) -> keys.Identity:
    """Who this party is."""
    return key_files.load(made() / "sites" / name / "identity.key")


@cache
def known() -> dict[str, str]:
    """The keys that an auditor knows."""
    return {path.parent.name: key_files.load(path).public.hex() for path in (made() / "sites").glob("*/identity.key")}


def _suite(run: Path) -> RunId:
    return suites.id_in(made() / run.name)


def _signed(place: Path, name: str, leaves: list[Leaf], who: Callable[[str], keys.Identity] = identity) -> None:
    raws = tuple(wire.encode(leaf) for leaf in leaves)
    root = merkle.root([merkle.leaf_hash(raw) for raw in raws])
    head = heads.sign(who(name), Head(MemberId(name), len(raws), root))
    file = export.LedgerFile(MemberId(name), who(name).public, raws, head)
    export.write(place / "ledger" / f"{name}.ledger", file)


def bound(
    run: Path, about: RunId, by: str = "coordinator", who: Callable[[str], keys.Identity] = identity
) -> None:  # fmt: skip
    """The coordinator's word on all tasks is of what stands here now; or a member's, at the end of its own ledger."""
    leaves = list(read_all(run)[MemberId(by)].leaves)
    if by != "coordinator":
        said = folder.reported(about, read_all(run), folder.files(run, apart=folder.OF_SUITE))
        _signed(run, by, [*leaves, Leaf(leaves[-1].at, said)], who)
        return
    at = max(n for n, leaf in enumerate(leaves) if isinstance(leaf.entry, Reported) and leaf.entry.run == about)
    entry = leaves[at].entry
    assert isinstance(entry, Reported)
    leaves[at] = replace(leaves[at], entry=replace(entry, files=folder.files(run, apart=folder.OF_SUITE)))
    _signed(run, "coordinator", leaves, who)


def _bound(run: Path, by: str = "coordinator") -> None:
    bound(run, _suite(run), by)


def edit_one(drawn: random.Random, run: Path) -> None:
    """A figure of the report of many tasks is another, or of a module's manifest."""
    if drawn.random() < 0.6:
        _edited(run / "suite.json", drawn.choice(FIGURES), drawn)
    else:
        _edited(drawn.choice(sorted((run / "modules").glob("*.json"))), drawn.choice(MANIFEST), drawn)


def _edited(path: Path, change: Change, drawn: random.Random) -> None:
    found = json.loads(path.read_text())
    change(drawn, found)
    path.write_text(json.dumps(found, indent=1))


def _task(drawn: random.Random, told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = told["tasks"][drawn.choice(sorted(told["tasks"]))]
    return found


FIGURES: tuple[Change, ...] = (
    lambda d, told: _task(d, told)["epsilon"].update(spent=0.01),
    lambda d, told: _task(d, told)["epsilon"].update(limit=0.1),
    lambda d, told: _task(d, told)["epsilon"].update(delta=0.0),
    lambda d, told: _task(d, told)["epsilon"].update(unit="client"),
    lambda d, told: _task(d, told).update(members=400),
    lambda d, told: _task(d, told).update(owners=["nobody"]),
    lambda d, told: _task(d, told).update(trained_parameters=1),
    lambda d, told: _task(d, told)["bytes"].update(up=1),
    lambda d, told: _task(d, told)["bytes"].update(full_update_each_way=10**12),
    lambda d, told: _task(d, told).update(seconds=0.1),
    lambda d, told: _task(d, told)["accuracy"].update(after=0.999),
    lambda _, told: told.update(bytes={"up": 1, "down": 1}),
    lambda _, told: told.update(approved_by="the regulator"),
    lambda d, told: _task(d, told).update(approved_by="the regulator"),
    lambda _, told: told["outcome"].update(why="every member was content"),
    lambda _, told: told["base"].update(digest="00" * 32),
    lambda _, told: told.update(modules="elsewhere"),
)
MANIFEST: tuple[Change, ...] = (
    lambda _, told: told.update(price={"epsilon": 0.01, "delta": 1e-12, "unit": "client"}),
    lambda _, told: told["price"].update(delta=told["price"]["delta"] - 9e-7),
    lambda _, told: told.update(labels=told["labels"][::-1]),
    lambda _, told: told.update(rounds=told["rounds"] + 1),
    lambda _, told: told.update(max_tokens=told["max_tokens"] + 1),
    lambda _, told: told["adapter"].update(alpha=-800),
    lambda _, told: told["adapter"].update(targets=told["adapter"]["targets"][::-1]),
    lambda _, told: told["base"].update(name="elsewhere/model"),
    lambda _, told: told.update(plan="00" * 32),
    lambda _, told: told.update(policy="00" * 32),
    lambda _, told: told.update(approved_by="the regulator"),
)


def report_edited(drawn: random.Random, run: Path) -> None:
    """The coordinator edits the report of all tasks, and binds it."""
    _edited(run / "suite.json", drawn.choice(FIGURES), drawn)
    _bound(run)


def report_with_a_key_twice(drawn: random.Random, run: Path) -> None:
    """The coordinator writes a key of the report twice."""
    text = (run / "suite.json").read_text()
    old, new = drawn.choice((('"epsilon": {', '"epsilon": {"spent": 0.01},'), ('"run": ', '"run": "00",')))
    (run / "suite.json").write_text(text.replace(old, f"{new} {old}", 1))
    _bound(run)


def manifest_edited(drawn: random.Random, run: Path) -> None:
    """The coordinator edits a module's manifest: its price, its labels, what made it."""
    _edited(drawn.choice(sorted((run / "modules").glob("*.json"))), drawn.choice(MANIFEST), drawn)
    _bound(run)


def tensors_exchanged(drawn: random.Random, run: Path) -> None:
    """The coordinator exchanges two tensors of a module and the order that it names: the bytes are those released."""
    path = drawn.choice(sorted((run / "modules").glob("*.safetensors")))
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    order = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["order"])
    tensors = load(data)
    alike = [(a, b) for a in order for b in order if a < b and tensors[a].shape == tensors[b].shape]
    a, b = drawn.choice(alike)
    tensors[a], tensors[b] = tensors[b].copy(), tensors[a].copy()
    swapped = [{a: b, b: a}.get(name, name) for name in order]
    if drawn.random() < 0.3:  # or they are called otherwise, in the same order
        swapped = [f"x.{name}" for name in order]
        tensors = {f"x.{name}": tensor for name, tensor in load(data).items()}
    _rewritten(path, save(tensors, {"order": json.dumps(swapped)}))
    _bound(run)


def _rewritten(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    manifest = path.with_suffix(".json")
    found = json.loads(manifest.read_text()) | {"tensors": hashlib.sha256(data).hexdigest()}
    manifest.write_text(json.dumps(found, indent=1) + "\n")


def a_module_more(drawn: random.Random, run: Path) -> None:
    """The coordinator puts a module among the others that no task made: the store serves it like the others."""
    name = drawn.choice(("calm", "tone2"))
    for suffix in (".json", ".safetensors"):
        shutil.copy(run / "modules" / f"tone{suffix}", run / "modules" / f"{name}{suffix}")
    found = json.loads((run / "modules" / f"{name}.json").read_text()) | {"name": name}
    (run / "modules" / f"{name}.json").write_text(json.dumps(found))
    _bound(run)


def bound_by_a_member(drawn: random.Random, run: Path) -> None:
    """A member edits report and manifests, and says in its own ledger that this is what was left."""
    _edited(run / "suite.json", drawn.choice(FIGURES), drawn)
    _edited(drawn.choice(sorted((run / "modules").glob("*.json"))), drawn.choice(MANIFEST), drawn)
    _bound(run, drawn.choice(("west", "east", "nort")))


def another_report(drawn: random.Random, run: Path) -> None:
    """The coordinator puts one run's report beside that of all tasks, or takes the latter away; it binds the rest."""
    if drawn.random() < 0.5:
        shutil.copy(run / "tasks" / "tone" / "report.json", run / "report.json")
        if drawn.random() < 0.5:
            shutil.copy(run / "tasks" / "tone" / "run.json", run / "run.json")
    else:
        (run / "suite.json").unlink()
        (run / "report.html").write_text("<h1>epsilon 0.01</h1>")
    _bound(run)


def ledgers_of_another_story(drawn: random.Random, run: Path) -> None:
    """A task's folder shows a ledger that goes on otherwise than the one beside all tasks."""
    task = run / "tasks" / drawn.choice(("tone", "mood", "wish"))
    name = drawn.choice(sorted(path.stem for path in (task / "ledger").iterdir()))
    leaves = list(read_all(task)[MemberId(name)].leaves)
    _signed(
        task, name, [*leaves, replace(leaves[0], at=leaves[-1].at + drawn.randrange(1, 99), entry=_more(run, name))]
    )


def _more(run: Path, name: str) -> Any:  # noqa: ANN401 - an entry
    """An entry that says nothing of the task: a head that its owner saw."""
    from securefl.terms import Witnessed  # noqa: PLC0415

    other = next(ledger for owner, ledger in read_all(run).items() if owner != name)
    return Witnessed(export.read(run / "ledger" / other.name).head)


def tried(trick: Trick) -> Callable[[int, Path], Outcome]:
    """A trial: the trick is played on a copy of a good run with tasks, and the auditor looks at it."""

    def trial(number: int, base: Path) -> Outcome:
        run = base / "run"
        shutil.copytree(made() / "run", run)
        trick(random.Random(number), run)  # noqa: S311 - trials that can be repeated
        found = verify(run, known())
        return Outcome(found.ok, check_of(found.why))

    return trial


def unchanged(number: int, base: Path) -> Outcome:
    """Nobody changes anything: what is not verified of it is listed by name, and no figure that ledgers give is."""
    run = base / "run"
    shutil.copytree(made() / "run", run)
    found = verify(run, known())
    listed = [each for each in found.unverified if each.startswith(folder.SUITE) or "modules" in each]
    good = found.ok and len(listed) == 1 and "epsilon" not in listed[0] and suites.is_suite(run)
    return Outcome(not good, "listed as not verified" if good else f"{number}: {found.why}")


ATTEMPTS: tuple[Attempt, ...] = (
    Attempt("the coordinator says nothing of what is its own word on many tasks", unchanged),
    Attempt("the coordinator edits the report of many tasks and binds it", tried(report_edited)),
    Attempt("the coordinator writes a key of many tasks' report twice", tried(report_with_a_key_twice)),
    Attempt("the coordinator edits a module's manifest and binds it", tried(manifest_edited)),
    Attempt("the coordinator exchanges two tensors of a module, and their order", tried(tensors_exchanged)),
    Attempt("the coordinator adds a module that no task made", tried(a_module_more)),
    Attempt("a member binds another report of many tasks", tried(bound_by_a_member)),
    Attempt("the coordinator puts another report in the place of many tasks'", tried(another_report)),
    Attempt("a task's folder has ledgers of another story", tried(ledgers_of_another_story)),
)
