"""Who can decrypt what, under which collusion, and what becomes of a sum when members fall silent: a sentence each."""

from __future__ import annotations

from securefl.terms import Cover, Scheme


def who_can_open(cover: Cover, key_shares: int | None = None) -> str:
    """Who could open a single update under this cover.

    Args:
        key_shares: how many shares give the decryption key, where it is split; None where the custodian has it whole.
    """
    shares = f"the coordinator with {cover.threshold} or more members"
    holder = "the custodian"
    if key_shares is not None:
        holder = f"the custodian, to whom {key_shares} members give the key for a run,"
    match cover.scheme:
        case Scheme.CLEAR:
            return "UNSAFE: the coordinator sees every update"
        case Scheme.MASKING:
            return f"nobody alone; {shares} could open updates"
        case Scheme.CKKS | Scheme.BFV:
            return (
                f"{holder} holds the key and is trusted to open sums alone; it could open updates, alone or with the "
                "coordinator; coordinator and members without it see no ciphertext and open nothing"
                + (f" unless {key_shares} of them have its disk too" if key_shares is not None else "")
            )
        case Scheme.MASKED_CKKS | Scheme.MASKED_BFV:
            return (
                f"nobody alone, nor {holder} and coordinator together, whatever they know of the decryption key: they "
                f"see the sum; {shares} and {holder} together could open updates"
            ).replace("for a run, and coordinator", "for a run and the coordinator")


def what_silence_does(cover: Cover, members: int) -> str:
    """What becomes of a round of ``members`` of whom some are not heard. There is a right sum, or none."""
    need = max(cover.min_cohort, cover.threshold if cover.scheme.has_masks else 0)
    spare = members - need
    if spare <= 0:
        return f"{need} members are needed, none is to spare: if one falls silent the run ends cleanly, without a sum"
    return (
        f"up to {spare} of {members} members may fall silent in a round, and the sum over the others is right; "
        "if more do, the run ends cleanly and no sum is opened"
    )
