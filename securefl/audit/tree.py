"""Does a federation below tell what its parent was told? Check 10 of ``verify``: a node's ledger against those inside.

A parent's copy need not hold what is below: then its nodes' totals and hashes stand as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from securefl import merkle, wire
from securefl.audit import cross_checks
from securefl.audit.ledger_files import Ledger
from securefl.errors import PeerFault, Tampered
from securefl.policy.load import ABOVE
from securefl.privacy.account import Account, Charge, Standing
from securefl.protocol.subfederation import learning_below, run_below
from securefl.terms import Gathered, Hash, MemberId, MessageSent, Plan, Reserved, RunId, RunJoined, Settled, SumOpened

BELOW = "below"


def folders(run: Path, ledgers: Mapping[MemberId, Ledger]) -> Iterator[tuple[MemberId, Path]]:
    """The folder of each federation below this one that was ever asked, by the name it is a member under."""
    found = run / BELOW
    for path in sorted(found.iterdir()) if found.is_dir() else ():
        node = ledgers.get(MemberId(path.name))
        idle = node is not None and not any(node.each(Gathered)) and not (path / "ledger").is_dir()
        if not idle:
            yield MemberId(path.name), path


def idle(run: Path, ledgers: Mapping[MemberId, Ledger]) -> tuple[str, ...]:
    """What stands in the folders of federations below that were never asked, and so left nothing that is checked."""
    found, asked = run / BELOW, {path for _, path in folders(run, ledgers)}
    apart = [path for path in sorted(found.iterdir()) if path not in asked] if found.is_dir() else []
    return tuple(
        f"{each.relative_to(run)}: of a federation that was never asked"
        for path in apart
        for each in (path, *sorted(path.rglob("*")))
        if each.is_file()
    )


def runs_of(node: Ledger | None) -> frozenset[RunId] | None:
    """The runs below that a node says its results are of; None if it says nothing."""
    return (None if node is None else frozenset(entry.run for _, entry in node.each(Gathered))) or None


def absent(run: Path, ledgers: Mapping[MemberId, Ledger]) -> tuple[str, ...]:
    """What is not verified because ledgers of a federation below are not here: a parent's copy need not hold them."""
    return tuple(
        f"{BELOW}/{ledger.owner}: no ledgers of the federation below it; its totals and hashes stand as they are"
        for ledger in ledgers.values()
        if any(ledger.each(Gathered)) and not (run / BELOW / ledger.owner / "ledger").is_dir()
    )


def check(name: MemberId, node: Ledger | None, inside: Mapping[MemberId, Ledger]) -> None:
    """Nothing happens if all that a node passed on is what its own ledgers say: rounds, totals, price and policy.

    And if it said so of each result it sent, and was charged for what it did not send.

    Raises:
        Tampered: otherwise; or there is no such member.
    """
    if node is None:
        raise Tampered(f"{name}.ledger", "missing, and there are ledgers of a federation below it")
    plans = {wire.plan_hash(entry.plan): entry.plan for _, entry in node.each(Reserved)}
    runs = cross_checks.covered(inside)
    for index, entry in node.each(Gathered):
        plan = plans.get(entry.plan)
        if plan is None or entry.run != run_below(plan, node.owner):
            raise node.wrong("a result of a run below that this plan does not name", index)
        if entry.run not in runs:
            raise node.wrong("a result of a run below whose coordinator's ledger is not here", index)
        coordinator, opened = runs[entry.run]
        _check_totals(node, index, entry, coordinator)
        _check_policy(node, index, plan, opened)
        _check_training(node, index, entry, plan, inside)
    _check_told(node, plans, runs)
    _check_charges(node, plans, runs, inside)


def _check_totals(node: Ledger, index: int, entry: Gathered, coordinator: Ledger) -> None:
    openings = [each for _, each in coordinator.each(SumOpened) if each.run == entry.run]
    told = tuple((each.plan, len(each.survivors)) for each in openings)
    if told != tuple(zip(entry.plans, entry.contributors, strict=True)):
        raise node.wrong("other rounds or totals than those that were opened below", index)
    if entry.size > len(coordinator.hashes) or merkle.root(coordinator.hashes[: entry.size]) != entry.head:
        raise node.wrong("the head of another ledger than its coordinator's below", index)


def _check_policy(node: Ledger, index: int, plan: Plan, opened: RunJoined) -> None:
    joined = node.opened(plan.run)
    if joined is None or opened.policy.partition(ABOVE)[2] != joined.policy:
        raise node.wrong("the policy below does not stand under the one that the node joined with", index)


def _check_training(node: Ledger, index: int, entry: Gathered, plan: Plan, inside: Mapping[MemberId, Ledger]) -> None:
    """Each record below was trained on as the parent's plan says, and not more often than the node paid for."""
    found: dict[Hash, Plan] = {}
    for ledger in inside.values():
        for _, reserved in ledger.each(Reserved):
            found[wire.plan_hash(reserved.plan)] = reserved.plan
    here = [found[each] for each in entry.plans if each in found]
    if len(here) != len(entry.plans):
        raise node.wrong("a round below that no member of it reserved", index)
    try:
        due = learning_below(plan, len(here))
    except (PeerFault, ZeroDivisionError) as fault:
        raise node.wrong(f"rounds below that this plan cannot have: {fault}", index) from fault
    for each in here:
        same = (each.model, each.task, each.adapter, each.layout, each.start, each.purpose, each.release, each.learning)
        if same != (plan.model, plan.task, plan.adapter, plan.layout, plan.start, plan.purpose, plan.release, due):
            raise node.wrong(f"round {each.round} below trained otherwise than the plan above says", index)
    if here[0].base != plan.base and not plan.sharing.keeps:
        raise node.wrong("the run below does not start from the state of the plan above", index)
    paid = [settled.did for _, settled in node.each(Settled) if settled.plan == entry.plan]
    if paid != [plan.learning.event]:
        raise node.wrong("a result of a federation below that is not settled in full", index)


def _check_told(node: Ledger, plans: Mapping[Hash, Plan], runs: cross_checks.Runs) -> None:
    """Each result that the node sent, of a plan that it had a run below for, is one it says so of."""
    told = {entry.plan for _, entry in node.each(Gathered)}
    for index, entry in node.each(MessageSent):
        plan = plans.get(entry.receipt.plan) if entry.receipt.kind == "Submitted" and entry.receipt.plan else None
        if plan is not None and entry.receipt.plan not in told and run_below(plan, node.owner) in runs:
            raise node.wrong("a result of a federation below, and not a word of what was below", index)


def _check_charges(
    node: Ledger, plans: Mapping[Hash, Plan], runs: cross_checks.Runs, inside: Mapping[MemberId, Ledger]
) -> None:
    """No member below was charged more steps for a plan than the node was, whatever became of the run."""
    own = {charge.plan: charge for charge in _charges(node)}
    below = {run_below(plan, node.owner): name for name, plan in plans.items()}
    for ledger in inside.values():
        spent: dict[Hash, int] = {}
        for charge in _charges(ledger):
            if charge.run in runs and charge.run in below and charge.standing is not Standing.FREED:
                spent[below[charge.run]] = spent.get(below[charge.run], 0) + charge.event.steps
        for name, steps in spent.items():
            paid = 0 if own[name].standing is Standing.FREED else own[name].event.steps
            if steps > paid:
                raise node.wrong(f"{paid} steps are charged here, and a member below was charged {steps} for them")


def _charges(ledger: Ledger) -> tuple[Charge, ...]:
    return Account.of(leaf.entry for leaf in ledger.leaves).charges
