"""What can go wrong, by blame; each class knows the exit code its blame deserves.

A "no" is not here: a refusal is a value (``terms.Refusal``). Our own bugs are ``AssertionError``.

A message is made of words from elsewhere too: names of files, of members, what a peer sent. Each is made plain as the
fault is made, so a line ends only where this code ends it.
"""

from __future__ import annotations

from typing import ClassVar

from securefl.shown import plain


class Fault(Exception):
    """Something outside this code is wrong; the message says what and what to do."""

    exit_code: ClassVar[int] = 70

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(map(plain, lines)))


class OperatorFault(Fault):
    """The person who runs this gave us something unusable. Nothing was changed.

    Args:
        what: what was found, with the value; of several findings a line for each.
        remedy: what would do instead.
        place: file, line and field, as far as known: ``policy.yaml:14: budget.epsilon``.
    """

    exit_code = 2

    def __init__(self, what: str | tuple[str, ...], remedy: str = "", place: str = "") -> None:
        lines = [plain(each) for each in ((what,) if isinstance(what, str) else what)] or [""]
        self.what, self.remedy, self.place = "\n".join(lines), plain(remedy), plain(place)
        lines[0] = (f"{place}: " if place else "") + lines[0]
        lines[-1] += f"; {remedy}" if remedy else ""
        super().__init__(*lines)


class Loosens(OperatorFault):
    """A policy below another one allows what that forbids: it cannot join."""

    exit_code = 3


class Interrupted(Fault):
    """A person stopped it. What was recorded stays, and the same command goes on from there."""

    exit_code = 130


class Elsewhere(OperatorFault):
    """Another process goes on with the same run; this one ends without having changed anything."""


class Missing(OperatorFault):
    """An optional part, a file or a model is not installed here."""


class PeerFault(Fault):
    """A peer sent what the protocol does not allow. The message is dropped, the state is unchanged.

    Args:
        what: what was found.
        rule: the name of what was broken. It stands in ledgers: a name never changes its meaning.
    """

    exit_code = 5
    rule: str = "protocol.peer"

    def __init__(self, what: str, rule: str = "") -> None:
        self.rule = rule or type(self).rule
        super().__init__(what)


class OutOfTurn(PeerFault):
    """The message is well formed, and this is not its turn."""

    rule = "protocol.out-of-turn"


class Malformed(PeerFault):
    """Bytes that are not the canonical encoding of what was expected."""

    rule = "protocol.malformed"


class Forged(PeerFault):
    """A signature, key or digest that does not match who the message says it is from."""

    rule = "protocol.forged"


class Unsafe(PeerFault):
    """A request that would show more than a sum over enough members."""

    rule = "protocol.unsafe"


class Tampered(Fault):
    """Stored evidence does not hold together.

    Args:
        where: the ledger file and, where known, the entry's index.
        why: which check failed.
    """

    exit_code = 4

    def __init__(self, where: str, why: str, entry: int | None = None) -> None:
        self.where, self.why, self.entry = plain(where), plain(why), entry
        super().__init__(f"{where}{'' if entry is None else f', entry {entry}'}: {why}")
