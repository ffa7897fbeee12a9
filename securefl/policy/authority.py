"""Which policies one site has adopted, and what may follow them: a fold over the runs that began there.

A version is adopted by the first entry of a run under it, in the transaction that writes the entry, and by nothing
else. An unsigned version is never the one by whose keys later signatures are judged. What stands above a policy is the
federation's there: other words under its name need its own signatures, whoever signed what stands below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType

from securefl.errors import OperatorFault
from securefl.policy import approvals
from securefl.policy.approvals import Signature
from securefl.policy.load import ABOVE, Policy, parse
from securefl.terms import RunJoined

_parsed = lru_cache(maxsize=256)(parse)


@dataclass(frozen=True, slots=True)
class Line:
    """The versions of one federation's policy, as one site knows them."""

    last: Policy  # the highest version that a run began under, its own or that of a federation below
    signed: Policy | None = None  # the highest that was signed: its keys judge what follows


@dataclass(frozen=True, slots=True)
class Authority:
    """Every federation's policy at one site."""

    lines: Mapping[str, Line] = field(default_factory=lambda: MappingProxyType({}))
    revocations: tuple[Signature, ...] = ()

    def adopt(self, policy: Policy, signatures: Iterable[Signature] | None, now: int) -> Authority:
        """The same with this policy, and those above it, adopted.

        Args:
            policy: the policy a run begins under.
            signatures: of the policy and of those above it; None for a run that was asked for without.
            now: seconds since 1970.

        Raises:
            OperatorFault: it is no later version of what was adopted, or leaves out keys or a parent.
            Unapproved: signatures are missing, by its own rules or those of its last signed predecessor.
        """
        given = None if signatures is None else tuple(signatures)
        lines, stack = dict(self.lines), levels(policy)
        _check_keys(stack)
        for depth, level in enumerate(stack):
            lines[level.federation] = self._next(level, given, now, is_above=depth > 0)
        new = [each for each in approvals.revocations(given or ()) if each not in self.revocations]
        return Authority(MappingProxyType(lines), (*self.revocations, *new))

    def _next(self, level: Policy, given: tuple[Signature, ...] | None, now: int, *, is_above: bool) -> Line:
        line, keyed = self.lines.get(level.federation), bool(level.document.approvals.keys)
        signed = None if line is None else line.signed
        if line is not None:
            _check_follows(level, line.last)
        if signed is not None:
            _check_follows(level, signed)
        if given is None and is_above and signed is not None and signed.hash != level.hash:
            given = ()  # without signatures a site runs what is its own, not what another federation never said
        if given is None or not keyed:
            return replace(line or Line(level), last=level)
        of_level = [each for each in (*given, *self.revocations) if each.statement.federation == level.federation]
        approvals.require(level, dict.fromkeys(of_level), now, signed)
        return Line(level, level)


def levels(policy: Policy) -> tuple[Policy, ...]:
    """A policy, and each above it by itself."""
    texts = policy.text.split(ABOVE)
    above = (_parsed(ABOVE.join(texts[at:]), f"the policy above {policy.federation}") for at in range(1, len(texts)))
    return (policy, *above)


def _check_keys(stack: tuple[Policy, ...]) -> None:
    """Check that what stands under a policy with keys has keys; raise OperatorFault otherwise.

    Else nobody's signatures are asked for, and whoever writes the policy below writes what stands above it too.
    """
    keyed = [bool(level.document.approvals.keys) for level in stack]
    for at, level in enumerate(stack):
        if not keyed[at] and any(keyed[at:]):
            above = stack[keyed.index(True, at)].federation
            what = f"version {level.version} names no keys under `approvals`, and the policy of {above} above it does"
            raise OperatorFault(what, "name who signs it", level.federation)


def _check_follows(policy: Policy, own: Policy) -> None:
    """Check that this policy may come after its predecessor, whoever signs it; raise OperatorFault otherwise."""
    if policy.hash == own.hash:
        return
    what = f"{policy.federation}, version {policy.version}"
    if policy.version <= own.version:
        told = f"the policy changed, and its version is still {policy.version} (this site agreed to {own.version})"
        remedy = "raise `version` in the changed policy, or go back to the agreed one"
        raise OperatorFault(told, remedy, what)
    if own.document.approvals.keys and not policy.document.approvals.keys:
        told = f"version {policy.version} names no keys under `approvals`, and version {own.version} does"
        raise OperatorFault(told, "name who signs it; one that names nobody can be changed by anybody", what)
    left = [each.federation for each in own.above if each.federation not in {up.federation for up in policy.above}]
    if left:
        told = f"version {policy.version} no longer stands under {', '.join(left)}, whose limits its charges count in"
        raise OperatorFault(told, "keep the parent, or begin a federation of another name", what)


def opened(authority: Authority, entry: RunJoined, at: int) -> Authority:
    """The authority once a run has begun, at ``at`` seconds since 1970.

    Raises:
        OperatorFault, Unapproved: it may not begin under that policy.
    """
    policy = _parsed(entry.policy, f"the policy of a run of {entry.federation}")
    if policy.federation != entry.federation:
        what = f"a run of {entry.federation} under the policy of {policy.federation}"
        raise OperatorFault(what, "use its own", "policy")
    signatures = approvals.decode(entry.approvals, "a run's approvals") if entry.approvals else None
    return authority.adopt(policy, signatures, at)
