"""What a coordinator writes down of a party that gave it no answer: that, and nothing in the party's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from securefl import wire
from securefl.protocol.messages import NoAnswer
from securefl.runtime.answering import SILENCE, heard
from securefl.seams import Failure
from securefl.terms import Refused
from tests.support.parties import CLOCK, COORDINATOR, Federation, InOrder, in_process

SET_BACK = NoAnswer("protocol.own-ledger-set-back")


class Engine:
    """Whoever carries: it never asks ``a``, and says in its place what needs no signature, or bytes."""

    def __init__(self, inner, says: bytes | Failure) -> None:
        self.inner, self.says = inner, says

    def exchange(self, outbound, waiting):
        asked = list(outbound)
        yield from self.inner.exchange([each for each in asked if each[0] != "a"], waiting)
        yield from ((name, self.says) for name, _ in asked if name == "a")


@pytest.mark.parametrize(
    ("says", "rule", "fix"),
    [
        (heard(SILENCE + wire.encode(SET_BACK)), "protocol.no-answer", f"no signed answer came: {SET_BACK}"),
        (b"no frame", "protocol.malformed", f"what came does not count: {NoAnswer('protocol.malformed')}"),
    ],
    ids=["a rule", "bytes"],
)
def test_what_came_without_a_signature_is_written_down_as_that(says, rule: str, fix: str, tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    with in_process(federation) as carrier:
        assert federation.drive(Engine(InOrder(carrier), says), clock=CLOCK).outcome == "finished"
    noted = [each for each in federation.entries(COORDINATOR) if isinstance(each, Refused)]
    assert noted
    for each in noted:
        (reason,) = each.reasons
        assert (each.what, reason.rule, reason.value, reason.fix) == ("answer", rule, "a", fix)
    assert not federation.entries("a")
