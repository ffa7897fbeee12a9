"""The rules for LoRA's two factors: what a round moves, that sums are exact, and that a new basis changes no product."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl.audit.verify import verify
from securefl.documents import federation_file
from securefl.errors import OperatorFault
from securefl.protection.fixed_point import encode
from securefl.strategy.fedavg import FedAvg
from securefl.strategy.rules import FactorServer, in_basis_of, rebased
from securefl.terms import AdapterKind, AdapterRule, Aggregate, FixedPoint, MemberId
from securefl.terms.layout import Layout, Tensor
from securefl.training import adapter_tensors, saving
from securefl.training.admission import Mismatch
from securefl.training.noise import repeatable
from securefl.training.shared_model import SharedModel
from tests.support.small import MEMBERS, POLICY, Small
from tests.support.tiny_models import KINDS, TASK, F, adapter, encoder, plan, saved
from tests.training.test_training_model import records

RULES = tuple(AdapterRule)
ENCODING = FixedPoint(32, 20, 64)
OUT, IN, RANK, LABELS = 7, 9, 3, 2


def layout(rule: AdapterRule, layers: int = 2) -> Layout:
    tensors = [Tensor(f"l{n}.lora_B.default.weight", (OUT, RANK)) for n in range(layers)] + [
        Tensor("head.bias", (LABELS,))
    ]
    if rule is not AdapterRule.B_ONLY:
        tensors += [Tensor(f"l{n}.lora_A.default.weight", (RANK, IN)) for n in range(layers)]
    return Layout(tuple(sorted(tensors, key=lambda tensor: tensor.name)), rule)


def a_state(of: Layout, rand: np.random.Generator) -> bytes:
    """Anything, but for A's rows: under ``svd`` they are orthonormal, as in any run."""
    values = rand.normal(0, 1, of.entries)
    for tensor in of.tensors:
        if ".lora_A." in tensor.name and of.rule is AdapterRule.SVD:
            values[of.places()[tensor.name]] = np.linalg.qr(rand.normal(size=(IN, RANK)))[0].T.ravel()
    return values.astype("<f4").tobytes()


def tensors(of: Layout, made: bytes) -> dict[str, np.ndarray]:
    values = np.frombuffer(made, "<f4").astype(float)
    return {tensor.name: values[of.places()[tensor.name]].reshape(tensor.shape) for tensor in of.tensors}


def products(of: Layout, made: bytes) -> list[np.ndarray]:
    found = tensors(of, made)
    return [found[b.name] @ found[a.name] for a, b in of.products()]


def summed(changes: list[np.ndarray]) -> Aggregate:
    total = sum(encode(change, ENCODING) for change in changes)
    return Aggregate(total, tuple(MemberId(str(n)) for n in range(len(changes))), ENCODING)


SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.sampled_from(RULES), st.integers(1, 6), st.integers(1, 7), st.integers(1, 3), st.floats(0.01, 2))
@settings(max_examples=150, deadline=None)
def test_the_next_state_is_the_plain_mean_of_what_the_round_trains(seed, rule, round_, members, layers, size) -> None:
    rand, of = np.random.default_rng(seed), layout(rule, layers)
    now, strategy = a_state(of, rand), FactorServer(of, FedAvg())
    dimension = strategy.dimension(round_, now)
    changes = [rand.normal(0, size, dimension) for _ in range(members)]
    after, _ = strategy.advance(round_, now, now, summed(changes))
    expected, begun = np.frombuffer(now, "<f4").astype(float), 0
    for place in of.trained(round_):
        expected[place] += np.mean(changes, axis=0)[begun : begun + place.stop - place.start]
        begun += place.stop - place.start
    assert begun == dimension
    bound = 2.0**-21 + 1e-6 * np.abs(expected).max()
    if rule is not AdapterRule.SVD:
        assert np.abs(np.frombuffer(after, "<f4") - expected).max() <= bound
        return
    reference = expected.astype("<f4").tobytes()
    assert np.allclose(tensors(of, after)["head.bias"], tensors(of, reference)["head.bias"], atol=bound)
    for got, wanted in zip(products(of, after), products(of, reference), strict=True):
        assert np.linalg.norm(got - wanted) <= 1e-5 * max(1, np.linalg.norm(wanted))


@given(SEEDS, st.sampled_from([0, 1, RANK]), st.floats(1e-3, 1e3))
@settings(deadline=None)
def test_a_new_basis_changes_no_product_and_has_orthonormal_rows(seed, rank_of_b, size) -> None:
    rand, of = np.random.default_rng(seed), layout(AdapterRule.SVD)
    values = np.frombuffer(a_state(of, rand), "<f4").copy()
    for tensor in of.tensors:
        if ".lora_B." in tensor.name:  # of any rank, zero as well: then A stays a basis of the same space
            b = size * rand.normal(size=(OUT, rank_of_b)) @ rand.normal(size=(rank_of_b, RANK))
            values[of.places()[tensor.name]] = b.ravel()
    before = values.tobytes()
    after = rebased(of, before)
    for got, wanted in zip(products(of, after), products(of, before), strict=True):
        assert np.linalg.norm(got - wanted) <= 1e-5 * max(np.linalg.norm(wanted), 1e-9)
    for a, b in of.products():
        old, new, sizes = tensors(of, before)[a.name], tensors(of, after)[a.name], tensors(of, after)[b.name]
        assert np.allclose(new @ new.T, np.eye(RANK), atol=1e-5)
        assert np.allclose(new @ old.T @ old, new, atol=1e-5)  # the rows span what they spanned
        gram = sizes.T @ sizes  # U S: orthogonal columns, the largest first
        assert np.allclose(gram, np.diag(np.diag(gram)), atol=1e-5 * max(gram.max(), 1e-9))
        assert np.all(np.diff(np.diag(gram)) <= 1e-5 * max(gram.max(), 1e-9))
    again = rebased(of, after)
    for got, wanted in zip(products(of, again), products(of, after), strict=True):
        assert np.allclose(got, wanted, rtol=1e-5, atol=1e-5 * size)


@given(SEEDS, st.floats(0, 0.9))
@settings(deadline=None)
def test_momentum_in_a_new_basis_is_that_of_the_product(seed, momentum) -> None:
    rand, of = np.random.default_rng(seed), layout(AdapterRule.SVD)
    first = a_state(of, rand)
    inner = FedAvg(Fraction(1), Fraction(momentum).limit_denominator(100))
    strategy = FactorServer(of, inner)
    second, _ = strategy.advance(1, first, first, summed([rand.normal(0, 0.3, strategy.dimension(1, first))]))
    nothing = summed([np.zeros(strategy.dimension(2, second))])
    third, _ = strategy.advance(2, second, first, nothing)
    for x, y, z in zip(products(of, first), products(of, second), products(of, third), strict=True):
        assert np.allclose(z, y + float(inner.momentum) * (y - x), atol=1e-4)
    assert np.allclose(
        products(of, in_basis_of(of, first, second)), products(of, first), atol=1e-5
    )  # nothing is left outside the span


@given(SEEDS, st.sampled_from(RULES), st.integers(1, 9))
@settings(deadline=None)
def test_a_round_moves_what_it_trains_and_nothing_else(seed, rule, round_) -> None:
    rand, of = np.random.default_rng(seed), layout(rule)
    now, strategy = a_state(of, rand), FactorServer(of, FedAvg())
    change = 1 + rand.random(strategy.dimension(round_, now))
    before, after = tensors(of, now), tensors(of, strategy.advance(round_, now, now, summed([change, change]))[0])
    moved = {
        name.split(".")[1].removesuffix(".default") for name in before if not np.allclose(before[name], after[name])
    }
    expected = {
        AdapterRule.B_ONLY: {"lora_B", "bias"},
        AdapterRule.ALTERNATING: {"lora_B" if round_ % 2 else "lora_A", "bias"},
        AdapterRule.SVD: {"lora_A", "lora_B", "bias"},  # A by the new basis alone
        AdapterRule.BOTH: {"lora_A", "lora_B", "bias"},
    }
    assert moved == expected[rule]


def test_averaging_both_factors_misses_the_mean_product_by_their_covariance() -> None:
    rand, of = np.random.default_rng(5), layout(AdapterRule.BOTH, layers=1)
    now = a_state(of, rand)
    changes = [rand.normal(0, 1, of.entries) for _ in range(4)]
    states = [(np.frombuffer(now, "<f4") + change).astype("<f4").tobytes() for change in changes]
    (got,) = products(of, FactorServer(of, FedAvg()).advance(1, now, now, summed(changes))[0])
    mean = np.mean([products(of, each)[0] for each in states], axis=0)
    assert np.linalg.norm(got - mean) > 0.1 * np.linalg.norm(mean)


def test_momentum_is_refused_where_the_state_it_needs_is_not_kept(small: Small) -> None:
    with pytest.raises(ValueError, match="momentum with the alternating rule"):
        FactorServer(layout(AdapterRule.ALTERNATING), FedAvg(Fraction(1), Fraction(1, 2)))
    file = small.file("pushed.yaml", adapter__rule="alternating", strategy={"kind": "fedavg", "momentum": 0.5})
    with pytest.raises(OperatorFault, match=r"set strategy\.momentum to 0, or use another rule"):
        federation_file.load(file)


@pytest.mark.parametrize(("changes", "message"), [
    ({"adapter__kind": "head"}, "leave `targets` out"), ({"adapter__targets": []}, "name them in `targets`"),
    ({"adapter": {"kind": "head", "rule": "svd"}}, "leave `rule` out"), ({"adapter__rule": "stacked"}, "adapter.rule"),
])  # fmt: skip
def test_a_kind_and_what_it_has_not_are_refused(small: Small, changes, message) -> None:
    with pytest.raises(OperatorFault, match=message):
        federation_file.load(small.file("wrong.yaml", **changes))


# One member.


def shared(folder: Path, model: str = "bert", **changes) -> SharedModel:
    return SharedModel.load(str(saved(model, folder)), folder, TASK, replace(adapter(model), **changes))


def asked(of: SharedModel, round_: int, **changes):
    return replace(plan(of, **changes), round=round_, dimension=of.layout.dimension(round_))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("model", KINDS)
def test_a_member_trains_and_noises_only_what_the_round_trains(rule, model, tmp_path: Path) -> None:
    of = shared(tmp_path, model, rule=rule)
    assert (of.layout.entries > of.layout.dimension(1)) is (rule in (AdapterRule.ALTERNATING, AdapterRule.SVD))
    base, strategy = of.initial(), FactorServer(of.layout, FedAvg())
    for round_ in (1, 2, 3):
        update = of.train(asked(of, round_), base, records(30), repeatable(f"{rule} {round_}"))
        assert update.values.shape == (of.layout.dimension(round_),)
        assert (update.values != 0).mean() > 0.9
        base, _ = strategy.advance(round_, base, base, summed([update.values]))
    if of.layout.dimension(1) != of.layout.dimension(2):  # A and B of a square layer are of one size
        with pytest.raises(Mismatch, match="dimension"):
            of.train(replace(asked(of, 2), dimension=of.layout.dimension(1)), base, records(9), repeatable("other"))


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule is not AdapterRule.B_ONLY])
def test_a_run_starts_as_its_base_with_orthonormal_rows_in_the_state(rule, tmp_path: Path) -> None:
    of = shared(tmp_path, rule=rule)
    begun = tensors(of.layout, of.initial())
    for name, value in begun.items():
        if ".lora_A." in name:
            assert np.allclose(value @ value.T, np.eye(len(value)), atol=1e-5)
        else:
            assert not value.any()


def test_b_with_a_new_basis_trains_the_same_products_as_b_with_the_old(tmp_path: Path) -> None:
    """The rows of A span the same space, and a norm does not see a rotation: SGD without noise cannot tell them apart."""
    ends = {}
    for rule in (AdapterRule.B_ONLY, AdapterRule.SVD):
        of = shared(tmp_path / rule, rule=rule)
        base, strategy = of.initial(), FactorServer(of.layout, FedAvg(Fraction(1), Fraction(1, 2)))
        previous = base
        for round_ in (1, 2, 3):
            quiet = replace(plan(of).learning.event, noise_multiplier=F(1, 10**7), sampling_rate=F(1))
            update = of.train(asked(of, round_, event=quiet), base, records(30), repeatable(f"basis {round_}"))
            base, previous = strategy.advance(round_, base, previous, summed([update.values]))
        adapter_tensors.load(of._built, base)
        ids, mask, _ = of._tokens(("awful late lost", "great love thanks"), (0, 1), 32).batch([0, 1])
        with torch.no_grad():
            ends[rule] = of._built.model(ids, mask)
    assert torch.allclose(ends[AdapterRule.B_ONLY], ends[AdapterRule.SVD], atol=1e-4)
    assert float(ends[AdapterRule.SVD].std()) > 0.01


@pytest.mark.parametrize("kind", [AdapterKind.LORA, AdapterKind.RSLORA])
@pytest.mark.parametrize("rule", RULES)
def test_a_saved_adapter_of_every_rule_loads_with_peft_and_scores_the_same(rule, kind, tmp_path: Path) -> None:
    from peft import PeftModel

    of = shared(tmp_path / "base", rule=rule, kind=kind)
    trained = np.random.default_rng(3).normal(0, 0.3, of.dimension).astype("<f4").tobytes()
    of.save(trained, tmp_path / "out", 32)
    adapter_tensors.load(of._built, trained)
    ids, mask, _ = of._tokens(("late again", "thanks"), (0, 1), 32).batch([0, 1])
    again = saving.load(encoder("bert"), tmp_path / "out")
    peft = PeftModel.from_pretrained(encoder("bert"), str(tmp_path / "out")).eval()
    with torch.no_grad():
        assert torch.allclose(again(ids, mask), of._built.model(ids, mask), atol=1e-6)
        features = peft(ids, attention_mask=mask).last_hidden_state
        assert torch.allclose(features, of._built.model.encoder(ids, attention_mask=mask).last_hidden_state, atol=1e-6)
        assert not torch.allclose(
            features, encoder("bert").eval()(ids, attention_mask=mask).last_hidden_state, atol=1e-3
        )


# Whole runs.

FREE = POLICY.replace(
    "  modules:", "  adapters: [lora, rslora, head, soft-prompt, prefix, bottleneck]\n"
    "  rules: [b-only, alternating, svd, both]\n  modules:"
)  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "scheme"), [*((rule, "masking") for rule in RULES), (AdapterRule.ALTERNATING, "ckks")]
)
def test_a_federation_runs_under_every_rule_and_its_adapter_loads(rule, scheme, small: Small, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    file = small.file(
        f"{rule}-{scheme}.yaml", policy=FREE, adapter__rule=str(rule), protection=scheme, training__rounds=3
    )  # fmt: skip
    result = small.run(tmp_path / "run", tmp_path / "sites", file=file)
    assert result.outcome == "finished", result.why
    assert verify(tmp_path / "run").ok, verify(tmp_path / "run").why
    assert [row["survivors"] for row in result.report["rounds"]] == [sorted(MEMBERS)] * 3
    assert bool(result.report["warnings"]) is (rule is AdapterRule.BOTH)
    assert result.adapter is not None
    loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(small.folder / "model"), str(result.adapter))
    assert any(bool(p.abs().sum() > 0) for name, p in loaded.named_parameters() if "lora_B" in name)


def test_a_rule_that_nobody_agreed_to_is_refused_before_training(small: Small, tmp_path: Path) -> None:
    result = small.run(tmp_path / "run", tmp_path / "sites", file=small.file("other.yaml", adapter__rule="svd"))
    assert result.outcome == "refused"
    assert result.why.endswith(": training.rules: training.rules: svd; allowed: b-only; set rule to b-only")


def test_a_biased_rule_is_told_before_the_run_and_in_its_report(small: Small, tmp_path: Path, capsys) -> None:
    from securefl.progress import Lines

    file = small.file("biased.yaml", policy=FREE, adapter__rule="both", training__rounds=1)
    small.run(tmp_path / "run", tmp_path / "sites", file=file, progress=Lines(), page=True)
    told = capsys.readouterr().err
    assert told.index("mean(B) mean(A) is not mean(BA)") < told.index("round 1/1")
    assert "mean(B) mean(A) is not mean(BA)" in (tmp_path / "run" / "report.html").read_text()


def test_a_head_on_frozen_features_is_an_arm_of_its_own(small: Small, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    file = small.file("head.yaml", policy=FREE, adapter={"kind": "head"})
    result = small.run(tmp_path / "run", tmp_path / "sites", file=file)
    assert result.outcome == "finished", result.why
    assert result.report["model"]["trained_parameters"] == 2 * 16 + 2
    assert load_file(result.adapter / "head.safetensors")["weight"].shape == (2, 16)
    assert "no\nadapter for PEFT" in (result.adapter / "README.md").read_text()


@pytest.mark.parametrize("rule", [AdapterRule.ALTERNATING, AdapterRule.SVD])
def test_the_arms_a_bench_compares_with_follow_the_rule(rule, small: Small, tmp_path: Path) -> None:
    from securefl.simulation.federation import Baselines

    file = small.file("arms.yaml", policy=FREE, adapter__rule=str(rule))
    result = small.run(
        tmp_path / "run", tmp_path / "sites", file=file, arms=Baselines(local=True, without_privacy=True)
    )
    assert result.report["accuracy"]["local_only"] is not None
    assert result.report["accuracy"]["without_privacy"] is not None
