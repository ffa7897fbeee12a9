"""A model ready to be trained, and what an adapter state of it holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from securefl.terms import Adapter
from securefl.terms.layout import Layout, Tensor, trains
from securefl.training.classifier import Classifier

if TYPE_CHECKING:
    from securefl.training.language import Language


@dataclass(frozen=True, slots=True)
class Built:
    """A model ready to be trained, and how to turn text into its input."""

    model: Classifier | Language
    tokenizer: Any  # a transformers tokenizer
    trainable: tuple[tuple[str, nn.Parameter], ...]  # what is trained now, sorted by name
    stateful: tuple[tuple[str, nn.Parameter], ...]  # what can ever change, sorted by name: an adapter state
    adapter: Adapter

    @property
    def layout(self) -> Layout:
        """The tensors of an adapter state."""
        return Layout(tuple(Tensor(name, tuple(each.shape)) for name, each in self.stateful), self.adapter.rule)

    @property
    def dimension(self) -> int:
        """Entries of an adapter state."""
        return self.layout.entries

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained now, in the layout's order."""
        return [parameter for _, parameter in self.trainable]

    def at(self, round_: int) -> Built:
        """The same model, ready for a round: what the round does not train is frozen."""
        for name, parameter in self.stateful:
            parameter.requires_grad_(trains(self.adapter.rule, name, round_))
        return replace(self, trainable=tuple((n, p) for n, p in self.stateful if p.requires_grad))

    @property
    def longest(self) -> int | None:
        """Tokens of a record that the encoder has positions for, as far as its configuration says."""
        found = getattr(self.model.encoder.config, "max_position_embeddings", None)
        taken = getattr(self.model.encoder, "virtual", 0)
        return found - taken if isinstance(found, int) else None
