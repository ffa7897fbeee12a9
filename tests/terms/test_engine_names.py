"""Names of parties at an external engine: each a DNS label, each party's own, and back again."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from securefl.errors import OperatorFault
from securefl.terms.names import ENGINE_NAME_FORM, ENGINE_OWN, NAME_FORM, MemberId, engine_name, party_named
from securefl.terms.parties import ROLES

PARTIES = st.from_regex(NAME_FORM, fullmatch=True).filter(lambda name: len(name) <= 21)  # each fits, whatever is in it
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
FLARE_SITE = r"^[A-Za-z0-9-_]+$"  # nvflare/apis/utils/format_check.py, "site"
FLARE_SEPARATOR = "."  # nvflare/fuel/f3/cellnet/fqcn.py


@given(PARTIES)
@example("a-.b")
@example("a--b")
@example("a-")
@example("a_-.")
@example("server")
@example("server--x")
def test_every_party_has_a_label_and_is_found_by_it(name: str) -> None:
    label = engine_name(MemberId(name))
    assert re.fullmatch(ENGINE_NAME_FORM, label)
    assert re.fullmatch(FLARE_SITE, label)
    assert FLARE_SEPARATOR not in label
    assert label not in ENGINE_OWN
    assert party_named(label) == name


@given(PARTIES, PARTIES)
@example("a-.b", "a.-b")
@example("a--b", "a-b")
@example("a_b", "a.b")
@example("server", "server--x")
def test_two_parties_never_have_one_label(one: str, other: str) -> None:
    assume(one != other)
    assert engine_name(MemberId(one)) != engine_name(MemberId(other))


@given(LABELS)
@example("a--b")
@example("a--h--hb")
@example("a--hb")
@example("north--x")
@example("server--x")
@example("server")
def test_a_label_is_one_partys_or_refused(label: str) -> None:
    try:
        party = party_named(label)
    except OperatorFault:
        return
    assert engine_name(party) == label


@given(st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True).filter(lambda name: len(name) <= 63))
def test_a_name_that_is_a_plain_label_stays_as_it_is(name: str) -> None:
    assume(name not in ENGINE_OWN)
    assert engine_name(MemberId(name)) == name


def test_coordinator_and_custodian_keep_their_names() -> None:
    assert [engine_name(each) for each in ROLES] == list(ROLES)


@pytest.mark.parametrize("name", ["", "North", "a b", "-a", "a\n", "a/b", "n" * 64, "\u00e4", "_a"])
def test_what_is_no_partys_name_has_no_label(name: str) -> None:
    with pytest.raises(OperatorFault, match="is no party's name"):
        engine_name(MemberId(name))


@pytest.mark.parametrize(
    "label", ["", "North", "a_b", "a.b", "a-", "a--b", "a--hb--", "north--x", "a--x", "server", "a\n"]
)
def test_what_is_no_label_of_ours_is_nobody(label: str) -> None:
    with pytest.raises(OperatorFault, match="no party's name at an engine"):
        party_named(label)


def test_a_name_that_is_too_long_for_a_label_is_refused_with_what_would_do() -> None:
    assert engine_name(MemberId("n" * 63)) == "n" * 63
    assert len(engine_name(MemberId("a" + "." * 20 + "bc"))) == 63
    with pytest.raises(OperatorFault, match=r"64 characters, and it takes 63; give the party a shorter name"):
        engine_name(MemberId("a" + "." * 20 + "bcd"))
