"""Whole runs under client-level privacy: what they report, what an auditor recomputes, and who falls silent."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace
from pathlib import Path

import dp_accounting
import pytest
from dp_accounting import rdp

from securefl import errors
from securefl.audit.forecast import outlooks
from securefl.audit.ledger_files import read_all
from securefl.audit.replay import accounts, replay
from securefl.audit.verify import verify
from securefl.policy import cases
from securefl.privacy import accountant
from securefl.privacy.account import Account
from securefl.terms import DistributedDiscreteGaussian, MemberId, Reserved, SumOpened
from tests.simulation.test_suite import Many
from tests.support.small import FEDERATION, POLICY, Small, rows

CLIENT = (
    POLICY.replace("unit: record", "unit: client")
    .replace("[poisson-gaussian]", "[distributed-discrete-gaussian]")
    .replace("epsilon: 20", "epsilon: 60")
    .replace("epsilon: 10}", "epsilon: 30}")
    .replace("colluding: 0", "colluding: 1")  # of the three shares of noise, two are honest
)
TRAINING = {
    "unit": "client", "rounds": 2, "steps": 2, "sampling_rate": "1/4", "noise_multiplier": 1.5, "update_clip": 0.5,
    "learning_rate": 0.1, "optimizer": "sgd", "max_tokens": 16, "micro_batch": 16,
}  # fmt: skip


def client_file(small: Small, name: str, scheme: str = "masking", **changes) -> Path:
    protection = {"scheme": scheme, "fraction_bits": 12}
    return small.file(name, **{"policy": CLIENT, "training": TRAINING, "protection": protection, **changes})


def expected(out: Path, delta: float) -> float:
    """Epsilon of one member's events in the ledgers, by Gaussians of the same size and another set of orders."""
    asked = rdp.RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for event in replay(out)["events"]:
        if event["member"] == "north":
            sensitivity = event["clip_l2"] * 2 ** event["fraction_bits"] + math.sqrt(event["dimension"]) / 2
            asked.compose(dp_accounting.GaussianDpEvent(math.sqrt(event["honest"]) * event["deviation"] / sensitivity))
    return float(asked.get_epsilon(delta))


@pytest.mark.parametrize("scheme", ["masking", "ckks"])
def test_a_run_of_clients_reports_and_verifies_what_its_shares_cost(small: Small, tmp_path: Path, scheme: str) -> None:
    file = client_file(small, f"client-{scheme}.yaml", scheme)
    result = small.run(tmp_path / "run", tmp_path / "sites", file=file, page=True)
    assert result.outcome == "finished", result.why
    verdict = verify(tmp_path / "run")
    assert verdict.ok, verdict.why
    told = json.loads((tmp_path / "run" / "report.json").read_text())["epsilon"]
    assert (told["unit"], told["mechanism"], told["sampler"]) == ("client", "distributed-discrete-gaussian", "no")
    again = replay(tmp_path / "run")
    assert told["spent"] == told["rdp"] == again["epsilon"]["client"]["rdp"]
    assert told["spent"] == pytest.approx(expected(tmp_path / "run", 1e-5), rel=0.01)
    assert again["epsilon"]["pld"] == 0.0
    assert {(event["unit"], event["honest"]) for event in again["events"]} == {("client", 2)}
    assert {row["unit"] for row in accounts(tmp_path / "run")} == {"client"}
    assert "distributed-discrete-gaussian" in (tmp_path / "run" / "report.html").read_text()


def test_a_member_whose_account_holds_the_other_unit_refuses_and_the_rest_go_on(small: Small, tmp_path: Path) -> None:
    four = [*FEDERATION["members"], {"name": "east", "region": "here", "data": {"file": "north.csv"}}]
    others = []
    for member in four[:3]:  # other records than in the second run
        file = f"{member['name']}-apart.csv"
        lines = ["text,label", *(f"{text},{label}" for text, label in rows(file))]
        (small.folder / file).write_text("\n".join(lines) + "\n")
        others.append({**member, "dataset": file.removesuffix(".csv"), "data": {"file": file}})
    records = POLICY.replace("federation: small", "federation: records")
    first = small.file("records.yaml", policy=records, name_="records", members=[*others, four[3]], training__rounds=1)
    first.write_text(first.read_text().replace("name: small", "name: records", 1).replace("name_: records\n", ""))
    assert small.run(tmp_path / "one", tmp_path / "sites", file=first).outcome == "finished"
    second = client_file(small, "mixed.yaml", members=four)
    result = small.run(tmp_path / "two", tmp_path / "sites", file=second)
    assert result.outcome == "finished", result.why
    assert verify(tmp_path / "two").ok
    ledgers = read_all(tmp_path / "two")
    openings = [entry for _, entry in ledgers[MemberId("coordinator")].each(SumOpened)][-2:]
    assert [entry.survivors for entry in openings] == [("north", "south", "west")] * 2
    assert not [entry for _, entry in ledgers[MemberId("east")].each(Reserved) if entry.plan.federation == "small"]


def on_accounts_called(small: Small, suffix: str, name: str, policy: str) -> Path:
    """A file of one round, in which each member trains on other records, on an account of another name."""
    members = []
    for member in FEDERATION["members"]:
        file = f"{member['name']}{suffix}.csv"
        lines = ["text,label", *(f"{text},{label}" for text, label in rows(file))]
        (small.folder / file).write_text("\n".join(lines) + "\n")
        members.append({**member, "dataset": file.removesuffix(".csv"), "data": {"file": file}})
    return client_file(small, name, members=members, training={**TRAINING, "rounds": 1}, policy=policy)


def test_what_hides_a_member_adds_up_over_its_data_sets(small: Small, tmp_path: Path) -> None:
    for number, suffix in enumerate(("-b", "-c")):
        file = on_accounts_called(small, suffix, f"adds{suffix}.yaml", CLIENT)
        result = small.run(tmp_path / str(number), tmp_path / "sites", file=file)
        assert result.outcome == "finished", result.why
        assert verify(tmp_path / str(number)).ok
    told = json.loads((tmp_path / "1" / "report.json").read_text())["epsilon"]
    assert told["spent"] == told["rdp"] == replay(tmp_path / "1")["epsilon"]["client"]["rdp"]
    assert told["spent"] == pytest.approx(expected(tmp_path / "1", 1e-5), rel=0.01), "of both releases"
    mine = [row for row in accounts(tmp_path / "1") if row["member"] == "north" and row["level"] != "run"]
    assert {row["name"] for row in mine} == {"north-b", "north-c", "small"}
    assert {row["spent"] for row in mine} == {told["spent"]}
    left = {(each.dataset, each.rounds_left(each.last.noise_multiplier)) for each in outlooks(tmp_path / "1")}
    assert len({rounds for _, rounds in left}) == 1, "whichever of them goes on"


def test_no_name_of_an_account_gives_a_member_more_than_its_limit(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight = CLIENT.replace("epsilon: 60", "epsilon: 4")
    first = on_accounts_called(small, "-b", "tight-b.yaml", tight)
    assert small.run(tmp_path / "one", tmp_path / "sites", file=first).outcome == "finished"
    second = on_accounts_called(small, "-c", "tight-c.yaml", tight)
    result = small.run(tmp_path / "two", tmp_path / "sites", file=second)
    assert (result.outcome, "budget.per_dataset.epsilon" in result.why) == ("refused", True)
    assert verify(tmp_path / "two").ok
    honest = accountant.price

    def in_parallel(plan, account, dataset, *rest):
        of_one = Account({name: each for name, each in account.by_plan.items() if each.dataset == dataset})
        return replace(honest(plan, of_one, dataset, *rest), account=account.digest)

    with monkeypatch.context() as members_lie:
        members_lie.setattr(accountant, "price", in_parallel)
        with contextlib.suppress(errors.Fault):  # what ran is looked at before it is reported
            small.run(tmp_path / "three", tmp_path / "sites", file=on_accounts_called(small, "-d", "d.yaml", tight))
    verdict = verify(tmp_path / "three")
    assert (verdict.ok, "the price of the dataset is" in verdict.why) == (False, True), verdict.why


def test_tasks_of_a_suite_on_accounts_of_their_own_share_one_limit_of_the_member(tmp_path: Path) -> None:
    many = Many(tmp_path)
    many.policy(CLIENT.replace("epsilon: 60", "epsilon: 4"))
    protection = {"scheme": "masking", "fraction_bits": 12}
    result = many.run(
        tmp_path / "run",
        tmp_path / "sites",
        many.file(training={**TRAINING, "rounds": 1}, protection=protection, tasks__tone=None),
    )
    told = json.loads((tmp_path / "run" / "suite.json").read_text())["tasks"]
    assert sorted(each["outcome"]["status"] for each in told.values()) == ["finished", "refused"], result
    assert verify(tmp_path / "run").ok


def test_noise_is_calibrated_for_all_rounds(small: Small, tmp_path: Path) -> None:
    training = {key: value for key, value in TRAINING.items() if key != "noise_multiplier"} | {"epsilon": 9}
    result = small.run(tmp_path / "run", tmp_path / "sites", file=client_file(small, "nine.yaml", training=training))
    assert 0.97 * 9 <= result.report["epsilon"]["spent"] <= 9


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"clip": 0.5}, "clip means nothing under unit client"), ({"update_clip": None}, "unit client needs update_clip"),
        ({"unit": "record"}, "unit record needs clip"), ({"divisor": 5}, "divisor means nothing"), ({"unit": "member"}, "unit"),
    ],
)  # fmt: skip
def test_a_file_that_mixes_the_units_is_refused_by_name(small: Small, tmp_path: Path, change: dict, told: str) -> None:
    file = client_file(small, "wrong.yaml", training=TRAINING | change)
    with pytest.raises(errors.OperatorFault, match=told):
        small.run(tmp_path / "run", tmp_path / "sites", file=file)


def test_a_grid_too_fine_for_the_noise_is_refused_with_the_one_that_fits(small: Small, tmp_path: Path) -> None:
    file = client_file(small, "fine.yaml", protection={"scheme": "masking", "fraction_bits": 20})
    with pytest.raises(errors.OperatorFault, match="set protection.fraction_bits to at most 16"):
        small.run(tmp_path / "run", tmp_path / "sites", file=file)


def test_the_ready_policy_says_truly_what_ten_rounds_cost() -> None:
    event = DistributedDiscreteGaussian(1, 2.2, 4, 20_000, 14, 1, 1)
    assert accountant.epsilon((event,) * 10, 1e-5) == pytest.approx(7.3, abs=0.1)
    assert all(outcome.ok for outcome in cases.run(Path("policies/six-airlines-client.yaml")))
