"""Small models with random weights and a tokenizer of letters, saved like any other: what trains in milliseconds."""

import string
from fractions import Fraction as F
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from securefl.protocol.messages import state_digest
from securefl.terms import (
    Adapter,
    FixedPoint,
    Hash,
    Learning,
    Plan,
    PoissonGaussian,
    ProtectionSpec,
    RunId,
    Scheme,
    Task,
)
from securefl.training.shared_model import SharedModel
from securefl.training.step import cross_entropy, per_record_gradients
from securefl.wire import layout_digest


class Unread:
    """Records that nobody may look at."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError("records were read")


UNREAD: Any = Unread()
TASK = Task("classification", ("bad", "fine", "good"))
TARGETS = {"bert": ("query", "value", "attention.output.dense"), "gpt2": ("c_attn",), "llama": ("q_proj", "v_proj")}
KINDS = tuple(TARGETS)


def tokenizer() -> PreTrainedTokenizerFast:
    letters = string.ascii_lowercase + string.digits + "@.,!?'"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *("##" + letter for letter in letters)]
    inner = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def encoder(kind: str) -> torch.nn.Module:
    torch.manual_seed(7)
    words = 128
    if kind == "bert":
        return BertModel(
            BertConfig(vocab_size=words, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
                       max_position_embeddings=96), add_pooling_layer=False,
        )  # fmt: skip
    if kind == "gpt2":
        return GPT2Model(GPT2Config(vocab_size=words, n_positions=96, n_embd=32, n_layer=2, n_head=2))
    return LlamaModel(
        LlamaConfig(vocab_size=words, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, max_position_embeddings=96, attention_dropout=0.3)
    )  # fmt: skip


def saved(kind: str, folder: Path) -> Path:
    """The folder of a model as an operator would have it."""
    encoder(kind).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def adapter(kind: str, rank: int = 4, seed: int = 1) -> Adapter:
    return Adapter(TARGETS[kind], rank, 8, seed)


def shared(kind: str, folder: Path) -> SharedModel:
    return SharedModel.load(str(saved(kind, folder)), folder, TASK, adapter(kind))


def plan(of: SharedModel, **changes: object) -> Plan:
    given = {
        "clip_l2": F(1),
        "divisor": 8,
        "learning_rate": F(1, 2),
        "optimizer": "sgd",
        "max_tokens": 32,
        "micro_batch": 4,
    }
    event = PoissonGaussian(F(1, 2), F(1, 1000), 3)
    learning = Learning(**{"event": event, **given, **changes})  # type: ignore[arg-type]
    cover = ProtectionSpec(Scheme.CLEAR, 2, 2, 1, FixedPoint(24, 20, 32), None)
    return Plan("f", Hash(bytes(32)), RunId(bytes(16)), 1, "p", of.model, of.task, of.adapter, learning, cover, (),
                ("weights",), Hash(bytes(32)), of.dimension, layout=layout_digest(of.layout),
                start=state_digest(of.initial()))  # fmt: skip


def gradients_alone(of: SharedModel, texts: tuple[str, ...], seed: int, size: int) -> list[torch.Tensor]:
    """Per-record gradients of the first ``size`` texts, once each was found to be the one its record has alone."""
    built = of._built
    encoded = of._tokens(texts, tuple((seed + n) % 3 for n in range(len(texts))), 32)
    together = per_record_gradients(of._wrapped, built.parameters, encoded.batch(range(size)))
    for record in range(size):
        ids, mask, labels = encoded.batch([record])
        alone = torch.autograd.grad(cross_entropy(built.model(ids, mask), labels).sum(), built.parameters)
        scale = max(float(each.abs().max()) for each in alone)
        for (name, _), batch, one in zip(built.trainable, together, alone, strict=True):
            assert float((batch[record] - one).abs().max()) <= 1e-5 * max(scale, 1), name
    return together
