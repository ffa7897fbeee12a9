"""Which notices count in a ledger: those under a party's own keys, as its owner's home asked before it took them in.

Whoever owns a ledger can write any notice into it. Each is signed by the key that it names (check 3 of ``verify``);
that this key is the party's, no signature says. Here its keys are those that the ledger's runs of that federation give
it, and all that hand-overs in this ledger join with them. A notice under the key of another party of the federation is
a finding. One under a key that nobody has here may be honest: a party that lost its key is pinned anew by hand, and
says something before its next run. So it judges nobody, and is listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from securefl.audit.ledger_files import Ledger, joined
from securefl.errors import Forged
from securefl.keys import fingerprint
from securefl.protocol.key_standing import NotTaken, Standings
from securefl.terms import MemberId, Notice, Noticed, PublicKey, RunJoined, SignedNotice

Named = tuple[str, MemberId]  # a federation, and a party of it


@dataclass(frozen=True, slots=True)
class Holders:
    """Whose each key is, as one ledger has it."""

    owner: MemberId
    keys: dict[Named, frozenset[PublicKey]]

    @classmethod
    def of(cls, ledger: Ledger) -> Holders:
        """The parties of every run in this ledger, with every key of each."""
        same, found = joined((ledger,)), dict[Named, frozenset[PublicKey]]()
        for _, opened in ledger.each(RunJoined):
            for seat in opened.peers:
                name = (opened.federation, seat.member)
                found[name] = found.get(name, frozenset()) | same.get(seat.key, frozenset({seat.key}))
        return cls(ledger.owner, found)

    def after(self, standings: Standings, signed: SignedNotice, at: int) -> Standings:
        """What is known with this notice too, if it is a party's own; nothing new, if it may be anybody's.

        What the ledger's owner says of its own keys counts as it stands: it says it of itself.

        Args:
            at: when it was written down.

        Raises:
            Forged: it is another party's; or no home takes it in, by the rule that is named.
        """
        notice = signed.notice
        if notice.party != self.owner:
            now = max(at, notice.issued)  # it was written by a clock that may have gone back since
            try:
                if self._is_strange(notice):
                    return standings
                standings.admit(signed, notice.federation, {notice.party: notice.key}, now)
            except NotTaken as fault:
                raise Forged(f"a notice that no home takes in: {fault}", fault.rule) from fault
        return standings.after(notice)

    def strange(self, ledger: Ledger) -> Iterator[str]:
        """Say which notices are of a party that takes part here, under a key that nothing here gives it."""
        for index, entry in ledger.each(Noticed):
            notice = entry.notice.notice
            here = (notice.federation, notice.party) in self.keys
            if here and notice.party != self.owner and self._is_strange(notice):
                what = f"it has a notice of {notice.party} under a key that no run and no hand-over here gives it"
                yield f"{ledger.name}, entry {index}: {what}, {fingerprint(notice.key)}: it is not believed"

    def _is_strange(self, notice: Notice) -> bool:
        """Whether nothing here says whose the key is; raise NotTaken where it is another party's."""
        name = (notice.federation, notice.party)
        if notice.key in self.keys.get(name, ()):
            return False
        for (federation, other), theirs in self.keys.items():
            if federation == notice.federation and notice.key in theirs:
                raise NotTaken(f"a notice of {notice.party} under a key of {other}", "keys.stranger")
        return True
