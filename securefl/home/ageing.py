"""How old each party's key is, as a home knows it, beside what the policy allows: told before a round is refused."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from securefl.documents.finding import OK, SOON, WRONG, Finding
from securefl.home import adoption
from securefl.home.peers import known
from securefl.policy import key_age
from securefl.policy import load as policies
from securefl.protocol.key_ages import BEHIND_S, DAY_S
from securefl.terms import MemberId, PublicKey

if TYPE_CHECKING:
    from securefl.home.home import Home

SOON_FROM: Final = Fraction(4, 5)  # of the age that is allowed: from then on a warning is given
ROTATE: Final = "its owner exchanges it: `securefl keys rotate`, and the others take the notice in"


@dataclass(frozen=True, slots=True)
class Age:
    """One key's age here, and what the policy allows."""

    party: MemberId
    key: PublicKey
    age_s: int | None  # seconds since this home first knew it; None: no run here names it yet
    most_s: int | None  # seconds; None of a policy without a limit

    @property
    def is_over(self) -> bool:
        """Whether the next round refuses it."""
        return self.age_s is not None and self.most_s is not None and not -BEHIND_S <= self.age_s <= self.most_s

    @property
    def is_soon(self) -> bool:
        """Whether it is time for another key."""
        return self.age_s is not None and self.most_s is not None and self.age_s >= SOON_FROM * self.most_s

    def __str__(self) -> str:
        if self.age_s is None:
            return "no run with it yet"
        days = f"{max(self.age_s, 0) // DAY_S}"
        return f"{days} days" if self.most_s is None else f"{days} of {self.most_s // DAY_S} days"


def ages(home: Home, federation: str, most_s: int | None) -> tuple[Age, ...]:
    """Every key that a home knows in one federation, in the order of names.

    Args:
        home: by whose ledger and clock the ages are.
        federation: which.
        most_s: the age that its policy allows, in seconds; None of one without a limit.
    """
    pinned = known(home.path, federation)
    with home.transaction():
        held, now = home.live.now.ages, home.clock()
    keys = [(MemberId(name), PublicKey(bytes.fromhex(key))) for name, key in sorted(pinned.items())]
    return tuple(Age(name, key, held.age_s(key, now), most_s) for name, key in keys)


def most_s(home: Home, federation: str) -> int | None:
    """The age that is allowed in a home's next run: by the policy that is laid out, or that of its latest run there."""
    laid_out = adoption.staged_at(home.path, federation)
    if laid_out.exists():
        return key_age.most_age_s(policies.load(laid_out))
    with home.transaction():
        begun = [opened for _, opened in home.live.now.opened if opened.federation == federation]
    return key_age.most_age_in(begun[-1].policy) if begun else None


def found(home: Home, federation: str, allowed_s: int | None) -> Finding:
    """What a check of a party's document finds of the keys in one federation: too old, or old soon."""
    what, held = f"keys in {federation}", ages(home, federation, allowed_s)
    over, soon = [each for each in held if each.is_over], [each for each in held if each.is_soon]
    if over:
        return Finding(what, WRONG, f"too old: {_told(over)}", ROTATE)
    if soon:
        return Finding(what, SOON, f"soon too old: {_told(soon)}", ROTATE)
    limit = "the policy sets no age" if allowed_s is None else f"none older than {allowed_s // DAY_S} days"
    return Finding(what, OK, f"{len(held)} known here, {limit}")


def _told(held: list[Age]) -> str:
    return ", ".join(f"{each.party} ({each})" for each in held)
