"""Is a model what its digest says?

Files change under one digest or after it was taken, are read from elsewhere, bring code, or are no base model at all.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from audits.protection.attempt import Attempt, Outcome
from securefl.errors import Fault, Missing, Tampered
from securefl.training.model import base_of
from securefl.training.model_files import model_digest
from securefl.training.shared_base import Base
from securefl.training.shared_model import SharedModel
from tests.support.tiny_models import TASK, adapter, saved


def _outcome(said: Callable[[], Any], name: str) -> Outcome:
    """Whether it was done at all."""
    try:
        said()
    except Fault as fault:
        return Outcome(succeeded=False, stopped_by=f"{name}: {type(fault).__name__}")
    return Outcome(succeeded=True, stopped_by="")


def _shard(folder: Path, place: str) -> Path:
    """The weights as one shard at this place, named by an index."""
    from safetensors.torch import load_file  # noqa: PLC0415

    names, shard = list(load_file(folder / "model.safetensors")), folder / place
    shard.parent.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").rename(shard)
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, place)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return shard


def _moved(weights: Path, by: float) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    moved = {name: each + by for name, each in load_file(weights).items()}
    weights.unlink()
    save_file(moved, weights, metadata={"format": "pt"})


DECIDING = (
    "added_tokens.json", "special_tokens_map.json", "chat_template.jinja", "additional_chat_templates/tool.jinja",
    "vocab.txt", "merges.txt", "spiece.model", "modeling_own.py", "generation_config.json", "tokenizer.json",
    "tokenizer_config.json", "config.json", "sub/adapter_config.json", ".hidden/weights",
)  # fmt: skip


def changed_under_one_digest(number: int, folder: Path) -> Outcome:
    """A file that decides what is computed changes, and the digest that plans and policies pin does not."""
    drawn = random.Random(f"digest {number}")  # noqa: S311
    model = saved("bert", folder / "model")
    if number % 3 == 0:
        shard = _shard(model, drawn.choice(["deep/w.safetensors", "a/b/c.safetensors", ".x/w.safetensors"]))
        first = model_digest(model)
        _moved(shard, drawn.uniform(0.5, 2))
        return Outcome(model_digest(model) == first, "another digest")
    path = model / drawn.choice(DECIDING)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text("{}")
    first = model_digest(model)
    path.write_text(path.read_text() + " " * drawn.randint(1, 3))
    return Outcome(model_digest(model) == first, "another digest")


def read_from_outside(number: int, folder: Path) -> Outcome:
    """What is loaded lies where no digest looks: beside the folder, in a folder that is left out, behind a link."""
    model = saved("bert", folder / "model")
    (folder / "outside").mkdir()
    match number % 5:
        case 0:
            _shard(model, "../outside/w.safetensors")
        case 1:
            _shard(model, random.Random(number).choice([".git/w.safetensors", "__pycache__/w.safetensors", "w.md"]))  # noqa: S311
        case 2:
            _shard(model, "deep/w.safetensors")
            (model / "deep").rename(folder / "outside" / "deep")
            (model / "deep").symlink_to(folder / "outside" / "deep")
        case 3:
            (model / "model.safetensors").rename(folder / "outside" / "w.safetensors")
            _told(model / "config.json", transformers_weights="../outside/w.safetensors")
        case _:
            (model / "tokenizer.json").rename(folder / "outside" / "tokenizer.4.0.0.json")
            _told(model / "tokenizer_config.json", fast_tokenizer_files=["../outside/tokenizer.4.0.0.json"])
    return _outcome(partial(model_digest, model), "model files")


def _told(path: Path, **fields: object) -> None:
    document = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**document, **fields}))


WORDS = ("late", "lost", "broken", "rude", "great", "kind", "smooth", "thanks")
TOKENS = {each: f"[{each[:-6].upper()}]" for each in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")}


def _named(name: str, **fields: Any) -> Callable[[Path, str], None]:  # noqa: ANN401 - of a document
    """Writes these fields into a document, with the place of a file for each ``None`` in them."""

    def write(model: Path, place: str) -> None:
        _told(model / name, **{key: place if value is None else value for key, value in fields.items()})

    return write


def _in_the_table(model: Path, place: str) -> None:
    from transformers import BertTokenizer  # noqa: PLC0415

    table = json.loads(BertTokenizer(vocab={"[UNK]": 0}).backend_tokenizer.to_str())
    table["model"]["vocab"] = place
    (model / "tokenizer.json").write_text(json.dumps(table))


# each was seen to be opened; others of their kind are in `tests/training/test_training_model_files.py`
LEADING: tuple[Callable[[Path, str], None], ...] = (
    _named("tokenizer_config.json", vocab=None),
    _named("special_tokens_map.json", vocab=None),
    lambda model, place: _told(model / "tokenizer_config.json", init_inputs=[place]),
    _in_the_table,
    lambda model, place: _told(model / "tokenizer_config.json", vocab=os.path.relpath(place)),
    _named("tokenizer_config.json", gguf_file=None),
)  # fmt: skip


def led_to_another_file(number: int, folder: Path) -> Outcome:
    """A value in a document of the model names a file elsewhere, whose content decides how a text is read."""
    model, place = saved("bert", folder / "model"), folder / "elsewhere.txt"
    for name in ("tokenizer.json", "special_tokens_map.json", "tokenizer_config.json"):
        (model / name).unlink(missing_ok=True)
    (model / "tokenizer_config.json").write_text(json.dumps({**TOKENS, "tokenizer_class": "BertTokenizer"}))
    LEADING[number % len(LEADING)](model, str(place))
    digests, read = set(), set()
    for words in (WORDS, WORDS[::-1]):
        place.write_text("\n".join((*TOKENS.values(), *words)))
        try:
            digests.add(model_digest(model))
            read.add(tuple(base_of(model)[1](" ".join(WORDS))["input_ids"]))
        except Missing:
            read.add((number, *words))  # it was pinned, and what is read depends on what is there
        except Fault as fault:
            return Outcome(succeeded=False, stopped_by=f"model documents: {type(fault).__name__}")
    return Outcome(len(digests) < len(read), "one digest, one reading")


UNKNOWN: tuple[Callable[[Path], object], ...] = (
    lambda model: _told(model / "tokenizer_config.json", rules="rules"),
    lambda model: _told(model / "tokenizer_config.json", options="-d rules -r rc"),
    lambda model: _told(model / "special_tokens_map.json", sp_model_kwargs={"x": "rules"}),
    lambda model: _told(model / "config.json", backbone="some/weights"),
    lambda model: _told(model / "config.json", text_config={"x": ["deep/rules"]}),
    lambda model: (model / "byte_maps.json").write_text(json.dumps({"x_map": "rules"})),
    lambda model: (model / "rules").write_text("x"),
    lambda model: (model / "rules.dic").write_text("x"),
)


def nobody_knows_what_it_is(number: int, folder: Path) -> Outcome:
    """A model brings a text that a loader may open, or a file that one may read, of no kind that is known."""
    model = saved("bert", folder / "model")
    UNKNOWN[number % len(UNKNOWN)](model)
    return _outcome(partial(model_digest, model), "model files")


ENDINGS = (
    "rules.JSON",
    "Rules.Txt",
    "my rules.json",
    "rules.DAT",
    "x.SafeTensors",
    "rules.Yml",
    "rules.CFG",
    "x.Model",
)


def another_case(number: int, folder: Path) -> Outcome:
    """A document names a file whose ending is written in capitals, or whose name has a blank in it."""
    model, name = saved("bert", folder / "model"), ENDINGS[number % len(ENDINGS)]
    document = ("tokenizer_config.json", "special_tokens_map.json", "config.json", "deep/config.json")[number // 2 % 4]
    (model / "deep").mkdir()
    _told(model / document, **{random.Random(number).choice(("anything", "x_map", "rules")): name})  # noqa: S311
    return _outcome(partial(model_digest, model), "model files")


def own_code(number: int, folder: Path) -> Outcome:
    """A model's configuration, tokenizer or generation names code of its own, which would be run at every member."""
    model, ran = saved("bert", folder / "model"), folder / "ran"
    names = ("config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json")
    name, kind = (
        names[number % 4],
        ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoModelForMaskedLM")[number // 4 % 4],
    )
    more = {"model_type": "own-kind"} if name == "config.json" and number % 8 < 4 else {}
    _told(model / name, auto_map={kind: "configuration_own.Own"}, **more)
    (model / "configuration_own.py").write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\n")
    came = _outcome(partial(base_of, model), "own code")
    return Outcome(came.succeeded or ran.exists(), came.stopped_by)


def adapter_for_a_base(number: int, folder: Path) -> Outcome:
    """A folder with an adapter, whose base is another folder, is given as the model and pinned without its base."""
    model = saved("bert", folder / "model")
    shard = saved("bert", folder / "base")
    kept = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")[number % 3]
    (model / kept).write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(shard)}))
    if number % 2:
        (model / "config.json").unlink()
        (model / "model.safetensors").unlink()
    return _outcome(partial(SharedModel.load, str(model), folder, TASK, adapter("bert")), "adapter")


def pickled_weights(number: int, folder: Path) -> Outcome:
    """Weights come as a file that runs code when it is opened, alone or named by an index."""
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    model = saved("bert", folder / "model")
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save(tensors, model / "pytorch_model.bin")
    if number % 2:
        (model / "pytorch_model.bin").rename(model / "part.bin")
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "part.bin")}
        (model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return _outcome(partial(base_of, model), "weights")


def swapped_after_it_was_pinned(number: int, folder: Path) -> Outcome:
    """Files change between the digest that is signed and the bytes that are loaded: overwritten, or a link turned."""
    drawn = random.Random(f"swap {number}")  # noqa: S311
    model = saved("bert", folder / "model")
    weights, blob = model / "model.safetensors", folder / "blob"
    if number % 2:
        weights.rename(blob)
        weights.symlink_to(blob)
    pinned = Base.load(str(model), folder)
    match number % 4:
        case 0:
            _moved(weights, drawn.uniform(0.5, 2))
        case 1:
            (folder / "other").write_bytes(blob.read_bytes())
            _moved(folder / "other", 1)
            weights.unlink()
            weights.symlink_to(folder / "other")
        case 2:
            _told(model / "tokenizer_config.json", model_max_length=drawn.randint(4, 90))
        case _:
            _moved(blob, 1)
    try:
        pinned.form()
    except Tampered:
        return Outcome(succeeded=False, stopped_by="model files: Tampered")
    return Outcome(succeeded=True, stopped_by="")


def written_into_after_it_was_loaded(number: int, folder: Path) -> Outcome:
    """Somebody writes into the weights' file while a model that was pinned from it trains."""
    drawn = random.Random(f"mapped {number}")  # noqa: S311
    model = saved("bert", folder / "model")
    weights = _shard(model, "deep/w.safetensors") if number % 2 else model / "model.safetensors"
    encoder, _ = base_of(model)
    before = {name: each.clone() for name, each in encoder.named_parameters()}
    data = weights.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    with weights.open("r+b") as file:
        file.seek(start)
        file.write(drawn.choice([bytes(len(data) - start), data[start:][::-1]]))
    moved = [name for name, each in encoder.named_parameters() if not before[name].equal(each)]
    return Outcome(bool(moved), "a model's tensors are its own")


ATTEMPTS = (
    Attempt("a file that decides what a model computes changes under one digest", changed_under_one_digest),
    Attempt("a model is read from files that no digest covers", read_from_outside),
    Attempt("a value in a model's document leads to a file that no digest covers", led_to_another_file),
    Attempt("a model brings a text or a file of no known kind", nobody_knows_what_it_is),
    Attempt("a model's document names a file in capitals", another_case),
    Attempt("a model brings code that is to be run at every member", own_code),
    Attempt("an adapter is given as a base and pinned without its own base", adapter_for_a_base),
    Attempt("a model's weights are files that run code when opened", pickled_weights),
    Attempt("a model's files are swapped after they were pinned", swapped_after_it_was_pinned),
    Attempt("a model's file is written into after it was loaded", written_into_after_it_was_loaded),
)
