"""The model a member trains: a frozen encoder with an adapter, mean pooling, and a linear head.

LoRA's A starts with orthonormal rows drawn from the plan's seed, the same at every member. Where it stays frozen, the
mean of the members' B gives the exact mean of their updates (FFA-LoRA, Sun et al. 2024), and noise on B is not
multiplied by noise on A.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from securefl.errors import Missing, OperatorFault
from securefl.layout import Layout, Tensor, can_change, trains
from securefl.terms import Adapter, AdapterKind, Hash, Task
from securefl.training.model_files import check_unchanged, folder_of, model_digest
from securefl.training.modules import bottleneck, virtual
from securefl.training.shapes import copied
from securefl.training.start import orthonormal

if TYPE_CHECKING:
    from securefl.training.language import Language

NO_CODE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}  # neither fetched nor run
KEY_BIASES = ("key.bias", "k_proj.bias", "k_lin.bias")  # attention takes them out again: their gradient is rounding

# Made-up text in many registers: what the base model says of it is public. The mean of its features is taken off every
# record's, because most of a mean-pooled feature is a direction that all texts share, and noise finds that first.
REFERENCE = (
    "the train was late and nobody told us why",
    "thank you so much, that was quick and kind",
    "when does the office open tomorrow?",
    "this is the worst service i have ever had",
    "please send me the form by mail",
    "i love it, great work",
    "where can i find my order number",
    "no answer for two days, really disappointed",
    "the new design looks good",
    "can you help me change my booking",
    "it broke after a week",
    "we will be there at noon",
)


class Classifier(nn.Module):
    """Encoder, mean over the unmasked positions, linear head: (batch, tokens) -> (batch, labels).

    ``center`` (hidden,) is taken off the pooled features; it is a constant of the base model.
    """

    center: torch.Tensor

    def __init__(self, encoder: nn.Module, hidden: int, labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("center", torch.zeros(hidden), persistent=False)
        self.head = nn.Linear(hidden, labels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits: (batch, labels). No operation reaches from one record to another."""
        logits: torch.Tensor = self.head(copied(self.pooled(ids, mask) - self.center))[:, 0]
        return logits

    def pooled(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Mean-pooled features: (batch, hidden)."""
        hidden: torch.Tensor = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state.to(
            self.center.dtype
        )  # (batch, tokens, hidden)
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


@dataclass(frozen=True, slots=True)
class Built:
    """A model ready to be trained, and how to turn text into its input."""

    model: Classifier | Language
    tokenizer: Any  # a transformers tokenizer
    trainable: tuple[tuple[str, nn.Parameter], ...]  # what is trained now, sorted by name
    stateful: tuple[tuple[str, nn.Parameter], ...]  # what can ever change, sorted by name: an adapter state
    adapter: Adapter

    @property
    def layout(self) -> Layout:
        """The tensors of an adapter state."""
        return Layout(tuple(Tensor(name, tuple(each.shape)) for name, each in self.stateful), self.adapter.rule)

    @property
    def dimension(self) -> int:
        """Entries of an adapter state."""
        return self.layout.entries

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained now, in the layout's order."""
        return [parameter for _, parameter in self.trainable]

    def at(self, round_: int) -> Built:
        """The same model, ready for a round: what the round does not train is frozen."""
        for name, parameter in self.stateful:
            parameter.requires_grad_(trains(self.adapter.rule, name, round_))
        return replace(self, trainable=tuple((n, p) for n, p in self.stateful if p.requires_grad))

    @property
    def longest(self) -> int | None:
        """Tokens of a record that the encoder has positions for, as far as its configuration says."""
        found = getattr(self.model.encoder.config, "max_position_embeddings", None)
        taken = getattr(self.model.encoder, "virtual", 0)
        return found - taken if isinstance(found, int) else None


def build(found: Path | str, task: Task, adapter: Adapter, pinned: Hash | None = None) -> Built:
    """The base model with adapter and head; only they can move.

    Raises:
        Missing: the model is not on this machine.
        OperatorFault: it is no encoder this code can pool, or a target is no linear layer of it.
        Tampered: its files are not those that were ``pinned``.
    """
    encoder, tokenizer = base_of(found, masked=task.prompt is not None, pinned=pinned)
    return assemble(encoder, tokenizer, task, adapter, str(found))


def base_of(found: Path | str, *, masked: bool = False, pinned: Hash | None = None) -> tuple[nn.Module, Any]:
    """The base model as it is, and its tokenizer; ``masked`` with the head that fills a mask.

    Raises:
        Missing: the model is not on this machine.
        OperatorFault: its files do not hold the whole encoder.
        Tampered: its files are not those that were ``pinned``.
    """
    from transformers import AutoModel, AutoModelForMaskedLM  # noqa: PLC0415

    return loaded(AutoModelForMaskedLM if masked else AutoModel, found, pinned)


def loaded(auto: Any, found: Path | str, pinned: Hash | None) -> tuple[nn.Module, Any]:  # noqa: ANN401 - a transformers class
    """What ``auto`` makes of a model's files, and its tokenizer. The files are the same before and after.

    Raises:
        Missing, OperatorFault, Tampered: as for ``base_of``.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415

    digest, folder = pinned or model_digest(found), str(folder_of(found))
    with _quiet():
        encoder = _base(auto, folder)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **NO_CODE)
        except (OSError, ValueError, KeyError) as fault:
            remedy = "put the model's tokenizer files there"
            raise Missing("no tokenizer that can be loaded", remedy, str(found)) from fault
    check_unchanged(found, digest)
    return encoder, tokenizer


def _base(auto: Any, folder: str) -> nn.Module:  # noqa: ANN401 - a transformers class
    given: dict[str, Any] = {
        "dtype": torch.float32, "output_loading_info": True, "use_safetensors": True, **NO_CODE,
    }  # fmt: skip
    try:
        try:
            base, info = auto.from_pretrained(folder, add_pooling_layer=False, **given)
        except TypeError:  # not every architecture has a pooling layer to leave out
            base, info = auto.from_pretrained(folder, **given)
    except (OSError, ValueError, KeyError) as fault:
        why = (str(fault).splitlines() or [type(fault).__name__])[0][:200]
        remedy = "a folder or cached model with config and weights"
        raise Missing(f"no model that can be loaded: {why}", remedy, folder) from fault
    absent = sorted(map(str, info["missing_keys"]))
    if absent:
        what = f"the weights lack {len(absent)} tensors, `{absent[0]}` first: each member would draw its own"
        raise OperatorFault(what, "use files that hold the whole encoder, and for a prompt its own head", folder)
    module: nn.Module = base
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()  # what safetensors gives is the file itself: writing into it moved the model
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading draws no bars and gives no advice while the block runs."""
    from transformers.utils import logging  # noqa: PLC0415

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def assemble(encoder: nn.Module, tokenizer: Any, task: Task, adapter: Adapter, name: str) -> Built:  # noqa: ANN401
    """Adapter and head on an encoder that is in memory."""
    config: Any = getattr(encoder, "config", None)
    hidden = getattr(config, "hidden_size", None)
    if not isinstance(hidden, int):
        raise OperatorFault("a model without `hidden_size`", "use a transformers encoder or decoder", name)
    words = getattr(config, "vocab_size", None)
    if words is not None and len(tokenizer) > words:
        what = f"the tokenizer has {len(tokenizer)} tokens, the model {words}"
        raise OperatorFault(what, "use the model's own tokenizer", name)
    config.use_cache = False
    _check_targets(encoder, adapter, name)
    encoder.requires_grad_(False)
    model = _classifier(encoder, tokenizer, task, adapter, name, hidden)
    _without_dropout(model)
    for parameter_name, parameter in model.named_parameters():
        if "lora_A" in parameter_name:
            parameter.data.copy_(orthonormal(adapter.seed, parameter_name, tuple(parameter.shape)))
        parameter.requires_grad_(parameter.requires_grad and can_change(adapter.rule, parameter_name))
    if task.prompt is None:
        _center(model, tokenizer)
    stateful = tuple(sorted((n, p) for n, p in model.named_parameters() if p.requires_grad))
    return Built(model.train(), tokenizer, stateful, stateful, adapter)


def _classifier(
    encoder: nn.Module, tokenizer: Any, task: Task, adapter: Adapter, name: str, hidden: int  # noqa: ANN401
) -> Classifier:  # fmt: skip
    if task.prompt is None:
        return Classifier(attached(encoder, adapter, name), hidden, len(task.labels))
    from securefl.training import prompt  # noqa: PLC0415 - it builds on what is here

    rows, gap = prompt.rows_of(task.prompt, encoder, tokenizer, name), prompt.pattern_of(task.prompt, tokenizer).gap
    return prompt.Prompted(attached(encoder, adapter, name), rows, gap)


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


def _center(model: Classifier, tokenizer: Any) -> None:  # noqa: ANN401 - a transformers tokenizer
    """The mean feature of the reference texts, on a grid coarse enough to be the same on every machine."""
    rows = [tokenizer(text, truncation=True, max_length=24)["input_ids"] for text in REFERENCE]
    with torch.no_grad():
        features = [model.pooled(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long)) for row in rows]
        model.center.copy_(torch.round(torch.cat(features).mean(0) * 1024) / 1024)


def _without_dropout(model: nn.Module) -> None:
    """A record's gradient is a function of the record: no layer draws anything."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):  # attention reads its own copy of the configuration
                setattr(module, name, 0.0)


def _names(encoder: nn.Module, adapter: Adapter) -> list[str]:
    """The full names of the target layers: a name matches whole dotted parts at the end."""
    return [
        name
        for name in _inside(encoder)
        if any(name == target or name.endswith("." + target) for target in adapter.targets)
    ]


def _inside(encoder: nn.Module) -> dict[str, nn.Module]:
    """The layers that an adapter can sit on, by name: those of a language model's head are not among them."""
    base = getattr(encoder, "base_model_prefix", "")
    inner = f"{base}." if base and hasattr(encoder, base) else ""
    return {name: module for name, module in encoder.named_modules() if name.startswith(inner)}


def _check_targets(encoder: nn.Module, adapter: Adapter, name: str) -> None:
    modules = _inside(encoder)
    linear = sorted({n.rsplit(".", 1)[-1] for n, module in modules.items() if _is_linear(module)})
    for target in adapter.targets:
        matched = [n for n in modules if n == target or n.endswith("." + target)]
        if not matched:
            raise OperatorFault(f"no layer `{target}`", f"linear layers end in: {', '.join(linear)}", name)
        for found in matched:
            if not _is_linear(modules[found]) and adapter.kind is not AdapterKind.FULL:
                what, remedy = f"`{found}` is a {type(modules[found]).__name__}", "adapters go on linear layers: "
                raise OperatorFault(what, remedy + ", ".join(linear), name)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
