"""What is frozen before the first trained tensor is computed once a record, and no bit of a training depends on it."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertLayer

from securefl.seams import Own
from securefl.terms import (
    Adapter,
    AdapterKind,
    AdapterRule,
    CrossEntropy,
    PoissonGaussian,
    Pooling,
    PseudoLabels,
    Scorer,
    Task,
)
from securefl.training import adapter_tensors, gradient_invariance, kept, step
from securefl.training.data import Records
from securefl.training.noise import repeatable
from securefl.training.shared_model import SharedModel
from securefl.training.trainer import LoraTrainer
from tests.support.tiny_models import TASK, F, adapter, plan, saved, tokenizer
from tests.training.test_training_model import records

PSEUDO = PseudoLabels(F(1), Scorer.ENTROPY, F(1), F(1), 1)
CASES = {
    "lora, taught": ("bert", replace(adapter("bert"), layers=1, rule=AdapterRule.ALTERNATING), {"loss": PSEUDO}),
    "bottleneck": ("gpt2", replace(adapter("gpt2"), kind=AdapterKind.BOTTLENECK, layers=1), {}),
    "head": ("llama", Adapter((), 1, 1, 1, AdapterKind.HEAD, layer=1, pooling=Pooling.LAST), {}),
    "language": ("bytes", Adapter(("query", "value"), 2, 4, 1, layers=1), {}),
}  # fmt: skip
SOME = records(24)
MOST = 16


def loaded(model: str, asked: Adapter, folder: Path) -> SharedModel:
    if model == "bytes":
        return SharedModel.load("bytes:2x32", folder, Task("language", ()), asked)
    return SharedModel.load(str(saved(model, folder)), folder, TASK, asked)


@pytest.fixture(scope="module", params=CASES, ids=lambda name: name.replace(", ", "-"))
def of(request, tmp_path_factory) -> tuple[SharedModel, dict]:
    model, asked, changes = CASES[request.param]
    return loaded(model, asked, tmp_path_factory.mktemp("model")), changes


def asked_for(of: SharedModel, round_: int = 1, **changes):
    made = plan(of, **{"max_tokens": MOST, **changes})
    return replace(made, round=round_, dimension=of.layout.dimension(round_))


def trained(
    of: SharedModel, changes: dict, room: kept.Room | None, round_: int = 1, of_what=SOME
) -> tuple[bytes, list[int]]:
    """The state after a private training, and how much randomness each draw of it took."""
    asked = asked_for(of, round_, **changes)
    drawn, rand = [], repeatable("training")
    start = kept.off_zero(of.initial())
    after, event = of.trained(asked, start, start, of_what, lambda size: drawn.append(size) or rand(size), room=room)
    assert event == asked.learning.event
    return after, drawn


def test_a_private_training_is_the_same_bits_and_draws_the_same_noise_whatever_is_kept(of, monkeypatch):
    of, changes = of
    for round_ in (2, 1) if of.adapter.rule is AdapterRule.ALTERNATING else (1,):
        with monkeypatch.context() as through_all:
            through_all.setattr(of, "stems", kept.Stems(None))
            through_all.setattr(of, "_shown", gradient_invariance.Shown())
            due = trained(of, changes, None, round_)
        assert trained(of, changes, None, round_) == due
        room = kept.Room()
        for each in (kept.Room(4000), room, room):
            assert trained(of, changes, each, round_) == due
            assert each.kept is not None and each.kept.bytes <= each.most
    encoded = of._records(of.distinct(SOME, MOST), MOST)
    assert room.kept.bytes == of.bytes_kept(SOME, MOST) and len(room.kept._found) == len(encoded.ids)


@given(st.permutations(range(12)), st.integers(0, 12), st.integers(0, 60_000), st.integers(0, 12))
@settings(max_examples=5, deadline=None)
def test_what_is_kept_of_a_record_is_its_own_whoever_else_is_there(of, order, others, room, ahead):
    of, _ = of
    of.shapes(asked_for(of), of.initial())
    of_all = of._records(SOME[:12], MOST)
    shapes = of.stems._shown[MOST]
    alone = [
        kept.Kept(of.stems.stem, replace(of_all, ids=(ids,), labels=(0,), shapes=shapes), 0).values([0])[0]
        for ids in of_all.ids
    ]
    mine = [order[0], *order[1 : 1 + others]]  # the first record is there in every case, in another place
    found = kept.Kept(
        of.stems.stem,
        replace(of_all, ids=tuple(of_all.ids[i] for i in mine), labels=(0,) * len(mine), shapes=shapes),
        room,
    )
    found.ahead(ahead)
    assert found.bytes <= room
    for part in step.micro_batches(found.encoded, range(len(mine)), 5):
        for place, value in zip(part, found.values(part), strict=True):
            assert torch.equal(value, alone[mine[place]])


def test_a_record_that_takes_anothers_room_moves_no_gradient_of_it(of):
    of, _ = of
    of.shapes(asked_for(of), of.initial())
    built = of._ready(1)
    adapter_tensors.load(built, kept.off_zero(of.initial()))
    with_one, learning = of._records(SOME[:12], MOST), asked_for(of).learning
    without = replace(with_one, ids=with_one.ids[1:], labels=with_one.labels[1:])
    room = kept.Kept(of.stems.stem, kept._bare(with_one, of.stems._shown[MOST]), 2**30).values([0]).nbytes

    def sums(encoded, record):
        known = of.stems.within(kept.Room(room), encoded, replace(learning, event=PoissonGaussian(F(1), F(1), 1)))
        found = step.clipped_sum(
            of._wrapped, built.parameters, known, [record], 4, F(1), losses=of._losses(CrossEntropy(), 1)
        )
        return known.known, found.values.tobytes()

    for record in range(len(without.ids)):
        one, other = sums(with_one, record + 1), sums(without, record)
        assert one[1] == other[1]
    assert 0 in one[0]._found and record + 1 not in one[0]._found, "the one more took the only room there is"


def test_how_much_is_computed_ahead_is_no_matter_of_who_is_sampled(of):
    of, changes = of
    asked = {**changes, "event": PoissonGaussian(F(1, 10), F(1), 3)}
    count = len(of.distinct(SOME, MOST))
    for seed in range(3):
        room = kept.Room()
        of.trained(asked_for(of, **asked), of.initial(), of.initial(), SOME, repeatable(f"sample {seed}"), room=room)
        assert room.kept._next == math.ceil(F(3, 10) * count) and set(room.kept._found) == set(range(room.kept._next))
    for _ in range(3):
        of.trained(asked_for(of, **asked), of.initial(), of.initial(), SOME, repeatable("sample"), room=room)
    assert room.kept._next == count


def test_what_was_kept_of_another_model_other_records_or_another_length_is_dropped(tmp_path):
    def head(folder, **config):
        torch.manual_seed(len(config))
        made = BertModel(BertConfig(vocab_size=128, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, **config),
                         add_pooling_layer=False)  # fmt: skip
        made.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        return SharedModel.load(str(folder), folder, TASK, Adapter((), 1, 1, 1, AdapterKind.HEAD))

    one, other, room = head(tmp_path / "one"), head(tmp_path / "other", hidden_act="relu"), kept.Room()
    held = []
    for of, what, changes in (
        (one, SOME, {}),
        (one, SOME, {}),
        (one, SOME[1:], {}),
        (one, SOME, {"max_tokens": 12}),
        (other, SOME, {}),
    ):
        assert trained(of, changes, room, of_what=what) == trained(of, changes, None, of_what=what)
        held.append(room.kept)
    assert [len({id(each) for each in held[:number]}) for number in (2, 3, 4, 5)] == [1, 2, 3, 4]


class Leaking(BertLayer):
    """It leaves something of the records behind, which the next one adds to its own."""

    left: list = []  # noqa: RUF012

    def forward(self, hidden_states, *given, **named):
        out = super().forward(hidden_states, *given, **named)
        self.left[:] = [out.detach().mean((1, 2), keepdim=True)]
        return out


class Finding(BertLayer):
    def forward(self, hidden_states, *given, **named):
        return super().forward(hidden_states + Leaking.left[0], *given, **named)


class Skipped(BertLayer):
    """It is not called as other blocks are."""

    def __call__(self, hidden_states, *given, **named):
        return hidden_states


@pytest.mark.parametrize(("first", "second", "told"), [
    (Leaking, Finding, "nothing is kept: behind each record's hidden states behind block 1 its gradient is other bits"),
    (BertLayer, Skipped, r"nothing is kept: .* it cannot be entered: Unreached"),
], ids=["leaking", "skipped"])  # fmt: skip
def test_a_model_that_cannot_be_entered_so_is_trained_through_all_of_it_and_says_why(first, second, told, tmp_path):
    of = loaded("bert", replace(adapter("bert"), layers=1), tmp_path)
    inside, last = of._built.model.encoder.get_base_model().encoder.layer
    inside.__class__, last.__class__ = first, second
    room = kept.Room()
    if second is Skipped:  # nothing of the adapter is trained, which preflight refuses: here the stem alone is asked
        of.stems.show(MOST, asked_of(of), (of.initial(), of.initial()))
    else:
        of._safe.add(asked_for(of).learning.loss)
        assert trained(of, {}, room) == trained(of, {}, None)
    assert re.search(told, of.stems.told(MOST))
    assert room.kept is None


def asked_of(of):
    from securefl.training.gradient_invariance import Question

    def encode(ids):
        return step.Encoded(ids, tuple(n % 3 for n in range(len(ids))), 0)

    return Question(of._built, of._wrapped, encode, (5, 6, 7), step.cross_entropy, answers=False)


def test_an_adapter_in_the_first_block_or_before_it_leaves_nothing_to_keep(tmp_path):
    folder = saved("bert", tmp_path)
    for asked in (
        adapter("bert"),
        Adapter((), 4, 1, 1, AdapterKind.SOFT_PROMPT),
        Adapter(("embeddings.LayerNorm",), 1, 1, 1, AdapterKind.FULL),
    ):
        of = SharedModel.load(str(folder), folder, TASK, asked)
        assert of.stems.stem is None and of.bytes_kept(SOME, MOST) == 0
        assert of.stems.told(MOST) == "nothing is kept: no block is frozen before the first trained tensor"


def test_training_without_privacy_to_compare_with_is_the_same_too(of):
    of, changes = of
    of.shapes(asked_for(of, **changes), of.initial())
    asked = asked_for(of, **changes)
    one, other = (of.train_without_privacy(asked, of.initial(), SOME, 1, room=room) for room in (None, of.room()))
    assert one == other != of.initial()


def test_a_trainer_keeps_within_what_its_site_gives(tmp_path):
    of = SharedModel.load(str(saved("bert", tmp_path)), tmp_path, TASK, Adapter((), 1, 1, 1, AdapterKind.HEAD))
    count = len(of.distinct(SOME, MOST))
    assert count > 8
    for room, bytes_ in ((0, 0), (1000, 7 * 128), (2**30, count * 128)):
        trainer = LoraTrainer(of, Records(SOME, ()), repeatable("x"), room=room)
        trainer.train(asked_for(of), of.initial(), Own())
        assert trainer._room.kept.bytes == bytes_
