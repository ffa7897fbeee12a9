"""Who and what: names, keys and hashes, and the units that privacy is counted in."""

from __future__ import annotations

from enum import StrEnum
from typing import NewType

from securefl.shown import short

MemberId = NewType("MemberId", str)
Hash = NewType("Hash", bytes)  # SHA-256, 32 bytes
RunId = NewType("RunId", bytes)  # 16 bytes, drawn once per run
PublicKey = NewType("PublicKey", bytes)  # Ed25519, 32 bytes


class Unit(StrEnum):
    """Whose presence the guarantee hides."""

    RECORD = "record"
    CLIENT = "client"


class Neighbours(StrEnum):
    """Which two data sets the guarantee compares."""

    ADD_OR_REMOVE_ONE = "add-or-remove-one"


class Level(StrEnum):
    """Whose limit a charge counts against."""

    DATASET = "dataset"  # the root: all that one site trained on one data set, whoever asked
    FEDERATION = "federation"  # one federation on that data set, with every federation below it
    RUN = "run"


class Accountant(StrEnum):
    """What turns the events of one account into its epsilon."""

    PLD = "pld"  # privacy loss distributions: for events that do not depend on what earlier ones gave
    FILTER = "renyi-filter"  # for events that may (Feldman and Zrnic 2021, Lécuyer 2021)


def text_made_plain(value: object, *names: str) -> None:
    """These fields of a value that is being made are short, and no character of them hides, whatever they are from."""
    for name in names:
        object.__setattr__(value, name, short(getattr(value, name)))
