"""A policy on its way into a home: proposed in a file, adopted with the first ledger entry of a run under it.

The file decides nothing. What does is the ledger: whoever writes another policy into it, by whatever way, is refused
in the transaction that would write the run's first entry.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from securefl import files
from securefl.errors import OperatorFault
from securefl.home.run_policy import adopted
from securefl.policy import approvals
from securefl.policy import load as policies
from securefl.policy.authority import levels
from securefl.terms.names import file_name

if TYPE_CHECKING:
    from securefl.home.home import Home
    from securefl.policy.authority import Line
    from securefl.policy.load import Policy

Signatures = tuple[approvals.Signature, ...] | None  # None: a run without
REVOKED = Path("policies") / "revoked"  # of a home: by the hash of the version that was revoked


def propose(home: Home, policy: Policy, signatures: Signatures) -> None:
    """Lay out the policy that the next run here begins under.

    Raises:
        OperatorFault, Unapproved: this home would not adopt it.
    """
    shown = evidence(policy, adoptable(home, policy, signatures))
    path = staged_at(home.path, policy.federation)
    files.keep(path, policy.text)
    files.keep(approvals.beside(path), shown)


def adoptable(home: Home, policy: Policy, signatures: Signatures) -> Signatures:
    """Check that this home would adopt the policy.

    A revocation that it is shown, it keeps, also of a policy that it refuses: one of each signer, and nobody else's.

    Returns:
        The signatures, with the revocations that this home knows.

    Raises:
        OperatorFault, Unapproved: it would not.
    """
    with home.transaction() as conn:
        authority = adopted(home.opened(conn))
    if signatures is not None:
        for level in levels(policy):
            signatures = _with_revocations(home, level, authority.lines.get(level.federation), signatures)
    files.folder(staged_at(home.path, policy.federation).parent)
    authority.adopt(policy, signatures, home.clock())
    return signatures


def _with_revocations(
    home: Home, level: Policy, line: Line | None, signatures: tuple[approvals.Signature, ...]
) -> tuple[approvals.Signature, ...]:
    """The signatures, and every revocation of this version that this home was ever shown, which it keeps."""
    path = home.path / REVOKED / f"{level.hash.hex()}.json"
    kept = approvals.read(path)
    rules = [level.document.approvals, *([line.signed.document.approvals] if line and line.signed else [])]
    revoked = approvals.last_revocations(level, (*kept, *signatures), *rules)
    if revoked != kept:
        files.folder(path.parent)
        files.write(path, approvals.encode(revoked))
    return tuple(dict.fromkeys((*signatures, *revoked)))


def found_signatures(
    path: Path, policy: Policy, now: int, *, unsafe_unsigned: bool
) -> tuple[approvals.Signature, ...] | None:
    """The signatures beside a policy, and beside those above it; None if its own are too few and that was asked for.

    Raises:
        Unapproved: they are too few.
        OperatorFault: a file beside it is not well formed.
    """
    signatures = tuple(each for file in policies.files(path) for each in approvals.read(approvals.beside(file)))
    if unsafe_unsigned and not approvals.judge(policy, signatures, now).signed:
        return None
    approvals.require(policy, signatures, now)
    return signatures


def staged_at(home: Path, federation: str) -> Path:
    """Return where a home's proposed policy of one federation lies."""
    return home / "policies" / file_name(federation, ".yaml")


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
