"""What a member, a coordinator or a custodian refuses of one round, scheme by scheme."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from securefl import keys, wire
from securefl.errors import Forged, OperatorFault, Unsafe
from securefl.keys import Secret
from securefl.protection import clear, encrypted, fixed_point, key_file, key_shares, masking_terms, schemes, shamir
from securefl.protection.summation import Summation, Summed
from securefl.seams import Enrolment
from securefl.terms import Envelope, FixedPoint, Hash, MemberId, Receipt, RunId, Scheme
from tests.attacks.test_protection_attacks import enrolled_again
from tests.protection.test_protection import ENCRYPTED, MASKED, Encrypted, Round, secret
from tests.support.sums import sum_of
from tests.support.worlds import identity

RUN = RunId(bytes(16))
SILENT = [scheme for scheme in Scheme if not scheme.has_masks]


def made(scheme: Scheme, n: int = 4) -> Round:
    return Encrypted(n, scheme=scheme) if scheme.has_custodian else Round(n, dimension=50, scheme=scheme)


def envelopes(names: list[MemberId]) -> dict[MemberId, Envelope]:
    return {
        name: Envelope(Receipt(name, MemberId("c"), RUN, 1, "Submitted", None, 0, Hash(bytes(32)), 0), bytes(64), b"")
        for name in names
    }


# A member.


@pytest.mark.parametrize("scheme", SILENT)
def test_where_there_are_no_masks_a_member_publishes_nothing_and_is_asked_nothing(scheme: Scheme) -> None:
    round_ = made(scheme)
    for name in round_.names:
        assert round_.enrolment[name] == Enrolment(b"", b"")
        assert round_.relays[name] == b""
        round_.seal(name)
        assert round_.kept[name] == b""
    question = masking_terms.question_about(round_.names)
    for asked in (
        lambda: round_.member.answer(round_.names[0], round_.plan, b"", question),
        lambda: round_.member.about(question),
    ):
        with pytest.raises(Unsafe, match="nothing to"):
            asked()
    asks = round_.coordinator.ask(0, round_.plan, round_.enrolled, envelopes(round_.names), {})
    assert set(asks) == ({encrypted.CUSTODIAN} if scheme.has_custodian else set())


@pytest.mark.parametrize("scheme", [Scheme.CLEAR, Scheme.MASKING])
def test_a_scheme_without_a_custodian_takes_nobodys_key(scheme: Scheme) -> None:
    member = schemes.member_half(scheme)
    member.check_material(b"", None)
    for material, custodian in ((b"x", None), (b"", identity("custodian").public)):
        with pytest.raises(Forged, match="no custodian"):
            member.check_material(material, custodian)


@pytest.mark.parametrize("scheme", list(Scheme))
def test_a_cohort_below_the_least_is_refused_before_training(scheme: Scheme) -> None:
    round_ = made(scheme)
    name, enough = round_.names[0], replace(round_.plan.cover, min_cohort=4, threshold=3)
    small = replace(round_.plan, cohort=round_.plan.cohort[:3], cover=enough)
    material = getattr(round_, "material", b"")
    with pytest.raises(Unsafe, match="a cohort of 3; at least 4") as fault:
        round_.member.admit(name, small, round_.box[name], round_.enrolment[name].secret, round_.relays[name], material)
    assert fault.value.rule == "protocol.small-cohort"


@pytest.mark.parametrize("scheme", ENCRYPTED)
def test_nothing_is_encrypted_without_a_custodian_in_the_plan_and_its_key(scheme: Scheme) -> None:
    round_ = Encrypted(scheme=scheme)
    name, nobody = round_.names[0], replace(round_.plan, cover=replace(round_.plan.cover, custodian=None))
    held = (round_.box[name], round_.enrolment[name].secret, round_.relays[name])
    round_.member.admit(name, round_.plan, *held, round_.material)
    for plan, material in ((nobody, round_.material), (round_.plan, b"")):
        with pytest.raises(Unsafe, match="no custodian"):
            round_.member.admit(name, plan, *held, material)


@pytest.mark.parametrize(("survivors", "rule"), [
    (["m00", "m01", "m02"], "protocol.few-survivors"), (["m01", "m02", "m03", "m04"], "protocol.called-dropped"),
    (["m00", "m01", "m02", "mallory"], "protocol.stranger"), (["m00", "m00", "m01", "m02"], "protocol.stranger"),
])  # fmt: skip
def test_a_question_that_would_open_too_little_is_refused_by_its_name(survivors: list[str], rule: str) -> None:
    round_ = Round(6)
    round_.seal(round_.names[0])
    question = wire.encode(masking_terms.Survivors(tuple(map(MemberId, survivors))))
    with pytest.raises(Unsafe) as fault:
        round_.member.answer(round_.names[0], round_.plan, round_.kept[round_.names[0]], question)
    assert fault.value.rule == rule


def test_a_member_whose_own_key_was_replaced_under_its_own_signature_refuses() -> None:
    """Its identity's key was used elsewhere: a copy of its home enrolled for the same round."""
    round_ = Round(5)
    me = round_.names[0]
    public = wire.decode(round_.enrolled[me], masking_terms.Public)
    other = replace(public.statement, mask_key=keys.public_half(secret("a copy's")))
    signature = identity(me).sign("mask-key", wire.encode(other))
    round_.enrolled[me] = wire.encode(replace(public, statement=other, signature=signature))
    relay = round_.coordinator.relay(tuple(round_.names), round_.enrolled)[me]
    with pytest.raises(Forged, match="this member's own key was replaced") as fault:
        round_.seal(me, relay=relay)
    assert fault.value.rule == "protocol.swapped-key"


@pytest.mark.parametrize("scheme", list(Scheme))
@pytest.mark.parametrize("shape", [(0,), (49,), (51,), (5, 10)])
def test_nothing_leaves_of_an_update_that_has_not_the_plans_shape(scheme: Scheme, shape: tuple[int, ...]) -> None:
    round_ = made(scheme)
    name = round_.names[0]
    round_.values[name] = np.zeros(shape)
    with pytest.raises(fixed_point.Unsound, match="where the plan says 50 values") as fault:
        round_.seal(name)
    assert fault.value.exit_code == 2
    assert not round_.sealed


# A coordinator.


@pytest.mark.parametrize("length", [0, 1, 49, 51])
def test_a_vector_in_the_clear_of_another_length_is_named_and_never_added(length: int) -> None:
    """One value alone would be added to every place."""
    round_ = Round(4, dimension=50, scheme=Scheme.CLEAR)
    for name in round_.names:
        round_.seal(name)
    sealed = {**round_.sealed, round_.names[1]: wire.encode(clear.Bare(bytes(8 * length)))}
    with pytest.raises(Forged, match=f"m01 sent {8 * length} bytes where 400 belong"):
        sum_of(round_.coordinator, round_.plan, round_.enrolled, sealed, {})
    total = sum_of(round_.coordinator, round_.plan, round_.enrolled, round_.sealed, {}).total
    assert np.array_equal(total, round_.expected())


def test_a_sum_of_fewer_than_the_least_is_not_opened_whatever_shares_there_are() -> None:
    round_ = Round(5)
    for name in round_.names:
        round_.seal(name)
    question = masking_terms.question_about(round_.names)
    answers = {name: round_.member.answer(name, round_.plan, round_.kept[name], question) for name in round_.names}
    for least in (replace(round_.plan.cover, min_cohort=5), replace(round_.plan.cover, threshold=5)):
        plan = replace(round_.plan, cover=least)
        sealed = dict(list(round_.sealed.items())[:4])
        with pytest.raises(masking_terms.TooFew, match="4 survivors; 5 are needed"):
            sum_of(round_.coordinator, plan, round_.enrolled, sealed, answers)


def dealt_of_another(what: str) -> Round:
    """A round whose second member committed to shares of another secret than the one it published."""
    round_ = Round(5)
    other = {"seed": {"seed": bytes(32)}, "key": {"mask_key": keys.public_half(secret("another"))}}[what]
    liar = round_.names[1]
    public = enrolled_again(round_, liar, round_.names, **other)
    round_.enrolled[liar] = wire.encode(public)
    boxes = {peer: keys.public_half(round_.box[peer]) for peer in round_.names}
    again = round_.member.enrol(liar, RUN, 1, round_.threshold, boxes, identity(liar), secret("again"))
    round_.enrolment[liar] = replace(again, public=round_.enrolled[liar])
    round_.relays = round_.coordinator.relay(tuple(round_.names), round_.enrolled)
    return round_


@pytest.mark.parametrize(("what", "said"), [
    ("seed", "the seed of m01 is not the one it committed to"), ("key", "the key of m01 is not the one it published"),
])  # fmt: skip
def test_shares_of_another_secret_than_was_published_open_nothing_and_name_their_dealer(what: str, said: str) -> None:
    round_ = dealt_of_another(what)
    for name in round_.names:
        if not (what == "key" and name == round_.names[1]):  # whose own check would find it; it falls silent instead
            round_.seal(name)
    with pytest.raises(Forged, match=said):
        round_.finish()


def test_answers_that_are_none_or_of_members_who_are_no_survivors_are_left_out() -> None:
    round_ = Round(6)
    for name in round_.names:
        round_.seal(name)
    late = round_.names[5]
    del round_.sealed[late]
    question = masking_terms.question_about(round_.sealed)
    answers = {name: round_.member.answer(name, round_.plan, round_.kept[name], question) for name in round_.sealed}
    spoiled = {**answers, round_.names[0]: b"no answer", late: answers[round_.names[1]]}
    total = sum_of(round_.coordinator, round_.plan, round_.enrolled, round_.sealed, spoiled).total
    assert np.array_equal(total, round_.expected())
    few = dict(list(spoiled.items())[:4])  # three good ones are left, and four are needed
    few[late] = answers[round_.names[4]]
    with pytest.raises(masking_terms.TooFew, match="3 good seed shares"):
        sum_of(round_.coordinator, round_.plan, round_.enrolled, round_.sealed, few)


@pytest.mark.parametrize("scheme", ENCRYPTED)
def test_no_sum_is_read_but_the_custodians_over_the_very_members_and_values_that_were_asked_for(scheme: Scheme) -> None:
    round_ = Encrypted(scheme=scheme)
    for name in round_.names:
        round_.seal(name)
    everybody = tuple(round_.names)

    def read(given: dict[MemberId, bytes]) -> np.ndarray:
        return sum_of(round_.coordinator, round_.plan, round_.enrolled, round_.sealed, given).total

    assert read({encrypted.CUSTODIAN: wire.encode(Summed(bytes(400), everybody))}).shape == (50,)
    with pytest.raises(Forged, match="did not answer") as fault:
        read({round_.names[0]: wire.encode(Summed(bytes(400), everybody))})
    assert fault.value.rule == "protocol.too-few"
    for values, members in ((bytes(392), everybody), (bytes(408), everybody), (b"", everybody),
                            (bytes(400), everybody[:3]), (bytes(400), everybody[::-1]), (bytes(400), ())):  # fmt: skip
        with pytest.raises(Forged, match="of another shape"):
            read({encrypted.CUSTODIAN: wire.encode(Summed(values, members))})


@pytest.mark.parametrize("scheme", MASKED)
def test_the_custodian_is_handed_the_usable_answers_of_a_threshold_or_is_not_asked(scheme: Scheme) -> None:
    round_ = Encrypted(6, scheme=scheme)
    for name in round_.names:
        round_.seal(name)
    good, sent, (first, second, third, *rest) = round_.answers(), envelopes(round_.names), round_.names
    about_five = masking_terms.question_about(round_.names[:5])
    another = round_.member.answer(second, round_.plan, round_.kept[second], about_five)
    spoiled = {**good, first: b"no answer", second: another}
    asked = round_.coordinator.ask(1, round_.plan, round_.enrolled, sent, spoiled)
    assert set(asked) == {encrypted.CUSTODIAN}
    told = wire.decode(asked[encrypted.CUSTODIAN], Summation)
    assert dict(told.answers) == {str(name): good[name] for name in (third, *rest)}
    assert dict(told.enrolled) == {str(name): round_.enrolled[name] for name in round_.names}
    assert told.inputs == tuple(sent.values())
    with pytest.raises(masking_terms.TooFew, match="3 members gave shares; 4 are needed"):
        round_.coordinator.ask(1, round_.plan, round_.enrolled, sent, {**spoiled, third: b""})


# A custodian.


@pytest.mark.parametrize("scheme", MASKED)
def test_a_custodian_opens_no_sum_of_members_who_dealt_to_several_rosters(scheme: Scheme) -> None:
    round_ = Encrypted(5, scheme=scheme)
    for name in round_.names:
        round_.seal(name)
    stranger = MemberId("zz")
    round_.box[stranger] = secret("zz")
    other = enrolled_again(round_, round_.names[1], [*round_.names, stranger])
    with pytest.raises(Forged, match="several rosters") as fault:
        round_.opened(enrolled={**round_.enrolled, round_.names[1]: wire.encode(other)})
    assert fault.value.rule == "protocol.another-roster"


@pytest.mark.parametrize("scheme", [scheme for scheme in ENCRYPTED if not scheme.has_masks])
def test_a_custodian_without_masks_takes_no_shares_of_any(scheme: Scheme) -> None:
    round_ = Encrypted(scheme=scheme)
    for name in round_.names:
        round_.seal(name)
    for more in ({"enrolled": {round_.names[0]: b"x"}}, {"answers": {round_.names[0]: b"x"}}):
        with pytest.raises(Forged, match="shares of masks, which") as fault:
            round_.opened(**more)
        assert fault.value.rule == "protocol.another-input"


def test_a_key_opens_four_thousand_and_ninety_six_sums(tmp_path) -> None:
    """The limit itself: what a key may show over its life is counted with this number."""
    file = key_file.KeyFile(tmp_path / "he.key", identity("custodian"))
    kept = file.kept(lambda: b"a key")
    assert file.spent(kept) == 0
    file.count_of(kept).write_bytes(b"00004095")
    file.spend(kept)
    assert file.spent(kept) == 4096
    with pytest.raises(key_file.Exhausted, match="opened 4096 sums"):
        file.spend(kept)
    assert file.spent(kept) == 4096


def test_a_key_file_that_was_altered_or_is_anothers_is_no_key_and_none_is_made_in_its_place(tmp_path) -> None:
    path, key = tmp_path / "he.key", bytes(range(64))
    own = key_file.KeyFile(path, identity("custodian"))
    assert own.kept(lambda: key) == key
    sealed = path.read_bytes()
    assert key[:16] not in sealed
    for written, file in (
        (sealed, key_file.KeyFile(path, identity("another"))),
        (sealed[:-1] + bytes([sealed[-1] ^ 1]), own),
        (key, own),
    ):
        path.write_bytes(written)
        with pytest.raises(OperatorFault, match="altered, or is another party's"):
            file.kept(lambda: b"never made")
        assert path.read_bytes() == written
    path.write_bytes(sealed)
    assert own.kept(lambda: b"never made") == key


# A split key.

BOX = {MemberId(name): Secret(name.encode() * 32) for name in "abcd"}
BOXES = {name: keys.public_half(box) for name, box in BOX.items()}


@pytest.mark.parametrize(("threshold", "remedy"), [(0, "2 to 4"), (1, "2 to 4"), (5, "2 to 4")])
def test_a_key_is_split_so_that_one_share_never_gives_it_and_all_of_them_do(threshold: int, remedy: str) -> None:
    def split(n: int) -> object:
        return key_shares.split(b"key", Hash(b"k" * 32), n, BOXES, identity("custodian"), secret("r"))

    with pytest.raises(OperatorFault, match=f"choose a threshold of {remedy}"):
        split(threshold)
    for good in (2, 4):
        assert split(good)


def test_a_share_is_a_members_own_where_it_opens_in_its_place_and_is_what_the_custodian_committed_to() -> None:
    """What a site checks as the share arrives: one that is not its own would be found only when the key is needed."""
    custodian = identity("custodian")
    _, dealt = key_shares.split(b"key", Hash(b"k" * 32), 3, BOXES, custodian, secret("r"))
    _, others = key_shares.split(b"key", Hash(b"k" * 32), 3, BOXES, custodian, secret("another"))
    share, other = (wire.decode(each[MemberId("b")], key_shares.Share) for each in (dealt, others))
    mine = (MemberId("b"), share, BOX[MemberId("b")], custodian.public)
    assert key_shares.is_mine(*mine)
    resigned = replace(share.statement, commitments=share.statement.commitments[:1])
    signature = custodian.sign("key-shares", wire.encode(resigned))
    for member, given, box, key in (
        (MemberId("c"), *mine[1:]),  # another's place
        (MemberId("nobody"), *mine[1:]),
        (mine[0], share, BOX[MemberId("c")], custodian.public),
        (mine[0], share, BOX[MemberId("b")], identity("mallory").public),
        (mine[0], replace(share, box=other.box), *mine[2:]),  # opens, and was committed to in another split
        (mine[0], replace(share, signature=bytes(64)), *mine[2:]),
        (mine[0], replace(share, statement=resigned, signature=signature), *mine[2:]),  # no commitment in its place
    ):
        assert not key_shares.is_mine(member, given, box, key)


@pytest.mark.parametrize(("threshold", "points"), [(0, (1, 2)), (3, (1, 2)), (2, (1, 1)), (1, (0, 1)), (1, (-1,))])
def test_a_sharing_that_would_give_the_secret_itself_is_not_made(threshold: int, points: tuple[int, ...]) -> None:
    """At point 0 the share is the secret; with two shares at one point the others are too few."""
    with pytest.raises(ValueError, match="no sharing"):
        shamir.split(secret("s"), threshold, points, secret("r"))


# The grid.


@pytest.mark.parametrize(("encoding", "what"), [
    (FixedPoint(1, 0, 32), "no such encoding"), (FixedPoint(33, 0, 32), "no such encoding"),
    (FixedPoint(53, 0, 64), "no such encoding"), (FixedPoint(24, 16, 48), "no such encoding"),
    (FixedPoint(24, -1, 32), "fraction bits"), (FixedPoint(24, 40, 32), "fraction bits"),
])  # fmt: skip
def test_an_encoding_that_this_code_does_not_carry_is_refused(encoding: FixedPoint, what: str) -> None:
    for good in (FixedPoint(2, 0, 32), FixedPoint(32, 47, 32), FixedPoint(52, 67, 64), FixedPoint(24, 39, 32)):
        fixed_point.check_encoding(good, 1)
    with pytest.raises(Unsafe, match=what):
        fixed_point.check_encoding(encoding, 1)
