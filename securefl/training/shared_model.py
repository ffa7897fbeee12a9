"""One base model in memory, with its adapter and head: trained privately, trained openly, asked, saved.

It can serve several members of one process; each training starts from the state it is given.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from securefl.terms import (
    Adapter,
    AdapterRule,
    CrossEntropy,
    DistributedDiscreteGaussian,
    Event,
    Hash,
    Loss,
    Model,
    Plan,
    PseudoLabels,
    Sharing,
    SoftLabels,
    Task,
    Update,
    Weighting,
)
from securefl.terms.records import UNKNOWN
from securefl.terms.start import Start
from securefl.training import (
    adapter_tensors,
    admission,
    client_sgd,
    device,
    gradient_invariance,
    kept,
    language,
    language_model,
    preflight,
    pseudo_labels,
    same_records,
    saving,
    stem,
    step,
    token_rows,
    trial,
)
from securefl.training.admission import Mismatch
from securefl.training.built import Built
from securefl.training.data import tokenizable
from securefl.training.engines.choose import wrap
from securefl.training.engines.engine import forget
from securefl.training.evaluate import Scores, score
from securefl.training.language import Language, Surprise, surprise
from securefl.training.losses import divergence, losses_of, taught
from securefl.training.model import REFERENCE, build
from securefl.training.model_files import pinned
from securefl.training.noise import repeatable
from securefl.training.prompt import pattern_of
from securefl.training.shapes import Shapes
from securefl.training.step import Encoded
from securefl.wire import digest

if TYPE_CHECKING:
    from securefl.seams import StepWatch
    from securefl.terms.layout import Layout
    from securefl.terms.records import Record
    from securefl.training.noise import Entropy


class SharedModel:
    """A base model with adapter and head, in memory once, on the best device of this machine.

    ``engine`` (auto, fast or opacus) is how each record gets its gradient; the choice that was made can be read back.
    """

    def __init__(self, built: Built, model: Model, task: Task, adapter: Adapter, engine: str = "auto") -> None:
        self.model, self.task, self.adapter = model, task, adapter
        self._built = built
        self._pattern = None if task.prompt is None else pattern_of(task.prompt, built.tokenizer)
        where = device.best()
        device.place(built.model, where, device.base_type(where), [each for _, each in built.stateful])
        self._watched, self._asked = built.at(1), engine
        self._wrapped = wrap(built.model, engine)
        self._encoded: dict[tuple[int, int], tuple[object, Encoded]] = {}
        self._single: dict[tuple[int, int], tuple[object, tuple[Record, ...]]] = {}
        self._start = adapter_tensors.dump(built)
        self._start_digest = Hash(hashlib.sha256(self._start).digest())
        self._safe: set[Loss] = set()
        self._reads = trial.Reads(model.name, self._run_rows)
        self._shown = gradient_invariance.Shown()
        self.stems = kept.Stems(stem.of(built))

    @classmethod
    def load(
        cls, name: str, folder: Path, task: Task, adapter: Adapter, engine: str = "auto", called: str = ""
    ) -> SharedModel:  # fmt: skip
        """The model of this name or place; ``called`` is what plans call it, where that is another name.

        Raises:
            OperatorFault: it is not here, cannot carry this adapter, or the engine cannot serve it.
        """
        if task.kind == language.KIND:
            built, digest = language_model.load(name, folder, adapter)
            return cls(built, Model(called or name, digest), task, adapter, engine)
        found, digest = pinned(name, folder)  # first: it says clearest what is not here
        return cls(build(found, task, adapter, digest), Model(called or name, digest), task, adapter, engine)

    @property
    def layout(self) -> Layout:
        """What an adapter state holds."""
        return self._built.layout

    @property
    def engine(self) -> str:
        """``fast`` or ``opacus``: what gives each record its gradient here."""
        return self._wrapped.name

    @property
    def dimension(self) -> int:
        """Entries of an adapter state."""
        return self._built.dimension

    def share_tokens(self, kept: dict[tuple[int, int], tuple[object, Encoded]]) -> None:
        """Token ids are kept in ``kept``, and taken from it: by models of one digest, whose tokenizer is one."""
        self._encoded = kept

    def initial(self) -> bytes:
        """The state every run starts from: B and head zero, and what else can change as drawn from the seed."""
        return self._start

    @property
    def start(self) -> Start:
        """Where training starts, as a coordinator without the model is told."""
        return Start(self.model, self.task, self.adapter, self.layout, self._start)

    def preflight(self, max_tokens: int = 64, loss: Loss = CrossEntropy()) -> None:  # noqa: B008 - frozen
        """Check that each record has a gradient of its own; checked on synthetic text.

        Raises:
            OperatorFault: naming the tensor, its layer and the fix.
        """

        def encode(texts: tuple[str, ...], labels: tuple[int, ...]) -> Encoded:
            plain = self._tokens(texts, labels, max_tokens)
            return preflight.with_answers(plain, loss, len(self.task.labels))

        max_tokens = self._reads.fitting(max_tokens) or max_tokens
        for round_ in (1, 2) if self.adapter.rule is AdapterRule.ALTERNATING else (1,):
            built = self._ready(round_)
            adapter_tensors.load(built, self._start)  # whatever was looked at last
            preflight.check(built, self._wrapped, encode, max(1, len(self.task.labels)), self._losses(loss, round_))
        self._safe.add(loss)

    def check_reads(self, max_tokens: int, place: str) -> None:
        """Check that the model takes records of so many tokens, and of none; ``place`` is the field that says so.

        Raises:
            OperatorFault: it does not; with the longest that it takes.
        """
        self._reads.check(max_tokens, place)

    def _run_rows(self, tokens: int) -> None:
        texts = (" ".join(REFERENCE) * (1 + tokens // len(REFERENCE)), "")
        encoded = self._tokens(texts, (0, 0), tokens)
        with torch.no_grad():
            for row in range(len(texts)):
                self._built.model(*(each.to(self._built.parameters[0].device) for each in encoded.batch([row])[:2]))

    def shapes(self, plan: Plan, *states: bytes) -> Shapes:
        """In which shapes a record's gradient, and what a state says of it, is its own, bit for bit, at these states.

        Shown on synthetic tokens: thoroughly at the first states of such a plan, in brief at every other, once each.
        """
        built, most, loss = self._ready(plan.round), plan.learning.max_tokens, plan.learning.loss
        labels, texts = max(1, len(self.task.labels)), (*preflight.TEXTS, *REFERENCE)
        plain = self._tokens(texts, (0,) * len(texts), most)

        def encode(ids: tuple[tuple[int, ...], ...]) -> Encoded:
            of = tuple(n % labels for n in range(len(ids)))
            return self.stems.synthetic(preflight.with_answers(Encoded(ids, of, plain.pad), loss, labels), most)

        tokens = tuple(sorted({token for row in plain.ids for token in row}))
        losses = self._losses(loss, plan.round)
        asked = gradient_invariance.Question(built, self._wrapped, encode, tokens, losses, taught(loss))
        self.stems.show(most, asked, (self._start, kept.off_zero(self._start)))
        kind = (most, loss, tuple(name for name, _ in built.trainable))
        found = self._shown.at(asked, most, kind, states)
        adapter_tensors.load(built, self._start)
        return found

    def admit(self, plan: Plan) -> None:
        """Check that this plan can be trained on what is loaded here, and preflight passed; no record is read.

        Raises:
            Mismatch: the plan is for another model, task or adapter, or asks what no training here can do.
            OperatorFault: the model fails preflight.
        """
        admission.check(
            plan,
            admission.Loaded(
                self.model, self.task, self.adapter, self.layout, self._start_digest, self._built.longest,
                0 if self._pattern is None else self._pattern.taken,
            ),
        )  # fmt: skip
        self.check_reads(plan.learning.max_tokens, "the plan's max_tokens")
        if plan.learning.loss not in self._safe:
            self.preflight(loss=plan.learning.loss)

    def train(
        self, plan: Plan, base: bytes, records: tuple[Record, ...], rand: Entropy,
        progress: StepWatch = step.unwatched, room: kept.Room | None = None,
    ) -> Update:  # fmt: skip
        """The change a plan's steps make, and what they really were; all of it is shared.

        Under unit record its noise is in it. Under unit client it is clipped, and has no noise before it is sealed.

        Raises:
            Mismatch: the plan is not for what is loaded here, or shares otherwise.
        """
        if plan.sharing != Sharing():
            raise Mismatch(f"the plan shares as {plan.sharing}, and there is no member's half here")
        after, did = self.trained(plan, base, base, records, rand, progress, room)
        change = np.frombuffer(after, "<f4").astype(np.float64) - np.frombuffer(base, "<f4").astype(np.float64)
        values = np.concatenate([change[part] for part in self.layout.trained(plan.round)])
        if isinstance(did, DistributedDiscreteGaussian):
            values = client_sgd.clipped(values, did.clip_l2)
        return Update(values, did)

    def trained(
        self, plan: Plan, base: bytes, start: bytes, records: tuple[Record, ...], rand: Entropy,
        progress: StepWatch = step.unwatched, room: kept.Room | None = None,
    ) -> tuple[bytes, Event]:  # fmt: skip
        """The state after a plan's private steps from ``start``, and what they really were; ``base`` may teach.

        What is frozen before the first trained tensor is kept in ``room``, and taken from it.

        Raises:
            Mismatch: the plan is not for what is loaded here.
        """
        self.admit(plan)
        built, taught_by = self._ready(plan.round), (base,) if taught(plan.learning.loss) else ()
        shapes = self.shapes(plan, start, *taught_by)  # before a record is looked at
        encoded = self._targets(plan, base, records, shapes, room)
        adapter_tensors.load(built, start)
        self._wrapped.train()
        try:
            losses = self._losses(plan.learning.loss, plan.round)
            if isinstance(plan.learning.event, DistributedDiscreteGaussian):
                done = client_sgd.run(built.model, built.parameters, encoded, plan.learning, rand, progress, losses)
            else:
                done = step.run(self._wrapped, built.parameters, encoded, plan.learning, rand, progress, losses)
            after = adapter_tensors.finite(adapter_tensors.dump(built), start)
        finally:  # what one member trained is not left for the next, whatever happened
            forget(built.parameters)
            adapter_tensors.load(built, self._start)
        return after, replace(plan.learning.event, steps=done)

    def agreement(self, base: bytes, after: bytes) -> float:
        """Return how alike two states are on public text, in (0, 1]: the mean of exp(-KL(base || after))."""
        logits = []
        encoded = self._public()
        for each in (base, after):
            adapter_tensors.load(self._built, each)
            logits.append(self._logits(encoded))
        adapter_tensors.load(self._built, self._start)
        return float(divergence(*logits).neg().exp().mean())

    def probed(self, after: bytes, probe: tuple[Record, ...]) -> float:
        """Minus the mean loss of a state on public labelled text."""
        labels = torch.tensor([each.label for each in probe])
        longest = min(64, self._built.longest or 64)
        return -float(step.cross_entropy(self.logits(after, probe, longest), labels).mean())

    def logits(self, adapter_state: bytes, records: tuple[Record, ...], max_tokens: int = 64) -> torch.Tensor:
        """Return what a state says of records: (records, labels)."""
        adapter_tensors.load(self._built, adapter_state)
        found = self._logits(self._records(records, max_tokens))
        adapter_tensors.load(self._built, self._start)
        return found

    def scored(self, weighting: Weighting, base: bytes, moved: bytes, probe: tuple[Record, ...]) -> float:
        """Return what a member's weight is made of: by the probe, where the weighting names one, or by agreement."""
        return self.agreement(base, moved) if weighting.probe is None else self.probed(moved, probe)

    @staticmethod
    def room() -> kept.Room:
        """Return room for what is frozen for one set of records, as a site has that says nothing of it."""
        return kept.Room()

    def bytes_kept(self, records: tuple[Record, ...], max_tokens: int) -> int:
        """Return the bytes of memory in which all is kept that is frozen for these records before what is trained."""
        return self.stems.taking(self._records(self.distinct(records, max_tokens), max_tokens))

    def _targets(
        self, plan: Plan, base: bytes, records: tuple[Record, ...], shapes: Shapes, room: kept.Room | None = None
    ) -> Encoded:  # fmt: skip
        """The records, each once as it is trained on, with what the broadcast model says of it where the loss asks."""
        tokens, loss = plan.learning.max_tokens, plan.learning.loss
        encoded = replace(self._records(self.distinct(records, tokens), tokens), shapes=shapes)
        if not isinstance(loss, SoftLabels) and UNKNOWN in encoded.labels:
            encoded = encoded.labelled()  # a record without the label that its loss needs contributes nothing, silently
        encoded = self.stems.within(room, encoded, plan.learning)
        if not taught(loss):
            return encoded
        adapter_tensors.load(self._built, base)
        said = torch.round(self._logits(encoded) * 1024) / 1024
        if isinstance(loss, PseudoLabels):
            public = self._logits(self._public())
            said = pseudo_labels.answers(loss, plan.round, said, public)
        return replace(encoded, teacher=said)

    def _public(self) -> Encoded:
        """The reference texts."""
        taken = 0 if self._pattern is None else self._pattern.taken
        return self._tokens(REFERENCE, (0,) * len(REFERENCE), 24 + taken)

    def _losses(self, loss: Loss, round_: int) -> step.Losses:
        return language.own_cost if self.task.kind == language.KIND else losses_of(loss, round_)

    def _logits(self, encoded: Encoded) -> torch.Tensor:
        """The model's logits as it stands: (records, labels)."""
        model = self._built.model
        found = torch.zeros(len(encoded.ids), len(self.task.labels))
        with torch.no_grad():
            for part in step.micro_batches(encoded, range(len(encoded.ids)), 128):
                ids, mask, _ = (each.to(model.center.device) for each in encoded.filled(part))
                with encoded.behind(part):
                    found[part] = model(ids, mask)[: len(part)].to("cpu", torch.float32)
        return found

    def train_without_privacy(
        self, plan: Plan, base: bytes, records: tuple[Record, ...], seed: int, start: bytes | None = None,
        room: kept.Room | None = None,
    ) -> bytes:  # fmt: skip
        """NOT PRIVATE: as many steps on as large samples, without clipping or noise; for a bench to compare with.

        From ``start``, or if there is none from ``base``, which may teach.
        A step takes the mean over its sample, and a step with an empty sample changes nothing.
        """
        self.admit(plan)
        built = self._ready(plan.round)
        encoded = self._targets(plan, base, records, Shapes(plan.learning.max_tokens), room)
        losses = self._losses(plan.learning.loss, plan.round)
        adapter_tensors.load(built, base if start is None else start)
        rand = repeatable(f"without privacy {seed}")
        client_sgd.run(built.model, built.parameters, encoded, plan.learning, rand, losses=losses)
        return adapter_tensors.dump(built)

    def evaluate(self, adapter_state: bytes, records: tuple[Record, ...], max_tokens: int = 64) -> Scores | Surprise:
        """Return how a state does on records; what a strategy keeps behind it plays no part."""
        adapter_tensors.load(self._built, adapter_state[: 4 * self.dimension])
        self._built.model.eval()
        try:
            if isinstance(self._built.model, Language):
                return surprise(self._built.model, self._records(records, max_tokens))
            return score(self._built.model, self._records(records, max_tokens), len(self.task.labels))
        finally:
            self._built.model.train()

    def save(self, adapter_state: bytes, out: Path, max_tokens: int = 64) -> None:
        """The state as files that PEFT loads, without what a strategy keeps behind it."""
        adapter_tensors.load(self._built, adapter_state[: 4 * self.dimension])
        if isinstance(self._built.model, Language):
            language_model.save(self._built, self.model.name, max_tokens, out)
        else:
            saving.save(self._built, self.task, self.model.name, max_tokens, out)

    def _ready(self, round_: int) -> Built:
        """The model with what the round trains: only its per-record gradients are kept."""
        built = self._built.at(round_)
        if [name for name, _ in built.trainable] != [name for name, _ in self._watched.trainable]:
            self._wrapped.close()
            self._watched, self._wrapped = built, wrap(built.model, self._asked)
        return built

    def forms(self, records: tuple[Record, ...], max_tokens: int) -> frozenset[bytes]:
        """What records are recognised by that this model cannot tell apart: their token ids in its vocabulary."""
        words: dict[str, int] = getattr(self._built.tokenizer, "get_vocab", dict)()
        known = digest("vocabulary", tuple(sorted(words.items())))
        return frozenset(
            same_records.form(known + repr(ids).encode()) for ids in self._records(records, max_tokens).ids
        )

    def longer(self, records: tuple[Record, ...], max_tokens: int) -> int:
        """How many records have more tokens than are read of them."""
        texts, labels = tuple(record.text for record in records), (0,) * len(records)
        return sum(len(row) > max_tokens for row in self._tokens(texts, labels, max_tokens + 1).ids)

    def distinct(self, records: tuple[Record, ...], max_tokens: int) -> tuple[Record, ...]:
        """Return what is trained on: records of one row of token ids are one record, with the label of most of them."""
        key, encoded = (id(records), max_tokens), self._records(records, max_tokens)
        if key not in self._single:
            first = dict(zip(reversed(encoded.ids), reversed(records), strict=True))
            labels = same_records.settled(encoded.ids, encoded.labels)
            kept = tuple(replace(first[ids], label=label) for ids, label in labels.items())
            self._single[key] = records, records if kept == records else kept
        return self._single[key][1]

    def _records(self, records: tuple[Record, ...], max_tokens: int) -> Encoded:
        key = (id(records), max_tokens)
        if key not in self._encoded:  # the tuple is kept beside its tokens, so its id stays its own
            texts, labels = tuple(r.text for r in records), tuple(r.label for r in records)
            self._encoded[key] = (records, self._tokens(texts, labels, max_tokens))
        return self._encoded[key][1]

    def _tokens(self, texts: tuple[str, ...], labels: tuple[int, ...], max_tokens: int) -> Encoded:
        built, texts = self._built, tuple(map(tokenizable, texts))
        ids = token_rows.of(built, texts, max_tokens, self._pattern)
        return Encoded(ids, labels, token_rows.padding(built), shapes=Shapes(max_tokens))
