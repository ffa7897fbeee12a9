"""Who and what: names, keys and hashes, and the units that privacy is counted in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NewType

from securefl.errors import OperatorFault
from securefl.shown import short

NAME_FORM: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$"  # of a party, and of a federation: no path, whatever is put behind
ENGINE_NAME_FORM: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"  # a DNS label (RFC 1123, 2.1); FLARE takes more
ENGINE_OWN: Final = frozenset({"server"})  # what an engine calls itself: FLARE's root cell
_ESCAPES: Final = {"-": "--h", ".": "--d", "_": "--u"}
RUN_BYTES: Final = 16
_OWN: Final = "--x"  # behind a name that is an engine's own

MemberId = NewType("MemberId", str)
FederationName = NewType("FederationName", str)
TaskName = NewType("TaskName", str)  # of one task among several of a federation
Hash = NewType("Hash", bytes)  # SHA-256, 32 bytes
RunId = NewType("RunId", bytes)  # RUN_BYTES, drawn once per run
PublicKey = NewType("PublicKey", bytes)  # Ed25519, 32 bytes
BoxKey = NewType("BoxKey", bytes)  # X25519, the public half, 32 bytes
SignatureBytes = NewType("SignatureBytes", bytes)  # an Ed25519 signature, 64 bytes
ShareBytes = NewType("ShareBytes", bytes)  # one share of a 32-byte secret, 66 bytes (`protection.shamir`)
CommitmentBytes = NewType("CommitmentBytes", bytes)  # to two shares, 64 bytes
Nonce = NewType("Nonce", bytes)  # 16 bytes: one grant, one reservation
SIZES: Final[Mapping[object, int]] = {
    Hash: 32,
    RunId: RUN_BYTES,
    PublicKey: 32,
    BoxKey: 32,
    SignatureBytes: 64,
    ShareBytes: 66,
    CommitmentBytes: 64,
    Nonce: 16,
}  # bytes of each; nothing shorter or longer is decoded as one
NAMED: Final[Mapping[object, str]] = {
    MemberId: "party",
    FederationName: "federation",
    TaskName: "task",
}  # each of ``NAME_FORM``


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


def engine_name(party: MemberId) -> str:
    """What an engine that carries messages calls this party: a DNS label, of this party alone in its federation.

    It is the party's own name, but for dots, underscores, hyphens that are not between two letters or digits, and what
    an engine calls itself: ``north_1`` is ``north--u1``. ``party_named`` is the inverse.

    Raises:
        OperatorFault: the name is of no party, or too long for a label. All short enough for 63 characters fit; more
            names have 63 characters than there are labels.
    """
    if not re.fullmatch(NAME_FORM, party):
        raise OperatorFault(f"{party!r} is no party's name", "write one of small letters and digits, and `._-` inside")
    label = re.sub(r"(?<![a-z0-9])-|-(?![a-z0-9])|[._]", lambda found: _ESCAPES[found[0]], party)
    label += _OWN if party in ENGINE_OWN else ""
    if not re.fullmatch(ENGINE_NAME_FORM, label):
        what = f"{party} is {label} to an engine: {len(label)} characters, and it takes 63"
        raise OperatorFault(what, "give the party a shorter name, of letters, digits and single hyphens")
    return label


def party_named(engine: str) -> MemberId:
    """The party that ``engine_name`` calls so.

    Raises:
        OperatorFault: there is none.
    """
    plain = {behind: mark for mark, behind in _ESCAPES.items()}
    stem = engine.removesuffix(_OWN)
    party = MemberId(re.sub(r"--[hdu]", lambda found: plain[found[0]], stem))
    if not re.fullmatch(NAME_FORM, party) or engine_name(party) != engine:
        raise OperatorFault(f"{engine!r} is no party's name at an engine", "connect sites under names that we gave")
    return party


def file_name(federation: str, suffix: str = "") -> str:
    """The name of a file or folder that a home keeps for one federation.

    Raises:
        OperatorFault: it is no federation's name. What looks like a path leads nowhere.
    """
    if not re.fullmatch(NAME_FORM, federation):
        what = f"{short(federation)!r} is no federation's name"
        raise OperatorFault(what, "write one of small letters and digits, and `._-` inside")
    return f"{federation}{suffix}"


def text_made_plain(value: object, *names: str) -> None:
    """These fields of a value that is being made are short, and no character of them hides, whatever they are from."""
    for name in names:
        object.__setattr__(value, name, short(getattr(value, name)))
