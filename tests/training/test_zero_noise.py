"""Training without noise, tried at every door: each try is refused, by the name of what is wrong."""

import copy
import math
import os
import re
from dataclasses import replace

import cbor2
import numpy as np
import pytest
import yaml

from securefl import keys, wire
from securefl.documents import federation_file, strict
from securefl.errors import Fault, Malformed, OperatorFault
from securefl.policy import load
from securefl.policy.decide import explain
from securefl.policy.plan_document import draft
from securefl.privacy.account import Account, AccountFault
from securefl.privacy.accountant import epsilon_pld
from securefl.privacy.calibration import calibrate
from securefl.protocol import member, member_state
from securefl.seams import Own
from securefl.terms import Hash, MessageSent, PoissonGaussian, Refused, Reserved, Settled, Unbounded, Update
from securefl.training.admission import Mismatch
from securefl.training.noise import ClippedSum, NoisedSum, noised
from securefl.training.trainer import LoraTrainer
from tests.policy.test_policy_decide import question
from tests.policy.test_policy_oracle import PLAN, POLICY, changed
from tests.privacy.test_privacy_account import a_plan, reserved
from tests.support.tiny_models import UNREAD, F, plan, shared
from tests.support.worlds import EVENT as EVENT_OF_WORLD
from tests.support.worlds import World, an_update

EVENT = PoissonGaussian(F(1, 2), F(1), 3)


# 1. The federation's file.


def written(**training) -> bytes:
    from tests.support.small import FEDERATION

    document = copy.deepcopy(FEDERATION)
    document["training"].update(training)
    document["training"] = {name: value for name, value in document["training"].items() if value != "ABSENT"}
    text = yaml.safe_dump(document)
    return re.sub("BARE ", "", text).encode()


IN_THE_FILE = {
    "missing": ({"noise_multiplier": "ABSENT"}, "training: found a mapping; give either noise_multiplier or epsilon"),
    "misspelled": ({"noise_multiplier": "ABSENT", "noise_multipler": 1}, "unknown key; did you mean `noise_multiplier`?"),
    "called sigma": ({"noise_multiplier": "ABSENT", "sigma": 1}, "training.sigma: unknown key"),
    "null": ({"noise_multiplier": None}, "give either noise_multiplier or epsilon"),
    "zero": ({"noise_multiplier": 0}, "noise_multiplier is above 0"),
    "zero as a decimal": ({"noise_multiplier": "BARE 0.0"}, "noise_multiplier is above 0"),
    "zero as a fraction": ({"noise_multiplier": "0/7"}, "noise_multiplier is above 0"),
    "minus zero": ({"noise_multiplier": "BARE -0.0"}, "noise_multiplier is above 0"),
    "negative": ({"noise_multiplier": -1}, "noise_multiplier is above 0"),
    "not a number": ({"noise_multiplier": math.nan}, "no number"),
    "infinite": ({"noise_multiplier": math.inf}, "no number"),
    "infinite by its exponent": ({"noise_multiplier": "BARE 1e9999"}, "too large"),
    "zero by its exponent": ({"noise_multiplier": "BARE 1e-9999"}, "too close to 0"),
    "text": ({"noise_multiplier": "1.0"}, "training.noise_multiplier: found '1.0'; a number"),
    "a word": ({"noise_multiplier": "none"}, "training.noise_multiplier: found 'none'; a number"),
    "true": ({"noise_multiplier": True}, "training.noise_multiplier: found true; a number"),
    "false": ({"noise_multiplier": False}, "training.noise_multiplier: found false; a number"),
    "a list": ({"noise_multiplier": [1]}, "training.noise_multiplier: found a list; a number"),
    "divided by zero": ({"noise_multiplier": "1/0"}, "training.noise_multiplier: found '1/0'; a number"),
    "epsilon beside it": ({"epsilon": 8}, "give either noise_multiplier or epsilon"),
    "an epsilon without end": ({"noise_multiplier": "ABSENT", "epsilon": math.inf}, "no number"),
    "no epsilon": ({"noise_multiplier": "ABSENT", "epsilon": 0}, "epsilon is above 0"),
    "switched off": ({"private": False}, "training.private: unknown key"),
}  # fmt: skip


@pytest.mark.parametrize(("training", "told"), IN_THE_FILE.values(), ids=IN_THE_FILE)
def test_a_federations_file_without_noise_is_refused(tmp_path, training, told):
    path = tmp_path / "federation.yaml"
    path.write_bytes(written(**training))
    with pytest.raises(OperatorFault) as caught:
        federation_file.load(path)
    assert told in str(caught.value)


def test_the_file_is_read_when_it_has_noise(tmp_path):
    (tmp_path / "federation.yaml").write_bytes(written())
    assert federation_file.load(tmp_path / "federation.yaml").file.training.noise_multiplier == F(4, 5)


# 2. A plan that a person writes, and the policy.

IN_A_PLAN = {
    "zero": (0, "found 0; it should be greater than 0"),
    "negative": (-1, "found -1; it should be greater than 0"),
    "null": (None, "found nothing; a number"),
    "text": ("one", "found 'one'; a number"),
    "true": (True, "found true; a number"),
    "not a number": (math.nan, "no number"),
    "infinite": (math.inf, "no number"),
}


@pytest.mark.parametrize(("noise", "told"), IN_A_PLAN.values(), ids=IN_A_PLAN)
def test_a_plan_without_noise_is_refused(noise, told):
    with pytest.raises(OperatorFault) as caught:
        draft(strict.parse(yaml.safe_dump(changed(PLAN, {"noise_multiplier": noise})).encode(), "plan.yaml"), Hash(b""))
    assert told in str(caught.value)


def test_a_plan_that_does_not_speak_of_noise_is_refused():
    absent = {name: value for name, value in PLAN.items() if name != "noise_multiplier"}
    with pytest.raises(OperatorFault, match="noise_multiplier: missing"):
        draft(strict.parse(yaml.safe_dump(absent).encode(), "plan.yaml"), Hash(b""))


IN_A_POLICY = {
    "zero": ({"at_least": 0}, "found 0"),
    "negative": ({"at_least": -1}, "found -1"),
    "null": (None, "found nothing"),
    "missing": ({}, "at_least: missing"),
    "misspelled": ({"atleast": 1}, "did you mean `at_least`?"),
    "not a number": ({"at_least": math.nan}, "no number"),
    "a number alone": (1, "training.noise_multiplier: found 1"),
}


@pytest.mark.parametrize(("limit", "told"), IN_A_POLICY.values(), ids=IN_A_POLICY)
def test_a_policy_that_asks_for_no_noise_is_refused(limit, told):
    with pytest.raises(OperatorFault) as caught:
        load.parse(yaml.safe_dump(changed(POLICY, {"training.noise_multiplier": limit})).encode(), "policy.yaml")
    assert told in str(caught.value)


@pytest.mark.parametrize(("noise", "also"), [("1/1000000000", {"protection.fresh"}), ("49/100", set())])
def test_noise_below_the_policys_is_refused_by_name_and_below_the_grid_by_that_name_too(noise, also):
    asked = question(plan=changed(PLAN, {"noise_multiplier": noise}))
    assert asked.rules() == {"training.noise_multiplier"} | also
    fix = next(c for c in explain(asked.policy, asked.plan, asked.account, asked.price, asked.now) if not c.held).fix
    assert fix == "raise noise_multiplier to 0.5"


# 3. The event itself, on the wire and in memory.

NO_NOISE = {
    "zero": F(0), "negative": F(-1), "next to nothing": F(1, 10**400), "more than any float": F(10**400), "None": None, "not a number": math.nan,
    "infinite": math.inf, "a float": 1.0, "a float of zero": 0.0, "text": "1", "true": True, "false": False, "a whole number": 1, "a list": [1],
}  # fmt: skip


@pytest.mark.parametrize("noise", NO_NOISE.values(), ids=NO_NOISE)
def test_an_event_without_noise_cannot_be_made(noise):
    with pytest.raises(ValueError, match="noise_multiplier="):
        PoissonGaussian(F(1, 2), noise, 3)
    with pytest.raises(ValueError, match="noise_multiplier="):
        replace(EVENT, noise_multiplier=noise)


def test_an_event_without_a_word_about_noise_cannot_be_made():
    with pytest.raises(TypeError, match="noise_multiplier"):
        PoissonGaussian(sampling_rate=F(1, 2), steps=3)
    with pytest.raises(TypeError, match="noise_multipler"):
        PoissonGaussian(sampling_rate=F(1, 2), noise_multipler=F(1), steps=3)


def test_an_event_is_not_changed_by_assignment():
    with pytest.raises(AttributeError, match="noise_multiplier"):
        EVENT.noise_multiplier = F(0)


ON_THE_WIRE = {
    "zero": [0, 1], "negative": [-1, 1], "next to nothing": [1, 10**400], "divided by zero": [1, 0], "None": None, "a float": 1.0, "not a number": math.nan,
    "infinite": math.inf, "text": "1", "true": True, "a whole number": 1, "half of one": [1], "true of one": [True, 1],
}  # fmt: skip


@pytest.mark.parametrize("noise", ON_THE_WIRE.values(), ids=ON_THE_WIRE)
@pytest.mark.parametrize("whole", ["event", "plan", "reservation", "settlement"])
def test_bytes_that_say_no_noise_are_no_event_plan_or_entry(whole, noise):
    made = a_plan(1, EVENT)
    value = {
        "event": EVENT,
        "plan": made,
        "reservation": reserved(made),
        "settlement": Settled(wire.plan_hash(made), EVENT),
    }[whole]
    good = wire.encode(value)
    assert wire.decode(good, type(value)) == value

    def spoiled(part):
        if isinstance(part, list) and part and part[0] == "PoissonGaussian":
            return ["PoissonGaussian", part[1], noise, part[3]]
        if isinstance(part, list):
            return [spoiled(item) for item in part]
        return {key: spoiled(item) for key, item in part.items()} if isinstance(part, dict) else part

    bad = cbor2.dumps(spoiled(cbor2.loads(good)), canonical=True)
    assert bad != good
    with pytest.raises(Malformed, match=f"not a {type(value).__name__}"):
        wire.decode(bad, type(value))


@pytest.mark.parametrize("fields", [2, 4])
def test_bytes_with_a_field_too_few_or_too_many_are_no_event(fields):
    raw = ["PoissonGaussian", [1, 2], [1, 1], 3, 0][: fields + 1]
    with pytest.raises(Malformed):
        wire.decode(cbor2.dumps(raw, canonical=True), PoissonGaussian)


# 4. The trainer.


@pytest.fixture(scope="module")
def of(tmp_path_factory):
    return shared("bert", tmp_path_factory.mktemp("bert"))


def forced(event: PoissonGaussian, noise) -> PoissonGaussian:
    """An event that somebody changed in memory, past everything that guards it."""
    made = copy.copy(event)
    object.__setattr__(made, "noise_multiplier", noise)
    return made


@pytest.mark.parametrize("noise", NO_NOISE.values(), ids=NO_NOISE)
def test_an_event_that_was_changed_in_memory_is_not_trained_and_no_record_is_read(of, noise):
    asked = plan(of)
    asked = replace(asked, learning=replace(asked.learning, event=forced(asked.learning.event, noise)))
    trainer = LoraTrainer(of, UNREAD, os.urandom)
    with pytest.raises(Mismatch, match="the plan has no event that noise can be drawn for: noise_multiplier="):
        trainer.admit(asked, of.initial())
    with pytest.raises(Mismatch):
        trainer.train(asked, of.initial(), Own())


@pytest.mark.parametrize("noise", [F(0), F(-1), 0.0, math.nan], ids=str)
def test_no_sum_is_given_without_noise_even_when_nobody_asked_before(noise):
    with pytest.raises((ValueError, TypeError)):
        noised(ClippedSum(np.zeros(3), F(1)), forced(EVENT, noise), os.urandom)


@pytest.mark.parametrize("clip", [F(0), F(-1), F(1, 10**400)])
def test_noise_as_large_as_a_clip_of_nothing_is_no_noise(of, clip):
    with pytest.raises(ValueError, match="no sum is given without noise"):
        noised(ClippedSum(np.zeros(3), clip), EVENT, os.urandom)
    asked = plan(of)
    with pytest.raises(Fault):
        of.admit(replace(asked, learning=replace(asked.learning, clip_l2=clip)))


@pytest.mark.parametrize("handed", [np.zeros(3), NoisedSum(np.zeros(3)), [0.0]], ids=["array", "noised", "list"])
def test_what_was_not_clipped_is_not_noised(handed):
    with pytest.raises(TypeError, match="only a ClippedSum can be noised"):
        noised(handed, EVENT, os.urandom)


# 5. What trains is what was priced.


def test_an_update_of_less_noise_than_the_plan_says_does_not_leave():
    class Quieter(World):
        def perform(self, party, effect):
            if isinstance(effect, member_state.Train) and party.name == "a":
                event = effect.plan.learning.event
                did = replace(event, noise_multiplier=event.noise_multiplier / 2)
                values = an_update(party.name, effect.plan.round, self.dimension)
                trained = member_state.Trained(Update(values, did), keys.Secret(self.rand(32)))
                return member.step(party.state, trained, self.member_plugs(party.name))
            return super().perform(party, effect)

    world = Quieter(rounds=1)
    end = world.play()
    assert np.array_equal(world.reached(end), world.expected(("b", "c", "d")))
    entries = world.parties["a"].entries
    refusals = [entry for entry in entries if isinstance(entry, Refused)]
    assert [reason.rule for refusal in refusals for reason in refusal.reasons] == ["training.unfinished"]
    (reserved_,), (settled,) = ([e for e in entries if isinstance(e, kind)] for kind in (Reserved, Settled))
    assert settled.did == replace(EVENT_OF_WORLD, noise_multiplier=EVENT_OF_WORLD.noise_multiplier / 2), "the larger"
    assert reserved_.plan.learning.event == EVENT_OF_WORLD
    assert not any(isinstance(entry, MessageSent) and entry.receipt.kind == "Submitted" for entry in entries)


def test_a_settlement_of_what_costs_less_than_was_reserved_is_no_account_and_of_more_it_is_charged():
    made = a_plan(1, EVENT)
    for cheaper in ({"noise_multiplier": EVENT.noise_multiplier * 2}, {"sampling_rate": EVENT.sampling_rate / 2}):
        with pytest.raises(AccountFault, match="may cost less than"):
            Account.of([reserved(made), Settled(wire.plan_hash(made), replace(EVENT, **cheaper))])
    more = replace(EVENT, noise_multiplier=EVENT.noise_multiplier / 2, steps=EVENT.steps + 1)
    account = Account.of([reserved(made), Settled(wire.plan_hash(made), more)])
    assert [charge.event for charge in account.charges] == [more]


def test_a_plan_with_less_noise_has_another_name_so_no_grant_is_for_it():
    asked = question()
    less = replace(asked.plan.learning.event, noise_multiplier=F(6, 10))
    other = replace(asked.plan, learning=replace(asked.plan.learning, event=less))
    assert wire.plan_hash(other) != wire.plan_hash(asked.plan)
    assert replace(asked, plan=other).rules() == {"budget.price"}


def test_what_costs_without_end_has_no_price():
    with pytest.raises((Unbounded, OverflowError, ValueError, ZeroDivisionError)):
        epsilon_pld((forced(EVENT, F(0)),), 1e-5)
    with pytest.raises(Unbounded):
        calibrate(math.inf, 1e-5, F(1, 2), 3)
