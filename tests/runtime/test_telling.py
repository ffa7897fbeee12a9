"""A line for the operator is read or lost: whatever became of the log, it decides nothing."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl.progress import progress
from securefl.runtime.answering import SILENCE, said
from securefl.telling import screen, tell
from securefl.terms import MessageReceived
from tests.support import parties
from tests.support.logs import LOGS, logging_to
from tests.support.parties import Federation, InOrder, in_process

AN_UPDATE = parties.an_update


@pytest.mark.parametrize("log", LOGS)
def test_whatever_became_of_the_log_a_line_ends_nothing(log: str) -> None:
    with logging_to(LOGS[log]()):
        for text in ("one line", "é" * 5000, "\ud800"):
            tell(text)
        with progress() as shown:
            shown.say("a line")
            shown.round(1, 2, 0.5, 8.0)
            shown.step("a", 1, 2)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=3000), max_size=5))
def test_a_log_that_is_read_has_every_line_whole(lines: list[str]) -> None:
    reads, writes = os.pipe()
    with logging_to(os.fdopen(writes, "w", buffering=1, encoding="utf-8")):
        for each in lines:
            tell(each)
        screen().write("end")
    with os.fdopen(reads, encoding="utf-8", newline="\n") as read:
        assert read.read() == "".join(f"{each}\n" for each in lines) + "end"


def seen(folder: Path, log: object, monkeypatch: pytest.MonkeyPatch, *, beyond: bool) -> tuple[object, ...]:
    """What everybody else sees of a, one value of whose update passes the grid or does not; and a's own entries."""

    def update(name: str, round_: int, dimension: int) -> object:
        made = AN_UPDATE(name, round_, dimension).copy()
        made[0] = 1e6 if beyond and name == "a" else made[0]
        return made

    monkeypatch.setattr(parties, "an_update", update)
    federation = Federation(folder)
    with in_process(federation) as carrier, logging_to(log):
        end = federation.drive(InOrder(carrier), 1)
    ledgers = federation.ledgers()
    received = [each.receipt.kind for each in ledgers["coordinator"] if isinstance(each, MessageReceived)]
    return end.outcome, received, [type(each) for each in ledgers["a"]]


def test_neighbours_look_alike_whatever_became_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = seen(tmp_path / "neighbour", io.StringIO(), monkeypatch, beyond=False)
    assert "Submitted" in expected[1]
    assert seen(tmp_path / "read", told := io.StringIO(), monkeypatch, beyond=True) == expected
    assert "clamped to the grid" in told.getvalue(), "the line is of this one record"
    for log in ("unread", "standing still", "almost full", "on a full disk"):
        assert seen(tmp_path / log, LOGS[log](), monkeypatch, beyond=True) == expected, log


class Broken:
    def handle(self, data: bytes) -> bytes:
        raise ZeroDivisionError("a fault of this site's own")


@pytest.mark.parametrize("log", LOGS)
def test_whatever_became_of_the_log_a_request_ends_with_an_answer(log: str) -> None:
    with logging_to(LOGS[log]()):
        assert said(Broken(), b"request").startswith(SILENCE)
