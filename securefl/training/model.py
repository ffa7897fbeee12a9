"""The model a member trains: a frozen encoder with LoRA whose A is frozen too, mean pooling, and a linear head.

A has orthonormal rows drawn from the plan's seed, the same at every member, so the mean of the members' B gives the exact
mean of their updates (FFA-LoRA, Sun et al. 2024), and noise on B is not multiplied by noise on A.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from securefl.errors import Missing, OperatorFault
from securefl.terms import Adapter, Hash, Task

FILES = ("*.json", "*.safetensors", "*.bin", "*.model", "vocab.txt", "merges.txt", "*.gguf")


def model_digest(found: Path | str) -> Hash:
    """SHA-256 over the names and bytes of configuration, weights and tokenizer."""
    folder = found if isinstance(found, Path) else _cached(found)
    total = hashlib.sha256(b"model\0")
    files = sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()})
    if not files:
        raise Missing("no model here", "a folder with config.json and weights is expected", str(folder))
    for path in files:
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return Hash(total.digest())


def _cached(name: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as fault:
        raise Missing("this model is not on this machine", "fetch it first; nothing is fetched here", name) from fault


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
        logits: torch.Tensor = self.head(self.pooled(ids, mask) - self.center)
        return logits

    def pooled(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Mean-pooled features: (batch, hidden)."""
        hidden: torch.Tensor = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state  # (batch, tokens, hidden)
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


@dataclass(frozen=True, slots=True)
class Built:
    """A model ready to be trained, and how to turn text into its input."""

    model: Classifier
    tokenizer: Any  # a transformers tokenizer
    trainable: tuple[tuple[str, nn.Parameter], ...]  # sorted by name: the layout of an adapter state

    @property
    def dimension(self) -> int:
        """Entries of an adapter state."""
        return sum(parameter.numel() for _, parameter in self.trainable)


def build(found: Path | str, task: Task, adapter: Adapter) -> Built:
    """The base model with adapter and head; only B and the head can move.

    Raises:
        Missing: the model is not on this machine.
        OperatorFault: it is no encoder this code can pool, or a target is no linear layer of it.
    """
    from transformers import AutoModel, AutoTokenizer, logging  # noqa: PLC0415

    logging.set_verbosity_error()  # a base model without its own head is what is wanted here
    logging.disable_progress_bar()
    encoder = _base(AutoModel, found)
    tokenizer = AutoTokenizer.from_pretrained(str(found), local_files_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return assemble(encoder, tokenizer, task, adapter, str(found))


def _base(auto: Any, found: Path | str) -> nn.Module:  # noqa: ANN401 - a transformers class
    try:
        try:
            base = auto.from_pretrained(str(found), local_files_only=True, dtype=torch.float32, add_pooling_layer=False)
        except TypeError:  # not every architecture has a pooling layer to leave out
            base = auto.from_pretrained(str(found), local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as fault:
        why = str(fault).splitlines()[0][:200]
        raise Missing(f"no model that can be loaded: {why}", "a folder or cached model with config and weights", str(found)) from fault
    module: nn.Module = base
    return module


def assemble(encoder: nn.Module, tokenizer: Any, task: Task, adapter: Adapter, name: str) -> Built:  # noqa: ANN401
    """Adapter and head on an encoder that is in memory."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    hidden = getattr(getattr(encoder, "config", None), "hidden_size", None)
    if not isinstance(hidden, int):
        raise OperatorFault("a model without `hidden_size`", "use a transformers encoder or decoder", name)
    _check_targets(encoder, adapter, name)
    config = LoraConfig(
        r=adapter.rank, lora_alpha=adapter.alpha, target_modules=_names(encoder, adapter), lora_dropout=0.0, bias="none"
    )
    model = Classifier(get_peft_model(encoder, config), hidden, len(task.labels))  # type: ignore[arg-type]
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for parameter_name, parameter in model.named_parameters():
        if "lora_A" in parameter_name:
            parameter.data.copy_(_orthonormal(adapter.seed, parameter_name, tuple(parameter.shape)))
        parameter.requires_grad_("lora_B" in parameter_name or parameter_name.startswith("head."))
    _center(model, tokenizer)
    trainable = tuple(sorted((n, p) for n, p in model.named_parameters() if p.requires_grad))
    return Built(model.train(), tokenizer, trainable)


def _center(model: Classifier, tokenizer: Any) -> None:  # noqa: ANN401 - a transformers tokenizer
    """The mean feature of the reference texts, on a grid coarse enough to be the same on every machine."""
    rows = [tokenizer(text, truncation=True, max_length=24)["input_ids"] for text in REFERENCE]
    with torch.no_grad():
        features = [model.pooled(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long)) for row in rows]
        model.center.copy_(torch.round(torch.cat(features).mean(0) * 1024) / 1024)


def _names(encoder: nn.Module, adapter: Adapter) -> list[str]:
    """The full names of the target layers: a name matches whole dotted parts at the end."""
    return [
        name
        for name, _ in encoder.named_modules()
        if any(name == target or name.endswith("." + target) for target in adapter.targets)
    ]


def _check_targets(encoder: nn.Module, adapter: Adapter, name: str) -> None:
    modules = dict(encoder.named_modules())
    linear = sorted({n.rsplit(".", 1)[-1] for n, module in modules.items() if _is_linear(module)})
    for target in adapter.targets:
        matched = [n for n in modules if n == target or n.endswith("." + target)]
        if not matched:
            raise OperatorFault(f"no layer `{target}`", f"linear layers end in: {', '.join(linear)}", name)
        for found in matched:
            if not _is_linear(modules[found]):
                kind = type(modules[found]).__name__
                raise OperatorFault(f"`{found}` is a {kind}", "adapters go on linear layers: " + ", ".join(linear), name)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _orthonormal(seed: int, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Orthonormal rows that only depend on seed, name and shape: (rank, in)."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415

    rank, width = shape
    if rank > width:
        raise OperatorFault(f"rank {rank} on a layer of width {width}", f"lower rank to {width}", name)
    key = hashlib.sha256(b"lora-a\0" + seed.to_bytes(8, "big") + name.encode()).digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * rank * width))
    uniform = (np.frombuffer(stream, "<u8") >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 0.5
    rows = uniform.reshape(rank, width)
    for i in range(rank):  # modified Gram-Schmidt, twice: the same steps on every machine
        for _ in range(2):
            for j in range(i):
                rows[i] -= (rows[i] * rows[j]).sum() * rows[j]
            rows[i] /= np.sqrt((rows[i] * rows[i]).sum())
    return torch.from_numpy(rows.astype(np.float32))
