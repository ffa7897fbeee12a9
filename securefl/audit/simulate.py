"""What another policy would have said to every plan that was ever reserved.

Each plan is asked about at the moment it was reserved, with what had really been charged until then, at the price it
has under this policy's delta. Two rules are set aside, because they speak of the present: that the plan names this
policy, and that the policy was valid on that day.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from securefl.audit.ledger_files import Ledger, read_all, read_one
from securefl.errors import OperatorFault
from securefl.policy.decide import decide
from securefl.policy.load import Policy
from securefl.privacy import accountant
from securefl.privacy.account import Account
from securefl.terms import Plan, Price, Reason, Refusal, Reserved, Unbounded

SET_ASIDE = ("policy", "valid")


@dataclass(frozen=True, slots=True)
class Answer:
    """What would have become of one plan."""

    member: str
    run: str
    round: int
    at: int
    epsilon: float  # of the round, at this policy's delta
    reasons: tuple[Reason, ...]  # none: it would have been allowed


def simulate(policy: Policy, path: Path) -> tuple[Answer, ...]:
    """The answer to every reserved plan of the federation, in a run, a folder of ledgers, or one ledger.

    Raises:
        OperatorFault: there is nothing here, or nothing of this policy's federation.
        Tampered: a ledger does not hold together.
    """
    if not path.exists():
        raise OperatorFault("nothing here", "give a run, its ledger folder, or one .ledger file", str(path))
    ledgers = [read_one(path)] if path.is_file() else list(read_all(path).values())
    answers = tuple(answer for ledger in ledgers for answer in _answers(policy, ledger))
    if not answers:
        raise OperatorFault(
            f"no plan of {policy.federation} was ever reserved here", "give the ledgers of its members", str(path)
        )
    return answers


def _answers(policy: Policy, ledger: Ledger) -> Iterator[Answer]:
    account = Account()
    for leaf in ledger.leaves:
        entry = leaf.entry
        if isinstance(entry, Reserved) and entry.plan.federation == policy.federation:
            plan = replace(entry.plan, policy=policy.hash)
            cost, reasons = _asked(policy, plan, account, entry.dataset, leaf.at)
            yield Answer(str(ledger.owner), plan.run.hex(), plan.round, leaf.at, cost / 1_000_000, reasons)
        account = account.apply(entry)


def _asked(policy: Policy, plan: Plan, account: Account, dataset: str, at: int) -> tuple[int, tuple[Reason, ...]]:
    try:
        price: Price = accountant.price(
            plan, account, dataset, float(policy.budget.delta_share), policy.caps(dataset, plan.run)
        )
    except Unbounded as fault:
        return 0, (Reason("budget.price", f"no price: {fault}", "a finite price", "add noise"),)
    answer = decide(policy, plan, account, price, at)
    reasons = answer.reasons if isinstance(answer, Refusal) else ()
    return price.round, tuple(reason for reason in reasons if reason.rule not in SET_ASIDE)
