"""Which participants of an engine's network are whose: who asks a party there, whom it asks, each known by a key.

The engine's certificates are its own. A party's card names the public key in its one, so that a roster binds both: a
certificate for the same name with another key, whoever issued it, is nobody's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from securefl.documents import introduction
from securefl.documents.introduction import Authentic, Card, Role, Roster
from securefl.documents.project_file import SERVER
from securefl.errors import OperatorFault
from securefl.terms import Hash


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Of one party: keys by the names that the engine has for participants. A key is what ``Card.engine_key`` is."""

    own: Hash
    asked_by: Mapping[str, Hash]  # whose requests are handed on to it; none for a coordinator
    asks: Mapping[str, Hash]  # of a coordinator everybody, of a custodian the members, who may hold shares of its key

    @property
    def everybody(self) -> Mapping[str, Hash]:
        """All of them, but the party itself."""
        return {**self.asked_by, **self.asks}


def neighbours(roster: Authentic[Roster], party: str) -> Neighbours:
    """Who asks this party, and whom it asks.

    Raises:
        OperatorFault: it is not in the roster, or a card that counts here names no key.
    """
    coordinator = roster.document.card
    cards = {each.document.card.name: each.document.card for each in introduction.answers_of(roster)}
    members = {name: card for name, card in cards.items() if card.role.has_records}
    custodians = {name: card for name, card in cards.items() if card.role is Role.CUSTODIAN}
    if party == coordinator.name:
        return Neighbours(_key(coordinator), {}, _keys({**custodians, **members}))
    if party not in cards:
        what = f"{party} is not in the roster of {coordinator.federation}"
        raise OperatorFault(what, "give the document of a party that joined", coordinator.federation)
    own, server = _key(cards[party]), {SERVER: coordinator}
    if party in custodians:
        return Neighbours(own, _keys(server), _keys(members))
    return Neighbours(own, _keys({**server, **custodians}), {})


def _keys(cards: Mapping[str, Card]) -> Mapping[str, Hash]:
    return {name: _key(card) for name, card in cards.items()}


def _key(card: Card) -> Hash:
    if card.engine_key is None:
        what = f"what {card.name} signed names no key of an engine"
        remedy = (
            "it makes one with `securefl provision request --party`, then joins the invitation again (a coordinator: "
            "invites again), and a roster is handed out"
        )
        raise OperatorFault(what, remedy, card.federation)
    return card.engine_key
