"""What the first entry of a run adopts: a policy, judged by what this home adopted before."""

from __future__ import annotations

from collections.abc import Iterable

from securefl.errors import Fault, Unsafe
from securefl.policy import authority
from securefl.policy.authority import Authority
from securefl.terms import Entry, RunJoined

RULE = "policy.authority"


def adopted(begun: Iterable[tuple[int, RunJoined]]) -> Authority:
    """Return what was adopted by a home in whose ledger these runs began, each at its time."""
    found, seen = Authority(), set[tuple[str, bytes, bytes]]()
    for at, opened in begun:
        said = (opened.federation, opened.policy, opened.approvals)
        if said not in seen:  # the same again changes nothing
            found = authority.opened(found, opened, at)
            seen.add(said)
    return found


def check(before: Iterable[tuple[int, RunJoined]], entries: Iterable[Entry], now: int) -> None:
    """Check, in the transaction that writes these entries, that a run in them may begin under its policy.

    Args:
        before: the runs that began in this home before, each with its time.

    Raises:
        Unsafe: it may not.
    """
    begun = [each for each in entries if isinstance(each, RunJoined)]
    if not begun:
        return
    try:
        found = adopted(before)
        for each in begun:
            found = authority.opened(found, each, now)
    except Fault as fault:  # nobody outside is told which policy is held here
        raise Unsafe("this site has not adopted that policy: its operator's own run says why", RULE) from fault
