"""A party is its line of keys wherever one decides: what its old keys dealt is still its own, and a dead one does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from securefl import keys, wire
from securefl.errors import Forged, OperatorFault, PeerFault
from securefl.home import notices
from securefl.protection import key_shares
from securefl.protocol import messages as m
from securefl.runtime import courier_packages
from securefl.runtime.courier_packages import Rule, Way
from securefl.runtime.couriers import Couriers
from securefl.runtime.inprocess import InProcess
from securefl.seams import Failure
from securefl.site import key_share
from securefl.site.dispatch import Dispatcher
from securefl.terms import Hash, MemberId, Refused, RunId, Scheme, Settled, SumOpened
from securefl.terms.parties import COORDINATOR as CENTRE
from securefl.terms.parties import CUSTODIAN
from tests.support.parties import InOrder, waiting
from tests.support.rotating import COORDINATOR, HOUR, Living, Rotating

KEY, WHOLE, DAY = Hash(b"k" * 32), b"the decryption key", 24 * HOUR


class Split:
    """A federation whose decryption key was split 2 of 3, by the keys that its parties began with."""

    def __init__(self, folder: Path, max_age_days: int | None = None) -> None:
        self.federation = Rotating(folder, Scheme.MASKED_CKKS, max_age_days=max_age_days).made()
        self.dealer = self.identity(CUSTODIAN)
        boxes = {MemberId(name): keys.public_half(self.identity(name).box) for name in self.federation.names}
        self.vault, self.shares = key_shares.split(WHOLE, KEY, 2, boxes, self.dealer, keys.Secret(b"r" * 32))
        for name in self.federation.names:
            self.kept(name, self.shares[MemberId(name)])
        self.refused = set[str]()

    def identity(self, name: str) -> keys.Identity:
        home = self.federation.home(name)
        home.engine.dispose()
        return home.identity

    def kept(self, name: str, share: bytes) -> None:
        home = self.federation.home(name)
        custodian = replace(self.federation.seat(CUSTODIAN), key=self.dealer.public)
        try:
            key_share.keep(home, [home.key_line("f", custodian)], share, "share")
        finally:
            home.engine.dispose()

    def sites(self) -> list[Dispatcher]:
        return [Dispatcher([self.federation.agent(name)]) for name in self.federation.names]

    def gathered(self, asking: keys.Identity, sites: list[Dispatcher]) -> bytes:
        def gather(request: bytes) -> Iterator[bytes]:
            for site in sites:
                try:
                    yield site.handle(request)
                except PeerFault as fault:
                    self.refused.add(fault.rule)

        return key_shares.assemble(self.vault, asking, gather, keys.Secret(b"t" * 32))


def test_a_split_key_is_gathered_after_any_party_exchanged_its_key_and_processes_go_on(tmp_path: Path) -> None:
    split = Split(tmp_path)
    living = split.sites()
    for name in ("a", "b", CUSTODIAN, "a", CUSTODIAN):
        split.federation.taken(split.federation.rotated(name))
        for sites in (living, split.sites()):
            assert split.gathered(split.identity(CUSTODIAN), sites) == WHOLE, name


def revoked(split: Split) -> None:
    split.federation.taken(split.federation.say(CUSTODIAN, lambda home: notices.revoke(home, "f")))


def left(split: Split) -> None:
    split.federation.taken(split.federation.say(CUSTODIAN, lambda home: notices.leave(home, "f")))


def handed_over(split: Split) -> None:
    split.federation.taken(split.federation.rotated(CUSTODIAN))
    split.federation.time[0] += HOUR + 1


def too_old(split: Split) -> None:
    assert Living(split.federation).play(1)[0].outcome == "finished"
    split.federation.time[0] += 31 * DAY


DEAD = {
    "protocol.key-revoked": revoked,
    "protocol.party-left": left,
    "protocol.key-handed-over": handed_over,
    "protocol.key-too-old": too_old,
}


@pytest.mark.parametrize("rule", DEAD)
def test_a_custodians_key_that_counts_no_more_is_given_no_share(rule: str, tmp_path: Path) -> None:
    """Whoever has the custodian's disk has its key and the vault: what is left is that members refuse."""
    split = Split(tmp_path, max_age_days=30)
    living = split.sites()
    assert split.gathered(split.dealer, living) == WHOLE
    DEAD[rule](split)
    for sites in (living, split.sites()):
        split.refused.clear()
        with pytest.raises(OperatorFault, match="0 good shares"):
            split.gathered(split.dealer, sites)
        assert split.refused == {rule}
    if rule == "protocol.key-handed-over":
        assert split.gathered(split.identity(CUSTODIAN), living) == WHOLE


@pytest.mark.parametrize("dead", [revoked, left, handed_over])
def test_a_share_that_was_dealt_under_a_key_that_counts_no_more_takes_no_place(dead, tmp_path: Path) -> None:
    split = Split(tmp_path)
    boxes = {MemberId(name): keys.public_half(split.identity(name).box) for name in split.federation.names}
    _, forged = key_shares.split(b"another", KEY, 2, boxes, split.dealer, keys.Secret(b"x" * 32))
    dead(split)
    path = split.federation.place("a") / key_share.FOLDER / split.dealer.public.hex() / f"{KEY.hex()}.share"
    with pytest.raises(OperatorFault, match=r"(revoked|left|handed over)"):
        split.kept("a", forged[MemberId("a")])
    assert path.read_bytes() == split.shares[MemberId("a")]


@pytest.mark.parametrize("dead", [left, revoked])
def test_a_custodian_that_left_one_federation_goes_on_in_another_and_a_revoked_key_in_none(
    dead, tmp_path: Path
) -> None:
    split = Split(tmp_path)
    both = list[Dispatcher]()
    for name in ("a", "b"):
        agent = split.federation.agent(name)
        both.append(Dispatcher([replace(agent, charter=replace(agent.charter, federation="g")), agent]))
    dead(split)
    if dead is left:
        assert split.gathered(split.dealer, both) == WHOLE
        return
    with pytest.raises(OperatorFault, match="0 good shares"):
        split.gathered(split.dealer, both)
    assert split.refused == {"protocol.key-revoked"}


def too_old_at_the_coordinator(split: Split) -> None:
    assert Living(split.federation).play(1)[0].outcome == "finished"
    split.federation.time[0] += 31 * DAY


@pytest.mark.parametrize("dead", [None, revoked, left, handed_over, too_old_at_the_coordinator])
def test_a_package_under_a_key_that_counts_no_more_ends_no_wait(dead, tmp_path: Path) -> None:
    """Whoever has a party's dead key is quicker than the party; beside an overlap, both its keys are heard."""
    split = Split(tmp_path, max_age_days=30)
    federation, old = split.federation, split.dealer
    if dead is None:
        federation.taken(federation.rotated(CUSTODIAN))
    else:
        dead(split)
    home, told = federation.home(COORDINATOR), list[str]()
    seat, folder, ticket = (
        replace(federation.seat(CUSTODIAN), key=old.public),
        tmp_path / "c",
        courier_packages.ticket_of(b"?"),
    )

    def known() -> tuple[keys.PublicKey, ...]:
        return home.key_line("f", seat, federation.policy.text).counting()

    couriers = Couriers(folder, home.identity, {seat.member: known}, look_s=0.01, tell=told.append)
    courier_packages.write(
        folder / "from" / CUSTODIAN, old, Way.ANSWERED, ticket, seat.member, MemberId(CENTRE), b"+stolen"
    )
    ((_, answer),) = couriers.exchange([(seat.member, b"?")], waiting(0.3))
    home.engine.dispose()
    if dead is None:
        assert known() == (split.identity(CUSTODIAN).public, old.public)
        assert answer == b"stolen"
        return
    assert known() == ((split.identity(CUSTODIAN).public,) if dead is handed_over else ())
    assert isinstance(answer, Failure)
    assert [Rule.SIGNATURE.value in each for each in told] == [True]


# Whoever has a coordinator's dead key.


def stolen(federation: Rotating) -> keys.Identity:
    home = federation.home(COORDINATOR)
    home.engine.dispose()
    return home.identity


def forged(by: keys.Identity, run: RunId, message: m.Request) -> bytes:
    return wire.encode(m.Frame(m.enclose(by, CENTRE, MemberId("a"), run, 0, message, head=None), None))


CLOSE = m.Close("aborted", "x", 0, b"", ())


@pytest.mark.parametrize("revoke", [False, True])
def test_a_dead_coordinators_key_ends_no_training_hears_no_progress_and_fills_no_ledger(
    revoke: bool, tmp_path: Path
) -> None:
    federation = Rotating(tmp_path).made()
    thief = stolen(federation)
    federation.taken(federation.rotated(COORDINATOR, HOUR))
    if revoke:
        federation.taken(
            notices.key_standing.sign(thief, notices.Revocation("f", CENTRE, thief.public, federation.time[0]))
        )
    else:
        federation.time[0] += HOUR + 1
    rule = "protocol.key-revoked" if revoke else "protocol.key-handed-over"
    run, heard = RunId((7).to_bytes(16, "big")), list[object]()

    def stepped(done: int) -> None:
        if done == 1:
            for ask in (agents[MemberId("a")].handle, agents[MemberId("a")].progress):
                try:
                    heard.append(ask(forged(thief, run, CLOSE)))
                except Forged as fault:
                    heard.append(fault.rule)

    agents = {
        MemberId(name): federation.agent(name, stepped if name == "a" else lambda _: None) for name in federation.names
    }
    runtime = InOrder(InProcess(agents))
    assert federation.in_run(7).drive(runtime, 1).outcome == "finished"
    assert heard == [rule, rule]
    assert [each.survivors for each in federation.entries(COORDINATOR) if isinstance(each, SumOpened)] == [
        ("a", "b", "c")
    ]
    assert [each.did.steps for each in federation.entries("a") if isinstance(each, Settled)] == [4]
    before = len(federation.entries("a"))
    for number in range(20):
        with pytest.raises(Forged):
            agents[MemberId("a")].handle(forged(thief, RunId(bytes([number]) * 16), m.Ask(number, b"", ())))
    assert len(federation.entries("a")) == before, "that it was tried stands there once"
    told = [each for each in federation.entries("a") if isinstance(each, Refused) and each.reasons[0].rule == rule]
    assert len(told) == 1


def test_in_the_overlap_a_run_is_ended_by_the_key_that_it_began_with_alone(tmp_path: Path) -> None:
    """Both keys count: either begins a run, and neither touches one that the other began."""
    federation = Rotating(tmp_path).made()
    old = stolen(federation)
    federation.taken(federation.rotated(COORDINATOR, HOUR))
    living, run = Living(federation), RunId((1).to_bytes(16, "big"))
    said = list[str]()

    def before(kind: str, times: int) -> None:
        if (kind, times) == ("Propose", 0):
            for ask in (living.agents[MemberId("a")].handle, living.agents[MemberId("a")].progress):
                with pytest.raises(Forged) as refused:
                    ask(forged(old, run, CLOSE))
                said.append(refused.value.rule)

    end, runtime = living.play(1, 1, before)
    assert (end.outcome, runtime.silences, said) == ("finished", [], ["protocol.signature"] * 2)
