"""Which engine a model gets."""

from __future__ import annotations

from torch import nn

from securefl.errors import OperatorFault
from securefl.training.engines.engine import Engine
from securefl.training.engines.fast import Fast, outside
from securefl.training.engines.hooks import Opacus
from securefl.training.engines.refusals import refuse


def wrap(model: nn.Module, engine: str = "auto") -> Engine:
    """The model with an engine: ``fast`` or ``opacus`` by name, or with ``auto`` the fast one where it can serve.

    Raises:
        OperatorFault: a layer mixes records, a trainable tensor belongs to no layer that is known, or the engine that
            is asked for cannot serve it.
    """
    refuse(model)
    without = outside(model)
    if engine == "opacus" or (engine == "auto" and without is not None):
        return Opacus(model)
    if engine not in ("auto", "fast"):
        raise OperatorFault(f"no engine `{engine}`", "auto, fast or opacus is expected", "training.engine")
    if without is not None:
        owner = type(model.get_submodule(without.rpartition(".")[0])).__name__
        what = f"the trainable tensor `{without}` is in a {owner}; the fast engine serves linear layers"
        raise OperatorFault(what, "set it to auto or opacus", "training.engine")
    return Fast(model)
