"""An adapter in the last blocks alone, and a model that is used up to one of its blocks."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from securefl.audit import adapter_files
from securefl.coordinator import evidence
from securefl.documents import federation_file, strict
from securefl.documents.task import AdapterPart
from securefl.errors import OperatorFault
from securefl.simulation.parties import load_model
from securefl.terms import Adapter, AdapterKind, Pooling, Task
from securefl.training import adapter_tensors, blocks, saving
from securefl.training.model import build
from securefl.training.shared_model import SharedModel
from tests.support.small import Small
from tests.support.tiny_models import TASK, adapter, encoder, plan, saved, tokenizer

BLOCK = {"bert": "encoder.layer.{}.", "gpt2": "h.{}.", "llama": "layers.{}."}
HEAD = Adapter((), 1, 1, 1, AdapterKind.HEAD)


@pytest.mark.parametrize(
    ("model", "kind"), [("bert", AdapterKind.BOTTLENECK), ("gpt2", AdapterKind.LORA), ("llama", AdapterKind.RSLORA)]
)
def test_an_adapter_in_the_last_block_is_in_no_other_and_starts_there_as_it_does_in_all(model, kind, tmp_path):
    folder, whole = saved(model, tmp_path), replace(adapter(model), kind=kind)
    everywhere = dict(build(folder, TASK, whole).model.named_parameters())
    built = build(folder, TASK, replace(whole, layers=1))
    trained = [name for name, _ in built.stateful if not name.startswith("head.")]
    assert trained and all(BLOCK[model].format(1) in name for name in trained)
    added = [(name, each) for name, each in built.model.named_parameters() if "lora_" in name or name in trained]
    assert added and all(torch.equal(each, everywhere[name]) for name, each in added)


@pytest.mark.parametrize("pooling", Pooling)
def test_a_head_is_shown_the_hidden_states_behind_its_block(pooling, tmp_path):
    text = "some text"
    made = build(saved("bert", tmp_path), TASK, replace(HEAD, layer=1, pooling=pooling))
    ids = torch.tensor([tokenizer()(text)["input_ids"], [5] * 10])
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    states = encoder("bert").eval()(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[1]
    due = {
        Pooling.MEAN: [states[0].mean(0), states[1, :4].mean(0)],
        Pooling.FIRST: states[:, 0],
        Pooling.LAST: [states[0, -1], states[1, 3]],
    }
    found = made.model.pooled(ids, mask)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(found, due[pooling], strict=True))
    assert not any("layer.1." in name for name, _ in made.model.named_parameters())


@pytest.mark.parametrize(("asked", "told"), [
    ({"layer": 3}, r"adapter.layer: `layer: 3`, and .* has 2 blocks; write `layer: 2` or less"),
    ({"layers": 3}, r"adapter.layers: `layers: last 3`, and .* has 2 blocks; write `layers: last 2` or less"),
    ({"layers": 1, "targets": ("layer.0.attention.self.query",)}, "no layer `layer.0.attention.self.query` in the last 1 blocks"),
])  # fmt: skip
def test_blocks_that_a_model_has_not_are_refused_by_name_value_and_remedy(asked, told, tmp_path):
    with pytest.raises(OperatorFault, match=told):
        build(saved("bert", tmp_path), TASK, replace(adapter("bert"), **asked))


def test_a_model_without_a_stack_of_blocks_takes_neither():
    plain = torch.nn.Linear(2, 2)
    plain.config = SimpleNamespace(num_hidden_layers=2)
    assert blocks.path_of(plain) is None
    for asked in ({"layer": 1}, {"layers": 1}):
        with pytest.raises(OperatorFault, match="no stack of blocks is found in m; leave layers? out"):
            blocks.check(plain, replace(HEAD, **asked), "m")


def test_the_document_that_asks_for_them_is_named(tmp_path):
    small = Small(tmp_path)
    loaded = federation_file.load(small.file("high.yaml", adapter__layers="last 99"))
    with pytest.raises(
        OperatorFault, match=r"high\.yaml: adapter\.layers: `layers: last 99`, and .*model has 2 blocks"
    ):
        load_model(loaded)


@pytest.mark.parametrize(("written", "told"), [
    ({"layers": 2}, "layers: found 2; write `last 2`, for the last two blocks"),
    ({"layers": "last 0"}, "layers: found 'last 0'; write `last 2`"), ({"layers": "last 9999"}, "write `last 2`"),
    ({"layers": "last two"}, "write `last 2`"), ({"layer": 0}, "greater than or equal to 1"),
    ({"layers": "last 2", "layer": 1}, "found 'last 2', and `layer: 1` uses 1 blocks: write `last 1` or less, or raise layer"),
    ({"kind": "head", "targets": [], "layers": "last 1"}, "kind head stands in no block alone: leave `layers` out"),
    ({"pooling": "max"}, "'mean', 'first' or 'last'"),
])  # fmt: skip
def test_what_is_written_otherwise_is_told_how_to_write_it(written, told):
    document = strict.Document("d", b"", {"targets": ["query"], **written}, {})
    with pytest.raises(OperatorFault, match=re.escape(told)):
        strict.validate(document, AdapterPart)


def test_a_prompt_has_no_head_that_is_shown_anything_and_numbers_out_of_range_are_no_adapter(tmp_path):
    with pytest.raises(
        OperatorFault, match=r"adapter.pooling is what a head is shown, and task.kind language has none"
    ):
        federation_file.load(Small(tmp_path).file("p.yaml", task={"kind": "language"}, adapter__pooling="last"))
    for wrong in ({"layers": 0}, {"layer": 0}, {"layer": 1025}, {"layers": 2, "layer": 1}):
        with pytest.raises(ValueError, match="layers?="):
            replace(adapter("bert"), **wrong)


@pytest.mark.parametrize(("model", "asked"), [
    ("bert", replace(adapter("bert"), layers=1, layer=1, pooling=Pooling.FIRST)), ("llama", replace(HEAD, layer=1, pooling=Pooling.LAST)),
    ("bert", replace(adapter("bert"), kind=AdapterKind.BOTTLENECK, layers=1)),
], ids=["lora", "head", "bottleneck"])  # fmt: skip
def test_what_was_saved_says_the_same_again_and_stands_an_audit(model, asked, tmp_path, monkeypatch, capsys):
    of = SharedModel.load(str(saved(model, tmp_path / "base")), tmp_path, TASK, asked)
    state = torch.randn(of.dimension, generator=torch.Generator().manual_seed(1)).numpy().astype("<f4").tobytes()
    of.save(state, tmp_path / "adapter", 32)
    adapter_tensors.load(of._built, state)
    ids, mask, _ = of._tokens(("my flight was cancelled",), (0,), 32).batch([0])
    ids, mask = ids[:, : mask.sum()], mask[:, : mask.sum()]
    due = of._built.model(ids, mask)
    again = saving.load(encoder(model), tmp_path / "adapter")
    assert torch.allclose(again(ids, mask), due, atol=1e-4)
    code = re.search(r"```python\n(.*?)```", (tmp_path / "adapter/README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path / "adapter")
    told = {}
    exec(code[1], told)
    assert torch.allclose(told["logits"], due, atol=1e-4)
    evidence.keep_state(tmp_path, state, of.layout)
    adapter_files.check(tmp_path / "adapter", state, plan(of))


def test_a_decoder_of_bytes_is_cut_too(tmp_path):
    of = SharedModel.load("bytes:2x32", tmp_path, Task("language", ()), Adapter(("query",), 2, 4, 1, layers=1, layer=1))
    assert {name.partition(".lora")[0] for name, _ in of._built.stateful} == {
        "encoder.base_model.model.blocks.0.attention.query"
    }
    assert of._tokens(("ab",), (0,), 16).ids == ((0, 97, 98),), "its tokenizer is asked as those of transformers are"
