"""A model's stem: what it computes for a record before the first tensor that an adapter can ever change.

It is frozen, so what it gives for a record is the same in every step of every round: it can be computed once and the
model be entered behind it. Where that is, is found by the tensors of the adapter's state, not by an adapter's kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from securefl.training import blocks
from securefl.training.built import Built
from securefl.training.classifier import Classifier
from securefl.training.language import Language

HEAD = "head."  # what a classifier's own tensors begin with


class Unreached(Exception):
    """The model passes by the block that its stem ends before."""


class _Reached(Exception):  # no fault: how a pass ends where it is no longer needed
    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


@dataclass(frozen=True, slots=True)
class Stem:
    """Some of a model's blocks, from the first on; or all of a classifier but its head."""

    model: Classifier | Language
    passed: tuple[nn.Module, ...]  # the blocks that are in it; none where it is all but the head
    entered: nn.Module | None  # the block behind them

    @property
    def name(self) -> str:
        """What it gives, as a person reads it."""
        if self.entered is None:
            return "each record's pooled features"
        return f"each record's hidden states behind block {len(self.passed)}"

    @property
    def row(self) -> int:
        """Bytes that it gives for one token, or for one record before a head."""
        config: Any = blocks.inner(self.model.encoder).config
        return int(getattr(config, "hidden_size", 0)) * next(self.model.encoder.parameters()).element_size()

    def values(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return what it gives: (batch, tokens, hidden), or (batch, hidden) before a head.

        Raises:
            Unreached: the block behind it was not called.
        """
        with torch.no_grad():
            if self.entered is None:
                assert isinstance(self.model, Classifier), "a language model has no head apart"
                return self.model.pooled(ids, mask)
            try:
                with _instead({self.entered: _reached}):
                    self.model(ids, mask)
            except _Reached as end:
                return end.hidden
        raise Unreached

    @contextmanager
    def behind(self, values: torch.Tensor) -> Iterator[None]:
        """The model computes from these values on, whatever ids it is given; their mask it still reads."""
        if self.entered is None:
            self.model.__dict__["pooled"] = lambda ids, mask: values  # noqa: ARG005 - the method's own signature
            try:
                yield
            finally:
                del self.model.__dict__["pooled"]
            return
        *first, last = self.passed
        with _instead({**dict.fromkeys(first, _same), last: lambda *_, **__: values}):
            yield


def of(built: Built) -> Stem | None:
    """The stem of a model; None where a tensor that can change stands before or beside its blocks, or in the first."""
    model, moved = built.model, {id(each) for name, each in built.stateful if not name.startswith(HEAD)}
    if not moved:
        return Stem(model, (), None)
    encoder = blocks.inner(model.encoder)
    path = blocks.path_of(encoder)
    if path is None:
        return None
    stack = blocks.stack(encoder, path)
    inside = [{id(each) for each in block.parameters()} & moved for block in stack]
    first = next((number for number, found in enumerate(inside) if found), 0)
    if first == 0 or moved != set().union(*inside):
        return None
    return Stem(model, stack[:first], stack[first])


def _reached(*given: Any, **named: Any) -> torch.Tensor:  # noqa: ANN401 - a block's own arguments
    raise _Reached(_same(*given, **named))


def _same(*given: Any, **named: Any) -> torch.Tensor:  # noqa: ANN401 - as above
    hidden: torch.Tensor = given[0] if given else named["hidden_states"]
    return hidden


@contextmanager
def _instead(forwards: Mapping[nn.Module, Callable[..., torch.Tensor]]) -> Iterator[None]:
    """These modules compute otherwise while the block runs."""
    for module, forward in forwards.items():
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module in forwards:
            module.__dict__.pop("forward", None)
