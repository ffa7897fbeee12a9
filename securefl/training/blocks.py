"""The blocks that a model is a stack of: which of them carry an adapter, and how many of them are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from securefl.errors import OperatorFault
from securefl.terms import Adapter

FIELD = "adapter."  # an error's place, in whichever document names the adapter
COUNTS = ("num_hidden_layers", "n_layer", "n_layers")  # what configurations call their number


def inner(model: nn.Module) -> nn.Module:
    """The base model inside of what PEFT put around it."""
    base: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return base


def path_of(model: nn.Module) -> str | None:
    """Return where the model's blocks stand, outermost first; None where it is no stack of blocks of one kind."""
    config: Any = getattr(model, "config", None)
    counts = {getattr(config, name, None) for name in COUNTS} - {None}
    name: str
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) not in counts:
            continue
        if len({type(block) for block in module}) == 1:
            return name
    return None


def stack(model: nn.Module, path: str) -> tuple[nn.Module, ...]:
    """The blocks that stand there, in order."""
    return tuple(model.get_submodule(path).children())


@contextmanager
def named_in(document: Path) -> Iterator[None]:
    """What an adapter asks of a model that has it not is said of this document, which asks it.

    Raises:
        OperatorFault: as inside, with the document in its place.
    """
    try:
        yield
    except OperatorFault as fault:
        if not fault.place.startswith(FIELD):
            raise
        raise OperatorFault(fault.what, fault.remedy, f"{document}: {fault.place}") from fault


def check(model: nn.Module, adapter: Adapter, name: str) -> None:
    """Check that the model has the blocks that an adapter names.

    Raises:
        OperatorFault: it has fewer, or no stack of blocks is found in it.
    """
    path = path_of(model)
    for field, asked, written in (("layer", adapter.layer, "layer: {}"), ("layers", adapter.layers, "layers: last {}")):
        if asked is None:
            continue
        if path is None:
            what = f"`{written.format(asked)}`, and no stack of blocks is found in {name}"
            raise OperatorFault(what, f"leave {field} out, or use an encoder or decoder of blocks", FIELD + field)
        blocks = len(stack(model, path))
        if asked > blocks:
            what = f"`{written.format(asked)}`, and {name} has {blocks} blocks"
            raise OperatorFault(what, f"write `{written.format(blocks)}` or less", FIELD + field)


def cut(model: nn.Module, layer: int | None) -> None:
    """The model ends behind this block, the first being 1; what else stands behind its blocks stays."""
    path = path_of(model)
    if layer is None or path is None:
        return
    parent, _, last = path.rpartition(".")
    blocks: Any = model.get_submodule(path)
    setattr(model.get_submodule(parent), last, blocks[:layer])
    config: Any = model.config
    for name in COUNTS:
        if hasattr(config, name):
            setattr(config, name, layer)


def carrying(model: nn.Module, adapter: Adapter) -> tuple[str, ...] | None:
    """Return where the blocks stand that may carry the adapter; None where it may stand anywhere."""
    path = path_of(model)
    if adapter.layers is None or path is None:
        return None
    blocks = len(stack(model, path))
    return tuple(f"{path}.{number}" for number in range(blocks - adapter.layers, blocks))
