"""Whatever is changed in a copied run, the verifier says no, and names the place."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from securefl import key_files, keys, merkle, wire
from securefl.audit.verify import verify
from securefl.cli import main as cli
from securefl.ledger import export, heads
from securefl.terms import Closed, Hash, Head, Leaf, MemberId, MessageSent, Reserved, Settled, SignedHead


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


def rewrite(run: Path, owner: str, change) -> None:
    path = run / "ledger" / f"{owner}.ledger"
    export.write(path, change(export.read(path)))


def resigned(run: Path, finished: Path, owner: str, leaves: list[bytes]) -> None:
    """What the owner itself could write: new leaves under a head it signs."""
    identity = key_files.load_or_create(finished / "sites" / owner / "identity.key")
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    head = heads.sign(identity, Head(MemberId(owner), len(leaves), merkle.root(hashes)))
    rewrite(run, owner, lambda file: replace(file, leaves=tuple(leaves), head=head))


def test_an_untouched_copy_verifies(run: Path) -> None:
    assert verify(run).ok


def test_one_flipped_bit_anywhere_is_found(run: Path) -> None:
    drawn = random.Random(7)
    missed = []
    for path in sorted((run / "ledger").iterdir()):
        whole = path.read_bytes()
        for place in drawn.sample(range(8 * len(whole)), 40):
            changed = bytearray(whole)
            changed[place // 8] ^= 1 << place % 8
            path.write_bytes(bytes(changed))
            if verify(run).ok:
                missed.append((path.name, place))
        path.write_bytes(whole)
    assert missed == []
    assert verify(run).ok


@pytest.mark.parametrize("owner", ["north", "coordinator"])
@pytest.mark.parametrize("how", ["drop", "double", "swap", "cut", "empty"])
def test_an_entry_dropped_doubled_or_moved_is_found(run: Path, owner: str, how: str) -> None:
    def change(file: export.LedgerFile) -> export.LedgerFile:
        leaves = list(file.leaves)
        middle = len(leaves) // 2
        if how == "drop":
            del leaves[middle]
        elif how == "double":
            leaves.insert(middle, leaves[middle])
        elif how == "swap":
            leaves[middle], leaves[middle + 1] = leaves[middle + 1], leaves[middle]
        elif how == "cut":
            leaves = leaves[:-1]
        else:
            leaves = []
        return replace(file, leaves=tuple(leaves))

    rewrite(run, owner, change)
    verdict = verify(run)
    assert not verdict.ok
    assert verdict.first_bad["ledger"] == f"{owner}.ledger"


def test_a_tail_that_its_own_owner_cuts_off_and_signs_is_found_by_what_the_others_saw(
    run: Path, finished: Path
) -> None:
    leaves = list(export.read(run / "ledger" / "north.ledger").leaves)
    resigned(run, finished, "north", leaves[:-1])
    assert "north" in verify(run).why


def test_a_coordinator_that_cuts_its_own_end_is_found(run: Path, finished: Path) -> None:
    leaves = list(export.read(run / "ledger" / "coordinator.ledger").leaves)
    for cut in range(1, 6):
        resigned(run, finished, "coordinator", leaves[:-cut])
        assert not verify(run).ok, cut


def test_a_forked_ledger_is_found(run: Path, finished: Path) -> None:
    file = export.read(run / "ledger" / "south.ledger")
    leaves = list(file.leaves)
    first: Leaf = wire.decode(leaves[0], Leaf)
    leaves[0] = wire.encode(replace(first, at=first.at + 1))
    resigned(run, finished, "south", leaves)
    assert "not those" in verify(run).why


@pytest.mark.parametrize("what", ["cheaper", "fewer steps", "more noise", "another policy"])
def test_an_owner_that_rewrites_its_own_costs_is_found(run: Path, finished: Path, what: str) -> None:
    leaves = list(export.read(run / "ledger" / "west.ledger").leaves)
    for index, data in enumerate(leaves):
        leaf: Leaf = wire.decode(data, Leaf)
        entry = leaf.entry
        if isinstance(entry, Reserved) and what == "cheaper":
            entry = replace(entry, price=replace(entry.price, after={k: v // 2 for k, v in entry.price.after.items()}))
        elif isinstance(entry, Reserved) and what == "more noise":
            learning = replace(
                entry.plan.learning,
                event=replace(
                    entry.plan.learning.event, noise_multiplier=entry.plan.learning.event.noise_multiplier * 2
                ),
            )
            entry = replace(entry, plan=replace(entry.plan, learning=learning))
        elif isinstance(entry, Reserved) and what == "another policy":
            entry = replace(entry, plan=replace(entry.plan, policy=Hash(bytes(32))))
        elif isinstance(entry, Settled) and what == "fewer steps":
            entry = replace(entry, did=replace(entry.did, steps=1))
        leaves[index] = wire.encode(replace(leaf, entry=entry))
    resigned(run, finished, "west", leaves)
    assert not verify(run).ok


def test_a_missing_ledger_is_found(run: Path) -> None:
    (run / "ledger" / "north.ledger").unlink()
    assert "missing" in verify(run).why


def test_a_stranger_among_the_ledgers_is_found(run: Path) -> None:
    (run / "ledger" / "notes.txt").write_text("hello")
    assert verify(run).first_bad["ledger"] == "notes.txt"


def test_a_head_of_another_key_is_found(run: Path) -> None:
    other = keys.Identity(keys.Secret(bytes(32)))

    def change(file: export.LedgerFile) -> export.LedgerFile:
        return replace(
            file, key=other.public, head=SignedHead(file.head.head, other.sign("head", wire.encode(file.head.head)))
        )

    rewrite(run, "north", change)
    assert not verify(run).ok


def test_a_receipt_that_was_signed_for_another_body_is_found(run: Path, finished: Path) -> None:
    leaves = list(export.read(run / "ledger" / "north.ledger").leaves)
    for index, data in enumerate(leaves):
        leaf: Leaf = wire.decode(data, Leaf)
        if isinstance(leaf.entry, MessageSent):
            receipt = replace(leaf.entry.receipt, digest=Hash(bytes(32)))
            leaves[index] = wire.encode(replace(leaf, entry=replace(leaf.entry, receipt=receipt)))
            break
    resigned(run, finished, "north", leaves)
    assert not verify(run).ok


def test_an_added_ending_is_found(run: Path, finished: Path) -> None:
    leaves = list(export.read(run / "ledger" / "coordinator.ledger").leaves)
    place = max(i for i, data in enumerate(leaves) if isinstance(wire.decode(data, Leaf).entry, Closed))
    last: Leaf = wire.decode(leaves[place], Leaf)
    leaves[place] = wire.encode(replace(last, entry=Closed(last.entry.run, "refused", "never mind")))
    resigned(run, finished, "coordinator", leaves)
    assert "ended 'finished' here" in verify(run).why


@pytest.mark.parametrize("where", ["nothing", "empty"])
def test_nothing_at_all_is_not_verified(tmp_path: Path, where: str) -> None:
    if where == "empty":
        (tmp_path / where / "ledger").mkdir(parents=True)
    assert not verify(tmp_path / where).ok


def test_the_command_exits_4_and_names_the_first_bad_entry(run: Path, capsys) -> None:
    rewrite(run, "north", lambda file: replace(file, leaves=file.leaves[:3] + (b"x",) + file.leaves[4:]))
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        cli.main(["audit", "verify", str(run), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert leaving.value.code == 4
    assert (told["ok"], told["first_bad"]) == (False, {"ledger": "north.ledger", "entry": 3})
