"""The nouns of a round, in the order a round makes them. Read first: names, schemes, events, plans, entries.

Every value here is frozen. Numbers that are signed, summed or compared are integers or exact
fractions in a named unit; floating point appears only inside an ``Update`` and in derived views.
"""

from __future__ import annotations

from securefl.terms.adapters import Adapter, AdapterKind, AdapterRule, Features, Model, Pooling, Prompt, Task
from securefl.terms.decisions import Grant, Limit, Price, Reason, Refusal
from securefl.terms.entries import (
    Closed,
    Entry,
    FileLeft,
    Gathered,
    Leaf,
    MessageReceived,
    MessageSent,
    Noticed,
    Refused,
    Released,
    Reported,
    ReservationReleased,
    Reserved,
    RunJoined,
    Settled,
    SumOpened,
    Witnessed,
)
from securefl.terms.envelopes import KINDS, Envelope, Receipt, SignedReceipt
from securefl.terms.events import (
    LEAST_NOISE,
    MOST_NOISE,
    DistributedDiscreteGaussian,
    Event,
    FullBatchGaussian,
    MicroEpsilon,
    MixedUnits,
    PoissonGaussian,
    Unbounded,
    covering,
    micro_epsilon,
)
from securefl.terms.heads import Head, SignedHead
from securefl.terms.learning import MOST_SHARE, Automatic, Clipping, Flat, Learning, Quantile
from securefl.terms.losses import CrossEntropy, Loss, NotTrueDistillation, PseudoLabels, Scorer, SoftLabels
from securefl.terms.names import Accountant, Hash, Level, MemberId, Neighbours, PublicKey, RunId, Unit
from securefl.terms.notices import Departure, Handover, Notice, Revocation, SignedNotice
from securefl.terms.patience import Patience
from securefl.terms.plans import Participant, Plan
from securefl.terms.schemes import FixedPoint, ProtectionSpec, Scheme
from securefl.terms.sharing import Attention, Sharing, Weighting
from securefl.terms.updates import Aggregate, Update

__all__ = [
    "KINDS",
    "LEAST_NOISE",
    "MOST_NOISE",
    "MOST_SHARE",
    "Accountant",
    "Adapter",
    "AdapterKind",
    "AdapterRule",
    "Aggregate",
    "Attention",
    "Automatic",
    "Clipping",
    "Closed",
    "CrossEntropy",
    "Departure",
    "DistributedDiscreteGaussian",
    "Entry",
    "Envelope",
    "Event",
    "Features",
    "FileLeft",
    "FixedPoint",
    "Flat",
    "FullBatchGaussian",
    "Gathered",
    "Grant",
    "Handover",
    "Hash",
    "Head",
    "Leaf",
    "Learning",
    "Level",
    "Limit",
    "Loss",
    "MemberId",
    "MessageReceived",
    "MessageSent",
    "MicroEpsilon",
    "MixedUnits",
    "Model",
    "Neighbours",
    "NotTrueDistillation",
    "Notice",
    "Noticed",
    "Participant",
    "Patience",
    "Plan",
    "PoissonGaussian",
    "Pooling",
    "Price",
    "Prompt",
    "ProtectionSpec",
    "PseudoLabels",
    "PublicKey",
    "Quantile",
    "Reason",
    "Receipt",
    "Refusal",
    "Refused",
    "Released",
    "Reported",
    "ReservationReleased",
    "Reserved",
    "Revocation",
    "RunId",
    "RunJoined",
    "Scheme",
    "Scorer",
    "Settled",
    "Sharing",
    "SignedHead",
    "SignedNotice",
    "SignedReceipt",
    "SoftLabels",
    "SumOpened",
    "Task",
    "Unbounded",
    "Unit",
    "Update",
    "Weighting",
    "Witnessed",
    "covering",
    "micro_epsilon",
]
