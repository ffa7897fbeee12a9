"""What would become of a run: its model, plan and price at every site, what the grid makes of an update, and how long.

The same functions decide that decide at a site; the account is a value in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from securefl.documents.finding import MISSING, OK, REFUSED, WARNING, WRONG, Finding
from securefl.errors import Fault
from securefl.home.looked_at import account_at
from securefl.planning import explain, rounds
from securefl.planning.explain import seated
from securefl.planning.plan import FirstState, strategy_of
from securefl.planning.possible import check_first_plan
from securefl.privacy.account import Account
from securefl.protection import fixed_point, max_update, saturation
from securefl.simulation.parties import load_model
from securefl.site import charged_records
from securefl.site.limits import bytes_beside_the_model
from securefl.terms import Plan, Scheme

if TYPE_CHECKING:
    from securefl.planning.rounds import Course
    from securefl.policy.load import Policy
    from securefl.simulation.check_documents import Part
    from securefl.simulation.check_records import Held
    from securefl.simulation.layout import SiteLayout
    from securefl.training.shared_model import SharedModel

MICRO: Final = 1_000_000
LOST: Final = 0.5  # share of an update's values beyond which the grid is said to lose it


def look(
    parts: Sequence[Part], homes: SiteLayout | None, records: Mapping[str, Held], told: list[Finding]
) -> dict[str, Any]:
    """Look at every training of a file in turn; what the first costs a member is on its account for the next.

    Returns:
        figures for programs.
    """
    accounts, figures = _accounts(parts, homes, told), dict[str, Any]()
    for part in parts:
        try:
            shared = load_model(part.loaded)
        except Fault as fault:
            status = MISSING if part.loaded.file.is_live else WRONG  # of a live one, each site has its own
            told += [Finding(part.called("model"), status, line) for line in str(fault).splitlines()]
            continue
        name = part.name or part.loaded.file.name
        told.append(
            Finding(
                part.called("model"),
                OK,
                f"{shared.model.name}: {shared.dimension} values are trained; each record has a gradient of its own",
            )
        )
        if part.policy is not None:
            told += _charged(part, shared, homes, records[part.name])
            figures[name] = _one(part, part.policy, shared, accounts, records[part.name], told)
    return {"trainings": figures}


def _accounts(parts: Sequence[Part], homes: SiteLayout | None, told: list[Finding]) -> dict[str, Account]:
    """Each member's account as it stands; of a home that is not made yet, an empty one."""
    found = dict[str, Account]()
    for name in dict.fromkeys(each.name for part in parts for each in part.loaded.file.members):
        try:
            found[name] = Account() if homes is None or name in homes.loaded.below else account_at(homes.of(name))
        except Fault as fault:
            told += [Finding(f"account of {name}", WRONG, line) for line in str(fault).splitlines()]
    return found


def _charged(part: Part, shared: SharedModel, homes: SiteLayout | None, held: Held) -> list[Finding]:
    """Tell whose records were charged to another account of that one's home."""
    if homes is None:
        return []
    found, members = list[Finding](), {each.name: each for each in part.loaded.file.members}
    for name, records in held.records.items():
        if name not in members or not any((homes.of(name) / charged_records.FOLDER).glob("*")):
            continue
        try:
            forms = charged_records.forms_of(shared, records, part.loaded.file.training.max_tokens)
            charged_records.check(homes.of(name), members[name].dataset or name, forms)
        except Fault as fault:
            found += [Finding(part.called(f"data of {name}"), WRONG, line) for line in str(fault).splitlines()]
    return found


def _one(
    part: Part, policy: Policy, shared: SharedModel, accounts: dict[str, Account], held: Held, told: list[Finding]
) -> dict[str, Any]:
    loaded = part.loaded
    try:
        strategy = strategy_of(loaded, shared.start)
        first = FirstState.of(shared.start, strategy)
        check_first_plan(loaded, policy, shared.start)
        plans = rounds.plans_of(loaded, policy, first)
        fixed_point.check_plan(seated(plans[0], loaded))
    except (Fault, ValueError) as fault:
        told += [Finding(part.called("plan"), WRONG, line) for line in str(fault).splitlines()]
        return {}
    told.append(Finding(part.called("plan"), OK, _plan(plans[0])))
    if part.task is not None and len(part.task.owners) < len(loaded.file.members):  # who owns records is hidden
        whys = explain.foreseen(part.task.owned(), policy, shared.start)
        told += [Finding(part.called("owners"), REFUSED, f"{w.rule}: {w.value}, {w.limit}", w.fix) for w in whys]
    base = strategy.broadcast(shared.start.state)
    figures = {"budget": _budget(part, policy, plans, base, accounts, told)}
    told += _long(part, shared, held)
    return figures | _rehearsed(part, shared, plans[0], base, held, told)


def _plan(plan: Plan) -> str:
    event, learning = plan.learning.event, plan.learning
    return (
        f"{len(plan.cohort)} members, {plan.cover.scheme.value}, {event.steps} steps a round, noise_multiplier "
        f"{float(event.noise_multiplier):g}, {learning.optimizer} at {float(learning.learning_rate):g}"
    )


def _budget(
    part: Part, policy: Policy, plans: Sequence[Plan], base: bytes, accounts: dict[str, Account], told: list[Finding]
) -> dict[str, Any]:
    """Ask for every round at every member; members with one account and one answer are told together."""
    figures, together = dict[str, Any](), dict[tuple[str, str, str], list[str]]()
    for member in part.loaded.file.members:
        if member.name not in accounts or member.federation is not None:
            continue
        dataset, account = member.dataset or member.name, accounts[member.name]
        found = rounds.course(policy, plans, account, dataset, base)
        accounts[member.name] = found.account
        figures[member.name] = _figures(found)
        fix = rounds.remedy(policy, plans, account, dataset, found)
        together.setdefault((REFUSED if found.reasons else OK, _words(found), fix), []).append(member.name)
    for (status, words, fix), names in together.items():
        everybody = len(names) == len(part.loaded.file.members)
        whose = f"each of {len(names)} members" if everybody else ", ".join(names)
        told.append(Finding(part.called("budget"), status, f"{whose}: {words}", fix))
    if part.loaded.below:
        words = "of federations below, only what `securefl policy explain` says of a first round is known before"
        told.append(Finding(part.called("budget"), WARNING, words, "securefl policy explain POLICY FILE"))
    return figures


def _words(found: Course) -> str:
    left = found.limit - found.before
    words = f"epsilon {_of(found.before)} of {_of(found.limit)} is spent, {_of(left)} left; "
    if found.each:
        after = found.limit - found.spent
        words += f"round 1 costs {_of(found.each[0])} alone, {found.granted} rounds together "
        words += f"{_of(found.spent - found.before)}, and {_of(after)} is left then"
    if not found.reasons:
        return f"{words}: all {found.rounds} rounds are granted"
    why = "; ".join(f"{reason.rule}: {reason.value}, {reason.limit}" for reason in found.reasons)
    return f"{words.rstrip('; ')}; round {found.granted + 1} of {found.rounds} is refused by {why}"


def _figures(found: Course) -> dict[str, Any]:
    each = [
        {"round": number, "alone": alone / MICRO, "after": after / MICRO}
        for number, (alone, after) in enumerate(zip(found.each, found.after, strict=True), 1)
    ]
    reasons = [{"rule": r.rule, "value": r.value, "limit": r.limit, "fix": r.fix} for r in found.reasons]
    return {
        "spent": found.before / MICRO, "limit": found.limit / MICRO, "left": (found.limit - found.before) / MICRO,
        "rounds": each, "granted": found.granted, "asked": found.rounds,
        "left_then": (found.limit - found.spent) / MICRO, "reasons": reasons,
    }  # fmt: skip


def _of(epsilon: int) -> str:
    return f"{epsilon / MICRO:.3f}"


def _long(part: Part, shared: SharedModel, held: Held) -> list[Finding]:
    """Tell how many records are read in part."""
    most = part.loaded.file.training.max_tokens
    cut = {name: shared.longer(each.train, most) for name, each in held.records.items()}
    if not any(cut.values()):
        return []
    total, of = sum(cut.values()), sum(len(each.train) for each in held.records.values())
    whose = ", ".join(f"{count} of {name}" for name, count in cut.items() if count)
    words = f"{total} of {of} records have more than {most} tokens and are read up to there: {whose}"
    return [Finding(part.called("length"), WARNING if total * 10 > of else OK, words, "raise training.max_tokens")]


def _rehearsed(
    part: Part, shared: SharedModel, plan: Plan, base: bytes, held: Held, told: list[Finding]
) -> dict[str, Any]:
    """Train a few steps on synthetic text: what the grid makes of an update, how long all takes, how much memory."""
    from securefl.training.rehearsal import rehearse  # noqa: PLC0415

    file, event = part.loaded.file, plan.learning.event
    sizes = [len(each.train) for each in held.records.values()]
    if not sizes:
        told.append(Finding(part.called("time"), MISSING, "no records are here to say how many are in a step"))
        return {}
    words = min(held.words, file.training.max_tokens)
    try:
        seen = rehearse(shared, plan, base, round(float(event.sampling_rate) * max(sizes)), words)
    except Fault as fault:
        told += [Finding(part.called("training"), WRONG, line) for line in str(fault).splitlines()]
        return {}
    told.append(_grid(part, plan, seen.update))
    seconds = sum(sizes) * float(event.sampling_rate) * event.steps * file.training.rounds * seen.seconds_per_record
    beside = bytes_beside_the_model(plan)
    words_ = f"about {_time(seconds)} of training for all members together, one after the other, on this machine"
    told.append(Finding(part.called("time"), OK, words_))
    memory = f"{seen.peak_bytes / 1e9:.2f} GB so far; a round takes at most {beside / 1e9:.2f} GB beside the model"
    told.append(Finding(part.called("memory"), OK, memory))
    return {"seconds": seconds, "peak_bytes": seen.peak_bytes, "beside_the_model_bytes": beside}


def _grid(part: Part, plan: Plan, update: np.ndarray[Any, np.dtype[np.float64]]) -> Finding:
    """Tell what the grid makes of an update: by public constants, and of one that was made of synthetic text."""
    what, encoding = part.called("grid"), plan.cover.encoding
    end, step = saturation.end(encoding), 2.0**-encoding.fraction_bits
    clamped = fixed_point.outside(update, encoding)
    moved = int((update != 0).sum())
    vanished = int(((fixed_point.encode(update, encoding) == 0) & (update != 0)).sum())
    tried = f"of {moved} values that synthetic text moved, {clamped} were cut off and {vanished} rounded to 0"
    if plan.cover.scheme is Scheme.CLEAR:
        return Finding(what, OK, f"none: under clear nothing is hidden; {tried}")
    reach = max_update.longest(plan).entry * step
    words = f"steps of {step:.2g} up to {end:g}, and no honest value is beyond {reach:.3g}; {tried}"
    if moved and clamped > LOST * moved:
        return Finding(what, WRONG, words, "lower learning_rate or protection.fraction_bits")
    if moved and vanished > LOST * moved:
        return Finding(what, WRONG, words, "raise learning_rate or protection.fraction_bits")
    return Finding(what, WARNING if clamped else OK, words, "lower learning_rate" if clamped else "")


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
