"""Does a federation below tell what its parent was told? Check 10 of ``verify``: a node's ledger against those inside.

A parent's copy need not hold what is below: then its nodes' totals and hashes stand as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from securefl import merkle, wire
from securefl.audit import cross_checks
from securefl.audit.ledger_files import LEDGERS, Ledger
from securefl.errors import PeerFault, Tampered
from securefl.ledger.export import SUFFIX
from securefl.policy.load import ABOVE
from securefl.privacy.account import Account, Charge, Standing
from securefl.protocol import messages as m
from securefl.protocol.subfederation import learning_below, run_below
from securefl.terms import (
    Gathered,
    Hash,
    MemberId,
    MessageSent,
    Plan,
    Reserved,
    RunId,
    RunJoined,
    Settled,
    SumOpened,
    covering,
)

BELOW = "below"
SUBMITTED = m.Submitted.__name__


def folders(run: Path, ledgers: Mapping[MemberId, Ledger]) -> Iterator[tuple[MemberId, Path]]:
    """The folder of each federation below that left ledgers, or that results are of, by its name as a member."""
    for path in _below(run):
        node = ledgers.get(MemberId(path.name))
        here = (path / LEDGERS).is_dir() or any(path.glob(f"*{SUFFIX}"))  # the second where they do not belong
        if node is None or here or any(node.each(Gathered)):
            yield MemberId(path.name), path


def idle(run: Path, ledgers: Mapping[MemberId, Ledger]) -> tuple[str, ...]:
    """Return what stands in the folders of federations below that left no ledgers, and so nothing that is checked."""
    apart = {path for _, path in folders(run, ledgers)}
    return tuple(
        f"{each.relative_to(run)}: of a federation that {'left no ledger' if _asked(node) else 'was never asked'}"
        for path in _below(run)
        if path not in apart
        for node in (ledgers[MemberId(path.name)],)
        for each in (path, *sorted(path.rglob("*")))
        if each.is_file()
    )


def _below(run: Path) -> tuple[Path, ...]:
    found = run / BELOW
    return tuple(sorted(found.iterdir())) if found.is_dir() else ()


def _asked(node: Ledger) -> bool:
    """Return whether a party was asked to train: whatever became of it, something may have been charged below."""
    return any(node.each(Reserved))


def runs_of(node: Ledger | None) -> frozenset[RunId] | None:
    """The runs below that a node says its results are of; None if it says nothing."""
    return (None if node is None else frozenset(entry.run for _, entry in node.each(Gathered))) or None


def absent(run: Path, ledgers: Mapping[MemberId, Ledger], known: Collection[str] = ()) -> tuple[str, ...]:
    """What is not verified because ledgers of a federation below are not here: a parent's copy need not hold them.

    A party is known for a federation by a result that says so, by a folder, or by a key of somebody below it. One that
    was charged and never sent a result may be one, and nothing here says so.

    Args:
        known: the parties below these that an auditor has keys of, as ``left/coordinator``.
    """
    nodes = {name.partition("/")[0] for name in known} | {path.name for path in _below(run)}
    notes = []
    for ledger in ledgers.values():
        if (run / BELOW / ledger.owner / LEDGERS).is_dir():
            continue
        if any(ledger.each(Gathered)) or (ledger.owner in nodes and _asked(ledger)):
            what = "no ledgers of the federation below it; its totals and hashes stand as they are"
            notes.append(f"{BELOW}/{ledger.owner}: {what}")
        elif _asked(ledger) and not _sent(ledger):
            what = "charged, and sent no result; if it is a federation, what was charged below it is not shown here"
            notes.append(f"{ledger.name}: {what}")
    return tuple(notes)


def _sent(ledger: Ledger) -> bool:
    return any(entry.receipt.kind == SUBMITTED for _, entry in ledger.each(MessageSent))


def check(name: MemberId, node: Ledger | None, inside: Mapping[MemberId, Ledger]) -> tuple[str, ...]:
    """What is not verified, if all that a node passed on is what its own ledgers say: rounds, totals, price and policy.

    And if it said so of each result it sent, and was charged for what it did not send: every charge below for a plan of
    its own is of training as that plan says, and no more of it. What was charged below for no such plan is listed.

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
        coordinator, _ = runs[entry.run]
        _check_totals(node, index, entry, coordinator)
        _check_result(node, index, entry, plan, inside)
    _check_told(node, plans, runs)
    below = {run_below(plan, node.owner): plan for plan in plans.values()}
    for ledger in inside.values():
        _check_policies(node, below, ledger)
        _check_plans(node, below, ledger)
        _check_charges(node, below, ledger)
    return _apart(node, runs, below, inside)


def _apart(
    node: Ledger, runs: cross_checks.Runs, below: Mapping[RunId, Plan], inside: Mapping[MemberId, Ledger]
) -> tuple[str, ...]:
    """The runs here that no plan of the federation above made: they may be this federation's own."""
    charged = {entry.plan.run for ledger in inside.values() for _, entry in ledger.each(Reserved)}
    return tuple(
        f"run {run.hex()[:12]}: of no plan that {node.owner} was charged for; its cost is held against nothing above"
        for run in sorted(charged & set(runs) - set(below))
    )


def _check_totals(node: Ledger, index: int, entry: Gathered, coordinator: Ledger) -> None:
    openings = [each for _, each in coordinator.each(SumOpened) if each.run == entry.run]
    told = tuple((each.plan, len(each.survivors)) for each in openings)
    if told != tuple(zip(entry.plans, entry.contributors, strict=True)):
        raise node.wrong("other rounds or totals than those that were opened below", index)
    if entry.size > len(coordinator.hashes) or merkle.root(coordinator.hashes[: entry.size]) != entry.head:
        raise node.wrong("the head of another ledger than its coordinator's below", index)


def _check_policies(node: Ledger, below: Mapping[RunId, Plan], ledger: Ledger) -> None:
    """Whoever below joined a run for a plan of the node did so under the node's own policy, with or without a result.

    What stands above a policy is a part of it, and no policy is read that loosens what stands above.
    """
    for index, opened in ledger.each(RunJoined):
        plan = below.get(opened.run)
        joined = None if plan is None else node.opened(plan.run)
        if plan is not None and (joined is None or opened.policy.partition(ABOVE)[2] != joined.policy):
            what = f"the policy below does not stand under the one that {node.owner} joined with"
            raise ledger.wrong(what, index)


def _check_result(node: Ledger, index: int, entry: Gathered, plan: Plan, inside: Mapping[MemberId, Ledger]) -> None:
    """The rounds of a result are all that the plan above was shared out among, and it was paid for in full."""
    found: dict[Hash, Plan] = {}
    for ledger in inside.values():
        for _, reserved in ledger.each(Reserved):
            found[wire.plan_hash(reserved.plan)] = reserved.plan
    here = [found[each] for each in entry.plans if each in found]
    if len(here) != len(entry.plans):
        raise node.wrong("a round below that no member of it reserved", index)
    for each in here:
        _check_plan(node, plan, each, len(here), index)
    if here[0].base != plan.base and not plan.sharing.keeps:
        raise node.wrong("the run below does not start from the state of the plan above", index)
    paid = [settled.did for _, settled in node.each(Settled) if settled.plan == entry.plan]
    if paid != [plan.learning.event]:
        raise node.wrong("a result of a federation below that is not settled in full", index)


def _check_plan(node: Ledger, plan: Plan, here: Plan, rounds: int, index: int | None = None) -> None:
    """A plan below, one of so many rounds, trains as the plan above says."""
    try:
        due = learning_below(plan, rounds)
    except (PeerFault, ZeroDivisionError) as fault:
        raise node.wrong(f"rounds below that this plan cannot have: {fault}", index) from fault
    same = (here.model, here.task, here.adapter, here.layout, here.start, here.purpose, here.release, here.learning)
    if same != (plan.model, plan.task, plan.adapter, plan.layout, plan.start, plan.purpose, plan.release, due):
        raise node.wrong(f"round {here.round} below trained otherwise than the plan above says", index)


def _check_told(node: Ledger, plans: Mapping[Hash, Plan], runs: cross_checks.Runs) -> None:
    """Each result that the node sent, of a plan that it had a run below for, is one it says so of."""
    told = {entry.plan for _, entry in node.each(Gathered)}
    for index, entry in node.each(MessageSent):
        plan = plans.get(entry.receipt.plan) if entry.receipt.kind == SUBMITTED and entry.receipt.plan else None
        if plan is not None and entry.receipt.plan not in told and run_below(plan, node.owner) in runs:
            raise node.wrong("a result of a federation below, and not a word of what was below", index)


def _check_plans(node: Ledger, below: Mapping[RunId, Plan], ledger: Ledger) -> None:
    """Whatever this member below reserved for a plan of the node trains as that plan says, with or without a result."""
    for _, entry in ledger.each(Reserved):
        plan = below.get(entry.plan.run)
        if plan is not None:
            _check_plan(node, plan, entry.plan, plan.learning.event.steps // entry.plan.learning.event.steps)


def _check_charges(node: Ledger, below: Mapping[RunId, Plan], ledger: Ledger) -> None:
    """No member below was charged more for a plan than the node was, whatever became of the run: steps, rate, noise."""
    own = {charge.plan: charge for charge in _charges(node)}
    spent: dict[Hash, int] = {}
    for charge in _charges(ledger):
        if charge.run in below and charge.standing is not Standing.FREED:
            name = wire.plan_hash(below[charge.run])
            node_paid = own[name].event
            if covering(node_paid, replace(charge.event, steps=node_paid.steps)) != node_paid:
                raise node.wrong(f"charged for more noise or a lower rate than {ledger.owner}, a member below")
            spent[name] = spent.get(name, 0) + charge.event.steps
    for name, steps in spent.items():
        paid = 0 if own[name].standing is Standing.FREED else own[name].event.steps
        if steps > paid:
            raise node.wrong(f"{paid} steps are charged here, and a member below was charged {steps} for them")


def _charges(ledger: Ledger) -> tuple[Charge, ...]:
    return Account.of(leaf.entry for leaf in ledger.leaves).charges
