"""Whom a server lets in: a key in `nodes/`, called as its site is. What Flower has registered follows that folder.

`nodes.json` is what was registered, by key and not by name: a name is what the server's owner calls a key now. A key
that was taken back is let in no more, for Flower registers none twice.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from securefl_carriers.flower import private_files

FOLDER, FILE = "nodes", "nodes.json"


class NoKey(ValueError):
    """What should be a node's public key is none."""


def key_of(public: bytes) -> str:
    """Return what a node's public key is known by: SHA-256 of the key itself, however it was written down.

    Raises:
        NoKey: it is none.
    """
    try:
        key = serialization.load_ssh_public_key(public)
        form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        return hashlib.sha256(key.public_bytes(*form)).hexdigest()
    except (ValueError, UnsupportedAlgorithm) as fault:
        raise NoKey(f"no public key: {fault}") from fault


@dataclass(frozen=True, slots=True)
class Registered:
    """What Flower was told, by key: its number of each node, and the keys that were taken back."""

    nodes: Mapping[str, int]
    gone: tuple[str, ...] = ()


class Nodes:
    """The nodes of the server's kit in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._keys, self._file = folder / FOLDER, folder / FILE

    def keys(self) -> Mapping[str, str | None]:
        """Return each name in the folder with its key; None: what lies there is none, or not whole yet."""
        found = dict[str, str | None]()
        for path in sorted(self._keys.glob("*.pub")):
            found[path.stem] = None
            with suppress(NoKey, OSError):
                found[path.stem] = key_of(path.read_bytes())
        return found

    def admitted(self) -> Mapping[str, str]:
        """Return each name that is let in, with its key; a key that has two names is nobody's."""
        found = self.keys()
        many = Counter(found.values())
        return {name: key for name, key in found.items() if key is not None and many[key] == 1}

    def registered(self) -> Registered:
        """Return what Flower was told."""
        with suppress(FileNotFoundError):
            told = json.loads(self._file.read_text(encoding="utf-8"))
            return Registered({str(key): int(node) for key, node in told["nodes"].items()}, tuple(told["gone"]))
        return Registered({})

    def served(self) -> Mapping[str, int]:
        """Flower's number of each site that is let in and registered."""
        nodes = self.registered().nodes
        return {name: nodes[key] for name, key in self.admitted().items() if key in nodes}

    def new(self) -> Mapping[Path, str]:
        """Return the files of the keys that are let in and not registered, each with its key."""
        told = self.registered()
        known = {*told.nodes, *told.gone}
        return {self.place(name): key for name, key in self.admitted().items() if key not in known}

    def strays(self) -> Mapping[str, int]:
        """Return what is registered and has no name any more; nothing while what lies under a name is no key."""
        there = self.keys().values()
        if None in there:
            return {}
        return {key: node for key, node in self.registered().nodes.items() if key not in there}

    def place(self, name: str) -> Path:
        """Return where the key of a site lies."""
        return self._keys / f"{name}.pub"

    def register(self, key: str, node: int) -> None:
        """Note Flower's number of a key."""
        told = self.registered()
        self._note({**told.nodes, key: node}, told.gone)

    def take_back(self, key: str) -> None:
        """Note that Flower has forgotten a key."""
        told = self.registered()
        self._note({each: node for each, node in told.nodes.items() if each != key}, (*told.gone, key))

    def _note(self, nodes: Mapping[str, int], gone: tuple[str, ...]) -> None:
        private_files.write(self._file, json.dumps({"nodes": nodes, "gone": gone}).encode())
