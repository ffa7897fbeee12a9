"""Homes outlive runs, processes and peers: several at once, one after the other, and none that is stuck for ever."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from securefl.audit.verify import verify
from securefl.errors import OperatorFault
from securefl.home.home import Home
from securefl.ledger import store
from securefl.seams import Own
from securefl.simulation import federation, instruments
from securefl.site.agent import MemberAgent
from securefl.site.turns import Turns
from securefl.terms import Closed, Entry, MemberId, MessageSent, Plan, Refused, Reserved, Settled, Update
from tests.support.small import MEMBERS, Small


def entries(sites: Path, name: str) -> list[Entry]:
    home = Home.at(sites / name, MemberId(name), lambda: 0)
    with home.transaction() as conn:
        found = [leaf.entry for leaf in store.read(conn, home.identity.public)[1]]
    home.engine.dispose()
    return found


def closed(sites: Path, name: str) -> int:
    return sum(isinstance(entry, Closed) for entry in entries(sites, name))


def test_a_site_that_worked_with_a_custodian_goes_on_without_one(small: Small, tmp_path: Path) -> None:
    sites = tmp_path / "sites"
    once = {"training__rounds": 1}
    small.run(tmp_path / "one", sites, file=small.file("with.yaml", protection="ckks", **once))
    result = small.run(tmp_path / "two", sites, file=small.file("without.yaml", **once))
    assert result.outcome == "finished"
    assert [closed(sites, name) for name in MEMBERS] == [2, 2, 2]
    assert verify(tmp_path / "two").ok, verify(tmp_path / "two").why


def test_a_member_with_a_new_key_is_held_to_nothing_its_old_key_signed(small: Small, tmp_path: Path) -> None:
    sites, file = tmp_path / "sites", small.file("new-key.yaml", training__rounds=1)
    small.run(tmp_path / "one", sites, file=file)
    shutil.rmtree(sites / "south")
    with pytest.raises(OperatorFault, match="another key"):
        small.run(tmp_path / "two", sites, file=file)
    for pinned in sites.glob("*/peers/*.json"):
        known = json.loads(pinned.read_text())
        known.pop("south")
        pinned.write_text(json.dumps(known))
    shutil.rmtree(tmp_path / "two")
    result = small.run(tmp_path / "two", sites, file=file)
    assert result.outcome == "finished"
    assert closed(sites, "south") == 1
    assert verify(tmp_path / "two").ok, verify(tmp_path / "two").why


@dataclass(frozen=True)
class Second:
    """A trainer that finds, once it is done, that another process of its site answered the same request."""

    trainer: object
    other: MemberAgent
    request: bytes

    def admit(self, plan: Plan, base: bytes) -> None:
        self.trainer.admit(plan, base)

    def train(self, plan: Plan, base: bytes, own: Own) -> tuple[Update, Own]:
        made = self.trainer.train(plan, base, own)
        replace(self.other, turns=Turns()).handle(self.request)
        return made


@dataclass(frozen=True)
class TwoProcesses:
    """One site, served by two processes with one home; the first is overtaken whenever it trains."""

    agent: MemberAgent

    def handle(self, data: bytes) -> bytes:
        return replace(self.agent, trainer=Second(self.agent.trainer, self.agent, data)).handle(data)


def test_two_processes_of_one_site_record_one_training_and_send_one_result(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = instruments.instrumented
    monkeypatch.setattr(federation, "instrumented", lambda agent, *rest: TwoProcesses(timed(agent, *rest)))
    sites = tmp_path / "sites"
    assert small.run(tmp_path / "run", sites).outcome == "finished"
    for name in MEMBERS:
        told = entries(sites, name)
        assert sum(isinstance(e, Reserved) for e in told) == sum(isinstance(e, Settled) for e in told) == 2
        assert sum(isinstance(e, MessageSent) and e.receipt.kind == "Submitted" for e in told) == 2
        assert not any(isinstance(e, Refused) for e in told)
    assert verify(tmp_path / "run").ok, verify(tmp_path / "run").why


def test_a_run_copied_to_a_second_folder_is_driven_by_one_of_them(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites, file, copy = tmp_path / "sites", small.file("copied.yaml", training__rounds=1), tmp_path / "copy"

    @dataclass(frozen=True)
    class Copied:
        agent: MemberAgent

        def handle(self, data: bytes) -> bytes:
            if b"Propose" in data and not copy.exists():
                copy.mkdir()
                shutil.copy(tmp_path / "run" / "run.json", copy)
                assert small.run(copy, sites, file=file).outcome == "finished"
            return self.agent.handle(data)

    timed = instruments.instrumented
    monkeypatch.setattr(federation, "instrumented", lambda agent, *rest: Copied(timed(agent, *rest)))
    with pytest.raises(OperatorFault, match="another process goes on with run"):
        small.run(tmp_path / "run", sites, file=file)
    assert all(sum(isinstance(e, Settled) for e in entries(sites, name)) == 1 for name in MEMBERS)
    assert verify(copy).ok, verify(copy).why


def test_a_second_run_may_begin_and_stand_in_the_midst_of_its_end_while_a_first_goes_on(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites, second = tmp_path / "sites", tmp_path / "second"
    file = small.file("both.yaml", training__rounds=1)

    class Killed(BaseException):
        pass

    @dataclass(frozen=True)
    class Host:
        agent: MemberAgent

        def handle(self, data: bytes) -> bytes:
            if b"Propose" in data and not second.exists():
                monkeypatch.setattr(federation, "instrumented", lambda agent, *rest: Mortal(timed(agent, *rest)))
                with pytest.raises(Killed):
                    small.run(second, sites, file=file)
            return self.agent.handle(data)

    @dataclass(frozen=True)
    class Mortal:
        agent: MemberAgent

        def handle(self, data: bytes) -> bytes:
            answer = self.agent.handle(data)
            if b"Close" in data and self.agent.charter.me == MEMBERS[-1]:
                raise Killed
            return answer

    timed = instruments.instrumented
    monkeypatch.setattr(federation, "instrumented", lambda agent, *rest: Host(timed(agent, *rest)))
    assert small.run(tmp_path / "first", sites, file=file).outcome == "finished"
    assert verify(tmp_path / "first").ok, verify(tmp_path / "first").why
    monkeypatch.setattr(federation, "instrumented", timed)
    assert small.run(second, sites, file=file).outcome == "finished"
    assert verify(second).ok, verify(second).why
