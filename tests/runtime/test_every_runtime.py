"""The same stories whatever carries the messages: ledgers equal entry by entry, and the same words for every fault."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from securefl import wire
from securefl.protocol.messages import Frame, InProgress, NoAnswer
from securefl.runtime import answering, processes
from securefl.runtime.answering import Leaving
from securefl.runtime.inprocess import InProcess
from securefl.runtime.processes import Processes
from securefl.runtime.sockets import Sockets
from securefl.seams import Failure, Runtime
from securefl.terms import MemberId, Patience, Refused, ReservationReleased, Reserved, Scheme, Settled, SumOpened, rules
from tests.support.parties import (
    RELEASED,
    RUNTIMES,
    SECRET,
    Clock,
    Federation,
    InOrder,
    in_process,
    in_processes,
    waiting,
)


@dataclass(frozen=True)
class Story:
    """What is different at one member, and how the run ends."""

    outcome: str = "finished"
    silences: tuple[tuple[str, str], ...] = ()  # (who, by which rule of the closed list)
    rounds: int = 1
    scheme: Scheme = Scheme.MASKING
    luck: tuple[tuple[str, str], ...] = ()
    mishap: tuple[str, str, str] | None = None
    ran: int | None = None  # steps that b pays for, if that is told


STORIES = {
    "all goes well": Story(rounds=2),
    "a member declines": Story(luck=(("b", "refuses"),)),
    "a training breaks": Story(luck=(("b", "breaks"),)),
    "a training takes longer than its site lets it": Story(luck=(("b", "late"),), ran=3),
    "a peer's fault": Story(silences=(("b", "protocol.unsafe"),), mishap=("b", "Propose", "peer")),
    "a site's fault": Story(silences=(("b", "site.fault"),), mishap=("b", "Enrol", "operator")),
    "a bug": Story(silences=(("b", "site.fault"),), mishap=("b", "Propose", "bug")),
    "a bug at the last word": Story(silences=(("c", "site.fault"),), mishap=("c", "Close", "bug")),
    "what is no frame": Story(mishap=("b", "Propose", "noise")),
}


@pytest.mark.parametrize("name", STORIES)
def test_a_story_is_told_alike_by_every_runtime(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    story, told = STORIES[name], {}
    for kind, carried in RUNTIMES.items():
        federation = Federation(tmp_path / kind, story.scheme, luck=story.luck, mishap=story.mishap)
        with carried(federation) as carrier:
            runtime = InOrder(carrier)
            end = federation.drive(runtime, story.rounds)
        told[kind] = (end, runtime.silences, federation.ledgers(), capfd.readouterr().err)
        assert end.outcome == story.outcome, (kind, end.why)
        said = tuple((who, f"{rule}: {rules.FAULTS[rule]}") for who, rule in story.silences)
        assert tuple(runtime.silences) == said, kind
    end, silences, ledgers, _ = told["inprocess"]
    for kind, (other, *rest, _) in told.items():
        assert rest == [silences, ledgers], kind
        assert other.course.state == end.course.state
    if story.ran is not None:
        assert [each.did.steps for each in ledgers["b"] if isinstance(each, Settled)] == [story.ran]
    for entries in ledgers.values():
        assert SECRET not in repr([each for each in entries if isinstance(each, Refused) and each.what != "plan"])
    if {"bug", "operator"} & set(story.mishap or ()):
        assert all(SECRET in shown for *_, shown in told.values()), "the site's own operator is told"
    if "peer" in (story.mishap or ()):
        assert not any(SECRET in shown for *_, shown in told.values()), "who sends nonsense fills no screen"


@pytest.mark.parametrize(
    ("patience", "passes", "why"),
    [
        (Patience(train_s=50), 50, "silent for 50 s"),
        (Patience(quorum=2, grace_s=60), 60, "silent for 60 s after enough others had answered"),
    ],
    ids=["patience is over", "enough have answered"],
)
def test_a_round_goes_on_without_whoever_is_too_slow(patience: Patience, passes: int, why: str, tmp_path: Path) -> None:
    RELEASED.clear()
    told = {}
    for kind, carried in RUNTIMES.items():
        federation = Federation(tmp_path / kind, mishap=("b", "Propose", "stalls"), patience=patience)
        clock = Clock()

        def pass_time(asked: str, clock: Clock = clock) -> None:
            clock.now += passes if asked == "Propose" else 0

        with carried(federation) as carrier:
            runtime = InOrder(carrier, ("b",), pass_time)
            end = federation.drive(runtime, clock=clock)
            RELEASED.set()
        told[kind] = (end.outcome, end.course.state, runtime.silences, federation.ledgers())
        RELEASED.clear()
    outcome, _, silences, ledgers = told["inprocess"]
    assert (outcome, silences) == ("finished", [("b", why)])
    for kind, each in told.items():
        assert each == told["inprocess"], kind
    (opened,) = [each for each in ledgers["coordinator"] if isinstance(each, SumOpened)]
    assert opened.survivors == ("a", "c")
    assert not any(isinstance(each, Settled) for each in ledgers["b"])


def test_a_late_party_ends_with_its_round_pays_for_what_ran_and_takes_part_in_the_next_one(tmp_path: Path) -> None:
    told = {}
    for kind in ("processes", "sockets"):
        federation = Federation(tmp_path / kind, luck=(("b", "waits"),), patience=Patience(train_s=50))
        clock, pids = Clock(), set[int | None]()
        with RUNTIMES[kind](federation) as carrier:

            def pass_time(asked: str, clock: Clock = clock, pids: set[int | None] = pids, carrier=carrier) -> None:
                pids.add(carrier.pid(MemberId("b")) if isinstance(carrier, Processes) else None)
                clock.now += 51 if asked == "Propose" and not clock.now else 0

            runtime = InOrder(carrier, ("b",), pass_time)
            end = federation.drive(runtime, 2, clock)
        told[kind] = (end.outcome, end.last_round, runtime.silences, federation.ledgers())
        assert len(pids) == 1, "nothing was killed"
    outcome, last_round, silences, ledgers = told["processes"]
    assert (outcome, last_round, silences) == ("finished", 2, [("b", "silent for 50 s")])
    assert [each.did.steps for each in ledgers["b"] if isinstance(each, Settled)] == [2, 4], "what ran is paid for"
    assert [each.survivors for each in ledgers["coordinator"] if isinstance(each, SumOpened)] == [("a", "c"), ("a", "b", "c")]  # fmt: skip
    assert told["sockets"] == told["processes"]


class Stop(BaseException):
    """Ctrl-C, at a moment that a test chooses."""


def test_a_training_ends_after_its_step_when_its_process_is_ended_and_the_run_goes_on(tmp_path: Path) -> None:
    federation = Federation(tmp_path, luck=(("b", "waits"),))

    def stop(asked: str) -> None:
        if asked == "Propose":
            raise Stop

    with in_processes(federation) as runtime:
        with pytest.raises(Stop):
            federation.drive(InOrder(runtime, ("b",), stop))
        running = [each.process for each in runtime._running.values()]
        runtime.close()
        assert [each.exitcode for each in running] == [0, 0, 0], "nothing was killed"
        with pytest.raises(Leaving):
            heard(runtime)
    assert [type(each) for each in federation.entries("b") if isinstance(each, Reserved | Settled)] == [Reserved]
    with in_processes(replace(federation, luck=())) as runtime:
        assert federation.drive(runtime).outcome == "finished"
    assert [each.did.steps for each in federation.entries("b") if isinstance(each, Settled)] == [4], "the whole price"


def test_who_fell_silent_keeps_no_later_round_waiting_for_longer_than_the_grace(tmp_path: Path) -> None:
    federation = Federation(tmp_path, patience=Patience(quorum=2, grace_s=7))
    left: dict[tuple[str, int], float] = {}

    class Silent(InProcess):
        """Nobody hears of b once it was asked to train."""

        def exchange(self, outbound, waiting):
            asked = list(outbound)
            receipt = wire.decode(asked[0][1], Frame).envelope.receipt
            gone = receipt.kind == "Propose" or left
            yield from super().exchange([each for each in asked if each[0] != "b" or not gone], waiting)
            if gone and any(name == "b" for name, _ in asked):
                left[receipt.kind, receipt.round] = waiting.left()
                yield MemberId("b"), waiting.late

    runtime = Silent({MemberId(name): federation.party(name) for name in federation.parties})
    assert federation.drive(runtime, 3, clock=Clock()).outcome == "finished"
    rounds = {place: seconds for place, seconds in left.items() if place[0] in ("Propose", "Enrol")}
    assert rounds == {("Propose", 1): 7, ("Enrol", 2): 7, ("Enrol", 3): 7}


class Idle:
    """A party that has nothing under way when it is told to leave."""

    def leave(self) -> None:
        pass


class Dying(Idle):
    """A party that cannot be built, or dies of it."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self) -> Dying:
        if self.how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError(SECRET)


def heard(runtime: Runtime, patience_s: float = 60.0) -> bytes | Failure:
    (_, answer), *_ = runtime.exchange([(MemberId("a"), b"anything")], waiting(patience_s))
    return answer


def test_a_peer_that_is_not_there_is_gone_in_the_same_words(tmp_path: Path) -> None:
    dead = Processes({MemberId("a"): Dying("dies")})
    away = Sockets({MemberId("a"): tmp_path / "door"}, gone_s=0.1)
    assert heard(InProcess({})) == heard(dead) == heard(away) == heard(Sockets({})) == answering.GONE
    dead.close()


def test_a_party_that_cannot_be_built_is_a_fault_of_its_site() -> None:
    broken = Processes({MemberId("a"): Dying("breaks")})
    assert heard(broken) == Failure(str(NoAnswer("site.fault")))
    broken.close()


class Busy(Idle):
    """A party that is worked on by somebody else, for a while."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self) -> Busy:
        return self

    def handle(self, data: bytes) -> bytes | InProgress:
        self.left -= 1
        return InProgress(0, 4) if self.left >= 0 else data


def test_a_peer_that_is_busy_is_asked_until_it_has_an_answer() -> None:
    busy = Processes({MemberId("a"): Busy(2)})
    assert heard(InProcess({MemberId("a"): Busy(2)})) == heard(busy) == b"anything"
    busy.close()
    slow = Processes({MemberId("a"): Busy(10_000)})
    assert heard(slow, 2.0) == waiting(2.0).late
    slow.close()


@pytest.mark.parametrize("said", [b"", b"?", b"-", b"~", b"-\x81\x61a", answering.WORKING + b"\x00"])
def test_what_is_on_no_list_counts_as_a_fault_of_the_peer(said: bytes) -> None:
    assert answering.heard(said) == answering.answered(said, 1000) == Failure(str(NoAnswer("protocol.peer")))


def test_a_training_that_breaks_is_paid_for_and_one_that_is_declined_is_not(tmp_path: Path) -> None:
    federation = Federation(tmp_path, luck=(("b", "breaks"), ("c", "refuses")))
    with in_process(federation) as runtime:
        assert federation.drive(runtime).outcome == "refused"
    assert [type(each) for each in federation.entries("b") if isinstance(each, Settled | ReservationReleased)] == [
        Settled
    ]
    assert not any(isinstance(each, Settled | ReservationReleased) for each in federation.entries("c"))


class Deaf(Idle):
    """A party that does not leave when it is told to."""

    def __call__(self) -> Deaf:
        return self

    def handle(self, data: bytes) -> bytes:
        return data

    def leave(self) -> None:
        threading.Event().wait()


def test_a_process_that_does_not_end_is_killed_after_a_bound_that_is_said(monkeypatch, capfd) -> None:
    monkeypatch.setattr(processes, "KILL_S", 0.2)
    runtime = Processes({MemberId("a"): Deaf()}, grace_s=0)
    assert heard(runtime) == b"anything"
    (peer,) = runtime._running.values()
    runtime.close()
    assert peer.process.exitcode == -signal.SIGKILL
    assert "a: its process had not ended after 0.2 s, and was killed" in capfd.readouterr().err
