"""A scheme's name, and all that is known of it: its halves, its key, and who can open what.

What a scheme does stands in the file of its name, as ``SPEC``; what its name promises, in ``terms.Scheme``. Nothing
else in the package knows one scheme from another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

from securefl.errors import OperatorFault
from securefl.keys import Identity
from securefl.seams import CoordinatorProtection, KeyHolder, MemberProtection
from securefl.terms import ProtectionSpec, Scheme

Powers = tuple[tuple[str, str], ...]  # who, alone or together: what they can open


@dataclass(frozen=True, slots=True)
class KeySpec:
    """The decryption key of a scheme that has one."""

    file: str  # in its custodian's home
    fresh: Callable[[], KeyHolder]  # a holder of a new key that is stored nowhere
    kept: Callable[[Path, Identity, bytes | None], KeyHolder]  # of the key at a path; or of a whole one that was split


@dataclass(frozen=True, slots=True)
class SchemeSpec:
    """One protection: what each party does, and whom it protects from whom."""

    member: Callable[[], MemberProtection]
    coordinator: Callable[[], CoordinatorProtection]  # it says in how many phases it asks, once sealing is over
    statement: Callable[
        [ProtectionSpec, int | None], str
    ]  # who could open a single update, if the key is in so many shares
    powers: Callable[[int], Powers]  # who can open what beyond what everybody gets, under this threshold
    key: KeySpec | None = None  # where there is a custodian


def spec_of(scheme: str) -> SchemeSpec:
    """All that is known of a scheme.

    Raises:
        ValueError: no scheme has this name; there is no default.
    """
    module = import_module(f"securefl.protection.{Scheme(scheme).value.replace('-', '_')}")
    spec: SchemeSpec = module.SPEC
    return spec


def member_half(scheme: str) -> MemberProtection:
    """The member's half of a scheme.

    Raises:
        ValueError: no scheme has this name.
    """
    return spec_of(scheme).member()


def coordinator_half(scheme: str) -> CoordinatorProtection:
    """The coordinator's half of a scheme.

    Raises:
        ValueError: no scheme has this name.
    """
    return spec_of(scheme).coordinator()


def key_holder(scheme: str, identity: Identity, folder: Path | None = None, whole: bytes | None = None) -> KeyHolder:
    """The custodian's half: with the key in ``folder``, or a fresh one that is stored nowhere.

    Args:
        scheme: its name.
        identity: what the key's file is sealed under; what is said in a run, that run's own key signs.
        folder: where its key is, or is to be.
        whole: the key, where ``folder`` has it split.

    Raises:
        OperatorFault: the scheme has no decryption key.
        Missing: the scheme's library is not installed.
    """
    key = _key_of(scheme)
    return key.fresh() if folder is None else key.kept(folder / key.file, identity, whole)


def key_name(scheme: str) -> str:
    """The file of a scheme's decryption key in its custodian's home.

    Raises:
        OperatorFault: the scheme has no decryption key.
    """
    return _key_of(scheme).file


def _key_of(scheme: str) -> KeySpec:
    key = spec_of(scheme).key
    if key is None:
        raise OperatorFault(f"{scheme} has no decryption key", f"only {ENCRYPTED} have a custodian")
    return key


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


ENCRYPTED: Final = _listed([scheme.value for scheme in Scheme if scheme.has_custodian])
