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
        case Scheme.CKKS | Scheme.BFV as named:
            from securefl.protection import bfv_coefficients, ckks_slots  # noqa: PLC0415
            from securefl.protection.encrypted import EncryptedMember  # noqa: PLC0415

            return EncryptedMember(named, ckks_slots if named is Scheme.CKKS else bfv_coefficients)
        case Scheme.MASKED_BFV:
            from securefl.protection.masked_bfv import MaskedBfvMember  # noqa: PLC0415

            return MaskedBfvMember()
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
        case Scheme.CKKS | Scheme.BFV as named:
            from securefl.protection.encrypted import EncryptedCoordinator  # noqa: PLC0415

            return EncryptedCoordinator(named)
        case Scheme.MASKED_BFV:
            from securefl.protection.masked_bfv import MaskedBfvCoordinator  # noqa: PLC0415

            return MaskedBfvCoordinator()
        case Scheme.CLEAR:
            return ClearCoordinator()


def key_holder(scheme: str, identity: Identity, folder: Path | None = None, whole: bytes | None = None) -> KeyHolder:
    """The custodian's half: with the key in ``folder``, or a fresh one that is stored nowhere.

    Args:
        whole: the key, where ``folder`` has it split.

    Raises:
        Missing: the scheme's library is not installed.
    """
    named = Scheme(scheme)
    if not named.has_custodian:
        raise OperatorFault(f"{named} has no decryption key", "only ckks, bfv and masked-bfv have a custodian")
    from securefl.protection import bfv_coefficients, ckks_slots  # noqa: PLC0415
    from securefl.protection.encrypted import EncryptedKeyHolder  # noqa: PLC0415

    cipher = ckks_slots if named is Scheme.CKKS else bfv_coefficients
    if folder is None:
        return EncryptedKeyHolder.new(named, cipher, identity)
    return EncryptedKeyHolder.at(named, cipher, folder / key_name(named), identity, whole)


def key_name(scheme: Scheme) -> str:
    """The file of a scheme's decryption key in its custodian's home."""
    return "he.key" if scheme is Scheme.CKKS else "bfv.key"
