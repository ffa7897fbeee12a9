"""The nouns of a round, in the order a round makes them. Read this file first.

Every value here is frozen. Numbers that are signed, summed or compared are integers or exact
fractions in a named unit; floating point appears only inside an ``Update`` and in derived views.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, NewType

from securefl import rules
from securefl.shown import plain, short

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MemberId = NewType("MemberId", str)
Hash = NewType("Hash", bytes)  # SHA-256, 32 bytes
RunId = NewType("RunId", bytes)  # 16 bytes, drawn once per run
PublicKey = NewType("PublicKey", bytes)  # Ed25519, 32 bytes
MicroEpsilon = NewType("MicroEpsilon", int)  # millionths of epsilon, rounded up


class Unit(StrEnum):
    """Whose presence the guarantee hides."""

    RECORD = "record"
    CLIENT = "client"


class Neighbours(StrEnum):
    """Which two data sets the guarantee compares."""

    ADD_OR_REMOVE_ONE = "add-or-remove-one"


class Scheme(StrEnum):
    """How an update is hidden on its way."""

    CLEAR = "clear"
    MASKING = "masking"
    CKKS = "ckks"
    BFV = "bfv"
    MASKED_CKKS = "masked-ckks"
    MASKED_BFV = "masked-bfv"

    @property
    def has_masks(self) -> bool:
        """Whether members mask, so that a threshold of them opens a sum."""
        return self in (Scheme.MASKING, Scheme.MASKED_CKKS, Scheme.MASKED_BFV)

    @property
    def has_custodian(self) -> bool:
        """Whether there is a decryption key, and somebody apart who holds it."""
        return self in (Scheme.CKKS, Scheme.BFV, Scheme.MASKED_CKKS, Scheme.MASKED_BFV)

    @property
    def trusts_custodian(self) -> bool:
        """Whether the custodian can open a single update, and must be trusted not to."""
        return self.has_custodian and not self.has_masks

    @property
    def masked(self) -> Scheme:
        """The same encryption with masks inside, where there is one: what takes the trust in the custodian away."""
        return {Scheme.CKKS: Scheme.MASKED_CKKS, Scheme.BFV: Scheme.MASKED_BFV}.get(self, self)


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


class AdapterRule(StrEnum):
    """Which factor of BA a round trains."""

    B_ONLY = "b-only"  # B; A is frozen and the same for all (FFA-LoRA, Sun et al. 2024)
    ALTERNATING = "alternating"  # B in odd rounds, A in even ones (RoLoRA, Chen et al. 2024)
    SVD = "svd"  # B; after each sum A and B are those of the product's SVD (FedSVD, Lee et al. 2025)
    BOTH = "both"  # B and A, each averaged: biased, for comparison


class Level(StrEnum):
    """Whose limit a charge counts against."""

    DATASET = "dataset"  # the root: all that one site trained on one data set, whoever asked
    FEDERATION = "federation"  # one federation on that data set, with every federation below it
    RUN = "run"


class Bound(StrEnum):
    """What turns the events of one account into its epsilon."""

    PLD = "pld"  # privacy loss distributions: for events that do not depend on what earlier ones gave
    FILTER = "renyi-filter"  # for events that may (Feldman and Zrnic 2021, Lécuyer 2021)


# 1. What training costs.

LEAST_NOISE, MOST_NOISE = Fraction(1, 2**32), Fraction(2**32)  # no noise, and noise that no float holds, are no events


@dataclass(frozen=True, slots=True)
class PoissonGaussian:
    """``steps`` sums, each over a Poisson sample, clipped per record, with Gaussian noise.

    The sampled Gaussian mechanism of Mironov, Talwar and Zhang (2019). A value of this type always
    has noise: a multiplier that is missing, zero, negative or no finite fraction cannot be constructed.
    """

    unit: ClassVar[Unit] = Unit.RECORD

    sampling_rate: Fraction  # (0, 1]: each record's independent chance to be in one step
    noise_multiplier: Fraction  # [2**-32, 2**32]: standard deviation of the noise / clip_l2
    steps: int  # >= 1

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"sampling_rate={self.sampling_rate} is not in (0, 1]")
        exact: object = self.noise_multiplier  # an inf, a True or a "1" is no fraction, whatever it compares like
        if not (isinstance(exact, Fraction) and LEAST_NOISE <= exact <= MOST_NOISE):
            raise ValueError(f"noise_multiplier={self.noise_multiplier!r} is not a fraction in [2**-32, 2**32]")
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} is not at least 1")


@dataclass(frozen=True, slots=True)
class DistributedDiscreteGaussian:
    """One sum of whole updates on a grid, each clipped, each with a share of discrete Gaussian noise by its member.

    The mechanism of Kairouz, Liu and Steinke (2021). Priced for ``honest`` shares: more are more noise, and independent
    of these, so they cost nothing. Neighbours differ in one member's update, which is replaced by zero; that the member
    took part is not hidden. A value of this type always has noise.
    """

    unit: ClassVar[Unit] = Unit.CLIENT

    clip_l2: Fraction  # > 0: L2 norm of a whole update
    noise_multiplier: Fraction  # > 0: standard deviation of the sum of ``honest`` shares / clip_l2
    honest: int  # >= 1: shares in a sum that nobody who pools with others knows
    dimension: int  # >= 1: entries of an update
    fraction_bits: int  # >= 0: the grid is 2**-fraction_bits
    sampling_rate: Fraction  # (0, 1]: each record's chance to be in one of ...
    steps: int  # >= 1: ... so many local steps; neither has a part in the cost

    def __post_init__(self) -> None:
        for name in ("clip_l2", "noise_multiplier"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} is not above 0")
        for name in ("honest", "dimension", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not at least 1")
        if not 0 <= self.fraction_bits <= 64:
            raise ValueError(f"fraction_bits={self.fraction_bits} is not in 0..64")
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"sampling_rate={self.sampling_rate} is not in (0, 1]")
        if self.deviation < 1:
            raise ValueError(
                f"a share of deviation {float(self.deviation):.3g} grid units is below 1: use a finer grid"
            )

    @property
    def sensitivity(self) -> int:
        """L2 norm of a clipped update in grid units, rounded up.

        Rounding to the nearest grid point adds at most sqrt(dimension) / 2, and float64's own error is far below the
        share of 2**-30 that is counted for it.
        """
        clipped = self.clip_l2 * (1 << self.fraction_bits) * (1 + Fraction(1, 1 << 30))
        root = math.isqrt(4 * self.dimension - 1) + 1  # 2 * sqrt(dimension), rounded up
        return math.ceil(clipped) + (root + 3) // 4

    @property
    def deviation(self) -> Fraction:
        """Parameter of one share, about its standard deviation, in grid units: rounded up to a 256th."""
        variance = (self.noise_multiplier * self.clip_l2 * (256 << self.fraction_bits)) ** 2 / self.honest
        return Fraction(math.isqrt(math.ceil(variance) - 1) + 1, 256)

    @property
    def reach(self) -> int:
        """No entry of a share is further from 0: 14 deviations, beyond which a discrete Gaussian has mass 2**-145."""
        return math.ceil(14 * self.deviation) + 1

    @property
    def longest(self) -> int:
        """No entry of a clipped update with its share is further from 0: grid units."""
        return math.ceil(self.clip_l2 * (1 << self.fraction_bits)) + 1 + self.reach

    @property
    def defect(self) -> Fraction:
        """Total variation between all honest shares as drawn and ideal ones: reach times 2**-128 for each entry."""
        return Fraction(self.honest * self.dimension * (self.reach + 1), 1 << 128)


# A closed list: a new mechanism is a new type, and a type never changes its meaning.
Event = PoissonGaussian | DistributedDiscreteGaussian


def covering(priced: Event, did: Event) -> Event:
    """An event that costs at least what either does: ``priced`` itself, where ``did`` is no more than it.

    What ran is never charged for less than was set aside, and for more if it was more.
    """
    if isinstance(priced, PoissonGaussian) and isinstance(did, PoissonGaussian):
        return replace(
            priced,
            sampling_rate=max(priced.sampling_rate, did.sampling_rate),
            noise_multiplier=min(priced.noise_multiplier, did.noise_multiplier),
            steps=max(priced.steps, did.steps),
        )
    if isinstance(priced, DistributedDiscreteGaussian) and isinstance(did, DistributedDiscreteGaussian):
        return replace(priced, noise_multiplier=min(priced.noise_multiplier, did.noise_multiplier))
    return priced


class Unbounded(ValueError):
    """No finite cost describes this, so no budget can pay for it."""


class MixedUnits(Unbounded):
    """Events that hide records and events that hide members: no one epsilon describes both."""


def micro_epsilon(epsilon: float) -> MicroEpsilon:
    """Epsilon in millionths, rounded up: a cost is never understated.

    Raises:
        Unbounded: epsilon is infinite, negative or not a number.
    """
    if not 0 <= epsilon < math.inf:  # NaN fails every comparison, so it is refused here too
        raise Unbounded(f"epsilon={epsilon}")
    return MicroEpsilon(math.ceil(Fraction(epsilon) * 1_000_000))


# 2. The plan: knobs and their privacy event in one frozen object, so they cannot disagree.


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


@dataclass(frozen=True, slots=True)
class Flat:
    """A gradient g becomes g * min(1, C / |g|) (Abadi et al. 2016)."""


@dataclass(frozen=True, slots=True)
class Automatic:
    """A gradient g becomes g * C / (|g| + gamma), of norm below C whatever g is (Bu et al. 2022, AUTO-S)."""

    gamma: Fraction  # [1e-9, 1e9]

    def __post_init__(self) -> None:
        if not Fraction(1, 10**9) <= self.gamma <= 10**9:
            raise ValueError(f"gamma={self.gamma} is not in [1e-9, 1e9]")


MOST_SHARE = Fraction(99, 100)  # of an event's L2 bound that a count may take: half the noise alone would take it all


@dataclass(frozen=True, slots=True)
class Quantile:
    """Flat, with a C that follows a quantile of the norms, found by a noised count (Andrew et al. 2021).

    It starts each round at the plan's clip and is never above it. The count is paid for out of the event's own noise.
    """

    target: Fraction  # (0, 1): the share of gradients that should be below C
    rate: Fraction  # (0, 1]: C moves by exp(-rate * (noised share below C - target)) a step
    count_noise: Fraction  # >= noise_multiplier / 2 / MOST_SHARE: standard deviation of the noise on the count

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise ValueError(f"target={self.target} is not in (0, 1)")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate={self.rate} is not in (0, 1]")
        if not self.count_noise > 0:
            raise ValueError(f"count_noise={self.count_noise} is not above 0")

    def count_share(self, noise_multiplier: Fraction) -> Fraction:
        """The part of the L2 bound that the count takes; the gradient is left sqrt(1 - count_share**2) of it.

        Raises:
            ValueError: the count alone would cost the whole event, or nearly.
        """
        share = noise_multiplier / (2 * self.count_noise)
        if not 0 < share <= MOST_SHARE:
            least = noise_multiplier / 2 / MOST_SHARE
            what = f"count_noise={self.count_noise} is too little beside noise_multiplier={noise_multiplier}"
            raise ValueError(f"{what}: raise it to {least}, or lower noise_multiplier")
        return share


Clipping = Flat | Automatic | Quantile  # a closed list


@dataclass(frozen=True, slots=True)
class OwnLabel:
    """A record's loss is the cross-entropy of its own label."""


@dataclass(frozen=True, slots=True)
class NotForgotten:
    """Plus ``beta * t**2 * KL(broadcast model || own model)`` at temperature t, on the same record.

    Over the labels the record does not have (FedNTD, Lee et al. 2022), or over all of them (FedLSD).
    """

    beta: Fraction  # (0, 1000]
    temperature: Fraction  # [1/100, 100]
    true_label: bool  # whether the record's own label is compared too

    def __post_init__(self) -> None:
        if not 0 < self.beta <= 1000:
            raise ValueError(f"beta={self.beta} is not in (0, 1000]")
        _temperate(self.temperature)


@dataclass(frozen=True, slots=True)
class SoftLabels:
    """LP-FL-style: a record without a label learns from what the broadcast model says of it, once that is sure enough.

    Its loss is ``weight * KL(p || own model)`` if the largest of p = softmax(logits / temperature) reaches the round's
    threshold, and nothing otherwise: a function of this record, the broadcast and public constants alone.
    """

    weight: Fraction  # (0, 1000]
    temperature: Fraction  # [1/100, 100]
    first: Fraction  # [0, 1]: threshold of round 1
    last: Fraction  # [0, 1]: threshold of round ``rounds`` and later; between them it moves in equal steps
    rounds: int  # >= 1

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1000:
            raise ValueError(f"weight={self.weight} is not in (0, 1000]")
        _temperate(self.temperature)
        if not (0 <= self.first <= 1 and 0 <= self.last <= 1 and self.rounds >= 1):
            raise ValueError(f"no thresholds: {self.first} to {self.last} in {self.rounds} rounds")

    def threshold(self, round_: int) -> Fraction:
        """The public schedule, in place of a set that grows by what it holds."""
        return self.first + (self.last - self.first) * Fraction(min(round_, self.rounds) - 1, max(self.rounds - 1, 1))


class Scorer(StrEnum):
    """How unsure the broadcast model is of a record, from its logits for that record alone."""

    ENERGY = "energy"  # -T log sum_c exp(z_c / T) (Liu et al. 2020)
    ENTROPY = "entropy"  # of softmax(z / T)
    MARGIN = "margin"  # minus what the largest of z / T is above the second
    NONE = "none"  # of all records alike


@dataclass(frozen=True, slots=True)
class PseudoLabels:
    """FewFedWeight-style: ``loss(x, y) + weight * w(x) * loss(x, what the broadcast model answers)``, as one loss.

    w(x) = sigmoid((R - score(x)) / width), in (0, 1), where R is the median score on made-up public text: a function of
    this record, the broadcast and public constants alone. Under ``none`` it is 1.
    """

    weight: Fraction  # (0, 1000]
    scorer: Scorer
    temperature: Fraction  # [1/100, 100]
    width: Fraction  # [1/1000, 1000]: how gradual the change from trusted to not trusted is
    first: int  # >= 1: the round from which on the broadcast model is asked: at the start it knows nothing

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1000:
            raise ValueError(f"weight={self.weight} is not in (0, 1000]")
        _temperate(self.temperature)
        if not (Fraction(1, 1000) <= self.width <= 1000 and self.first >= 1):
            raise ValueError(f"no pseudo labels: width {self.width}, from round {self.first}")


def _temperate(temperature: Fraction) -> None:
    if not Fraction(1, 100) <= temperature <= 100:
        raise ValueError(f"temperature={temperature} is not in [1/100, 100]")


Loss = OwnLabel | NotForgotten | SoftLabels | PseudoLabels  # a closed list


@dataclass(frozen=True, slots=True)
class Learning:
    """How a member trains. Every number is a public constant: none depends on how many records a member has."""

    event: Event
    clip_l2: Fraction  # > 0: L2 norm that one record's gradient (unit record) or the update (unit client) is clipped to
    divisor: int  # >= 1: what the noised sum of a step is divided by; 1 where steps have no noise
    learning_rate: Fraction
    optimizer: str  # "sgd" | "adamw" | "adamw-bc"
    max_tokens: int
    micro_batch: int  # >= 1: records that are in memory at once
    clipping: Clipping = Flat()
    micro_tokens: int | None = None  # >= max_tokens: tokens, padding included, that are in memory at once
    loss: Loss = OwnLabel()

    def __post_init__(self) -> None:
        if isinstance(self.clipping, Quantile):
            self.clipping.count_share(self.event.noise_multiplier)
        if self.event.unit is Unit.CLIENT and not (isinstance(self.clipping, Flat) and self.optimizer != "adamw-bc"):
            raise ValueError("clipping by record and adamw-bc need noise in every step, which unit client has not")


@dataclass(frozen=True, slots=True)
class Weighting:
    """Each member's update counts exp(s) times, s = ``sharpness`` * score, clipped to +-``clip``.

    The score is the agreement, in (0, 1], of what the member trained with the broadcast, on public text; or minus the
    mean loss of what it trained on public labelled text, the probe. Either is a function of what is private already, so
    it costs nothing. Over members it is a softmax. A member remembers its weight and moves it by ``renewal`` a round.
    """

    sharpness: Fraction  # [-1000, 1000]
    clip: Fraction  # (0, 4]: two honest weights differ by a factor of exp(2 clip) at most
    share: Fraction = Fraction(1)  # [-10, 10]: of this mean in the step
    renewal: Fraction = Fraction(1)  # (0, 1]: share of the new weight; what is left is the weight before, at first 1
    probe: Hash | None = None  # of the probe; None: the score is the agreement

    def __post_init__(self) -> None:
        if not (-1000 <= self.sharpness <= 1000 and 0 < self.clip <= 4 and -10 <= self.share <= 10):
            raise ValueError(f"no weighting: sharpness {self.sharpness}, clip {self.clip}, share {self.share}")
        if not 0 < self.renewal <= 1:
            raise ValueError(f"renewal={self.renewal} is not in (0, 1]")


@dataclass(frozen=True, slots=True)
class Attention:
    """WorldLM-style: key tensors meet the more, the more alike what became of them; the rest is averaged plainly.

    A member's tensor counts exp(s) times, s = ``sharpness`` * cos(its change, the broadcast's) within +-``clip``, both
    changes from the public start. It is a function of states that are private already, so it costs nothing.
    """

    keys: tuple[str, ...]  # tensors with such a part in their name; at least one
    sharpness: Fraction  # [0, 100]; 0 is a plain mean
    clip: Fraction  # (0, 4]: two honest weights differ by a factor of exp(2 clip) at most
    residual: bool = False  # a second sum, with exp(-s): what is least alike is shown to all, to be taken by its like

    def __post_init__(self) -> None:
        if not (self.keys and 0 <= self.sharpness <= 100 and 0 < self.clip <= 4):
            raise ValueError(f"no attention: keys {self.keys}, sharpness {self.sharpness}, clip {self.clip}")


@dataclass(frozen=True, slots=True)
class Sharing:
    """What of a member's training leaves it, and what its next round starts from: its half of a strategy."""

    weightings: tuple[Weighting, ...] = ()  # each is one more sum over the same updates; none: one sum, equal weights
    home: tuple[str, ...] = ()  # tensors with such a part in their name stay with the member (FedPer)
    pull: Fraction | None = (
        None  # [0, 1]: how far a member's own model moves to the broadcast (L2GD); None: all the way
    )
    attention: Attention | None = None  # members keep their own key tensors, and mix them with the broadcast's

    def __post_init__(self) -> None:
        if self.attention is not None and (self.weightings or self.home or self.pull is not None):
            raise ValueError("attention with weights, home or pull: it has its own")
        if self.pull is not None and not 0 <= self.pull <= 1:
            raise ValueError(f"pull={self.pull} is not in [0, 1]")

    @property
    def sums(self) -> int:
        """Sums over the same updates that a round opens."""
        return 1 + self.attention.residual if self.attention else max(1, len(self.weightings))

    @property
    def keeps(self) -> bool:
        """Whether members keep a model of their own from round to round."""
        return bool(self.home) or self.pull is not None or self.attention is not None

    @property
    def remembers(self) -> bool:
        """Whether members keep their weights from round to round."""
        return any(each.renewal < 1 for each in self.weightings)


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Reals as integers on the grid 2**-fraction_bits, ``value_bits`` wide with sign, added modulo 2**ring_bits."""

    value_bits: int
    fraction_bits: int
    ring_bits: int

    def capacity(self) -> int:
        """The largest number of values whose sum cannot wrap around."""
        return 1 << (self.ring_bits - self.value_bits) if self.ring_bits >= self.value_bits else 0


@dataclass(frozen=True, slots=True)
class Cover:
    """How updates are hidden, and from whom at the least."""

    scheme: Scheme
    min_cohort: int  # a sum over fewer members is never opened
    threshold: int  # shares needed to open a mask, where there are masks
    colluding: int  # members assumed to pool what they know with the coordinator
    encoding: FixedPoint
    custodian: PublicKey | None  # who holds the decryption key, where there is one

    @property
    def honest(self) -> int:
        """How many inputs that nobody else knows stand in whatever is seen: 1 where each is seen alone."""
        return 1 if self.scheme is Scheme.CLEAR else self.min_cohort - self.colluding


@dataclass(frozen=True, slots=True)
class Seat:
    """A member of a cohort: the name, the key that signs for it, and the region it stands in."""

    member: MemberId
    key: PublicKey
    region: str


@dataclass(frozen=True, slots=True)
class Plan:
    """One round, complete. What is priced is what runs."""

    federation: str
    policy: Hash
    run: RunId
    round: int  # from 1
    purpose: str
    model: Model
    task: Task
    adapter: Adapter
    learning: Learning
    cover: Cover
    cohort: tuple[Seat, ...]
    release: tuple[str, ...]  # everything that leaves a site besides protocol messages: "weights"
    base: Hash  # digest of the adapter state trained from
    dimension: int  # entries of an update: of what this round trains and shares, and of its weights
    sharing: Sharing = Sharing()


# 3. Leave, or not. What is said in words may repeat what somebody else wrote: it is made plain as it is put in.


def _words(value: object, *names: str) -> None:
    """These fields of a value that is being made are short, and no character of them hides, whatever they are from."""
    for name in names:
        object.__setattr__(value, name, short(getattr(value, name)))


@dataclass(frozen=True, slots=True)
class Cap:
    """What one policy lets one account hold: for one of the data sets that may hold the same record, if several may."""

    level: Level
    name: str  # of the data set, the federation, or the run
    epsilon: MicroEpsilon  # rounded down
    delta: Fraction
    bound: Bound  # what the total is compared by
    by: str  # the federation whose policy it is


@dataclass(frozen=True, slots=True)
class Price:
    """What one plan would cost, computed for one state of one account."""

    plan: Hash
    account: Hash  # digest of the account it was computed for: for any other it is void
    round: MicroEpsilon  # this plan alone
    after: Mapping[Level, MicroEpsilon]  # each level's total with this plan in it
    above: Mapping[str, MicroEpsilon] = field(default_factory=dict)  # the same for each federation above the plan's
    caps: tuple[Cap, ...] = ()  # what holds these totals: its own policy's, and those of others with charges there


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to run one plan once, at a price already set aside. Made by ``policy.decide`` alone."""

    plan: Hash
    price: Price
    nonce: bytes  # 16 bytes: one grant, one reservation


@dataclass(frozen=True, slots=True)
class Reason:
    """One rule that says no: what was asked, what is allowed, the smallest change that would pass."""

    rule: str
    value: str
    limit: str
    fix: str

    def __post_init__(self) -> None:
        if self.rule not in rules.KNOWN:
            raise ValueError(f"{plain(self.rule[:80])!r} is the name of no rule: see securefl/rules.py")
        _words(self, "value", "limit", "fix")

    def __str__(self) -> str:
        return f"{self.rule}: {self.value} is outside {self.limit}; {self.fix}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """No, with every reason. A refusal without a reason cannot be made."""

    reasons: tuple[Reason, ...]

    def __post_init__(self) -> None:
        if not self.reasons:
            raise ValueError("a refusal names at least one reason")


# 4. What a member learned: never leaves its member; `wire` has no rule for it.


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Update:
    """The change of the trainable tensors, and what training really did."""

    values: NDArray[np.float64]  # (dimension,)
    did: Event
    below: Gathered | None = None  # how a federation that is a member came to it

    def __repr__(self) -> str:
        return f"Update({len(self.values)} values, not shown)"

    def __reduce__(self) -> Any:  # noqa: ANN401 - the signature of object.__reduce__
        raise TypeError("an Update stays at its member: it has no serial form")


# 5. What leaves, and the receipt for it.

KINDS = frozenset({  # every message there is
    "Invite", "Accept", "Enrol", "Enrolled", "Propose", "Submitted", "Declined", "Ask", "Answered", "Close", "Bye",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Receipt:
    """A sender's statement of what left it: signed, kept by both ends, enough to check the bytes later."""

    sender: MemberId
    to: MemberId
    run: RunId
    round: int  # 0 outside any round
    kind: str  # the message's name
    plan: Hash | None  # of the plan it belongs to
    cost: MicroEpsilon  # price of the round this message carries the result of; 0 for all others
    digest: Hash  # SHA-256 of the body
    size: int  # bytes of the body

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError("a receipt for a message of no known kind")


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message on its way: a receipt, its signature, and the body the receipt speaks of."""

    receipt: Receipt
    signature: bytes  # 64 bytes, Ed25519 over the receipt
    body: bytes


# 6. What the coordinator may look at.


@dataclass(frozen=True, slots=True, eq=False)
class Aggregate:
    """A sum over the survivors. Made by ``Protection.open`` alone."""

    total: NDArray[np.int64]  # (dimension,), in grid units
    survivors: tuple[MemberId, ...]
    encoding: FixedPoint

    def mean(self) -> NDArray[np.float64]:
        """The survivors' mean, as reals: (dimension,)."""
        return self.total / (len(self.survivors) * float(1 << self.encoding.fraction_bits))


# 7. What happened: the entries of a ledger. Hashes, knobs and costs; never payload.


@dataclass(frozen=True, slots=True)
class Opened:
    """A run begins, here, under this policy, with these peers."""

    run: RunId
    federation: str
    role: str  # "member" | "coordinator" | "custodian"
    policy: bytes  # the document itself, so that a copied ledger can be checked alone
    dataset: str  # the account's root at this site; empty where no records are held
    peers: tuple[Seat, ...]
    approvals: bytes = b""  # the signatures the policy was used with; empty for a run under an unsigned policy


@dataclass(frozen=True, slots=True)
class Reserved:
    """A plan was allowed and its price set aside, before any record was touched."""

    plan: Plan
    dataset: str
    price: Price
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Settled:
    """What a reserved plan really did. It replaces the reservation."""

    plan: Hash
    did: Event


@dataclass(frozen=True, slots=True)
class Gathered:
    """A plan's result was made by a federation below: totals and hashes, no name and no key of its members."""

    plan: Hash
    run: RunId  # of the federation below, for this plan alone
    plans: tuple[Hash, ...]  # of its rounds
    contributors: tuple[int, ...]  # to the sum of each
    head: Hash  # root of its coordinator's ledger, ...
    size: int  # ... of so many entries


@dataclass(frozen=True, slots=True)
class Freed:
    """A reservation given back, because no result of the plan exists."""

    plan: Hash
    why: str

    def __post_init__(self) -> None:
        _words(self, "why")


@dataclass(frozen=True, slots=True)
class Refused:
    """A plan or a request was refused, by policy, budget or protocol."""

    run: RunId
    round: int
    what: str
    reasons: tuple[Reason, ...]

    def __post_init__(self) -> None:
        _words(self, "what")


@dataclass(frozen=True, slots=True)
class Sent:
    """A message left this party."""

    receipt: Receipt
    signature: bytes


@dataclass(frozen=True, slots=True)
class Got:
    """A message arrived here, and its signature held."""

    receipt: Receipt
    signature: bytes


@dataclass(frozen=True, slots=True)
class Opening:
    """A sum was opened, over these survivors."""

    run: RunId
    round: int
    plan: Hash
    survivors: tuple[MemberId, ...]
    digest: Hash  # of the integer sum


@dataclass(frozen=True, slots=True)
class Released:
    """The adapter state a round ended with; every member receives the same."""

    run: RunId
    round: int
    digest: Hash


@dataclass(frozen=True, slots=True)
class Head:
    """A promise about a whole ledger: its owner's first ``size`` entries have this root."""

    owner: MemberId
    size: int
    root: Hash


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A head, under its owner's key."""

    head: Head
    signature: bytes


@dataclass(frozen=True, slots=True)
class Witnessed:
    """Another party's head, seen here: from now on it cannot show less."""

    head: SignedHead


@dataclass(frozen=True, slots=True)
class Closed:
    """A run ended here: ``finished``, ``refused`` or ``aborted``, and why."""

    run: RunId
    outcome: str
    why: str

    def __post_init__(self) -> None:
        _words(self, "outcome", "why")


@dataclass(frozen=True, slots=True)
class FileLeft:
    """One file of what a run left."""

    path: str  # from the run's folder, with slashes
    digest: Hash  # SHA-256


@dataclass(frozen=True, slots=True)
class Reported:
    """All of what a run left stands, and is this. Written by its coordinator, once, when the report is computed."""

    run: RunId
    ledgers: tuple[Head, ...]  # what the report was computed from
    files: tuple[FileLeft, ...]


Entry = (
    Opened | Reserved | Settled | Gathered | Freed | Refused | Sent | Got | Opening | Released | Witnessed | Closed
    | Reported
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Leaf:
    """One line of a ledger: when, and what."""

    at: int  # seconds since 1970, by the owner's clock
    entry: Entry
