"""A site that is a federation, built of its SITE document like a live one, whatever its own policy says."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

from securefl.documents import site_file
from securefl.documents.site_file import Site
from securefl.home import adoption
from securefl.ledger.databases import LOCAL
from securefl.policy import load as policies
from securefl.protocol import coordinator_state
from securefl.simulation import parties
from securefl.simulation.introduction import found_signatures, home_of
from securefl.site.agent import Agent
from securefl.site.build import Environment, build
from securefl.terms import Entry, MemberId
from tests.support.sites import NOW, Introduced, Wire, stream
from tests.support.small import MEMBERS, POLICY, Small, rows, sign

LEAVES = ("l0", "l1", "l2")
PARENT = "parent: {policy: above.yaml}\n"
BELOW = POLICY.replace("federation: small", "federation: inside")


@dataclass
class Node:
    """``north`` of a small federation is the federation ``inside``; ``laid`` is what policy lies above its own."""

    small: Small
    folder: Path
    above: str = POLICY
    below: str = BELOW + PARENT
    laid: str = POLICY
    outer: Introduced = field(init=False)
    inner: Introduced = field(init=False)

    def __post_init__(self) -> None:
        top = self.small.folder
        (top / "above.yaml").write_text(self.laid)
        sign(top / "above.yaml")
        for name in LEAVES:
            lines = ["text,label", *(f"{text},{label}" for text, label in rows(name))]
            (top / f"{name}.csv").write_text("\n".join(lines) + "\n")
        self.outer = Introduced(
            self.small, self.folder / "outer", self.small.file("outer.yaml", self.above, training__rounds=1)
        )
        members = [{"name": name, "region": "here", "data": {"file": f"{name}.csv"}} for name in LEAVES]
        file = self.small.file("inner.yaml", self.below, members=members, training__rounds=1)
        file.write_text(file.read_text().replace("name: small", "name: inside"))
        self.inner = Introduced(self.small, self.folder / "inner", file)

    def lay_out(self, below: str, laid: str = POLICY) -> None:
        """Everybody inside agrees to another policy, signed, for the next run; above it lies ``laid``."""
        path = self.inner.file.with_name("inner.yaml.policy.yaml")
        for file, text in ((path.with_name("above.yaml"), laid), (path, below)):
            file.write_text(text)
            sign(file)
        policy = policies.load(path)
        signatures = found_signatures(path, policy, unsafe_unsigned=False)
        homes = [home_of(self.inner.places, name) for name in self.inner.places.parties]
        for home in homes:
            adoption.adoptable(home, policy, signatures)
        for home in homes:
            adoption.propose(home, policy, signatures)

    @cached_property
    def shared(self):
        """The model that everybody here trains."""
        return parties.load_model(self.outer.places.loaded)

    def site(self, **more: object) -> Site:
        """The node's SITE document."""
        document = yaml.safe_load(self.outer.documents[MemberId("north")].read_text())
        document.pop("data")
        home = self.inner.places.of("coordinator").absolute()
        seats = {seat.member: {"key": seat.key.hex(), "region": seat.region} for seat in self.inner.roster.members}
        inside = {"name": "inside", "home": str(home), "protection": "masking", "members": seats, **more}
        path = self.folder / "node.yaml"
        path.write_text(yaml.safe_dump(document | {"subfederation": inside}, sort_keys=False))
        return site_file.load(path)

    def agent(self, **more: object) -> Agent:
        """The node, with the way to its own members."""
        leaves = Wire({MemberId(name): self.inner.agent(name, self._around(name)) for name in LEAVES})
        return build(self.site(**more), around=self._around("node", members=leaves))

    def _around(self, name: str, **more) -> Environment:
        return Environment(stream(name), lambda: NOW, model=self.shared, **more)

    def driven(self, node: Agent) -> coordinator_state.Ended:
        """Run the federation above, with this node among its members."""
        from tests.site.test_build import driven

        agents = {MemberId(name): self.outer.agent(name, self._around(name)) for name in MEMBERS[1:]}
        return driven(self.outer, Wire({MemberId("north"): node, **agents}), self.shared.start)

    def said(self, leaf: str) -> list[Entry]:
        """What stands in the ledger of a member below; nothing if it was never asked."""
        from tests.site.test_build import entries

        return entries(self.inner, leaf) if (self.inner.places.of(leaf) / LOCAL).exists() else []
