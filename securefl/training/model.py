"""The model a member trains: a frozen encoder with an adapter, mean pooling, and a linear head.

LoRA's A starts with orthonormal rows drawn from the plan's seed, the same at every member. Where it stays frozen, the
mean of the members' B gives the exact mean of their updates (FFA-LoRA, Sun et al. 2024), and noise on B is not
multiplied by noise on A.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from securefl.errors import Missing, OperatorFault
from securefl.terms import Adapter, Hash, Task
from securefl.terms.layout import can_change
from securefl.training import blocks, prompt, token_rows
from securefl.training.adapters import attached, check_targets, without_dropout
from securefl.training.built import Built
from securefl.training.classifier import Classifier
from securefl.training.foreign import others_code
from securefl.training.init import orthonormal
from securefl.training.model_files import check_unchanged, folder_of, model_digest
from securefl.training.trial import check_finite, width

NO_CODE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}  # neither fetched nor run
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
    """Return what ``auto`` makes of a model's files, and its tokenizer. The files are the same before and after.

    Raises:
        Missing, OperatorFault, Tampered: as for ``base_of``.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415

    digest, folder = pinned or model_digest(found), str(folder_of(found))
    what, remedy = (
        "no tokenizer that can be loaded",
        "put the model's tokenizer files there, as save_pretrained writes them",
    )
    with _quiet():
        encoder = _base(auto, folder)
        with others_code(what, remedy, str(found), Missing):
            tokenizer = AutoTokenizer.from_pretrained(folder, **NO_CODE)
    check_unchanged(found, digest)
    return encoder, tokenizer


def _base(auto: Any, folder: str) -> nn.Module:  # noqa: ANN401 - a transformers class
    given: dict[str, Any] = {
        "dtype": torch.float32, "output_loading_info": True, "use_safetensors": True, "ignore_mismatched_sizes": True,
        **NO_CODE,
    }  # fmt: skip
    remedy = "use a model whose config.json and weights this version of transformers reads"
    with others_code("no model that can be loaded", remedy, folder, Missing):
        try:
            base, info = auto.from_pretrained(folder, add_pooling_layer=False, **given)
        except TypeError:  # not every architecture has a pooling layer to leave out
            base, info = auto.from_pretrained(folder, **given)
    for name, stored, wanted in sorted(info["mismatched_keys"]):  # they were drawn anew: told here, not at the load
        what = f"the weight `{name}` is {_by(stored)} in the file and {_by(wanted)} by config.json"
        raise OperatorFault(what, "use weights and config.json of one model", folder)
    absent = sorted(map(str, info["missing_keys"]))
    if absent:
        what = f"the weights lack {len(absent)} tensors, `{absent[0]}` first: each member would draw its own"
        raise OperatorFault(what, "use files that hold the whole encoder, and for a prompt its own head", folder)
    module: nn.Module = base
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()  # what safetensors gives is the file itself: writing into it moved the model
    check_finite(module, folder)
    return module


def _by(shape: Any) -> str:  # noqa: ANN401 - of torch
    return " x ".join(map(str, shape)) or "one number"


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
    token_rows.check(tokenizer, encoder, REFERENCE, name)
    config.use_cache = False
    without_dropout(encoder)
    blocks.check(encoder, adapter, name)
    blocks.cut(encoder, adapter.layer)
    hidden = width(encoder, name) if task.prompt is None else 0  # a prompt reads the model's own head
    check_targets(encoder, adapter, name)
    encoder.requires_grad_(False)
    model = _classifier(encoder, tokenizer, task, adapter, name, hidden)
    without_dropout(model)
    for parameter_name, parameter in model.named_parameters():
        if "lora_A" in parameter_name:
            parameter.data.copy_(orthonormal(adapter.seed, parameter_name, tuple(parameter.shape)))
        parameter.requires_grad_(parameter.requires_grad and can_change(adapter.rule, parameter_name))
    if task.prompt is None and (adapter.features is None or adapter.features.centered):
        _center(model, tokenizer)
    stateful = tuple(sorted((n, p) for n, p in model.named_parameters() if p.requires_grad))
    return Built(model.train(), tokenizer, stateful, stateful, adapter)


def _classifier(
    encoder: nn.Module, tokenizer: Any, task: Task, adapter: Adapter, name: str, hidden: int  # noqa: ANN401
) -> Classifier:  # fmt: skip
    if task.prompt is None:
        wrapped = attached(encoder, adapter, name)
        return Classifier(wrapped, hidden, len(task.labels), adapter.pooling, adapter.features)
    rows, gap = prompt.rows_of(task.prompt, encoder, tokenizer, name), prompt.pattern_of(task.prompt, tokenizer).gap
    return prompt.Prompted(attached(encoder, adapter, name), rows, gap)


def _center(model: Classifier, tokenizer: Any) -> None:  # noqa: ANN401 - a transformers tokenizer
    """The mean feature of the reference texts, on a grid coarse enough to be the same on every machine."""
    rows = [tokenizer(text, truncation=True, max_length=24)["input_ids"] for text in REFERENCE]
    with torch.no_grad():
        features = [model.pooled(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long)) for row in rows]
        model.center.copy_(torch.round(torch.cat(features).mean(0) * 1024) / 1024)
