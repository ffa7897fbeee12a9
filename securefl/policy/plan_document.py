"""A plan as a person writes it, to ask a policy about it. Seats are made up: what counts is how many, and where."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from securefl.documents import strict
from securefl.documents.clipping import FLAT, ClippingPart
from securefl.documents.strategy import AttentionPart, LossPart, WeightPart
from securefl.documents.strict import First, Flag, Rational, Whole
from securefl.documents.task import Block, FeaturesPart, Last, last_blocks
from securefl.documents.training import OptimizerName, SamplerName, check_rate
from securefl.errors import OperatorFault
from securefl.policy.limits import ProbeDigest
from securefl.terms import (
    Adapter,
    AdapterKind,
    AdapterRule,
    DistributedDiscreteGaussian,
    Event,
    FixedPoint,
    FullBatchGaussian,
    Hash,
    Learning,
    MemberId,
    Model,
    Participant,
    Plan,
    PoissonGaussian,
    Pooling,
    ProtectionSpec,
    PublicKey,
    RunId,
    Scheme,
    Sharing,
    Task,
    Unit,
)
from securefl.terms.names import FederationName

Positive = Annotated[Rational, Field(gt=0)]


class PlanDocument(BaseModel):
    """One round, in the words of the federation's file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    securefl_plan: First
    federation: str = Field(description="whose plan it is")
    purpose: str = Field(description="what the adapter is for")
    regions: tuple[str, ...] = Field(min_length=1, description="where the members stand, in turn")
    members: Whole = Field(ge=1, le=100_000)
    base_model: str = Field(description="as the policy names it")
    model_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    labels: tuple[str, ...] = ("no", "yes")
    kind: AdapterKind = Field(AdapterKind.LORA, description="what is put on the model")
    rule: AdapterRule = Field(AdapterRule.B_ONLY, description="which factor of LoRA a round trains")
    targets: tuple[str, ...] = Field((), description="names of linear layers, as PEFT matches them")
    rank: Whole = 8
    alpha: Whole = 16
    layers: Last = Field(None, description="`last 2`: in the last two blocks alone")
    layer: Block | None = Field(None, description="the model is used up to this block; else whole")
    pooling: Pooling = Field(Pooling.MEAN, description="which of a record's hidden states the head is shown")
    features: FeaturesPart | None = Field(None, description="kind head: centre, norm and bias of what it is shown")
    sampler: SamplerName = Field("poisson", description="which records are in a step: a sample, or every one")
    sampling_rate: Annotated[Rational, Field(gt=0, le=1)] | None = Field(
        None, description="sampler poisson: each record's chance to be in a step"
    )
    unit: Unit = Field(Unit.RECORD, description="what the noise hides: one record, or one client's update")
    noise_multiplier: Positive = Field(description="standard deviation of the noise / clip")
    steps: Whole = Field(ge=1, description="steps in the round: noisy ones under unit record")
    clip: Positive = Field(description="L2 norm that one record's gradient, or one client's update, is clipped to")
    clipping: ClippingPart = Field(FLAT, description="how a gradient is brought within the clip")
    honest: Whole | None = Field(None, ge=1, description="shares of noise that are priced; as many as are sure")
    dimension: Whole = Field(1, ge=1, description="entries of an update")
    divisor: Whole = Field(1, ge=1)
    learning_rate: Positive = Fraction(1)
    optimizer: OptimizerName = Field("sgd", description="how members step")
    max_tokens: Whole = Field(64, ge=1, description="of one record")
    micro_batch: Whole = Field(64, ge=1, description="records in memory at once")
    micro_tokens: Whole | None = Field(None, ge=1, description="tokens in memory at once")
    loss: LossPart = Field(default_factory=lambda: LossPart.model_validate({}), description="a record's loss")
    home: tuple[str, ...] = Field((), description="parts of names of tensors that stay with members")
    pull: Rational | None = Field(None, ge=0, le=1, description="how far a member's own model moves to the broadcast")
    weights: tuple[WeightPart, ...] = Field((), description="each is one more sum over the same updates")
    probe_sha256: ProbeDigest = Field("0" * 64, description="digest of the probe that members are weighed by")
    attention: AttentionPart | None = Field(None, description="key tensors are mixed, the others averaged")
    protection: Scheme = Field(description="how updates are hidden")
    min_cohort: Whole = Field(description="a sum over fewer members is not opened")
    threshold: Whole = Field(description="members it takes to open a mask")
    colluding: Whole = Field(description="members assumed to pool with the coordinator")
    value_bits: Whole = 24
    fraction_bits: Whole = 20
    ring_bits: Whole = 32
    custodian: Flag = Field(True, description="whether somebody apart from the members holds the decryption key")
    release: tuple[str, ...] = ("weights",)
    round: Whole = Field(1, ge=1)

    @model_validator(mode="after")
    def _rate_of_its_sampler(self) -> PlanDocument:
        check_rate(self.sampler, self.sampling_rate)
        return self

    @property
    def rate(self) -> Fraction:
        """Each record's chance to be in a step."""
        return Fraction(1) if self.sampling_rate is None else self.sampling_rate

    @model_validator(mode="after")
    def _noise_for_both_sums(self) -> PlanDocument:
        self.clipping.meant(self.divisor, self.noise_multiplier)
        return self


def draft(document: strict.Document, policy: Hash) -> Plan:
    """The plan a document describes, under this policy.

    Raises:
        OperatorFault: with line and field.
    """
    written = strict.validate(document, PlanDocument)
    try:
        return plan_of(written, policy)
    except ValueError as fault:
        raise OperatorFault(f"no plan can be made of this: {fault}", "change what it names", document.name) from fault


def plan_of(written: PlanDocument, policy: Hash) -> Plan:
    """The plan, complete: whatever a policy does not look at is zero."""

    def made_up(name: str) -> PublicKey:
        return PublicKey(hashlib.sha256(b"made-up seat\0" + name.encode()).digest())

    cohort = tuple(
        Participant(MemberId(f"member-{n + 1}"), made_up(str(n + 1)), written.regions[n % len(written.regions)])
        for n in range(written.members)
    )
    digest = bytes.fromhex(written.model_sha256) if written.model_sha256 else bytes(32)
    custodian = made_up("custodian") if written.protection.has_custodian and written.custodian else None
    cover = ProtectionSpec(
        written.protection, written.min_cohort, written.threshold, written.colluding,
        FixedPoint(written.value_bits, written.fraction_bits, written.ring_bits), custodian,
    )  # fmt: skip
    return Plan(
        FederationName(written.federation), policy, RunId(bytes(16)), written.round, written.purpose,
        Model(written.base_model, Hash(digest)), Task("classification", written.labels),
        Adapter(
            written.targets, written.rank, written.alpha, 0, written.kind, written.rule, last_blocks(written.layers),
            written.layer, written.pooling, None if written.features is None else written.features.features(),
        ),
        Learning(
            _event(written, cover), written.clip, written.divisor, written.learning_rate, written.optimizer,
            written.max_tokens, written.micro_batch, written.clipping.meant(written.divisor), written.micro_tokens,
            written.loss.loss(rounds=1),
        ),
        cover, cohort, written.release, Hash(bytes(32)), written.dimension, _sharing(written),
    )  # fmt: skip


def _sharing(written: PlanDocument) -> Sharing:
    probe = Hash(bytes.fromhex(written.probe_sha256))
    weightings = tuple(each.weighting(probe) for each in written.weights)
    attention = None if written.attention is None else written.attention.attention()
    return Sharing(weightings, written.home, written.pull, attention)


def _event(written: PlanDocument, cover: ProtectionSpec) -> Event:
    if written.unit is Unit.RECORD:
        if written.sampler == "full":
            return FullBatchGaussian(written.noise_multiplier, written.steps)
        return PoissonGaussian(written.rate, written.noise_multiplier, written.steps)
    honest = max(1, cover.honest) if written.honest is None else written.honest
    return DistributedDiscreteGaussian(
        written.clip, written.noise_multiplier, honest, written.dimension, written.fraction_bits,
        written.rate, written.steps,
    )  # fmt: skip
