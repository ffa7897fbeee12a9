"""FewFedWeight-style training: pseudo labels of the broadcast model, trusted by public measure, and own models at home."""

from __future__ import annotations

import math
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl.errors import PeerFault
from securefl.seams import Own
from securefl.strategy.adapter_state import moved
from securefl.strategy.member import MemberStrategy
from securefl.terms import CrossEntropy, Hash, PseudoLabels, Scorer, Sharing, Weighting
from securefl.terms.records import Record
from securefl.training import adapter_tensors, pseudo_labels, step
from securefl.training.losses import losses_of
from securefl.training.noise import repeatable
from securefl.training.trainer import LoraTrainer
from securefl.wire import digest
from tests.support.small import Small
from tests.support.tiny_models import UNREAD, F, plan, shared

RECORDS = tuple(
    Record(text, i % 3)
    for i, text in enumerate(
        ("late again", "ok", "you lost my bag, and then you lost it once more", "thanks!", "zzz", "fine. fine. fine.")
    )
)
EACH = [PseudoLabels(F(1, 2), scorer, F(2), F(1, 2), 2) for scorer in Scorer]
NAMES = [each.scorer for each in EACH]


@pytest.fixture(scope="module")
def of(tmp_path_factory):
    return shared("bert", tmp_path_factory.mktemp("bert"))


def some(of, seed=0) -> bytes:
    return np.random.default_rng(seed).normal(0, 0.5, of.dimension).astype("<f4").tobytes()


def asked(of, loss, **changes):
    made = plan(of)
    return replace(made, round=2, learning=replace(made.learning, loss=loss), **changes)


def gradients(of, loss, records) -> torch.Tensor:
    """Every record's gradient of its joint loss, from own model 1 under broadcast model 0: (records, dimension)."""
    encoded = targets(of, loss, records)
    adapter_tensors.load(of._built, some(of, 1))
    found = torch.zeros(len(records), of.dimension)
    for part in step.micro_batches(encoded, range(len(records)), 32):
        made = step.per_record_gradients(of._wrapped, of._built.parameters, encoded.filled(part), losses_of(loss, 2))
        found[part] = torch.cat([each.flatten(1) for each in made], dim=1)[: len(part)]
    return found


def targets(of, loss, records) -> step.Encoded:
    rule = asked(of, loss)
    return of._targets(rule, some(of), records, of.shapes(rule, some(of), some(of, 1)))


@pytest.mark.parametrize("loss", EACH, ids=NAMES)
def test_a_records_gradient_is_the_same_whatever_other_records_there_are(of, loss) -> None:
    together = gradients(of, loss, RECORDS)
    for number, record in enumerate(RECORDS):
        for others in ((), (Record("nobody answers, ever, and I mean it", 0),), RECORDS[:number]):
            alone = gradients(of, loss, (*others, record))[-1]
            assert torch.equal(alone, together[number])


@pytest.mark.parametrize("loss", EACH, ids=NAMES)
def test_one_record_with_both_its_labels_moves_the_sum_by_at_most_the_clip(of, loss) -> None:
    def summed(records, clip):
        encoded = targets(of, loss, records)
        adapter_tensors.load(of._built, some(of, 1))
        losses = losses_of(loss, 2)
        every = range(len(records))
        return step.clipped_sum(of._wrapped, of._built.parameters, encoded, every, 4, clip, losses=losses).values

    for clip in (F(1, 1000), F(1, 10)):
        whole = summed(RECORDS, clip)
        for left_out in RECORDS:
            without = summed(tuple(each for each in RECORDS if each is not left_out), clip)
            assert np.linalg.norm(whole - without) <= float(clip)


@given(st.integers(0, 2**32 - 1), st.sampled_from(EACH), st.integers(2, 5))
@settings(deadline=None)
def test_a_pseudo_label_and_its_weight_are_of_the_records_own_logits_and_public_ones(seed, loss, labels) -> None:
    torch.manual_seed(seed)
    logits, public = 4 * torch.randn(6, labels, dtype=torch.float64), torch.randn(7, labels, dtype=torch.float64)
    together = pseudo_labels.answers(loss, 2, logits, public)
    alone = torch.cat([pseudo_labels.answers(loss, 2, logits[i : i + 1], public) for i in range(6)])
    assert torch.equal(together, alone)
    assert torch.equal(together[:, 0].long(), logits.argmax(1))
    assert bool(((together[:, 1] >= 0) & (together[:, 1] <= 1)).all())


def test_energy_is_minus_t_times_the_logarithm_of_the_partition_sum() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]], dtype=torch.float64)
    for t in (0.5, 1.0, 3.0):
        expected = [-t * math.log(sum(math.exp(z / t) for z in row)) for row in logits.tolist()]
        assert pseudo_labels.unsure(Scorer.ENERGY, t, logits).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("scorer", [Scorer.ENERGY, Scorer.ENTROPY, Scorer.MARGIN])
def test_what_the_broadcast_is_surer_of_than_of_public_text_counts_more_than_half(scorer) -> None:
    loss, public = PseudoLabels(F(1), scorer, F(1), F(1, 4), 1), torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    sure, like, unsure = pseudo_labels.answers(loss, 1, torch.tensor([[4.0, 0.0], [2.0, 0.0], [0.5, 0.0]]), public)[
        :, 1
    ].tolist()
    assert sure > 0.5 > unsure
    assert like == pytest.approx(0.5)


def test_a_broadcast_that_prefers_nothing_or_comes_too_early_is_not_heard() -> None:
    loss, said, public = EACH[0], torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    assert float(pseudo_labels.answers(loss, 2, said, public)[0, 1]) == 0
    assert float(pseudo_labels.answers(loss, 2, said, public)[1, 1]) > 0.5
    assert not pseudo_labels.answers(loss, 1, said, public)[:, 1].any()
    for none in (torch.nan, torch.inf):
        assert float(pseudo_labels.answers(loss, 2, torch.full((1, 2), none), public)[0, 1]) == 0
    logits, label = torch.tensor([[0.3, -0.2]]), torch.tensor([[1.0, 0.0, 0.0]])
    alone = torch.nn.functional.cross_entropy(logits, torch.tensor([1]))
    assert float(losses_of(loss, 1)(logits, label)) == pytest.approx(float(alone))


@pytest.mark.parametrize(
    "wrong",
    [{"weight": F(0)}, {"weight": F(1001)}, {"temperature": F(0)}, {"width": F(0)}, {"width": F(1001)}, {"first": 0}],
)
def test_numbers_that_mean_nothing_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"is not in|no pseudo labels"):
        PseudoLabels(
            **{"weight": F(1), "scorer": Scorer.ENERGY, "temperature": F(1), "width": F(1), "first": 1, **wrong}
        )
    with pytest.raises(ValueError, match="renewal"):
        Weighting(F(1), F(1), renewal=F(0))


# At the member.


def test_a_member_keeps_its_own_model_and_its_own_weight(of) -> None:
    probe = (Record("so late", 0), Record("thanks a lot", 2))
    weighting = Weighting(F(1), F(2), renewal=F(1, 2), probe=digest("probe", probe))
    sharing = Sharing((weighting,), pull=F(0))
    trainer = LoraTrainer(of, held(), repeatable("rand"), half=MemberStrategy(of.layout), probe=probe)
    own = Own()
    before, first = 1.0, asked(of, EACH[0], sharing=sharing, dimension=of.layout.dimension(1, sharing))
    for round_, base in ((1, of.initial()), (2, some(of))):
        start = own.model or base  # nothing is pulled, so a round begins where its own model is
        update, own = trainer.train(replace(first, round=round_), base, own)
        sent = update.values
        hat = math.exp(min(max(of.probed(moved(base, start, own.model), probe), -2), 2) - 2)
        before = before / 2 + hat / 2
        assert sent[-1] == pytest.approx(before)
        change = np.frombuffer(own.model, "<f4").astype(float) - np.frombuffer(start, "<f4")
        assert np.allclose(sent[:-1], before * change)
        assert np.abs(change).max() > 0
        assert struct.unpack("<d", own.weights[32:]) == pytest.approx((before,))


def test_how_much_a_kept_model_agrees_with_a_chosen_broadcast_is_in_no_weight(of) -> None:
    """A round that hardly moves a model and hardly costs anything: its weight is that of the broadcast itself."""
    sharing = Sharing((Weighting(F(1, 5), F(1, 5)),), pull=F(0))
    first = asked(of, CrossEntropy(), sharing=sharing, dimension=of.layout.dimension(1, sharing))
    still = replace(first, learning=replace(first.learning, learning_rate=F(1, 2**20)))
    trainer, base = LoraTrainer(of, held(), repeatable("rand"), half=MemberStrategy(of.layout)), some(of, 5)
    kept = [some(of, n) for n in (6, 7)]
    assert abs(of.agreement(base, kept[0]) - of.agreement(base, kept[1])) > 1e-3
    for each in kept:
        update, _ = trainer.train(still, base, Own(each))
        assert update.values[-1] == pytest.approx(1, abs=1e-4)


def held():
    from securefl.training.data import Records

    return Records(RECORDS, ())


def test_another_probe_than_the_plans_is_refused_before_a_record_is_read(of) -> None:
    sharing = Sharing((Weighting(F(1), F(2), probe=Hash(bytes(32))),))
    trainer = LoraTrainer(of, UNREAD, repeatable("rand"), half=MemberStrategy(of.layout))
    with pytest.raises(PeerFault, match="another probe"):
        trainer.admit(
            asked(of, CrossEntropy(), sharing=sharing, dimension=of.layout.dimension(2, sharing)), of.initial()
        )


def test_a_member_without_a_probe_admits_none_that_the_plan_names(of) -> None:
    sharing = Sharing((Weighting(F(1), F(2), probe=digest("probe", ())),))
    trainer = LoraTrainer(of, UNREAD, repeatable("rand"), half=MemberStrategy(of.layout))
    with pytest.raises(PeerFault, match="another probe"):
        trainer.admit(
            asked(of, CrossEntropy(), sharing=sharing, dimension=of.layout.dimension(2, sharing)), of.initial()
        )


def test_weights_that_were_kept_for_another_number_of_sums_count_as_none(of) -> None:
    weighting = Weighting(F(1), F(2), renewal=F(1, 2))
    made = asked(of, CrossEntropy(), sharing=Sharing((weighting, weighting)))
    assert MemberStrategy(of.layout).weights(made, (0.0, 0.0), bytes(8)) == MemberStrategy(of.layout).weights(
        made, (0.0, 0.0), b""
    )


def test_a_report_shows_each_members_own_model_beside_the_broadcast(tmp_path) -> None:
    from securefl.simulation.measure import Baselines, table

    (tmp_path / "of").mkdir()
    strategy = {"pull": 0, "loss": {"kind": "pseudo-labels"}}
    small = Small(tmp_path / "of")
    file, arms = small.file(strategy=strategy), Baselines(local=True)
    result = small.run(tmp_path / "out", tmp_path / "sites", file, arms=arms, page=True)
    assert result.outcome == "finished", result.why
    assert all(0 <= each["heldout"]["broadcast"] <= 1 for each in result.report["members"])
    assert "broadcast" in table(result.report, tmp_path / "out")
    assert "<th>broadcast</th>" in (tmp_path / "out" / "report.html").read_text()
