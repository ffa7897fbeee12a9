"""What a policy says to a plan, or to the first round of a federation, rule by rule; nothing is charged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from securefl.documents import federation_file
from securefl.documents.federation import Loaded
from securefl.errors import OperatorFault
from securefl.home.clock import clock
from securefl.planning import start_file
from securefl.planning.plan import FirstState, plan_of, price_in, strategy_of
from securefl.policy import load as policies
from securefl.policy.checks import Check
from securefl.policy.decide import decided
from securefl.policy.decide import explain as explain_decision
from securefl.privacy.account import Account
from securefl.protocol import messages as m
from securefl.terms import (
    Hash,
    MemberId,
    Model,
    Participant,
    Plan,
    PublicKey,
    Reason,
    RunId,
    Unit,
)

if TYPE_CHECKING:
    from securefl.policy.load import Policy
    from securefl.terms.start import Start

DIMENSION = "plan.dimension"


@dataclass(frozen=True, slots=True)
class Explained:
    """What a policy says to a plan, rule by rule."""

    decision: str
    checks: tuple[Check, ...]
    reasons: tuple[Reason, ...]
    missing: tuple[str, ...]  # what was not given, so that something else was assumed


def explain(policy_path: Path, plan_path: Path) -> Explained:
    """Every rule of a policy against a plan, or against the first round of a federation's file; nothing is charged."""
    from securefl.documents import strict  # noqa: PLC0415
    from securefl.policy.plan_document import draft  # noqa: PLC0415

    policy = policies.load(policy_path)
    document = strict.read(plan_path)
    if document.has("securefl_federation"):
        return explain_first(policy, federation_file.load(plan_path))
    plan = draft(document, policy.hash)
    missing = ["account", "plan.cohort", "plan.base"]
    missing += [] if "model_sha256" in document.value else ["plan.model.digest"]
    missing += [] if "dimension" in document.value else [DIMENSION]
    return explained(policy, plan, tuple(missing))


def explain_first(policy: Policy, loaded: Loaded) -> Explained:
    """Every rule of a policy against the first round of a federation; nothing is charged."""
    return explain_unseen(policy, unseen(loaded, policy))


@dataclass(frozen=True, slots=True)
class Unseen:
    """A federation's first plan before it has begun, and what was assumed in it."""

    plan: Plan
    missing: tuple[str, ...]
    base: bytes | None  # the state it starts from, where the model is here


def unseen(loaded: Loaded, policy: Policy) -> Unseen:
    """A federation's first plan: of its start file or its model if one is here, else of any model."""
    file, missing = loaded.file, ["account"]
    if file.protection.scheme.has_custodian:
        missing.append("plan.cover.custodian")
    start = _start_here(loaded)
    if start is None:
        missing += ["plan.model.digest", "plan.base", DIMENSION]
        any_model = FirstState(Model(file.model, Hash(bytes(32))), 1)
        return Unseen(first_plan(loaded, policy, any_model), tuple(missing), None)
    strategy = strategy_of(loaded, start)
    plan = first_plan(loaded, policy, FirstState.of(start, strategy))
    return Unseen(plan, tuple(missing), strategy.broadcast(start.state))


def _start_here(loaded: Loaded) -> Start | None:
    """Return where training starts: by the start file that the document names, or by the model; None without both."""
    if loaded.file.start is not None:
        return start_file.of(loaded)
    try:
        from securefl.training.shared_model import SharedModel  # noqa: PLC0415
    except ModuleNotFoundError:  # what trains is not installed
        return None
    file = loaded.file
    try:
        return SharedModel.load(
            file.model, loaded.folder, file.task.task(), file.adapter.adapter(), file.training.engine
        ).start
    except OperatorFault:
        return None


def explain_unseen(policy: Policy, asked: Unseen) -> Explained:
    """Every rule of a policy against such a plan."""
    return explained(policy, asked.plan, asked.missing, asked.base)


def first_plan(loaded: Loaded, policy: Policy, first: FirstState) -> Plan:
    """The first round's plan as it will be, but for keys: for a policy to look at."""
    return seated(plan_of(loaded, policy, RunId(bytes(16)), first, None), loaded)


def seated(plan: Plan, loaded: Loaded) -> Plan:
    """The plan with a cohort of all members and a custodian if it needs one, under keys that are made up."""
    cohort = tuple(
        Participant(MemberId(member.name), PublicKey(m.state_digest(member.name.encode())), member.region)
        for member in loaded.file.members
    )
    custodian = PublicKey(bytes(32)) if plan.cover.scheme.has_custodian else None
    return replace(plan, cohort=cohort, cover=replace(plan.cover, custodian=custodian))


def foreseen(loaded: Loaded, policy: Policy, start: Start) -> tuple[Reason, ...]:
    """Why the policy will refuse the first round on an account with nothing on it; nothing is charged."""
    first = FirstState.of(start, strategy_of(loaded, start))
    return explained(policy, first_plan(loaded, policy, first), ()).reasons


def explained(policy: Policy, plan: Plan, missing: tuple[str, ...], base: bytes | None = None) -> Explained:
    """Every rule of a policy against a plan, on an account with nothing on it; what has no price is not granted.

    Under unit client each entry of an update costs: without the model's dimension there is no price.
    """
    account = Account.of(())
    try:
        price = price_in(policy, "dataset")(plan, account)
    except (ValueError, ArithmeticError) as fault:
        none = Reason("budget.price", f"no price: {fault}", "a finite price", "add noise")
        return Explained("refuse", (Check(none.rule, False, none.value, none.limit, none.fix),), (none,), missing)
    now = clock()
    checks = explain_decision(policy, plan, account, price, now, base)
    reasons = getattr(decided(checks, price), "reasons", ())
    if DIMENSION in missing and plan.learning.event.unit is Unit.CLIENT:
        unknown = Check(
            DIMENSION, False, "not known", "the entries of an update, each of which costs",
            "have the model here, or give `dimension` in a plan",
        )  # fmt: skip
        checks = (*checks, unknown)
        reasons = (*reasons, Reason(unknown.rule, unknown.value, unknown.limit, unknown.fix))
    return Explained("refuse" if reasons else "grant", (*checks, _patience(plan)), tuple(reasons), missing)


def _patience(plan: Plan) -> Check:
    """Return how long the plan waits: no policy limits it, each site does for itself."""
    patience = plan.patience
    value = f"up to {patience.round_s} s for a round"
    if patience.quorum:
        value += f"; once {patience.quorum} members answered, {patience.grace_s} s more for the others"
    return Check("site.patience", True, value, "what each site's own `limits.patience` says", "")
