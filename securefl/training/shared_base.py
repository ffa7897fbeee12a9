"""A base model that is in memory once, however many adapters stand on it.

Each adapter gets layers of its own around the same frozen tensors, so training one cannot move what another computes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from securefl.terms import Adapter, AdapterKind, Model, Task
from securefl.training.built import Built
from securefl.training.model import assemble, base_of
from securefl.training.model_files import pinned
from securefl.training.shared_model import SharedModel


class Base:
    """A frozen base model, its tokenizer, and the name and digest it goes by.

    A task that fills gaps needs the base with its own head: that form is loaded, once too, if there is such a task.
    """

    def __init__(self, found: Path | str, model: Model) -> None:
        self.model, self._found = model, found
        self._forms: dict[bool, tuple[nn.Module, Any]] = {}

    @classmethod
    def load(cls, name: str, folder: Path, called: str = "") -> Base:
        """The base model of this name or place; ``called`` is what plans call it, where that is another name.

        Raises:
            OperatorFault: it is not here.
        """
        found, digest = pinned(name, folder)
        return cls(found, Model(called or name, digest))

    def form(self, *, masked: bool = False) -> tuple[nn.Module, Any]:
        """The base model, with the head that fills a gap or without, and its tokenizer; the same every time.

        Raises:
            OperatorFault: its files do not hold it.
            Tampered: they changed since their digest was taken.
        """
        if masked not in self._forms:
            encoder, tokenizer = base_of(self._found, masked=masked, pinned=self.model.digest)
            self._forms[masked] = (encoder.requires_grad_(False), tokenizer)
        return self._forms[masked]

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401 - of transformers
        """How text becomes its input."""
        return self.form()[1]

    @property
    def parameters(self) -> int:
        """Numbers in the base model as it is used: what a full update would be."""
        used = self._forms or {False: self.form()}
        return max(sum(each.numel() for each in encoder.parameters()) for encoder, _ in used.values())

    def built(self, task: Task, adapter: Adapter) -> Built:
        """The base with one more adapter and head on it. Layers are copied, tensors are not, unless they are trained.

        Raises:
            OperatorFault: the adapter does not fit this base.
        """
        encoder, tokenizer = self.form(masked=task.prompt is not None)
        tensors = {id(each): each for each in (*encoder.parameters(), *encoder.buffers())}
        copied = copy.deepcopy(encoder, {} if adapter.kind is AdapterKind.FULL else dict(tensors))
        made = assemble(copied, tokenizer, task, adapter, self.model.name)
        assert not [name for name, each in made.stateful if id(each) in tensors], "no task moves the base"
        return made

    def models(self, asked: Mapping[str, tuple[Task, Adapter, str]]) -> dict[str, SharedModel]:
        """One model to train for each task, adapter and engine; all are made before the first moves to a device.

        Raises:
            OperatorFault: an adapter does not fit, or an engine cannot serve it.
        """
        built = {name: self.built(task, adapter) for name, (task, adapter, _) in asked.items()}
        return {
            name: SharedModel(built[name], self.model, task, adapter, engine)
            for name, (task, adapter, engine) in asked.items()
        }
