"""One party's ledger for an auditor: from its own home, by its own document, while others may write to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from securefl import merkle
from securefl.documents import coordinator_suite, site_file, strict
from securefl.errors import OperatorFault, Tampered
from securefl.home import identity
from securefl.home.clock import clock
from securefl.home.home import Home
from securefl.ledger import anchor, databases, export, store
from securefl.ledger.export import LedgerFile

NOTHING = "nothing to export: no run has begun here"


def home_of(party: Path) -> Home:
    """The home of a party: given by its SITE or COORDINATOR document, or the folder itself.

    Raises:
        OperatorFault: there is no home, or no run has begun there.
    """
    home = party if party.is_dir() else _by_document(party)
    head = anchor.read(home) if identity.is_made(home) else None
    if head is None:
        remedy = "give a party's document, or its home, once it has taken part in a run"
        raise OperatorFault(NOTHING, remedy, str(home))
    return Home.at(home, head.owner, clock)


def copy_of(home: Home) -> LedgerFile | None:
    """A copy of a home's whole ledger that can be checked without the home; None before its first entry.

    Raises:
        Tampered: the database's entries are not those that were signed.
    """
    with home.transaction() as conn:
        head = home.head()
        leaves = tuple(store.raw(conn))
    if head is None:
        return None
    if merkle.root([merkle.leaf_hash(leaf) for leaf in leaves]) != head.head.root:
        raise Tampered(databases.name_of(home.engine), "its entries are not those that were signed")
    return LedgerFile(home.owner, home.identity.public, leaves, head)


def one(home: Home, out: Path) -> tuple[Path, LedgerFile]:
    """Write this home's ledger into the folder ``out``, under its owner's name.

    Raises:
        OperatorFault: it cannot be written.
        Tampered: the home's ledger is not what it signed.
    """
    file = copy_of(home)
    if file is None:
        raise OperatorFault(NOTHING, "take part in a run first", str(home.path))
    path = out / f"{file.owner}{export.SUFFIX}"
    export.write(path, file)
    return path, file


def export_all(homes: Sequence[Home], folder: Path) -> None:
    """These parties' ledgers in ``folder``, as all of them stood at one moment.

    Raises:
        OperatorFault: they cannot be written, or never stood still.
    """

    def copies() -> tuple[LedgerFile, ...]:
        return tuple(file for home in homes if (file := copy_of(home)) is not None)

    for file in export.steady(copies):
        export.write(folder / f"{file.owner}{export.SUFFIX}", file)


def _by_document(path: Path) -> Path:
    if strict.read(path).has("securefl_coordinator"):
        return coordinator_suite.load(path).home
    return site_file.load(path).home
