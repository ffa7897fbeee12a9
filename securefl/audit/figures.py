"""Every figure of a report that its ledgers give: computed from them when it is written, and again when it is checked.

What no ledger knows stays out: accuracy on held-out rows, seconds, versions, the engine, who holds shares of a
decryption key. That stands in the report on its coordinator's word, and is bound by the file's digest alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from securefl import wire
from securefl.audit import spent
from securefl.audit.ledger_files import Ledger, policy_in
from securefl.audit.report import Report
from securefl.errors import Tampered
from securefl.policy import approvals
from securefl.policy.load import Policy
from securefl.policy.training_rules import MECHANISMS
from securefl.protection.trust_statement import what_silence_does, who_can_open
from securefl.protocol.coordinator import DECLINED
from securefl.terms import (
    Accountant,
    Closed,
    DistributedDiscreteGaussian,
    FullBatchGaussian,
    Hash,
    Level,
    MemberId,
    MessageReceived,
    MessageSent,
    Plan,
    Refused,
    Reserved,
    RunId,
    RunJoined,
    SumOpened,
    Unit,
)

SLACK = 1e-6  # of what was spent and reserved: another machine's last digits. Every other figure is compared exactly
COMPUTED = frozenset({"spent", "reserved", "left", "rdp", "epsilon"})  # by an accountant, in floating point
_FILTERED = {"accountant": "dp-accounting RDP, as a filter over fixed orders"}
_UNSAMPLED = {"sampler": "no"}
_ACCOUNTANTS = {
    Unit.RECORD: {"sampler": "poisson", "accountant": "dp-accounting PLD, interval 1e-3, finer below epsilon 2"},
    Unit.CLIENT: {
        "sampler": "no",
        "accountant": "dp-accounting RDP, with the bound of Kairouz, Liu and Steinke (2021) for sums of shares",
    },
}

Ledgers = Mapping[MemberId, Ledger]


def coordinator_of(ledgers: Ledgers, run: RunId) -> Ledger:
    """The ledger that coordinated this run.

    Raises:
        Tampered: there is none here.
    """
    for ledger in ledgers.values():
        opened = ledger.opened(run)
        if opened is not None and opened.role == "coordinator":
            return ledger
    raise Tampered("coordinator.ledger", f"missing: no ledger here coordinated run {run.hex()}")


def plans(ledgers: Ledgers, run: RunId) -> dict[Hash, Plan]:
    """Every plan of a run that anybody reserved, by its name."""
    found = [entry.plan for each in ledgers.values() for _, entry in each.each(Reserved) if entry.plan.run == run]
    return {wire.plan_hash(plan): plan for plan in dict.fromkeys(found)}


def first_plan(ledgers: Ledgers, run: RunId) -> Plan | None:
    """The plan of the first round that anybody reserved; None if nobody did."""
    return min(plans(ledgers, run).values(), key=lambda plan: plan.round, default=None)


def figures(ledgers: Ledgers, run: RunId, plan: Plan | None = None) -> dict[str, Any]:
    """What ledgers say of one run, in the report's shape; of its plan only if it is given, or somebody reserved one.

    Raises:
        Tampered: the run has no coordinator here, or did not end.
    """
    coordinator = coordinator_of(ledgers, run)
    found, policy, openings = of_coordinator(coordinator, run)
    members = _members(ledgers, run)
    rows = spent.accounts_of(members)
    found |= {
        "rounds": _rounds(ledgers, coordinator, run, openings),
        "epsilon": _epsilon(policy, rows),
        "accounts": rows,
    }
    plan = plan or first_plan(ledgers, run)
    if plan is None:
        return found
    unit = plan.learning.event.unit
    by_filter = found["epsilon"]["bound"] == Accountant.FILTER and unit is Unit.RECORD
    found["epsilon"] |= {
        "unit": unit.value, "mechanism": MECHANISMS[type(plan.learning.event)], **_ACCOUNTANTS[unit],
        **(_UNSAMPLED if isinstance(plan.learning.event, FullBatchGaussian) else {}),
        **(_FILTERED if by_filter else {}), "rdp": _rdp(members, unit),
    }  # fmt: skip
    found["protections"] |= protections(plan, len(found["members"]))
    return found | {
        "federation": plan.federation,
        "model": {"name": plan.model.name, "digest": plan.model.digest.hex(), "trained_parameters": plan.dimension},
        "warnings": list(warnings(plan)),
    }


def of_coordinator(
    coordinator: Ledger, run: RunId
) -> tuple[dict[str, Any], Policy, Mapping[int, tuple[MemberId, ...]]]:
    """What one ledger says of the run that it coordinated: figures, the run's policy, and who is in each round's sum.

    Raises:
        Tampered: the run did not end.
    """
    at, opened = next((leaf.at, leaf.entry) for leaf in coordinator.leaves if _begins(leaf.entry, run))
    assert isinstance(opened, RunJoined), "found as one"
    policy = policy_in(opened.policy, coordinator.name)
    ended = next((entry for _, entry in coordinator.each(Closed) if entry.run == run), None)
    if ended is None:
        raise coordinator.wrong(f"run {run.hex()} does not end here", len(coordinator.leaves))
    openings = {e.round: e.survivors for _, e in coordinator.each(SumOpened) if e.run == run}
    roles = {seat.member for seat in opened.peers if seat.member in ("coordinator", "custodian")}
    standing = approvals.judge(policy, approvals.decode(opened.approvals, "the run's approvals"), at)
    found: dict[str, Any] = {
        "run": run.hex(),
        "outcome": {"status": ended.outcome, "why": _why(coordinator, ended)},
        "policy_hash": policy.hash.hex(),
        "approvals": standing.facts(),
        "members": {seat.member: seat.region for seat in opened.peers if seat.member not in roles},
        "bytes": {"up": _size(MessageReceived, coordinator, run), "down": _size(MessageSent, coordinator, run)},
        "protections": {"cohort_sizes": [len(survivors) for _, survivors in sorted(openings.items())]},
    }
    return found, policy, openings


def coordinated(coordinator: Ledger, run: RunId) -> dict[str, Any]:
    """Return what one ledger gives of the run that it coordinated, in the shape of ``coordinated.json``.

    Raises:
        Tampered: the run did not end.
    """
    found, policy, openings = of_coordinator(coordinator, run)
    protections_, members = found.pop("protections"), found.pop("members")
    return found | {
        "federation": policy.federation,
        "members": [{"name": str(name), "region": region} for name, region in sorted(members.items())],
        "rounds": [
            {
                "round": number,
                "survivors": [str(member) for member in survivors],
                "bytes_up": _size(MessageReceived, coordinator, run, number),
                "bytes_down": _size(MessageSent, coordinator, run, number),
            }
            for number, survivors in sorted(openings.items())
        ],
        **protections_,
    }


def check(report: Mapping[str, Any], ledgers: Ledgers, run: RunId) -> None:
    """Check that every figure that these ledgers give stands in the report as they give it.

    Raises:
        Tampered: one does not; it is named.
    """
    told, due = dict(report), figures(ledgers, run)
    try:
        told["members"] = sorted((row["name"], row["region"]) for row in report["members"])
    except (KeyError, TypeError) as fault:
        raise Tampered("report.json", f"members: {fault}") from fault
    due["members"] = sorted((str(name), region) for name, region in due["members"].items())
    compare("report.json", due, told)
    _check_shape(report)


def _check_shape(report: Mapping[str, Any]) -> None:
    """Nothing stands in the report that its schema does not name, at any depth, and each value is of its kind.

    Raises:
        Tampered: otherwise.
    """
    try:
        shape = Report.model_validate_json(json.dumps(report), strict=True)
    except ValueError as fault:
        found = fault.errors()[0] if isinstance(fault, ValidationError) else {"loc": (), "msg": str(fault)}
        place = ".".join(map(str, found["loc"]))
        raise Tampered("report.json", f"{place or 'it'}: {found['msg']}") from fault
    assert shape.run == report["run"], "it was read as it is"


def words(report: Mapping[str, Any], ledgers: Ledgers, run: RunId) -> tuple[str, ...]:
    """The fields of a report that no ledger gives: they are its coordinator's word."""
    due = figures(ledgers, run)
    due["members"] = [{"name": name, "region": region} for name, region in due["members"].items()]
    return more(due | {"adapter": None}, report)


def more(due: Mapping[str, Any], told: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields that are told and not due, by name."""
    return tuple(dict.fromkeys(_left("", due, told)))


def _left(place: str, due: Any, told: Any) -> Iterator[str]:  # noqa: ANN401 - whatever JSON holds
    if isinstance(due, Mapping) and isinstance(told, Mapping):
        for name, each in told.items():
            inside = f"{place}.{name}" if place else str(name)
            if name in due:
                yield from _left(inside, due[name], each)
            else:
                yield inside
    elif isinstance(due, list) and isinstance(told, list):
        for one, other in zip(due, told, strict=False):
            yield from _left(place, one, other)


def compare(file: str, due: Any, told: Any, place: str = "", scale: float = 0.0) -> None:  # noqa: ANN401 - JSON
    """Check that a file tells every figure that is due, as it is due; it may tell more.

    Args:
        file: what a finding calls the file.
        place: where in it these values stand.
        scale: of the account that they are figures of, in epsilon.

    Raises:
        Tampered: a figure is another, or missing; it is named.
    """
    if isinstance(due, dict):
        scale = sum(float(due[name]) for name in ("spent", "reserved") if isinstance(due.get(name), float))
        if not isinstance(told, Mapping):
            raise _other(file, place, due, told)
        for name, each in due.items():
            inside = f"{place}.{name}" if place else str(name)
            if name not in told:
                raise Tampered(file, f"{inside} is missing")
            compare(file, each, told[name], inside, scale)
    elif isinstance(due, list | tuple):
        if not isinstance(told, list | tuple) or len(told) != len(due):
            raise _other(file, place, due, told)
        for index, (one, other) in enumerate(zip(due, told, strict=True)):
            compare(file, one, other, f"{place}.{index}")
    elif not _same(due, told, scale if place.rpartition(".")[2] in COMPUTED else None):
        raise _other(file, place, due, told)


def _other(file: str, place: str, due: object, told: object) -> Tampered:
    return Tampered(file, f"{place or 'it'} is {told!r:.200}; the ledgers give {due!r:.200}")


def _same(due: object, told: object, scale: float | None) -> bool:
    """Return whether a value is the one that is due; of one that an accountant computes, up to its last digits."""
    if isinstance(due, float) and isinstance(told, int | float) and not isinstance(told, bool):
        return due == told or (scale is not None and abs(due - told) <= SLACK * max(abs(due), scale))
    same_kind = isinstance(due, str) or type(due) is type(told)  # an Enum of text is that text; 1 is not true
    return same_kind and due == told


def _why(coordinator: Ledger, ended: Closed) -> str:
    """Why a run ended; for the coordinator's own reader also in the words by which members refused its last round.

    What everybody is told holds names of rules alone. What a member told the coordinator may be read in its ledger.
    """
    refused = [
        entry for _, entry in coordinator.each(Refused) if entry.run == ended.run and entry.what.startswith(DECLINED)
    ]
    if ended.outcome != "refused" or not refused:
        return ended.why
    last = max(entry.round for entry in refused)
    reasons = dict.fromkeys(str(reason) for entry in refused if entry.round == last for reason in entry.reasons)
    return f"{ended.why}: {'; '.join(reasons)}"


def _begins(entry: object, run: RunId) -> bool:
    return isinstance(entry, RunJoined) and entry.run == run


def _size(kind: type[MessageReceived | MessageSent], ledger: Ledger, run: RunId, number: int | None = None) -> int:
    return sum(
        entry.receipt.size
        for _, entry in ledger.each(kind)
        if entry.receipt.run == run and number in (None, entry.receipt.round)
    )


def _rounds(
    ledgers: Ledgers, coordinator: Ledger, run: RunId, openings: Mapping[int, tuple[MemberId, ...]]
) -> list[dict[str, Any]]:
    spent_at: dict[int, float] = {}
    for ledger in ledgers.values():
        for _, entry in ledger.each(Reserved):
            if entry.plan.run == run:
                after = entry.price.after[Level.DATASET] / 1e6
                spent_at[entry.plan.round] = max(spent_at.get(entry.plan.round, 0.0), after)
    return [
        {
            "round": number,
            "survivors": [str(member) for member in openings.get(number, ())],
            "epsilon_after": spent_at.get(number),
            "bytes_up": _size(MessageReceived, coordinator, run, number),
            "bytes_down": _size(MessageSent, coordinator, run, number),
        }
        for number in sorted({*openings, *spent_at})
    ]


def _members(ledgers: Ledgers, run: RunId) -> Ledgers:
    """The ledgers of those who joined this run with records: whoever else lies there has no part in its figures.

    Where nobody joined, the report of the run that was refused tells how everybody's accounts stand.
    """
    opened = {owner: ledger.opened(run) for owner, ledger in ledgers.items()}
    joined = {owner for owner, entry in opened.items() if entry is not None and entry.role == "member"}
    return {owner: ledgers[owner] for owner in joined} if joined else ledgers


def _epsilon(policy: Policy, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The account that is worst off, of all data sets."""
    worst = max((row for row in rows if row["level"] == Level.DATASET), key=lambda row: row["spent"] + row["reserved"])
    taken = {name: worst[name] for name in ("limit", "spent", "reserved", "left", "bound", "member")}
    return {**taken, "delta": float(policy.budget.delta), "neighbours": policy.budget.neighbours.value}


def _rdp(ledgers: Ledgers, unit: Unit) -> float:
    told = spent.replayed(ledgers)["epsilon"]
    found: float = told.get("client", {"rdp": 0.0})["rdp"] if unit is Unit.CLIENT else told["rdp"]
    return found


def protections(plan: Plan, members: int) -> dict[str, Any]:
    """Return what was on, and who can open what, by the plan; what a file on some disk decides is not told here."""
    cover, event = plan.cover, plan.learning.event
    known = {} if cover.scheme.has_custodian else {"who_can_open": who_can_open(cover)}
    return known | {
        "scheme": cover.scheme.value,
        "min_cohort": cover.min_cohort,
        "threshold": cover.threshold if cover.scheme.has_masks else None,
        "colluding": cover.colluding,
        "silence": what_silence_does(cover, members),
        "encoding": {
            "value_bits": cover.encoding.value_bits,
            "fraction_bits": cover.encoding.fraction_bits,
            "ring_bits": cover.encoding.ring_bits,
            "capacity": cover.encoding.capacity(),
        },
        "noise_generator": f"AES-256-CTR, a 256-bit key for each draw, kept nowhere{_shares(plan)}",
        "noise_multiplier": float(event.noise_multiplier),
        "clip_l2": float(plan.learning.clip_l2),
        "sampling_rate": [event.sampling_rate.numerator, event.sampling_rate.denominator],
    }


def warnings(plan: Plan) -> tuple[str, ...]:
    """Return what a person should know before the run begins."""
    return plan.adapter.rule.warnings


def _shares(plan: Plan) -> str:
    event = plan.learning.event
    if not isinstance(event, DistributedDiscreteGaussian):
        return ""
    return f"; a discrete Gaussian share from each member, priced for {event.honest} honest ones"
