"""A scheme's name, and its halves."""

from __future__ import annotations

from pathlib import Path

from securefl.errors import OperatorFault
from securefl.keys import Identity
from securefl.protection.clear import ClearCoordinator, ClearMember
from securefl.protection.masking import MaskingCoordinator, MaskingMember
from securefl.seams import CoordinatorProtection, KeyHolder, MemberProtection
from securefl.terms import Scheme


def member_half(scheme: str) -> MemberProtection:
    """The member's half of a scheme.

    Raises:
        ValueError: no scheme has this name; there is no default.
    """
    match Scheme(scheme):
        case Scheme.MASKING:
            return MaskingMember()
        case Scheme.CKKS:
            from securefl.protection.ckks import CkksMember  # noqa: PLC0415

            return CkksMember()
        case Scheme.CLEAR:
            return ClearMember()


def coordinator_half(scheme: str) -> CoordinatorProtection:
    """The coordinator's half of a scheme.

    Raises:
        ValueError: no scheme has this name; there is no default.
    """
    match Scheme(scheme):
        case Scheme.MASKING:
            return MaskingCoordinator()
        case Scheme.CKKS:
            from securefl.protection.ckks import CkksCoordinator  # noqa: PLC0415

            return CkksCoordinator()
        case Scheme.CLEAR:
            return ClearCoordinator()


def key_holder(scheme: str, identity: Identity, path: Path | None = None) -> KeyHolder:
    """The custodian's half: with the key at ``path``, or a fresh one that is stored nowhere.

    Raises:
        Missing: the scheme's library is not installed.
    """
    if scheme != Scheme.CKKS:
        raise OperatorFault(f"{scheme} has no decryption key", "only ckks has a custodian")
    from securefl.protection.ckks import CkksKeyHolder  # noqa: PLC0415

    return CkksKeyHolder.new(identity) if path is None else CkksKeyHolder.at(path, identity)
