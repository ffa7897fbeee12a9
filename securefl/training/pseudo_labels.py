"""What the broadcast model would answer for a record, and how far that is trusted: FewFedWeight-style, reconstructed.

Dong et al. (2022) weight pseudo samples by energy; their formula was not to be had. Weights that are normalised over a
member's records make every record's gradient depend on all of them, so here a score is held against public text.
"""

from __future__ import annotations

import torch

from securefl.terms import PseudoLabels, Scorer
from securefl.training.shapes import COPIES, by_row

PIECE = 1 << 14  # numbers that are computed at once: PyTorch gives fewer than 2**15 to one thread


def unsure(scorer: Scorer, temperature: float, logits: torch.Tensor) -> torch.Tensor:
    """Return how unsure a model is of each record, lower is surer: logits (records, labels) -> (records,)."""
    cool = logits / temperature
    match scorer:
        case Scorer.ENERGY:
            return -temperature * cool.logsumexp(1)
        case Scorer.ENTROPY:
            said = cool.log_softmax(1)
            return -(said.exp() * said).sum(1)
        case Scorer.MARGIN:
            first, second = cool.topk(2, dim=1).values.unbind(1)
            return second - first
        case Scorer.NONE:
            return torch.zeros(len(logits))


def answers(loss: PseudoLabels, round_: int, logits: torch.Tensor, public: torch.Tensor) -> torch.Tensor:
    """Pseudo label and weight of each record, in [0, 1]: (records, labels), (public texts, labels) -> (records, 2).

    Each row is a function of its own logits and the public ones, bit for bit, however many others there are: it is
    computed on copies of itself, in pieces that one thread does. A model that prefers no label is not heard.
    """
    reference = unsure(loss.scorer, float(loss.temperature), public).median()
    at_once = max(1, PIECE // (COPIES * logits.shape[1]))
    found = logits.new_zeros(len(logits), 2)
    for begin in range(0, len(logits), at_once):
        part = slice(begin, begin + at_once)
        found[part] = by_row(lambda rows: _answers(loss, round_, rows, reference), logits[part])
    return found


def _answers(loss: PseudoLabels, round_: int, logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    guess = logits.argmax(1).to(logits.dtype)
    heard = (logits.amax(1) > logits.amin(1)) & (round_ >= loss.first)
    if loss.scorer is Scorer.NONE:
        return torch.stack([guess, heard.to(logits.dtype)], 1)
    weight = torch.sigmoid((reference - unsure(loss.scorer, float(loss.temperature), logits)) / float(loss.width))
    return torch.stack([guess, torch.where(heard, weight, 0)], 1)
