"""The federations that rounds are measured of: plain FedAvg-LoRA, and ours in process and over sockets.

All have the same members, records, model, adapter, samples, steps and optimizer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml

from audits.speed.own_shapes import Before, Loose
from audits.speed.turns import Arm, Pause
from securefl.coordinator.drive import drive
from securefl.coordinator.run import prepare
from securefl.documents import federation_file
from securefl.home import adoption
from securefl.home.clock import clock
from securefl.home.home import Home
from securefl.planning.plan import FirstState, plan_of, strategy_of
from securefl.policy import load as policies
from securefl.progress import Silent
from securefl.protocol import coordinator_state
from securefl.runtime.inprocess import InProcess
from securefl.runtime.sockets import Sockets
from securefl.seams import Failure, Runtime, Waiting
from securefl.simulation.introduction import found_signatures, introduce_tree
from securefl.simulation.layout import SiteLayout
from securefl.simulation.own_sites import told_to_operator
from securefl.simulation.parties import Bench, load_model, records_of, runtime_of
from securefl.simulation.start_files import handed_over
from securefl.terms import MemberId, RunId
from securefl.terms.parties import COORDINATOR
from securefl.training import adapter_tensors, step
from securefl.training.built import Built
from securefl.training.model import build
from securefl.training.model_files import model_digest
from securefl.training.noise import poisson_sample
from securefl.training.optimizers import optimizer_of
from securefl.training.sources import resolve

if TYPE_CHECKING:
    from securefl.documents.federation import Loaded
    from securefl.terms import Learning
    from securefl.training.shared_model import SharedModel

EXAMPLE = Path("examples/airlines/federation.yaml")
FORWARD = 64  # rows of a batch of an ordinary step


@dataclass
class Counted:
    """A runtime whose bytes are counted, there and back."""

    inner: Runtime
    moved: int = 0

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], waiting: Waiting
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        """Carry as ``inner`` does."""
        for member, answer in self.inner.exchange(self._sent(outbound), waiting):
            assert not isinstance(answer, Failure), f"{member}: {answer}"
            self.moved += len(answer)
            yield member, answer

    def _sent(self, outbound: Iterable[tuple[MemberId, bytes]]) -> Iterator[tuple[MemberId, bytes]]:
        for member, request in outbound:
            self.moved += len(request)
            yield member, request


def written(folder: Path, **changes: Any) -> Loaded:  # noqa: ANN401 - what YAML has
    """The airlines' federation with some fields changed, in a folder of its own; ``training`` and others are merged."""
    fields = yaml.safe_load(EXAMPLE.read_text())
    policy = EXAMPLE.parent / fields["policy"]
    for name, value in changes.items():
        fields[name] = {**fields[name], **value} if isinstance(value, dict) else value
    del fields["training"]["epsilon"]
    rules = policy.read_text().replace("  base_models:\n", f"  base_models:\n    - {fields['model']}\n")
    (folder / "policy.yaml").write_text(rules if changes.get("model") else policy.read_text())
    path = folder / f"{fields['protection']}.yaml"
    path.write_text(yaml.safe_dump({**fields, "policy": "policy.yaml"}))
    return federation_file.load(path)


@dataclass
class Lent:
    """What all arms of this process share: the model that is trained privately, and everybody's records."""

    shared: SharedModel
    records: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: Loaded) -> Lent:
        """Load the model once."""
        return cls(load_model(loaded))

    def read(self, loaded: Loaded, name: str) -> Any:  # noqa: ANN401 - training.data.Records
        """Read a member's records, once."""
        if name not in self.records:
            self.records[name] = records_of(loaded, name)
        return self.records[name]


def ours(loaded: Loaded, sites: Path, lent: Lent, over: Callable[[Mapping[MemberId, Path]], Runtime] | None) -> Arm:
    """The product: record-level DP, its protection, signed ledgers; homes of their own below ``sites``.

    Args:
        over: the way to everybody, from their SITE documents; without one they are built in this process.
    """
    places = SiteLayout(loaded, sites)
    path = loaded.folder / loaded.file.policy
    policy = policies.load(path)
    signatures = found_signatures(path, policy, unsafe_unsigned=True)
    roster = introduce_tree([(places, policy, signatures)])[()]
    home = Home.at(places.of(COORDINATOR), COORDINATOR, clock)
    start, signed = handed_over(places, lent.shared.start), adoption.evidence(policy, signatures)
    ready = prepare(loaded, start, home, policy, roster.everybody, RunId(os.urandom(16)), signed)
    bench = Bench(lent.shared, os.urandom, Silent(), lent.read, {(): roster})
    carried = Counted(over(roster.documents) if over else runtime_of(places, bench))

    def run(pause: Pause) -> None:
        torch.set_num_threads(1)

        def observe(before: coordinator_state.State, moved: coordinator_state.Step) -> None:
            collecting = coordinator_state.Collecting
            if isinstance(moved.state, collecting) and not isinstance(before, collecting):
                pause()

        with told_to_operator():
            end = drive(home, coordinator_state.Planned(ready.course), ready.ports, carried, observe)
        assert end.outcome == "finished", end.why

    return Arm(run, lambda: carried.moved, tuple(getattr(carried.inner, "pids", ())))


class Served(Sockets):
    """Everybody as a process of its own, as ``securefl site serve`` makes it."""

    def __init__(self, served: Mapping[MemberId, subprocess.Popen[str]], places: Mapping[MemberId, Path]) -> None:
        super().__init__(places)
        self.pids = [each.pid for each in served.values()]


@contextmanager
def serving() -> Iterator[Callable[[Mapping[MemberId, Path]], Served]]:
    """A way to start everybody's process; all of them end afterwards."""
    started: dict[MemberId, subprocess.Popen[str]] = {}

    def start(documents: Mapping[MemberId, Path]) -> Served:
        places = {}
        for name, document in documents.items():
            command = [sys.executable, "-m", "securefl", "site", "serve", str(document), "--json"]
            started[name] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
        for name, each in started.items():
            assert each.stdout is not None, "it was asked for"
            told = "".join(iter(each.stdout.readline, "}\n")) + "}"
            places[name] = Path(json.loads(told)["socket"])
        return Served(started, places)

    try:
        yield start
    finally:
        for each in started.values():
            each.terminate()
        for each in started.values():
            each.wait()


@dataclass
class Ordinary:
    """A member of plain FedAvg-LoRA: ordinary batches, no clip, no noise; its update leaves as float32."""

    built: Built
    encoded: step.Encoded
    learning: Learning

    def handle(self, data: bytes) -> bytes:
        """Train from a state; answer with the change."""
        adapter_tensors.load(self.built, data)
        optimizer = optimizer_of(self.built.parameters, self.learning)
        self.built.model.train()
        for _ in range(self.learning.event.steps):
            drawn = poisson_sample(os.urandom, len(self.encoded.ids), self.learning.event.sampling_rate)
            self._step(optimizer, sorted(map(int, drawn), key=lambda i: len(self.encoded.ids[i])))
        after, before = (np.frombuffer(each, "<f4") for each in (adapter_tensors.dump(self.built), data))
        return (after - before).tobytes()

    def _step(self, optimizer: torch.optim.Optimizer, sample: Sequence[int]) -> None:
        optimizer.zero_grad()
        for begin in range(0, len(sample), FORWARD):
            ids, mask, labels = self.encoded.batch(sample[begin : begin + FORWARD])
            (step.cross_entropy(self.built.model(ids, mask), labels).sum() / len(sample)).backward()
        optimizer.step()


def plain(loaded: Loaded, lent: Lent) -> Arm:
    """Plain FedAvg-LoRA in the same loop: a state there, a change back, their mean; nothing is written down."""
    file, policy = loaded.file, policies.load(loaded.folder / loaded.file.policy)
    first = FirstState.of(lent.shared.start, strategy_of(loaded, lent.shared.start))
    learning = plan_of(loaded, policy, RunId(bytes(16)), first, None).learning
    found = resolve(file.model, loaded.folder)
    made = build(found, file.task.task(), file.adapter.adapter(), model_digest(found)).at(1)
    made.model.__class__ = Before
    members = {MemberId(each.name): _ordinary(made, lent, loaded, each.name, learning) for each in file.members}
    carried = Counted(InProcess(members))

    def run(pause: Pause) -> None:
        torch.set_num_threads(1)
        state = np.frombuffer(adapter_tensors.dump(made), "<f4")
        for _ in range(file.training.rounds):
            pause()
            asked = [(name, state.astype("<f4").tobytes()) for name in members]
            changes = [np.frombuffer(change, "<f4") for _, change in carried.exchange(asked, Waiting(3600, lambda: 0))]
            state = state + np.mean(changes, axis=0)

    return Arm(run, lambda: carried.moved)


def _ordinary(made: Built, lent: Lent, loaded: Loaded, name: str, learning: Learning) -> Ordinary:
    most = learning.max_tokens
    records = lent.shared.distinct(lent.read(loaded, name).train, most)
    tokens = made.tokenizer([each.text for each in records], truncation=True, max_length=most)["input_ids"]
    labels = tuple(each.label for each in records)
    encoded = step.Encoded(tuple(map(tuple, tokens)), labels, made.tokenizer.pad_token_id or 0)
    return Ordinary(made, replace(encoded, shapes=Loose(most)), replace(learning, divisor=1))
