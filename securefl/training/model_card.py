"""What stands beside a saved adapter: what each file is, and code that uses them."""

from __future__ import annotations

from securefl.terms import Adapter, AdapterKind, Pooling

HEAD_ALONE = """# A federated head

`{head}` is a classification head on {read} of `{model}`, which is as it was: there is no
adapter for PEFT to load. Texts were cut to {tokens} tokens. Run this in this folder{argument}:

```python
import sys
from importlib.metadata import distribution

from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

base = {base}
tokenizer = AutoTokenizer.from_pretrained(base)
encoder = AutoModel.from_pretrained(base).eval(){cut}
head = load_file("{head}")
batch = tokenizer(["my flight was cancelled"], truncation=True, max_length={tokens}, return_tensors="pt")
hidden = encoder(**batch).last_hidden_state  # (texts, tokens, hidden); with several texts, under the mask only
{shown}
print({labels}[int(logits.argmax())])
```
"""

LORA = """# A federated adapter

`{adapter}` is a LoRA adapter for `{model}`; `{head}` is the classification head on {read}.
Texts were cut to {tokens} tokens. `AutoModelForSequenceClassification` would put a head of its own on
top, which nobody trained: the head is the one in `{head}`. Run this in this folder{argument}:

```python
import sys
from importlib.metadata import distribution

from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

base = {base}
tokenizer = AutoTokenizer.from_pretrained(base)
encoder = AutoModel.from_pretrained(base){cut}
encoder = PeftModel.from_pretrained(encoder, ".").eval()
head = load_file("{head}")
batch = tokenizer(["my flight was cancelled"], truncation=True, max_length={tokens}, return_tensors="pt")
hidden = encoder(**batch).last_hidden_state  # (texts, tokens, hidden); with several texts, under the mask only
logits = {pooled} @ head["weight"].T + head["bias"]
print({labels}[int(logits.argmax())])
```
"""

PROMPT = """# A federated adapter

`{adapter}` is a LoRA adapter for the masked language model `{model}`, whose own head says the label: by the words it
expects in place of [MASK]. `{head}` holds that head's rows for these words. Texts in their pattern were cut to {tokens}
tokens, of which the pattern kept its own. Run this in this folder{argument}:

```python
import sys
from importlib.metadata import distribution

from peft import PeftModel
from transformers import AutoModelForMaskedLM, AutoTokenizer

base = {base}
tokenizer = AutoTokenizer.from_pretrained(base)
encoder = AutoModelForMaskedLM.from_pretrained(base){cut}
model = PeftModel.from_pretrained(encoder, ".").eval()
words = [tokenizer([" " + word for word in each], add_special_tokens=False)["input_ids"] for each in {words}]
words = [[ids[0] for ids in each] for each in words]
text = {pattern!r}.replace("{{text}}", "my flight was cancelled").replace("[MASK]", tokenizer.mask_token)
batch = tokenizer([text], return_tensors="pt")
scores = model(**batch).logits[batch["input_ids"] == tokenizer.mask_token_id][0]  # (vocabulary,)
logits = [float(scores[each].mean()) for each in words]
print({labels}[logits.index(max(logits))])
```
"""

OWN = """# A federated adapter

`{adapter}` is an adapter of kind {kind} for `{model}`; `{head}` is the classification head on
{read}. PEFT has no adapter that is this one, so `PeftModel.from_pretrained` cannot load it. Texts were
cut to {tokens} tokens. Run this in this folder{argument}:

```python
import sys
from importlib.metadata import distribution
from pathlib import Path

from securefl.training.saving import load
from transformers import AutoModel, AutoTokenizer

base = {base}
tokenizer = AutoTokenizer.from_pretrained(base)
model = load(AutoModel.from_pretrained(base), Path())
batch = tokenizer(["my flight was cancelled"], truncation=True, max_length={tokens}, return_tensors="pt")
logits = model(batch["input_ids"], batch["attention_mask"])
print({labels}[int(logits.argmax())])
```

Without securefl: {layout} `adapter.json` says for which layers, how large, and from which seed it started.
"""

POOLED = {Pooling.MEAN: "hidden.mean(1)", Pooling.FIRST: "hidden[:, 0]", Pooling.LAST: "hidden[:, -1]"}
READ = {
    Pooling.MEAN: "the mean of the last hidden states",
    Pooling.FIRST: "the first token's last hidden state",
    Pooling.LAST: "the last token's last hidden state",
}


def shown(adapter: Adapter) -> str:
    """Lines of code that make a head's logits of ``hidden``."""
    pooled, features = POOLED[adapter.pooling], adapter.features
    if features is None:
        return f'logits = {pooled} @ head["weight"].T + head["bias"]'
    lines = [f'features = {pooled} - head["center"]']
    lines += ["features = features / features.norm(dim=1, keepdim=True)"] * features.unit
    bias = f"{features.bias.numerator} / {features.bias.denominator}"
    lines += [f'logits = features @ head["weight"][:, :-1].T + {bias} * head["weight"][:, -1]']
    return "\n".join(lines)


def cut(adapter: Adapter, path: str | None) -> str:
    """A line of code after which a model whose blocks stand at ``path`` ends where the adapter's does."""
    if adapter.layer is None:
        return ""
    inner, _, last = f"encoder.{path}".rpartition(".")
    return f"\n{inner}.{last} = {inner}.{last}[:{adapter.layer}]  # it was trained on these blocks, and no others"


LAYOUTS = {
    AdapterKind.SOFT_PROMPT: "`prompt.weight` (vectors, hidden) goes before the input embeddings, under a mask of "
    "ones; the hidden states of its own positions are left out of the mean.",
    AdapterKind.PREFIX: "`prefix.N.weight` (2, heads, vectors, width) holds layer N's keys and values from before the "
    "text, under a mask of ones; the text's positions begin after them.",
    AdapterKind.BOTTLENECK: "a layer LAYER that gives y gives y + up(gelu(down(y))) instead, with `LAYER.down.weight` "
    "(rank, width), `LAYER.up.weight` (width, rank) and a bias each.",
    AdapterKind.FULL: "the file holds the parts of the model that were trained, whole, in place of the model's own.",
}
