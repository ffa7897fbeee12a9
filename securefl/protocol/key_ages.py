"""How old each key is, as one ledger can know it: from the entry that names it first, by its owner's own clock.

Whoever asks counts by its own ledger and its own clock. No time that a peer says is read, as a hand-over's `issued`.
So a key may be older than its age here, and never is younger: what came before the first entry nobody here has seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from securefl.errors import Forged
from securefl.terms import Handover, Leaf, Noticed, Participant, PublicKey, RunJoined

DAY_S: Final = 24 * 3600
BEHIND_S: Final = 300  # how far this clock may stand before an entry that was written by it
RULE: Final = "protocol.key-too-old"


@dataclass(frozen=True, slots=True)
class KeyAges:
    """When each key was first named in a ledger: seconds since 1970."""

    since: Mapping[PublicKey, int] = field(default_factory=lambda: MappingProxyType({}))

    def after(self, leaf: Leaf) -> KeyAges:
        """The same with one more entry: a run's parties, or a successor that was taken in, are known from then on."""
        new = [key for key in _named(leaf) if key not in self.since]
        return KeyAges({**self.since, **dict.fromkeys(new, leaf.at)}) if new else self

    def age_s(self, key: PublicKey, now: int) -> int | None:
        """Seconds for which a key has been known; None of one that no entry names yet."""
        since = self.since.get(key)
        return None if since is None else now - since

    def check(self, seat: Participant, now: int, most_s: int | None) -> None:
        """Check that a party's key is no older than the policy lets it be.

        Args:
            seat: the party.
            now: seconds since 1970, by the clock of the ledger's owner.
            most_s: the policy's limit in seconds; None of a policy without one.

        Raises:
            Forged: it is older; or it was first named after ``now``, so this clock went back and no age is known.
        """
        age_s = self.age_s(seat.key, now)
        if most_s is None or age_s is None:
            return
        if age_s < -BEHIND_S:
            what = f"the clock stands {-age_s} s before the entry that names a key of {seat.member} first"
            raise Forged(f"{what}: {seat.key.hex()[:16]}", RULE)
        if age_s > most_s:
            what = f"a key of {seat.member} that has been known for {age_s // DAY_S} days, and {most_s // DAY_S} are"
            raise Forged(f"{what} allowed: {seat.key.hex()[:16]}", RULE)


def _named(leaf: Leaf) -> tuple[PublicKey, ...]:
    """The keys that an entry makes known."""
    entry = leaf.entry
    if isinstance(entry, RunJoined):
        return tuple(seat.key for seat in entry.peers)
    if isinstance(entry, Noticed) and isinstance(entry.notice.notice, Handover):
        return (entry.notice.notice.successor,)
    return ()
