"""One request at a time for each run of a site: who comes meanwhile is told so, and nothing is trained twice for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl import wire
from securefl.errors import Forged
from securefl.protocol import messages as m
from securefl.runtime.answering import Leaving
from securefl.runtime.inprocess import InProcess
from securefl.site.agent import MemberAgent
from securefl.site.turns import Turn, Turns
from securefl.terms import (
    Entry,
    Hash,
    MemberId,
    MessageSent,
    MicroEpsilon,
    Receipt,
    Refused,
    ReservationReleased,
    Reserved,
    RunId,
    Settled,
)  # fmt: skip
from tests.support.parties import Federation, in_process
from tests.support.worlds import resigned

CHARGES = (Reserved, Settled, ReservationReleased)


class Slow:
    """One member whose training stops at a step until the test lets it go on; and how far each of its requests is."""

    def __init__(self, folder: Path, at: int, steps: int = 8) -> None:
        self.federation = Federation(folder, steps=steps)
        self.agent = self.federation.agent("b", self.stepped)
        assert isinstance(self.agent, MemberAgent)
        self.at, self.trained = at, 0
        self.there, self.go_on = threading.Event(), threading.Event()
        self.first: threading.Thread | None = None
        self.answers: list[bytes | m.InProgress] = []
        self.ended: list[BaseException] = []
        self.heard: dict[str, bytes] = {}  # the first request of each kind
        self.while_training: Callable[[bytes], None] = lambda _: None
        self.meanwhile: dict[str, Callable[[bytes], None]] = {}  # once, before the answer, if the training still runs
        self.failed: list[BaseException] = []  # what a runtime would take for a fault of this site

    def stepped(self, done: int) -> None:
        self.trained += 1
        if done == self.at:
            self.there.set()
            assert self.go_on.wait(60)

    def ask(self, data: bytes) -> None:
        try:
            self.answers.append(self.agent.handle(data))
        except BaseException as ended:
            self.ended.append(ended)

    def handle(self, data: bytes) -> bytes | m.InProgress:
        """As a connection that is lost while it trains: the coordinator hears nothing of this request."""
        kind = wire.decode(data, m.Frame).envelope.receipt.kind
        self.heard.setdefault(kind, data)
        if kind == "Propose" and self.first is None:
            self.first = threading.Thread(target=self.ask, args=(data,))
            self.first.start()
            assert self.there.wait(60)
            self.check(self.while_training, data)
            raise ConnectionError
        if kind in self.meanwhile and self.first is not None:
            self.check(self.meanwhile.pop(kind), data)
        return self.agent.handle(data)

    def check(self, what: Callable[[bytes], None], data: bytes) -> None:
        try:
            what(data)
        except BaseException as failed:
            self.failed.append(failed)
            self.go_on.set()

    def play(self, rounds: int = 1):
        with in_process(self.federation) as others:
            peers = others._peers | {MemberId("b"): self}
        end = self.federation.drive(InProcess(peers), rounds)
        self.go_on.set()
        assert self.first is not None
        self.first.join()
        for failed in self.failed:
            raise failed
        return end

    def told(self, *kinds: type[Entry]) -> list[Entry]:
        return [each for each in self.federation.entries("b") if isinstance(each, kinds)]


def test_a_repeated_request_is_told_how_far_it_is_and_costs_nothing(tmp_path: Path) -> None:
    slow = Slow(tmp_path, at=5)

    def again(data: bytes) -> None:
        before = len(slow.told(Entry))
        assert [slow.agent.handle(data) for _ in range(20)] == [m.InProgress(4, 8)] * 20
        assert len(slow.told(Entry)) == before
        slow.go_on.set()
        slow.first.join()
        assert slow.agent.handle(data) == slow.answers[0], "what is answered again is what was answered"

    slow.while_training = again
    assert slow.play().outcome == "finished"
    assert slow.trained == 8
    assert [type(each) for each in slow.told(*CHARGES)] == [Reserved, Settled]


def test_a_straggler_is_told_that_its_round_is_over_and_pays_for_what_ran(tmp_path: Path, capfd) -> None:
    slow = Slow(tmp_path, at=5)

    def the_next_round_begins(data: bytes) -> None:
        assert slow.agent.handle(data) == m.InProgress(4, 8)
        slow.go_on.set()

    slow.meanwhile["Enrol"] = the_next_round_begins
    end = slow.play(rounds=2)
    assert (end.outcome, end.last_round) == ("finished", 2)
    assert slow.trained == 5 + 8, "not a step more of the round that was over"
    reserved, settled, _, _ = slow.told(*CHARGES)
    assert settled.did.steps == 5
    assert wire.plan_hash(reserved.plan) == settled.plan
    assert "went on without this site, after 5 of 8 steps" in capfd.readouterr().err
    joined = [each.receipt.round for each in slow.told(MessageSent) if each.receipt.kind == "Submitted"]
    assert joined == [2], "it takes part in the next round"


def test_a_run_that_is_closed_meanwhile_costs_what_ran(tmp_path: Path) -> None:
    slow = Slow(tmp_path, at=3)

    def the_run_is_closed(data: bytes) -> None:
        assert slow.agent.handle(data) == m.InProgress(2, 8)
        slow.go_on.set()

    slow.meanwhile["Close"] = the_run_is_closed
    assert slow.play().outcome == "finished"
    assert slow.told(Settled)[0].did.steps == 3


def test_a_late_result_is_told_to_its_operator(tmp_path: Path, capfd) -> None:
    slow = Slow(tmp_path, at=5)

    def ends(_: bytes) -> None:
        slow.go_on.set()
        slow.first.join()

    slow.while_training = ends
    assert slow.play(rounds=2).outcome == "finished"
    assert [each.did.steps for each in slow.told(Settled)] == [8, 8]
    assert "b: round 1 went on without this site's result" in capfd.readouterr().err


def test_nobody_but_the_coordinator_ends_a_training(tmp_path: Path) -> None:
    slow = Slow(tmp_path, at=3)

    def strangers(data: bytes) -> None:
        frame = wire.decode(data, m.Frame)
        receipt = frame.envelope.receipt
        closing = m.Close("aborted", "enough", 0, b"", ())
        with pytest.raises(Forged):
            slow.agent.handle(wire.encode(resigned(receipt, closing, "mallory")))
        assert slow.agent.handle(slow.heard["Invite"]) == m.InProgress(2, 8), "an old request ends nothing"
        slow.go_on.set()
        slow.first.join()

    slow.while_training = strangers
    assert slow.play().outcome == "finished"
    assert slow.trained == 8
    assert not slow.told(Refused)


def test_a_process_that_leaves_ends_its_training_and_the_next_one_goes_on(tmp_path: Path) -> None:
    slow = Slow(tmp_path, at=5)

    def leaves(data: bytes) -> None:
        slow.agent.turns.leave()
        slow.go_on.set()
        slow.first.join()
        assert [type(each) for each in slow.ended] == [Leaving]
        assert slow.agent.turns.idle
        slow.agent = slow.federation.agent("b", slow.stepped)  # another process, from the same home
        assert wire.decode(slow.agent.handle(data), m.Frame).envelope.receipt.kind == "Submitted"

    slow.while_training = leaves
    assert slow.play().outcome == "finished"
    assert [type(each) for each in slow.told(*CHARGES)] == [Reserved, Settled]


@given(st.integers(0, 2000).flatmap(lambda steps: st.tuples(st.integers(0, steps), st.just(steps))))
def test_progress_is_told_coarsely_and_never_ahead(far: tuple[int, int]) -> None:
    done, steps = far
    told = m.InProgress.coarse(done, steps)
    assert 0 <= told.done <= done
    assert len({m.InProgress.coarse(each, steps) for each in range(steps + 1)}) <= 5
    heard = sorted({*(m.InProgress.coarse(each, steps).done for each in range(steps + 1)), steps})
    if steps > 1:
        assert min(after - before for before, after in pairwise(heard)) >= 2, "one step's time is never told"


@pytest.mark.parametrize(("done", "steps"), [(-1, 4), (5, 4), (1, 0)])
def test_more_steps_than_there_are_is_no_progress(done: int, steps: int) -> None:
    with pytest.raises(ValueError, match="steps of"):
        m.InProgress(done, steps)


def test_the_coordinator_of_another_federation_ends_no_training_and_hears_nothing_of_it() -> None:
    turns, run = Turns(), RunId(bytes(16))
    asked = Receipt(
        MemberId("coordinator"), MemberId("b"), run, 1, "Propose", None, MicroEpsilon(0), Hash(bytes(32)), 1
    )
    for other in (replace(asked, kind="Close"), replace(asked, round=2)):
        with turns.taken("ours", asked) as turn:
            assert isinstance(turn, Turn)
            turn.done, turn.steps = 4, 8
            with turns.taken("theirs", other) as answer:
                assert isinstance(answer, Turn), "a turn of its own, at a run that is none of theirs"
            assert not turn.over
            assert turns.progress("theirs", run) == m.InProgress(0, 0)
            assert turns.progress("ours", run) != m.InProgress(0, 0)
            with turns.taken("ours", other) as answer:
                assert isinstance(answer, m.InProgress)
            assert turn.over
