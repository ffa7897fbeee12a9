"""A policy on its way into a home: proposed in a file, adopted with the first ledger entry of a run under it.

The file decides nothing. What does is the ledger: whoever writes another policy into it, by whatever way, is refused
in the transaction that would write the run's first entry.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from securefl import private
from securefl.errors import Fault, OperatorFault, Unsafe
from securefl.policy import approvals, authority
from securefl.policy import load as policies
from securefl.policy.authority import Authority
from securefl.terms import Entry, Opened

if TYPE_CHECKING:
    from securefl.policy.load import Policy
    from securefl.runtime.home import Home

RULE = "policy.authority"


def adopted(begun: Iterable[tuple[int, Opened]]) -> Authority:
    """What was adopted by a home in whose ledger these runs began, each at its time."""
    found, seen = Authority(), set[tuple[str, bytes, bytes]]()
    for at, opened in begun:
        said = (opened.federation, opened.policy, opened.approvals)
        if said not in seen:  # the same again changes nothing
            found = authority.opened(found, opened, at)
            seen.add(said)
    return found


def check(before: Iterable[tuple[int, Opened]], entries: Iterable[Entry], now: int) -> None:
    """Check, in the transaction that writes these entries, that a run in them may begin under its policy.

    Args:
        before: the runs that began in this home before, each with its time.

    Raises:
        Unsafe: it may not.
    """
    begun = [each for each in entries if isinstance(each, Opened)]
    if not begun:
        return
    try:
        found = adopted(before)
        for each in begun:
            found = authority.opened(found, each, now)
    except Fault as fault:  # nobody outside is told which policy is held here
        raise Unsafe("this site has not adopted that policy: its operator's own run says why", RULE) from fault


def propose(home: Home, policy: Policy, signatures: tuple[approvals.Signature, ...] | None) -> None:
    """Lay out the policy that the next run here begins under; None for a run without signatures.

    Raises:
        OperatorFault, Unapproved: this home would not adopt it.
    """
    path = staged_at(home.path, policy.federation)
    private.folder(path.parent)
    if signatures is not None:
        revoked = path.with_name(f"{policy.federation}.revoked.json")
        signatures = tuple(dict.fromkeys((*signatures, *approvals.read(revoked))))
        private.write(revoked, approvals.encode(approvals.revocations(signatures)))
    with home.transaction() as conn:
        adopted(home.opened(conn)).adopt(policy, signatures, home.clock())
    private.write(path, policy.text)
    private.write(approvals.beside(path), evidence(policy, signatures))


def staged_at(home: Path, federation: str) -> Path:
    """Where a home's proposed policy of one federation lies."""
    return home / "policies" / f"{federation}.yaml"


def staged(home: Path, federation: str, now: int) -> tuple[Policy, bytes]:
    """The policy proposed to a home, and its signatures, which hold; empty for a run without.

    Raises:
        OperatorFault, Unapproved: there is none, or its signatures do not hold.
    """
    path = staged_at(home, federation)
    policy, text = policies.load(path), approvals.beside(path).read_bytes()
    if policy.federation != federation:
        raise OperatorFault(f"this is the policy of {policy.federation}", "run the federation's own again", str(path))
    if text:
        approvals.require(policy, approvals.decode(text, str(approvals.beside(path))), now)
    return policy, text


def evidence(policy: Policy, signatures: tuple[approvals.Signature, ...] | None) -> bytes:
    """The signatures a run shows for its policy; empty where it is unsigned, for nobody was asked or too few signed."""
    return approvals.encode(signatures) if signatures is not None and policy.document.approvals.keys else b""
