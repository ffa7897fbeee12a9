"""What a model can do is measured by trying it: how long texts may be, how wide its states are, what works instead."""

from fractions import Fraction as F
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AlbertConfig,
    AlbertModel,
    BartConfig,
    BartModel,
    BigBirdConfig,
    BigBirdModel,
    DebertaV2Config,
    DebertaV2Model,
    OPTConfig,
    OPTModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

from securefl.errors import OperatorFault
from securefl.training import token_rows, trial
from securefl.training.admission import Mismatch
from securefl.training.saving import load
from securefl.training.shared_model import SharedModel
from tests.support import tiny_models
from tests.support.tiny_models import TASK, plan

SHAPE: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
}  # fmt: skip


def made(model: torch.nn.Module, folder: Path, *targets: str) -> SharedModel:
    model.save_pretrained(folder)  # type: ignore[operator]
    tiny_models.tokenizer().save_pretrained(folder)
    return SharedModel.load(str(folder), folder, TASK, tiny_models.Adapter(targets, 4, 8, 1))


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> SharedModel:
    """Of 40 positions two are taken: one for padding, and those before it."""
    shape = RobertaConfig(**SHAPE, max_position_embeddings=40, pad_token_id=1)
    return made(RobertaModel(shape, add_pooling_layer=False), tmp_path_factory.mktemp("roberta"), "query")


def test_the_longest_text_is_found_by_trying_not_by_a_field(roberta: SharedModel) -> None:
    assert roberta._built.longest == 40, "what the configuration says"
    roberta.check_reads(38, "here")
    with pytest.raises(
        OperatorFault, match="file: found 39 tokens, and .* takes texts of at most 38; set max_tokens to at most 38"
    ):
        roberta.check_reads(39, "file")


def test_a_plan_that_reads_more_is_refused_before_a_record_is_read(roberta: SharedModel) -> None:
    roberta.admit(plan(roberta, max_tokens=38))
    with pytest.raises(OperatorFault, match="the plan's max_tokens: found 40 tokens.*at most 38"):
        roberta.train(plan(roberta, max_tokens=40), roberta.initial(), tiny_models.UNREAD, bytes)
    with pytest.raises(Mismatch, match="max_tokens 41, of a model of 40 positions$"):
        roberta.train(plan(roberta, max_tokens=41), roberta.initial(), tiny_models.UNREAD, bytes)


@pytest.mark.parametrize(("changes", "told"), [
    ({"optimizer": "lion"}, "optimizer lion, which is none of sgd"), ({"micro_tokens": 8}, "micro_tokens 8, below max_tokens 32"),
    ({"clip_l2": F(2**65)}, "clip_l2 3.689e"), ({"divisor": 0}, "divisor 0, below 1"), ({"learning_rate": F(0)}, "not above 0"),
])  # fmt: skip
def test_what_no_training_can_do_is_said_by_field_and_value(roberta: SharedModel, changes: Any, told: str) -> None:
    with pytest.raises(Mismatch, match=told) as refused:
        roberta.admit(plan(roberta, **changes))
    assert not any(word in str(refused.value) for word in ("Learning(", "Fraction("))


@given(st.integers(0, 60), st.integers(1, 60))
def test_the_longest_that_fits_is_found(most: int, asked: int) -> None:
    assert trial.longest(lambda tokens: tokens <= most, asked) == min(most, asked - 1)


@pytest.mark.parametrize("model", [
    OPTModel(OPTConfig(vocab_size=128, hidden_size=16, word_embed_proj_dim=8, num_hidden_layers=1, ffn_dim=24,
                       num_attention_heads=2, max_position_embeddings=64)),
    AlbertModel(AlbertConfig(**SHAPE, embedding_size=8, max_position_embeddings=64), add_pooling_layer=False),
], ids=["opt", "albert"])  # fmt: skip
def test_the_width_is_the_states_own(model: torch.nn.Module, tmp_path: Path) -> None:
    targets = ("q_proj",) if isinstance(model, OPTModel) else ("query",)
    of = made(model, tmp_path / "model", *targets)
    assert of._built.model.center.shape == ((8,) if isinstance(model, OPTModel) else (16,))
    of.preflight()
    of.save(of.initial(), tmp_path / "saved")
    back = load(type(model).from_pretrained(tmp_path / "model"), tmp_path / "saved")  # type: ignore[attr-defined]
    assert back.head.weight.shape[1] == of._built.model.center.shape[0]


@pytest.mark.parametrize("model", [
    T5Model(T5Config(vocab_size=128, d_model=16, d_ff=24, num_layers=1, num_heads=2, d_kv=8)),
    BartModel(BartConfig(vocab_size=128, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                         decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24)),
], ids=["t5", "bart"])  # fmt: skip
def test_an_encoder_and_decoder_in_one_is_refused_by_name(model: torch.nn.Module, tmp_path: Path) -> None:
    with pytest.raises(OperatorFault, match=f"{type(model).__name__} is an encoder and a decoder in one"):
        made(model, tmp_path / "model", "q" if isinstance(model, T5Model) else "q_proj")


def test_a_model_that_gives_no_states_of_its_tokens_is_refused() -> None:
    with pytest.raises(OperatorFault, match="Linear takes no row of tokens"):
        trial.width(torch.nn.Linear(2, 2), "m")


def test_a_layer_that_is_made_at_the_first_text_draws_nothing_either(tmp_path: Path) -> None:
    shape = BigBirdConfig(**SHAPE, max_position_embeddings=64, attention_type="block_sparse", block_size=4)
    of = made(BigBirdModel(shape, add_pooling_layer=False), tmp_path / "model", "query", "value")
    of.preflight()
    assert of._built.model.encoder.config.attention_probs_dropout_prob == 0


def test_a_layer_with_other_rows_than_the_records_is_named_with_what_works(tmp_path: Path) -> None:
    shape = {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "share_att_key": True,
        "max_position_embeddings": 64,
    }
    model = DebertaV2Model(DebertaV2Config(**SHAPE, **shape, position_biased_input=False, type_vocab_size=0))
    with pytest.raises(OperatorFault, match=r"query_proj.* is used on .* of 5 records") as refused:
        made(model, tmp_path / "both", "query_proj", "value_proj").preflight()
    works = refused.value.remedy.partition("one row for each record: ")[2].split(", ")
    assert "value_proj" in works
    assert "query_proj" not in works
    made(model, tmp_path / "tried", *works).preflight()


def test_a_token_that_was_added_beyond_the_model_is_padding_where_it_stands(tmp_path: Path) -> None:
    folder = tiny_models.saved("bert", tmp_path / "model")
    extended = tiny_models.tokenizer()
    extended.add_tokens([f"<{number}>" for number in range(128 - len(extended) + 1)], special_tokens=True)
    extended.save_pretrained(folder)
    of = SharedModel.load(str(folder), folder, TASK, tiny_models.adapter("bert"))
    beyond = f"<{128 - len(tiny_models.tokenizer())}>"
    assert extended.convert_tokens_to_ids(beyond) == 128
    (row,) = token_rows.of(of._built, [f"a {beyond} b"], 8)
    assert row[2] == token_rows.padding(of._built)
