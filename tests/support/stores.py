"""Homes whose stores are in one kind of database or the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from securefl.keys import Identity, Secret
from securefl.ledger import databases
from tests.support.postgres import write_url

IDENTITY = Identity(Secret(bytes(range(32))))  # as a home's own would be


@dataclass(frozen=True)
class Stores:
    """A folder of homes; with a URL, all their stores are in that database, each home's in a schema of its own."""

    folder: Path
    url: sa.URL | None = None

    def home(self, name: str = "home") -> Path:
        home = self.folder / name
        home.mkdir(exist_ok=True, mode=0o700)
        if self.url is not None:
            write_url(home, self.url)
        return home

    def place(self, owner: str = "north") -> databases.Place:
        return databases.place_of(self.home(owner), owner, IDENTITY)
