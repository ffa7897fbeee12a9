"""An adapter as files that PEFT loads, with the head and how to use both beside them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from securefl.errors import OperatorFault
from securefl.terms import Task
from securefl.training.model import Built, Classifier

HEAD = "head.safetensors"

README = """# A federated adapter

`adapter_model.safetensors` is a LoRA adapter for `{model}`; `{head}` is the classification head on its mean-pooled output.

```python
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

base = "{path}"
tokenizer = AutoTokenizer.from_pretrained(base)
encoder = PeftModel.from_pretrained(AutoModel.from_pretrained(base), "{out}").eval()
head = load_file("{out}/{head}")
batch = tokenizer(["my flight was cancelled"], truncation=True, max_length={tokens}, padding=True, return_tensors="pt")
hidden = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
weight = batch["attention_mask"].unsqueeze(-1).float()
logits = (hidden * weight).sum(1) / weight.sum(1) @ head["weight"].T + head["bias"]
print({labels}[int(logits.argmax())])
```
"""


def save(built: Built, task: Task, model: str, path: str, tokens: int, out: Path) -> None:
    """``out`` holds adapter, head and a README; ``PeftModel.from_pretrained`` loads it.

    Raises:
        OperatorFault: what was written does not come back as what was trained.
    """
    out.mkdir(parents=True, exist_ok=True)
    built.model.encoder.save_pretrained(str(out))  # type: ignore[operator]
    head, center = built.model.head, built.model.center
    bias = (head.bias - head.weight @ center).detach()  # what is taken off the features goes into the bias
    save_file({"weight": head.weight.detach().contiguous(), "bias": bias.contiguous()}, str(out / HEAD))
    (out / "labels.json").write_text(json.dumps(list(task.labels)))
    text = README.format(model=model, path=path, out=out.name, head=HEAD, tokens=tokens, labels=list(task.labels))
    (out / "README.md").write_text(text)
    _check(built, out)


def _check(built: Built, out: Path) -> None:
    """PEFT ignores keys it does not know without a word, so what lies on disk is compared with what is in memory."""
    stored = load_file(str(out / "adapter_model.safetensors"))
    lora = {n: p for n, p in built.model.encoder.named_parameters() if "lora_" in n}
    named = {name.replace(".default.", "."): parameter for name, parameter in lora.items()}
    if stored.keys() != named.keys() or any(not torch.equal(stored[n], p.detach()) for n, p in named.items()):
        raise OperatorFault("the adapter on disk is not the one in memory", "check the disk, and save again", str(out))


def load(base: torch.nn.Module, hidden: int, out: Path) -> Classifier:
    """The classifier that was saved at ``out``, on its base model."""
    from peft import PeftModel  # noqa: PLC0415

    encoder = PeftModel.from_pretrained(base, str(out))  # type: ignore[arg-type]
    head = load_file(str(out / HEAD))
    model = Classifier(encoder, hidden, len(head["bias"]))
    with torch.no_grad():
        model.head.weight.copy_(head["weight"])
        model.head.bias.copy_(head["bias"])
    return model.eval()
