"""What a trained module says of itself: what it is for, which base it stands on, which run made it, and at what price.

Its file of tensors is beside it. Everything here follows from the run's ledgers and that file.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from pydantic import BaseModel, ConfigDict

from securefl.terms import Adapter, AdapterKind, AdapterRule, Features, Hash, Plan, Pooling, Prompt, Task, Unit

TENSORS, MANIFEST = ".safetensors", ".json"


class Part(BaseModel):
    """A part of a manifest; nothing unknown stands in it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BasePart(Part):
    """The base model, as the operator named it and by content."""

    name: str
    digest: str


class FeaturesPart(Part):
    """What a head is shown of a record's pooled hidden state."""

    centered: bool
    unit: bool
    bias: tuple[int, int]  # numerator, denominator


class AdapterPart(Part):
    """What stands on the base, and the seed of what it starts from."""

    kind: AdapterKind
    rule: AdapterRule
    targets: tuple[str, ...]
    rank: int
    alpha: int
    seed: int
    layers: int | None = None  # of the last blocks
    layer: int | None = None  # the last block that is used
    pooling: Pooling = Pooling.MEAN
    features: FeaturesPart | None = None


class PromptPart(Part):
    """The sentence with a gap that the model fills, and each label's words."""

    pattern: str
    words: tuple[tuple[str, ...], ...]


class PricePart(Part):
    """What the run that made it cost the member it cost most."""

    epsilon: float
    delta: float
    unit: Unit


class Manifest(Part):
    """Everything about a module but its tensors."""

    securefl_module: Literal[1] = 1
    name: str
    kind: str
    labels: tuple[str, ...]
    prompt: PromptPart | None = None
    adapter: AdapterPart
    base: BasePart
    max_tokens: int
    run: str
    rounds: int
    plan: str  # hash of the last round's plan
    policy: str  # hash
    price: PricePart
    tensors: str  # SHA-256 of the file

    @property
    def task(self) -> Task:
        """As plans name it."""
        prompt = None if self.prompt is None else Prompt(self.prompt.pattern, self.prompt.words)
        return Task(self.kind, self.labels, prompt)

    @property
    def stands_as(self) -> Adapter:
        """As plans name it."""
        given = self.adapter
        shown = given.features
        features = None if shown is None else Features(shown.centered, shown.unit, Fraction(*shown.bias))
        return Adapter(
            given.targets, given.rank, given.alpha, given.seed, given.kind, given.rule, given.layers, given.layer,
            given.pooling, features,
        )  # fmt: skip


def manifest_of(name: str, plan: Plan, plan_hash: Hash, rounds: int, epsilon: float, delta: Fraction) -> Manifest:
    """Return what is to be said of the module that a run's last plan made; its tensors are not known yet."""
    adapter, prompt = plan.adapter, plan.task.prompt
    features = None
    if (shown := adapter.features) is not None:
        bias = (shown.bias.numerator, shown.bias.denominator)
        features = FeaturesPart(centered=shown.centered, unit=shown.unit, bias=bias)
    return Manifest(
        name=name,
        kind=plan.task.kind,
        labels=plan.task.labels,
        prompt=None if prompt is None else PromptPart(pattern=prompt.pattern, words=prompt.words),
        adapter=AdapterPart(
            kind=adapter.kind, rule=adapter.rule, targets=adapter.targets, rank=adapter.rank, alpha=adapter.alpha,
            seed=adapter.seed, layers=adapter.layers, layer=adapter.layer, pooling=adapter.pooling,
            features=features,
        ),
        base=BasePart(name=plan.model.name, digest=plan.model.digest.hex()),
        max_tokens=plan.learning.max_tokens,
        run=plan.run.hex(),
        rounds=rounds,
        plan=plan_hash.hex(),
        policy=plan.policy.hex(),
        price=PricePart(epsilon=epsilon, delta=float(delta), unit=plan.learning.event.unit),
        tensors="",
    )  # fmt: skip
