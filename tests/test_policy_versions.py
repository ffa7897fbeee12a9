"""A policy and those that follow it at one site: none is forgotten, none is followed by one that binds less of itself."""

import os
from dataclasses import replace
from fractions import Fraction

import pytest
import yaml

from audits.budget import site
from securefl import federation, keys
from securefl.audit.replay import replay
from securefl.audit.verify import verify
from securefl.errors import OperatorFault
from securefl.policy import approvals, load
from securefl.privacy.account import Account
from securefl.protection import schemes
from securefl.protocol import member as mm
from securefl.runtime.agent import MemberAgent
from securefl.terms import Opened, PoissonGaussian, RunId, Settled
from tests import audited, worlds
from tests.test_policy_oracle import POLICY, changed


@pytest.fixture
def author(tmp_path):
    return keys.load_or_create(tmp_path / "author.key")


def policy(name, version, author=None, **changes):
    rules = {"required": 0, "keys": {"alice": author.public.hex()}} if author else {"required": 0}
    text = yaml.safe_dump(changed(POLICY, {"federation": name, "version": version, "approvals": rules, **changes}))
    return load.parse(text.encode(), "policy.yaml")


def signed(policy, author):
    now = federation.clock()
    return (approvals.sign(author, approvals.Kind.AUTHOR, policy, now - 1, now + 3600),)


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def held(home, name):
    return load.load(home / "policies" / f"{name}.yaml")


def test_a_site_that_is_killed_while_it_takes_a_successor_still_holds_one_of_the_two(home, author, monkeypatch):
    first, second = policy("clinic", 1, author), policy("clinic", 2, author)
    federation._adopt(home, first, signed(first, author))
    write = federation._write

    def dying(path, data):
        if path.name == "clinic.yaml":
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(federation, "_write", dying)
    with pytest.raises(KeyboardInterrupt):
        federation._adopt(home, second, signed(second, author))
    monkeypatch.undo()
    assert held(home, "clinic").hash == first.hash
    with pytest.raises(OperatorFault, match="its version is still 1"):
        federation._adopt(home, policy("clinic", 1, **{"budget.epsilon": 100}), ())
    federation._adopt(home, second, signed(second, author))
    assert held(home, "clinic").hash == second.hash


def test_what_one_federation_keeps_is_no_others(home, author):
    keyed = policy("clinic.v1", 5, author)
    federation._adopt(home, keyed, signed(keyed, author))
    for version in (1, 2):
        federation._adopt(home, policy("clinic", version), ())
    assert held(home, "clinic.v1").hash == keyed.hash
    (home / "policies" / "clinic.v1.yaml").write_bytes(policy("clinic", 3).text)
    with pytest.raises(OperatorFault, match="this is the policy of clinic"):
        federation._adopt(home, policy("clinic.v1", 6, author), None)


@pytest.mark.parametrize("agreed", [None, ()])
def test_a_policy_that_names_keys_is_followed_by_none_that_names_nobody_with_whatever_flag(home, author, agreed):
    first = policy("clinic", 1, author)
    federation._adopt(home, first, signed(first, author))
    with pytest.raises(OperatorFault, match="version 2 names no keys under `approvals`, and version 1 does"):
        federation._adopt(home, policy("clinic", 2), agreed)
    assert held(home, "clinic").hash == first.hash


def test_a_successor_keeps_the_parents_whose_limits_charges_count_in(home):
    upper = yaml.safe_dump(changed(POLICY, {"federation": "top"})).encode()
    lower = yaml.safe_dump(changed(POLICY, {"federation": "clinic", "parent": "top.yaml"})).encode()
    federation._adopt(home, load.parse(lower + load.ABOVE + upper, "policy.yaml"), ())
    with pytest.raises(OperatorFault, match="version 2 no longer stands under top"):
        federation._adopt(home, policy("clinic", 2), ())


def version(number, limit):
    text = site.TEXT.format(limit=limit).replace("version: 1", f"version: {number}", 1)
    return load.parse(text.encode(), "policy.yaml")


def opened(policy, number):
    run = RunId(bytes([number]) * 16)
    return Opened(run, policy.federation, "member", policy.text, "d", ())


def test_a_run_under_an_older_version_reserves_nothing_once_one_under_a_later_has_begun(tmp_path):
    at = site.home(tmp_path / "home")
    older, later = version(1, 6), version(2, 2)
    seats = tuple(worlds.seat(name) for name in (site.OWNER, "b", "c"))
    charter = mm.Charter(
        site.OWNER, "f", older.hash, older.text, "d", worlds.seat("coordinator"), None, seats, {}, None
    )  # fmt: skip
    agent = MemberAgent(
        at,
        charter,
        older,
        mm.Plugs(at.identity, schemes.member_half),
        None,
        federation.price_in(older, "d"),
        os.urandom,
    )
    with at.transaction() as conn:
        assert agent._superseded(conn) is None
        at.record(conn, (opened(older, 1),))
        assert agent._superseded(conn) is None
        at.record(conn, (opened(later, 2),))
        refusal = agent._superseded(conn)
    assert [(reason.rule, reason.value, reason.limit) for reason in refusal.reasons] == [
        ("policy.version", "1", "at least 2")
    ]


def test_a_result_for_which_less_was_settled_than_its_plan_does_is_found_though_all_prices_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(audited.Party, "account", lambda self: Account.of(leaf.entry for leaf in self.leaves))

    def less(_: str, entry):
        return (replace(entry, did=replace(entry.did, steps=1)),) if isinstance(entry, Settled) else (entry,)

    audited.told(less, rounds=2).export(tmp_path)
    verdict = verify(tmp_path)
    assert not verdict.ok
    assert "less was settled than its plan does" in verdict.why


def test_a_run_whose_noise_ends_too_early_for_the_filter_is_replayed_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(audited, "EVENT", PoissonGaussian(Fraction(1, 100), Fraction(1), 500))
    whole = audited.Story.plan
    monkeypatch.setattr(audited.Story, "plan", lambda self, number: replace(whole(self, number), dimension=10**6))
    audited.told(rounds=1).export(tmp_path)
    assert verify(tmp_path).ok
    told = replay(tmp_path)["epsilon"]
    assert told["renyi_filter"] is None
    assert told["pld"] <= told["rdp"]
