"""A scheme's name, and its halves."""

from __future__ import annotations

from pathlib import Path

from securefl.errors import OperatorFault
from securefl.keys import Identity
from securefl.protection.clear import ClearCoordinator, ClearMember
from securefl.protection.masking import MaskingCoordinator, MaskingMember
from securefl.seams import CoordinatorProtection, KeyHolder, MemberProtection
from securefl.terms import Scheme

ENCRYPTED = "ckks, masked-ckks, bfv and masked-bfv"


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
        case Scheme.MASKED_CKKS | Scheme.MASKED_BFV as named:
            from securefl.protection import masked_bfv, masked_ckks  # noqa: PLC0415
            from securefl.protection.masked_encryption import MaskedMember  # noqa: PLC0415

            return MaskedMember(named, masked_ckks if named is Scheme.MASKED_CKKS else masked_bfv)
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
        case Scheme.MASKED_CKKS | Scheme.MASKED_BFV as named:
            from securefl.protection.masked_encryption import MaskedCoordinator  # noqa: PLC0415

            return MaskedCoordinator(named)
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
        raise OperatorFault(f"{named} has no decryption key", f"only {ENCRYPTED} have a custodian")
    from securefl.protection import bfv_coefficients, ckks_slots, masked_bfv, masked_ckks  # noqa: PLC0415
    from securefl.protection.encrypted import EncryptedKeyHolder  # noqa: PLC0415
    from securefl.protection.masked_encryption import MaskedKeyHolder  # noqa: PLC0415

    ciphers = {
        Scheme.CKKS: ckks_slots, Scheme.BFV: bfv_coefficients, Scheme.MASKED_CKKS: masked_ckks,
        Scheme.MASKED_BFV: masked_bfv,
    }  # fmt: skip
    holder, cipher = MaskedKeyHolder if named.has_masks else EncryptedKeyHolder, ciphers[named]
    if folder is None:
        return holder.new(named, cipher, identity)
    return holder.at(named, cipher, folder / key_name(named), identity, whole)


def key_name(scheme: Scheme) -> str:
    """The file of a scheme's decryption key in its custodian's home."""
    return "he.key" if scheme in (Scheme.CKKS, Scheme.MASKED_CKKS) else "bfv.key"
