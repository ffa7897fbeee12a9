"""A federation below whose parent got no result of it: what was charged inside, and is the auditor told of all of it?

The trees are real homes and machines, with a made-up training and real prices; their ledgers are exported as they are.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from audits.protection.attempt import Attempt, Outcome
from audits.protection.hostile.evidence import check_of
from securefl.audit import tree
from securefl.audit.ledger_files import read_all
from securefl.audit.verify import Verdict, verify
from securefl.errors import Tampered
from securefl.home.export import copy_of
from securefl.ledger import export
from securefl.planning import subfederation
from securefl.planning.plan import price_in
from securefl.planning.subfederation import plan_below
from securefl.policy import load
from securefl.seams import Own, Unfinished
from securefl.site.subfederation import NestedTrainer
from securefl.terms import MemberId, Plan, PoissonGaussian, RunId, Settled, Update
from tests.support import nested

TREE = {node: dict.fromkeys([f"{node}-{i}" for i in "abc"]) for node in ("left", "mid", "right")}
LISTED = "listed as not verified"
ALTERED = (  # what costs more than the plan above says, for the same number of steps
    {"noise_multiplier": Fraction(1, 2)},
    {"sampling_rate": Fraction(1, 5)},
    {"noise_multiplier": Fraction(3, 4), "sampling_rate": Fraction(1, 8)},
)
LOOSER = (  # what a node would allow that its parent does not
    ("epsilon: 20", "epsilon: 2000"),
    ("noise_multiplier: {at_least: 0.5}", "noise_multiplier: {at_least: 0.01}"),
    ("purposes: [testing]", "purposes: [testing, selling]"),
    ("regions: [here]", "regions: [here, elsewhere]"),
)


class Hostile(NestedTrainer):
    """A node that makes its own plan for its members, takes the sum, and may tell its parent that its run failed."""

    altered: dict[str, Fraction]
    run: RunId | None = None

    def train(self, plan: Plan, base: bytes, own: Own) -> tuple[Update, Own]:
        """Run rounds below under a plan of the node's own making."""
        start = self._half.start(plan, base, b"")
        inside = self._inside
        below = plan_below(plan, self._name, inside, start, self._plugs.strategy.dimension(1, start))
        event = below.learning.event
        assert isinstance(event, PoissonGaussian), "of records"
        below = replace(below, learning=replace(below.learning, event=replace(event, **self.altered)))
        if self.run is not None:
            below = replace(below, run=self.run)
        ended = self._rounds(inside, below, start)
        assert ended.outcome == "finished", "the members below could not know better"
        if self.run is not None:
            return super().train(plan, base, own)
        raise Unfinished("it failed", plan.learning.event, "")


class Treed(nested.World):
    """A tree whose node ``left`` is hostile, or has a member that refuses."""

    hostile: dict[str, Fraction] | None = None
    another: RunId | None = None

    def nested(self, way: tuple[str, ...], inside: nested.Tree, above: load.Policy) -> NestedTrainer:
        """The node's trainer: its program is its own."""
        made = super().nested(way, inside, above)
        if way == ("left",) and self.hostile is not None:
            made.__class__ = Hostile
            made.altered, made.run = self.hostile, self.another  # type: ignore[attr-defined]
        return made

    def left(self, out: Path) -> Path:
        """Play the run, and lay all ledgers of the tree in a folder."""
        assert self.play(np.zeros(nested.LAYOUT.entries)).outcome == "finished"
        for way in ((), *((node,) for node in TREE)):
            place = out / "ledger" if way == () else out / "below" / way[0] / "ledger"
            place.mkdir(parents=True)
            for name in ("coordinator", *(TREE[way[0]] if way else TREE)):
                file = copy_of(self.home((*way, name)))
                assert file is not None, "everybody took part"
                export.write(place / f"{name}.ledger", file)
        return out


def world(base: Path) -> Treed:
    """A tree of three nodes with three members each, priced in earnest."""
    (base / "homes").mkdir(mode=0o700, parents=True)
    return Treed(base / "homes", TREE, rounds=1, rounds_inside=2, prices=price_in)


def less_noise_below(number: int, base: Path) -> Outcome:
    """A node has its members train with less noise, or more records, than its parent's plan, and says it failed."""
    made = world(base)
    made.hostile = ALTERED[number % len(ALTERED)]
    found = verify(made.left(base / "run"))
    return Outcome(found.ok, check_of(found.why))


class Loosened(Treed):
    """A tree whose node ``left`` runs its members under a policy that stands under none: limits above are gone."""

    looser: tuple[tuple[str, str], ...] = LOOSER

    def chained(self, way: tuple[str, ...], above: load.Policy | None) -> load.Policy:
        """The policy of a federation: what the node allows itself."""
        if way != ("left",):
            return super().chained(way, above)
        text = nested.POLICY.format(name="f-left", least=3, colluding=1)
        for right, wrong in self.looser:
            assert right in text, "there is something to loosen"
            text = text.replace(right, wrong)
        return load.parse(text.encode(), "p.yaml")


@cache
def _loosened(kind: int, *, result: bool) -> Path:
    """The ledgers of such a tree: one limit is looser, or all are."""
    base = Path(mkdtemp(prefix="unfinished-"))
    (base / "homes").mkdir(mode=0o700)
    made = Loosened(base / "homes", TREE, rounds=1, rounds_inside=2, prices=price_in)
    made.looser, made.hostile = LOOSER[kind : kind + 1] or LOOSER, None if result else {}
    honest, subfederation.check_policy = subfederation.check_policy, lambda *_: None  # the node's own program
    try:
        return made.left(base / "run")
    finally:
        subfederation.check_policy = honest


def policy_of_its_own_below(number: int, base: Path) -> Outcome:
    """A node trains its members for its parent's plan under looser limits; it passes a result on, or says it failed."""
    run = base / "run"
    shutil.copytree(_loosened(number % (len(LOOSER) + 1), result=number % 2 == 0), run)
    found = verify(run)
    return Outcome(found.ok, check_of(found.why))


def another_run_below(number: int, base: Path) -> Outcome:
    """A node has its members train once more, in a run that no plan of its parent made."""
    made = world(base)
    made.hostile, made.another = {}, RunId(random.Random(number).randbytes(16))  # noqa: S311
    found = verify(made.left(base / "run"))
    listed = any("of no plan that left was charged for" in each for each in found.unverified)
    return Outcome(found.ok and not listed, check_of(found.why) or LISTED)


@cache
def _refused() -> Path:
    """A tree in which one member of ``left`` refused, so that it had no result: the other two trained and paid."""
    base = Path(mkdtemp(prefix="unfinished-"))
    made = world(base)
    made.refusing = {"left-a"}
    return made.left(base / "run")


def settled_for_more_below(number: int, base: Path) -> Outcome:
    """A member below settles for training that cost more than its reservation; its node was charged as planned."""
    del base
    node, inside = read_all(_refused())[MemberId("left")], dict(read_all(_refused() / "below" / "left"))
    tree.check(node.owner, node, inside)  # a good one is not called bad
    name = MemberId(random.Random(number).choice(("left-b", "left-c")))  # noqa: S311
    leaves = list(inside[name].leaves)
    place, entry = next((index, each) for index, each in inside[name].each(Settled))
    did = replace(entry.did, **ALTERED[number % len(ALTERED)])  # type: ignore[arg-type]
    leaves[place] = replace(leaves[place], entry=replace(entry, did=did))
    inside[name] = replace(inside[name], leaves=tuple(leaves))
    try:
        tree.check(node.owner, node, inside)
    except Tampered as fault:
        return Outcome(succeeded=False, stopped_by=check_of(str(fault)))
    return Outcome(succeeded=True, stopped_by="")


def removed(number: int, base: Path, *, pinned: bool) -> Outcome:
    """Somebody takes all away that a federation without a result left: with its folder, or all but that."""
    known = dict(verify(_refused()).keys) if pinned else None
    run = base / "run"
    shutil.copytree(_refused(), run)
    if not verify(run, known).ok:
        return Outcome(succeeded=True, stopped_by="a good one is called bad")
    shutil.rmtree(run / "below" / "left" / "ledger" if number % 2 else run / "below" / "left")
    found = verify(run, known)
    return Outcome(found.ok and not _names_left(found), check_of(found.why) or LISTED)


def _names_left(found: Verdict) -> bool:
    return any("left" in each and "never asked" not in each for each in found.unverified)


ATTEMPTS = (
    Attempt("a node trains its members with less noise than its parent's plan and says it failed", less_noise_below),
    Attempt("a node trains its members for its parent's plan under looser limits", policy_of_its_own_below),
    Attempt("a node trains its members in a run that no plan of its parent made", another_run_below),
    Attempt("a member below settles for more than its node was charged", settled_for_more_below),
    Attempt("somebody removes what a federation without a result left", partial(removed, pinned=False)),
    Attempt("somebody removes it and the auditor knows who was below", partial(removed, pinned=True)),
)
