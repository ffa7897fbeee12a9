"""One file's records, dealt out to members whose labels differ: for experiments, where real members are not at hand.

Per label, the members' shares are one draw of a symmetric Dirichlet distribution (Hsu, Qi and Brown 2019): the smaller
its parameter, the more the members differ. The draw follows from the public seed alone. Whose a record is follows from
the draw, its label and a hash of its text, so a record more or less moves no other one.
"""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from securefl.documents.data_source import Partition
from securefl.errors import OperatorFault

DRAWS = 10_000  # until no member's share is too small for experiments
LEAST = 4  # a member's share is, on average over the labels, at least 1 / (LEAST * members)


@dataclass(frozen=True, slots=True, repr=False)
class Card:
    """What dealing looks at: a record's text, its label, and whether it is held out."""

    text: str  # as it is trained on
    label: int  # -1 for none
    held: bool


def deal(cards: Sequence[Card], partition: Partition, labels: int) -> tuple[int, ...]:
    """For each card, the member that holds it, from 0. ``labels`` is how many the task has.

    Raises:
        OperatorFault: a member has fewer than ``partition.at_least`` records to train on, or none of those held out.
    """
    ends = _ends(partition.seed, partition.members, float(partition.dirichlet), labels)
    owners = tuple(bisect(ends[card.label], _drawn(partition.seed, card.text)) for card in cards)
    trained, tested = (
        Counter(owner for owner, card in zip(owners, cards, strict=True) if card.held is held) for held in (False, True)
    )
    everybody, wanted = range(partition.members), min(1, tested.total())
    few = [each for each in everybody if trained[each] < partition.at_least or tested[each] < wanted]
    if few:
        what = (
            f"part {few[0]} of {partition.members} has {trained[few[0]]} records to train on, {tested[few[0]]} held out"
        )
        remedy = "change the seed, lower `members` or `at_least`, or raise `dirichlet`"
        raise OperatorFault(what, f"{remedy} ({partition.at_least} are asked for)", "partition")
    return owners


@lru_cache(maxsize=64)
def _ends(seed: int, members: int, dirichlet: float, labels: int) -> tuple[tuple[int, ...], ...]:
    """Return where each member's share of a label ends, in [0, 2**64): (labels + 1, members - 1).

    The last row is of records without a label. Draws in which a member has next to nothing are passed over, which looks
    at no record.
    """
    chance = np.random.Generator(np.random.Philox(seed))
    least = 1 / (LEAST * members)
    for _ in range(DRAWS):
        shares = chance.dirichlet([dirichlet] * members, size=labels + 1)
        if shares[:labels].mean(0).min() >= least:
            return tuple(tuple(int(end * 2**64) for end in row) for row in np.cumsum(shares, axis=1)[:, :-1].tolist())
    what = f"no draw of dirichlet {dirichlet:g} gives each of {members} members {least:.1%} of the labels"
    raise OperatorFault(what, "lower `members`, or raise `dirichlet`", "partition")


def _drawn(seed: int, text: str) -> int:
    """A record's own place in [0, 2**64)."""
    hashed = hashlib.sha256(b"partition\0" + seed.to_bytes(8, "big") + text.encode("utf-8", "surrogatepass"))
    return int.from_bytes(hashed.digest()[:8], "big")
