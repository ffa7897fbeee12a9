"""A federation whose messages to one site go through an engine that is not honest, and what becomes of one attack.

The site is whole and unmodified, behind its own socket: machine, policy, account, ledger and door. The engine owns its
processes at both ends, sees every byte and sends the site what it likes; it has no party's key. An attack has succeeded
if the site answered, trained or wrote down anything more than in a run without it, or if the run came to another state.
Each try has to be refused by name, and recorded: where a coordinator signed it, in the site's ledger; where nobody did,
in the site's counts and log, by that name and a number alone.
"""

from __future__ import annotations

import io
import os
import random
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from audits.protection.attempt import Outcome
from securefl import keys, wire
from securefl.protocol import coordinator_state
from securefl.protocol import messages as m
from securefl.runtime import framing
from securefl.runtime.answering import heard
from securefl.runtime.inprocess import InProcess
from securefl.runtime.sockets import Sockets
from securefl.seams import Failure, Waiting
from securefl.site import serve
from securefl.site.counts import Counts
from securefl.site.dispatch import Dispatcher
from securefl.terms import Entry, MemberId, Refused, RunId
from securefl_carriers.doors import Doors
from securefl_carriers.polls import Poll
from securefl_carriers.site_end import SiteEnd
from tests.support.parties import NAMES, Federation

CANARY: Final = "canary"  # a file that no honest run makes
RUN: Final = RunId(b"\x0e" * 16)
LINE: Final = re.compile(r"(protocol|site|connection)[. ][a-z-]+: 10* so far")  # all that a log may say of a stranger


class Engine:
    """Carries polls between both ends, and tries one attack."""

    def __init__(self, site: Path, drawn: random.Random, victim: MemberId, counts: Counts) -> None:
        self.site, self.drawn, self.victim, self.counts, self.end = site, drawn, victim, counts, SiteEnd(site)
        self.identity = keys.Identity(keys.Secret(drawn.randbytes(32)))  # its own: nobody's whom a site knows
        self.asked: list[bytes] = []  # genuine requests to the victim, in order
        self.others: list[bytes] = []  # those to other sites
        self.replies: list[bytes] = []  # genuine replies of anybody
        self.kept: bytes | None = None
        self.answers: list[bytes | Failure | None] = []  # what the site said to each forged request; None: nothing
        self.tries: list[Try] = []
        self.attack: Attack | None = None

    def ask(self, site: str, poll: bytes, allowed_s: float) -> bytes:
        """Carry one poll; before a message of the attack's kind comes the attack."""
        request = Poll.decode(poll).request
        if request is not None and request not in self.asked:
            frame: m.Frame = wire.decode(request, m.Frame)
            receipt, attack = frame.envelope.receipt, self.attack
            if attack and not self.tries and (receipt.kind, receipt.round) == (attack.kind, attack.round):
                for _ in range(attack.tries):
                    self.tries.append(self._tried(attack, frame, request))
            self.asked.append(request)
        return self.end.answer(poll)

    def _tried(self, attack: Attack, frame: m.Frame, request: bytes) -> Try:
        self.answers = []
        before = self.counts.metrics.numbers()
        attack.act(self, frame, request)
        now = self.counts.metrics.numbers()
        more = {name: number - before[name] for name, number in now.items() if number != before[name]}
        refused = {rule: number for (family, rule), number in more.items() if family == "refused_total"}
        ended = {how: number for (family, how), number in more.items() if family == "requests_total"}
        return Try(tuple(self.answers), refused, ended)

    def send(self, data: bytes) -> None:
        """Put one request before the site, and keep what it says."""
        self.answers.append(asked_at(self.site, data))


def asked_at(site: Path, data: bytes) -> bytes | Failure | None:
    """What a site says to a request; None if it hangs up."""
    with socket.socket(socket.AF_UNIX) as connection, suppress(framing.Cut, OSError):
        connection.settimeout(20)
        connection.connect(str(site))
        framing.send(connection, data, 20)
        while True:
            found = heard(framing.receive(connection, 20))
            if not isinstance(found, m.InProgress):
                return found
    return None


@dataclass(frozen=True, slots=True)
class Try:
    """What a site said to one try, and what it counted meanwhile."""

    answers: tuple[bytes | Failure | None, ...]
    refused: dict[str, int]
    ended: dict[str, int]

    @property
    def is_answered(self) -> bool:
        """Whether the site did not refuse something."""
        return any(not isinstance(each, Failure) for each in self.answers)

    @property
    def named(self) -> list[str]:
        """The rules that the site named."""
        return [each.why.partition(":")[0] for each in self.answers if isinstance(each, Failure)]

    def stopped_by(self, attack: Attack) -> str:
        """The names by which all of it was refused, where each was counted once; else nothing."""
        named = self.named
        counted = dict(Counter(named)) == self.refused and all(map(self.ended.get, attack.connections))
        return ", ".join(sorted({*named, *attack.connections})) if counted and set(named) <= attack.names else ""


@dataclass(frozen=True, slots=True)
class Attack:
    """What the engine does, once: before which message, and by which names each try is to be refused."""

    act: Callable[[Engine, m.Frame, bytes], None]
    names: frozenset[str] = frozenset({"protocol.forged"})
    kind: str = "Propose"
    round: int = 1
    in_ledger: bool = False  # whether a coordinator had signed what is tried
    connections: frozenset[str] = frozenset()  # how connections end on which no whole request came
    read_s: float = 20.0  # for so long the site waits for a request to be whole; 60 where nothing is patched
    tries: int = 20  # in one run
    is_late: bool = False  # whether it keeps the victim's first plan until the round is over


@dataclass
class Run:
    """One run over the engine, and what the site has of it."""

    folder: Path
    victim: MemberId
    drawn: random.Random
    attack: Attack
    counts: Counts = field(default_factory=Counts)
    log: io.StringIO = field(default_factory=io.StringIO)

    def __post_init__(self) -> None:
        self.federation = Federation(self.folder, run=RUN)

    def play(self) -> coordinator_state.Ended:
        """The coordinator drives it to its end."""
        agents = {MemberId(name): self.federation.agent(name) for name in NAMES}
        with TemporaryDirectory() as short, redirect_stderr(self.log):
            place = Path(short)
            with _served(place / "site", Dispatcher([agents.pop(self.victim)]), self.counts, self.attack.read_s):
                self.engine = Engine(place / "site", self.drawn, self.victim, self.counts)
                self.engine.attack = self.attack
                doors = Doors(place / "doors", self.engine.ask)
                assert doors.open(self.victim)
                way = Sockets({self.victim: place / "doors" / self.victim}, 60.0)
                try:
                    return self.federation.drive(_Ways(self, way, InProcess(agents)), self.rounds)
                finally:
                    doors.close()
                    self.engine.end.close()
                    for each in agents.values():
                        each.home.engine.dispose()
                    self.left = sorted(each.name for each in place.iterdir())

    @property
    def rounds(self) -> int:
        """As many as the attack needs."""
        return max(1, self.attack.round)

    def is_kept(self, request: bytes) -> bool:
        """Whether the engine keeps this request of the victim until its round is over."""
        receipt = wire.decode(request, m.Frame).envelope.receipt
        return self.attack.is_late and (receipt.kind, receipt.round) == ("Propose", 1)

    def written(self) -> tuple[list[type[Entry]], list[str]]:
        """The kinds of the site's entries in order, without refusals of requests; and the rules of those."""
        kinds, rules = list[type[Entry]](), list[str]()
        for entry in self.federation.entries(self.victim):
            if isinstance(entry, Refused):
                rules += [each.rule for each in entry.reasons]
            else:
                kinds.append(type(entry))
        return kinds, rules


@contextmanager
def _served(path: Path, party: Dispatcher, counts: Counts, read_for_s: float) -> Iterator[None]:
    read_s, serve.READ_S = serve.READ_S, read_for_s  # type: ignore[misc]
    try:
        with serve.Door(path, party, {os.geteuid()}, counts) as door:
            threading.Thread(target=door.serve_forever, args=(0.02,), daemon=True).start()
            yield
            door.shutdown()
    finally:
        serve.READ_S = read_s  # type: ignore[misc]


class _Ways:
    """The victim is asked through the engine, the others by calls that the engine sees."""

    def __init__(self, run: Run, way: Sockets, others: InProcess) -> None:
        self._run, self._way, self._others = run, way, others

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], waiting: Waiting
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        """Ask one after the other, the victim last."""
        run, engine = self._run, self._run.engine
        for member, request in sorted(outbound, key=lambda each: each[0] == run.victim):
            if member == run.victim and run.is_kept(request):
                engine.kept = request
                yield member, waiting.late
                continue
            if member != run.victim:
                engine.others.append(request)
            way = self._way if member == run.victim else self._others
            for name, answer in way.exchange([(member, request)], waiting):
                if isinstance(answer, bytes):
                    engine.replies.append(answer)
                yield name, answer


@lru_cache
def honest(victim: MemberId, rounds: int, *, is_late: bool) -> tuple[bytes, tuple[type[Entry], ...]]:
    """The state of a run that nobody attacks, and the kinds of the site's entries."""
    calm = Attack(lambda *_: None, round=rounds, tries=1, is_late=is_late)
    with TemporaryDirectory() as folder:
        run = Run(Path(folder), victim, random.Random(0), calm)  # noqa: S311 - of nothing secret
        end = run.play()
        assert end.outcome == "finished"
        return end.course.state, tuple(run.written()[0])


def outcomes(attack: Attack, name: str, block: int, folder: Path) -> tuple[Outcome, ...]:
    """What ``attack.tries`` tries of one attack came to, all in one run and before one message.

    Args:
        attack: what is tried.
        name: seeds it, with ``block``: which of its runs this is.
        folder: an empty one.
    """
    drawn = random.Random(f"engine/{name}/{block}")  # noqa: S311 - to be repeated
    run = Run(folder, MemberId(drawn.choice(NAMES)), drawn, attack)
    end = run.play()
    assert len(run.engine.tries) == attack.tries, "every attack was tried"
    state, kinds = honest(run.victim, run.rounds, is_late=attack.is_late)
    written, in_ledger = run.written()
    acted = (
        (end.outcome, end.course.state) != ("finished", state)
        or tuple(written) != kinds
        or CANARY in run.left
        or not all(LINE.fullmatch(line) for line in run.log.getvalue().splitlines())
    )
    named = [each for one in run.engine.tries for each in one.named]
    lost = attack.in_ledger and sorted(in_ledger) != sorted(named)
    told = all(each in run.log.getvalue() for each in (*named, *(f"connection {how}" for how in attack.connections)))
    return tuple(
        Outcome(acted or one.is_answered, one.stopped_by(attack) if told and not lost else "")
        for one in run.engine.tries
    )
