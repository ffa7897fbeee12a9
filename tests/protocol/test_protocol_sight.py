"""Who saw how much of whose ledger: written down when it is seen, handed on, and held against whoever shows less."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from securefl import keys, wire
from securefl.errors import Forged
from securefl.protocol import coordinator_state, member_state, seen_heads
from securefl.protocol import member as mm
from securefl.protocol import messages as m
from securefl.terms import (
    Hash,
    Head,
    MemberId,
    MessageReceived,
    MessageSent,
    MicroEpsilon,
    Receipt,
    RunId,
    Scheme,
    SignedHead,
    SignedReceipt,
    SumOpened,
    Witnessed,
    rules,
)
from tests.support.worlds import World, identity, resigned, seat, signed_head


@pytest.mark.parametrize("scheme", [Scheme.MASKING, Scheme.CKKS])
def test_every_message_that_is_written_down_comes_with_the_head_it_showed(scheme: Scheme) -> None:
    world = World(scheme=scheme, rounds=2)
    steps: list[tuple[str, object]] = []
    keep = world.keep
    world.keep = lambda party, moved: (steps.append((party.name, moved)), keep(party, moved))  # type: ignore[method-assign]
    assert world.play().outcome == "finished"
    told = 0
    for name, moved in steps:
        got = [entry.receipt.sender for entry in moved.entries if isinstance(entry, MessageReceived)]
        seen = {entry.head.head.owner for entry in moved.entries if isinstance(entry, Witnessed)}
        assert set(got) <= seen, (name, moved.entries)
        assert name not in seen, "one's own ledger is no news"
        told += len(got)
    assert told > 20


def test_members_see_each_other_before_they_train_and_what_is_written_is_bounded() -> None:
    world = World(rounds=3)
    assert world.play().outcome == "finished"
    for name in world.names:
        entries = world.parties[name].entries
        owners = Counter(entry.head.head.owner for entry in entries if isinstance(entry, Witnessed))
        assert set(owners) == {*world.names, "coordinator"} - {name}
        got = sum(isinstance(entry, MessageReceived) for entry in entries)
        assert owners["coordinator"] <= got
        assert all(owners[other] <= 2 * 3 + 2 for other in world.names), "twice a round, and at the first and last word"


def charter() -> member_state.SiteConfig:
    return World().parties["a"].state.charter  # type: ignore[attr-defined]


def session() -> m.Session:
    found: m.Session = World().coordinator.state.course.session  # type: ignore[attr-defined]
    return found


def heads_of(**sizes: int) -> tuple[SignedHead, ...]:
    return tuple(signed_head(owner, size) for owner, size in sizes.items())


def test_what_grew_is_new_and_what_stood_still_is_not() -> None:
    known, seen = seen_heads.relayed(charter(), session(), heads_of(b=5, c=3), lambda _: True)
    assert [entry.head.head.size for entry in seen] == [5, 3]
    again, seen = seen_heads.relayed(known, session(), heads_of(b=5, c=4), lambda _: True)
    assert [(entry.head.head.owner, entry.head.head.size) for entry in seen] == [("c", 4)]
    assert again.witnessed["b"] == signed_head("b", 5)


@pytest.mark.parametrize(
    ("heads", "rule"),
    [
        (heads_of(b=4), "protocol.ledger-set-back"),
        ((signed_head("b", 5, bytes(32)),), "protocol.ledger-set-back"),
        (heads_of(x=9), "protocol.stranger"),
        ((replace(signed_head("b", 9), signature=bytes(64)),), "protocol.signature"),
        ((replace(signed_head("b", 9), head=Head("b", 10, signed_head("b", 9).head.root)),), "protocol.signature"),
    ],
)
def test_heads_that_cannot_be_are_refused(heads: tuple[SignedHead, ...], rule: str) -> None:
    known, _ = seen_heads.relayed(charter(), session(), heads_of(b=5), lambda _: True)
    with pytest.raises(Forged) as caught:
        seen_heads.relayed(known, session(), heads, lambda _: True)
    assert caught.value.rule == rule


def test_a_ledger_that_has_not_what_its_owner_signed_is_named_apart_from_anothers() -> None:
    """What to do differs: restore the own one; keep away from the other."""
    with pytest.raises(Forged, match="this ledger has not the 5 entries that a has signed.*restore the newest") as own:
        seen_heads.relayed(charter(), session(), heads_of(a=5), lambda _: False)
    known, _ = seen_heads.relayed(charter(), session(), heads_of(b=5), lambda _: True)
    with pytest.raises(Forged, match="b shows a ledger of 4 entries, and has shown 5 before") as others:
        seen_heads.relayed(known, session(), heads_of(b=4), lambda _: True)
    assert (own.value.rule, others.value.rule) == ("protocol.own-ledger-set-back", "protocol.ledger-set-back")
    assert {own.value.rule, others.value.rule} <= set(rules.FAULTS)


def test_with_an_invitation_less_is_no_fault_but_two_ledgers_are() -> None:
    known, _ = seen_heads.relayed(charter(), session(), heads_of(b=5), lambda _: True)
    after, seen = seen_heads.relayed(known, session(), heads_of(b=4), lambda _: True, stale=True)
    assert (after.witnessed, seen) == (known.witnessed, ())
    with pytest.raises(Forged, match="two ledgers of 5 entries"):
        seen_heads.relayed(known, session(), (signed_head("b", 5, bytes(32)),), lambda _: True, stale=True)


@pytest.mark.parametrize("kind", ["Invite", "Enrol", "Propose", "Close"])
def test_a_member_whose_own_ledger_was_set_back_refuses_whatever_tells_it_so(kind: str) -> None:
    world = World()

    def showing(frame: m.Frame) -> m.Frame:
        if frame.envelope.receipt.to != "a":
            return frame
        message = m.opened(frame.envelope, m.Invite | m.Enrol | m.Propose | m.Close)
        if kind != "Enrol":
            message = replace(message, heads=(signed_head("a", 7),))
        return m.Frame(resigned(frame.envelope.receipt, message, "coordinator").envelope, frame.head)

    world.forge[kind] = showing
    ports = world.member_plugs
    world.member_plugs = lambda name: replace(ports(name), holds=lambda head: False)  # type: ignore[method-assign]
    world.play()
    assert seen_heads.SET_BACK in {fault.rule for name, fault in world.faults if name == "a"}
    assert kind == "Close" or world.parties["a"].trained == 0


def test_a_message_without_its_senders_ledger_is_refused() -> None:
    world = World()
    message = m.Invite(world.coordinator.state.course.session)  # type: ignore[attr-defined]
    envelope = m.enclose(identity("coordinator"), "coordinator", "a", bytes(16), 0, message)
    with pytest.raises(Forged) as caught:
        mm.step(
            world.parties["a"].state,
            member_state.Received(envelope, None, keys.Secret(bytes(32))),
            world.member_plugs("a"),
        )
    assert caught.value.rule == "protocol.no-ledger"


def test_members_that_saw_more_of_the_coordinator_refuse_its_invitation() -> None:
    world = World()
    for name in world.names:
        idle = world.parties[name].state
        known = {"coordinator": signed_head("coordinator", 500)}
        world.parties[name].saved = wire.encode(member_state.Idle(replace(idle.charter, witnessed=known)))
    end = world.play()
    assert (end.outcome, len(world.faults)) == ("aborted", 4)
    assert {fault.rule for _, fault in world.faults} == {"protocol.ledger-set-back"}
    assert isinstance(end, coordinator_state.Ended)
    assert seat("a").member == "a"


def knowing(world: World, name: str, **sizes: int) -> None:
    """Let this member have seen so much of others' ledgers."""
    idle = world.parties[name].state
    seen = {owner: signed_head(owner, size) for owner, size in sizes.items()}
    world.parties[name].saved = wire.encode(member_state.Idle(replace(idle.charter, witnessed=seen)))


def faults_of(world: World, name: str) -> set[str]:
    return {fault.rule for each, fault in world.faults if each == name}


def test_an_acceptance_says_what_its_sender_saw_and_whom_it_is_about_refuses_itself() -> None:
    world = World()
    knowing(world, "b", a=7, c=1)
    ports = world.member_plugs
    held: list[Head] = []
    world.member_plugs = lambda name: replace(ports(name), holds=lambda head: held.append(head) or head.size < 7)  # type: ignore[method-assign]
    for kind in ("Invite", "Propose", "Close"):  # the coordinator itself tells nobody
        world.forge[kind] = lambda frame: m.Frame(
            resigned(
                frame.envelope.receipt,
                replace(m.opened(frame.envelope, m.Invite | m.Propose | m.Close), heads=()),
                "coordinator",
            ).envelope,
            frame.head,
        )
    world.play()
    assert faults_of(world, "a") == {seen_heads.SET_BACK}
    assert signed_head("a", 7).head in held
    assert world.parties["a"].trained == 0


def test_a_coordinator_leaves_out_who_shows_less_than_a_peer_saw() -> None:
    world = World()
    world.backwards = True  # whoever saw more answers first
    knowing(world, "b", a=7)
    assert world.play().outcome == "finished"
    assert faults_of(world, "coordinator") == {"protocol.ledger-set-back"}
    assert [world.parties[name].trained for name in world.names] == [0, 2, 2, 2]


def test_what_nobody_signed_is_no_sight() -> None:
    world = World(names=("a", "b", "c"))
    knowing(world, "b", a=7)
    idle = world.parties["b"].state
    made_up = {"a": replace(signed_head("a", 7), signature=bytes(64))}
    world.parties["b"].saved = wire.encode(member_state.Idle(replace(idle.charter, witnessed=made_up)))
    assert world.play().outcome == "aborted"
    assert faults_of(world, "coordinator") == {"protocol.signature"}


@pytest.mark.parametrize("known", [0, 7])
def test_what_binds_a_message_to_a_ledger_is_the_head_in_its_receipt(known: int) -> None:
    """Beside b's acceptance the coordinator lays the longest head that was seen of it."""
    world = World()
    if known:
        knowing(world, "d", b=known)

    def laid(frame: m.Frame) -> m.Frame:
        enrol = m.opened(frame.envelope, m.Enrol)
        accepts = tuple(
            replace(each, head=signed_head("b", 7)) if each.envelope.receipt.sender == "b" else each
            for each in enrol.accepts
        )
        return m.Frame(
            resigned(frame.envelope.receipt, replace(enrol, accepts=accepts), "coordinator").envelope, frame.head
        )

    world.forge["Enrol"] = laid
    world.play()
    assert faults_of(world, "d") >= ({"protocol.ledger-set-back"} if known else set())
    assert (world.parties["d"].trained == 0) == bool(known)


def test_a_ledger_that_was_shown_and_is_empty_now_was_set_back() -> None:
    receipt = Receipt(
        MemberId("b"), MemberId("coordinator"), RunId(bytes(16)), 0, "Accept", None, MicroEpsilon(0), Hash(bytes(32)), 0
    )
    assert seen_heads.bound(charter(), receipt) == ()
    known, _ = seen_heads.relayed(charter(), session(), heads_of(b=5), lambda _: True)
    with pytest.raises(Forged) as caught:
        seen_heads.bound(known, receipt)
    assert caught.value.rule == "protocol.ledger-set-back"


def test_a_cohort_is_of_members_whose_acceptance_was_shown() -> None:
    world = World(scheme=Scheme.CKKS)

    def without_b(frame: m.Frame) -> m.Frame:
        enrol = m.opened(frame.envelope, m.Enrol)
        accepts = tuple(
            each
            for each in enrol.accepts
            if each.envelope.receipt.sender != "b" or frame.envelope.receipt.to in ("b", "c")
        )
        return m.Frame(
            resigned(frame.envelope.receipt, replace(enrol, accepts=accepts), "coordinator").envelope, frame.head
        )

    world.forge["Enrol"] = without_b
    world.play()
    assert {name: faults_of(world, name) for name in world.names} == {
        "a": {"protocol.stranger"}, "b": set(), "c": set(), "d": {"protocol.stranger"},
    }  # fmt: skip
    assert [world.parties[name].trained for name in world.names] == [0, 1, 1, 0]


def of(sender: str, accepts: tuple[m.Frame, ...]) -> m.Frame:
    return next(each for each in accepts if each.envelope.receipt.sender == sender)


def of_mallory(accepts: tuple[m.Frame, ...]) -> m.Frame:
    receipt, accept = of("b", accepts).envelope.receipt, m.Accept(bytes(32), b"", ())
    envelope = m.enclose(identity("mallory"), MemberId("mallory"), receipt.to, receipt.run, 0, accept)
    return m.Frame(envelope, signed_head("mallory", 5))


SPOILED = {
    "one without its ledger": (
        "protocol.no-ledger", lambda all_: tuple(replace(e, head=None) if e is of("b", all_) else e for e in all_)
    ),
    "one twice": ("protocol.stranger", lambda all_: (*all_, of("b", all_))),
    "a stranger's": ("protocol.stranger", lambda all_: (*all_, of_mallory(all_))),
    "not the custodian's": ("protocol.stranger", lambda all_: tuple(e for e in all_ if e is not of("custodian", all_))),
    "not this member's own": ("protocol.swapped-key", lambda all_: tuple(e for e in all_ if e is not of("a", all_))),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILED)
def test_no_member_goes_on_with_acceptances_that_are_not_each_partys_once_with_its_ledger(what: str) -> None:
    world, (rule, spoil) = World(rounds=1, scheme=Scheme.CKKS), SPOILED[what]

    def spoiled(frame: m.Frame) -> m.Frame:
        enrol = m.opened(frame.envelope, m.Enrol)
        made = replace(enrol, accepts=spoil(enrol.accepts))
        return m.Frame(resigned(frame.envelope.receipt, made, "coordinator").envelope, frame.head)

    world.forge["Enrol"] = spoiled
    world.play()
    assert faults_of(world, "a") == {rule}
    assert world.parties["a"].trained == 0


def dropped(sealed: tuple[SignedReceipt, ...]) -> tuple[SignedReceipt, ...]:
    return sealed[1:]


def doubled(sealed: tuple[SignedReceipt, ...]) -> tuple[SignedReceipt, ...]:
    return (sealed[1], *sealed[1:])


def of_another_round(sealed: tuple[SignedReceipt, ...]) -> tuple[SignedReceipt, ...]:
    return (signed(replace(sealed[0].receipt, round=2)), *sealed[1:])


def of_another_run(sealed: tuple[SignedReceipt, ...]) -> tuple[SignedReceipt, ...]:
    return (signed(replace(sealed[0].receipt, run=RunId(b"1" * 16))), *sealed[1:])


def for_another(sealed: tuple[SignedReceipt, ...]) -> tuple[SignedReceipt, ...]:
    return (signed(replace(sealed[0].receipt, to=MemberId("b"))), *sealed[1:])


def signed(receipt: Receipt) -> SignedReceipt:
    return SignedReceipt(receipt, identity(receipt.sender).sign("receipt", wire.encode(receipt)))


def with_an_older_head(sealed: tuple[SignedReceipt, ...]) -> tuple[SignedReceipt, ...]:
    return (replace(sealed[0], receipt=replace(sealed[0].receipt, head=signed_head("a", 1))), *sealed[1:])


def with_no_head(sealed: tuple[SignedReceipt, ...]) -> tuple[SignedReceipt, ...]:
    return (signed(replace(sealed[0].receipt, head=None)), *sealed[1:])


@pytest.mark.parametrize(
    ("altered", "rule"),
    [
        (lambda sealed: sealed, None),
        (lambda _: (), "protocol.another-set"),
        (dropped, "protocol.another-set"),
        (doubled, "protocol.another-set"),
        (of_another_round, "protocol.another-plan"),
        (of_another_run, "protocol.misdirected"),
        (for_another, "protocol.misdirected"),
        (with_an_older_head, "protocol.signature"),
        (with_no_head, "protocol.no-ledger"),
    ],
)
def test_who_helps_to_open_a_sum_has_seen_the_ledgers_that_paid_for_it(altered, rule: str | None) -> None:
    world = World(rounds=1)

    def forged(frame: m.Frame) -> m.Frame:
        ask = m.opened(frame.envelope, m.Ask)
        made = replace(ask, sealed=altered(ask.sealed))
        return m.Frame(resigned(frame.envelope.receipt, made, "coordinator").envelope, frame.head)

    world.forge["Ask"] = forged
    end = world.play()
    assert (end.outcome == "finished") == (rule is None)
    assert {fault.rule for _, fault in world.faults} == ({rule} if rule else set())
    submitted = {
        name: next(
            entry.receipt.head
            for entry in world.parties[name].entries
            if isinstance(entry, MessageSent) and entry.receipt.kind == "Submitted"
        )
        for name in world.names
    }
    for name in world.names:
        seen = {entry.head for entry in world.parties[name].entries if isinstance(entry, Witnessed)}
        others = {head for owner, head in submitted.items() if owner != name}
        assert (others <= seen) == (rule is None)


def test_a_custodian_has_seen_the_ledgers_of_all_whose_sum_it_opened() -> None:
    world = World(rounds=1, scheme=Scheme.CKKS)
    assert world.play().outcome == "finished"
    told = world.parties["custodian"].entries
    asked = next(i for i, e in enumerate(told) if isinstance(e, MessageReceived) and e.receipt.kind == "Ask")
    opened = next(i for i, e in enumerate(told) if isinstance(e, SumOpened))
    seen = {entry.head.head.owner for entry in told[asked:opened] if isinstance(entry, Witnessed)}
    assert seen >= set(world.names), "and that is written down before anything is decrypted"
