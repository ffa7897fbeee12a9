"""Small trees of federations on disk: the small federation's model, three sites below each node."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from tests.support.small import FEDERATION, POLICY, Small, rows, sign

TOP = {"min_cohort: 3": "min_cohort: 2", "{at_least: 2}": "{at_least: 1}", "colluding: 1": "colluding: 0"}


class Tree(Small):
    """``nodes`` under a root, each with ``sites`` of its own: their names are those of no other."""

    def __init__(
        self, folder: Path, nodes: tuple[str, ...] = ("left", "right"), sites: int = 3,
        named: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(folder)
        self.nodes = named or {node: tuple(f"{node}-{number}-site" for number in range(sites)) for node in nodes}
        self.policy("top", None, **TOP)
        for node, names in self.nodes.items():
            self.policy(node, "top")
            for name in names:
                lines = ["text,label", *(f"{text},{label}" for text, label in rows(name))]
                (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")

    def policy(self, name: str, parent: str | None, **changes: str) -> Path:
        """A policy's file, with one colluding member; ``changes`` replace pieces of its text."""
        text = POLICY.replace("federation: small", f"federation: {name}").replace("colluding: 0", "colluding: 1")
        for old, new in changes.items():
            assert old in text, old
            text = text.replace(old, new)
        path = self.folder / f"{name}.policy.yaml"
        path.write_text(text + (f"parent: {{policy: {parent}.policy.yaml}}\n" if parent else ""))
        sign(path)
        return path

    def node(self, name: str, **changes: object) -> dict:
        """A node as its parent's file has it."""
        sites = [{"name": site, "region": "here", "data": {"file": f"{site}.csv"}} for site in self.nodes[name]]
        inside = {"policy": f"{name}.policy.yaml", "members": sites, **changes.pop("inside", {})}
        return {"name": name, "region": "here", "federation": inside, **changes}

    def tree(self, name: str = "tree.yaml", members: list | None = None, **changes: object) -> Path:
        """The root's file."""
        document = yaml.safe_load(yaml.safe_dump(FEDERATION))
        document |= {"name": "top", "policy": "top.policy.yaml", **changes}
        document["members"] = members or [self.node(node) for node in self.nodes]
        path = self.folder / name
        path.write_text(yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False))  # nothing stands there twice
        return path
