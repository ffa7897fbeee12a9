"""Who can decrypt what, under which collusion: one sentence for each scheme."""

from __future__ import annotations

from securefl.terms import Cover, Scheme


def who_can_open(cover: Cover, key_shares: int | None = None) -> str:
    """Who could open a single update under this cover.

    Args:
        key_shares: how many shares give the decryption key, where it is split; None where the custodian has it whole.
    """
    shares, t = f"the coordinator with {cover.threshold} or more members", key_shares
    holder = "the custodian" if t is None else f"the custodian with {t} or more members"
    match cover.scheme:
        case Scheme.CLEAR:
            return "UNSAFE: the coordinator sees every update"
        case Scheme.MASKING:
            return f"nobody alone; {shares} could open updates"
        case Scheme.CKKS | Scheme.BFV:
            return (
                f"{holder} holds the key and is trusted to open sums alone; it could open updates, and so could the "
                "coordinator with it; coordinator and members without it open nothing"
            )
        case Scheme.MASKED_BFV:
            return (
                f"nobody alone, nor custodian and coordinator together: they see the sum; {shares} and {holder} "
                "together could open updates"
            )
