"""What one party, or somebody without a key, can do to a run's folder: each function does one thing, at random."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from audits.protection.hostile import tasks
from audits.protection.hostile.evidence import edit, rebound, signed
from securefl import keys, merkle, wire
from securefl.audit import folder, suites
from securefl.audit.ledger_files import read_all
from securefl.ledger import export
from securefl.protocol import messages as m
from securefl.terms import (
    Closed,
    Hash,
    Leaf,
    MemberId,
    MessageReceived,
    MessageSent,
    Receipt,
    Released,
    Reported,
    Reserved,
    RunId,
    RunJoined,
    Settled,
    SumOpened,
)
from tests.support import audited

LOOSE = (".lock", "timings.json")


@dataclass(frozen=True)
class Run:
    """A run's folder, who is in it, and what an auditor knows of them."""

    path: Path
    known: Mapping[str, str] | None
    identity: Callable[[str], keys.Identity] | None  # of a party, where this audit made it up
    keys: Callable[[str], keys.Identity] | None = None  # of a party of a real run, from its home


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
        case RunJoined():
            return replace(entry, policy=entry.policy.replace(b"epsilon: 4", b"epsilon: 5"))
        case Reserved():
            dearer = {level: cost // 2 for level, cost in entry.price.after.items()}
            return replace(entry, price=replace(entry.price, after=dearer))
        case Settled():
            return replace(entry, did=replace(entry.did, noise_multiplier=entry.did.noise_multiplier + Fraction(1, 8)))
        case MessageSent() if entry.receipt.sender == owner:
            receipt: Receipt = replace(entry.receipt, digest=other)
            return MessageSent(receipt, audited.identity(owner).sign("receipt", wire.encode(receipt)))
        case MessageSent() | MessageReceived():
            return replace(entry, signature=drawn.randbytes(64))
        case SumOpened():
            return replace(entry, survivors=entry.survivors[1:])
        case Released():
            return replace(entry, digest=other)
        case Closed():
            another = replace(entry, outcome="aborted" if entry.outcome == "finished" else "finished")
            return another if drawn.random() < 0.5 else replace(entry, why=f"{entry.why} and so on")
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
    if not isinstance(entry, RunJoined):
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
        opened = next(leaf for leaf in leaves if isinstance(leaf.entry, RunJoined))
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
        if isinstance(entry, RunJoined)
        else entry
    )


def a_word_by_a_member(drawn: random.Random, run: Run) -> bool:
    """A member says in its own ledger what the run left; the folder is as it was, or without report and mark."""
    if run.identity is None:
        return False
    about = bytes.fromhex(json.loads((run.path / "run.json").read_text())["run"])
    name = drawn.choice(sorted({path.stem for path in (run.path / "ledger").iterdir()} - {"coordinator"}))
    if drawn.random() < 0.5:
        (run.path / "run.json").unlink()
        (run.path / "report.json").unlink()
    if drawn.random() < 0.5:
        (run.path / "report.html").write_text(f"<h1>{drawn.random()}</h1>")
    ledgers = read_all(run.path)
    leaves = list(ledgers[MemberId(name)].leaves)
    said = folder.reported(drawn.choice((RunId(about), RunId(drawn.randbytes(16)))), ledgers, folder.files(run.path))
    signed(run.path, name, [*leaves, Leaf(leaves[-1].at, said)])
    return True


def a_release_of_its_own(drawn: random.Random, run: Run) -> bool:
    """The coordinator's ledger has one release more at its end, of a state that it made up and left as the adapter.

    Nobody saw that end, so every head still fits; and it says anew what the run left.
    """
    path = run.path / folder.STATE
    if run.identity is None or not path.is_file():
        return False
    leaves = list(read_all(run.path)[MemberId("coordinator")].leaves)
    place = max(index for index, leaf in enumerate(leaves) if isinstance(leaf.entry, Closed))
    last = next(entry for entry in (leaf.entry for leaf in reversed(leaves)) if isinstance(entry, Released))
    state = drawn.randbytes(path.stat().st_size)
    path.write_bytes(state)
    leaves.insert(place, Leaf(leaves[place].at, Released(last.run, last.round + 1, m.state_digest(state))))
    signed(run.path, "coordinator", leaves)
    rebound(run.path)
    return True


def a_list_of_ledgers_cut(drawn: random.Random, run: Run) -> bool:
    """The coordinator's report was computed from fewer ledgers than there are, or from one that ends before the run."""
    if run.identity is None:
        return False
    ledgers = read_all(run.path)
    leaves = list(ledgers[MemberId("coordinator")].leaves)
    place = max(index for index, leaf in enumerate(leaves) if isinstance(leaf.entry, Reported))
    entry = leaves[place].entry
    assert isinstance(entry, Reported)
    heads_ = list(entry.ledgers)
    at = drawn.choice([n for n, head in enumerate(heads_) if head.owner != "coordinator"])
    began = [n for n, each in ledgers[heads_[at].owner].each(RunJoined) if each.run == entry.run]
    if drawn.random() < 0.5 or not began:
        del heads_[at]
    else:
        size = drawn.randint(0, began[0])
        heads_[at] = replace(heads_[at], size=size, root=merkle.root(ledgers[heads_[at].owner].hashes[:size]))
    leaves[place] = replace(leaves[place], entry=replace(entry, ledgers=tuple(heads_)))
    signed(run.path, "coordinator", leaves)
    return True


def a_file_that_is_loaded(drawn: random.Random, run: Run) -> bool:
    """A file among the adapter's that something would load, or another setting of PEFT, bound by the coordinator."""
    adapter = run.path / "adapter"
    if run.identity is None or not adapter.is_dir():
        return False
    if drawn.random() < 0.5:
        names = ("adapter_model.bin", "pytorch_model.bin", "adapter.safetensors", "config.json", "modeling_tiny.py")
        (adapter / drawn.choice(names)).write_bytes(drawn.randbytes(20))
    else:
        path = adapter / "adapter_config.json"
        more = drawn.choice(({"lora_alpha": -8}, {"use_dora": True}, {"target_modules": ["value"]}, {"r": 3}))
        path.write_text(json.dumps(json.loads(path.read_text()) | more))
    rebound(run.path)
    return True


def a_key_twice(drawn: random.Random, run: Run) -> bool:
    """A key that stands twice in one of the folder's JSON files, bound by the coordinator."""
    if run.identity is None:
        return False
    paths = [path for path in sorted(run.path.rglob("*.json")) if path.name not in ("keys.json", "labels.json")]
    path = drawn.choice(paths)
    text = path.read_text().lstrip()
    key = drawn.choice(sorted(json.loads(text)))
    path.write_text(f"{{{json.dumps(key)}: 0, {text[1:]}")
    rebound(run.path)
    return True


def the_tasks(drawn: random.Random, run: Run) -> bool:
    """A figure of many tasks' report or of a module's manifest, by somebody; or by the coordinator, that binds it."""
    path = run.path / "suite.json"
    if not path.is_file():
        return False
    about = suites.id_in(run.path)
    before = {each: each.read_bytes() for each in (path, *(run.path / "modules").glob("*.json"))}
    tasks.edit_one(drawn, run.path)
    if drawn.random() < 0.7 and run.keys is not None:
        tasks.bound(run.path, about, who=run.keys)
    return any(json.loads(each.read_bytes()) != json.loads(data) for each, data in before.items())


MUTATIONS: tuple[Mutation, ...] = (
    a_bit, a_file_cut_or_longer, a_file_dropped, a_file_for_another, a_file_more, an_entry_unsigned,
    an_entry_by_its_owner, an_entry_altered_by_its_owner, a_ledger_cut_by_its_owner, a_ledger_by_another_key,
    a_ledger_dropped, the_report, the_adapter, the_policy, a_word_by_a_member, a_list_of_ledgers_cut,
    a_file_that_is_loaded, a_key_twice, the_tasks, a_release_of_its_own,
)  # fmt: skip
