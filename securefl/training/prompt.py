"""Classification by a masked language model's own head: the words it expects in a pattern's gap (LP-FL-style).

Nothing is added to the model but the adapter: the rows of its output layer that stand for the labels' words are the
head, frozen. A record is cut so that pattern and gap are always whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from securefl.errors import OperatorFault
from securefl.terms import Prompt
from securefl.training.classifier import Classifier
from securefl.training.shapes import copied

TEXT, MASK = "{text}", "[MASK]"


class Prompted(Classifier):
    """A masked language model, its head's features in the gap, and a frozen row for each label."""

    def __init__(self, masked: nn.Module, rows: nn.Linear, gap: int) -> None:
        super().__init__(masked, rows.in_features, rows.out_features)
        self.head, self.gap = rows.requires_grad_(False), gap

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits: (batch, labels)."""
        logits: torch.Tensor = self.head(copied(self.pooled(ids, mask).to(self.head.weight.dtype)))[:, 0]
        return logits.to(self.center.dtype)

    def pooled(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What the language model's head makes of each record's gap, before its output layer: (batch, hidden)."""
        features: torch.Tensor = self.encoder(input_ids=ids, attention_mask=mask).logits  # (batch, tokens, hidden)
        return features[torch.arange(len(ids), device=ids.device), (ids == self.gap).int().argmax(1)]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern in a tokenizer's ids: what stands before a text and behind it."""

    before: tuple[int, ...]
    behind: tuple[int, ...]
    blank: str  # between what stands before and the text
    gap: int

    @property
    def taken(self) -> int:
        """How many tokens are not the text's."""
        return len(self.before) + len(self.behind)

    def around(self, text: tuple[int, ...], max_tokens: int) -> tuple[int, ...]:
        """A text in its pattern, cut alone; a gap that it brings with it is taken out.

        Raises:
            OperatorFault: the pattern leaves no room for a text.
        """
        room = max_tokens - self.taken
        if room < 1:
            what = f"max_tokens {max_tokens} leaves no room for a text: the pattern takes {self.taken}"
            raise OperatorFault(what, f"raise it to {max_tokens - room + 8} at least, or shorten the pattern")
        return (*self.before, *[each for each in text if each != self.gap][:room], *self.behind)


def pattern_of(prompt: Prompt, tokenizer: Any) -> Pattern:  # noqa: ANN401 - a transformers tokenizer
    """The prompt's pattern in this tokenizer's ids.

    Raises:
        OperatorFault: the tokenizer has no token for a gap.
    """
    if tokenizer.mask_token is None:
        raise OperatorFault("the tokenizer has no mask token", "a prompt needs a masked language model", "task.kind")
    start, _, end = prompt.pattern.replace(MASK, tokenizer.mask_token).partition(TEXT)
    whole, inner = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    at = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
    before, behind = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (start.rstrip(), end))
    return Pattern(
        (*whole[:at], *before), (*behind, *whole[at + len(inner) :]), start[len(start.rstrip()) :],
        tokenizer.mask_token_id,
    )  # fmt: skip


def rows_of(prompt: Prompt, masked: nn.Module, tokenizer: Any, name: str) -> nn.Linear:  # noqa: ANN401
    """The labels' rows of the model's output layer, which the model then gives up: its logits are that layer's input.

    Raises:
        OperatorFault: a word is not one token, or stands for two labels; or the model has no linear output layer.
    """
    ids = [[_token(word, tokenizer) for word in words] for words in prompt.words]
    once = [each for row in ids for each in row]
    for each in once:
        if once.count(each) > 1:
            raise OperatorFault(f"the word {tokenizer.decode([each])!r} stands twice", "each once", "task.verbalizer")
    found = without_output(masked, name)
    rows, bias = nn.Linear(found.in_features, len(ids)), getattr(found, "bias", None)
    with torch.no_grad():
        rows.weight.copy_(torch.stack([found.weight[row].mean(0) for row in ids]))
        rows.bias.copy_(torch.stack([torch.zeros(()) if bias is None else bias[row].mean() for row in ids]))
    return rows


def without_output(masked: nn.Module, name: str) -> nn.Linear:
    """The model's output layer, taken out of it: its logits are now what that layer was given.

    Raises:
        OperatorFault: it has no linear output layer.
    """
    found: Any = getattr(masked, "get_output_embeddings", lambda: None)()
    at = [path for path, module in masked.named_modules() if module is found]
    if not isinstance(found, nn.Linear) or len(at) != 1:
        raise OperatorFault("no linear output layer that scores words", "use a masked language model", name)
    parent, _, last = at[0].rpartition(".")
    setattr(masked.get_submodule(parent), last, nn.Identity())
    return found


def _token(word: str, tokenizer: Any) -> int:  # noqa: ANN401
    ids = tokenizer(" " + word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] in tokenizer.all_special_ids:
        pieces = " ".join(tokenizer.convert_ids_to_tokens(ids))
        raise OperatorFault(
            f"the word {word!r} is not one token of this model ({pieces})", "choose another", "task.verbalizer"
        )
    return int(ids[0])
