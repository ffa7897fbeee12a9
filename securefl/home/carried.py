"""Who asks a party over an engine, and whom it asks there: as the roster says that its home took in or handed out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from securefl.documents import introduction
from securefl.documents.introduction import Role, Roster
from securefl.documents.project_file import SERVER
from securefl.errors import OperatorFault
from securefl.home import introduced

if TYPE_CHECKING:
    from securefl.home.home import Home


@dataclass(frozen=True, slots=True)
class Carried:
    """One party's neighbours, by the names that the engine has for them."""

    asked_by: tuple[str, ...]  # whose requests are handed on to it; none for a coordinator
    asks: tuple[str, ...]  # of a coordinator everybody, of a custodian the members, who may hold shares of its key


def carried(home: Home, federation: str) -> Carried:
    """Who asks this home's owner, and whom it asks.

    Raises:
        OperatorFault: the home has no roster of that federation.
    """
    held = introduced.taken_in(home, federation, introduced.ROSTER, Roster)
    if held is None:
        remedy = "join it first, or hand the roster out; or give another --federation"
        raise OperatorFault(f"no roster of {federation} is here", remedy, str(home.path))
    cards = [each.document.card for each in introduction.answers_of(held)]
    members = tuple(card.name for card in cards if card.role.has_records)
    custodians = tuple(card.name for card in cards if card.role is Role.CUSTODIAN)
    if home.owner == held.document.card.name:
        return Carried((), (*custodians, *members))
    if home.owner in custodians:
        return Carried((SERVER,), members)
    return Carried((SERVER, *custodians), ())
