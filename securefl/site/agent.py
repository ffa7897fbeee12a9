"""The long-lived process of one site: it holds keys, policy, account, ledger, model and records, and answers requests.

It carries a machine's steps into the world: record, then save, then answer. An engine's job only carries bytes to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from securefl import keys, wire
from securefl.errors import Elsewhere, Fault, PeerFault, Unsafe
from securefl.home.ledger_view import DEAD_KEYS
from securefl.policy import load as policies
from securefl.policy.decide import decide
from securefl.protection import fixed_point
from securefl.protocol import custodian, member, member_state
from securefl.protocol import messages as m
from securefl.seams import Unfinished
from securefl.shown import short
from securefl.site import round_time
from securefl.site.run_keys import authentic, refreshed, signer_of, with_ledger
from securefl.site.turns import RoundOver, Turn, Turns
from securefl.telling import tell
from securefl.terms import Grant, MixedUnits, Plan, Price, Reason, Refusal, Refused, Unbounded, rules
from securefl.wire import LIMIT_BYTES

if TYPE_CHECKING:
    import sqlalchemy as sa

    from securefl.home.home import Home
    from securefl.policy.load import Policy
    from securefl.privacy.account import Account
    from securefl.seams import Trainer
    from securefl.terms import Envelope, MemberId, RunId, Update

_TRIES = 64  # re-pricings when other runs charge the same account meanwhile


class Overtaken(Fault):
    """Another process of the same site, one that outlived its parent for instance, went on with this run first."""


@lru_cache(maxsize=64)
def _version(text: bytes) -> int:
    return policies.parse(text, "a policy in the ledger").version


@dataclass(frozen=True, slots=True)
class MemberAgent:
    """One member's site. ``handle`` answers one request; everything it decides is in its own ledger first."""

    home: Home
    charter: member_state.SiteConfig
    policy: Policy
    ports: member_state.Ports
    trainer: Trainer
    price: Callable[[Plan, Account], Price]
    entropy: Callable[[int], bytes]
    turns: Turns = field(default_factory=Turns, repr=False, compare=False)  # its trainer tells it of each step
    limits: Callable[[Plan], Refusal | None] = lambda _: None  # the site's own, beside those of its policy
    most_request: int = LIMIT_BYTES  # bytes of one request
    round_s: int | None = None  # from a round's reservation on: later no question is answered, and no step trained

    def handle(self, data: bytes) -> bytes | m.InProgress:
        """Answer one request; while another one of the same run is worked on, say how far that is.

        Raises:
            PeerFault: the request is not allowed; that is in the ledger, and nothing moved. Of a request that is not
                signed by the coordinator nothing is written, nowhere.
        """
        frame = _asked(data, self.charter, self.home)
        with self.turns.taken(self.charter.federation, frame.envelope.receipt) as turn:
            return turn if isinstance(turn, m.InProgress) else self._answered(frame, turn)

    def progress(self, data: bytes) -> m.InProgress:
        """Say how far the run of this request is; nothing is begun for it.

        Raises:
            PeerFault: the request is not the coordinator's.
        """
        return self.turns.progress(
            self.charter.federation, authentic(data, self.charter, self.home).envelope.receipt.run
        )

    def leave(self) -> None:
        """End trainings after the step that they are in; their reservations stand."""
        self.turns.leave()

    @property
    def idle(self) -> bool:
        """Whether no request is worked on."""
        return self.turns.idle

    def _answered(self, frame: m.Frame, turn: Turn) -> bytes:
        run = frame.envelope.receipt.run
        with self.home.transaction() as conn:
            moved: member_state.Step | PeerFault
            _check_own(self.home, conn, self.charter, run)
            saved = self.home.saved(conn, run, member_state.State)
            state = saved or member_state.Idle(refreshed(self.charter, self.home, conn, frame))
            try:
                if isinstance(state, member_state.Sealed) and frame.envelope.receipt.kind == m.Ask.__name__:
                    round_time.check(self.home, conn, run, self.round_s)
                event = member_state.Received(frame.envelope, frame.head, self._secret())
                moved = member.step(state, event, with_ledger(self.ports, self.home, state, frame))
                self.home.commit(conn, run, moved.entries, moved.state)
            except PeerFault as fault:
                moved = fault
        if isinstance(moved, PeerFault):
            _write_down(self.home, frame.envelope, moved)
            raise moved
        try:
            while moved.effects:
                moved = self._perform(moved, turn)
        except Overtaken:
            return self._answered(frame, turn)  # what was done here is thrown away; the other's reply stands, or comes
        if isinstance(state, member_state.Sealed) and frame.envelope.receipt.kind == m.Enrol.__name__:
            _tell_late(self.charter.me, state.plan)
        return _answer(moved.outbound, self.home, signer_of(self.home, moved.state))

    def _perform(self, moved: member_state.Step, turn: Turn) -> member_state.Step:
        effect = moved.effects[0]
        if isinstance(effect, member_state.Reserve):
            return self._reserve(moved.state, effect)
        with self.home.transaction() as conn:
            own = self.home.own(conn, effect.plan.run, effect.plan.round)
        event: member_state.Event
        try:  # from here on records are read: whatever happens is paid for
            late = round_time.late(self.home, effect.plan.run, self.round_s)
            with self.turns.training(turn, effect.plan.learning.event.steps, late):
                update, keep = self.trainer.train(effect.plan, effect.base, own)
            event = member_state.Trained(update, self._secret(), keep)
        except Elsewhere:  # another process goes on with it: the reservation stands
            _tell_reserved(self.charter.me, effect.plan)
            raise
        except RoundOver as late:
            ran = replace(effect.plan.learning.event, steps=late.done) if late.done else None
            event = member_state.Stopped(str(late), member_state.Ran(ran))
        except Unfinished as fault:
            event = member_state.Stopped(str(fault), member_state.Ran(fault.did, fault.below))
        except Exception as fault:  # noqa: BLE001 - see above; what ends the process itself leaves the reservation
            event = member_state.Stopped(f"{type(fault).__name__}: {fault}")
        except BaseException:
            _tell_reserved(self.charter.me, effect.plan)
            raise
        after = self._move(moved.state, effect.plan, event)
        if isinstance(event, member_state.Trained):  # once it is recorded: what is told here changes nothing
            _tell_operator(self.charter.me, effect.plan, event.update)
        return after

    def _reserve(self, state: member_state.State, effect: member_state.Reserve) -> member_state.Step:
        """Price outside, decide inside: one transaction holds the decision, the reservation and its ledger leaf."""
        plan, asked, unfit = effect.plan, False, None
        beyond = self.limits(plan)
        for _ in range(_TRIES):
            with self.home.transaction() as conn:
                account = self.home.account(conn)
            try:
                price: Price | Refusal = self.price(plan, account)
            except MixedUnits as fault:
                fix = "train under the unit this site's account holds, or on a data set with an account of its own"
                price = Refusal((Reason("budget.unit", str(fault), "one unit on each account", fix),))
            except (Unbounded, ValueError, ArithmeticError) as fault:
                price = Refusal((Reason("budget.price", f"no price: {fault}", "a finite price", "add noise"),))
            if not asked and beyond is None and self._allowed(effect, account, price):
                asked, unfit = True, self._unfit(effect)
            with self.home.transaction() as conn:
                _check_stands(self.home, conn, plan.run, state)
                if self.home.account(conn).digest != account.digest:
                    continue  # another run charged this account meanwhile
                now = self.home.clock()
                answer: Grant | Refusal = (
                    self._superseded(conn)
                    or unfit
                    or _with(
                        beyond,
                        price
                        if isinstance(price, Refusal)
                        else decide(self.policy, plan, account, price, now, effect.base),
                    )
                )
                moved = member.step(state, member_state.Decided(answer), with_ledger(self.ports, self.home, state))
                self.home.commit(conn, plan.run, moved.entries, moved.state, now)
            if isinstance(answer, Refusal):
                _tell_why(self.charter.me, plan, answer)
            return moved
        raise PeerFault("the account is charged faster by other runs than this plan can be priced; ask again later")

    def _allowed(self, asked: member_state.Reserve, account: Account, price: Price | Refusal) -> bool:
        now = self.home.clock()
        return isinstance(price, Price) and isinstance(
            decide(self.policy, asked.plan, account, price, now, asked.base), Grant
        )

    def _unfit(self, effect: member_state.Reserve) -> Refusal | None:
        """A refusal if this plan cannot be trained here: found before a record is read, so nothing is reserved."""
        try:
            with self.turns.model():
                self.trainer.admit(effect.plan, effect.base)
        except PeerFault as fault:
            return Refusal((Reason(member.UNREAD, str(fault), "what is loaded here", "plan for it"),))
        return None

    def _superseded(self, conn: sa.Connection) -> Refusal | None:
        """A refusal if a run under a later version of this policy has begun here meanwhile: that one is promised."""
        mine = self.policy
        others = {each.policy for _, each in self.home.opened(conn) if each.federation == mine.federation}
        versions = [_version(text) for text in others - {mine.text}]
        if max(versions, default=0) <= mine.version:
            return None
        fix = "begin a run under the version that this site agreed to last"
        return Refusal((Reason("policy.version", str(mine.version), f"at least {max(versions)}", fix),))

    def _move(self, state: member_state.State, plan: Plan, event: member_state.Event) -> member_state.Step:
        self.home.catch_up()  # training took long: a key may have been revoked meanwhile
        moved = member.step(state, event, with_ledger(self.ports, self.home, state))
        with self.home.transaction() as conn:
            _check_stands(self.home, conn, plan.run, state)
            self.home.commit(conn, plan.run, moved.entries, moved.state, keep=moved.keep)
        if moved.trouble:
            tell(f"{self.charter.me}: training came to nothing: {short(moved.trouble)}")
        return moved

    def _secret(self) -> keys.Secret:
        return keys.Secret(self.entropy(32))


@dataclass(frozen=True, slots=True)
class CustodianAgent:
    """The holder of a decryption key. It has no records and no account."""

    home: Home
    charter: member_state.SiteConfig
    ports: custodian.Ports
    entropy: Callable[[int], bytes] = field(repr=False)
    turns: Turns = field(default_factory=Turns, repr=False, compare=False)
    most_request: int = LIMIT_BYTES  # bytes of one request: no plan is known before the first sum is to be opened

    def handle(self, data: bytes) -> bytes | m.InProgress:
        """Answer one request; while another one of the same run is worked on, say so.

        Raises:
            PeerFault: as for a member.
        """
        frame = _asked(data, self.charter, self.home)
        with self.turns.taken(self.charter.federation, frame.envelope.receipt) as turn:
            return turn if isinstance(turn, m.InProgress) else self._answered(frame)

    def progress(self, data: bytes) -> m.InProgress:
        """As for a member."""
        return self.turns.progress(
            self.charter.federation, authentic(data, self.charter, self.home).envelope.receipt.run
        )

    def leave(self) -> None:
        """As for a member; what it opens takes no steps."""
        self.turns.leave()

    @property
    def idle(self) -> bool:
        """Whether no request is worked on."""
        return self.turns.idle

    def _answered(self, frame: m.Frame) -> bytes:
        run = frame.envelope.receipt.run
        with self.home.transaction() as conn:
            _check_own(self.home, conn, self.charter, run)
            saved = self.home.saved(conn, run, custodian.State)
            state = saved or custodian.Idle(refreshed(self.charter, self.home, conn, frame))
            moved: custodian.Step | PeerFault
            try:
                event = member_state.Received(frame.envelope, frame.head, keys.Secret(self.entropy(32)))
                moved = custodian.step(state, event, with_ledger(self.ports, self.home, state, frame))
                self.home.commit(conn, run, moved.entries, moved.state)
            except PeerFault as fault:
                moved = fault
        if isinstance(moved, PeerFault):
            _write_down(self.home, frame.envelope, moved)
            raise moved
        try:
            while moved.effects:
                moved = self._perform(moved, run)
        except Overtaken:
            return self._answered(frame)  # both decrypted the same sum
        return _answer(moved.outbound, self.home, signer_of(self.home, moved.state))

    def _perform(self, moved: custodian.Step, run: RunId) -> custodian.Step:
        """Decrypt what the committed step asks for: the home remembers it by now, whatever its database shows."""
        try:
            found = custodian.Decrypted(self.ports.holder.open_sum(moved.effects[0].prepared))
        except Exception as fault:  # noqa: BLE001 - something may have been decrypted, so it is not tried again
            tell(short(f"custodian: no sum was opened: {type(fault).__name__}: {fault}"))
            found = custodian.Decrypted.not_at_all(fault)
        after = custodian.step(moved.state, found, with_ledger(self.ports, self.home, moved.state))
        with self.home.transaction() as conn:
            _check_stands(self.home, conn, run, moved.state)
            self.home.commit(conn, run, after.entries, after.state)
        return after


Agent = MemberAgent | CustodianAgent


def _asked(data: bytes, charter: member_state.SiteConfig, home: Home) -> m.Frame:
    """The frame, as ``authentic`` has it. What a coordinator's key asks that counts no more is written down.

    Once by each rule, whosever key and whichever federation's, until the next run or notice here: whoever has such a
    key fills no ledger with what it asks.
    """
    try:
        return authentic(data, charter, home)
    except PeerFault as fault:
        if fault.rule in DEAD_KEYS:
            frame: m.Frame = wire.decode(data, m.Frame)
            with home.transaction() as conn:
                _check_own(home, conn, charter, frame.envelope.receipt.run)
                is_known = fault.rule in home.live.now.turned_away
            if not is_known:
                _write_down(home, frame.envelope, fault)
        raise


def _check_own(home: Home, conn: sa.Connection, charter: member_state.SiteConfig, run: RunId) -> None:
    """Check that this run, if it began at this site, is one of this federation and task.

    A coordinator has no say in what is written down of another federation's run: of its request nothing is.

    Raises:
        Unsafe: it is another federation's, or another task's.
    """
    began = next((opened for _, opened in home.opened(conn) if opened.run == run), None)
    if began is not None and began.federation != charter.federation:
        raise Unsafe("a run of another federation that this site is in", "protocol.another-federation")
    if began is not None and began.task != charter.task:
        raise Unsafe("a run of another task that this site takes part in", "protocol.another-task")


def _check_stands(home: Home, conn: sa.Connection, run: RunId, state: object) -> None:
    """One result of an effect is recorded, however many processes performed it.

    Raises:
        Overtaken: another process of this site moved the run meanwhile.
    """
    if not home.stands(conn, run, state):
        raise Overtaken("another process of this site moved the run")


def _with(beyond: Refusal | None, decided: Grant | Refusal) -> Grant | Refusal:
    """What policy and account say, with what is beyond the site's own limits: all that has to change, at once."""
    if beyond is None or isinstance(decided, Grant):
        return beyond or decided
    return Refusal((*decided.reasons, *beyond.reasons))


def _tell_why(me: MemberId, plan: Plan, answer: Refusal) -> None:
    """Say every reason at this site: the coordinator is told less, and other members names of rules alone."""
    said = "; ".join(map(str, answer.reasons))
    tell(f"{me}: round {plan.round} refused here: {short(said)}")


def _tell_reserved(me: MemberId, plan: Plan) -> None:
    """Say that a training ended with its process, and what becomes of its price."""
    run = plan.run.hex()
    what = f"the price of round {plan.round} stays reserved until run {run} goes on"
    tell(f"{me}: {what}; if it never will: securefl budget settle HOME {run[:12]} --reason TEXT")


def _tell_late(me: MemberId, plan: Plan) -> None:
    """Say that a result was made and not used: whoever is enrolled anew was not heard in time."""
    what = f"round {plan.round} went on without this site's result, which came too late; its price is spent"
    tell(f"{me}: {what}")


def _tell_operator(me: MemberId, plan: Plan, update: Update) -> None:
    """Say at this site alone that values were clamped to the grid: no message and no ledger may hold it."""
    clamped = fixed_point.outside(update.values, plan.cover.encoding)
    if clamped:
        fix = "lower the learning rate, or raise value_bits"
        tell(f"{me}: {clamped} of {plan.dimension} values were clamped to the grid; {fix}")


def _write_down(home: Home, envelope: Envelope, fault: PeerFault) -> None:
    """Refused, by which rule: in the words of the closed list, whatever the fault itself says."""
    receipt, said = envelope.receipt, m.NoAnswer.by(fault)
    reason = Reason(said.rule, receipt.kind, "what the protocol allows", rules.FAULTS[said.rule])
    with home.transaction() as conn:
        home.record(conn, (Refused(receipt.run, receipt.round, receipt.kind, (reason,)),))


def _answer(outbound: Envelope | None, home: Home, signer: keys.Identity) -> bytes:
    assert outbound is not None, "every step without effects answers"
    return wire.encode(m.Frame(outbound, home.head_under(signer)))
