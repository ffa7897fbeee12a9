"""A site is a federation, and its own policy does not stand under the one above: do its members train for it?

The node is built of its SITE document, as `securefl site serve` does. It has succeeded if a member below reserved
anything for a plan.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from audits.protection.attempt import Attempt, Outcome
from securefl.errors import OperatorFault
from securefl.terms import Reserved
from tests.support.nodes import BELOW, LEAVES, PARENT, Node
from tests.support.small import POLICY, Small

SECOND = POLICY.replace("version: 1", "version: 2")
NOISE = "noise_multiplier: {at_least: 0.5}"


@cache
def _node(above: str = POLICY) -> Node:
    """A node and its parent's federation, which uses this policy; its own is laid out anew each time."""
    top = Path(mkdtemp(prefix="policy-below-"))
    return Node(Small(top), top, above=above)


def looser(drawn: random.Random) -> Callable[[str], str]:
    """Return what makes a policy looser in one field."""
    old, new = drawn.choice((
        ("schemes: [masking, masked-ckks]", "schemes: [clear]"),
        ("epsilon: 20", f"epsilon: {drawn.randint(21, 4000)}"),
        ("per_round: {epsilon: 10}", f"per_round: {{epsilon: {drawn.randint(11, 20)}}}"),
        (NOISE, f"noise_multiplier: {{at_least: 0.{drawn.randint(1, 49):02d}}}"),
        ("clip: {at_most: 1.0,", f"clip: {{at_most: {drawn.randint(2, 100)}.0,"),
        ("delta: 1e-5", f"delta: {drawn.randint(2, 900)}e-5"),
    ))  # fmt: skip
    return lambda text: _changed(text, old, new)


def _changed(text: str, old: str, new: str) -> str:
    assert old in text, old
    return text.replace(old, new)


def tried(node: Node, scheme: str = "masking") -> Outcome:
    """Build the node, and run a round of the federation above if that succeeds."""
    try:
        node.driven(node.agent(protection=scheme))
    except OperatorFault as fault:
        return Outcome(succeeded=False, stopped_by=type(fault).__name__)
    trained = any(isinstance(entry, Reserved) for leaf in LEAVES for entry in node.said(leaf))
    return Outcome(trained, "" if trained else "the round")


def loosens(number: int, base: Path) -> Outcome:
    """A node's policy stands under nothing, and allows what the one above forbids."""
    del base
    node, below = _node(), looser(random.Random(number))(BELOW)  # noqa: S311 - trials that can be repeated
    node.lay_out(below)
    return tried(node, "clear" if "clear" in below else "masking")


def left_behind(number: int, base: Path) -> Outcome:
    """A node's policy stands under the version before the one that the federation above has come to use."""
    del base
    tighter = random.Random(number).choice((("epsilon: 20", "epsilon: 15"), (NOISE, NOISE.replace("5", "7")), ("", "")))  # noqa: S311
    node = _node(SECOND.replace(*tighter))
    node.lay_out(BELOW + PARENT)
    return tried(node)


def another_above(number: int, base: Path) -> Outcome:
    """A node's policy stands under a looser one that bears the name of the federation above."""
    del base
    node, loose = _node(), looser(random.Random(number))  # noqa: S311
    below = loose(BELOW) + PARENT
    node.lay_out(below, loose(POLICY))
    return tried(node, "clear" if "clear" in below else "masking")


ATTEMPTS: tuple[Attempt, ...] = (
    Attempt("a node's own policy, under none, allows what the one above forbids", loosens),
    Attempt("a node's own policy stands under an earlier version of the one above", left_behind),
    Attempt("a node's own policy stands under a looser one of the same name", another_above),
)
