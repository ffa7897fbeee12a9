"""A member with a limit on the seconds of a round, whose clock passes when a test says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from securefl.site.agent import MemberAgent
from tests.support.parties import NOW, Federation


@dataclass
class Timed:
    """One member of a federation, by its own clock."""

    federation: Federation
    name: str
    most: int
    stepped: Callable[[int], None] = lambda _: None
    now: int = NOW
    agent: MemberAgent = field(init=False)

    def __post_init__(self) -> None:
        self.begins_again()

    def begins_again(self) -> None:
        """Another process of the same site, from the same home."""
        made = self.federation.agent(self.name, lambda done: self.stepped(done))
        assert isinstance(made, MemberAgent)
        self.agent = replace(made, home=replace(made.home, clock=lambda: self.now), round_s=self.most)
