"""A record's loss, of its own logits and its own target alone: nothing is averaged, ranked or drawn over records.

Where the broadcast model teaches, its logits for a record stand in the record's target, behind the label: they are a
function of that record and of a state that is private already.
"""

from __future__ import annotations

import torch
from torch import nn

from securefl.terms import CrossEntropy, Loss, NotTrueDistillation, PseudoLabels, SoftLabels
from securefl.terms.records import UNKNOWN
from securefl.training.step import Losses, cross_entropy


def taught(loss: Loss) -> bool:
    """Return whether it needs the broadcast model's logits."""
    return not isinstance(loss, CrossEntropy)


def losses_of(loss: Loss, round_: int) -> Losses:
    """The losses of a round: logits (batch, labels) and targets -> (batch,).

    Targets are labels (batch,), or where ``taught`` label and the broadcast model's logits (batch, 1 + labels); for
    ``PseudoLabels`` label, pseudo label and its weight (batch, 3).
    """
    match loss:
        case NotTrueDistillation():
            return lambda logits, targets: not_forgotten(loss, logits, targets)
        case SoftLabels():
            threshold = float(loss.threshold(round_))
            return lambda logits, targets: soft(loss, threshold, logits, targets)
        case PseudoLabels():
            return lambda logits, targets: joint(loss, logits, targets)
    return cross_entropy


def not_forgotten(loss: NotTrueDistillation, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus what the broadcast model says that this one no longer does: (batch,)."""
    label, t = targets[:, 0].long(), float(loss.temperature)
    own, teacher = logits / t, targets[:, 1:] / t
    if not loss.true_label:
        true = nn.functional.one_hot(label, logits.shape[1]).bool()
        own, teacher = own.masked_fill(true, -1e9), teacher.masked_fill(true, -1e9)
    return cross_entropy(logits, label) + float(loss.beta) * t**2 * divergence(teacher, own)


def soft(loss: SoftLabels, threshold: float, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Its label's cross-entropy where it has one; else the broadcast model's opinion, if that is sure: (batch,)."""
    label, teacher = targets[:, 0].long(), targets[:, 1:] / float(loss.temperature)
    sure = (teacher.softmax(1).amax(1) >= threshold).to(logits.dtype)
    learned = float(loss.weight) * sure * divergence(teacher, logits)
    return torch.where(label == UNKNOWN, learned, cross_entropy(logits, label.clamp(min=0)))


def joint(loss: PseudoLabels, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Its label's cross-entropy, and the pseudo label's as far as that is trusted: (batch,)."""
    label, pseudo = targets[:, :2].long().unbind(1)
    return cross_entropy(logits, label) + float(loss.weight) * targets[:, 2] * cross_entropy(logits, pseudo)


def divergence(teacher: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """KL(softmax(teacher) || softmax(own)) of each row: (batch,)."""
    said, says = teacher.log_softmax(1), own.log_softmax(1)
    return (said.exp() * (said - says)).sum(1)
