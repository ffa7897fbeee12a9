"""Put an adapter on the layers of a frozen encoder that a plan names."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from securefl.errors import OperatorFault
from securefl.terms import Adapter, AdapterKind
from securefl.training import blocks
from securefl.training.modules import bottleneck, virtual

KEY_BIASES = ("key.bias", "k_proj.bias", "k_lin.bias")  # attention takes them out again: their gradient is rounding


def attached(encoder: nn.Module, adapter: Adapter, name: str) -> nn.Module:
    """The frozen encoder with its adapter, whose tensors are all trainable; ``name`` is what errors call the model."""
    match adapter.kind:
        case AdapterKind.HEAD:
            return encoder
        case AdapterKind.BOTTLENECK:
            return bottleneck.attach(encoder, adapter, _names(encoder, adapter))
        case AdapterKind.FULL:
            for part in _names(encoder, adapter):
                for tensor, parameter in encoder.get_submodule(part).named_parameters():
                    parameter.requires_grad_(not tensor.endswith(KEY_BIASES))
            return encoder
        case AdapterKind.SOFT_PROMPT:
            return virtual.soft_prompt(encoder, adapter)
        case AdapterKind.PREFIX:
            return virtual.prefix(encoder, adapter, name)
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    lora = LoraConfig(
        r=adapter.rank, lora_alpha=adapter.alpha, target_modules=_names(encoder, adapter), lora_dropout=0.0,
        bias="none", use_rslora=adapter.kind is AdapterKind.RSLORA,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # PEFT sets it right for Conv1D, and says so
        warnings.simplefilter("ignore", FutureWarning)  # between PEFT and transformers
        wrapped: nn.Module = get_peft_model(encoder, lora)
    return wrapped


def write_factors(wrapped: nn.Module, model: str, out: Path) -> None:
    """Write LoRA as PEFT loads it, for the base model of this name; no file says which class that model is built by.

    PEFT would name the class of the model in memory, and `AutoPeftModel` would then import whatever stands there. An
    auditor has no model to hold that name against, so there is none.
    """
    wrapped.peft_config["default"].base_model_name_or_path = model  # type: ignore[index, union-attr]
    wrapped.save_pretrained(str(out), save_embedding_layers=False)  # type: ignore[operator]
    path = out / "adapter_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"auto_mapping": None}, indent=2, sort_keys=True),
        encoding="utf-8",
    )


def without_dropout(model: nn.Module) -> None:
    """A record's gradient is a function of the record: no layer draws anything, nor one that is made later."""
    for module in model.modules():
        config = getattr(module, "config", None)
        for name, value in vars(config).items() if config is not None else ():
            if "drop" in name and isinstance(value, float):  # some models make layers anew at their first row
                setattr(config, name, 0.0)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):  # attention reads its own copy of the configuration
                setattr(module, name, 0.0)


def _names(encoder: nn.Module, adapter: Adapter) -> list[str]:
    """The full names of the target layers: a name matches whole dotted parts at the end."""
    return _matched(encoder, adapter, adapter.targets)


def _matched(encoder: nn.Module, adapter: Adapter, targets: Sequence[str]) -> list[str]:
    """The layers that targets stand for, in the blocks that may carry the adapter."""
    where = blocks.carrying(encoder, adapter)
    return [
        name
        for name in _inside(encoder)
        if any(name == target or name.endswith("." + target) for target in targets)
        and (where is None or any(f"{name}.".startswith(f"{block}.") for block in where))
    ]


def _inside(encoder: nn.Module) -> dict[str, nn.Module]:
    """The layers that an adapter can sit on, by name: those of a language model's head are not among them."""
    base = getattr(encoder, "base_model_prefix", "")
    inner = f"{base}." if base and hasattr(encoder, base) else ""
    return {name: module for name, module in encoder.named_modules() if name.startswith(inner)}


def check_targets(encoder: nn.Module, adapter: Adapter, name: str) -> None:
    """Check that every target names linear layers.

    Raises:
        OperatorFault: one names none, or another kind of layer.
    """
    modules = _inside(encoder)
    linear = sorted({n.rsplit(".", 1)[-1] for n, module in modules.items() if _is_linear(module)})
    for target in adapter.targets:
        matched = _matched(encoder, adapter, [target])
        if not matched:
            where = "" if adapter.layers is None else f" in the last {adapter.layers} blocks"
            raise OperatorFault(f"no layer `{target}`{where}", f"linear layers end in: {', '.join(linear)}", name)
        for found in matched:
            if not _is_linear(modules[found]) and adapter.kind is not AdapterKind.FULL:
                what, remedy = f"`{found}` is a {type(modules[found]).__name__}", "adapters go on linear layers: "
                raise OperatorFault(what, remedy + ", ".join(linear), name)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
