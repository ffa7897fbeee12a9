"""Many processes reserve against one budget: the total is exact, never over, and nobody waits for ever."""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from audits.budget import site
from audits.figures import figure, report
from securefl import wire
from securefl.errors import Fault
from securefl.home.export import copy_of
from securefl.home.home import Home
from securefl.policy.decide import decide
from securefl.protocol import coordinator_state
from securefl.terms import Grant, Leaf, Plan, Refused, Reserved, RunId
from tests.support import worlds

FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Tally:
    """What one process was told."""

    granted: int
    refused: int
    faults: tuple[str, ...]
    longest_s: float  # the slowest transaction


def _plan() -> Plan:
    world = worlds.World(names=(site.OWNER, "b", "c"), scheme=site.SCHEME)
    state = world.coordinator.state
    assert isinstance(state, coordinator_state.Planned)
    plan = state.course.plan
    return replace(plan, cohort=tuple(worlds.seat(name) for name in world.names))


def _reserve(home: Home, policy: Any, plan: Plan) -> bool:  # noqa: ANN401 - the policy's own type
    """Account, decision, leaf and state in one transaction, as the agent has them."""
    with home.transaction() as conn:
        account = home.account(conn)
        answer = decide(policy, plan, account, site.price(plan, account, policy), site.NOW)
        if isinstance(answer, Grant):
            entry: Any = Reserved(plan, f"{site.OWNER}-data", answer.price, answer.nonce)
        else:
            entry = Refused(plan.run, plan.round, "plan", answer.reasons)
        home.commit(conn, plan.run, (entry,), worlds.seat(site.OWNER))
    return isinstance(answer, Grant)


def _worker(folder: Path, number: int, limit: int, start: Any, until_s: float, out: Any) -> None:  # noqa: ANN401
    granted = refused = 0
    longest, faults = 0.0, []
    home, policy, plan = site.home(folder), site.policy(limit), _plan()
    start.wait()
    end = time.monotonic() + until_s
    while time.monotonic() < end:
        run = RunId(number.to_bytes(8, "big") + (granted + refused).to_bytes(8, "big"))
        began = time.monotonic()
        try:
            if _reserve(home, policy, replace(plan, run=run)):
                granted += 1
            else:
                refused += 1
        except Fault as fault:
            faults.append(str(fault))
            break
        longest = max(longest, time.monotonic() - began)
    out.put(Tally(granted, refused, tuple(faults), longest))


def contend(folder: Path, processes: int, seconds: float, limit: int) -> list[dict[str, object]]:
    """The figures of one database."""
    home = site.home(folder)
    kind = home.engine.dialect.name
    home.engine.dispose()
    start, out = FORK.Barrier(processes + 1), FORK.Queue()
    workers = [FORK.Process(target=_worker, args=(folder, n, limit, start, seconds, out)) for n in range(processes)]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.monotonic()
    tallies = [out.get(timeout=seconds + 180) for _ in workers]
    took = time.monotonic() - began
    for worker in workers:
        worker.join()

    home = site.home(folder)  # checks the whole ledger against its head
    with home.transaction() as conn:
        account = home.account(conn)
        charges = len(account.charges)
    file = copy_of(home)
    home.engine.dispose()
    assert file is not None
    leaves = [wire.decode(data, Leaf) for data in file.leaves]
    replayed = site.replay(iter(leaves))
    granted, refused = sum(t.granted for t in tallies), sum(t.refused for t in tallies)
    faults = [fault for tally in tallies for fault in tally.faults]
    longest = max(t.longest_s for t in tallies)
    exact = charges == granted == len(replayed.reserved) == len(set(replayed.reserved)) == min(limit, granted + refused)
    f, most = figure, limit * site.COST
    return [
        f(f"{kind}: processes", processes, "64, or fewer in a slice", True),
        f(f"{kind}: granted", granted, "what the processes were told, the account and the ledger say the same", exact),
        f(f"{kind}: reserved, in millionths of epsilon", replayed.spent, f"at most {most}", replayed.spent <= most),
        f(f"{kind}: refused", refused, "none before the limit is reached", refused == 0 or granted == limit),
        f(f"{kind}: leaves", len(leaves), "one for each answer", len(leaves) == granted + refused),
        f(f"{kind}: faults and deadlocks", len(faults), "0", not faults),
        f(f"{kind}: answers a second", round((granted + refused) / took, 1), "above 0", granted + refused > 0),
        f(f"{kind}: longest wait in seconds", round(longest, 2), "below 60", longest < 60),
    ]


def main() -> int:
    """64 processes for a minute, on both databases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    processes, seconds, limit = (8, 4.0, 40) if chosen.quick else (64, 60.0, 300)
    figures = []
    with tempfile.TemporaryDirectory() as folder, site.databases() as kinds:
        for kind, prepare in kinds.items():
            prepare(Path(folder) / kind)
            figures += contend(Path(folder) / kind, processes, seconds, limit)
    return report(figures, as_json=chosen.json)


if __name__ == "__main__":
    raise SystemExit(main())
