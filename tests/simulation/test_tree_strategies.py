"""Trees of federations against plain numbers: every strategy that nests, every protection, whoever falls silent."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import replace
from fractions import Fraction as F
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from securefl.ledger import store
from securefl.privacy.account import Account, Standing
from securefl.protection.honest_count import largest_ratio
from securefl.protocol import declining, member
from securefl.protocol import messages as m
from securefl.protocol.subfederation import learning_below, run_below
from securefl.seams import Unfinished
from securefl.terms import (
    FixedPoint,
    Gathered,
    Hash,
    MemberId,
    MessageSent,
    PseudoLabels,
    Reason,
    Refused,
    ReservationReleased,
    Scheme,
    Scorer,
    Settled,
    Sharing,
    SoftLabels,
    SumOpened,
)
from securefl.terms.uploads import upload_of
from tests.policy.test_policy_decide import question
from tests.strategy.test_strategy import GRID, OPTIMIZERS, SHARINGS, Reference
from tests.strategy.test_worldlm import ATTENTIONS, ORIGIN
from tests.strategy.test_worldlm import Reference as Attentive
from tests.strategy.test_worldlm import bound as attention_bound
from tests.support.decoded import traced
from tests.support.nested import EVENT, LAYOUT, World, reached, score, trained
from tests.support.worlds import World as Flat

NODES = {f"n{node}": {f"n{node}l{leaf}": None for leaf in range(4)} for node in range(2)}


@pytest.fixture
def tmp_path():
    """In memory where there is such a place: none of these homes has to outlive the machine."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def entries(world: World, way: tuple[str, ...], *kinds: type) -> list:
    home = world.home(way)
    with home.transaction() as conn:
        return [leaf.entry for leaf in store.read(conn, home.identity.public)[1] if isinstance(leaf.entry, kinds)]


def mean_inside(sharing: Sharing, start: np.ndarray, after: list[np.ndarray]) -> np.ndarray:
    """What a node's own run makes of its leaves' states."""
    changes = np.array(after) - start
    moved = start + (0 if sharing.weightings else changes.mean(0))
    for weighting in sharing.weightings:
        clip = float(weighting.clip)
        s = np.clip([float(weighting.sharpness) * score(start, each) for each in after], -clip, clip)
        moved = moved + float(weighting.share) * (np.exp(s) / np.exp(s).sum()) @ changes
    return moved


ROOTS = {**SHARINGS, **{f"attention: {name}": Sharing(attention=each) for name, each in ATTENTIONS.items()}}
INSIDES = [Sharing(), SHARINGS["weighted"], SHARINGS["two weighted"]]  # what a run inside may be: it keeps nothing
SQUARE = [
    (scheme, name, sorted(OPTIMIZERS)[(row + column) % 3], INSIDES[(2 * row + column) % 3])
    for row, scheme in enumerate((Scheme.CLEAR, Scheme.MASKING, Scheme.CKKS))
    for column, name in enumerate(ROOTS)
]  # every two of protection, strategy, optimizer and what nodes do meet


def enough(sharing: Sharing) -> int:
    """Honest inputs that its sums need."""
    return math.ceil((sharing.sums + 1) * (largest_ratio(sharing) + F(1, 1000)) - F(1, 1000))


def bound_of(root: Sharing, inside: Sharing) -> float:
    """As in one level, after two rounds, and once more for the grid inside; no weight here comes near its least."""
    if root.attention is not None:
        return min(2 * attention_bound(root.attention, 2), 64 * GRID)
    return min(14 * (math.exp(4) if root.weightings or inside.weightings else 1), 64) * GRID


@pytest.mark.parametrize("case", range(len(SQUARE)), ids=[f"{scheme}-{name}" for scheme, name, *_ in SQUARE])
def test_the_roots_state_is_the_plain_references_whoever_falls_silent(case, tmp_path) -> None:
    """Leaves and whole nodes do; and no coordinator, of whatever level, decoded anything but its sums."""
    scheme, sharing, optimizer, inside = SQUARE[case]
    root, server = ROOTS[sharing], OPTIMIZERS[optimizer]

    rand, need, least = np.random.default_rng(case), enough(root), enough(inside) + 1  # one of them colludes
    sizes = rand.integers(least, least + 2, rand.integers(need, need + 2) if upload_of(root).is_fresh else need)
    tree = {f"n{node}": {f"n{node}l{leaf}": None for leaf in range(size)} for node, size in enumerate(sizes)}
    world = World(tmp_path, tree, (scheme, scheme), server, root, inside, least=least, top=need)
    silent = {}
    for round_ in (1, 2):
        silent[round_] = set(tree[rand.choice(list(tree))] if len(tree) > need and rand.random() < 0.7 else ())
        silent[round_] |= {str(rand.choice(list(names))) for names in tree.values() if len(names) > least}
    reference = (
        Reference(server, root, ORIGIN.astype(float)) if root.attention is None else Attentive(server, root.attention)
    )
    with traced() as trace:
        end = world.play(ORIGIN, each_round=lambda round_: setattr(world, "refusing", silent[round_]))
    assert end.outcome == "finished", end.why
    decoded: Counter[str] = Counter()
    for round_ in (1, 2):
        after, scores = {}, {}
        for node, names in tree.items():
            begun = reference.start(MemberId(node)).astype("<f4").astype(float)
            alive = [name for name in names if name not in silent[round_]]
            if len(alive) >= least:
                made = [trained(name, round_, begun.astype("<f4")).astype(float) for name in alive]
                after[MemberId(node)] = mean_inside(inside, begun, made)
                scores[MemberId(node)] = score(reference.state, reference.state + after[MemberId(node)] - begun)
        decoded += Counter(["f", *(f"f-{node}" for node in after)])
        reference.close(after, scores)
        reference.own |= after
    assert np.abs(reached(end) - reference.state).max() <= bound_of(root, inside)
    assert Counter(plan.federation for plan in trace.check()) == decoded


def test_two_sums_over_two_federations_are_refused(tmp_path) -> None:
    clear = (Scheme.CLEAR,) * 2
    world = World(tmp_path, NODES, clear, sharing=SHARINGS["two weighted"], rounds=1)
    end = world.play(np.zeros(LAYOUT.entries))
    assert (end.outcome, "protection.honest" in end.why) == ("refused", True)


@pytest.mark.parametrize(
    ("bits", "scheme", "bound"),
    [(FixedPoint(24, 20, 32), Scheme.CLEAR, 2.5e-6), (FixedPoint(40, 32, 64), Scheme.MASKING, 1e-6)],
)
def test_three_tiers_of_three_give_what_twenty_seven_members_give(bits, scheme, bound, tmp_path) -> None:
    tree = {f"a{i}": {f"a{i}b{j}": {f"a{i}b{j}c{k}": None for k in range(3)} for j in range(3)} for i in range(3)}
    leaves = {name: None for middle in tree.values() for names in middle.values() for name in names}
    deep = World(tmp_path / "deep", tree, (scheme,), rounds=1, encoding=bits)
    flat = World(tmp_path / "flat", leaves, (Scheme.CLEAR,), rounds=1, encoding=replace(bits, ring_bits=64))
    start = np.random.default_rng(2).normal(0, 0.3, LAYOUT.entries)
    ends = [each.play(start) for each in (deep, flat)]
    assert [end.outcome for end in ends] == ["finished"] * 2, [end.why for end in ends]
    assert np.abs(reached(ends[0]) - reached(ends[1])).max() <= bound
    assert len(deep.trained) == 27


def test_unequal_federations_have_one_vote_each(tmp_path) -> None:
    tree = {"big": {f"big{n}": None for n in range(6)}, "small": {f"small{n}": None for n in range(3)}}
    start = np.zeros(LAYOUT.entries)
    end = World(tmp_path, tree, rounds=1).play(start)
    parts = [np.mean([trained(name, 1, start) for name in names], axis=0) for names in tree.values()]
    assert np.abs(reached(end) - np.mean(parts, axis=0)).max() <= 3 * GRID


def test_a_parent_decodes_one_sum_over_its_children_and_each_child_one_over_its_own(tmp_path) -> None:
    world = World(tmp_path, NODES, rounds=1)
    world.play(np.zeros(LAYOUT.entries))
    (top,) = entries(world, ("coordinator",), SumOpened)
    assert top.survivors == ("n0", "n1")
    for node, names in NODES.items():
        (inside,) = entries(world, (node, "coordinator"), SumOpened)
        assert inside.survivors == tuple(names)
        (below,) = entries(world, (node,), Gathered)
        assert (below.plans, below.contributors, below.run) == ((inside.plan,), (4,), inside.run)


def test_rounds_inside_share_out_the_steps_that_are_paid_for(tmp_path) -> None:
    world = World(tmp_path, NODES, rounds=1, rounds_inside=2)
    assert world.play(np.zeros(LAYOUT.entries)).outcome == "finished"
    for node, names in NODES.items():
        (paid,) = [each.did for each in entries(world, (node,), Settled)]
        for name in names:
            did = [each.did for each in entries(world, (node, name), Settled)]
            assert [each.steps for each in did] == [2, 2]
            assert replace(did[0], steps=sum(each.steps for each in did)) == paid == EVENT
    uneven = World(tmp_path / "uneven", NODES, rounds=1, rounds_inside=3)
    assert uneven.play(np.zeros(LAYOUT.entries)).outcome == "refused"
    assert not uneven.trained
    assert all(isinstance(each, ReservationReleased) for each in entries(uneven, ("n0",), Settled, ReservationReleased))


def test_a_node_whose_run_fails_declines_pays_for_what_was_trained_and_names_nobody(tmp_path) -> None:
    tree = {f"n{node}": {f"n{node}l{leaf}": None for leaf in range(3)} for node in range(3)}
    world = World(tmp_path, tree, rounds=1)
    world.refusing = {"n0l0", "n1l0", "n1l1", "n1l2"}
    end = world.play(np.zeros(LAYOUT.entries))
    assert end.outcome == "refused", "one node is not enough"
    assert [type(each) for each in entries(world, ("n0",), Settled, ReservationReleased)] == [Settled], (
        "two of its leaves trained"
    )
    assert [type(each) for each in entries(world, ("n1",), Settled, ReservationReleased)] == [ReservationReleased], (
        "none of its leaves trained"
    )
    assert "l0" not in end.why
    assert "training" in end.why
    sent = [each.receipt.kind for each in entries(world, ("n0",), MessageSent)]
    assert "Declined" in sent
    assert "Submitted" not in sent


def test_a_run_below_is_of_one_plan_alone_and_of_one_node() -> None:
    plan = question().plan
    others = [
        replace(plan, base=Hash(bytes([1] * 32))), replace(plan, round=plan.round + 1), replace(plan, federation="other"),
        replace(plan, learning=replace(plan.learning, learning_rate=F(1, 7))),
    ]  # fmt: skip
    runs = [run_below(each, MemberId("north")) for each in (plan, *others)]
    assert len({*runs, run_below(plan, MemberId("south"))}) == len(others) + 2
    assert run_below(replace(plan), MemberId("north")) == runs[0]


def test_a_leafs_own_words_do_not_go_up(tmp_path, monkeypatch) -> None:
    told = Reason("training", "by n0l1, of ward seven", "", "")
    declined = member._declined

    def telling(seat, plan, reasons, *more):
        return declined(seat, plan, (told,) if seat.charter.me == "n0l0" else reasons, *more)

    tree = {f"n{node}": {f"n{node}l{leaf}": None for leaf in range(3)} for node in range(3)}
    world = World(tmp_path, tree, rounds=1)
    world.refusing = {"n0l0", "n0l1"}
    monkeypatch.setattr(member, "_declined", telling)
    monkeypatch.setattr(member.declining, "told", tuple)  # a leaf that does not keep to it
    world.play(np.zeros(LAYOUT.entries))
    heard = entries(world, ("n0", "coordinator"), Refused)
    assert any(told in each.reasons for each in heard), "its own node hears it"
    above = entries(world, ("coordinator",), Refused)
    paid = declining.constant(declining.UNFINISHED)
    assert {each.reasons for each in above if each.what == "plan, by n0"} == {(paid,)}, "one constant goes up"
    for way in (("n0",), ("coordinator",)):
        assert not any("ward" in str(each) for each in entries(world, way, Refused, ReservationReleased, Settled))


def test_what_was_spent_below_is_charged_on_every_level_above(tmp_path) -> None:
    """A node that declines after its leaves trained has paid: whoever is above it pays too."""
    tree = {f"a{i}": {f"a{i}b{j}": {f"a{i}b{j}c{k}": None for k in range(3)} for j in range(3)} for i in range(2)}
    world = World(tmp_path, tree, (Scheme.CLEAR,), rounds=1)
    world.refusing = {f"a0b{j}c0" for j in range(3)}
    assert world.play(np.zeros(LAYOUT.entries)).outcome == "refused"
    for way in (("a0",), ("a0", "a0b0"), ("a0", "a0b0", "a0b0c1")):
        assert [type(each) for each in entries(world, way, Settled, ReservationReleased)] == [Settled], way


def test_leaves_that_train_and_cannot_seal_are_charged_at_their_node_too(tmp_path, monkeypatch) -> None:
    def outside(name, round_, start):
        return trained(name, round_, start) * np.float32(1e9 if name.startswith("n0") else 1)

    monkeypatch.setattr("tests.support.nested.trained", outside)
    tree = {f"n{node}": {f"n{node}l{leaf}": None for leaf in range(3)} for node in range(3)}
    world = World(tmp_path, tree, rounds=1)
    assert world.play(np.zeros(LAYOUT.entries)).outcome == "finished"
    for way in (("n0", "n0l0"), ("n0",)):
        assert [type(each) for each in entries(world, way, Settled, ReservationReleased)] == [Settled], way


class Killed(BaseException):
    """What ends a process, seen from inside."""


@pytest.mark.parametrize("at", (1, 9, 17, 26, 38, 52))
def test_a_run_that_is_killed_inside_a_node_goes_on_and_trains_nothing_twice(at, tmp_path, monkeypatch) -> None:
    from securefl.home.home import Home

    world, commits = World(tmp_path, NODES, rounds=1), 0
    committed = Home.commit

    def dying(self, *given, **more):
        nonlocal commits
        commits += 1
        if commits == at * 2:
            raise Killed
        return committed(self, *given, **more)

    monkeypatch.setattr(Home, "commit", dying)
    with pytest.raises(Killed):
        world.play(np.zeros(LAYOUT.entries))
    world.homes.clear()
    world.round = 1
    end = world.play(np.zeros(LAYOUT.entries))
    assert end.outcome == "finished", end.why
    undisturbed = World(tmp_path / "other", NODES, rounds=1).play(np.zeros(LAYOUT.entries))
    assert np.array_equal(reached(end), reached(undisturbed))
    for node, names in NODES.items():
        for way in ((node,), *((node, name) for name in names)):
            account = Account.of(entries(world, way, *map(_kind, ("Reserved", "Settled", "ReservationReleased"))))
            assert [each.standing for each in account.charges] == [Standing.SETTLED]
        assert len(entries(world, (node,), Gathered)) == 1


def _kind(name: str) -> type:
    from securefl import terms

    return getattr(terms, name)


def test_what_a_federation_spends_does_not_depend_on_what_its_sibling_refuses(tmp_path) -> None:
    def spent(folder, refusing):
        tree = {f"n{node}": {f"n{node}l{leaf}": None for leaf in range(3)} for node in range(3)}
        world = World(folder, tree)
        world.refusing = refusing
        assert world.play(np.zeros(LAYOUT.entries)).outcome == "finished"
        return [
            [(each.event, each.standing, each.round) for each in Account.of(entries(world, way, *map(_kind, ("Reserved", "Settled", "ReservationReleased")))).charges]
            for way in (("n0",), *(("n0", name) for name in tree["n0"]))
        ]  # fmt: skip

    assert spent(tmp_path / "one", set()) == spent(tmp_path / "two", {"n2l0", "n2l1", "n2l2"})


LOSSES = {
    "soft labels": SoftLabels(F(1), F(1), F(9, 10), F(1, 2), 5),
    "pseudo labels": PseudoLabels(F(1), Scorer.ENERGY, F(1), F(1), 3),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_what_a_loss_does_by_round_follows_the_rounds_of_the_root(loss, tmp_path) -> None:
    """A plan inside begins at round 1 again; the threshold, or whether pseudo labels count yet, is that of the plan above."""
    plan = Flat().coordinator.state.course.plan
    for round_ in (1, 2, 3, 4, 5, 6):
        learning = replace(plan.learning, event=EVENT, loss=loss)
        below = learning_below(replace(plan, round=round_, learning=learning), 2)
        for inside in (1, 2):
            if isinstance(loss, SoftLabels):
                assert below.loss.threshold(inside) == loss.threshold(round_)
            else:
                assert (inside >= below.loss.first) == (round_ >= loss.first)


def test_the_message_of_an_unfinished_training_is_a_fault_of_a_peer() -> None:
    assert Unfinished("its own run", EVENT).did == EVENT
    assert m.EGRESS[m.Declined]["reasons"] is m.Egress.REASONS
