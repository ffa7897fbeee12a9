"""A node that is served for long hears who exchanged, revoked or gave up a key below it, before each run inside."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

import tests.site.test_build as above
from securefl.home import notices
from securefl.home.home import Home
from securefl.home.rotation import rotate
from securefl.site.build import Environment
from securefl.terms import MemberId, Noticed, RunId, SignedNotice, SumOpened
from tests.support.nodes import LEAVES, Node
from tests.support.sites import NOW, stream
from tests.support.small import Small

EVERYBODY = ("coordinator", *LEAVES)


@dataclass
class Served(Node):
    """Its time passes as it is told."""

    time: list[int] = field(default_factory=lambda: [NOW])

    def _around(self, name: str, **more) -> Environment:
        return Environment(stream(f"{name}/{self.time[0]}"), lambda: self.time[0], model=self.shared, **more)

    def home(self, name: str) -> Home:
        return Home.at(self.inner.places.of(name), MemberId(name), lambda: self.time[0])

    def say(self, name: str, how) -> None:
        """One party below says something of its key, and the others take it in; then time passes."""
        home = self.home(name)
        said: SignedNotice = how(home)
        home.engine.dispose()
        for other in EVERYBODY:
            if other != name:
                home = self.home(other)
                notices.take(home, "inside", said)
                home.engine.dispose()
        self.time[0] += 60


def rotated(home: Home) -> SignedNotice:
    return rotate(home, 0)[0]


def revoked(home: Home) -> SignedNotice:
    return notices.revoke(home, "inside")


def left(home: Home) -> SignedNotice:
    return notices.leave(home, "inside")


def sums(entries) -> list[tuple[str, ...]]:
    return [each.survivors for each in entries if isinstance(each, SumOpened)]


@pytest.fixture
def node(small: Small, tmp_path: Path) -> Served:
    return Served(small, tmp_path)


def test_a_served_node_goes_on_after_a_member_and_its_own_coordinator_exchanged_their_keys(node, monkeypatch) -> None:
    agent = node.agent()
    for number, party in enumerate((None, "l0", "coordinator"), 1):
        if party is not None:
            node.say(party, rotated)
        monkeypatch.setattr(above, "RUN", RunId(bytes([number]) * 16))
        ended = node.driven(agent)
        assert ended.outcome == "finished", (party, ended.why)
    assert sums(above.entries(node.outer, "coordinator")) == [("north", "south", "west")] * 3
    assert sums(above.entries(node.inner, "coordinator")) == [LEAVES] * 3


@pytest.mark.parametrize("said", [revoked, left])
def test_a_served_node_whose_own_coordinator_speaks_no_more_trains_nobody_below(node, monkeypatch, said) -> None:
    agent = node.agent()
    node.say("coordinator", said)
    monkeypatch.setattr(above, "RUN", RunId(b"9" * 16))
    node.driven(agent)
    assert sums(above.entries(node.inner, "coordinator")) == []
    assert all("north" not in each for each in sums(above.entries(node.outer, "coordinator")))
    for leaf in LEAVES:
        assert any(isinstance(each, Noticed) for each in node.said(leaf))
