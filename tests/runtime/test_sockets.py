"""Sites behind Unix sockets, each a process with a home of its own: killed, restarted, left alone, and badly asked."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from securefl import wire
from securefl.errors import Forged, Malformed, OperatorFault, Unsafe
from securefl.protocol import messages as m
from securefl.runtime import framing, starting
from securefl.runtime.answering import GONE, SILENCE, heard
from securefl.runtime.held_bytes import Claim, Room
from securefl.runtime.inprocess import InProcess
from securefl.runtime.sockets import Sockets
from securefl.seams import Failure
from securefl.site import serve as served
from securefl.site.counts import CUT, STRANGER, TURNED_AWAY, Counts
from securefl.site.dispatch import Dispatcher
from securefl.site.serve import serve
from securefl.site.workers import Workers
from securefl.terms import MemberId, ReservationReleased, Reserved, RunId, RunJoined, Scheme, Settled
from tests.support import nested
from tests.support.logs import LOGS, logging_to
from tests.support.parties import COORDINATOR, Federation, Maker, on_sockets, waiting

CHARGES = (Reserved, Settled, ReservationReleased)


def serving(federation: Federation, name: str, gate: Gate | None = None) -> None:
    """What one process runs: one party, from its own home."""
    agent = federation.agent(name, gate.stepped if gate else lambda _: None)
    door = federation.door(name)
    all_ended = serve(lambda: agent, door, federation.place(name) / "serving")
    os._exit(0 if all_ended else 3)


class Gate:
    """A step at which a training in another process waits."""

    def __init__(self, at: int) -> None:
        self.at, self.there, self.go_on = at, starting.context().Event(), starting.context().Event()

    def stepped(self, done: int) -> None:
        if done == self.at:
            self.there.set()
            assert self.go_on.wait(120)


@dataclass
class Houses:
    """A process for each party of a federation."""

    federation: Federation

    def __post_init__(self) -> None:
        self.running: dict[str, BaseProcess] = {}
        for name in self.federation.parties:
            self.start(name)

    def start(self, name: str, gate: Gate | None = None) -> None:
        self.running[name] = starting.start(serving, self.federation, name, gate, daemon=True)

    def end(self, name: str, how: signal.Signals) -> int | None:
        process = self.running.pop(name)
        os.kill(process.pid, how)
        process.join(60)
        return process.exitcode


@contextmanager
def houses(federation: Federation) -> Iterator[Houses]:
    made = Houses(federation)
    try:
        yield made
    finally:
        for name in list(made.running):
            made.end(name, signal.SIGKILL)


def paid(federation: Federation, name: str) -> list[type]:
    return [type(each) for each in federation.entries(name) if isinstance(each, CHARGES)]


@pytest.mark.parametrize("scheme", [Scheme.MASKING, Scheme.MASKED_CKKS])
def test_parties_that_are_killed_once_each_end_the_run_as_if_nothing_had_been(scheme: Scheme, tmp_path: Path) -> None:
    federation, calm = Federation(tmp_path / "killed", scheme), Federation(tmp_path / "calm", scheme)
    with on_sockets(calm) as runtime:
        expected = calm.drive(runtime, 2).course.state
    with houses(federation) as parties:
        victims = {"Enrol": "a", "Propose": "b", "Ask": "custodian" if scheme.has_custodian else "c"}

        class Striking(Sockets):
            def exchange(self, outbound, waiting):
                asked = list(outbound)
                kind = wire.decode(asked[0][1], m.Frame).envelope.receipt.kind
                if victims.get(kind) in {name for name, _ in asked}:
                    victim = victims.pop(kind)
                    assert parties.end(victim, signal.SIGKILL) == -signal.SIGKILL
                    parties.start(victim)
                yield from super().exchange(asked, waiting)

        runtime = Striking({MemberId(name): federation.door(name) for name in federation.parties})
        end = federation.drive(runtime, 2)
    assert (end.outcome, end.course.state) == ("finished", expected)
    assert not victims, "each was killed"
    for name in federation.names:
        assert paid(federation, name) == [Reserved, Settled] * 2


def test_a_party_that_is_killed_while_it_trains_goes_on_when_it_is_back_and_pays_once(tmp_path: Path) -> None:
    federation, gate, ends = Federation(tmp_path), Gate(2), []
    with houses(federation) as parties:
        parties.end("b", signal.SIGKILL)
        parties.start("b", gate)
        coordinator = threading.Thread(target=lambda: ends.append(federation.drive(federation.sockets())))
        coordinator.start()
        assert gate.there.wait(60)
        parties.end("b", signal.SIGKILL)
        parties.start("b")
        coordinator.join(120)
    assert [end.outcome for end in ends] == ["finished"]
    assert paid(federation, "b") == [Reserved, Settled]


def test_a_site_survives_a_coordinator_that_dies_while_it_trains(tmp_path: Path) -> None:
    federation, gate = Federation(tmp_path), Gate(2)
    with houses(federation) as parties:
        parties.end("b", signal.SIGKILL)
        parties.start("b", gate)
        coordinator = starting.start(federation.drive, federation.sockets(), daemon=False)
        assert gate.there.wait(60)
        os.kill(coordinator.pid, signal.SIGKILL)
        coordinator.join()
        gate.go_on.set()
        end = federation.drive(federation.sockets())
    assert end.outcome == "finished"
    assert paid(federation, "b") == [Reserved, Settled]


def test_a_site_that_is_told_to_end_does_so_at_once_and_its_reservation_stands(tmp_path: Path) -> None:
    federation, gate, ends = Federation(tmp_path), Gate(2), []
    with houses(federation) as parties:
        parties.end("b", signal.SIGKILL)
        parties.start("b", gate)
        coordinator = threading.Thread(target=lambda: ends.append(federation.drive(federation.sockets())))
        coordinator.start()
        assert gate.there.wait(60)
        os.kill(parties.running["b"].pid, signal.SIGTERM)
        until(lambda: not federation.door("b").exists())
        gate.go_on.set()
        assert parties.end("b", signal.SIGTERM) == 0
        assert not federation.door("b").exists()
        assert paid(federation, "b") == [Reserved]
        parties.start("b")
        coordinator.join(120)
    assert [end.outcome for end in ends] == ["finished"]
    assert paid(federation, "b") == [Reserved, Settled]


def said(door: Path, data: bytes) -> bytes | m.InProgress | Failure:
    """What a party says to one frame."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(door))
        framing.send(connection, data, 10)
        return heard(framing.receive(connection, 10))


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    with on_sockets(made):
        for name in made.parties:
            until(lambda name=name: is_open(made.door(name)))
        yield made


def until(true: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(1200):
        if true():
            return
        pause.wait(0.05)
    raise AssertionError("it never was")


def is_open(door: Path) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as tried:
        tried.connect(str(door))
        return True
    return False


def test_a_socket_is_its_users_alone(federation: Federation) -> None:
    for name in federation.parties:
        door = federation.door(name)
        assert (door.stat().st_mode & 0o777, door.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_what_nobody_signed_is_refused_by_name_and_written_down_nowhere(federation: Federation) -> None:
    invite = m.enclose(
        federation.home("mallory").identity, MemberId(COORDINATOR), MemberId("a"), federation.run, 0,
        m.Invite(federation.session()),
    )  # fmt: skip
    forged = wire.encode(m.Frame(invite, None))
    for data in (b"", b"\0" * 10, os.urandom(2000), forged):
        answer = said(federation.door("a"), data)
        assert isinstance(answer, Failure), data
        assert answer.why.partition(":")[0] in {"protocol.malformed", "protocol.forged", "protocol.signature"}
    assert federation.entries("a") == []


def test_a_frame_that_is_too_long_is_refused_before_it_is_read(federation: Federation) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(federation.door("a")))
        connection.sendall((framing.MOST + 1).to_bytes(framing.PREFIX, "big"))
        answer = framing.receive(connection, 10)
        assert answer == SILENCE + wire.encode(m.NoAnswer("protocol.malformed"))
        with pytest.raises(framing.Cut):
            framing.receive(connection, 10)
    assert federation.drive(federation.sockets()).outcome == "finished", "the next one is heard"


def test_a_client_that_hangs_up_in_the_middle_of_a_frame_costs_nothing(federation: Federation) -> None:
    for begun in (b"", b"\0\0", (100).to_bytes(4, "big"), (100).to_bytes(4, "big") + b"half"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(federation.door("a")))
            connection.sendall(begun)
    assert federation.drive(federation.sockets()).outcome == "finished"


class Recording(Sockets):
    """What a party was asked, of one kind."""

    asked: bytes = b""

    def exchange(self, outbound, patience_s):
        found = list(outbound)
        for name, data in found:
            if (name, wire.decode(data, m.Frame).envelope.receipt.kind) == ("a", "Propose"):
                Recording.asked = data
        yield from super().exchange(found, patience_s)


def test_a_client_that_hangs_up_and_asks_again_piles_up_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither with the same request nor with others; and an honest redelivery is answered, once it is done."""
    monkeypatch.setattr(served, "HEARTBEAT_S", 0.02)
    federation, there, go_on, stop, ends = Federation(tmp_path), *(threading.Event() for _ in range(3)), []

    def gate(done: int) -> None:
        there.set()
        assert go_on.wait(60)

    def serving(name: str) -> None:
        agent = federation.agent(name, gate if name == "a" else lambda _: None)
        serve(lambda: agent, federation.door(name), federation.place(name) / "serving", stop=stop)

    threads = [threading.Thread(target=serving, args=(name,)) for name in federation.parties]
    for each in threads:
        each.start()
    runtime = Recording({MemberId(name): federation.door(name) for name in federation.parties})
    coordinator = threading.Thread(target=lambda: ends.append(federation.drive(runtime)))
    coordinator.start()
    try:
        assert there.wait(60)
        calm, frame = threading.active_count(), wire.decode(Recording.asked, m.Frame)
        others = [
            wire.encode(m.Frame(frame.envelope, replace(frame.head, signature=bytes([n]) * 64))) for n in range(20)
        ]
        for data in [Recording.asked] * 20 + others:
            with suppress(OSError, framing.Cut), socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(federation.door("a")))
                framing.send(connection, data, 10)
        until(lambda: threading.active_count() <= calm + 1)
    finally:
        go_on.set()
        coordinator.join(60)
    monkeypatch.setattr(served, "HEARTBEAT_S", 60.0)  # said() takes the first thing that it hears
    again = said(federation.door("a"), Recording.asked)
    assert [end.outcome for end in ends] == ["finished"]
    assert isinstance(again, Failure), "the run has ended"
    assert paid(federation, "a") == [Reserved, Settled]
    stop.set()
    for each in threads:
        each.join()


def test_two_connections_wait_with_one_worker_and_a_full_house_turns_others_away() -> None:
    class Slow:
        """Waits until it may answer; says that it is busy to whatever comes second."""

        def __init__(self) -> None:
            self.go_on, self.asked = threading.Event(), []

        def handle(self, data: bytes) -> bytes | m.InProgress:
            self.asked.append(data)
            if len(self.asked) > 1 and not self.go_on.is_set():
                return m.InProgress(0, 0)
            assert self.go_on.wait(60)
            return data

    party = Slow()
    workers = Workers(party, 2)
    room = Room(100)
    with workers.hearing(b"one", Claim(room)) as first:
        until(lambda: party.asked == [b"one"])
        with workers.hearing(b"one", Claim(room)) as same, workers.hearing(b"two", Claim(room)) as second:
            assert same is first
            with workers.hearing(b"three", Claim(room)) as third:
                assert third is None
        assert second is not None
        assert second.done.wait(60), "nobody waits for it, and another one is worked on"
        assert second.answer == b""
        with workers.hearing(b"two", Claim(room)) as anew:
            assert anew is not None
            assert anew is not second
            party.go_on.set()
            assert anew.done.wait(60)
            assert first is not None
            assert first.done.wait(60)
            assert (first.answer, anew.answer) == (b"+one", b"+two")


class Full(Counts):
    """Counts of a process that has no memory left to look at an answer."""

    def said(self, answer: bytes) -> None:
        raise MemoryError


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("counts", [Counts, Full])
def test_a_worker_ends_and_its_room_is_free_also_where_its_end_cannot_be_told(counts: type[Counts], log: str) -> None:
    class Refuses:
        def handle(self, data: bytes) -> bytes:
            raise Unsafe("no", "protocol.few-survivors")

    room = Room(10)
    with logging_to(LOGS[log]()):
        workers = Workers(Refuses(), 1, counts())
        for request in (b"one", b"two"):
            held = Claim(room)
            held.more(len(request))
            with workers.hearing(request, held) as work:
                assert work is not None
                assert work.done.wait(60)
                assert work.answer.startswith(SILENCE)
    assert room.held == 0


@pytest.mark.parametrize("log", LOGS)
def test_a_door_is_open_whatever_became_of_the_log_that_says_who_was_turned_away(log: str) -> None:
    counts = Counts()
    with logging_to(LOGS[log]()):
        for end in (CUT, STRANGER, TURNED_AWAY):
            counts.ended(end)
            assert counts.metrics.numbers()["requests_total", end] == 1


def test_connections_beyond_the_most_are_turned_away_and_the_rest_are_served(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = [socket.socket(socket.AF_UNIX) for _ in range(served.MOST_AT_ONCE)]
    for each in idle:
        each.connect(str(federation.door("a")))
    with pytest.raises((framing.Cut, OSError)):
        said(federation.door("a"), b"nothing")
    for each in idle:
        each.close()
    assert federation.drive(federation.sockets()).outcome == "finished"


def test_one_process_serves_a_site_and_the_next_one_is_told_which(federation: Federation) -> None:
    with pytest.raises(OperatorFault, match=rf"process {os.getpid()} serves this site; let it go on"):
        serve(Maker(federation, "a"), federation.door("a"), federation.place("a") / "serving")
    with pytest.raises(OperatorFault, match="another process listens here"):
        serve(Maker(federation, "a"), federation.door("b"), federation.place("a") / "second")


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda door: door.parent.chmod(0o755), "others may enter this home"),
        (lambda door: door.write_text("a diary"), "something else than a socket"),
    ],
)
def test_a_socket_is_made_in_a_safe_place_alone(prepare, told: str, tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.home("a").engine.dispose()
    prepare(federation.door("a"))
    with pytest.raises(OperatorFault, match=told):
        serve(Maker(federation, "a"), federation.door("a"), tmp_path / "lock" / "serving")


def test_a_path_that_the_kernel_would_cut_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OperatorFault, match="a socket's path may have 107 bytes"):
        serve(Maker(Federation(tmp_path), "a"), tmp_path / ("d" * 107), tmp_path / "serving")


ANOTHER = 54_321  # a user who is nobody here


def asked_by_another(door: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether another user hears anything from whoever serves there."""
    if os.geteuid() != 0:
        monkeypatch.setattr(served, "peer_uid", lambda _: ANOTHER)
        with suppress(framing.Cut, OSError):
            return bool(said(door, b"anything"))
        return False
    child = os.fork()
    if child == 0:
        code = 1
        with suppress(BaseException):
            os.setgroups([])
            os.setgid(ANOTHER)
            os.setuid(ANOTHER)
            code = 0 if said(door, b"anything") else 1
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@contextmanager
def open_to(users: set[int], federation: Federation, door: Path) -> Iterator[None]:
    stop, ready = threading.Event(), threading.Event()
    lock = federation.place("a") / "serving"
    thread = threading.Thread(
        target=lambda: serve(Maker(federation, "a"), door, lock, users, ready=ready.set, stop=stop)
    )
    thread.start()
    assert ready.wait(60)
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_another_user_is_turned_away_unless_it_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        federation, door = Federation(Path(folder)), Path(folder) / "doors" / "a"
        with open_to({ANOTHER}, federation, door):
            assert (door.stat().st_mode & 0o777, door.parent.stat().st_mode & 0o777) == (0o666, 0o711)
            assert asked_by_another(door, monkeypatch)
        with open_to({ANOTHER + 1}, federation, door):
            assert not asked_by_another(door, monkeypatch)


@pytest.mark.parametrize("mode", [0o733, 0o777, 0o700])
def test_a_folder_in_which_others_could_put_a_socket_lets_nobody_in(mode: int, tmp_path: Path) -> None:
    (tmp_path / "doors").mkdir()
    (tmp_path / "doors").chmod(mode)
    with pytest.raises(OperatorFault, match="use a folder of your own|run: chmod 711"):
        serve(Maker(Federation(tmp_path), "a"), tmp_path / "doors" / "a", tmp_path / "a" / "serving", {ANOTHER})


# What a coordinator hears meanwhile.


@dataclass
class Slow:
    """A party that answers when it may, and says how far it is."""

    may: threading.Event
    idle: bool = True
    most_request: int = wire.LIMIT_BYTES

    def handle(self, data: bytes) -> bytes:
        assert self.may.wait(60)
        return data

    def progress(self, data: bytes) -> m.InProgress:
        return m.InProgress(4, 8)

    def leave(self) -> None:
        """Nothing here takes steps."""


@contextmanager
def slow(folder: Path) -> Iterator[tuple[Path, threading.Event]]:
    may = threading.Event()
    with served.Door(folder / "slow", Slow(may), {os.geteuid()}) as door:
        threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            yield folder / "slow", may
        finally:
            may.set()
            door.shutdown()


def test_a_coordinator_hears_how_far_a_site_is_until_it_answers(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(served, "HEARTBEAT_S", 0.02)
    with slow(tmp_path) as (door, may):
        heard_of: list[tuple[str, m.InProgress]] = []

        def watch(member: MemberId, progress: m.InProgress) -> None:
            heard_of.append((member, progress))
            if len(heard_of) == 3:
                may.set()

        answers = list(Sockets({MemberId("a"): door}, watch=watch).exchange([(MemberId("a"), b"asked")], waiting(60.0)))
    assert heard_of[:3] == [("a", m.InProgress(4, 8))] * 3
    assert len(answers) == 1


def test_a_site_that_says_nothing_but_that_it_works_is_late_when_patience_ends(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(served, "HEARTBEAT_S", 0.02)
    with slow(tmp_path) as (door, _):
        assert list(Sockets({MemberId("a"): door}).exchange([(MemberId("a"), b"asked")], waiting(0.3))) == [
            ("a", waiting(0.3).late)
        ]


def test_whoever_stops_listening_waits_for_nobody(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(served, "HEARTBEAT_S", 0.02)
    with slow(tmp_path) as (door, _):
        places = {MemberId("a"): door, MemberId("b"): tmp_path / "nobody"}
        answers = Sockets(places, gone_s=0.05).exchange([(name, b"asked") for name in places], waiting(3600.0))
        assert next(answers) == ("b", GONE)
        answers.close()


@pytest.mark.parametrize("said_instead", [b"", b"\xff\xff\xff\xff", b"\0\0\0\x01-", b"\0\0\0\x02??"])
def test_what_answers_in_the_place_of_a_site_and_is_none_counts_as_its_fault_or_as_gone(
    said_instead: bytes, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "door"))
        listening.listen()

        def impostor() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    connection.sendall(said_instead)
                    connection.close()

        threading.Thread(target=impostor, daemon=True).start()
        ((_, answer),) = Sockets({MemberId("a"): tmp_path / "door"}, gone_s=0.2).exchange(
            [(MemberId("a"), b"?")], waiting(60.0)
        )
        listening.shutdown(socket.SHUT_RDWR)
    assert answer == (Failure(str(m.NoAnswer("protocol.peer"))) if said_instead else GONE)


# Federations below a federation: a node asks its members over sockets, too.


class Socketed(nested.World):
    """A tree in which every message passes a socket."""

    stack: ExitStack

    def federation(self, way, tree, above):
        *parts, runtime = super().federation(way, tree, above)

        def by_sockets() -> Sockets:
            doors = self.folder / "-".join(("doors", *way))
            doors.mkdir(mode=0o700, exist_ok=True)
            peers = runtime()._peers
            for name, agent in peers.items():
                door = self.stack.enter_context(served.Door(doors / name, agent, {os.geteuid()}))
                threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.02}).start()
                self.stack.callback(door.shutdown)
            return Sockets({name: doors / name for name in peers})

        return (*parts, by_sockets)


def test_a_tree_over_sockets_ends_as_it_does_over_calls(tmp_path: Path) -> None:
    tree = {"left": dict.fromkeys(("l0", "l1", "l2")), "right": dict.fromkeys(("r0", "r1", "r2"))}
    start = np.zeros(nested.LAYOUT.entries)
    calls = nested.World(tmp_path / "calls", tree, rounds=2).play(start)
    with ExitStack() as stack:
        world = Socketed(tmp_path / "sockets", tree, rounds=2)
        world.stack = stack
        sockets = world.play(start)
    assert (calls.outcome, sockets.outcome) == ("finished", "finished")
    assert np.array_equal(nested.reached(calls), nested.reached(sockets))


# A site in two federations: by the coordinator that signed, and of one coordinator's by the run.


@pytest.mark.parametrize("centres", [("coordinator", "coordinator"), ("coordinator", "office")])
def test_a_site_answers_in_each_of_its_federations(centres: tuple[str, str], tmp_path: Path) -> None:
    both = [
        Federation(tmp_path, name=name, centre=centre, run=RunId(name.encode() * 16))
        for name, centre in zip("fg", centres, strict=True)
    ]
    sites = {MemberId(site): Dispatcher([each.agent(site) for each in both]) for site in both[0].names}
    for each in (*both, replace(both[0], run=RunId(b"h" * 16))):
        assert each.drive(InProcess(sites)).outcome == "finished"
    opened = [each for each in both[0].entries("a") if isinstance(each, RunJoined)]
    assert [(each.federation, each.run[:1]) for each in opened] == [("f", b"f"), ("g", b"g"), ("f", b"h")]


def test_a_run_of_no_federation_of_this_site_opens_nothing(tmp_path: Path) -> None:
    both = [Federation(tmp_path, name=name) for name in "fg"]
    site, heard_of = Dispatcher([each.agent("a") for each in both]), Federation(tmp_path, name="h")
    stranger = Federation(tmp_path, centre="office")
    for asking, told in ((heard_of, Unsafe), (stranger, Forged)):
        home, session = asking.home(asking.centre), asking.session()
        invite = m.enclose(home.identity, MemberId(COORDINATOR), MemberId("a"), asking.run, 0, m.Invite(session))
        close = m.enclose(
            home.identity, MemberId(COORDINATOR), MemberId("a"), asking.run, 0, m.Close("aborted", "", 0, b"", ())
        )
        for envelope in (invite, close):
            with pytest.raises(told):
                site.handle(wire.encode(m.Frame(envelope, None)))
            with pytest.raises(told):
                site.progress(wire.encode(m.Frame(envelope, None)))
        home.engine.dispose()
    with pytest.raises(Malformed):
        site.handle(b"nothing")
    assert both[0].entries("a") == []


@pytest.mark.parametrize("scheme", [Scheme.MASKING, Scheme.MASKED_CKKS])
def test_of_another_federations_run_nothing_is_written_down(scheme: Scheme, tmp_path: Path) -> None:
    first = Federation(tmp_path, scheme, name="f", run=RunId(b"f" * 16))
    second = replace(first, name="g", centre="office", run=RunId(b"g" * 16))
    sites = {
        MemberId(site): Dispatcher([each.agent(site) for each in (first, second)])
        for site in {*first.parties, *second.parties}
    }
    assert first.drive(InProcess(sites)).outcome == "finished"
    for name in first.parties:
        before = first.entries(name)
        for message in (m.Close("aborted", "", 0, b"", ()), m.Ask(1, b""), m.Invite(second.session())):
            made = m.enclose(
                second.home("office").identity, MemberId(COORDINATOR), MemberId(name), first.run, 1, message
            )
            with pytest.raises(Unsafe, match="another federation"):
                sites[MemberId(name)].handle(wire.encode(m.Frame(made, None)))
        assert first.entries(name) == before
    assert second.drive(InProcess(sites)).outcome == "finished", "and its own runs are none of the first one's"
