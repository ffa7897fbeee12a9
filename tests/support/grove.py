"""A tree whose parties stand apart: two nodes under a coordinator, each with sites of its own, joined by commands alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from securefl.coordinator import run
from securefl.documents import coordinator_file, site_file
from securefl.progress import Silent
from securefl.runtime.inprocess import InProcess
from securefl.site.build import Environment
from securefl.site.dispatch import built
from securefl.terms import MemberId
from tests.support.apart import COORDINATOR, CUSTODIAN, Apart
from tests.support.ground import Ground
from tests.support.small import FEDERATION
from tests.support.trees import Tree

TRAINING = FEDERATION["training"]


class Grove(Apart):
    """A coordinator, its nodes, and each node's sites, each in a folder; a node's coordinator is at home at the node.

    ``encrypted`` are the nodes whose sub-federation has a custodian of its own, and under which protection.
    """

    small: Tree

    def __init__(
        self, small: Tree, folder: Path, capsys: pytest.CaptureFixture[str], encrypted: Mapping[str, str] | None = None
    ) -> None:
        self.encrypted = dict(encrypted or {})
        super().__init__(small, folder, capsys, members=tuple(small.nodes), policy="top.policy")

    @property
    def parties(self) -> tuple[str, ...]:
        return (*self.leaves, *self.custodians, *self.small.nodes)

    @property
    def custodians(self) -> dict[str, str]:
        """The custodian of each node that has one, and the node."""
        return {f"{node}-custodian": node for node in self.encrypted}

    def below(self, node: str) -> tuple[str, ...]:
        """Whom a node invites."""
        return (*self.small.nodes[node], *(name for name, of in self.custodians.items() if of == node))

    @property
    def leaves(self) -> dict[str, str]:
        """Each leaf, and the node it is a member of."""
        return {leaf: node for node, leaves in self.small.nodes.items() for leaf in leaves}

    def found(self) -> dict[str, str]:
        """Everybody makes a home, a key and a document of their own; the keys, by the way from the root."""
        keys = {}
        for leaf, node in self.leaves.items():
            home = self.place(leaf, "parties")
            self.given(leaf, "model", f"{leaf}.csv")
            keys[f"{node}/{leaf}"] = self.told(leaf, "site", "init", home, "--name", leaf, "--region", "here", "--model",
                                               "./model", "--data", f"{leaf}.csv")["key"]  # fmt: skip
        for name, node in self.custodians.items():
            told = self.told(name, "site", "init", self.place(name, "parties"), "--custodian")
            keys[f"{node}/{CUSTODIAN}"] = told["key"]
        for node, leaves in self.small.nodes.items():
            told = self.planted(node, leaves)
            keys |= {node: told["key"], f"{node}/{COORDINATOR}": told["coordinator_key"]}
        return {**keys, COORDINATOR: self.coordinates(training=TRAINING)}

    def planted(self, node: str, leaves: tuple[str, ...]) -> dict:
        """A node makes its two homes, and writes where its members answer."""
        home = self.place(node, "parties")
        policies = ("top.policy", f"{node}.policy")
        self.given(node, "model", *(f"{each}.{end}" for each in policies for end in ("yaml", "approvals.json")))
        invited = [part for leaf in leaves for part in ("--member", leaf)]
        told = self.told(node, "site", "init", home, "--name", node, "--region", "here", "--model", "./model",
                         "--policy", home / f"{node}.policy.yaml", *invited)  # fmt: skip
        self.wire(node)
        return told

    def wire(self, node: str) -> None:
        """Write into a node's document where its members answer."""
        text = self.document(node).read_text()
        for leaf in self.small.nodes[node]:
            assert f"sockets/{leaf}" in text
            text = text.replace(f"sockets/{leaf}", str(self.door(leaf)))
        for name in self.below(node)[len(self.small.nodes[node]) :]:
            assert "  protection: masking" in text
            protection = f"  custodian: {{socket: {self.door(name)}}}\n  protection: {self.encrypted[node]}"
            text = text.replace("  protection: masking", protection)
        self.document(node).write_text(text)

    def introduce(self) -> None:
        """From the top: the nodes join the federation above, then each invites its own members."""
        self.joined(COORDINATOR, self.members)
        for node in self.small.nodes:
            self.joined(node, self.below(node))

    def called(self, name: str) -> str:
        """What a party is called in its federation: each has one custodian."""
        return CUSTODIAN if name in self.custodians else name

    def joined(self, inviting: str, invited: tuple[str, ...]) -> None:
        document, mail = self.document(inviting), lambda what: self.sent(inviting, what)
        invitation = self.told(inviting, "site", "invite", document, "--out", mail("invitation"))
        for name in invited:
            answer = self.told(name, "site", "join", self.document(name), mail("invitation"), "--fingerprint",
                               invitation["fingerprint"], "--out", self.sent(name, "answer"))  # fmt: skip
            admitted = self.told(inviting, "site", "join", document, self.sent(name, "answer"), "--fingerprint",
                                 answer["fingerprint"])  # fmt: skip
            assert (admitted["joined"], admitted["name"]) == ("answer", self.called(name))
        roster = self.told(inviting, "site", "roster", document, "--out", mail("roster"))
        for name in invited:
            self.told(name, "site", "join", self.document(name), mail("roster"), "--fingerprint", roster["fingerprint"])

    def exported(self, place: Path) -> Path:
        """Everybody's ledger, each where it belongs: the root's here, a node's in ``below/NODE``."""
        for leaf, node in {**self.leaves, **self.custodians}.items():
            self.handed(leaf, self.document(leaf), place / "below" / node)
        for node in self.small.nodes:
            self.handed(node, self.document(node), place)
            self.handed(node, self.of(node) / "coordinator", place / "below" / node)
        return place

    def handed(self, name: str, party: Path, place: Path) -> None:
        found = Path(self.told(name, "ledger", "export", party, self.mail / name)["ledger"])
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(found, place)


class GroveGround(Grove, Ground):
    """The same, each another user with a process, a folder and a door of its own."""

    def asking(self, name: str) -> tuple[str, ...]:
        """Who may ask this party: a leaf its node, a node the coordinator."""
        return ({**self.leaves, **self.custodians}.get(name, COORDINATOR),)

    def planted(self, node: str, leaves: tuple[str, ...]) -> dict:
        told = super().planted(node, leaves)
        self.own(node)
        return told


def coordinated(grove: Grove, out: Path) -> run.Result:
    """The whole tree, in one process: each site built from its own document."""

    def sites(names: tuple[str, ...], around=lambda _: Environment()) -> InProcess:
        return InProcess(
            {MemberId(grove.called(name)): built(site_file.load(grove.document(name)), around(name)) for name in names}
        )

    nodes = sites(grove.members, lambda name: Environment(members=sites(grove.below(name))))
    return run.coordinate(coordinator_file.load(grove.document(COORDINATOR)), out, Silent(), nodes)


def preload_tree(grove: Grove, out: Path) -> None:
    """Have this interpreter import all that such a run imports on its way: other users could not read it."""
    grove.found()
    grove.introduce()
    result = coordinated(grove, out)
    assert result.outcome == "finished", result.why
