"""An adapter as files that PEFT loads, with the head and how to use both beside them."""

from __future__ import annotations

import json
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from securefl.errors import OperatorFault
from securefl.terms import Adapter, AdapterKind, Features, Pooling, Prompt, Task
from securefl.training import blocks, model_card
from securefl.training.adapters import attached, write_factors
from securefl.training.built import Built
from securefl.training.classifier import Classifier
from securefl.training.prompt import Prompted, without_output
from securefl.training.sources import DISTRIBUTION
from securefl.training.trial import width

ADAPTER, HEAD = "adapter_model.safetensors", "head.safetensors"
OWN, FACTS = "adapter.safetensors", "adapter.json"  # of a kind that PEFT does not know


def save(built: Built, task: Task, model: str, tokens: int, out: Path) -> None:
    """``out`` holds adapter, head, labels and a README, and no path of this machine.

    ``PeftModel.from_pretrained`` loads LoRA of every rule; ``load`` here loads every kind.

    Raises:
        OperatorFault: what was written does not come back as what was trained.
    """
    assert isinstance(built.model, Classifier), "a language model is saved by its own module"
    out.mkdir(parents=True, exist_ok=True)
    (out / "README.md").unlink(missing_ok=True)  # PEFT would read an older one as its own
    adapter, card = built.adapter, model_card.OWN
    if adapter.kind is AdapterKind.HEAD:
        card = model_card.HEAD_ALONE
    elif not adapter.kind.has_factors:
        save_file(_own(built.model), str(out / OWN), {"securefl": adapter.kind.value})
        (out / FACTS).write_text(json.dumps({"base": model, **asdict(adapter)}, indent=1), encoding="utf-8")
    else:
        card = model_card.LORA if task.prompt is None else model_card.PROMPT
        write_factors(built.model.encoder, model, out)
    head = _head(built.model)
    facts: dict[str, object] = {"base": model, "labels": task.labels, "pooling": adapter.pooling.words}
    if isinstance(built.model, Prompted) and task.prompt is not None:
        facts |= {"pooling": "the masked language model's head in the gap", **asdict(task.prompt)}
    if adapter.layer is not None:
        facts["layer"] = adapter.layer
    if adapter.features is not None:
        facts["features"] = _facts_of(adapter.features)
    save_file(head, str(out / HEAD), {"securefl": json.dumps(facts)})  # one key: several would be in a random order
    (out / "labels.json").write_text(json.dumps(task.labels), encoding="utf-8")
    asked = task.prompt or Prompt("", ())
    path, shown = blocks.path_of(blocks.inner(built.model.encoder)), model_card.shown(adapter)
    text = card.format(
        pooled=model_card.POOLED[adapter.pooling], cut=model_card.cut(adapter, path), shown=shown,
        read=model_card.READ[adapter.pooling],
        adapter=ADAPTER if adapter.kind.has_factors else OWN, model=model, base=_base_as_code(model), head=HEAD,
        tokens=tokens, labels=list(task.labels), kind=adapter.kind.value,
        argument=", with the folder of the base model as its argument" if _is_beside(model) else "",
        layout=model_card.LAYOUTS.get(adapter.kind, ""), pattern=asked.pattern,
        words=[list(each) for each in asked.words],
    )  # fmt: skip
    (out / "README.md").write_text(text, encoding="utf-8")
    _compare(built.model, out)


def _is_beside(model: str) -> bool:
    """Return whether this is a path from the federation's file, which says nothing where the adapter lies."""
    return model.startswith(".")


def _base_as_code(model: str) -> str:
    if _is_beside(model):
        return f"sys.argv[1]  # the folder that the federation's file calls {model!r}"
    if not model.startswith(DISTRIBUTION):
        return repr(model)
    package, _, inside = model.removeprefix(DISTRIBUTION).partition("/")
    return f"str(distribution({package!r}).locate_file({inside!r}))"


def _head(model: Classifier) -> dict[str, torch.Tensor]:
    """The head on features as they are: what training takes off them goes into the bias.

    With features of their own, what is taken off them stands beside the head.
    """
    if model.features is not None:
        return {"weight": model.head.weight.detach().cpu().contiguous(), "center": model.center.cpu().contiguous()}
    weight, bias = model.head.weight.detach().cpu(), model.head.bias.detach().cpu()
    return {"weight": weight.contiguous(), "bias": (bias - weight @ model.center.cpu()).contiguous()}


def _own(model: Classifier) -> dict[str, torch.Tensor]:
    """The tensors of an adapter that PEFT does not know; the base model is frozen, so they are what is trainable."""
    return {
        name: each.detach().cpu().contiguous() for name, each in model.encoder.named_parameters() if each.requires_grad
    }


def _compare(model: Classifier, out: Path) -> None:
    """PEFT ignores keys it does not know without a word, so what lies on disk is compared with what is in memory."""
    stored = {
        name: each
        for file in (ADAPTER, OWN)
        if (out / file).exists()
        for name, each in load_file(str(out / file)).items()
    }
    stored |= {f"head.{name}": tensor for name, tensor in load_file(str(out / HEAD)).items()}
    named = {name.replace(".default.", "."): each for name, each in model.encoder.named_parameters() if "lora_" in name}
    memory = {name: each.detach().cpu() for name, each in named.items()} or _own(model)
    memory |= {f"head.{name}": tensor for name, tensor in _head(model).items()}
    if stored.keys() != memory.keys() or any(not torch.equal(stored[name], tensor) for name, tensor in memory.items()):
        raise OperatorFault("the adapter on disk is not the one in memory", "check the files, and save again", str(out))


def load(base: torch.nn.Module, out: Path, tokenizer: Any = None) -> Classifier:  # noqa: ANN401 - of transformers
    """Load the classifier that was saved at ``out``, on its base model; every tensor is as it was saved.

    Args:
        tokenizer: the base model's own. A prompt needs it: its gap is the tokenizer's mask token, and no file says so.

    Raises:
        OperatorFault: the files are not for this base model, or a prompt comes without a tokenizer.
    """
    from peft import PeftModel  # noqa: PLC0415

    head = load_file(str(out / HEAD))
    facts = _facts(out)
    features = None if facts.get("features") is None else _features_of(facts["features"])
    labels, hidden = head["weight"].shape
    hidden -= features is not None
    blocks.cut(base, facts.get("layer"))
    gap = _gap(out, tokenizer) if "pattern" in facts else None
    here = width(base, str(out)) if gap is None else getattr(getattr(base, "config", None), "hidden_size", None)
    if here != hidden:
        what = f"an adapter for models of width {hidden}, and this one is {here} wide"
        raise OperatorFault(what, "load the base model it was trained on", str(out))
    base.requires_grad_(False)
    if gap is not None:
        without_output(base, str(out))
    encoder = base
    if (out / ADAPTER).exists():
        encoder = PeftModel.from_pretrained(base, str(out))
    elif (out / OWN).exists():
        encoder = attached(base, _adapter(out), str(out))
        encoder.load_state_dict(load_file(str(out / OWN)), strict=False)  # what is missing is found below
    pooling = next((each for each in Pooling if each.words == facts.get("pooling")), Pooling.MEAN)
    model = Classifier(encoder, hidden, labels, pooling, features)
    if features is not None:
        model.center.copy_(head.pop("center"))
    if gap is not None:
        model = Prompted(encoder, nn.Linear(hidden, labels), gap)
    model.head.load_state_dict(head)
    _compare(model, out)
    return model.eval()


def _facts_of(features: Features) -> dict[str, object]:
    """Return what is said of features beside a head."""
    bias = [features.bias.numerator, features.bias.denominator]
    return {"centered": features.centered, "unit": features.unit, "bias": bias}


def _features_of(said: dict[str, Any]) -> Features:
    """Return what ``_facts_of`` said."""
    return Features(said["centered"], said["unit"], Fraction(*said["bias"]))


def _facts(out: Path) -> dict[str, Any]:
    """Return what is said beside the head: of a prompt, its pattern; of a model that is not used whole, how far."""
    with safe_open(str(out / HEAD), "pt") as file:
        found: dict[str, Any] = json.loads((file.metadata() or {}).get("securefl", "{}"))
    return found


def _gap(out: Path, tokenizer: Any) -> int:  # noqa: ANN401 - a transformers tokenizer
    """The token of a prompt's gap: the mask token of the base model's tokenizer, which the model's digest covers."""
    gap = getattr(tokenizer, "mask_token_id", None)
    if not isinstance(gap, int):
        what = "a prompt reads its answer in the gap, and there is no tokenizer with a mask token"
        raise OperatorFault(what, "call load(base, out, tokenizer) with the base model's own tokenizer", str(out))
    return gap


def _adapter(out: Path) -> Adapter:
    try:
        found = json.loads((out / FACTS).read_text(encoding="utf-8"))
        return Adapter(
            tuple(found["targets"]), found["rank"], found["alpha"], found["seed"], AdapterKind(found["kind"]),
            layers=found.get("layers"), layer=found.get("layer"),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as fault:
        raise OperatorFault(f"`{FACTS}` does not say what adapter this is", "save again", str(out)) from fault
