"""A base model that is in memory once, however many adapters stand on it.

Each adapter gets layers of its own around the same frozen tensors, so training one cannot move what another computes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from securefl.terms import Adapter, Model, Task
from securefl.training.model import Built, assemble, base_of, model_digest
from securefl.training.sources import resolve
from securefl.training.trainer import SharedModel


class Base:
    """A frozen base model, its tokenizer, and the name and digest it goes by."""

    def __init__(self, encoder: nn.Module, tokenizer: Any, model: Model) -> None:  # noqa: ANN401 - of transformers
        self.model, self._encoder, self._tokenizer = model, encoder.requires_grad_(False), tokenizer

    @classmethod
    def load(cls, name: str, folder: Path) -> Base:
        """The base model of this name; paths are relative to ``folder``.

        Raises:
            OperatorFault: it is not here, or its files do not hold it.
        """
        found = resolve(name, folder)
        digest = model_digest(found)
        return cls(*base_of(found), Model(name, digest))

    @property
    def parameters(self) -> int:
        """Numbers in the base model: what a full update would be."""
        return sum(each.numel() for each in self._encoder.parameters())

    def built(self, task: Task, adapter: Adapter) -> Built:
        """The base with one more adapter and head on it. Layers are copied, tensors are not.

        Raises:
            OperatorFault: the adapter does not fit this base.
        """
        tensors = {id(each): each for each in (*self._encoder.parameters(), *self._encoder.buffers())}
        return assemble(copy.deepcopy(self._encoder, tensors), self._tokenizer, task, adapter, self.model.name)

    def models(self, asked: Mapping[str, tuple[Task, Adapter, str]]) -> dict[str, SharedModel]:
        """One model to train for each task, adapter and engine; all are made before the first moves to a device.

        Raises:
            OperatorFault: an adapter does not fit, or an engine cannot serve it.
        """
        built = {name: self.built(task, adapter) for name, (task, adapter, _) in asked.items()}
        kept: Any = {}
        made = {}
        for name, (task, adapter, engine) in asked.items():
            made[name] = SharedModel(built[name], self.model, task, adapter, engine)
            made[name].share_tokens(kept)
        return made
