"""Strategies by name in a federation's file: losses per record, own models at home, and whole runs."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction as F
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from securefl import wire
from securefl.audit.verify import verify
from securefl.documents import federation_file
from securefl.errors import OperatorFault
from securefl.home.home import Home
from securefl.protocol import member_state
from securefl.seams import Own
from securefl.terms import (
    Hash,
    MemberId,
    MicroEpsilon,
    NotTrueDistillation,
    Plan,
    Price,
    PseudoLabels,
    ReservationReleased,
    Reserved,
    RunId,
    Scorer,
    Settled,
    SoftLabels,
)
from securefl.terms.records import UNKNOWN
from securefl.training import pseudo_labels
from securefl.training.losses import losses_of
from tests.policy.test_policy_decide import question
from tests.support.small import MEMBERS, Small
from tests.support.tiny_models import shared

LOSSES = (
    NotTrueDistillation(F(1), F(3), False),
    NotTrueDistillation(F(1, 2), F(1), True),
    SoftLabels(F(1), F(2), F(9, 10), F(1, 2), 4),
    *(PseudoLabels(F(1, 2), scorer, F(2), F(1, 2), 2) for scorer in Scorer),
)
RUNS = {
    "fedadam, fedlsd": {"kind": "fedadam", "learning_rate": 0.01, "loss": {"kind": "fedlsd"}},
    "fednesterov, fedper": {"kind": "fednesterov", "momentum": 0.5, "home": ["head"]},
    "l2gd": {"pull": 0.5},
    "weighted": {"weights": [{"sharpness": 5, "clip": 0.1}]},
    "fewfedweight": {
        "pull": 0,
        "loss": {"kind": "pseudo-labels", "weight": 0.5},
        "weights": [{"kind": "probe", "sharpness": 1, "renewal": 0.5, "clip": 0.1}],
        "probe": [{"text": "the flight was so late", "label": "bad"}, {"text": "a great crew today", "label": "good"}],
    },
}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{type(loss).__name__} {getattr(loss, 'scorer', '')}")
def test_a_taught_record_has_a_gradient_of_its_own(loss, tmp_path) -> None:
    shared("bert", tmp_path).preflight(loss=loss)


@given(st.integers(0, 2**32 - 1), st.sampled_from(LOSSES))
def test_a_records_loss_is_the_same_in_any_company(seed, loss) -> None:
    torch.manual_seed(seed)
    logits, teacher = torch.randn(5, 3, dtype=torch.float64), 4 * torch.randn(5, 3, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, UNKNOWN if isinstance(loss, SoftLabels) else 0, 1]).unsqueeze(1)
    if isinstance(loss, PseudoLabels):
        teacher = pseudo_labels.answers(loss, 2, teacher, torch.randn(7, 3, dtype=torch.float64))
    targets, losses = torch.cat([labels.to(torch.float64), teacher], 1), losses_of(loss, 2)
    together = losses(logits, targets)
    alone = torch.cat([losses(logits[i : i + 1], targets[i : i + 1]) for i in range(5)])
    assert torch.allclose(together, alone, atol=1e-12)
    if isinstance(loss, NotTrueDistillation):
        agreed = losses(logits, torch.cat([labels.to(torch.float64), logits], 1))
        assert torch.allclose(agreed, torch.nn.functional.cross_entropy(logits, labels[:, 0], reduction="none"))


def test_the_threshold_is_a_public_schedule_and_keeps_out_what_is_not_sure() -> None:
    loss = SoftLabels(F(1), F(1), F(9, 10), F(1, 2), 4)
    assert [loss.threshold(n) for n in (1, 4, 9)] == [F(9, 10), F(1, 2), F(1, 2)]
    targets = torch.tensor([[UNKNOWN, 0.7, 0.0]])  # 0.67 sure
    logits = torch.tensor([[0.0, 1.0]])
    assert float(losses_of(loss, 1)(logits, targets)) == 0
    assert float(losses_of(loss, 4)(logits, targets)) > 0


def test_a_round_starts_from_what_an_earlier_one_kept(tmp_path) -> None:
    """Whatever is in the table: what no settled plan left is not read."""
    run, other = RunId(bytes(16)), RunId(bytes([1] * 16))
    home, plans = Home.at(tmp_path, MemberId("a"), lambda: 0), {}

    def trains(round_: int, *entries: object, of: RunId = run) -> None:
        plan = replace(question().plan, run=of, round=round_)
        plans[round_] = wire.plan_hash(plan)
        price = Price(plans[round_], Hash(bytes(32)), MicroEpsilon(1), {})
        told = (Reserved(plan, "d", price, bytes(16)), *(entry(plan) for entry in entries))
        with home.transaction() as conn:
            home.commit(conn, of, told, None, keep=member_state.Kept(plans[round_], round_, Own(bytes([round_]))))

    def read(before: int, of: RunId = run) -> bytes:
        with home.transaction() as conn:
            return home.own(conn, of, before).model

    def settled(plan: Plan) -> Settled:
        return Settled(wire.plan_hash(plan), plan.learning.event)

    assert read(1) == b""
    for round_ in (1, 2, 3):
        trains(round_, settled)
    assert (read(3), read(4), read(4, other)) == (b"\2", b"\3", b"")
    trains(5)  # reserved alone: it may be trained still
    assert read(6) == b"\3"
    trains(7, lambda plan: ReservationReleased(wire.plan_hash(plan), "nothing ran"))
    assert read(8) == b""
    trains(9, settled)
    assert (read(9), read(10)) == (b"", b"\t")


@pytest.mark.parametrize("scheme", ["masking", "ckks"])
@pytest.mark.parametrize("name", RUNS)
def test_a_federation_runs_under_a_strategy_by_name(name, scheme, tmp_path: Path) -> None:
    (tmp_path / "of").mkdir()
    small = Small(tmp_path / "of")
    file = small.file(strategy=RUNS[name], protection=scheme)
    result = small.run(tmp_path / "out", tmp_path / "sites", file)
    assert result.outcome == "finished", result.why
    assert verify(tmp_path / "out").ok
    for member in MEMBERS:
        home = Home.at(tmp_path / "sites" / member, MemberId(member), lambda: 0)
        with home.transaction() as conn:
            (run,) = {charge.run for charge in home.account(conn).charges}
            own = home.own(conn, run, 99)
        assert bool(own.model) == (name in ("fednesterov, fedper", "l2gd", "fewfedweight"))
    assert not list((tmp_path / "sites").glob("*/own*"))


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        ({"loss": {"kind": "fedntd"}}, "fedlsd for two labels"),
        ({"kind": "fedadam", "momentum": 0.5}, "`momentum` is of fedavg and fednesterov"),
        ({"floor": 0.1}, "`floor` is of fedadam"),
        ({"weights": [{"kind": "probe", "sharpness": 1}]}, "belong together"),
        ({"weights": [{"sharpness": 1}], "probe": [{"text": "so late", "label": "bad"}]}, "belong together"),
        (
            {"weights": [{"kind": "probe", "sharpness": 1}], "probe": [{"text": "so late", "label": "worse"}]},
            "the label worse, which is none of bad, good",
        ),
    ],
)
def test_what_does_not_fit_is_refused(strategy, told, tmp_path: Path) -> None:
    with pytest.raises(OperatorFault, match=told):
        federation_file.load(Small(tmp_path).file(strategy=strategy))


def test_two_weighted_sums_over_three_end_by_the_rule_of_each_member_before_anybody_has_a_home(tmp_path: Path) -> None:
    (tmp_path / "of").mkdir()
    small = Small(tmp_path / "of")
    file = small.file(
        strategy={"weights": [{"sharpness": 5, "clip": 0.1}, {"sharpness": -5, "share": 0.1, "clip": 0.1}]}
    )
    with pytest.raises(
        OperatorFault, match=r"no member may accept this plan: protocol\.few-honest: sums released over"
    ):
        small.run(tmp_path / "out", tmp_path / "sites", file)
    assert not list((tmp_path / "sites").glob("*")), "before anybody has a home"
