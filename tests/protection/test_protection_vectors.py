"""One masked round, read back from its committed bytes alone; and the bytes that must fail, each as it says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from securefl import errors, wire
from securefl.keys import Secret
from securefl.protection import masking, masking_terms
from securefl.terms import MemberId, Plan, Update
from tests import make_vectors
from tests.support.sums import sum_of

KNOWN = json.loads((make_vectors.FOLDER / "protection" / "masked_round.json").read_text())
GOOD = KNOWN["good"]


def plan(hexed: str = GOOD["plan"]) -> Plan:
    return wire.decode(bytes.fromhex(hexed), Plan)


def seal(name: str, **changed: str) -> tuple[bytes, bytes]:
    given = {**GOOD["members"][name], "plan": GOOD["plan"], **changed}
    box, secret, relay = (bytes.fromhex(given[field]) for field in ("box", "secret", "relay"))
    update = Update(np.array(given["integers"]) / 2.0 ** GOOD["fraction bits"], plan().learning.event)
    return masking.MaskingMember().seal(
        MemberId(name), plan(given["plan"]), Secret(box), secret, relay, b"", update, Secret(bytes(32))
    )


def answer(name: str, **changed: str) -> bytes:
    given = {**GOOD["members"][name], **changed}
    return masking.MaskingMember().answer(
        MemberId(name), plan(), bytes.fromhex(given["kept"]), bytes.fromhex(given["question"])
    )


def total(field: str = "", name: str = "", hexed: str = "") -> list[int]:
    members = {each: {**given, **({field: hexed} if each == name else {})} for each, given in GOOD["members"].items()}
    enrolled = {MemberId(each): bytes.fromhex(public) for each, public in GOOD["enrolled"].items()}
    sealed = {MemberId(each): bytes.fromhex(given["payload"]) for each, given in members.items()}
    answers = {MemberId(each): bytes.fromhex(given["answer"]) for each, given in members.items()}
    return [int(each) for each in sum_of(masking.MaskingCoordinator(), plan(), enrolled, sealed, answers).total]


def test_the_generator_still_makes_this_round() -> None:
    assert make_vectors.masked_round() == KNOWN


@pytest.mark.parametrize("name", GOOD["members"])
def test_every_member_seals_and_answers_the_committed_bytes(name: str) -> None:
    given = GOOD["members"][name]
    assert [part.hex() for part in seal(name)] == [given["payload"], given["kept"]]
    assert answer(name).hex() == given["answer"]


def test_the_committed_bytes_open_to_the_sum_of_the_committed_integers() -> None:
    expected = [sum(column) for column in zip(*(given["integers"] for given in GOOD["members"].values()), strict=True)]
    assert total() == GOOD["total"] == expected


@pytest.mark.parametrize("case", KNOWN["bad"], ids=[case["what"] for case in KNOWN["bad"]])
def test_a_bad_round_fails_as_it_says(case: dict[str, str]) -> None:
    expected = {"TooFew": masking_terms.TooFew}.get(case["fails"]) or getattr(errors, case["fails"])
    (field,) = set(case) - {"what", "member", "fails"}
    with pytest.raises(expected) as caught:
        if field in ("relay", "plan"):
            seal(case["member"], **{field: case[field]})
        elif field == "question":
            answer(case["member"], question=case[field])
        else:
            total(field, case["member"], case[field])
    assert type(caught.value) is expected
