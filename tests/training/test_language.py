"""Causal language models: a record is a text with a gradient of its own; runs are measured in nats per token."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from securefl.audit.verify import verify
from securefl.documents import federation_file
from securefl.documents.data_source import DataSource
from securefl.errors import OperatorFault
from securefl.simulation import federation
from securefl.terms import Adapter, AdapterKind, Task
from securefl.terms.records import Record
from securefl.training import data, language
from securefl.training.modules import byte_gpt
from securefl.training.shared_model import SharedModel
from tests.support.small import Small, own_of

PARTS = ("embedding", "positions", "blocks", "head")
ALL = Adapter(PARTS, 1, 1, 0, AdapterKind.FULL)
LORA = Adapter(("query", "value"), 2, 4, 1)
TEXTS = ("a short one", "one that is somewhat longer", "x", "grüße")


def loaded(adapter: Adapter, engine: str = "auto", name: str = "bytes:2x32") -> SharedModel:
    return SharedModel.load(name, Path(), Task("language", ()), adapter, engine)


@pytest.mark.parametrize("engine", ["fast", "opacus"])
@pytest.mark.parametrize("adapter", [ALL, LORA], ids=["all tensors", "LoRA"])
def test_a_text_has_a_gradient_of_its_own(adapter, engine) -> None:
    loaded(adapter, engine).preflight()  # which refuses anything else


def test_weights_follow_from_the_name() -> None:
    one, again, other = loaded(ALL), loaded(ALL), loaded(ALL, name="bytes:2x32:7")
    assert one.initial() == again.initial() != other.initial()
    assert one.model.digest == again.model.digest != other.model.digest


@pytest.mark.parametrize("name", ["bytes:0x32", "bytes:2x33", "bytes:99x32", "bytes:2", "bytes:2x32:-1"])
def test_a_name_of_no_model_is_refused(name) -> None:
    with pytest.raises(OperatorFault, match="no model of bytes"):
        byte_gpt.shape_of(name)


def test_a_records_loss_is_the_mean_over_its_own_tokens_whatever_the_company() -> None:
    model = byte_gpt.ByteGPT(byte_gpt.shape_of("bytes:2x32"))
    wrapped = language.Language(model)
    rows = byte_gpt.Bytes()(TEXTS, truncation=True, max_length=16)["input_ids"]
    assert rows[2] == [0, ord("x")]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    together = wrapped(ids, mask)[:, 0]
    for row, loss in zip(rows, together, strict=True):
        logits = model(torch.tensor([row]), torch.ones(1, len(row))).logits[0].log_softmax(1)
        expected = -np.mean([float(logits[place, token].detach()) for place, token in enumerate(row[1:])])
        assert float(loss) == pytest.approx(expected, abs=1e-5)
        assert expected == pytest.approx(math.log(256), abs=0.3)  # it knows nothing yet
    assert float(wrapped(ids[:1, :1], mask[:1, :1])) == 0  # nothing comes next


def test_held_out_texts_are_measured_by_token() -> None:
    shared = loaded(ALL)
    records = tuple(Record(text, 0) for text in TEXTS)
    one = shared.evaluate(shared.initial(), records, 16)
    assert isinstance(one, language.Surprise)
    assert (one.n, one.tokens) == (4, sum(min(len(text.encode()), 15) for text in TEXTS))
    assert one.perplexity == pytest.approx(math.exp(one.nats / one.tokens))
    halves = [shared.evaluate(shared.initial(), part, 16) for part in (records[:2], records[2:])]
    assert language.together(halves).per_token == pytest.approx(one.per_token)


def test_rows_are_chosen_by_their_columns(tmp_path: Path) -> None:
    lines = ["text,year,party", "old,1790,Whig", "middle,1850,Federalist", "new,2000,Whig"]
    (tmp_path / "s.csv").write_text("\n".join(lines))

    def texts(where: object) -> list[str]:
        source = DataSource.model_validate({"file": "./s.csv", "heldout": 0, "where": where})
        return [each.text for each in data.load(source, tmp_path, ()).train]

    assert texts({"year": {"to": 1850}}) == ["old", "middle"]
    assert texts({"year": {"from": 1850, "to": 1999}}) == ["middle"]
    assert texts({"party": "Whig", "year": {"from": 1900}}) == ["new"]
    assert texts({"party": ["Federalist", "Whig"]}) == ["old", "middle", "new"]
    with pytest.raises(OperatorFault, match="no whole number"):
        texts({"party": {"from": 1}})
    with pytest.raises(OperatorFault, match="no column `state`"):
        texts({"state": "x"})


NAMES = ("north", "south", "west", "east", "middle")


def of_bytes(small: Small, **changed: object) -> Path:
    """The small federation, over bytes; all five members or none, where weights follow from what each keeps."""
    policy = (small.folder / "policy.yaml").read_text()
    policy = policy.replace("[query, value]", "[query, value, embedding, positions, blocks, head]")
    policy = policy.replace("./model]", '"bytes:2x32"]\n  adapters: [lora, full]').replace(
        "min_cohort: 3, threshold: {at_least: 2}, colluding: 0", "min_cohort: 5, threshold: {at_least: 4}, colluding: 1"
    )
    assert "min_cohort: 5" in policy
    for name in NAMES:
        if not (small.folder / f"{name}.csv").exists():
            (small.folder / f"{name}.csv").write_bytes((small.folder / "north.csv").read_bytes())
    members = [{"name": name, "region": "here", "data": {"file": f"{name}.csv"}} for name in NAMES]
    adapter = {"kind": "full", "targets": list(PARTS)}
    given = {"model": "bytes:2x32", "task": {"kind": "language"}, "adapter": adapter, "members": members, **changed}
    return small.file(policy=policy, **given)


@pytest.mark.parametrize("scheme", ["masking", "ckks"])
@pytest.mark.parametrize("residual", [False, True])
def test_a_federation_of_bytes_runs_under_attention(scheme, residual, tmp_path: Path) -> None:
    (tmp_path / "of").mkdir()
    small = Small(tmp_path / "of")
    attention = {"keys": ["blocks.1"], "sharpness": 5, "clip": "1/8", "residual": residual}
    file = of_bytes(
        small, strategy={"attention": attention}, protection={"scheme": scheme, "fraction_bits": 16},
        adapter={"targets": ["query", "value"], "rank": 4, "alpha": 8} if scheme == "ckks" else
        {"kind": "full", "targets": list(PARTS)},
    )  # fmt: skip
    result = small.run(tmp_path / "out", tmp_path / "sites", file)
    assert result.outcome == "finished", result.why
    assert verify(tmp_path / "out").ok
    assert result.report["accuracy"]["measure"] == "nats per token"
    assert result.report["accuracy"]["majority"] is None
    owns = {own_of(tmp_path / "sites", name, result.report["run"], before) for name in NAMES for before in (2, 99)}
    assert len({own.model for own in owns}) == 10
    assert all(own.model and not own.weights for own in owns)
    assert "nats per token" in federation.summary(result, tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "adapter" / "adapter.json").read_text())
    assert saved["base"] == "bytes:2x32"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"task": {"kind": "language", "labels": ["a", "b"]}}, "no labels"),
        ({"adapter": {"kind": "head"}}, "use lora, rslora or full"),
        ({"strategy": {"loss": {"kind": "fedlsd"}}}, "no labels to compare"),
        ({"strategy": {"attention": {"keys": ["blocks.1"]}, "home": ["head"]}}, "it has its own"),
    ],
)
def test_what_does_not_fit_is_refused(changed, told, tmp_path: Path) -> None:
    with pytest.raises(OperatorFault, match=told):
        federation_file.load(of_bytes(Small(tmp_path), **changed))


def test_a_transformers_decoder_is_trained_with_lora(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: n for n, word in enumerate(["[PAD]", "[UNK]", *"a b c one that is short longer".split()])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(words), max_position_embeddings=64, tie_word_embeddings=True, **shape)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    task, adapter = Task("language", ()), Adapter(("q_proj", "v_proj"), 2, 4, 1)
    shared = SharedModel.load(str(tmp_path), tmp_path, task, adapter)
    shared.preflight()
    records = (Record("that is short", 0), Record("one is longer that", 0))
    assert shared.evaluate(shared.initial(), records).tokens == 5
    shared.save(shared.initial(), tmp_path / "saved")
    assert (tmp_path / "saved" / "adapter_model.safetensors").exists()
