"""Trained vectors before the text: at the input (soft prompt), or as keys and values in every layer (prefix).

Both start as what the base model makes of words drawn from the seed, so the model starts as its base reading these
words first (Lester et al. 2021; Li and Liang 2021).
"""

from __future__ import annotations

import torch
from torch import nn

from securefl.errors import OperatorFault
from securefl.terms import Adapter
from securefl.terms.adapter_start import uniform
from securefl.training.modules.per_record import PerRecord


class SoftPrompt(nn.Module):
    """An encoder that reads ``virtual`` trained vectors before a record's own embeddings."""

    def __init__(self, base: nn.Module, start: torch.Tensor) -> None:
        super().__init__()
        self.base, self.prompt, self.config, self.virtual = base, PerRecord(start), base.config, len(start)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
        """As the encoder's; its hidden states are those of the record's own tokens."""
        prompt = self.prompt(input_ids)
        embedded = torch.cat([prompt, self.base.get_input_embeddings()(input_ids)], 1)  # type: ignore[operator]
        out = self.base(inputs_embeds=embedded, attention_mask=longer(attention_mask, self.virtual))
        out.last_hidden_state = out.last_hidden_state[:, self.virtual :]
        return out


class Prefix(nn.Module):
    """A decoder whose layers attend to ``virtual`` trained keys and values before a record's own."""

    def __init__(self, base: nn.Module, starts: list[torch.Tensor]) -> None:
        super().__init__()
        self.base, self.config, self.virtual = base, base.config, starts[0].shape[2]
        self.prefix = nn.ModuleList(PerRecord(start) for start in starts)  # each (2, heads, virtual, width)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
        """As the decoder's."""
        from transformers import DynamicCache  # noqa: PLC0415

        cache = DynamicCache()
        for number, layer in enumerate(self.prefix):
            keys, values = layer(input_ids).unbind(1)
            cache.update(keys, values, number)
        mask = longer(attention_mask, self.virtual)
        return self.base(input_ids=input_ids, attention_mask=mask, past_key_values=cache)


def longer(mask: torch.Tensor, virtual: int) -> torch.Tensor:
    """The mask with as many more positions in front, all of them read."""
    return torch.cat([mask.new_ones(len(mask), virtual), mask], 1)


def words(encoder: nn.Module, adapter: Adapter) -> torch.Tensor:
    """As many token ids as there are vectors, drawn from the seed: (1, rank)."""
    size = encoder.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    drawn = uniform(b"virtual words\0", adapter.seed, "", adapter.rank)
    return torch.from_numpy((drawn * size).astype("int64")).unsqueeze(0)


def soft_prompt(encoder: nn.Module, adapter: Adapter) -> nn.Module:
    """The encoder behind a soft prompt."""
    return SoftPrompt(encoder, encoder.get_input_embeddings()(words(encoder, adapter))[0])  # type: ignore[operator]


def prefix(encoder: nn.Module, adapter: Adapter, name: str) -> nn.Module:
    """The decoder with a prefix.

    Raises:
        OperatorFault: the model keeps no keys and values, so it is no decoder.
    """
    encoder.eval()
    with torch.no_grad():
        cache = getattr(encoder(input_ids=words(encoder, adapter), use_cache=True), "past_key_values", None)
    if cache is None:
        what = f"a {type(encoder).__name__} takes no prefix: it is no decoder, and keeps no keys and values"
        raise OperatorFault(what, "set adapter.kind to soft-prompt, or use a decoder such as GPT-2 or Llama", name)
    return Prefix(encoder, [torch.cat([layer.keys, layer.values]) for layer in cache.layers])
