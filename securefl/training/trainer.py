"""Training at a member: the plan that was granted, on the member's own records, and nothing else.

One base model in memory can serve several members of one process; each training starts from the state it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from securefl.errors import PeerFault
from securefl.terms import Adapter, Model, Plan, Task, Update
from securefl.training import preflight, saving, state, step
from securefl.training.evaluate import Scores, score
from securefl.training.model import Built, build, model_digest
from securefl.training.sources import resolve
from securefl.training.step import Encoded

if TYPE_CHECKING:
    from torch import nn

    from securefl.training.data import Record, Records
    from securefl.training.noise import Entropy


class Mismatch(PeerFault):
    """The plan is for another model, task or adapter than the one that is loaded here."""


class SharedModel:
    """A base model with adapter and head, in memory once."""

    def __init__(self, built: Built, model: Model, task: Task, adapter: Adapter, path: str) -> None:
        self.model, self.task, self.adapter, self.path = model, task, adapter, path
        self._built = built
        self._wrapped: nn.Module = preflight.wrap(built.model)
        self._encoded: dict[tuple[int, int], tuple[object, Encoded]] = {}
        self._start = state.dump(built)

    @classmethod
    def load(cls, name: str, folder: Path, task: Task, adapter: Adapter) -> SharedModel:
        """The model a federation's file names.

        Raises:
            OperatorFault: it is not here, or cannot carry this adapter.
        """
        found = resolve(name, folder)
        return cls(build(found, task, adapter), Model(name, model_digest(found)), task, adapter, str(found))

    @property
    def dimension(self) -> int:
        """Entries of an adapter state."""
        return self._built.dimension

    def initial(self) -> bytes:
        """The state every run starts from: B and head zero."""
        return self._start

    def preflight(self, max_tokens: int = 64) -> None:
        """Nothing happens if each record has a gradient of its own; checked on synthetic text.

        Raises:
            OperatorFault: naming the tensor, its layer and the fix.
        """
        preflight.check(self._built, self._wrapped, lambda t, y: self._tokens(t, y, max_tokens), len(self.task.labels))

    def train(
        self, plan: Plan, base: bytes, records: tuple[Record, ...], rand: Entropy,
        progress: Callable[[int, int], None] = lambda done, steps: None,
    ) -> Update:  # fmt: skip
        """The change a plan's private steps make, and what they really were.

        Raises:
            Mismatch: the plan is not for what is loaded here.
        """
        self._check(plan)
        state.load(self._built, base)
        encoded = self._records(records, plan.learning.max_tokens)
        parameters = [parameter for _, parameter in self._built.trainable]
        self._wrapped.train()
        done = step.run(self._wrapped, parameters, encoded, plan.learning, rand, progress)
        event = plan.learning.event
        did = type(event)(event.sampling_rate, event.noise_multiplier, done)
        after = np.frombuffer(state.dump(self._built), "<f4").astype(np.float64)
        return Update(after - np.frombuffer(base, "<f4").astype(np.float64), did)

    def train_without_privacy(self, plan: Plan, base: bytes, records: tuple[Record, ...], seed: int) -> bytes:
        """NOT PRIVATE: the same steps on the same share of records without clipping or noise; for comparison on a bench."""
        self._check(plan)
        state.load(self._built, base)
        encoded = self._records(records, plan.learning.max_tokens)
        generator = np.random.default_rng(seed)
        optimizer = step.optimizer_of([parameter for _, parameter in self._built.trainable], plan.learning)
        for _ in range(plan.learning.event.steps):
            chosen = np.nonzero(generator.random(len(encoded.ids)) < float(plan.learning.event.sampling_rate))[0]
            optimizer.zero_grad()
            for part in step.micro_batches(encoded, [int(i) for i in chosen], plan.learning.micro_batch):
                ids, mask, labels = encoded.batch(part)
                loss = torch.nn.functional.cross_entropy(self._built.model(ids, mask), labels, reduction="sum")
                (loss / len(chosen)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return state.dump(self._built)

    def evaluate(self, adapter_state: bytes, records: tuple[Record, ...], max_tokens: int = 64) -> Scores:
        """How a state does on records."""
        state.load(self._built, adapter_state)
        self._built.model.eval()
        try:
            with torch.no_grad():
                return score(self._built.model, self._records(records, max_tokens), len(self.task.labels))
        finally:
            self._built.model.train()

    def save(self, adapter_state: bytes, out: Path, max_tokens: int = 64) -> None:
        """The state as files that PEFT loads."""
        state.load(self._built, adapter_state)
        saving.save(self._built, self.task, self.model.name, self.path, max_tokens, out)

    def _check(self, plan: Plan) -> None:
        here = (self.model.digest, self.task, self.adapter, self.dimension)
        if (plan.model.digest, plan.task, plan.adapter, plan.dimension) != here:
            raise Mismatch(f"the plan is for another model, task or adapter than {self.model.name} as loaded here")

    def _records(self, records: tuple[Record, ...], max_tokens: int) -> Encoded:
        key = (id(records), max_tokens)
        if key not in self._encoded:  # the tuple is kept beside its tokens, so its id stays its own
            texts, labels = tuple(r.text for r in records), tuple(r.label for r in records)
            self._encoded[key] = (records, self._tokens(texts, labels, max_tokens))
        return self._encoded[key][1]

    def _tokens(self, texts: tuple[str, ...], labels: tuple[int, ...], max_tokens: int) -> Encoded:
        tokenizer = self._built.tokenizer
        ids = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"] if texts else []
        return Encoded(tuple(tuple(row) or (tokenizer.pad_token_id,) for row in ids), labels, tokenizer.pad_token_id)


class LoraTrainer:
    """One member's half: its records, its randomness, a model it may share with others of this process."""

    def __init__(
        self, shared: SharedModel, records: Callable[[], Records], rand: Entropy,
        progress: Callable[[int, int], None] = lambda done, steps: None,
    ) -> None:  # fmt: skip
        self._shared, self._load, self._rand, self._progress = shared, records, rand, progress
        self._records: Records | None = None

    def train(self, plan: Plan, base: bytes) -> Update:
        """Train as the plan says; records are read at the first training, not before."""
        if self._records is None:
            self._records = self._load()
        return self._shared.train(plan, base, self._records.train, self._rand, self._progress)
