"""The limits that a policy sets, each a small section: its fields, their units, and what they mean."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from securefl.documents.strategy import LossName
from securefl.documents.strict import Flag, Rational, Whole
from securefl.documents.training import OptimizerName
from securefl.terms import AdapterKind, AdapterRule, Scheme

ANY_MODEL = "any"  # the one word that stands for every base model
DIGEST = "sha256:"


def _base_model(name: str) -> str:
    if "*" in name:
        raise ValueError(f"no pattern is understood: write `{ANY_MODEL}` for every model, or each by name or digest")
    if name.startswith(DIGEST) and not re.fullmatch(r"[0-9a-f]{64}", name.removeprefix(DIGEST)):
        raise ValueError(f"write {DIGEST} and 64 lower-case hexadecimal digits")
    return name


Positive = Annotated[Rational, Field(gt=0)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
BaseModelName = Annotated[Name, AfterValidator(_base_model)]
ProbeDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Section(BaseModel):
    """Unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RankLimit(Section):
    """How large an adapter may be."""

    at_most: Annotated[Whole, Field(ge=1)] = Field(
        description="LoRA rank, bottleneck width, or vectors of a prompt or prefix"
    )


class ClipLimit(Section):
    """How far one record may move a step, or one member a round."""

    at_most: Positive = Field(
        description="norm that one record's gradient is clipped to; under unit client, a member's whole update"
    )
    norm: Literal["l2"] = Field(description="of which norm")


class NoiseLimit(Section):
    """How much noise every step needs; under unit client, every round."""

    at_least: Positive = Field(
        description="standard deviation of the noise / clip; under unit client, of all shares sure to be honest"
    )


class LearningRateLimit(Section):
    """How far a step may go. Below the least of it, nothing is learned but from what members kept."""

    at_least: Positive = Field(Fraction(1, 1_000_000), description="of any round")
    at_most: Positive = Field(Fraction(100), description="of any round")

    @model_validator(mode="after")
    def _in_order(self) -> LearningRateLimit:
        if self.at_most < self.at_least:
            raise ValueError(f"at_most {self.at_most} is below at_least {self.at_least}: no learning rate is left")
        return self


class DivisorLimit(Section):
    """What the noised sum of a step may be divided by: a large divisor is a small learning rate."""

    at_most: Annotated[Whole, Field(ge=1)] = Field(1_000_000, description="a public constant of the plan")


class MicroBatchLimit(Section):
    """How much of a sample may be in memory at once."""

    at_most: Annotated[Whole, Field(ge=1)] = Field(256, description="records")


class TokenLimit(Section):
    """How much of a text may be read."""

    at_most: Annotated[Whole, Field(ge=4)] = Field(512, description="tokens of one record")


class BaseLimit(Section):
    """Where a plan may start from: a huge state makes gradients that neither clip nor rounding were meant for."""

    norm_at_most: Positive = Field(Fraction(1000), description="L2 norm of the whole adapter state")


class ThresholdLimit(Section):
    """How many members it must take to open a mask."""

    at_least: Annotated[Whole, Field(ge=1)] = Field(
        description="members; never less than the safe threshold, (members + colluding) // 2 + 1"
    )


class FractionBitsLimit(Section):
    """How fine the grid may be that updates are added on."""

    at_least: Annotated[Whole, Field(ge=0, le=64)] = Field(18, description="the grid is 2**-fraction_bits")
    at_most: Annotated[Whole, Field(ge=0, le=64)] = Field(24, description="of a finer grid fewer values fit")

    @model_validator(mode="after")
    def _in_order(self) -> FractionBitsLimit:
        if self.at_most < self.at_least:
            raise ValueError(f"at_most {self.at_most} is below at_least {self.at_least}: no grid is left")
        return self


class ValueBitsLimit(Section):
    """How far a value may be from 0: 2**(value_bits - 1) steps of the grid."""

    at_most: Annotated[Whole, Field(ge=1, le=64)] = Field(32, description="bits, sign included")


class GridLimit(Section):
    """The grid that updates are added on."""

    fraction_bits: FractionBitsLimit = Field(default_factory=lambda: FractionBitsLimit.model_validate({}))
    value_bits: ValueBitsLimit = Field(default_factory=lambda: ValueBitsLimit.model_validate({}))


class RatioLimit(Section):
    """How unequally members may count."""

    at_most: Annotated[Rational, Field(ge=1)] = Field(
        Fraction(1), description="two honest weights of one sum differ by this factor at most; 1: all count the same"
    )


class Training(Section):
    """How members may train. An empty list allows nothing."""

    mechanisms: tuple[Literal["poisson-gaussian", "full-batch-gaussian", "distributed-discrete-gaussian"], ...] = Field(
        description="how training is made private: the first hides records in samples, the second in full batches, "
        "the third hides clients"
    )
    clip: ClipLimit
    clipping: tuple[Literal["flat", "automatic", "quantile"], ...] = Field(
        ("flat",), description="how gradients may be brought within the clip; flat alone if not given"
    )
    noise_multiplier: NoiseLimit
    losses: tuple[LossName, ...] = Field(
        ("own-label",), description="what a record's loss may be; its own label's cross-entropy alone if not given"
    )
    optimizers: tuple[OptimizerName, ...] = Field(
        ("sgd", "adamw"), description="how members may step; sgd and adamw if not given"
    )
    learning_rate: LearningRateLimit = Field(default_factory=lambda: LearningRateLimit.model_validate({}))
    divisor: DivisorLimit = Field(default_factory=lambda: DivisorLimit.model_validate({}))
    micro_batch: MicroBatchLimit = Field(default_factory=lambda: MicroBatchLimit.model_validate({}))
    tokens: TokenLimit = Field(default_factory=lambda: TokenLimit.model_validate({}))
    base: BaseLimit = Field(default_factory=lambda: BaseLimit.model_validate({}))
    adapters: tuple[AdapterKind, ...] = Field(
        (AdapterKind.LORA,), description="what may be put on the model; LoRA alone if not given"
    )
    rules: tuple[AdapterRule, ...] = Field(
        (AdapterRule.B_ONLY,), description="which factors of LoRA rounds may train; B alone if not given"
    )
    modules: tuple[Name, ...] = Field(
        description="linear layers that may get an adapter; as in PEFT, a name stands for all layers that end in it"
    )
    rank: RankLimit
    base_models: tuple[BaseModelName, ...] = Field(
        description="names, or sha256:HEX over configuration, weights and tokenizer; the word `any` allows every model"
    )


class Sharing(Section):
    """What members may keep to themselves, and how they may count. Not given: whole updates, all counted the same."""

    home: tuple[Name, ...] = Field(
        (), description="parts of names of tensors that may stay with a member, or that attention may mix"
    )
    pull: Flag = Field(False, description="whether members may keep a model of their own, pulled to the shared one")
    attention: Flag = Field(False, description="whether members may mix tensors of their own with the shared ones")
    weightings: Annotated[Whole, Field(ge=0)] = Field(
        0, description="how many weighted sums a round may open over the same updates; 0: plain sums alone"
    )
    probes: tuple[ProbeDigest, ...] = Field(
        (), description="digests of public labelled texts that members may be weighed by; see `securefl policy explain`"
    )
    weight_ratio: RatioLimit = Field(default_factory=lambda: RatioLimit.model_validate({}))


class KeyLimits(Section):
    """How long a party may speak by one key. Not given: as long as it likes."""

    max_age_days: Annotated[Whole, Field(ge=1, le=36_500)] | None = Field(
        None,
        description="if given, each party counts by its own ledger and clock, from when it first knew the key; "
        "an older one is refused in each round",
    )


class Protection(Section):
    """How updates must be hidden."""

    schemes: tuple[Scheme, ...] = Field(
        description="masking, masked-ckks, masked-bfv, ckks, bfv (these two if the custodian is trusted), or clear "
        "(which hides nothing)"
    )
    min_cohort: Annotated[Whole, Field(ge=2)] = Field(description="a sum over fewer members is never opened")
    threshold: ThresholdLimit
    colluding: Annotated[Whole, Field(ge=0)] = Field(description="members assumed to pool with the coordinator")
    trust: tuple[Literal["custodian"], ...] = Field(
        (), description="who is trusted not to open a single update: the custodian of ckks and bfv; nobody if not given"
    )
    grid: GridLimit = Field(default_factory=lambda: GridLimit.model_validate({}))
