"""The server's optimizer that a document names."""

from __future__ import annotations

from securefl.documents.strategy import StrategyPart
from securefl.strategy.fedadam import FedAdam
from securefl.strategy.fedavg import FedAvg
from securefl.strategy.fednesterov import FedNesterov
from securefl.strategy.rules import Optimizer


def optimizer(strategy: StrategyPart) -> Optimizer:
    """The server's optimizer, with the numbers that the document gives it."""
    match strategy.kind:
        case "fedadam":
            return FedAdam(strategy.learning_rate, strategy.first, strategy.second, strategy.floor)
        case "fednesterov":
            return FedNesterov(strategy.learning_rate, strategy.momentum)
    return FedAvg(strategy.learning_rate, strategy.momentum)
