"""A document that is refused has a rule's name, and leaves every file of the home as it was."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml

from securefl import key_files, keys
from securefl.coordinator import inviting, run
from securefl.documents import coordinator_file, introduction, site_file
from securefl.documents.introduction import NotIntroduced, Rule, from_own_hand
from securefl.errors import OperatorFault
from securefl.home import adoption, introduced, notices, rotation
from securefl.home.clock import clock
from securefl.policy import approvals
from securefl.site import build, joining
from securefl.terms import Hash, PublicKey
from tests.support.apart import Apart, everything

DAYS = 30


@pytest.fixture
def apart(small, tmp_path, capsys) -> Apart:
    made = Apart(small, tmp_path, capsys)
    made.found()
    return made


class World:
    """Everybody's documents and homes, as library calls: what a command does once a fingerprint was compared."""

    def __init__(self, apart: Apart) -> None:
        self.apart = apart
        self.coordinator = coordinator_file.load(apart.document("coordinator"))
        self.sites = {name: site_file.load(apart.document(name)) for name in apart.parties}
        self.invitation = inviting.invite(self.coordinator, DAYS)
        self.identities = {name: key_files.load(site.home / "identity.key") for name, site in self.sites.items()}
        self.identities["coordinator"] = key_files.load(self.coordinator.home / "identity.key")

    def answer(self, name: str):
        return joining.answer(self.sites[name], from_own_hand(self.invitation), DAYS)

    def admit(self, made) -> None:
        inviting.admit(self.coordinator, from_own_hand(made))

    def roster(self):
        for name in self.sites:
            self.admit(self.answer(name))
        return inviting.roster(self.coordinator, DAYS)

    def signed(self, name: str, document):
        return introduction.sign(self.identities[name], document)

    def refused(self, name: str, act) -> NotIntroduced:
        """What is refused; nothing that the party has is another than before."""
        home = self.apart.of(name)
        before = everything(home)
        with pytest.raises(NotIntroduced) as fault:
            act()
        assert everything(home) == before
        return fault.value


@pytest.fixture
def world(apart: Apart) -> World:
    return World(apart)


def changed(made, **changes):
    return replace(made.document, card=replace(made.document.card, **changes))


def test_an_invitation_that_does_not_hold_together_is_refused_by_its_rule(world: World) -> None:
    site, held = world.sites["north"], world.invitation
    other_policy = replace(held.document, policy=held.document.policy.replace(b"version: 1", b"version: 2"))
    renamed = held.document.policy.replace(b"federation: small", b"federation: large")
    from securefl.policy import load as policies

    large = replace(changed(held, policy=policies.parse(renamed, "policy").hash), policy=renamed)
    other_model = replace(held.document, offer=held.document.offer.replace(b"./model", b"./another"))
    for document, rule in ((other_policy, Rule.POLICY), (large, Rule.FEDERATION), (other_model, Rule.OFFER)):
        made = world.signed("coordinator", document)
        fault = world.refused("north", lambda made=made: joining.answer(site, from_own_hand(made), DAYS))
        assert fault.rule is rule, fault


def test_what_nobody_named_revoked_is_not_kept_and_no_later_policy_waits_for_it(world: World, tmp_path: Path) -> None:
    """An invitation with forged revocations in it, again and again: none is kept, whether it is refused or taken."""
    site, held = world.sites["north"], world.invitation
    policy, _ = introduced.policy_of(held.document, clock(), unsafe_unsigned=True)
    forged = tuple(
        approvals.Signature(
            approvals.Statement(
                approvals.Kind.REVOCATION,
                policy.hash,
                policy.federation,
                policy.version,
                PublicKey(bytes([at] * 32)),
                1,
                1,
            ),
            bytes(64),
        )
        for at in range(200)
    )
    signed = approvals.decode(held.document.approvals, "approvals")
    with_them = replace(held.document, approvals=approvals.encode((*signed, *forged)))
    with_them_and_wrong = replace(with_them, offer=with_them.offer.replace(b"./model", b"./another"))
    made = world.signed("coordinator", with_them_and_wrong)
    world.refused("north", lambda: joining.answer(site, from_own_hand(made), DAYS))
    joining.answer(site, from_own_hand(world.signed("coordinator", with_them)), DAYS)
    assert list((site.home / adoption.REVOKED).glob("*")) == []


def test_a_second_coordinator_of_a_federation_is_refused(world: World) -> None:
    world.answer("north")
    mallory = keys.Identity(keys.Secret(b"m" * 32))
    made = introduction.sign(mallory, changed(world.invitation, key=mallory.public))
    fault = world.refused("north", lambda: joining.answer(world.sites["north"], from_own_hand(made), DAYS))
    assert fault.rule is Rule.KEY


def test_the_same_invitation_again_is_answered_in_the_same_words(world: World) -> None:
    first = world.answer("north")
    before = everything(world.apart.of("north"))
    assert world.answer("north") == first
    assert everything(world.apart.of("north")) == before


def test_an_answer_says_what_the_site_says_now(world: World) -> None:
    before = world.answer("north")
    world.sites["north"] = rewritten(world.apart.document("north"), "region", "elsewhere", site_file.load)
    after = world.answer("north")
    assert (before.document.card.region, after.document.card.region) != ("elsewhere", before.document.card.region)
    assert after.document.card.region == "elsewhere"
    assert world.answer("north") == after


@pytest.mark.parametrize(("field", "value", "rule"), [("key", "ab" * 32, Rule.KEY), ("region", "there", Rule.OFFER)])
def test_a_coordinators_document_is_not_overruled_by_an_answer_it_admitted(
    world: World, field: str, value: str, rule: Rule
) -> None:
    world.roster()
    path = world.apart.document("coordinator")
    written = yaml.safe_load(path.read_text())
    assert run.everyone(world.coordinator, inviting.opened(world.coordinator))
    written["members"]["north"] = (written["members"]["north"] or {}) | {field: value}
    path.write_text(yaml.safe_dump(written, sort_keys=False))
    changed_ = coordinator_file.load(path)
    with pytest.raises(NotIntroduced) as fault:
        run.everyone(changed_, inviting.opened(changed_))
    assert fault.value.rule is rule


def test_a_document_may_name_the_key_that_a_partys_own_was_handed_over_to(world: World) -> None:
    world.roster()
    home = build.opened(world.sites["north"])
    (notice,) = rotation.rotate(home, 3600)
    centre = inviting.opened(world.coordinator)
    new = home.identity.public.hex()
    path = world.apart.document("coordinator")
    written = yaml.safe_load(path.read_text())
    written["members"]["north"] = (written["members"]["north"] or {}) | {"key": new}
    path.write_text(yaml.safe_dump(written, sort_keys=False))
    changed_ = coordinator_file.load(path)
    with pytest.raises(NotIntroduced) as fault:  # nobody handed anything over, as far as this coordinator knows
        run.everyone(changed_, centre)
    assert fault.value.rule is Rule.KEY
    notices.take(centre, changed_.file.name, notice)
    members = {seat.member: seat.key.hex() for seat in run.everyone(changed_, centre).members}
    assert members["north"] == new


def rewritten(path: Path, field: str, value: str, load):
    written = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(written | {field: value}, sort_keys=False))
    return load(path)


def test_answers_that_a_coordinator_refuses(world: World) -> None:
    north, south = world.answer("north"), world.answer("south")
    world.admit(north)
    cases = {
        Rule.STRANGER: world.signed("south", changed(south, name="east")),
        Rule.FEDERATION: world.signed("south", changed(south, federation="large")),
        Rule.POLICY: world.signed("south", changed(south, policy=Hash(bytes(32)))),
        Rule.INVITATION: world.signed("south", replace(south.document, invitation=Hash(bytes(32)))),
    }
    for rule, made in cases.items():
        fault = world.refused("coordinator", lambda made=made: world.admit(made))
        assert fault.rule is rule, fault
    mallory = keys.Identity(keys.Secret(b"m" * 32))
    another_key = introduction.sign(mallory, changed(north, key=mallory.public))
    assert world.refused("coordinator", lambda: world.admit(another_key)).rule is Rule.KEY
    anothers_name = world.signed("north", changed(north, name="south"))
    assert world.refused("coordinator", lambda: world.admit(anothers_name)).rule is Rule.DOUBLED
    older = world.signed("north", changed(north, issued=north.document.card.issued - 1))
    assert world.refused("coordinator", lambda: world.admit(older)).rule is Rule.DOUBLED
    before = everything(world.apart.of("coordinator"))
    world.admit(north)  # the same again changes nothing
    assert everything(world.apart.of("coordinator")) == before


def test_rosters_that_a_member_refuses(world: World) -> None:
    honest = world.roster()
    site = world.sites["north"]
    mallory = keys.Identity(keys.Secret(b"m" * 32))
    mine = [each for each in introduction.answers_of(honest)]
    without = tuple(each.encoded for each in mine if each.document.card.name != "north")
    mimic = introduction.sign(mallory, changed(mine[0], key=mallory.public, box=keys.public_half(mallory.box)))
    assert mine[0].document.card.name == "north"
    cases = {
        "under another key": (introduction.sign(mallory, changed(honest, key=mallory.public)), Rule.KEY),
        "under another policy": (world.signed("coordinator", changed(honest, policy=Hash(bytes(32)))), Rule.POLICY),
        "of another invitation": (
            world.signed("coordinator", replace(honest.document, invitation=Hash(bytes(32)))), Rule.INVITATION,
        ),
        "without one's own answer": (world.signed("coordinator", replace(honest.document, answers=without)), Rule.OWN),
        "with another in one's name": (
            world.signed("coordinator", replace(honest.document, answers=(mimic.encoded, *without))), Rule.OWN,
        ),
        "of one member alone": (
            world.signed("coordinator", replace(honest.document, answers=(mine[0].encoded,))), Rule.OFFER,
        ),
        "of another federation": (world.signed("coordinator", changed(honest, federation="large")), Rule.INVITATION),
    }  # fmt: skip
    for name, (made, rule) in cases.items():
        fault = world.refused("north", lambda made=made: joining.complete(site, from_own_hand(made)))
        assert fault.rule is rule, (name, fault)
    assert {seat.member for seat in joining.complete(site, from_own_hand(honest)).members} == {"north", "south", "west"}


def test_a_member_whose_key_changed_since_is_refused(world: World) -> None:
    honest = world.roster()
    joining.complete(world.sites["north"], from_own_hand(honest))
    mallory = keys.Identity(keys.Secret(b"m" * 32))
    answers = introduction.answers_of(honest)
    mimic = introduction.sign(mallory, changed(answers[1], key=mallory.public, box=keys.public_half(mallory.box)))
    swapped = (answers[0].encoded, mimic.encoded, answers[2].encoded)
    made = world.signed("coordinator", replace(honest.document, answers=swapped))
    fault = world.refused("north", lambda: joining.complete(world.sites["north"], from_own_hand(made)))
    assert fault.rule is Rule.KEY


def test_a_wrong_fingerprint_leaves_everything_as_it_was(apart: Apart) -> None:
    invitation = apart.invited()
    wrong = "AAAA-AAAA-AAAA-AAAA-AAAA"
    before = everything(apart.of("north"))
    code, said = apart.asked(
        "one", "site", "join", apart.document("north"), apart.sent("coordinator", "invitation"), "--fingerprint", wrong
    )
    assert (code, Rule.FINGERPRINT.value in said, everything(apart.of("north"))) == (4, True, before)
    assert not list(apart.folder.rglob("*answer"))
    answer = apart.answered("north", invitation["fingerprint"])
    before = everything(apart.of("coordinator"))
    code, said = apart.asked(
        "one", "site", "join", apart.document("coordinator"), apart.sent("north", "answer"), "--fingerprint", wrong
    )
    assert (code, Rule.FINGERPRINT.value in said, everything(apart.of("coordinator"))) == (4, True, before)
    assert apart.admitted("north", answer["fingerprint"])["name"] == "north"


def test_a_fingerprint_is_asked_for_where_none_is_given(apart: Apart, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    invitation = apart.invited()
    command = ("site", "join", apart.document("north"), apart.sent("coordinator", "invitation"))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))  # nobody types
    code, said = apart.asked("one", *command)
    assert code == 4
    assert invitation["fingerprint"] not in said
    assert "poisson" in said or "model" in said  # what is joined is shown first
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{invitation['fingerprint'].lower()}\n"))
    code, said = apart.asked("one", *command)
    assert code == 0, said
    assert Path(apart.of("north") / "small.north.answer").exists()


def test_a_policy_without_its_signatures_is_not_joined(apart: Apart) -> None:
    (apart.of("coordinator") / "policy.approvals.json").unlink()
    made = apart.told(
        "one",
        "site",
        "invite",
        apart.document("coordinator"),
        "--unsafe-unsigned",
        "--out",
        apart.sent("coordinator", "unsigned"),
    )
    before = everything(apart.of("north"))
    command = (
        "site",
        "join",
        apart.document("north"),
        apart.sent("coordinator", "unsigned"),
        "--fingerprint",
        made["fingerprint"],
    )
    code, said = apart.asked("one", *command)
    assert (code, "is not signed" in said, everything(apart.of("north"))) == (3, True, before)
    code, said = apart.asked("one", *command, "--unsafe-unsigned")
    assert code == 0, said


def test_a_roster_waits_for_everybody(apart: Apart) -> None:
    invitation = apart.invited()
    apart.admitted("north", apart.answered("north", invitation["fingerprint"])["fingerprint"])
    code, said = apart.asked("one", "site", "roster", apart.document("coordinator"))
    assert code == 2
    assert "no answer of south, west" in said


def test_whoever_was_admitted_stays_so_when_its_answers_time_is_over(world: World) -> None:
    for name in world.sites:
        world.admit(world.answer(name))
    for days, handed_out in ((0, True), (29, True), (31, False)):
        later = partial(_days_from_now, days)
        found = inviting.known(world.coordinator, inviting.opened(world.coordinator, later))
        assert found.missing == ()
        if not handed_out:
            with pytest.raises(OperatorFault, match="still counts"):
                inviting.roster(world.coordinator, 30, later)


def test_a_roster_stands_although_the_invitation_and_the_answers_in_it_have_run_out(small, tmp_path, capsys) -> None:
    apart = Apart(small, tmp_path, capsys, "ckks")
    apart.found()
    world = World(apart)
    for name, site in world.sites.items():
        world.admit(joining.answer(site, from_own_hand(world.invitation), 90))
    made = inviting.roster(world.coordinator, 365, partial(_days_from_now, 31))
    assert inviting.roster(world.coordinator, 365, partial(_days_from_now, 32)) == made
    for name, site in world.sites.items():
        joined = joining.complete(site, from_own_hand(made), partial(_days_from_now, 100))
        assert {seat.member for seat in joined.members} == {"north", "south", "west"}, name
    for days in (100, 390, 4000):
        home = build.opened(world.sites["custodian"], partial(_days_from_now, days))
        boxes = introduced.boxes(home, "small")
        assert boxes == {name: keys.public_half(world.identities[name].box) for name in apart.members}
    with pytest.raises(OperatorFault, match="no answer of custodian, north, south, west .* still counts"):
        inviting.roster(world.coordinator, 365, partial(_days_from_now, 91))


def test_an_answer_that_had_run_out_when_the_roster_was_signed_is_refused(world: World) -> None:
    honest = world.roster()
    late = world.signed("coordinator", changed(honest, issued=honest.document.card.issued + 31 * 86_400))
    fault = world.refused(
        "north", lambda: joining.complete(world.sites["north"], from_own_hand(late), partial(_days_from_now, 31))
    )
    assert fault.rule is Rule.EXPIRED


def _days_from_now(days: int) -> int:
    return clock() + days * 86_400


def test_every_rule_has_a_case_here_or_beside_this_file() -> None:
    texts = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [each.name for each in Rule if f"Rule.{each.name}" not in texts] == []
