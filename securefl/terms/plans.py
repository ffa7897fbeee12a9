"""The plan of one round, and who takes part."""

from __future__ import annotations

from dataclasses import dataclass

from securefl.terms.adapters import Adapter, Model, Task
from securefl.terms.learning import Learning
from securefl.terms.names import FederationName, Hash, MemberId, PublicKey, RunId
from securefl.terms.patience import Patience
from securefl.terms.schemes import ProtectionSpec
from securefl.terms.sharing import Sharing

NOTHING = Hash(bytes(32))


@dataclass(frozen=True, slots=True)
class Participant:
    """A member of a cohort: the name, the key that signs for it, and the region it stands in."""

    member: MemberId
    key: PublicKey
    region: str


@dataclass(frozen=True, slots=True)
class Plan:
    """One round, complete. What is priced is what runs."""

    federation: FederationName
    policy: Hash
    run: RunId
    round: int  # from 1
    purpose: str
    model: Model
    task: Task
    adapter: Adapter
    learning: Learning
    cover: ProtectionSpec
    cohort: tuple[Participant, ...]
    release: tuple[str, ...]  # everything that leaves a site besides protocol messages: "weights"
    base: Hash  # digest of the adapter state trained from
    dimension: int  # entries of an update: of what this round trains and shares, and of its weights
    sharing: Sharing = Sharing()  # noqa: RUF009 - frozen
    layout: Hash = NOTHING  # digest of the state's tensors: their names, shapes and order; no model has this one
    start: Hash = NOTHING  # digest of the state that the first round of all starts from, which each member computes
    patience: Patience = Patience()  # noqa: RUF009 - frozen
