"""Signed documents of introduction: what is written is read back, and whatever is altered is refused by a name."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl import keys, wire
from securefl.documents import introduction, offer
from securefl.documents.introduction import (
    BEGIN,
    DAY_S,
    END,
    SKEW_S,
    Answer,
    Card,
    Invitation,
    NotIntroduced,
    Role,
    Roster,
    Rule,
)
from securefl.terms import Hash
from tests.support.small import FEDERATION

NOW = 1_790_000_000


def identity(name: str) -> keys.Identity:
    return keys.Identity(keys.Secret(hashlib.sha256(name.encode()).digest()))


def card(name: str, role: Role = Role.MEMBER, region: str = "here", **changes) -> Card:
    who = identity(name)
    made = Card(
        name, role, region if role.has_records else "", who.public, keys.public_half(who.box), "small", Hash(bytes(32)), NOW,
        NOW + DAY_S,
    )  # fmt: skip
    return replace(made, **changes)


COORDINATOR = card("coordinator", Role.COORDINATOR)
INVITATION = introduction.sign(identity("coordinator"), Invitation(COORDINATOR, b"policy", b"", b"offer"))


def answer(name: str, role: Role = Role.MEMBER, signer: str = "", **changes):
    return introduction.sign(identity(signer or name), Answer(card(name, role, **changes), INVITATION.digest))


def roster(*answers):
    made = Roster(COORDINATOR, INVITATION.digest, tuple(each.encoded for each in answers))
    return introduction.sign(identity("coordinator"), made)


def rule_of(text: str | bytes, expected: type = Answer, now: int = NOW) -> Rule:
    with pytest.raises(NotIntroduced) as refused:
        introduction.read(text if isinstance(text, bytes) else text.encode(), expected, now)
    assert str(refused.value).startswith(refused.value.rule.value)
    return refused.value.rule


def armoured(data: bytes) -> bytes:
    return f"{BEGIN}\n{base64.b64encode(data).decode()}\n{END}\n".encode()


@pytest.mark.parametrize(
    "made",
    [INVITATION, answer("north"), roster(answer("north"), answer("south"))],
    ids=lambda m: type(m.document).__name__,
)
def test_what_is_written_is_read_back_whatever_a_mail_does_to_its_lines(made) -> None:
    for text in (made.text, made.text.replace("\n", "\r\n"), f"\n{made.text.replace(chr(10), ' ')}  "):
        found = introduction.read(text.encode(), type(made.document), NOW)
        assert (found, found.text, found.fingerprint) == (made, made.text, made.fingerprint)


@given(st.data())
@settings(max_examples=200)
def test_a_byte_that_is_another_is_refused_and_nothing_else_happens(data) -> None:
    encoded = bytearray(answer("north").encoded)
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    assert rule_of(armoured(bytes(encoded))) in (Rule.FORM, Rule.SIGNATURE)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_document_are_refused_by_their_form(data: bytes) -> None:
    assert rule_of(data) is Rule.FORM
    assert rule_of(armoured(data)) is Rule.FORM


def test_a_fingerprint_is_five_groups_of_four_and_may_be_typed_as_people_do() -> None:
    made = answer("north")
    groups = made.fingerprint.split("-")
    assert [len(each) for each in groups] == [4] * 5
    assert len("".join(groups)) * 5 == introduction.BITS == 100
    for typed in (made.fingerprint, made.fingerprint.lower(), " ".join(groups), f"  {''.join(groups)} "):
        assert introduction.confirmed(made, typed).document == made.document


def test_a_fingerprint_costs_what_the_docstring_says() -> None:
    """Pinned: a fast one would let who makes two documents find two of one fingerprint."""
    made = answer("north")
    slow = hashlib.scrypt(made.digest, salt=b"securefl/1/introduction", n=2**15, r=8, p=1, maxmem=2**26, dklen=13)
    assert made.fingerprint.replace("-", "") == base64.b32encode(slow).decode()[:20]


@pytest.mark.parametrize("typed", ["", "AAAA-AAAA-AAAA-AAAA-AAAA", "short", "the first four of it"])
def test_another_fingerprint_is_refused_and_the_right_one_is_not_told(typed: str) -> None:
    made = answer("north")
    typed = made.fingerprint[:4] if typed.startswith("the") else typed
    with pytest.raises(NotIntroduced) as refused:
        introduction.confirmed(made, typed)
    assert refused.value.rule is Rule.FINGERPRINT
    assert made.fingerprint not in str(refused.value)


def test_documents_that_differ_in_anything_have_other_fingerprints() -> None:
    made = [
        answer("north"),
        answer("north", region="there"),
        answer("north", role=Role.SUBFEDERATION),
        answer("south"),
        INVITATION,
    ]
    assert len({each.fingerprint for each in made}) == len(made)


def test_time_is_asked_with_the_skew_that_is_allowed() -> None:
    made = answer("north").text.encode()
    for now in (NOW - SKEW_S, NOW, NOW + DAY_S):
        introduction.read(made, Answer, now)
    assert rule_of(made, now=NOW - SKEW_S - 1) is Rule.EARLY
    assert rule_of(made, now=NOW + DAY_S + 1) is Rule.EXPIRED


BAD = {
    "another kind": (INVITATION, Rule.KIND),
    "a coordinator that answers": (answer("coordinator", Role.COORDINATOR), Rule.ROLE),
    "a member that is called custodian": (answer("custodian"), Rule.ROLE),
    "a custodian that is called otherwise": (answer("north", Role.CUSTODIAN), Rule.ROLE),
    "a member without a region": (answer("north", region=""), Rule.ROLE),
    "a name that no document may hold": (answer("North Pole"), Rule.ROLE),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_its_author_may_not_say_is_refused(case: str) -> None:
    made, rule = BAD[case]
    assert rule_of(made.text) is rule


def test_only_a_coordinator_invites() -> None:
    made = introduction.sign(identity("north"), Invitation(card("north"), b"", b"", b""))
    assert rule_of(made.text, Invitation) is Rule.ROLE


def test_a_statement_under_anothers_key_is_forged() -> None:
    honest = answer("north")
    signed = wire.decode(honest.encoded, introduction.Signed)
    forged = replace(
        signed, document=replace(honest.document, card=replace(honest.document.card, key=identity("mallory").public))
    )
    assert rule_of(armoured(wire.encode(forged))) is Rule.SIGNATURE


IN_A_ROSTER = {
    "a name twice": ([answer("north"), answer("north", region="there")], Rule.DOUBLED),
    "a key twice": ([answer("north"), introduction.sign(identity("north"), Answer(card("south", key=identity("north").public), INVITATION.digest))], Rule.DOUBLED),
    "a box twice": ([answer("north"), answer("south", box=card("north").box)], Rule.DOUBLED),
    "the coordinator as a member": ([introduction.sign(identity("coordinator"), Answer(card("north", key=identity("coordinator").public), INVITATION.digest))], Rule.DOUBLED),
    "another federation's": ([answer("north", federation="large")], Rule.FEDERATION),
    "another policy's": ([answer("north", policy=Hash(b"x" * 32))], Rule.POLICY),
    "another invitation's": ([introduction.sign(identity("north"), Answer(card("north"), Hash(bytes(32))))], Rule.INVITATION),
    "an expired one": ([answer("north", expires=NOW - 1)], Rule.EXPIRED),
    "an invitation": ([INVITATION], Rule.KIND),
}  # fmt: skip


@pytest.mark.parametrize("case", IN_A_ROSTER)
def test_a_roster_holds_each_partys_own_answer_once(case: str) -> None:
    answers, rule = IN_A_ROSTER[case]
    found = introduction.read(roster(*answers).text.encode(), Roster, NOW)
    with pytest.raises(NotIntroduced) as refused:
        introduction.answers_of(found)
    assert refused.value.rule is rule


def test_an_answer_in_a_roster_that_was_altered_is_found() -> None:
    north = bytearray(answer("north").encoded)
    north[-1] ^= 1
    made = introduction.sign(identity("coordinator"), Roster(COORDINATOR, INVITATION.digest, (bytes(north),)))
    with pytest.raises(NotIntroduced) as refused:
        introduction.answers_of(made)
    assert refused.value.rule is Rule.SIGNATURE


def test_what_is_offered_is_read_back() -> None:
    made = offer.Offer.model_validate(
        {
            "securefl_offer": 1, "model": "acme/base", "task": FEDERATION["task"], "adapter": FEDERATION["adapter"],
            "max_tokens": 16, "protection": {"scheme": "ckks", "min_cohort": 3},
        }
    )  # fmt: skip
    assert offer.read(offer.text_of(made), "offer") == made
