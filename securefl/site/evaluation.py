"""How good is a released adapter on one site's own held-out rows? Computed there, and sent to nobody."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from securefl.errors import OperatorFault
from securefl.home.export import copy_of
from securefl.ledger import export
from securefl.site.build import limits_of, model_of, opened, records_of
from securefl.site.joining import check_home
from securefl.strategy.member import MemberStrategy
from securefl.terms import Plan, Released, Reserved, RunId, RunJoined

if TYPE_CHECKING:
    from securefl.documents.site_file import Site
    from securefl.home.home import Home

NOTE = "this site's own rows; nothing of it leaves"


@dataclass(frozen=True, slots=True)
class Release:
    """A state that a run here ended a round with, by this site's own ledger."""

    run: RunId
    round: int
    plan: Plan | None  # the last that this site trained; None if it trained none


def evaluate(site: Site, path: Path, federation: str | None = None, task: str | None = None) -> dict[str, Any]:
    """Score the first state and a released one, as this site would use it, on its held-out rows.

    Args:
        site: whose rows.
        path: the released state, such as ``adapter/released.f32`` of the coordinator's folder.
        federation: which; None where the site is in one.
        task: which of the federation's; None where it has one, or the site takes part in one.

    Raises:
        OperatorFault: this site has no held-out rows, or its ledger knows no run that released this state.
    """
    check_home(site)
    site = site.view(federation, task)
    name, trust = site.trusted(federation)
    if site.file.data is None:
        raise OperatorFault("this site has no rows of its own", "ask one that has", str(site.path))
    state, home = _read(path), opened(site)
    release = released(home, name, state, str(path), site.task)
    heldout = records_of(site, trust).heldout
    if not heldout:
        remedy = "keep some out of training: `data.heldout`, from the next run on"
        raise OperatorFault("none of this site's rows are held out", remedy, str(site.path))
    shared, reads = model_of(site, name), limits_of(site, trust).reads
    own = as_used(home, release, MemberStrategy(shared.layout, shared.initial()), state)
    before, after = (shared.evaluate(each, heldout, reads) for each in (shared.initial(), own))
    told: dict[str, Any] = {"measure": "nats per token" if shared.task.kind == "language" else "accuracy"}
    told |= {"n": after.n, "majority": after.majority, "before": before.accuracy, "after": after.accuracy}
    told |= {"macro_f1": after.macro_f1, "broadcast": None}
    if own != state:
        told["broadcast"] = shared.evaluate(state, heldout, reads).accuracy
    return {"federation": name, "run": release.run.hex(), "round": release.round, **told, "note": NOTE}


def released(home: Home, federation: str, state: bytes, place: str, task: str | None = None) -> Release:
    """The release that this state is of, by the home's own ledger; the last, if there are several.

    Raises:
        OperatorFault: there is none.
    """
    file, digest = copy_of(home), hashlib.sha256(state).digest()
    entries = [leaf.entry for leaf in export.leaves_of(file, str(home.path))] if file else []
    opened = [each for each in entries if isinstance(each, RunJoined)]
    runs = {each.run for each in opened if (each.federation, each.task) == (federation, task)}
    found = [each for each in entries if isinstance(each, Released) and each.digest == digest and each.run in runs]
    if not found:
        whose = f"{federation}, task {task}," if task else federation
        what = f"no run of {whose} that this site took part in released this state: SHA-256 {digest.hex()}"
        raise OperatorFault(what, "give `adapter/released.f32` of the coordinator's folder", place)
    last = found[-1]
    plans = [each.plan for each in entries if isinstance(each, Reserved) and each.plan.run == last.run]
    return Release(last.run, last.round, plans[-1] if plans else None)


def as_used(home: Home, release: Release, half: MemberStrategy, state: bytes) -> bytes:
    """The state as this site would use it: as much of its own model as the strategy leaves it."""
    if release.plan is None or not release.plan.sharing.keeps:
        return state
    with home.transaction() as conn:
        return half.start(release.plan, state, home.own(conn, release.run, release.round + 1).model)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise OperatorFault(f"cannot be read: {fault.strerror}", "give the released state", str(path)) from fault
