"""A ledger's head: what its owner promises about all of it."""

from __future__ import annotations

from dataclasses import dataclass

from securefl.terms.names import Hash, MemberId, SignatureBytes


@dataclass(frozen=True, slots=True)
class Head:
    """A promise about a whole ledger: its owner's first ``size`` entries have this root."""

    owner: MemberId
    size: int
    root: Hash


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A head, under its owner's key. It is signed once it is certain, so there is one of each size."""

    head: Head
    signature: SignatureBytes
