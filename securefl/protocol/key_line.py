"""A party as its line of keys: each handed over to the next. Whoever asks by which it spoke is told one that counts.

A key that was handed over too long ago, was revoked or is too old decides nothing, and neither does one of a party that
left. What a key signed while it counted, such as a share that it dealt, is still its party's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from securefl.errors import Forged
from securefl.terms import Handover, Participant, PublicKey


def of_one_ledger(handovers: Iterable[Handover]) -> Mapping[PublicKey, frozenset[PublicKey]]:
    """Each key that was handed over or handed over to, and all that such steps join with it: one holder, one ledger.

    Whether a key counts is asked in one federation; whose it is, is the same in all of them. So steps of every
    federation count, in both directions; a key that no step names is alone, and is not in the result.

    Args:
        handovers: each signed by both of its keys.
    """
    beside: dict[PublicKey, set[PublicKey]] = {}
    for step in handovers:
        beside.setdefault(step.key, set()).add(step.successor)
        beside.setdefault(step.successor, set()).add(step.key)
    found: dict[PublicKey, frozenset[PublicKey]] = {}
    for key in beside:
        if key not in found:
            joined, open_ = {key}, [key]
            while open_:
                new = beside[open_.pop()] - joined
                joined |= new
                open_ += new
            found |= dict.fromkeys(joined, frozenset(joined))
    return found


@dataclass(frozen=True, slots=True)
class KeyLine:
    """One party of one federation, as one ledger has it now."""

    seat: Participant  # under any key of the line
    keys: tuple[PublicKey, ...]  # newest first, at least one
    counts: Callable[[Participant], None]  # raises Forged for a key that does not count now

    def counting(self) -> tuple[PublicKey, ...]:
        """Every key of the line that counts now, newest first."""
        return tuple(key for key in self.keys if self._counts_now(replace(self.seat, key=key)))

    def speaker(self, holds: Callable[[PublicKey], None]) -> Participant:
        """The party under the key by which it spoke.

        Args:
            holds: raises Forged where what was said is not signed by that key.

        Raises:
            Forged: no key of the line signed it; or the one that did does not count now, by that name.
        """
        seat = self.author(holds)
        self.counts(seat)
        return seat

    def author(self, holds: Callable[[PublicKey], None]) -> Participant:
        """The party under the key that signed this, also where that key does not count any more.

        Raises:
            Forged: no key of the line signed it, as ``holds`` has it of the last.
        """
        *newer, last = self.keys
        for key in newer:
            try:
                holds(key)
            except Forged:
                continue
            return replace(self.seat, key=key)
        holds(last)
        return replace(self.seat, key=last)

    def _counts_now(self, seat: Participant) -> bool:
        try:
            self.counts(seat)
        except Forged:
            return False
        return True
