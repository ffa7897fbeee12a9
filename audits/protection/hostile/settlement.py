"""Training that is not paid for: faults, restarts, races and closings between the first record read and the charge."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from audits.protection.attempt import Attempt, Outcome
from audits.protection.desk import Desk, Learner, read, sent, shape
from securefl import wire
from securefl.errors import OperatorFault, PeerFault, Unsafe
from securefl.home import leftovers
from securefl.keys import Secret
from securefl.ledger import store
from securefl.privacy.account import Standing
from securefl.protocol import declining
from securefl.protocol import messages as m
from securefl.protocol.member_state import Kept, State
from securefl.seams import Own, Unfinished, Waiting
from securefl.site.turns import Turn, Turns
from securefl.strategy.member import MemberStrategy
from securefl.terms import (
    Envelope,
    Event,
    Hash,
    MemberId,
    Plan,
    PoissonGaussian,
    Reason,
    Refusal,
    Refused,
    ReservationReleased,
    RunId,
    Sharing,
    Update,
    Weighting,
)
from securefl.terms.records import Record
from securefl.training.data import Records
from securefl.training.trainer import LoraTrainer
from tests.support import nested, tiny_models
from tests.support.worlds import World, a_grant, identity

KEEPING = Sharing(pull=Fraction(0))  # own models
START = np.zeros(nested.LAYOUT.entries, "<f4")
SETTLED = "settled: training.unfinished"


class Killed(BaseException):
    """What ends a process, seen from inside."""


def _quietly(act: Callable[[], Any]) -> Any:  # noqa: ANN401
    with redirect_stderr(StringIO()):
        return act()


def _paid(desk: Desk, event: Event, rounds: int = 1) -> bool:
    """Whether every round was paid for whole, and stands so."""
    return [(c.standing, c.event) for c in desk.charges()] == [(Standing.SETTLED, event)] * rounds


def _fault(number: int) -> Exception:
    secret = f"patient {number}"
    made: tuple[Exception, ...] = (
        OperatorFault(secret), RuntimeError(secret), MemoryError(secret), PeerFault(secret), Unsafe(secret),
        KeyError(secret), ValueError(secret), AssertionError(secret), OSError(secret), RecursionError(secret),
        UnicodeDecodeError("utf-8", secret.encode(), 0, 1, secret),
    )  # fmt: skip
    return made[number % len(made)]


def _fails(number: int, folder: Path, *, after: bool) -> Outcome:
    """Rounds that fail, then one that does not: what of them is paid, and what of them is in its result?"""
    learner = Learner(number, _fault(number), after)
    desk, base = Desk(number, folder, learner), START.tobytes()
    failing, shapes = 1 + number % 3, set()
    for round_ in range(1, failing + 1):
        answer = _quietly(lambda round_=round_: desk.propose(desk.plan(round_, base, KEEPING), base))
        shapes.add((*shape(answer), answer.reasons if isinstance(answer, m.Declined) else ()))
    plan = desk.plan(failing + 1, base, KEEPING)
    same = _paid(desk, plan.learning.event, failing) and len(shapes) == 1
    learner.fails = None
    desk.ask(m.Enrol(failing + 1, ()), failing + 1)
    desk.propose(plan, base)
    clean = all(had == Own() for had in learner.had) and b"patient" not in desk.said()
    return Outcome(not (same and clean), SETTLED)


def at_its_first_step(number: int, folder: Path) -> Outcome:
    """Raise while records are read."""
    return _fails(number, folder, after=False)


def once_it_is_done(number: int, folder: Path) -> Outcome:
    """Raise when the state was trained: as scoring own weights does."""
    return _fails(number, folder, after=True)


def sealing(number: int, folder: Path) -> Outcome:
    """Make an update that cannot be sealed, and keep what was trained."""

    class Unsealable(Learner):
        def train(self, plan: Plan, base: bytes, own: Own) -> tuple[Update, Own]:
            made, keep = super().train(plan, base, own)
            return Update(made.values[: 1 + number % (plan.dimension - 1)], made.did), keep

    desk, base = Desk(number, folder, Unsealable(number)), START.tobytes()
    plan = desk.plan(1, base, KEEPING)
    answer = _quietly(lambda: desk.propose(plan, base))
    held = isinstance(answer, m.Declined) and _paid(desk, plan.learning.event) and desk.kept(9) == Own()
    return Outcome(not held, SETTLED)


def other_than_priced(number: int, folder: Path) -> Outcome:
    """Train more, or with less noise, than was priced, and be charged for less."""
    drawn = random.Random(number)  # noqa: S311
    learner = Learner(number)
    desk, base = Desk(number, folder, learner), START.tobytes()
    plan = desk.plan(1, base, KEEPING)
    priced = plan.learning.event
    assert isinstance(priced, PoissonGaussian)
    did = PoissonGaussian(
        Fraction(drawn.randint(1, 20), 100), Fraction(drawn.randint(50, 200), 100), drawn.randint(1, 9)
    )
    learner.did = did
    answer = _quietly(lambda: desk.propose(plan, base))
    (charge,) = desk.charges()
    large = charge.event
    covers = isinstance(large, PoissonGaussian) and (
        large.sampling_rate >= max(priced.sampling_rate, did.sampling_rate)
        and large.noise_multiplier <= min(priced.noise_multiplier, did.noise_multiplier)
        and large.steps >= max(priced.steps, did.steps)
    )
    held = isinstance(answer, m.Declined) and covers and charge.standing is Standing.SETTLED and desk.kept(9) == Own()
    return Outcome(not held, SETTLED)


def not_finite(number: int, folder: Path) -> Outcome:
    """Propose a base that no sum can be made of, where it is never trained from: records are read for nothing."""
    learner, drawn = Learner(number), np.random.default_rng(number)
    desk, base = Desk(number, folder, learner), START.copy()
    wrong = (np.nan, np.inf, -np.inf, 3.4e38, 2.0**100, np.float32("nan"))[number % 6]
    base[drawn.integers(0, 2 if number % 2 else len(base))] = wrong  # by turns in what stays at home
    sharing = Sharing(home=("bias",)) if number % 2 else Sharing()
    data = base.tobytes()
    answer = desk.propose(desk.plan(1, data, sharing), data)
    rules = {reason.rule for reason in answer.reasons} if isinstance(answer, m.Declined) else set()
    return Outcome(bool(learner.had or desk.charges() or isinstance(answer, m.Submitted)), ", ".join(sorted(rules)))


def raced(number: int, folder: Path) -> Outcome:
    """Let two processes of a site train one plan: is what is kept that of the result which left?"""

    class Overtaken(Learner):
        def train(self, plan: Plan, base: bytes, own: Own) -> tuple[Update, Own]:
            made = super().train(plan, base, own)
            if self.trained == 1:  # the other process is done first, or begins while this one is done
                desk.another(Learner(number + 1000)).handle(request)
            return made

    learner = Overtaken(number)
    desk, base = Desk(number, folder, learner), (START + np.float32(number % 7)).tobytes()
    plan = desk.plan(1, base, KEEPING)
    request = desk.frame(m.Propose(plan, base, b""), 1, plan)
    answer = read(wire.decode(desk.agent.handle(request), m.Frame))
    assert isinstance(answer, m.Submitted)
    kept = np.frombuffer(desk.kept(2).model, "<f4").astype(float) - np.frombuffer(base, "<f4")
    one = bool(np.abs(sent(answer) - kept).max() <= 2.0**-15) and _paid(desk, plan.learning.event)
    return Outcome(not one, "one result of an effect is recorded")


def restarted(number: int, folder: Path) -> Outcome:
    """Kill the site between training and settling, as often as it likes: does anything of it come back?"""
    learner = Learner(number, Killed(), after=True)
    desk, base = Desk(number, folder, learner), START.tobytes()
    plan = desk.plan(1, base, KEEPING)
    request = desk.frame(m.Propose(plan, base, b""), 1, plan)
    for _ in range(1 + number % 3):
        with suppress(Killed):
            desk.agent.handle(request)
    held = [charge.standing for charge in desk.charges()] == [Standing.RESERVED] and desk.kept(9) == Own()
    learner.fails = None
    answer = read(wire.decode(desk.agent.handle(request), m.Frame))
    kept = desk.kept(9)
    alone = kept.model == learner.keeps[-1].model and isinstance(answer, m.Submitted)
    return Outcome(not (held and alone and _paid(desk, plan.learning.event)), "reserved until it goes on")


class Late(Turns):
    """A site's turns, where the round goes on without a training that is about to begin."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None, done: int = 0) -> None:
        super().__init__()
        self._meanwhile, self._done = meanwhile, done

    @contextmanager
    def training(self, turn: Turn, steps: int) -> Iterator[None]:
        """As ever, once the coordinator has gone past it: before it begins, or in its first step."""
        self._meanwhile()
        turn.over = not self._done
        with super().training(turn, steps):
            turn.over = True
            if self._done:
                self.step(self._done, steps)
            yield


def _begun_again(number: int, folder: Path, turns: Turns, fails: BaseException | None = None) -> Outcome:
    """Kill a training that has read records, begin it again, and let the second one end before it reads any."""
    desk, base = Desk(number, folder, Learner(number, Killed(), after=number % 2 == 0)), START.tobytes()
    plan = desk.plan(1, base, KEEPING)
    request = desk.frame(m.Propose(plan, base, b""), 1, plan)
    for _ in range(1 + number % 3):
        with suppress(Killed):
            _quietly(lambda: desk.agent.handle(request))
    again = replace(desk.another(Learner(number, fails)), turns=turns)
    answer = read(wire.decode(_quietly(lambda: again.handle(request)), m.Frame))
    told = isinstance(answer, m.Declined) and answer.reasons == (declining.constant(declining.UNFINISHED),)
    return Outcome(not (told and _paid(desk, plan.learning.event)), SETTLED)


def over_before_it_began_again(number: int, folder: Path) -> Outcome:
    """Go on to the next round while the site that was killed waits for its model."""
    return _begun_again(number, folder, Late())


def over_in_its_first_step_again(number: int, folder: Path) -> Outcome:
    """Go on to the next round once the second training has taken one step: fewer than the first one took."""
    return _begun_again(number, folder, Late(done=1))


def unread_when_begun_again(number: int, folder: Path) -> Outcome:
    """Have the second training say that nobody below read a record."""
    return _begun_again(number, folder, Turns(), Unfinished("the run below was refused", None))


def over_while_another_reads(number: int, folder: Path) -> Outcome:
    """Let a second process of the site take up the training and be killed, while the first one waits to begin."""
    desk, base = Desk(number, folder, Learner(number)), START.tobytes()
    plan = desk.plan(1, base, KEEPING)
    request = desk.frame(m.Propose(plan, base, b""), 1, plan)

    def another() -> None:
        with suppress(Killed):
            desk.another(Learner(number, Killed(), after=number % 2 == 0)).handle(request)

    answer = read(wire.decode(_quietly(lambda: replace(desk.agent, turns=Late(another)).handle(request)), m.Frame))
    return Outcome(not (isinstance(answer, m.Declined) and _paid(desk, plan.learning.event)), SETTLED)


def closed(number: int, folder: Path) -> Outcome:
    """End the run while a member trains: its reservation is given back, and what it learned is not."""
    learner = Learner(number, Killed(), after=True)
    desk, base = Desk(number, folder, learner), START.tobytes()
    plan = desk.plan(1, base, KEEPING)
    with suppress(Killed):
        desk.propose(plan, base)
    outcome = ("aborted", "refused", "finished")[number % 3]
    desk.ask(m.Close(outcome, "enough", 0, b"", ()), 0)
    held = _paid(desk, plan.learning.event) and desk.kept(9) == Own()
    return Outcome(not held, "settled: the run closed")


def closed_node(number: int, folder: Path) -> Outcome:
    """Kill a node inside its run below, and close the run above it: the node is charged nothing."""

    class Dying(list[tuple[str, int]]):
        def append(self, one: tuple[str, int]) -> None:
            if len(self) == 1 + number % 5:
                raise Killed
            super().append(one)

    tree: nested.Tree = {"left": dict.fromkeys(("l1", "l2", "l3")), "right": dict.fromkeys(("r1", "r2", "r3"))}
    world = nested.World(folder, tree, rounds=1, rounds_inside=2)
    world.trained = Dying()
    with suppress(Killed):
        world.play(np.zeros(nested.LAYOUT.entries))
    _, _, _, seat, _, home, runtime = world.federation((), tree, None)
    close = m.Close("aborted", "enough", 0, b"", ())
    envelope = m.enclose(home.identity, seat.member, MemberId("left"), RunId(bytes(16)), 0, close)
    with home.transaction():
        head = home.head()
    list(runtime().exchange([(MemberId("left"), wire.encode(m.Frame(envelope, head)))], Waiting(1.0, time.monotonic)))
    steps = {way: _steps(world, ("left", *way)) for way in ((), ("l1",), ("l2",), ("l3",))}
    free = any(steps[way] > steps[()] for way in steps if way)
    node = world.home(("left",))
    with node.transaction() as conn:
        free = free or any(
            isinstance(leaf.entry, ReservationReleased) for leaf in store.read(conn, node.identity.public)[1]
        )
    return Outcome(free or not any(steps.values()), "settled: the run closed")


def _steps(world: nested.World, way: tuple[str, ...]) -> int:
    home = world.home(way)
    with home.transaction() as conn:
        return sum(c.event.steps for c in home.account(conn).charges if c.standing is not Standing.FREED)


def left_by_no_settled_plan(number: int, folder: Path) -> Outcome:
    """Put the state of another training where the next round looks for what was kept."""
    learner = Learner(number)
    desk, base = Desk(number, folder, learner), START.tobytes()
    desk.propose(desk.plan(1, base, KEEPING), base)
    mine = desk.kept(2)
    plan, stolen = desk.plan(2, base, KEEPING), Own(np.full_like(START, number + 1).tobytes())
    with desk.home.transaction() as conn:  # what a process of before wrote, or whoever holds the home
        home = desk.home
        leftovers.keep(conn, desk.run, Kept(wire.plan_hash(plan), 2, stolen), home.seal)
    desk.ask(m.Enrol(3, ()), 3)
    desk.propose(desk.plan(3, base, KEEPING), base)
    return Outcome(stolen in learner.had or learner.had[-1] != mine, "read only if its plan is settled")


@cache
def _model() -> tiny_models.SharedModel:
    folder = Path(tempfile.mkdtemp())
    of = tiny_models.shared("bert", folder)
    of.preflight()
    return of


def _asked(**changes: Any) -> Plan:  # noqa: ANN401
    of = _model()
    made = tiny_models.plan(of, event=PoissonGaussian(Fraction(1, 2), Fraction(1), 1))
    fields = {"run": RunId(bytes(16)), "base": Hash(m.state_digest(of.initial())), **changes}
    return replace(made, **fields)


def _told_apart(number: int, by: str, one: Record, other: Record) -> Outcome:
    """Tell two data sets apart, which differ in one record: by an error, or by what comes instead."""
    of, drawn = _model(), random.Random(number)  # noqa: S311
    records = [Record(text, drawn.randrange(3)) for text in ["late again", "thanks", "hello there"] * 4]
    told: set[tuple[object, ...]] = set()
    for more in (one, other):
        held = (*records, more)
        fixed = random.Random(1).randbytes  # noqa: S311
        trainer = LoraTrainer(of, Records(held, ()), fixed, half=MemberStrategy(of.layout))
        try:
            update, keep = trainer.train(_asked(), of.initial(), Own())
        except Exception as fault:  # noqa: BLE001 - any of them tells the two apart
            told.add((type(fault).__name__,))
        else:
            told.add((len(update.values), update.did, keep == Own(), bool(np.isfinite(update.values).all())))
    return Outcome(len(told) != 1, by)


def a_record_without_a_label(number: int, folder: Path) -> Outcome:
    """Find whether one more record has a label."""
    del folder
    text, label = f"one more {number}", random.Random(number).randrange(3)  # noqa: S311
    return _told_apart(number, "a record without a label contributes nothing", Record(text, label), Record(text, -1))


def a_text_of_no_characters(number: int, folder: Path) -> Outcome:
    """Find whether one more record has halves of characters, which JSON can write and no tokenizer takes."""
    del folder
    drawn = random.Random(number)  # noqa: S311
    places, text = range(drawn.randint(1, 4)), f"one more {number}"
    halves = "".join(chr(drawn.randrange(0xD800, 0xE000)) + drawn.choice(["", " ", "late", "\0"]) for _ in places)
    by = "half a character is read as U+FFFD"
    return _told_apart(number, by, Record(text, 1), Record(drawn.choice([halves, text + halves, halves + text]), 1))


def a_probe_that_is_none(number: int, folder: Path) -> Outcome:
    """Name the digest of an empty probe, so that a member without one trains, fails to score it, and raises."""
    del folder
    of = _model()
    probe = wire.digest("probe", ()) if number % 2 else Hash(random.Random(number).randbytes(32))  # noqa: S311
    sharing = Sharing((Weighting(Fraction(1), Fraction(1), probe=probe),))
    trainer = LoraTrainer(of, tiny_models.UNREAD, _undrawn, half=MemberStrategy(of.layout))
    plan = _asked(sharing=sharing, dimension=of.layout.dimension(1, sharing))
    try:
        trainer.admit(plan, of.initial())
    except PeerFault as fault:
        return Outcome(False, fault.rule)
    except AssertionError:  # a record was looked at
        return Outcome(True, "")
    return Outcome(True, "")


def _undrawn(size: int) -> bytes:
    """Bytes for what is never drawn."""
    return bytes(size)


def another_question(number: int, folder: Path) -> Outcome:
    """Hand in, in round 2, a signed reply to another question: an old one, or a new one that says the old round."""
    del folder
    world, kind = World(rounds=2), number % 3
    name = random.Random(number).choice(["a", "b", "c", "d"])  # noqa: S311
    party, honest, old = world.parties[name], world.exchange, dict[str, Envelope]()
    no = Refusal((Reason("budget.epsilon", "1", "0", "-"),))
    party.decide = lambda plan: no if plan.round == 1 else a_grant(plan)

    def wired(outbound: Any, patience_s: float = 0) -> Any:  # noqa: ANN401
        for who, answer in honest(outbound, patience_s):
            frame = wire.decode(answer, m.Frame) if isinstance(answer, bytes) else None
            if frame is None or who != name or frame.envelope.receipt.kind not in ("Declined", "Submitted"):
                yield who, answer
                continue
            receipt = frame.envelope.receipt
            if receipt.round == 1:
                old["reply"] = frame.envelope
                yield who, answer
                continue
            key, run = identity(name), receipt.run
            said = m.Declined(1 if kind == 1 else 2, no.reasons)
            plan = old["reply"].receipt.plan if kind == 2 else receipt.plan
            made = m.enclose(key, MemberId(name), receipt.to, run, 2, said, plan)
            yield who, wire.encode(m.Frame(old["reply"] if kind == 0 else made, frame.head))

    world.exchange = wired  # type: ignore[method-assign]
    world.play()
    counted = [each for each in world.coordinator.entries if isinstance(each, Refused) and each.what.endswith(name)]
    rules_ = {fault.rule for _, fault in world.faults if isinstance(fault, PeerFault)}
    return Outcome(len(counted) > 1, ", ".join(sorted(rules_)))


@dataclass
class Cheat:
    """A leaf with its own key that answers plans so that its node should think that less was trained."""

    agent: Any
    last: int
    kind: int

    def _following(self, plan: Plan) -> bytes:
        agent = self.agent
        with agent.home.transaction() as conn:
            boxes = agent.home.saved(conn, plan.run, State).seat.boxes
        half, rand = agent.ports.protection(plan.cover.scheme), Secret(bytes(32))
        names = {MemberId(each): box for each, box in boxes.items()}
        made = half.enrol(
            agent.charter.me, plan.run, plan.round + 1, plan.cover.threshold, names, agent.home.identity, rand
        )
        public: bytes = made.public
        return public

    def handle(self, data: bytes) -> bytes:
        """The genuine answer, but to plans."""
        frame: m.Frame = wire.decode(data, m.Frame)
        asked = frame.envelope.receipt
        if asked.kind != "Propose":
            answer: bytes = self.agent.handle(data)
            return answer
        plan, home = wire.decode(frame.envelope.body, m.Propose).plan, self.agent.home
        freed = 1 + (plan.round - 1) // 4  # one more round for each four declines: as many as were asked
        told: m.Reply = m.Declined(freed, (declining.constant(declining.UNREAD),))
        if plan.round == self.last:
            told = m.Submitted(plan.round, b"garbage", self._following(plan))
        name = None if self.kind == 1 else wire.plan_hash(plan)
        receipt_round = freed if self.kind else plan.round
        made = m.enclose(
            home.identity,
            self.agent.charter.me,
            asked.sender,
            asked.run,
            receipt_round,
            told,
            name,
            release=("weights",),
        )
        with home.transaction():
            head = home.head()
        return wire.encode(m.Frame(made, head))


class Cheated(nested.World):
    """A tree with one such leaf."""

    number = 0

    def federation(self, way: tuple[str, ...], tree: nested.Tree, above: Any) -> Any:  # noqa: ANN401
        """The same parties; `l0` cheats."""
        *parts, runtime = super().federation(way, tree, above)

        def wrapped() -> Any:  # noqa: ANN401
            made = runtime()
            if way == ("left",):
                peers = made._peers  # noqa: SLF001
                peers[MemberId("l0")] = Cheat(peers[MemberId("l0")], self.rounds_inside, self.number % 3)
            return made

        return (*parts, wrapped)


def undercharged(number: int, folder: Path) -> Outcome:
    """One leaf makes its node pay less than its honest leaves trained: by old declines, and by garbage at the end."""
    rounds, was = 5 + number % 2, nested.EVENT
    nested.EVENT = PoissonGaussian(Fraction(1, 10), Fraction(1), rounds)
    try:
        tree: nested.Tree = {
            "left": dict.fromkeys(f"l{at}" for at in range(4)),
            "right": dict.fromkeys(("r0", "r1", "r2")),
        }
        world = Cheated(folder, tree, rounds=1, rounds_inside=rounds)
        world.number = number
        _quietly(lambda: world.play(np.zeros(nested.LAYOUT.entries)))
    finally:
        nested.EVENT = was

    def steps(way: tuple[str, ...]) -> int:
        home = world.home(way)
        with home.transaction() as conn:
            return sum(c.event.steps for c in home.account(conn).charges if c.standing is not Standing.FREED)

    most = max(steps(("left", f"l{at}")) for at in range(4))
    return Outcome(most == 0 or steps(("left",)) < most, SETTLED)


ATTEMPTS = (
    Attempt("A signed reply to another question counts as the answer to this one", another_question),
    Attempt("A leaf makes its node pay less than its honest leaves trained", undercharged),
    Attempt("A fault at any step of a training gives its price back, or tells what it was", at_its_first_step),
    Attempt("A fault once a training is done leaves its own model for the next round", once_it_is_done),
    Attempt("An update that cannot be sealed is free, and kept", sealing),
    Attempt("A training that is not the one that was priced is charged as less", other_than_priced),
    Attempt("A base that is not finite, in what stays at home, has records read for nothing", not_finite),
    Attempt("Two processes of a site train one plan: one's result leaves, the other's is kept", raced),
    Attempt("A site that is killed between training and settling keeps what it trained", restarted),
    Attempt("A training that is begun again, and whose round is over before, was free", over_before_it_began_again),
    Attempt("A training that is begun again, and whose round is over, costs one step", over_in_its_first_step_again),
    Attempt("A training that is begun again says that no record was read below", unread_when_begun_again),
    Attempt("A training waits while another process takes it up and is killed", over_while_another_reads),
    Attempt("A run that is closed while a member trains gives the price back", closed),
    Attempt("A node that is killed inside its run, and closed from above, is charged nothing", closed_node),
    Attempt("What no settled plan left is read by the next round", left_by_no_settled_plan),
    Attempt("A record without a label is told by a refusal", a_record_without_a_label),
    Attempt("A text of halves of characters is told by a refusal", a_text_of_no_characters),
    Attempt("The digest of a probe that is not here makes a member raise after it trained", a_probe_that_is_none),
)
