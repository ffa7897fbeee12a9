"""What a model can do is found by trying it, on made-up text, and whatever its own code raises is told by name.

A model's files and code are somebody else's. A field of its configuration is a claim: some count positions that no text
can use, others a width that its states do not have. So what it can do is tried once, before any record is read and
before anything is reserved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn

from securefl.errors import OperatorFault
from securefl.training.foreign import others_code

FIRST_IDS: Final = 2  # a row that every model with an embedding can take


def width(encoder: nn.Module, name: str) -> int:
    """Entries of one token's last state: as the model gives it, not as its configuration says.

    Raises:
        OperatorFault: the model is an encoder and a decoder in one, or gives no states of the tokens it was given.
    """
    if getattr(getattr(encoder, "config", None), "is_encoder_decoder", False):
        what = f"{type(encoder).__name__} is an encoder and a decoder in one, which is not supported"
        raise OperatorFault(what, "use an encoder such as BERT or a decoder such as Llama", name)
    ids, remedy = torch.zeros(1, FIRST_IDS, dtype=torch.long), "use a transformers encoder or decoder of text"
    with torch.no_grad(), others_code(f"{type(encoder).__name__} takes no row of tokens", remedy, name):
        states: Any = getattr(encoder(input_ids=ids, attention_mask=torch.ones_like(ids)), "last_hidden_state", None)
    if not isinstance(states, torch.Tensor) or states.shape[:-1] != ids.shape:
        raise OperatorFault(f"{type(encoder).__name__} gives no state for each token", remedy, name)
    return int(states.shape[-1])


class Reads:
    """How long a record may be: each length is tried once, and no field of a configuration is asked."""

    def __init__(self, name: str, run: Callable[[int], None]) -> None:
        self._name, self._run, self._tried = name, run, dict[int, int]()

    def check(self, most: int, place: str) -> None:
        """Check that rows of up to ``most`` tokens can be run.

        Raises:
            OperatorFault: they cannot; with the longest that can.
        """
        fitting = self.fitting(most)
        if not fitting:
            raise OperatorFault(f"{self._name} takes no text: {self._wrong(most)}", "use another model", place)
        if fitting < most:
            what = f"found {most} tokens, and {self._name} takes texts of at most {fitting}"
            raise OperatorFault(what, f"set max_tokens to at most {fitting}", place)

    def fitting(self, most: int) -> int:
        """The longest row of up to ``most`` tokens that can be run; 0 if none can."""
        if most not in self._tried:
            fits = not self._wrong(most)
            self._tried[most] = most if fits else longest(lambda tokens: not self._wrong(tokens), most)
        return self._tried[most]

    def _wrong(self, tokens: int) -> str:
        """Return what goes wrong with rows of so many tokens; nothing if nothing does."""
        try:
            with others_code("it cannot be run", "", ""):
                self._run(tokens)
        except OperatorFault as fault:
            return fault.what
        return ""


def longest(fits: Callable[[int], bool], most: int) -> int:
    """The longest row below ``most`` tokens that fits, where shorter ones fit if a longer one does; 0 if none does."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def check_finite(model: nn.Module, folder: str) -> None:
    """Check that every weight is a number.

    Raises:
        OperatorFault: naming the first that is not.
    """
    for name, each in model.named_parameters():
        if each.is_floating_point() and not bool(torch.isfinite(each).all()):
            raise OperatorFault(f"the weight `{name}` is not finite", "use files whose weights are all numbers", folder)
