"""What documents alone decide is said before anybody is asked, with a remedy that flips it."""

import re
from fractions import Fraction as F
from pathlib import Path
from typing import Any

import pytest

from securefl.documents import federation_file
from securefl.documents.federation import Loaded
from securefl.errors import OperatorFault
from securefl.planning.possible import check_first_plan, check_seats
from securefl.policy import load as policies
from securefl.simulation.parties import load_model
from securefl.terms.start import Start
from tests.support.small import MEMBERS, POLICY, Small


@pytest.fixture(scope="module")
def start(small: Small) -> Start:
    return load_model(federation_file.load(small.file("possible.yaml"))).start


@pytest.fixture
def asked(small: Small) -> Any:
    def loaded(policy: str | None = None, **changes: Any) -> tuple[Loaded, Any]:
        found = federation_file.load(small.file("possible.yaml", policy, **changes))
        return found, policies.load(found.folder / found.file.policy)

    return loaded


def training(**fields: Any) -> dict[str, Any]:
    return {f"training__{name}": value for name, value in fields.items()}


def of_epsilon(epsilon: float) -> dict[str, Any]:
    from tests.support.small import FEDERATION

    fields = {name: value for name, value in FEDERATION["training"].items() if name != "noise_multiplier"}  # type: ignore[attr-defined]
    return {"training": {**fields, "epsilon": epsilon}}


def test_the_small_federation_is_possible(asked: Any, start: Start) -> None:
    check_first_plan(*asked(), start)


@pytest.mark.parametrize(("policy", "changes", "told"), [
    (POLICY.replace("federation: small", "federation: other"), {}, "name: found small, and its policy .* is of the federation other"),
    (POLICY.replace("min_cohort: 3", "min_cohort: 4"), {}, "members: found 3, and min_cohort is 4.*have 4 members"),
    (POLICY.replace("threshold: {at_least: 2}", "threshold: {at_least: 5}"), {}, "found 3, and the threshold is 5"),
    (None, {"members": [{"name": n, "region": "here", "data": {"file": f"{n}.csv"}} for n in MEMBERS[:2]]}, "found 2, and min_cohort is 3"),
])  # fmt: skip
def test_who_takes_part_is_checked_before_a_model_is_loaded(asked: Any, policy: str, changes: Any, told: str) -> None:
    with pytest.raises(OperatorFault, match=told) as refused:
        check_seats(*asked(policy, **changes))
    assert "possible.yaml" in str(refused.value)


def test_an_epsilon_below_what_any_noise_gives_is_refused_with_the_least(asked: Any, start: Start) -> None:
    with pytest.raises(OperatorFault, match=r"training.epsilon: found 0.0001; all 4 steps cost at least") as refused:
        check_first_plan(*asked(**of_epsilon(0.0001)), start)
    (least,) = re.findall(r"write at least ([\d.]+)", refused.value.remedy)
    check_first_plan(*asked(**of_epsilon(float(least)), training__learning_rate=0.0001), start)


@pytest.mark.parametrize("changes", [of_epsilon(8), {}], ids=["an epsilon is asked for", "a noise is given"])
def test_a_delta_at_which_nothing_has_a_price_is_named(asked: Any, start: Start, changes: Any) -> None:
    with pytest.raises(OperatorFault, match=r"policy.yaml: budget.delta: found 1e-15.*at least 1e-14") as refused:
        check_first_plan(*asked(POLICY.replace("delta: 1e-5", "delta: 1e-15"), **changes), start)
    assert "noise above" not in str(refused.value)
    check_first_plan(*asked(POLICY.replace("delta: 1e-5", "delta: 1e-14"), **changes), start)


@pytest.mark.parametrize("changes", [
    training(learning_rate=1000), training(noise_multiplier=1000, learning_rate=10), training(divisor=1, learning_rate=5),
    training(optimizer="adamw", learning_rate=100),
])  # fmt: skip
def test_noise_that_fills_the_grid_is_refused_with_a_rate_that_does_not(asked: Any, start: Start, changes: Any) -> None:
    with pytest.raises(OperatorFault, match=r"training.learning_rate: found .* the grid ends at 8") as refused:
        check_first_plan(*asked(**changes), start)
    (most,) = re.findall(r"at most ([\d.]+)", refused.value.remedy)
    changes = changes | {"training__learning_rate": float(most)}
    check_first_plan(*asked(**changes), start)
    with pytest.raises(OperatorFault):
        check_first_plan(*asked(**changes | {"training__learning_rate": float(F(most) * F(102, 100))}), start)


def test_noise_below_the_grid_is_refused_with_a_rate_that_is_not(asked: Any, start: Start) -> None:
    with pytest.raises(OperatorFault, match="protocol.faint-noise") as refused:
        check_first_plan(*asked(training__learning_rate=1e-8), start)
    (least,) = re.findall(r"at least ([\d.e-]+)", refused.value.remedy)
    check_first_plan(*asked(training__learning_rate=float(least)), start)


def test_too_few_honest_members_are_refused_with_how_many_would_do(asked: Any, start: Start) -> None:
    policy = POLICY.replace("min_cohort: 3", "min_cohort: 2").replace("colluding: 0", "colluding: 1")
    with pytest.raises(OperatorFault, match=r"few-honest.*at least 3 members under a min_cohort of 3"):
        check_first_plan(*asked(policy), start)
    check_first_plan(*asked(policy.replace("min_cohort: 2", "min_cohort: 3")), start)


def test_a_run_of_what_is_impossible_makes_no_home(small: Small, tmp_path: Path) -> None:
    file = small.file("possible.yaml", POLICY.replace("min_cohort: 3", "min_cohort: 4"))
    with pytest.raises(OperatorFault, match="min_cohort is 4"):
        small.run(tmp_path / "run", tmp_path / "sites", file)
    assert not any(tmp_path.iterdir())
