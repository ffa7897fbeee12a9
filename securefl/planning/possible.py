"""Whether members may accept a first plan at all: all that documents alone decide is said before anybody is asked.

A round that every member refuses costs a start, and its reason stands in their ledgers alone. What follows from public
constants is checked here: it is refused with field, value, limit and what would do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from securefl.documents.federation import Loaded
from securefl.errors import OperatorFault, Unsafe
from securefl.planning.plan import FirstState, cover_of, delta_too_small, in_three_digits, plan_of, strategy_of
from securefl.protection import honest_count, saturation
from securefl.terms import Plan, PoissonGaussian, RunId, Scheme, Unbounded, Unit
from securefl.terms.start import Start

if TYPE_CHECKING:
    from securefl.policy.load import Policy


def check_seats(loaded: Loaded, policy: Policy) -> None:
    """Check that a file and its policy are of one federation, and that it has as many members as they ask for.

    Raises:
        OperatorFault: they are not, or it has not.
    """
    file = loaded.file
    if policy.federation != file.name:
        what = f"found {file.name}, and its policy {file.policy} is of the federation {policy.federation}"
        raise OperatorFault(
            what, "write one name into both, or name the policy of this federation", f"{loaded.path}: name"
        )
    members, cover, place = len(file.members), cover_of(loaded, policy, None), f"{loaded.path}: members"
    if members < cover.min_cohort:
        what = f"found {members}, and min_cohort is {cover.min_cohort}: no round could end"
        raise OperatorFault(
            what, f"have {cover.min_cohort} members, or agree on a policy with a lower min_cohort", place
        )
    if cover.scheme.has_masks and members < cover.threshold:
        what = f"found {members}, and the threshold is {cover.threshold}: no sum could be opened"
        raise OperatorFault(what, f"have {cover.threshold} members, or agree on a lower threshold", place)


def check_first_plan(loaded: Loaded, policy: Policy, start: Start) -> None:
    """Check that members may accept the plan of the first round, before any of them is asked.

    Raises:
        OperatorFault: none may; or what is to be trained does not fit the model or the policy's form.
    """
    check_seats(loaded, policy)
    first = FirstState.of(start, strategy_of(loaded, start))
    plan = plan_of(loaded, policy, RunId(bytes(16)), first, None)
    _check_price(plan, loaded, float(policy.budget.delta_share))
    check_acceptable(plan, loaded)


def check_acceptable(plan: Plan, loaded: Loaded) -> None:
    """Check that members may accept the plan of this federation's first round: what they check of its sums holds.

    Raises:
        OperatorFault: none may, by the name of the rule that each of them would refuse it by; or its noise alone would
            fill the grid, so that what is released is no sum.
    """
    if plan.cover.scheme is Scheme.CLEAR:
        return
    try:
        honest_count.check(plan, len(loaded.file.members))
    except Unsafe as fault:
        what = f"no member may accept this plan: {fault.rule}: {fault}"
        raise OperatorFault(what, _remedy(plan, fault.rule), str(loaded.path)) from fault
    rate = saturation.largest_rate(plan)
    if rate is not None and plan.learning.learning_rate > rate:
        cover, found = plan.cover.encoding, float(plan.learning.learning_rate)
        what = (
            f"found {found:g}: its noise alone moves a value by {saturation.deviation(plan):.3g}, and the grid ends at "
            f"{saturation.end(cover):g}, so that what leaves is cut off and says nothing"
        )
        remedy = (
            f"set learning_rate to at most {in_three_digits(rate, math.floor)}, lower clip or noise, or raise divisor"
        )
        raise OperatorFault(what, remedy, f"{loaded.path}: training.learning_rate")


def _remedy(plan: Plan, rule: str) -> str:
    """What would do, tried on the same plan where one number does."""
    if rule == "protocol.faint-noise":
        return f"set learning_rate to at least {float(honest_count.least_rate(plan)):.4g}, or use a finer grid"
    needed = plan.cover.colluding + plan.sharing.sums + 1
    if rule == "protocol.few-honest" and honest_count.weight_ratio(plan) == 1:
        return f"have at least {needed} members under a min_cohort of {needed}, or release fewer sums"
    return "raise min_cohort, release fewer sums or keep no weights"


def _check_price(plan: Plan, loaded: Loaded, delta: float) -> None:
    """Check that the noise has a finite price at the policy's delta."""
    from securefl.privacy.accountant import bounded  # noqa: PLC0415
    from securefl.privacy.calibration import cheapest  # noqa: PLC0415

    event = plan.learning.event
    if event.unit is not Unit.RECORD:  # priced as it was made
        return
    rate = event.sampling_rate if isinstance(event, PoissonGaussian) else None
    try:
        bounded((event,), delta)
    except Unbounded as fault:
        try:
            cheapest(delta, rate, event.steps)
        except Unbounded:
            raise delta_too_small(loaded, delta, rate, event.steps) from fault
        what = f"found {float(event.noise_multiplier):g}, which has no finite cost at delta {delta:g}"
        raise OperatorFault(what, "give more noise", f"{loaded.path}: training.noise_multiplier") from fault
