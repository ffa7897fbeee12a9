"""Prompts: a masked language model's own head says the label, a pattern is never cut, and only the adapter moves."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction as F
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from securefl.audit.verify import verify
from securefl.documents import federation_file
from securefl.errors import OperatorFault, PeerFault
from securefl.terms import Adapter, AdapterKind, Prompt, SoftLabels, Task
from securefl.terms.records import UNKNOWN, Record
from securefl.training import adapter_tensors, saving
from securefl.training.noise import repeatable
from securefl.training.shared_model import SharedModel
from tests.support.small import FEDERATION, MEMBERS, Small, rows, save_model
from tests.support.tiny_models import gradients_alone, plan, tokenizer
from tests.training.test_adapter_rules import FREE

TASK = Task("prompt", ("bad", "fine", "good"), Prompt("{text} , it was [MASK] !", (("b",), ("f", "o"), ("g",))))
FIRST = replace(TASK, prompt=Prompt("a [MASK] : {text}", (("b",), ("f", "o"), ("g",))))
TEXTS = ("late again", "thanks for that lovely day", "no", "my bag has not arrived")
SOFT = SoftLabels(F(1), F(1, 2), F(2, 5), F(2, 5), 1)
LORA = Adapter(("query", "value"), 4, 8, 1)
CASES = {
    "bert": ("bert", LORA),
    "roberta": ("roberta", LORA),
    "distilbert": ("distilbert", replace(LORA, targets=("q_lin", "v_lin"))),
    "bert, bottleneck": ("bert", Adapter(("attention.output.dense",), 4, 8, 1, AdapterKind.BOTTLENECK)),
    "bert, full": ("bert", Adapter(("encoder.layer",), 1, 1, 1, AdapterKind.FULL)),
}


def masked_tokenizer() -> PreTrainedTokenizerFast:
    made = tokenizer()
    made.add_special_tokens({"mask_token": "[MASK]"})
    return made


def masked(kind: str) -> torch.nn.Module:
    torch.manual_seed(7)
    given = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    match kind:
        case "roberta":
            config = RobertaConfig(**given, intermediate_size=48, max_position_embeddings=96, pad_token_id=0)
            return RobertaForMaskedLM(config)
        case "distilbert":
            return DistilBertForMaskedLM(
                DistilBertConfig(
                    vocab_size=128, dim=32, n_layers=2, n_heads=2, hidden_dim=48, max_position_embeddings=96
                )
            )
    return BertForMaskedLM(BertConfig(**given, intermediate_size=48, max_position_embeddings=96))


def shared(folder: Path, kind: str = "bert", adapter: Adapter = LORA, task: Task = TASK) -> SharedModel:
    masked(kind).save_pretrained(folder)
    masked_tokenizer().save_pretrained(folder)
    return SharedModel.load(str(folder), folder, task, adapter)


@pytest.fixture(scope="module", params=CASES)
def of(request, tmp_path_factory) -> SharedModel:
    return shared(tmp_path_factory.mktemp("prompt"), *CASES[request.param])


@pytest.fixture(scope="module", params=[TASK, FIRST], ids=["behind", "before"])
def bert(request, tmp_path_factory) -> SharedModel:
    return shared(tmp_path_factory.mktemp("prompt"), task=request.param)


def somewhere(of: SharedModel, seed: int = 3) -> bytes:
    drawn = np.random.default_rng(seed).normal(0, 0.1, of.dimension)
    return (np.frombuffer(of.initial(), "<f4") + drawn).astype("<f4").tobytes()


def test_preflight_passes(of: SharedModel) -> None:
    of.preflight(32)
    of.preflight(32, SOFT)


@given(st.integers(0, 1000), st.integers(1, 4))
@settings(max_examples=8, deadline=None)
def test_each_records_gradient_is_the_one_it_has_alone(of: SharedModel, seed: int, size: int) -> None:
    adapter_tensors.load(of._built, somewhere(of, seed))
    gradients_alone(of, TEXTS, seed, size)


@given(st.lists(st.text("ab c,[MASK]", max_size=60), min_size=1, max_size=4), st.integers(13, 40))
@settings(max_examples=40, deadline=None)
def test_pattern_and_gap_are_whole_whatever_the_text(bert: SharedModel, texts: list[str], most: int) -> None:
    texts = [*texts, "so [MASK] and [MASK]"]
    gap = bert._built.tokenizer.mask_token_id
    whole = bert._tokens(("",), (0,), 96).ids[0]
    for row in bert._tokens(tuple(texts), (0,) * len(texts), most).ids:
        assert len(row) <= most and row.count(gap) == 1
        at = whole.index(gap)
        assert row[: at + 1] == whole[: at + 1] or row[-(len(whole) - at) :] == whole[at:]
        assert {*whole} <= {*row}


def test_a_logit_is_the_language_models_own_score_of_its_words(bert: SharedModel) -> None:
    ids, mask, _ = bert._tokens(TEXTS, (0, 1, 2, 0), 32).batch(range(4))
    words = masked_tokenizer()
    with torch.no_grad():
        scores = masked("bert").eval()(input_ids=ids, attention_mask=mask).logits[ids == words.mask_token_id]
        logits = bert._built.model(ids, mask)
    for label, each in enumerate(TASK.prompt.words):
        assert torch.allclose(logits[:, label], scores[:, words.convert_tokens_to_ids(list(each))].mean(1), atol=1e-5)


def test_nothing_but_the_adapter_moves(of: SharedModel) -> None:
    adapter_tensors.load(of._built, of.initial())
    before = {name: tensor.clone() for name, tensor in of._built.model.state_dict().items()}
    told = tuple(Record(text, label) for text, label in zip(TEXTS, (0, UNKNOWN, 2, UNKNOWN), strict=True)) * 8
    update = of.train(plan(of, loss=SOFT), of.initial(), told, repeatable("prompt"))
    assert np.isfinite(update.values).all() and (update.values != 0).any()
    assert all(torch.equal(tensor, before[name]) for name, tensor in of._built.model.state_dict().items())
    assert not any("head" in name or "cls" in name for name, _ in of._built.stateful)


def test_how_many_have_a_label_changes_neither_samples_nor_steps(bert: SharedModel) -> None:
    used = []
    for labels in ((0, 1, 2, 0), (UNKNOWN,) * 4, (UNKNOWN, 1, UNKNOWN, 0)):
        asked: list[int] = []
        source = repeatable("sample")

        def draw(size: int, asked=asked, source=source) -> bytes:
            asked.append(size)
            return source(size)

        told = tuple(Record(text, label) for text, label in zip(TEXTS, labels, strict=True))
        did = bert.train(plan(bert, loss=SOFT), bert.initial(), told, draw).did
        used.append((asked, did))
    assert used[0] == used[1] == used[2]


@pytest.mark.parametrize(
    ("words", "pattern", "told"),
    [
        ((("b",), ("great",), ("g",)), TASK.prompt.pattern, "'great' is not one token of this model .g ##r ##e"),
        ((("b",), ("é",), ("g",)), TASK.prompt.pattern, "'é' is not one token of this model .*UNK"),
        ((("b",), ("f", "b"), ("g",)), TASK.prompt.pattern, "'b' stands twice"),
    ],
)
def test_a_word_that_cannot_stand_in_a_gap_is_named(words, pattern, told, tmp_path: Path) -> None:
    with pytest.raises(OperatorFault, match=told):
        shared(tmp_path, task=replace(TASK, prompt=Prompt(pattern, words)))


def test_a_pattern_that_leaves_no_room_is_refused(bert: SharedModel) -> None:
    with pytest.raises(OperatorFault, match=r"max_tokens 5 leaves no room for a text: the pattern takes \d+"):
        bert._tokens(TEXTS, (0,) * 4, 5)
    asked = plan(bert)
    short = replace(asked, learning=replace(asked.learning, max_tokens=5))
    with pytest.raises(PeerFault, match="max_tokens 5 leaves no room for a text"):  # so that nothing is charged
        bert.admit(short)


def test_a_model_without_a_head_for_words_or_without_a_gap_is_refused(tmp_path: Path) -> None:
    masked("bert").bert.save_pretrained(tmp_path)
    masked_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(OperatorFault, match="weights lack .* for a prompt its own head"):
        SharedModel.load(str(tmp_path), tmp_path, TASK, LORA)
    masked("bert").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(OperatorFault, match="no mask token"):
        SharedModel.load(str(tmp_path), tmp_path, TASK, LORA)


def test_an_adapter_never_sits_on_the_language_models_head(tmp_path: Path) -> None:
    of = shared(tmp_path, adapter=replace(LORA, targets=("dense",)))
    assert all(".bert." in name for name, _ in of._built.stateful)


def test_a_saved_adapter_comes_back_and_scores_the_same(of: SharedModel, tmp_path: Path) -> None:
    of.save(somewhere(of), tmp_path, 32)
    adapter_tensors.load(of._built, somewhere(of))
    ids, mask, _ = of._tokens(TEXTS, (0, 1, 2, 0), 32).batch(range(4))
    base = AutoModelForMaskedLM.from_pretrained(of.model.name)
    with pytest.raises(OperatorFault, match="no tokenizer with a mask token; call load"):
        saving.load(base, tmp_path)
    again = saving.load(base, tmp_path, masked_tokenizer())
    with torch.no_grad():
        assert torch.allclose(again(ids, mask), of._built.model(ids, mask), atol=1e-5)


def test_the_code_in_a_saved_adapters_readme_runs(bert: SharedModel, tmp_path: Path, monkeypatch, capsys) -> None:
    bert.save(somewhere(bert), tmp_path, 32)
    code = re.search(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    exec(code[1], {})
    adapter_tensors.load(bert._built, somewhere(bert))
    ids, mask, _ = bert._tokens(("my flight was cancelled",), (0,), 32).batch([0])
    assert capsys.readouterr().out.strip().endswith(TASK.labels[int(bert._built.model(ids, mask).argmax())])


PROMPT = {
    "kind": "prompt", "labels": ["bad", "good"], "pattern": "{text} it was [MASK]",
    "verbalizer": {"bad": "worst", "good": ["best", "great"]},
}  # fmt: skip


UNLABELLED = {"text": "text", "label": "label", "unlabelled": "keep"}
LEARN = {"loss": {"kind": "soft-labels", "temperature": "1/2", "threshold": 0.5}}


def written(folder: Path, adapter: dict[str, object] | None = None, **changes: object) -> tuple[Small, Path]:
    """The small federation on a masked language model, two thirds of its records without a label."""
    small = Small(folder)
    save_model(folder / "masked", masked=True)
    for name in MEMBERS:
        lines = [f"{text},{label if n % 3 == 0 else ''}" for n, (text, label) in enumerate(rows(name))]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    policy = FREE.replace("[./model]", "[./masked]").replace("bottleneck]", "bottleneck, full]")
    return small, small.file(
        "prompt.yaml", policy=policy.replace("value]", "value, encoder.layer]"), model="./masked",
        **{"task": PROMPT, "adapter": adapter or FEDERATION["adapter"], "data": UNLABELLED, "strategy": LEARN} | changes,
    )  # fmt: skip


@pytest.mark.parametrize("adapter", [None, {"kind": "full", "targets": ["encoder.layer"], "rank": 1}])
def test_a_federation_learns_from_records_without_labels(adapter, tmp_path: Path) -> None:
    (tmp_path / "of").mkdir()
    small, file = written(tmp_path / "of", adapter)
    result = small.run(tmp_path / "out", tmp_path / "sites", file)
    assert result.outcome == "finished", result.why
    assert verify(tmp_path / "out").ok, verify(tmp_path / "out").why


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": {**PROMPT, "kind": "classification"}}, "kind classification has no `pattern`"),
        ({"task": {k: v for k, v in PROMPT.items() if k != "verbalizer"}}, "kind prompt needs `verbalizer`"),
        ({"task": {**PROMPT, "pattern": "{text} it was"}}, r"pattern: \[MASK\] stands in it once"),
        ({"task": {**PROMPT, "verbalizer": {"bad": "worst"}}}, "verbalizer: a word for each of bad, good"),
        ({"adapter": {"kind": "head"}}, "trains no head"),
        ({"strategy": {}}, "records without a label, and the loss own-label needs one"),
    ],
)
def test_what_does_not_fit_is_refused(changes, told, tmp_path: Path) -> None:
    _, file = written(tmp_path, **changes)
    with pytest.raises(OperatorFault, match=told):
        federation_file.load(file)
