"""Did every plan come under the policy, at its true price? Check 7 of ``verify``: each decision, taken again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from securefl import wire
from securefl.audit.ledger_files import Ledger, of_seat, policy_in
from securefl.errors import Fault
from securefl.policy import approvals, authority
from securefl.policy import load as policies
from securefl.policy.authority import Authority
from securefl.policy.decide import decide
from securefl.privacy import accountant
from securefl.privacy.account import Account, AccountFault, Standing
from securefl.terms import (
    Accountant,
    AdapterRule,
    Event,
    Grant,
    Hash,
    Leaf,
    Level,
    Limit,
    MemberId,
    MessageReceived,
    MessageSent,
    Plan,
    Price,
    Released,
    ReservationReleased,
    Reserved,
    RunId,
    RunJoined,
    Settled,
    SumOpened,
    Unit,
    micro_epsilon,
)

if TYPE_CHECKING:
    from securefl.audit.cross_checks import Runs

SLACK = 1  # one millionth of epsilon: another machine's last digit


def check_account(ledger: Ledger) -> Account:
    """The account of this ledger's owner, once every entry of it was found right.

    Raises:
        Tampered: a plan was charged twice, too little, or not at all; or no policy here would have let it run.
    """
    account = Account()
    opened: dict[RunId, tuple[RunJoined, policies.Policy]] = {}
    proposed: set[Hash] = set()
    left: set[Hash] = set()
    due: dict[Hash, Event] = {}
    last: dict[str, policies.Policy] = {}
    adopted = Authority()
    for index, leaf in enumerate(ledger.leaves):
        entry = leaf.entry
        if isinstance(entry, RunJoined):
            opened[entry.run] = (entry, policy_in(entry.policy, f"{ledger.name}, entry {index}"))
            _check_approvals(ledger, index, leaf, *opened[entry.run])
            _check_version(ledger, index, opened[entry.run][1], last)
            adopted = _adopt(ledger, index, leaf, entry, adopted)
        elif isinstance(entry, MessageReceived) and entry.receipt.kind == "Propose" and entry.receipt.plan is not None:
            proposed.add(entry.receipt.plan)
        elif isinstance(entry, MessageSent) and entry.receipt.kind == "Submitted":
            _check_result(ledger, index, entry, account, left, due)
        elif isinstance(entry, ReservationReleased) and entry.plan in left:
            raise ledger.wrong("a reservation was freed whose result had left", index)
        elif isinstance(entry, Reserved):
            if wire.plan_hash(entry.plan) not in proposed:
                raise ledger.wrong("reserved a plan that nobody had proposed", index)
            if entry.plan.run not in opened:
                raise ledger.wrong("reserved in a run that had not begun", index)
            _check_price(ledger, index, leaf, entry, account, *opened[entry.plan.run])
            due[wire.plan_hash(entry.plan)] = entry.plan.learning.event
        try:
            account = account.apply(entry)
        except AccountFault as fault:
            raise ledger.wrong(str(fault), index) from fault
    return account


def _check_approvals(ledger: Ledger, index: int, leaf: Leaf, opened: RunJoined, policy: policies.Policy) -> None:
    """Whoever says that a policy was signed shows signatures that held when the run began."""
    if opened.approvals:
        standing = approvals.judge(policy, approvals.decode(opened.approvals, f"{ledger.name}, entry {index}"), leaf.at)
        if not standing.signed:
            raise ledger.wrong(f"a run under signatures that do not hold: {standing}", index)


def _check_version(ledger: Ledger, index: int, policy: policies.Policy, last: dict[str, policies.Policy]) -> None:
    """A federation's runs begin under the policy of before, or under a later version, that names keys if it did."""
    before = last.setdefault(policy.federation, policy)
    if policy.hash == before.hash:
        return
    if policy.version <= before.version:
        raise ledger.wrong(f"version {policy.version} of a policy after version {before.version}", index)
    if before.document.approvals.keys and not policy.document.approvals.keys:
        raise ledger.wrong("a policy that names no keys after one that does", index)
    last[policy.federation] = policy


def _adopt(ledger: Ledger, index: int, leaf: Leaf, opened: RunJoined, before: Authority) -> Authority:
    """Hold each policy to the last signed one before it, by that one's keys, and each above it likewise."""
    try:
        return authority.opened(before, opened, leaf.at)
    except Fault as fault:
        raise ledger.wrong(f"a run began under a policy that this site may not adopt: {fault}", index) from fault


def _check_result(
    ledger: Ledger, index: int, entry: MessageSent, account: Account, left: set[Hash], due: Mapping[Hash, Event]
) -> None:
    plan = entry.receipt.plan
    if plan is None or plan in left:
        raise ledger.wrong("a result of no plan, or a second one of the same plan, left", index)
    left.add(plan)
    charge = account.by_plan.get(plan)
    if charge is None or charge.standing is not Standing.SETTLED or charge.cost != entry.receipt.cost:
        raise ledger.wrong("a result left that was not settled, at the price its receipt names", index)
    if charge.event != due.get(plan):
        raise ledger.wrong("a result left for which something else was settled than its plan does", index)


def _check_price(
    ledger: Ledger,
    index: int,
    leaf: Leaf,
    entry: Reserved,
    account: Account,
    opened: RunJoined,
    policy: policies.Policy,
) -> None:
    if entry.dataset != opened.dataset:
        raise ledger.wrong(f"charged to {entry.dataset!r}; the run was joined with {opened.dataset!r}", index)
    price, delta = entry.price, float(policy.budget.delta_share)
    caps = policy.caps(entry.dataset, entry.plan.run)
    expected = accountant.price(entry.plan, account, entry.dataset, delta, caps)
    _check_costs(ledger, index, price, expected, policy, caps)
    if price.caps != expected.caps:
        raise ledger.wrong("a price that does not say what holds its accounts, and by which bound", index)
    at_root = [cap for cap in expected.caps if cap.level is Level.DATASET]
    event = entry.plan.learning.event
    charges = account.beside(Level.DATASET, entry.dataset, entry.dataset, event.unit)
    least = min(float(cap.delta) for cap in at_root)
    rdp = micro_epsilon(accountant.epsilon_rdp((*(charge.event for charge in charges), event), least))
    total = expected.after[Level.DATASET]
    if (
        total + SLACK < rdp
        if at_root[0].bound is Accountant.FILTER and event.unit is Unit.RECORD
        else rdp + SLACK < total
    ):
        raise ledger.wrong("the two accountants contradict each other", index)
    answer = decide(policy, entry.plan, account, price, leaf.at)
    if not isinstance(answer, Grant):
        raise ledger.wrong(f"the policy refuses this plan: {'; '.join(map(str, answer.reasons))}", index)
    if answer.nonce != entry.nonce:
        raise ledger.wrong("reserved without the grant that this policy and account give", index)


def _check_costs(
    ledger: Ledger, index: int, price: Price, expected: Price, policy: policies.Policy, caps: tuple[Limit, ...]
) -> None:
    budget, allowed = policy.budget, {(cap.level, cap.name): cap.epsilon for cap in caps}
    costs = [("round", price.round, expected.round, budget.share(budget.per_round.epsilon))]
    for level in Level:
        if level not in price.after:
            raise ledger.wrong(f"a price without the total of the {level.value}", index)
        most = next(cap.epsilon for cap in caps if cap.level is level)  # its own federation's cap is the first
        costs.append((level.value, price.after[level], expected.after[level], most))
    for name, due in expected.above.items():
        if name not in price.above:
            raise ledger.wrong(f"a price without the total of {name}, which stands above", index)
        costs.append((name, price.above[name], due, allowed[Level.FEDERATION, name]))
    for name, told, due, most in costs:
        if abs(told - due) > SLACK:
            raise ledger.wrong(f"the price of the {name} is {told / 1e6}; its events cost {due / 1e6}", index)
        if told > most:
            raise ledger.wrong(f"the {name} costs {told / 1e6}, above the limit of {most / 1e6}", index)


def check_rounds(ledgers: Mapping[MemberId, Ledger], runs: Runs) -> None:
    """Check that each round was one plan for all, from the last release, opened over enough who really sent.

    Raises:
        Tampered: otherwise.
    """
    plans: dict[Hash, Plan] = {}
    of_round: dict[tuple[RunId, int], tuple[Hash, MemberId]] = {}
    dimensions: dict[tuple[RunId, bool], int] = {}
    terms: dict[RunId, Plan] = {}
    for ledger, index, entry in _reserved(ledgers):
        plan, name = entry.plan, wire.plan_hash(entry.plan)
        plans[name] = plan
        if plan.run not in runs:
            continue  # what its coordinator, whose ledger is not here, showed to others, nobody could see
        if plan.round < 1 or terms.setdefault(plan.run, (its := _terms(plan))) != its:
            what = f"round {plan.round} is none of this run: its noise, clip, protection, model, task or sharing differ"
            raise ledger.wrong(what, index)
        first, member = of_round.setdefault((plan.run, plan.round), (name, ledger.owner))
        if first != name:
            raise ledger.wrong(f"another plan for round {plan.round} than {member} was given", index)
        even = plan.adapter.rule is AdapterRule.ALTERNATING and plan.round % 2 == 0
        if dimensions.setdefault((plan.run, even), plan.dimension) != plan.dimension:
            raise ledger.wrong(f"round {plan.round} trains other tensors than its rule says", index)
        if plan.round > 1:
            released = _releases(runs[plan.run][0], plan.run)
            if released.get(plan.round - 1) != plan.base:
                raise ledger.wrong(f"round {plan.round} does not start from the release of the round before", index)
    for ledger in ledgers.values():
        _check_openings(ledger, ledgers, plans)
        _check_handed_in(ledger)
    check_sums(ledgers, runs)


def _terms(plan: Plan) -> Plan:
    """What no round of a run may change: all but its number, who is asked, where it starts, and how far it steps.

    So what a report says of one plan, it says of all.
    """
    learning = replace(plan.learning, learning_rate=Fraction(1))
    return replace(plan, round=1, base=Hash(b""), cohort=(), dimension=1, learning=learning)


def _reserved(ledgers: Mapping[MemberId, Ledger]) -> Iterator[tuple[Ledger, int, Reserved]]:
    for ledger in ledgers.values():
        for index, entry in ledger.each(Reserved):
            yield ledger, index, entry


def _releases(coordinator: Ledger, run: RunId) -> dict[int, Hash]:
    return {entry.round: entry.digest for _, entry in coordinator.each(Released) if entry.run == run}


def check_sums(ledgers: Mapping[MemberId, Ledger], runs: Collection[RunId]) -> None:
    """Check that the coordinator used the very sum that the custodian opened.

    Raises:
        Tampered: otherwise.
    """
    seen: dict[tuple[RunId, int], tuple[SumOpened, MemberId]] = {}
    for ledger in ledgers.values():
        for index, entry in ledger.each(SumOpened):
            if entry.run not in runs:
                continue
            first, owner = seen.setdefault((entry.run, entry.round), (entry, ledger.owner))
            if (entry.plan, entry.survivors) != (first.plan, first.survivors):
                raise ledger.wrong(f"a sum of round {entry.round} over others than {owner} has", index)
            if entry.digest != first.digest:
                raise ledger.wrong(f"another sum of round {entry.round} than {owner} opened", index)


def _check_openings(ledger: Ledger, ledgers: Mapping[MemberId, Ledger], plans: Mapping[Hash, Plan]) -> None:
    seen: set[tuple[RunId, int]] = set()
    for index, entry in ledger.each(SumOpened):
        if (entry.run, entry.round) in seen:
            raise ledger.wrong(f"a second sum of round {entry.round} was opened", index)
        seen.add((entry.run, entry.round))
        plan = plans.get(entry.plan)
        if plan is None:
            _check_nobody_here(ledger, index, entry, ledgers)
            continue  # of a run whose members are not part of this copy
        seats = {seat.member: seat for seat in plan.cohort}
        survivors = set(entry.survivors)
        if len(survivors) != len(entry.survivors) or not survivors <= set(seats):
            raise ledger.wrong("a sum over strangers, or over somebody twice", index)
        if len(survivors) < plan.cover.min_cohort:
            raise ledger.wrong(f"a sum over {len(survivors)} members; the plan asks for {plan.cover.min_cohort}", index)
        for member in sorted(survivors):
            owner = of_seat(ledgers, seats[member])
            if owner is not None and entry.plan not in {settled.plan for _, settled in owner.each(Settled)}:
                raise ledger.wrong(f"a sum over {member}, whose ledger settled no such plan", index)


def _check_handed_in(ledger: Ledger) -> None:
    """Every input of a coordinator's sum stands in its ledger: the key that it came under is asked about there."""
    handed_in = set[tuple[RunId, int, MemberId]]()
    for index, leaf in enumerate(ledger.leaves):
        entry = leaf.entry
        if isinstance(entry, MessageReceived) and entry.receipt.kind == "Submitted":
            handed_in.add((entry.receipt.run, entry.receipt.round, entry.receipt.sender))
        elif isinstance(entry, SumOpened):
            opened = ledger.opened(entry.run)
            for member in entry.survivors:
                is_here = (entry.run, entry.round, member) in handed_in
                if opened is not None and opened.role == "coordinator" and not is_here:
                    raise ledger.wrong(f"a sum of round {entry.round} over {member}, who handed nothing in", index)


def _check_nobody_here(ledger: Ledger, index: int, entry: SumOpened, ledgers: Mapping[MemberId, Ledger]) -> None:
    """Nobody whose ledger is here reserved this plan: so none of those it was opened over has its ledger here."""
    opened = ledger.opened(entry.run)
    for seat in () if opened is None else opened.peers:
        if seat.member in entry.survivors and of_seat(ledgers, seat) is not None:
            raise ledger.wrong(f"a sum over {seat.member}, of a plan that no ledger here reserved", index)
