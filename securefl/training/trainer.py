"""A site's trainer: its records are looked at when a plan that was admitted trains, and not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from securefl.seams import Own
from securefl.terms import (
    Plan,
    Sharing,
    Update,
    Weighting,
)
from securefl.training import (
    kept,
    step,
)
from securefl.training.local_state import own_weights
from securefl.training.probes import check_probes
from securefl.training.shared_model import SharedModel
from securefl.wire import digest

if TYPE_CHECKING:
    from securefl.seams import MemberHalf, StepWatch
    from securefl.terms.records import Record
    from securefl.training.data import Records
    from securefl.training.noise import Entropy


class LoraTrainer:
    """One member's half: its records, its randomness, a model it may share with others of this process."""

    def __init__(
        self, shared: SharedModel, records: Records, rand: Entropy, progress: StepWatch = step.unwatched,
        half: MemberHalf | None = None, probe: tuple[Record, ...] = (), room: int = kept.ROOM,
    ) -> None:  # fmt: skip
        self._shared, self._records, self._rand, self._progress = shared, records, rand, progress
        self._half, self._probe, self._room = half, probe, kept.Room(room)

    def admit(self, plan: Plan, base: bytes) -> None:
        """Check the plan, the model, and how the model's kernels compute at this base; no record is read.

        What was found of a base is kept by its digest, so training does not ask again.

        Raises:
            PeerFault: the plan is not for what is loaded here, or the base is no state of it.
            OperatorFault: the model fails preflight, or its kernels do not repeat themselves at this base.
        """
        self._shared.admit(plan)
        check_probes(plan, digest("probe", self._probe) if self._probe else None)
        self._shared.shapes(plan, base[: 4 * self._shared.dimension])

    def train(self, plan: Plan, base: bytes, own: Own) -> tuple[Update, Own]:
        """Train as the plan says, and say what to keep.

        Raises:
            Exception: whatever went wrong, the plan's price is spent.
        """
        self.admit(plan, base)
        records, sharing = self._records.train, plan.sharing
        if self._half is None or sharing == Sharing():
            return self._shared.train(plan, base, records, self._rand, self._progress, self._room), Own()
        start = self._half.start(plan, base, own.model if sharing.keeps else b"")
        model = base[: 4 * self._shared.dimension]  # behind it stands what the strategy alone reads
        after, did = self._shared.trained(plan, model, start, records, self._rand, self._progress, self._room)
        weights, kept = own_weights(self._half, plan, self._scored, model, start, after, own.weights)
        update = Update(self._half.share(plan, base, start, after, weights), did)
        return update, Own(after if sharing.keeps else b"", kept)

    def _scored(self, weighting: Weighting, base: bytes, moved: bytes) -> float:
        return self._shared.scored(weighting, base, moved, self._probe)
