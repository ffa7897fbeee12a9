"""What a run released, taken up again for use: the state, and the plan it was trained by, as the ledgers say.

A state is used on the base model that the plan names by its digest, and on no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from securefl.audit import adapter_files, figures, folder
from securefl.audit.ledger_files import read_all
from securefl.errors import Missing, OperatorFault, Tampered
from securefl.protocol.messages import state_digest
from securefl.terms import Plan
from securefl.terms import Released as Release
from securefl.terms.records import Record

if TYPE_CHECKING:
    from securefl.training.module_store import Answer
    from securefl.training.shared_model import SharedModel


@dataclass(frozen=True, slots=True)
class Released:
    """The last state that a run released, and its plan."""

    plan: Plan
    state: bytes


def read(run: Path) -> Released:
    """What the run in this folder released last.

    Raises:
        OperatorFault: it is no run, or none of its rounds ended.
        Tampered: its state is not the one that the coordinator's ledger says.
    """
    name = folder.named(run) if (run / folder.RUN).exists() else None
    if name is None:
        raise OperatorFault("no run", "give the folder that `securefl run --out` made", str(run))
    ledgers, place = read_all(run), run / folder.ADAPTER / adapter_files.STATE
    said = [entry for _, entry in figures.coordinator_of(ledgers, name).each(Release) if entry.run == name]
    plan = figures.first_plan(ledgers, name)
    if not said or plan is None:
        what = "no round of this run ended" if not said else "no member's ledger is here, which says how it was trained"
        raise OperatorFault(what, "give a run with a released adapter and its ledgers", str(run))
    try:
        state = place.read_bytes()
    except OSError as fault:
        raise Missing(f"cannot be read: {fault.strerror}", "export the run again", str(place)) from fault
    if state_digest(state) != said[-1].digest:
        raise Tampered(str(place), "this state is not the one that was released")
    return Released(plan, state)


@dataclass(frozen=True, slots=True)
class InUse:
    """A released state on its base model."""

    released: Released
    shared: SharedModel

    def answer(self, texts: Sequence[str]) -> list[Answer]:
        """Return what the model says of each text, in their order."""
        from securefl.training.module_store import Answer  # noqa: PLC0415

        if self.shared.task.kind == "language":
            raise OperatorFault("a language model has no labels to answer with", "use `securefl evaluate`", "predict")
        said = self.shared.logits(self._state, tuple(Record(text, 0) for text in texts), self._most).softmax(1)
        labels = self.released.plan.task.labels
        return [Answer(labels[int(row.argmax())], dict(zip(labels, row.tolist(), strict=True))) for row in said]

    def evaluate(self, records: tuple[Record, ...]) -> Mapping[str, Any]:
        """Return how it does on records: their number, and what is said of them."""
        score = self.shared.evaluate(self._state, records, self._most)
        if self.shared.task.kind == "language":
            return {"n": score.n, "nats per token": score.accuracy}
        return {"n": score.n, "accuracy": score.accuracy, "macro_f1": score.macro_f1, "majority": score.majority}

    @property
    def _state(self) -> bytes:
        return self.released.state[: 4 * self.shared.dimension]

    @property
    def _most(self) -> int:
        return self.released.plan.learning.max_tokens


def model(released: Released, at: str | None, run: Path) -> InUse:
    """The released state on the base model that is ``at`` a place, or has the plan's name on this machine.

    Raises:
        OperatorFault: the base is not here, or is another one than the plan's.
    """
    from securefl.training.shared_model import SharedModel  # noqa: PLC0415

    plan = released.plan
    try:
        shared = SharedModel.load(at or plan.model.name, Path.cwd(), plan.task, plan.adapter, called=plan.model.name)
    except Missing as fault:
        if at is not None:
            raise
        remedy = "give its folder with --model"
        raise Missing(f"the run names its base model {plan.model.name}: {fault.what}", remedy, str(run)) from fault
    if shared.model.digest != plan.model.digest:
        what = f"the run was trained on the base {plan.model.digest.hex()[:16]}, and this one is"
        remedy = "give its own with --model"
        raise OperatorFault(f"{what} {shared.model.digest.hex()[:16]}", remedy, at or plan.model.name)
    return InUse(released, shared)
