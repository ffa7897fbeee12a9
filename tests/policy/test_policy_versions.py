"""A policy and those that follow it at one site: none is forgotten, none is followed by one that binds less of itself."""

import os
from dataclasses import replace
from fractions import Fraction

import pytest
import yaml

from audits.budget import site
from securefl import key_files
from securefl.audit.replay import replay
from securefl.audit.verify import verify
from securefl.errors import OperatorFault, Unsafe
from securefl.home import adoption, clock, run_policy
from securefl.home.home import Home
from securefl.planning import plan
from securefl.policy import approvals, load
from securefl.privacy.account import Account
from securefl.protection import schemes
from securefl.protocol import member_state
from securefl.site.agent import MemberAgent
from securefl.terms import Hash, MemberId, PoissonGaussian, RunId, RunJoined, Settled
from tests.policy.test_policy_oracle import POLICY, changed
from tests.support import audited, worlds


@pytest.fixture
def author(tmp_path):
    return key_files.load_or_create(tmp_path / "author.key")


def policy(name, version, author=None, **changes):
    rules = {"required": 0, "keys": {"alice": author.public.hex()}} if author else {"required": 0}
    text = yaml.safe_dump(changed(POLICY, {"federation": name, "version": version, "approvals": rules, **changes}))
    return load.parse(text.encode(), "policy.yaml")


def signed(policy, author):
    now = clock.clock()
    return (approvals.sign(author, approvals.Kind.AUTHOR, policy, now - 1, now + 3600),)


@pytest.fixture
def home(tmp_path):
    return Home.at(tmp_path / "home", MemberId("north"), clock.clock)


def begun(policy, signatures, number):
    """A run's first entry under this policy."""
    shown = adoption.evidence(policy, signatures)
    return RunJoined(RunId(bytes([number]) * 16), policy.federation, "member", policy.text, "d", (), shown)


def adopt(home, policy, signatures, number=1):
    """A run begins: its policy is laid out, and its first entry written."""
    adoption.propose(home, policy, signatures)
    with home.transaction() as conn:
        home.commit(conn, RunId(bytes([number]) * 16), (begun(policy, signatures, number),), Hash(b""))


def held(home, name):
    with home.transaction() as conn:
        return run_policy.adopted(home.opened(conn)).lines[name]


def test_a_policy_that_was_proposed_and_never_begun_is_followed_by_nothing(home, author):
    mallory = key_files.load_or_create(home.path / "mallory.key")
    first, second, third = policy("clinic", 1, author), policy("clinic", 2, mallory), policy("clinic", 3, mallory)
    adopt(home, first, signed(first, author))
    adoption.propose(home, second, None)  # the run ends before it begins
    assert held(home, "clinic").last.hash == first.hash
    with pytest.raises(approvals.Unapproved, match="a successor of clinic, version 1 is not signed"):
        adoption.propose(home, third, signed(third, mallory))


def test_a_home_that_is_asked_about_a_successor_has_nothing_laid_out(home, author, tmp_path):
    mallory = key_files.load_or_create(home.path / "mallory.key")
    other = Home.at(tmp_path / "other", MemberId("south"), clock.clock)
    first, second = policy("clinic", 1, author), policy("clinic", 2, mallory)
    third = policy("clinic", 2, author)
    adopt(other, first, signed(first, author))
    with pytest.raises(approvals.Unapproved, match="a successor of clinic, version 1 is not signed"):
        adoption.adoptable(other, second, signed(second, mallory))
    assert adoption.adoptable(other, third, signed(third, author)) == signed(third, author)
    assert adoption.staged(other.path, "clinic", clock.clock())[0].hash == first.hash
    for each in (home, other):
        adoption.propose(each, third, signed(third, author))
        assert adoption.staged(each.path, "clinic", clock.clock())[0].hash == third.hash


def test_an_unsigned_version_is_not_the_one_whose_keys_are_asked(home, author):
    mallory = key_files.load_or_create(home.path / "mallory.key")
    first, second, third = policy("clinic", 1, author), policy("clinic", 2, mallory), policy("clinic", 7, mallory)
    adopt(home, first, signed(first, author))
    adopt(home, second, None, 2)
    assert (held(home, "clinic").last.hash, held(home, "clinic").signed.hash) == (second.hash, first.hash)
    with pytest.raises(approvals.Unapproved, match="a successor of clinic, version 1 is not signed"):
        adopt(home, third, signed(third, mallory), 3)
    with pytest.raises(Unsafe), home.transaction() as conn:
        home.commit(conn, RunId(b"r" * 16), (begun(third, signed(third, mallory), 3),), Hash(b""))
    both = (*signed(third, mallory), *signed(third, author))
    adopt(home, third, both, 3)
    assert held(home, "clinic").signed.hash == third.hash


def test_a_site_that_is_killed_while_it_takes_a_successor_holds_what_its_ledger_says(home, author, monkeypatch):
    first, second = policy("clinic", 1, author), policy("clinic", 2, author)
    adopt(home, first, signed(first, author))
    monkeypatch.setattr(adoption.files, "write", _dying)
    with pytest.raises(KeyboardInterrupt):
        adoption.propose(home, second, signed(second, author))
    monkeypatch.undo()
    assert held(home, "clinic").last.hash == first.hash
    with pytest.raises(OperatorFault, match="its version is still 1"):
        adoption.propose(home, policy("clinic", 1, **{"budget.epsilon": 100}), ())
    adopt(home, second, signed(second, author), 2)
    assert held(home, "clinic").last.hash == second.hash


def _dying(path, data):
    del path, data
    raise KeyboardInterrupt


def test_what_one_federation_keeps_is_no_others(home, author):
    keyed = policy("clinic.v1", 5, author)
    adopt(home, keyed, signed(keyed, author))
    for version in (1, 2):
        adopt(home, policy("clinic", version), (), version + 1)
    assert held(home, "clinic.v1").last.hash == keyed.hash
    adoption.staged_at(home.path, "clinic.v1").write_bytes(policy("clinic", 3).text)
    with pytest.raises(OperatorFault, match="this is the policy of clinic"):
        adoption.staged(home.path, "clinic.v1", clock.clock())


@pytest.mark.parametrize("agreed", [None, ()])
def test_a_policy_that_names_keys_is_followed_by_none_that_names_nobody_with_whatever_flag(home, author, agreed):
    first = policy("clinic", 1, author)
    adopt(home, first, signed(first, author))
    with pytest.raises(OperatorFault, match="version 2 names no keys under `approvals`, and version 1 does"):
        adopt(home, policy("clinic", 2), agreed, 2)
    assert held(home, "clinic").last.hash == first.hash


def test_a_successor_keeps_the_parents_whose_limits_charges_count_in(home):
    upper = yaml.safe_dump(changed(POLICY, {"federation": "top"})).encode()
    lower = yaml.safe_dump(changed(POLICY, {"federation": "clinic", "parent": "top.yaml"})).encode()
    adopt(home, load.parse(lower + load.ABOVE + upper, "policy.yaml"), ())
    with pytest.raises(OperatorFault, match="version 2 no longer stands under top"):
        adopt(home, policy("clinic", 2), ())


def chain(author, officer, version, top_version, limit):
    """A clinic's policy under top's, each with its own signer's key; its author's signature, and top's."""
    upper = policy("top", top_version, officer, **{"budget.epsilon": limit})
    rules = {"required": 0, "keys": {"alice": author.public.hex()}}
    said = {"federation": "clinic", "version": version, "approvals": rules, "parent": "top.yaml"}
    both = load.parse(yaml.safe_dump(changed(POLICY, said)).encode() + load.ABOVE + upper.text, "policy.yaml")
    return both, signed(both, author), signed(upper, officer)


def test_what_stands_above_is_signed_by_its_own_and_raised_by_nobody_else(home, author):
    officer, mallory = (key_files.load_or_create(home.path / f"{name}.key") for name in ("officer", "mallory"))
    first, own, above = chain(author, officer, 1, 1, 8)
    with pytest.raises(approvals.Unapproved, match="top, version 1 is not signed"):
        adopt(home, first, own)
    adopt(home, first, (*own, *above))
    rewritten, own, _ = chain(author, officer, 2, 1, 1000)
    for given in ((*own, *above), own, None):
        with pytest.raises(OperatorFault, match="the policy changed, and its version is still 1"):
            adopt(home, rewritten, given, 2)
    for signer in (officer, mallory):
        raised, own, above = chain(author, signer, 2, 2, 1000)
        given = (*own, *above) if signer is mallory else own
        with pytest.raises(approvals.Unapproved, match="top, version"):
            adopt(home, raised, given, 2)
        with pytest.raises(approvals.Unapproved, match="top, version"):
            adopt(home, raised, None, 2)
    raised, own, above = chain(author, officer, 2, 2, 1000)
    adopt(home, raised, (*own, *above), 2)
    assert held(home, "top").signed.version == 2


def test_under_a_policy_that_names_keys_stands_none_that_names_nobody(home, author):
    upper = policy("top", 1, author)
    lower = yaml.safe_dump(changed(POLICY, {"federation": "clinic", "parent": "top.yaml"})).encode()
    both = load.parse(lower + load.ABOVE + upper.text, "policy.yaml")
    for given in (signed(upper, author), None):
        with pytest.raises(OperatorFault, match="names no keys under `approvals`, and the policy of top above it does"):
            adopt(home, both, given)


def version(number, limit):
    text = site.TEXT.format(limit=limit).replace("version: 1", f"version: {number}", 1)
    return load.parse(text.encode(), "policy.yaml")


def opened(policy, number):
    run = RunId(bytes([number]) * 16)
    return RunJoined(run, policy.federation, "member", policy.text, "d", ())


def test_a_run_under_an_older_version_reserves_nothing_once_one_under_a_later_has_begun(tmp_path):
    at = site.home(tmp_path / "home")
    older, later = version(1, 6), version(2, 2)
    seats = tuple(worlds.seat(name) for name in (site.OWNER, "b", "c"))
    charter = member_state.SiteConfig(
        site.OWNER, "f", older.hash, older.text, "d", worlds.seat("coordinator"), None, seats, {}, None
    )  # fmt: skip
    agent = MemberAgent(
        at,
        charter,
        older,
        member_state.Ports(at.identity, schemes.member_half),
        None,
        plan.price_in(older, "d"),
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
    assert "something else was settled than its plan does" in verdict.why


def test_a_run_of_a_million_values_is_replayed_by_every_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(audited, "EVENT", PoissonGaussian(Fraction(1, 100), Fraction(1), 500))
    whole = audited.Story.plan
    monkeypatch.setattr(audited.Story, "plan", lambda self, number: replace(whole(self, number), dimension=10**6))
    audited.told(rounds=1).export(tmp_path)
    assert verify(tmp_path).ok
    told = replay(tmp_path)["epsilon"]
    assert told["pld"] <= told["rdp"] <= told["renyi_filter"]
