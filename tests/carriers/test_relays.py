"""A relay on both ends: whatever becomes of it, a request is answered once, and nobody waits for another one's trouble."""

from __future__ import annotations

import itertools
import os
import random
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from securefl import wire
from securefl.protocol import messages
from securefl.protocol.messages import InProgress
from securefl.runtime import framing
from securefl.runtime.answering import ANSWER, WORKING
from securefl.runtime.inprocess import InProcess
from securefl.seams import Failure
from securefl.terms import MemberId, Reserved, Scheme, Settled
from securefl_carriers import doors, frames, site_end
from securefl_carriers.doors import Doors
from securefl_carriers.polls import Poll, Said, State, ticket_of
from tests.runtime.test_sockets import Gate, houses, paid, until
from tests.support.parties import Federation, InOrder, on_sockets, waiting
from tests.support.relays import relayed

FATES = ("", "lost", "deaf", "twice")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "AGAIN_S", 0.01)


@pytest.mark.parametrize("scheme", [Scheme.MASKING, Scheme.MASKED_CKKS])
def test_polls_that_are_lost_unheard_and_doubled_change_nothing(scheme: Scheme, tmp_path: Path) -> None:
    told = []
    for kind, chances in {"calm": (1, 0, 0, 0), "rough": (4, 2, 2, 2)}.items():
        federation, drawn = Federation(tmp_path / kind, scheme), random.Random(1)

        def fate(*_: object, drawn: random.Random = drawn, chances: tuple[int, ...] = chances) -> str:
            return drawn.choices(FATES, chances)[0]

        with on_sockets(federation), relayed(federation.folder, agents(federation), fate) as (_, runtime):
            end = federation.drive(InOrder(runtime), 2)
        kinds = {name: [type(each) for each in entries] for name, entries in federation.ledgers().items()}
        told.append((end.outcome, end.course.state, kinds))  # a repeated request may draw randomness that nobody uses
    assert told[0][0] == "finished"
    assert told[1] == told[0]


def agents(federation: Federation) -> dict[str, Path]:
    return {name: federation.door(name) for name in federation.parties}


def test_a_relay_that_is_started_anew_within_a_training_costs_nothing(tmp_path: Path) -> None:
    federation, gate, ends = Federation(tmp_path), Gate(2), []
    with houses(federation) as parties, relayed(tmp_path, agents(federation)) as (engine, runtime):
        parties.end("b", 9)
        parties.start("b", gate)
        coordinator = threading.Thread(target=lambda: ends.append(federation.drive(runtime)))
        coordinator.start()
        assert gate.there.wait(60)
        engine.end("b")
        engine.start("b", federation.door("b"))
        gate.go_on.set()
        coordinator.join(120)
    assert [end.outcome for end in ends] == ["finished"]
    assert all(paid(federation, name) == [Reserved, Settled] for name in federation.names)


def test_a_site_that_is_killed_within_a_training_goes_on_when_it_is_back_and_pays_once(tmp_path: Path) -> None:
    federation, gate, ends = Federation(tmp_path), Gate(2), []
    with houses(federation) as parties, relayed(tmp_path, agents(federation)) as (_, runtime):
        parties.end("b", 9)
        parties.start("b", gate)
        coordinator = threading.Thread(target=lambda: ends.append(federation.drive(runtime)))
        coordinator.start()
        assert gate.there.wait(60)
        parties.end("b", 9)
        parties.start("b")
        coordinator.join(120)
    assert [end.outcome for end in ends] == ["finished"]
    assert paid(federation, "b") == [Reserved, Settled]


class Agent(socketserver.ThreadingUnixStreamServer):
    """Whatever a site says to a request, once it may."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.asked, self.go_on = list[bytes](), threading.Event()
        super().__init__(str(path), Answering)

    def handle_error(self, *_: object) -> None: ...


class Answering(socketserver.BaseRequestHandler):
    server: Agent

    def handle(self) -> None:
        request = frames.receive(self.request, 10)
        self.server.asked.append(request)
        for _ in range(3):
            frames.send(self.request, (WORKING + wire.encode(InProgress(0, 4)),), 10)
        assert self.server.go_on.wait(60)
        frames.send(self.request, (ANSWER + request,), 10)


@contextmanager
def one_agent(folder: Path) -> Iterator[Agent]:
    agent = Agent(folder / "agent")
    threading.Thread(target=agent.serve_forever, args=(0.02,), daemon=True).start()
    yield agent
    agent.go_on.set()
    agent.shutdown()
    agent.server_close()


@pytest.mark.parametrize(
    ("scheme", "a_round"),
    [
        (Scheme.CLEAR, ["Propose"]),
        (Scheme.CKKS, ["Propose"]),
        (Scheme.MASKING, ["Propose", "Ask"]),
        (Scheme.MASKED_CKKS, ["Propose", "Ask"]),
    ],
)
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_member_is_asked_as_often_as_the_pages_say(
    scheme: Scheme, a_round: list[str], rounds: int, tmp_path: Path
) -> None:
    """Each is a message of the engine's: Flower takes seconds for one."""
    federation, asked = Federation(tmp_path, scheme), list[tuple[str, str]]()

    class Counted(InProcess):
        def exchange(self, outbound, waiting):
            given = list(outbound)
            asked.extend((name, wire.decode(data, messages.Frame).envelope.receipt.kind) for name, data in given)
            yield from super().exchange(given, waiting)

    assert (
        federation.drive(
            Counted({name: federation.party(name) for name in federation.parties}, lambda: 0.0), rounds
        ).outcome
        == "finished"
    )
    assert [kind for name, kind in asked if name == "a"] == ["Invite", "Enrol", *a_round * rounds, "Close"]
    assert [kind for name, kind in asked if name == "custodian"] == (
        ["Invite", *["Ask"] * rounds, "Close"] if scheme.has_custodian else []
    )


def test_a_patient_end_answers_with_all_that_was_said_and_not_before(tmp_path: Path) -> None:
    answers = list[Said]()
    with one_agent(tmp_path) as agent:
        end = site_end.SiteEnd(tmp_path / "agent", patient=True)
        poll = Poll(ticket_of(b"request"), 0, b"request")
        asking = threading.Thread(target=lambda: answers.append(Said.decode(end.answer(poll.encode()))))
        asking.start()
        until(lambda: bool(agent.asked))
        assert not answers
        agent.go_on.set()
        asking.join(10)
    assert [(said.state, said.have, len(said.frames)) for said in answers] == [(State.OVER, 4, 4)]
    assert answers[0].frames[-1] == ANSWER + b"request"


def test_a_request_is_handed_on_once_whoever_asks_for_it_and_how_often(tmp_path: Path) -> None:
    with one_agent(tmp_path) as agent, relayed(tmp_path, {"a": tmp_path / "agent"}) as (_, runtime):
        answers: list[bytes | Failure] = []

        def ask() -> None:
            answers.extend(answer for _, answer in runtime.exchange([(MemberId("a"), b"same")], waiting(60)))

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for each in threads:
            each.start()
        until(lambda: agent.asked)
        (end,) = (each.end for each in _.sites.values())
        until(lambda: any(each._polling == 5 for each in end._under_way.values()))
        agent.go_on.set()
        for each in threads:
            each.join(60)
        assert answers == [b"same"] * 5
    assert agent.asked[0] == b"same"


def test_a_site_that_is_away_stops_nobody_else_and_is_asked_when_it_is_back(tmp_path: Path) -> None:
    with relayed(tmp_path, {"a": tmp_path / "agent", "b": tmp_path / "later"}) as (_, runtime), one_agent(tmp_path) as agent:  # fmt: skip
        agent.go_on.set()
        answers = runtime.exchange([(MemberId("a"), b"one"), (MemberId("b"), b"two")], waiting(60))
        assert next(answers) == ("a", b"one")
        (tmp_path / "agent").rename(tmp_path / "later")
        assert list(answers) == [("b", b"two")]


def test_patience_ends_while_the_engine_is_away(tmp_path: Path) -> None:
    with relayed(tmp_path, {"a": tmp_path / "agent"}) as (engine, runtime):
        engine.end("a")
        wait = waiting(0.3)
        assert list(runtime.exchange([(MemberId("a"), b"one")], wait)) == [("a", wait.late)]


def test_requests_that_nobody_polls_are_given_up_and_too_many_at_once_have_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_end, "HOLD_S", 0.0)
    with one_agent(tmp_path) as agent:
        end = site_end.SiteEnd(tmp_path / "agent")
        requests = [b"%d" % n for n in range(site_end.MOST_AT_ONCE + 1)]

        def state(request: bytes) -> State:
            return Said.decode(end.answer(Poll(ticket_of(request), 0, request).encode())).state

        assert [state(each) for each in requests] == [State.GOING] * site_end.MOST_AT_ONCE + [State.FULL]
        until(lambda: len(agent.asked) == site_end.MOST_AT_ONCE)
        monkeypatch.setattr(site_end, "LEFT_S", 0.0)
        assert state(requests[-1]) is State.GOING
        end.close()


def test_who_may_not_ask_is_not_heard_and_a_name_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    polls = []
    opened = Doors(tmp_path / "doors", lambda *asked: polls.append(asked) or Said(State.OVER).encode())
    refused = ("", ".", "..", "a/b", "../a", "A", "a\n", "-a", "a" * 65)
    assert not any(opened.open(each) for each in refused)
    assert opened.open("a")
    assert opened.open("a"), "once is enough"
    door = tmp_path / "doors" / "a"
    assert (door.stat().st_mode & 0o777, door.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    monkeypatch.setattr(opened._open["a"], "_users", {os.geteuid() + 1})
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(door))
        with suppress(framing.Cut):
            framing.send(connection, b"anything", 10)
        with pytest.raises(framing.Cut):
            framing.receive(connection, 10)
    assert polls == []
    opened.close()
    assert not door.exists()


def test_what_is_too_long_or_never_whole_is_not_carried(tmp_path: Path) -> None:
    polls = itertools.count()
    opened = Doors(tmp_path / "doors", lambda *_: next(polls) and b"" or Said(State.OVER).encode())
    opened.open("a")
    for begun in (b"", b"\0\0", (100).to_bytes(4, "big") + b"half", (frames.MOST + 1).to_bytes(4, "big")):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / "doors" / "a"))
            connection.sendall(begun)
            connection.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    assert next(polls) == 0
    opened.close()


def test_a_door_that_is_shut_is_gone_and_the_others_stay(tmp_path: Path) -> None:
    opened = Doors(tmp_path / "doors", lambda *_: Said(State.OVER).encode())
    assert all(opened.open(each) for each in ("a", "b"))
    opened.shut("a")
    opened.shut("nobody")
    assert (opened.names, [each.name for each in (tmp_path / "doors").iterdir()]) == (("b",), ["b"])
    assert opened.open("a"), "let in anew"
    opened.close()
    assert (opened.names, [*(tmp_path / "doors").iterdir()]) == ((), [])
