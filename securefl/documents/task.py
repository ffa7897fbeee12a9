"""What an adapter is for and which one it is, as a person writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from securefl.documents.strict import Part, Rational, Whole
from securefl.terms import Adapter, AdapterKind, AdapterRule, Features, Pooling, Prompt, Task
from securefl.terms.adapters import MOST_BIAS, MOST_BLOCKS

_LAST = re.compile(r"last ([1-9][0-9]{0,3})")


def _last(raw: Any) -> Any:  # noqa: ANN401 - whatever the document holds
    if raw is not None and (last_blocks(raw) or MOST_BLOCKS + 1) > MOST_BLOCKS:
        raise ValueError("write `last 2`, for the last two blocks")
    return raw


def last_blocks(written: object) -> int | None:
    """Return how many blocks ``last N`` means; None for whatever else is written."""
    found = _LAST.fullmatch(written) if isinstance(written, str) else None
    return None if found is None else int(found[1])


Last = Annotated[
    str | None,
    BeforeValidator(_last),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": f"^{_LAST.pattern}$"}, {"type": "null"}]}),
]
Block = Annotated[Whole, Field(ge=1, le=MOST_BLOCKS)]


class TaskPart(Part):
    """What the adapter is for."""

    kind: Literal["classification", "prompt", "language"] = Field(
        description="prompt: by the words a masked language model expects in a pattern's gap, without an own head; "
        "language: the next token of a causal one"
    )
    labels: tuple[str, ...] = Field((), description="the labels, in the order of the head's outputs; none for language")
    pattern: str | None = Field(None, description="prompt: a sentence with {text} for the text and [MASK] for the gap")
    verbalizer: dict[str, str | tuple[str, ...]] | None = Field(
        None, description="prompt: each label's word in the gap, or several, whose scores are averaged"
    )

    @model_validator(mode="after")
    def _of_its_kind(self) -> TaskPart:
        if self.kind == "language" and self.labels:
            raise ValueError("a language model has no labels: leave them out")
        if self.kind != "language" and len(self.labels) < 2:
            raise ValueError("two labels or more")
        for field in ("pattern", "verbalizer"):
            if (getattr(self, field) is None) == (self.kind == "prompt"):
                raise ValueError(f"kind {self.kind} {'needs' if self.kind == 'prompt' else 'has no'} `{field}`")
        for part in ("{text}", "[MASK]"):
            if self.pattern is not None and self.pattern.count(part) != 1:
                raise ValueError(f"pattern: {part} stands in it once")
        if self.verbalizer is not None and set(self.verbalizer) != set(self.labels):
            raise ValueError(f"verbalizer: a word for each of {', '.join(self.labels)}, and no other")
        for label, words in (self.verbalizer or {}).items():
            if not words or not all(word.strip() for word in words):
                raise ValueError(f"verbalizer.{label}: a word, or several")
        return self

    def task(self) -> Task:
        """As plans name it."""
        if self.pattern is None or self.verbalizer is None:
            return Task(self.kind, self.labels)
        words = (self.verbalizer[label] for label in self.labels)
        each = tuple((word,) if isinstance(word, str) else word for word in words)
        return Task(self.kind, self.labels, Prompt(self.pattern, each))


class FeaturesPart(Part):
    """What a head is shown of a record's pooled hidden state."""

    center: Literal["reference", "none"] = Field(
        "reference", description="what is taken off: the mean over securefl's own twelve reference sentences"
    )
    norm: Literal["unit", "none"] = Field("unit", description="unit: each record's is scaled to L2 norm 1")
    bias: Rational = Field(
        Fraction(3, 10), validate_default=True, gt=0, le=MOST_BIAS,
        description="a constant that stands behind it, in the place of a bias",
    )  # fmt: skip

    def features(self) -> Features:
        """As plans name them."""
        return Features(self.center == "reference", self.norm == "unit", self.bias)


class AdapterPart(Part):
    """What is trained on the frozen model, beside a linear head."""

    kind: AdapterKind = Field(AdapterKind.LORA, description="what is put on the model")
    rule: AdapterRule = Field(AdapterRule.B_ONLY, description="which factor of LoRA a round trains")
    targets: tuple[str, ...] = Field((), description="names of linear layers, as PEFT matches them")
    rank: Whole = Field(8, ge=1, le=1024, description="of LoRA; width of a bottleneck; vectors of a prompt or prefix")
    alpha: Whole = Field(16, ge=1, description="LoRA's scale is alpha / rank; rsLoRA's alpha / sqrt(rank)")
    seed: Whole = Field(0, ge=0, lt=2**63, description="what starts at random is drawn from it; public")
    layers: Last = Field(
        None, description="`last 2`: in the last two blocks alone, so all before them is computed once a record"
    )
    layer: Block | None = Field(None, description="the model is used up to this block, the first being 1; else whole")
    pooling: Pooling = Field(Pooling.MEAN, description="which of a record's hidden states the head is shown")
    features: FeaturesPart | None = Field(
        None, description="kind head: centre, norm and bias of what it is shown; {} for what does well with noise"
    )

    @model_validator(mode="after")
    def _of_its_kind(self) -> AdapterPart:
        if self.kind.has_targets and not self.targets:
            raise ValueError(f"kind {self.kind.value} sits on layers: name them in `targets`")
        if self.targets and not self.kind.has_targets:
            raise ValueError(f"kind {self.kind.value} sits on no layer: leave `targets` out")
        if not self.kind.has_factors and self.rule is not AdapterRule.B_ONLY:
            raise ValueError(f"kind {self.kind.value} has no factors A and B: leave `rule` out")
        if self.features is not None and self.kind is not AdapterKind.HEAD:
            raise ValueError(f"features are of kind head, and kind is {self.kind.value}: leave `features` out")
        if self.layers is not None and not self.kind.has_layers:
            raise ValueError(f"kind {self.kind.value} stands in no block alone: leave `layers` out")
        if self.layer is not None and (last_blocks(self.layers) or 0) > self.layer:
            what = f"layers: found {self.layers!r}, and `layer: {self.layer}` uses {self.layer} blocks"
            raise ValueError(f"{what}: write `last {self.layer}` or less, or raise layer")
        return self

    def rule_below(self) -> Iterator[tuple[str, str]]:
        """Yield why its rule cannot be trained by rounds inside another federation's round, and what would do."""
        if self.rule not in (AdapterRule.B_ONLY, AdapterRule.BOTH):
            what = f"adapter.rule {self.rule.value} goes from round to round of one run"
            yield f"{what}, and rounds inside are runs of their own", "use b-only in a tree"

    def adapter(self) -> Adapter:
        """As plans name it."""
        return Adapter(
            self.targets, self.rank, self.alpha, self.seed, self.kind, self.rule, last_blocks(self.layers), self.layer,
            self.pooling, None if self.features is None else self.features.features(),
        )  # fmt: skip
