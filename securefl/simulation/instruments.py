"""What one person who runs every site puts around the parties: stopwatches, and eyes on what leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from securefl.audit.explain import MEASURED
from securefl.protection import schemes
from securefl.simulation.leakage_probe import LeakageProbe
from securefl.site.agent import CustodianAgent, MemberAgent
from securefl.site.subfederation import NestedTrainer

if TYPE_CHECKING:
    from securefl.simulation.measure import Stopwatch


def tap_of(out: Path, records: Mapping[str, Any]) -> LeakageProbe:
    """Eyes on what leaves, which know every member's records: here one person runs all sites."""
    out.mkdir(parents=True, exist_ok=True)
    return LeakageProbe(
        out / MEASURED, (each.text for part in records.values() for each in (*part.train, *part.heldout))
    )


def instrumented(
    agent: MemberAgent | CustodianAgent, watch: Stopwatch, tap: LeakageProbe
) -> MemberAgent | CustodianAgent:
    """The same party; what its training, protection and pricing take is measured, and what it seals is looked at."""
    from securefl.simulation.measure import Timed  # noqa: PLC0415

    if isinstance(agent, CustodianAgent):
        return replace(agent, ports=replace(agent.ports, holder=Timed(agent.ports.holder, watch, "protection")))

    def protection(scheme: str) -> Any:  # noqa: ANN401 - a half, timed
        return tap.half(Timed(schemes.member_half(scheme), watch, "protection"))

    is_site = not isinstance(agent.trainer, NestedTrainer)  # whose parts are timed themselves
    return replace(
        agent,
        ports=replace(agent.ports, protection=protection),
        trainer=Timed(agent.trainer, watch, "training") if is_site else agent.trainer,
        price=watch.wrap("pricing", agent.price),
    )
