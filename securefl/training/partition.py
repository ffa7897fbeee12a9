"""One file's records, dealt out to members whose labels differ: for experiments, where real members are not at hand.

Per label, the members' shares are one draw of a symmetric Dirichlet distribution (Hsu, Qi and Brown 2019): the smaller
its parameter, the more the members differ. All of it follows from a public seed and the records themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from securefl.errors import OperatorFault
from securefl.training.sources import Partition

DRAWS = 1000  # until every member has enough


@dataclass(frozen=True, slots=True, repr=False)
class Card:
    """What dealing looks at: a record's text, its label, and whether it is held out."""

    text: str  # as it stands in the file
    label: int
    held: bool


def deal(cards: Sequence[Card], partition: Partition) -> tuple[int, ...]:
    """For each card, the member that holds it, from 0. No two cards have one text, and their order plays no part.

    Every member has at least ``partition.at_least`` records to train on, and one held out if any is.

    Raises:
        OperatorFault: no draw gives every member as much.
    """
    order = sorted(range(len(cards)), key=lambda i: _place(partition.seed, cards[i].text))
    piles = [[i for i in order if cards[i].label == label] for label in sorted({card.label for card in cards})]
    chance = np.random.Generator(np.random.Philox(partition.seed))
    wanted = min(1, sum(card.held for card in cards))
    owners = np.empty(len(cards), dtype=np.int64)
    held = np.array([card.held for card in cards], dtype=bool)
    for _ in range(DRAWS):
        for pile in piles:
            shares = chance.dirichlet([float(partition.dirichlet)] * partition.members)
            ends = np.floor(np.cumsum(shares)[:-1] * len(pile))  # (members - 1,): the last takes the rest
            owners[pile] = np.searchsorted(ends, np.arange(len(pile)), side="right")
        trained, tested = (np.bincount(owners[part], minlength=partition.members) for part in (~held, held))
        if trained.min() >= partition.at_least and tested.min() >= wanted:
            return tuple(owners.tolist())
    what = f"{len(cards)} records do not give {partition.members} members {partition.at_least} each to train on"
    raise OperatorFault(what, "lower `members` or `at_least`, or raise `dirichlet`", "partition")


def limited(cards: Sequence[Card], limit: int) -> tuple[int, ...]:
    """The places of ``limit`` of the cards, in order: which ones depends on their texts alone."""
    chosen = sorted(range(len(cards)), key=lambda i: _place(None, cards[i].text))[:limit]
    return tuple(sorted(chosen))


def _place(seed: int | None, text: str) -> bytes:
    label = b"limit\0" if seed is None else b"partition\0" + seed.to_bytes(8, "big")
    return hashlib.sha256(label + text.encode("utf-8", "surrogatepass")).digest()
