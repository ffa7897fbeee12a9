"""Who can decrypt what, under which collusion, and what becomes of a sum when members fall silent: a sentence each."""

from __future__ import annotations

from securefl.protection.schemes import spec_of
from securefl.terms import ProtectionSpec


def who_can_open(cover: ProtectionSpec, key_shares: int | None = None) -> str:
    """Return who could open a single update under this cover.

    Args:
        key_shares: how many shares give the decryption key, where it is split; None where the custodian has it whole.
    """
    return spec_of(cover.scheme).statement(cover, key_shares)


def what_silence_does(cover: ProtectionSpec, members: int) -> str:
    """Return what becomes of a round of ``members`` of whom some are not heard. There is a right sum, or none."""
    need = max(cover.min_cohort, cover.threshold if cover.scheme.has_masks else 0)
    spare = members - need
    if spare <= 0:
        return f"{need} members are needed, none is to spare: if one falls silent the run ends cleanly, without a sum"
    return (
        f"up to {spare} of {members} members may fall silent in a round, and the sum over the others is right; "
        "if more do, the run ends cleanly and no sum is opened"
    )
