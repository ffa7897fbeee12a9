"""Which tensors an adapter state holds, and which of them a round trains.

A public function of model, rule and round: coordinator, member and auditor derive the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from securefl.terms import AdapterRule, Attention, Sharing
from securefl.terms.uploads import upload_of

ALL = Sharing()
VALUE_BYTES: Final = 4  # of one entry of a state: float32

A, B = ".lora_A.", ".lora_B."


def can_change(rule: AdapterRule, name: str) -> bool:
    """Return whether a tensor of the adapter is part of the state: a frozen A is not."""
    return A not in name or rule is not AdapterRule.B_ONLY


def trains(rule: AdapterRule, name: str, round_: int) -> bool:
    """Return whether a round trains a tensor. What is no factor of a product is trained in every round."""
    odd = round_ % 2 == 1
    if A in name:
        return rule is AdapterRule.BOTH or (rule is AdapterRule.ALTERNATING and not odd)
    return B not in name or rule is not AdapterRule.ALTERNATING or odd


def stays(name: str, sharing: Sharing) -> bool:
    """Return whether a tensor stays with its member: a name at home matches whole dotted parts, anywhere."""
    return named(name, sharing.home)


def named(name: str, parts: tuple[str, ...]) -> bool:
    """Return whether one of these stands in a tensor's name, as whole dotted parts."""
    return any(f".{each}." in f".{name}." for each in parts)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a state."""

    name: str
    shape: tuple[int, ...]

    @property
    def entries(self) -> int:
        """How many numbers it is."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """An adapter state's tensors, one after the other."""

    tensors: tuple[Tensor, ...]
    rule: AdapterRule

    @property
    def entries(self) -> int:
        """Entries of a state."""
        return sum(tensor.entries for tensor in self.tensors)

    def places(self) -> dict[str, slice]:
        """Return where each tensor stands in a state."""
        found, start = {}, 0
        for tensor in self.tensors:
            found[tensor.name] = slice(start, start + tensor.entries)
            start += tensor.entries
        return found

    def trained(self, round_: int) -> tuple[slice, ...]:
        """Return where in a state the tensors stand that a round trains: an update is these parts, in this order."""
        return tuple(place for name, place in self.places().items() if trains(self.rule, name, round_))

    def sent(self, round_: int, sharing: Sharing = ALL) -> tuple[slice, ...]:
        """Return where in a state the tensors stand that a round trains and that do not stay at home."""
        return tuple(
            place
            for name, place in self.places().items()
            if trains(self.rule, name, round_) and not stays(name, sharing)
        )

    def dimension(self, round_: int, sharing: Sharing = ALL) -> int:
        """Entries of a round's update."""
        return upload_of(sharing).dimension(self, round_)

    def keys(self, attention: Attention) -> tuple[slice, ...]:
        """Return where the key tensors stand in a state."""
        return tuple(place for name, place in self.places().items() if named(name, attention.keys))

    def backbone(self, attention: Attention) -> tuple[slice, ...]:
        """Return where the others stand."""
        return tuple(place for name, place in self.places().items() if not named(name, attention.keys))

    def products(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Each layer's A (rank, in) and B (out, rank), where the state holds both."""
        named = {tensor.name: tensor for tensor in self.tensors}
        pairs = ((tensor, named.get(tensor.name.replace(A, B))) for tensor in self.tensors if A in tensor.name)
        return tuple((a, b) for a, b in pairs if b is not None)
