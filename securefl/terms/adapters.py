"""What is trained: model, task and adapter."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final

from securefl.terms.names import Hash

MOST_BLOCKS: Final = 1024  # of a model
MOST_BIAS: Final = 1000


class AdapterKind(StrEnum):
    """What is put on the frozen base model and trained. A classifier has a linear head beside it."""

    LORA = "lora"
    RSLORA = "rslora"  # LoRA scaled by alpha / sqrt(rank)
    HEAD = "head"  # the head alone, on frozen features
    SOFT_PROMPT = "soft-prompt"  # trained vectors before the input embeddings
    PREFIX = "prefix"  # trained keys and values in every layer
    BOTTLENECK = "bottleneck"  # down, nonlinearity, up, added to a layer's output
    FULL = "full"  # every tensor of the named parts of the model itself: for comparison

    @property
    def has_factors(self) -> bool:
        """Whether it is a product BA, to which an ``AdapterRule`` applies."""
        return self in (AdapterKind.LORA, AdapterKind.RSLORA)

    @property
    def has_targets(self) -> bool:
        """Whether it sits on layers that are named."""
        return self.has_factors or self in (AdapterKind.BOTTLENECK, AdapterKind.FULL)

    @property
    def has_layers(self) -> bool:
        """Whether it can stand in the model's last blocks alone."""
        return self.has_targets

    @property
    def starts_alike(self) -> bool:
        """Whether its first values are read or drawn, the same bits on every machine: a model computes a prefix's."""
        return self is not AdapterKind.PREFIX


class Pooling(StrEnum):
    """Which of a record's hidden states a classifier's head is shown."""

    MEAN = "mean"  # over the record's tokens
    FIRST = "first"  # of its first token
    LAST = "last"  # of its last token: a decoder's has seen all

    @property
    def words(self) -> str:
        """What stands beside a saved adapter."""
        return {"mean": "mean over the mask", "first": "first token", "last": "last token of the mask"}[self.value]


class AdapterRule(StrEnum):
    """Which factor of BA a round trains."""

    B_ONLY = "b-only"  # B; A is frozen and the same for all (FFA-LoRA, Sun et al. 2024)
    ALTERNATING = "alternating"  # B in odd rounds, A in even ones (RoLoRA, Chen et al. 2024)
    SVD = "svd"  # B; after each sum A and B are those of the product's SVD (FedSVD, Lee et al. 2025)
    BOTH = "both"  # B and A, each averaged: biased, for comparison

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know before it is used."""
        if self is not AdapterRule.BOTH:
            return ()
        bias = "rule `both` averages A and B apart: mean(B) mean(A) is not mean(BA), but off by the members' covariance"
        noise = "noise on one factor is multiplied by the other"
        return (f"{bias} of B and A; and {noise}. Use b-only, alternating or svd.",)


@dataclass(frozen=True, slots=True)
class Model:
    """A base model, named as the operator named it and pinned by content."""

    name: str
    digest: Hash  # over configuration, weights and tokenizer files


@dataclass(frozen=True, slots=True)
class Prompt:
    """A classification as a gap in a sentence: which of these words does a masked language model expect there?"""

    pattern: str  # holds ``{text}`` once, for the record's text, and ``[MASK]`` once, for the gap
    words: tuple[tuple[str, ...], ...]  # of each label, in the labels' order: its logit is their mean


@dataclass(frozen=True, slots=True)
class Task:
    """What the adapter is for. ``kind`` is ``classification``, ``prompt`` (has one) or ``language`` (no labels)."""

    kind: str
    labels: tuple[str, ...]
    prompt: Prompt | None = None


@dataclass(frozen=True, slots=True)
class Features:
    """What a head is shown of a record's pooled hidden state: made with constants, so it is of this record alone.

    A constant stands behind it, whose weights are the head's bias: a head with features has no other.
    """

    centered: bool  # the mean over the base model's reference texts, which are public, is taken off
    unit: bool  # scaled to L2 norm 1
    bias: Fraction  # (0, MOST_BIAS]: the constant

    def __post_init__(self) -> None:
        if not 0 < self.bias <= MOST_BIAS:
            raise ValueError(f"bias={self.bias} is not in (0, {MOST_BIAS}]")


@dataclass(frozen=True, slots=True)
class Adapter:
    """What is trained, and a head. What starts at random is drawn from ``seed``, the same for all.

    LoRA starts with B at zero and orthonormal rows of A.
    """

    targets: tuple[str, ...]  # names of linear layers, as PEFT matches them; none for a kind without layers
    rank: int  # of LoRA; width of a bottleneck; vectors of a prompt or prefix
    alpha: int  # LoRA alone
    seed: int
    kind: AdapterKind = AdapterKind.LORA
    rule: AdapterRule = AdapterRule.B_ONLY  # LoRA alone
    layers: int | None = None  # 1 to MOST_BLOCKS: it stands in so many of the last blocks; None: in all
    layer: int | None = None  # 1 to MOST_BLOCKS: the model is used up to this block, and no further; None: whole
    pooling: Pooling = Pooling.MEAN  # of a classifier
    features: Features | None = None  # of kind head; None: the pooled state less the reference texts' mean, and a bias

    def __post_init__(self) -> None:
        for name, number in (("layers", self.layers), ("layer", self.layer)):
            if number is not None and not 1 <= number <= MOST_BLOCKS:
                raise ValueError(f"{name}={number} is not in 1 to {MOST_BLOCKS}")
        if self.layers is not None and self.layer is not None and self.layers > self.layer:
            raise ValueError(f"layers={self.layers} is above layer={self.layer}: so many blocks are used")
        if self.features is not None and self.kind is not AdapterKind.HEAD:
            raise ValueError(f"features for kind {self.kind.value}: they are of a head alone")
