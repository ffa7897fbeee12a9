"""The folders of a simulation: the adapter, and each federation's ledgers, bound by its own coordinator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from securefl.coordinator import evidence, run_folder
from securefl.documents.federation import Loaded
from securefl.home import identity
from securefl.home.clock import clock
from securefl.home.export import export_all
from securefl.home.home import Home
from securefl.protocol import coordinator_state
from securefl.protocol import messages as m
from securefl.simulation.introduction import home_of
from securefl.simulation.layout import SiteLayout, folder_of
from securefl.simulation.leakage_probe import LeakageProbe
from securefl.terms import (
    Plan,
    RunId,
)
from securefl.terms.parties import COORDINATOR

if TYPE_CHECKING:
    from securefl.policy.load import Policy
    from securefl.training.shared_model import SharedModel


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended."""

    outcome: str
    why: str
    adapter: Path | None
    report: dict[str, Any]


def already_bound(places: SiteLayout, run_id: RunId, out: Path) -> bool:
    """Return whether the coordinator has a home, and wrote down there what this run left; none is made to ask."""
    path = places.of(COORDINATOR)
    return identity.is_made(path) and evidence.bound(Home.at(path, COORDINATOR, clock), run_id, out)


def save_adapter(shared: SharedModel, ended: coordinator_state.Ended, plan: Plan, out: Path) -> Path | None:
    """The adapter's folder, if a round ended: as files that are loaded, and as the state that was released."""
    if not ended.last_round:
        return None
    shared.save(ended.course.state, out / "adapter", plan.learning.max_tokens)
    evidence.keep_state(out, ended.course.state, shared.layout)
    return out / "adapter"


def bind_folders(tree: Sequence[SiteLayout], out: Path, run_id: RunId, outcome: str) -> None:
    """Each federation's coordinator wrote down what stands in its folder; the root's that it is over, too.

    The root's does so last, so whatever ends midway is done again: where the root's word stands, all others do.
    """
    for each in sorted(tree, key=lambda each: len(each.route), reverse=True):
        folder = folder_of(out, each)
        if not (folder / "ledger").is_dir():  # it was never asked
            continue
        homes = {name: home_of(each, name) for name in each.parties}
        if each.route and evidence.bound(homes[COORDINATOR], run_id, folder):
            continue
        keys = {name: home.identity.public for name, home in homes.items()}
        instead = {"run.json": run_folder.run_mark(out, outcome)} if not each.route else {}
        evidence.bind(homes[COORDINATOR], tuple(homes.values()), run_id, folder, keys=keys, instead=instead)


def finish(tree: Sequence[tuple[SiteLayout, Policy, Any]], out: Path, report: dict[str, Any]) -> Result:
    """The run is over, and its folder has every ledger as it stands."""
    for each, *_ in tree:
        if (folder_of(out, each) / "ledger").is_dir():
            export_all([home_of(each, name) for name in each.parties], folder_of(out, each) / "ledger")
    status = report["outcome"]["status"]
    evidence.mark(out, run_folder.run_mark(out, status))
    return Result(status, report["outcome"]["why"], out / report["adapter"] if report["adapter"] else None, report)


def export_ledgers(
    tree: Sequence[SiteLayout], out: Path, run_id: RunId, taps: Mapping[tuple[str, ...], LeakageProbe]
) -> None:  # fmt: skip
    """Each federation's ledgers stand in its own folder, and were looked at, unless what was seen is bound already."""
    for each in tree:
        folder = folder_of(out, each) / "ledger"
        export_all([home_of(each, name) for name in each.parties], folder)
        if folder.is_dir() and not evidence.said(home_of(each, COORDINATOR), run_id):  # who was never asked has none
            taps[each.route].exported(folder)


@contextmanager
def claimed_folder(out: Path, loaded: Loaded, tree: tuple[Policy, ...]) -> Iterator[RunId]:
    """The folder is this run's alone while the block runs; its run id is new, or that of the run it goes on with."""
    what = {
        "federation_file": m.state_digest(loaded.whole).hex(),
        "policy_hash": tree[0].hash.hex(),
        **({"policies_below": [each.hash.hex() for each in tree[1:]]} if tree[1:] else {}),
    }
    with run_folder.claimed(out, what) as run_id:
        yield run_id
