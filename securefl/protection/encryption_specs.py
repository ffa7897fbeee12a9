"""What the encrypted schemes have in common: their halves around a cipher, and whom they protect from whom."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from securefl.keys import Identity
from securefl.protection.encrypted import Cipher, EncryptedCoordinator, EncryptedKeyHolder, EncryptedMember
from securefl.protection.masked_encryption import MaskedCipher, MaskedCoordinator, MaskedKeyHolder, MaskedMember
from securefl.protection.schemes import KeySpec, Powers, SchemeSpec
from securefl.seams import KeyHolder
from securefl.terms import ProtectionSpec, Scheme


def encrypted(scheme: Scheme, cipher: Cipher, key_file: str) -> SchemeSpec:
    """Encryption whose custodian is trusted to open sums alone."""

    def kept(path: Path, identity: Identity, whole: bytes | None) -> KeyHolder:
        return EncryptedKeyHolder.at(scheme, cipher, path, identity, whole)

    return SchemeSpec(
        partial(EncryptedMember, scheme, cipher), partial(EncryptedCoordinator, scheme), _trusted, _powers_trusted,
        KeySpec(key_file, lambda: EncryptedKeyHolder.new(scheme, cipher), kept),
    )  # fmt: skip


def masked(scheme: Scheme, cipher: MaskedCipher, key_file: str) -> SchemeSpec:
    """Encryption with masks inside: the custodian sees noise and sums."""

    def kept(path: Path, identity: Identity, whole: bytes | None) -> KeyHolder:
        return MaskedKeyHolder.at(scheme, cipher, path, identity, whole)

    return SchemeSpec(
        partial(MaskedMember, scheme, cipher), partial(MaskedCoordinator, scheme), _together, _powers_together,
        KeySpec(key_file, lambda: MaskedKeyHolder.new(scheme, cipher), kept),
    )  # fmt: skip


def _holder(shares: int | None) -> str:
    return "the custodian" if shares is None else f"the custodian, to whom {shares} members give the key for a run,"


def _trusted(cover: ProtectionSpec, shares: int | None) -> str:
    del cover
    return (
        f"{_holder(shares)} holds the key and is trusted to open sums alone; it could open updates, alone or with the "
        "coordinator; coordinator and members without it see no ciphertext and open nothing"
        + (f" unless {shares} of them have its disk too" if shares is not None else "")
    )


def _powers_trusted(threshold: int) -> Powers:
    del threshold
    return (
        ("the coordinator", "the sums that the custodian opens"),
        ("the custodian", "every update: the policy trusts it to open sums alone"),
        ("the coordinator and the custodian", "every update"),
        ("as many members as a split key needs", "the decryption key, with the custodian's disk"),
    )


def _together(cover: ProtectionSpec, shares: int | None) -> str:
    holder = _holder(shares)
    both = f"{holder} and coordinator" if shares is None else f"{holder[:-1]} and the coordinator"
    return (
        f"nobody alone, nor {both} together, whatever they know of the decryption key: they see the sum; "
        f"the coordinator with {cover.threshold} or more members and {holder} together could open updates"
    )


def _powers_together(threshold: int) -> Powers:
    return (
        ("the custodian", "masked vectors, and the sum over the survivors"),
        ("the coordinator and the custodian", "the same, whatever they know of the decryption key"),
        (f"both and fewer than {threshold} members", "the sum of the others' updates"),
        (f"both and {threshold} members", "every update"),
    )
