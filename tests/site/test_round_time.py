"""What a site lets a round take, by its own clock: whatever the plan said, and whoever asks when."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from securefl import wire
from securefl.protocol import messages as m
from securefl.runtime.answering import Leaving
from securefl.runtime.inprocess import InProcess
from securefl.terms import MemberId, MessageSent, Refused, Reserved, Settled
from tests.support.late import Timed
from tests.support.parties import NOW, Federation

MOST = 100


class Asked:
    """A member; ``before`` is told of each request, and may let time pass."""

    def __init__(self, timed: Timed, before) -> None:
        self.timed, self.before = timed, before

    def handle(self, data: bytes) -> bytes | m.InProgress:
        self.before(wire.decode(data, m.Frame).envelope.receipt.kind)
        return self.timed.agent.handle(data)


def played(
    folder: Path, before=lambda timed: lambda kind: None, stepped=lambda timed: lambda done: None, rounds: int = 1
):
    federation = Federation(folder)
    timed = Timed(federation, "b", MOST)
    timed.stepped = stepped(timed)
    others = {MemberId(name): federation.agent(name) for name in federation.names}
    ended = federation.drive(InProcess({**others, MemberId("b"): Asked(timed, before(timed))}), rounds)
    return ended, federation.entries("b")


def said(entries, kind: str) -> int:
    return sum(isinstance(each, MessageSent) and each.receipt.kind == kind for each in entries)


@settings(max_examples=8)
@given(st.integers(-MOST, 3 * MOST) | st.sampled_from([MOST, MOST + 1]), st.booleans())
def test_a_question_is_answered_if_and_only_if_the_round_has_time_left_here(passed: int, again: bool) -> None:
    def before(timed: Timed):
        def told(kind: str) -> None:
            if kind == "Ask":
                timed.now += passed
                if again:
                    timed.begins_again()

        return told

    with tempfile.TemporaryDirectory() as folder:
        _, entries = played(Path(folder), before)
    refused = [reason.rule for each in entries if isinstance(each, Refused) for reason in each.reasons]
    assert said(entries, "Answered") == (passed <= MOST)
    assert set(refused) == (set() if passed <= MOST else {"protocol.late"})
    assert [type(each) for each in entries if isinstance(each, Reserved | Settled)] == [Reserved, Settled]


def test_a_site_whose_round_was_too_long_takes_part_in_the_next_one(tmp_path: Path) -> None:
    def before(timed: Timed):
        asked = []

        def told(kind: str) -> None:
            asked.append(kind)
            timed.now += (MOST + 1) * (kind == "Ask" and asked.count("Ask") == 1)

        return told

    ended, entries = played(tmp_path, before, rounds=2)
    assert (ended.outcome, ended.last_round) == ("finished", 2)
    assert (said(entries, "Submitted"), said(entries, "Answered")) == (2, 1)


def test_no_step_is_trained_once_the_rounds_time_is_over_and_what_ran_is_settled(tmp_path: Path, capfd) -> None:
    steps: list[int] = []

    def stepped(timed: Timed):
        def told(done: int) -> None:
            steps.append(done)
            timed.now += (MOST + 1) * (done == 3)

        return told

    ended, entries = played(tmp_path, stepped=stepped)
    assert ended.outcome == "finished", "the others went on"
    assert steps == [1, 2, 3]
    assert [each.did.steps for each in entries if isinstance(each, Settled)] == [3]
    assert (said(entries, "Declined"), said(entries, "Submitted")) == (1, 0)
    assert "the round takes longer than this site lets it, after 3 of 4 steps" in capfd.readouterr().err


def test_a_process_that_begins_again_after_the_rounds_time_trains_nothing_and_pays_the_whole_price(
    tmp_path: Path,
) -> None:
    steps: list[int] = []

    def stepped(timed: Timed):
        def told(done: int) -> None:
            steps.append(done)
            timed.agent.turns.leave()

        return told

    federation = Federation(tmp_path)
    timed = Timed(federation, "b", MOST)
    timed.stepped = stepped(timed)

    class Killed(Asked):
        def handle(self, data: bytes) -> bytes | m.InProgress:
            try:
                return super().handle(data)
            except Leaving:
                timed.now += MOST + 1
                timed.begins_again()
                return timed.agent.handle(data)

    others = {MemberId(name): federation.agent(name) for name in federation.names}
    ended = federation.drive(InProcess({**others, MemberId("b"): Killed(timed, lambda _: None)}))
    entries = federation.entries("b")
    assert ended.outcome == "finished"
    assert steps == [1]
    assert [each.did.steps for each in entries if isinstance(each, Settled)] == [4]
    assert (timed.now - NOW, said(entries, "Declined")) == (MOST + 1, 1)
