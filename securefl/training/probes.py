"""Is the labelled text that a plan's weights are by the one that this site has?"""

from __future__ import annotations

from securefl.errors import PeerFault
from securefl.terms import Hash, Plan


def check_probes(plan: Plan, mine: Hash | None) -> None:
    """Check that a plan names no probe but this site's own, before anything is trained.

    Args:
        plan: what is asked.
        mine: the digest of the probe that is here; None where there is none: then no score can be made by one.

    Raises:
        PeerFault: it names another, or there is none here.
    """
    if {each.probe for each in plan.sharing.weightings} - {None, mine}:
        raise PeerFault("the plan's weights are by another probe than the one here: see strategy.probe")
