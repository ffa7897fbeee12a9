"""Honest sites in two federations: what the coordinator of one does makes no ledger bad for an auditor of the other.

a, b and c are in f, whose coordinator is hostile and has its own program, and in g, whose coordinator is honest. An
auditor of g has the ledgers of g's parties, f's runs in them included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import pytest

from securefl import wire
from securefl.audit.ledger_files import read_all
from securefl.audit.verify import verify
from securefl.home import export
from securefl.home.peers import pin
from securefl.ledger import heads
from securefl.protocol import coordinator, coordinator_messages, coordinator_state
from securefl.protocol import messages as m
from securefl.runtime.inprocess import InProcess
from securefl.terms import Envelope, Hash, Head, MemberId, MessageSent, Reserved, RunId, SignedHead
from tests.support.rotating import Living, Rotating

OF_G = "gcentre"
Asked = dict[MemberId, m.Request]
Hostile = Callable[[m.Request, MemberId, Envelope], m.Request | SignedHead | None]  # another message, or another head


@dataclass(frozen=True)
class Some(Rotating):
    """A federation whose coordinator invites some of it."""

    invited: tuple[str, ...] = ()

    def session(self) -> m.Session:
        session = super().session()
        if not self.invited:
            return session
        return replace(session, roster=tuple(each for each in session.roster if each.member in self.invited))


def plan_of_its_own(message: m.Request, to: MemberId, _: Envelope) -> m.Request | None:
    """B is proposed another plan than the others."""
    if to != "b" or not isinstance(message, m.Propose):
        return None
    learning = replace(message.plan.learning, learning_rate=message.plan.learning.learning_rate / 2)
    return replace(message, plan=replace(message.plan, learning=learning))


def more_noise_later(message: m.Request, _: MemberId, __: Envelope) -> m.Request | None:
    """The second round has other noise than the first."""
    if not isinstance(message, m.Propose) or message.plan.round == 1:
        return None
    event = message.plan.learning.event
    event = replace(event, noise_multiplier=event.noise_multiplier * 2)
    return replace(message, plan=replace(message.plan, learning=replace(message.plan.learning, event=event)))


def another_end(message: m.Request, to: MemberId, _: Envelope) -> m.Request | None:
    """B is told that the run ended with another adapter, and why."""
    if to != "b" or not isinstance(message, m.Close):
        return None
    return replace(message, state=message.state[:-4] + bytes(4), why="another")


def two_ledgers(_: m.Request, to: MemberId, sent: Envelope) -> SignedHead:
    """A and b are shown two ledgers of the coordinator of one length, each under its signature."""
    return SignedHead(Head(sent.receipt.sender, 1, Hash(bytes([to == "b"]) * 32)), b"")


def a_head_that_nobody_signed(_: m.Request, __: MemberId, sent: Envelope) -> SignedHead:
    """The receipts name a head whose signature is none."""
    return SignedHead(Head(sent.receipt.sender, 1, Hash(bytes(32))), bytes(64))


HOSTILE: dict[str, Hostile] = {
    each.__name__: each
    for each in (plan_of_its_own, more_noise_later, another_end, two_ledgers, a_head_that_nobody_signed)
}


def sending(hostile: Hostile) -> Callable[..., coordinator_state.Step]:
    """What asks members, of a coordinator that changes some requests and signs what it sends."""
    ask = coordinator_messages.ask_members

    def asked(state: object, messages: Asked, round_: int, ports: coordinator_state.Ports, *rest: object) -> object:
        step = ask(state, messages, round_, ports, *rest)
        made: dict[bytes, Envelope] = {}
        for old in step.outbound:
            receipt = old.receipt
            other = hostile(messages[receipt.to], receipt.to, old)
            if other is None:
                continue
            if isinstance(other, SignedHead):
                head = other if other.signature else heads.sign(ports.identity, other.head)
                message, plan = messages[receipt.to], receipt.plan
            else:
                message, head = other, receipt.head
                plan = wire.plan_hash(other.plan) if isinstance(other, m.Propose) else receipt.plan
            made[receipt.digest + receipt.to.encode()] = m.enclose(
                ports.identity, receipt.sender, receipt.to, receipt.run, receipt.round, message, plan, head=head
            )
        new = {each: made.get(each.receipt.digest + each.receipt.to.encode(), each) for each in step.outbound}
        outbound = tuple(new[each] for each in step.outbound)
        sent = {old.receipt: MessageSent(each.receipt, each.signature) for old, each in new.items()}
        entries = tuple(
            sent.get(each.receipt, each) if isinstance(each, MessageSent) else each for each in step.entries
        )
        course = replace(step.state.course, unanswered={each.receipt.to: each for each in outbound})
        return replace(step, state=replace(step.state, course=course), entries=entries, outbound=outbound)

    return asked


def played(federation: Some, number: int, rounds: int, hostile: Hostile | None = None) -> coordinator_state.Ended:
    act = sending(hostile) if hostile else coordinator_messages.ask_members
    with (
        mock.patch.object(coordinator, "ask_members", act),
        mock.patch.object(coordinator_messages, "ask_members", act),
    ):
        return federation.in_run(number).drive(InProcess(Living(federation).agents), rounds)


def both(folder: Path, of_f: tuple[str, ...] = ("a", "b", "c")) -> tuple[Some, Some]:
    f = replace(Some(folder, names=of_f), priced=True).made()
    g = replace(Some(folder, names=("a", "b", "c"), name="g", centre=OF_G), priced=True)
    for name in (OF_G, "a", "b", "c"):
        home, session = g.home(name), g.session()
        pin(home.path, "g", (session.coordinator, *session.roster))
        home.engine.dispose()
    return f, g


def copied(g: Some, folder: Path) -> Path:
    for name in (OF_G, "a", "b", "c"):
        home = g.home(name)
        export.one(home, folder)
        home.engine.dispose()
    return folder


@pytest.mark.parametrize("what", HOSTILE)
def test_what_one_federations_coordinator_does_is_no_finding_in_another_one(tmp_path: Path, what: str) -> None:
    f, g = both(tmp_path / "homes")
    before = played(f, 1, 2 if what == "more_noise_later" else 1, HOSTILE[what])
    assert played(g, 2, 1).outcome == "finished"
    found = verify(copied(g, tmp_path / "copies"))
    assert found.ok, (before, found.why)
    joined = any("its coordinator's ledger is not here" in each for each in found.unverified)
    assert joined == (what != "a_head_that_nobody_signed"), "that invitation is refused"
    told = any("saw two of 1 entries, and its owner is in no run here" in each for each in found.unverified)
    assert told == (what == "two_ledgers")


def test_a_run_that_another_coordinator_named_alike_is_listed_and_judged_by_no_one(tmp_path: Path) -> None:
    f, g = both(tmp_path / "homes", ("a", "d", "e"))
    assert played(replace(g, invited=("b", "c")), 2, 1).outcome == "finished"
    assert played(f, 2, 1).outcome == "finished"
    assert played(g, 3, 1).outcome == "finished"
    ledgers = read_all(copied(g, tmp_path / "copies"))
    alike = RunId((2).to_bytes(16, "big"))
    assert {owner: ledger.apart for owner, ledger in ledgers.items() if ledger.apart} == {"a": {alike}}
    assert ledgers[MemberId("a")].opened(alike) is None
    assert alike not in {entry.plan.run for _, entry in ledgers[MemberId("a")].each(Reserved)}
    found = verify(tmp_path / "copies")
    assert found.ok, found.why
    assert [each for each in found.unverified if "another coordinator's run of this name" in each]
