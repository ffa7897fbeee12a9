"""A site is killed with SIGKILL between any two steps, again and again: nothing spent is lost, nothing is spent twice.

Each request is handled by a process of its own, from opening the home to answering. It is killed before or after a
statement, a commit, the pricing, the decision or the training; the coordinator then asks again.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from audits.budget import site
from audits.figures import figure, report
from securefl import wire
from securefl.home.home import Home
from securefl.ledger import store
from securefl.policy.decide import decide
from securefl.protocol import messages as m
from securefl.site import agent as agents
from securefl.terms import Closed, RunId
from tests.support import worlds

RUNS = 6  # of two rounds each in one home
PLANS = 9  # its budget, so the last ones are refused
POINTS = {
    "a proposal arrived and nothing is written": "1 begun",
    "its leaf is written, the head is not": "1 after INSERT INTO leaves",
    "the head is written, the machine is not": "1 after INSERT INTO head",
    "the proposal is about to be committed": "1 before COMMIT",
    "the proposal is committed": "1 after COMMIT",
    "the price is being asked for": "to be priced",
    "the decision is made and nothing is written": "decided",
    "the reservation's head is written, the machine is not": "3 after INSERT INTO head",
    "the reservation is about to be committed": "3 before COMMIT",
    "the reservation is committed and nothing ran": "3 after COMMIT",
    "training is under way": "in training",
    "the settlement is about to be committed": "4 before COMMIT",
    "the settlement is committed and no answer left": "4 after COMMIT",
}


@dataclass
class Steps:
    """Counts what a process does; kills it when it is at the step that was chosen."""

    stop: Callable[[int, str], bool]
    taken: list[str] = field(default_factory=list)
    transactions: int = 0

    def at(self, name: str) -> None:
        """Here is one."""
        self.taken.append(name)
        if self.stop(len(self.taken), name):
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, engine: sa.Engine) -> None:
        """Every statement, and both sides of every commit."""

        def words(statement: str) -> str:
            return " ".join(statement.split()[:3])

        @sa.event.listens_for(engine, "before_cursor_execute")
        def _(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:  # noqa: ANN401
            self.at(f"{self.transactions} before {words(statement)}")

        @sa.event.listens_for(engine, "after_cursor_execute")
        def _(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:  # noqa: ANN401
            self.at(f"{self.transactions} after {words(statement)}")

        @sa.event.listens_for(engine, "begin")
        def _(_conn: Any) -> None:  # noqa: ANN401 - runs after the store's own, which has the lock by then
            self.transactions += 1
            self.at(f"{self.transactions} begun")

        commit = engine.dialect.do_commit

        def committed(connection: Any) -> None:  # noqa: ANN401
            self.at(f"{self.transactions} before COMMIT")
            commit(connection)
            self.at(f"{self.transactions} after COMMIT")

        engine.dialect.do_commit = committed  # type: ignore[method-assign]


@dataclass
class Site:
    """The member under attack, and what must hold of it after each crash."""

    folder: Path
    choose: Callable[[str, int], Callable[[int, str], bool]]  # message kind, attempt -> where to stop
    plans: int
    crashes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    spent: int = 0
    told: set[bytes] = field(default_factory=set)  # plans whose result was acknowledged
    lengths: dict[str, int] = field(default_factory=dict)  # how many steps a kind of message takes
    looking: Home | None = None

    def handle(self, data: bytes) -> bytes:
        """The answer, however often the process that works on it is killed."""
        kind = wire.decode(data, m.Frame).envelope.receipt.kind
        for attempt in range(50):
            answer, where = self._attempt(data, self.choose(kind, attempt))
            if answer is None:
                self.crashes[where] += 1
                self._look(f"{kind}: {where}")
                continue
            if kind == "Propose":
                reply = wire.decode(answer, m.Frame).envelope.receipt
                if reply.kind == "Submitted":
                    self.told.add(reply.plan)
            self._look(f"{kind}: answered")
            return answer
        raise AssertionError("a request that is killed for ever")

    def _attempt(self, data: bytes, stop: Callable[[int, str], bool]) -> tuple[bytes | None, str]:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            _child(self.folder, self.plans, data, stop, write)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            lines = pipe.read()
        _, status = os.waitpid(child, 0)
        steps, _, answer = lines.partition(b"\0")
        taken = steps.decode().splitlines()
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return None, taken[-1]
        assert os.WEXITSTATUS(status) == 0, answer.decode(errors="replace")
        self.lengths[wire.decode(data, m.Frame).envelope.receipt.kind] = len(taken)
        return answer, ""

    def _look(self, when: str) -> None:
        """The laws: an account that equals the replay, that never shrinks, and that knows all that ran."""
        if self.looking is None:
            self.looking = site.home(self.folder)
        with self.looking.transaction() as conn:
            account = self.looking.account(conn)
            replayed = site.replay(iter(store.read(conn, self.looking.identity.public)[1]))
        standing = sum(charge.cost for charge in account.charges if charge.standing != "freed")
        ran = self.folder / "diary"
        diary = ran.read_bytes() if ran.exists() else b""
        trained = {diary[start : start + 32] for start in range(0, len(diary), 32)}
        laws = {
            "the account is not the replay": standing == replayed.spent,
            "spent became less": replayed.spent >= self.spent,
            "a plan is reserved twice": len(set(replayed.reserved)) == len(replayed.reserved),
            "a plan is settled twice": len(set(replayed.settled)) == len(replayed.settled),
            "a result left twice": len(set(replayed.submitted)) == len(replayed.submitted),
            "a result left that is not settled": set(replayed.submitted) == set(replayed.settled),
            "something ran that is not paid for": trained <= set(replayed.reserved) - set(replayed.freed),
            "an acknowledged result is not in the ledger": self.told <= set(replayed.settled),
            "the limit is exceeded": replayed.spent <= self.plans * site.COST,
        }
        self.spent = replayed.spent
        self.wrong += [f"{when}: {law}" for law, holds in laws.items() if not holds]

    def close(self) -> None:
        """No connection stays open."""
        if self.looking is not None:
            self.looking.engine.dispose()


def _child(folder: Path, plans: int, data: bytes, stop: Callable[[int, str], bool], pipe: int) -> None:
    """Handle one request, telling each step before it is taken; never returns."""
    code, answer = 1, b""
    try:
        steps = Steps(lambda number, name: bool(os.write(pipe, name.encode() + b"\n")) and stop(number, name))
        member = site.agent(folder, plans, steps.at)
        steps.watch(member.home.engine)

        def decided(*given: Any) -> Any:  # noqa: ANN401
            answer = decide(*given)
            steps.at("decided")
            return answer

        agents.decide = decided  # this process alone
        answer = member.handle(data)
        code = 0
    except BaseException as fault:  # noqa: BLE001 - told to whoever forked this process
        answer = repr(fault).encode()
    finally:
        os.write(pipe, b"\0" + answer)
        os._exit(code)


def _run(number: int, attacked: Site) -> None:
    """One run of two rounds; the other members and the coordinator are never killed."""
    world = worlds.World(names=(site.OWNER, "b", "c"), scheme=site.SCHEME)
    run = RunId(number.to_bytes(16, "big"))
    state: Any = world.coordinator.state
    course = state.course
    plan = replace(course.plan, run=run)
    session = replace(course.session, run=run)
    world.coordinator.saved = wire.encode(replace(state, course=replace(course, session=session, plan=plan)))
    for party in (world.coordinator, *world.parties.values()):
        party.entries += [Closed(run, "finished", "")] * 1000 * number  # ledgers that only grow from run to run
    ordinary = world.handle

    def handle(name: str, data: bytes) -> bytes:
        return attacked.handle(data) if name == site.OWNER else ordinary(name, data)

    world.handle = handle  # type: ignore[method-assign]
    world.play()


def anywhere(rand: random.Random, attacked: Callable[[], Site]) -> Callable[[str, int], Callable[[int, str], bool]]:
    """Twice at one step of each request, each step as likely as any; then it may go through."""

    def choose(kind: str, attempt: int) -> Callable[[int, str], bool]:
        if attempt >= 2:
            return lambda *_: False
        chosen = rand.randint(1, attacked().lengths.get(kind, 30))
        return lambda number, _: number == chosen

    return choose


def at(points: Iterator[str]) -> Callable[[str, int], Callable[[int, str], bool]]:
    """Once in each proposal, where it is at the next of these points; the last ones may have none."""

    def choose(kind: str, attempt: int) -> Callable[[int, str], bool]:
        step = POINTS.get(next(points, "")) if (kind, attempt) == ("Propose", 0) else None
        return lambda _, name: name == step

    return choose


def crash_anywhere(new_home: Callable[[], Path], crashes: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Return where it was killed, and every law that did not hold."""
    rand, done, wrong = random.Random(seed), Counter[str](), list[str]()  # noqa: S311 - where to crash is no secret
    while done.total() < crashes:
        attacked = Site(new_home(), anywhere(rand, lambda: attacked), PLANS)  # noqa: B023 - used before it changes
        for number in range(RUNS):
            _run(number, attacked)
            if done.total() + attacked.crashes.total() >= crashes:
                break
        attacked.close()
        done += attacked.crashes
        wrong += attacked.wrong
    return done, wrong


def crash_at_points(new_home: Callable[[], Path], times: int) -> tuple[Counter[str], list[str]]:
    """Return how often it was killed at each point, and every law that did not hold."""
    names = {step: point for point, step in POINTS.items()}
    done, wrong = Counter[str](), list[str]()
    for _ in range(times):
        rounds = len(POINTS) + len(POINTS) % 2
        attacked = Site(new_home(), at(iter(POINTS)), rounds)
        for number in range(rounds // 2):
            _run(number, attacked)
        attacked.close()
        done += Counter({names[step]: count for step, count in attacked.crashes.items()})
        wrong += attacked.wrong
        if attacked.spent != rounds * site.COST:
            wrong.append("after all of it, not every plan is paid for once")
    return done, wrong


def main() -> int:
    """1000 crashes anywhere, and 20 at each named point, on both databases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    crashes, times = (40, 1) if chosen.quick else (1000, 20)
    figures = []
    with tempfile.TemporaryDirectory() as outer, site.databases() as kinds:
        for kind, prepare in kinds.items():

            def new_home(kind: str = kind, prepare: Callable[[Path], None] = prepare) -> Path:
                folder = Path(tempfile.mkdtemp(dir=outer)) / kind
                prepare(folder)
                return folder

            done, wrong = crash_anywhere(new_home, crashes, seed=5)
            f = figure
            figures += [
                f(f"{kind}: crashes anywhere", done.total(), f"at least {crashes}", done.total() >= crashes),
                f(f"{kind}: different steps among them", len(done), "above 15", len(done) > 15),
                f(f"{kind}: laws broken after one", len(wrong), "0", not wrong),
            ]
            done, wrong = crash_at_points(new_home, times)
            figures += [f(f"{kind}: killed when {at}", done[at], f"{times}", done[at] == times) for at in POINTS]
            figures.append(f(f"{kind}: laws broken after one", len(wrong), "0", not wrong))
    return report(figures, as_json=chosen.json)


if __name__ == "__main__":
    raise SystemExit(main())
