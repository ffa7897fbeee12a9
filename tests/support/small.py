"""A whole federation that trains in a second: a tiny encoder with random weights, and messages made of a few words."""

from __future__ import annotations

import copy
import hashlib
import random
from pathlib import Path

import yaml

WORDS = {
    "bad": "late lost broken rude delayed cancelled dirty worst".split(),
    "good": "great kind smooth thanks lovely quick best friendly".split(),
}
FILLER = "my flight to the gate was so very and crew bag seat today".split()
MEMBERS = ("north", "south", "west")
CANARY = "zanzibar-canary-4711"

POLICY = """\
securefl_policy: 1
federation: small
version: 1
valid: {from: 2020-01-01, until: 2099-12-31}
budget: {unit: record, neighbours: add-or-remove-one, epsilon: 20, delta: 1e-5, per_round: {epsilon: 10}, per_dataset: {epsilon: 20}, overlap: 1}
training:
  mechanisms: [poisson-gaussian]
  clip: {at_most: 1.0, norm: l2}
  noise_multiplier: {at_least: 0.5}
  losses: [own-label, fedntd, fedlsd, soft-labels, pseudo-labels]
  optimizers: [sgd, adamw, adamw-bc]
  modules: [query, value]
  rank: {at_most: 8}
  base_models: [./model]
sharing: {home: [head, blocks.1, query, value], pull: true, attention: true, weightings: 2, probes: [4ae08a70835e9b3e3611cd123dba6251ffb729aa881f299488e3c42e17f7c2e5], weight_ratio: {at_most: 2981}}
protection: {schemes: [masking, masked-ckks], min_cohort: 3, threshold: {at_least: 2}, colluding: 0, grid: {fraction_bits: {at_least: 0, at_most: 40}, value_bits: {at_most: 48}}}
release: {fields: [weights], to: members}
context: {purposes: [testing], regions: [here]}
approvals: {required: 0, keys: {tester: 827d78af978cd3db8b1056275c34f161c24cd03bc0d15658fef1ad390734aa3a}}
"""

FEDERATION = {
    "securefl_federation": 1,
    "name": "small",
    "policy": "policy.yaml",
    "purpose": "testing",
    "model": "./model",
    "task": {"kind": "classification", "labels": ["bad", "good"]},
    "adapter": {"targets": ["query", "value"], "rank": 4, "alpha": 8, "seed": 1},
    "data": {"text": "text", "label": "label"},
    "training": {
        "rounds": 2, "steps": 2, "sampling_rate": "1/4", "noise_multiplier": 0.8, "clip": 0.5, "divisor": 20,
        "learning_rate": 0.1, "optimizer": "sgd", "max_tokens": 16, "micro_batch": 16,
    },
    "protection": "masking",
    "members": [{"name": name, "region": "here", "data": {"file": f"{name}.csv"}} for name in MEMBERS],
}  # fmt: skip


def rows(name: str, count: int = 60) -> list[tuple[str, str]]:
    drawn = random.Random(name)
    made = []
    for _ in range(count):
        label = drawn.choice(sorted(WORDS))
        words = drawn.sample(FILLER, 4) + drawn.sample(WORDS[label], 2)
        drawn.shuffle(words)
        made.append((" ".join(words), label))
    return made


def save_model(folder: Path, *, masked: bool = False) -> None:
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

    gap = {"mask_token": "[MASK]"} if masked else {}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *gap.values(), *sorted({*FILLER, *WORDS["bad"], *WORDS["good"]})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        **gap,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    model = BertForMaskedLM(config) if masked else BertModel(config, add_pooling_layer=False)
    model.save_pretrained(folder)


def entropy(label: str):
    """Randomness that repeats, for tests that compare two runs."""
    counter = 0

    def draw(size: int) -> bytes:
        nonlocal counter
        counter += 1
        return hashlib.shake_256(f"{label}/{counter}".encode()).digest(size)

    return draw


def sign(path: Path) -> None:
    """The tester signs the policy at this path, if it is one."""
    from securefl import keys
    from securefl.errors import OperatorFault
    from securefl.policy import approvals, load

    try:
        policy = load.load(path)
    except OperatorFault:
        return
    tester = keys.Identity(keys.Secret(hashlib.sha256(b"tester").digest()))
    made = approvals.sign(tester, approvals.Kind.AUTHOR, policy, 0, 4_102_444_800)
    approvals.beside(path).write_bytes(approvals.encode([made]))


def own_of(sites: Path, name: str, run: str, before: int):
    """What this member keeps of a run: what its latest settled training before that round left."""
    from securefl.home.home import Home
    from securefl.terms import MemberId, RunId

    home = Home.at(sites / name, MemberId(name), lambda: 0)
    with home.transaction() as conn:
        return home.own(conn, RunId(bytes.fromhex(run)), before)


MODELS: dict[object, object] = {}  # by all that they are made of


def kept_model(loaded):
    """What ``load_model`` would give: made when it is first asked for, and given to every later run of this process."""
    from securefl.simulation.parties import load_model
    from securefl.training import language
    from securefl.training.model_files import model_digest
    from securefl.training.sources import resolve

    file = loaded.file
    if file.task.kind == language.KIND:  # its bytes are a file's of the project
        return load_model(loaded)
    base = model_digest(resolve(file.model, loaded.folder))
    key = (base, file.model, file.task.task(), file.adapter.adapter(), file.training.engine)
    if key not in MODELS:
        MODELS[key] = load_model(loaded)
    return MODELS[key]


class Small:
    """The federation's folder, and runs of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        save_model(folder / "model")
        (folder / "policy.yaml").write_text(POLICY)
        sign(folder / "policy.yaml")
        for name in MEMBERS:
            lines = ["text,label", *(f"{text},{label}" for text, label in rows(name))]
            (folder / f"{name}.csv").write_text("\n".join(lines) + f"\n{CANARY} {name} was great,good\n")
        self.file()

    def file(self, name: str = "federation.yaml", policy: str | None = None, **changes) -> Path:
        """The federation's file, changed; nested keys as ``training__rounds``."""
        document = copy.deepcopy(FEDERATION)
        for key, value in changes.items():
            place = document
            *outer, last = key.split("__")
            for part in outer:
                place = place[part]
            place[last] = value
        if policy is not None:
            (self.folder / f"{name}.policy.yaml").write_text(policy)
            sign(self.folder / f"{name}.policy.yaml")
            document["policy"] = f"{name}.policy.yaml"
        path = self.folder / name
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return path

    def run(self, out: Path, sites: Path, file: Path | None = None, draw=None, page: bool = False, **options):
        """A run in this process, on a model that it had before; ``page`` is for tests that look at the pictures."""
        from securefl.documents import federation_file
        from securefl.simulation import federation

        loaded = federation_file.load(file or self.folder / "federation.yaml")
        if draw is not None:
            options["entropy"] = draw
        bench = federation.ResourceCache(kept_model, page=page)
        return federation.run(loaded, out, sites=sites, workbench=bench, **options)
