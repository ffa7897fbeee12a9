"""The same stories whatever carries the messages: ledgers equal entry by entry, and the same words for every fault."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from securefl import wire
from securefl.protocol.messages import Frame, InProgress, NoAnswer
from securefl.runtime import answering
from securefl.runtime.inprocess import InProcess
from securefl.runtime.processes import Processes
from securefl.runtime.sockets import Sockets
from securefl.seams import Failure, Runtime
from securefl.terms import MemberId, Patience, Refused, ReservationReleased, Scheme, Settled, SumOpened, rules
from tests.support.parties import RELEASED, RUNTIMES, SECRET, Clock, Federation, InOrder, in_process, waiting


@dataclass(frozen=True)
class Story:
    """What is different at one member, and how the run ends."""

    outcome: str = "finished"
    silences: tuple[tuple[str, str], ...] = ()  # (who, by which rule of the closed list)
    rounds: int = 1
    scheme: Scheme = Scheme.MASKING
    luck: tuple[tuple[str, str], ...] = ()
    mishap: tuple[str, str, str] | None = None


STORIES = {
    "all goes well": Story(rounds=2),
    "a member declines": Story(luck=(("b", "refuses"),)),
    "a training breaks": Story(luck=(("b", "breaks"),)),
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


class Dying:
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


class Busy:
    """A party that is worked on by somebody else, for a while."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self) -> Busy:
        return self

    def handle(self, data: bytes) -> bytes | InProgress:
        self.left -= 1
        return InProgress(0, 4) if self.left >= 0 else data


def test_a_peer_that_is_busy_is_asked_until_it_has_an_answer() -> None:
    processes = Processes({MemberId("a"): Busy(2)})
    assert heard(InProcess({MemberId("a"): Busy(2)})) == heard(processes) == b"anything"
    processes.close()
    slow = Processes({MemberId("a"): Busy(10_000)})
    assert heard(slow, 2.0) == waiting(2.0).late


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
