"""A small decoder over bytes whose weights follow from a public seed: the same at every member, and nothing to fetch.

Named ``bytes:BLOCKSxWIDTH``, or ``bytes:BLOCKSxWIDTH:SEED``. Pre-norm blocks with learned positions (GPT-2's shape).
Every tensor is in a linear layer or expanded by record, so all of them can be trained under any engine.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn

from securefl.errors import OperatorFault
from securefl.terms import Hash
from securefl.terms.adapter_start import uniform
from securefl.training.modules.per_record import PerRecord

PREFIX = "bytes:"
POSITIONS, BYTES, HEAD_WIDTH, BEGIN = 256, 256, 32, 0  # no UTF-8 text holds a zero but as itself: it begins one
LARGEST = (12, 512)  # blocks, width


@dataclass(frozen=True, slots=True)
class Shape:
    """What a name says."""

    blocks: int
    width: int
    seed: int

    @property
    def digest(self) -> Hash:
        """What pins the model: its weights are a function of this and of this file's first version."""
        return Hash(hashlib.sha256(f"bytes model 1\0{self.blocks}x{self.width}:{self.seed}".encode()).digest())


def shape_of(name: str) -> Shape:
    """The model a name stands for.

    Raises:
        OperatorFault: it is none.
    """
    found = re.fullmatch(r"bytes:(\d{1,2})x(\d{1,3})(?::(\d{1,9}))?", name)
    blocks, width = (int(found[1]), int(found[2])) if found else (0, 0)
    if not (1 <= blocks <= LARGEST[0] and 0 < width <= LARGEST[1] and width % HEAD_WIDTH == 0):
        remedy = f"bytes:BLOCKSxWIDTH, at most {LARGEST[0]}x{LARGEST[1]}, the width in steps of {HEAD_WIDTH}"
        raise OperatorFault("no model of bytes", remedy, name)
    assert found is not None, "else there were no blocks"
    return Shape(blocks, width, int(found[3] or 0))


class Bytes:
    """The tokenizer: a text's UTF-8 bytes, behind one that begins it."""

    pad_token_id = BEGIN

    def __len__(self) -> int:
        """Tokens there are."""
        return BYTES

    def __call__(
        self, texts: str | Sequence[str], *, truncation: bool, max_length: int, verbose: bool = False
    ) -> dict[str, list[list[int]]]:
        """As a transformers tokenizer answers for a list of texts."""
        del truncation, verbose
        rows = [texts] if isinstance(texts, str) else texts
        return {"input_ids": [[BEGIN, *row.encode("utf-8", "replace")][:max_length] for row in rows]}


class Attention(nn.Module):
    """Causal attention: (batch, tokens, width) -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Each position looks back, and at itself."""
        query, key, value = (
            layer(hidden).unflatten(2, (-1, HEAD_WIDTH)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        seen = nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True
        )  # (batch, heads, tokens, HEAD_WIDTH)
        out: torch.Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention and a two-layer network, each added to what came in, of what came in normed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention, self.up, self.down = Attention(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """The hidden states after this block: (batch, tokens, width)."""
        hidden = hidden + self.attention(self.norm(hidden))
        out: torch.Tensor = hidden + self.down(nn.functional.gelu(self.up(self.norm(hidden))))
        return out


class ByteGPT(nn.Module):
    """(batch, tokens) -> an object with ``logits``, (batch, tokens, 256), as a transformers decoder gives."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.config = SimpleNamespace(
            hidden_size=shape.width, num_hidden_layers=shape.blocks, vocab_size=BYTES,
            max_position_embeddings=POSITIONS, use_cache=False, to_dict=lambda: {"model_type": "bytes"},
        )  # fmt: skip
        self.embedding = PerRecord(torch.zeros(BYTES, shape.width))
        self.positions = PerRecord(torch.zeros(POSITIONS, shape.width))
        self.blocks = nn.ModuleList(Block(shape.width) for _ in range(shape.blocks))
        self.norm = nn.LayerNorm(shape.width, elementwise_affine=False)
        self.head = nn.Linear(shape.width, BYTES)
        with torch.no_grad():
            for name, each in self.named_parameters():
                each.copy_(_start(shape, name, tuple(each.shape)))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        """Padding stands behind the text, where no position of the text looks."""
        del attention_mask
        rows = self.embedding(input_ids)  # (batch, 256, width): a table for each record, so that each has a gradient
        hidden = rows.gather(1, input_ids.unsqueeze(2).expand(-1, -1, rows.shape[2]))
        hidden = hidden + self.positions(input_ids)[:, : input_ids.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        return SimpleNamespace(logits=self.head(self.norm(hidden)))


def _start(shape: Shape, name: str, size: tuple[int, ...]) -> torch.Tensor:
    """Uniform, of deviation 0.02 for tables and 1/sqrt(in) for layers, less for what is added up; biases are zero."""
    if name.endswith("bias"):
        return torch.zeros(size)
    deviation = 0.02 if name.startswith(("embedding", "positions", "head")) else 1 / math.sqrt(size[1])
    if name.endswith(("out.weight", "down.weight")):
        deviation /= math.sqrt(2 * shape.blocks)
    drawn = uniform(b"bytes model\0", shape.seed, name, math.prod(size))
    return torch.from_numpy(((drawn - 0.5) * math.sqrt(12) * deviation).astype("float32")).view(size)
