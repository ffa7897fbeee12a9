"""Approvals: what counts, what is refused by name, and what no run gets around."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from securefl import keys
from securefl.audit.verify import verify
from securefl.documents import federation_file
from securefl.errors import OperatorFault
from securefl.home import adoption
from securefl.home.clock import clock
from securefl.home.home import Home
from securefl.policy import approvals, load
from securefl.policy.approvals import Kind
from securefl.simulation.introduction import introduce
from securefl.simulation.layout import SiteLayout
from securefl.terms import Hash, RunId, RunJoined
from tests.policy.test_policy_oracle import POLICY, changed
from tests.policy.test_policy_tools import said
from tests.support.small import POLICY as SMALL
from tests.support.small import Small, sign

NOW = 1_780_272_000  # 2026-06-01
NAMES = ("alice", "bob", "carol", "dave")


def identity(name: str) -> keys.Identity:
    return keys.Identity(keys.Secret(hashlib.sha256(f"approvals {name}".encode()).digest()))


KEYS = {name: identity(name).public.hex() for name in NAMES}


def policy(required: int = 2, names: tuple[str, ...] = NAMES, **changes) -> load.Policy:
    rules = {"required": required, "keys": {name: KEYS[name] for name in names}}
    return load.parse(yaml.safe_dump(changed(POLICY, {"approvals": rules, **changes})).encode(), "policy.yaml")


ONE = policy()
RULES = ONE.document.approvals


def made(name: str, kind: str = "approval", of: load.Policy = ONE, issued: int = NOW - 60, expires: int = NOW + 60):
    return approvals.sign(identity(name), Kind(kind), of, issued, expires)


SIGNED = (made("alice", "author"), made("bob"), made("carol"))


def judged(*signatures, of: load.Policy = ONE, now: int = NOW):
    return approvals.judge(of, signatures, now)


def refused(*signatures, now: int = NOW) -> set[str]:
    return {reason.rule.removeprefix("approvals.") for reason in judged(*signatures, now=now).refused}


# What counts.


def test_an_author_and_enough_others_sign_a_version():
    standing = judged(*SIGNED)
    assert standing.signed
    assert (standing.author, standing.approvers, standing.refused) == ("alice", ("bob", "carol"), ())
    assert str(standing) == "signed: author alice, approved by bob, carol (2 of 2)"


@pytest.mark.parametrize("missing", range(3))
def test_each_of_them_is_needed(missing):
    assert not judged(*(each for index, each in enumerate(SIGNED) if index != missing)).signed


def test_nobody_can_sign_a_policy_without_keys():
    none = policy(0, ())
    assert not judged(of=none).signed
    assert refused(made("alice", "author", of=none)) == {"replayed"}
    assert {r.rule for r in judged(made("alice", "author", of=none), of=none).refused} == {"approvals.stranger"}


@given(st.data())
def test_what_is_remembered_of_revocations_is_each_signers_last_and_nobody_elses(data):
    """However many are given, forged ones and strangers' among them: no more than one for each key is kept."""
    names = st.sampled_from([*NAMES, "mallory"])
    drawn = data.draw(st.lists(st.tuples(names, st.sampled_from(Kind), st.integers(0, 9), st.booleans()), max_size=30))
    given_ = []
    for name, kind, issued, forged in drawn:
        each = approvals.sign(identity(name), kind, ONE, NOW + issued, NOW + 60)
        given_.append(replace(each, signature=bytes(64)) if forged else each)
    kept = approvals.last_revocations(ONE, (*given_, made("bob", "revocation", of=policy(version=2))), RULES)
    last = {}
    for name, kind, issued, forged in drawn:
        if kind is Kind.REVOCATION and not forged and name in NAMES:
            last[identity(name).public] = max(issued, last.get(identity(name).public, 0))
    assert {each.statement.signer: each.statement.issued - NOW for each in kept} == last
    assert len(kept) == len(last)
    assert approvals.last_revocations(ONE, (*given_, *kept), RULES) == kept
    assert judged(*SIGNED, *given_).signed == judged(*SIGNED, *drop_revocations(given_), *kept).signed


def drop_revocations(signatures):
    return [each for each in signatures if each.statement.kind is not Kind.REVOCATION]


# What is refused, by name.

BOBS = made("bob")
WRONG = {
    "replayed": (replace(ONE, hash=load.policy_hash(b"another")),),
    "expired": (made("bob", expires=NOW - 1),),
    "early": (made("bob", issued=NOW + 3600),),
    "self": (made("alice"),),
    "duplicate": (BOBS, BOBS),
    "stranger": (approvals.sign(identity("mallory"), Kind.APPROVAL, ONE, NOW, NOW + 60),),
    "forged": (replace(BOBS, statement=replace(BOBS.statement, expires=NOW + 10**6)),),
    "revoked": (BOBS, made("bob", "revocation")),
}
WRONG["replayed"] = (made("bob", of=policy(version=2)),)


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_count_is_refused_by_name(name):
    standing = judged(SIGNED[0], SIGNED[2], *WRONG[name])
    assert {reason.rule for reason in standing.refused} == {f"approvals.{name}"}
    assert standing.signed is (name == "duplicate")  # one of the two counts


def test_a_signature_of_one_kind_never_passes_for_another():
    for kind, other in itertools.permutations(Kind, 2):
        spoiled = made("bob", kind)
        assert refused(replace(spoiled, statement=replace(spoiled.statement, kind=other))) == {"forged"}


def test_a_second_author_does_not_count_and_may_not_approve_twice():
    standing = judged(SIGNED[0], made("bob", "author"), made("carol"))
    assert (standing.author in ("alice", "bob"), standing.signed) == (True, False)
    assert [reason.rule for reason in standing.refused] == ["approvals.duplicate"]


def test_what_is_signed_again_after_a_revocation_counts():
    revoked = made("bob", "revocation", issued=NOW - approvals.SKEW_S - 30)
    assert refused(*SIGNED, revoked) == {"revoked"}
    assert judged(*SIGNED, revoked, made("bob", issued=NOW - 10)).signed


@pytest.mark.parametrize("order", itertools.permutations(range(4)))
def test_the_latest_revocation_takes_back_all_that_was_signed_before_it_in_whatever_order_they_lie(order):
    several = [
        made("alice", "author"), made("bob", "revocation", issued=NOW - 9000), made("bob", issued=NOW - 6000),
        made("bob", "revocation", issued=NOW - 3000),
    ]  # fmt: skip
    assert judged(*several[:3]).approvers == ("bob",)
    standing = judged(*(several[place] for place in order))
    assert standing.approvers == ()
    assert {reason.rule for reason in standing.refused} == {"approvals.revoked"}


@given(st.integers(0, approvals.SKEW_S), st.integers(0, 10**6))
def test_no_clock_that_is_accepted_signs_past_its_own_revocation(ahead, later):
    signed = made("bob", issued=NOW + ahead, expires=NOW + 10**7)
    assert refused(signed, made("bob", "revocation", issued=NOW), now=NOW + later) == {"revoked"}


def test_a_revocation_never_expires_and_takes_back_an_authorship_too():
    long = tuple(
        made(name, kind, expires=NOW * 2)
        for name, kind in (("alice", "author"), ("bob", "approval"), ("carol", "approval"))
    )
    assert judged(*long, now=NOW + 10**6).signed
    assert not judged(*long, made("alice", "revocation", expires=NOW - 50), now=NOW + 10**6).signed


ANY = st.lists(
    st.builds(
        made, st.sampled_from(NAMES), st.sampled_from(list(Kind)), st.sampled_from([ONE, policy(version=2)]),
        st.sampled_from([NOW - 60, NOW - 30, NOW + 3600]), st.sampled_from([NOW - 1, NOW + 60]),
    ), max_size=6,
)  # fmt: skip


@given(ANY, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_a_standing_is_what_a_second_reader_finds(signatures, drawn):
    shuffled = list(signatures)
    drawn.shuffle(shuffled)
    assert judged(*shuffled) == judged(*signatures)
    standing = judged(*signatures)
    good = [each.statement for each in signatures if each.statement.policy == ONE.hash]
    taken = {}
    for each in good:
        if each.kind == "revocation":
            taken[each.signer] = max(taken.get(each.signer, 0), each.issued + approvals.SKEW_S)
    good = [
        each
        for each in good
        if each.kind != "revocation"
        and each.issued < NOW + 301
        and each.expires >= NOW
        and each.issued > taken.get(each.signer, -1)
    ]
    authors = {each.signer for each in good if each.kind == "author"}
    others = {each.signer for each in good if each.kind == "approval"}
    assert (standing.author is None) == (not authors)
    assert len(standing.approvers) == len(others - {bytes.fromhex(KEYS.get(standing.author or "", ""))})


@given(ANY, ANY)
def test_a_revocation_never_adds_a_signature(signatures, more):
    taken = [each for each in more if each.statement.kind is Kind.REVOCATION]
    assert set(judged(*signatures, *taken).approvers) <= set(NAMES)
    if judged(*signatures, *taken).signed:
        assert judged(*[s for s in signatures if s.statement.kind is not Kind.REVOCATION]).signed


# Successors.


def test_a_larger_budget_needs_the_signatures_its_predecessor_asked_for():
    taken_over = policy(0, ("dave",), version=2, **{"budget.epsilon": 80})
    mine = [made("dave", "author", of=taken_over)]
    assert judged(*mine, of=taken_over).signed
    with pytest.raises(approvals.Unapproved, match="a successor of six-airlines, version 1 is not signed"):
        approvals.require(taken_over, mine, NOW, before=policy(2, ("alice", "bob", "carol")))
    rise = policy(version=2, **{"budget.epsilon": 80})
    for count in range(3):
        some = [
            made(name, kind, of=rise)
            for name, kind in (("alice", "author"), ("bob", "approval"), ("carol", "approval"))
        ][: count + 1]
        if count < 2:
            with pytest.raises(approvals.Unapproved):
                approvals.require(rise, some, NOW, before=ONE)
        else:
            assert approvals.require(rise, some, NOW, before=ONE).signed
    with pytest.raises(approvals.Unapproved, match="replayed"):
        approvals.require(rise, SIGNED, NOW, before=ONE)


# Files.


def test_signatures_are_read_back_as_they_were_written(tmp_path):
    assert approvals.decode(approvals.encode(SIGNED), "x") == SIGNED
    assert approvals.decode(b"", "x") == approvals.read(tmp_path / "none.json") == ()


@given(st.binary(max_size=40), st.integers(0, 2000))
def test_a_spoiled_file_is_a_clear_error_or_counts_for_less(junk, place):
    text = approvals.encode(SIGNED)
    place %= len(text)
    try:
        standing = judged(*approvals.decode(text[:place] + junk + text[place + len(junk) :], "x.json"))
    except OperatorFault as fault:
        assert str(fault).startswith("x.json")
    else:
        assert set(standing.approvers) <= {"bob", "carol"}


# The command line.


@pytest.fixture
def signing(tmp_path: Path, capsys):
    """Two officers and an author, their keys, and a policy that names them."""
    public = {
        name: said(capsys, "keys", "init", tmp_path / f"{name}.key")["public"] for name in ("alice", "bob", "carol")
    }
    written = changed(POLICY, {"approvals": {"required": 2, "keys": public}})
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(written))

    def do(command: str, name: str, code: int = 0) -> dict:
        return said(capsys, "policy", command, tmp_path / "policy.yaml", "--key", tmp_path / f"{name}.key", code=code)

    do.folder = tmp_path
    return do


def test_a_policy_is_signed_approved_and_revoked_from_the_command_line(signing, capsys):
    check = lambda: said(capsys, "policy", "check", signing.folder / "policy.yaml")["approvals"]  # noqa: E731
    assert check() == {"signed": False, "author": None, "approved_by": [], "required": 2}
    signing("sign", "alice")
    assert "approvals.self" in signing("approve", "alice", code=3)["error"]["message"]
    signing("approve", "bob")
    assert "approvals.duplicate" in signing("approve", "bob", code=3)["error"]["message"]
    assert signing("approve", "carol")["signed"] is True
    assert check() == {"signed": True, "author": "alice", "approved_by": ["bob", "carol"], "required": 2}
    assert signing("revoke", "bob")["signed"] is False
    (signing.folder / "policy.yaml").write_text((signing.folder / "policy.yaml").read_text() + "# edited\n")
    assert check()["author"] is None


def test_an_approval_for_so_many_days_ends_as_many_days_later_to_the_second(signing, capsys):
    folder = signing.folder
    said(capsys, "policy", "sign", folder / "policy.yaml", "--key", folder / "alice.key", "--days", "2")
    (entry,) = json.loads((folder / "policy.approvals.json").read_text())["signatures"]
    assert entry["expires"] - entry["issued"] == 172_800


def test_a_key_is_made_once_and_shown_by_its_public_half(capsys, tmp_path):
    made_ = said(capsys, "keys", "init", tmp_path / "a.key")
    assert said(capsys, "keys", "show", tmp_path / "a.key") == made_
    assert (tmp_path / "a.key").stat().st_mode & 0o077 == 0
    said(capsys, "keys", "init", tmp_path / "a.key", code=2)
    said(capsys, "keys", "show", tmp_path / "b.key", code=2)


# Runs.


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("small"))


def test_a_run_records_who_signed_and_an_unsigned_one_says_so_for_ever(small, tmp_path, capsys):
    sites = tmp_path / "sites"
    small.run(tmp_path / "signed", sites)
    told = json.loads((tmp_path / "signed" / "report.json").read_text())
    assert told["approvals"] == {"signed": True, "author": "tester", "approved_by": [], "required": 0}
    assert verify(tmp_path / "signed").unsigned == ()
    approvals.beside(small.folder / "policy.yaml").unlink()
    try:
        with pytest.raises(approvals.Unapproved, match="not signed: UNSIGNED: no author"):
            small.run(tmp_path / "refused", sites)
        assert not (tmp_path / "refused").exists()
        small.run(tmp_path / "unsigned", sites, unsafe_unsigned=True, page=True)
    finally:
        sign(small.folder / "policy.yaml")
    verdict = verify(tmp_path / "unsigned")
    assert verdict.ok
    run = json.loads((tmp_path / "unsigned" / "report.json").read_text())
    assert run["run"] in verdict.unsigned
    assert run["approvals"]["signed"] is False
    assert "UNSIGNED" in (tmp_path / "unsigned" / "report.html").read_text()
    assert said(capsys, "audit", "verify", tmp_path / "unsigned")["unsigned"] == list(verdict.unsigned)


def test_a_home_takes_no_successor_that_its_own_policy_would_not_sign_for_and_forgets_no_revocation(small, tmp_path):
    places = SiteLayout(federation_file.load(small.folder / "federation.yaml"), tmp_path)
    key = keys.Identity(keys.Secret(hashlib.sha256(b"tester").digest()))
    first = load.parse(SMALL.encode(), "p")
    of = lambda policy, who, kind="author", issued=0: approvals.sign(who, Kind(kind), policy, issued, 4 * 10**9)  # noqa: E731
    introduce(places, first, (of(first, key),))
    for name in places.parties:
        home, run = Home.at(places.of(name), name, clock), RunId(bytes(16))
        _, shown = adoption.staged(home.path, "small", clock())
        with home.transaction() as conn:
            home.commit(conn, run, (RunJoined(run, "small", "member", first.text, "d", (), shown),), Hash(b""))
    stranger = load.parse(
        SMALL.replace("version: 1", "version: 2").replace(key.public.hex(), KEYS["bob"]).encode(), "p"
    )
    with pytest.raises(approvals.Unapproved, match="a successor of small, version 1"):
        introduce(places, stranger, (of(stranger, identity("bob")),))
    introduce(places, first, (of(first, key),))
    with pytest.raises(approvals.Unapproved, match="revoked"):
        introduce(places, first, (of(first, key), of(first, key, "revocation", 5)))
    with pytest.raises(approvals.Unapproved, match="revoked"):
        introduce(places, first, (of(first, key),))
    second = load.parse(SMALL.replace("version: 1", "version: 2").encode(), "p")
    introduce(places, second, (of(second, key), of(second, identity("bob"), "revocation")))


def test_a_policy_that_names_no_keys_needs_no_signature_and_is_marked_unsigned_nor_may_it_follow_one_that_does(
    small, tmp_path
):
    bare = "\n".join(line for line in SMALL.splitlines() if not line.startswith("approvals:")) + "\n"
    file = small.file("bare.yaml", policy=bare.replace("version: 1", "version: 2"))
    approvals.beside(small.folder / "bare.yaml.policy.yaml").unlink()
    small.run(tmp_path / "run", tmp_path / "sites", file=file)
    told = json.loads((tmp_path / "run" / "report.json").read_text())
    assert told["approvals"]["signed"] is False
    assert verify(tmp_path / "run").unsigned == (told["run"],)
    small.run(tmp_path / "signed", tmp_path / "others")
    with pytest.raises(OperatorFault, match="names no keys under `approvals`, and version 1 does"):
        small.run(tmp_path / "after", tmp_path / "others", file=file)
