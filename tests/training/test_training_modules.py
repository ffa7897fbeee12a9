"""Soft prompt, prefix and bottleneck: a gradient for each record, a start that is known, and files that come back."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl.audit.verify import verify
from securefl.errors import OperatorFault
from securefl.terms import AdapterKind
from securefl.training import adapter_tensors, saving
from securefl.training.modules import virtual
from securefl.training.noise import repeatable
from securefl.training.shared_model import SharedModel
from tests.support.small import MEMBERS, Small
from tests.support.tiny_models import TARGETS, TASK, adapter, encoder, gradients_alone, plan, saved
from tests.training.test_adapter_rules import FREE
from tests.training.test_training_model import records

SOFT, PREFIX, BOTTLENECK = AdapterKind.SOFT_PROMPT, AdapterKind.PREFIX, AdapterKind.BOTTLENECK
PAIRS = [(kind, model) for kind in (SOFT, PREFIX, BOTTLENECK) for model in TARGETS if (kind, model) != (PREFIX, "bert")]
TEXTS = ("late again", "thanks for that lovely day", "no", "my bag has not arrived")


def shared(folder: Path, kind: AdapterKind, model: str) -> SharedModel:
    given = replace(adapter(model), kind=kind, targets=TARGETS[model] if kind.has_targets else ())
    return SharedModel.load(str(saved(model, folder)), folder, TASK, given)


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def of(request, tmp_path_factory) -> SharedModel:
    return shared(tmp_path_factory.mktemp("module"), *request.param)


def model_of(of: SharedModel) -> str:
    inner = of._built.model.encoder
    return next(m for m in TARGETS if m in type(getattr(inner, "base", inner)).__name__.lower())


def somewhere(of: SharedModel, seed: int = 3) -> bytes:
    drawn = np.random.default_rng(seed).normal(0, 0.3, of.dimension)
    return (np.frombuffer(of.initial(), "<f4") + drawn).astype("<f4").tobytes()


def test_preflight_passes(of: SharedModel) -> None:
    of.preflight(32)


@given(st.integers(0, 1000), st.integers(1, 4))
@settings(max_examples=8, deadline=None)
def test_each_records_gradient_is_the_one_it_has_alone(of: SharedModel, seed: int, size: int) -> None:
    adapter_tensors.load(of._built, somewhere(of, seed))
    together = gradients_alone(of, TEXTS, seed, size)
    assert all(float(each.abs().max()) > 0 for each in together)


def test_what_is_trained_is_the_adapter_and_the_head(of: SharedModel) -> None:
    adapter_tensors.load(of._built, of.initial())
    before = {name: tensor.clone() for name, tensor in of._built.model.state_dict().items()}
    update = of.train(plan(of), of.initial(), records(30), repeatable("module"))
    assert (update.values != 0).all()
    for name, tensor in of._built.model.state_dict().items():
        assert torch.equal(tensor, before[name]), "a tensor is not as training found it"
    names = [name for name, _ in of._built.stateful]
    own = {"prompt", "prefix", "down", "up", "head"}
    assert all(own & set(name.split(".")) for name in names)


def test_a_record_is_padded_without_a_trace(of: SharedModel) -> None:
    adapter_tensors.load(of._built, somewhere(of))
    encoded = of._tokens(("short", "a much longer text than that"), (0, 1), 32)
    ids, mask, _ = encoded.batch([0])
    wide, wide_mask, _ = encoded.batch([0, 1])
    with torch.no_grad():
        assert torch.allclose(of._built.model(ids, mask)[0], of._built.model(wide, wide_mask)[0], atol=1e-5)


def test_a_saved_adapter_comes_back_and_scores_the_same(of: SharedModel, tmp_path: Path) -> None:
    of.save(somewhere(of), tmp_path, 32)
    adapter_tensors.load(of._built, somewhere(of))
    ids, mask, _ = of._tokens(TEXTS, (0, 1, 2, 0), 32).batch(range(4))
    again = saving.load(encoder(model_of(of)), tmp_path)
    with torch.no_grad():
        assert torch.allclose(again(ids, mask), of._built.model(ids, mask), atol=1e-5)
        assert float(again(ids, mask).std()) > 0
    assert "PeftModel.from_pretrained` cannot load it" in (tmp_path / "README.md").read_text()
    (tmp_path / "adapter.json").write_text("{}")
    with pytest.raises(OperatorFault, match="does not say what adapter this is"):
        saving.load(encoder(model_of(of)), tmp_path)


@pytest.mark.parametrize("kind", [SOFT, PREFIX])
@pytest.mark.parametrize("model", ["bert", "gpt2", "llama"])
def test_virtual_vectors_start_as_the_base_that_reads_some_words_first(kind, model) -> None:
    if (kind, model) == (PREFIX, "bert"):
        return
    given = replace(adapter(model), kind=kind, targets=())
    base = encoder(model).eval()
    ids = torch.randint(4, 60, (3, 9), generator=torch.Generator().manual_seed(1))
    first = virtual.words(base, given).expand(3, -1)
    with torch.no_grad():
        expected = base(input_ids=torch.cat([first, ids], 1)).last_hidden_state[:, first.shape[1] :]
        made = (virtual.soft_prompt(base, given) if kind is SOFT else virtual.prefix(base, given, model)).eval()
        got = made(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    assert torch.allclose(got, expected, atol=1e-5)


def test_a_bottleneck_starts_as_its_base(tmp_path: Path) -> None:
    of = shared(tmp_path, BOTTLENECK, "bert")
    ids, mask, _ = of._tokens(TEXTS, (0, 1, 2, 0), 32).batch(range(4))
    with torch.no_grad():
        expected = encoder("bert").eval()(ids, attention_mask=mask).last_hidden_state
        assert torch.allclose(of._built.model.encoder(ids, attention_mask=mask).last_hidden_state, expected, atol=1e-6)


def test_a_prefix_on_what_is_no_decoder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(OperatorFault, match="BertModel takes no prefix.*soft-prompt"):
        shared(tmp_path, PREFIX, "bert")


def test_a_bottleneck_wider_than_its_layer_is_refused(tmp_path: Path) -> None:
    folder = saved("bert", tmp_path)
    with pytest.raises(OperatorFault, match="rank 33 on a layer of width 32"):
        SharedModel.load(str(folder), tmp_path, TASK, replace(adapter("bert", rank=33), kind=BOTTLENECK))


def test_virtual_vectors_take_their_positions_from_the_text(tmp_path: Path) -> None:
    of = shared(tmp_path, SOFT, "bert")
    assert of._built.longest == 96 - 4
    with pytest.raises(Exception, match="max_tokens 93, of a model of 92 positions"):
        of.train(plan(of, max_tokens=93), of.initial(), records(9), repeatable("long"))


@pytest.mark.parametrize("kind", [SOFT, BOTTLENECK])
def test_the_code_in_a_saved_adapters_readme_runs(kind, tmp_path: Path, monkeypatch, capsys) -> None:
    of = shared(tmp_path / "base", kind, "bert")
    of.save(somewhere(of), tmp_path / "out", 32)
    code = re.search(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path / "out")
    exec(code[1], {})
    adapter_tensors.load(of._built, somewhere(of))
    ids, mask, _ = of._tokens(("my flight was cancelled",), (0,), 32).batch([0])
    assert capsys.readouterr().out.strip().endswith(TASK.labels[int(of._built.model(ids, mask).argmax())])


@pytest.mark.parametrize("kind", [SOFT, BOTTLENECK])
def test_a_federation_trains_one(kind, small: Small, tmp_path: Path) -> None:
    given = {"kind": str(kind), "rank": 4, "seed": 1} | ({"targets": ["query", "value"]} if kind.has_targets else {})
    result = small.run(tmp_path / "run", tmp_path / "sites", file=small.file("own.yaml", policy=FREE, adapter=given))
    assert result.outcome == "finished", result.why
    assert verify(tmp_path / "run").ok, verify(tmp_path / "run").why
    assert [row["survivors"] for row in result.report["rounds"]] == [sorted(MEMBERS)] * 2
    assert (result.adapter / "adapter.safetensors").exists()


def test_a_federation_trains_a_prefix_on_a_decoder(small: Small, tmp_path: Path) -> None:
    folder = small.folder / "decoder"
    encoder("gpt2").save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((small.folder / "model" / name).read_bytes())
    file = small.file(
        "prefix.yaml", policy=FREE.replace("[./model]", "[./decoder]"), model="./decoder",
        adapter={"kind": "prefix", "rank": 4, "seed": 1},
    )  # fmt: skip
    result = small.run(tmp_path / "run", tmp_path / "sites", file=file)
    assert result.outcome == "finished", result.why
    assert verify(tmp_path / "run").ok, verify(tmp_path / "run").why
    assert (result.adapter / "adapter.safetensors").exists()
