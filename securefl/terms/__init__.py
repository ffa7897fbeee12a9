"""The nouns of a round, in the order a round makes them. Read first: names, schemes, events, plans, entries.

Every value here is frozen. Numbers that are signed, summed or compared are integers or exact
fractions in a named unit; floating point appears only inside an ``Update`` and in derived views.
"""

from __future__ import annotations

from securefl.terms.adapters import Adapter, AdapterKind, AdapterRule, Model, Prompt, Task
from securefl.terms.decisions import Cap, Grant, Price, Reason, Refusal
from securefl.terms.entries import (
    Closed,
    Entry,
    FileLeft,
    Freed,
    Gathered,
    Got,
    Leaf,
    Opened,
    Opening,
    Refused,
    Released,
    Reported,
    Reserved,
    Sent,
    Settled,
    Witnessed,
)
from securefl.terms.envelopes import KINDS, Envelope, Receipt, SignedReceipt
from securefl.terms.events import (
    LEAST_NOISE,
    MOST_NOISE,
    DistributedDiscreteGaussian,
    Event,
    MicroEpsilon,
    MixedUnits,
    PoissonGaussian,
    Unbounded,
    covering,
    micro_epsilon,
)
from securefl.terms.heads import Head, SignedHead
from securefl.terms.learning import MOST_SHARE, Automatic, Clipping, Flat, Learning, Quantile
from securefl.terms.losses import Loss, NotForgotten, OwnLabel, PseudoLabels, Scorer, SoftLabels
from securefl.terms.names import Bound, Hash, Level, MemberId, Neighbours, PublicKey, RunId, Unit
from securefl.terms.plans import Plan, Seat
from securefl.terms.schemes import Cover, FixedPoint, Scheme
from securefl.terms.sharing import Attention, Sharing, Weighting
from securefl.terms.updates import Aggregate, Update

__all__ = [
    "KINDS",
    "LEAST_NOISE",
    "MOST_NOISE",
    "MOST_SHARE",
    "Adapter",
    "AdapterKind",
    "AdapterRule",
    "Aggregate",
    "Attention",
    "Automatic",
    "Bound",
    "Cap",
    "Clipping",
    "Closed",
    "Cover",
    "DistributedDiscreteGaussian",
    "Entry",
    "Envelope",
    "Event",
    "FileLeft",
    "FixedPoint",
    "Flat",
    "Freed",
    "Gathered",
    "Got",
    "Grant",
    "Hash",
    "Head",
    "Leaf",
    "Learning",
    "Level",
    "Loss",
    "MemberId",
    "MicroEpsilon",
    "MixedUnits",
    "Model",
    "Neighbours",
    "NotForgotten",
    "Opened",
    "Opening",
    "OwnLabel",
    "Plan",
    "PoissonGaussian",
    "Price",
    "Prompt",
    "PseudoLabels",
    "PublicKey",
    "Quantile",
    "Reason",
    "Receipt",
    "Refusal",
    "Refused",
    "Released",
    "Reported",
    "Reserved",
    "RunId",
    "Scheme",
    "Scorer",
    "Seat",
    "Sent",
    "Settled",
    "Sharing",
    "SignedHead",
    "SignedReceipt",
    "SoftLabels",
    "Task",
    "Unbounded",
    "Unit",
    "Update",
    "Weighting",
    "Witnessed",
    "covering",
    "micro_epsilon",
]
